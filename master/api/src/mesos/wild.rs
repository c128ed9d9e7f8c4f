//! Whatever a framework sends is read or refused; nothing of it breaks a reader.

use proptest::prelude::*;
use prost::Message as _;
use waggle_types::FrameworkId;

use super::{framework, json, operation, resources, task};
use crate::{
    codec::{MAX_DECODED, Shaped, decoded_size},
    proto::mesos as pb,
};

/// Calls of every type that has something in it.
const SEEDS: [&str; 9] = [
    r#"{"type":"SUBSCRIBE","framework_id":{"value":"f"},"subscribe":{"framework_info":{"user":"root","name":"a b","id":{"value":"f"},"failover_timeout":1.5,"roles":["x","y/z"],"capabilities":[{"type":"MULTI_ROLE"},{"type":"PARTITION_AWARE"}],"labels":{"labels":[{"key":"k","value":"v"}]},"offer_filters":{"x":{"min_allocatable_resources":{"quantities":[{"quantities":{"cpus":{"value":1}}}]}}}},"suppressed_roles":["x"],"offer_constraints":{"role_constraints":{"x":{"groups":[{"attribute_constraints":[{"selector":{"attribute_name":"r"},"predicate":{"text_matches":{"regex":"a.*"}}}]}]}}}}}"#,
    r#"{"type":"ACCEPT","framework_id":{"value":"f"},"accept":{"offer_ids":[{"value":"o"}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"n","task_id":{"value":"t"},"agent_id":{"value":"a"},"data":"AAEC","resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":31000,"end":31002}]}}],"command":{"value":"x","environment":{"variables":[{"name":"A","value":"b"}]},"uris":[{"value":"http://h/x.tgz","extract":true}],"user":"u"},"container":{"type":"DOCKER","docker":{"image":"alpine","network":"BRIDGE","port_mappings":[{"host_port":31000,"container_port":80,"protocol":"tcp"}],"parameters":[{"key":"cap-add","value":"NET_ADMIN"}]},"volumes":[{"container_path":"/d","host_path":"/h","mode":"RW"}]},"health_check":{"type":"HTTP","http":{"port":31000,"path":"/","scheme":"http","statuses":[200]},"delay_seconds":1},"kill_policy":{"grace_period":{"nanoseconds":1}},"discovery":{"visibility":"CLUSTER","name":"d","ports":{"ports":[{"number":31001,"name":"p","protocol":"udp"}]}},"limits":{"cpus":{"value":2}}}]}}],"filters":{"refuse_seconds":3}}}"#,
    r#"{"type":"ACCEPT","framework_id":{"value":"f"},"accept":{"operations":[{"type":"RESERVE","id":{"value":"i"},"reserve":{"resources":[{"name":"disk","type":"SCALAR","scalar":{"value":8},"reservations":[{"type":"DYNAMIC","role":"r","principal":"p","labels":{"labels":[{"key":"k"}]}}]}]}},{"type":"CREATE","create":{"volumes":[{"name":"disk","type":"SCALAR","scalar":{"value":8},"role":"r","reservation":{},"disk":{"persistence":{"id":"v"},"volume":{"container_path":"d","mode":"RW"},"source":{"type":"PATH","path":{"root":"fast"}}},"shared":{}}]}},{"type":"GROW_VOLUME","grow_volume":{"volume":{"name":"disk","type":"SCALAR","scalar":{"value":8},"role":"r","reservation":{},"disk":{"persistence":{"id":"v"}}},"addition":{"name":"disk","type":"SCALAR","scalar":{"value":1e308}}}},{"type":"LAUNCH_GROUP","launch_group":{"executor":{"type":"DEFAULT","executor_id":{"value":"e"},"container":{"type":"MESOS","network_infos":[{"name":"net"}]}},"task_group":{"tasks":[{"task_id":{"value":"t"},"command":{"value":"x"}}]}}}]}}"#,
    r#"{"type":"DECLINE","framework_id":{"value":"f"},"decline":{"offer_ids":[{"value":"o"}],"filters":{"refuse_seconds":-1}}}"#,
    r#"{"type":"KILL","framework_id":{"value":"f"},"kill":{"task_id":{"value":"t"},"kill_policy":{"grace_period":{"nanoseconds":-9223372036854775808}}}}"#,
    r#"{"type":"ACKNOWLEDGE","framework_id":{"value":"f"},"acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"BwcHBwcHBwcHBwcHBwcHBw=="}}"#,
    r#"{"type":"RECONCILE","framework_id":{"value":"f"},"reconcile":{"tasks":[{"task_id":{"value":"t"}}]}}"#,
    r#"{"type":"MESSAGE","framework_id":{"value":"f"},"message":{"agent_id":{"value":"a"},"executor_id":{"value":"e"},"data":"AA=="}}"#,
    r#"{"type":"REVIVE","framework_id":{"value":"f"},"revive":{"roles":["x"]}}"#,
];

/// Everything that a master does with a call before it is the core's.
fn digest(call: &pb::Call) {
    let id = FrameworkId::new("f").unwrap();
    let info = pb::FrameworkInfo::default();
    let by = task::Launcher {
        framework_id: &id,
        info: &info,
    };
    if let Some(s) = &call.subscribe {
        let read = framework::subscription(call.framework_id.as_ref(), s);
        if let Ok(info) = read {
            let back = framework::framework_info(&id, &info);
            assert!(back.name.is_some());
        }
    }
    if let Some(a) = &call.accept {
        if let Ok(o) = operation::operations(&a.operations, by) {
            assert!(o.asked.len() + o.refused.len() <= 100_000);
        }
        for t in a.operations.iter().flat_map(operation::infos) {
            let _ = task::task(t, by);
        }
    }
    if let Some(r) = &call.request {
        for r in &r.requests {
            let _ = resources::read("resources", &r.resources);
        }
    }
    if let Some(k) = &call.kill {
        let _ = task::grace(k.kill_policy.as_ref());
    }
    let _ = json::write(call);
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        (1u32..20, any::<u64>()).prop_map(|(tag, v)| {
            let mut out = Vec::new();
            prost::encoding::uint64::encode(tag, &v, &mut out);
            out
        }),
        (1u32..20, any::<f64>()).prop_map(|(tag, v)| {
            let mut out = Vec::new();
            prost::encoding::double::encode(tag, &v, &mut out);
            out
        }),
        (1u32..20, "[a-z/*.]{0,6}").prop_map(|(tag, v)| {
            let mut out = Vec::new();
            prost::encoding::string::encode(tag, &v, &mut out);
            out
        }),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        (1u32..20, prop::collection::vec(inner, 0..6)).prop_map(|(tag, fields)| {
            let mut out = Vec::new();
            prost::encoding::bytes::encode(tag, &fields.concat(), &mut out);
            out
        })
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(call) = json::read::<pb::Call>(&bytes) {
            digest(&call);
        }
        if let Ok(call) = pb::Call::decode(bytes.as_slice()) {
            digest(&call);
        }
    }

    #[test]
    fn any_messages_are_read_or_refused(fields in prop::collection::vec(field(), 0..12)) {
        let bytes = fields.concat();
        prop_assert!(decoded_size(&bytes, pb::Call::shape(), MAX_DECODED) <= MAX_DECODED);
        if let Ok(call) = pb::Call::decode(bytes.as_slice()) {
            digest(&call);
        }
    }

    #[test]
    fn calls_with_a_mistake_are_read_or_refused(
        seed in 0..SEEDS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..12), 1..6),
    ) {
        let mut text = SEEDS[seed].as_bytes().to_vec();
        for (at, byte, cut) in edits {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, [byte]);
        }
        if let Ok(call) = json::read::<pb::Call>(&text) {
            digest(&call);
        }
    }

    #[test]
    fn values_of_any_kind_are_read_or_refused(
        seed in 0..SEEDS.len(),
        at in any::<prop::sample::Index>(),
        instead in prop_oneof![
            Just("null"), Just("-1"), Just("1e400"), Just("0.5"), Just("\"\""), Just("[]"), Just("{}"), Just("true"),
            Just("18446744073709551616"), Just("[{}]"), Just("\"\\u0000\""),
        ],
    ) {
        // In place of the value after some colon.
        let text = SEEDS[seed];
        let colons: Vec<usize> = text.match_indices(':').map(|(i, _)| i).collect();
        let colon = colons[at.index(colons.len())];
        let rest = &text[colon + 1..];
        let value = serde_json::Deserializer::from_str(rest).into_iter::<serde_json::Value>();
        let mut value = value;
        let _ = value.next();
        let text = format!("{}:{instead}{}", &text[..colon], &rest[value.byte_offset()..]);
        if let Ok(call) = json::read::<pb::Call>(text.as_bytes()) {
            digest(&call);
        }
    }
}

#[test]
fn both_encodings_hold_the_same() {
    for seed in SEEDS {
        let call: pb::Call = json::read(seed.as_bytes()).unwrap();
        digest(&call);
        let back = pb::Call::decode(call.encode_to_vec().as_slice()).unwrap();
        assert_eq!(back, call);
        let again: pb::Call = json::read(&json::write(&call)).unwrap();
        assert_eq!(again, call, "{seed}");
    }
}

#[test]
fn readers_are_as_lenient_as_mesos() {
    let call: pb::Call = json::read(
        br#"{"type":"ACCEPT","unknown":{"a":1},"accept":{"filters":null,"operations":null,"offer_ids":[null,{"value":"o"}]},
        "kill":{"kill_policy":{"grace_period":{"nanoseconds":5.0}}},"revive":{"roles":["a",null]}}"#,
    )
    .unwrap();
    assert_eq!(call.accept.unwrap().offer_ids.len(), 1);
    assert_eq!(call.revive.unwrap().roles, ["a"]);
    let grace = call
        .kill
        .unwrap()
        .kill_policy
        .unwrap()
        .grace_period
        .unwrap();
    assert_eq!(grace.nanoseconds, 5);
    let newer: pb::Call = json::read(br#"{"type":"OF_THE_FUTURE"}"#).unwrap();
    assert_eq!(newer.r#type, None);
    let error = json::read::<pb::Call>(br#"{"accept":{"offer_ids":[{"value":7}]}}"#).unwrap_err();
    assert!(
        error.to_string().starts_with("accept.offer_ids[0].value: "),
        "{error}"
    );
}
