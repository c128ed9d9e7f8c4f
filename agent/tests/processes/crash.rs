//! Survival: agents and shims that die anywhere, machines that boot, numbers that are other processes' by now.
//!
//! Agents are processes here, killed by SIGKILL; the master is the tests' own, so that every update is seen.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Instant,
};

use nix::sys::signal::Signal;
use serde_json::json;
use waggle_agent::images::{ImageSettings, Images};
use waggle_api::proto::session::{self as pb, TaskState};
use waggle_telemetry::Telemetry;

use crate::{
    agent::{block_on, ended, launch, pid_of, spec, until},
    master::{ENDS, Master},
    support::{CgroupRoot, PATIENCE, runs, signal, wait_for},
};

/// How tasks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// As processes of the host.
    Process,
    /// In containers, by runc.
    Runc,
}

impl By {
    /// Both, where the machine can.
    fn all() -> Vec<Self> {
        if has_runc() {
            return vec![Self::Process, Self::Runc];
        }
        vec![Self::Process]
    }
}

/// Whether containers can run here; says so if not.
pub fn has_runc() -> bool {
    let runc = Command::new("runc").arg("--version").output();
    let has = runc.is_ok_and(|o| o.status.success()) && nix::unistd::Uid::effective().is_root();
    if !has {
        eprintln!("SKIP: containers need root and runc");
    }
    has
}

/// The containers of these tests.
pub fn container() -> pb::Container {
    pb::Container {
        image: Some(pb::Image {
            reference: IMAGE.to_owned(),
            ..pb::Image::default()
        }),
        ..pb::Container::default()
    }
}

/// Gives a work directory the image that they have.
pub fn copy_images(work: &Path) {
    // Links: what is in the store is never changed.
    let store = image_store().join("images");
    let copied = Command::new("cp").arg("-al").arg(store).arg(work).status();
    assert!(copied.unwrap().success());
}

/// The image of tasks in containers.
const IMAGE: &str = "example.org/survivor:1";

/// A work directory whose store has the image; made once, since unpacking takes longer than a task.
fn image_store() -> PathBuf {
    let mut store = STORE.lock().unwrap();
    let made = store.get_or_insert_with(|| {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        let busybox = waggle_tests_support::images::Image::busybox().unwrap();
        busybox.write_layout(&layout, IMAGE).unwrap();
        let (settings, telemetry) = (ImageSettings::default(), Telemetry::disabled());
        let images = Images::open(dir.path(), settings, telemetry).unwrap();
        images.load(&layout, Some(IMAGE)).unwrap();
        dir
    });
    made.path().to_owned()
}

static STORE: Mutex<Option<tempfile::TempDir>> = Mutex::new(None);

/// Removes it: statics are not dropped.
pub fn tidy() {
    drop(STORE.lock().unwrap().take());
}

/// A directory, a master, and agents one after the other.
struct World {
    by: By,
    dir: tempfile::TempDir,
    cgroups: Option<CgroupRoot>,
    master: Master,
    boot_id: PathBuf,
    agent: Option<Child>,
}

impl World {
    async fn new(by: By, cgroups: Option<CgroupRoot>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let boot_id = dir.path().join("boot");
        fs::write(&boot_id, "one\n").unwrap();
        if by == By::Runc {
            let work = dir.path().join("work");
            fs::create_dir(&work).unwrap();
            copy_images(&work);
        }
        Self {
            by,
            cgroups,
            master: Master::start().await,
            boot_id,
            agent: None,
            dir,
        }
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn task(&self, id: &str) -> PathBuf {
        self.work().join("tasks").join(id)
    }

    /// A task that runs a script, in its sandbox.
    fn spec(&self, id: &str, script: &str) -> pb::TaskSpec {
        let mut spec = spec(id, script);
        if self.by == By::Runc {
            spec.container = Some(container());
        }
        spec
    }

    /// A file of a task's sandbox.
    fn sandbox(&self, id: &str, file: &str) -> PathBuf {
        self.task(id).join("sandbox").join(file)
    }

    /// A file beside the work directory.
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self, env: &[(&str, &Path)]) {
        assert!(self.agent.is_none());
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.file("agent.log"))
            .unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg("agent")
            .arg(self.work())
            .arg(self.master.addr.to_string())
            .args(self.cgroups.as_ref().map(|c| c.path.clone()))
            .env("TEST_BOOT_ID", &self.boot_id)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.agent = Some(command.spawn().unwrap());
    }

    /// Starts an agent and waits until it has registered.
    async fn up(&mut self) -> pb::Register {
        let before = self.master.n_registrations();
        self.start(&[]);
        let master = &self.master;
        until("registration", || {
            (master.n_registrations() > before).then_some(())
        })
        .await;
        self.master.last_registration()
    }

    /// Kills the agent and waits for its end.
    fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Whether the agent died, by SIGKILL.
    fn died(&mut self) -> bool {
        let Some(agent) = &mut self.agent else {
            return false;
        };
        let Some(status) = agent.try_wait().unwrap() else {
            return false;
        };
        let log = fs::read_to_string(self.file("agent.log")).unwrap_or_default();
        assert_eq!(status.signal(), Some(9), "{status}: {log}");
        self.agent = None;
        true
    }

    /// Ends of a task that the master was told, each update once.
    fn ends(&self, id: &str) -> Vec<pb::TaskStatus> {
        let all = self.master.statuses(id).into_iter();
        all.filter(|s| ENDS.contains(&s.state())).collect()
    }

    /// Nothing of it runs, and no cgroup of a task is left.
    fn assert_clean(&self, what: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let cgroups = self.cgroups.as_ref().map(CgroupRoot::tasks);
            let left = (self.processes(), cgroups.unwrap_or_default(), self.mounts());
            if left.0.is_empty() && left.1.is_empty() && left.2.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "{what}: {left:?} is left");
            let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(5_u8));
        }
    }

    /// What is mounted below this directory.
    fn mounts(&self) -> Vec<PathBuf> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = all.lines().filter_map(|line| line.split(' ').nth(4));
        points
            .map(PathBuf::from)
            .filter(|point| point.starts_with(self.dir.path()))
            .collect()
    }

    /// Processes that work below this directory, but for the agent.
    fn processes(&self) -> Vec<u32> {
        let agent = self.agent.as_ref().map(Child::id);
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|e| e.file_name().to_str()?.parse().ok())
            .filter(|pid| Some(*pid) != agent && runs(*pid))
            .filter(|pid| {
                let of = |file| format!("/proc/{pid}/{file}");
                let cwd = fs::read_link(of("cwd")).unwrap_or_default();
                let line = fs::read(of("cmdline")).unwrap_or_default();
                let dir = self.dir.path();
                cwd.starts_with(dir)
                    || String::from_utf8_lossy(&line).contains(dir.to_str().unwrap())
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if std::thread::panicking() {
            println!(
                "{}",
                fs::read_to_string(self.file("agent.log")).unwrap_or_default()
            );
        }
        // A test that failed: what it mounted and started goes with its directory.
        for point in self.mounts() {
            let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
        }
        for pid in self.processes() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(0));
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
    }
}

/// One task, from its launch to its last word, with an agent or a shim that dies at `point`. What was passed, with
/// `trace`.
async fn life(
    by: By,
    point: Option<&str>,
    trace: bool,
    cgroups: Option<CgroupRoot>,
) -> BTreeSet<String> {
    let mut world = World::new(by, cgroups).await;
    let (starts, go) = (world.sandbox("t.1", "starts"), world.sandbox("t.1", "go"));
    let passed = world.file("passed");
    let script =
        "cd $MESOS_SANDBOX; echo x >> starts; while ! test -e go; do sleep 0.01; done; exit 7";
    let mut env: Vec<(&str, &Path)> = Vec::new();
    if let Some(point) = point {
        env.push(("WAGGLE_CRASH_AT", Path::new(point)));
    }
    if trace {
        env.push(("WAGGLE_CRASH_TRACE", &passed));
    }
    let what = format!("{by:?}, {}", point.unwrap_or("no crash"));
    let what = what.as_str();
    // A shim that dies takes the exit code with it; an agent takes nothing.
    let shims = point.is_some_and(|p| {
        ["shim.json:", "task.json:", "exit.json:"]
            .iter()
            .any(|own| p.starts_with(own))
    });
    world.start(&env);
    let (mut launched, mut registrations, mut crashed) = (false, 0, false);
    let begun = Instant::now();
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
    let known = loop {
        tick.tick().await;
        let log = || fs::read_to_string(world.file("agent.log")).unwrap_or_default();
        assert!(begun.elapsed() < PATIENCE, "{what}: timed out: {}", log());
        if world.died() {
            assert!(!crashed, "{what}: died twice");
            crashed = true;
            world.start(&[]);
        }
        let n = world.master.n_registrations();
        if n > registrations {
            registrations = n;
            let tasks = world.master.last_registration().tasks;
            let listed = tasks
                .iter()
                .any(|t| t.spec.as_ref().unwrap().task_id == "t.1");
            if launched && !listed && crashed {
                break false;
            }
            // Also where the session broke off before the launch was through: it is taken once.
            let lost = !listed && !crashed && world.ends("t.1").is_empty();
            if lost || !launched {
                launched = true;
                world.master.send(launch(world.spec("t.1", script))).await;
            }
        }
        if starts.exists() {
            // It may be on its way out.
            let _ = fs::write(&go, "");
        }
        // It is there a moment before who wrote it dies.
        let due = crashed || shims || point.is_none();
        if due && world.task("t.1").join("done").exists() {
            break true;
        }
    };
    let n_starts = fs::read_to_string(&starts).unwrap_or_default().len() / 2;
    assert!(n_starts <= 1, "{what}: started {n_starts} times");
    let ends = world.ends("t.1");
    if known {
        let told: Vec<String> = ends.iter().map(|e| e.message.clone()).collect();
        assert_eq!(ends.len(), 1, "{what}: reported {told:?}");
        let message = told[0].as_str();
        if message.contains("status 7") {
            assert_eq!(n_starts, 1, "{what}: an exit code of what never ran");
        } else if shims {
            let honest = message.contains("unknown") || message.contains("shim");
            assert!(honest, "{what}: {message}");
        } else {
            // The agent alone died: whatever ran has its exit code.
            assert_eq!(n_starts, 0, "{what}: {message}");
        }
        if point.is_none() {
            assert_eq!(message, "command exited with status 7");
        }
    } else {
        // The launch was lost with the agent, or its end is settled: the master hears that it is not there.
        let saw = world.master.statuses("t.1");
        assert!(
            saw.is_empty() || ends.len() == 1,
            "{what}: forgotten after {saw:?}"
        );
        assert!(
            n_starts == 0 || ends.len() == 1,
            "{what}: forgotten, and it ran"
        );
    }
    if point.is_some() {
        assert!(crashed || shims, "{what}: the point was not passed");
    }
    world.assert_clean(what);
    let text = fs::read_to_string(&passed).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

pub fn at_every_step_on_disk() {
    for by in By::all() {
        at_every_step(by);
    }
}

fn at_every_step(by: By) {
    let (sender, points) = std::sync::mpsc::channel();
    block_on(async {
        let cgroups = CgroupRoot::named("-trace");
        sender.send(life(by, None, true, cgroups).await).unwrap();
    });
    let points: BTreeSet<String> = points.recv().unwrap();
    // What is made durable in a task's life; more comes by itself.
    for file in [
        "boot_id",
        "agent_id",
        "spec.pb",
        "plan.json",
        "shim.json",
        "task.json",
        "stream.pb",
        "exit.json",
        "done",
    ] {
        let found = points.iter().any(|p| p.starts_with(&format!("{file}:")));
        assert!(found, "{file} is not among {points:?}");
    }
    // Between the beginning of a write and its rename nothing changes that can be read: containers take longer, and
    // leave that to processes.
    let same = |p: &String| by == By::Runc && (p.contains(":torn#") || p.contains(":written#"));
    let points: BTreeSet<String> = points.into_iter().filter(|p| !same(p)).collect();
    let begun = Instant::now();
    let n = points.len();
    let left = Mutex::new(points.into_iter());
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let left = &left;
            scope.spawn(move || {
                loop {
                    let Some(point) = left.lock().unwrap().next() else {
                        return;
                    };
                    let cgroups = CgroupRoot::named(&format!("-{worker}"));
                    block_on(async {
                        life(by, Some(&point), false, cgroups).await;
                    });
                }
            });
        }
    });
    println!("{by:?}: {n} points in {} ms", begun.elapsed().as_millis());
}

pub fn every_exit_while_away() {
    for by in By::all() {
        exits_while_away(by);
    }
}

fn exits_while_away(by: By) {
    block_on(async {
        let cgroups = CgroupRoot::named("-away");
        let limited = cgroups.is_some();
        let mut world = World::new(by, cgroups).await;
        world.up().await;
        let mut want = vec![
            ("e.0", "exit 0", "exited with status 0"),
            ("e.1", "exit 1", "exited with status 1"),
            ("e.255", "exit 255", "exited with status 255"),
            ("s.11", "kill -SEGV $$", "SIGSEGV"),
            ("s.9", "kill -9 $$", "SIGKILL"),
            ("s.15", "kill -15 $$", "SIGTERM"),
        ];
        if limited {
            want.push(("oom", "exec tail /dev/zero", "memory"));
        }
        for (id, script, _) in &want {
            let script =
                format!("cd $MESOS_SANDBOX; while ! test -e go; do sleep 0.01; done; {script}");
            world.master.send(launch(world.spec(id, &script))).await;
        }
        let master = &world.master;
        until("all to run", || {
            want.iter()
                .all(|(id, _, _)| master.last(id).is_some())
                .then_some(())
        })
        .await;
        world.kill();
        for (id, _, _) in &want {
            fs::write(world.sandbox(id, "go"), "").unwrap();
        }
        wait_for("all to end", || {
            let over = |id: &str| world.task(id).join("exit.json").exists();
            want.iter().all(|(id, _, _)| over(id)).then_some(())
        });
        // Told, and not acknowledged: the next agent tells the same again.
        world.master.set_ack_ends(false);
        let found = world.up().await;
        assert_eq!(found.tasks.len(), want.len());
        let master = &world.master;
        until("all ends", || {
            let told = |id: &str| master.last(id).is_some_and(|s| ENDS.contains(&s.state()));
            want.iter().all(|(id, _, _)| told(id)).then_some(())
        })
        .await;
        world.kill();
        world.master.set_ack_ends(true);
        world.up().await;
        wait_for("all to be settled", || {
            let done = |id: &str| world.task(id).join("done").exists();
            want.iter().all(|(id, _, _)| done(id)).then_some(())
        });
        // And once it is settled, never again.
        world.kill();
        let found = world.up().await;
        assert_eq!(found.tasks, []);
        for (id, _, words) in &want {
            let ends = world.ends(id);
            assert_eq!(ends.len(), 1, "{id}: {ends:?}");
            assert!(ends[0].message.contains(words), "{id}: {}", ends[0].message);
            let finished = ends[0].state() == TaskState::TaskFinished;
            assert_eq!(finished, *id == "e.0", "{id}");
        }
        world.assert_clean("after the ends");
    });
}

/// Something that must not be touched, and its identity as the agent would record it.
struct Decoy(Child);

impl Decoy {
    fn new() -> Self {
        let child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn start_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1;
        fields.split(' ').nth(19).unwrap().parse().unwrap()
    }

    fn record(&self, file: &Path, off_by: u64) {
        let id = json!({"pid": self.0.id(), "start_ticks": self.start_ticks() + off_by});
        fs::write(file, id.to_string()).unwrap();
    }

    fn assert_alive(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "a stranger was killed");
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A task whose agent and whose processes are gone, as after a power cut.
async fn cut_off(world: &mut World) {
    world.up().await;
    world
        .master
        .send(launch(world.spec("t.1", "exec sleep 1000")))
        .await;
    let master = &world.master;
    until("running", || master.last("t.1")).await;
    world.kill();
    let work = world.work();
    let pids = ["shim.json", "task.json"].map(|f| pid_of(&work, "t.1", f).unwrap());
    for pid in pids {
        signal(pid, Signal::SIGKILL);
    }
    wait_for("the processes to go", || {
        pids.iter().all(|p| !runs(*p)).then_some(())
    });
}

pub fn a_boot() {
    for by in By::all() {
        boot(by);
    }
}

fn boot(by: By) {
    block_on(async {
        let mut world = World::new(by, CgroupRoot::named("-boot")).await;
        cut_off(&mut world).await;
        // After the boot other processes have the very numbers, started at the very ticks.
        let mut decoys = [Decoy::new(), Decoy::new()];
        let task = world.task("t.1");
        decoys[0].record(&task.join("shim.json"), 0);
        decoys[1].record(&task.join("task.json"), 0);
        fs::write(&world.boot_id, "two\n").unwrap();
        world.up().await;
        let end = ended(&world.master, "t.1").await;
        assert_eq!(end.state(), TaskState::TaskFailed);
        assert!(end.message.contains("exit code unknown"), "{}", end.message);
        wait_for("it to be settled", || {
            task.join("done").exists().then_some(())
        });
        world.kill();
        world.up().await;
        assert_eq!(world.ends("t.1").len(), 1);
        for decoy in &mut decoys {
            decoy.assert_alive();
        }
        if world.cgroups.is_some() {
            world.assert_clean("after a boot");
        }
    });
}

pub fn a_number_that_is_anothers() {
    block_on(async {
        let mut world = World::new(By::Process, CgroupRoot::named("-number")).await;
        cut_off(&mut world).await;
        let mut decoys = [Decoy::new(), Decoy::new()];
        let task = world.task("t.1");
        decoys[0].record(&task.join("shim.json"), 1);
        decoys[1].record(&task.join("task.json"), 1);
        world.up().await;
        let end = ended(&world.master, "t.1").await;
        assert!(end.message.contains("exit code unknown"), "{}", end.message);
        wait_for("it to be settled", || {
            task.join("done").exists().then_some(())
        });
        for decoy in &mut decoys {
            decoy.assert_alive();
        }
        world.assert_clean("after a number was another's");
    });
}

pub fn a_killed_shim() {
    for by in By::all() {
        killed_shim(by);
    }
}

fn killed_shim(by: By) {
    block_on(async {
        let mut world = World::new(by, CgroupRoot::named("-shim")).await;
        world.up().await;
        // While the agent looks, and while it is away; a task that started others.
        let script = "sleep 1000 & setsid sleep 1000 & wait";
        for id in ["watched", "away"] {
            world.master.send(launch(world.spec(id, script))).await;
        }
        let master = &world.master;
        until("running", || {
            master.last("watched")?;
            master.last("away")
        })
        .await;
        let work = world.work();
        let shim = |id| pid_of(&work, id, "shim.json").unwrap();
        signal(shim("watched"), Signal::SIGKILL);
        let end = ended(&world.master, "watched").await;
        assert_eq!(end.state(), TaskState::TaskFailed);
        assert_eq!(end.message, "its shim died, exit code unknown");
        world.kill();
        signal(shim("away"), Signal::SIGKILL);
        world.up().await;
        let end = ended(&world.master, "away").await;
        assert_eq!(end.message, "its shim died, exit code unknown");
        if world.cgroups.is_some() {
            world.assert_clean("after their shims");
        }
    });
}

/// A container's end is settled with the master while it is still being taken apart, and the agent dies there: the next
/// one goes on where it was.
pub fn a_container_half_taken_apart() {
    if !has_runc() {
        return;
    }
    for point in ["bundle:release#1", "bundle:deleted#1"] {
        block_on(async {
            let Some(cgroups) = CgroupRoot::named("-apart") else {
                return;
            };
            let mut world = World::new(By::Runc, Some(cgroups)).await;
            world.start(&[("WAGGLE_CRASH_AT", Path::new(point))]);
            let master = &world.master;
            until("registration", || {
                (master.n_registrations() > 0).then_some(())
            })
            .await;
            world
                .master
                .send(launch(world.spec("apart", "exit 0")))
                .await;
            until("the agent to die", || world.died().then_some(())).await;
            // As the last acknowledgement leaves it.
            fs::write(world.task("apart").join("done"), b"").unwrap();
            let found = world.up().await;
            assert!(found.tasks.is_empty(), "{point}: {:?}", found.tasks);
            world.assert_clean(point);
            assert!(!world.task("apart").join("bundle").exists(), "{point}");
        });
    }
}

/// Files that were never renamed into place whole can't come from here, but from a disk that lies: the agent starts,
/// says nothing wrong, and starts nothing twice.
pub fn damaged_checkpoints() {
    block_on(async {
        let mut world = World::new(By::Process, CgroupRoot::named("-damaged")).await;
        world.up().await;
        let starts = world.file("starts");
        let script = format!("echo x >> {}; exec sleep 1000", starts.display());
        let files = ["spec.pb", "stream.pb", "plan.json", "task.json"];
        for file in files {
            world.master.send(launch(spec(file, &script))).await;
        }
        let master = &world.master;
        until("all to run", || {
            files.iter().all(|f| master.last(f).is_some()).then_some(())
        })
        .await;
        world.kill();
        for file in files {
            let path = world.task(file).join(file);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
        let found = world.up().await;
        let mut listed: Vec<String> = found
            .tasks
            .iter()
            .map(|t| t.spec.as_ref().unwrap().task_id.clone())
            .collect();
        listed.sort();
        // A spec that can't be read can't be answered for: what ran is ended, and the master hears that it is not there.
        assert_eq!(listed, ["plan.json", "stream.pb", "task.json"]);
        // Everything else is ended as asked, or honestly unknown.
        for file in &files[1..] {
            world
                .master
                .send(waggle_api::proto::session::master_message::Kind::Kill(
                    pb::Kill {
                        task_id: (*file).to_owned(),
                        ..pb::Kill::default()
                    },
                ))
                .await;
        }
        for file in &files[1..] {
            let end = ended(&world.master, file).await;
            let words = ["killed as asked", "unknown"];
            assert!(
                words.iter().any(|w| end.message.contains(w)),
                "{file}: {}",
                end.message
            );
            assert_eq!(world.ends(file).len(), 1, "{file}");
        }
        let n_starts = fs::read_to_string(&starts).unwrap().len() / 2;
        assert_eq!(n_starts, files.len());
        if world.cgroups.is_some() {
            world.assert_clean("after damage");
        }
    });
}
