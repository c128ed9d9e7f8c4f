//! What policies say of one kind of task, peer by peer.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{NamePattern, NetworkPolicy, PolicyPeer, PolicySubject};

use super::{
    Direction, PortSet,
    evaluate::{DNS_PORT, has_names},
    names,
    numbers::Term,
    select::Selectors,
};

/// Names that a number's tasks may speak to.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub(super) name: NamePattern,
    pub(super) ports: PortSet,
    pub(super) audit: bool,
}

/// In force, and with audit.
pub(super) type Both = (PortSet, PortSet);

/// What one number's policies say, before it has numbers.
pub(super) struct Said {
    pub(super) egress: Direct,
    pub(super) ingress: Direct,
    pub(super) patterns: Vec<Pattern>,
}

/// One direction of it.
pub(super) struct Direct {
    pub(super) is_selected: bool,
    pub(super) default: Both,
    pub(super) peers: BTreeMap<u32, Both>,
}

/// What all policies say of one kind of task; `None`: none selects it.
pub(super) fn said(
    policies: &[Arc<NetworkPolicy>],
    subject: &PolicySubject,
    selectors: &Selectors<'_>,
    terms: &BTreeMap<Term, Vec<u32>>,
) -> Option<Said> {
    let selecting: Vec<&NetworkPolicy> = policies
        .iter()
        .map(AsRef::as_ref)
        .filter(|p| p.selects.matches(subject, None))
        .collect();
    let mut patterns = Vec::new();
    let mut of = |direction| {
        direct(
            &selecting,
            direction,
            subject,
            selectors,
            terms,
            &mut patterns,
        )
    };
    let (egress, ingress) = (of(Direction::Egress), of(Direction::Ingress));
    (egress.is_selected || ingress.is_selected).then_some(Said {
        egress,
        ingress,
        patterns,
    })
}

fn direct(
    selecting: &[&NetworkPolicy],
    direction: Direction,
    subject: &PolicySubject,
    selectors: &Selectors<'_>,
    terms: &BTreeMap<Term, Vec<u32>>,
    patterns: &mut Vec<Pattern>,
) -> Direct {
    let mut out = Direct {
        is_selected: false,
        default: Both::default(),
        peers: BTreeMap::new(),
    };
    let (mut in_force, nobody) = (false, Vec::new());
    for policy in selecting {
        let Some(rules) = direction.rules(policy) else {
            continue;
        };
        out.is_selected = true;
        in_force |= !policy.audit;
        for rule in rules {
            let ports = PortSet::of(&rule.ports);
            let mut allow = |peer: Option<u32>, ports: &PortSet| {
                let both = match peer {
                    None => &mut out.default,
                    Some(n) => out.peers.entry(n).or_default(),
                };
                both.1.add(ports);
                if !policy.audit {
                    both.0.add(ports);
                }
            };
            if rule.peers.is_empty() {
                allow(None, &ports);
            }
            if has_names(rule) {
                for n in terms.get(&Term::Resolver).unwrap_or(&nobody) {
                    allow(Some(*n), &PortSet::of(&names::asking(DNS_PORT)));
                }
            }
            for peer in &rule.peers {
                let numbers = match peer {
                    PolicyPeer::Tasks(tasks) => {
                        for n in selectors.find(tasks, &subject.network) {
                            allow(Some(n), &ports);
                        }
                        continue;
                    }
                    PolicyPeer::Cidr { net, except } => {
                        let mut except = except.clone();
                        except.sort_unstable();
                        except.dedup();
                        terms.get(&Term::Cidr(*net, except))
                    }
                    PolicyPeer::Nodes => terms.get(&Term::Node),
                    PolicyPeer::Resolver => terms.get(&Term::Resolver),
                    PolicyPeer::Name(name) => {
                        patterns.push(Pattern {
                            name: name.clone(),
                            ports: ports.clone(),
                            audit: policy.audit,
                        });
                        continue;
                    }
                };
                for n in numbers.unwrap_or(&nobody) {
                    allow(Some(*n), &ports);
                }
            }
        }
    }
    if !in_force {
        // Only policies in audit mode: nothing is dropped.
        out.default.0 = PortSet::all();
    }
    let default = out.default.clone();
    for both in out.peers.values_mut() {
        both.0.add(&default.0);
        both.1.add(&default.1);
    }
    out
}
