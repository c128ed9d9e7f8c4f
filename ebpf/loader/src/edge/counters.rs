//! What the edge counted, and which flows it remembers.

use std::collections::BTreeMap;
use std::fmt;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray};
use waggle_ebpf_common::edge::{Flow, FlowKey, HalfOpen, Traffic, reason};

use crate::LoadError;
use crate::maps::{count, list};

const TRAFFIC: &str = "EDGE_TRAFFIC";
const COUNTS: &str = "EDGE_COUNTS";
const FLOWS: &str = "EDGE_FLOWS";
const OPENING: &str = "EDGE_OPENING";

/// Handles of the edge's counters.
pub struct EdgeCounters {
    traffic: PerCpuArray<MapData, Traffic>,
    counts: PerCpuArray<MapData, u64>,
    flows: HashMap<MapData, FlowKey, Flow>,
    opening: HashMap<MapData, FlowKey, HalfOpen>,
}

impl fmt::Debug for EdgeCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("EdgeCounters").finish_non_exhaustive()
    }
}

impl EdgeCounters {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        fn open<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError>
        where
            T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
        {
            ebpf.take_map(name)
                .ok_or(LoadError::Missing { what: "map", name })?
                .try_into()
                .map_err(|e| LoadError::map("open", name, e))
        }
        Ok(Self {
            traffic: open(ebpf, TRAFFIC)?,
            counts: open(ebpf, COUNTS)?,
            flows: open(ebpf, FLOWS)?,
            opening: open(ebpf, OPENING)?,
        })
    }

    /// Traffic of a VIP by its number, over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn traffic(&self, vip_id: u32) -> Result<Traffic, LoadError> {
        let per_cpu = self
            .traffic
            .get(&vip_id, 0)
            .map_err(|e| LoadError::map("read", TRAFFIC, e))?;
        Ok(per_cpu.iter().fold(Traffic::default(), |sum, cpu| Traffic {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            refused: sum.refused + cpu.refused,
            denied: sum.denied + cpu.denied,
        }))
    }

    /// Counts by reason ([`reason::NAMES`]), over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn counts(&self) -> Result<Vec<u64>, LoadError> {
        (0..reason::COUNT)
            .map(|reason| count(&self.counts, COUNTS, reason))
            .collect()
    }

    /// One count.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn count(&self, reason: u32) -> Result<u64, LoadError> {
        Ok(self
            .counts()?
            .get(reason as usize)
            .copied()
            .unwrap_or_default())
    }

    /// The flows that are remembered. What comes and goes while they are read may be missing.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, Flow>, LoadError> {
        list(&self.flows, FLOWS)
    }

    /// The connections that are being opened on changed slots.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn opening(&self) -> Result<BTreeMap<FlowKey, HalfOpen>, LoadError> {
        list(&self.opening, OPENING)
    }
}
