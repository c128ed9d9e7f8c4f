//! Frameworks on the cluster's bridge, and the command line on its first node.

use std::{collections::BTreeSet, future::Future, thread::JoinHandle};

use serde_json::Value;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};
use waggle_tests_privileged::waggle;
use waggle_tests_support::{
    cgroup,
    netns::{NetNs, NetNsGuard},
    scenario::World,
};
use waggle_types::{FrameworkInfo, Millis, Resources, RoleSubscription};

/// Agents' sessions and the native API.
const SESSION_PORT: u16 = 5060;

/// A framework on a thread in the hub's namespace. Dropping it ends the framework without a word.
pub struct Member {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    /// Runs `act` until its end.
    pub fn start<A, F>(world: &World, act: A) -> Self
    where
        A: FnOnce(Channel) -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        let hub = NetNs::named(&world.cluster.names.hub());
        let leader = world.cluster.leader(SESSION_PORT);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            // Sockets are made on this thread only, so all of them are in there.
            let _inside = NetNsGuard::enter(&hub).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let endpoint = Endpoint::from_shared(format!("http://{leader}")).unwrap();
                tokio::select! {
                    () = act(endpoint.connect_lazy()) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What went wrong in there is said where it is missed.
            let _ = thread.join();
        }
    }
}

/// A framework in a role named as it is, that says what its tasks take.
pub fn info(name: &str) -> FrameworkInfo {
    let role = RoleSubscription {
        smallest: Some(task()),
        ..RoleSubscription::new(name)
    };
    FrameworkInfo {
        roles: vec![role],
        failover_timeout: Millis::from_secs(60),
        ..FrameworkInfo::new(name, name)
    }
}

/// What a task takes.
pub fn task() -> Resources {
    Resources::from_millis(100, 16_000, 0)
}

/// Standard output of a command that succeeds.
pub fn says(world: &World, args: &[&str]) -> String {
    let program = waggle().unwrap();
    let mut command = world.cluster.command("n1", program).unwrap();
    let out = command.args(args).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?}: {err}");
    String::from_utf8(out.stdout).unwrap()
}

/// The same as JSON.
pub fn shows(world: &World, args: &[&str]) -> Value {
    let text = says(world, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap()
}

/// Tasks with this prefix that have processes, as the kernel has them.
pub fn running(world: &World, prefix: &str) -> BTreeSet<String> {
    let nodes = world.cluster.state.nodes.iter();
    let pids = nodes.flat_map(|n| cgroup::pids_below(&n.cgroup));
    let of = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mut parts = text.split(['/', '\n']);
        parts.find(|p| p.starts_with(prefix)).map(str::to_owned)
    };
    pids.filter_map(of).collect()
}
