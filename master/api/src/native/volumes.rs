//! Volumes as the node that has them knows them.

use serde::{Deserialize, Serialize};

/// A volume's data on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeVolumeView {
    /// Its id.
    pub id: String,
    /// The disk of its own that it is on; `null`: the one of the agent's work directory.
    pub disk: Option<String>,
    /// Whether it has data; one that is gone may still have snapshots.
    pub exists: bool,
    /// Space that it takes, in bytes, where that was asked for.
    pub used_bytes: Option<u64>,
    /// Ids of tasks that hold it.
    pub tasks: Vec<String>,
    /// Copies of it, oldest first.
    pub snapshots: Vec<SnapshotView>,
}

/// A copy of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Unique for its volume.
    pub name: String,
    /// When it was made, Unix milliseconds.
    pub taken_ms: u64,
    /// Space that its files take; clones share theirs with the volume.
    pub bytes: u64,
    /// Whether no task used the volume then; otherwise it is what a disk has after the power failed.
    pub consistent: bool,
    /// Whether it is the volume itself, put aside because the master did not know it any more.
    pub unclaimed: bool,
}
