//! What counting per container costs: the programs' own time for a packet, a round trip beside an uncounted one, and reading all.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use aya::maps::{MapData, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use waggle_ebpf::common::{ABI_VERSION, CgroupNet};
use waggle_ebpf::{DataPlane, LoaderConfig, RunStats};

use crate::ground::Ground;
use crate::{Config, Figures, median, ratio, rounds_of};

const CONTAINERS: u64 = 10_000;
/// Times that all are read.
const READS: usize = 21;
const PROGRAMS: [&str; 2] = ["skb_ingress", "skb_egress"];

/// Measures, and prints.
pub fn measure(ground: &Ground, rounds: usize, cpu: usize) -> anyhow::Result<()> {
    let cgroup2 = waggle_ebpf::find_cgroup2_mount().context("no cgroup2 hierarchy is mounted")?;
    let cgroup = cgroup2.join(&ground.name);
    fs::create_dir(&cgroup)?;
    let result = measured(ground, rounds, cpu, &cgroup);
    // Its processes are gone by now.
    let removed = fs::remove_dir(&cgroup).context("remove the cgroup");
    result.and(removed)
}

fn measured(
    ground: &Ground,
    rounds: usize,
    cpu: usize,
    cgroup: &std::path::Path,
) -> anyhow::Result<()> {
    let pin_dir = ground.bpffs.join("metered");
    let plane = DataPlane::open(&LoaderConfig {
        cgroup_root: cgroup.to_path_buf(),
        pin_dir: pin_dir.clone(),
    })?;
    let mut configs = vec![
        Config::new("direct", ground.direct("m-direct")?, cpu, None)?,
        Config::new("direct (A/A)", ground.direct("m-again")?, cpu, None)?,
        Config::new("counted", ground.direct("m-counted")?, cpu, Some(cgroup))?,
    ];
    let samples = rounds_of(&mut configs, rounds, &["rr", "crr"])?;
    println!("\nPer-container metrics, ratio to an uncounted direct link, median of paired rounds");
    println!(
        "  {:<14} {:>9} {:>9} {:>9}",
        "", "RR p50", "RR CPU", "CPU/conn"
    );
    for (at, config) in configs.iter().enumerate() {
        let of = |op: usize, figure: fn(&Figures) -> f64| ratio(&samples, op, at, 0, figure);
        println!(
            "  {:<14} {:>9.3} {:>9.3} {:>9.3}",
            config.name,
            of(0, |f| f.p50_us),
            of(0, |f| f.cpu_us),
            of(1, |f| f.cpu_us)
        );
    }
    let stats = RunStats::enable()?;
    let of = |plane: &DataPlane| -> Vec<(u64, u64)> {
        let programs = plane.programs();
        let found = PROGRAMS
            .iter()
            .filter_map(|name| programs.iter().find(|p| p.name == *name));
        found.map(|p| (p.run_ns, p.run_cnt)).collect()
    };
    let before = of(&plane);
    rounds_of(&mut configs[2..], 5, &["rr"])?;
    for (name, (before, after)) in PROGRAMS.iter().zip(before.into_iter().zip(of(&plane))) {
        let runs = after.1 - before.1;
        ensure!(runs > 0, "{name} did not run");
        println!(
            "  {name}: {:.0} ns a packet, by the kernel's run statistics, which are in it (target 40)",
            (after.0 - before.0) as f64 / runs as f64
        );
    }
    drop(stats);
    drop(configs);

    let pin = pin_dir.join(format!("v{ABI_VERSION}/maps/CGROUP_NET"));
    let map = aya::maps::Map::PerCpuHashMap(MapData::from_pin(pin)?);
    let mut map: PerCpuHashMap<_, u64, CgroupNet> = map.try_into()?;
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    for id in 0..CONTAINERS {
        let values = PerCpuValues::try_from(vec![CgroupNet::default(); cpus])?;
        map.insert(1 << 40 | id, values, 0)?;
    }
    let mut took = Vec::new();
    for _ in 0..READS {
        let at = Instant::now();
        let found = plane.counters().cgroup_net()?;
        took.push(at.elapsed().as_secs_f64() * 1e3);
        ensure!(
            found.len() as u64 >= CONTAINERS,
            "{} were read",
            found.len()
        );
    }
    println!(
        "  {CONTAINERS} containers read in {:.1} ms (target 20)",
        median(took.into_iter())
    );
    drop(plane);
    DataPlane::remove(&pin_dir)?;
    Ok(())
}
