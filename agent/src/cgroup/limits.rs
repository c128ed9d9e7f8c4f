//! Pure: from what a task asks for to what its cgroup and its processes are limited to.

use std::collections::BTreeMap;

use waggle_types::{Ceiling, Ceilings, Milli, ScalarKind, TaskSpec};

/// Mesos's floor (`MIN_MEMORY`): less does not even start a shell reliably.
const MIN_MEMORY_BYTES: u64 = 32 * 1024 * 1024;
/// Mesos `CPU_SHARES_PER_CPU`, and the smallest that the kernel takes.
const SHARES_PER_CPU: u64 = 1024;
const MIN_SHARES: u64 = 2;
/// Fewer leave no room for a runtime's own start and for who looks inside (RUNTIME.md section 2).
const MIN_PIDS: u32 = 32;
/// The kernel's (`CFS_PERIOD`), and the shortest share of it that it takes.
pub const CPU_PERIOD_US: u64 = 100_000;
const MIN_CPU_QUOTA_US: u64 = 1000;
/// What weighs one that asks for none.
const LEAST_CPUS_MILLI: u64 = 100;
/// What the OCI runtime spec allows for `blockIO.weight`.
const IO_WEIGHT: std::ops::RangeInclusive<u16> = 10..=1000;

/// What the node decides where a task says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLimits {
    /// Whether CPUs are also a ceiling (Mesos: `--cgroups_enable_cfs`).
    pub cpu_hard: bool,
    /// Processes and threads.
    pub pids: u32,
}

/// What a task may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU shares in thousandths of a CPU: a weight, not a ceiling, as in Mesos.
    pub cpus_milli: u64,
    /// Microseconds of CPU time in each [`CPU_PERIOD_US`]; `None` is no ceiling.
    pub cpu_quota_us: Option<u64>,
    /// Hard limit of memory, and of memory and swap together; `None` is unlimited.
    pub memory_bytes: Option<u64>,
    /// What is reclaimed last when memory is short: what it asked for.
    pub memory_low_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Share of block I/O, 10 to 1000; `None` is the kernel's default.
    pub io_weight: Option<u16>,
}

impl Limits {
    /// `cpu.shares` of cgroup v1.
    pub fn cpu_shares(&self) -> u64 {
        (self.cpus_milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, 262_144)
    }

    /// `cpu.weight` of cgroup v2: the kernel's own conversion of shares [2, 262144] to weights [1, 10000].
    pub fn cpu_weight(&self) -> u64 {
        1 + (self.cpu_shares() - MIN_SHARES) * 9999 / 262_142
    }

    /// `io.weight` of cgroup v2, [1, 10000]: the conversion that OCI runtimes have.
    pub fn io_weight_v2(&self) -> Option<u64> {
        self.io_weight.map(|w| 1 + (u64::from(w) - 10) * 9999 / 990)
    }
}

/// A task's limits; the error names the field that can't be.
pub fn limits(spec: &TaskSpec, node: NodeLimits) -> Result<Limits, String> {
    let asked = |kind| Some(spec.resources.get(kind));
    let (cpus, mem) = (asked(ScalarKind::Cpus), asked(ScalarKind::Mem));
    limits_of(cpus, mem, &spec.container.limits, node)
}

/// The limits of what asks for so much; what is not said is not limited, unless by a ceiling.
pub fn limits_of(
    cpus: Option<Milli>,
    mem: Option<Milli>,
    ceilings: &Ceilings,
    node: NodeLimits,
) -> Result<Limits, String> {
    let (cpus, mem) = (cpus.map(positive), mem.map(positive));
    let cpu_ceiling = match ceilings.cpus {
        Ceiling::Usual => cpus.filter(|_| node.cpu_hard),
        Ceiling::At(at) => Some(at_least("cpus", positive(at), cpus.unwrap_or(0))?),
        Ceiling::Unlimited => None,
    };
    let mem_ceiling = match ceilings.mem {
        Ceiling::Usual => mem,
        Ceiling::At(at) => Some(at_least("mem", positive(at), mem.unwrap_or(0))?),
        Ceiling::Unlimited => None,
    };
    if let Some(weight) = ceilings.io_weight.filter(|w| !IO_WEIGHT.contains(w)) {
        return Err(format!(
            "container.limits.io_weight: must be between 10 and 1000, is {weight}"
        ));
    }
    Ok(Limits {
        cpus_milli: cpus.unwrap_or(LEAST_CPUS_MILLI),
        cpu_quota_us: cpu_ceiling.map(|milli| {
            milli
                .saturating_mul(CPU_PERIOD_US / 1000)
                .max(MIN_CPU_QUOTA_US)
        }),
        memory_bytes: mem_ceiling.map(|mem| bytes(mem).max(MIN_MEMORY_BYTES)),
        memory_low_bytes: mem.map_or(0, bytes),
        pids: ceilings.pids.unwrap_or(node.pids).max(MIN_PIDS),
        io_weight: ceilings.io_weight,
    })
}

fn positive(value: Milli) -> u64 {
    u64::try_from(value.0).unwrap_or(0)
}

/// Of thousandths of a MiB.
fn bytes(milli_mib: u64) -> u64 {
    let bytes = u128::from(milli_mib) * (1 << 20) / 1000;
    bytes.try_into().unwrap_or(u64::MAX)
}

fn at_least(what: &str, ceiling: u64, resource: u64) -> Result<u64, String> {
    if ceiling >= resource {
        return Ok(ceiling);
    }
    let (ceiling, resource) = (ceiling as f64 / 1000.0, resource as f64 / 1000.0);
    Err(format!(
        "container.limits.{what}: must be at least the task's {what}, {resource}, is {ceiling}"
    ))
}

/// A POSIX limit for `setrlimit(2)`: resource, soft, hard; `None` is unlimited.
pub type ProcessLimit = (i32, Option<u64>, Option<u64>);

/// Names as in `getrlimit(2)`, lower case, without `RLIMIT_`.
const NAMES: [(&str, u32); 16] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// The POSIX limits of a task's processes; the error names the one that can't be.
pub fn process_limits(ceilings: &Ceilings) -> Result<BTreeMap<String, ProcessLimit>, String> {
    let mut out = BTreeMap::new();
    for (name, limit) in &ceilings.rlimits {
        let Some((_, number)) = NAMES.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "container.limits.rlimits: must be of {}, is {name:.40?}",
                known.join(", ")
            ));
        };
        let unlimited = u64::MAX;
        if limit.soft.unwrap_or(unlimited) > limit.hard.unwrap_or(unlimited) {
            return Err(format!(
                "container.limits.rlimits.{name}: the soft limit must not be above the hard one"
            ));
        }
        let number = i32::try_from(*number).unwrap_or_default();
        out.insert(name.clone(), (number, limit.soft, limit.hard));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use waggle_types::{Resources, Rlimit};

    use super::*;

    const NODE: NodeLimits = NodeLimits {
        cpu_hard: false,
        pids: 4096,
    };
    const MIB: u64 = 1 << 20;

    fn task(cpus_milli: i64, mem_mib: i64, ceilings: Ceilings) -> TaskSpec {
        let mut spec = crate::fixture::spec("t");
        spec.resources = Resources::from_millis(cpus_milli, mem_mib * 1000, 0);
        spec.container.limits = ceilings;
        spec
    }

    #[test]
    fn by_default_cpus_are_a_weight_and_memory_is_its_own_ceiling() {
        let limits = limits(&task(1000, 64, Ceilings::default()), NODE).unwrap();
        assert_eq!(limits.cpu_shares(), 1024);
        assert_eq!(limits.cpu_weight(), 39, "1 CPU is the default of v1");
        assert_eq!(limits.cpu_quota_us, None);
        assert_eq!(limits.memory_bytes, Some(64 * MIB));
        assert_eq!(limits.memory_low_bytes, 64 * MIB);
        assert_eq!(limits.pids, 4096);
    }

    #[test]
    fn small_tasks_have_enough_to_start() {
        let limits = limits(
            &task(
                1,
                1,
                Ceilings {
                    pids: Some(1),
                    cpus: Ceiling::At(Milli(1)),
                    ..Ceilings::default()
                },
            ),
            NODE,
        )
        .unwrap();
        assert_eq!(limits.cpu_shares(), 2);
        assert_eq!(limits.cpu_quota_us, Some(1000));
        assert_eq!(limits.memory_bytes, Some(32 * MIB));
        assert_eq!(limits.pids, 32);
    }

    #[test]
    fn ceilings_may_be_above_what_is_accounted_for_not_below() {
        let with = |cpus, mem| {
            let ceilings = Ceilings {
                cpus,
                mem,
                ..Ceilings::default()
            };
            limits(&task(500, 64, ceilings), NODE)
        };
        let both = with(Ceiling::At(Milli(2000)), Ceiling::At(Milli(128_000))).unwrap();
        assert_eq!(both.cpu_quota_us, Some(200_000));
        assert_eq!(both.memory_bytes, Some(128 * MIB));
        assert_eq!(both.memory_low_bytes, 64 * MIB);
        let none = with(Ceiling::Unlimited, Ceiling::Unlimited).unwrap();
        assert_eq!((none.cpu_quota_us, none.memory_bytes), (None, None));
        assert_eq!(
            with(Ceiling::At(Milli(100)), Ceiling::Usual).unwrap_err(),
            "container.limits.cpus: must be at least the task's cpus, 0.5, is 0.1"
        );
        assert_eq!(
            with(Ceiling::Usual, Ceiling::At(Milli(1000))).unwrap_err(),
            "container.limits.mem: must be at least the task's mem, 64, is 1"
        );
    }

    #[test]
    fn a_node_can_make_cpus_a_ceiling() {
        let node = NodeLimits {
            cpu_hard: true,
            ..NODE
        };
        let of = |cpus| {
            let ceilings = Ceilings {
                cpus,
                ..Ceilings::default()
            };
            limits(&task(500, 64, ceilings), node).unwrap().cpu_quota_us
        };
        assert_eq!(of(Ceiling::Usual), Some(50_000));
        assert_eq!(of(Ceiling::Unlimited), None, "the task's word counts");
    }

    #[test]
    fn what_asks_for_nothing_has_a_weight_and_no_ceiling() {
        let hard = NodeLimits {
            cpu_hard: true,
            ..NODE
        };
        let none = limits_of(None, None, &Ceilings::default(), hard).unwrap();
        assert_eq!((none.cpus_milli, none.cpu_quota_us), (100, None));
        assert_eq!((none.memory_bytes, none.memory_low_bytes), (None, 0));
        let only_ceilings = Ceilings {
            cpus: Ceiling::At(Milli(2000)),
            mem: Ceiling::At(Milli(64_000)),
            ..Ceilings::default()
        };
        let some = limits_of(None, None, &only_ceilings, NODE).unwrap();
        assert_eq!(some.cpu_quota_us, Some(200_000));
        assert_eq!(some.memory_bytes, Some(64 * MIB));
    }

    #[test]
    fn io_weights_span_the_kernels_range() {
        let with = |io_weight| {
            let ceilings = Ceilings {
                io_weight: Some(io_weight),
                ..Ceilings::default()
            };
            limits(&task(500, 64, ceilings), NODE)
        };
        assert_eq!(with(10).unwrap().io_weight_v2(), Some(1));
        assert_eq!(with(1000).unwrap().io_weight_v2(), Some(10_000));
        let why = with(9).unwrap_err();
        assert!(why.starts_with("container.limits.io_weight: "), "{why}");
    }

    #[test]
    fn process_limits_have_known_names_and_an_order() {
        let with = |name: &str, soft, hard| {
            let limit = Rlimit { soft, hard };
            process_limits(&Ceilings {
                rlimits: [(name.to_owned(), limit)].into(),
                ..Ceilings::default()
            })
        };
        let got = with("nofile", Some(10), None).unwrap();
        assert_eq!(got["nofile"], (7, Some(10), None));
        let why = with("files", None, None).unwrap_err();
        assert!(
            why.starts_with("container.limits.rlimits: must be of as, core, "),
            "{why}"
        );
        let why = with("core", None, Some(1)).unwrap_err();
        assert!(why.starts_with("container.limits.rlimits.core: "), "{why}");
    }
}
