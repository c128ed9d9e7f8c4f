//! Operators' routes: what reaches the core, what does not, and how refusals read.

use std::collections::BTreeMap;

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
            router: mesos_router(handle, None, Telemetry::disabled()),
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

mod explain;
mod gathered;
mod lists;
mod refusals;
mod writes;
