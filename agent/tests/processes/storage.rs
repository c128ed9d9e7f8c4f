//! Sandboxes, fetched files, volumes and what databases make of them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use waggle_agent::{
    AgentConfig,
    images::{ImageSettings, Images},
};
use waggle_api::proto::session::{
    self as pb, StatusReason, TaskState, master_message::Kind as ToAgent,
};
use waggle_telemetry::Telemetry;
use waggle_tests_support::images::Image;

use crate::{
    agent::{Agent, block_on, ended, launch, spec, until},
    master::Master,
    support::{CgroupRoot, runs, signal},
};

/// Where Debian's postgresql-15 keeps its programs.
const POSTGRES: &str = "/usr/lib/postgresql/15/bin";
const IMAGE: &str = "localhost:5999/busybox:1";

struct Node {
    dir: tempfile::TempDir,
    master: Master,
    agent: Option<Agent>,
    cgroups: Option<CgroupRoot>,
}

impl Node {
    async fn start(change: impl FnOnce(&mut AgentConfig)) -> Self {
        let mut node = Self {
            dir: tempfile::tempdir().unwrap(),
            master: Master::start().await,
            agent: None,
            cgroups: None,
        };
        // Users of tasks must get to their sandboxes.
        fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        node.begin(change).await;
        node
    }

    async fn begin(&mut self, change: impl FnOnce(&mut AgentConfig)) {
        let n = self.master.n_registrations();
        let masters = vec![self.master.addr];
        let cgroups = self.cgroups.as_ref();
        self.agent = Some(Agent::start_with(self.dir.path(), masters, cgroups, change).await);
        until("registration", || {
            (self.master.n_registrations() == n + 1).then_some(())
        })
        .await;
    }

    async fn vanish(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.vanish().await;
        }
    }

    async fn launch(&self, task: pb::TaskSpec) {
        self.master.send(launch(task)).await;
    }

    async fn end(&self, task_id: &str) -> pb::TaskStatus {
        ended(&self.master, task_id).await
    }

    async fn kill(&self, task_id: &str) -> pb::TaskStatus {
        let kill = pb::Kill {
            task_id: task_id.to_owned(),
            ..pb::Kill::default()
        };
        self.master.send(ToAgent::Kill(kill)).await;
        self.end(task_id).await
    }

    fn sandbox(&self, task_id: &str) -> PathBuf {
        self.dir.path().join("tasks").join(task_id).join("sandbox")
    }

    fn pid(&self, task_id: &str) -> Option<u32> {
        let bytes = fs::read(
            self.dir
                .path()
                .join("tasks")
                .join(task_id)
                .join("task.json"),
        )
        .ok()?;
        let id: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        u32::try_from(id["pid"].as_u64()?).ok()
    }
}

/// With so much disk, in MiB, and this volume of so many.
fn with_disk(mut task: pb::TaskSpec, disk: i64, volume: Option<(&str, i64)>) -> pb::TaskSpec {
    let resources = task.resources.get_or_insert_default();
    resources.disk_milli = disk * 1000;
    if let Some((id, mib)) = volume {
        let volume = pb::Volume {
            size_milli: mib * 1000,
            shared: false,
        };
        resources.volumes.insert(id.to_owned(), volume);
    }
    task
}

/// A task over its disk is ended and told why; one within it runs on.
pub fn kills_a_task_over_its_disk() {
    block_on(async {
        let quick = |c: &mut AgentConfig| {
            c.storage.disk_watch = Duration::from_millis(100);
            c.storage.enforce_disk = true;
        };
        let mut node = Node::start(quick).await;
        let fill = "dd if=/dev/zero of=big bs=1M count=4 2>/dev/null; exec sleep 1000";
        let small = "dd if=/dev/zero of=big bs=1M count=1 2>/dev/null; exec sleep 1000";
        node.launch(with_disk(spec("small.1", small), 3, None))
            .await;
        // No disk asked for: none is enforced, as in Mesos.
        node.launch(with_disk(spec("any.1", fill), 0, None)).await;
        node.launch(with_disk(spec("big.1", fill), 3, None)).await;
        let end = node.end("big.1").await;
        assert_eq!(end.state(), TaskState::TaskFailed);
        assert_eq!(end.reason(), StatusReason::ReasonContainerLimitationDisk);
        assert!(
            end.message
                .starts_with("disk limit exceeded: its sandbox holds 4.0 MiB (")
                && end.message.ends_with("its limit is 3.0 MiB"),
            "{}",
            end.message
        );
        // The volume counts by itself.
        let volume = "dd if=/dev/zero of=volumes/db/big bs=1M count=4 2>/dev/null; exec sleep 1000";
        node.launch(with_disk(spec("db.1", volume), 1, Some(("db", 2))))
            .await;
        let end = node.end("db.1").await;
        assert_eq!(end.reason(), StatusReason::ReasonContainerLimitationDisk);
        assert!(
            end.message.contains("volume db holds 4.0 MiB"),
            "{}",
            end.message
        );
        let data = node.dir.path().join("volumes/db/big");
        assert!(data.exists(), "nothing of the volume is lost");
        for alive in ["small.1", "any.1"] {
            assert!(runs(node.pid(alive).unwrap()), "{alive}");
        }
        // Only told where nothing is enforced.
        node.vanish().await;
        node.begin(|c| c.storage.disk_watch = Duration::from_millis(100))
            .await;
        node.launch(with_disk(spec("big.2", fill), 1, None)).await;
        let big = node.sandbox("big.2").join("big");
        until("it is written", || {
            fs::metadata(&big).ok().filter(|m| m.len() == 4 << 20)
        })
        .await;
        node.launch(with_disk(spec("after.1", "true"), 1, None))
            .await;
        node.end("after.1").await;
        assert!(runs(node.pid("big.2").unwrap()));
        for task in ["small.1", "any.1", "big.2"] {
            node.kill(task).await;
        }
    });
}

/// Sandboxes of ended tasks go, oldest first; those of running tasks stay.
pub fn removes_old_sandboxes() {
    block_on(async {
        let node = Node::start(|c| c.kept_sandboxes = 2).await;
        node.launch(spec("lives.1", "exec sleep 1000")).await;
        let there = |id: &str| node.dir.path().join("tasks").join(id).exists();
        for n in 1..=4 {
            let id = format!("short.{n}");
            node.launch(spec(&id, "mkdir -p a/b; ln -s / a/b/root"))
                .await;
            assert_eq!(node.end(&id).await.state(), TaskState::TaskFinished);
            // Its end is acknowledged before the next one begins.
            let done = node.dir.path().join("tasks").join(&id).join("done");
            until("it is done", || {
                (done.exists() || !there(&id)).then_some(())
            })
            .await;
        }
        let gone = node.dir.path().join("tasks-gone");
        until("the old ones are gone", || {
            let left = ["short.1", "short.2"].iter().any(|id| there(id));
            let trash = fs::read_dir(&gone).map_or(0, Iterator::count);
            (!left && trash == 0).then_some(())
        })
        .await;
        assert!(there("short.3") && there("short.4") && there("lives.1"));
        assert!(Path::new("/etc/passwd").exists());
        node.kill("lives.1").await;
    });
}

/// What a task names is in its sandbox before it starts; what can't be had is told.
pub fn fetches_before_the_start() {
    block_on(async {
        let node = Node::start(|_| ()).await;
        let files = tempfile::tempdir().unwrap();
        let script = files.path().join("läuft.sh");
        fs::write(&script, "#!/bin/sh\ncat d/größe.txt\n").unwrap();
        fs::create_dir(files.path().join("d")).unwrap();
        fs::write(files.path().join("d/größe.txt"), "unpacked").unwrap();
        let archive = files.path().join("x.tar.gz");
        let tar = Command::new("tar")
            .arg("-C")
            .arg(files.path())
            .args(["-czf"])
            .arg(&archive)
            .arg("d")
            .status();
        assert!(tar.unwrap().success());
        let uri = |path: &Path, extract, executable| pb::Fetch {
            uri: format!("file://{}", path.display()),
            extract,
            executable,
            ..pb::Fetch::default()
        };
        let mut task = spec("fetch.1", "exec ./läuft.sh");
        task.container = Some(pb::Container {
            fetch: vec![uri(&script, false, true), uri(&archive, true, false)],
            ..pb::Container::default()
        });
        node.launch(task.clone()).await;
        let end = node.end("fetch.1").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{}", end.message);
        let out = fs::read_to_string(node.sandbox("fetch.1").join("stdout")).unwrap();
        assert_eq!(out, "unpacked");
        "fetch.2".clone_into(&mut task.task_id);
        fs::remove_file(&archive).unwrap();
        node.launch(task).await;
        let end = node.end("fetch.2").await;
        assert_eq!(end.reason(), StatusReason::ReasonContainerLaunchFailed);
        assert!(
            end.message.starts_with("failed to fetch file://")
                && end.message.contains("No such file"),
            "{}",
            end.message
        );
    });
}

/// Snapshots over the agent's API: taken while a task writes, restored when it has ended.
pub fn takes_snapshots_and_restores_them() {
    block_on(async {
        let node = Node::start(|_| ()).await;
        let agent = node.agent.as_ref().unwrap();
        let on = |id: &str, shell: &str| with_disk(spec(id, shell), 0, Some(("db", 100)));
        node.launch(on("w.1", "echo one > volumes/db/x; exec sleep 1000"))
            .await;
        let x = node.dir.path().join("volumes/db/x");
        let says = |text: &str| fs::read_to_string(&x).ok().filter(|t| t.trim() == text);
        until("it is written", || says("one")).await;
        let name = |n: &str| format!("{{\"name\":\"{n}\"}}");
        let (status, body) = agent
            .send("POST", "/waggle/v1/volumes/db/snapshots", &name("s1"))
            .await;
        assert_eq!(status, 201, "{body}");
        assert!(body.contains("\"consistent\":false"), "{body}");
        fs::write(&x, "two").unwrap();
        let restore = "/waggle/v1/volumes/db/restore";
        let (status, body) = agent.send("POST", restore, &name("s1")).await;
        assert_eq!(status, 409, "{body}");
        assert!(body.contains("is used by w.1"), "{body}");
        node.kill("w.1").await;
        // It lets go of the volume in the background.
        let mut restored = (409, String::new());
        while restored.0 == 409 {
            restored = agent.send("POST", restore, &name("s1")).await;
        }
        assert_eq!(restored.0, 200, "{}", restored.1);
        assert!(says("one").is_some());
        let (status, body) = agent.get("/waggle/v1/volumes?usage=true").await;
        assert_eq!(status, 200, "{body}");
        let all: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(all[0]["id"], "db");
        assert_eq!(all[0]["snapshots"][0]["name"], "s1");
        assert!(all[0]["used_bytes"].as_u64().unwrap() > 0);
        let (status, body) = agent.send("POST", restore, &name("none")).await;
        assert_eq!(status, 404, "{body}");
        let (status, body) = agent.send("POST", restore, "{\"name\":\"../x\"}").await;
        assert_eq!(status, 422, "{body}");
        let gone = "/waggle/v1/volumes/db/snapshots/s1";
        assert_eq!(agent.send("DELETE", gone, "").await.0, 200);
        assert_eq!(agent.send("DELETE", gone, "").await.0, 404);
    });
}

/// PostgreSQL on a volume: what was committed is there after kill -9 of the task, of the agent, and of both.
pub fn keeps_a_database_through_kills() {
    let user = nix::unistd::User::from_name("postgres").ok().flatten();
    if !nix::unistd::geteuid().is_root() || user.is_none() || !Path::new(POSTGRES).exists() {
        eprintln!("SKIP: PostgreSQL needs root and the package postgresql-15");
        return;
    }
    block_on(async {
        let mut node = Node::start(|_| ()).await;
        let script = format!(
            "set -e; D=$PWD/volumes/db/data; \
             [ -d $D ] || {POSTGRES}/initdb -D $D -A trust >/dev/null; \
             exec {POSTGRES}/postgres -D $D -k $PWD -c listen_addresses="
        );
        let pg = |id: &str| pb::TaskSpec {
            user: Some("postgres".to_owned()),
            kill_grace_ms: 10_000,
            resources: Some(pb::Resources {
                cpus_milli: 100,
                mem_milli: 512_000,
                ..pb::Resources::default()
            }),
            ..with_disk(spec(id, &script), 0, None)
        };
        let on_volume = |id: &str| with_disk(pg(id), 0, Some(("db", 1000)));
        let sql = |node: &Node, id: &str, text: &str| {
            let out = Command::new(format!("{POSTGRES}/psql"))
                .args(["-U", "postgres", "-tAX", "-h"])
                .arg(node.sandbox(id))
                .args(["-c", text, "postgres"])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            out.status.success().then_some(text)
        };
        let count = |node: &Node, id: &str| sql(node, id, "select count(*) from t");
        node.launch(on_volume("pg.1")).await;
        until("it answers", || sql(&node, "pg.1", "select 1")).await;
        sql(
            &node,
            "pg.1",
            "create table t as select generate_series(1, 1000) n",
        )
        .unwrap();

        // The task alone.
        signal(node.pid("pg.1").unwrap(), Signal::SIGKILL);
        assert_eq!(node.end("pg.1").await.state(), TaskState::TaskFailed);
        node.launch(on_volume("pg.2")).await;
        until("it is back", || sql(&node, "pg.2", "select 1")).await;
        assert_eq!(count(&node, "pg.2").as_deref(), Some("1000"));
        sql(
            &node,
            "pg.2",
            "insert into t select generate_series(1001, 1500)",
        )
        .unwrap();

        // The agent alone: the database does not notice.
        let pid = node.pid("pg.2").unwrap();
        node.vanish().await;
        assert_eq!(count(&node, "pg.2").as_deref(), Some("1500"));
        node.begin(|_| ()).await;
        assert_eq!(node.pid("pg.2"), Some(pid));
        sql(
            &node,
            "pg.2",
            "insert into t select generate_series(1501, 2000)",
        )
        .unwrap();

        // Both at once; and the master says which volumes there are.
        node.vanish().await;
        signal(pid, Signal::SIGKILL);
        node.begin(|_| ()).await;
        assert_eq!(node.end("pg.2").await.state(), TaskState::TaskFailed);
        let volumes = pb::Volumes {
            volume_ids: vec!["db".to_owned()],
            destroyed: vec![],
        };
        node.master.send(ToAgent::Volumes(volumes)).await;
        node.launch(on_volume("pg.3")).await;
        until("it is back again", || sql(&node, "pg.3", "select 1")).await;
        assert_eq!(count(&node, "pg.3").as_deref(), Some("2000"));
        assert_eq!(node.kill("pg.3").await.state(), TaskState::TaskKilled);
        let data = node.dir.path().join("volumes/db/data/PG_VERSION");
        assert!(data.exists(), "a task's death is no word");
    });
}

/// Volumes, paths of the host and what a pod shares, inside an image.
pub fn mounts_into_containers() {
    if !nix::unistd::geteuid().is_root() || Command::new("runc").arg("--version").output().is_err()
    {
        eprintln!("SKIP: containers need root and runc");
        return;
    }
    let Some(cgroups) = CgroupRoot::new() else {
        return;
    };
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let images = Images::open(dir.path(), ImageSettings::default(), Telemetry::disabled());
        let scratch = tempfile::tempdir().unwrap();
        let layout = scratch.path().join("image");
        Image::busybox()
            .unwrap()
            .write_layout(&layout, IMAGE)
            .unwrap();
        images.unwrap().load(&layout, None).unwrap();
        let host = scratch.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("x"), "from the host").unwrap();
        let mut node = Node {
            dir,
            master: Master::start().await,
            agent: None,
            cgroups: Some(cgroups),
        };
        let allowed = host.clone();
        node.begin(move |c| c.policy.host_paths = vec![allowed])
            .await;
        let mount = |target: &str, source, read_only| pb::Mount {
            target: target.to_owned(),
            read_only,
            source: Some(source),
        };
        let contained = |id: &str, shell: &str, mounts| {
            let mut task = with_disk(spec(id, shell), 0, Some(("db", 10)));
            task.container = Some(pb::Container {
                image: Some(pb::Image {
                    reference: IMAGE.to_owned(),
                    ..pb::Image::default()
                }),
                network: Some(pb::Network {
                    mode: Some(pb::network::Mode::Host(pb::Empty {})),
                }),
                mounts,
                ..pb::Container::default()
            });
            task
        };
        let volume = || pb::mount::Source::Volume("db".to_owned());
        let of_host = || pb::mount::Source::Host(host.display().to_string());
        let writes = contained(
            "w.1",
            "echo kept > /data/x && cat /host/x && ! touch /host/y 2>/dev/null && ls -d volumes 2>/dev/null; true",
            vec![
                mount("/data", volume(), false),
                mount("/host", of_host(), true),
            ],
        );
        node.launch(writes).await;
        let end = node.end("w.1").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{}", end.message);
        let out = |id: &str| fs::read_to_string(node.sandbox(id).join("stdout")).unwrap();
        assert_eq!(out("w.1"), "from the host", "{}", out("w.1"));
        assert!(!host.join("y").exists());
        let reads = contained(
            "r.1",
            "cat volumes/db/x && ! sh -c 'echo no > ro/x' 2>/dev/null",
            vec![
                mount("volumes/db", volume(), false),
                mount("ro", of_host(), true),
            ],
        );
        node.launch(reads).await;
        let end = node.end("r.1").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{}", end.message);
        assert_eq!(out("r.1"), "kept\n");
        let elsewhere = pb::mount::Source::Host("/etc".to_owned());
        node.launch(contained(
            "no.1",
            "true",
            vec![mount("/x", elsewhere, true)],
        ))
        .await;
        let end = node.end("no.1").await;
        assert_eq!(end.reason(), StatusReason::ReasonContainerLaunchFailed);
        assert!(
            end.message.contains("--allow-host-paths"),
            "{}",
            end.message
        );
    });
}
