//! From what nodes have seen of the overlay to what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use waggle_api::native::{OverlayCheckView, PeerCheckView};

use crate::table::Table;

/// What one node has seen; why nothing where it could not be asked.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Its name.
    pub(super) hostname: String,
    /// Its underlay address.
    pub(super) ip: String,
    /// What it said.
    pub(super) check: Result<OverlayCheckView, String>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What kind of thing.
    pub(super) kind: Kind,
    /// Where it shows.
    pub(super) node: String,
    /// Towards whom, where it is between two.
    pub(super) peer: Option<String>,
    /// All of it, for people.
    pub(super) says: String,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A node could not be asked.
    NotAsked,
    /// No container can be on a network there.
    Trouble,
    /// A node does not know of another one.
    UnknownPeer,
    /// Nobody reaches a node by the tunnel, and it reaches nobody.
    CutOff,
    /// A node does not reach another one.
    UnreachablePeer,
    /// One of two nodes can't or won't encrypt for the other, so nothing passes.
    NoEncryptedWay,
    /// Short packets arrive, those as long as containers may send don't.
    PathMtu,
}

/// What is wrong: nodes by themselves first, then between them.
pub(super) fn find(seen: &[Seen]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |kind, node: &Seen, peer: Option<&Seen>, says: String| {
        findings.push(Finding {
            kind,
            node: node.hostname.clone(),
            peer: peer.map(|p| p.hostname.clone()),
            says,
        });
    };
    for node in seen {
        match &node.check {
            Err(why) => say(Kind::NotAsked, node, None, format!("can't be asked: {why}")),
            Ok(check) => {
                if let (true, Some(why)) = (check.takes_part, &check.trouble) {
                    say(Kind::Trouble, node, None, why.clone());
                }
            }
        }
    }
    let (halves, pairs): (Vec<_>, Vec<_>) = pairs(seen).into_iter().partition(Pair::is_half);
    for Pair { from, to, peer } in &halves {
        let name = format!("{} ({})", to.hostname, to.ip);
        let why = peer.and_then(|(_, p)| p.no_way.as_deref());
        let says = match why {
            Some(why) => format!("encrypts, and sends nothing to {name}: {why}"),
            None => format!("does not encrypt, and {name} takes nothing in clear (--encrypt)"),
        };
        say(Kind::NoEncryptedWay, from, Some(to), says);
    }
    let cut_off = cut_off(&pairs);
    for node in seen.iter().filter(|n| cut_off.contains(n.ip.as_str())) {
        let what = match &node.check {
            Ok(_) => "reaches no other node by the tunnel and is reached by none",
            Err(_) => "is reached by no other node by the tunnel",
        };
        let says = format!("{what}: does UDP to and from {} pass?", node.ip);
        say(Kind::CutOff, node, None, says);
    }
    let is_told = |node: &Seen| cut_off.contains(node.ip.as_str());
    for Pair { from, to, peer } in &pairs {
        if is_told(from) || is_told(to) {
            continue;
        }
        let name = format!("{} ({})", to.hostname, to.ip);
        match peer {
            None => {
                let says = format!("does not know that {name} has an endpoint");
                say(Kind::UnknownPeer, from, Some(to), says);
            }
            Some((_, p)) if p.rtt_us.is_none() && !p.whole => {
                let says = format!("does not reach {name}: no answer from {}", p.endpoint);
                say(Kind::UnreachablePeer, from, Some(to), says);
            }
            Some((mtu, p)) if !p.whole => {
                let says = format!(
                    "packets of {mtu} bytes don't come back from {name}, short ones do: the path carries less than the network's mtu"
                );
                say(Kind::PathMtu, from, Some(to), says);
            }
            Some(_) => {}
        }
    }
    findings
}

/// Two nodes that should reach each other, and what the first one said of the second, with its MTU.
struct Pair<'a> {
    from: &'a Seen,
    to: &'a Seen,
    peer: Option<(u16, &'a PeerCheckView)>,
}

impl Pair<'_> {
    /// Whether nothing can pass, since one of them encrypts and can't do it for the other.
    fn is_half(&self) -> bool {
        let has_no_way = self.peer.is_some_and(|(_, p)| p.no_way.is_some());
        let encrypts = |node: &Seen| node.check.as_ref().is_ok_and(|c| c.encrypts);
        has_no_way || encrypts(self.to) && !encrypts(self.from)
    }

    fn reaches(&self) -> bool {
        self.peer
            .is_some_and(|(_, p)| p.rtt_us.is_some() || p.whole)
    }
}

fn pairs(seen: &[Seen]) -> Vec<Pair<'_>> {
    let mut pairs = Vec::new();
    for from in seen {
        let Some(check) = from.check.as_ref().ok().filter(|c| works(c)) else {
            continue;
        };
        let by_ip: BTreeMap<&str, &PeerCheckView> =
            check.peers.iter().map(|p| (p.ip.as_str(), p)).collect();
        for to in seen.iter().filter(|to| to.ip != from.ip) {
            let peer = by_ip.get(to.ip.as_str()).map(|p| (check.mtu, *p));
            let is_expected = match &to.check {
                Ok(check) => works(check),
                // It is not known whether there is anything to know.
                Err(_) => peer.is_some(),
            };
            if is_expected {
                pairs.push(Pair { from, to, peer });
            }
        }
    }
    pairs
}

/// Whether a node should reach others, and be reached.
fn works(check: &OverlayCheckView) -> bool {
    check.takes_part && check.trouble.is_none() && check.endpoint.is_some()
}

/// Addresses of nodes that are the reason themselves: of several pairs not one works.
fn cut_off<'a>(pairs: &[Pair<'a>]) -> BTreeSet<&'a str> {
    let mut of: BTreeMap<&str, (BTreeSet<&str>, bool)> = BTreeMap::new();
    for pair in pairs {
        for (node, other) in [(pair.from, pair.to), (pair.to, pair.from)] {
            let (others, works) = of.entry(&node.ip).or_default();
            others.insert(&other.ip);
            *works |= pair.reaches();
        }
    }
    let cut = of
        .into_iter()
        .filter(|(_, (others, works))| others.len() > 1 && !works);
    cut.map(|(ip, _)| ip).collect()
}

/// A line for each node.
pub(super) fn overview(seen: &[Seen]) -> String {
    let mut table = Table::new(&[
        "node",
        "ip",
        "endpoint",
        "mtu",
        "reaches",
        "slowest",
        "encrypted",
    ]);
    for node in seen {
        let cells = match &node.check {
            Err(_) => ["not asked"].map(str::to_owned).to_vec(),
            Ok(check) if !check.takes_part => ["takes no part"].map(str::to_owned).to_vec(),
            Ok(check) => {
                let n = check.peers.iter().filter(|p| p.rtt_us.is_some()).count();
                let slowest = check.peers.iter().filter_map(|p| p.rtt_us).max();
                vec![
                    check.endpoint.clone().unwrap_or_default(),
                    check.mtu.to_string(),
                    format!("{n}/{}", check.peers.len()),
                    slowest.map(millis).unwrap_or_default(),
                    encrypted(check),
                ]
            }
        };
        let name = [node.hostname.clone(), node.ip.clone()];
        table.row(name.into_iter().chain(cells));
    }
    table.render()
}

/// To how many of the other nodes what is sent is encrypted; nothing else is, where a node encrypts.
fn encrypted(check: &OverlayCheckView) -> String {
    if !check.encrypts {
        return "no".to_owned();
    }
    let n = check.peers.iter().filter(|p| p.encrypted).count();
    format!("{n}/{}", check.peers.len())
}

fn millis(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// Packets that went nowhere, by node and reason; empty where there are none.
pub(super) fn drops(seen: &[Seen]) -> String {
    let mut table = Table::new(&["node", "dropped", "reason"]);
    let mut is_empty = true;
    for node in seen {
        let Ok(check) = &node.check else { continue };
        for (reason, n) in &check.drops {
            is_empty = false;
            let why = meaning(reason).map_or_else(String::new, |m| format!(": {m}"));
            let cells = [
                node.hostname.clone(),
                n.to_string(),
                format!("{reason}{why}"),
            ];
            table.row(cells);
        }
    }
    if is_empty {
        return String::new();
    }
    table.render()
}

/// What those mean that people ask about.
fn meaning(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "unknown_destination" => "nobody has the address; the sender was told",
        "peer_down" => "no route to the address's node; the sender was told",
        "too_big" => "longer than the path carries; the sender was told",
        "other_network" => "an address of another network; the sender was told",
        "in_clear" => "came in clear to a node that encrypts",
        "out_in_clear" => "would have left a node that encrypts in clear",
        "not_a_peer" => "from an address that is no node's",
        "wrong_vni" => "of another overlay",
        "spoofed_source" | "spoofed_mac" | "spoofed_neighbour" => {
            "in another's name, by a container"
        }
        "spoofed_node" => "in another's name, by a node",
        "policy_denied_egress" => "no policy's rule lets the task send it",
        "policy_denied_ingress" => "no policy's rule lets the task be sent it",
        "policy_no_state" => "policies did not know the task yet",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
