//! The VIP table of a node: every defined VIP with its eligible backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
};

use waggle_types::{NetSnapshot, VipKey, VipLabel, VipName};

use crate::eligibility::{Candidate, LocalFacts, judge, last_resort};

/// Who answers behind a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendSet {
    /// The VIP's name; literal VIPs have none.
    pub name: Option<VipName>,
    /// Addresses that get new connections; empty means that connects are refused at once.
    pub backends: BTreeSet<SocketAddrV4>,
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

/// Every defined VIP with all tasks that ask to back it, in or out: what `waggle vip list` shows.
///
/// VIPs exist because a service defines them (the snapshot's leases and literals), not because a
/// task does: a task's label that no service defines any more backs nothing.
pub fn explain(
    snapshot: &NetSnapshot,
    local: &LocalFacts,
) -> BTreeMap<VipKey, (Option<VipName>, Vec<Candidate>)> {
    let mut out: BTreeMap<VipKey, (Option<VipName>, Vec<Candidate>)> = BTreeMap::new();
    for key in &snapshot.literal_vips {
        out.insert(*key, (None, Vec::new()));
    }
    for (name, lease) in &snapshot.vips {
        for &(protocol, port) in &lease.ports {
            let key = VipKey {
                protocol,
                ip: lease.ip,
                port,
            };
            out.insert(key, (Some(name.clone()), Vec::new()));
        }
    }
    for (task_id, task) in &snapshot.tasks {
        if task.ports.iter().all(|p| p.vips.is_empty()) {
            continue;
        }
        let agent = snapshot.agents.get(&task.agent_id);
        let verdict = judge(task_id, task, agent, local);
        for port in &task.ports {
            for label in &port.vips {
                let ip = match label {
                    VipLabel::Literal { ip, .. } => *ip,
                    VipLabel::Named { name, .. } => {
                        let name = VipName {
                            label: name.clone(),
                            framework: task.framework.clone(),
                        };
                        match snapshot.vips.get(&name) {
                            Some(lease) => lease.ip,
                            None => continue,
                        }
                    }
                };
                for &protocol in &port.protocols {
                    let key = VipKey {
                        protocol,
                        ip,
                        port: label.port(),
                    };
                    let Some((_, candidates)) = out.get_mut(&key) else {
                        continue;
                    };
                    candidates.push(Candidate {
                        task_id: task_id.clone(),
                        addr: agent.map(|a| SocketAddrV4::new(a.ip, port.host_port)),
                        verdict: if port.host_port == 0 {
                            crate::Verdict::Excluded(crate::Reason::NoPort)
                        } else {
                            verdict
                        },
                    });
                }
            }
        }
    }
    for (_, candidates) in out.values_mut() {
        last_resort(candidates);
    }
    out
}

/// Every defined VIP with its eligible backends.
pub fn table(snapshot: &NetSnapshot, local: &LocalFacts) -> VipTable {
    explain(snapshot, local)
        .into_iter()
        .map(|(key, (name, candidates))| {
            let backends = candidates
                .iter()
                .filter(|c| c.verdict.is_in())
                .filter_map(|c| c.addr)
                .collect();
            (key, BackendSet { name, backends })
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
