//! Names against numbers: what a message says in JSON is in these fields on the wire.
//!
//! The numbers are facts of Mesos's own files (`include/mesos/v1/**.proto`, Apache-2.0), compared one by one: agent, mesos,
//! maintenance, allocator, executor as Apache has them; master, scheduler and quota with what came after 1.9 (draining,
//! `UPDATE_QUOTA`, offer constraints) as they are in a fork that goes on from 1.11. What is not here is skipped when read:
//!
//! | message | fields that are left out |
//! |---|---|
//! | `MasterInfo` | 9 capabilities |
//! | `Resource.DiskInfo.Source` | 5 metadata |
//! | `Offer.Operation` | 15 `create_disk`, 16 `destroy_disk`: no resource provider makes disks here |
//! | `TaskStatus`, `WaitContainer` | 16, and 4 there: limitation |
//! | `Task` | 15 `health_check`, 16 `kill_policy`, 17 limits |
//! | `Image`, `Image.Docker` | 2 appc; 2 credential |
//! | `Volume.Source`, `HostPath` | 6 `csi_volume`; 2 `mount_propagation` |
//! | `ContainerStatus` | 2 `cgroup_info` |
//! | `ResourceStatistics` | figures of what cgroup2 does not have, or nobody measures |
//! | master: `GetAgents.Agent`, `GetFrameworks.Framework`, `GetExecutors` | 11 `resource_providers`, 14 `estimated_drain_start_time`; 12 `offer_constraints`; 2 `orphan_executors` |
//! | agent: `Call`, `GetAgent` | 17 to 19, 21, 22: resource providers and images; 2, 3 of draining |

use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use super::json;
use crate::proto::mesos as pb;

/// A field with a number in it.
fn n(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::uint64::encode(number, &value, &mut out);
    out
}

/// A field with text, or bytes.
fn t(number: u32, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::string::encode(number, &text.to_owned(), &mut out);
    out
}

fn d(number: u32, value: f64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::double::encode(number, &value, &mut out);
    out
}

/// A field with a message.
#[allow(clippy::needless_pass_by_value, reason = "rows read better")]
fn m<const N: usize>(number: u32, fields: [Vec<u8>; N]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &fields.concat(), &mut out);
    out
}

/// An id.
fn id(number: u32, value: &str) -> Vec<u8> {
    m(number, [t(1, value)])
}

/// What the text says is in these bytes, and the other way round.
fn says<M: Message + Default + Serialize + DeserializeOwned>(text: &str, fields: &[Vec<u8>]) {
    let message: M = json::read(text.as_bytes()).unwrap();
    assert_eq!(message.encode_to_vec(), fields.concat(), "{text}");
    let back = M::decode(fields.concat().as_slice()).unwrap();
    let want: serde_json::Value = serde_json::from_str(text).unwrap();
    let got: serde_json::Value = serde_json::from_slice(&json::write(&back)).unwrap();
    assert_eq!(got, want, "nothing of it was skipped");
}

#[test]
fn agents_calls_about_containers() {
    let nested = || m(1, [t(1, "c"), id(2, "p")]);
    let nested_text = r#"{"value":"c","parent":{"value":"p"}}"#;
    let call = |text: &str, kind, fields: &[Vec<u8>]| {
        let text = text.replace(":ID", &format!(":{nested_text}"));
        says::<pb::AgentCall>(&text, &[&[n(1, kind)], fields].concat());
    };
    call(
        r#"{"type":"LAUNCH_NESTED_CONTAINER","launch_nested_container":{"container_id":ID,
            "command":{"value":"x","shell":false,"arguments":["x"]},"container":{"type":"MESOS"}}}"#,
        14,
        &[m(
            6,
            [
                nested(),
                m(2, [t(3, "x"), n(6, 0), t(7, "x")]),
                m(3, [n(1, 2)]),
            ],
        )],
    );
    call(
        r#"{"type":"WAIT_NESTED_CONTAINER","wait_nested_container":{"container_id":ID}}"#,
        15,
        &[m(7, [nested()])],
    );
    call(
        r#"{"type":"KILL_NESTED_CONTAINER","kill_nested_container":{"container_id":ID,"signal":15}}"#,
        16,
        &[m(8, [nested(), n(2, 15)])],
    );
    call(
        r#"{"type":"LAUNCH_NESTED_CONTAINER_SESSION","launch_nested_container_session":{"container_id":ID,
            "container":{"type":"MESOS","tty_info":{"window_size":{"rows":3,"columns":4}}}}}"#,
        17,
        &[m(
            9,
            [nested(), m(3, [n(1, 2), m(10, [m(1, [n(1, 3), n(2, 4)])])])],
        )],
    );
    call(
        r#"{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"CONTAINER_ID","container_id":ID}}"#,
        18,
        &[m(10, [n(1, 1), m(2, [t(1, "c"), id(2, "p")])])],
    );
    call(
        r#"{"type":"ATTACH_CONTAINER_OUTPUT","attach_container_output":{"container_id":ID}}"#,
        19,
        &[m(11, [nested()])],
    );
    call(
        r#"{"type":"REMOVE_NESTED_CONTAINER","remove_nested_container":{"container_id":ID}}"#,
        21,
        &[m(12, [nested()])],
    );
    call(
        r#"{"type":"LAUNCH_CONTAINER","launch_container":{"container_id":ID,"command":{"value":"x"},
            "resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1.0}}],"container":{"type":"MESOS"},
            "limits":{"mem":{"value":2.0}}}}"#,
        22,
        &[m(
            13,
            [
                nested(),
                m(2, [t(3, "x")]),
                m(3, [t(1, "cpus"), n(2, 0), m(3, [d(1, 1.0)])]),
                m(4, [n(1, 2)]),
                m(5, [t(1, "mem"), m(2, [d(1, 2.0)])]),
            ],
        )],
    );
    for (kind, name, number) in [
        (23, "WAIT_CONTAINER", 14),
        (24, "KILL_CONTAINER", 15),
        (25, "REMOVE_CONTAINER", 16),
    ] {
        let field = name.to_ascii_lowercase();
        let text = format!(r#"{{"type":"{name}","{field}":{{"container_id":ID}}}}"#);
        call(&text, kind, &[m(number, [nested()])]);
    }
    says::<pb::AgentCall>(
        r#"{"type":"GET_CONTAINERS","get_containers":{"show_nested":true,"show_standalone":false}}"#,
        &[n(1, 10), m(20, [n(1, 1), n(2, 0)])],
    );
}

#[test]
fn agents_answers_about_containers() {
    let end = || [n(1, 256), n(2, 3), n(3, 8), t(5, "why")];
    let text = r#"{"exit_status":256,"state":"TASK_FAILED","reason":"REASON_CONTAINER_LIMITATION_MEMORY","message":"why"}"#;
    says::<pb::AgentResponse>(
        &format!(r#"{{"type":"WAIT_NESTED_CONTAINER","wait_nested_container":{text}}}"#),
        &[n(1, 13), m(14, end())],
    );
    says::<pb::AgentResponse>(
        &format!(r#"{{"type":"WAIT_CONTAINER","wait_container":{text}}}"#),
        &[n(1, 15), m(16, end())],
    );
    says::<pb::AgentResponse>(
        r#"{"type":"GET_CONTAINERS","get_containers":{"containers":[{"framework_id":{"value":"f"},"executor_id":{"value":"e"},
            "executor_name":"n","container_id":{"value":"c","parent":{"value":"p"}},"container_status":{"executor_pid":7}}]}}"#,
        &[
            n(1, 9),
            m(
                10,
                [m(
                    1,
                    [
                        id(1, "f"),
                        id(2, "e"),
                        t(3, "n"),
                        m(4, [t(1, "c"), id(2, "p")]),
                        m(5, [n(3, 7)]),
                    ],
                )],
            ),
        ],
    );
    for (name, number, kind) in [("STDIN", 1, 1), ("STDOUT", 2, 1), ("STDERR", 3, 1)] {
        says::<pb::ProcessIo>(
            &format!(r#"{{"type":"DATA","data":{{"type":"{name}","data":"YWI="}}}}"#),
            &[n(1, kind), m(2, [n(1, number), t(2, "ab")])],
        );
    }
    says::<pb::ProcessIo>(
        r#"{"type":"CONTROL","control":{"type":"TTY_INFO","tty_info":{"window_size":{"rows":3,"columns":4}}}}"#,
        &[n(1, 2), m(3, [n(1, 1), m(2, [m(1, [n(1, 3), n(2, 4)])])])],
    );
    says::<pb::ProcessIo>(
        r#"{"type":"CONTROL","control":{"type":"HEARTBEAT","heartbeat":{"interval":{"nanoseconds":5}}}}"#,
        &[n(1, 2), m(3, [n(1, 2), m(3, [m(1, [n(1, 5)])])])],
    );
    says::<pb::AttachContainerInput>(
        r#"{"type":"PROCESS_IO","process_io":{"type":"DATA"}}"#,
        &[n(1, 2), m(3, [n(1, 1)])],
    );
}

#[test]
fn executors_say_and_hear() {
    let who = [id(1, "e"), id(2, "f")];
    let call = |rest: &str, fields: &[Vec<u8>]| {
        let text =
            format!(r#"{{"executor_id":{{"value":"e"}},"framework_id":{{"value":"f"}},{rest}}}"#);
        says::<pb::ExecutorCall>(&text, &[&who, fields].concat());
    };
    // The two messages have their bytes at different numbers.
    call(
        r#""type":"MESSAGE","message":{"data":"YWI="}"#,
        &[n(3, 3), m(6, [t(2, "ab")])],
    );
    says::<pb::ExecutorEvent>(
        r#"{"type":"MESSAGE","message":{"data":"YWI="}}"#,
        &[n(1, 5), m(6, [t(1, "ab")])],
    );
    call(
        r#""type":"SUBSCRIBE","subscribe":{"unacknowledged_tasks":[{"task_id":{"value":"t"}}],
            "unacknowledged_updates":[{"status":{"state":"TASK_KILLING"}}]}"#,
        &[n(3, 1), m(4, [m(1, [id(2, "t")]), m(2, [m(1, [n(2, 8)])])])],
    );
    call(
        r#""type":"UPDATE","update":{"status":{"task_id":{"value":"t"}}}"#,
        &[n(3, 2), m(5, [m(1, [id(1, "t")])])],
    );
    says::<pb::ExecutorEvent>(
        r#"{"type":"LAUNCH_GROUP","launch_group":{"task_group":{"tasks":[{"name":"n"}]}}}"#,
        &[n(1, 8), m(8, [m(1, [m(1, [t(1, "n")])])])],
    );
    says::<pb::ExecutorEvent>(
        r#"{"type":"KILL","kill":{"task_id":{"value":"t"},"kill_policy":{"grace_period":{"nanoseconds":5}}}}"#,
        &[n(1, 3), m(5, [id(1, "t"), m(2, [m(1, [n(1, 5)])])])],
    );
    says::<pb::ExecutorEvent>(
        r#"{"type":"ACKNOWLEDGED","acknowledged":{"task_id":{"value":"t"},"uuid":"YWI="}}"#,
        &[n(1, 4), m(3, [id(1, "t"), t(2, "ab")])],
    );
    says::<pb::ExecutorEvent>(
        r#"{"type":"SUBSCRIBED","subscribed":{"agent_info":{"hostname":"h","id":{"value":"a"},"port":5051,
            "domain":{"fault_domain":{"region":{"name":"r"},"zone":{"name":"z"}}}},"container_id":{"value":"c"}}}"#,
        &[
            n(1, 1),
            m(
                2,
                [
                    m(
                        3,
                        [
                            t(1, "h"),
                            id(6, "a"),
                            n(8, 5051),
                            m(10, [m(1, [id(1, "r"), id(2, "z")])]),
                        ],
                    ),
                    id(4, "c"),
                ],
            ),
        ],
    );
}

#[test]
fn schedulers_say_and_hear() {
    let call = |rest: &str, fields: &[Vec<u8>]| {
        says::<pb::Call>(
            &format!(r#"{{"framework_id":{{"value":"f"}},{rest}}}"#),
            &[&[id(1, "f")], fields].concat(),
        );
    };
    let constraints = r#"{"role_constraints":{"r":{"groups":[{"attribute_constraints":[
        {"selector":{"pseudoattribute_type":"ZONE"},"predicate":{"text_not_matches":{"regex":"x"}}},
        {"selector":{"attribute_name":"a"},"predicate":{"not_exists":{}}}]}]}}}"#;
    let group = || {
        m(
            1,
            [
                m(1, [m(1, [n(1, 3)]), m(2, [m(6, [t(1, "x")])])]),
                m(1, [m(1, [t(2, "a")]), m(2, [m(2, [])])]),
            ],
        )
    };
    let constrained = || m(3, [m(1, [t(1, "r"), m(2, [group()])])]);
    for (name, field, kind, number) in [
        ("SUBSCRIBE", "subscribe", 1, 3),
        ("UPDATE_FRAMEWORK", "update_framework", 17, 19),
    ] {
        call(
            &format!(
                r#""type":"{name}","{field}":{{"framework_info":{{"roles":["r"]}},"suppressed_roles":["r"],
                    "offer_constraints":{constraints}}}"#
            ),
            &[
                n(2, kind),
                m(number, [m(1, [t(12, "r")]), t(2, "r"), constrained()]),
            ],
        );
    }
    call(
        r#""type":"ACKNOWLEDGE_OPERATION_STATUS","acknowledge_operation_status":{"agent_id":{"value":"a"},
            "resource_provider_id":{"value":"p"},"uuid":"YWI=","operation_id":{"value":"o"}}"#,
        &[
            n(2, 15),
            m(17, [id(1, "a"), id(2, "p"), t(3, "ab"), id(4, "o")]),
        ],
    );
    call(
        r#""type":"RECONCILE_OPERATIONS","reconcile_operations":{"operations":[{"operation_id":{"value":"o"}}]}"#,
        &[n(2, 16), m(18, [m(1, [id(1, "o")])])],
    );
    call(
        r#""type":"SUPPRESS","suppress":{"roles":["r"]}"#,
        &[n(2, 12), m(16, [t(1, "r")])],
    );
    call(
        r#""type":"REVIVE","revive":{"roles":["r"]}"#,
        &[n(2, 5), m(15, [t(1, "r")])],
    );
    call(
        r#""type":"ACCEPT","accept":{"operations":[{"type":"LAUNCH_GROUP","launch_group":{"task_group":{"tasks":[
            {"name":"n","limits":{"cpus":{"value":2.0}}}]}},"id":{"value":"o"}},
            {"type":"GROW_VOLUME","grow_volume":{}},{"type":"SHRINK_VOLUME","shrink_volume":{"subtract":{"value":1.0}}}]}"#,
        &[
            n(2, 3),
            m(
                4,
                [
                    m(
                        2,
                        [
                            n(1, 6),
                            m(
                                7,
                                [m(
                                    2,
                                    [m(1, [t(1, "n"), m(15, [t(1, "cpus"), m(2, [d(1, 2.0)])])])],
                                )],
                            ),
                            id(12, "o"),
                        ],
                    ),
                    m(2, [n(1, 11), m(13, [])]),
                    m(2, [n(1, 12), m(14, [m(2, [d(1, 1.0)])])]),
                ],
            ),
        ],
    );
    says::<pb::Event>(
        r#"{"type":"UPDATE_OPERATION_STATUS","update_operation_status":{"status":{"operation_id":{"value":"o"},
            "state":"OPERATION_GONE_BY_OPERATOR","uuid":{"value":"YWI="},"agent_id":{"value":"a"}}}}"#,
        &[
            n(1, 11),
            m(11, [m(1, [id(1, "o"), n(2, 7), id(5, "ab"), id(6, "a")])]),
        ],
    );
    says::<pb::Event>(
        r#"{"type":"RESCIND_INVERSE_OFFER","rescind_inverse_offer":{"inverse_offer_id":{"value":"o"}}}"#,
        &[n(1, 10), m(10, [id(1, "o")])],
    );
    says::<pb::TaskStatus>(
        r#"{"executor_id":{"value":"e"},"healthy":true,"source":"SOURCE_EXECUTOR","reason":"REASON_AGENT_DRAINING",
            "container_status":{"network_infos":[{"name":"n"}],"container_id":{"value":"c"}},
            "unreachable_time":{"nanoseconds":5},"check_status":{"type":"TCP","tcp":{"succeeded":true}}}"#,
        &[
            id(7, "e"),
            n(8, 1),
            n(9, 2),
            n(10, 34),
            m(13, [m(1, [t(6, "n")]), id(4, "c")]),
            m(14, [n(1, 5)]),
            m(15, [n(1, 3), m(4, [n(1, 1)])]),
        ],
    );
}

#[test]
fn operators_say_and_hear() {
    let call = |text: &str, kind, fields: Vec<u8>| {
        says::<pb::OperatorCall>(text, &[n(1, kind), fields]);
    };
    call(
        r#"{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"a"},"max_grace_period":{"seconds":5},"mark_gone":true}}"#,
        37,
        m(21, [id(1, "a"), m(2, [n(1, 5)]), n(3, 1)]),
    );
    call(
        r#"{"type":"DEACTIVATE_AGENT","deactivate_agent":{"agent_id":{"value":"a"}}}"#,
        38,
        m(22, [id(1, "a")]),
    );
    call(
        r#"{"type":"REACTIVATE_AGENT","reactivate_agent":{"agent_id":{"value":"a"}}}"#,
        39,
        m(23, [id(1, "a")]),
    );
    call(
        r#"{"type":"UPDATE_QUOTA","update_quota":{"force":true,"quota_configs":[{"role":"r",
            "guarantees":{"cpus":{"value":1.0}},"limits":{"mem":{"value":2.0}}}]}}"#,
        36,
        m(
            20,
            [
                n(1, 1),
                m(
                    2,
                    [
                        t(1, "r"),
                        m(2, [t(1, "cpus"), m(2, [d(1, 1.0)])]),
                        m(3, [t(1, "mem"), m(2, [d(1, 2.0)])]),
                    ],
                ),
            ],
        ),
    );
    call(
        r#"{"type":"RESERVE_RESOURCES","reserve_resources":{"agent_id":{"value":"a"},"source":[{"name":"cpus"}]}}"#,
        19,
        m(7, [id(1, "a"), m(3, [t(1, "cpus")])]),
    );
    call(
        r#"{"type":"SHRINK_VOLUME","shrink_volume":{"agent_id":{"value":"a"},"subtract":{"value":1.0}}}"#,
        35,
        m(19, [id(1, "a"), m(3, [d(1, 1.0)])]),
    );
    call(
        r#"{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{"windows":[{
            "machine_ids":[{"hostname":"h","ip":"i"}],"unavailability":{"start":{"nanoseconds":5}}}]}}}"#,
        25,
        m(
            11,
            [m(
                1,
                [m(
                    1,
                    [m(1, [t(1, "h"), t(2, "i")]), m(2, [m(1, [n(1, 5)])])],
                )],
            )],
        ),
    );
    says::<pb::OperatorResponse>(
        r#"{"type":"GET_AGENTS","get_agents":{"agents":[{"active":true,"deactivated":true,
            "drain_info":{"state":"DRAINED","config":{"mark_gone":true}}}]}}"#,
        &[
            n(1, 9),
            m(
                10,
                [m(1, [n(2, 1), n(12, 1), m(13, [n(1, 2), m(2, [n(2, 1)])])])],
            ),
        ],
    );
    says::<pb::OperatorResponse>(
        r#"{"type":"GET_OPERATIONS","get_operations":{"operations":[{"uuid":{"value":"YWI="}}]}}"#,
        &[n(1, 19), m(20, [m(1, [id(6, "ab")])])],
    );
    says::<pb::OperatorEvent>(
        r#"{"type":"TASK_UPDATED","task_updated":{"framework_id":{"value":"f"},"state":"TASK_GONE"}}"#,
        &[n(1, 3), m(4, [id(1, "f"), n(3, 11)])],
    );
}
