//! Whom addresses belong to, as a desired state has it.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use waggle_overlay_plan::policy::Direction;
use waggle_types::{NetSnapshot, NetworkPolicy, PolicySubject, TaskId};

/// Whom addresses belong to.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    services: HashMap<(IpAddr, u16), Arc<str>>,
    own: HashMap<IpAddr, Arc<str>>,
    nodes: BTreeSet<IpAddr>,
    holders: HashMap<IpAddr, Holder>,
    policies: Vec<Arc<NetworkPolicy>>,
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
            out.nodes.insert(IpAddr::V4(agent.ip));
            out.nodes.extend(agent.ip6.map(IpAddr::V6));
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
            let ips = task.ip.map(IpAddr::V4).into_iter();
            for ip in ips.chain(task.ip6.map(IpAddr::V6)) {
                out.own.insert(ip, Arc::clone(&name));
                // Whom policies drop something of; without any nobody asks.
                if !out.policies.is_empty() {
                    let holder = Holder {
                        task_id: task_id.clone(),
                        subject: task.subject.clone(),
                    };
                    out.holders.insert(ip, holder);
                }
            }
            if let Some(agent) = snapshot.agents.get(&task.agent_id) {
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
        if let Some(name) = at_port.or_else(|| self.own.get(&ip)) {
            return name;
        }
        if ip.is_loopback() {
            "loopback"
        } else if self.nodes.contains(&ip) {
            "node"
        } else if is_private(ip) {
            "private"
        } else {
            "public"
        }
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
    use std::net::Ipv4Addr;

    use super::*;

    /// A task's name, and its own address or its port of the node.
    type Named<'a> = (&'a str, Option<[u8; 4]>, Option<u16>);

    /// Who has these.
    pub(crate) fn peers(node: [u8; 4], tasks: &[Named<'_>]) -> Peers {
        let node = IpAddr::V4(Ipv4Addr::from(node));
        let mut out = Peers {
            nodes: BTreeSet::from([node]),
            ..Peers::default()
        };
        for (name, own, port) in tasks {
            let name: Arc<str> = service_name(name, "marathon").into();
            if let Some(ip) = own {
                out.own.insert(IpAddr::from(*ip), Arc::clone(&name));
            }
            if let Some(port) = port {
                out.services.insert((node, *port), name);
            }
        }
        out
    }
}
