//! Sessions in tasks, frame by frame.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use waggle_api::exec::{Ended, FIRST_WINDOW, Frame, Started, Winsize, parse};

use crate::{
    agent::{Agent, block_on, launch, spec, until},
    containers::{AS_APP, Node, contained},
    master::Master,
    support::{CgroupRoot, PATIENCE, runs},
};

/// Ends the tasks of a work directory: they outlive agents, and tests that fail.
pub struct Tidy(pub std::path::PathBuf);

impl Drop for Tidy {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0.join("tasks"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let record = fs::read(entry.path().join("task.json")).unwrap_or_default();
            let record: Value = serde_json::from_slice(&record).unwrap_or_default();
            let ended = entry.path().join("exit.json").exists();
            if let (Some(pid), false) = (record["pid"].as_i64(), ended) {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(0));
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            }
        }
    }
}

/// A client of a session.
struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    /// Asks for a session; a refusal's status and message.
    async fn open(addr: SocketAddr, path: &str, body: &Value) -> Result<Self, (u16, String)> {
        let upgrade = "connection: upgrade\r\nupgrade: waggle-exec\r\n";
        let mut client = Self::ask(addr, path, upgrade, body).await;
        let head = client.head().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 101 {
            return Ok(client);
        }
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "));
        let length: usize = length.unwrap().trim().parse().unwrap();
        while client.bytes.len() < length {
            client.more().await;
        }
        let body: Value = serde_json::from_slice(&client.bytes).unwrap();
        Err((status, body["message"].as_str().unwrap().to_owned()))
    }

    async fn ask(addr: SocketAddr, path: &str, headers: &str, body: &Value) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self {
            stream,
            bytes: Vec::new(),
        }
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap().to_ascii_lowercase();
            }
            assert!(self.more().await, "the connection ended before its head");
        }
    }

    async fn more(&mut self) -> bool {
        let mut part = [0; 8192];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut part)).await;
        let n = read.unwrap().unwrap_or(0);
        self.bytes.extend(&part[..n]);
        n > 0
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, n)) = parse(&self.bytes).unwrap() {
                self.bytes.drain(..n);
                match frame {
                    Frame::Ping => continue,
                    frame => return Some(frame),
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn started(&mut self) -> Started {
        match self.next().await {
            Some(Frame::Started(started)) => started,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&mut self, frame: Frame) {
        self.stream.write_all(&frame.bytes()).await.unwrap();
    }

    /// Everything to the end: output, errors, and the end.
    async fn rest(&mut self) -> (String, String, Ended) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.next().await.unwrap() {
                Frame::Stdout(bytes) => out.extend(bytes),
                Frame::Stderr(bytes) => err.extend(bytes),
                Frame::Ended(ended) => {
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    return (text(out), text(err), ended);
                }
                Frame::Window(_) | Frame::Started(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads output until it holds `text`.
    async fn expect(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.next().await {
                Some(Frame::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Frame::Window(_) | Frame::Started(_) | Frame::Stderr(_)) => {}
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        seen
    }
}

fn exec(shell: &str) -> Value {
    json!({"argv": ["/bin/sh", "-c", shell]})
}

/// An agent with a task `t.1` that runs.
pub async fn with_task(dir: &Path, cgroups: Option<&CgroupRoot>, shell: &str) -> (Master, Agent) {
    let master = Master::start().await;
    let agent = Agent::start(dir, vec![master.addr], cgroups).await;
    until("registration", || {
        (master.n_registrations() == 1).then_some(())
    })
    .await;
    let mut task = spec("t.1", shell);
    task.env.insert("COLOR".to_owned(), "blue".to_owned());
    master.send(launch(task)).await;
    until("running", || master.last("t.1")).await;
    (master, agent)
}

pub const SLEEP: &str = "exec sleep 1000";

pub fn runs_as_the_task() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), cgroups.as_ref(), SLEEP).await;
        let script = "echo $COLOR $MORE; pwd; echo oops >&2; cat /proc/self/cgroup > seen; exit 42";
        let mut request = exec(script);
        request["env"] = json!({"MORE": "and more"});
        let mut client = Client::open(agent.http, "/waggle/v1/tasks/t/exec", &request)
            .await
            .unwrap();
        let started = client.started().await;
        assert_eq!(
            (started.task_id.as_str(), started.input, started.tty),
            ("t.1", false, false)
        );
        let (out, err, ended) = client.rest().await;
        let sandbox = dir.path().join("tasks/t.1/sandbox");
        let here = sandbox.canonicalize().unwrap();
        assert_eq!(out, format!("blue and more\n{}\n", here.display()));
        assert_eq!((err.as_str(), ended.exit_code()), ("oops\n", 42));
        assert_eq!(client.next().await, None, "and the connection is closed");
        if cgroups.is_some() {
            let seen = fs::read_to_string(sandbox.join("seen")).unwrap();
            assert!(seen.contains("tasks/t.1"), "{seen}");
        }

        // How it ended, whatever it was.
        for (shell, code) in [("kill -9 $$", 137), ("kill -15 $$", 143), ("true", 0)] {
            let path = "/waggle/v1/tasks/t.1/exec";
            let mut client = Client::open(agent.http, path, &exec(shell)).await.unwrap();
            assert_eq!(client.rest().await.2.exit_code(), code, "{shell}");
        }
        for (argv, code) in [(json!(["/no/such"]), 127), (json!(["/etc/passwd"]), 126)] {
            let request = json!({"argv": argv});
            let mut client = Client::open(agent.http, "/waggle/v1/tasks/t.1/exec", &request)
                .await
                .unwrap();
            let (_, _, ended) = client.rest().await;
            assert_eq!(ended.exit_code(), code);
            assert!(
                ended.message.contains(argv[0].as_str().unwrap()),
                "{ended:?}"
            );
        }
    });
}

pub fn passes_input_within_its_window() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), None, SLEEP).await;
        let path = "/waggle/v1/tasks/t.1/exec";
        let mut request = exec("wc -c; echo done");
        request["stdin"] = json!(true);
        let mut client = Client::open(agent.http, path, &request).await.unwrap();
        assert!(client.started().await.input);
        let (total, mut sent, mut credit) = (1_000_000_usize, 0, FIRST_WINDOW as usize);
        while sent < total {
            while credit == 0 {
                match client.next().await.unwrap() {
                    Frame::Window(n) => credit += n as usize,
                    other => panic!("{other:?}"),
                }
            }
            let n = credit.min(total - sent).min(5000);
            client.send(Frame::Stdin(vec![b'x'; n])).await;
            (sent, credit) = (sent + n, credit - n);
        }
        client.send(Frame::StdinEnd).await;
        let (out, _, ended) = client.rest().await;
        assert_eq!((out.trim(), ended.exit_code()), ("1000000\ndone", 0));

        // Nobody reads the input: signals come through all the same.
        let mut request =
            exec("trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
        request["stdin"] = json!(true);
        let mut client = Client::open(agent.http, path, &request).await.unwrap();
        client.expect("ready").await;
        for _ in 0..8 {
            client.send(Frame::Stdin(vec![b'x'; 8192])).await;
        }
        client.send(Frame::Signal(15)).await;
        client.expect("got it").await;
        assert_eq!(client.rest().await.2.exit_code(), 3);

        // More than was allowed ends the session.
        let mut request = exec(SLEEP);
        request["stdin"] = json!(true);
        let mut client = Client::open(agent.http, path, &request).await.unwrap();
        let pid = client.started().await.pid;
        for _ in 0..40 {
            let sent = client
                .stream
                .write_all(&Frame::Stdin(vec![0; 8192]).bytes())
                .await;
            if sent.is_err() {
                break;
            }
        }
        until("the end of who does not keep to it", || {
            (!runs(pid)).then_some(())
        })
        .await;
    });
}

pub fn slows_a_command_down_to_its_reader() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), None, SLEEP).await;
        let script = "while :; do head -c 65536 /dev/zero; echo x >> count; done";
        let mut client = Client::open(agent.http, "/waggle/v1/tasks/t.1/exec", &exec(script))
            .await
            .unwrap();
        let pid = client.started().await.pid;
        let count = || {
            let text = fs::read(dir.path().join("tasks/t.1/sandbox/count")).unwrap_or_default();
            text.len() / 2
        };
        // Blocked in a write to its pipe: it, or the program that it runs.
        let blocked = || {
            let children = format!("/proc/{pid}/task/{pid}/children");
            let child = fs::read_to_string(children).ok()?;
            let wchan = format!("/proc/{}/wchan", child.trim());
            fs::read_to_string(wchan)
                .ok()
                .filter(|w| w.contains("pipe"))
                .map(|_| ())
        };
        until("a write that waits", blocked).await;
        let before = until("no more of it", || {
            let before = count();
            blocked()?;
            (count() == before).then_some(before)
        })
        .await;
        assert!(before * 65536 < 16 << 20, "{before} parts are under way");
        // It goes on as it is read.
        let mut n = 0;
        while n < (before + 20) * 65536 {
            if let Some(Frame::Stdout(bytes)) = client.next().await {
                n += bytes.len();
            }
        }
        assert!(count() > before);
        drop(client);
        until("its end", || (!runs(pid)).then_some(())).await;
    });
}

/// A command that leaves a process behind that has left its session, and ignores what can be ignored.
const RUNAWAY: &str = "setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > away; exec sleep 1000' > /dev/null 2>&1 & \
                       while ! test -s away; do sleep 0.01; done; echo ready; sleep 1000";

pub fn leaves_nothing_behind() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), None, SLEEP).await;
        let away = dir.path().join("tasks/t.1/sandbox/away");
        let path = "/waggle/v1/tasks/t.1/exec";
        let run = async |request: Value| {
            let _ = fs::remove_file(&away);
            let mut client = Client::open(agent.http, path, &request).await.unwrap();
            let pid = client.started().await.pid;
            client.expect("ready").await;
            let away = fs::read_to_string(&away).unwrap().trim().parse().unwrap();
            assert!(runs(pid) && runs(away));
            (client, [pid, away])
        };
        let gone = async |pids: [u32; 2]| {
            let none = || pids.iter().all(|p| !runs(*p)).then_some(());
            until("nothing of the session", none).await;
        };
        // The client goes.
        let (client, pids) = run(exec(RUNAWAY)).await;
        drop(client);
        gone(pids).await;
        // With a terminal.
        let mut request = exec(RUNAWAY);
        request["tty"] = json!({"rows": 10, "cols": 10});
        let (client, pids) = run(request).await;
        drop(client);
        gone(pids).await;
        // The command ends, what it began does not.
        let script = RUNAWAY.replace("echo ready; sleep 1000", "echo ready; read x");
        let mut request = exec(&script);
        request["stdin"] = json!(true);
        let (mut client, pids) = run(request).await;
        client.send(Frame::StdinEnd).await;
        client.rest().await;
        gone(pids).await;
        // The agent goes.
        let (client, pids) = run(exec(RUNAWAY)).await;
        let task = fs::read(dir.path().join("tasks/t.1/task.json")).unwrap();
        let task: Value = serde_json::from_slice(&task).unwrap();
        let task = u32::try_from(task["pid"].as_u64().unwrap()).unwrap();
        agent.vanish().await;
        gone(pids).await;
        assert!(runs(task), "the task is another matter");
        drop(client);
    });
}

pub fn gives_a_terminal() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (_master, agent) = with_task(dir.path(), None, SLEEP).await;
        let script = "tty > /dev/null && stty size; trap 'stty size' WINCH; trap 'echo INTERRUPTED' INT; \
                      echo ready; while :; do sleep 0.01; done";
        let mut request = exec(script);
        request["tty"] = json!({"rows": 33, "cols": 77});
        request["stdin"] = json!(true);
        let path = "/waggle/v1/tasks/t.1/exec";
        let mut client = Client::open(agent.http, path, &request).await.unwrap();
        assert!(client.started().await.tty);
        let seen = client.expect("ready").await;
        assert!(seen.contains("33 77\r\n"), "{seen:?}");
        client
            .send(Frame::Resize(Winsize { rows: 44, cols: 99 }))
            .await;
        client.expect("44 99").await;
        // Ctrl-C is a key like any other; the terminal makes a signal of it.
        client.send(Frame::Stdin(vec![3])).await;
        client.expect("INTERRUPTED").await;
        // Ctrl-\ as well.
        client.send(Frame::Stdin(vec![0x1c])).await;
        let (_, _, ended) = client.rest().await;
        assert_eq!(ended.signal, Some(Signal::SIGQUIT as i32));

        // The end of input is the terminal's.
        let mut request = exec("cat; echo over");
        request["tty"] = json!({"rows": 1, "cols": 80});
        request["stdin"] = json!(true);
        let mut client = Client::open(agent.http, path, &request).await.unwrap();
        client.send(Frame::Stdin(b"line\n".to_vec())).await;
        client.send(Frame::StdinEnd).await;
        let (out, _, ended) = client.rest().await;
        assert_eq!(ended.exit_code(), 0);
        assert!(out.ends_with("over\r\n"), "{out:?}");
    });
}

pub fn enters_a_container() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        node.launch(contained("t.1", AS_APP, "sleep 1000")).await;
        node.running("t.1").await;
        let http = node.agent.as_ref().unwrap().http;
        let path = "/waggle/v1/tasks/t.1/exec";
        let facts = "id -u; pwd; echo $FROM $MESOS_TASK_ID; cat /www/index.html; cat /proc/1/comm; \
                     grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; \
                     unshare -U true 2>/dev/null || echo refused; exit 9";
        let mut client = Client::open(http, path, &exec(facts)).await.unwrap();
        let (out, _, ended) = client.rest().await;
        assert_eq!(ended.exit_code(), 9);
        assert_eq!(
            out,
            "1000\n/srv/app\nimage t.1\nhello from the image\n.waggle-init\n\
             CapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nrefused\n"
        );
        let mut request = exec("pwd");
        request["work_dir"] = json!("/tmp");
        let mut client = Client::open(http, path, &request).await.unwrap();
        assert_eq!(client.rest().await.0, "/tmp\n");
        let request = json!({"argv": ["no-such-program"]});
        let mut client = Client::open(http, path, &request).await.unwrap();
        assert_eq!(client.rest().await.2.exit_code(), 127);
        let mut client = Client::open(http, path, &exec("kill -9 $$")).await.unwrap();
        assert_eq!(client.rest().await.2.exit_code(), 137);

        // A terminal, whose foreground group is the command's own.
        let script = "cut -d' ' -f5,6,8 /proc/$$/stat; stty size; trap 'echo INTERRUPTED; exit 3' INT; \
                      echo ready; while :; do sleep 0.01; done";
        let mut request = exec(script);
        request["tty"] = json!({"rows": 33, "cols": 77});
        request["stdin"] = json!(true);
        let mut client = Client::open(http, path, &request).await.unwrap();
        assert!(client.started().await.tty);
        let seen = client.expect("ready").await;
        let groups: Vec<&str> = seen.lines().next().unwrap().split_whitespace().collect();
        assert!(groups.len() == 3 && groups[0] != "0", "{seen:?}");
        assert!(groups.iter().all(|g| *g == groups[0]), "{seen:?}");
        assert!(seen.contains("33 77"), "{seen:?}");
        client.send(Frame::Stdin(vec![3])).await;
        client.expect("INTERRUPTED").await;
        assert_eq!(client.rest().await.2.exit_code(), 3);
        node.kill("t.1").await;
        node.leaves_nothing().await;
    });
}

pub fn attaches_to_output() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let script = "echo one; echo two; while ! test -e go; do sleep 0.01; done; echo three; echo bad >&2; exit 5";
        let (_master, agent) = with_task(dir.path(), None, script).await;
        let stdout = dir.path().join("tasks/t.1/sandbox/stdout");
        until("output", || {
            (fs::read_to_string(&stdout).ok()? == "one\ntwo\n").then_some(())
        })
        .await;
        let path = "/waggle/v1/tasks/t.1/attach";
        let mut client = Client::open(agent.http, path, &json!({"lines": 1}))
            .await
            .unwrap();
        let started = client.started().await;
        assert!(!started.input && !started.tty && started.pid > 0);
        client.expect("two\n").await;
        fs::write(dir.path().join("tasks/t.1/sandbox/go"), "").unwrap();
        let (out, err, ended) = client.rest().await;
        assert_eq!(
            (out.as_str(), err.as_str(), ended.exit_code()),
            ("three\n", "bad\n", 5)
        );
        until("no more sessions", || {
            dir.path().join("tasks/t.1/done").exists().then_some(())
        })
        .await;
        let (code, why) = Client::open(agent.http, path, &json!({}))
            .await
            .err()
            .unwrap();
        assert_eq!((code, why.as_str()), (409, "task t.1 does not run"));
    });
}

pub fn attaches_to_a_terminal() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let script = "trap 'stty size' WINCH; tty > /dev/null && echo ready; \
                      while :; do read line; echo \"<$line>\"; test \"$line\" = quit && exit 4; done";
        let mut task = spec("t.1", script);
        task.container = Some(waggle_api::proto::session::Container {
            tty: true,
            ..Default::default()
        });
        master.send(launch(task)).await;
        until("running", || master.last("t.1")).await;
        let path = "/waggle/v1/tasks/t.1/attach";
        let request = json!({"stdin": true});
        let mut one = Client::open(agent.http, path, &request).await.unwrap();
        let started = one.started().await;
        assert!(started.input && started.tty);
        one.send(Frame::Stdin(b"hello\n".to_vec())).await;
        one.expect("<hello>").await;
        // A second one sees the same; one that leaves takes nothing with it.
        let mut two = Client::open(agent.http, path, &request).await.unwrap();
        two.started().await;
        one.send(Frame::Stdin(b"both\n".to_vec())).await;
        two.expect("<both>").await;
        drop(one);
        two.send(Frame::Resize(Winsize { rows: 21, cols: 43 }))
            .await;
        two.send(Frame::Stdin(b"size\n".to_vec())).await;
        two.expect("21 43").await;
        // The agent goes; the task, and its terminal, stay.
        agent.vanish().await;
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 2).then_some(())
        })
        .await;
        let mut again = Client::open(agent.http, path, &request).await.unwrap();
        again.started().await;
        again.send(Frame::Stdin(b"quit\n".to_vec())).await;
        let (out, _, ended) = again.rest().await;
        assert!(out.contains("<quit>"), "{out:?}");
        assert_eq!(ended.exit_code(), 4);
        let log = fs::read_to_string(dir.path().join("tasks/t.1/sandbox/stdout")).unwrap();
        assert!(
            log.contains("<hello>"),
            "and all of it is in the log: {log:?}"
        );
    });
}

pub fn refuses_what_it_must() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let (master, agent) = with_task(dir.path(), None, SLEEP).await;
        master.send(launch(spec("t.2", SLEEP))).await;
        until("running", || master.last("t.2")).await;
        let refused = async |path: &str, body: Value| {
            let client = Client::open(agent.http, path, &body).await;
            client.err().unwrap()
        };
        let good = exec("true");
        let (code, why) = refused("/waggle/v1/tasks/t/exec", good.clone()).await;
        assert_eq!(code, 409);
        assert_eq!(why, "\"t\" is the beginning of 2 ids: t.1, t.2");
        assert_eq!(
            refused("/waggle/v1/tasks/x/exec", good.clone()).await.0,
            404
        );
        let (code, why) = refused("/waggle/v1/tasks/t.1/exec", json!({"argv": []})).await;
        assert_eq!((code, why.starts_with("argv: ")), (422, true), "{why}");
        let (code, why) = refused("/waggle/v1/tasks/t.1/exec", json!({"argx": []})).await;
        assert_eq!((code, why.contains("argx")), (400, true), "{why}");
        let mut plain = Client::ask(agent.http, "/waggle/v1/tasks/t.1/exec", "", &good).await;
        let head = plain.head().await;
        assert!(head.starts_with("http/1.1 426 "), "{head}");
        assert!(head.contains("upgrade: waggle-exec"), "{head}");

        // So many sessions, and no more; one that ends makes room.
        let mut open = Vec::new();
        for _ in 0..64 {
            let path = "/waggle/v1/tasks/t.1/attach";
            open.push(Client::open(agent.http, path, &json!({})).await.unwrap());
        }
        let (code, why) = refused("/waggle/v1/tasks/t.1/exec", good.clone()).await;
        assert_eq!((code, why.contains("64 sessions")), (503, true), "{why}");
        open.pop();
        let again = async {
            while Client::open(agent.http, "/waggle/v1/tasks/t.1/exec", &good)
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, again).await.unwrap();
    });
}

pub fn shows_files_of_sandboxes() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        let script = "mkdir -p a/b; echo hello > a/b/c; ln -s /etc/passwd bad; ln -s a/b/c good; \
                      ln -s /etc/shadow stderr.1; echo out; exit 0";
        let (_master, agent) = with_task(dir.path(), None, script).await;
        // Of a task that has ended: its files stay.
        until("its end", || {
            dir.path().join("tasks/t.1/done").exists().then_some(())
        })
        .await;
        let json = async |path: &str| {
            let (code, body) = agent.get(path).await;
            let value: Value = serde_json::from_str(&body).unwrap_or(Value::String(body));
            (code, value)
        };
        let (code, view) = json("/waggle/v1/tasks/t/files").await;
        assert_eq!((code, view["task_id"].as_str()), (200, Some("t.1")));
        let names: Vec<&str> = view["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "bad", "good", "stderr", "stderr.1", "stdout"]);
        assert_eq!(view["files"][0]["kind"], "directory");
        assert_eq!(view["files"][1]["kind"], "link");
        let (code, body) = agent.get("/waggle/v1/tasks/t.1/file?path=a/b/c").await;
        assert_eq!((code, body.as_str()), (200, "hello\n"));
        let part = "/waggle/v1/tasks/t.1/file?path=good&offset=1&length=3";
        assert_eq!(agent.get(part).await, (200, "ell".to_owned()));
        for (path, code) in [
            ("bad", 403),
            ("../spec.pb", 400),
            ("..%2Fspec.pb", 400),
            ("a/b", 400),
            ("nope", 404),
            ("a/b/c/d", 404),
        ] {
            let url = format!("/waggle/v1/tasks/t.1/file?path={path}");
            assert_eq!(agent.get(&url).await.0, code, "{path}");
        }
        // The log too follows no link out.
        let (code, log) = agent.get("/waggle/v1/tasks/t.1/log/stderr").await;
        assert_eq!((code, log.as_str()), (200, ""));

        // As Mesos has it: by the sandbox's directory, and by its own names.
        let sandbox = dir.path().join("tasks/t.1/sandbox");
        let base = sandbox.display();
        for prefix in ["", "/slave(1)"] {
            for suffix in ["", ".json"] {
                let url = format!("{prefix}/files/browse{suffix}?path={base}/a/b");
                let (code, list) = json(&url).await;
                assert_eq!(code, 200, "{url}: {list}");
                assert_eq!(list[0]["path"], format!("{base}/a/b/c"));
                assert_eq!(list[0]["size"], 6);
                assert_eq!(list[0]["mode"], "-rw-r--r--");
            }
        }
        let read = async |query: &str| {
            let name = "/frameworks/f1/executors/t.1/runs/latest/a/b/c";
            json(&format!("/files/read?path={name}{query}")).await.1
        };
        assert_eq!(read("&offset=-1").await, json!({"data": "", "offset": 6}));
        assert_eq!(read("").await, json!({"data": "", "offset": 6}));
        assert_eq!(
            read("&offset=1&length=2").await,
            json!({"data": "el", "offset": 1})
        );
        assert_eq!(
            read("&offset=9&length=2").await,
            json!({"data": "", "offset": 9})
        );
        let (code, body) = agent
            .get(&format!("/files/download?path={base}/stdout"))
            .await;
        assert_eq!((code, body.as_str()), (200, "out\n"));
        for (query, code) in [
            (String::new(), 400),
            (format!("path={base}/../spec.pb"), 400),
            (format!("path={base}/bad"), 403),
            (format!("path={base}/a"), 400),
            ("path=/etc/passwd".to_owned(), 404),
            (
                format!("path={}", dir.path().join("agent_id").display()),
                404,
            ),
        ] {
            let url = format!("/files/read?{query}&offset=0");
            assert_eq!(agent.get(&url).await.0, code, "{url}");
        }
    });
}

pub fn enters_containers() {
    if !crate::crash::has_runc() {
        return;
    }
    block_on(async {
        let cgroups = CgroupRoot::named("-exec");
        let dir = tempfile::tempdir().unwrap();
        let _tidy = Tidy(dir.path().to_owned());
        crate::crash::copy_images(dir.path());
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let mut task = spec("t.1", SLEEP);
        task.env.insert("COLOR".to_owned(), "blue".to_owned());
        task.container = Some(crate::crash::container());
        master.send(launch(task)).await;
        until("running", || {
            let last = master.last("t.1")?;
            let running = waggle_api::proto::session::TaskState::TaskRunning;
            assert_eq!(last.state(), running, "{}", last.message);
            Some(())
        })
        .await;
        let path = "/waggle/v1/tasks/t.1/exec";
        let script = "echo $COLOR; cat /www/index.html; ls /proc | grep -c '^[0-9]*$'; exit 6";
        let mut client = Client::open(agent.http, path, &exec(script)).await.unwrap();
        let (out, err, ended) = client.rest().await;
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("blue"), "{out} {err} {ended:?}");
        assert_eq!(lines.next(), Some("hello from the image"));
        let n_processes: u32 = lines.next().unwrap().parse().unwrap();
        assert!(
            n_processes < 9,
            "its own processes, not the node's: {n_processes}"
        );
        assert_eq!(ended.exit_code(), 6);
        let mut client = Client::open(agent.http, path, &json!({"argv": ["/no/such"]}))
            .await
            .unwrap();
        assert_eq!(client.rest().await.2.exit_code(), 127);

        // With a terminal, which ends with its client.
        let mut request =
            exec("stty size; trap 'echo HIT' INT; echo ready; while :; do sleep 0.01; done");
        request["tty"] = json!({"rows": 12, "cols": 34});
        request["stdin"] = json!(true);
        let mut client = Client::open(agent.http, path, &request).await.unwrap();
        let pid = client.started().await.pid;
        let seen = client.expect("ready").await;
        assert!(seen.contains("12 34"), "{seen:?}");
        client.send(Frame::Stdin(vec![3])).await;
        client.expect("HIT").await;
        drop(client);
        until("the end of the session", || (!runs(pid)).then_some(())).await;

        // What left its session inside of the container ends, too.
        let count = async || {
            let script = "ls /proc | grep -c '^[0-9]*$'";
            let mut client = Client::open(agent.http, path, &exec(script)).await.unwrap();
            client.rest().await.0.trim().parse::<u32>().unwrap()
        };
        let before = count().await;
        let script = "setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > /tmp/away; exec sleep 1000' > /dev/null 2>&1 & \
                      while ! test -s /tmp/away; do sleep 0.01; done; echo ready; sleep 1000";
        let mut client = Client::open(agent.http, path, &exec(script)).await.unwrap();
        client.expect("ready").await;
        assert!(count().await > before);
        drop(client);
        let begun = std::time::Instant::now();
        while count().await > before {
            assert!(begun.elapsed() < PATIENCE, "what left its session runs on");
        }
        let kill = waggle_api::proto::session::Kill {
            task_id: "t.1".to_owned(),
            ..Default::default()
        };
        let kill = waggle_api::proto::session::master_message::Kind::Kill(kill);
        master.send(kill).await;
        until("it to be settled", || {
            dir.path().join("tasks/t.1/done").exists().then_some(())
        })
        .await;
    });
}
