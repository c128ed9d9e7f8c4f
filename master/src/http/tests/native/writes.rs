//! What reaches the core, and what is answered.

use super::*;

/// Each write with what the core is asked.
fn writes() -> Vec<(&'static str, &'static str, Option<Value>, OperatorCall)> {
    let agent_id = || id("a1");
    let reserve = json!({"agent": "n1", "stack": [{"role": "eng", "principal": "ops"}],
        "resources": {"cpus": 0.5, "custom": {"licenses": 2}}});
    let mut resources = Resources::from_millis(500, 0, 0);
    resources.custom.set_scalar("licenses", Milli(2000));
    let volume = json!({"agent": "a1", "stack": [{"role": "eng", "principal": "ops"}],
        "volume_id": "db", "size": 512, "shared": true});
    let resize = json!({"agent": "a1", "stack": [{"role": "eng", "principal": "ops"}],
        "volume_id": "db", "size": 1.5});
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
                mount_path: None,
            },
        ),
        (
            "PUT",
            "/waggle/v1/volumes",
            Some(resize),
            OperatorCall::ResizeVolume {
                agent_id: agent_id(),
                stack: stack(),
                volume_id: volume_id(),
                size: Milli(1500),
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
