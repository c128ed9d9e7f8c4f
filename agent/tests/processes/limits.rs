//! What a task may use, on the cgroups that this machine has.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use waggle_agent::AgentConfig;
use waggle_api::proto::session::{self as pb, StatusReason, TaskState};

use crate::{
    agent::{Agent, block_on, ended, launch, spec, until},
    containers,
    master::Master,
    support::{CgroupRoot, runs},
};

/// A task's directory of a controller, v1 or v2.
fn dir_of(cgroups: &CgroupRoot, task_id: &str, controller: &str) -> Option<PathBuf> {
    let all = cgroups.tasks();
    let mut of_task = all.iter().filter(|d| d.ends_with(task_id));
    let file = match controller {
        "cpu" => "cpu.stat",
        "cpuacct" => "cpuacct.usage",
        other => &format!("{other}.max"),
    };
    // A v2 directory without the controller has `cpu.stat`, too, with less in it.
    let is_it = |t: String| controller != "cpu" || t.contains("nr_throttled");
    of_task
        .find(|d| fs::read_to_string(d.join(file)).is_ok_and(is_it))
        .cloned()
}

async fn kill(master: &Master, task_id: &str) {
    let kill = pb::Kill {
        task_id: task_id.to_owned(),
        max_grace_ms: Some(0),
        ..pb::Kill::default()
    };
    master.send(pb::master_message::Kind::Kill(kill)).await;
    ended(master, task_id).await;
}

fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(&format!("{key} ")))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn with_limits(task_id: &str, shell: &str, limits: pb::Ceilings) -> pb::TaskSpec {
    pb::TaskSpec {
        container: Some(pb::Container {
            limits: Some(limits),
            ..pb::Container::default()
        }),
        ..spec(task_id, shell)
    }
}

fn at(milli: i64) -> pb::Ceiling {
    pb::Ceiling {
        at: Some(pb::ceiling::At::Milli(milli)),
    }
}

async fn registered(master: &Master) {
    until("registration", || {
        (master.n_registrations() == 1).then_some(())
    })
    .await;
}

/// The sandbox's file of a task, once it ends in a line break.
async fn output(work_dir: &Path, task_id: &str) -> String {
    let path = work_dir.join("tasks").join(task_id).join("sandbox/stdout");
    let whole = || fs::read_to_string(&path).ok().filter(|t| t.ends_with('\n'));
    until("output", whole).await
}

pub fn keeps_a_task_within_its_cpu_time() {
    let Some(cgroups) = CgroupRoot::new() else {
        return;
    };
    block_on(async {
        let work = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(work.path(), vec![master.addr], Some(&cgroups)).await;
        registered(&master).await;
        let limits = pb::Ceilings {
            cpus: Some(at(100)),
            ..pb::Ceilings::default()
        };
        let busy = "while :; do :; done";
        master
            .send(launch(with_limits("busy.1", busy, limits)))
            .await;
        let Some(dir) = until("its cgroup", || {
            let exists = cgroups.tasks().iter().any(|d| d.ends_with("busy.1"));
            exists.then(|| dir_of(&cgroups, "busy.1", "cpu"))
        })
        .await
        else {
            eprintln!("SKIP: no cpu controller");
            return;
        };
        // Ten periods of 100 ms in which it had its 10 ms and wanted more.
        let stat = || fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
        until("throttling", || {
            (field(&stat(), "nr_throttled")? >= 10).then_some(())
        })
        .await;
        let text = stat();
        let periods = field(&text, "nr_periods").unwrap();
        let used_ns = field(&text, "usage_usec").map(|us| us * 1000).or_else(|| {
            let dir = dir_of(&cgroups, "busy.1", "cpuacct")?;
            let text = fs::read_to_string(dir.join("cpuacct.usage")).ok()?;
            text.trim().parse().ok()
        });
        kill(&master, "busy.1").await;
        let used_ms = used_ns.unwrap() / 1_000_000;
        // A tenth, and what a tick of the kernel's clock is late.
        assert!(
            used_ms <= periods * 20 + 20,
            "{used_ms} ms in {periods} periods"
        );
    });
}

pub fn ends_a_task_that_runs_for_too_long() {
    block_on(async {
        let work = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(work.path(), vec![master.addr], None).await;
        registered(&master).await;
        let limits = |ms| pb::Ceilings {
            run_time_ms: Some(ms),
            ..pb::Ceilings::default()
        };
        let long = "exec sleep 1000";
        master
            .send(launch(with_limits("short.1", "true", limits(60_000))))
            .await;
        master
            .send(launch(with_limits("long.1", long, limits(200))))
            .await;
        let end = ended(&master, "long.1").await;
        let reason = StatusReason::ReasonMaxCompletionTimeReached;
        assert_eq!((end.state(), end.reason()), (TaskState::TaskFailed, reason));
        let end = ended(&master, "short.1").await;
        assert_eq!(end.state(), TaskState::TaskFinished);
    });
}

pub fn stops_a_fork_bomb() {
    let Some(cgroups) = CgroupRoot::new() else {
        return;
    };
    block_on(async {
        let work = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(work.path(), vec![master.addr], Some(&cgroups)).await;
        registered(&master).await;
        let limits = pb::Ceilings {
            pids: Some(40),
            ..pb::Ceilings::default()
        };
        // Each waits for two more of itself.
        let bomb = "bomb() { bomb | bomb; }; bomb";
        master
            .send(launch(with_limits("bomb.1", bomb, limits)))
            .await;
        let Some(dir) = until("its cgroup", || {
            let exists = cgroups.tasks().iter().any(|d| d.ends_with("bomb.1"));
            exists.then(|| dir_of(&cgroups, "bomb.1", "pids"))
        })
        .await
        else {
            eprintln!("SKIP: no pids controller");
            return;
        };
        assert_eq!(fs::read_to_string(dir.join("pids.max")).unwrap(), "40\n");
        // Either it is seen at its limit, or it has died of it already.
        until("the limit to hold", || {
            let events = fs::read_to_string(dir.join("pids.events"));
            let hit = events.map_or(0, |t| field(&t, "max").unwrap_or(0)) > 0;
            (hit || master.last("bomb.1")?.state() == TaskState::TaskFailed).then_some(())
        })
        .await;
        let current = fs::read_to_string(dir.join("pids.current")).unwrap_or_default();
        assert!(current.trim().parse().is_ok_and(|n: u32| n <= 40) || current.is_empty());
        if master
            .last("bomb.1")
            .is_none_or(|s| s.state() != TaskState::TaskFailed)
        {
            kill(&master, "bomb.1").await;
        }
        // This node still starts things.
        master.send(launch(spec("after.1", "echo alive"))).await;
        assert_eq!(output(work.path(), "after.1").await, "alive\n");
    });
}

pub fn lets_memory_go_up_to_its_ceiling() {
    let Some(cgroups) = CgroupRoot::new() else {
        return;
    };
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    if !Path::new("/sys/fs/cgroup/memory").exists() && !v2.is_ok_and(|c| c.contains("memory")) {
        eprintln!("SKIP: no memory controller");
        return;
    }
    block_on(async {
        let work = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(work.path(), vec![master.addr], Some(&cgroups)).await;
        registered(&master).await;
        let ceiling = |mem| pb::Ceilings {
            mem,
            ..pb::Ceilings::default()
        };
        // tail keeps the line that it is given: 80 MiB, with 64 asked for.
        let hog = "head -c 83886080 /dev/zero | tail >/dev/null && echo done";
        let above = with_limits("above.1", hog, ceiling(Some(at(128_000))));
        master.send(launch(above)).await;
        assert_eq!(output(work.path(), "above.1").await, "done\n");
        let unlimited = Some(pb::Ceiling {
            at: Some(pb::ceiling::At::Unlimited(pb::Empty {})),
        });
        let free = with_limits("free.1", hog, ceiling(unlimited));
        master.send(launch(free)).await;
        assert_eq!(output(work.path(), "free.1").await, "done\n");

        let hog = "exec tail /dev/zero";
        master
            .send(launch(with_limits(
                "hog.1",
                hog,
                ceiling(Some(at(128_000))),
            )))
            .await;
        let end = ended(&master, "hog.1").await;
        assert_eq!(
            end.reason(),
            StatusReason::ReasonContainerLimitationMemory,
            "{end:?}"
        );
        assert!(
            end.message.contains("limit 134217728 bytes, peak 13421"),
            "{}",
            end.message
        );
    });
}

pub fn limits_what_processes_may() {
    let cgroups = CgroupRoot::new();
    block_on(async {
        let work = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(work.path(), vec![master.addr], cgroups.as_ref()).await;
        registered(&master).await;
        let limits = |name: &str, soft, hard| pb::Ceilings {
            rlimits: [(name.to_owned(), pb::Rlimit { soft, hard })].into(),
            ..pb::Ceilings::default()
        };
        let tell = "echo $(ulimit -Sn) $(ulimit -Hn)";
        let task = with_limits("files.1", tell, limits("nofile", Some(77), Some(99)));
        master.send(launch(task)).await;
        assert_eq!(output(work.path(), "files.1").await, "77 99\n");
        let wrong = with_limits("wrong.1", tell, limits("files", Some(1), Some(1)));
        master.send(launch(wrong)).await;
        let end = ended(&master, "wrong.1").await;
        assert_eq!(end.reason(), StatusReason::ReasonContainerLaunchFailed);
        assert!(
            end.message
                .starts_with("container.limits.rlimits: must be of as, core,"),
            "{}",
            end.message
        );
        let low = pb::Ceilings {
            cpus: Some(at(50)),
            ..pb::Ceilings::default()
        };
        master.send(launch(with_limits("low.1", tell, low))).await;
        assert_eq!(
            ended(&master, "low.1").await.message,
            "container.limits.cpus: must be at least the task's cpus, 0.1, is 0.05"
        );
    });
}

pub fn gives_a_gpu_to_one_task() {
    block_on(async {
        let work = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let device = || vec![PathBuf::from("/dev/null"), PathBuf::from("/dev/zero")];
        let agent = Agent::start_with(work.path(), vec![master.addr], None, |config| {
            config.gpu_devices = Some(device());
        })
        .await;
        registered(&master).await;
        let told = master.last_registration().agent.unwrap().total.unwrap();
        assert_eq!(told.gpus_milli, 2000);
        let task = |id: &str, gpus_milli| {
            let mut spec = spec(id, "echo $NVIDIA_VISIBLE_DEVICES; exec sleep 1000");
            spec.resources.as_mut().unwrap().gpus_milli = gpus_milli;
            spec
        };
        master.send(launch(task("gpu.1", 1000))).await;
        assert_eq!(output(work.path(), "gpu.1").await, "0\n");
        master.send(launch(task("gpu.2", 1000))).await;
        assert_eq!(output(work.path(), "gpu.2").await, "1\n");
        agent.vanish().await;
        let _agent = Agent::start_with(work.path(), vec![master.addr], None, |config| {
            config.gpu_devices = Some(device());
        })
        .await;
        until("registration", || {
            (master.n_registrations() == 2).then_some(())
        })
        .await;
        kill(&master, "gpu.2").await;
        // Released after its end is told.
        let held = work.path().join("gpus.json");
        until("its gpu to be free", || {
            let text = fs::read_to_string(&held).ok()?;
            (text.contains("gpu.1") && !text.contains("gpu.2")).then_some(())
        })
        .await;
        // The one that the next agent did not find in use.
        master.send(launch(task("gpu.3", 1000))).await;
        assert_eq!(output(work.path(), "gpu.3").await, "1\n");
        kill(&master, "gpu.1").await;
        kill(&master, "gpu.3").await;
    });
}

pub fn of_disk_hold_for_all_that_a_container_writes() {
    block_on(async {
        let quick = |c: &mut AgentConfig| {
            c.storage.disk_watch = Duration::from_millis(100);
            c.storage.enforce_disk = true;
        };
        let Some(node) = containers::Node::start(quick).await else {
            return;
        };
        // What it writes beside its sandbox is its own as well; what its image has is not.
        let fill =
            |n| format!("dd if=/dev/zero of=/srv-big bs=1M count={n} 2>/dev/null; exec sleep 1000");
        let asks = |id: &str, n| {
            let mut task = containers::contained(id, containers::IMAGE, &fill(n));
            task.resources.get_or_insert_default().disk_milli = 3000;
            task
        };
        node.launch(asks("small.1", 1)).await;
        node.running("small.1").await;
        node.launch(asks("big.1", 4)).await;
        let end = ended(&node.master, "big.1").await;
        assert_eq!(end.reason(), StatusReason::ReasonContainerLimitationDisk);
        let words = "disk limit exceeded: its sandbox with what it wrote over its image's files holds 4.0 MiB (";
        assert!(end.message.starts_with(words), "{}", end.message);
        assert!(runs(node.pid("small.1", "task.json")));
        node.kill("small.1").await;
        node.leaves_nothing().await;
    });
}
