//! Which node holds which part of which pool: in order, the first free one, as DC/OS gives them (9.0.0.0/24, 9.0.1.0/24, ...).
//!
//! What a node gave back rests before another gets it: its last containers may still be talked to. Nothing moves
//! while it is held, in whatever order nodes come.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AddressPool, AgentId, AgentOverlay, AgentSubnet, IpNet, Millis, Network, UnixMillis, Vtep,
    Vxlan,
};

/// Leases of all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    vxlan: Vxlan,
    rest: Millis,
    held: BTreeMap<AgentId, Held>,
    /// When nodes went whose leases rest.
    resting: BTreeSet<(UnixMillis, AgentId)>,
    /// Subnets that somebody has, by network; those of tunnel endpoints under no name.
    taken: BTreeMap<(String, Family), Taken>,
}

/// Places of a pool that somebody has.
#[derive(Debug, Clone, Default)]
struct Taken {
    places: BTreeSet<u128>,
    /// None before this one is free: a pool of thousands is not looked through for each node.
    none_before: u128,
}

// Where a search begins is no part of what is taken.
impl PartialEq for Taken {
    fn eq(&self, other: &Self) -> bool {
        self.places == other.places
    }
}

impl Eq for Taken {}

impl Taken {
    /// The first free place from `first` on.
    fn first_free(&mut self, first: u128) -> u128 {
        let mut free = self.none_before.max(first);
        for used in self.places.range(free..) {
            if *used != free {
                break;
            }
            free += 1;
        }
        self.none_before = free;
        free
    }

    fn give_back(&mut self, place: u128) {
        self.places.remove(&place);
        self.none_before = self.none_before.min(place);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

/// What one node holds, or has given back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// What it is.
    pub overlay: AgentOverlay,
    /// When the node went; `None` while it is there.
    pub released_at: Option<UnixMillis>,
}

/// What became of a node's wish for all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Granted {
    /// Whether it holds something else than before: that must be stored.
    pub changed: bool,
    /// Pools that had nothing left for it.
    pub short: Vec<Short>,
}

/// A pool that had nothing left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// The network; `None`: the pool of tunnel endpoints.
    pub network: Option<String>,
    /// All of its addresses.
    pub pool: IpNet,
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.network {
            Some(name) => write!(f, "no subnet is left in {} of network {name}", self.pool),
            None => write!(
                f,
                "no address is left in {} for a tunnel endpoint",
                self.pool
            ),
        }
    }
}

/// How much of a network's pools is leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Subnets that nodes hold, of the family that has the fewest.
    pub n_held: usize,
    /// Subnets that rest after a node has gone.
    pub n_resting: usize,
    /// Subnets that there are.
    pub n_subnets: u128,
}

impl Leases {
    /// From what was stored. What does not fit `vxlan` or its network any more is not kept.
    pub fn restored(
        vxlan: Vxlan,
        rest: Millis,
        networks: &BTreeMap<String, Network>,
        mut held: BTreeMap<AgentId, Held>,
    ) -> Self {
        let mut taken: BTreeMap<(String, Family), Taken> = BTreeMap::new();
        let mut take = |name: &str, pool: AddressPool, net: IpNet| {
            let fits = net.prefix() == pool.prefix && pool.net.covers(net);
            let taken = taken.entry((name.to_owned(), family(net))).or_default();
            (fits && taken.places.insert(place(net))).then_some(net)
        };
        for one in held.values_mut() {
            let overlay = &mut one.overlay;
            overlay.vtep = overlay.vtep.filter(|vtep| {
                take("", vtep_pool(vxlan.vteps), IpNet::host(vtep.ip.into())).is_some()
            });
            overlay.subnets.retain(|name, subnet| {
                let Some(network) = networks.get(name) else {
                    return false;
                };
                let mut keep = |pool: Option<AddressPool>, net: Option<IpNet>| {
                    pool.zip(net).and_then(|(pool, net)| take(name, pool, net))
                };
                subnet.v4 = keep(network.pool, subnet.v4);
                subnet.v6 = keep(network.pool6, subnet.v6);
                subnet.nets().next().is_some()
            });
        }
        let resting = held
            .iter()
            .filter_map(|(id, h)| Some((h.released_at?, id.clone())))
            .collect();
        Self {
            vxlan,
            rest,
            held,
            resting,
            taken,
        }
    }

    /// How the networks are carried.
    pub const fn vxlan(&self) -> &Vxlan {
        &self.vxlan
    }

    /// Gives a node what it lacks of each network; what it holds stays.
    pub fn grant(&mut self, agent: &AgentId, networks: &BTreeMap<String, Network>) -> Granted {
        let mut granted = Granted::default();
        let mut held = self.held.remove(agent).unwrap_or_default();
        if let Some(at) = held.released_at.take() {
            self.resting.remove(&(at, agent.clone()));
            granted.changed = true;
        }
        let overlay = &mut held.overlay;
        if overlay.vtep.is_none() {
            overlay.vtep = self.vtep();
            granted.changed |= overlay.vtep.is_some();
            if overlay.vtep.is_none() {
                granted.short.push(Short {
                    network: None,
                    pool: self.vxlan.vteps,
                });
            }
        }
        for (name, network) in networks {
            let mut subnet = overlay.subnets.get(name).copied().unwrap_or_default();
            for (pool, part) in [
                (network.pool, &mut subnet.v4),
                (network.pool6, &mut subnet.v6),
            ] {
                let Some(pool) = pool.filter(|_| part.is_none()) else {
                    continue;
                };
                *part = self.first_free(name, pool);
                granted.changed |= part.is_some();
                if part.is_none() {
                    granted.short.push(Short {
                        network: Some(name.clone()),
                        pool: pool.net,
                    });
                }
            }
            if subnet != AgentSubnet::default() {
                overlay.subnets.insert(name.clone(), subnet);
            }
        }
        self.held.insert(agent.clone(), held);
        granted
    }

    /// A node is gone; what it held rests. `false` when it held nothing.
    pub fn release(&mut self, agent: &AgentId, now: UnixMillis) -> bool {
        match self.held.get_mut(agent) {
            Some(held) if held.released_at.is_none() => {
                held.released_at = Some(now);
                self.resting.insert((now, agent.clone()));
                true
            }
            _ => false,
        }
    }

    /// Forgets what has rested for long enough; the answer names the nodes that held it.
    pub fn expire(&mut self, now: UnixMillis) -> Vec<AgentId> {
        let rest = self.rest;
        let over = |(at, _): &&(UnixMillis, AgentId)| *at + rest <= now;
        let gone: Vec<_> = self.resting.iter().take_while(over).cloned().collect();
        let mut names = Vec::with_capacity(gone.len());
        for one in gone {
            self.resting.remove(&one);
            if let Some(held) = self.held.remove(&one.1) {
                self.put_back(&held.overlay);
            }
            names.push(one.1);
        }
        names.sort();
        names
    }

    /// When something has rested for long enough.
    pub fn next_expiry(&self) -> Option<UnixMillis> {
        self.resting.first().map(|(at, _)| *at + self.rest)
    }

    /// A network is removed; the answer names the nodes that held some of it.
    pub fn forget_network(&mut self, name: &str) -> Vec<AgentId> {
        for family in [Family::V4, Family::V6] {
            self.taken.remove(&(name.to_owned(), family));
        }
        let mut changed = Vec::new();
        for (id, held) in &mut self.held {
            if held.overlay.subnets.remove(name).is_some() {
                changed.push(id.clone());
            }
        }
        changed
    }

    /// What a node holds that is there.
    pub fn of(&self, agent: &AgentId) -> Option<&AgentOverlay> {
        let held = self.held.get(agent)?;
        held.released_at.is_none().then_some(&held.overlay)
    }

    /// All that is held or rests.
    pub const fn all(&self) -> &BTreeMap<AgentId, Held> {
        &self.held
    }

    /// How much of a network is leased.
    pub fn usage(&self, name: &str, network: &Network) -> Usage {
        let mut usage = Usage {
            n_subnets: network
                .pools()
                .filter_map(|p| p.net.n_subnets(p.prefix))
                .min()
                .unwrap_or(0),
            ..Usage::default()
        };
        for held in self.held.values() {
            if held.overlay.subnets.contains_key(name) {
                match held.released_at {
                    None => usage.n_held += 1,
                    Some(_) => usage.n_resting += 1,
                }
            }
        }
        usage
    }

    fn vtep(&mut self) -> Option<Vtep> {
        let net = self.first_free("", vtep_pool(self.vxlan.vteps))?;
        let nth = self.vxlan.vteps.subnet_index(net)?;
        let std::net::IpAddr::V4(ip) = net.ip() else {
            return None;
        };
        // The same place over IPv6, so that nothing more is leased.
        let ip6 = match self.vxlan.vteps6.nth(nth) {
            Some(std::net::IpAddr::V6(ip6)) => Some(ip6),
            _ => None,
        };
        Some(Vtep { ip, ip6 })
    }

    fn first_free(&mut self, name: &str, pool: AddressPool) -> Option<IpNet> {
        let taken = self
            .taken
            .entry((name.to_owned(), family(pool.net)))
            .or_default();
        // Tunnel endpoints: the first address is the network's, the last one for broadcasts.
        let edge = u128::from(name.is_empty());
        let base = place(pool.net.nth_subnet(pool.prefix, 0)?);
        let nth = taken.first_free(base + edge) - base;
        let n = pool.net.n_subnets(pool.prefix)? - edge;
        let found = (nth < n).then(|| pool.net.nth_subnet(pool.prefix, nth))??;
        taken.places.insert(place(found));
        Some(found)
    }

    fn put_back(&mut self, overlay: &AgentOverlay) {
        let mut give = |name: &str, net: IpNet| {
            if let Some(taken) = self.taken.get_mut(&(name.to_owned(), family(net))) {
                taken.give_back(place(net));
            }
        };
        if let Some(vtep) = overlay.vtep {
            give("", IpNet::host(vtep.ip.into()));
        }
        for (name, subnet) in &overlay.subnets {
            subnet.nets().for_each(|net| give(name, net));
        }
    }
}

/// The place of a subnet among all of its length.
fn place(net: IpNet) -> u128 {
    IpNet::around(net.ip(), 0)
        .subnet_index(net)
        .unwrap_or_default()
}

fn vtep_pool(net: IpNet) -> AddressPool {
    AddressPool { net, prefix: 32 }
}

fn family(net: IpNet) -> Family {
    if net.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REST: Millis = Millis(60_000);

    fn id(n: u8) -> AgentId {
        AgentId::new(format!("a-S{n}")).unwrap()
    }

    fn pool(net: &str, prefix: u8) -> AddressPool {
        let net = net.parse().unwrap();
        AddressPool { net, prefix }
    }

    fn dcos() -> BTreeMap<String, Network> {
        BTreeMap::from([
            ("dcos".to_owned(), Network::dcos()),
            ("dcos6".to_owned(), Network::dcos6()),
        ])
    }

    fn fresh(networks: &BTreeMap<String, Network>) -> Leases {
        Leases::restored(Vxlan::default(), REST, networks, BTreeMap::new())
    }

    fn text(leases: &Leases, n: u8) -> String {
        let Some(held) = leases.of(&id(n)) else {
            return "-".to_owned();
        };
        let nets = held.subnets.values().flat_map(AgentSubnet::nets);
        let nets: Vec<String> = nets.map(|n| n.to_string()).collect();
        let vtep = held.vtep.map(|v| v.ip.to_string()).unwrap_or_default();
        format!("{vtep} {}", nets.join(" "))
    }

    #[test]
    fn the_order_is_dcos_s() {
        let networks = dcos();
        let mut leases = fresh(&networks);
        for n in 1..=3 {
            assert!(leases.grant(&id(n), &networks).changed);
        }
        assert_eq!(text(&leases, 1), "44.128.0.1 9.0.0.0/24 fd01:b::/80");
        assert_eq!(text(&leases, 2), "44.128.0.2 9.0.1.0/24 fd01:b:0:0:1::/80");
        assert_eq!(text(&leases, 3), "44.128.0.3 9.0.2.0/24 fd01:b:0:0:2::/80");
        let six = leases.of(&id(1)).unwrap().vtep.unwrap().ip6.unwrap();
        assert_eq!(six.to_string(), "fd01:a::1");
        assert_eq!(leases.grant(&id(2), &networks), Granted::default());
    }

    #[test]
    fn what_was_given_back_rests_and_comes_back_to_who_had_it() {
        let networks = dcos();
        let mut leases = fresh(&networks);
        leases.grant(&id(1), &networks);
        let first = text(&leases, 1);
        assert!(leases.release(&id(1), UnixMillis(1000)));
        assert!(!leases.release(&id(1), UnixMillis(2000)), "once");
        assert_eq!(leases.next_expiry(), Some(UnixMillis(61_000)));
        leases.grant(&id(2), &networks);
        assert!(text(&leases, 2).starts_with("44.128.0.2 9.0.1.0/24"));
        assert!(leases.grant(&id(1), &networks).changed, "it is there again");
        assert_eq!(text(&leases, 1), first);
        leases.release(&id(1), UnixMillis(100_000));
        assert!(leases.expire(UnixMillis(159_999)).is_empty());
        assert_eq!(leases.expire(UnixMillis(160_000)), [id(1)]);
        leases.grant(&id(3), &networks);
        assert_eq!(text(&leases, 3), first);
    }

    #[test]
    fn what_is_short_is_named() {
        let networks = BTreeMap::from([(
            "small".to_owned(),
            Network {
                pool: Some(pool("10.9.0.0/24", 25)),
                ..Network::dcos()
            },
        )]);
        let mut leases = fresh(&networks);
        leases.grant(&id(1), &networks);
        leases.grant(&id(2), &networks);
        let granted = leases.grant(&id(3), &networks);
        let why: Vec<String> = granted.short.iter().map(ToString::to_string).collect();
        assert_eq!(why, ["no subnet is left in 10.9.0.0/24 of network small"]);
        let usage = leases.usage("small", &networks["small"]);
        assert_eq!((usage.n_held, usage.n_resting, usage.n_subnets), (2, 0, 2));
        leases.release(&id(1), UnixMillis(0));
        leases.expire(UnixMillis(60_000));
        assert!(leases.grant(&id(3), &networks).short.is_empty());
        assert_eq!(text(&leases, 3), "44.128.0.3 10.9.0.0/25");
    }

    #[test]
    fn leases_of_another_pool_are_not_kept() {
        let networks = dcos();
        let mut leases = fresh(&networks);
        leases.grant(&id(1), &networks);
        let mut other = dcos();
        other.insert(
            "dcos".to_owned(),
            Network {
                pool: Some(pool("10.0.0.0/8", 24)),
                ..Network::dcos()
            },
        );
        let held = leases.all().clone();
        let mut again = Leases::restored(Vxlan::default(), REST, &other, held);
        assert_eq!(text(&again, 1), "44.128.0.1 fd01:b::/80");
        again.grant(&id(1), &other);
        assert_eq!(text(&again, 1), "44.128.0.1 10.0.0.0/24 fd01:b::/80");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Grant(u8),
        Release(u8),
        Later(u64),
        Restart,
        Forget,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u8..12).prop_map(Step::Grant),
            3 => (0u8..12).prop_map(Step::Release),
            3 => (0u64..50_000).prop_map(Step::Later),
            1 => Just(Step::Restart),
            1 => Just(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn nobody_shares_nothing_moves_and_nothing_comes_too_early(steps in prop::collection::vec(step(), 0..80)) {
            let small = Network { pool: Some(pool("10.9.0.0/24", 27)), pool6: Some(pool("fd00:9::/64", 67)), ..Network::dcos() };
            let mut networks = dcos();
            networks.insert("small".to_owned(), small);
            let all = networks.clone();
            let mut leases = fresh(&networks);
            let mut now = UnixMillis(0);
            let mut given_back: BTreeMap<IpNet, (AgentId, UnixMillis)> = BTreeMap::new();
            for step in steps {
                let before = leases.clone();
                match step {
                    Step::Grant(n) => {
                        networks.clone_from(&all);
                        let granted = leases.grant(&id(n), &networks);
                        let held = leases.of(&id(n)).unwrap();
                        if let Some(old) = before.of(&id(n)) {
                            prop_assert_eq!(granted.changed, old != held);
                            for (name, subnet) in &old.subnets {
                                prop_assert_eq!(held.subnets.get(name), Some(subnet), "it stays");
                            }
                        }
                        for (name, subnet) in &held.subnets {
                            let had: Vec<IpNet> = before.all().values().filter_map(|h| h.overlay.subnets.get(name)).flat_map(AgentSubnet::nets).collect();
                            for net in subnet.nets().filter(|net| !had.contains(net)) {
                                let pool = networks[name].pools().find(|p| p.net.covers(net)).unwrap();
                                let mut all = (0..).map(|i| pool.net.nth_subnet(pool.prefix, i).unwrap());
                                prop_assert_eq!(all.find(|n| !had.contains(n)), Some(net), "the first free one");
                            }
                        }
                        for net in held.subnets.values().flat_map(AgentSubnet::nets) {
                            if let Some((by, at)) = given_back.get(&net) {
                                prop_assert!(*by == id(n) || *at + REST <= now, "{} too early", net);
                            }
                            let pools = networks.values().flat_map(Network::pools);
                            prop_assert!(pools.into_iter().any(|p| p.net.covers(net) && p.prefix == net.prefix()));
                        }
                        // Again changes nothing.
                        let once = leases.clone();
                        prop_assert!(!leases.grant(&id(n), &networks).changed);
                        prop_assert_eq!(&once, &leases);
                    }
                    Step::Release(n) => {
                        if leases.release(&id(n), now) {
                            for net in before.of(&id(n)).unwrap().subnets.values().flat_map(AgentSubnet::nets) {
                                given_back.insert(net, (id(n), now));
                            }
                        }
                    }
                    Step::Later(ms) => {
                        now = now + Millis(ms);
                        leases.expire(now);
                        prop_assert!(leases.next_expiry().is_none_or(|at| at > now));
                    }
                    Step::Restart => {
                        let again = Leases::restored(Vxlan::default(), REST, &networks, leases.all().clone());
                        prop_assert_eq!(again.all(), leases.all());
                        leases = again;
                    }
                    Step::Forget => {
                        networks.remove("small");
                        leases.forget_network("small");
                        given_back.clear();
                    }
                }
                let mut nets: Vec<IpNet> = Vec::new();
                for held in leases.all().values() {
                    nets.extend(held.overlay.vtep.map(|v| IpNet::host(v.ip.into())));
                    nets.extend(held.overlay.subnets.values().flat_map(AgentSubnet::nets));
                }
                for (i, a) in nets.iter().enumerate() {
                    prop_assert!(nets[i + 1..].iter().all(|b| !a.overlaps(*b)), "{} is shared", a);
                }
            }
        }
    }
}
