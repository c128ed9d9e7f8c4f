//! What frameworks say of themselves, and the command line on the first node.

use std::collections::BTreeSet;

use serde_json::Value;
use waggle_tests_privileged::waggle;
use waggle_tests_support::{cgroup, scenario::World};
use waggle_types::{FrameworkInfo, Millis, Resources, RoleSubscription};

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
