//! Mesos's API for operators and monitors, from a real agent.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;
use serde_json::{Value, json};
use waggle_api::proto::{
    mesos::{self, agent_call, agent_response},
    session::{self as pb, TaskState},
};
use waggle_types::Milli;

use crate::{
    agent::{Agent, block_on, ended, launch, pid_of, spec, until},
    executors::{itself, message, on, running},
    master::Master,
    support::{CgroupRoot, PATIENCE},
};

const JSON: &str = "content-type: application/json\r\n";

async fn registered(master: &Master) {
    until("registration", || {
        (master.n_registrations() == 1).then_some(())
    })
    .await;
}

async fn get(agent: &Agent, path: &str) -> Value {
    let (code, body) = agent.get(path).await;
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until the answer is as wanted: readings are given again for a while.
async fn get_until(agent: &Agent, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let value = get(agent, path).await;
            if good(&value) {
                return value;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("timed out: {path}"))
}

async fn call(agent: &Agent, call: &Value) -> Value {
    let (code, body) = agent.send_json("/api/v1", &call.to_string()).await;
    assert_eq!(code, 200, "{call}: {body}");
    serde_json::from_str(&body).unwrap()
}

async fn ask(agent: &Agent, kind: &str) -> Value {
    let mut said = call(agent, &json!({ "type": kind })).await;
    assert_eq!(said["type"], kind);
    said[kind.to_ascii_lowercase()].take()
}

/// The same in protobuf.
async fn ask_protobuf(agent: &Agent, call: &mesos::AgentCall) -> mesos::AgentResponse {
    let kind = "application/x-protobuf";
    let headers = format!("content-type: {kind}\r\naccept: {kind}\r\n");
    let path = "/slave(1)/api/v1/operator";
    let (code, body) = agent.post(path, &headers, &call.encode_to_vec()).await;
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
    mesos::AgentResponse::decode(body.as_slice()).unwrap()
}

fn plain(kind: agent_call::Type) -> mesos::AgentCall {
    mesos::AgentCall {
        r#type: Some(kind.into()),
        ..mesos::AgentCall::default()
    }
}

pub fn sees_what_runs_and_what_it_uses() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start_with(dir.path(), vec![master.addr], cgroups.as_ref(), |c| {
            c.resources.cpus = Some(Milli(4000));
            c.resources.mem = Some(Milli::units(1024));
            c.storage.disk_watch = Duration::from_millis(100);
            c.attributes.insert("rack".to_owned(), "a1".to_owned());
        })
        .await;
        registered(&master).await;
        let mut web = spec(
            "web.1",
            "head -c 300000 /dev/zero > file; while :; do :; done",
        );
        web.labels.insert("team".to_owned(), "blue".to_owned());
        if let Some(r) = &mut web.resources {
            r.disk_milli = 8000;
        }
        master.send(launch(web)).await;
        master.send(launch(spec("fails.1", "exit 3"))).await;
        assert_eq!(
            ended(&master, "fails.1").await.state(),
            TaskState::TaskFailed
        );
        running(&master, "web.1").await;
        let pid = pid_of(dir.path(), "web.1", "task.json").unwrap();

        // What it uses. Without cgroups only what it may use is known.
        let measured = cgroups.is_some();
        let told = get_until(&agent, "/monitor/statistics", |all| {
            let s = &all[0]["statistics"];
            let time = s["cpus_user_time_secs"].as_f64().unwrap_or_default();
            s["disk_used_bytes"].as_u64() >= Some(300_000) && (!measured || time > 0.0)
        })
        .await;
        assert_eq!(
            told.as_array().unwrap().len(),
            1,
            "ended ones are not there"
        );
        let mut one = told[0].clone();
        let s = one["statistics"].take();
        assert_eq!(
            one,
            json!({
                "framework_id": "f1",
                "executor_id": "web.1",
                "executor_name": "Command Executor (Task: web.1) (Command: sh -c 'head -c 3000...')",
                "source": "web.1",
                "statistics": null,
            })
        );
        assert_eq!(
            [&s["cpus_limit"], &s["cpus_soft_limit"]],
            [&json!(0.1), &json!(0.1)]
        );
        assert_eq!(s["mem_limit_bytes"], 64 << 20);
        assert_eq!(s["disk_limit_bytes"], 8 << 20);
        assert!(s["timestamp"].as_f64().unwrap() > 1.7e9, "{s}");
        if measured {
            assert!(s["mem_rss_bytes"].as_u64().unwrap() > 0, "{s}");
            assert!(s["cpus_system_time_secs"].is_f64(), "{s}");
            assert!(s["threads"].as_u64().is_none_or(|n| n >= 1), "{s}");
        }
        for path in [
            "/monitor/statistics.json",
            "/slave(1)/monitor/statistics",
            "/slave(1)/monitor/statistics.json",
        ] {
            assert_eq!(get(&agent, path).await[0]["executor_id"], "web.1");
        }
        let containers = get(&agent, "/slave(1)/containers").await;
        assert_eq!(containers[0]["container_id"], "web.1");
        assert_eq!(
            containers[0]["status"],
            json!({
                "network_infos": [{"ip_addresses": [{"protocol": "IPv4", "ip_address": "127.0.0.1"}]}],
                "executor_pid": pid,
                "container_id": {"value": "web.1"},
            })
        );

        // The agent itself.
        let metrics = get(&agent, "/metrics/snapshot").await;
        for (name, want) in [
            ("registered", 1.0),
            ("tasks_running", 1.0),
            ("tasks_failed", 1.0),
            ("tasks_finished", 0.0),
            ("executors_running", 1.0),
            ("frameworks_active", 1.0),
            ("cpus_total", 4.0),
            ("cpus_used", 0.1),
            ("cpus_percent", 0.025),
            ("mem_used", 64.0),
        ] {
            assert_eq!(metrics[format!("slave/{name}")], want, "{name}");
        }
        assert!(metrics["system/mem_total_bytes"].as_f64() > Some(1e6));
        let flags = &get(&agent, "/flags").await["flags"];
        let port = agent.http.port().to_string();
        for (name, want) in [
            ("hostname", "n1"),
            ("ip", "127.0.0.1"),
            ("port", port.as_str()),
            ("attributes", "rack:a1"),
            ("work_dir", dir.path().to_str().unwrap()),
            ("gc_delay", "1weeks"),
            ("cgroups_enable_cfs", "false"),
        ] {
            assert_eq!(flags[name], want, "{name}");
        }
        // One that ended is there until its end is acknowledged.
        let state = get_until(&agent, "/slave(1)/state.json", |state| {
            state["frameworks"][0]["executors"].as_array().map(Vec::len) == Some(1)
        })
        .await;
        let executor = &state["frameworks"][0]["executors"][0];
        assert_eq!(executor["container"], "web.1");
        let task = &executor["tasks"][0];
        assert_eq!(task["statuses"][0]["state"], "TASK_RUNNING");
        assert_eq!(task["labels"], json!([{"key": "team", "value": "blue"}]));
        assert_eq!(task["resources"]["cpus"], 0.1);
        assert_eq!(state["used_resources"]["mem"], 64);
        assert_eq!(state["flags"]["hostname"], "n1");

        // The same by calls.
        assert_eq!(ask(&agent, "GET_HEALTH").await, json!({"healthy": true}));
        let version = ask(&agent, "GET_VERSION").await;
        assert_eq!(version["version_info"]["version"], "1.11.0");
        assert_eq!(ask(&agent, "GET_LOGGING_LEVEL").await, json!({"level": 0}));
        let set = |level: u32, minutes: u64| {
            let duration = json!({"nanoseconds": minutes * 60_000_000_000});
            let said = json!({"level": level, "duration": duration});
            json!({"type": "SET_LOGGING_LEVEL", "set_logging_level": said}).to_string()
        };
        assert_eq!(
            agent.send_json("/api/v1", &set(1, 5)).await,
            (200, String::new())
        );
        assert_eq!(ask(&agent, "GET_LOGGING_LEVEL").await, json!({"level": 1}));
        for wrong in [set(4, 5), set(1, 0), set(1, 60 * 24 * 31)] {
            assert_eq!(agent.send_json("/api/v1", &wrong).await.0, 400, "{wrong}");
        }
        for (query, status, level) in [
            ("?level=0&duration=5mins", 200, 0),
            ("?level=2", 400, 0),
            ("?level=2&duration=5", 400, 0),
            ("?level=2&duration=5mins", 200, 2),
            ("?level=0&duration=1secs", 200, 0),
        ] {
            let path = format!("/slave(1)/logging/toggle{query}");
            assert_eq!(agent.get(&path).await.0, status, "{query}");
            let now = ask(&agent, "GET_LOGGING_LEVEL").await;
            assert_eq!(now, json!({"level": level}), "{query}");
        }
        assert_eq!(ask(&agent, "GET_OPERATIONS").await, json!({}));
        assert_eq!(ask(&agent, "GET_RESOURCE_PROVIDERS").await, json!({}));
        let has = |list: &Value, name: &str, value: &Value| {
            let mut all = list.as_array().unwrap().iter();
            all.any(|one| one["name"] == name && one["value"] == *value)
        };
        let flags = ask(&agent, "GET_FLAGS").await;
        assert!(has(&flags["flags"], "hostname", &json!("n1")), "{flags}");
        let metrics = ask(&agent, "GET_METRICS").await;
        let running = json!(1.0);
        assert!(has(&metrics["metrics"], "slave/tasks_running", &running));
        let info = &ask(&agent, "GET_AGENT").await["agent_info"];
        assert_eq!(
            (&info["hostname"], &info["port"]),
            (&json!("n1"), &json!(agent.http.port()))
        );
        let tasks = ask(&agent, "GET_TASKS").await;
        let task = &tasks["launched_tasks"][0];
        assert_eq!(task["task_id"]["value"], "web.1");
        assert_eq!(task["state"], "TASK_RUNNING");
        assert_eq!(task["agent_id"], info["id"]);
        assert!(
            task.get("executor_id").is_none(),
            "its executor is not its framework's"
        );
        let whole = ask(&agent, "GET_STATE").await;
        assert_eq!(whole["get_tasks"], tasks);
        let framework = &whole["get_frameworks"]["frameworks"][0]["framework_info"];
        assert_eq!(
            (&framework["id"]["value"], &framework["name"]),
            (&json!("f1"), &json!("marathon"))
        );
        let executor = &whole["get_executors"]["executors"][0]["executor_info"];
        assert_eq!(executor["executor_id"]["value"], "web.1");

        // And in protobuf.
        let said = ask_protobuf(&agent, &plain(agent_call::Type::GetContainers)).await;
        assert_eq!(said.r#type(), agent_response::Type::GetContainers);
        let containers = said.get_containers.unwrap().containers;
        let container = &containers[0];
        assert_eq!(container.executor_id.as_ref().unwrap().value, "web.1");
        let status = container.container_status.as_ref().unwrap();
        assert_eq!(status.executor_pid, Some(pid));
        let s = container.resource_statistics.as_ref().unwrap();
        assert_eq!(s.cpus_limit, Some(0.1));
        assert_eq!(s.cpus_user_time_secs.is_some(), measured);
        let said = ask_protobuf(&agent, &plain(agent_call::Type::GetTasks)).await;
        let task = &said.get_tasks.unwrap().launched_tasks[0];
        assert_eq!(task.state(), mesos::TaskState::TaskRunning);

        let kill = pb::master_message::Kind::Kill(pb::Kill {
            task_id: "web.1".to_owned(),
            max_grace_ms: Some(0),
            ..pb::Kill::default()
        });
        master.send(kill).await;
        assert_eq!(ended(&master, "web.1").await.state(), TaskState::TaskKilled);
        get_until(&agent, "/containers", |all| *all == json!([])).await;
        let metrics = get(&agent, "/metrics/snapshot").await;
        assert_eq!(metrics["slave/tasks_killed"], 1.0);
        assert_eq!(metrics["slave/cpus_used"], 0.0);

        // What it wrote is kept, and found by what is told of it: so does `dcos task log --completed`.
        let kept = |state: &Value| {
            let frameworks = state["completed_frameworks"]
                .as_array()
                .into_iter()
                .flatten();
            let all =
                frameworks.flat_map(|f| f["completed_executors"].as_array().into_iter().flatten());
            let mut all = all.filter(|e| e["id"] == "web.1");
            all.next().cloned()
        };
        get_until(&agent, "/slave(1)/state", |s| kept(s).is_some()).await;
        let executor = kept(&get(&agent, "/slave(1)/state").await).unwrap();
        let task = &executor["completed_tasks"][0];
        assert_eq!(
            (&task["id"], &task["state"]),
            (&json!("web.1"), &json!("TASK_KILLED"))
        );
        assert_eq!(executor["tasks"], json!([]));
        let stdout = format!("{}/stdout", executor["directory"].as_str().unwrap());
        let read = get(&agent, &format!("/files/read?path={stdout}&offset=0")).await;
        assert_eq!(read["offset"], 0, "{read}");
    });
}

pub fn sees_executors_with_their_tasks() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        registered(&master).await;
        master.send(launch(on("t1", "e1", true, &itself()))).await;
        master.send(launch(on("t2", "e1", false, &itself()))).await;
        running(&master, "t1").await;
        running(&master, "t2").await;
        // One container with both.
        let near = |value: &Value, want: f64| (value.as_f64().unwrap() - want).abs() < 1e-9;
        let told = get_until(&agent, "/containers", |all| {
            near(&all[0]["statistics"]["cpus_limit"], 0.25)
        })
        .await;
        assert_eq!(told.as_array().unwrap().len(), 1);
        let one = &told[0];
        assert_eq!(
            (&one["executor_id"], &one["source"]),
            (&json!("e1"), &json!("e1"))
        );
        assert_eq!(one["statistics"]["mem_limit_bytes"], 160 << 20);
        let name = one["container_id"].as_str().unwrap();
        let pid = pid_of(dir.path(), name, "task.json").unwrap();
        assert_eq!(one["status"]["executor_pid"], pid);
        let tasks = ask(&agent, "GET_TASKS").await;
        let launched = tasks["launched_tasks"].as_array().unwrap();
        assert_eq!(launched.len(), 2);
        for (task, id) in launched.iter().zip(["t1", "t2"]) {
            assert_eq!(task["task_id"]["value"], id);
            assert_eq!(task["executor_id"]["value"], "e1");
            // What its executor wrote.
            assert_eq!(task["statuses"][0]["data"], "/wA=");
        }
        let executors = ask(&agent, "GET_EXECUTORS").await;
        let infos = executors["executors"].as_array().unwrap();
        assert_eq!(infos.len(), 1);
        let info = &infos[0]["executor_info"];
        assert_eq!(info["executor_id"]["value"], "e1");
        assert_eq!(info["framework_id"]["value"], "f1");
        let frameworks = ask(&agent, "GET_FRAMEWORKS").await;
        assert_eq!(frameworks["frameworks"].as_array().unwrap().len(), 1);
        let metrics = get(&agent, "/metrics/snapshot").await;
        assert_eq!(metrics["slave/executors_running"], 1.0);
        assert!(near(&metrics["slave/cpus_used"], 0.25), "{metrics}");
        let state = get(&agent, "/state").await;
        let executor = &state["frameworks"][0]["executors"][0];
        assert_eq!(executor["tasks"].as_array().unwrap().len(), 2);

        master.send(message(b"exit")).await;
        ended(&master, "t1").await;
        ended(&master, "t2").await;
        get_until(&agent, "/containers", |all| *all == json!([])).await;
        let metrics = get(&agent, "/metrics/snapshot").await;
        assert_eq!(metrics["slave/tasks_failed"], 2.0);
    });
}

pub fn reads_files_and_hears_what_is_wrong() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        registered(&master).await;
        let shell = r"printf '\000\377some bytes' > data; mkdir sub";
        master.send(launch(spec("writes.1", shell))).await;
        ended(&master, "writes.1").await;
        let sandbox = dir.path().join("tasks/writes.1/sandbox");
        let within = |name: &str| sandbox.join(name).display().to_string();
        let list = |path: &Path| json!({"type": "LIST_FILES", "list_files": {"path": path}});
        let said = call(&agent, &list(&sandbox)).await;
        let files = said["list_files"]["file_infos"].as_array().unwrap();
        let named = |name: &str| files.iter().find(|f| f["path"] == within(name)).unwrap();
        assert_eq!(named("data")["size"], 12);
        assert!(named("data")["mtime"]["nanoseconds"].as_i64() > Some(0));
        let mode = |name: &str| named(name)["mode"].as_u64().unwrap() & 0o170_000;
        assert_eq!((mode("data"), mode("sub")), (0o100_000, 0o040_000));
        let debug = get(&agent, "/files/debug").await;
        let directory = sandbox.display().to_string();
        assert_eq!(debug[&directory], directory, "also of one that has ended");
        let part = |offset: u64, length: Option<u64>| {
            let mut read = json!({"path": within("data"), "offset": offset});
            if let Some(length) = length {
                read["length"] = length.into();
            }
            json!({"type": "READ_FILE", "read_file": read})
        };
        for (offset, length, want) in [
            (0, None, &b"\x00\xffsome bytes"[..]),
            (2, Some(4), b"some"),
            (12, None, b""),
            (99, Some(1), b""),
        ] {
            let said = call(&agent, &part(offset, length)).await;
            let read = &said["read_file"];
            assert_eq!(read["size"], 12);
            assert_eq!(
                STANDARD.decode(read["data"].as_str().unwrap()).unwrap(),
                want
            );
        }
        let said = mesos::AgentCall {
            read_file: Some(mesos::ReadFile {
                path: Some(within("data")),
                offset: Some(0),
                length: None,
            }),
            ..plain(agent_call::Type::ReadFile)
        };
        let said = ask_protobuf(&agent, &said).await.read_file.unwrap();
        assert_eq!(said.data.unwrap(), b"\x00\xffsome bytes", "as they are");

        for (body, code, why) in [
            ("{}", 400, "Expecting 'type' to be present"),
            (
                r#"{"type":"NO_SUCH"}"#,
                400,
                "Expecting 'type' to be present",
            ),
            ("[", 400, "Failed to parse body into Call"),
            (r#"{"type":"LIST_FILES"}"#, 400, "'list_files'"),
            (
                r#"{"type":"READ_FILE","read_file":{"path":"x"}}"#,
                400,
                "'read_file.offset'",
            ),
            (
                r#"{"type":"LIST_FILES","list_files":{"path":"/etc"}}"#,
                404,
                "path",
            ),
            (
                r#"{"type":"READ_FILE","read_file":{"path":"/etc/passwd","offset":0}}"#,
                404,
                "path",
            ),
            (r#"{"type":"PRUNE_IMAGES"}"#, 501, "PRUNE_IMAGES"),
        ] {
            let (said, text) = agent.send_json("/api/v1", body).await;
            assert_eq!(said, code, "{body}: {text}");
            assert!(text.contains(why), "{body}: {text}");
        }
        let health = br#"{"type":"GET_HEALTH"}"#;
        for (headers, body, code) in [
            ("", &health[..], 400),
            ("content-type: text/plain\r\n", health, 415),
            ("content-type: application/x-protobuf\r\n", b"\xff\xff", 400),
            (
                "content-type: application/json\r\naccept: text/html\r\n",
                health,
                406,
            ),
        ] {
            let (said, text) = agent.post("/api/v1", headers, body).await;
            let text = String::from_utf8_lossy(&text);
            assert_eq!(said, code, "{headers}: {text}");
        }
        let (code, text) = agent.get("/api/v1").await;
        assert_eq!(
            (code, text.as_str()),
            (405, "Expecting 'POST', received 'GET'")
        );
        let large = vec![b' '; 100_000];
        assert_eq!(agent.post("/api/v1", JSON, &large).await.0, 400);
    });
}
