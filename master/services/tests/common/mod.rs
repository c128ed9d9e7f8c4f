//! Specs, offers and instances that the tests share.

use std::{collections::BTreeMap, net::Ipv4Addr};

use waggle_types::{
    AgentId, Command, FrameworkId, HealthCheck, HealthProbe, Millis, Offer, OfferId, PodContainer,
    PodOwn, PodSpec, PortDefinition, PortRange, PortSet, Protocol, Resources, ServiceId,
    ServiceSpec, ServiceVersion, StatusSource, StatusUuid, TaskId, TaskState, TaskStatus,
    UnixMillis,
};

pub fn spec(instances: u32) -> ServiceSpec {
    ServiceSpec {
        version: ServiceVersion(UnixMillis(1_000)),
        instances,
        resources: Resources::from_millis(500, 128_000, 0),
        ports: vec![PortDefinition {
            sources: Vec::new(),
            mapping: None,
            port: 0,
            name: Some("http-main".into()),
            protocols: vec![Protocol::Tcp],
            labels: BTreeMap::new(),
            vips: Vec::new(),
            balance: waggle_types::Balance::default(),
        }],
        env: BTreeMap::from([("MODE".into(), "prod".into())]),
        labels: BTreeMap::from([("team.name".into(), "bees".into())]),
        ..ServiceSpec::new(
            ServiceId::new("/shop/cart").unwrap(),
            Command::Shell("serve".into()),
        )
    }
}

/// A pod of some containers, the first with a port.
pub fn pod(instances: u32, containers: usize) -> ServiceSpec {
    let container = |i: usize| {
        let all = spec(1);
        let run = ServiceSpec {
            resources: Resources::from_millis(100, 32_000, 0),
            ports: if i == 0 {
                all.ports.clone()
            } else {
                Vec::new()
            },
            ..all
        };
        PodContainer {
            name: format!("c{i}"),
            run,
            own: PodOwn::default(),
            mounts: Vec::new(),
        }
    };
    let pod = PodSpec {
        containers: (0..containers).map(container).collect(),
        executor: Resources::from_millis(50, 0, 0),
        ..PodSpec::default()
    };
    spec(instances).of_pod(pod)
}

/// The same with something changed about its containers.
pub fn with_runs(spec: &ServiceSpec, change: impl Fn(usize, &mut ServiceSpec)) -> ServiceSpec {
    let mut pod = spec.pod.as_deref().unwrap().clone();
    for (i, c) in pod.containers.iter_mut().enumerate() {
        change(i, &mut c.run);
    }
    spec.clone().of_pod(pod)
}

pub fn check() -> HealthCheck {
    HealthCheck {
        delay: Millis(0),
        name: None,
        purpose: waggle_types::CheckPurpose::Health,
        probe: HealthProbe::Tcp {
            port_index: 0,
            port: None,
        },
        grace_period: Millis::from_secs(300),
        interval: Millis::from_secs(60),
        timeout: Millis::from_secs(20),
        max_consecutive_failures: 3,
        keep_response: false,
    }
}

pub fn agent(i: usize) -> AgentId {
    AgentId::new(format!("a{i}")).unwrap()
}

pub fn node() -> Resources {
    Resources::from_millis(2000, 2_048_000, 0).with_ports(PortSet::from_ranges([PortRange {
        begin: 31000,
        end: 31009,
    }]))
}

pub fn offer(n: usize, on: usize, resources: Resources) -> Offer {
    Offer {
        offer_id: OfferId::new(format!("o{n}")).unwrap(),
        framework_id: framework_id(),
        role: "*".into(),
        agent_id: agent(on),
        hostname: format!("n{on}"),
        ip: Ipv4Addr::new(192, 168, 77, u8::try_from(on).unwrap()),
        resources,
        parts: Vec::new(),
        domain: None,
        unavailability: None,
        attributes: BTreeMap::from([("rack".into(), format!("r{}", on % 2))]),
        at: UnixMillis(0),
    }
}

pub fn framework_id() -> FrameworkId {
    FrameworkId::new("fw").unwrap()
}

pub fn status(task_id: &TaskId, on: &AgentId, state: TaskState) -> TaskStatus {
    TaskStatus {
        ip: None,
        ip6: None,
        ready: None,
        check: None,
        responses: Vec::new(),
        task_id: task_id.clone(),
        agent_id: on.clone(),
        state,
        health: waggle_types::HealthState::Unknown,
        reason: None,
        message: String::new(),
        source: StatusSource::Agent,
        at: UnixMillis(0),
        uuid: Some(StatusUuid([1; 16])),
        executor: None,
    }
}
