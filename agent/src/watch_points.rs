//! A task's points from what only watches: waiting for CPUs and for disks, packets that the kernel dropped.

use waggle_ebpf::Disk;
use waggle_telemetry_pipeline::{Point, PointData, log2_us_histogram, names};

use crate::meter::{Out, seconds};

/// What was read of one task at one time.
#[derive(Default)]
pub struct WatchReading {
    /// Nanoseconds that its threads waited for a CPU.
    pub waited_ns: Option<u64>,
    /// How long its requests to disks took.
    pub disk_times: Option<Disk>,
    /// Packets that the kernel dropped, by reason.
    pub drops: Vec<(String, u64)>,
}

/// The task's points.
pub fn watch_points(r: &WatchReading, start_ns: u64, now_ns: u64) -> Vec<Point> {
    let mut out = Out::new(start_ns, now_ns);
    if let Some(ns) = r.waited_ns {
        let time = PointData::SumF64(seconds(ns));
        out.push(&names::CONTAINER_CPU_DELAY, vec![], time);
    }
    if let Some(disk) = &r.disk_times {
        for (direction, io) in [("read", &disk.read), ("write", &disk.write)] {
            let attrs = vec![(names::DISK_DIRECTION, direction.into())];
            let times = log2_us_histogram(&io.hist, io.sum_us);
            out.push(&names::CONTAINER_DISK_DURATION, attrs, times);
        }
    }
    for (reason, n) in &r.drops {
        let attrs = vec![(names::DROP_REASON, reason.as_str().into())];
        let def = &names::CONTAINER_PACKETS_DROPPED;
        out.push(def, attrs, PointData::Sum(*n));
    }
    out.into_points()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_was_read_is_a_point_of_the_registry() {
        let mut disk_times = Disk::default();
        disk_times.write.sum_us = 30;
        disk_times.write.hist[3] = 2;
        let reading = WatchReading {
            waited_ns: Some(1_500_000_000),
            disk_times: Some(disk_times),
            drops: vec![("no_socket".to_owned(), 3)],
        };
        let points = watch_points(&reading, 1, 2);
        assert!(points.iter().all(|p| p.violation().is_none()));
        let of = |def| points.iter().find(|p| p.def == def).map(|p| p.data.clone());
        let waited = of(&names::CONTAINER_CPU_DELAY);
        assert_eq!(waited, Some(PointData::SumF64(1.5)));
        let dropped = of(&names::CONTAINER_PACKETS_DROPPED);
        assert_eq!(dropped, Some(PointData::Sum(3)));
        let times = points
            .iter()
            .filter(|p| p.def == &names::CONTAINER_DISK_DURATION)
            .filter_map(|p| match &p.data {
                PointData::Histogram { sum, count, .. } => Some((*sum, *count)),
                _ => None,
            })
            .collect::<Vec<_>>();
        assert_eq!(times, [(0.0, 0), (30e-6, 2)]);
        assert_eq!(watch_points(&WatchReading::default(), 1, 2), []);
    }
}
