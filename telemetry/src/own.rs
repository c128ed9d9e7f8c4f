//! What this process costs: CPU, memory, how long it has been running.

use std::fs;

use waggle_telemetry_pipeline::{AttrValue, Point, PointData, names};

/// The kernel counts CPU time in `USER_HZ`, which is 100 on every architecture that nodes have.
const TICKS_S: f64 = 100.0;

/// The process's own points; `start_ns` is when it began, Unix nanoseconds.
pub(crate) fn points(start_ns: u64, now_ns: u64) -> Vec<Point> {
    let mut out = Vec::new();
    let mut push = |def, attrs, data| out.push(Point::new(def, attrs, data, start_ns, now_ns));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some((user, system)) = cpu(&stat) {
        for (mode, ticks) in [("user", user), ("system", system)] {
            let attrs = vec![(names::CPU_MODE, AttrValue::from(mode))];
            let seconds = PointData::SumF64(ticks as f64 / TICKS_S);
            push(&names::PROCESS_CPU_TIME, attrs, seconds);
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = resident(&status) {
        let bytes = i64::try_from(kib.saturating_mul(1024)).unwrap_or(i64::MAX);
        push(
            &names::PROCESS_MEMORY_USAGE,
            Vec::new(),
            PointData::UpDown(bytes),
        );
    }
    for (def, n) in [
        (&names::PROCESS_THREADS, number(&status, "Threads:")),
        (&names::PROCESS_FDS, open_files()),
    ] {
        if let Some(n) = n {
            let n = PointData::UpDown(i64::try_from(n).unwrap_or(i64::MAX));
            push(def, Vec::new(), n);
        }
    }
    for (kind, name) in [
        ("voluntary", "voluntary_ctxt_switches:"),
        ("involuntary", "nonvoluntary_ctxt_switches:"),
    ] {
        if let Some(n) = number(&status, name) {
            let attrs = vec![("process.context_switch.type", AttrValue::from(kind))];
            push(&names::PROCESS_SWITCHES, attrs, PointData::Sum(n));
        }
    }
    let up = now_ns.saturating_sub(start_ns) as f64 / 1e9;
    push(&names::PROCESS_UPTIME, Vec::new(), PointData::Gauge(up));
    out
}

/// Resident memory in KiB (proc(5), `status`): whatever the size of pages is.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The number of a line of it.
fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// But for the one by which they are counted.
fn open_files() -> Option<u64> {
    let n = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(n.saturating_sub(1))
}

/// Ticks in user mode and in the kernel (proc(5), `stat`): fields 14 and 15, counted after the name, which may hold anything.
fn cpu(stat: &str) -> Option<(u64, u64)> {
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ').skip(11);
    let mut next = || fields.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_confuses_nobody() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu(stat), Some((12, 34)));
        assert_eq!(cpu(""), None);
        assert_eq!(resident("Name:\ta\nVmRSS:\t   120 kB\n"), Some(120));
        assert_eq!(resident("VmRSS:"), None);
        let points = points(1, 2);
        assert_eq!(points.len(), 8);
        assert_eq!(number("Threads:\t7\n", "Threads:"), Some(7));
        assert_eq!(number("Threads:\tx", "Threads:"), None);
        assert!(points.iter().all(|p| p.violation().is_none()));
    }
}
