//! Names and resources that the allocator's tests share.

pub mod accept;
pub mod books;
pub mod deals;
pub mod kinds;
pub mod lending;
pub mod oracle;
pub mod upkeep;
pub mod world;

use std::{collections::BTreeMap, net::Ipv4Addr};

use waggle_allocator::{Allocator, AllocatorConfig, Effect, Event};
use waggle_types::{
    AgentId, AgentInfo, FrameworkId, Millis, Offer, PortRange, PortSet, Resources, UnixMillis,
};

pub fn agent(i: usize) -> AgentId {
    AgentId::new(format!("a{i}")).unwrap()
}

pub fn framework(i: usize) -> FrameworkId {
    FrameworkId::new(format!("f{i}")).unwrap()
}

pub fn info(i: usize, total: Resources) -> AgentInfo {
    AgentInfo {
        ip6: None,
        agent_id: agent(i),
        hostname: format!("n{i}"),
        ip: Ipv4Addr::LOCALHOST,
        http_port: 5051,
        total,
        attributes: BTreeMap::new(),
        reserved: Vec::new(),
        domain: None,
    }
}

/// 4 CPUs, 4 GiB, 10 GiB of disk, 10 ports.
pub fn node() -> Resources {
    Resources::from_millis(4000, 4_096_000, 10_240_000).with_ports(PortSet::from_ranges([
        PortRange {
            begin: 31000,
            end: 31009,
        },
    ]))
}

pub fn config() -> AllocatorConfig {
    AllocatorConfig {
        id_prefix: "t".into(),
        ..AllocatorConfig::default()
    }
}

pub fn add_agent(allocator: &mut Allocator, i: usize, now: u64) -> Vec<Effect> {
    let event = Event::AgentAdded {
        info: info(i, node()),
        used: Vec::new(),
    };
    allocator.apply(event, UnixMillis(now))
}

pub fn add_framework(allocator: &mut Allocator, i: usize, role: &str, now: u64) -> Vec<Effect> {
    let event = Event::FrameworkAdded {
        framework_id: framework(i),
        role: role.into(),
        weight_milli: 1000,
    };
    allocator.apply(event, UnixMillis(now))
}

pub fn offers(effects: &[Effect]) -> Vec<Offer> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Offer(o) => Some(o.clone()),
            _ => None,
        })
        .collect()
}

pub fn decline(offer: &Offer, refuse: Millis) -> Event {
    Event::Declined {
        framework_id: offer.framework_id.clone(),
        offer_ids: vec![offer.offer_id.clone()],
        refuse,
    }
}

pub fn accept(offer: &Offer, used: Resources, refuse: Millis) -> Event {
    Event::Accepted {
        framework_id: offer.framework_id.clone(),
        offer_ids: vec![offer.offer_id.clone()],
        used,
        refuse,
    }
}
