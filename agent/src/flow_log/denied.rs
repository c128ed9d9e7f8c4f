//! What policies dropped, or would drop: the kernel's records with the names of both ends.

use std::{collections::BTreeMap, net::SocketAddr};

use waggle_api::native::{AUDITED, DENIED, EndedFlow};
use waggle_ebpf_common::policy::{EGRESS, PolicyRecord, verdict};
use waggle_overlay_plan::policy::Direction;
use waggle_telemetry::{Telemetry, names};

use super::at;
use crate::{
    net::Net,
    peers::{Holder, Peers},
};

/// Records of one look: the kernel writes 128 a second and CPU.
const AT_ONCE: usize = 8192;
/// Policies that are named.
const MAX_POLICIES: usize = 8;

/// Reads the ring, and what had no room there.
#[derive(Debug, Default)]
pub struct Denied {
    untold: BTreeMap<&'static str, u64>,
}

impl Denied {
    /// What there is, with names; `offset_ns` leads from the kernel's clock to Unix time.
    pub fn look(net: &Net, node: &str, offset_ns: u64) -> Vec<EndedFlow> {
        let records = net.overlay().policy_records(AT_ONCE);
        if records.is_empty() {
            return Vec::new();
        }
        net.with_peers(|peers| {
            let named = records.iter().map(|r| named(r, peers, node, offset_ns));
            named.collect()
        })
    }

    /// Counts packets that have no record of their own.
    pub fn count(&mut self, net: &Net, telemetry: &Telemetry) {
        let Ok(untold) = net.overlay().policy_untold() else {
            return;
        };
        for (reason, now) in untold {
            // Tables that were made anew begin at zero.
            let before = self.untold.insert(reason, now).unwrap_or(now).min(now);
            if now > before {
                let attrs = [(names::DROP_REASON, reason.into())];
                telemetry.count(&names::FLOW_LOG_LOST, &attrs, now - before);
            }
        }
    }
}

fn named(record: &PolicyRecord, peers: &Peers, node: &str, offset_ns: u64) -> EndedFlow {
    let (local, peer) = (
        at(record.local, record.local_port),
        at(record.peer, record.peer_port),
    );
    let is_egress = u32::from(record.direction) == EGRESS;
    let direction = if is_egress {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    let own = peers.name(local.ip(), None).to_owned();
    let other = peers.name(peer.ip(), is_egress.then_some(peer.port()));
    let other = other.to_owned();
    let (observer, source, destination) = if is_egress {
        ("source", own, other)
    } else {
        ("destination", other, own)
    };
    let of = u32::from(record.verdict);
    let is_audited = matches!(of, verdict::AUDITED_EGRESS | verdict::AUDITED_INGRESS);
    let reason = match of {
        verdict::AUDITED_EGRESS
        | verdict::AUDITED_INGRESS
        | verdict::DENIED_EGRESS
        | verdict::DENIED_INGRESS => "no_rule",
        of => usize::try_from(of)
            .ok()
            .and_then(|of| verdict::NAMES.get(of).copied())
            .unwrap_or("unknown"),
    };
    let holder = peers.holder(local.ip());
    let policies = peers.policies(holder, direction, is_audited, MAX_POLICIES);
    let ended_us = (record.at_ns + offset_ns) / 1000;
    EndedFlow {
        ended_us,
        node: node.to_owned(),
        observer: observer.to_owned(),
        source,
        destination,
        task_id: holder.map(|h| h.task_id.to_string()).unwrap_or_default(),
        service: holder.map(Holder::service).unwrap_or_default(),
        local: Some(local.to_string()),
        peer: shown(peer, record.proto),
        protocol: protocol(record.proto),
        verdict: if is_audited { AUDITED } else { DENIED }.to_owned(),
        reason: reason.to_owned(),
        policies: policies.join(","),
        packets: record.packets,
        ..EndedFlow::default()
    }
}

/// Of ICMP there is a type and a code where others have a port.
fn shown(peer: SocketAddr, proto: u8) -> String {
    match proto {
        1 | 58 => SocketAddr::new(peer.ip(), 0).to_string(),
        _ => peer.to_string(),
    }
}

fn protocol(proto: u8) -> String {
    match proto {
        1 | 58 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

    use waggle_ebpf_common::{addr_of, policy::INGRESS};
    use waggle_types::{
        AgentId, HealthState, NetSnapshot, NetworkPolicy, PolicySubject, TaskId, TaskNet,
        TaskSelector, TaskState,
    };

    use super::*;

    fn peers() -> Peers {
        let subject = PolicySubject {
            network: "blue".into(),
            framework: "marathon".into(),
            role: "*".into(),
            service: "/db".into(),
            labels: BTreeMap::new(),
        };
        let policy = |name: &str, audit: bool, ingress: bool| {
            let policy = NetworkPolicy {
                name: name.into(),
                selects: TaskSelector::default(),
                audit,
                ingress: ingress.then(Vec::new),
                egress: None,
            };
            (name.to_owned(), Arc::new(policy))
        };
        let task = |name: &str, last: u8| TaskNet {
            agent_id: AgentId::new("a1").unwrap(),
            name: name.to_owned(),
            framework: "marathon".to_owned(),
            state: TaskState::Running,
            has_check: false,
            health: HealthState::Unknown,
            ready: None,
            ip: Some([9, 0, 1, last].into()),
            ip6: None,
            network: Some("blue".to_owned()),
            subject: None,
            ports: Vec::new(),
        };
        let db = TaskNet {
            subject: Some(Arc::new(subject)),
            ..task("db", 2)
        };
        let web = task("web", 3);
        Peers::of(&NetSnapshot {
            tasks: BTreeMap::from([
                (TaskId::new("db.1").unwrap(), Arc::new(db)),
                (TaskId::new("web.1").unwrap(), Arc::new(web)),
            ]),
            policies: BTreeMap::from([
                policy("closed", false, true),
                policy("tried", true, true),
                policy("of-egress", false, false),
            ]),
            ..NetSnapshot::default()
        })
    }

    fn record(of: u32, direction: u32, proto: u8) -> PolicyRecord {
        let addr = |last| addr_of(IpAddr::from([9, 0, 1, last]));
        PolicyRecord {
            at_ns: 5_000,
            packets: 3,
            local: addr(2),
            peer: addr(3),
            local_port: 5432_u16.to_be(),
            peer_port: 40_000_u16.to_be(),
            proto,
            verdict: u8::try_from(of).unwrap(),
            direction: u8::try_from(direction).unwrap(),
            pad: 0,
        }
    }

    #[test]
    fn a_denial_says_who_whom_and_by_which_policies() {
        let peers = peers();
        let of = |record| named(&record, &peers, "n1", 1_000_000);
        let denied = of(record(verdict::DENIED_INGRESS, INGRESS, 6));
        assert_eq!((denied.ended_us, denied.packets), (1005, 3));
        let ends = (denied.source.as_str(), denied.destination.as_str());
        assert_eq!(ends, ("web.marathon", "db.marathon"));
        let whose = (denied.observer.as_str(), denied.task_id.as_str());
        assert_eq!(whose, ("destination", "db.1"));
        assert_eq!(denied.service, "/db");
        assert_eq!(denied.local.as_deref(), Some("9.0.1.2:5432"));
        let why = (denied.verdict.as_str(), denied.reason.as_str());
        assert_eq!(why, ("denied", "no_rule"));
        assert_eq!(
            denied.policies, "closed",
            "those in force, of that direction"
        );

        let audited = of(record(verdict::AUDITED_INGRESS, INGRESS, 17));
        assert_eq!(audited.verdict, "audited");
        assert_eq!(
            (audited.policies.as_str(), audited.protocol.as_str()),
            ("tried", "udp")
        );

        let sent = of(record(verdict::NO_FLOW, EGRESS, 1));
        assert_eq!(
            (sent.observer.as_str(), sent.reason.as_str()),
            ("source", "no_flow")
        );
        assert_eq!(
            (sent.peer.as_str(), sent.protocol.as_str()),
            ("9.0.1.3:0", "icmp")
        );
        assert_eq!(
            (sent.source.as_str(), sent.policies.as_str()),
            ("db.marathon", "")
        );
    }
}
