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
    let up = now_ns.saturating_sub(start_ns) as f64 / 1e9;
    push(&names::PROCESS_UPTIME, Vec::new(), PointData::Gauge(up));
    out
}

/// Resident memory in KiB (proc(5), `status`): whatever the size of pages is.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
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
        assert_eq!(points.len(), 4);
        assert!(points.iter().all(|p| p.violation().is_none()));
    }
}
