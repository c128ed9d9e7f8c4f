//! What is asked of all agents: an agent that answers, one that does not, one that is out of reach.

use std::net::SocketAddr;

use axum::{Json, routing::get};
use tokio::net::TcpListener;
use waggle_api::native::{
    DenialName, DenialView, EndedFlow, NodeFiguresView, NodeMapView, ServiceMap, SpanView,
    SpansView, Spread, TaskFiguresView,
};

use super::*;

fn flow(source: &str, verdict: &str) -> EndedFlow {
    EndedFlow {
        ended_us: 1,
        duration_us: 10,
        node: "n1".to_owned(),
        observer: "source".to_owned(),
        source: source.to_owned(),
        destination: "web.marathon".to_owned(),
        task_id: String::new(),
        service: String::new(),
        vip: None,
        local: None,
        peer: "10.0.0.1:80".to_owned(),
        protocol: "tcp".to_owned(),
        verdict: verdict.to_owned(),
        tx_bytes: 1,
        rx_bytes: 2,
        connect_us: 3,
        rtt_us: 4,
        retransmits: 0,
        ..EndedFlow::default()
    }
}

fn node_map() -> NodeMapView {
    let mut map = ServiceMap::default();
    for verdict in ["closed", "closed", "refused"] {
        map.ended(&flow("shop.marathon", verdict));
    }
    map.ended(&flow("node", "closed"));
    let (edges, other, folded) = map.shown(10);
    NodeMapView {
        node: "n1".to_owned(),
        since_us: u64::MAX / 2,
        until_us: u64::MAX,
        edges,
        other,
        folded,
        denials: vec![denial("shop.marathon", 4)],
        denied_other: 2,
    }
}

fn denial(source: &str, packets: u64) -> DenialView {
    let name = DenialName {
        source: source.to_owned(),
        destination: "web.marathon".to_owned(),
        port: 80,
        protocol: "tcp".to_owned(),
        verdict: "denied".to_owned(),
        observer: "destination".to_owned(),
        reason: "no_rule".to_owned(),
        policies: "closed".to_owned(),
    };
    DenialView { name, packets }
}

fn span(id: &str, parent: &str, name: &str, start_ns: u64) -> SpanView {
    let sample = busy();
    let task = sample.tasks.values().next().unwrap().id.to_string();
    SpanView {
        trace_id: "t".to_owned(),
        span_id: id.to_owned(),
        parent_id: parent.to_owned(),
        name: name.to_owned(),
        kind: "internal".to_owned(),
        component: "waggle-agent".to_owned(),
        node: "n1".to_owned(),
        start_ns,
        end_ns: start_ns + 5,
        attributes: [("waggle.task.id".to_owned(), task)].into(),
        error: None,
        links: Vec::new(),
    }
}

/// An agent that answers so.
async fn agent(figures: NodeFiguresView) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let spans = SpansView {
        spans: vec![
            span("2", "1", "container.create", 20),
            span("1", "", "task.receive", 10),
        ],
        left_out: 1,
    };
    let router = Router::new()
        .route(
            "/waggle/v1/spans",
            get(move || std::future::ready(Json(spans))),
        )
        .route("/waggle/v1/map", get(async || Json(node_map())))
        .route(
            "/waggle/v1/figures",
            get(move || std::future::ready(Json(figures))),
        );
    tokio::spawn(async move { axum::serve(listener, router).await });
    at
}

/// The busy cluster, whose only agent answers there, with two more: one where nobody listens, one out of reach.
fn view(at: SocketAddr) -> ClusterView {
    let mut view = busy();
    let there = Arc::make_mut(view.agents.get_mut(&id("a1")).unwrap());
    let place = |agent: &mut AgentView, name: &str, port: u16| {
        let info = Arc::make_mut(&mut agent.info);
        (info.ip, info.http_port) = (Ipv4Addr::LOCALHOST, port);
        info.agent_id = id(name);
        agent.reachable = true;
    };
    place(there, "a1", at.port());
    let mut deaf = there.clone();
    place(&mut deaf, "a2", 1);
    Arc::make_mut(&mut deaf.info).hostname = "n2".to_owned();
    let mut away = deaf.clone();
    place(&mut away, "a3", 1);
    Arc::make_mut(&mut away.info).hostname = "n3".to_owned();
    away.reachable = false;
    for agent in [deaf, away] {
        view.agents
            .insert(agent.info.agent_id.clone(), Arc::new(agent));
    }
    view
}

#[tokio::test]
async fn the_answers_of_all_agents_are_one() {
    let sample = busy();
    let task = sample.tasks.values().next().unwrap();
    let name = format!("{}.{}", task.name(), task.spec.framework_name);
    let service = task.spec.service.clone();
    let read = TaskFiguresView {
        task_id: task.id.to_string(),
        name: name.clone(),
        service: service.clone(),
        cpus: Some(0.5),
        memory_bytes: Some(1000),
        accepts_per_s: 2.0,
        connect_us: Spread::of(&[0, 0, 4]),
        drops: [("no_socket".to_owned(), 3)].into(),
        ..TaskFiguresView::default()
    };
    let figures = NodeFiguresView {
        node: "n1".to_owned(),
        tasks: vec![read],
        policy: [
            ("established".to_owned(), 100),
            ("denied_egress".to_owned(), 2),
        ]
        .into(),
    };
    let door = Door::open(view(agent(figures).await), Ok(()));
    let silent = |answer: &Value| {
        let all = answer["silent"].as_array().unwrap().iter();
        let nodes = all.map(|s| s["node"].as_str().unwrap().to_owned());
        nodes.collect::<Vec<_>>()
    };

    let map = door.ask("GET", "/waggle/v1/map", None).await.json();
    assert_eq!(silent(&map), ["n2", "n3"]);
    assert_eq!(map["edges"][0]["source"], "shop.marathon");
    assert_eq!(map["edges"][0]["errors"], json!({"refused": 1}));
    assert_eq!(
        (&map["edges"].as_array().unwrap().len(), &map["other"]),
        (&2, &Value::Null)
    );
    assert!(map["shortened"]["n1"].is_u64(), "{map}");
    let one = door.ask("GET", "/waggle/v1/map?limit=1", None).await.json();
    assert_eq!(
        (&one["folded"], &one["other"]["connections"]),
        (&json!(1), &json!(1))
    );

    let top = door.ask("GET", "/waggle/v1/top", None).await.json();
    assert_eq!(silent(&top), ["n2", "n3"]);
    let rows = top["services"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|r| r["service"] == json!(service))
        .unwrap();
    assert_eq!((&row["measured"], &row["cpus"]), (&json!(1), &json!(0.5)));
    assert_eq!(
        (&row["drops"], &row["accepts_per_s"]),
        (&json!(3), &json!(2.0))
    );

    let path = format!("/waggle/v1/traces/{}", task.id);
    let trace = door.ask("GET", &path, None).await.json();
    assert_eq!(silent(&trace), ["n2", "n3"]);
    let spans = trace["spans"].as_array().unwrap().iter();
    let names: Vec<&Value> = spans.map(|s| &s["name"]).collect();
    assert_eq!(names, ["task.receive", "container.create"]);
    assert_eq!(
        (&trace["task_id"], &trace["left_out"]),
        (&json!(task.id.as_str()), &json!(1))
    );

    for asked in [service, name] {
        let path = format!("/waggle/v1/drops?service={asked}");
        let drops = door.ask("GET", &path, None).await.json();
        assert_eq!(drops["tasks"], 1, "{drops}");
        assert_eq!(drops["kernel"], json!({"no_socket": 3}));
        assert_eq!(drops["denied"], json!({"denied_egress": 2}));
        assert_eq!(drops["connections"][0]["verdict"], "refused");
        let denied = &drops["denials"][0];
        let who = (&denied["source"], &denied["policies"], &denied["packets"]);
        assert_eq!(who, (&json!("shop.marathon"), &json!("closed"), &json!(4)));
        assert_eq!(drops["denied_other"], 2);
        assert_eq!(silent(&drops), ["n2", "n3"]);
    }
}

#[tokio::test]
async fn what_can_not_be_asked() {
    let door = Door::open(busy(), Ok(()));
    for (path, status, why) in [
        (
            "map?limit=0",
            400,
            "limit: must be a whole number from 1 to 4096, is \"0\"",
        ),
        ("map?service=/wub", 404, "App '/wub' does not exist"),
        (
            "drops",
            400,
            "service: must name an app, a pod or a task such as /shop or shop.marathon",
        ),
        (
            "traces/none",
            404,
            "\"none\" is no task here, and no deployment that is remembered",
        ),
        (
            "drops?service=no.such",
            404,
            "App '/no.such' does not exist",
        ),
    ] {
        let path = format!("/waggle/v1/{path}");
        let answer = door.ask("GET", &path, None).await;
        answer.refused(status, why);
    }
    let answer = door.ask("GET", "/waggle/v1/map?since_us=now", None).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = door.ask("POST", "/waggle/v1/top", None).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}
