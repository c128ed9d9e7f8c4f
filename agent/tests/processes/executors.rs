//! Executors of frameworks' own: this binary is one, by Mesos's executor API over a raw connection.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::ExitCode,
};

use serde_json::{Value, json};
use waggle_api::proto::session::{
    self as pb, StatusReason, StatusSource, TaskState, master_message::Kind as ToAgent,
};

use crate::{
    agent::{Agent, block_on, ended, launch, pid_of, spec, until},
    master::Master,
    support::{CgroupRoot, runs, signal},
};

/// What the executor is asked to do, by what its framework says.
const EXIT: &[u8] = b"exit";

/// An executor: runs tasks by saying so, repeats what its framework says, ends when it is told to.
pub fn run() -> ExitCode {
    let var = |name: &str| std::env::var(name).unwrap();
    let me = Executor {
        agent: var("MESOS_AGENT_ENDPOINT"),
        framework: var("MESOS_FRAMEWORK_ID"),
        id: var("MESOS_EXECUTOR_ID"),
    };
    println!("grace {}", var("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD"));
    println!("checkpoint {}", var("MESOS_CHECKPOINT"));
    println!("recovery {}", var("MESOS_RECOVERY_TIMEOUT"));
    println!("task {:?}", std::env::var("MESOS_TASK_ID").ok());
    let mut known = BTreeSet::new();
    // An agent that restarts is found again; the test ends this process otherwise.
    loop {
        if let Some(events) = me.subscribe(&known)
            && let Some(code) = me.follow(events, &mut known)
        {
            return code.into();
        }
        let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(20u8));
    }
}

struct Executor {
    agent: String,
    framework: String,
    id: String,
}

impl Executor {
    fn call(&self, kind: &str, key: &str, body: &Value) -> Value {
        json!({
            "type": kind,
            "framework_id": {"value": self.framework},
            "executor_id": {"value": self.id},
            key: body,
        })
    }

    fn post(&self, call: &Value) -> Option<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(&self.agent).ok()?;
        let body = call.to_string();
        write!(
            stream,
            "POST /api/v1/executor HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
             accept: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        Some(BufReader::new(stream))
    }

    /// The events' stream, past its head.
    fn subscribe(&self, known: &BTreeSet<String>) -> Option<BufReader<TcpStream>> {
        let tasks: Vec<Value> = known
            .iter()
            .map(|t| json!({"name": t, "task_id": {"value": t}, "agent_id": {"value": "a"}}))
            .collect();
        let call = self.call(
            "SUBSCRIBE",
            "subscribe",
            &json!({"unacknowledged_tasks": tasks, "unacknowledged_updates": []}),
        );
        let mut stream = self.post(&call)?;
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).ok()? > 2 {
            head.push_str(&line.to_ascii_lowercase());
            line.clear();
        }
        let fine = head.starts_with("http/1.1 200") && head.contains("transfer-encoding: chunked");
        fine.then_some(stream)
    }

    /// Does as it is told until the stream ends; answers how to end.
    fn follow(&self, events: BufReader<TcpStream>, known: &mut BTreeSet<String>) -> Option<u8> {
        let mut chunks = Chunks {
            stream: events,
            rest: Vec::new(),
        };
        while let Some(event) = chunks.record() {
            let event: Value = serde_json::from_slice(&event).unwrap();
            println!("{}", event["type"].as_str().unwrap());
            match event["type"].as_str().unwrap() {
                "LAUNCH" => {
                    let task = event["launch"]["task"]["task_id"]["value"]
                        .as_str()
                        .unwrap();
                    known.insert(task.to_owned());
                    self.update(task, "TASK_STARTING");
                    self.update(task, "TASK_RUNNING");
                }
                "KILL" => self.update(
                    event["kill"]["task_id"]["value"].as_str().unwrap(),
                    "TASK_KILLED",
                ),
                "ACKNOWLEDGED" => {
                    let task = event["acknowledged"]["task_id"]["value"].as_str();
                    known.remove(task.unwrap());
                }
                "MESSAGE" => {
                    use base64::{Engine as _, engine::general_purpose::STANDARD};
                    let data = event["message"]["data"].as_str().unwrap();
                    if STANDARD.decode(data).unwrap() == EXIT {
                        return Some(3);
                    }
                    self.say(&self.call("MESSAGE", "message", &json!({"data": data})));
                }
                "SHUTDOWN" => return Some(0),
                _ => {}
            }
        }
        None
    }

    fn update(&self, task: &str, state: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let uuid = STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
        let status = json!({
            "task_id": {"value": task}, "state": state, "source": "SOURCE_EXECUTOR", "uuid": uuid,
            "timestamp": 1_700_000_000, "data": "/wA=", "message": "by the executor",
        });
        self.say(&self.call("UPDATE", "update", &json!({"status": status})));
    }

    /// A call whose connection is kept until it is answered: one that is closed before is not carried out.
    fn say(&self, call: &Value) {
        let mut answer = String::new();
        if let Some(mut stream) = self.post(call) {
            let _ = stream.read_to_string(&mut answer);
        }
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
}

/// A chunked body of RecordIO.
struct Chunks {
    stream: BufReader<TcpStream>,
    rest: Vec<u8>,
}

impl Chunks {
    fn more(&mut self) -> Option<()> {
        let mut size = String::new();
        self.stream.read_line(&mut size).ok()?;
        let n = usize::from_str_radix(size.trim(), 16)
            .ok()
            .filter(|n| *n > 0)?;
        let mut chunk = vec![0; n + 2];
        self.stream.read_exact(&mut chunk).ok()?;
        self.rest.extend_from_slice(&chunk[..n]);
        Some(())
    }

    fn record(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let length: usize = std::str::from_utf8(&self.rest[..end])
                    .unwrap()
                    .parse()
                    .unwrap();
                if self.rest.len() > end + length {
                    let record = self.rest[end + 1..=end + length].to_vec();
                    self.rest.drain(..=end + length);
                    return Some(record);
                }
            }
            self.more()?;
        }
    }
}

pub fn on(task: &str, executor: &str, starts: bool, command: &str) -> pb::TaskSpec {
    pb::TaskSpec {
        command: None,
        executor: Some(pb::OnExecutor {
            spec: Some(pb::Executor {
                executor_id: executor.to_owned(),
                command: Some(pb::executor::Command::Shell(command.to_owned())),
                resources: Some(pb::Resources {
                    cpus_milli: 50,
                    mem_milli: 32_000,
                    ..Default::default()
                }),
                shutdown_grace_ms: 5000,
                checkpoint: true,
                ..Default::default()
            }),
            starts,
            ..Default::default()
        }),
        ..spec(task, "")
    }
}

/// This binary as the executor.
pub fn itself() -> String {
    format!(
        "exec {} executor",
        std::env::current_exe().unwrap().display()
    )
}

pub async fn running(master: &Master, task: &str) -> pb::TaskStatus {
    until("the task runs", || {
        let all = master.statuses(task);
        all.into_iter()
            .find(|s| s.state() == TaskState::TaskRunning)
    })
    .await
}

pub fn message(data: &[u8]) -> ToAgent {
    ToAgent::ExecutorMessage(pb::ExecutorMessage {
        framework_id: "f1".into(),
        executor_id: "e1".into(),
        data: data.to_vec(),
    })
}

/// Directories of tasks that are no task of these.
fn container(dir: &Path, tasks: &[&str]) -> String {
    let all = std::fs::read_dir(dir.join("tasks")).unwrap();
    let mut all = all.map(|e| e.unwrap().file_name().into_string().unwrap());
    all.find(|name| !tasks.contains(&name.as_str())).unwrap()
}

pub fn run_several_tasks_survive_the_agent_and_end_as_told() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        master.send(launch(on("t1", "e1", true, &itself()))).await;
        master.send(launch(on("t2", "e1", false, &itself()))).await;
        let first = running(&master, "t1").await;
        running(&master, "t2").await;
        assert_eq!(first.source(), StatusSource::SourceExecutor);
        assert_eq!(first.message, "by the executor");
        let said = first.executor.unwrap();
        assert_eq!(said.executor_id, "e1");
        assert!(!said.info.is_empty(), "its own words are kept");
        let states: Vec<_> = master
            .statuses("t1")
            .iter()
            .map(pb::TaskStatus::state)
            .collect();
        assert_eq!(
            states,
            [TaskState::TaskStarting, TaskState::TaskRunning],
            "in order"
        );

        // One process, with the environment that Mesos promises.
        let name = container(dir.path(), &["t1", "t2"]);
        let pid = pid_of(dir.path(), &name, "task.json").unwrap();
        let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(
            i32::try_from(pid).unwrap(),
        )));
        assert_eq!(
            group.unwrap().as_raw(),
            i32::try_from(pid).unwrap(),
            "a group of its own"
        );
        let log = dir
            .path()
            .join("tasks")
            .join("t1")
            .join("sandbox")
            .join("stdout");
        let log = until("its output, in its tasks' sandbox", || {
            let text = std::fs::read_to_string(&log).ok()?;
            text.contains("LAUNCH").then_some(text)
        })
        .await;
        for line in [
            "grace 5secs",
            "checkpoint 1",
            "recovery 15mins",
            "task None",
            "SUBSCRIBED",
        ] {
            assert!(log.contains(line), "{line} in {log}");
        }

        // Both ways, unchanged.
        let bytes = [0, 255, 10, 13, 128];
        master.send(message(&bytes)).await;
        let back = until("the answer", || master.messages().pop()).await;
        assert_eq!(
            (back.data.as_slice(), back.executor_id.as_str()),
            (&bytes[..], "e1")
        );

        // The agent goes and comes back on another port: this executor would not find it, one with a fixed port does.
        let at = agent.http;
        agent.vanish().await;
        assert!(runs(pid));
        let agent = Agent::start_at(at, dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration with the executor", || {
            let r = (master.n_registrations() == 2).then(|| master.last_registration())?;
            Some((r.executors.len(), r.tasks.len())).filter(|n| *n == (1, 2))
        })
        .await;
        master.send(launch(on("t3", "e1", false, &itself()))).await;
        running(&master, "t3").await;
        assert_eq!(master.last("t1").unwrap().state(), TaskState::TaskRunning);

        // A kill is the executor's to carry out.
        let kill = pb::Kill {
            task_id: "t2".into(),
            ..pb::Kill::default()
        };
        master.send(ToAgent::Kill(kill)).await;
        let end = ended(&master, "t2").await;
        assert_eq!(
            (end.state(), end.source()),
            (TaskState::TaskKilled, StatusSource::SourceExecutor)
        );
        assert!(runs(pid));

        // Its end is its tasks' end.
        master.send(message(EXIT)).await;
        for task in ["t1", "t3"] {
            let end = ended(&master, task).await;
            assert_eq!(end.state(), TaskState::TaskFailed);
            assert_eq!(end.reason(), StatusReason::ReasonExecutorTerminated);
        }
        let gone = until("the word of its end", || master.executors_ended().pop()).await;
        assert_eq!((gone.status, gone.executor_id.as_str()), (3 << 8, "e1"));
        // One that comes too late is dropped, one that starts it anew runs.
        master.send(launch(on("t4", "e1", false, &itself()))).await;
        let late = until("an answer", || master.last("t4")).await;
        assert_eq!(late.state(), TaskState::TaskDropped);
        master.send(launch(on("t5", "e1", true, &itself()))).await;
        running(&master, "t5").await;

        // A shutdown.
        let shutdown = pb::ShutdownExecutor {
            framework_id: "f1".into(),
            executor_id: "e1".into(),
        };
        master.send(ToAgent::ShutdownExecutor(shutdown)).await;
        assert_eq!(ended(&master, "t5").await.state(), TaskState::TaskFailed);
        let gone = until("its end", || {
            let all = master.executors_ended();
            (all.len() == 2).then(|| all[1].clone())
        })
        .await;
        assert_eq!(gone.status, 0);
        if let Some(cgroups) = &cgroups {
            until("its cgroups are gone", || {
                cgroups.tasks().is_empty().then_some(())
            })
            .await;
        }
        agent.vanish().await;
    });
}

pub fn whose_process_is_killed_and_calls_that_are_wrong() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        // One that never subscribes, and takes its whole group along when it ends.
        let silent = "trap '' TERM; sleep 1000 & wait; kill -9 0";
        master.send(launch(on("t1", "e1", true, silent))).await;
        let name = until("its directory", || {
            let all = std::fs::read_dir(dir.path().join("tasks")).ok()?;
            let mut all = all.map(|e| e.unwrap().file_name().into_string().unwrap());
            all.find(|n| n != "t1")
        })
        .await;
        let pid = until("its process", || pid_of(dir.path(), &name, "task.json")).await;
        let ask = async |path: &str, body: Value| {
            let (code, text) = agent.send_json(path, &body.to_string()).await;
            (code, text)
        };
        let call = |kind: &str, framework: &str, executor: &str, key: &str, body: Value| {
            json!({
                "type": kind, "framework_id": {"value": framework}, "executor_id": {"value": executor}, key: body,
            })
        };
        let path = "/api/v1/executor";
        let message = |f: &str, e: &str| call("MESSAGE", f, e, "message", json!({"data": ""}));
        for (body, code, why) in [
            (message("f2", "e1"), 400, "Framework cannot be found"),
            (message("f1", "e2"), 400, "Executor cannot be found"),
            (message("f1", "e1"), 403, "Executor is not subscribed"),
            (
                call("UPDATE", "f1", "e1", "update", json!({})),
                400,
                "'status'",
            ),
            (json!({"type": "SUBSCRIBE"}), 400, "'executor_id'"),
            (call("HEARTBEAT", "f1", "e1", "message", json!({})), 202, ""),
        ] {
            let (got, text) = ask(path, body.clone()).await;
            assert_eq!(got, code, "{body} {text}");
            assert!(text.contains(why), "{text}");
        }
        let (code, _) = ask("/slave(1)/api/v1/executor", message("f1", "e1")).await;
        assert_eq!(code, 403);
        let (code, _) = agent.get(path).await;
        assert_eq!(code, 405);

        signal(pid, nix::sys::signal::Signal::SIGKILL);
        let end = ended(&master, "t1").await;
        assert_eq!(end.state(), TaskState::TaskFailed);
        let gone = until("the word of its end", || master.executors_ended().pop()).await;
        assert_eq!(gone.status, 9);
        agent.vanish().await;
    });
}
