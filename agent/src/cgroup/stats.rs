//! Figures of one task's cgroup, v2 or v1 files to one shape.

use std::{fs, path::Path};

use super::TaskCgroup;

/// One reading. `None` where the host has no such file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// CPU time in user mode, nanoseconds.
    pub cpu_user_ns: Option<u64>,
    /// CPU time in the kernel, nanoseconds.
    pub cpu_system_ns: Option<u64>,
    /// Periods that a ceiling of CPU time was looked at in.
    pub periods: Option<u64>,
    /// Periods in which the task was throttled.
    pub throttled_periods: Option<u64>,
    /// Time throttled, nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Memory charged, bytes.
    pub memory_bytes: Option<u64>,
    /// Anonymous memory, bytes.
    pub rss_bytes: Option<u64>,
    /// File cache, bytes.
    pub file_bytes: Option<u64>,
    /// What of it is mapped, bytes.
    pub mapped_file_bytes: Option<u64>,
    /// File cache that can go first, bytes.
    pub inactive_file_bytes: Option<u64>,
    /// The limit, bytes; `None` also when there is none.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults served without I/O and with.
    pub faults_minor: Option<u64>,
    /// Page faults that needed I/O.
    pub faults_major: Option<u64>,
    /// Processes killed by the kernel for memory.
    pub oom_kills: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Times that one more was refused.
    pub pids_refused: Option<u64>,
    /// CPUs that it may use, in thousandths; `None` also without a ceiling.
    pub cpu_limit_millis: Option<u64>,
    /// Time stalled for CPU, for memory and for I/O.
    pub stalled: [Stalled; 3],
}

/// How long processes stalled for a resource, microseconds; `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stalled {
    /// Some of them.
    pub some_us: Option<u64>,
    /// All of them.
    pub full_us: Option<u64>,
}

impl Stalled {
    /// `some avg10=0.00 avg60=0.00 avg300=0.00 total=1`, and the same with `full`.
    fn read(text: &str) -> Self {
        let total = |kind: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(kind))?;
            line.rsplit_once("total=")?.1.trim().parse().ok()
        };
        Self {
            some_us: total("some "),
            full_us: total("full "),
        }
    }
}

/// Thousandths of CPUs of a quota in each period.
fn millis(quota: Option<u64>, period: Option<u64>) -> Option<u64> {
    quota?.checked_mul(1000)?.checked_div(period?)
}

impl Stats {
    /// Reads what there is. Blocking, but no disk is touched.
    pub fn read(cgroup: &TaskCgroup) -> Self {
        if cgroup.unified {
            cgroup.v2.as_deref().map(Self::v2).unwrap_or_default()
        } else {
            Self::v1(cgroup)
        }
    }

    fn v2(dir: &Path) -> Self {
        let cpu = text(dir, "cpu.stat");
        let memory = text(dir, "memory.stat");
        let usec = |k| field(&cpu, k).map(|v| v * 1000);
        let faults = field(&memory, "pgfault");
        let major = field(&memory, "pgmajfault");
        Self {
            cpu_user_ns: usec("user_usec"),
            cpu_system_ns: usec("system_usec"),
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
            throttled_ns: usec("throttled_usec"),
            memory_bytes: number(dir, "memory.current"),
            rss_bytes: field(&memory, "anon"),
            file_bytes: field(&memory, "file"),
            mapped_file_bytes: field(&memory, "file_mapped"),
            inactive_file_bytes: field(&memory, "inactive_file"),
            memory_limit_bytes: number(dir, "memory.max"),
            faults_minor: faults.map(|f| f.saturating_sub(major.unwrap_or(0))),
            faults_major: major,
            oom_kills: field(&text(dir, "memory.events"), "oom_kill"),
            pids: number(dir, "pids.current"),
            pids_refused: field(&text(dir, "pids.events"), "max"),
            cpu_limit_millis: {
                let max = text(dir, "cpu.max");
                let mut words = max.split_whitespace().map(|w| w.parse().ok());
                millis(words.next().flatten(), words.next().flatten())
            },
            stalled: ["cpu.pressure", "memory.pressure", "io.pressure"]
                .map(|file| Stalled::read(&text(dir, file))),
        }
    }

    fn v1(cgroup: &TaskCgroup) -> Self {
        let mut out = Self::default();
        if let Some(dir) = cgroup.controller("cpuacct") {
            out.cpu_user_ns = number(dir, "cpuacct.usage_user");
            out.cpu_system_ns = number(dir, "cpuacct.usage_sys");
        }
        if let Some(dir) = cgroup.controller("cpu") {
            let cpu = text(dir, "cpu.stat");
            out.periods = field(&cpu, "nr_periods");
            out.throttled_periods = field(&cpu, "nr_throttled");
            out.throttled_ns = field(&cpu, "throttled_time");
            // No ceiling is -1, which is no such number.
            let quota = number(dir, "cpu.cfs_quota_us");
            out.cpu_limit_millis = millis(quota, number(dir, "cpu.cfs_period_us"));
        }
        if let Some(dir) = cgroup.controller("memory") {
            let memory = text(dir, "memory.stat");
            let faults = field(&memory, "total_pgfault");
            let major = field(&memory, "total_pgmajfault");
            out.memory_bytes = number(dir, "memory.usage_in_bytes");
            out.rss_bytes = field(&memory, "total_rss");
            out.file_bytes = field(&memory, "total_cache");
            out.mapped_file_bytes = field(&memory, "total_mapped_file");
            out.inactive_file_bytes = field(&memory, "total_inactive_file");
            // "No limit" is a number near 2^63.
            out.memory_limit_bytes = number(dir, "memory.limit_in_bytes").filter(|l| *l < 1 << 60);
            out.faults_minor = faults.map(|f| f.saturating_sub(major.unwrap_or(0)));
            out.faults_major = major;
            out.oom_kills = field(&text(dir, "memory.oom_control"), "oom_kill");
        }
        if let Some(dir) = cgroup.controller("pids") {
            out.pids = number(dir, "pids.current");
            out.pids_refused = field(&text(dir, "pids.events"), "max");
        }
        out
    }
}

/// At a task's end: OOM kills, limit and peak in bytes (0 when unknown, or unlimited).
pub fn memory_end(dir: &Path) -> (u64, u64, u64) {
    let kills = field(&text(dir, "memory.events"), "oom_kill")
        .or_else(|| field(&text(dir, "memory.oom_control"), "oom_kill"));
    let limit = number(dir, "memory.max").or_else(|| number(dir, "memory.limit_in_bytes"));
    let limit = limit.filter(|l| *l < 1 << 60);
    let peak = number(dir, "memory.peak").or_else(|| number(dir, "memory.max_usage_in_bytes"));
    (kills.unwrap_or(0), limit.unwrap_or(0), peak.unwrap_or(0))
}

fn text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    text(dir, file).trim().parse().ok()
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |f: &str, t: &str| fs::write(dir.path().join(f), t).unwrap();
        write("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\n");
        write("cpu.max", "150000 100000\n");
        let some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        write("io.pressure", &format!("{some}full avg10=0.00 total=3\n"));
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("memory.events", "low 0\noom 1\noom_kill 1\n");
        write("pids.current", "3\n");
        write("pids.events", "max 2\n");
        let cgroup = TaskCgroup {
            v2: Some(dir.path().to_owned()),
            unified: true,
            ..TaskCgroup::default()
        };
        let stats = Stats::read(&cgroup);
        assert_eq!(stats.cpu_user_ns, Some(20_000));
        assert_eq!(stats.cpu_limit_millis, Some(1500));
        let io = Stalled {
            some_us: Some(7),
            full_us: Some(3),
        };
        assert_eq!(stats.stalled, [Stalled::default(), Stalled::default(), io]);
        assert_eq!(stats.memory_bytes, Some(4096));
        assert_eq!(stats.memory_limit_bytes, None);
        assert_eq!(stats.oom_kills, Some(1));
        assert_eq!((stats.pids, stats.pids_refused), (Some(3), Some(2)));
        assert_eq!(memory_end(dir.path()), (1, 0, 0));
    }
}
