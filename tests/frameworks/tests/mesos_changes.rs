//! Changes through Mesos's APIs against a real master: operations with feedback, frameworks and volumes changed by
//! calls, and what subscribers hear of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use serde_json::{Value, json};
use waggle_master::store::MemoryStore;
use waggle_tests_frameworks::agent::Books;
use waggle_types::Millis;
use world::{
    Master,
    mesos::{Framework, JSON, TAKES_JSON, operate, subscribe_as},
    wire::{Records, send},
};

async fn master() -> Master {
    Master::start_with(MemoryStore::new(), Millis::from_secs(60)).await
}

fn reserved(role: &str, cpus: f64) -> Value {
    json!([{ "name": "cpus", "type": "SCALAR", "scalar": { "value": cpus },
        "reservations": [{ "type": "DYNAMIC", "role": role, "principal": "ops" }] }])
}

fn reserve(offer: &Value, id: &str, role: &str, cpus: f64) -> Value {
    json!({ "type": "ACCEPT", "accept": {
        "offer_ids": [offer["id"]],
        "operations": [{ "type": "RESERVE", "id": { "value": id }, "reserve": { "resources": reserved(role, cpus) } }],
        "filters": { "refuse_seconds": 0 } } })
}

/// What is answered for operations on an agent.
async fn states(f: &Framework, ids: &[&str], agent: &Value) -> Vec<String> {
    let one = |id: &&str| json!({ "operation_id": { "value": id }, "agent_id": agent });
    let all: Vec<Value> = ids.iter().map(one).collect();
    let call =
        json!({ "type": "RECONCILE_OPERATIONS", "reconcile_operations": { "operations": all } });
    let answer = f.call(call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let statuses = answer.json()["reconcile_operations"]["operation_statuses"].clone();
    let of = |s: &Value| s["state"].as_str().unwrap().to_owned();
    statuses.as_array().unwrap().iter().map(of).collect()
}

/// How an operation ended, and the next offer, in whichever order.
async fn told_and_offered(f: &mut Framework) -> (Value, Value) {
    let (mut told, mut offered) = (None, None);
    while let Some(record) = f.events.next().await {
        let event: Value = serde_json::from_slice(&record).unwrap();
        match event["type"].as_str() {
            Some("UPDATE_OPERATION_STATUS") => {
                told = Some(event["update_operation_status"]["status"].clone());
            }
            Some("OFFERS") => offered = Some(event["offers"]["offers"][0].clone()),
            _ => {}
        }
        if let (Some(told), Some(offered)) = (&told, &offered) {
            return (told.clone(), offered.clone());
        }
    }
    panic!("the stream ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_operations_ended_is_told_again() {
    let m = master().await;
    let books = Books::default();
    let session = m.agent(1, 4, &books).await;
    let mut f = Framework::subscribed(m.mesos, &subscribe_as("ops", "eng")).await;
    let offer = f.offer().await;
    let agent = offer["agent_id"].clone();
    f.takes(reserve(&offer, "good", "eng", 1.0)).await;
    let (told, offer) = told_and_offered(&mut f).await;
    assert_eq!(
        (&told["operation_id"]["value"], &told["state"]),
        (&json!("good"), &json!("OPERATION_FINISHED"))
    );
    f.takes(reserve(&offer, "huge", "eng", 400.0)).await;
    let told = f.events.event("UPDATE_OPERATION_STATUS").await["status"].clone();
    let dropped = told["state"].as_str().unwrap().to_owned();
    assert!(
        dropped == "OPERATION_DROPPED" || dropped == "OPERATION_ERROR",
        "{told}"
    );
    // Also by a process of the framework that was not there when it was told.
    let mut again = subscribe_as("ops", "eng");
    again["framework_id"] = json!({ "value": f.id });
    again["subscribe"]["framework_info"]["id"] = json!({ "value": f.id });
    let f = Framework::subscribed(m.mesos, &again).await;
    assert_eq!(
        states(&f, &["good", "huge", "other"], &agent).await,
        ["OPERATION_FINISHED", dropped.as_str(), "OPERATION_UNKNOWN"]
    );
    session.abort();
    m.until("/master/state-summary", |s| {
        s["slaves"][0]["active"] == false
    })
    .await;
    assert_eq!(
        states(&f, &["other"], &agent).await,
        ["OPERATION_UNREACHABLE"]
    );
    let call = json!({ "type": "MARK_AGENT_GONE", "mark_agent_gone": { "agent_id": agent } });
    assert_eq!(operate(&m, &call).await.status, 200);
    m.until("/master/slaves", |s| s["slaves"] == json!([]))
        .await;
    assert_eq!(
        states(&f, &["good", "other"], &agent).await,
        ["OPERATION_FINISHED", "OPERATION_GONE_BY_OPERATOR"]
    );
    let nowhere = json!({ "value": "nowhere" });
    assert_eq!(
        states(&f, &["other"], &nowhere).await,
        ["OPERATION_UNKNOWN"]
    );
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_listed_until_their_framework_knows_how_they_ended() {
    let m = master().await;
    let books = Books::default();
    let _session = m.agent(1, 4, &books).await;
    let mut f = Framework::subscribed(m.mesos, &subscribe_as("ops", "eng")).await;
    let listed = async || {
        let answer = operate(&m, &json!({ "type": "GET_OPERATIONS" })).await;
        answer.json()["get_operations"]["operations"].clone()
    };
    assert_eq!(listed().await, json!([]));
    let offer = f.offer().await;
    f.takes(reserve(&offer, "good", "eng", 1.0)).await;
    let (told, offer) = told_and_offered(&mut f).await;
    f.takes(reserve(&offer, "huge", "eng", 400.0)).await;
    let refused = f.events.event("UPDATE_OPERATION_STATUS").await["status"].clone();
    assert!(refused.get("uuid").is_none(), "said once: {refused}");
    assert_eq!(told["agent_id"], offer["agent_id"]);
    let all = listed().await;
    assert_eq!(all.as_array().unwrap().len(), 1, "what was done: {all}");
    let one = &all[0];
    assert_eq!(one["framework_id"]["value"], json!(f.id));
    assert_eq!(one["agent_id"], offer["agent_id"]);
    assert_eq!(one["latest_status"], told);
    assert_eq!(one["statuses"], json!([told]));
    assert_eq!(one["info"]["type"], "RESERVE");
    assert_eq!(one["info"]["id"], told["operation_id"]);
    let asked = &one["info"]["reserve"]["resources"][0];
    assert_eq!(asked["reservations"][0]["principal"], "ops");
    // A process of the framework that comes later hears of it, too.
    let mut again = subscribe_as("ops", "eng");
    again["framework_id"] = json!({ "value": f.id });
    again["subscribe"]["framework_info"]["id"] = json!({ "value": f.id });
    let mut f = Framework::subscribed(m.mesos, &again).await;
    let heard = f.events.event("UPDATE_OPERATION_STATUS").await["status"].clone();
    assert_eq!(heard, told);
    let acknowledge = |status: &Value| json!({ "type": "ACKNOWLEDGE_OPERATION_STATUS", "acknowledge_operation_status": status });
    let mut other = told.clone();
    other["uuid"] = json!("AAAA");
    f.takes(acknowledge(&other)).await;
    assert_eq!(listed().await, all, "another status");
    // As pymesos does: the whole status.
    f.takes(acknowledge(&told)).await;
    assert_eq!(listed().await, json!([]));
    f.takes(acknowledge(&told)).await;
    assert_eq!(
        states(&f, &["good"], &offer["agent_id"]).await,
        ["OPERATION_UNKNOWN"]
    );
    let nothing = json!({ "type": "ACKNOWLEDGE_OPERATION_STATUS" });
    assert_eq!(f.call(nothing).await.status, 400);
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_framework_changes_of_itself_is_heard() {
    let m = master().await;
    let f = Framework::subscribed(m.mesos, &subscribe_as("mine", "eng")).await;
    let subscribe = json!({ "type": "SUBSCRIBE" }).to_string();
    let headers = [JSON, TAKES_JSON];
    let mut events = Records::open(m.mesos, "/api/v1", &headers, subscribe.as_bytes()).await;
    events.event("SUBSCRIBED").await;
    let mut update = subscribe_as("mine", "eng");
    update["type"] = json!("UPDATE_FRAMEWORK");
    let mut info = update["subscribe"]["framework_info"].take();
    info["id"] = json!({ "value": f.id });
    info["webui_url"] = json!("http://mine.example/");
    info["roles"] = json!(["eng", "eng/night"]);
    let call =
        json!({ "type": "UPDATE_FRAMEWORK", "update_framework": { "framework_info": info } });
    assert_eq!(f.call(call).await.status, 200);
    loop {
        let told = events.event("FRAMEWORK_UPDATED").await["framework"]["framework_info"].clone();
        if told["webui_url"] == "http://mine.example/" {
            assert_eq!(told["roles"], json!(["eng", "eng/night"]));
            assert_eq!(told["id"]["value"], f.id);
            break;
        }
    }
    info["name"] = json!("yours");
    let call =
        json!({ "type": "UPDATE_FRAMEWORK", "update_framework": { "framework_info": info } });
    assert_eq!(f.call(call).await.status, 400, "a name is kept");
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_make_volumes_that_frameworks_are_offered() {
    let m = master().await;
    let books = Books::default();
    m.agent(1, 4, &books).await;
    let slaves = m
        .until("/master/slaves", |s| s["slaves"][0].is_object())
        .await;
    let agent = json!({ "value": slaves["slaves"][0]["id"] });
    let disk = |volume: bool| {
        let mut disk = json!({ "name": "disk", "type": "SCALAR", "scalar": { "value": 10 },
            "reservations": [{ "type": "DYNAMIC", "role": "eng", "principal": "ops" }] });
        if volume {
            disk["disk"] = json!({ "persistence": { "id": "data", "principal": "ops" },
                "volume": { "mode": "RW", "container_path": "db" } });
        }
        json!([disk])
    };
    let call = |kind: &str, field: &str, volumes: &Value| {
        let mut said = json!({ "agent_id": agent });
        let what = if kind.contains("VOLUMES") {
            "volumes"
        } else {
            "resources"
        };
        said[what] = volumes.clone();
        let mut call = json!({ "type": kind });
        call[field] = said;
        call
    };
    for (kind, field, volume) in [
        ("RESERVE_RESOURCES", "reserve_resources", false),
        ("CREATE_VOLUMES", "create_volumes", true),
    ] {
        let a = operate(&m, &call(kind, field, &disk(volume))).await;
        assert_eq!(a.status, 200, "{kind}: {}", a.text());
    }
    let twice = operate(&m, &call("CREATE_VOLUMES", "create_volumes", &disk(true))).await;
    assert_eq!(twice.status, 409, "{}", twice.text());
    let mut f = Framework::subscribed(m.mesos, &subscribe_as("db", "eng")).await;
    let offer = f.offer().await;
    let mut parts = offer["resources"].as_array().unwrap().iter();
    let volume = parts.find(|r| r["disk"].is_object());
    let volume = &volume.unwrap_or_else(|| panic!("{offer}"))["disk"];
    assert_eq!(
        (
            &volume["persistence"]["id"],
            &volume["volume"]["container_path"]
        ),
        (&json!("data"), &json!("db"))
    );
    m.stop().await;
}

/// As forms carry it.
fn encoded(value: &Value) -> String {
    let each = value.to_string().into_bytes().into_iter();
    let each: Vec<String> = each.map(|b| format!("%{b:02X}")).collect();
    each.concat()
}

/// A form or JSON at a path of its own; the answer's status.
async fn at_path(m: &Master, method: &str, path: &str, body: &str) -> u16 {
    let a = send(m.mesos, method, path, &[], body.as_bytes()).await;
    assert!(a.status < 500, "{path}: {}", a.text());
    a.status
}

/// Disk of a role, as much, plain or as a volume of that size.
fn disk(size: f64, volume: bool) -> Value {
    let mut disk = json!({ "name": "disk", "type": "SCALAR", "scalar": { "value": size },
        "reservations": [{ "type": "DYNAMIC", "role": "eng", "principal": "ops" }] });
    if volume {
        disk["disk"] = json!({ "persistence": { "id": "data", "principal": "ops" },
            "volume": { "mode": "RW", "container_path": "db" } });
    }
    disk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_reserve_and_resize_by_paths_and_calls() {
    let m = master().await;
    let books = Books::default();
    m.agent(1, 4, &books).await;
    let slaves = m
        .until("/master/slaves", |s| s["slaves"][0].is_object())
        .await;
    let id = slaves["slaves"][0]["id"].as_str().unwrap().to_owned();
    let form =
        |field: &str, what: Value| format!("slaveId={id}&{field}={}", encoded(&json!([what])));
    let reserved = async |n: f64| {
        let want =
            |s: &Value| s["slaves"][0]["reserved_resources"]["eng"]["disk"].as_f64() == Some(n);
        m.until("/slaves", want).await;
    };
    let plain = form("resources", disk(20.0, false));
    assert_eq!(at_path(&m, "POST", "/master/reserve", &plain).await, 202);
    reserved(20.0).await;
    let volume = form("volumes", disk(10.0, true));
    assert_eq!(at_path(&m, "POST", "/create-volumes", &volume).await, 202);
    assert_eq!(
        at_path(&m, "POST", "/create-volumes", &volume).await,
        409,
        "twice"
    );
    let agent = json!({ "value": id });
    let grow = |from: f64, by: f64| {
        json!({ "type": "GROW_VOLUME", "grow_volume": { "agent_id": agent,
            "volume": disk(from, true), "addition": disk(by, false) } })
    };
    let shrink = |from: f64, by: f64| {
        json!({ "type": "SHRINK_VOLUME", "shrink_volume": { "agent_id": agent,
            "volume": disk(from, true), "subtract": { "value": by } } })
    };
    for (call, status) in [
        (grow(10.0, 8.0), 200),
        (grow(18.0, 3.0), 409),
        (shrink(18.0, 6.0), 200),
        (shrink(12.0, 12.0), 400),
    ] {
        let a = operate(&m, &call).await;
        assert_eq!(a.status, status, "{call}: {}", a.text());
    }
    let mut f = Framework::subscribed(m.mesos, &subscribe_as("db", "eng")).await;
    let offer = f.offer().await;
    let of_disk = offer["resources"].as_array().unwrap().iter();
    let sizes = of_disk.filter(|r| r["name"] == "disk" && r["reservations"].is_array());
    let mut sizes: Vec<(bool, f64)> = sizes
        .map(|r| {
            (
                r["disk"].is_object(),
                r["scalar"]["value"].as_f64().unwrap(),
            )
        })
        .collect();
    sizes.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(sizes, [(false, 8.0), (true, 12.0)], "{offer}");
    // What is in use stays, what is not is given back.
    let all = form("resources", disk(20.0, false));
    assert_eq!(at_path(&m, "POST", "/unreserve", &all).await, 409);
    let volume = form("volumes", disk(12.0, true));
    assert_eq!(at_path(&m, "POST", "/destroy-volumes", &volume).await, 202);
    assert_eq!(at_path(&m, "POST", "/unreserve", &all).await, 202);
    for (path, body) in [
        ("/reserve", "resources=[]"),
        ("/create-volumes", "slaveId=x"),
        ("/unreserve", "slaveId=x&resources=no"),
    ] {
        assert_eq!(at_path(&m, "POST", path, body).await, 400, "{path} {body}");
    }
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_set_shares_and_take_machines_down() {
    let m = master().await;
    let books = Books::default();
    m.agent(1, 4, &books).await;
    let slaves = m
        .until("/master/slaves", |s| s["slaves"][0].is_object())
        .await;
    let agent = json!({ "value": slaves["slaves"][0]["id"] });
    let hostname = slaves["slaves"][0]["hostname"].clone();

    let weights = json!([{ "role": "eng", "weight": 3.0 }]);
    let put = at_path(&m, "PUT", "/weights", &weights.to_string()).await;
    assert_eq!(put, 200);
    assert_eq!(m.get("/weights.json").await, weights);
    let quota = json!({ "type": "UPDATE_QUOTA", "update_quota": { "force": true, "quota_configs": [
        { "role": "eng/db", "limits": { "cpus": { "value": 2 } }, "guarantees": { "cpus": { "value": 1 } } }] } });
    assert_eq!(operate(&m, &quota).await.status, 200);
    let a = operate(&m, &json!({ "type": "GET_QUOTA" })).await.json();
    let config = &a["get_quota"]["status"]["configs"][0];
    let said = (&config["role"], &config["limits"]["cpus"]["value"]);
    assert_eq!(said, (&json!("eng/db"), &json!(2.0)), "{a}");
    assert_eq!(at_path(&m, "DELETE", "/quota/eng/db", "").await, 200);

    let machine = json!({ "hostname": hostname });
    let windows = json!({ "windows": [{ "machine_ids": [machine], "unavailability": { "start": { "nanoseconds": 1 } } }] });
    let set = at_path(&m, "POST", "/maintenance/schedule", &windows.to_string()).await;
    assert_eq!(set, 200);
    let kept = m.get("/maintenance/schedule").await;
    assert_eq!(kept["windows"][0]["machine_ids"][0]["hostname"], hostname);
    let these = json!([machine]).to_string();
    assert_eq!(at_path(&m, "POST", "/machine/down", &these).await, 200);
    let is_down = |s: &Value| s["down_machines"][0]["hostname"] == hostname;
    m.until("/maintenance/status", is_down).await;
    assert_eq!(at_path(&m, "POST", "/machine/up", &these).await, 200);
    let none_down = |s: &Value| s["down_machines"].as_array().is_none_or(Vec::is_empty);
    m.until("/maintenance/status", none_down).await;

    m.agent(2, 4, &books).await;
    let second = m.until("/slaves", |s| {
        let all = s["slaves"].as_array().into_iter().flatten();
        all.filter(|a| a["active"] == true)
            .any(|a| a["id"] != agent["value"])
    });
    let second = second.await;
    let all = second["slaves"].as_array().unwrap().iter();
    let other = all.map(|a| &a["id"]).find(|id| **id != agent["value"]);
    let other = json!({ "value": other.unwrap() });
    let active = async |want: bool| {
        m.until("/slaves", |s| {
            let mut all = s["slaves"].as_array().into_iter().flatten();
            all.any(|a| a["id"] == other["value"] && a["deactivated"] != want)
        })
        .await;
    };
    for (kind, field, want) in [
        ("DEACTIVATE_AGENT", "deactivate_agent", false),
        ("REACTIVATE_AGENT", "reactivate_agent", true),
        ("DRAIN_AGENT", "drain_agent", false),
    ] {
        let mut call = json!({ "type": kind });
        call[field] = json!({ "agent_id": other });
        if kind == "DRAIN_AGENT" {
            call[field]["max_grace_period"] = json!({ "seconds": 5 });
        }
        let a = operate(&m, &call).await;
        assert_eq!(a.status, 200, "{kind}: {}", a.text());
        active(want).await;
    }
    let a = operate(&m, &json!({ "type": "GET_AGENTS" })).await.json();
    let all = a["get_agents"]["agents"].as_array().unwrap().iter();
    let mut drained = all.filter(|a| a["agent_info"]["id"] == other);
    assert_eq!(
        drained.next().unwrap()["drain_info"]["state"],
        "DRAINED",
        "{a}"
    );
    m.stop().await;
}
