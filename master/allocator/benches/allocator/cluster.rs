//! Clusters of a size, and the events that make them.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use waggle_allocator::{Allocator, AllocatorConfig, Effect, Event, FrameworkSpec};
use waggle_types::{
    AgentId, AgentInfo, Capabilities, FrameworkId, Millis, Offer, PortRange, PortSet, Resources,
    RoleSubscription, UnixMillis,
};

pub const NOW: UnixMillis = UnixMillis(1_000_000);

#[derive(Clone, Copy)]
pub struct Scale {
    pub agents: usize,
    pub frameworks: usize,
}

pub fn framework(i: usize) -> FrameworkId {
    FrameworkId::new(format!("6a1f0c1e-0000-4000-8000-00000000-{i:04}")).unwrap()
}

pub fn agent(i: usize) -> AgentId {
    AgentId::new(format!("0d7e9c52-0000-4000-8000-0000-S{i}")).unwrap()
}

/// 32 CPUs, 128 GiB, a disk, and ports.
pub fn node() -> Resources {
    Resources::from_millis(32_000, 131_072_000, 1_000_000_000).with_ports(PortSet::from_ranges([
        PortRange {
            begin: 31000,
            end: 32000,
        },
    ]))
}

pub fn info(i: usize, total: Resources) -> AgentInfo {
    AgentInfo {
        ip6: None,
        agent_id: agent(i),
        hostname: format!("node-{i}.example"),
        ip: Ipv4Addr::LOCALHOST,
        http_port: 5051,
        total,
        attributes: BTreeMap::new(),
        reserved: Vec::new(),
        domain: None,
    }
}

pub fn subscribed(i: usize, role: String, suppressed: bool) -> Event {
    Event::Subscribed {
        framework_id: framework(i),
        spec: FrameworkSpec {
            roles: vec![RoleSubscription {
                role,
                suppressed,
                ..RoleSubscription::default()
            }],
            capabilities: Capabilities {
                gpus: true,
                region_aware: true,
                revocable: false,
            },
        },
    }
}

/// Role of a framework in a tree of ten by ten: `org3/team7`.
pub fn tree_role(i: usize) -> String {
    format!("org{}/team{}", i % 10, i / 10 % 10)
}

/// All agents free, all frameworks subscribed and silent.
pub fn silent(scale: Scale, config: AllocatorConfig) -> Allocator {
    let mut a = Allocator::new(config);
    let agents = (0..scale.agents).map(|i| Event::AgentAdded {
        info: info(i, node()),
        used: Vec::new(),
    });
    a.apply_all(agents, NOW);
    let frameworks = (0..scale.frameworks).map(|i| subscribed(i, tree_role(i), true));
    a.apply_all(frameworks, NOW);
    a
}

pub fn revive_all(scale: Scale) -> Vec<Event> {
    let revive = |i| Event::Revive {
        framework_id: framework(i),
    };
    (0..scale.frameworks).map(revive).collect()
}

pub fn offers(effects: Vec<Effect>) -> impl Iterator<Item = Offer> {
    effects.into_iter().filter_map(|e| match e {
        Effect::Offer(o) => Some(o),
        _ => None,
    })
}

pub fn accept(offer: &Offer, used: Resources) -> Event {
    Event::Accepted {
        framework_id: offer.framework_id.clone(),
        offer_ids: vec![offer.offer_id.clone()],
        used,
        refuse: Millis(0),
    }
}

pub fn decline(offer: &Offer, refuse: Millis) -> Event {
    Event::Declined {
        framework_id: offer.framework_id.clone(),
        offer_ids: vec![offer.offer_id.clone()],
        refuse,
    }
}

/// Offers that wait for their framework's answer.
pub type Inbox = VecDeque<Offer>;

/// SplitMix64, so that runs are alike.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Time that this thread has been on a CPU, in seconds: what counts on a busy machine. 0 where the kernel
/// does not say.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = stat
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse::<f64>().ok());
    ns.unwrap_or(0.0) / 1e9
}
