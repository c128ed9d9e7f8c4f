//! What network policies have dropped, or would drop: who was denied to whom, summed up.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::EndedFlow;

/// Kinds that are summed up; what has no place is counted together.
const MAX_KINDS: usize = 1024;

/// A packet of a policy's verdict.
pub const DENIED: &str = "denied";
/// The same of a policy in audit mode: it passed.
pub const AUDITED: &str = "audited";

/// What packets that were denied alike have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DenialName {
    /// Who sent them, as edges name it.
    pub source: String,
    /// To whom.
    pub destination: String,
    /// Port that was dialled; 0 where the protocol has none.
    pub port: u16,
    /// `tcp`, `udp`, `icmp` or IANA's number.
    pub protocol: String,
    /// [`DENIED`] or [`AUDITED`].
    pub verdict: String,
    /// Whose policies: the `source`'s or the `destination`'s.
    pub observer: String,
    /// `no_rule`, `no_state`, `no_flow`, `no_fragment` or `malformed`.
    pub reason: String,
    /// The policies that select that one and speak of that direction, with commas.
    pub policies: String,
}

/// How many there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialView {
    /// Of which kind.
    #[serde(flatten)]
    pub name: DenialName,
    /// Packets that are known of; the nodes' counts of verdicts have all.
    pub packets: u64,
}

/// Sums of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denials {
    kinds: BTreeMap<DenialName, u64>,
    other: u64,
}

impl Denials {
    /// Whether a flow is a policy's verdict and no connection.
    pub fn is_one(flow: &EndedFlow) -> bool {
        flow.verdict == DENIED || flow.verdict == AUDITED
    }

    /// Takes one in.
    pub fn take(&mut self, flow: &EndedFlow) {
        let at = if flow.observer == "source" {
            Some(flow.peer.as_str())
        } else {
            flow.local.as_deref()
        };
        let port = at.and_then(|at| at.parse().ok());
        let has_ports = matches!(flow.protocol.as_str(), "tcp" | "udp");
        let port = port
            .filter(|_| has_ports)
            .map_or(0, |at: SocketAddr| at.port());
        let name = DenialName {
            source: flow.source.clone(),
            destination: flow.destination.clone(),
            port,
            protocol: flow.protocol.clone(),
            verdict: flow.verdict.clone(),
            observer: flow.observer.clone(),
            reason: flow.reason.clone(),
            policies: flow.policies.clone(),
        };
        self.add(name, flow.packets);
    }

    /// What somebody else has summed up.
    pub fn merge(&mut self, views: Vec<DenialView>, other: u64) {
        for DenialView { name, packets } in views {
            self.add(name, packets);
        }
        self.other += other;
    }

    /// The most first; and packets of those that had no place.
    pub fn shown(self, limit: usize) -> (Vec<DenialView>, u64) {
        let kinds = self.kinds.into_iter();
        let mut views: Vec<DenialView> = kinds
            .map(|(name, packets)| DenialView { name, packets })
            .collect();
        views.sort_by(|a, b| (b.packets, &a.name).cmp(&(a.packets, &b.name)));
        let left = views.split_off(limit.min(views.len()));
        let left: u64 = left.iter().map(|v| v.packets).sum();
        (views, self.other + left)
    }

    fn add(&mut self, name: DenialName, packets: u64) {
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&name) {
            self.other += packets;
            return;
        }
        *self.kinds.entry(name).or_default() += packets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str, port: u16, packets: u64) -> EndedFlow {
        EndedFlow {
            source: source.to_owned(),
            destination: "db.marathon".to_owned(),
            observer: "destination".to_owned(),
            local: Some(format!("9.0.1.2:{port}")),
            peer: "9.0.1.3:40000".to_owned(),
            protocol: "tcp".to_owned(),
            verdict: DENIED.to_owned(),
            reason: "no_rule".to_owned(),
            policies: "closed".to_owned(),
            packets,
            ..EndedFlow::default()
        }
    }

    #[test]
    fn what_is_denied_alike_is_one_and_the_most_comes_first() {
        let mut denials = Denials::default();
        for (source, port, packets) in [("a", 80, 1), ("b", 80, 2), ("a", 80, 3), ("a", 81, 1)] {
            denials.take(&flow(source, port, packets));
        }
        let mut sent = flow("a", 80, 9);
        sent.observer = "source".to_owned();
        denials.take(&sent);
        let mut both = Denials::default();
        let (views, other) = denials.clone().shown(100);
        both.merge(views, other);
        assert_eq!(both, denials);
        let (views, other) = denials.shown(3);
        let told: Vec<_> = views
            .iter()
            .map(|v| (v.name.source.as_str(), v.name.port, v.packets))
            .collect();
        assert_eq!(told, [("a", 40_000, 9), ("a", 80, 4), ("b", 80, 2)]);
        assert_eq!(other, 1);
    }

    #[test]
    fn kinds_are_bounded_and_nothing_is_lost() {
        let mut denials = Denials::default();
        for n in 0..MAX_KINDS + 5 {
            denials.take(&flow(&format!("s{n}"), 80, 2));
        }
        let (views, other) = denials.shown(usize::MAX);
        assert_eq!((views.len(), other), (MAX_KINDS, 10));
    }
}
