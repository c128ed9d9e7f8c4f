//! The node's own figures, under the conventions' names, from the kernel's files: CPU, memory, paging, disks, file systems, network
//! devices.
//!
//! Up to a fixed number of each kind of device has series. The ends of containers' networks are no devices of the node.

use std::{collections::BTreeSet, fs, path::Path};

use nix::sys::statvfs::statvfs;
use waggle_telemetry_pipeline::{Attrs, Point, PointData, names};

use crate::meter::Out;

/// Disks, file systems and network devices with series, each.
const MAX_DISKS: usize = 32;
const MAX_FILE_SYSTEMS: usize = 32;
const MAX_DEVICES: usize = 32;
/// `USER_HZ`, in which the kernel counts CPU time.
const TICKS_S: f64 = 100.0;
/// What `/proc/diskstats` counts in, whatever the disk.
const SECTOR: u64 = 512;
/// How the names of containers' ends begin.
const OF_CONTAINERS: &str = "wgl";
/// Disks that are none.
const NO_DISKS: [&str; 2] = ["loop", "ram"];

/// The files as they are at one moment, and what else is asked for.
#[derive(Debug, Clone, Default)]
pub struct SystemReading {
    stat: String,
    meminfo: String,
    vmstat: String,
    diskstats: String,
    net_dev: String,
    uptime: String,
    /// Whole disks, not parts of them.
    disks: BTreeSet<String>,
    file_systems: Vec<FileSystem>,
    n_processes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct FileSystem {
    device: String,
    mountpoint: String,
    kind: String,
    used: u64,
    free: u64,
    /// For the superuser alone.
    reserved: u64,
}

impl SystemReading {
    /// What can't be read is left out. Blocking, briefly.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let below = |dir: &str| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|e| e.file_name().into_string().ok())
        };
        let is_disk = |name: &String| !NO_DISKS.iter().any(|n| name.starts_with(n));
        let is_process = |name: &String| name.bytes().all(|b| b.is_ascii_digit());
        Self {
            stat: text("/proc/stat"),
            meminfo: text("/proc/meminfo"),
            vmstat: text("/proc/vmstat"),
            diskstats: text("/proc/diskstats"),
            net_dev: text("/proc/self/net/dev"),
            uptime: text("/proc/uptime"),
            disks: below("/sys/block").filter(is_disk).collect(),
            file_systems: file_systems(&text("/proc/self/mounts")),
            n_processes: Some(below("/proc").filter(is_process).count() as u64),
        }
    }
}

/// Those on disks, each once, wherever it is mounted first. Others may be away, and asking them may take for ever.
fn file_systems(mounts: &str) -> Vec<FileSystem> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(mountpoint), Some(kind)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if !device.starts_with("/dev/") || !seen.insert(device) || out.len() == MAX_FILE_SYSTEMS {
            continue;
        }
        let mountpoint = unescaped(mountpoint);
        let Ok(stat) = statvfs(Path::new(&mountpoint)) else {
            continue;
        };
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        let (all, free) = (stat.blocks(), stat.blocks_free());
        let available = stat.blocks_available();
        out.push(FileSystem {
            device: device.to_owned(),
            mountpoint,
            kind: kind.to_owned(),
            used: bytes(all.saturating_sub(free)),
            free: bytes(available),
            reserved: bytes(free.saturating_sub(available)),
        });
    }
    out
}

/// Spaces and such are octal numbers there (proc(5)).
fn unescaped(text: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let all = codes.into_iter();
    all.fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
}

/// The node's points.
pub fn system_points(r: &SystemReading, now_ns: u64) -> Vec<Point> {
    let booted_s = word_of(&r.stat, "btime ").unwrap_or(0);
    let mut out = Out::new(booted_s.saturating_mul(1_000_000_000), now_ns);
    let up = r.uptime.split(' ').next().and_then(|t| t.parse().ok());
    if let Some(up) = up {
        out.push(&names::SYSTEM_UPTIME, vec![], PointData::Gauge(up));
    }
    cpu(&mut out, &r.stat);
    memory(&mut out, &r.meminfo);
    paging(&mut out, &r.meminfo, &r.vmstat);
    if let Some(n) = word_of(&r.stat, "processes ") {
        let def = &names::SYSTEM_PROCESS_CREATED;
        out.push(def, vec![], PointData::Sum(n));
    }
    if let Some(n) = r.n_processes {
        out.push(&names::SYSTEM_PROCESS_COUNT, vec![], up_down(n));
    }
    disks(&mut out, r);
    for f in &r.file_systems {
        for (state, bytes) in [("used", f.used), ("free", f.free), ("reserved", f.reserved)] {
            let attrs: Attrs = vec![
                (names::SYSTEM_DEVICE, f.device.clone().into()),
                ("system.filesystem.mountpoint", f.mountpoint.clone().into()),
                ("system.filesystem.type", f.kind.clone().into()),
                ("system.filesystem.state", state.into()),
            ];
            out.push(&names::SYSTEM_FILESYSTEM_USAGE, attrs, up_down(bytes));
        }
    }
    network(&mut out, &r.net_dev);
    out.into_points()
}

/// The number behind a word at the beginning of a line.
fn word_of(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

fn up_down(n: u64) -> PointData {
    PointData::UpDown(i64::try_from(n).unwrap_or(i64::MAX))
}

fn cpu(out: &mut Out, stat: &str) {
    let n = stat.lines().filter(|l| {
        let number = l.strip_prefix("cpu").and_then(|l| l.split(' ').next());
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    let n = n.count() as u64;
    if n > 0 {
        out.push(&names::SYSTEM_CPU_COUNT, vec![], up_down(n));
    }
    let Some(line) = stat.lines().find_map(|l| l.strip_prefix("cpu ")) else {
        return;
    };
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|t| t.parse().ok())
        .collect();
    let at = |i: usize| ticks.get(i).copied().unwrap_or(0);
    for (mode, ticks) in [
        ("user", at(0)),
        ("nice", at(1)),
        ("system", at(2)),
        ("idle", at(3)),
        ("iowait", at(4)),
        ("interrupt", at(5).saturating_add(at(6))),
        ("steal", at(7)),
    ] {
        let time = PointData::SumF64(ticks as f64 / TICKS_S);
        let attrs = vec![(names::CPU_MODE, mode.into())];
        out.push(&names::SYSTEM_CPU_TIME, attrs, time);
    }
}

/// Bytes of a line of `/proc/meminfo`.
fn kib_of(meminfo: &str, name: &str) -> Option<u64> {
    word_of(meminfo, &format!("{name}:")).map(|kib| kib.saturating_mul(1024))
}

fn memory(out: &mut Out, meminfo: &str) {
    let of = |name| kib_of(meminfo, name);
    let (Some(all), Some(free)) = (of("MemTotal"), of("MemFree")) else {
        return;
    };
    let buffers = of("Buffers").unwrap_or(0);
    let cached = of("Cached").unwrap_or(0);
    let cached = cached.saturating_add(of("SReclaimable").unwrap_or(0));
    let used = all.saturating_sub(free).saturating_sub(buffers);
    let used = used.saturating_sub(cached);
    for (state, bytes) in [
        ("used", used),
        ("free", free),
        ("buffers", buffers),
        ("cached", cached),
    ] {
        let attrs = vec![("system.memory.state", state.into())];
        out.push(&names::SYSTEM_MEMORY_USAGE, attrs, up_down(bytes));
    }
    out.push(&names::SYSTEM_MEMORY_LIMIT, vec![], up_down(all));
    if let Some(available) = of("MemAvailable") {
        let def = &names::SYSTEM_MEMORY_AVAILABLE;
        out.push(def, vec![], up_down(available));
    }
}

fn paging(out: &mut Out, meminfo: &str, vmstat: &str) {
    if let (Some(all), Some(free)) = (kib_of(meminfo, "SwapTotal"), kib_of(meminfo, "SwapFree")) {
        for (state, bytes) in [("used", all.saturating_sub(free)), ("free", free)] {
            let attrs = vec![("system.paging.state", state.into())];
            out.push(&names::SYSTEM_PAGING_USAGE, attrs, up_down(bytes));
        }
    }
    let of = |name: &str| word_of(vmstat, name);
    if let (Some(all), Some(major)) = (of("pgfault "), of("pgmajfault ")) {
        for (kind, n) in [("minor", all.saturating_sub(major)), ("major", major)] {
            let attrs = vec![("system.paging.fault.type", kind.into())];
            out.push(&names::SYSTEM_PAGING_FAULTS, attrs, PointData::Sum(n));
        }
    }
    for (direction, n) in [("in", of("pswpin ")), ("out", of("pswpout "))] {
        if let Some(n) = n {
            let attrs = vec![("system.paging.direction", direction.into())];
            let def = &names::SYSTEM_PAGING_OPERATIONS;
            out.push(def, attrs, PointData::Sum(n));
        }
    }
}

fn disks(out: &mut Out, r: &SystemReading) {
    let mut n = 0;
    for line in r.diskstats.lines() {
        let mut words = line.split_whitespace().skip(2);
        let Some(name) = words.next().filter(|name| r.disks.contains(*name)) else {
            continue;
        };
        let f: Vec<u64> = words.map_while(|w| w.parse().ok()).collect();
        if f.len() < 10 || n == MAX_DISKS {
            continue;
        }
        n += 1;
        let device = || (names::SYSTEM_DEVICE, name.to_owned().into());
        let milli = |ms: u64| PointData::SumF64(ms as f64 / 1000.0);
        for (direction, at) in [("read", 0), ("write", 4)] {
            let attrs = || vec![device(), (names::DISK_DIRECTION, direction.into())];
            let bytes = PointData::Sum(f[at + 2].saturating_mul(SECTOR));
            out.push(&names::SYSTEM_DISK_IO, attrs(), bytes);
            let operations = PointData::Sum(f[at]);
            out.push(&names::SYSTEM_DISK_OPERATIONS, attrs(), operations);
            let def = &names::SYSTEM_DISK_OPERATION_TIME;
            out.push(def, attrs(), milli(f[at + 3]));
        }
        out.push(&names::SYSTEM_DISK_IO_TIME, vec![device()], milli(f[9]));
    }
}

fn network(out: &mut Out, net_dev: &str) {
    let devices = net_dev.lines().filter_map(|l| l.split_once(':'));
    let own = devices.filter(|(name, _)| !name.trim().starts_with(OF_CONTAINERS));
    for (name, fields) in own.take(MAX_DEVICES) {
        let name = name.trim();
        let f: Vec<u64> = fields
            .split_whitespace()
            .map_while(|w| w.parse().ok())
            .collect();
        if f.len() < 16 {
            continue;
        }
        for (direction, at) in [("receive", 0), ("transmit", 8)] {
            let direction = || (names::DIRECTION, direction.into());
            let attrs = || vec![(names::INTERFACE, name.to_owned().into()), direction()];
            let io = PointData::Sum(f[at]);
            out.push(&names::SYSTEM_NETWORK_IO, attrs(), io);
            let errors = PointData::Sum(f[at + 2]);
            out.push(&names::SYSTEM_NETWORK_ERRORS, attrs(), errors);
            let dropped = PointData::Sum(f[at + 3]);
            out.push(&names::SYSTEM_NETWORK_DROPPED, attrs(), dropped);
            // The conventions have another word for the device here.
            let attrs = vec![(names::SYSTEM_DEVICE, name.to_owned().into()), direction()];
            let packets = PointData::Sum(f[at + 1]);
            out.push(&names::SYSTEM_NETWORK_PACKETS, attrs, packets);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waggle_telemetry_pipeline::AttrValue;

    use super::*;

    fn reading() -> SystemReading {
        SystemReading {
            stat: "cpu  100 2 30 4000 5 6 7 8 0 0\ncpu0 50 1 15 2000 2 3 3 4 0 0\n\
                   cpu1 50 1 15 2000 3 3 4 4 0 0\nintr 5\nbtime 1700000000\nprocesses 99\n"
                .to_owned(),
            meminfo: "MemTotal:    1000 kB\nMemFree:      100 kB\nMemAvailable: 500 kB\n\
                      Buffers:       50 kB\nCached:       300 kB\nSwapCached:     1 kB\n\
                      SReclaimable:  50 kB\nSwapTotal:    200 kB\nSwapFree:     150 kB\n"
                .to_owned(),
            vmstat: "pgfault 70\npgmajfault 20\npswpin 3\npswpout 4\n".to_owned(),
            diskstats: "   8 0 sda 10 0 20 1500 30 0 40 2500 0 3500 4000 0 0\n   8 1 sda1 1 0 2 3 4 5 6 7 8 9 10\n"
                .to_owned(),
            net_dev: "Inter-|   Receive\n face |bytes packets\n\
                      eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n  wgl0a: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n"
                .to_owned(),
            uptime: "12.5 20.0\n".to_owned(),
            disks: ["sda".to_owned()].into(),
            file_systems: vec![FileSystem {
                device: "/dev/sda1".to_owned(),
                mountpoint: "/".to_owned(),
                kind: "ext4".to_owned(),
                used: 7,
                free: 8,
                reserved: 9,
            }],
            n_processes: Some(42),
        }
    }

    /// The value of a series, by the values of its attributes.
    fn of(points: &[Point], name: &str, values: &[&str]) -> Option<f64> {
        let fits = |p: &&Point| {
            let has: Vec<AttrValue> = p.attrs.iter().map(|(_, v)| v.clone()).collect();
            let wanted: Vec<AttrValue> = values.iter().map(|v| (*v).to_owned().into()).collect();
            p.def.name == name && has == wanted
        };
        let point = points.iter().find(fits)?;
        Some(match point.data {
            PointData::Sum(n) => n as f64,
            PointData::UpDown(n) => n as f64,
            PointData::SumF64(n) | PointData::Gauge(n) => n,
            _ => f64::NAN,
        })
    }

    #[test]
    fn files_of_the_kernel_become_points_of_the_registry() {
        let points = system_points(&reading(), 2);
        assert!(points.iter().all(|p| p.violation().is_none()));
        let booted = 1_700_000_000_000_000_000;
        assert!(
            points
                .iter()
                .all(|p| (p.start_ns, p.time_ns) == (booted, 2))
        );
        for (name, values, want) in [
            ("system.uptime", &[][..], 12.5),
            ("system.cpu.logical.count", &[], 2.0),
            ("system.cpu.time", &["user"], 1.0),
            ("system.cpu.time", &["idle"], 40.0),
            ("system.cpu.time", &["interrupt"], 0.13),
            ("system.cpu.time", &["steal"], 0.08),
            ("system.memory.usage", &["used"], 500.0 * 1024.0),
            ("system.memory.usage", &["cached"], 350.0 * 1024.0),
            ("system.memory.limit", &[], 1000.0 * 1024.0),
            ("system.memory.linux.available", &[], 500.0 * 1024.0),
            ("system.paging.usage", &["used"], 50.0 * 1024.0),
            ("system.paging.faults", &["minor"], 50.0),
            ("system.paging.faults", &["major"], 20.0),
            ("system.paging.operations", &["out"], 4.0),
            ("system.process.created", &[], 99.0),
            ("system.process.count", &[], 42.0),
            ("system.disk.io", &["sda", "read"], 10_240.0),
            ("system.disk.io", &["sda", "write"], 20_480.0),
            ("system.disk.operations", &["sda", "write"], 30.0),
            ("system.disk.operation_time", &["sda", "write"], 2.5),
            ("system.disk.io_time", &["sda"], 3.5),
            (
                "system.filesystem.usage",
                &["/dev/sda1", "/", "ext4", "free"],
                8.0,
            ),
            ("system.network.io", &["eth0", "receive"], 1.0),
            ("system.network.errors", &["eth0", "receive"], 3.0),
            ("system.network.packet.dropped", &["eth0", "transmit"], 8.0),
            ("system.network.packet.count", &["eth0", "transmit"], 6.0),
        ] {
            assert_eq!(of(&points, name, values), Some(want), "{name} {values:?}");
        }
        // Neither a part of a disk nor a container's end is a device of the node.
        assert_eq!(of(&points, "system.disk.io", &["sda1", "read"]), None);
        assert_eq!(
            of(&points, "system.network.io", &["wgl0a", "receive"]),
            None
        );
    }

    #[test]
    fn this_machine_has_figures_of_each_kind() {
        let points = system_points(&SystemReading::read(), u64::MAX);
        for name in [
            "system.uptime",
            "system.cpu.time",
            "system.memory.usage",
            "system.memory.linux.available",
            "system.paging.faults",
            "system.process.count",
            "system.network.io",
        ] {
            assert!(points.iter().any(|p| p.def.name == name), "{name}");
        }
        assert!(system_points(&SystemReading::default(), 1).is_empty());
    }

    #[test]
    fn devices_are_bounded() {
        let line = |n: usize| format!("e{n}: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n");
        let r = SystemReading {
            net_dev: (0..100).map(line).collect(),
            ..SystemReading::default()
        };
        assert_eq!(system_points(&r, 1).len(), MAX_DEVICES * 8);
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(cpu|MemTotal:|pgfault|btime|sda|eth0:|[a-z0-9 :.-]|\n){0,60}") {
            let r = SystemReading {
                stat: text.clone(),
                meminfo: text.clone(),
                vmstat: text.clone(),
                diskstats: text.clone(),
                net_dev: text.clone(),
                uptime: text,
                disks: ["sda".to_owned()].into(),
                ..SystemReading::default()
            };
            let _ = system_points(&r, 1);
        }
    }
}
