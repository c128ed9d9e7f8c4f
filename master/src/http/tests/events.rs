//! The event stream of the Marathon listener.

use http_body_util::BodyExt;

use super::*;
use crate::{
    core::{DeploymentPhase, InstanceRef, News, PlanNews},
    newsroom::What,
};

struct Stream(Body);

impl Stream {
    async fn open(c: &Cluster, query: &str) -> Self {
        let request = HttpRequest::get(format!("/v2/events{query}"));
        let request = request.body(Body::empty()).unwrap();
        let response = c.marathon.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let kind = &response.headers()["content-type"];
        assert!(kind.to_str().unwrap().starts_with("text/event-stream"));
        Self(response.into_body())
    }

    /// The next chunk: one whole event.
    async fn next(&mut self) -> (String, Value) {
        let frame = self.0.frame().await.unwrap().unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        let [event, data, "", ""] = lines.as_slice() else {
            panic!("{text:?}");
        };
        let event = event.strip_prefix("event: ").unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["eventType"], event);
        (event.to_owned(), data)
    }
}

fn of() -> InstanceRef {
    InstanceRef {
        service: ServiceId::new("/shop/web").unwrap(),
        task_id: TaskId::new("shop_web.instance-1._app.1").unwrap(),
        version: ServiceVersion(AT),
        agent_id: AgentId::new("a1").unwrap(),
        hostname: "n1".into(),
    }
}

fn plan() -> Arc<PlanNews> {
    let spec = Arc::new(spec_of(&web()));
    Arc::new(PlanNews {
        id: DeploymentId::new("d-1").unwrap(),
        version: ServiceVersion(AT),
        steps: vec![vec![StepAction {
            kind: DeploymentKind::Start,
            service: spec.id.clone(),
            pod: false,
        }]],
        original: Vec::new(),
        target: vec![spec],
    })
}

#[tokio::test]
async fn what_happens_is_told_as_marathon_does() {
    let c = Cluster::start(ClusterView::default());
    let mut all = Stream::open(&c, "").await;
    let (kind, first) = all.next().await;
    assert_eq!(kind, "event_stream_attached");
    assert!(first["remoteAddress"].is_string() && first["timestamp"].is_string());
    let say = |news: News| {
        let (t, room) = (Telemetry::disabled(), c.handle.newsroom());
        room.say(What::Core(news), AT, &t);
    };
    say(News::Status {
        of: of(),
        state: TaskState::Running,
        message: String::new(),
        ports: vec![31001],
        ips: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
    });
    let (_, status) = all.next().await;
    assert_eq!(
        status,
        json!({
            "eventType": "status_update_event", "timestamp": "2026-11-23T03:47:00.123Z",
            "slaveId": "a1", "taskId": "shop_web.instance-1._app.1", "taskStatus": "TASK_RUNNING",
            "message": "", "appId": "/shop/web", "host": "n1", "ports": [31001],
            "ipAddresses": [{"ipAddress": "192.0.2.1", "protocol": "IPv4"}],
            "version": "2026-11-23T03:47:00.123Z",
        })
    );
    say(News::Deployment {
        phase: DeploymentPhase::StepBegins,
        plan: plan(),
        step: 0,
    });
    let (kind, info) = all.next().await;
    assert_eq!(kind, "deployment_info");
    let actions = json!({"actions": [{"action": "StartApplication", "app": "/shop/web"}]});
    assert_eq!(info["currentStep"], actions);
    assert_eq!(info["plan"]["steps"], json!([actions]));
    assert_eq!(info["plan"]["original"]["apps"], json!([]));
    let target = &info["plan"]["target"];
    assert_eq!((&target["id"], &target["apps"]), (&json!("/"), &json!([])));
    let shop = &target["groups"][0];
    assert_eq!(shop["id"], "/shop");
    assert_eq!(shop["apps"][0]["id"], "/shop/web");
    say(News::Deployment {
        phase: DeploymentPhase::Done,
        plan: plan(),
        step: 0,
    });
    let (kind, done) = all.next().await;
    assert_eq!(
        (kind.as_str(), &done["id"]),
        ("deployment_success", &json!("d-1"))
    );
}

#[tokio::test]
async fn streams_are_filtered_and_light_where_asked_for() {
    let c = Cluster::start(ClusterView::default());
    let query = "?event_type=deployment_success&event_type=api_post_event&plan-format=light";
    let mut some = Stream::open(&c, query).await;
    let mut watcher = Stream::open(&c, "?event_type=event_stream_detached").await;
    let made = c.marathon("POST", "/v2/apps", &web()).await;
    assert_eq!(made.status, 201);
    let (kind, posted) = some.next().await;
    assert_eq!(kind, "api_post_event", "attachments are not asked for");
    assert_eq!(posted["uri"], "/v2/apps");
    assert_eq!(posted["appDefinition"]["id"], "/shop/web");
    let news = News::Deployment {
        phase: DeploymentPhase::Done,
        plan: plan(),
        step: 0,
    };
    let (t, room) = (Telemetry::disabled(), c.handle.newsroom());
    room.say(What::Core(News::ServiceGone(of().service)), AT, &t);
    room.say(What::Core(news), AT, &t);
    let (_, done) = some.next().await;
    let told: Vec<_> = done["plan"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(told, ["id", "steps", "version"]);
    drop(some);
    assert_eq!(watcher.next().await.0, "event_stream_detached");
    c.get("/v2/events?plan-format=x")
        .await
        .refused(400, "plan-format: must be light or full, is \"x\"");
    c.marathon("POST", "/v2/events", &json!({}))
        .await
        .refused(405, "method POST is not allowed on /v2/events, use GET");
    room.close();
    assert!(watcher.0.frame().await.is_none(), "it ends with the master");
}
