//! What frameworks say of themselves, and what of them runs.

use std::collections::BTreeSet;

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
