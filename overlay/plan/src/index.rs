//! Which tasks ask to back which VIP: what makes a change cost what it touches, not what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use waggle_types::{AgentId, NetSnapshot, TaskId, TaskNet, VipKey, VipLabel, VipLease, VipName};

use crate::{
    Reason, Verdict,
    eligibility::{Candidate, LocalFacts, judge, last_resort, prefer_near},
};

/// What a label points at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Named(VipName),
    Literal(IpAddr),
}

fn target(label: &VipLabel, framework: &str) -> Target {
    match label {
        VipLabel::Named { name, .. } => Target::Named(VipName {
            label: name.clone(),
            framework: framework.to_owned(),
        }),
        VipLabel::Literal { ip, .. } => Target::Literal(*ip),
    }
}

/// Of one snapshot, kept as it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Index {
    defined: BTreeMap<VipKey, Option<VipName>>,
    backing: BTreeMap<Target, BTreeSet<TaskId>>,
    on_agent: BTreeMap<AgentId, BTreeSet<TaskId>>,
}

impl Index {
    pub(crate) fn of(snapshot: &NetSnapshot) -> Self {
        let mut this = Self::default();
        for key in &snapshot.literal_vips {
            this.define(*key, None);
        }
        for (name, lease) in &snapshot.vips {
            for key in keys_of(lease) {
                this.define(key, Some(name.clone()));
            }
        }
        for (id, task) in &snapshot.tasks {
            this.add_task(id, task);
        }
        this
    }

    /// Every defined VIP.
    pub(crate) fn defined(&self) -> impl Iterator<Item = (&VipKey, Option<&VipName>)> {
        self.defined.iter().map(|(key, name)| (key, name.as_ref()))
    }

    /// Whether a VIP is defined.
    pub(crate) fn is_defined(&self, key: &VipKey) -> bool {
        self.defined.contains_key(key)
    }

    /// The name of a VIP that is defined and not a literal one.
    pub(crate) fn name(&self, key: &VipKey) -> Option<&VipName> {
        self.defined.get(key)?.as_ref()
    }

    pub(crate) fn define(&mut self, key: VipKey, name: Option<VipName>) {
        self.defined.insert(key, name);
    }

    pub(crate) fn undefine(&mut self, key: &VipKey) {
        self.defined.remove(key);
    }

    pub(crate) fn add_task(&mut self, id: &TaskId, task: &TaskNet) {
        let mut backs = false;
        for label in labels(task) {
            let at = target(label, &task.framework);
            self.backing.entry(at).or_default().insert(id.clone());
            backs = true;
        }
        if backs {
            let on = self.on_agent.entry(task.agent_id.clone()).or_default();
            on.insert(id.clone());
        }
    }

    pub(crate) fn remove_task(&mut self, id: &TaskId, task: &TaskNet) {
        for label in labels(task) {
            drop_from(&mut self.backing, &target(label, &task.framework), id);
        }
        drop_from(&mut self.on_agent, &task.agent_id, id);
    }

    /// Tasks of an agent that back VIPs.
    pub(crate) fn on_agent(&self, id: &AgentId) -> impl Iterator<Item = &TaskId> {
        self.on_agent.get(id).into_iter().flatten()
    }

    /// The defined VIPs that a task asks to back.
    pub(crate) fn backed_by(&self, task: &TaskNet, snapshot: &NetSnapshot) -> Vec<VipKey> {
        let mut keys = Vec::new();
        for port in &task.ports {
            for label in &port.vips {
                let ips = match target(label, &task.framework) {
                    Target::Literal(ip) => [Some(ip), None],
                    Target::Named(name) => match snapshot.vips.get(&name) {
                        Some(lease) => addresses(lease),
                        None => continue,
                    },
                };
                for ip in ips.into_iter().flatten() {
                    keys.extend(port.protocols.iter().map(|&protocol| VipKey {
                        protocol,
                        ip,
                        port: label.port(),
                    }));
                }
            }
        }
        keys.retain(|key| self.defined.contains_key(key));
        keys
    }

    /// Everybody who asks to back a defined VIP, in order of task ids, and what is thought of it.
    pub(crate) fn candidates(
        &self,
        key: &VipKey,
        snapshot: &NetSnapshot,
        local: &LocalFacts,
        here: Option<&AgentId>,
    ) -> Vec<Candidate> {
        let at = match self.defined.get(key) {
            Some(Some(name)) => Target::Named(name.clone()),
            _ => Target::Literal(key.ip),
        };
        // A task that backs a literal IPv6 VIP says so by that; behind a name it has to be said.
        let is_twin = matches!((&at, key.ip), (Target::Named(_), IpAddr::V6(_)));
        let mut out = Vec::new();
        for id in self.backing.get(&at).into_iter().flatten() {
            let Some(task) = snapshot.tasks.get(id) else {
                continue;
            };
            let agent = snapshot.agents.get(&task.agent_id);
            // A VIP leads to addresses of its own family.
            let of_agent = agent.and_then(|a| match key.ip {
                IpAddr::V4(_) => Some(a.ip.into()),
                IpAddr::V6(_) => a.ip6.map(IpAddr::from),
            });
            // A port of a network's own address that is mapped to none of the agent's (CONTRACTS section 3).
            let own = task.network.is_some().then(|| match key.ip {
                IpAddr::V4(_) => task.ip.map(IpAddr::from),
                IpAddr::V6(_) => task.ip6.map(IpAddr::from),
            });
            for port in &task.ports {
                let asks = port.protocols.contains(&key.protocol)
                    && port
                        .vips
                        .iter()
                        .any(|l| l.port() == key.port && target(l, &task.framework) == at);
                if !asks {
                    continue;
                }
                let (ip, number) = match own {
                    Some(own) if port.host_port == 0 => (own, port.container_port.unwrap_or(0)),
                    _ => (of_agent, port.host_port),
                };
                out.push(Candidate {
                    task_id: id.clone(),
                    agent_id: task.agent_id.clone(),
                    addr: ip.map(|ip| SocketAddr::new(ip, number)),
                    balance: port.balance,
                    verdict: if number == 0 {
                        Verdict::Excluded(Reason::NoPort)
                    } else if is_twin && !port.balance.ipv6 {
                        Verdict::Excluded(Reason::Ipv4Only)
                    } else if agent.is_some() && ip.is_none() {
                        Verdict::Excluded(Reason::NoAddress)
                    } else {
                        judge(id, task, agent, local)
                    },
                });
            }
        }
        last_resort(&mut out);
        if let Some(here) = here {
            prefer_near(&mut out, here, snapshot);
        }
        out
    }
}

/// The keys of a lease.
pub(crate) fn keys_of(lease: &VipLease) -> impl Iterator<Item = VipKey> + '_ {
    let ips = addresses(lease).into_iter().flatten();
    ips.flat_map(|ip| {
        lease
            .ports
            .iter()
            .map(move |&(protocol, port)| VipKey { protocol, ip, port })
    })
}

fn addresses(lease: &VipLease) -> [Option<IpAddr>; 2] {
    [Some(lease.ip.into()), lease.ip6.map(IpAddr::V6)]
}

fn labels(task: &TaskNet) -> impl Iterator<Item = &VipLabel> {
    task.ports.iter().flat_map(|p| &p.vips)
}

fn drop_from<K: Ord>(map: &mut BTreeMap<K, BTreeSet<TaskId>>, key: &K, id: &TaskId) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}
