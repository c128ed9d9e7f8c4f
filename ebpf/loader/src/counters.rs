//! What the programs counted, summed over CPUs.
//!
//! All figures grow from the first start of the node's data plane on, over restarts of the process. A key
//! disappears only by `forget_*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData, MapError, PerCpuArray, PerCpuHashMap};
use waggle_ebpf_common::flow::{FlowKey, FlowStats};
use waggle_ebpf_common::{CgroupNet, HIST_BUCKETS, TcpKey, TcpStats, VipStat, VipStatKey, loss};

use crate::{LoadError, maps};

/// Handles of the counter maps.
pub struct Counters {
    cgroup_net: Table<u64, CgroupNet>,
    tcp: Table<TcpKey, TcpStats>,
    vip_stats: Table<VipStatKey, VipStat>,
    flows: Mutex<HashMap<MapData, FlowKey, FlowStats>>,
    loss: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        const LOSS: &str = "LOSS";
        let loss = ebpf.take_map(LOSS).ok_or(LoadError::Missing {
            what: "map",
            name: LOSS,
        })?;
        Ok(Self {
            cgroup_net: Table::take(ebpf, "CGROUP_NET")?,
            tcp: Table::take(ebpf, "TCP_STATS")?,
            vip_stats: Table::take(ebpf, "VIP_STATS")?,
            flows: Mutex::new(take_flows(ebpf)?),
            loss: loss
                .try_into()
                .map_err(|e| LoadError::map("open", LOSS, e))?,
        })
    }

    /// Bytes and packets by cgroup id.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn cgroup_net(&self) -> Result<Vec<(u64, CgroupNet)>, LoadError> {
        self.cgroup_net.read()
    }

    /// TCP counters by cgroup id and VIP number.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn tcp(&self) -> Result<Vec<(TcpKey, TcpStats)>, LoadError> {
        self.tcp.read()
    }

    /// Connects by VIP number and backend; backend 0 counts refusals.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn vip_stats(&self) -> Result<Vec<(VipStatKey, VipStat)>, LoadError> {
        self.vip_stats.read()
    }

    /// Edges between tasks and their peers. What comes and goes meanwhile may be missing.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, FlowStats>, LoadError> {
        let map = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        maps::list(&map, FLOWS)
    }

    /// Takes an edge out of the map: what it had counted until then, in the same step. What follows counts anew. `None`
    /// where it is not there.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn take_flow(&self, key: &FlowKey) -> Result<Option<FlowStats>, LoadError> {
        let map = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = IterableMap::map(&*map).fd();
        crate::sys::map_take(fd.as_fd(), key).map_err(|source| LoadError::Link {
            action: "take an entry of",
            name: FLOWS,
            source,
        })
    }

    /// What could not be counted, by reason ([`loss::NAMES`]).
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn losses(&self) -> Result<[u64; loss::COUNT as usize], LoadError> {
        let mut losses = [0; loss::COUNT as usize];
        for (index, total) in (0..).zip(&mut losses) {
            *total = maps::count(&self.loss, "LOSS", index)?;
        }
        Ok(losses)
    }

    /// Drops the counters of cgroups that are gone, in one pass. Returns how many entries were removed; none is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn forget_cgroups(&self, gone: &BTreeSet<u64>) -> Result<usize, LoadError> {
        let net = self.cgroup_net.remove_where(|key| gone.contains(key))?;
        let is_gone = |key: &TcpKey| gone.contains(&key.cgroup_id);
        let tcp = self.tcp.remove_where(is_gone)?;
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = maps::list(&flows, FLOWS)?.into_keys();
        let mut n_flows = 0;
        // The last resort is nobody's.
        for key in keys.filter(|key| key.cgroup_id != 0 && gone.contains(&key.cgroup_id)) {
            maps::gone(flows.remove(&key), FLOWS)?;
            n_flows += 1;
        }
        Ok(net + tcp + n_flows)
    }

    /// Drops the counters of a VIP that is gone, the tasks' TCP counters towards it included. Returns how
    /// many entries were removed; none is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn forget_vip(&self, vip_id: u32) -> Result<usize, LoadError> {
        let stats = self.vip_stats.remove_where(|key| key.vip_id == vip_id)?;
        let tcp = self
            .tcp
            .remove_where(|key| key.vip_id == vip_id && vip_id != 0)?;
        Ok(stats + tcp)
    }
}

const FLOWS: &str = "FLOWS";

/// With the entry for what finds no room.
fn take_flows(ebpf: &mut Ebpf) -> Result<HashMap<MapData, FlowKey, FlowStats>, LoadError> {
    let mut map = maps::open(ebpf, FLOWS)?;
    maps::make(&mut map, FLOWS, FlowKey::default(), FlowStats::default())?;
    Ok(map)
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

/// One per-CPU hash of counters.
struct Table<K: Pod, V: Pod> {
    name: &'static str,
    map: Mutex<PerCpuHashMap<MapData, K, V>>,
}

impl<K: Pod + Ord, V: Sum> Table<K, V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, LoadError> {
        let map = ebpf
            .take_map(name)
            .ok_or(LoadError::Missing { what: "map", name })?;
        let map = map
            .try_into()
            .map_err(|e| LoadError::map("open", name, e))?;
        Ok(Self {
            name,
            map: Mutex::new(map),
        })
    }

    /// All entries, summed over CPUs and sorted by key.
    fn read(&self) -> Result<Vec<(K, V)>, LoadError> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        // Ordered, and by key: an iteration that the kernel restarts (its place was deleted) repeats keys.
        let mut sums = BTreeMap::new();
        for key in map.keys() {
            let key = key.map_err(|e| LoadError::map("list", self.name, e))?;
            match map.get(&key, 0) {
                Ok(per_cpu) => {
                    let mut sum = V::zero();
                    per_cpu.iter().for_each(|value| sum.add(value));
                    sums.insert(key, sum);
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(LoadError::map("read", self.name, error)),
            }
        }
        Ok(sums.into_iter().collect())
    }

    fn remove_where(&self, matches: impl Fn(&K) -> bool) -> Result<usize, LoadError> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for key in map.keys() {
            let key = key.map_err(|e| LoadError::map("list", self.name, e))?;
            if matches(&key) {
                found.push(key);
            }
        }
        found.sort_unstable();
        found.dedup();
        let mut removed = 0;
        for key in found {
            match map.remove(&key) {
                Ok(()) => removed += 1,
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(LoadError::map("remove from", self.name, error)),
            }
        }
        Ok(removed)
    }
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(e) => e.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// Counters that add up over CPUs.
trait Sum: Pod {
    fn zero() -> Self;
    fn add(&mut self, other: &Self);
}

impl Sum for CgroupNet {
    fn zero() -> Self {
        Self::default()
    }

    fn add(&mut self, other: &Self) {
        self.rx_bytes += other.rx_bytes;
        self.rx_packets += other.rx_packets;
        self.tx_bytes += other.tx_bytes;
        self.tx_packets += other.tx_packets;
    }
}

impl Sum for VipStat {
    fn zero() -> Self {
        Self::default()
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.failures += other.failures;
        self.ejections += other.ejections;
    }
}

impl Sum for TcpStats {
    fn zero() -> Self {
        Self::default()
    }

    fn add(&mut self, other: &Self) {
        self.connects += other.connects;
        self.connect_failures += other.connect_failures;
        self.accepts += other.accepts;
        self.retransmits += other.retransmits;
        self.tx_bytes += other.tx_bytes;
        self.rx_bytes += other.rx_bytes;
        self.rtt_count += other.rtt_count;
        self.rtt_sum_us += other.rtt_sum_us;
        self.connect_sum_us += other.connect_sum_us;
        for i in 0..HIST_BUCKETS {
            self.rtt_hist[i] += other.rtt_hist[i];
            self.connect_hist[i] += other.connect_hist[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_counters_add_up_field_by_field() {
        let mut one = TcpStats {
            connects: 1,
            connect_failures: 2,
            accepts: 3,
            retransmits: 4,
            ..TcpStats::default()
        };
        one.tx_bytes = 5;
        one.rx_bytes = 6;
        one.rtt_count = 7;
        one.rtt_sum_us = 8;
        one.connect_sum_us = 9;
        one.rtt_hist[0] = 10;
        one.connect_hist[HIST_BUCKETS - 1] = 11;
        let mut sum = TcpStats::zero();
        sum.add(&one);
        assert_eq!(sum, one);
        sum.add(&one);
        assert_eq!(sum.tx_bytes, 10);
        assert_eq!(sum.rtt_hist[0], 20);
        assert_eq!(sum.connect_hist[HIST_BUCKETS - 1], 22);
    }
}
