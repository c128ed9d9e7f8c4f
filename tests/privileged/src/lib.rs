//! What the privileged tests share: one cluster per test program, and where the programs are.
//!
//! The tests need root, a machine with cgroup2, and the binaries that `cargo xtask test` builds
//! before; without one of these they skip and say why. They assert what the kernel shows, what the
//! public API answers, and what arrived over OTLP; never what the code believes.

#![deny(unsafe_code)]

pub mod cli;
pub mod outside;
pub mod tasks;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use waggle_tests_support::cluster::{Config, Program, down};
use waggle_tests_support::is_root;
use waggle_tests_support::names::Names;
use waggle_tests_support::scenario::{App, Task, VIP_NAME, WEB_JSON, World, deploy};
use waggle_tests_support::wait_until;

/// How long most things may take on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Where the built programs are: beside the directory of the test programs.
pub fn bin_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("WAGGLE_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let exe = std::env::current_exe().context("find the own executable")?;
    let deps = exe.parent().context("no directory")?;
    Ok(deps.parent().context("no target directory")?.to_owned())
}

/// The waggle binary.
pub fn waggle() -> anyhow::Result<PathBuf> {
    let path = bin_dir()?.join("waggle");
    anyhow::ensure!(
        path.is_file(),
        "{} is not built (cargo build)",
        path.display()
    );
    Ok(path)
}

/// The probe.
pub fn probe() -> anyhow::Result<PathBuf> {
    let path = bin_dir()?.join("waggle-probe");
    anyhow::ensure!(
        path.is_file(),
        "{} is not built (cargo build)",
        path.display()
    );
    Ok(path)
}

/// The programs whose requests are traced.
pub fn traced() -> anyhow::Result<PathBuf> {
    let path = bin_dir()?.join("waggle-traced");
    anyhow::ensure!(
        path.is_file(),
        "{} is not built (cargo build)",
        path.display()
    );
    Ok(path)
}

/// Whether this machine can run the test; says why not.
#[must_use]
pub fn can_run() -> bool {
    let reason = if !is_root() {
        Some("namespaces, cgroups and kernel programs need root".to_owned())
    } else if let Err(error) = waggle().and_then(|_| probe()) {
        Some(format!("{error:#}"))
    } else {
        let object = bin_dir()
            .ok()
            .and_then(|dir| Some(dir.parent()?.join("bpf/waggle-ebpf.o")));
        let built = object.is_some_and(|path| path.is_file());
        (!built).then(|| "built without eBPF (cargo xtask build-ebpf)".to_owned())
    };
    if let Some(reason) = &reason {
        eprintln!("SKIP: {reason}");
    }
    reason.is_none()
}

/// A cluster's configuration with the default names.
pub fn config(nodes: u8) -> anyhow::Result<Config> {
    Ok(Config {
        names: Names::from_env(),
        nodes,
        program: Program::Waggle(waggle()?),
        otlp: None,
        owned: true,
    })
}

/// Brings up a world of `nodes` nodes.
pub fn world(nodes: u8) -> anyhow::Result<World> {
    World::up(config(nodes)?, None, LIMIT, &mut |line| println!("{line}"))
}

static SHARED: Mutex<Option<World>> = Mutex::new(None);

/// The test program's one cluster of three nodes, exclusively. Made by the first test that asks;
/// taken down when the program ends.
pub fn shared() -> anyhow::Result<Shared> {
    let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some(world(3)?);
        at_exit::register();
    }
    Ok(Shared(guard))
}

/// Exclusive use of the shared world.
#[derive(Debug)]
pub struct Shared(MutexGuard<'static, Option<World>>);

impl Shared {
    /// The world.
    pub fn world(&mut self) -> anyhow::Result<&mut World> {
        self.0.as_mut().context("the shared world was taken down")
    }
}

/// Statics have no destructors, so the C library's exit handler takes the cluster down.
mod at_exit {
    #![allow(
        unsafe_code,
        reason = "atexit is the only hook that runs after the last test"
    )]

    extern "C" fn end() {
        if let Err(error) = super::end() {
            eprintln!("taking the cluster down: {error:#}");
        }
    }

    pub(super) fn register() {
        // SAFETY: `end` is an ordinary function without arguments; it panics nowhere.
        unsafe {
            libc::atexit(end);
        }
    }
}

fn end() -> anyhow::Result<()> {
    let world = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
    match world {
        Some(world) => world.down(&mut |_| {}),
        None => down(&Names::from_env(), &mut |_| {}),
    }
}

/// The service `/web` with three healthy instances, which every node reaches: deployed if it is not there yet.
pub fn web(world: &World) -> anyhow::Result<(App, Vec<Task>)> {
    let cluster = &world.cluster;
    let blank = Duration::ZERO;
    let mut app = App {
        id: "/web".to_owned(),
        deployment: String::new(),
        accepted: blank,
        running: blank,
        healthy: blank,
        deployed: blank,
        instances: 3,
    };
    if app.show(cluster).is_err() {
        app = deploy(cluster, WEB_JSON, LIMIT).with_context(|| cluster.last_words())?;
    }
    healthy(world, &app, 3)?;
    answers_everywhere(world, VIP_NAME)?;
    let tasks = app.tasks(cluster)?;
    Ok((app, tasks))
}

/// Waits until the processes of every node get an answer from a web server.
pub fn answers_everywhere(world: &World, name: &str) -> anyhow::Result<()> {
    let nodes = &world.cluster.state.nodes;
    nodes.iter().try_for_each(|n| answers(world, &n.name, name))
}

/// Waits until a node's own processes get an answer from a web server: what is told of a VIP is applied there a moment later.
pub fn answers(world: &World, node: &str, name: &str) -> anyhow::Result<()> {
    let url = format!("http://{name}/");
    wait_until(LIMIT, &format!("{node} to get an answer of {name}"), || {
        let mut curl = world.cluster.command(node, "curl").ok()?;
        let out = curl.args(["-sf", "-m", "5", "-o", "/dev/null", &url]);
        out.status().ok()?.success().then_some(())
    })
}

/// Waits until exactly `n` instances run, all healthy, and no deployment is under way.
pub fn healthy(world: &World, app: &App, n: u64) -> anyhow::Result<()> {
    let mut last = serde_json::Value::Null;
    let settled = wait_until(
        LIMIT,
        &format!("{n} healthy instances of {}", app.id),
        || {
            last = app.show(&world.cluster).ok()?;
            let is = |key: &str| last[key].as_u64() == Some(n);
            let idle = last["deployments"].as_array().is_some_and(Vec::is_empty);
            (is("tasksRunning") && is("tasksHealthy") && idle).then_some(())
        },
    );
    settled.with_context(|| format!("the API says {last}"))
}
