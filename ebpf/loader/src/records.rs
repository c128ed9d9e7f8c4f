//! Connections that have ended, as the kernel wrote them down.

use std::fmt;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use waggle_ebpf_common::flow::FlowRecord;

use crate::{LoadError, maps};

const RECORDS: &str = "FLOW_RECORDS";
const LOST: &str = "FLOW_LOST";

/// Reads the ring of a node's ended connections. What was not read stays there over a restart of the process.
pub struct FlowRecords {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

impl FlowRecords {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            ring: maps::open(ebpf, RECORDS)?,
            lost: maps::open(ebpf, LOST)?,
        })
    }

    /// Records that found no room, since the node's data plane began.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn lost(&self) -> Result<u64, LoadError> {
        maps::count(&self.lost, LOST, 0)
    }
}

impl Iterator for FlowRecords {
    type Item = FlowRecord;

    /// The oldest record that was not read yet; `None` until there are more.
    fn next(&mut self) -> Option<FlowRecord> {
        // What is shorter than a record was written by none of our programs.
        while let Some(item) = self.ring.next() {
            if let Some(record) = FlowRecord::from_bytes(&item) {
                return Some(record);
            }
        }
        None
    }
}

impl fmt::Debug for FlowRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("FlowRecords").finish_non_exhaustive()
    }
}
