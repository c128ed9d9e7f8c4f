//! `--features`: what watching costs, feature by feature. Counting is per cgroup and has a place of its own; what only watches is the whole
//! machine's, so it is there for one half of each round and gone for the other. At the end one visit with the kernel's run
//! statistics says which program has what part of it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program};
use waggle_ebpf::{DataPlane, Observer, ProgramInfo, RunStats};

use crate::child::{Child, Sample};
use crate::ground::{Ground, Place};
use crate::{hooked_place, median, start};

/// Nanoseconds that counting may add to a packet.
const TARGET: f64 = 40.0;
/// Operations per visit.
const PACKETS: u32 = 40_000;
const CONNECTS: u32 = 40_000;
const CONNECTIONS: u32 = 3_000;

struct Case {
    name: &'static str,
    at: At,
    watched: bool,
}

/// The place.
#[derive(Clone, Copy)]
enum At {
    Plain,
    /// Programs that do nothing on the hooks of those that count.
    Hooked,
    Counted,
}

const EMPTY: &str = "empty hooks";
const COUNTING: &str = "counting";

/// The first is what all are compared with, the second the same again.
const CASES: [Case; 6] = [
    Case {
        name: "nothing",
        at: At::Plain,
        watched: false,
    },
    Case {
        name: "nothing (A/A)",
        at: At::Plain,
        watched: false,
    },
    Case {
        name: EMPTY,
        at: At::Hooked,
        watched: false,
    },
    Case {
        name: COUNTING,
        at: At::Counted,
        watched: false,
    },
    Case {
        name: "watching",
        at: At::Plain,
        watched: true,
    },
    Case {
        name: "both",
        at: At::Counted,
        watched: true,
    },
];

/// A process and what is around it. Its parts end in this order.
struct Spot {
    child: Child,
    to: SocketAddr,
    plane: Option<DataPlane>,
    place: Place,
}

/// Measures, and prints.
pub fn measure(ground: &Ground, empty: &Path, rounds: usize, cpu: usize) -> anyhow::Result<()> {
    let mut plain = spot(ground, "plain", cpu, false)?;
    let mut hooked = spot(ground, "hooked", cpu, false)?;
    let _hooks = empty_hooks(empty, &hooked.place)?;
    let mut counted = spot(ground, "counted", cpu, true)?;
    println!("\nns added to nothing, median of paired rounds");
    for (title, op, n, of) in OPERATIONS {
        let mut samples: Vec<Vec<f64>> = CASES.iter().map(|_| Vec::new()).collect();
        // The first round fills caches and is not counted.
        for round in 0..=rounds {
            // Each half comes first in every other round.
            for watched in [round % 2 == 1, round % 2 == 0] {
                let _observer = watched.then(|| watch(&counted)).transpose()?;
                let cases = (0..).zip(&CASES).filter(|(_, c)| c.watched == watched);
                let mut cases: Vec<(usize, &Case)> = cases.collect();
                let turn = round % cases.len().max(1);
                cases.rotate_left(turn);
                for (at, case) in cases {
                    let spot = match case.at {
                        At::Plain => &mut plain,
                        At::Hooked => &mut hooked,
                        At::Counted => &mut counted,
                    };
                    let to = spot.to;
                    let sample = spot.child.measure(op, to, n);
                    let sample = sample.with_context(|| format!("{op} with {}", case.name))?;
                    if round > 0 {
                        samples[at].push(of(sample));
                    }
                }
            }
        }
        let base = median(samples[0].iter().copied());
        println!("  {title} [nothing: {base:.0} ns]");
        let mut hooks = 0.0;
        for (case, found) in CASES.iter().zip(&samples).skip(1) {
            let pairs = found.iter().zip(&samples[0]);
            let added = median(pairs.map(|(a, b)| a - b));
            let more = match case.name {
                EMPTY => {
                    hooks = added;
                    String::new()
                }
                // Both sides of a packet.
                COUNTING if op == "packet" => {
                    let verdict = if added / 2.0 <= TARGET {
                        "met"
                    } else {
                        "MISSED"
                    };
                    let own = (added - hooks) / 2.0;
                    format!(
                        "   target {TARGET} ns for each side of a packet: {verdict}; {own:.0} ns without the hooks themselves"
                    )
                }
                _ => String::new(),
            };
            println!("    {:<14} {added:>9.0} ns{more}", case.name);
        }
    }
    by_program(&mut counted)
}

/// Nanoseconds of each program in one operation, by the kernel's run statistics, which cost some themselves.
fn by_program(counted: &mut Spot) -> anyhow::Result<()> {
    let observer = watch(counted)?;
    let stats = RunStats::enable()?;
    println!(
        "\nns of each program in one operation, counting and watching (run statistics add to each)"
    );
    for (title, op, n, _) in OPERATIONS {
        let plane = counted.plane.as_ref().context("nothing counts")?;
        let all = || -> Vec<ProgramInfo> {
            let watching = observer.programs();
            plane.programs().into_iter().chain(watching).collect()
        };
        let before = all();
        counted.child.measure(op, counted.to, n)?;
        println!("  {title}");
        for (before, after) in before.iter().zip(all()) {
            let runs = after.run_cnt - before.run_cnt;
            if runs >= u64::from(n) / 100 {
                let ns = (after.run_ns - before.run_ns) as f64 / f64::from(n);
                let runs = runs as f64 / f64::from(n);
                println!("    {:<18} {ns:>9.0} ns in {runs:.2} runs", after.name);
            }
        }
    }
    drop(stats);
    Ok(())
}

/// What each is, its name in the process that does it, how often, what counts.
const OPERATIONS: [(&str, &str, u32, Figure); 3] = [
    ("UDP packet, sent and taken", "packet", PACKETS, wall),
    ("connect(), UDP", "udp-same", CONNECTS, wall),
    ("TCP connection, its CPU time", "tcp", CONNECTIONS, cpu_time),
];

type Figure = fn(Sample) -> f64;

fn wall(sample: Sample) -> f64 {
    sample.wall_ns
}

fn cpu_time(sample: Sample) -> f64 {
    sample.cpu_ns
}

fn spot(ground: &Ground, name: &'static str, cpu: usize, counted: bool) -> anyhow::Result<Spot> {
    let (place, child, ports, plane) = if counted {
        let (place, child, ports, plane) = hooked_place(ground, name, cpu, 1)?;
        (place, child, ports, Some(plane))
    } else {
        let (place, child, ports) = start(ground, name, cpu)?;
        (place, child, ports, None)
    };
    Ok(Spot {
        child,
        to: SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0])),
        plane,
        place,
    })
}

/// Programs that do nothing, on a place's hooks for as long as they are kept.
fn empty_hooks(object: &Path, place: &Place) -> anyhow::Result<Ebpf> {
    let mut ebpf = Ebpf::load_file(object).with_context(|| object.display().to_string())?;
    let cgroup = File::open(&place.cgroup)?;
    for (name, program) in ebpf.programs_mut() {
        // Links are never alone; the kernel takes no flags with them.
        let mode = CgroupAttachMode::Single;
        match program {
            Program::CgroupSkb(packets) => {
                packets.load()?;
                let attach = match name {
                    "empty_ingress" => CgroupSkbAttachType::Ingress,
                    _ => CgroupSkbAttachType::Egress,
                };
                packets.attach(&cgroup, attach, mode)?;
            }
            Program::CgroupSockAddr(calls) => {
                calls.load()?;
                calls.attach(&cgroup, mode)?;
            }
            _ => bail!("{name}: a program of another kind"),
        }
    }
    Ok(ebpf)
}

/// What only watches, for the cgroup of what is counted.
fn watch(spot: &Spot) -> anyhow::Result<Observer> {
    let plane = spot.plane.as_ref().context("nothing counts")?;
    let observer = Observer::open(plane)?;
    let id = std::fs::metadata(&spot.place.cgroup)?.ino();
    observer.watch(id, None)?;
    Ok(observer)
}
