//! Which keys a definition may hold.

use std::collections::BTreeSet;

/// Keys that a server writes and a client may send back: ignored.
pub(super) const READ_ONLY: &[&str] = &[
    "deployments",
    "lastTaskFailure",
    "readinessCheckResults",
    "taskStats",
    "tasks",
    "tasksHealthy",
    "tasksRunning",
    "tasksStaged",
    "tasksUnhealthy",
    "version",
    "versionInfo",
];

/// Keys of Marathon that this release does not run; refused unless empty.
pub(super) const NOT_YET: &[&str] = &["executorResources", "storeUrls", "taskRateLimit"];

/// Every key that a definition may hold.
pub(super) fn known() -> BTreeSet<&'static str> {
    const READ: &[&str] = &[
        "acceptedResourceRoles",
        "args",
        "backoffFactor",
        "backoffSeconds",
        "check",
        "cmd",
        "constraints",
        "container",
        "cpus",
        "dependencies",
        "disk",
        "env",
        "executor",
        "fetch",
        "gpus",
        "healthChecks",
        "id",
        "instances",
        "ipAddress",
        "killSelection",
        "labels",
        "maxLaunchDelaySeconds",
        "mem",
        "networks",
        "portDefinitions",
        "ports",
        "readinessChecks",
        "requirePorts",
        "residency",
        "resourceLimits",
        "role",
        "secrets",
        "taskKillGracePeriodSeconds",
        "tty",
        "unreachableStrategy",
        "upgradeStrategy",
        "uris",
        "user",
    ];
    READ.iter()
        .chain(READ_ONLY)
        .chain(NOT_YET)
        .copied()
        .collect()
}

/// Unknown keys are ignored, as Marathon does, but for one slip of the pen: `instnaces` or `cpu`
/// silently ignored would run something else than was meant.
pub(super) fn misspelt(key: &str) -> Option<&'static str> {
    let known = known();
    if known.contains(key) {
        return None;
    }
    known.into_iter().find(|k| one_edit(key, k))
}

/// Whether case alone, or one insertion, deletion, substitution or swap of neighbours, turns one into the other.
fn one_edit(left: &str, right: &str) -> bool {
    if left.eq_ignore_ascii_case(right) {
        return true;
    }
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let head = left.iter().zip(right).take_while(|(x, y)| x == y).count();
    let (left, right) = (&left[head..], &right[head..]);
    let both = left.iter().rev().zip(right.iter().rev());
    let tail = both.take_while(|(x, y)| x == y).count();
    match (&left[..left.len() - tail], &right[..right.len() - tail]) {
        ([], [_]) | ([_], [] | [_]) => true,
        ([l0, l1], [r0, r1]) => l0 == r1 && l1 == r0,
        _ => false,
    }
}
