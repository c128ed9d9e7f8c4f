//! The routers against a fake loop: it stores definitions and publishes views, and nothing runs unless
//! a test says so.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request as HttpRequest, StatusCode},
};
use serde_json::{Value, json};
use tower::ServiceExt;
use waggle_services::{
    DeclineReason, ReasonCount, Tree, TreeChange,
    jobs::{JobLimits, JobScheduler},
};
use waggle_telemetry::Telemetry;
use waggle_types::{
    AgentId, AgentInfo, CheckResponse, Command, DeploymentId, DiscoveryInfo, FrameworkId,
    Generation, HealthRecord, HealthState, Millis, NetSnapshot, PortSet, Protocol, Resources,
    ServiceId, ServiceSpec, ServiceVersion, StatusSource, TaskId, TaskPort, TaskSpec, TaskState,
    TaskStatus, UnixMillis, VipLabel, VipLease, VipName,
};

use super::{marathon_router, mesos_router};
use crate::{
    core::{GroupAnswer, GroupQuery, TreeRequest},
    error::MasterError,
    handle::{Deployment, MasterHandle, PutMode, Request},
    view::{
        AgentView, ClusterView, DeploymentKind, DeploymentPlan, DeploymentStep, DeploymentView,
        FrameworkView, InstanceView, MasterView, QueueView, ServiceView, StepAction, TaskPlace,
        TaskView,
    },
};

const AT: UnixMillis = UnixMillis(1_795_405_620_123);

/// One answer.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        serde_json::from_str(&self.text).unwrap()
    }

    #[track_caller]
    fn refused(&self, status: u16, message: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.json()["message"], message);
    }
}

struct Cluster {
    handle: MasterHandle,
    marathon: Router,
    mesos: Router,
}

impl Cluster {
    fn start(view: ClusterView) -> Self {
        let (handle, requests, views) = MasterHandle::channel(16);
        views.send_replace(Arc::new(view));
        tokio::spawn(fake_loop(requests, views));
        Self {
            marathon: marathon_router(handle.clone(), Telemetry::disabled()),
            mesos: mesos_router(handle.clone(), None, Telemetry::disabled()),
            handle,
        }
    }

    async fn ask(router: &Router, method: &str, path: &str, body: Option<&str>) -> Answer {
        let mut request = HttpRequest::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |b| Body::from(b.to_owned()));
        let request = request.body(body).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn marathon(&self, method: &str, path: &str, body: &Value) -> Answer {
        Self::ask(&self.marathon, method, path, Some(&body.to_string())).await
    }

    async fn get(&self, path: &str) -> Answer {
        Self::ask(&self.marathon, "GET", path, None).await
    }

    async fn mesos(&self, path: &str) -> Answer {
        Self::ask(&self.mesos, "GET", path, None).await
    }
}

/// Stores, publishes after it has answered (the late case), one deployment per change.
async fn fake_loop(
    mut requests: tokio::sync::mpsc::Receiver<Request>,
    views: tokio::sync::watch::Sender<Arc<ClusterView>>,
) {
    let mut n = 0;
    // Jobs are scheduled in earnest; nothing is ever launched.
    let framework = FrameworkId::new("jobs").unwrap();
    let mut jobs = JobScheduler::new(framework, "metronome", 1, JobLimits::default());
    while let Some(request) = requests.recv().await {
        n += u32::from(!matches!(request, Request::View { .. }));
        let id = DeploymentId::new(format!("d-{n}")).unwrap();
        let mut view = ClusterView::clone(&views.borrow());
        match request {
            Request::Put {
                spec, mode, reply, ..
            } => {
                let there = view.services.contains_key(&spec.id);
                let refusal = match mode {
                    PutMode::Create if there => Some(MasterError::AlreadyExists(spec.id.clone())),
                    PutMode::Update if !there => Some(MasterError::NoSuchService(spec.id.clone())),
                    _ if spec.id.as_str() == "/locked" => Some(MasterError::Locked {
                        service: spec.id.clone(),
                        deployment: DeploymentId::new("d-0").unwrap(),
                    }),
                    _ => None,
                };
                if let Some(e) = refusal {
                    let _ = reply.send(Err(e));
                    continue;
                }
                let version = spec.version;
                let old = view.services.get(&spec.id);
                let mut versions = old.map(|s| s.versions.clone()).unwrap_or_default();
                let mut service = service(*spec, Vec::new(), vec![id.clone()]);
                versions.append(&mut service.versions);
                service.configured_at = ServiceView::configured_since(&service.spec, &versions);
                service.versions = versions;
                view.services.insert(Arc::new(service));
                let _ = reply.send(Ok(Deployment { id, version }));
            }
            Request::Remove { id: app, reply, .. } => {
                let answer = view
                    .services
                    .remove(&app)
                    .map(|s| Deployment {
                        id,
                        version: s.spec.version,
                    })
                    .ok_or(MasterError::NoSuchService(app));
                let _ = reply.send(answer);
            }
            Request::Restart { id: app, reply, .. } => {
                let answer = view.services.get_mut(&app).map(|s| {
                    let mut spec = s.spec.as_ref().clone();
                    spec.version.0.0 += 1;
                    s.spec = Arc::new(spec);
                    s.versions.push(Arc::clone(&s.spec));
                    Deployment {
                        id,
                        version: s.spec.version,
                    }
                });
                let _ = reply.send(answer.ok_or(MasterError::NoSuchService(app)));
            }
            Request::ChangeTree { tree, reply, .. } => {
                let answer = change_tree(&mut view, *tree, n);
                let _ = reply.send(answer.map(|version| Deployment { id, version }));
            }
            Request::PlanTree { reply, .. } => {
                let old = view.deployments.values().next();
                let plan = old.map(|d| d.plan.as_ref().clone());
                let _ = reply.send(Ok(plan.unwrap_or_default()));
            }
            Request::AskGroup { query, reply } => {
                let all = view.services.values().map(|s| Arc::clone(&s.spec));
                let _ = reply.send(Ok(match query {
                    GroupQuery::Versions(_) => GroupAnswer::Versions(vec![ServiceVersion(AT)]),
                    GroupQuery::At(..) => GroupAnswer::At {
                        services: all.collect(),
                        groups: view.groups.clone(),
                    },
                }));
            }
            Request::Cancel {
                id: old,
                rollback,
                reply,
                ..
            } => {
                let version = ServiceVersion(AT);
                let answer = match view.deployments.remove(&old) {
                    Some(_) => Ok(rollback.then_some(Deployment { id, version })),
                    None => Err(MasterError::NoSuchDeployment(old)),
                };
                let _ = reply.send(answer);
            }
            Request::ResetDelay { id: app, reply } => {
                let queued = view.queue.contains_key(&app);
                let _ = reply.send(queued.then_some(()).ok_or(MasterError::NotQueued(app)));
            }
            Request::Job { call, reply } => {
                let answer = jobs.call(*call, AT).map(|(answer, _)| answer);
                view.jobs = jobs.jobs().clone();
                let _ = reply.send(answer.map_err(Into::into));
            }
            Request::Operate { reply, .. } => {
                let _ = reply.send(Ok(()));
            }
            Request::View { reply } => {
                let _ = reply.send(());
            }
            Request::Explain { reply, .. } => {
                let role = "nobody".to_owned();
                let _ = reply.send(Err(MasterError::NoSuchRole(role)));
            }
            Request::Kill {
                ids, scale, reply, ..
            } => {
                let all: Vec<ServiceId> = view.services.keys().cloned().collect();
                for id in all {
                    if let Some(s) = view.services.get_mut(&id) {
                        s.instances.retain(|i| !ids.contains(&i.task_id));
                    }
                }
                let version = ServiceVersion(AT);
                let _ = reply.send(Ok(scale.then_some(Deployment { id, version })));
            }
        }
        views.send_replace(Arc::new(view));
    }
}

/// As the core does, but for deployments.
fn change_tree(
    view: &mut ClusterView,
    request: TreeRequest,
    n: u32,
) -> Result<ServiceVersion, MasterError> {
    let services = view.services.iter();
    let services = services
        .map(|(id, s)| (id.clone(), Arc::clone(&s.spec)))
        .collect();
    let tree = Tree {
        services: &services,
        groups: &view.groups,
    };
    let change = match request {
        TreeRequest::Services(specs) => TreeChange {
            puts: specs.into_iter().map(|s| (s.id.clone(), s)).collect(),
            ..TreeChange::default()
        },
        TreeRequest::Create(u) if tree.has_group(&u.id) => {
            return Err(MasterError::GroupExists(u.id));
        }
        TreeRequest::Create(update) | TreeRequest::Update(update) => tree.update(update),
        TreeRequest::Remove(id) if !tree.has_group(&id) => {
            return Err(MasterError::NoSuchGroup(id));
        }
        TreeRequest::Remove(id) => tree.removal(&id),
        TreeRequest::Scale { id, millionths } => tree.scale(&id, millionths),
        TreeRequest::Version { id: group, version } => {
            return Err(MasterError::NoSuchGroupVersion { group, version });
        }
    };
    let groups = waggle_services::changed_groups(&view.groups, &change);
    let version = ServiceVersion(UnixMillis(AT.0 + u64::from(n)));
    for id in change.removes {
        view.services.remove(&id);
    }
    for (_, spec) in change.puts {
        let spec = ServiceSpec { version, ..spec };
        let new = service(spec, Vec::new(), Vec::new());
        view.services.insert(Arc::new(new));
    }
    view.groups = groups;
    (view.tree_version, view.at) = (version, version.0);
    Ok(version)
}

fn service(
    spec: ServiceSpec,
    instances: Vec<InstanceView>,
    deployments: Vec<DeploymentId>,
) -> ServiceView {
    let running = u32::try_from(instances.len()).unwrap();
    ServiceView {
        homes: Vec::new(),
        decisions: Vec::new(),
        configured_at: spec.version,
        versions: vec![Arc::new(spec.clone())],
        spec: Arc::new(spec),
        instances,
        staged: 0,
        running,
        healthy: running,
        unhealthy: 0,
        deployments,
        last_failure: None,
    }
}

fn web() -> Value {
    json!({"id": "/shop/web", "cmd": "nginx", "instances": 2, "labels": {"team": "web"},
        "portDefinitions": [{"port": 0, "name": "http", "labels": {"VIP_0": "/web:80"}}]})
}

fn spec_of(app: &Value) -> ServiceSpec {
    let mode = waggle_api::marathon::ParseMode::Create;
    waggle_api::marathon::app_from_value(app, mode, AT).unwrap()
}

fn instance(n: u16) -> InstanceView {
    InstanceView {
        stopping: false,
        containers: Vec::new(),
        ready: None,
        responses: Vec::new(),
        health_record: None,
        task_id: TaskId::new(format!("shop_web.instance-{n}._app.1")).unwrap(),
        version: ServiceVersion(AT),
        agent_id: AgentId::new("a1").unwrap(),
        hostname: format!("n{n}"),
        ips: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
        ports: vec![31000 + n],
        state: TaskState::Running,
        health: HealthState::Healthy,
        staged_at: AT,
        started_at: Some(AT),
    }
}

fn task(i: &InstanceView) -> TaskView {
    let spec = TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: i.task_id.clone(),
        framework_id: FrameworkId::new("f1").unwrap(),
        framework_name: "marathon".into(),
        role: "*".into(),
        name: "web.shop".into(),
        command: Command::Shell("nginx".into()),
        env: [].into(),
        labels: [("team".to_owned(), "web".to_owned())].into(),
        resources: Resources::from_millis(100, 64_000, 0),
        ports: vec![TaskPort {
            metrics: None,
            container_port: None,
            name: Some("http".into()),
            host_port: i.ports[0],
            protocols: vec![Protocol::Tcp],
            vips: vec![VipLabel::Named {
                name: "web".into(),
                port: 80,
            }],
            balance: waggle_types::Balance::default(),
        }],
        parts: Vec::new(),
        discovery: DiscoveryInfo {
            name: "web.shop".into(),
        },
        health_checks: Vec::new(),
        kill_grace: Millis(3000),
        user: None,
        service: "/shop/web".into(),
        service_version: ServiceVersion(AT).to_string(),
        trace: None,
        executor: None,
    };
    let status = TaskStatus {
        ip: None,
        ip6: None,
        ready: None,
        check: None,
        responses: Vec::new(),
        task_id: spec.task_id.clone(),
        agent_id: i.agent_id.clone(),
        state: i.state,
        health: i.health,
        reason: None,
        message: "fine".into(),
        source: StatusSource::Executor,
        at: AT,
        uuid: None,
        executor: None,
    };
    let place = TaskPlace {
        agent_id: i.agent_id.clone(),
        hostname: i.hostname.clone(),
        ip: Ipv4Addr::new(192, 0, 2, 1),
    };
    let shapes = &mut crate::task::Shapes::default();
    let mut task = TaskView::new(spec, Arc::new(place), AT, shapes);
    task.take(&status, AT);
    task
}

/// One agent, one service with two instances, a queue item and a deployment.
pub(super) fn busy() -> ClusterView {
    let instances = vec![instance(1), instance(2)];
    let tasks: Vec<TaskView> = instances.iter().map(task).collect();
    let deployment = DeploymentId::new("d-0").unwrap();
    let id = ServiceId::new("/shop/web").unwrap();
    let agent_id = AgentId::new("a1").unwrap();
    let total = Resources::from_millis(4000, 8_000_000, 0)
        .with_ports(PortSet::from_ports([31000, 31001, 31002]));
    let mut view = ClusterView {
        cluster: "test".into(),
        at: AT,
        started_at: AT,
        leader: Some(MasterView {
            id: "m1".into(),
            hostname: "n1".into(),
            ip: Ipv4Addr::new(192, 0, 2, 1),
            mesos_port: 5050,
            marathon_port: 8080,
        }),
        ..ClusterView::default()
    };
    let app = service(spec_of(&web()), instances, vec![deployment.clone()]);
    view.services.insert(Arc::new(app));
    let mut net = NetSnapshot {
        generation: Generation(7),
        ..NetSnapshot::default()
    };
    let name = VipName {
        label: "web".into(),
        framework: "marathon".into(),
    };
    let lease = VipLease {
        ip6: None,
        ip: Ipv4Addr::new(11, 1, 2, 3),
        ports: vec![(Protocol::Tcp, 80)],
    };
    net.vips.insert(name.clone(), lease.clone());
    view.vips.insert(name, lease);
    view.net = Arc::new(net);
    for t in tasks {
        view.tasks.insert(Arc::new(t));
    }
    let agent = AgentView {
        info: Arc::new(AgentInfo {
            ip6: None,
            reserved: Vec::new(),
            domain: None,
            agent_id: agent_id.clone(),
            hostname: "n1".into(),
            ip: Ipv4Addr::new(192, 0, 2, 1),
            http_port: 5051,
            total,
            attributes: [].into(),
        }),
        version: "0.1.0".into(),
        reachable: true,
        connected: true,
        used: Resources::from_millis(200, 128_000, 0),
        offered: Resources::default(),
        registered_at: AT,
        reregistered_at: AT,
        last_heard: AT,
        applied: Generation(7),
        applied_us: 120,
        applied_after: Some(Millis(3)),
        apply_failures: Vec::new(),
        reserved: Vec::new(),
        mode: crate::view::AgentMode::default(),
        maintenance: None,
        asked: Vec::new(),
    };
    view.agents.insert(agent_id, Arc::new(agent));
    let framework_id = FrameworkId::new("f1").unwrap();
    view.frameworks.insert(
        framework_id.clone(),
        FrameworkView {
            id: framework_id,
            name: "marathon".into(),
            roles: vec![waggle_types::RoleSubscription::new("*")],
            capabilities: waggle_types::Capabilities::default(),
            about: Arc::default(),
            active: true,
            used: Resources::from_millis(200, 128_000, 0),
            offered: Resources::default(),
            registered_at: AT,
            reregistered_at: AT,
            unregistered_at: None,
            connected: true,
            failover_timeout: None,
            suppressed: false,
            tasks: 2,
            reasons: Vec::new(),
        },
    );
    view.deployments.insert(
        deployment.clone(),
        DeploymentView {
            id: deployment,
            version: ServiceVersion(AT),
            services: [(id.clone(), Some(ServiceVersion(AT)))].into(),
            plan: Arc::new(DeploymentPlan {
                steps: vec![DeploymentStep {
                    actions: vec![StepAction {
                        kind: DeploymentKind::Scale,
                        service: id.clone(),
                        pod: false,
                    }],
                }],
            }),
            step_idx: 0,
            waiting_for: [(id.clone(), "2 of 3 instances healthy".into())].into(),
            since: AT,
            step_since: AT,
            goes_back_at: None,
        },
    );
    let counts = BTreeMap::from([(
        DeclineReason::InsufficientCpus,
        ReasonCount {
            declined: 4,
            processed: 5,
        },
    )]);
    view.queue.insert(Arc::new(QueueView {
        rules: BTreeMap::new(),
        unused: Vec::new(),
        spec: Arc::clone(&view.services[&id].spec),
        service: id,
        count: 1,
        since: AT,
        delayed_until: Some(view.at + Millis(1500)),
        n_offers: 5,
        n_unused: 4,
        last_unused_at: Some(AT),
        last_used_at: None,
        launch_attempt: counts.clone(),
        last_offers: counts,
    }));
    view
}

mod events;
mod gateway;
mod marathon;
mod mesos;
mod metronome;
mod native;
mod operator;
mod pods;
