//! Whom addresses belong to, as a desired state has it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use waggle_overlay_plan::policy::Direction;
use waggle_types::{NetSnapshot, NetworkPolicy, PolicySubject, TaskId};

/// Whom addresses belong to.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    services: HashMap<(IpAddr, u16), Arc<str>>,
    own: HashMap<IpAddr, Own>,
    /// Addresses of nodes, with the one that a node is known by.
    nodes: BTreeMap<IpAddr, Ipv4Addr>,
    holders: HashMap<IpAddr, Holder>,
    policies: Vec<Arc<NetworkPolicy>>,
}

/// Who has an address of its own, and on which node.
#[derive(Debug, Clone)]
struct Own {
    name: Arc<str>,
    node: Option<Ipv4Addr>,
}

/// A task that has an address of its own.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Its id.
    pub task_id: TaskId,
    /// What it is to policies.
    pub subject: Option<Arc<PolicySubject>>,
}

impl Holder {
    /// App or pod, where policies know it.
    pub fn service(&self) -> String {
        let subject = self.subject.as_ref();
        subject.map(|s| s.service.clone()).unwrap_or_default()
    }
}

impl Peers {
    /// As a desired state has it.
    pub fn of(snapshot: &NetSnapshot) -> Self {
        let mut out = Self::default();
        for agent in snapshot.agents.values() {
            out.nodes.insert(IpAddr::V4(agent.ip), agent.ip);
            let six = agent.ip6.map(|ip6| (IpAddr::V6(ip6), agent.ip));
            out.nodes.extend(six);
        }
        // Many tasks have one name.
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        out.policies = snapshot.policies.values().map(Arc::clone).collect();
        for (task_id, task) in &snapshot.tasks {
            let name = service_name(&task.name, &task.framework);
            let name = if let Some(name) = names.get(name.as_str()) {
                Arc::clone(name)
            } else {
                let name: Arc<str> = name.into();
                names.insert(Arc::clone(&name));
                name
            };
            let agent = snapshot.agents.get(&task.agent_id);
            let node = agent.map(|agent| agent.ip);
            let ips = task.ip.map(IpAddr::V4).into_iter();
            for ip in ips.chain(task.ip6.map(IpAddr::V6)) {
                let own = Own {
                    name: Arc::clone(&name),
                    node,
                };
                out.own.insert(ip, own);
                // Whom policies drop something of; without any nobody asks.
                if !out.policies.is_empty() {
                    let holder = Holder {
                        task_id: task_id.clone(),
                        subject: task.subject.clone(),
                    };
                    out.holders.insert(ip, holder);
                }
            }
            if let Some(agent) = agent {
                for port in task.ports.iter().filter(|p| p.host_port != 0) {
                    let at = (IpAddr::V4(agent.ip), port.host_port);
                    out.services.insert(at, Arc::clone(&name));
                }
            }
        }
        out
    }

    /// The task that has an address of its own, while there are policies.
    pub fn holder(&self, ip: IpAddr) -> Option<&Holder> {
        self.holders.get(&ip)
    }

    /// Names of policies that select a task and speak of a direction: those in force, or those in audit mode. The first of them.
    pub fn policies(
        &self,
        holder: Option<&Holder>,
        direction: Direction,
        audit: bool,
        most: usize,
    ) -> Vec<&str> {
        let Some(subject) = holder.and_then(|h| h.subject.as_ref()) else {
            return Vec::new();
        };
        let speaks = |p: &&Arc<NetworkPolicy>| {
            p.audit == audit && direction.rules(p).is_some() && p.selects.matches(subject, None)
        };
        let selecting = self.policies.iter().filter(speaks).take(most);
        selecting.map(|p| p.name.as_str()).collect()
    }

    /// The name of who has an address, and listens at a port where that is known.
    pub fn name(&self, ip: IpAddr, port: Option<u16>) -> &str {
        let at_port = port.and_then(|port| self.services.get(&(ip, port)));
        let own = || self.own.get(&ip).map(|own| &own.name);
        if let Some(name) = at_port.or_else(own) {
            return name;
        }
        if ip.is_loopback() {
            "loopback"
        } else if self.nodes.contains_key(&ip) {
            "node"
        } else if is_private(ip) {
            "private"
        } else {
            "public"
        }
    }
}

impl Peers {
    /// Whether the other end of a connection, which listens at `at` or speaks from there, is on another node than `node`: a task with an
    /// address of its own, one that listens at its node's, or whoever speaks from that.
    pub fn is_elsewhere(&self, at: SocketAddr, listens: bool, node: Ipv4Addr) -> bool {
        let ip = at.ip();
        if let Some(own) = self.own.get(&ip) {
            return own.node.is_some_and(|home| home != node);
        }
        let is_task = !listens || self.services.contains_key(&(ip, at.port()));
        is_task && self.nodes.get(&ip).is_some_and(|home| *home != node)
    }
}

/// A service as edges name it: as DNS does, without the domain.
pub fn service_name(task_name: &str, framework: &str) -> String {
    format!("{task_name}.{framework}")
}

/// RFC 1918, RFC 3927, RFC 4193, RFC 4291 section 2.5.6.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A task's name, and its own address or its port of the node.
    type Named<'a> = (&'a str, Option<[u8; 4]>, Option<u16>);

    /// Who has these.
    pub(crate) fn peers(node: [u8; 4], tasks: &[Named<'_>]) -> Peers {
        let home = Ipv4Addr::from(node);
        let node = IpAddr::V4(home);
        let mut out = Peers {
            nodes: BTreeMap::from([(node, home)]),
            ..Peers::default()
        };
        for (name, own, port) in tasks {
            let name: Arc<str> = service_name(name, "marathon").into();
            if let Some(ip) = own {
                let own = Own {
                    name: Arc::clone(&name),
                    node: Some(home),
                };
                out.own.insert(IpAddr::from(*ip), own);
            }
            if let Some(port) = port {
                out.services.insert((node, *port), name);
            }
        }
        out
    }

    #[test]
    fn what_is_on_another_node_is_elsewhere() {
        let (node, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let tasks = [
            ("own", Some([9, 0, 0, 1]), None),
            ("port", None, Some(31_000)),
        ];
        let peers = peers(node.octets(), &tasks);
        for (at, listens, is_it) in [
            ("9.0.0.1:80", true, true),
            ("9.0.0.1:80", false, true),
            ("10.0.0.1:31000", true, true),
            // A process that is no task's; a client may be anybody's.
            ("10.0.0.1:5050", true, false),
            ("10.0.0.1:40000", false, true),
            ("192.0.2.1:80", false, false),
        ] {
            let at: SocketAddr = at.parse().unwrap();
            assert_eq!(peers.is_elsewhere(at, listens, other), is_it, "{at}");
            assert!(!peers.is_elsewhere(at, listens, node), "{at}");
        }
    }
}
