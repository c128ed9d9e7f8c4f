//! The session between an agent and its master.

use proptest::{collection::vec, prelude::*};
use prost::Message;
use waggle_types::{AgentInfo, NetSnapshot, StatusReason, TaskSpec, TaskStatus};

use super::{given::*, round_trip};
use crate::{
    convert::{MAX_PARTS, MAX_RANGES, evicted, registered_task, status_uuid},
    proto::session as pb,
};

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
        ip6: String::new(),
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

#[test]
fn custom_kinds_are_checked_by_name() {
    let wrong = |change: &dyn Fn(&mut pb::Resources)| {
        let mut m = pb::Resources::default();
        change(&mut m);
        waggle_types::Resources::try_from(m).unwrap_err().field
    };
    let ranges = |begin, end| pb::Ranges {
        ranges: vec![pb::Range { begin: 0, end: 0 }, pb::Range { begin, end }],
    };
    let items = |item: &str| pb::Items {
        items: vec!["a".into(), item.into()],
    };
    let volume = |size_milli| pb::Volume {
        size_milli,
        shared: false,
    };
    for name in ["", "cpus", "ports", "a/b", &"x".repeat(65)] {
        let field = wrong(&|m| _ = m.scalars_milli.insert(name.into(), 1));
        assert_eq!(field, "scalars_milli", "{name}");
    }
    let field = wrong(&|m| _ = m.scalars_milli.insert("gold".into(), -1));
    assert_eq!(field, "scalars_milli.gold");
    let field = wrong(&|m| _ = m.ranges.insert("vlans".into(), ranges(2, 1)));
    assert_eq!(field, "ranges.vlans.ranges[1].end");
    let many = pb::Ranges {
        ranges: vec![pb::Range::default(); MAX_RANGES + 1],
    };
    let field = wrong(&|m| _ = m.ranges.insert("vlans".into(), many.clone()));
    assert_eq!(field, "ranges.vlans.ranges");
    let field = wrong(&|m| _ = m.sets.insert("zones".into(), items("")));
    assert_eq!(field, "sets.zones.items[1]");
    let field = wrong(&|m| _ = m.sets.insert("zones".into(), items(&"x".repeat(257))));
    assert_eq!(field, "sets.zones.items[1]");
    let field = wrong(&|m| _ = m.volumes.insert("v".into(), volume(0)));
    assert_eq!(field, "volumes.v.size_milli");
    let field = wrong(&|m| _ = m.volumes.insert("v w".into(), volume(1)));
    assert_eq!(field, "volumes.v w");
    let twice = wrong(&|m| {
        m.scalars_milli.insert("x".into(), 1);
        m.sets.insert("x".into(), items("b"));
    });
    assert_eq!(twice, "sets.x");
    let twice = wrong(&|m| {
        m.ranges.insert("x".into(), ranges(1, 2));
        m.sets.insert("x".into(), items("b"));
    });
    assert_eq!(twice, "sets.x");
    let many = wrong(&|m| {
        for i in 0..17 {
            m.scalars_milli.insert(format!("k{i}"), 1);
        }
    });
    assert_eq!(many, "scalars_milli");
    let many = wrong(&|m| m.ports = vec![pb::PortRange::default(); MAX_RANGES + 1]);
    assert_eq!(many, "ports");
}

#[test]
fn parts_make_up_the_whole() {
    let cpus = |cpus_milli| {
        Some(pb::Resources {
            cpus_milli,
            ..pb::Resources::default()
        })
    };
    let part = |cpus_milli| pb::ResourcePart {
        resources: cpus(cpus_milli),
        ..pb::ResourcePart::default()
    };
    let read = |parts| {
        let m = pb::TaskSpec {
            resources: cpus(3),
            parts,
            ..spec_message()
        };
        TaskSpec::try_from(m).map(|s| s.parts.len())
    };
    assert_eq!(read(Vec::new()), Ok(0));
    assert_eq!(read(vec![part(1), part(2)]), Ok(2));
    let err = read(vec![part(1), part(1)]).unwrap_err().to_string();
    assert_eq!(
        err,
        "parts: must make up the resources: cpus:0.002 is not cpus:0.003"
    );
    let err = read(vec![part(i64::MAX), part(1)]).unwrap_err();
    assert_eq!(err.field, "parts");
    assert_eq!(
        read(vec![part(3), part(-1)]).unwrap_err().field,
        "parts[1].resources.cpus_milli"
    );
    assert_eq!(
        read(vec![part(0); MAX_PARTS + 1]).unwrap_err().field,
        "parts"
    );
}

#[test]
fn what_an_agent_reserves_is_part_of_its_total() {
    let cpus = |cpus_milli| {
        Some(pb::Resources {
            cpus_milli,
            ..pb::Resources::default()
        })
    };
    let read = |reserved: &[(&str, i64)]| {
        let all = reserved.iter().map(|(role, n)| pb::StaticReservation {
            role: (*role).into(),
            resources: cpus(*n),
        });
        let m = pb::AgentInfo {
            ip6: String::new(),
            agent_id: "a".into(),
            hostname: "n".into(),
            ip: "192.0.2.1".into(),
            total: cpus(10),
            reserved: all.collect(),
            ..pb::AgentInfo::default()
        };
        AgentInfo::try_from(m).map(|_| ()).map_err(|e| e.field)
    };
    assert_eq!(read(&[("a", 4), ("a/b", 6)]), Ok(()));
    assert_eq!(
        read(&[("a", 4), ("b", 7)]),
        Err("reserved[1].resources".into())
    );
    assert_eq!(read(&[("a", 4), ("a", 1)]), Err("reserved[1].role".into()));
    assert_eq!(read(&[("*", 4)]), Err("reserved[0].role".into()));
    assert_eq!(read(&[("a/", 4)]), Err("reserved[0].role".into()));
    assert_eq!(
        read(&[("a", i64::MAX), ("b", 1)]),
        Err("reserved[0].resources".into())
    );
    let m = pb::AgentInfo {
        ip6: String::new(),
        agent_id: "a".into(),
        hostname: "n".into(),
        ip: "192.0.2.1".into(),
        total: cpus(10),
        domain: Some(pb::Domain {
            region: "eu".into(),
            zone: String::new(),
        }),
        ..pb::AgentInfo::default()
    };
    assert_eq!(
        AgentInfo::try_from(m.clone()).unwrap_err().field,
        "domain.zone"
    );
    let volume = pb::Volume {
        size_milli: 1,
        shared: false,
    };
    let m = pb::AgentInfo {
        ip6: String::new(),
        total: Some(pb::Resources {
            volumes: [("v".to_owned(), volume)].into(),
            ..pb::Resources::default()
        }),
        domain: None,
        ..m
    };
    assert_eq!(AgentInfo::try_from(m).unwrap_err().field, "total.volumes");
}

#[test]
fn a_kill_has_a_reason_only_when_nobody_asked() {
    let reason = |r: pb::StatusReason| evicted(r.into(), "why".to_owned()).map(|e| e.reason);
    let drained = pb::StatusReason::ReasonSlaveDraining;
    assert_eq!(reason(drained), Some(StatusReason::SlaveDraining));
    let lent = pb::StatusReason::ReasonContainerPreempted;
    assert_eq!(reason(lent), Some(StatusReason::ContainerPreempted));
    assert_eq!(
        reason(pb::StatusReason::ReasonNone),
        None,
        "an older master"
    );
    assert_eq!(reason(pb::StatusReason::ReasonTaskKilled), None);
    assert_eq!(evicted(9999, String::new()), None, "a newer one");
}
