//! Tasks with images, run by the machine's runc.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use waggle_agent::{
    AgentConfig,
    images::{ImageSettings, Images},
};
use waggle_api::proto::session::{
    self as pb, HealthState, StatusReason, TaskState, master_message::Kind as ToAgent,
};
use waggle_telemetry::Telemetry;
use waggle_tests_support::images::{Image, Layer};

use crate::{
    agent::{Agent, block_on, ended, launch, spec, until},
    master::Master,
    support::{CgroupRoot, runs, signal},
};

pub const IMAGE: &str = "localhost:5999/busybox:1";
pub const AS_APP: &str = "localhost:5999/app:1";

/// An agent with images, or a loud skip.
pub struct Node {
    dir: tempfile::TempDir,
    pub cgroups: CgroupRoot,
    pub master: Master,
    pub agent: Option<Agent>,
}

impl Node {
    pub async fn start(change: impl FnOnce(&mut AgentConfig)) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: containers need root");
            return None;
        }
        if Command::new("runc").arg("--version").output().is_err() {
            eprintln!("SKIP: runc is not installed");
            return None;
        }
        let cgroups = CgroupRoot::new()?;
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path(), ImageSettings::default(), Telemetry::disabled());
        let images = images.unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let app = Image::busybox()
            .unwrap()
            .set("User", "app")
            .set("WorkingDir", "/srv/app")
            .set("StopSignal", "SIGUSR1")
            .env("FROM", "image")
            .entrypoint(&["/bin/echo", "entry"])
            .cmd(&["point"]);
        for (image, name) in [(Image::busybox().unwrap(), IMAGE), (app, AS_APP)] {
            let layout = scratch.path().join(name.replace('/', "_"));
            image.write_layout(&layout, name).unwrap();
            images.load(&layout, None).unwrap();
        }
        drop(images);
        let master = Master::start().await;
        let mut node = Self {
            dir,
            cgroups,
            master,
            agent: None,
        };
        node.begin(change).await;
        Some(node)
    }

    pub async fn begin(&mut self, change: impl FnOnce(&mut AgentConfig)) {
        let n = self.master.n_registrations();
        let cgroups = Some(&self.cgroups);
        let masters = vec![self.master.addr];
        self.agent = Some(Agent::start_with(self.dir.path(), masters, cgroups, change).await);
        until("registration", || {
            (self.master.n_registrations() == n + 1).then_some(())
        })
        .await;
    }

    pub async fn vanish(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.vanish().await;
        }
    }

    pub async fn launch(&self, task: pb::TaskSpec) {
        self.master.send(launch(task)).await;
    }

    /// Runs a task to its end; what it wrote.
    pub async fn run(&self, task: pb::TaskSpec) -> (pb::TaskStatus, String) {
        let id = task.task_id.clone();
        self.launch(task).await;
        let end = ended(&self.master, &id).await;
        (end, self.output(&id, "stdout"))
    }

    pub async fn kill(&self, task_id: &str) -> pb::TaskStatus {
        let kill = pb::Kill {
            task_id: task_id.to_owned(),
            ..pb::Kill::default()
        };
        self.master.send(ToAgent::Kill(kill)).await;
        ended(&self.master, task_id).await
    }

    pub async fn running(&self, task_id: &str) -> pb::TaskStatus {
        until("running", || self.master.last(task_id)).await
    }

    pub async fn says(&self, task_id: &str, text: &str) {
        until(text, || {
            self.output(task_id, "stdout").contains(text).then_some(())
        })
        .await;
    }

    fn task_dir(&self, task_id: &str) -> PathBuf {
        self.dir.path().join("tasks").join(task_id)
    }

    pub fn output(&self, task_id: &str, stream: &str) -> String {
        let path = self.task_dir(task_id).join("sandbox").join(stream);
        fs::read_to_string(path).unwrap_or_default()
    }

    pub fn pid(&self, task_id: &str, file: &str) -> u32 {
        let bytes = fs::read(self.task_dir(task_id).join(file)).unwrap();
        let id: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        u32::try_from(id["pid"].as_u64().unwrap()).unwrap()
    }

    /// No mount, state, bundle, cgroup or process of any task stays behind.
    pub async fn leaves_nothing(&self) {
        let root = self.dir.path().to_owned();
        let name = self.cgroups.path.file_name().unwrap().to_owned();
        let left = || {
            let mut left = Vec::new();
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let ours = |l: &&str| l.contains(root.to_str().unwrap());
            left.extend(mounts.lines().filter(ours).map(ToOwned::to_owned));
            for dir in [root.join("runtime/state"), root.join("networks")] {
                let entries = fs::read_dir(dir).into_iter().flatten().flatten();
                let dirs = entries.filter(|e| e.path().is_dir());
                left.extend(dirs.map(|e| e.path().display().to_string()));
            }
            for task in fs::read_dir(root.join("tasks")).unwrap().flatten() {
                let bundle = task.path().join("bundle");
                left.extend(bundle.exists().then(|| bundle.display().to_string()));
            }
            // In every hierarchy, also those that only the runtime uses.
            for mount in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
                for holder in ["tasks", "waggle.tasks"] {
                    let dir = mount.path().join(&name).join(holder);
                    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
                    let dirs = entries.filter(|e| e.path().is_dir());
                    left.extend(dirs.map(|e| e.path().display().to_string()));
                }
            }
            left
        };
        let mut last = Vec::new();
        let waited = tokio::time::timeout(crate::support::PATIENCE, async {
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
            loop {
                tick.tick().await;
                last = left();
                if last.is_empty() {
                    return;
                }
            }
        });
        assert!(waited.await.is_ok(), "left behind: {last:#?}");
    }
}

impl Drop for Node {
    /// The runtime's own cgroups are in hierarchies that the guard does not know.
    fn drop(&mut self) {
        let name = self.cgroups.path.file_name().unwrap().to_owned();
        for mount in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            for holder in ["tasks", "waggle.tasks", ""] {
                let _ = fs::remove_dir(mount.path().join(&name).join(holder));
            }
        }
    }
}

pub fn contained(task_id: &str, image: &str, shell: &str) -> pb::TaskSpec {
    pb::TaskSpec {
        container: Some(pb::Container {
            image: Some(pb::Image {
                reference: image.to_owned(),
                ..pb::Image::default()
            }),
            ..pb::Container::default()
        }),
        ..spec(task_id, shell)
    }
}

fn isolated(mut task: pb::TaskSpec, change: impl FnOnce(&mut pb::Isolation)) -> pb::TaskSpec {
    let container = task.container.as_mut().unwrap();
    change(container.isolation.get_or_insert_default());
    task
}

pub fn runs_an_image() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        let script = "cat /www/index.html; pwd; echo $MESOS_SANDBOX $MESOS_TASK_ID; hostname; \
                      cat /etc/hosts; echo kept > file; echo oops >&2; exit 42";
        let (end, out) = node.run(contained("web.1", IMAGE, script)).await;
        assert_eq!(end.message, "command exited with status 42");
        assert_eq!(end.reason(), StatusReason::ReasonCommandExecutorFailed);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "hello from the image",
                "/mnt/mesos/sandbox",
                "/mnt/mesos/sandbox web.1",
                "web-1"
            ]
        );
        assert!(out.contains("127.0.0.1\tweb-1"), "{out}");
        assert_eq!(node.output("web.1", "stderr"), "oops\n");
        assert_eq!(
            node.output("web.1", "file"),
            "kept\n",
            "the sandbox is the host's"
        );

        // The image's own command, user, directory and environment.
        let mut own = contained("own.1", AS_APP, "");
        own.command = Some(pb::task_spec::Command::Image(pb::Argv { args: vec![] }));
        let (end, out) = node.run(own).await;
        assert_eq!(
            (end.state(), out.as_str()),
            (TaskState::TaskFinished, "entry point\n")
        );
        let mut own = contained("own.2", AS_APP, "");
        let args = vec!["args".to_owned()];
        own.command = Some(pb::task_spec::Command::Image(pb::Argv { args }));
        assert_eq!(node.run(own).await.1, "entry args\n");
        let mut as_app = contained(
            "own.3",
            AS_APP,
            "id; pwd; echo $HOME $FROM $MINE; touch $MESOS_SANDBOX/mine",
        );
        as_app.env = BTreeMap::from([("MINE".to_owned(), "task".to_owned())]);
        let (end, out) = node.run(as_app).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        assert_eq!(
            out,
            "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)\n/srv/app\n/srv/app image task\n"
        );
        let mut nobody = contained("own.4", AS_APP, "id -u; id -g; touch /mnt/mesos/sandbox/x");
        nobody.user = Some("65534:1000".to_owned());
        let (end, out) = node.run(nobody).await;
        assert_eq!(
            (end.state(), out.as_str()),
            (TaskState::TaskFinished, "65534\n1000\n")
        );
        node.leaves_nothing().await;
    });
}

pub fn is_isolated() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        let facts = "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status";
        let (_, out) = node.run(contained("root.1", IMAGE, facts)).await;
        let field = |out: &str, name: &str| {
            let line = out.lines().find(|l| l.starts_with(&format!("{name}:")));
            line.and_then(|l| l.split_whitespace().nth(1))
                .unwrap()
                .to_owned()
        };
        assert_eq!(field(&out, "CapEff"), "00000000a80425fb", "{out}");
        assert_eq!(field(&out, "CapBnd"), "00000000a80425fb");
        assert_eq!(field(&out, "CapInh"), "0000000000000000");
        assert_eq!(
            (field(&out, "NoNewPrivs"), field(&out, "Seccomp")),
            ("1".into(), "2".into())
        );
        let (_, out) = node.run(contained("app.1", AS_APP, facts)).await;
        for set in ["CapEff", "CapBnd", "CapPrm", "CapAmb"] {
            assert_eq!(field(&out, set), "0000000000000000", "{set}");
        }

        // Each of these is refused; root inside tries.
        let tries = "t() { \"$@\" > /dev/null 2>&1 && echo \"$@\" works; }; \
            t mount -t tmpfs none /tmp; t unshare -m true; t unshare -U true; \
            t mknod /tmp/disk b 8 0 && t cat /tmp/disk; t sh -c 'echo 1 > /proc/sys/kernel/panic'; \
            t sh -c 'echo b > /proc/sysrq-trigger'; t cat /proc/kcore; t ls /proc/1/ro*/proc/kcore/x; \
            t sh -c 'echo x > /sys/kernel/profiling'; t dmesg; t chroot /proc/1/root /bin/nothing; \
            ls /proc | grep -c '^[0-9]'; ls /dev | tr '\\n' ' '; cat /proc/1/comm; \
            for n in pid ipc uts mnt net cgroup; do readlink /proc/self/ns/$n; done";
        let (_, out) = node.run(contained("tries.1", IMAGE, tries)).await;
        assert!(
            !out.contains("mount -t") && !out.contains("unshare"),
            "{out}"
        );
        assert!(
            !out.contains("cat /tmp/disk") && !out.contains("sh -c"),
            "{out}"
        );
        assert!(!out.contains("dmesg works"), "{out}");
        assert!(
            !out.contains("kcore works") || !out.contains("cat /proc/kcore works\n1"),
            "{out}"
        );
        assert!(
            out.contains(
                "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
            ),
            "{out}"
        );
        assert!(
            out.contains("\n.waggle-init\n") || out.contains("waggle-init"),
            "{out}"
        );
        for kind in ["pid", "ipc", "uts", "mnt", "cgroup"] {
            let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert!(!out.contains(host.to_str().unwrap()), "{kind}: {out}");
        }
        let n: u32 = out.lines().find_map(|l| l.parse().ok()).unwrap();
        assert!(n < 8, "only its own processes: {out}");

        // Who is not root makes no node at all.
        let (_, out) = node
            .run(contained(
                "tries.2",
                AS_APP,
                "cd /tmp; mknod n c 1 3 2>&1; echo $?",
            ))
            .await;
        assert!(out.ends_with("\n1\n"), "{out}");

        // What is asked for.
        let script = "touch /etc/x 2>/dev/null || echo read-only; touch /mnt/mesos/sandbox/x && echo sandbox; \
                      df -k /data | tail -1; df -k /dev/shm | tail -1; touch /data/y && echo data; ulimit -n";
        let mut asked = isolated(contained("asked.1", IMAGE, script), |i| {
            i.read_only_root = true;
        });
        let container = asked.container.as_mut().unwrap();
        container.mounts = vec![pb::Mount {
            target: "/data".to_owned(),
            read_only: false,
            source: Some(pb::mount::Source::MemoryMib(8)),
        }];
        container.limits = Some(pb::Ceilings {
            shm_mib: Some(16),
            rlimits: [(
                "nofile".to_owned(),
                pb::Rlimit {
                    soft: Some(77),
                    hard: Some(99),
                },
            )]
            .into(),
            ..pb::Ceilings::default()
        });
        let (end, out) = node.run(asked).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        let words: Vec<&str> = out.split_whitespace().collect();
        for word in ["read-only", "sandbox", "8192", "16384", "data", "77"] {
            assert!(words.contains(&word), "{word}: {out}");
        }
        node.leaves_nothing().await;
    });
}

pub fn maps_users() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        // As /var/lib is: the namespace's root is nobody on the way to its files.
        fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let script = "id -u; cat /proc/self/uid_map; touch own && echo made; cat /www/index.html; \
                      touch /www/x && echo image; chown 5 own && echo chowned; head -c1 /dev/null; echo done";
        let task = isolated(contained("users.1", IMAGE, script), |i| {
            i.user_namespace = true;
        });
        let (end, out) = node.run(task).await;
        assert_eq!(
            end.state(),
            TaskState::TaskFinished,
            "{end:?} {}",
            node.output("users.1", "stderr")
        );
        let words: Vec<&str> = out.split_whitespace().collect();
        assert_eq!(words[..4], ["0", "0", "1073741824", "65536"], "{out}");
        for word in ["made", "hello", "image", "chowned", "done"] {
            assert!(words.contains(&word), "{word}: {out}");
        }
        let own = fs::metadata(node.task_dir("users.1").join("sandbox/own")).unwrap();
        assert_eq!(own.uid(), 1_073_741_824 + 5);
        node.leaves_nothing().await;
    });
}

pub fn ends_as_it_should() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        // Every process of it is asked, by the image's signal.
        let script = "trap 'echo asked; wait $child; exit 3' USR1; sh -c 'trap \"echo child; exit\" USR1; \
                      echo ready; while :; do sleep 0.01; done' & child=$!; wait; wait";
        node.launch(contained("asked.1", AS_APP, script)).await;
        node.says("asked.1", "ready").await;
        let end = node.kill("asked.1").await;
        assert_eq!(end.message, "killed as asked: command exited with status 3");
        let out = node.output("asked.1", "stdout");
        assert!(out.contains("asked") && out.contains("child"), "{out}");

        // One that does not listen is killed after its grace, with all that it started.
        let script = "trap '' TERM; setsid sleep 1000 & echo ready; while :; do sleep 0.01; done";
        let mut stubborn = contained("stubborn.1", IMAGE, script);
        stubborn.kill_grace_ms = 200;
        node.launch(stubborn).await;
        node.says("stubborn.1", "ready").await;
        let init = node.pid("stubborn.1", "task.json");
        let end = node.kill("stubborn.1").await;
        assert_eq!(
            end.message,
            "killed as asked: command terminated with signal SIGKILL"
        );
        assert!(!runs(init));

        // A signal is a signal, not 128 and something.
        let (end, _) = node
            .run(contained("signal.1", IMAGE, "kill -SEGV $$"))
            .await;
        assert_eq!(end.message, "command terminated with signal SIGSEGV");
        let (end, _) = node.run(contained("code.1", IMAGE, "exit 139")).await;
        assert_eq!(end.message, "command exited with status 139");
        // What it left behind ends with it.
        let (end, _) = node
            .run(contained("left.1", IMAGE, "setsid sleep 1000 & exit 0"))
            .await;
        assert_eq!(end.state(), TaskState::TaskFinished);

        let (end, _) = node
            .run(contained("oom.1", IMAGE, "exec tail /dev/zero"))
            .await;
        assert_eq!(
            end.reason(),
            StatusReason::ReasonContainerLimitationMemory,
            "{end:?}"
        );
        assert!(
            end.message.contains("limit 67108864 bytes, peak 6"),
            "{}",
            end.message
        );
        node.leaves_nothing().await;
    });
}

pub fn reaps_orphans() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        // Each is left by its parent, and ends when nobody waits for it.
        let script = "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.01 & sleep 0.01 &) ; done; echo left; \
                      while ! test -e go; do sleep 0.02; done; \
                      grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
        node.launch(contained("orphans.1", IMAGE, script)).await;
        node.says("orphans.1", "left").await;
        let procs = || {
            let dir = node.cgroups.v2_tasks().join("orphans.1/cgroup.procs");
            fs::read_to_string(dir).unwrap().lines().count()
        };
        // The init, the shell, and its own sleep at times.
        until("the orphans are gone", || (procs() <= 3).then_some(())).await;
        fs::write(node.task_dir("orphans.1").join("sandbox/go"), "").unwrap();
        let end = ended(&node.master, "orphans.1").await;
        assert_eq!(end.state(), TaskState::TaskFinished);
        assert_eq!(node.output("orphans.1", "stdout"), "left\n0\n");
        node.leaves_nothing().await;
    });
}

pub fn outlives_the_agent() {
    block_on(async {
        let Some(mut node) = Node::start(|_| ()).await else {
            return;
        };
        let mut task = contained("long.1", AS_APP, "echo up > /tmp/flag; exec sleep 1000");
        let probe = "test -s /tmp/flag && test $(id -u) = 1000 && test $FROM = image && \
                     test $(pwd) = /srv/app && grep -q 'Seccomp:.2' /proc/self/status && \
                     grep -q 'NoNewPrivs:.1' /proc/self/status && \
                     grep -q 'CapBnd:.0000000000000000' /proc/self/status && \
                     ! unshare -U true 2>/dev/null && test $(cat /proc/1/comm) = .waggle-init";
        task.health_checks = vec![pb::HealthCheck {
            probe: Some(pb::health_check::Probe::Command(probe.to_owned())),
            grace_period_ms: 10_000,
            interval_ms: 50,
            timeout_ms: 5000,
            max_consecutive_failures: 3,
            keep_response: false,
            ..pb::HealthCheck::default()
        }];
        node.launch(task).await;
        let healthy = |s: pb::TaskStatus| (s.health() == HealthState::HealthHealthy).then_some(());
        until("healthy inside", || {
            node.master.last("long.1").and_then(healthy)
        })
        .await;
        let init = node.pid("long.1", "task.json");
        // Attribution: it is in the cgroup whose id BPF programs know.
        let v2 = node.cgroups.v2_tasks().join("long.1/cgroup.procs");
        let procs = fs::read_to_string(v2).unwrap();
        assert!(procs.lines().any(|p| p == init.to_string()), "{procs}");

        node.vanish().await;
        node.begin(|_| ()).await;
        assert!(runs(init));
        assert_eq!(node.pid("long.1", "task.json"), init);
        assert_eq!(node.master.last_registration().tasks.len(), 1);
        let end = node.kill("long.1").await;
        assert_eq!(end.state(), TaskState::TaskKilled);
        assert!(!runs(init));
        node.leaves_nothing().await;

        // One that ends while no agent is there: its code is known afterwards.
        let script = "while ! test -e go; do sleep 0.01; done; exit 7";
        node.launch(contained("away.1", IMAGE, script)).await;
        node.running("away.1").await;
        node.vanish().await;
        fs::write(node.task_dir("away.1").join("sandbox/go"), "").unwrap();
        let exit = node.task_dir("away.1").join("exit.json");
        until("the exit record", || exit.exists().then_some(())).await;
        node.begin(|_| ()).await;
        let end = ended(&node.master, "away.1").await;
        assert_eq!(end.message, "command exited with status 7");
        node.leaves_nothing().await;
    });
}

pub fn is_cleaned_up_without_its_shim() {
    block_on(async {
        let Some(mut node) = Node::start(|_| ()).await else {
            return;
        };
        node.launch(contained("lost.1", IMAGE, "sleep 1000")).await;
        node.running("lost.1").await;
        let init = node.pid("lost.1", "task.json");
        signal(node.pid("lost.1", "shim.json"), Signal::SIGKILL);
        let end = ended(&node.master, "lost.1").await;
        assert_eq!(end.message, "its shim died, exit code unknown");
        until("the container is gone too", || (!runs(init)).then_some(())).await;
        node.leaves_nothing().await;

        // The same while no agent is there, and state of a container that nobody knows.
        node.launch(contained("lost.2", IMAGE, "sleep 1000")).await;
        node.running("lost.2").await;
        node.vanish().await;
        let init = node.pid("lost.2", "task.json");
        signal(node.pid("lost.2", "shim.json"), Signal::SIGKILL);
        let stray = node.dir.path().join("runtime/state/stray.1");
        fs::create_dir_all(&stray).unwrap();
        fs::write(stray.join("state.json"), "{").unwrap();
        node.begin(|_| ()).await;
        let end = ended(&node.master, "lost.2").await;
        assert_eq!(end.message, "its shim died, exit code unknown");
        until("the container is gone too", || (!runs(init)).then_some(())).await;
        node.leaves_nothing().await;
    });
}

pub fn says_why_not() {
    block_on(async {
        let Some(mut node) = Node::start(|_| ()).await else {
            return;
        };
        let failed = async |node: &Node, task: pb::TaskSpec| {
            let (end, _) = node.run(task).await;
            assert_eq!(
                end.reason(),
                StatusReason::ReasonContainerLaunchFailed,
                "{end:?}"
            );
            end.message
        };
        let mut bad = contained("bad.1", IMAGE, "");
        let args = vec!["no-such-program".to_owned()];
        bad.command = Some(pb::task_spec::Command::Argv(pb::Argv { args }));
        assert_eq!(
            failed(&node, bad).await,
            "failed to execute \"no-such-program\" in the image: No such file or directory (os error 2)"
        );
        let mut bad = contained("bad.2", IMAGE, "true");
        bad.user = Some("somebody".to_owned());
        assert_eq!(
            failed(&node, bad).await,
            "user: \"somebody\" does not exist in the image"
        );
        let bad = isolated(contained("bad.3", IMAGE, "true"), |i| i.privileged = true);
        let why = failed(&node, bad).await;
        assert!(why.starts_with("container.isolation.privileged: "), "{why}");
        let bad = isolated(contained("bad.4", IMAGE, "true"), |i| {
            i.seccomp = Some(pb::isolation::Seccomp::SeccompProfile("mine".to_owned()));
        });
        let why = failed(&node, bad).await;
        assert!(why.contains("--seccomp-profiles"), "{why}");
        node.leaves_nothing().await;

        // Without a runtime only tasks with images are refused.
        node.vanish().await;
        node.begin(|c| c.runtime.program = PathBuf::from("/no/such/runc"))
            .await;
        let why = failed(&node, contained("bad.5", IMAGE, "true")).await;
        assert!(
            why.starts_with("container.image: the OCI runtime /no/such/runc is not there"),
            "{why}"
        );
        let (end, _) = node.run(spec("plain.1", "true")).await;
        assert_eq!(end.state(), TaskState::TaskFinished);
        node.leaves_nothing().await;
    });
}

pub fn is_killed_while_its_image_is_pulled() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        // A registry that takes calls and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let image = format!("{}/app:1", silent.local_addr().unwrap());
        node.launch(contained("pull.1", &image, "true")).await;
        let call = silent.accept().await.unwrap();
        let end = node.kill("pull.1").await;
        assert_eq!(end.state(), TaskState::TaskKilled);
        assert_eq!(end.message, "killed as asked: it was not started yet");
        drop(silent);
        drop(call);
        node.leaves_nothing().await;
    });
}

pub fn has_what_its_node_allows() {
    block_on(async {
        let profiles = tempfile::tempdir().unwrap();
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
        fs::write(profiles.path().join("no-mkdir.json"), profile).unwrap();
        let dir = profiles.path().to_owned();
        let Some(node) = Node::start(|c| {
            c.policy.privileged = true;
            c.policy.unconfined = true;
            c.policy.capabilities = true;
            c.policy.devices = true;
            c.policy.host_ipc = true;
            c.runtime.seccomp_dir = Some(dir);
        })
        .await
        else {
            return;
        };
        let script =
            "mkdir /tmp/x || echo refused; mount -t tmpfs none /tmp 2>/dev/null || echo no mount";
        let task = isolated(contained("profile.1", IMAGE, script), |i| {
            i.seccomp = Some(pb::isolation::Seccomp::SeccompProfile(
                "no-mkdir".to_owned(),
            ));
        });
        assert_eq!(node.run(task).await.1, "refused\nno mount\n");
        let script = "mount -t tmpfs none /tmp && echo mounted; grep Seccomp: /proc/self/status; test -e /dev/kmsg || echo no kmsg";
        let task = isolated(contained("all.1", IMAGE, script), |i| i.privileged = true);
        let (end, out) = node.run(task).await;
        assert!(out.starts_with("mounted\nSeccomp:\t0\n"), "{out} {end:?}");
        let task = isolated(
            contained(
                "caps.1",
                AS_APP,
                "grep CapEff /proc/self/status; test -c /dev/loop-control; echo $?",
            ),
            |i| {
                i.cap_add = vec!["NET_ADMIN".to_owned()];
                i.seccomp = Some(pb::isolation::Seccomp::SeccompUnconfined(pb::Empty {}));
                i.host_ipc = true;
            },
        );
        let (_, out) = node.run(task).await;
        assert!(out.contains("0000000000001000"), "{out}");
        let candidates = [
            "/dev/fuse",
            "/dev/loop-control",
            "/dev/net/tun",
            "/dev/nvram",
        ];
        if let Some(path) = candidates.into_iter().find(|p| Path::new(p).exists()) {
            let open = format!("true < {path} && echo opened");
            let shell = format!("{open}; mknod /tmp/kmsg c 1 11; true < /tmp/kmsg || echo denied");
            let task = isolated(contained("device.1", IMAGE, &shell), |i| {
                i.devices = [(path.to_owned(), "rw".to_owned())].into();
            });
            let (end, out) = node.run(task).await;
            assert_eq!(out, "opened\ndenied\n", "{end:?}");
        } else {
            eprintln!("SKIP: no device to hand over");
        }
        node.leaves_nothing().await;
    });
}

pub fn has_a_terminal() {
    block_on(async {
        let Some(node) = Node::start(|_| ()).await else {
            return;
        };
        let script =
            "tty; test -t 0 && test -t 1 && test -t 2 && echo terminal; echo err >&2; exit 5";
        let mut task = contained("tty.1", IMAGE, script);
        task.container.as_mut().unwrap().tty = true;
        let (end, out) = node.run(task).await;
        assert_eq!(end.message, "command exited with status 5");
        let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
        assert_eq!(lines[..2], ["/dev/pts/0", "terminal"], "{out}");
        assert!(lines.contains(&"err"), "stderr is the terminal, too: {out}");
        node.leaves_nothing().await;
    });
}

/// An image without anything but a program: no shell, no /etc, no library.
pub fn runs_from_scratch() {
    block_on(async {
        let Some(mut node) = Node::start(|_| ()).await else {
            return;
        };
        node.vanish().await;
        let busybox = fs::read("/bin/busybox").or_else(|_| fs::read("/usr/bin/busybox"));
        let layer = Layer::new().file("busybox", 0o755, &busybox.unwrap());
        let image = Image::new()
            .layer(layer)
            .entrypoint(&["/busybox", "echo"])
            .cmd(&["hi"]);
        let scratch = tempfile::tempdir().unwrap();
        image
            .write_layout(scratch.path(), "localhost:5999/scratch:1")
            .unwrap();
        let settings = ImageSettings::default();
        let images = Images::open(node.dir.path(), settings, Telemetry::disabled()).unwrap();
        images.load(scratch.path(), None).unwrap();
        drop(images);
        node.begin(|_| ()).await;
        let mut task = contained("scratch.1", "localhost:5999/scratch:1", "");
        task.command = Some(pb::task_spec::Command::Image(pb::Argv { args: vec![] }));
        let (end, out) = node.run(task).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        assert_eq!(out, "hi\n");
        node.leaves_nothing().await;
    });
}
