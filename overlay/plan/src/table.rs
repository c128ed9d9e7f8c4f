//! The VIP table of a node: every defined VIP with its backends.

use std::{collections::BTreeMap, net::SocketAddr};

use waggle_types::{NetSnapshot, Policy, SourceRange, VipKey, VipName};

use crate::{
    eligibility::{Candidate, LocalFacts},
    index::Index,
};

/// A backend's share of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// In proportion to the others', in thousandths; 0 drains: it keeps what it has and gets nothing new.
    pub weight_milli: u32,
    /// Seconds over which a backend that is new grows to this weight.
    pub slow_start_s: u32,
}

impl Share {
    /// Weight 1, at once.
    pub const ONE: Self = Self {
        weight_milli: 1000,
        slow_start_s: 0,
    };
    /// No new connections.
    pub const DRAINING: Self = Self {
        weight_milli: 0,
        slow_start_s: 0,
    };
}

/// Who answers behind a VIP, and how one of them is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendSet {
    /// The VIP's name; literal VIPs have none.
    pub name: Option<VipName>,
    /// How one is chosen.
    pub policy: Policy,
    /// Seconds for which a client keeps its backend; 0 for none.
    pub affinity_s: u32,
    /// Backends of the VIP's own address family; without one that has weight, connects are refused at once.
    pub backends: BTreeMap<SocketAddr, Share>,
    /// Networks that may use it from outside; none: everybody.
    pub sources: Vec<SourceRange>,
}

impl BackendSet {
    /// Addresses that get new connections.
    pub fn serving(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.backends
            .iter()
            .filter(|(_, share)| share.weight_milli > 0)
            .map(|(addr, _)| *addr)
    }

    /// From a VIP's candidates.
    pub(crate) fn of(
        key: &VipKey,
        name: Option<VipName>,
        candidates: &[Candidate],
        snapshot: &NetSnapshot,
    ) -> Self {
        let mut set = Self {
            name,
            sources: snapshot.sources.get(key).cloned().unwrap_or_default(),
            ..Self::default()
        };
        if let Some(first) = candidates.first() {
            set.policy = first.balance.policy;
            set.affinity_s = first.balance.affinity_s;
        }
        for c in candidates {
            let Some(addr) = c.addr else {
                continue;
            };
            let share = match c.verdict.reason() {
                None => Share {
                    weight_milli: u32::from(c.balance.weight) * 1000,
                    slow_start_s: c.balance.slow_start_s,
                },
                Some(reason) if reason.is_draining() => Share::DRAINING,
                Some(_) => continue,
            };
            // A port that one task has just left and another got: who serves counts.
            let held = set.backends.entry(addr).or_insert(share);
            *held = share.max(*held);
        }
        set
    }
}

/// Every VIP of a node.
pub type VipTable = BTreeMap<VipKey, BackendSet>;

/// One step from one table to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapOp {
    /// The VIP is no longer defined.
    Remove {
        /// Which.
        key: VipKey,
    },
    /// The VIP is new or its set has changed.
    Set {
        /// Which.
        key: VipKey,
        /// The whole new set.
        set: BackendSet,
    },
}

impl MapOp {
    /// The VIP that it is about.
    pub const fn key(&self) -> &VipKey {
        match self {
            Self::Remove { key } | Self::Set { key, .. } => key,
        }
    }
}

/// Every defined VIP with all tasks that ask to back it, in or out: what `waggle vip list` shows. As seen from
/// nowhere in particular: no backend is nearer than another.
///
/// VIPs exist because a service defines them (the snapshot's leases and literals), not because a
/// task does: a task's label that no service defines any more backs nothing.
pub fn explain(
    snapshot: &NetSnapshot,
    local: &LocalFacts,
) -> BTreeMap<VipKey, (Option<VipName>, Vec<Candidate>)> {
    let index = Index::of(snapshot);
    index
        .defined()
        .map(|(key, name)| {
            let candidates = index.candidates(key, snapshot, local, None);
            (*key, (name.cloned(), candidates))
        })
        .collect()
}

/// Every defined VIP with its backends; [`Plan`](crate::Plan) keeps such a table as things change.
pub fn table(snapshot: &NetSnapshot, local: &LocalFacts) -> VipTable {
    explain(snapshot, local)
        .into_iter()
        .map(|(key, (name, candidates))| {
            let set = BackendSet::of(&key, name, &candidates, snapshot);
            (key, set)
        })
        .collect()
}

/// The steps from `old` to `new`: removals first, so that a full map has room for what is new.
pub fn diff(old: &VipTable, new: &VipTable) -> Vec<MapOp> {
    let removed = old
        .keys()
        .filter(|k| !new.contains_key(k))
        .map(|&key| MapOp::Remove { key });
    let set = new
        .iter()
        .filter(|(key, set)| old.get(key) != Some(set))
        .map(|(&key, set)| MapOp::Set {
            key,
            set: set.clone(),
        });
    removed.chain(set).collect()
}

/// Carries `ops` out on `table`: the meaning of [`diff`].
pub fn apply(ops: &[MapOp], table: &VipTable) -> VipTable {
    let mut out = table.clone();
    for op in ops {
        match op {
            MapOp::Remove { key } => {
                out.remove(key);
            }
            MapOp::Set { key, set } => {
                out.insert(*key, set.clone());
            }
        }
    }
    out
}
