//! Mesos's scheduler and operator APIs against a real master with emulated agents: the contract's table of answers,
//! both encodings, and clients that behave badly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use prost::Message as _;
use serde_json::{Value, json};
use waggle_api::proto::mesos as pb;
use waggle_master::store::MemoryStore;
use waggle_tests_frameworks::agent::Books;
use waggle_types::Millis;
use world::{
    Master,
    mesos::{
        Framework, JSON, PATH, PROTOBUF, TAKES_JSON, TAKES_PROTOBUF, launch, operate, subscribe,
        task,
    },
    wire::{Records, send},
};

async fn master() -> Master {
    Master::start_with(MemoryStore::new(), Millis::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_checked_in_mesoss_order() {
    let m = master().await;
    let at = m.mesos;
    let s = subscribe("checks", None).to_string();
    let s = s.as_bytes();
    let f = Framework::new(at, "checks", None).await;
    let revive = json!({ "type": "REVIVE", "framework_id": { "value": f.id } }).to_string();
    let nobody = json!({ "type": "REVIVE", "framework_id": { "value": "nobody" } }).to_string();
    let stream = ("Mesos-Stream-Id", f.stream_id.as_str());
    let headers: [&[(&str, &str)]; 8] = [
        &[],
        &[("Content-Type", "text/plain")],
        &[JSON],
        &[JSON, ("Accept", "text/html")],
        &[JSON, TAKES_JSON, stream],
        &[JSON, stream],
        &[JSON, ("Mesos-Stream-Id", "other")],
        &[PROTOBUF],
    ];
    let cases: [(&str, usize, &[u8], u16, &str); 13] = [
        ("GET", 2, b"", 405, "POST"),
        ("POST", 0, s, 400, "Content-Type"),
        ("POST", 1, s, 415, "application/json"),
        ("POST", 2, b"{", 400, "Failed to parse"),
        ("POST", 7, b"\xff\xff\xff", 400, "Failed to parse"),
        ("POST", 2, b"{}", 400, "'type'"),
        ("POST", 2, br#"{"type":"SUBSCRIBE"}"#, 400, "'subscribe'"),
        (
            "POST",
            2,
            br#"{"type":"ACCEPT","framework_id":{"value":"x"}}"#,
            400,
            "'accept'",
        ),
        ("POST", 3, s, 406, "Accept"),
        ("POST", 4, s, 400, "should not include"),
        (
            "POST",
            5,
            nobody.as_bytes(),
            400,
            "Framework cannot be found",
        ),
        ("POST", 2, revive.as_bytes(), 400, "should include"),
        ("POST", 6, revive.as_bytes(), 400, "didn't match"),
    ];
    for (method, with, body, status, text) in cases {
        let a = send(at, method, PATH, headers[with], body).await;
        let body = String::from_utf8_lossy(body);
        assert_eq!(
            a.status,
            status,
            "{method} {:?} {body}: {}",
            headers[with],
            a.text()
        );
        assert!(a.text().contains(text), "{text} is not in {}", a.text());
    }
    let a = send(
        at,
        "POST",
        "/master/api/v1/scheduler",
        headers[5],
        revive.as_bytes(),
    )
    .await;
    assert_eq!(a.status, 202);
    let id = f.id.clone();
    drop(f);
    // Once the master has seen the end of the stream.
    let revive = json!({ "type": "REVIVE", "framework_id": { "value": id } }).to_string();
    let deadline = tokio::time::Instant::now() + world::PATIENCE;
    loop {
        let a = send(
            at,
            "POST",
            PATH,
            &[JSON, ("Mesos-Stream-Id", "x")],
            revive.as_bytes(),
        )
        .await;
        if a.status == 403 {
            assert_eq!(a.text(), "Framework is not subscribed");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", a.text());
    }
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_framework_launches_acknowledges_and_is_torn_down() {
    let m = master().await;
    let books = Books::default();
    m.agent(1, 4, &books).await;
    let mut f = Framework::new(m.mesos, "life", None).await;
    let offer = f.offer().await;
    assert_eq!(offer["allocation_info"]["role"], "*");
    let tasks = [
        task(&offer, "fine", "run 1", 0.5),
        task(&offer, "big", "run 1", 500.0),
        task(&offer, "long", "forever", 0.5),
        json!({ "name": "x", "task_id": { "value": "odd" }, "agent_id": offer["agent_id"] }),
    ];
    f.takes(launch(&offer, &tasks)).await;
    let (mut uuids, mut wrong) = (Vec::new(), Vec::new());
    while wrong.len() < 2 || uuids.is_empty() {
        let status = f.events.event("UPDATE").await["status"].clone();
        let id = status["task_id"]["value"].as_str().unwrap().to_owned();
        match status["state"].as_str().unwrap() {
            "TASK_ERROR" => {
                assert_eq!(status["reason"], "REASON_TASK_INVALID");
                assert!(status.get("uuid").is_none(), "said once: {status}");
                wrong.push(id);
            }
            _ => {
                if status.get("uuid").is_some() {
                    assert_eq!(status["agent_id"], offer["agent_id"]);
                    uuids.push(status.clone());
                }
            }
        }
    }
    wrong.sort();
    assert_eq!(wrong, ["big", "odd"]);
    for s in &uuids {
        let ack = json!({ "type": "ACKNOWLEDGE", "acknowledge": {
            "agent_id": s["agent_id"], "task_id": s["task_id"], "uuid": s["uuid"] } });
        f.takes(ack.clone()).await;
        f.takes(ack).await;
    }
    // A group is refused as a whole.
    let offer = f.offer().await;
    let group = [
        task(&offer, "part", "run 1", 0.1),
        task(&offer, "huge", "run 1", 500.0),
    ];
    let mut grouped = launch(&offer, &[]);
    grouped["accept"]["operations"][0] = json!({ "type": "LAUNCH_GROUP", "launch_group": {
        "executor": { "type": "DEFAULT", "executor_id": { "value": "default" } },
        "task_group": { "tasks": group } } });
    f.takes(grouped).await;
    for id in ["part", "huge"] {
        let status = f.update(id, "TASK_ERROR").await;
        assert_eq!(status["reason"], "REASON_TASK_GROUP_INVALID", "{status}");
    }
    // Stale, unknown, meant for nobody: taken all the same.
    f.takes(launch(&offer, &[task(&offer, "late", "run 1", 0.5)]))
        .await;
    let late = f.update("late", "TASK_LOST").await;
    assert_eq!(late["reason"], "REASON_INVALID_OFFERS");
    f.takes(json!({ "type": "DECLINE", "decline": { "offer_ids": [{ "value": "no / such" }] } }))
        .await;
    f.takes(json!({ "type": "KILL", "kill": { "task_id": { "value": "nobody" } } }))
        .await;
    f.update("nobody", "TASK_LOST").await;
    f.takes(json!({ "type": "REQUEST", "request": { "requests": [] } }))
        .await;
    f.takes(json!({ "type": "MESSAGE", "message": { "agent_id": { "value": "a" }, "executor_id": { "value": "e" }, "data": "AA==" } })).await;
    f.takes(json!({ "type": "SUPPRESS" })).await;
    f.takes(json!({ "type": "REVIVE", "revive": { "roles": ["not/mine"] } }))
        .await;
    f.takes(json!({ "type": "RECONCILE", "reconcile": { "tasks": [] } }))
        .await;
    let bad = f
        .call(json!({ "type": "ACKNOWLEDGE", "acknowledge": {
        "agent_id": { "value": "a" }, "task_id": { "value": "t" }, "uuid": "AA==" } }))
        .await;
    assert_eq!(bad.status, 400);
    assert!(bad.text().contains("acknowledge.uuid"), "{}", bad.text());
    let operations = f
        .call(
            json!({ "type": "RECONCILE_OPERATIONS", "reconcile_operations": {
        "operations": [{ "operation_id": { "value": "o" } }] } }),
        )
        .await;
    assert_eq!(operations.status, 200);
    assert_eq!(
        operations.json()["reconcile_operations"]["operation_statuses"][0]["state"],
        "OPERATION_UNKNOWN"
    );
    let update = json!({ "type": "UPDATE_FRAMEWORK", "update_framework": { "framework_info": {
        "user": "root", "name": "life", "id": { "value": f.id }, "role": "eng" } } });
    assert_eq!(f.call(update).await.status, 200);
    f.takes(json!({ "type": "TEARDOWN" })).await;
    while let Some(last) = f.events.next().await {
        let event: Value = serde_json::from_slice(&last).unwrap();
        assert_ne!(event["type"], "ERROR", "it knows why its stream ends");
    }
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_takes_over_and_a_removed_id_is_told() {
    let m = master().await;
    let mut first = Framework::new(m.mesos, "twice", None).await;
    let second = Framework::new(m.mesos, "twice", Some(&first.id)).await;
    assert_eq!(first.id, second.id);
    assert_ne!(first.stream_id, second.stream_id);
    let error = first.events.event("ERROR").await;
    assert_eq!(error["message"], "Framework failed over");
    while first.events.next().await.is_some() {}
    let a = first.call(json!({ "type": "REVIVE" })).await;
    assert_eq!(
        a.status,
        400,
        "the old stream can't act any more: {}",
        a.text()
    );
    second.takes(json!({ "type": "TEARDOWN" })).await;
    let call = subscribe("twice", Some(&second.id)).to_string();
    let mut late = Records::open(m.mesos, PATH, &[JSON, TAKES_JSON], call.as_bytes()).await;
    assert!(late.head.starts_with("HTTP/1.1 200"), "{}", late.head);
    assert_eq!(late.header("transfer-encoding"), Some("chunked"));
    assert_eq!(
        late.event("ERROR").await["message"],
        "Framework has been removed"
    );
    assert!(late.next().await.is_none());
    let mut wrong = subscribe("twice", None);
    wrong["subscribe"]["framework_info"]["roles"] = json!(["a", "a"]);
    let mut refused = Records::open(
        m.mesos,
        PATH,
        &[JSON, TAKES_JSON],
        wrong.to_string().as_bytes(),
    )
    .await;
    let message = refused.event("ERROR").await["message"].to_string();
    assert!(message.contains("framework_info.roles"), "{message}");
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protobuf_says_the_same() {
    let m = master().await;
    let books = Books::default();
    m.agent(1, 4, &books).await;
    let info = pb::FrameworkInfo {
        user: Some("root".into()),
        name: Some("bytes".into()),
        ..pb::FrameworkInfo::default()
    };
    let call = pb::Call {
        r#type: Some(pb::call::Type::Subscribe.into()),
        subscribe: Some(pb::Subscribe {
            framework_info: Some(info),
            ..pb::Subscribe::default()
        }),
        ..pb::Call::default()
    };
    let headers = [PROTOBUF, TAKES_PROTOBUF];
    let mut events = Records::open(m.mesos, PATH, &headers, &call.encode_to_vec()).await;
    assert_eq!(
        events.header("content-type"),
        Some("application/x-protobuf")
    );
    let stream_id = events.header("mesos-stream-id").unwrap().to_owned();
    let first = pb::Event::decode(events.next().await.unwrap().as_slice()).unwrap();
    let id = first.subscribed.unwrap().framework_id.unwrap();
    let offers = loop {
        let e = pb::Event::decode(events.next().await.unwrap().as_slice()).unwrap();
        if let Some(o) = e.offers {
            break o;
        }
    };
    let decline = pb::Call {
        framework_id: Some(id),
        r#type: Some(pb::call::Type::Decline.into()),
        decline: Some(pb::Decline {
            offer_ids: offers.offers.into_iter().filter_map(|o| o.id).collect(),
            filters: None,
        }),
        ..pb::Call::default()
    };
    let headers = [PROTOBUF, ("Mesos-Stream-Id", stream_id.as_str())];
    let a = send(m.mesos, "POST", PATH, &headers, &decline.encode_to_vec()).await;
    assert_eq!(a.status, 202, "{}", a.text());
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_would_take_too_much_memory_is_refused() {
    let m = master().await;
    // Two bytes for each of very many tasks.
    let mut infos = Vec::new();
    for _ in 0..500_000 {
        infos.extend_from_slice(&[0x0a, 0x00]);
    }
    let mut launch = Vec::new();
    prost::encoding::bytes::encode(2, &infos, &mut launch);
    let mut accept = Vec::new();
    prost::encoding::bytes::encode(2, &launch, &mut accept);
    let mut call = vec![0x10, 0x03];
    prost::encoding::bytes::encode(4, &accept, &mut call);
    let a = send(m.mesos, "POST", PATH, &[PROTOBUF], &call).await;
    assert_eq!(a.status, 400, "{}", a.text());
    let many = format!(
        r#"{{"type":"ACCEPT","accept":{{"offer_ids":[{}{{}}]}}}}"#,
        "{},".repeat(200_000)
    );
    let a = send(m.mesos, "POST", PATH, &[JSON], many.as_bytes()).await;
    assert_eq!(a.status, 400, "{}", a.text());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let a = send(m.mesos, "POST", PATH, &[JSON], deep.as_bytes()).await;
    assert_eq!(a.status, 400, "{}", a.text());
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_read_change_and_listen() {
    let m = master().await;
    let books = Books::default();
    m.agent(1, 4, &books).await;
    let mut f = Framework::new(m.mesos, "Watched One", None).await;
    let offer = f.offer().await;
    let subscribe = json!({ "type": "SUBSCRIBE" }).to_string();
    let mut events = Records::open(
        m.mesos,
        "/api/v1",
        &[JSON, TAKES_JSON],
        subscribe.as_bytes(),
    )
    .await;
    let state = events.event("SUBSCRIBED").await["get_state"].clone();
    assert_eq!(state["get_agents"]["agents"][0]["active"], true);
    let name = |f: &Value| f["framework_info"]["name"] == "Watched One";
    assert!(
        state["get_frameworks"]["frameworks"]
            .as_array()
            .unwrap()
            .iter()
            .any(name)
    );
    f.takes(launch(&offer, &[task(&offer, "seen", "forever", 0.5)]))
        .await;
    let added = events.event("TASK_ADDED").await;
    assert_eq!(added["task"]["task_id"]["value"], "seen");
    assert_eq!(added["task"]["framework_id"]["value"], f.id);
    let updated = events.event("TASK_UPDATED").await;
    assert_eq!(updated["framework_id"]["value"], f.id);
    assert!(updated["state"].is_string() && updated["status"]["agent_id"]["value"].is_string());
    for (kind, pointer) in [
        ("GET_HEALTH", "/get_health/healthy"),
        ("GET_FLAGS", "/get_flags/flags/0/name"),
        ("GET_VERSION", "/get_version/version_info/version"),
        ("GET_METRICS", "/get_metrics/metrics/0/name"),
        ("GET_LOGGING_LEVEL", "/get_logging_level/level"),
        ("GET_STATE", "/get_state/get_tasks/tasks/0/state"),
        ("GET_AGENTS", "/get_agents/agents/0/agent_info/id/value"),
        (
            "GET_FRAMEWORKS",
            "/get_frameworks/frameworks/0/framework_info/name",
        ),
        ("GET_EXECUTORS", "/get_executors/executors"),
        ("GET_TASKS", "/get_tasks/tasks/0/task_id/value"),
        ("GET_ROLES", "/get_roles/roles/0/name"),
        ("GET_WEIGHTS", "/get_weights/weight_infos"),
        ("GET_MASTER", "/get_master/master_info/port"),
        (
            "GET_MAINTENANCE_STATUS",
            "/get_maintenance_status/status/draining_machines",
        ),
        (
            "GET_MAINTENANCE_SCHEDULE",
            "/get_maintenance_schedule/schedule/windows",
        ),
        ("GET_QUOTA", "/get_quota/status/infos"),
    ] {
        let a = operate(&m, &json!({ "type": kind })).await;
        assert_eq!(a.status, 200, "{kind}: {}", a.text());
        assert_eq!(a.json()["type"], kind);
        assert!(
            a.json().pointer(pointer).is_some(),
            "{kind} has no {pointer}: {}",
            a.text()
        );
    }
    let ok = async |call: Value| {
        let a = operate(&m, &call).await;
        assert_eq!(a.status, 200, "{call}: {}", a.text());
    };
    ok(json!({ "type": "UPDATE_WEIGHTS", "update_weights": { "weight_infos": [{ "role": "eng", "weight": 2.5 }] } })).await;
    let a = operate(&m, &json!({ "type": "GET_WEIGHTS" })).await;
    assert_eq!(
        a.json()["get_weights"]["weight_infos"],
        json!([{ "role": "eng", "weight": 2.5 }])
    );
    ok(
        json!({ "type": "SET_QUOTA", "set_quota": { "quota_request": { "role": "eng", "force": true,
        "guarantee": [{ "name": "cpus", "type": "SCALAR", "scalar": { "value": 1 } }] } } }),
    )
    .await;
    let a = send(m.mesos, "GET", "/master/quota", &[], b"").await;
    assert_eq!(a.json()["infos"][0]["role"], "eng");
    ok(json!({ "type": "REMOVE_QUOTA", "remove_quota": { "role": "eng" } })).await;
    let agent = offer["agent_id"].clone();
    let reserved = json!([{ "name": "cpus", "type": "SCALAR", "scalar": { "value": 0.5 }, "role": "eng",
        "reservation": { "principal": "ops" } }]);
    ok(json!({ "type": "RESERVE_RESOURCES", "reserve_resources": { "agent_id": agent, "resources": reserved } })).await;
    let slaves = m.get("/master/slaves.json").await;
    assert_eq!(
        slaves["slaves"][0]["reserved_resources"]["eng"]["cpus"],
        0.5
    );
    ok(json!({ "type": "UNRESERVE_RESOURCES", "unreserve_resources": { "agent_id": agent, "resources": reserved } })).await;
    let twice = json!({ "type": "UNRESERVE_RESOURCES", "unreserve_resources": { "agent_id": agent, "resources": reserved } });
    assert_eq!(operate(&m, &twice).await.status, 409);
    let hostname = offer["hostname"].as_str().unwrap();
    let machine = json!({ "hostname": hostname });
    let start = u64::MAX / 4;
    ok(json!({ "type": "UPDATE_MAINTENANCE_SCHEDULE", "update_maintenance_schedule": { "schedule": { "windows": [
        { "machine_ids": [machine], "unavailability": { "start": { "nanoseconds": start } } }] } } })).await;
    let a = send(m.mesos, "GET", "/maintenance/status", &[], b"").await;
    assert_eq!(a.json()["draining_machines"][0]["id"]["hostname"], hostname);
    ok(json!({ "type": "STOP_MAINTENANCE", "stop_maintenance": { "machines": [machine] } })).await;
    for (call, status) in [
        (json!({ "type": "NO_SUCH_CALL" }), 400),
        (json!({}), 400),
        (json!({ "type": "TEARDOWN" }), 400),
        (
            json!({ "type": "UPDATE_WEIGHTS", "update_weights": { "weight_infos": [{ "role": "a", "weight": -1 }] } }),
            400,
        ),
        (
            json!({ "type": "START_MAINTENANCE", "start_maintenance": { "machines": [{ "hostname": "nowhere" }] } }),
            400,
        ),
        (
            json!({ "type": "READ_FILE", "read_file": { "path": "/etc/passwd", "offset": 0 } }),
            404,
        ),
    ] {
        let a = operate(&m, &call).await;
        assert_eq!(a.status, status, "{call}: {}", a.text());
    }
    let form = format!("frameworkId={}", f.id);
    let a = send(m.mesos, "POST", "/master/teardown", &[], form.as_bytes()).await;
    assert_eq!(a.status, 200, "{}", a.text());
    assert_eq!(
        f.events.event("ERROR").await["message"],
        "Framework has been removed"
    );
    let removed = events.event("FRAMEWORK_REMOVED").await;
    assert_eq!(removed["framework_info"]["name"], "Watched One");
    let state = m.get("/master/state").await;
    let gone = &state["completed_frameworks"][0];
    assert_eq!(
        (&gone["name"], &gone["active"]),
        (&json!("Watched One"), &json!(false))
    );
    assert!(gone["unregistered_time"].as_f64() > gone["registered_time"].as_f64());
    let a = operate(&m, &json!({ "type": "GET_FRAMEWORKS" })).await;
    let gone = &a.json()["get_frameworks"]["completed_frameworks"][0];
    assert_eq!(gone["framework_info"]["id"]["value"], f.id);
    assert!(gone["unregistered_time"]["nanoseconds"].is_i64(), "{gone}");
    m.stop().await;
}
