//! `/metrics/snapshot`: Mesos's names of what is known here.

use std::{collections::BTreeMap, fs};

use waggle_types::{Resources, ScalarKind, TaskState};

use super::containers::containers;
use crate::{clock, http::AgentView};

/// Names and values.
pub type Metrics = BTreeMap<String, f64>;

/// All of them. Reads two files of the kernel's; blocking.
pub fn metrics(view: &AgentView) -> Metrics {
    let mut out = of_agent(view, clock::now().since(view.started_at).0);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    of_system(&mut out, &load, &memory);
    out
}

/// What the agent says of itself, `uptime_ms` after it began. Pure.
fn of_agent(view: &AgentView, uptime_ms: u64) -> Metrics {
    let mut out = Metrics::new();
    let mut put = |name: &str, value: f64| {
        out.insert(format!("slave/{name}"), value);
    };
    put("registered", f64::from(u8::from(view.master.is_some())));
    put("uptime_secs", uptime_ms as f64 / 1000.0);
    put(
        "frameworks_active",
        super::messages::frameworks(view).frameworks.len() as f64,
    );
    put("executors_running", containers(view).len() as f64);
    for (name, state) in [
        ("tasks_staging", TaskState::Staging),
        ("tasks_starting", TaskState::Starting),
        ("tasks_running", TaskState::Running),
        ("tasks_killing", TaskState::Killing),
    ] {
        let n = view
            .tasks
            .iter()
            .filter(|t| t.summary.state == state)
            .count();
        put(name, n as f64);
    }
    for (name, state) in [
        ("tasks_finished", TaskState::Finished),
        ("tasks_failed", TaskState::Failed),
        ("tasks_killed", TaskState::Killed),
        ("tasks_lost", TaskState::Lost),
        ("tasks_gone", TaskState::Gone),
    ] {
        let n = view.ended.get(state.mesos_name()).copied();
        put(name, n.unwrap_or_default() as f64);
    }
    let used = used(view);
    for kind in [
        ScalarKind::Cpus,
        ScalarKind::Mem,
        ScalarKind::Disk,
        ScalarKind::Gpus,
    ] {
        let (used, total) = (used.get(kind).to_f64(), view.agent.total.get(kind).to_f64());
        put(&format!("{}_total", kind.name()), total);
        put(&format!("{}_used", kind.name()), used);
        let part = if total > 0.0 { used / total } else { 0.0 };
        put(&format!("{}_percent", kind.name()), part);
    }
    out
}

/// What tasks and executors hold that have not ended.
pub fn used(view: &AgentView) -> Resources {
    let mut sum = Resources::default();
    for t in view.tasks.iter().filter(|t| !t.summary.state.is_terminal()) {
        sum.try_add(&t.summary.spec.resources);
    }
    for e in &view.executors {
        sum.try_add(&e.resources);
    }
    sum
}

/// What the kernel says of the machine, by `/proc/loadavg` and `/proc/meminfo`. Pure.
fn of_system(out: &mut Metrics, load: &str, memory: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let mut out = Metrics::new();
        let memory = "MemTotal:       2048 kB\nMemFree:         512 kB\nMemAvailable: 1 kB\n";
        of_system(&mut out, "0.50 1.25 2.00 1/200 77\n", memory);
        let told = serde_json::to_string(&out).unwrap();
        let load = r#""system/load_15min":2.0,"system/load_1min":0.5,"system/load_5min":1.25"#;
        let memory = r#""system/mem_free_bytes":524288.0,"system/mem_total_bytes":2097152.0"#;
        assert!(told.contains(load) && told.contains(memory), "{told}");
        let mut none = Metrics::new();
        of_system(&mut none, "", "");
        assert!(!none.contains_key("system/load_1min"));
    }
}
