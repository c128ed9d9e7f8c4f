//! Overlay networks: which there are, and what each agent holds of them.
//!
//! An agent gets its part when it registers, and of a new network at once; what it holds is stored before anybody is told.
//! What an agent held that is gone rests for a while before another one gets it.

use std::collections::{BTreeMap, BTreeSet};

use waggle_overlay_plan::network::{Granted, Held, Leases, Short, Usage, check_network};
use waggle_types::{
    AgentId, AgentOverlay, FieldError, IpNet, MAX_NETWORKS, Millis, Network, NetworkMode,
    RejectReason, ServiceSpec, UnixMillis, Vxlan,
};

use super::{
    CoreConfig, MasterCore, Measure,
    frameworks::{Called, no},
    stored,
};
use crate::store::{MAX_OPS, StoreOp};

/// How long what an agent held rests after it is gone.
pub const LEASE_REST: Millis = Millis::from_secs(600);
/// Agents without a part that a log names: a pool that is too small for a cluster lacks thousands. The API names them all.
const TOLD: usize = 20;
/// Services and tasks that a refusal names.
const MAX_NAMED: usize = 5;

/// Whether a new cluster can have a network beside others. Fields are named as in the HTTP API.
///
/// # Errors
/// The field and the rule that it breaks.
pub fn check_network_of(
    name: &str,
    network: &Network,
    others: &BTreeMap<String, Network>,
    vxlan: &Vxlan,
) -> Result<(), FieldError> {
    check_network(name, network, others, vxlan, super::reserved_ranges())
}

/// Networks and leases, as stored.
#[derive(Debug, Clone)]
pub(super) struct Networks {
    all: BTreeMap<String, Network>,
    leases: Leases,
    /// Agents that a pool had nothing left for.
    short: BTreeMap<AgentId, Vec<Short>>,
}

/// A network with what is used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkView {
    /// The network.
    pub network: Network,
    /// Subnets by who holds them.
    pub usage: Usage,
    /// Agents that there was no subnet for.
    pub short: Vec<AgentId>,
}

impl Networks {
    /// From the store; on a first start the configured ones. The writes are what the store lacks.
    pub(super) fn restored(
        config: &CoreConfig,
        stored: Option<BTreeMap<String, Network>>,
        held: BTreeMap<AgentId, Held>,
    ) -> (Self, Vec<StoreOp>) {
        let mut ops = Vec::new();
        let all = stored.unwrap_or_else(|| {
            ops.push(stored::put_has_networks());
            let first = config.networks.iter();
            ops.extend(first.map(|(name, n)| stored::put_network(name, n)));
            config.networks.clone()
        });
        let leases = Leases::restored(config.vxlan, config.lease_rest, &all, held);
        let networks = Self {
            all,
            leases,
            short: BTreeMap::new(),
        };
        (networks, ops)
    }

    pub(super) const fn all(&self) -> &BTreeMap<String, Network> {
        &self.all
    }

    pub(super) const fn vxlan(&self) -> &Vxlan {
        self.leases.vxlan()
    }

    pub(super) fn of(&self, agent: &AgentId) -> AgentOverlay {
        self.leases.of(agent).cloned().unwrap_or_default()
    }

    pub(super) fn usage(&self) -> BTreeMap<String, Usage> {
        let one = |(name, n): (&String, &Network)| (name.clone(), self.leases.usage(name, n));
        self.all.iter().map(one).collect()
    }

    pub(super) fn next_timeout(&self) -> Option<UnixMillis> {
        self.leases.next_expiry()
    }

    pub(super) fn view(&self) -> BTreeMap<String, NetworkView> {
        let one = |(name, network): (&String, &Network)| {
            let lacks = |s: &Short| s.network.as_ref().is_none_or(|n| n == name);
            let short = self.short.iter().filter(|(_, all)| all.iter().any(lacks));
            let view = NetworkView {
                network: network.clone(),
                usage: self.leases.usage(name, network),
                short: short.map(|(id, _)| id.clone()).collect(),
            };
            (name.clone(), view)
        };
        self.all.iter().map(one).collect()
    }

    /// What must be stored of an agent.
    fn record(&self, agent: &AgentId) -> StoreOp {
        match self.leases.all().get(agent) {
            Some(held) => stored::put_overlay(agent, held),
            None => stored::delete_overlay(agent),
        }
    }

    fn grant(&mut self, agent: &AgentId) -> Granted {
        let granted = self.leases.grant(agent, &self.all);
        if granted.short.is_empty() {
            self.short.remove(agent);
        } else {
            self.short.insert(agent.clone(), granted.short.clone());
        }
        granted
    }
}

fn no_network(name: &str) -> waggle_types::CallRejection {
    no(RejectReason::UnknownNetwork, name, "no such network")
}

impl MasterCore {
    /// Leases of agents that nobody knows any more begin to rest.
    pub(super) fn restore_networks(&mut self, now: UnixMillis) {
        let lost: Vec<AgentId> = self
            .networks
            .leases
            .all()
            .keys()
            .filter(|id| !self.expected.contains_key(*id))
            .cloned()
            .collect();
        for id in lost {
            self.release_subnets(&id, now);
        }
    }

    /// An agent is here: it gets what it lacks.
    pub(super) fn grant_subnets(&mut self, agent: &AgentId) {
        if let Some(op) = self.grant(agent) {
            self.persist(vec![op]);
            self.net_dirty = true;
        }
    }

    /// What is to be stored of what an agent got; what it newly lacks is told.
    fn grant(&mut self, agent: &AgentId) -> Option<StoreOp> {
        let before = self.networks.short.get(agent).cloned().unwrap_or_default();
        let n_short = self.networks.short.len();
        let granted = self.networks.grant(agent);
        for short in granted.short.iter().filter(|s| !before.contains(s)) {
            if n_short < TOLD {
                tracing::warn!(%agent, %short, "an agent takes no part in a network");
            } else {
                tracing::debug!(%agent, %short, "an agent takes no part in a network");
            }
            self.measure(Measure::NetworkExhausted {
                network: short.network.clone().unwrap_or_default(),
            });
        }
        granted.changed.then(|| self.networks.record(agent))
    }

    /// An agent is gone: what it held rests.
    pub(super) fn release_subnets(&mut self, agent: &AgentId, now: UnixMillis) {
        self.networks.short.remove(agent);
        if self.networks.leases.release(agent, now) {
            let op = self.networks.record(agent);
            self.persist(vec![op]);
            self.net_dirty = true;
        }
    }

    /// What has rested for long enough is given to agents that there was nothing for.
    pub(super) fn expire_subnets(&mut self, now: UnixMillis) {
        let gone = self.networks.leases.expire(now);
        if gone.is_empty() {
            return;
        }
        self.persist_many(gone.iter().map(stored::delete_overlay).collect());
        let waiting: Vec<AgentId> = self.networks.short.keys().cloned().collect();
        for agent in waiting {
            self.grant_subnets(&agent);
        }
    }

    pub(super) fn add_network(&mut self, name: String, network: Network) -> Called {
        if self.networks.all.contains_key(&name) {
            let message = "a network with this name exists";
            return Err(vec![no(RejectReason::DuplicateNetwork, &name, message)]);
        }
        if self.networks.all.len() >= MAX_NETWORKS {
            let message = format!("there are {MAX_NETWORKS} networks already");
            return Err(vec![no(RejectReason::TooMany, "name", message)]);
        }
        let (all, vxlan) = (&self.networks.all, self.networks.vxlan());
        check_network(&name, &network, all, vxlan, self.ranges_taken())
            .map_err(|e| vec![e.into()])?;
        let op = stored::put_network(&name, &network);
        self.persist(vec![op]);
        self.networks.all.insert(name, network);
        let agents: Vec<AgentId> = self.agents.all.keys().cloned().collect();
        let ops = agents
            .iter()
            .filter_map(|agent| self.grant(agent))
            .collect();
        self.persist_many(ops);
        self.net_dirty = true;
        Ok(())
    }

    pub(super) fn remove_network(&mut self, name: &str) -> Called {
        if !self.networks.all.contains_key(name) {
            return Err(vec![no_network(name)]);
        }
        if let Some(who) = self.who_uses(name) {
            return Err(vec![no(RejectReason::NetworkInUse, name, who)]);
        }
        self.networks.all.remove(name);
        self.persist(vec![stored::delete_network(name)]);
        let changed = self.networks.leases.forget_network(name);
        let ops = changed.iter().map(|id| self.networks.record(id)).collect();
        self.persist_many(ops);
        let of_it = |s: &Short| s.network.as_deref() == Some(name);
        self.networks.short.retain(|_, all| {
            all.retain(|s| !of_it(s));
            !all.is_empty()
        });
        self.net_dirty = true;
        Ok(())
    }

    /// Whether the network that a definition names is there. Fields as in Marathon's JSON.
    pub(super) fn check_network_of(&self, spec: &ServiceSpec) -> Result<(), FieldError> {
        match &spec.container.network {
            NetworkMode::Container(name) if !self.networks.all.contains_key(name) => Err(
                FieldError::new("networks[0].name", self.unknown_network(name)),
            ),
            _ => Ok(()),
        }
    }

    /// The same for a framework's task.
    pub(super) fn lacks_network(&self, network: &NetworkMode) -> Option<String> {
        match network {
            NetworkMode::Container(name) if !self.networks.all.contains_key(name) => {
                Some(self.unknown_network(name))
            }
            _ => None,
        }
    }

    fn unknown_network(&self, name: &str) -> String {
        let known: Vec<&str> = self.networks.all.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "there is none".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        format!("must be a network of this cluster, is {name:?}; {known}")
    }

    /// Services and tasks that are on a network, for people.
    fn who_uses(&self, name: &str) -> Option<String> {
        let on = |network: &NetworkMode| matches!(network, NetworkMode::Container(n) if n == name);
        let services = self.services.values();
        let mut who: BTreeSet<String> = services
            .filter(|s| on(&s.container.network))
            .map(|s| format!("service {}", s.id))
            .collect();
        let tasks = self.tasks.networked().filter(|t| t.network() == Some(name));
        who.extend(
            tasks
                .filter(|t| t.spec.service.is_empty() || !who_has(&self.services, &t.spec.service))
                .map(|t| format!("task {}", t.id)),
        );
        if who.is_empty() {
            return None;
        }
        let more = who.len().saturating_sub(MAX_NAMED);
        let named: Vec<String> = who.into_iter().take(MAX_NAMED).collect();
        let more = match more {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        Some(format!("in use by {}{more}", named.join(", ")))
    }

    /// Ranges that no network may have.
    fn ranges_taken(&self) -> Vec<(IpNet, String)> {
        let mut out = self.config.reserved.clone();
        let masters = self.config.masters.iter();
        out.extend(masters.map(|ip| (IpNet::host((*ip).into()), "of a master".to_owned())));
        for a in self.agents.all.values() {
            let what = || format!("of node {}", a.info.hostname);
            out.push((IpNet::host(a.info.ip.into()), what()));
            out.extend(a.info.ip6.map(|ip| (IpNet::host(ip.into()), what())));
        }
        out
    }

    /// Writes that are independent of each other, in as many transactions as they need.
    pub(super) fn persist_many(&mut self, mut ops: Vec<StoreOp>) {
        while ops.len() > MAX_OPS / 2 {
            let rest = ops.split_off(MAX_OPS / 2);
            self.persist(std::mem::replace(&mut ops, rest));
        }
        self.persist(ops);
    }
}

fn who_has(services: &super::vips::Services, name: &str) -> bool {
    services.keys().any(|id| id.as_str() == name)
}
