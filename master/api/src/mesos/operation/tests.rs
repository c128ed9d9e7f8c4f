//! Operations of an accept.

use waggle_types::FrameworkId;

use super::*;
use crate::mesos::json;

fn read(text: &str) -> Result<Operations, ConvertError> {
    let accept: pb::Accept = json::read(text.as_bytes()).unwrap();
    let id = FrameworkId::new("f").unwrap();
    let info = pb::FrameworkInfo::default();
    let by = Launcher {
        framework_id: &id,
        info: &info,
    };
    operations(&accept.operations, by)
}

const TASK: &str = r#""name":"n","agent_id":{"value":"a"},"command":{"value":"true"},
    "resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.5}}]"#;

#[test]
fn a_task_that_is_wrong_leaves_the_others() {
    let o = read(&format!(
        r#"{{"operations":[{{"type":"LAUNCH","launch":{{"task_infos":[
        {{"task_id":{{"value":"good"}},{TASK}}},{{"task_id":{{"value":"bad"}},"name":"n"}}]}}}}]}}"#
    ))
    .unwrap();
    assert_eq!(o.asked[0].operation.tasks().len(), 1);
    assert_eq!(o.refused[0].task.as_ref().unwrap().as_str(), "bad");
    assert_eq!(o.refused[0].why.field, "command");
}

#[test]
fn a_group_is_a_pod_wholly_or_not_at_all() {
    let group = |second: &str| {
        read(&format!(
            r#"{{"operations":[{{"type":"LAUNCH_GROUP","launch_group":{{
            "executor":{{"type":"DEFAULT","executor_id":{{"value":"e"}}}},
            "task_group":{{"tasks":[{{"task_id":{{"value":"a"}},{TASK}}},{second}]}}}}}}]}}"#
        ))
        .unwrap()
    };
    let good = group(&format!(r#"{{"task_id":{{"value":"b"}},{TASK}}}"#));
    assert!(good.asked[0].whole);
    let pods: Vec<_> = good.asked[0]
        .operation
        .tasks()
        .iter()
        .map(|t| &t.container.pod)
        .collect();
    assert_eq!(pods, [&Some("f.e".to_owned()), &Some("f.e".to_owned())]);
    let bad = group(r#"{"task_id":{"value":"b"},"name":"n"}"#);
    assert!(bad.asked.is_empty());
    assert_eq!(bad.refused.len(), 2, "each task hears of it");
}

#[test]
fn reservations_and_volumes_become_the_vocabularys() {
    let disk = r#"{"name":"disk","type":"SCALAR","scalar":{"value":8},"role":"db","reservation":{"principal":"p"}"#;
    let volume = format!(
        r#"{disk},"disk":{{"persistence":{{"id":"v"}},"volume":{{"container_path":"d","mode":"RW"}}}}}}"#
    );
    let o = read(&format!(
        r#"{{"operations":[
        {{"type":"RESERVE","reserve":{{"resources":[{disk}}}]}}}},
        {{"type":"CREATE","create":{{"volumes":[{volume}]}}}},
        {{"type":"GROW_VOLUME","grow_volume":{{"volume":{volume},"addition":{disk}}}}}}},
        {{"type":"SHRINK_VOLUME","shrink_volume":{{"volume":{volume},"subtract":{{"value":3}}}}}},
        {{"type":"DESTROY","destroy":{{"volumes":[{volume}]}}}},
        {{"type":"UNRESERVE","unreserve":{{"resources":[{disk}}}]}}}},
        {{"type":"CREATE_DISK"}},
        {{"type":"RESERVE","reserve":{{"resources":[]}}}}]}}"#
    ))
    .unwrap();
    let kinds: Vec<&str> = o
        .asked
        .iter()
        .map(|a| match &a.operation {
            Operation::Reserve { .. } => "reserve",
            Operation::Unreserve { .. } => "unreserve",
            Operation::CreateVolume { .. } => "create",
            Operation::DestroyVolume { .. } => "destroy",
            Operation::ResizeVolume { size, .. } if size.0 == 16_000 => "grow",
            Operation::ResizeVolume { size, .. } if size.0 == 5_000 => "shrink",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "reserve",
            "create",
            "grow",
            "shrink",
            "destroy",
            "unreserve"
        ]
    );
    assert_eq!(o.paths.values().collect::<Vec<_>>(), ["d"]);
    let refused: Vec<_> = o.refused.iter().map(|r| r.why.field.as_str()).collect();
    assert_eq!(
        refused,
        [
            "accept.operations[6].type",
            "accept.operations[7].reserve.resources"
        ]
    );
}

#[test]
fn what_is_no_operation_is_the_calls_mistake() {
    assert_eq!(
        read(r#"{"operations":[{}]}"#).unwrap_err().field,
        "accept.operations[0].type"
    );
    assert_eq!(
        read(r#"{"operations":[{"type":"LAUNCH"}]}"#)
            .unwrap_err()
            .field,
        "accept.operations[0].launch"
    );
}
