//! From policies and who is where to tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use waggle_ebpf_common::policy as abi;
use waggle_types::{IpNet, NetworkMatch, NetworkPolicy, PolicyPeer, PolicySubject};

use super::{
    Direction, Entry, Learned, Local, NetEntry, PairKey, PolicyWrite, PortSet, Sets, Tables, diff,
    names,
    numbers::{Kind, Numbers, SetNumbers, Term},
    said::{Both, Direct, Pattern, Said, said},
    select::Selectors,
};

/// Room in the kernel's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Addresses with an entry of their own. Tasks beyond are unknown to this node.
    pub addresses: usize,
    /// Nets. Rules' networks beyond contain nobody.
    pub nets: usize,
    /// Numbers. Who gets none is unknown.
    pub numbers: u32,
    /// Numbers of this node's tasks that policies select. Tasks beyond get no traffic.
    pub locals: usize,
    /// Pairs. Tasks whose pairs don't fit get no traffic.
    pub pairs: usize,
    /// Sets of ports, and blocks of them, alike.
    pub sets: usize,
    /// Blocks.
    pub blocks: usize,
    /// Addresses that tasks were told of; with more, the one that expires first gives way.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            addresses: abi::MAX_ADDRESSES as usize,
            // What is replaced and what replaces it are there at the same time: half of it is for that.
            nets: abi::MAX_NETS as usize / 2,
            numbers: abi::MAX_NUMBERS,
            locals: abi::MAX_LOCALS as usize / 2,
            pairs: abi::MAX_PAIRS as usize / 2,
            sets: abi::MAX_SETS as usize / 2,
            blocks: abi::MAX_BLOCKS as usize / 2,
            names: abi::MAX_NAMES as usize,
        }
    }
}

/// A task with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldTask {
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// It is on this node.
    pub is_here: bool,
    /// What it is.
    pub subject: Arc<PolicySubject>,
}

/// All that verdicts depend on, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyWorld {
    /// Policies in order of their names.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// Tasks.
    pub tasks: Vec<WorldTask>,
    /// Pools of the named networks.
    pub networks: BTreeMap<String, Vec<IpNet>>,
    /// Addresses of nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// Addresses of the node's resolver.
    pub resolvers: BTreeSet<IpAddr>,
}

/// What did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Addresses of tasks that are unknown to this node for want of room.
    pub unknown: usize,
    /// Kinds of this node's tasks that get no traffic for want of room.
    pub closed: usize,
    /// Rules' networks that contain nobody for want of room.
    pub nets: usize,
}

/// Keeps a node's tables, and the numbers in them.
#[derive(Debug, Clone, Default)]
pub struct Lowering {
    pub(super) limits: Limits,
    numbers: Numbers,
    sets: SetNumbers,
    pub(super) patterns: BTreeMap<u32, Vec<Pattern>>,
    /// Nodes' and the resolver's addresses that are no task's.
    plain: BTreeSet<IpAddr>,
    pub(super) learned: Learned,
    pub(super) tables: Tables,
}

impl Lowering {
    /// With no tables yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            sets: SetNumbers::new(limits.sets, BTreeSet::new()),
            ..Self::default()
        }
    }

    /// Takes tables that the kernel already has: of another process, or after a write that failed. What they use is not
    /// given to anybody else before they are replaced. What tasks were told of names stays until it expires.
    pub fn adopt(&mut self, tables: Tables) {
        self.numbers = Numbers::default();
        self.numbers
            .rest(tables.addresses.values().map(|e| e.number));
        self.numbers.rest(tables.nets.values().map(|n| n.number));
        self.numbers.rest(tables.locals.keys().copied());
        self.numbers.rest(
            tables
                .pairs
                .keys()
                .flat_map(|(local, peer, _)| [*local, *peer]),
        );
        self.sets = SetNumbers::new(self.limits.sets, tables.sets.keys().copied().collect());
        // A set that names refer to keeps its number.
        for entry in tables.names.values() {
            for n in [entry.sets.in_force, entry.sets.with_audit] {
                if let Some(set) = tables.sets.get(&n) {
                    self.sets.put(n, set);
                }
            }
        }
        self.learned.adopt(tables.names.keys().copied());
        self.tables = tables;
    }

    /// The tables that the kernel has once all writes are done.
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The writes that bring the kernel's tables to what policies say now. `now_s` is `CLOCK_MONOTONIC`'s.
    pub fn change(&mut self, world: &PolicyWorld, now_s: u32) -> (Vec<PolicyWrite>, Report) {
        let (mut new, report) = self.lower(world);
        self.learned.forget(now_s);
        self.renew_names(&mut new, now_s);
        let mut used: BTreeSet<u32> = new.locals.keys().copied().collect();
        used.extend(new.addresses.values().map(|e| e.number));
        used.extend(new.nets.values().map(|n| n.number));
        self.numbers.keep(&used);
        let both = |s: &Sets| [s.in_force, s.with_audit];
        let mut used: BTreeSet<u32> = new.pairs.values().flat_map(both).collect();
        let locals = new.locals.values();
        used.extend(
            locals
                .flat_map(|l| [l.egress, l.ingress])
                .flat_map(|s| both(&s)),
        );
        used.extend(new.names.values().flat_map(|n| both(&n.sets)));
        self.sets.keep(&used);
        new.sets.clone_from(self.sets.all());
        let writes = diff(&self.tables, &new);
        self.tables = new;
        (writes, report)
    }

    fn lower(&mut self, world: &PolicyWorld) -> (Tables, Report) {
        let mut report = Report::default();
        let mut tables = Tables::default();
        self.patterns.clear();
        self.plain.clear();
        if world.policies.is_empty() {
            return (tables, report);
        }
        tables.is_on = true;
        let terms = self.lower_nets(world, &mut tables, &mut report);
        let numbers = self.lower_addresses(world, &terms, &mut tables, &mut report);
        let here: BTreeSet<u32> = world
            .tasks
            .iter()
            .filter(|t| t.is_here)
            .filter_map(|t| numbers.get(&t.subject).copied())
            .collect();
        let selectors = Selectors::new(&numbers);
        let terms = self.by_term();
        let (mut n_blocks, mut counted, mut closed) = (0, BTreeSet::new(), BTreeSet::new());
        let mut selected = BTreeMap::new();
        for (subject, number) in &numbers {
            if !here.contains(number) {
                continue;
            }
            let Some(said) = said(&world.policies, subject, &selectors, &terms) else {
                selected.insert(*number, false);
                continue;
            };
            let Some((local, pairs)) = self.number_sets(*number, &said) else {
                closed.insert(*number);
                continue;
            };
            let of_pairs = pairs.iter().map(|(_, sets)| *sets);
            let fresh: BTreeSet<u32> = of_pairs
                .chain([local.egress, local.ingress])
                .flat_map(|s| [s.in_force, s.with_audit])
                .filter(|n| !counted.contains(n))
                .collect();
            let written = fresh.iter().filter_map(|n| self.sets.all().get(n));
            let blocks: usize = written.map(PortSet::n_blocks).sum();
            if tables.locals.len() >= self.limits.locals
                || tables.pairs.len() + pairs.len() > self.limits.pairs
                || n_blocks + blocks > self.limits.blocks
            {
                closed.insert(*number);
                continue;
            }
            n_blocks += blocks;
            counted.extend(fresh);
            tables.locals.insert(*number, local);
            tables.pairs.extend(pairs);
            self.patterns.insert(*number, said.patterns);
            selected.insert(*number, true);
        }
        report.closed = closed.len();
        for task in world.tasks.iter().filter(|t| t.is_here) {
            for ip in &task.ips {
                if let Some(entry) = tables.addresses.get_mut(ip) {
                    entry.selected = selected.get(&entry.number).copied();
                }
            }
        }
        (tables, report)
    }

    fn number_sets(&mut self, number: u32, said: &Said) -> Option<(Local, Vec<(PairKey, Sets)>)> {
        let mut pairs = Vec::new();
        let mut of = |direction: Direction, direct: &Direct| {
            if !direct.is_selected {
                return Some(Sets::OPEN);
            }
            let mut sets = |both: &Both| {
                Some(Sets {
                    in_force: self.sets.get(&both.0)?,
                    with_audit: self.sets.get(&both.1)?,
                })
            };
            let default = sets(&direct.default)?;
            for (peer, both) in &direct.peers {
                if *both != direct.default {
                    pairs.push(((number, *peer, direction), sets(both)?));
                }
            }
            Some(default)
        };
        let local = Local {
            egress: of(Direction::Egress, &said.egress)?,
            ingress: of(Direction::Ingress, &said.ingress)?,
            has_names: !said.patterns.is_empty(),
        };
        Some((local, pairs))
    }

    /// Tasks', nodes' and resolvers' addresses. Answers with the numbers of what tasks are.
    fn lower_addresses(
        &mut self,
        world: &PolicyWorld,
        terms: &BTreeMap<IpNet, BTreeSet<Term>>,
        tables: &mut Tables,
        report: &mut Report,
    ) -> BTreeMap<Arc<PolicySubject>, u32> {
        let mut numbers: BTreeMap<Arc<PolicySubject>, u32> = BTreeMap::new();
        for ip in world.nodes.iter().chain(&world.resolvers) {
            let mut terms = longest(terms, *ip).cloned().unwrap_or_default();
            if world.nodes.contains(ip) {
                terms.insert(Term::Node);
            }
            if world.resolvers.contains(ip) {
                terms.insert(Term::Resolver);
            }
            let number = self
                .numbers
                .get(&Kind::Addresses(terms), self.limits.numbers);
            let number = number.unwrap_or(abi::number::UNKNOWN);
            let entry = Entry {
                number,
                selected: None,
            };
            tables.addresses.insert(*ip, entry);
            self.plain.insert(*ip);
        }
        let mut of_tasks = BTreeSet::new();
        for task in &world.tasks {
            let known = numbers.get(&task.subject).copied();
            let number = known.or_else(|| {
                let kind = Kind::Tasks(Arc::clone(&task.subject));
                self.numbers.get(&kind, self.limits.numbers)
            });
            let Some(number) = number else {
                report.unknown += task.ips.len();
                continue;
            };
            numbers.insert(Arc::clone(&task.subject), number);
            for ip in &task.ips {
                if tables.addresses.len() >= self.limits.addresses {
                    report.unknown += 1;
                    continue;
                }
                let mut entry = Entry {
                    number,
                    selected: None,
                };
                if !of_tasks.insert(*ip) && tables.addresses.get(ip) != Some(&entry) {
                    // Two tasks that are not alike: nobody knows whose packets these are.
                    entry.number = abi::number::UNKNOWN;
                }
                self.plain.remove(ip);
                tables.addresses.insert(*ip, entry);
            }
        }
        numbers
    }

    fn by_term(&self) -> BTreeMap<Term, Vec<u32>> {
        let mut out: BTreeMap<Term, Vec<u32>> = BTreeMap::new();
        for (kind, n) in self.numbers.all() {
            if let Kind::Addresses(terms) = kind {
                for term in terms {
                    out.entry(term.clone()).or_default().push(n);
                }
            }
        }
        out
    }

    /// Rules' networks, and the pools. Answers with what holds in each of the rules' networks, pools apart.
    fn lower_nets(
        &mut self,
        world: &PolicyWorld,
        tables: &mut Tables,
        report: &mut Report,
    ) -> BTreeMap<IpNet, BTreeSet<Term>> {
        let mut all = BTreeMap::new();
        let pools: BTreeMap<IpNet, bool> = world
            .networks
            .iter()
            .flat_map(|(name, pools)| {
                let closed = world.policies.iter().any(|p| could_select(p, name));
                pools.iter().map(move |pool| (*pool, closed))
            })
            .collect();
        // What begins and what ends at each net.
        let mut at: BTreeMap<IpNet, (Vec<Term>, Vec<Term>)> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (net, except) in cidrs(&world.policies) {
            let mut except = except.to_vec();
            except.sort_unstable();
            except.dedup();
            let term = Term::Cidr(net, except.clone());
            if !seen.insert(term.clone()) {
                continue;
            }
            // One more for all of IPv4.
            if at.len() + 2 + except.len() + pools.len() > self.limits.nets {
                report.nets += 1;
                continue;
            }
            for e in except {
                at.entry(e).or_default().1.push(term.clone());
            }
            at.entry(net).or_default().0.push(term);
        }
        // Ordered by first address, then by length: what contains a net comes before it.
        let mut around: Vec<(IpNet, BTreeSet<Term>)> = Vec::new();
        for (net, (begins, ends)) in at {
            while around.last().is_some_and(|(outer, _)| !outer.covers(net)) {
                around.pop();
            }
            let mut terms = around.last().map(|(_, t)| t.clone()).unwrap_or_default();
            terms.extend(begins);
            for term in ends {
                terms.remove(&term);
            }
            // Addresses of tasks are not told by nets.
            if !pools.keys().any(|pool| pool.covers(net)) {
                let kind = Kind::Addresses(terms.clone());
                let number = self.numbers.get(&kind, self.limits.numbers);
                if number.is_none() {
                    report.nets += 1;
                }
                let entry = NetEntry {
                    number: number.unwrap_or(abi::number::UNKNOWN),
                    is_closed: false,
                };
                tables.nets.insert(net, entry);
            }
            all.insert(net, terms.clone());
            around.push((net, terms));
        }
        // The kernel's keys have IPv4 within IPv6: what no rule of IPv4 contains is not to be found in `::/0`.
        if tables.nets.keys().any(|net| contains_ipv4(*net)) {
            let everything = IpNet::around(Ipv4Addr::UNSPECIFIED.into(), 0);
            let outside = NetEntry {
                number: abi::number::OUTSIDE,
                is_closed: false,
            };
            tables.nets.entry(everything).or_insert(outside);
        }
        for (pool, is_closed) in pools {
            let entry = NetEntry {
                number: abi::number::UNKNOWN,
                is_closed,
            };
            tables.nets.insert(pool, entry);
        }
        all
    }

    /// Port sets of what a task was told, by the names that it was told. `None`: nothing, or there is no room.
    pub(super) fn sets_of(&mut self, sets: &Both) -> Option<Sets> {
        if sets.1.is_empty() && sets.0.is_empty() {
            return None;
        }
        Some(Sets {
            in_force: self.sets.get(&sets.0)?,
            with_audit: self.sets.get(&sets.1)?,
        })
    }

    /// Whether names may lead to an address. Not to tasks, whoever says so: these are told by what they are.
    pub(super) fn may_be_named(&self, tables: &Tables, ip: IpAddr) -> bool {
        self.plain.contains(&ip)
            || (!tables.addresses.contains_key(&ip)
                && tables.net_of(ip).number != abi::number::UNKNOWN)
    }

    fn renew_names(&mut self, new: &mut Tables, now_s: u32) {
        let known: Vec<_> = self
            .learned
            .all()
            .map(|(key, names)| (*key, names.clone()))
            .collect();
        let mut told = BTreeSet::new();
        for (key, names) in known {
            told.insert(key);
            if !self.may_be_named(new, key.1) {
                continue;
            }
            let number = new
                .addresses
                .get(&key.0)
                .filter(|e| e.selected == Some(true));
            let patterns = number.and_then(|e| self.patterns.get(&e.number));
            let Some(patterns) = patterns else {
                continue;
            };
            let both = names::ports(patterns, &names);
            let expires_s = names.values().copied().max().unwrap_or(now_s);
            if let Some(sets) = self.sets_of(&both) {
                new.names.insert(key, names::NameEntry { sets, expires_s });
            }
        }
        // Another process learned these; their names are not known any more. They go when they expire, or with their task's rules.
        for (key, entry) in &self.tables.names {
            let selected = new
                .addresses
                .get(&key.0)
                .filter(|e| e.selected == Some(true));
            let may = selected
                .is_some_and(|e| self.patterns.get(&e.number).is_some_and(|p| !p.is_empty()));
            let fits = |n: u32| n < abi::set::FIRST || self.sets.all().contains_key(&n);
            if may
                && self.may_be_named(new, key.1)
                && !told.contains(key)
                && entry.expires_s > now_s
                && self.learned.is_adopted(key)
                && fits(entry.sets.in_force)
                && fits(entry.sets.with_audit)
            {
                new.names.insert(*key, *entry);
            }
        }
    }
}

fn longest<V>(nets: &BTreeMap<IpNet, V>, ip: IpAddr) -> Option<&V> {
    let longest: u8 = if ip.is_ipv4() { 32 } else { 128 };
    let mut lengths = (0..=longest).rev();
    lengths.find_map(|prefix| nets.get(&IpNet::around(ip, prefix)))
}

fn could_select(policy: &NetworkPolicy, network: &str) -> bool {
    !policy.audit
        && match &policy.selects.network {
            NetworkMatch::Unsaid | NetworkMatch::Any => true,
            NetworkMatch::Named(name) => name == network,
        }
}

fn cidrs(policies: &[Arc<NetworkPolicy>]) -> impl Iterator<Item = (IpNet, &[IpNet])> {
    let rules = policies
        .iter()
        .flat_map(|p| p.ingress.iter().chain(&p.egress).flatten());
    rules
        .flat_map(|rule| &rule.peers)
        .filter_map(|peer| match peer {
            PolicyPeer::Cidr { net, except } => Some((*net, except.as_slice())),
            _ => None,
        })
}

/// Whether a net of IPv6 has the addresses in it that stand for IPv4's.
fn contains_ipv4(net: IpNet) -> bool {
    let first = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    !net.is_ipv4() && net.contains(first.into())
}
