//! Events as frameworks read them.

use std::collections::BTreeMap;

use waggle_types::{OfferId, Resources, StatusUuid, TaskId};

use super::*;
use crate::mesos::{json, resources::Format};

const PLAIN: Dialect = Dialect {
    partition_aware: false,
    task_killing: false,
    format: Format::Role,
};

fn text(e: &SchedulerEvent) -> String {
    let id = FrameworkId::new("f").unwrap();
    let master = Master {
        id: "m".into(),
        ip: Ipv4Addr::new(10, 0, 0, 1),
        port: 5050,
        hostname: "n1".into(),
    };
    let scribe = Scribe {
        dialect: PLAIN,
        framework_id: &id,
        master: &master,
        heartbeat: Millis(15_000),
        agent: &|_| {
            Some(AgentAt {
                ip: Ipv4Addr::new(10, 0, 0, 2),
                port: 5051,
            })
        },
        paths: &|_| None,
    };
    String::from_utf8(json::write(&scribe.event(e))).unwrap()
}

#[test]
fn subscribed_names_the_master() {
    let framework_id = FrameworkId::new("f").unwrap();
    let t = text(&SchedulerEvent::Subscribed { framework_id });
    assert!(t.starts_with(r#"{"type":"SUBSCRIBED","subscribed":{"framework_id":{"value":"f"},"heartbeat_interval_seconds":15.0,"master_info":{"id":"m","ip":"#), "{t}");
    assert!(
        t.contains(r#""port":5050"#) && t.contains(r#""version":"1.11.0""#),
        "{t}"
    );
}

#[test]
fn offers_are_nested_as_clients_index_them() {
    let offer = Offer {
        offer_id: OfferId::new("o").unwrap(),
        framework_id: FrameworkId::new("f").unwrap(),
        role: "eng".into(),
        agent_id: AgentId::new("a").unwrap(),
        hostname: "n2".into(),
        ip: Ipv4Addr::new(10, 0, 0, 2),
        resources: Resources::from_millis(500, 0, 0),
        parts: Vec::new(),
        attributes: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        domain: None,
        unavailability: None,
        at: UnixMillis(0),
    };
    assert_eq!(
        text(&SchedulerEvent::Offers(vec![offer])),
        r#"{"type":"OFFERS","offers":{"offers":[{"id":{"value":"o"},"framework_id":{"value":"f"},"agent_id":{"value":"a"},"hostname":"n2","resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.5},"role":"*","allocation_info":{"role":"eng"}}],"attributes":[{"name":"rack","type":"TEXT","text":{"value":"r1"}}],"url":{"scheme":"http","address":{"hostname":"n2","ip":"10.0.0.2","port":5051},"path":"/slave(1)"},"allocation_info":{"role":"eng"}}]}}"#
    );
}

#[test]
fn an_update_with_a_uuid_names_task_and_agent() {
    let status = TaskStatus {
        state: TaskState::Failed,
        reason: Some(StatusReason::CommandExecutorFailed),
        message: "command exited with status 3".into(),
        ..running()
    };
    assert_eq!(
        text(&SchedulerEvent::Update(status)),
        r#"{"type":"UPDATE","update":{"status":{"task_id":{"value":"t"},"state":"TASK_FAILED","message":"Command exited with status 3","agent_id":{"value":"a"},"timestamp":1.5,"executor_id":{"value":"t"},"source":"SOURCE_EXECUTOR","reason":"REASON_COMMAND_EXECUTOR_FAILED","uuid":"BwcHBwcHBwcHBwcHBwcHBw==","container_status":{"network_infos":[{"ip_addresses":[{"protocol":"IPv4","ip_address":"10.0.0.2"}]}],"container_id":{"value":"t"}}}}}"#
    );
}

#[test]
fn an_update_says_what_the_tasks_check_said() {
    for (said, want) in [
        (
            CheckStatus::Command { exit_code: Some(3) },
            r#""check_status":{"type":"COMMAND","command":{"exit_code":3}}"#,
        ),
        (
            CheckStatus::Http { status: Some(503) },
            r#""check_status":{"type":"HTTP","http":{"status_code":503}}"#,
        ),
        (
            CheckStatus::Tcp {
                connected: Some(false),
            },
            r#""check_status":{"type":"TCP","tcp":{"succeeded":false}}"#,
        ),
        // Not asked yet, or no answer: the message is there and says nothing.
        (
            CheckStatus::Http { status: None },
            r#""check_status":{"type":"HTTP","http":{}}"#,
        ),
    ] {
        let status = TaskStatus {
            reason: Some(StatusReason::TaskCheckStatusUpdated),
            check: Some(said),
            ..running()
        };
        let t = text(&SchedulerEvent::Update(status));
        assert!(t.contains(want), "{t}");
        assert!(
            t.contains(r#""reason":"REASON_TASK_CHECK_STATUS_UPDATED""#),
            "{t}"
        );
    }
}

#[test]
fn who_removed_an_agent_is_told_to_those_who_know_of_partitions() {
    let gone = TaskStatus {
        state: TaskState::GoneByOperator,
        reason: Some(StatusReason::SlaveRemovedByOperator),
        ..running()
    };
    let said = |dialect| {
        let s = status(&gone, dialect, None);
        (s.state().as_str_name(), s.reason().as_str_name())
    };
    assert_eq!(said(PLAIN), ("TASK_LOST", "REASON_AGENT_REMOVED"));
    let aware = Dialect {
        partition_aware: true,
        ..PLAIN
    };
    let both = ("TASK_GONE_BY_OPERATOR", "REASON_AGENT_REMOVED_BY_OPERATOR");
    assert_eq!(said(aware), both);
}

fn running() -> TaskStatus {
    TaskStatus {
        task_id: TaskId::new("t").unwrap(),
        agent_id: AgentId::new("a").unwrap(),
        state: TaskState::Running,
        health: HealthState::Unknown,
        ready: None,
        check: None,
        responses: Vec::new(),
        ip: None,
        ip6: None,
        executor: None,
        reason: None,
        message: String::new(),
        source: StatusSource::Executor,
        at: UnixMillis(1500),
        uuid: Some(StatusUuid([7; 16])),
    }
}

#[test]
fn states_are_those_that_the_framework_knows() {
    let aware = Dialect {
        partition_aware: true,
        task_killing: true,
        format: Format::Role,
    };
    for s in TaskState::ALL {
        assert_eq!(state(s, aware).as_str_name(), s.mesos_name());
    }
    for s in [
        TaskState::Dropped,
        TaskState::Unreachable,
        TaskState::Gone,
        TaskState::GoneByOperator,
        TaskState::Unknown,
    ] {
        assert_eq!(state(s, PLAIN), pb::TaskState::TaskLost);
    }
    assert_eq!(state(TaskState::Killing, PLAIN), pb::TaskState::TaskRunning);
}

#[test]
fn the_rest_has_what_clients_ask_for() {
    let agent = AgentId::new("a").unwrap();
    for e in [
        SchedulerEvent::AgentLost(agent.clone()),
        SchedulerEvent::AgentUnreachable(agent),
    ] {
        let failure = r#"{"type":"FAILURE","failure":{"agent_id":{"value":"a"}}}"#;
        assert_eq!(text(&e), failure);
    }
    let id = OfferId::new("o").unwrap();
    assert_eq!(
        text(&SchedulerEvent::Rescind(id)),
        r#"{"type":"RESCIND","rescind":{"offer_id":{"value":"o"}}}"#
    );
    assert_eq!(
        String::from_utf8(json::write(&heartbeat())).unwrap(),
        r#"{"type":"HEARTBEAT"}"#
    );
    assert_eq!(
        String::from_utf8(json::write(&error("no"))).unwrap(),
        r#"{"type":"ERROR","error":{"message":"no"}}"#
    );
}
