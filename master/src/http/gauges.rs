//! `/metrics/snapshot`: Mesos's names of what is known here.

use std::{collections::BTreeMap, fs};

use waggle_types::{ScalarKind, TaskState};

use crate::view::ClusterView;

/// All of them. Reads two small files of the kernel's that are never on a disk.
pub(super) fn all(view: &ClusterView) -> BTreeMap<String, f64> {
    let mut out = of_cluster(view);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    of_system(&mut out, &load, &memory);
    out
}

/// What a view says. Pure.
fn of_cluster(view: &ClusterView) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut put = |name: &str, value: f64| {
        out.insert(format!("master/{name}"), value);
    };
    put("elected", 1.0);
    put(
        "uptime_secs",
        view.at.since(view.started_at).0 as f64 / 1000.0,
    );
    let agents = view.agents.values();
    let n = |of: &dyn Fn(&crate::view::AgentView) -> bool| {
        agents.clone().filter(|a| of(a)).count() as f64
    };
    put("slaves_active", n(&|a| a.reachable));
    put("slaves_inactive", n(&|a| !a.reachable));
    put("slaves_connected", n(&|a| a.connected));
    put("slaves_disconnected", n(&|a| a.reachable && !a.connected));
    put("slaves_unreachable", n(&|a| !a.reachable));
    let frameworks = view.frameworks.values();
    let n = |of: &dyn Fn(&crate::view::FrameworkView) -> bool| {
        frameworks.clone().filter(|f| of(f)).count() as f64
    };
    put("frameworks_active", n(&|f| f.active));
    put("frameworks_inactive", n(&|f| f.connected && !f.active));
    put("frameworks_connected", n(&|f| f.connected));
    put("frameworks_disconnected", n(&|f| !f.connected));
    put("outstanding_offers", view.offers.len() as f64);
    let mut live = [0u64; TaskState::ALL.len()];
    for t in view.tasks.values() {
        live[t.state() as usize] += 1;
    }
    for state in [
        TaskState::Staging,
        TaskState::Starting,
        TaskState::Running,
        TaskState::Killing,
        TaskState::Unreachable,
    ] {
        put(&name(state), live[state as usize] as f64);
    }
    for state in TaskState::ALL.into_iter().filter(|s| s.is_terminal()) {
        put(&name(state), view.n_ended[state as usize] as f64);
    }
    for kind in ScalarKind::ALL {
        // As Mesos: what unreachable agents have is not counted.
        let reachable = agents.clone().filter(|a| a.reachable);
        let (mut total, mut used) = (0.0, 0.0);
        for a in reachable {
            total += a.info.total.get(kind).to_f64();
            used += a.used.get(kind).to_f64();
        }
        put(&format!("{}_total", kind.name()), total);
        put(&format!("{}_used", kind.name()), used);
        let part = if total > 0.0 { used / total } else { 0.0 };
        put(&format!("{}_percent", kind.name()), part);
    }
    out
}

/// `tasks_running`.
fn name(state: TaskState) -> String {
    state
        .mesos_name()
        .replacen("TASK", "tasks", 1)
        .to_ascii_lowercase()
}

/// What the kernel says of the machine, by `/proc/loadavg` and `/proc/meminfo`. Pure.
fn of_system(out: &mut BTreeMap<String, f64>, load: &str, memory: &str) {
    for (name, value) in ["1min", "5min", "15min"].iter().zip(load.split(' ')) {
        if let Ok(value) = value.parse() {
            out.insert(format!("system/load_{name}"), value);
        }
    }
    let kib = |key: &str| {
        let line = memory.lines().find_map(|l| l.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    for (name, key) in [("total", "MemTotal:"), ("free", "MemFree:")] {
        if let Some(n) = kib(key) {
            out.insert(format!("system/mem_{name}_bytes"), (n * 1024) as f64);
        }
    }
    if let Ok(n) = std::thread::available_parallelism() {
        out.insert("system/cpus_total".to_owned(), n.get() as f64);
    }
}
