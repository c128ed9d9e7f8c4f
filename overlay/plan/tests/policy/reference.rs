//! What policies mean, written down a second time as plainly as possible.

use std::{collections::BTreeSet, net::IpAddr};

use waggle_overlay_plan::policy::{Direction, PolicyWorld, Verdict};
use waggle_types::{
    LabelTest, NetworkMatch, NetworkPolicy, PathMatch, PolicyPeer, PolicyProtocol, PolicyRule,
    PolicySubject, TaskSelector,
};

/// A verdict on a flow that begins at, or comes to, a task of this node.
pub fn verdict(
    world: &PolicyWorld,
    direction: Direction,
    task: IpAddr,
    peer: IpAddr,
    (protocol, port): (u8, u16),
    names: &BTreeSet<String>,
) -> Verdict {
    if world.policies.is_empty() {
        return Verdict::Open;
    }
    let Some(subject) = subject_of(world, task).filter(|_| is_here(world, task)) else {
        return unknown(world, task);
    };
    let (mut in_force, mut with_audit, mut spoken) = (None, None, false);
    for policy in &world.policies {
        let rules = match direction {
            Direction::Egress => &policy.egress,
            Direction::Ingress => &policy.ingress,
        };
        let Some(rules) = rules else { continue };
        if !selects(&policy.selects, &subject, None) {
            continue;
        }
        spoken = true;
        let yes = rules
            .iter()
            .any(|rule| allows(world, rule, &subject, peer, (protocol, port), names));
        with_audit = Some(with_audit.unwrap_or(false) || yes);
        if !policy.audit {
            in_force = Some(in_force.unwrap_or(false) || yes);
        }
    }
    match (spoken, in_force, with_audit) {
        (false, ..) => Verdict::Open,
        // What a policy in audit mode allows beyond those in force is not allowed.
        (_, Some(false), _) => Verdict::Denied,
        (_, _, Some(false)) => Verdict::Audited,
        _ => Verdict::Allowed,
    }
}

fn unknown(world: &PolicyWorld, task: IpAddr) -> Verdict {
    let home = world
        .networks
        .iter()
        .find(|(_, pools)| pools.iter().any(|pool| pool.contains(task)));
    let could = |p: &NetworkPolicy| match (&p.selects.network, home) {
        (_, None) => false,
        (NetworkMatch::Named(n), Some((name, _))) => !p.audit && n == name,
        _ => !p.audit,
    };
    // A task of another node, whatever its network: it has no business here.
    let elsewhere = subject_of(world, task).is_some() || is_infrastructure(world, task);
    if elsewhere || world.policies.iter().any(|p| could(p)) {
        Verdict::NoState
    } else {
        Verdict::Open
    }
}

fn is_infrastructure(world: &PolicyWorld, ip: IpAddr) -> bool {
    world.nodes.contains(&ip) || world.resolvers.contains(&ip)
}

fn is_here(world: &PolicyWorld, ip: IpAddr) -> bool {
    world.tasks.iter().any(|t| t.is_here && t.ips.contains(&ip))
}

fn subject_of(world: &PolicyWorld, ip: IpAddr) -> Option<PolicySubject> {
    let task = world.tasks.iter().find(|t| t.ips.contains(&ip));
    task.map(|t| (*t.subject).clone())
}

fn allows(
    world: &PolicyWorld,
    rule: &PolicyRule,
    task: &PolicySubject,
    peer: IpAddr,
    (protocol, port): (u8, u16),
    names: &BTreeSet<String>,
) -> bool {
    let has_names = rule.peers.iter().any(|p| matches!(p, PolicyPeer::Name(_)));
    if has_names
        && is_plain(world, peer)
        && world.resolvers.contains(&peer)
        && port == 53
        && (protocol == 6 || protocol == 17)
    {
        return true;
    }
    let port_fits = rule.ports.is_empty()
        || rule.ports.iter().any(|p| {
            let number: &[u8] = match p.protocol {
                PolicyProtocol::Tcp => &[6],
                PolicyProtocol::Udp => &[17],
                PolicyProtocol::Icmp => &[1, 58],
            };
            number.contains(&protocol)
                && (p.protocol == PolicyProtocol::Icmp || (p.first <= port && port <= p.last))
        });
    let peer_fits = rule.peers.is_empty()
        || rule.peers.iter().any(|p| match p {
            PolicyPeer::Tasks(tasks) => subject_of(world, peer)
                .is_some_and(|subject| selects(tasks, &subject, Some(&task.network))),
            PolicyPeer::Cidr { net, except } => {
                is_plain(world, peer)
                    && net.contains(peer)
                    && except.iter().all(|e| !e.contains(peer))
            }
            PolicyPeer::Name(name) => {
                is_plain(world, peer) && names.iter().any(|n| name.matches(n))
            }
            PolicyPeer::Nodes => is_plain(world, peer) && world.nodes.contains(&peer),
            PolicyPeer::Resolver => is_plain(world, peer) && world.resolvers.contains(&peer),
        });
    port_fits && peer_fits
}

/// No task's address, and none that a task may get.
fn is_plain(world: &PolicyWorld, ip: IpAddr) -> bool {
    let pooled = world
        .networks
        .values()
        .flatten()
        .any(|pool| pool.contains(ip));
    subject_of(world, ip).is_none() && (!pooled || is_infrastructure(world, ip))
}

fn selects(selector: &TaskSelector, task: &PolicySubject, home: Option<&str>) -> bool {
    let network = match (&selector.network, home) {
        (NetworkMatch::Any, _) | (NetworkMatch::Unsaid, None) => true,
        (NetworkMatch::Unsaid, Some(home)) => task.network == home,
        (NetworkMatch::Named(name), _) => task.network == *name,
    };
    let path = |wanted: &Option<PathMatch>, has: &str| match wanted {
        None => true,
        Some(PathMatch::Is(path)) => path == has,
        Some(PathMatch::Below(above)) => {
            has.starts_with(&format!("{above}/")) && has.len() > above.len() + 1
        }
    };
    network
        && selector
            .framework
            .as_ref()
            .is_none_or(|f| *f == task.framework)
        && path(&selector.role, &task.role)
        && path(&selector.service, &task.service)
        && selector
            .labels
            .iter()
            .all(|(key, test)| match (task.labels.get(key), test) {
                (None, _) => false,
                (Some(value), LabelTest::Is(wanted)) => value == wanted,
                (Some(value), LabelTest::In(wanted)) => wanted.contains(value),
                (Some(_), LabelTest::Exists) => true,
            })
}
