//! Round trips of every message with a twin, and totality on any bytes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::{collection::vec, option, prelude::*};
use prost::Message;
use waggle_types::{
    AgentId, AgentInfo, AgentNet, Cause, Command, DiscoveryInfo, FrameworkId, Generation,
    HealthCheck, HealthProbe, HealthState, Milli, Millis, NetSnapshot, PortNet, PortRange, PortSet,
    Protocol, Resources, StatusReason, StatusSource, StatusUuid, TaskId, TaskNet, TaskPort,
    TaskSpec, TaskState, TaskStatus, TraceContext, UnixMillis, VipKey, VipLabel, VipLease, VipName,
};

use super::*;
use crate::proto::session as pb;

fn word() -> impl Strategy<Value = String> {
    "[a-z0-9._-]{1,8}x"
}

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(".{0,6}", ".{0,6}", 0..3)
}

fn addr() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn resources() -> impl Strategy<Value = Resources> {
    let ports = vec((any::<u16>(), 0u16..20), 0..4).prop_map(|v| {
        PortSet::from_ranges(v.into_iter().map(|(b, n)| PortRange {
            begin: b,
            end: b.saturating_add(n),
        }))
    });
    (prop::array::uniform4(0..i64::MAX), ports).prop_map(|(s, ports)| Resources {
        custom: waggle_types::Custom::default(),
        scalars: s.map(Milli),
        ports,
    })
}

fn proto() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn vip() -> impl Strategy<Value = VipLabel> {
    prop_oneof![
        (word(), 1u16..).prop_map(|(name, port)| VipLabel::Named { name, port }),
        (addr(), 1u16..).prop_map(|(ip, port)| VipLabel::Literal { ip, port }),
    ]
}

fn task_port() -> impl Strategy<Value = TaskPort> {
    (
        option::of(word()),
        any::<u16>(),
        vec(proto(), 0..3),
        vec(vip(), 0..3),
    )
        .prop_map(|(name, host_port, protocols, vips)| TaskPort {
            name,
            host_port,
            protocols,
            vips,
        })
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let idx = any::<u16>().prop_map(usize::from);
    let probe = prop_oneof![
        (".{0,9}", idx.clone(), option::of(any::<u16>())).prop_map(|(path, port_index, port)| {
            HealthProbe::Http {
                path,
                port_index,
                port,
            }
        }),
        (idx, option::of(any::<u16>()))
            .prop_map(|(port_index, port)| HealthProbe::Tcp { port_index, port }),
        ".{0,9}".prop_map(|shell| HealthProbe::Command { shell }),
    ];
    (probe, prop::array::uniform3(any::<u64>()), any::<u32>()).prop_map(|(probe, [g, i, t], n)| {
        HealthCheck {
            probe,
            grace_period: Millis(g),
            interval: Millis(i),
            timeout: Millis(t),
            max_consecutive_failures: n,
        }
    })
}

fn trace_context() -> impl Strategy<Value = TraceContext> {
    (1u128.., 1u64.., any::<u8>()).prop_map(|(trace_id, span_id, flags)| TraceContext {
        trace_id,
        span_id,
        flags,
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        ".{0,9}".prop_map(Command::Shell),
        vec(".{0,4}", 1..4).prop_map(Command::Argv),
    ]
}

fn task_spec() -> impl Strategy<Value = TaskSpec> {
    (
        (word(), word(), word(), word(), word(), word()),
        (command(), map(), map(), resources()),
        (vec(task_port(), 0..3), vec(health_check(), 0..3)),
        (any::<u64>(), option::of(word())),
        option::of(trace_context()),
    )
        .prop_map(
            |((a, b, c, d, e, f), (command, env, labels, resources), (ports, checks), k, trace)| {
                TaskSpec {
                    task_id: TaskId::new(a.clone()).unwrap(),
                    framework_id: FrameworkId::new(b).unwrap(),
                    framework_name: c,
                    role: d.clone(),
                    name: d,
                    command,
                    env,
                    labels,
                    resources,
                    ports,
                    parts: Vec::new(),
                    discovery: DiscoveryInfo { name: a },
                    health_checks: checks,
                    kill_grace: Millis(k.0),
                    user: k.1,
                    service: e,
                    service_version: f,
                    trace,
                }
            },
        )
}

fn state() -> impl Strategy<Value = TaskState> {
    prop::sample::select(TaskState::ALL.to_vec())
}

fn health() -> impl Strategy<Value = HealthState> {
    prop::sample::select(vec![
        HealthState::Unknown,
        HealthState::Healthy,
        HealthState::Unhealthy,
    ])
}

const REASONS: [StatusReason; 12] = [
    StatusReason::ContainerLaunchFailed,
    StatusReason::CommandExecutorFailed,
    StatusReason::ContainerLimitationMemory,
    StatusReason::TaskHealthCheckStatusUpdated,
    StatusReason::TaskInvalid,
    StatusReason::InvalidOffers,
    StatusReason::SlaveDisconnected,
    StatusReason::SlaveRemoved,
    StatusReason::SlaveRestarted,
    StatusReason::Reconciliation,
    StatusReason::ExecutorTerminated,
    StatusReason::TaskKilled,
];

fn status() -> impl Strategy<Value = TaskStatus> {
    let source = prop::sample::select(vec![
        StatusSource::Master,
        StatusSource::Agent,
        StatusSource::Executor,
    ]);
    let reason = option::of(prop::sample::select(REASONS.to_vec()));
    (
        (word(), word(), state(), health()),
        (reason, ".{0,9}", source, any::<u64>()),
        option::of(any::<[u8; 16]>()),
    )
        .prop_map(
            |((t, a, state, health), (reason, message, source, at), uuid)| TaskStatus {
                task_id: TaskId::new(t).unwrap(),
                agent_id: AgentId::new(a).unwrap(),
                state,
                health,
                reason,
                message,
                source,
                at: UnixMillis(at),
                uuid: uuid.map(StatusUuid),
            },
        )
}

fn agent_info() -> impl Strategy<Value = AgentInfo> {
    (word(), word(), addr(), any::<u16>(), resources(), map()).prop_map(
        |(id, hostname, ip, http_port, total, attributes)| AgentInfo {
            reserved: Vec::new(),
            domain: None,
            agent_id: AgentId::new(id).unwrap(),
            hostname,
            ip,
            http_port,
            total,
            attributes,
        },
    )
}

fn snapshot() -> impl Strategy<Value = NetSnapshot> {
    let agent =
        (word(), word(), addr(), any::<bool>()).prop_map(|(id, hostname, ip, reachable)| {
            let net = AgentNet {
                hostname,
                ip,
                reachable,
            };
            (AgentId::new(id).unwrap(), net)
        });
    let port = task_port().prop_map(|p| PortNet {
        name: p.name,
        host_port: p.host_port,
        protocols: p.protocols,
        vips: p.vips,
    });
    let task = (
        (word(), word(), word(), word()),
        (state(), any::<bool>(), health(), vec(port, 0..3)),
    )
        .prop_map(
            |((id, agent, name, framework), (state, has_check, health, ports))| {
                let net = TaskNet {
                    agent_id: AgentId::new(agent).unwrap(),
                    name,
                    framework,
                    state,
                    has_check,
                    health,
                    ports,
                };
                (TaskId::new(id).unwrap(), net)
            },
        );
    let vip = (word(), word(), addr(), vec((proto(), 1u16..), 0..3)).prop_map(
        |(label, framework, ip, ports)| (VipName { label, framework }, VipLease { ip, ports }),
    );
    let key =
        (proto(), addr(), 1u16..).prop_map(|(protocol, ip, port)| VipKey { protocol, ip, port });
    let cause = (word(), trace_context()).prop_map(|(id, trace)| Cause {
        task_id: TaskId::new(id).unwrap(),
        trace,
    });
    (
        (any::<u64>(), option::of(addr()), vec(addr(), 0..3)),
        (vec(agent, 0..3), vec(task, 0..3), vec(vip, 0..3)),
        (vec(key, 0..3), vec(cause, 0..3)),
    )
        .prop_map(
            |((g, leader, masters), (agents, tasks, vips), (literal_vips, causes))| NetSnapshot {
                generation: Generation(g),
                leader,
                masters,
                agents: agents.into_iter().collect(),
                tasks: tasks.into_iter().collect(),
                vips: vips.into_iter().collect(),
                literal_vips,
                causes,
            },
        )
}

/// Domain -> message -> bytes -> message -> domain.
macro_rules! round_trip {
    ($wire:ty, $value:expr) => {{
        let value = $value;
        let bytes = <$wire>::from(&value).encode_to_vec();
        let back = <$wire>::decode(bytes.as_slice()).unwrap().try_into();
        prop_assert_eq!(back, Ok::<_, ConvertError>(value));
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn specs_and_statuses_round_trip(
        spec in task_spec(), status in status(), agent in agent_info(), check in health_check()
    ) {
        round_trip!(pb::TaskSpec, spec);
        round_trip!(pb::TaskStatus, status);
        round_trip!(pb::AgentInfo, agent);
        round_trip!(pb::HealthCheck, check);
    }

    #[test]
    fn snapshots_round_trip(s in snapshot()) {
        round_trip!(pb::NetSnapshot, s);
    }

    #[test]
    fn equal_values_have_equal_bytes(s in snapshot()) {
        let (a, b) = (pb::NetSnapshot::from(&s), pb::NetSnapshot::from(&s.clone()));
        prop_assert_eq!(a.encode_to_vec(), b.encode_to_vec());
    }

    /// A valid message with a byte changed decodes to a value or a typed error.
    #[test]
    fn damaged_messages_are_survived(s in snapshot(), t in task_spec(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = pb::NetSnapshot::from(&s).encode_to_vec();
        if !bytes.is_empty() {
            let i = at.index(bytes.len());
            bytes[i] = to;
        }
        if let Ok(m) = pb::NetSnapshot::decode(bytes.as_slice()) {
            let _ = NetSnapshot::try_from(m);
        }
        let mut bytes = pb::TaskSpec::from(&t).encode_to_vec();
        let i = at.index(bytes.len());
        bytes[i] = to;
        if let Ok(m) = pb::TaskSpec::decode(bytes.as_slice()) {
            let _ = TaskSpec::try_from(m);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(m) = pb::TaskStatus::decode(bytes.as_slice()) {
            let _ = TaskStatus::try_from(m);
        }
        if let Ok(m) = pb::RegisteredTask::decode(bytes.as_slice()) {
            let _ = registered_task(m);
        }
    }
}

fn spec_message() -> pb::TaskSpec {
    pb::TaskSpec {
        task_id: "t".into(),
        framework_id: "f".into(),
        command: Some(pb::task_spec::Command::Shell("true".into())),
        resources: Some(pb::Resources::default()),
        ..Default::default()
    }
}

#[test]
fn errors_name_the_field_and_the_rule() {
    let mut m = spec_message();
    m.ports = vec![
        pb::TaskPort::default(),
        pb::TaskPort {
            host_port: 70_000,
            ..Default::default()
        },
    ];
    let err = TaskSpec::try_from(m).unwrap_err().to_string();
    assert_eq!(
        err,
        "ports[1].host_port: must be between 0 and 65535, is 70000"
    );

    let mut m = spec_message();
    m.resources = Some(pb::Resources {
        cpus_milli: -1,
        ..Default::default()
    });
    let err = TaskSpec::try_from(m).unwrap_err().to_string();
    assert_eq!(err, "resources.cpus_milli: must not be negative, is -1");

    let mut m = spec_message();
    m.task_id = "../x".into();
    let err = TaskSpec::try_from(m).unwrap_err();
    assert_eq!(err.field, "task_id");

    let mut m = spec_message();
    m.command = None;
    let err = TaskSpec::try_from(m).unwrap_err().to_string();
    assert_eq!(err, "command: is missing");

    let err = status_uuid("uuid", &[1, 2]).unwrap_err().to_string();
    assert_eq!(err, "uuid: must be 16 bytes, is 2");
}

#[test]
fn an_agent_twice_is_refused() {
    let agent = pb::AgentNet {
        agent_id: "a".into(),
        ip: "192.0.2.1".into(),
        ..Default::default()
    };
    let m = pb::NetSnapshot {
        agents: vec![agent.clone(), agent],
        ..Default::default()
    };
    let err = NetSnapshot::try_from(m).unwrap_err().to_string();
    assert_eq!(err, "agents[1]: must be unique, a is there twice");
}

#[test]
fn unknown_reasons_read_as_none_and_unknown_states_are_refused() {
    let m = pb::TaskStatus {
        task_id: "t".into(),
        agent_id: "a".into(),
        state: pb::TaskState::TaskRunning.into(),
        reason: 9999,
        source: pb::StatusSource::SourceAgent.into(),
        ..Default::default()
    };
    assert_eq!(TaskStatus::try_from(m.clone()).unwrap().reason, None);
    let err = TaskStatus::try_from(pb::TaskStatus { state: 99, ..m }).unwrap_err();
    assert_eq!(err.to_string(), "state: must be a task state, is 99");
}
