//! What policies say of one flow: rule by rule, slowly, and with the reason.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use waggle_types::{NetworkPolicy, PolicyPeer, PolicyRule, PolicySubject};

use super::PortSet;

/// As seen from the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// It dials.
    Egress,
    /// It is dialled.
    Ingress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// `egress` or `ingress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }

    /// A policy's rules for it; `None`: the policy says nothing about it.
    pub fn rules(self, policy: &NetworkPolicy) -> Option<&[PolicyRule]> {
        match self {
            Self::Egress => policy.egress.as_deref(),
            Self::Ingress => policy.ingress.as_deref(),
        }
    }
}

/// Who is on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer<'a> {
    /// A task with an address of its own.
    Task(&'a PolicySubject),
    /// An address of one of the cluster's networks that no known task has.
    Unknown,
    /// Any other address.
    Address {
        /// The address.
        ip: IpAddr,
        /// It is a node's.
        is_node: bool,
        /// It is one of the node's own resolver's.
        is_resolver: bool,
        /// Names that the resolver told the task about, for this address.
        names: &'a BTreeSet<String>,
    },
}

/// One rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy's name.
    pub policy: String,
    /// Position in its list for the direction.
    pub rule: usize,
}

/// What policies say of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// It passes.
    pub allowed: bool,
    /// It would pass if policies in audit mode were in force, too.
    pub would_be_allowed: bool,
    /// Policies that select the task and speak of the direction. None of them in force: the direction is open.
    pub selected_by: Vec<String>,
    /// The first rule that allows it, of policies in force before those in audit mode.
    pub rule: Option<RuleRef>,
}

/// Whether a task's policies let a flow begin. `port` is the one that is dialled; `protocol` is IANA's number.
pub fn evaluate<'p>(
    policies: impl IntoIterator<Item = &'p Arc<NetworkPolicy>>,
    direction: Direction,
    task: &PolicySubject,
    peer: &Peer<'_>,
    (protocol, port): (u8, u16),
) -> Decision {
    let mut decision = Decision::default();
    let (mut in_force, mut by_force, mut by_audit) = (false, None, None);
    for policy in policies {
        let Some(rules) = direction.rules(policy) else {
            continue;
        };
        if !policy.selects.matches(task, None) {
            continue;
        }
        decision.selected_by.push(policy.name.clone());
        in_force |= !policy.audit;
        let allows = |rule: &PolicyRule| {
            (PortSet::of(&rule.ports).contains(protocol, port) && allows_peer(rule, task, peer))
                // Who may reach names may ask for them.
                || (is_asking(peer, protocol, port) && has_names(rule))
        };
        let by = if policy.audit {
            &mut by_audit
        } else {
            &mut by_force
        };
        if by.is_none() {
            *by = rules.iter().position(allows).map(|rule| RuleRef {
                policy: policy.name.clone(),
                rule,
            });
        }
    }
    decision.allowed = !in_force || by_force.is_some();
    decision.would_be_allowed =
        decision.selected_by.is_empty() || by_force.is_some() || by_audit.is_some();
    decision.rule = by_force.or(by_audit);
    decision
}

/// The resolver's port.
pub(super) const DNS_PORT: u16 = 53;

fn is_asking(peer: &Peer<'_>, protocol: u8, port: u16) -> bool {
    matches!(
        peer,
        Peer::Address {
            is_resolver: true,
            ..
        }
    ) && matches!(protocol, 6 | 17)
        && port == DNS_PORT
}

/// Whether a policy has rules that name names.
pub fn names_names(policy: &NetworkPolicy) -> bool {
    policy.egress.iter().flatten().any(has_names)
}

pub(super) fn has_names(rule: &PolicyRule) -> bool {
    rule.peers.iter().any(|p| matches!(p, PolicyPeer::Name(_)))
}

fn allows_peer(rule: &PolicyRule, task: &PolicySubject, peer: &Peer<'_>) -> bool {
    rule.peers.is_empty() || rule.peers.iter().any(|wanted| is_meant(wanted, task, peer))
}

fn is_meant(wanted: &PolicyPeer, task: &PolicySubject, peer: &Peer<'_>) -> bool {
    match (wanted, peer) {
        (PolicyPeer::Tasks(tasks), Peer::Task(peer)) => tasks.matches(peer, Some(&task.network)),
        (PolicyPeer::Cidr { net, except }, Peer::Address { ip, .. }) => {
            net.contains(*ip) && !except.iter().any(|e| e.contains(*ip))
        }
        (PolicyPeer::Name(pattern), Peer::Address { names, .. }) => {
            names.iter().any(|name| pattern.matches(name))
        }
        (PolicyPeer::Nodes, Peer::Address { is_node, .. }) => *is_node,
        (PolicyPeer::Resolver, Peer::Address { is_resolver, .. }) => *is_resolver,
        _ => false,
    }
}
