//! What services and groups say of each other: dependencies, and what may not be there twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use waggle_types::{FieldError, GroupId, ServiceId, ServiceSpec};

/// What all services of a group depend on: ids of services or groups.
pub type GroupDependencies = BTreeMap<GroupId, BTreeSet<ServiceId>>;

/// Definitions by id.
type Services = BTreeMap<ServiceId, Arc<ServiceSpec>>;

/// All services and groups, to look for what they say of each other.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// Services by id.
    pub services: &'a Services,
    /// Groups that are there by themselves, whether or not they hold a service.
    pub groups: &'a GroupDependencies,
}

/// Why a tree can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Services wait for each other.
    #[error("dependencies must not form a cycle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// A service and a group have one id.
    #[error("{0} is an app and a group at once")]
    AppAndGroup(String),
    /// Two services ask for one service port.
    #[error("service port {port} of {service} is already that of {owner}")]
    ServicePort {
        /// The port.
        port: u16,
        /// Position among the service's ports.
        port_idx: usize,
        /// Who asks for it.
        service: ServiceId,
        /// Who has it; the same service when it asks twice.
        owner: ServiceId,
    },
}

impl From<TreeError> for FieldError {
    fn from(e: TreeError) -> Self {
        match &e {
            TreeError::Cycle(_) => Self::new("dependencies", e.to_string()),
            TreeError::AppAndGroup(_) => Self::new("id", e.to_string()),
            TreeError::ServicePort { port_idx, .. } => {
                Self::new(format!("portDefinitions[{port_idx}].port"), e.to_string())
            }
        }
    }
}

/// How long the longest chain of dependencies of each service is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dependencies {
    /// Services without dependencies are left out.
    ranks: BTreeMap<ServiceId, usize>,
}

impl Dependencies {
    /// 0 for a service that depends on none.
    pub fn rank(&self, service: &ServiceId) -> usize {
        self.ranks.get(service).copied().unwrap_or(0)
    }
}

/// A node of the graph: groups stand for all that they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node<'a> {
    Service(&'a str),
    Group(&'a str),
}

/// A node whose dependencies are being looked at.
struct Visit<'a> {
    node: Node<'a>,
    left: Vec<Node<'a>>,
    rank: usize,
}

impl<'a> Tree<'a> {
    /// The order in which services are brought up. What a service depends on and is not there is not waited for.
    pub fn dependencies(&self) -> Result<Dependencies, TreeError> {
        let none = |s: &Arc<ServiceSpec>| s.dependencies.is_empty();
        if self.services.values().all(none) && self.groups.values().all(BTreeSet::is_empty) {
            return Ok(Dependencies::default());
        }
        let mut ranks: BTreeMap<Node<'a>, usize> = BTreeMap::new();
        for id in self.services.keys() {
            self.visit(Node::Service(id.as_str()), &mut ranks)?;
        }
        let of_service = |(node, rank): (Node<'a>, usize)| match node {
            Node::Service(id) if rank > 0 => Some((self.service(id)?.0.clone(), rank)),
            _ => None,
        };
        Ok(Dependencies {
            ranks: ranks.into_iter().filter_map(of_service).collect(),
        })
    }

    /// Whether no id is a service's and a group's, as far as some services are concerned.
    pub fn check_ids<'b>(
        &self,
        changed: impl IntoIterator<Item = &'b ServiceId>,
    ) -> Result<(), TreeError> {
        for id in changed {
            let is_group =
                self.groups.contains_key(id.as_str()) || self.below(id.as_str()).next().is_some();
            if is_group {
                return Err(TreeError::AppAndGroup(id.to_string()));
            }
            let mut above = GroupId::of(id);
            while let Some(next) = above.parent() {
                if self.services.contains_key(above.as_str()) {
                    return Err(TreeError::AppAndGroup(above.to_string()));
                }
                above = next;
            }
        }
        Ok(())
    }

    /// Whether no service port is asked for twice, as far as some services are concerned.
    pub fn check_service_ports(&self, changed: &BTreeSet<ServiceId>) -> Result<(), TreeError> {
        let asked = |s: &'a Arc<ServiceSpec>| {
            let ports = s.ports.iter().enumerate();
            ports.filter(|(_, p)| p.port != 0).map(|(i, p)| (p.port, i))
        };
        let (mine, others): (Vec<_>, Vec<_>) = self
            .services
            .values()
            .partition(|s| changed.contains(&s.id));
        let mut owners: BTreeMap<u16, &ServiceId> = BTreeMap::new();
        if mine.iter().all(|s| asked(s).next().is_none()) {
            return Ok(());
        }
        for s in others {
            owners.extend(asked(s).map(|(port, _)| (port, &s.id)));
        }
        for s in mine {
            for (port, port_idx) in asked(s) {
                if let Some(owner) = owners.insert(port, &s.id) {
                    return Err(TreeError::ServicePort {
                        port,
                        port_idx,
                        service: s.id.clone(),
                        owner: owner.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Finds the rank of a node and of all that it depends on, deepest first. Without recursion: a chain may be as long
    /// as there are services.
    fn visit(
        &self,
        from: Node<'a>,
        ranks: &mut BTreeMap<Node<'a>, usize>,
    ) -> Result<(), TreeError> {
        if ranks.contains_key(&from) {
            return Ok(());
        }
        let mut open: BTreeSet<Node<'a>> = BTreeSet::from([from]);
        let mut stack = vec![self.enter(from)];
        while let Some(top) = stack.last_mut() {
            let Some(next) = top.left.pop() else {
                let (node, rank) = (top.node, top.rank);
                open.remove(&node);
                ranks.insert(node, rank);
                stack.pop();
                if let Some(above) = stack.last_mut() {
                    above.rank = above.rank.max(chain(node, rank));
                }
                continue;
            };
            if let Some(rank) = ranks.get(&next) {
                top.rank = top.rank.max(chain(next, *rank));
            } else if open.insert(next) {
                let visit = self.enter(next);
                stack.push(visit);
            } else {
                return Err(TreeError::Cycle(cycle(&stack, next)));
            }
        }
        Ok(())
    }

    fn enter(&self, node: Node<'a>) -> Visit<'a> {
        let mut left = match node {
            Node::Group(id) => self
                .below(id)
                .map(|(id, _)| Node::Service(id.as_str()))
                .collect(),
            Node::Service(id) => self.needs(id),
        };
        // Taken from the end: what is told of a cycle follows the order of ids.
        left.reverse();
        Visit {
            node,
            left,
            rank: 0,
        }
    }

    /// What a service needs by itself and by the groups that it is in.
    fn needs(&self, id: &'a str) -> Vec<Node<'a>> {
        let Some((id, spec)) = self.service(id) else {
            return Vec::new();
        };
        let mut named: BTreeSet<&'a str> =
            spec.dependencies.iter().map(ServiceId::as_str).collect();
        let mut group = Some(GroupId::of(id));
        while let Some(g) = group {
            let of_group = self.groups.get(&g).into_iter().flatten();
            named.extend(of_group.map(ServiceId::as_str));
            group = g.parent();
        }
        let node = |id: &'a str| {
            if self.services.contains_key(id) {
                Some(Node::Service(id))
            } else {
                self.below(id).next().map(|_| Node::Group(id))
            }
        };
        named.into_iter().filter_map(node).collect()
    }

    fn service(&self, id: &str) -> Option<(&'a ServiceId, &'a Arc<ServiceSpec>)> {
        self.services.get_key_value(id)
    }

    /// Services of a group, directly or not.
    fn below(
        &self,
        group: &str,
    ) -> impl Iterator<Item = (&'a ServiceId, &'a Arc<ServiceSpec>)> + use<'a> {
        let prefix = format!("{group}/");
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let all = self.services.range::<str, _>(from);
        all.take_while(move |(id, _)| id.as_str().starts_with(&prefix))
    }
}

/// How long the chain of one is that depends on the node; groups add nothing of their own.
fn chain(node: Node<'_>, rank: usize) -> usize {
    match node {
        Node::Service(_) => rank + 1,
        Node::Group(_) => rank,
    }
}

/// The part of the stack that leads back to a node of it, for people.
fn cycle(stack: &[Visit<'_>], back_to: Node<'_>) -> Vec<String> {
    let from = stack.iter().position(|v| v.node == back_to).unwrap_or(0);
    let around = stack[from..].iter().map(|v| v.node).chain([back_to]);
    around
        .map(|n| match n {
            Node::Service(id) => id.to_owned(),
            Node::Group(id) => format!("{id}/*"),
        })
        .collect()
}
