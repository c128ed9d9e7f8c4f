//! Operators' routes: what reaches the core, what does not, and how refusals read.

use std::collections::BTreeMap;

use rstest::rstest;
use tokio::sync::mpsc;
use waggle_types::{
    CallRejection, Custom, Milli, OperatorCall, Quota, RejectReason, Reservation, ResourcePart,
    Unavailability, Volume, VolumeId,
};

use super::*;
use crate::{
    error::OperateError,
    explain::{
        AgentBecause, AgentExplained, Because, ExplainQuery, Explained, FrameworkExplained,
        FrameworkRoleExplained, PassedOver, RoleExplained,
    },
    view::{AgentMode, Asked, LeaveAnswer, RoleView},
};

/// The router in front of a core that notes what it is asked and answers `reply` to all of it.
struct Door {
    router: Router,
    seen: mpsc::UnboundedReceiver<OperatorCall>,
}

impl Door {
    fn open(view: ClusterView, reply: Result<(), OperateError>) -> Self {
        let (handle, mut requests, views) = MasterHandle::channel(16);
        views.send_replace(Arc::new(view));
        let (tx, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // The view stays for as long as somebody asks.
            let _views = views;
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Operate { call, reply: tx2 } => {
                        tx.send(*call).unwrap();
                        let _ = tx2.send(reply.clone());
                    }
                    Request::Explain { query, reply } => {
                        let _ = reply.send(explained(query));
                    }
                    Request::View { reply } => {
                        let _ = reply.send(());
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        Self {
            router: mesos_router(handle),
            seen,
        }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string);
        Cluster::ask(&self.router, method, path, body.as_deref()).await
    }

    /// What reached the core.
    fn calls(&mut self) -> Vec<OperatorCall> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn stack() -> Vec<Reservation> {
    vec![Reservation::dynamic("eng", "ops")]
}

fn volume_id() -> VolumeId {
    VolumeId::new("db").unwrap()
}

/// A cluster with a role that has everything, a reservation that is in use, and maintenance.
fn managed() -> ClusterView {
    let mut view = busy();
    let mut custom = Custom::default();
    let volume = Volume {
        size: Milli::units(512),
        shared: true,
    };
    custom.set_volume(volume_id(), volume);
    let held = Resources {
        custom: custom.clone(),
        ..Resources::from_millis(2000, 0, 0)
    };
    let reserved = ResourcePart {
        reservation: stack(),
        revocable: false,
        resources: held,
    };
    let window = Unavailability {
        start: AT + Millis(60_000),
        duration: Some(Millis(30_000)),
    };
    let agent = Arc::make_mut(view.agents.get_mut(&id("a1")).unwrap());
    agent.reserved = vec![reserved];
    agent.mode = AgentMode::Deactivated;
    agent.maintenance = Some(window);
    agent.asked = vec![Asked {
        framework_id: FrameworkId::new("f1").unwrap(),
        answer: LeaveAnswer::Declined {
            again: AT + Millis(5000),
        },
    }];
    view.maintenance.insert(id("a1"), window);
    // One task holds one of the two CPUs and the volume, another runs on half a CPU that is lent.
    let with = |task: &TaskView, name: &str, revocable, resources| {
        let mut spec = task.full_spec();
        spec.task_id = TaskId::new(name).unwrap();
        spec.parts = vec![ResourcePart {
            reservation: stack(),
            revocable,
            resources,
        }];
        let place = Arc::clone(&task.place);
        let shapes = &mut crate::task::Shapes::default();
        Arc::new(TaskView::new(spec, place, AT, shapes))
    };
    let sample = Arc::clone(view.tasks.values().next().unwrap());
    let one = Resources {
        custom,
        ..Resources::from_millis(1000, 0, 0)
    };
    let half = Resources::from_millis(500, 0, 0);
    view.tasks.insert(with(&sample, "owner", false, one));
    view.tasks.insert(with(&sample, "guest", true, half));
    let quantities = |cpus: i64| BTreeMap::from([("cpus".to_owned(), Milli::units(cpus))]);
    let role = RoleView {
        frameworks: vec![FrameworkId::new("f1").unwrap()],
        weight_milli: 2500,
        quota: Quota {
            guarantee: quantities(6),
            limit: quantities(8),
        },
        charged: quantities(5),
        owed: quantities(1),
        share: 0.5,
        used: Resources::from_millis(1000, 0, 0),
        offered: Resources::default(),
    };
    view.roles.insert("eng".to_owned(), role.clone());
    let plain = RoleView {
        weight_milli: 1000,
        quota: Quota::default(),
        ..role
    };
    view.roles.insert("eng/batch".to_owned(), plain);
    view
}

#[tokio::test]
async fn lists_show_level_1() {
    let door = Door::open(managed(), Ok(()));
    let get = async |path: &str| door.ask("GET", path, None).await.json();
    assert_eq!(
        get("/waggle/v1/weights").await,
        json!([{"role": "eng", "weight": 2.5}])
    );
    let quota = json!({"role": "eng", "guarantee": {"cpus": 6}, "limit": {"cpus": 8},
        "charged": {"cpus": 5}, "owed": {"cpus": 1}, "headroom": {"cpus": 3}});
    assert_eq!(get("/waggle/v1/quotas").await, json!([quota]));
    let roles = get("/waggle/v1/roles").await;
    assert_eq!(roles[0]["quota"], quota);
    assert_eq!(
        roles[0]["frameworks"],
        json!([{"id": "f1", "name": "marathon"}])
    );
    assert_eq!(
        (&roles[1]["name"], &roles[1]["quota"]),
        (&json!("eng/batch"), &Value::Null)
    );

    let reservation = &get("/waggle/v1/reservations").await[0];
    assert_eq!(
        (&reservation["hostname"], &reservation["stack"][0]["role"]),
        (&json!("n1"), &json!("eng"))
    );
    for (what, cpus) in [
        ("resources", 2.0),
        ("used", 1.0),
        ("lent", 0.5),
        ("offered", 0.0),
        ("free", 0.5),
    ] {
        assert_eq!(reservation[what]["cpus"].as_f64(), Some(cpus), "{what}");
    }
    assert_eq!(
        reservation["volumes"],
        json!([{"id": "db", "size": 512, "shared": true, "tasks": ["owner"]}])
    );
    assert!(
        reservation["free"]["volumes"]["db"].is_object(),
        "a shared volume stays free"
    );

    let maintenance = get("/waggle/v1/maintenance").await;
    assert_eq!(
        maintenance,
        json!([{"agent_id": "a1", "hostname": "n1", "mode": "deactivated",
            "window": {"start_ms": AT.0 + 60_000, "duration_ms": 30_000},
            "asked": [{"framework_id": "f1", "framework": "marathon", "answer": "declined",
                "again_ms": AT.0 + 5000, "tasks": 4}]}])
    );
    let by_name = get("/waggle/v1/nodes/n1").await;
    assert_eq!(by_name, get("/waggle/v1/nodes").await[0]);
    assert_eq!(
        (&by_name["mode"], &by_name["tasks"]),
        (&json!("deactivated"), &json!(4))
    );
    let framework = get("/waggle/v1/frameworks/marathon").await;
    assert_eq!(framework, get("/waggle/v1/frameworks").await[0]);
    assert_eq!(framework["roles"][0]["role"], "*");
}

/// Each write with what the core is asked.
fn writes() -> Vec<(&'static str, &'static str, Option<Value>, OperatorCall)> {
    let agent_id = || id("a1");
    let reserve = json!({"agent": "n1", "stack": [{"role": "eng", "principal": "ops"}],
        "resources": {"cpus": 0.5, "custom": {"licenses": 2}}});
    let mut resources = Resources::from_millis(500, 0, 0);
    resources.custom.set_scalar("licenses", Milli(2000));
    let volume = json!({"agent": "a1", "stack": [{"role": "eng", "principal": "ops"}],
        "volume_id": "db", "size": 512, "shared": true});
    let destroy = json!({"agent": "a1", "stack": [{"role": "eng", "principal": "ops"}],
        "volume_id": "db"});
    let quota = |cpus| Quota {
        guarantee: [("cpus".to_owned(), Milli::units(cpus))].into(),
        limit: BTreeMap::new(),
    };
    let weigh = |role: &str, weight_milli| OperatorCall::SetWeight {
        role: role.to_owned(),
        weight_milli,
    };
    let drain = |max_grace, mark_gone| OperatorCall::Drain {
        agent_id: agent_id(),
        max_grace,
        mark_gone,
    };
    vec![
        (
            "PUT",
            "/waggle/v1/weights/eng/batch",
            Some(json!({"weight": 2.5})),
            weigh("eng/batch", 2500),
        ),
        ("DELETE", "/waggle/v1/weights/eng", None, weigh("eng", 1000)),
        (
            "PUT",
            "/waggle/v1/quotas/eng%2Fbatch?force=true",
            Some(json!({"guarantee": {"cpus": 4}})),
            OperatorCall::SetQuota {
                role: "eng/batch".into(),
                quota: quota(4),
                force: true,
            },
        ),
        (
            "DELETE",
            "/waggle/v1/quotas/eng",
            None,
            OperatorCall::SetQuota {
                role: "eng".into(),
                quota: Quota::default(),
                force: false,
            },
        ),
        (
            "POST",
            "/waggle/v1/reservations",
            Some(reserve.clone()),
            OperatorCall::Reserve {
                agent_id: agent_id(),
                stack: stack(),
                resources: resources.clone(),
            },
        ),
        (
            "DELETE",
            "/waggle/v1/reservations",
            Some(reserve),
            OperatorCall::Unreserve {
                agent_id: agent_id(),
                stack: stack(),
                resources,
            },
        ),
        (
            "POST",
            "/waggle/v1/volumes",
            Some(volume),
            OperatorCall::CreateVolume {
                agent_id: agent_id(),
                stack: stack(),
                volume_id: volume_id(),
                volume: Volume {
                    size: Milli::units(512),
                    shared: true,
                },
            },
        ),
        (
            "DELETE",
            "/waggle/v1/volumes",
            Some(destroy),
            OperatorCall::DestroyVolume {
                agent_id: agent_id(),
                stack: stack(),
                volume_id: volume_id(),
            },
        ),
        (
            "PUT",
            "/waggle/v1/maintenance",
            Some(json!({"agents": ["n1", "a2"], "start_ms": 5, "duration_ms": 7})),
            OperatorCall::SetMaintenance {
                agent_ids: vec![agent_id(), id("a2")],
                window: Some(Unavailability {
                    start: UnixMillis(5),
                    duration: Some(Millis(7)),
                }),
            },
        ),
        (
            "DELETE",
            "/waggle/v1/maintenance",
            Some(json!({"agents": ["a1"]})),
            OperatorCall::SetMaintenance {
                agent_ids: vec![agent_id()],
                window: None,
            },
        ),
        (
            "POST",
            "/waggle/v1/nodes/n1/drain",
            None,
            drain(None, false),
        ),
        (
            "POST",
            "/waggle/v1/nodes/a1/drain",
            Some(json!({"max_grace_ms": 5000, "mark_gone": true})),
            drain(Some(Millis(5000)), true),
        ),
        (
            "POST",
            "/waggle/v1/nodes/n1/deactivate",
            None,
            OperatorCall::Deactivate {
                agent_id: agent_id(),
            },
        ),
        (
            "POST",
            "/waggle/v1/nodes/n1/activate",
            Some(json!({})),
            OperatorCall::Activate {
                agent_id: agent_id(),
            },
        ),
        (
            "POST",
            "/waggle/v1/nodes/n1/gone",
            None,
            OperatorCall::MarkGone {
                agent_id: agent_id(),
            },
        ),
        (
            "DELETE",
            "/waggle/v1/frameworks/marathon",
            None,
            OperatorCall::Teardown {
                framework_id: FrameworkId::new("f1").unwrap(),
            },
        ),
    ]
}

#[tokio::test]
async fn writes_reach_the_core_as_they_are_meant() {
    let mut door = Door::open(managed(), Ok(()));
    for (method, path, body, call) in writes() {
        let answer = door.ask(method, path, body.as_ref()).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text);
        answer.json();
        assert_eq!(door.calls(), [call], "{method} {path}");
    }
}

#[tokio::test]
async fn writes_answer_how_things_are_then() {
    let door = Door::open(managed(), Ok(()));
    let ask = async |method: &str, path: &str, body: Value| {
        door.ask(method, path, Some(&body)).await.json()
    };
    let reserve = json!({"agent": "n1", "stack": [{"role": "eng"}], "resources": {"cpus": 1}});
    let left = ask("POST", "/waggle/v1/reservations", reserve).await;
    assert_eq!(left[0]["volumes"][0]["id"], "db");
    let weight = ask("PUT", "/waggle/v1/weights/x", json!({"weight": 0.001})).await;
    assert_eq!(weight, json!({"role": "x", "weight": 0.001}));
    let drained = ask("POST", "/waggle/v1/nodes/n1/drain", json!({})).await;
    assert_eq!(
        drained,
        json!({"id": "a1", "hostname": "n1", "mode": "deactivated", "tasks": 4})
    );
    let gone = door.ask("DELETE", "/waggle/v1/frameworks/f1", None).await;
    assert_eq!(gone.json(), json!({"id": "f1", "name": "marathon"}));
}

#[rstest]
#[case("PUT", "/waggle/v1/weights/eng", json!({"weight": -1}), "weight")]
#[case("PUT", "/waggle/v1/weights/eng", json!({"weigth": 1}), "weigth")]
#[case("PUT", "/waggle/v1/weights/eng", json!([]), "body")]
#[case("PUT", "/waggle/v1/weights/a/-b", json!({"weight": 1}), "role")]
#[case("PUT", "/waggle/v1/weights/a%20b", json!({"weight": 1}), "role")]
#[case("PUT", "/waggle/v1/quotas/eng", json!({"guarantee": {"cpus": "4"}}), "guarantee.cpus")]
#[case("PUT", "/waggle/v1/quotas/eng", json!({}), "guarantee")]
#[case("POST", "/waggle/v1/reservations", json!({"agent": "n1", "stack": [{"role": "eng"}], "resources": {"gold": 1}}), "resources.gold")]
#[case("POST", "/waggle/v1/reservations", json!({"agent": "n1", "stack": [{"role": "eng"}], "resources": {"cpus": -1}}), "resources.cpus")]
#[case("DELETE", "/waggle/v1/reservations", json!({"agent": "n1"}), "stack")]
#[case("POST", "/waggle/v1/volumes", json!({"agent": "n1", "stack": [{"role": "eng"}], "volume_id": "v"}), "size")]
#[case("DELETE", "/waggle/v1/volumes", json!({"agent": "n1", "stack": [{"role": "eng"}], "volume_id": "../v"}), "volume_id")]
#[case("PUT", "/waggle/v1/maintenance", json!({"agents": ["n1"], "start_ms": 1, "duration_ms": -5}), "duration_ms")]
#[case("PUT", "/waggle/v1/maintenance", json!({"agents": "n1", "start_ms": 1}), "agents")]
#[case("DELETE", "/waggle/v1/maintenance", json!({}), "agents")]
#[case("DELETE", "/waggle/v1/maintenance", json!({"agents": ["n1", "a1"]}), "agents[1]")]
#[case("POST", "/waggle/v1/nodes/n1/drain", json!({"max_grace_ms": "5s"}), "max_grace_ms")]
#[case("POST", "/waggle/v1/nodes/n1/gone", json!({"sure": true}), "sure")]
#[tokio::test]
async fn bad_input_names_the_field_and_goes_no_further(
    #[case] method: &str,
    #[case] path: &str,
    #[case] body: Value,
    #[case] field: &str,
) {
    let mut door = Door::open(managed(), Ok(()));
    let answer = door.ask(method, path, Some(&body)).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let detail = &answer.json()["details"][0];
    assert_eq!(
        (&detail["code"], &detail["object"]),
        (&json!("invalid"), &json!(field))
    );
    assert!(detail["message"].as_str().is_some_and(|m| !m.is_empty()));
    assert_eq!(door.calls(), []);
}

#[tokio::test]
async fn malformed_json_flags_methods_and_paths_are_told() {
    let mut door = Door::open(managed(), Ok(()));
    let raw = |method: &'static str, path: &'static str, body: &'static str| {
        let router = door.router.clone();
        async move { Cluster::ask(&router, method, path, Some(body)).await }
    };
    assert_eq!(raw("PUT", "/waggle/v1/weights/eng", "{").await.status, 400);
    assert_eq!(
        raw("PUT", "/waggle/v1/quotas/eng?force=maybe", "{}")
            .await
            .status,
        400
    );
    for (method, path, allow) in [
        ("POST", "/waggle/v1/weights/eng", "PUT, DELETE"),
        ("PUT", "/waggle/v1/reservations", "GET, POST, DELETE"),
        ("POST", "/waggle/v1/roles", "GET"),
        ("GET", "/waggle/v1/nodes/n1/drain", "POST"),
        ("PUT", "/waggle/v1/frameworks/f1", "GET, DELETE"),
        ("POST", "/waggle/v1/explain/role/eng", "GET"),
    ] {
        let answer = door.ask(method, path, None).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
    }
    for path in [
        "/waggle/v1",
        "/waggle/v1/explain",
        "/waggle/v1/nodes/n1/reboot",
    ] {
        assert_eq!(door.ask("GET", path, None).await.status, 404, "{path}");
    }
    let large = json!({"x": "y".repeat(super::super::MAX_BODY)});
    let answer = door
        .ask("PUT", "/waggle/v1/weights/eng", Some(&large))
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(door.calls(), []);
}

#[rstest]
#[case(RejectReason::BadQuota, 422)]
#[case(RejectReason::BadReservation, 422)]
#[case(RejectReason::Invalid, 422)]
#[case(RejectReason::UnknownAgent, 404)]
#[case(RejectReason::FrameworkRemoved, 404)]
#[case(RejectReason::NotFree, 409)]
#[case(RejectReason::VolumeInUse, 409)]
#[case(RejectReason::OverLimit, 409)]
#[case(RejectReason::AgentDisconnected, 409)]
#[case(RejectReason::TooMany, 429)]
#[tokio::test]
async fn refusals_of_the_core_are_typed(#[case] reason: RejectReason, #[case] status: u16) {
    let why = CallRejection::new(reason, "eng", "that is not possible");
    let refused = OperateError::Refused(vec![why.clone(), why]);
    let door = Door::open(managed(), Err(refused));
    let answer = door
        .ask("PUT", "/waggle/v1/weights/eng", Some(&json!({"weight": 2})))
        .await;
    answer.refused(
        status,
        "eng: that is not possible (and 1 more, see details)",
    );
    let detail = json!({"code": reason.name(), "object": "eng", "message": "that is not possible"});
    assert_eq!(answer.json()["details"], json!([detail, detail]));
}

#[tokio::test]
async fn a_busy_master_says_so() {
    let busy = OperateError::Master(MasterError::Busy(16));
    let door = Door::open(managed(), Err(busy));
    let answer = door.ask("POST", "/waggle/v1/nodes/n1/drain", None).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn slips_of_the_pen_are_recognised() {
    let unknown = CallRejection::new(RejectReason::UnknownAgent, "n-1", "no such agent");
    let mut door = Door::open(managed(), Err(OperateError::Refused(vec![unknown])));
    let answer = door.ask("POST", "/waggle/v1/nodes/n-1/drain", None).await;
    answer.refused(404, "n-1: no such agent; did you mean \"n1\"?");
    door.calls();
    for (method, path, message) in [
        (
            "GET",
            "/waggle/v1/frameworks/maraton",
            "maraton: no framework has this id or name; did you mean \"marathon\"?",
        ),
        (
            "GET",
            "/waggle/v1/explain/framework/maraton",
            "maraton: no framework has this id or name; did you mean \"marathon\"?",
        ),
        (
            "GET",
            "/waggle/v1/explain/app/shop/wbe",
            "App '/shop/wbe' does not exist; did you mean \"/shop/web\"?",
        ),
        (
            "GET",
            "/waggle/v1/nodes/zzz",
            "zzz: no agent has this id or name",
        ),
        (
            "GET",
            "/waggle/v1/explain/role/eng/batsh",
            "role \"eng/batsh\" has no framework, weight, quota or reservation; did you mean \"eng/batch\"?",
        ),
        (
            "DELETE",
            "/waggle/v1/quotas/engg",
            "role \"engg\" has no quota; did you mean \"eng\"?",
        ),
        (
            "DELETE",
            "/waggle/v1/weights/eng/batch",
            "role \"eng/batch\" has no weight of its own",
        ),
    ] {
        door.ask(method, path, None).await.refused(404, message);
    }
    assert_eq!(door.calls(), []);
}

#[tokio::test]
async fn a_name_that_several_have_is_not_guessed() {
    let mut view = managed();
    let twin = AgentView::clone(&view.agents[&id("a1")]);
    let info = AgentInfo {
        agent_id: id("a2"),
        ..AgentInfo::clone(&twin.info)
    };
    let twin = AgentView {
        info: Arc::new(info),
        ..twin
    };
    view.agents.insert(id("a2"), Arc::new(twin));
    let mut door = Door::open(view, Ok(()));
    let answer = door.ask("POST", "/waggle/v1/nodes/n1/drain", None).await;
    answer.refused(409, "2 agents have the name \"n1\", use an id: a1, a2");
    assert_eq!(door.calls(), []);
    let answer = door.ask("POST", "/waggle/v1/nodes/a2/drain", None).await;
    assert_eq!(answer.status, 200);
}

/// What this door's core knows: framework `f1`, role `eng`, agent `a1`.
fn explained(query: ExplainQuery) -> Result<Explained, MasterError> {
    let because = |code, message: &str| Because {
        code,
        message: message.to_owned(),
    };
    let cpus = |n| BTreeMap::from([("cpus".to_owned(), Milli::units(n))]);
    match query {
        ExplainQuery::Framework(id) if id.as_str() == "f1" => {
            let role = FrameworkRoleExplained {
                subscription: waggle_types::RoleSubscription::new("eng"),
                share: 0.25,
                headroom: Some(cpus(3)),
                n_offers: 2,
                agents: vec![AgentBecause {
                    agent_id: AgentId::new("a1").unwrap(),
                    hostname: "n1".into(),
                    because: because("filtered", "declined"),
                }],
                rest: [("filtered", 7)].into(),
            };
            Ok(Explained::Framework(Box::new(FrameworkExplained {
                id,
                name: "marathon".into(),
                connected: true,
                capabilities: waggle_types::Capabilities {
                    revocable: true,
                    ..waggle_types::Capabilities::default()
                },
                general: vec![because("recovering", "the master recovers")],
                roles: vec![role],
            })))
        }
        ExplainQuery::Framework(id) => Err(MasterError::NoSuchFramework(id)),
        ExplainQuery::Role(role) if role == "eng" => Ok(Explained::Role(Box::new(RoleExplained {
            role,
            weight_milli: 2500,
            share: 0.5,
            quota: Quota {
                guarantee: cpus(6),
                limit: cpus(8),
            },
            allocated: cpus(4),
            charged: cpus(5),
            owed: cpus(1),
            headroom: Some(cpus(2)),
            frameworks: vec![FrameworkId::new("f1").unwrap()],
            n_frameworks: 1,
            subroles: vec!["eng/batch".into()],
            n_subroles: 1,
        }))),
        ExplainQuery::Role(role) => Err(MasterError::NoSuchRole(role)),
        ExplainQuery::Agent(id) if id.as_str() == "a1" => {
            Ok(Explained::Agent(Box::new(AgentExplained {
                id,
                hostname: "n1".into(),
                reachable: true,
                mode: AgentMode::Drained,
                maintenance: None,
                used: Resources::default(),
                offered: Resources::default(),
                free: Resources::from_millis(1000, 0, 0),
                reserved: Vec::new(),
                given_way: vec!["eng: cpus:1".into()],
                last_choice: None,
                passed_over: vec![PassedOver {
                    framework_id: FrameworkId::new("f1").unwrap(),
                    role: "eng".into(),
                    because: vec![because("agent_inactive", "it is drained")],
                }],
                rest: [("suppressed", 3)].into(),
            })))
        }
        ExplainQuery::Agent(id) => Err(MasterError::NoSuchAgent(id)),
    }
}

#[tokio::test]
async fn explanations_are_told_whole() {
    let door = Door::open(managed(), Ok(()));
    let get = async |path: &str| door.ask("GET", path, None).await.json();
    let f = get("/waggle/v1/explain/framework/marathon").await;
    assert_eq!(f["capabilities"], json!(["revocable"]));
    assert_eq!(f["general"][0]["code"], "recovering");
    assert_eq!(
        f["roles"][0],
        json!({"role": "eng", "suppressed": false, "share": 0.25, "smallest": null,
            "headroom": {"cpus": 3}, "offers": 2,
            "agents": [{"agent_id": "a1", "hostname": "n1", "code": "filtered", "message": "declined"}],
            "rest": {"filtered": 7}})
    );
    let r = get("/waggle/v1/explain/role/eng").await;
    assert_eq!(r["quota"]["headroom"], json!({"cpus": 3}));
    assert_eq!(r["may_get"], json!({"cpus": 2}));
    assert_eq!(r["frameworks"][0]["name"], "marathon");
    let a = get("/waggle/v1/explain/agent/n1").await;
    assert_eq!(
        (&a["mode"], &a["free"]["cpus"]),
        (&json!("drained"), &json!(1))
    );
    assert_eq!(
        a["passed_over"],
        json!([{"framework": {"id": "f1", "name": "marathon"}, "role": "eng",
            "because": [{"code": "agent_inactive", "message": "it is drained"}]}])
    );
    // A service under its own path, and under the one that it had before.
    let app = get("/waggle/v1/explain/app/shop/web").await;
    assert_eq!(app["instances"], 2);
    assert_eq!(app, get("/waggle/v1/explain/shop/web").await);
}
