//! What was measured, beside targets and peers.

use std::fmt::{self, Write as _};

/// Everything of a run.
pub struct Figures {
    pub agents: usize,
    pub tasks: usize,
    pub frameworks: usize,
    pub rate: u64,
    pub flow: usize,
    pub seconds: u64,
    pub rss_empty: u64,
    pub rss_agents: u64,
    pub rss_tasks: u64,
    pub register_s: f64,
    pub fill_s: f64,
    pub latencies: Vec<Latency>,
    pub flows: Vec<Flow>,
}

/// From the intended end of a task to the offer of what it held.
pub struct Latency {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    n: usize,
    missing: u64,
    late_ms: f64,
    cpu: f64,
}

/// Launches while tasks end at once.
pub struct Flow {
    rate: f64,
    accepts: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu: f64,
    own_cpu: f64,
}

/// The value below which this part of them is, in ms.
fn quantile(sorted_ns: &[u64], q: f64) -> f64 {
    let last = sorted_ns.len().saturating_sub(1);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a length"
    )]
    let at = (last as f64 * q).round() as usize;
    sorted_ns.get(at).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
}

impl Latency {
    pub fn of(mut ns: Vec<u64>, expected: u64, late_ns: u64, cpu: f64) -> Self {
        ns.sort_unstable();
        Self {
            p50_ms: quantile(&ns, 0.5),
            p99_ms: quantile(&ns, 0.99),
            max_ms: quantile(&ns, 1.0),
            n: ns.len(),
            missing: expected.saturating_sub(ns.len() as u64),
            late_ms: late_ns as f64 / 1e6,
            cpu,
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "freed to offered: p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms, n={} ({} missing; generator at most {:.1} ms late; master {:.0} % of a CPU)",
            self.p50_ms,
            self.p99_ms,
            self.max_ms,
            self.n,
            self.missing,
            self.late_ms,
            self.cpu * 100.0
        )
    }
}

impl Flow {
    pub fn of(rate: f64, accepts: f64, mut ns: Vec<u64>, cpu: f64, own_cpu: f64) -> Self {
        ns.sort_unstable();
        Self {
            rate,
            accepts,
            p50_ms: quantile(&ns, 0.5),
            p99_ms: quantile(&ns, 0.99),
            cpu,
            own_cpu,
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} launches/s in {:.0} accepts/s; accept to running p50 {:.1} ms, p99 {:.1} ms (master {:.0} %, emulator {:.0} % of a CPU)",
            self.rate,
            self.accepts,
            self.p50_ms,
            self.p99_ms,
            self.cpu * 100.0,
            self.own_cpu * 100.0
        )
    }
}

fn first_words(file: &str, n: usize) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(n).collect();
    words.join(" ")
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The table.
pub fn table(f: &Figures) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "release build; kernel {}; {} CPUs for master and emulator together; load average {}",
        first_words("/proc/sys/kernel/osrelease", 1),
        std::thread::available_parallelism().map_or(0, usize::from),
        first_words("/proc/loadavg", 3),
    );
    let _ = writeln!(
        out,
        "{} agents, {} tasks each, {} frameworks; medians of {} rounds of {} s; store: SQLite on disk, fsync with group commit",
        f.agents,
        f.tasks,
        f.frameworks,
        f.flows.len(),
        f.seconds
    );
    let per_agent = |rss: u64| rss.saturating_sub(f.rss_empty) as f64 / f.agents as f64 / 1000.0;
    let n_tasks = f.agents * f.tasks;
    let rows: [(String, String, &str, &str); 9] = [
        (
            format!("launches/s, durable, {} agents at work", f.flow),
            format!("{:.0}", median(f.flows.iter().map(|x| x.rate))),
            "20000 (must 5000)",
            "kube-scheduler 1.20.2, durable: 59-83 pods/s (measured on such a machine); Nomad C1M 3,750/s, YARN/Hydra > 40,000/s per sub-cluster, Borg > 10,000 a minute (published)",
        ),
        (
            "  accepts/s for them".into(),
            format!("{:.0}", median(f.flows.iter().map(|x| x.accepts))),
            "",
            "",
        ),
        (
            "  accept to RUNNING at the framework, p50 / p99".into(),
            format!(
                "{:.1} / {:.1} ms",
                median(f.flows.iter().map(|x| x.p50_ms)),
                median(f.flows.iter().map(|x| x.p99_ms))
            ),
            "",
            "Marathon: 500 containers in 14.2 s (published)",
        ),
        (
            format!("fill: {n_tasks} launches on empty agents"),
            format!("{:.1} s, {:.0}/s", f.fill_s, n_tasks as f64 / f.fill_s),
            "",
            "Nomad C2M: 1,500/s (published)",
        ),
        (
            format!("freed to offered at {}/s, open loop, p50 / p99", f.rate),
            format!(
                "{:.2} / {:.2} ms",
                median(f.latencies.iter().map(|x| x.p50_ms)),
                median(f.latencies.iter().map(|x| x.p99_ms))
            ),
            "2 / 10 ms (must 20 / 100)",
            "Mesos: the next batch, 1 s by default, and 1-6 s per cycle at this size (published)",
        ),
        (
            "register all agents".into(),
            format!("{:.1} s", f.register_s),
            "",
            "Mesos 1.5: 19 s for 40,000 agents with 400,000 tasks (published)",
        ),
        (
            "memory per agent, connected, without tasks".into(),
            format!("{:.2} kB", per_agent(f.rss_agents)),
            "",
            "",
        ),
        (
            format!("memory per agent with {} tasks", f.tasks),
            format!("{:.2} kB", per_agent(f.rss_tasks)),
            "3 kB (must 8 kB)",
            "",
        ),
        (
            format!("resident with all agents and {n_tasks} tasks"),
            format!("{:.0} MB", f.rss_tasks as f64 / 1e6),
            "",
            "",
        ),
    ];
    let _ = writeln!(
        out,
        "\n{:<56} {:>18}  {:<26} peers",
        "measured here", "ours", "target"
    );
    for (what, ours, target, peers) in rows {
        let _ = writeln!(out, "{what:<56} {ours:>18}  {target:<26} {peers}");
    }
    out
}
