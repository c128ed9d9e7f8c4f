//! What is to be run: batch jobs of tenants and the load of services, from traces or generated.
//!
//! A line of a SWIM trace (job id, submit time, gap, input, shuffle and output bytes) becomes a job of
//! equal tasks: its work is proportional to its bytes. Bytes are scaled so that each tenant asks for the
//! same CPUs on average, and a job is cut to [`MAX_JOB_SHARE`] of its tenant's bytes, because one job of
//! FB-2009 alone holds over a quarter of its day.

use std::path::Path;

use anyhow::{Context as _, bail};

/// A job is cut to this part of its tenant's bytes: 1 in so many.
const MAX_JOB_SHARE: u64 = 50;
/// Seconds that any task takes before it works.
const START_S: u64 = 10;
/// A job is cut into tasks of about so many seconds.
const TASK_S: u64 = 60;
/// A job is not expected to run more tasks than this at once: the measure of its best time.
pub const WIDTH: u64 = 64;
/// Seconds between two figures of a service's load.
pub const LOAD_STEP_S: u64 = 60;
const DAY_S: u64 = 24 * 3600;

/// Equal tasks of one CPU each, all ready when the job arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub tenant: usize,
    pub arrival_s: u64,
    pub n_tasks: u64,
    pub task_s: u64,
}

impl Job {
    /// Response time on an empty cluster, seconds.
    pub fn best_s(&self) -> u64 {
        self.n_tasks.div_ceil(WIDTH) * self.task_s
    }

    /// Bounded slowdown in thousandths: response over best response, where nothing counts as shorter
    /// than `short_s`.
    pub fn slowdown_milli(&self, response_s: u64, short_s: u64) -> u64 {
        response_s.max(short_s) * 1000 / self.best_s().max(short_s).max(1)
    }

    /// CPU seconds.
    pub fn work(&self) -> u64 {
        self.n_tasks * self.task_s
    }
}

/// A service keeps `reserved` CPUs (twice its ordinary peak) and uses `load_milli` of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub reserved: u64,
    /// Thousandths of a CPU, one figure each [`LOAD_STEP_S`].
    pub load_milli: Vec<u64>,
}

impl Service {
    /// The load at a time; the last figure stands after the end.
    pub fn load_at(&self, now_s: u64) -> u64 {
        let index = usize::try_from(now_s / LOAD_STEP_S).unwrap_or(usize::MAX);
        let last = self.load_milli.last().copied().unwrap_or(0);
        self.load_milli.get(index).copied().unwrap_or(last)
    }
}

/// Everything that arrives, sorted by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub source: String,
    pub tenants: Vec<String>,
    pub jobs: Vec<Job>,
    pub services: Vec<Service>,
    pub horizon_s: u64,
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// CPUs that each batch tenant asks for on average.
    pub mean_cpus: u64,
    pub horizon_s: u64,
    /// Ordinary peaks of the services together, in CPUs; they keep twice that.
    pub service_peak_cpus: u64,
    pub seed: u64,
}

/// SplitMix64: the same numbers everywhere from the same seed.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`, which is over 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A non-negative float as an integer; what does not fit is cut.
pub fn whole(x: f64) -> u64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts from float saturate, and sizes here are far below 2^53"
    )]
    let n = x as u64;
    n
}

/// A submit time in seconds and a size in bytes.
type Raw = (u64, u64);

/// The workload of the traces in `dir`; `None` when they are not there.
pub fn from_traces(dir: &Path, shape: Shape) -> anyhow::Result<Option<Workload>> {
    let mut days = Vec::new();
    for year in ["2009", "2010"] {
        let path = dir.join(format!("FB-{year}_samples_24_times_1hr_0.tsv"));
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let raw = parse_swim(&text).with_context(|| path.display().to_string())?;
        days.push((format!("FB-{year}"), raw));
    }
    // Each trace is two tenants, the second with its 24 sampled hours turned.
    let mut rng = Rng(shape.seed);
    let mut tenants = Vec::new();
    for (name, raw) in days {
        let turn = 5 + rng.below(15);
        tenants.push((name.clone(), raw.clone()));
        let turned = raw
            .into_iter()
            .map(|(at, bytes)| ((at + turn * 3600) % DAY_S, bytes))
            .collect();
        tenants.push((format!("{name}+{turn}h"), turned));
    }
    Ok(Some(build(
        "SWIM FB-2009 and FB-2010 arrivals",
        tenants,
        shape,
    )))
}

fn parse_swim(text: &str) -> anyhow::Result<Vec<Raw>> {
    let mut jobs = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, l)| !l.is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, at, _, map, shuffle, out] = fields[..] else {
            bail!("line {}: {} fields, 6 expected", index + 1, fields.len());
        };
        let number = |s: &str| {
            s.trim()
                .parse::<u64>()
                .with_context(|| format!("line {}: {s:?} is no number", index + 1))
        };
        let bytes = number(map)?
            .saturating_add(number(shuffle)?)
            .saturating_add(number(out)?);
        jobs.push((number(at)? % DAY_S, bytes));
    }
    if jobs.is_empty() {
        bail!("no jobs");
    }
    Ok(jobs)
}

/// A day of the same shape as the traces: hours that differ by an order of magnitude, bursts within
/// them, sizes over nine decades with most bytes in a few jobs.
pub fn generated(shape: Shape) -> Workload {
    let mut rng = Rng(shape.seed ^ 0x6765_6E65_7261_7465);
    let tenants = (0..4)
        .map(|tenant| {
            let per_hour = if tenant < 2 { 240 } else { 900 };
            let mut raw = Vec::new();
            for hour in 0..24 {
                let n = whole(f64::from(per_hour) * (0.3 + 2.0 * rng.unit().powi(2)));
                let mut at = hour * 3600;
                while at < (hour + 1) * 3600 {
                    let burst = 1 + rng.below(8);
                    for _ in 0..burst {
                        let decade = 2.0 + 9.5 * rng.unit().powf(1.2);
                        raw.push((at, whole(10f64.powf(decade))));
                    }
                    let gap = 3600.0 * burst as f64 / n.max(1) as f64;
                    at += 1 + whole(-gap * (1.0 - rng.unit()).ln());
                }
            }
            (format!("generated-{tenant}"), raw)
        })
        .collect();
    build("generated, of the traces' shape", tenants, shape)
}

fn build(source: &str, tenants: Vec<(String, Vec<Raw>)>, shape: Shape) -> Workload {
    let mut jobs = Vec::new();
    let mut names = Vec::new();
    for (tenant, (name, mut raw)) in tenants.into_iter().enumerate() {
        raw.retain(|(at, _)| *at < shape.horizon_s);
        let all: u64 = raw.iter().map(|(_, bytes)| bytes).sum();
        for (_, bytes) in &mut raw {
            *bytes = (*bytes).min(all / MAX_JOB_SHARE);
        }
        let all: u64 = raw.iter().map(|(_, bytes)| bytes).sum();
        // Rounding and start times come on top: a few per cent.
        let cpu_s = (shape.mean_cpus * shape.horizon_s) as f64 / all.max(1) as f64;
        for (arrival_s, bytes) in raw {
            let work = whole(bytes as f64 * cpu_s);
            let n_tasks = work.div_ceil(TASK_S).max(1);
            jobs.push(Job {
                tenant,
                arrival_s,
                n_tasks,
                task_s: START_S + work / n_tasks,
            });
        }
        names.push(name);
    }
    // Stable: jobs of one second stay in the trace's order.
    jobs.sort_by_key(|job| (job.arrival_s, job.tenant));
    Workload {
        source: source.to_owned(),
        tenants: names,
        jobs,
        services: services(shape),
        horizon_s: shape.horizon_s,
    }
}

/// Three services with peaks of 1/2, 1/3 and 1/6 of the whole: a day's swing between 30 % and 100 % of
/// the ordinary peak, noise, and now and then a crowd that takes nearly all of the head-room.
fn services(shape: Shape) -> Vec<Service> {
    let mut rng = Rng(shape.seed ^ 0x7365_7276_6963_6573);
    let n_steps = shape.horizon_s / LOAD_STEP_S;
    [3u64, 2, 1]
        .into_iter()
        .map(|part| {
            let peak = (shape.service_peak_cpus * part).div_ceil(6);
            let reserved = peak * 2;
            let phase = rng.unit() * 3.0;
            let mut crowd = 0u64;
            let load_milli = (0..n_steps)
                .map(|step| {
                    let hour = (step * LOAD_STEP_S) as f64 / 3600.0;
                    let swing = ((hour - 15.0 + phase) * std::f64::consts::TAU / 24.0).cos();
                    let noise = (rng.unit() - 0.5) * 0.06;
                    if crowd == 0 && rng.below(480) == 0 {
                        crowd = 10 + rng.below(20);
                    }
                    let factor = if crowd > 0 { 1.8 } else { 1.0 };
                    crowd = crowd.saturating_sub(1);
                    let load = (0.65 + 0.32 * swing + noise) * factor * peak as f64;
                    whole(load.max(0.0) * 1000.0).min(reserved * 1000)
                })
                .collect();
            Service {
                reserved,
                load_milli,
            }
        })
        .collect()
}
