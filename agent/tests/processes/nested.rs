//! Containers that are launched through Mesos's operator API of an agent.

use std::{fs, io::Write as _, net::SocketAddr, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::sys::signal::Signal;
use prost::Message;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use waggle_api::{mesos::recordio, proto::mesos as pb};

use crate::{
    agent::{Agent, block_on, pid_of, until},
    containers::{AS_APP, Node, contained},
    exec::{SLEEP, Tidy, with_task},
    support::{CgroupRoot, PATIENCE, runs, signal},
};

const JSON: &str = "content-type: application/json\r\n";
const RECORDS: &str = "content-type: application/json\r\naccept: application/recordio\r\nmessage-accept: application/json\r\n";
const INPUT: &str =
    "content-type: application/recordio\r\nmessage-content-type: application/json\r\n";

fn id(root: &str, below: &[&str]) -> Value {
    below.iter().fold(
        json!({ "value": root }),
        |parent, name| json!({"value": name, "parent": parent}),
    )
}

fn shell(text: &str) -> Value {
    json!({ "value": text })
}

/// A call whose body is called as its type is.
fn call(kind: &str, body: &Value) -> Value {
    json!({"type": kind, kind.to_ascii_lowercase(): body})
}

async fn ask(agent: &Agent, call: &Value) -> (u16, String) {
    let body = call.to_string();
    let (code, body) = agent.post("/api/v1", JSON, body.as_bytes()).await;
    (code, String::from_utf8(body).unwrap())
}

async fn wait(agent: &Agent, id: &Value) -> Value {
    let (code, body) = ask(
        agent,
        &call("WAIT_NESTED_CONTAINER", &json!({"container_id": id})),
    )
    .await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["wait_nested_container"].take()
}

/// A connection whose answer, or request, is a stream.
struct Stream {
    tcp: TcpStream,
    // What came and is no whole chunk yet.
    raw: Vec<u8>,
    records: recordio::Reader,
    over: bool,
}

impl Stream {
    /// Sends a request with this body; then its status.
    async fn open(addr: SocketAddr, headers: &str, call: &Value) -> (u16, Self) {
        Self::send_bytes(addr, headers, call.to_string().as_bytes()).await
    }

    async fn send_bytes(addr: SocketAddr, headers: &str, body: &[u8]) -> (u16, Self) {
        let more = format!("{headers}content-length: {}\r\n", body.len());
        let mut stream = Self::begin(addr, &more).await;
        stream.tcp.write_all(body).await.unwrap();
        let status = stream.status().await;
        (status, stream)
    }

    /// A request whose body is sent in parts.
    async fn begin(addr: SocketAddr, headers: &str) -> Self {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        let head = format!("POST /api/v1 HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        Self {
            tcp,
            raw: Vec::new(),
            records: recordio::Reader::default(),
            over: false,
        }
    }

    /// The way into a container.
    async fn input(addr: SocketAddr, id: &Value) -> Self {
        let mut stream = Self::begin(addr, &format!("{INPUT}transfer-encoding: chunked\r\n")).await;
        let first = json!({"type": "CONTAINER_ID", "container_id": id});
        stream.send(&first).await;
        stream
    }

    async fn send(&mut self, body: &Value) {
        let text = call("ATTACH_CONTAINER_INPUT", body).to_string();
        let record = recordio::frame(text.as_bytes());
        let chunk = [
            format!("{:x}\r\n", record.len()).as_bytes(),
            &record,
            b"\r\n",
        ]
        .concat();
        self.tcp.write_all(&chunk).await.unwrap();
    }

    async fn type_in(&mut self, bytes: &[u8]) {
        let data = json!({"type": "STDIN", "data": STANDARD.encode(bytes)});
        self.send(&json!({"type": "PROCESS_IO", "process_io": {"type": "DATA", "data": data}}))
            .await;
    }

    /// The end of the request; the answer's status.
    async fn done(mut self) -> u16 {
        self.tcp.write_all(b"0\r\n\r\n").await.unwrap();
        self.status().await
    }

    async fn more(&mut self) -> bool {
        let mut part = [0; 8192];
        let read = tokio::time::timeout(PATIENCE, self.tcp.read(&mut part)).await;
        let n = read.unwrap().unwrap_or(0);
        self.raw.extend(&part[..n]);
        n > 0
    }

    async fn status(&mut self) -> u16 {
        loop {
            if let Some(end) = self.raw.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.raw.drain(..end + 4).collect();
                let head = String::from_utf8(head).unwrap();
                return head.split(' ').nth(1).unwrap().parse().unwrap();
            }
            assert!(self.more().await, "the connection ended before its head");
        }
    }

    /// The next record of the answer; none at its end.
    async fn record(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(record) = self.records.next_record().unwrap() {
                return Some(record);
            }
            if self.over {
                return None;
            }
            let line = self.raw.windows(2).position(|w| w == b"\r\n");
            let chunk = line.map(|at| {
                let size = std::str::from_utf8(&self.raw[..at]).unwrap();
                (at + 2, usize::from_str_radix(size, 16).unwrap())
            });
            match chunk {
                Some((begin, size)) if self.raw.len() >= begin + size + 2 => {
                    self.records.push(&self.raw[begin..begin + size]);
                    self.raw.drain(..begin + size + 2);
                    self.over = size == 0;
                }
                _ => assert!(self.more().await, "cut off"),
            }
        }
    }

    /// Output until it holds `text`; none: to its end. What was shown on stdout, and on stderr.
    async fn shown(&mut self, text: Option<&str>) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            if let Some(text) = text
                && String::from_utf8_lossy(&out).contains(text)
            {
                break;
            }
            let Some(record) = self.record().await else {
                assert!(text.is_none(), "{:?}", String::from_utf8_lossy(&out));
                break;
            };
            let io: Value = serde_json::from_slice(&record).unwrap();
            if io["type"] != "DATA" {
                continue;
            }
            let bytes = STANDARD
                .decode(io["data"]["data"].as_str().unwrap())
                .unwrap();
            match io["data"]["type"].as_str() {
                Some("STDOUT") => out.extend(bytes),
                Some("STDERR") => err.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(out), text(err))
    }
}

fn session(id: &Value, command: &Value) -> Value {
    call(
        "LAUNCH_NESTED_CONTAINER_SESSION",
        &json!({"container_id": id, "command": command}),
    )
}

pub fn sessions_run_beside_the_task() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), cgroups.as_ref(), SLEEP).await;
        let one = id("t.1", &["one"]);
        let mut command = shell(
            "echo $COLOR $MORE; pwd; cat /proc/self/cgroup > seen; echo oops >&2; read x; exit 42",
        );
        command["environment"] = json!({"variables": [{"name": "MORE", "value": "and more"}]});
        let (code, mut output) = Stream::open(agent.http, RECORDS, &session(&one, &command)).await;
        assert_eq!(code, 200);
        let (first, _) = output.shown(Some("sandbox\n")).await;
        let here = dir.path().join("tasks/t.1/sandbox").canonicalize().unwrap();
        assert_eq!(first, format!("blue and more\n{}\n", here.display()));

        // It is seen while it runs, by who asks for it.
        let list = |nested| call("GET_CONTAINERS", &json!({"show_nested": nested}));
        let (_, body) = ask(&agent, &list(true)).await;
        let all: Value = serde_json::from_str(&body).unwrap();
        let mut all = all["get_containers"]["containers"]
            .as_array()
            .unwrap()
            .iter();
        let shown = all.find(|c| c["container_id"] == one).unwrap();
        let pid = shown["container_status"]["executor_pid"].as_u64().unwrap();
        assert!(runs(u32::try_from(pid).unwrap()));
        assert!(!ask(&agent, &list(false)).await.1.contains("\"parent\""));
        // A second one of the name there is not.
        assert_eq!(ask(&agent, &session(&one, &shell("true"))).await.0, 202);

        let mut input = Stream::input(agent.http, &one).await;
        input.type_in(b"x\n").await;
        let (_, err) = output.shown(None).await;
        assert_eq!(err, "oops\n");
        assert_eq!(input.done().await, 200);
        assert_eq!(wait(&agent, &one).await["exit_status"], 42 << 8);
        if cgroups.is_some() {
            let seen = fs::read_to_string(here.join("seen")).unwrap();
            assert!(seen.contains("tasks/t.1"), "{seen}");
        }

        // In protobuf.
        let wanted = pb::AgentCall {
            r#type: Some(pb::agent_call::Type::LaunchNestedContainerSession.into()),
            launch_nested_container_session: Some(pb::LaunchNestedContainer {
                container_id: Some(pb::ContainerId {
                    value: "two".to_owned(),
                    parent: Some(Box::new(pb::ContainerId {
                        value: "t.1".to_owned(),
                        parent: None,
                    })),
                }),
                command: Some(pb::CommandInfo {
                    value: Some("printf hi; kill -9 $$".to_owned()),
                    ..pb::CommandInfo::default()
                }),
                container: None,
            }),
            ..pb::AgentCall::default()
        };
        let kind = "application/x-protobuf";
        let headers = format!("content-type: {kind}\r\naccept: {kind}\r\n");
        let (code, mut output) =
            Stream::send_bytes(agent.http, &headers, &wanted.encode_to_vec()).await;
        assert_eq!(code, 200);
        let record = output.record().await.unwrap();
        let io = pb::ProcessIo::decode(record.as_slice()).unwrap();
        assert_eq!(io.data.unwrap().data.unwrap(), b"hi");
        assert_eq!(wait(&agent, &id("t.1", &["two"])).await["exit_status"], 9);

        // The connection ends, and with it what it began, runaways too.
        let away = here.join("away");
        let runaway = "setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > away; exec sleep 1000' > /dev/null 2>&1 & \
                       while ! test -s away; do sleep 0.01; done; echo ready; sleep 1000";
        let three = id("t.1", &["three"]);
        let (_, mut output) =
            Stream::open(agent.http, RECORDS, &session(&three, &shell(runaway))).await;
        output.shown(Some("ready")).await;
        let away = fs::read_to_string(away).unwrap().trim().parse().unwrap();
        assert!(runs(away));
        drop(output);
        until("nothing of it", || (!runs(away)).then_some(())).await;
        assert_eq!(wait(&agent, &three).await["exit_status"], 9);
    });
}

pub fn sessions_take_input_and_have_terminals() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), None, SLEEP).await;
        // As dcoscli does it: once to see whether it works, then with input.
        let one = id("t.1", &["one"]);
        let (_, mut output) = Stream::open(
            agent.http,
            RECORDS,
            &session(&one, &shell("cat; echo over")),
        )
        .await;
        assert_eq!(Stream::input(agent.http, &one).await.done().await, 200);
        let mut input = Stream::input(agent.http, &one).await;
        input.type_in(b"hello\n").await;
        output.shown(Some("hello\n")).await;
        let beat = json!({"type": "CONTROL", "control": {"type": "HEARTBEAT"}});
        input
            .send(&json!({"type": "PROCESS_IO", "process_io": beat}))
            .await;
        // There is one writer.
        let second = Stream::input(agent.http, &one).await;
        assert_eq!(second.done().await, 409);
        let large = vec![b'x'; 300_000];
        for part in large.chunks(50_000) {
            input.type_in(part).await;
        }
        // Nothing is the end of input.
        input.type_in(b"").await;
        let (out, _) = output.shown(None).await;
        assert!(
            out.len() == large.len() + 5 && out.ends_with("over\n"),
            "{}",
            out.len()
        );
        assert_eq!(input.done().await, 200);
        wait(&agent, &one).await;
        // What has ended takes no more.
        assert_eq!(Stream::input(agent.http, &one).await.done().await, 500);
        let of_nobody = id("t.1", &["nobody"]);
        assert_eq!(
            Stream::input(agent.http, &of_nobody).await.done().await,
            404
        );

        let two = id("t.1", &["two"]);
        let script = "tty > /dev/null && stty size; trap 'stty size' WINCH; trap 'echo INTERRUPTED; exit 3' INT; \
                      echo ready; while :; do sleep 0.01; done";
        let mut wanted = session(&two, &shell(script));
        let size = |rows, columns| json!({"window_size": {"rows": rows, "columns": columns}});
        wanted["launch_nested_container_session"]["container"] =
            json!({"type": "MESOS", "tty_info": size(33, 77)});
        let (_, mut output) = Stream::open(agent.http, RECORDS, &wanted).await;
        let (out, _) = output.shown(Some("ready")).await;
        assert!(out.contains("33 77\r\n"), "{out:?}");
        let mut input = Stream::input(agent.http, &two).await;
        let resized =
            json!({"type": "CONTROL", "control": {"type": "TTY_INFO", "tty_info": size(44, 99)}});
        input
            .send(&json!({"type": "PROCESS_IO", "process_io": resized}))
            .await;
        output.shown(Some("44 99")).await;
        input.type_in(&[3]).await;
        output.shown(Some("INTERRUPTED")).await;
        output.shown(None).await;
        assert_eq!(wait(&agent, &two).await["exit_status"], 3 << 8);

        // A second reader sees the same, one of a task what that writes.
        let three = id("t.1", &["three"]);
        let (_, mut output) = Stream::open(
            agent.http,
            RECORDS,
            &session(&three, &shell("read x; echo $x")),
        )
        .await;
        let show = |id: &Value| call("ATTACH_CONTAINER_OUTPUT", &json!({"container_id": id}));
        let (code, mut other) = Stream::open(agent.http, RECORDS, &show(&three)).await;
        assert_eq!(code, 200);
        let mut input = Stream::input(agent.http, &three).await;
        input.type_in(b"both\n").await;
        assert_eq!(output.shown(None).await.0, "both\n");
        assert_eq!(other.shown(None).await.0, "both\n");
        let (code, mut of_task) = Stream::open(agent.http, RECORDS, &show(&id("t.1", &[]))).await;
        assert_eq!(code, 200);
        let stdout = dir.path().join("tasks/t.1/sandbox/stdout");
        let writing = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            let mut file = fs::OpenOptions::new().append(true).open(&stdout).unwrap();
            loop {
                tick.tick().await;
                file.write_all(b"from the task\n").unwrap();
            }
        };
        tokio::select! {
            _ = of_task.shown(Some("from the task")) => {}
            () = writing => {}
        }
        let into_task = Stream::input(agent.http, &id("t.1", &[])).await;
        assert_eq!(into_task.done().await, 400, "it has no terminal");
    });
}

fn nested(id: &Value, text: &str) -> Value {
    call(
        "LAUNCH_NESTED_CONTAINER",
        &json!({"container_id": id, "command": shell(text)}),
    )
}

/// What a container has written there.
async fn number_in(file: &Path) -> u32 {
    until("a number", || {
        fs::read_to_string(file).ok()?.trim().parse().ok()
    })
    .await
}

pub fn containers_live_as_long_as_they_may() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (master, agent) = with_task(dir.path(), cgroups.as_ref(), SLEEP).await;
        let sandbox = dir.path().join("tasks/t.1/sandbox");
        let at = |name: &str| sandbox.join("containers").join(name);
        let one = id("t.1", &["one"]);
        let script = "trap 'echo term; exit 7' TERM; pwd; echo $MESOS_SANDBOX; echo bad >&2; echo $$ > pid; \
                      while :; do sleep 0.01; done";
        assert_eq!(ask(&agent, &nested(&one, script)).await.0, 200);
        assert_eq!(ask(&agent, &nested(&one, script)).await.0, 202);
        let pid = number_in(&at("one/pid")).await;
        // It is still there, so it can't be removed.
        let named = |kind: &str, id: &Value| call(kind, &json!({ "container_id": id }));
        let (code, why) = ask(&agent, &named("REMOVE_NESTED_CONTAINER", &one)).await;
        assert_eq!((code, why.contains("not terminated")), (500, true), "{why}");
        let mut kill = named("KILL_NESTED_CONTAINER", &one);
        kill["kill_nested_container"]["signal"] = json!(15);
        assert_eq!(ask(&agent, &kill).await.0, 200);
        assert_eq!(wait(&agent, &one).await["exit_status"], 7 << 8);
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        let here = at("one").canonicalize().unwrap();
        assert_eq!(
            read("one/stdout"),
            format!("{0}\n{0}\nterm\n", here.display())
        );
        // The signal ends a whole group: a shell may say so, too.
        assert!(read("one/stderr").starts_with("bad\n"));
        assert!(!runs(pid));
        assert_eq!(ask(&agent, &kill).await.0, 404);
        // One that is in it can't be any more.
        let (code, why) = ask(&agent, &nested(&id("t.1", &["one", "in"]), "true")).await;
        assert_eq!((code, why.contains("does not exist")), (400, true), "{why}");
        assert_eq!(
            ask(&agent, &named("REMOVE_NESTED_CONTAINER", &one)).await.0,
            200
        );
        assert!(!at("one").exists());
        assert_eq!(
            ask(&agent, &named("WAIT_NESTED_CONTAINER", &one)).await.0,
            404
        );
        assert_eq!(
            ask(&agent, &named("REMOVE_NESTED_CONTAINER", &one)).await.0,
            500
        );

        // A whole tree ends with the one at its top; what is asked meanwhile is answered then.
        let two = id("t.1", &["two"]);
        let leaf = id("t.1", &["two", "leaf"]);
        let forever = "echo $$ > pid; exec sleep 1000";
        assert_eq!(ask(&agent, &nested(&two, forever)).await.0, 200);
        assert_eq!(ask(&agent, &nested(&leaf, forever)).await.0, 200);
        let pids = [
            number_in(&at("two/pid")).await,
            number_in(&at("two/containers/leaf/pid")).await,
        ];
        let (waited, ()) = tokio::join!(wait(&agent, &leaf), async {
            assert_eq!(ask(&agent, &named("KILL_CONTAINER", &two)).await.0, 200);
        });
        assert_eq!(waited["exit_status"], 9);
        assert!(pids.iter().all(|pid| !runs(*pid)));

        // With the agent.
        let three = id("t.1", &["three"]);
        assert_eq!(ask(&agent, &nested(&three, forever)).await.0, 200);
        let pid = number_in(&at("three/pid")).await;
        agent.vanish().await;
        until("its end", || (!runs(pid)).then_some(())).await;
        let agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration", || {
            (master.n_registrations() == 2).then_some(())
        })
        .await;
        assert_eq!(
            ask(&agent, &named("WAIT_NESTED_CONTAINER", &three)).await.0,
            404
        );
        assert!(
            at("three").exists(),
            "its sandbox stays as long as its parent's"
        );

        // With the parent.
        let four = id("t.1", &["four"]);
        let launched = async {
            loop {
                let (code, why) = ask(&agent, &nested(&four, forever)).await;
                if code == 200 {
                    break;
                }
                assert!(why.contains("does not exist"), "{why}");
            }
        };
        tokio::time::timeout(PATIENCE, launched).await.unwrap();
        let pid = number_in(&at("four/pid")).await;
        let task = pid_of(dir.path(), "t.1", "task.json").unwrap();
        signal(task, Signal::SIGKILL);
        until("its end", || (!runs(pid)).then_some(())).await;
    });
}

pub fn containers_enter_an_image() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        node.launch(contained("t.1", AS_APP, "sleep 1000")).await;
        node.running("t.1").await;
        let agent = node.agent.as_ref().unwrap();
        let one = id("t.1", &["one"]);
        let facts = "id -u; pwd; echo $FROM; cat /proc/1/comm; exit 9";
        let (code, mut output) =
            Stream::open(agent.http, RECORDS, &session(&one, &shell(facts))).await;
        assert_eq!(code, 200);
        let (out, _) = output.shown(None).await;
        assert_eq!(out, "1000\n/srv/app\nimage\n.waggle-init\n");
        assert_eq!(wait(agent, &one).await["exit_status"], 9 << 8);
        // Its sandbox is below the one that the image sees.
        let two = id("t.1", &["two"]);
        let facts = "pwd; test $PWD = $MESOS_SANDBOX && echo ours | tee mine; exec sleep 1000";
        let (code, why) = ask(agent, &nested(&two, facts)).await;
        assert_eq!(code, 200, "{why}");
        let written = || {
            let text = node.output("t.1", "containers/two/stdout");
            text.ends_with("ours\n").then_some(text)
        };
        assert_eq!(
            until("its output", written).await,
            "/mnt/mesos/sandbox/containers/two\nours\n"
        );
        let written = || (node.output("t.1", "containers/two/mine") == "ours\n").then_some(());
        until("its file", written).await;
        node.kill("t.1").await;
        assert_eq!(wait(agent, &two).await["exit_status"], 9);
        node.leaves_nothing().await;
    });
}

pub fn containers_may_stand_alone() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (master, agent) = with_task(dir.path(), cgroups.as_ref(), SLEEP).await;
        let alone = id("alone", &[]);
        let script = "cat /proc/self/cgroup > seen; echo $$ > pid; echo hello; exec sleep 1000";
        let launch = |id: &Value, text: &str| json!({"type": "LAUNCH_CONTAINER", "launch_container": {"container_id": id, "command": shell(text)}});
        let mut wanted = launch(&alone, script);
        wanted["launch_container"]["resources"] = json!([
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 64}},
        ]);
        let (code, why) = ask(&agent, &wanted).await;
        assert_eq!(code, 200, "{why}");
        assert_eq!(ask(&agent, &wanted).await.0, 202);
        let sandbox = dir.path().join("containers/alone/sandbox");
        let pid = number_in(&sandbox.join("pid")).await;
        if cgroups.is_some() {
            let seen = fs::read_to_string(sandbox.join("seen")).unwrap();
            assert!(seen.contains("standalone alone"), "{seen}");
        }
        let list = |alone| call("GET_CONTAINERS", &json!({"show_standalone": alone}));
        assert!(ask(&agent, &list(true)).await.1.contains("\"alone\""));
        assert!(!ask(&agent, &list(false)).await.1.contains("\"alone\""));
        // One in it.
        let inside = id("alone", &["in"]);
        let (code, why) = ask(&agent, &launch(&inside, "pwd; exit 4")).await;
        assert_eq!(code, 200, "{why}");
        assert_eq!(wait(&agent, &inside).await["exit_status"], 4 << 8);
        let text = fs::read_to_string(sandbox.join("containers/in/stdout")).unwrap();
        assert!(text.ends_with("containers/in\n"), "{text}");
        let named = |kind: &str| call(kind, &json!({ "container_id": alone }));
        assert_eq!(ask(&agent, &named("KILL_CONTAINER")).await.0, 200);
        let (code, body) = ask(&agent, &named("WAIT_CONTAINER")).await;
        let end: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (code, &end["wait_container"]["exit_status"]),
            (200, &json!(9))
        );
        assert!(!runs(pid));
        assert_eq!(
            fs::read_to_string(sandbox.join("stdout")).unwrap(),
            "hello\n"
        );
        // Who knows of its end finds nothing of it running.
        let of_it = |p: &std::path::PathBuf| p.ends_with("standalone alone");
        if let Some(cgroups) = &cgroups {
            assert!(!cgroups.tasks().iter().any(of_it));
        }
        assert_eq!(ask(&agent, &named("REMOVE_CONTAINER")).await.0, 200);
        assert!(!dir.path().join("containers/alone").exists());
        // Of one that can't be started nothing stays.
        let mut no_such = launch(&id("never", &[]), "true");
        no_such["launch_container"]["command"] = json!({"value": "/no/such", "shell": false});
        assert_eq!(ask(&agent, &no_such).await.0, 400);
        assert!(!dir.path().join("containers/never").exists());
        if let Some(cgroups) = &cgroups {
            let left = cgroups.tasks();
            assert!(!left.iter().any(|p| p.ends_with("standalone never")));
        }
        assert_eq!(ask(&agent, &named("WAIT_CONTAINER")).await.0, 404);

        // It ends with the agent, and the next one removes what it left.
        assert_eq!(ask(&agent, &launch(&alone, script)).await.0, 200);
        let pid = number_in(&sandbox.join("pid")).await;
        agent.vanish().await;
        until("its end", || (!runs(pid)).then_some(())).await;
        let _agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration", || {
            (master.n_registrations() == 2).then_some(())
        })
        .await;
        // Beside its registration.
        let gone = || (!dir.path().join("containers").exists()).then_some(());
        until("no sandbox", gone).await;
        if let Some(cgroups) = &cgroups {
            let alone = |p: &std::path::PathBuf| p.ends_with("standalone alone");
            let gone = || (!cgroups.tasks().iter().any(alone)).then_some(());
            until("no cgroup", gone).await;
        }
    });
}

pub fn calls_are_refused_as_mesos_does() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), None, SLEEP).await;
        let one = id("t.1", &["one"]);
        let mut with_image = session(&one, &shell("true"));
        with_image["launch_nested_container_session"]["container"] = json!({"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": "x"}}}});
        let no_such = json!({"value": "/no/such", "shell": false});
        for (asked, code, why) in [
            (
                json!({"type": "WAIT_NESTED_CONTAINER"}),
                400,
                "Expecting 'wait_nested_container'",
            ),
            (
                nested(&id("t.1", &["a.b"]), "true"),
                400,
                "contains invalid characters",
            ),
            (
                nested(&id("t.1", &[]), "true"),
                400,
                "container_id.parent' to be present",
            ),
            (
                nested(&id("t.2", &["one"]), "true"),
                400,
                "Parent container t.2 does not exist",
            ),
            (
                with_image,
                400,
                "The provided ContainerInfo is not supported",
            ),
            (session(&one, &no_such), 400, "/no/such"),
            (
                session(&one, &json!({"value": "x", "user": "nobody"})),
                400,
                "user",
            ),
            (
                call(
                    "KILL_CONTAINER",
                    &json!({"container_id": one, "signal": 99}),
                ),
                404,
                "cannot be found",
            ),
            (
                call("ATTACH_CONTAINER_OUTPUT", &json!({ "container_id": one })),
                404,
                "Container t.1.one cannot be found",
            ),
            (
                call(
                    "ATTACH_CONTAINER_INPUT",
                    &json!({"type": "CONTAINER_ID", "container_id": one}),
                ),
                415,
                "Streaming 'Content-Type' is required",
            ),
            (json!({"type": "PRUNE_IMAGES"}), 501, "PRUNE_IMAGES"),
        ] {
            let (got, said) = ask(&agent, &asked).await;
            assert_eq!(got, code, "{asked}: {said}");
            assert!(said.contains(why), "{asked}: {said}");
        }
        // What could not be started is not there.
        let waiting = call("WAIT_NESTED_CONTAINER", &json!({ "container_id": one }));
        assert_eq!(ask(&agent, &waiting).await.0, 404);
        let send = async |headers: &str, body: &[u8]| {
            let (code, body) = agent.post("/api/v1", headers, body).await;
            (code, String::from_utf8(body).unwrap())
        };
        let health = recordio::frame(br#"{"type":"GET_HEALTH"}"#);
        assert_eq!(send(INPUT, &health).await.0, 415);
        assert_eq!(send(INPUT, b"x\n").await.0, 400);
        assert_eq!(send(INPUT, b"99999999\n").await.0, 400, "too long");
        assert_eq!(send(INPUT, b"").await.0, 400);
        let plain = br#"{"type":"GET_HEALTH"}"#;
        assert_eq!(send(RECORDS, plain).await.0, 406);
        assert_eq!(
            send("content-type: application/recordio\r\n", plain)
                .await
                .0,
            400
        );
    });
}
