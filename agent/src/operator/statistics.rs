//! Figures of a container as Mesos's `ResourceStatistics`. Pure.

use waggle_api::proto::mesos as pb;
use waggle_ebpf_common::CgroupNet;
use waggle_types::{ScalarKind, TaskSpec, Volume, VolumeId};

use crate::{
    cgroup::{CPU_PERIOD_US, NodeLimits, Stats, limits},
    tidy::{self, DiskUse},
};

/// What was measured of a container.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Its cgroup's files.
    pub stats: Stats,
    /// Its bytes and packets, where the data plane counts them.
    pub net: Option<CgroupNet>,
    /// Its disk, once it was looked at.
    pub disk: Option<DiskUse>,
    /// When, Unix nanoseconds.
    pub at_ns: u64,
}

/// What a container uses, and may use. What this host does not measure is left out.
pub fn statistics(r: &Reading, spec: &TaskSpec, node: NodeLimits) -> pb::ResourceStatistics {
    let s = &r.stats;
    let cpus = spec.resources.get(ScalarKind::Cpus).to_f64();
    let limits = limits(spec, node).ok();
    let quota = limits.and_then(|l| l.cpu_quota_us);
    let disk = spec.resources.get(ScalarKind::Disk);
    pb::ResourceStatistics {
        timestamp: seconds(r.at_ns),
        cpus_user_time_secs: s.cpu_user_ns.map(seconds),
        cpus_system_time_secs: s.cpu_system_ns.map(seconds),
        // Monitors divide by it, so without a ceiling it is what was asked for.
        cpus_limit: Some(quota.map_or(cpus, |us| us as f64 / CPU_PERIOD_US as f64)),
        cpus_soft_limit: Some(cpus),
        cpus_nr_periods: s.periods.map(count),
        cpus_nr_throttled: s.throttled_periods.map(count),
        cpus_throttled_time_secs: s.throttled_ns.map(seconds),
        mem_total_bytes: s.memory_bytes,
        mem_rss_bytes: s.rss_bytes,
        mem_anon_bytes: s.rss_bytes,
        mem_file_bytes: s.file_bytes,
        mem_cache_bytes: s.file_bytes,
        mem_mapped_file_bytes: s.mapped_file_bytes,
        mem_limit_bytes: s
            .memory_limit_bytes
            .or_else(|| limits.and_then(|l| l.memory_bytes)),
        mem_soft_limit_bytes: limits.map(|l| l.memory_low_bytes),
        net_rx_bytes: r.net.map(|n| n.rx_bytes),
        net_rx_packets: r.net.map(|n| n.rx_packets),
        net_tx_bytes: r.net.map(|n| n.tx_bytes),
        net_tx_packets: r.net.map(|n| n.tx_packets),
        disk_limit_bytes: (disk.0 > 0).then(|| tidy::bytes(disk)),
        disk_used_bytes: r.disk.as_ref().map(|d| d.sandbox_bytes),
        disk_statistics: r.disk.iter().flat_map(|d| volumes(d, spec)).collect(),
        threads: s.pids.map(count),
    }
}

fn volumes(held: &DiskUse, spec: &TaskSpec) -> Vec<pb::DiskStatistics> {
    let all = spec.held_volumes();
    let one = |(id, volume): (&VolumeId, Volume)| {
        Some(pb::DiskStatistics {
            source: None,
            persistence: Some(pb::DiskPersistence {
                id: id.to_string(),
                principal: None,
            }),
            limit_bytes: Some(tidy::bytes(volume.size)),
            used_bytes: Some(*held.volumes.get(id)?),
        })
    };
    all.filter_map(one).collect()
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn count(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use waggle_api::mesos::json;
    use waggle_types::{Ceiling, Milli, Resources};

    use super::*;
    use crate::fixture;

    const NODE: NodeLimits = NodeLimits {
        cpu_hard: false,
        pids: 4096,
    };

    fn spec() -> TaskSpec {
        let mut spec = fixture::spec("t");
        spec.resources = Resources::from_millis(500, 64_000, 10_000);
        let volume = Volume {
            size: Milli::units(5),
            shared: false,
        };
        let id = VolumeId::new("db").unwrap();
        spec.resources.custom.set_volume(id, volume);
        spec
    }

    fn shown(r: &Reading, spec: &TaskSpec, node: NodeLimits) -> String {
        String::from_utf8(json::write(&statistics(r, spec, node))).unwrap()
    }

    #[test]
    fn all_that_is_measured_is_told() {
        let reading = Reading {
            stats: Stats {
                cpu_user_ns: Some(1_500_000_000),
                cpu_system_ns: Some(250_000_000),
                periods: Some(10),
                throttled_periods: Some(2),
                throttled_ns: Some(500_000_000),
                memory_bytes: Some(4096),
                rss_bytes: Some(1024),
                file_bytes: Some(3072),
                mapped_file_bytes: Some(512),
                memory_limit_bytes: Some(67_108_864),
                pids: Some(3),
                ..Stats::default()
            },
            net: Some(CgroupNet {
                rx_bytes: 1,
                rx_packets: 2,
                tx_bytes: 3,
                tx_packets: 4,
            }),
            disk: Some(DiskUse {
                sandbox_bytes: 8192,
                volumes: [(VolumeId::new("db").unwrap(), 4096)].into(),
            }),
            at_ns: 1_700_000_000_500_000_000,
        };
        let want = concat!(
            r#"{"timestamp":1700000000.5,"cpus_user_time_secs":1.5,"cpus_system_time_secs":0.25,"cpus_limit":0.5,"#,
            r#""mem_rss_bytes":1024,"mem_limit_bytes":67108864,"cpus_nr_periods":10,"cpus_nr_throttled":2,"#,
            r#""cpus_throttled_time_secs":0.5,"mem_file_bytes":3072,"mem_anon_bytes":1024,"#,
            r#""mem_mapped_file_bytes":512,"net_rx_packets":2,"net_rx_bytes":1,"net_tx_packets":4,"#,
            r#""net_tx_bytes":3,"disk_limit_bytes":10485760,"disk_used_bytes":8192,"threads":3,"#,
            r#""mem_total_bytes":4096,"mem_soft_limit_bytes":67108864,"mem_cache_bytes":3072,"#,
            r#""disk_statistics":[{"persistence":{"id":"db"},"limit_bytes":5242880,"used_bytes":4096}],"#,
            r#""cpus_soft_limit":0.5}"#,
        );
        assert_eq!(shown(&reading, &spec(), NODE), want);
    }

    #[test]
    fn what_is_not_measured_is_left_out() {
        let want = concat!(
            r#"{"timestamp":0.0,"cpus_limit":0.5,"mem_limit_bytes":67108864,"disk_limit_bytes":10485760,"#,
            r#""mem_soft_limit_bytes":67108864,"cpus_soft_limit":0.5}"#,
        );
        assert_eq!(shown(&Reading::default(), &spec(), NODE), want);
    }

    #[test]
    fn a_ceiling_is_the_limit() {
        let mut spec = spec();
        spec.container.limits.cpus = Ceiling::At(Milli(1500));
        let s = statistics(&Reading::default(), &spec, NODE);
        assert_eq!((s.cpus_limit, s.cpus_soft_limit), (Some(1.5), Some(0.5)));
    }
}
