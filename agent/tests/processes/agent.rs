//! An agent on loopback, against a fake master.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use waggle_agent::{AgentConfig, AgentListeners, DataPlanePolicy, Reconfiguration, ShimCommand};
use waggle_api::proto::session::{
    self as pb, HealthState, StatusReason, TaskState, master_message::Kind as ToAgent,
};
use waggle_telemetry::Telemetry;

use crate::{
    master::{ENDS, Master},
    support::{CgroupRoot, PATIENCE, runs, signal},
};

pub struct Agent {
    job: JoinHandle<()>,
    pub http: SocketAddr,
    names: SocketAddr,
}

impl Agent {
    pub async fn start(
        work_dir: &Path,
        masters: Vec<SocketAddr>,
        cgroups: Option<&CgroupRoot>,
    ) -> Self {
        Self::start_with(work_dir, masters, cgroups, |_| {}).await
    }

    /// At an address where executors know it.
    pub async fn start_at(
        http: SocketAddr,
        work_dir: &Path,
        masters: Vec<SocketAddr>,
        cgroups: Option<&CgroupRoot>,
    ) -> Self {
        let telemetry = Telemetry::disabled();
        Self::start_on(Some(http), work_dir, masters, cgroups, telemetry, |_| {}).await
    }

    pub async fn start_with(
        work_dir: &Path,
        masters: Vec<SocketAddr>,
        cgroups: Option<&CgroupRoot>,
        change: impl FnOnce(&mut AgentConfig),
    ) -> Self {
        let telemetry = Telemetry::disabled();
        Self::start_on(None, work_dir, masters, cgroups, telemetry, change).await
    }

    /// One that exports what it has to tell.
    pub async fn start_telling(
        work_dir: &Path,
        masters: Vec<SocketAddr>,
        cgroups: &CgroupRoot,
        telemetry: Telemetry,
    ) -> Self {
        Self::start_on(None, work_dir, masters, Some(cgroups), telemetry, |_| {}).await
    }

    async fn start_on(
        at: Option<SocketAddr>,
        work_dir: &Path,
        masters: Vec<SocketAddr>,
        cgroups: Option<&CgroupRoot>,
        telemetry: Telemetry,
        change: impl FnOnce(&mut AgentConfig),
    ) -> Self {
        let (config, listeners) = Self::prepared(at, work_dir, masters, cgroups, change).await;
        let http = listeners.http.local_addr().unwrap();
        let names = listeners.dns.as_ref().unwrap().local_addr().unwrap();
        let run = waggle_agent::run(config, listeners, telemetry, CancellationToken::new());
        let job = tokio::spawn(async move { Box::pin(run).await.unwrap() });
        Self { job, http, names }
    }

    async fn prepared(
        at: Option<SocketAddr>,
        work_dir: &Path,
        masters: Vec<SocketAddr>,
        cgroups: Option<&CgroupRoot>,
        change: impl FnOnce(&mut AgentConfig),
    ) -> (AgentConfig, AgentListeners) {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = AgentListeners {
            http: match at {
                Some(at) => rebound(at).await,
                None => bind().await,
            },
            metrics: bind().await,
            otlp: None,
            statsd: None,
            dns: Some(bind().await),
        };
        let mut config = AgentConfig {
            cgroup_root: cgroups.map(|c| c.path.clone()),
            dataplane: DataPlanePolicy::Off,
            network: false,
            shim: ShimCommand {
                exe: std::env::current_exe().unwrap(),
                args: vec![OsString::from("shim")],
            },
            exec_shim: ShimCommand {
                exe: std::env::current_exe().unwrap(),
                args: vec![OsString::from("exec-shim")],
            },
            tick: Duration::from_millis(100),
            ..AgentConfig::new("n1", Ipv4Addr::LOCALHOST, masters, work_dir)
        };
        change(&mut config);
        (config, listeners)
    }

    /// Runs until somebody kills this process.
    async fn wait(self) {
        let _ = self.job.await;
    }

    /// As kill -9: nothing of it gets to say goodbye.
    pub async fn vanish(self) {
        self.job.abort();
        let _ = self.job.await;
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        Self::get_of(self.http, path).await
    }

    /// Of the API about names.
    pub async fn get_names(&self, path: &str) -> (u16, String) {
        Self::get_of(self.names, path).await
    }

    async fn get_of(addr: SocketAddr, path: &str) -> (u16, String) {
        Self::ask(addr, "GET", path, "").await
    }

    /// A call of an executor.
    pub async fn send_json(&self, path: &str, body: &str) -> (u16, String) {
        let json = "content-type: application/json\r\n";
        Self::ask_with(self.http, "POST", path, json, body).await
    }

    /// A request with a body.
    pub async fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        Self::ask(self.http, method, path, body).await
    }

    async fn ask(addr: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
        Self::ask_with(addr, method, path, "", body).await
    }

    async fn ask_with(
        addr: SocketAddr,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String) {
        let (code, body) = Self::exchange(addr, method, path, headers, body.as_bytes()).await;
        (code, String::from_utf8(body).unwrap())
    }

    /// A call in any format; `headers` end their lines.
    pub async fn post(&self, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
        Self::exchange(self.http, "POST", path, headers, body).await
    }

    async fn exchange(
        addr: SocketAddr,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let n = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}content-length: {n}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let body = answer.split_off(end + 4);
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }
}

/// Where an agent listened that vanished: what it spawned lets go of the port only when it is polled for the last time.
async fn rebound(at: SocketAddr) -> TcpListener {
    until("the port", || {
        let bound = std::net::TcpListener::bind(at).ok()?;
        bound.set_nonblocking(true).unwrap();
        TcpListener::from_std(bound).ok()
    })
    .await
}

/// The test binary as an agent, to be killed: below a work directory, with a master, and a cgroup root if there is one.
pub fn run_alone(dir: &Path, master: &str, cgroup_root: Option<&String>) {
    block_on(async {
        let masters = vec![master.parse().unwrap()];
        let boot_id = std::env::var_os("TEST_BOOT_ID");
        let agent = Agent::start_with(dir, masters, None, |config| {
            config.cgroup_root = cgroup_root.map(Into::into);
            if let Some(file) = boot_id {
                config.boot_id = file.into();
            }
        });
        agent.await.wait().await;
    });
}

pub fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

pub async fn until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            if let Some(t) = f() {
                return t;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("timed out: {what}"))
}

pub fn spec(task_id: &str, shell: &str) -> pb::TaskSpec {
    pb::TaskSpec {
        task_id: task_id.to_owned(),
        framework_id: "f1".to_owned(),
        framework_name: "marathon".to_owned(),
        role: "*".to_owned(),
        name: "web".to_owned(),
        command: Some(pb::task_spec::Command::Shell(shell.to_owned())),
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Some(pb::Resources {
            cpus_milli: 100,
            mem_milli: 64_000,
            ..Default::default()
        }),
        discovery_name: "web".to_owned(),
        kill_grace_ms: 2000,
        service: "/web".to_owned(),
        ..Default::default()
    }
}

pub fn launch(spec: pb::TaskSpec) -> ToAgent {
    ToAgent::Launch(pb::Launch { spec: Some(spec) })
}

fn kill(task_id: &str) -> ToAgent {
    ToAgent::Kill(pb::Kill {
        task_id: task_id.to_owned(),
        max_grace_ms: None,
        ..pb::Kill::default()
    })
}

fn check(probe: pb::health_check::Probe, max_failures: u32) -> pb::HealthCheck {
    pb::HealthCheck {
        delay_ms: 0,
        name: None,
        purpose: 0,
        probe: Some(probe),
        grace_period_ms: 0,
        interval_ms: 50,
        timeout_ms: 2000,
        max_consecutive_failures: max_failures,
        keep_response: false,
    }
}

fn states(master: &Master, task_id: &str) -> Vec<TaskState> {
    master
        .statuses(task_id)
        .iter()
        .map(pb::TaskStatus::state)
        .collect()
}

pub async fn ended(master: &Master, task_id: &str) -> pb::TaskStatus {
    until("the end of the task", || {
        master.last(task_id).filter(|s| ENDS.contains(&s.state()))
    })
    .await
}

/// The process that runs a task.
pub fn pid_of(work_dir: &Path, task_id: &str, file: &str) -> Option<u32> {
    let bytes = fs::read(work_dir.join("tasks").join(task_id).join(file)).ok()?;
    let id: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    u32::try_from(id["pid"].as_u64()?).ok()
}

pub fn runs_checks_adopts_and_ends_a_task() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let total = master.last_registration().agent.unwrap().total.unwrap();
        assert!(total.cpus_milli > 0 && total.mem_milli > 0 && total.disk_milli > 0);
        assert_eq!((total.ports[0].begin, total.ports[0].end), (31_000, 32_000));

        // Something that answers on a port, and a task checked through it.
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut web = spec("web.1", "echo started; exec sleep 1000");
        web.ports = vec![pb::TaskPort {
            host_port: port.into(),
            protocols: vec![1],
            ..Default::default()
        }];
        let probe = pb::TcpProbe {
            port_index: 0,
            port: None,
        };
        web.health_checks = vec![check(pb::health_check::Probe::Tcp(probe), 3)];
        master.send(launch(web.clone())).await;
        // Sent twice, started once.
        master.send(launch(web)).await;
        let healthy = |s: pb::TaskStatus| (s.health() == HealthState::HealthHealthy).then_some(s);
        until("healthy", || master.last("web.1").and_then(healthy)).await;
        assert_eq!(
            states(&master, "web.1"),
            [TaskState::TaskRunning, TaskState::TaskRunning]
        );
        let pid = pid_of(dir.path(), "web.1", "task.json").unwrap();
        if let Some(cgroups) = &cgroups {
            let procs = fs::read_to_string(cgroups.v2_tasks().join("web.1/cgroup.procs")).unwrap();
            assert_eq!(procs.trim(), pid.to_string());
        }
        let (code, log) = agent.get("/waggle/v1/tasks/web.1/log/stdout").await;
        assert_eq!((code, log.as_str()), (200, "started\n"));
        let (_, tasks) = agent.get("/waggle/v1/tasks").await;
        assert!(
            tasks.contains("\"healthy\"") && tasks.contains(&format!("\"pid\":{pid}")),
            "{tasks}"
        );
        assert_eq!(agent.get("/waggle/v1/tasks/web.1/log/x").await.0, 400);
        assert_eq!(agent.get("/waggle/v1/tasks/nope/log/stdout").await.0, 404);

        // The agent vanishes; the next one adopts the same process, still healthy.
        agent.vanish().await;
        assert!(runs(pid), "tasks outlive the agent");
        let _agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration again", || {
            (master.n_registrations() == 2).then_some(())
        })
        .await;
        let again = master.last_registration();
        assert_eq!(again.tasks.len(), 1);
        let latest = again.tasks[0].latest.clone().unwrap();
        assert_eq!(
            (latest.state(), latest.health()),
            (TaskState::TaskRunning, HealthState::HealthHealthy)
        );
        assert!(runs(pid));
        assert_eq!(pid_of(dir.path(), "web.1", "task.json"), Some(pid));

        // Its port goes away: unhealthy is noticed by the new agent too. Then it is killed.
        drop(listener);
        let unhealthy =
            |s: pb::TaskStatus| (s.health() == HealthState::HealthUnhealthy).then_some(s);
        until("unhealthy", || master.last("web.1").and_then(unhealthy)).await;
        master.send(kill("web.1")).await;
        let end = ended(&master, "web.1").await;
        assert!(
            matches!(end.state(), TaskState::TaskKilled | TaskState::TaskFailed),
            "{end:?}"
        );
        until("no process is left", || (!runs(pid)).then_some(())).await;
        until("it is forgotten", || {
            dir.path().join("tasks/web.1/done").exists().then_some(())
        })
        .await;
        if let Some(cgroups) = &cgroups {
            until("no cgroup is left", || {
                cgroups.tasks().is_empty().then_some(())
            })
            .await;
        }
    });
}

pub fn reports_what_ended_while_it_was_away() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let script = "while ! test -e go; do sleep 0.01; done; exit 7";
        master.send(launch(spec("away.1", script))).await;
        until("running", || master.last("away.1")).await;
        agent.vanish().await;
        fs::write(dir.path().join("tasks/away.1/sandbox/go"), "").unwrap();
        until("the exit record", || {
            dir.path()
                .join("tasks/away.1/exit.json")
                .exists()
                .then_some(())
        })
        .await;

        // Its end is sent and not acknowledged; the agent vanishes again.
        master.set_ack_ends(false);
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        let first = ended(&master, "away.1").await;
        assert_eq!(first.message, "command exited with status 7");
        assert_eq!(first.reason(), StatusReason::ReasonCommandExecutorFailed);
        agent.vanish().await;

        // The same update, not another one, until it is acknowledged; then never again.
        master.set_ack_ends(true);
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("acknowledged", || {
            dir.path().join("tasks/away.1/done").exists().then_some(())
        })
        .await;
        assert_eq!(
            states(&master, "away.1"),
            [TaskState::TaskRunning, TaskState::TaskFailed]
        );
        agent.vanish().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 4).then_some(())
        })
        .await;
        assert!(master.last_registration().tasks.is_empty());
    });
}

pub fn reports_unknown_when_the_shim_died() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        master.send(launch(spec("lost.1", "exec sleep 1000"))).await;
        until("running", || master.last("lost.1")).await;
        let shim = pid_of(dir.path(), "lost.1", "shim.json").unwrap();
        let task = pid_of(dir.path(), "lost.1", "task.json").unwrap();
        signal(shim, Signal::SIGKILL);
        let end = ended(&master, "lost.1").await;
        assert_eq!(end.reason(), StatusReason::ReasonExecutorTerminated);
        assert_eq!(end.message, "its shim died, exit code unknown");
        until("the task is gone too", || (!runs(task)).then_some(())).await;
        if let Some(cgroups) = &cgroups {
            until("no cgroup is left", || {
                cgroups.tasks().is_empty().then_some(())
            })
            .await;
        }
    });
}

pub fn kills_an_unhealthy_task() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let mut sick = spec("sick.1", "exec sleep 1000");
        let probe = pb::HttpProbe {
            statuses: Vec::new(),
            tls: false,
            path: "/".to_owned(),
            port_index: 0,
            port: Some(free_port().into()),
        };
        sick.health_checks = vec![check(pb::health_check::Probe::Http(probe), 2)];
        master.send(launch(sick)).await;
        let end = ended(&master, "sick.1").await;
        assert_eq!(end.state(), TaskState::TaskFailed);
        assert_eq!(end.health(), HealthState::HealthUnhealthy);
        assert_eq!(
            end.reason(),
            StatusReason::ReasonTaskHealthCheckStatusUpdated
        );
        let named = "health check 0 (http /): connect to 127.0.0.1:";
        let killed = format!("killed after 2 consecutive health check failures: {named}");
        assert!(end.message.starts_with(&killed), "{}", end.message);
        let unhealthy = &master.statuses("sick.1")[1];
        assert!(unhealthy.message.starts_with(named), "{unhealthy:?}");
        assert_eq!(
            states(&master, "sick.1"),
            [
                TaskState::TaskRunning,
                TaskState::TaskRunning,
                TaskState::TaskKilling,
                TaskState::TaskFailed
            ]
        );
    });
}

pub fn runs_command_checks_in_the_sandbox() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let mut task = spec("cmd.1", "echo up > flag; exec sleep 1000");
        task.env.insert("FLAG".to_owned(), "flag".to_owned());
        let probe = pb::health_check::Probe::Command("test -s \"$FLAG\"".to_owned());
        let mut patient = check(probe, 1);
        patient.grace_period_ms = 10_000;
        task.health_checks = vec![patient];
        master.send(launch(task)).await;
        let healthy = |s: pb::TaskStatus| (s.health() == HealthState::HealthHealthy).then_some(());
        until("healthy", || master.last("cmd.1").and_then(healthy)).await;
        master.send(kill("cmd.1")).await;
        let end = ended(&master, "cmd.1").await;
        assert_eq!(end.state(), TaskState::TaskKilled);
        assert_eq!(
            end.message,
            "killed as asked: command terminated with signal SIGTERM"
        );
    });
}

pub fn says_why_a_launch_failed() {
    block_on(async {
        let cgroups = CgroupRoot::new();
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], cgroups.as_ref()).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let mut task = spec("bad.1", "");
        let args = vec!["/no/such/program".to_owned()];
        task.command = Some(pb::task_spec::Command::Argv(pb::Argv { args }));
        master.send(launch(task)).await;
        let end = ended(&master, "bad.1").await;
        assert_eq!(end.reason(), StatusReason::ReasonContainerLaunchFailed);
        assert!(
            end.message
                .starts_with("failed to execute \"/no/such/program\""),
            "{}",
            end.message
        );

        let mut task = spec("bad.2", "true");
        task.user = Some("no-such-user".to_owned());
        master.send(launch(task)).await;
        let end = ended(&master, "bad.2").await;
        assert_eq!(
            end.message,
            "user: \"no-such-user\" does not exist on this node"
        );
        if let Some(cgroups) = &cgroups {
            until("no cgroup is left", || {
                cgroups.tasks().is_empty().then_some(())
            })
            .await;
        }
    });
}

pub fn reports_oom_as_such() {
    let Some(cgroups) = CgroupRoot::new() else {
        return;
    };
    let v1 = Path::new("/sys/fs/cgroup/memory").exists();
    if !v1
        && !fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|c| c.contains("memory"))
    {
        eprintln!("SKIP: no memory controller");
        return;
    }
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], Some(&cgroups)).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        master
            .send(launch(spec("oom.1", "exec tail /dev/zero")))
            .await;
        let end = ended(&master, "oom.1").await;
        assert_eq!(
            end.reason(),
            StatusReason::ReasonContainerLimitationMemory,
            "{end:?}"
        );
        assert!(
            end.message.contains("limit 67108864 bytes"),
            "{}",
            end.message
        );
        until("no cgroup is left", || {
            cgroups.tasks().is_empty().then_some(())
        })
        .await;
    });
}

pub fn finds_the_master_that_answers() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let master = Master::start().await;
        let _agent = Agent::start(dir.path(), vec![nobody, master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        // Without a network the desired state is answered honestly: not applied.
        let snapshot = pb::NetSnapshot {
            generation: 3,
            ..Default::default()
        };
        master.send(ToAgent::Desired(snapshot)).await;
        let applied = until("an answer", || master.applied().pop()).await;
        assert_eq!(applied.generation, 3);
        master.send(kill("unknown.1")).await;
        let dropped = until("an answer", || master.last("unknown.1")).await;
        assert_eq!(dropped.state(), TaskState::TaskDropped);
        assert!(dropped.uuid.is_empty());
    });
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub fn is_what_it_was_or_says_what_differs() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let at = TcpListener::bind(at).await.unwrap().local_addr().unwrap();
        let start = async |rack: &str, policy| {
            let change = |config: &mut AgentConfig| {
                config.reconfiguration = policy;
                config.attributes.insert("rack".into(), rack.into());
            };
            let prepared = Agent::prepared(Some(at), dir.path(), Vec::new(), None, change);
            let (config, listeners) = prepared.await;
            // It stops as soon as it has started.
            let stop = CancellationToken::new();
            stop.cancel();
            Box::pin(waggle_agent::run(
                config,
                listeners,
                Telemetry::disabled(),
                stop,
            ))
            .await
        };
        start("a1", Reconfiguration::Equal).await.unwrap();
        let refused = start("a2", Reconfiguration::Equal).await.unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("attribute rack was a1, is a2"), "{text}");
        start("a2", Reconfiguration::Any).await.unwrap();
        start("a2", Reconfiguration::Equal).await.unwrap();
    });
}
