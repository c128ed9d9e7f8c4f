//! The naive reference allocator: it keeps its own books from events and effects alone, sums everything
//! afresh each time, and says of every offer whether it was the right one and of every silence whether
//! something was left to be offered.

use std::collections::{BTreeMap, BTreeSet};

use waggle_allocator::Usage;
use waggle_types::{
    AgentId, Capabilities, Domain, FrameworkId, Milli, Offer, OfferId, PortSet, RangeSet,
    Reservation, ResourcePart, Resources, ScalarKind, UnixMillis, VolumeId,
};

use super::kinds::{KINDS, N, count, owned, without_volumes};

/// A framework in one of its roles.
pub type Client = (FrameworkId, String);

#[derive(Clone)]
pub struct OAgent {
    pub total: Resources,
    pub active: bool,
    pub draining: Option<bool>,
    pub domain: Option<Domain>,
    pub reserved: Vec<(Vec<Reservation>, Resources)>,
}

#[derive(Clone)]
pub struct OClient {
    pub suppressed: bool,
    pub capabilities: Capabilities,
    pub smallest: Option<Resources>,
    /// Tests use one kind of constraint: agents whose host name is this.
    pub hostname: Option<String>,
}

/// See [`Oracle::sums`].
pub struct Sums {
    charged: BTreeMap<String, [i64; N]>,
    available: [i64; N],
}

#[derive(Default, Clone)]
pub struct Oracle {
    pub agents: BTreeMap<AgentId, OAgent>,
    pub clients: BTreeMap<Client, OClient>,
    pub first_role: BTreeMap<FrameworkId, String>,
    pub weights: BTreeMap<String, u32>,
    pub quotas: BTreeMap<String, ([i64; N], [Option<i64>; N])>,
    pub uses: Vec<(AgentId, Usage)>,
    pub offers: BTreeMap<OfferId, (Offer, Vec<ResourcePart>)>,
    pub filters: Vec<Filter>,
    pub declined: BTreeSet<(AgentId, Client)>,
    pub home: Option<String>,
    /// Drained agents that run nothing any more, by the latest event, and whether they are gone for good.
    pub emptied: Vec<(AgentId, bool)>,
    /// Of offers that are out: who else could have been asked.
    pub passed: BTreeMap<OfferId, Vec<Client>>,
    /// How often one turned an agent down while another waited for it, by agent, who waits, who turned it
    /// down; and the latest offer by then: what was held together counts once.
    pub waits: BTreeMap<(AgentId, Client), BTreeMap<Client, (u32, u64)>>,
    pub latest: u64,
}

#[derive(Clone)]
pub struct Filter {
    pub client: Client,
    pub agent: AgentId,
    pub resources: Resources,
    pub reserved: bool,
    pub lent: bool,
    pub until: UnixMillis,
}

pub fn within(role: &str, ancestor: &str) -> bool {
    role == ancestor
        || role
            .strip_prefix(ancestor)
            .is_some_and(|r| r.starts_with('/'))
}

fn path(role: &str) -> Vec<&str> {
    let ends = role
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([role.len()]);
    ends.map(|end| &role[..end]).collect()
}

pub fn sum<'a>(all: impl Iterator<Item = &'a Resources>) -> Resources {
    all.fold(Resources::default(), |s, r| {
        s.checked_add(r).expect("disjoint")
    })
}

impl Oracle {
    pub fn role_of(stack: &[Reservation]) -> &str {
        stack.last().map_or("", |r| r.role.as_str())
    }

    fn parts_out<'a>(
        &'a self,
        id: &'a AgentId,
    ) -> impl Iterator<Item = (&'a Offer, &'a ResourcePart)> {
        let of = self.offers.values().filter(move |(o, _)| o.agent_id == *id);
        of.flat_map(|(o, parts)| parts.iter().map(move |p| (o, p)))
    }

    fn uses_on<'a>(&'a self, id: &'a AgentId) -> impl Iterator<Item = &'a Usage> {
        self.uses
            .iter()
            .filter(move |(a, _)| a == id)
            .map(|(_, u)| u)
    }

    /// Used and offered on an agent; shared volumes never are.
    pub fn held(&self, id: &AgentId) -> (Resources, Resources) {
        let used: Vec<Resources> = self.uses_on(id).map(|u| owned(&u.resources)).collect();
        let out: Vec<Resources> = self
            .parts_out(id)
            .map(|(_, p)| owned(&p.resources))
            .collect();
        (sum(used.iter()), sum(out.iter()))
    }

    /// Whether a task uses a volume.
    pub fn in_use(&self, id: &AgentId, volume: &VolumeId) -> bool {
        self.uses_on(id)
            .any(|u| u.resources.custom.volume(volume).is_some())
    }

    pub fn free(&self, id: &AgentId) -> Resources {
        let (used, offered) = self.held(id);
        let left = self.agents[id].total.checked_sub(&used).expect("used fits");
        left.checked_sub(&offered).expect("offered fits")
    }

    /// Free of one reservation; of the empty stack: not reserved.
    pub fn free_of(&self, id: &AgentId, stack: &[Reservation]) -> Resources {
        let a = &self.agents[id];
        let mut left = if stack.is_empty() {
            let reserved = sum(a.reserved.iter().map(|(_, r)| r));
            a.total.checked_sub(&reserved).expect("reserved fits")
        } else {
            sum(a
                .reserved
                .iter()
                .filter(|(s, _)| s == stack)
                .map(|(_, r)| r))
        };
        let uses = self.uses_on(id).map(|u| (&u.reservation, &u.resources));
        let out = self
            .parts_out(id)
            .map(|(_, p)| (&p.reservation, &p.resources));
        for (_, r) in uses.chain(out).filter(|(s, _)| *s == stack) {
            left = left.checked_sub(&owned(r)).expect("held of it fits");
        }
        left
    }

    /// Held by whom `of` says, by role, as scalars; `plain`: of this only what is not reserved.
    fn allocated(&self, of: &dyn Fn(&FrameworkId, &str) -> bool, plain: bool) -> [i64; N] {
        let mut total = [0; N];
        let uses = self.uses.iter().map(|(_, u)| {
            (
                &u.framework_id,
                u.role.as_str(),
                &u.resources,
                u.reservation.is_empty(),
            )
        });
        let out = self.offers.values().flat_map(|(o, parts)| {
            let show = |p: &'_ ResourcePart| (p.resources.clone(), p.reservation.is_empty());
            parts
                .iter()
                .map(show)
                .map(move |(r, e)| (&o.framework_id, o.role.as_str(), r, e))
        });
        let mut add = |r: &Resources| (0..N).for_each(|k| total[k] += count(&owned(r), k));
        uses.filter(|(f, role, _, p)| of(f, role) && (*p || !plain))
            .for_each(|u| add(u.2));
        out.filter(|(f, role, _, p)| of(f, role) && (*p || !plain))
            .for_each(|o| add(&o.2));
        total
    }

    /// Dominant share in plain floats.
    fn share(&self, of: &dyn Fn(&FrameworkId, &str) -> bool) -> f64 {
        let held = self.allocated(of, false);
        let total = |k: usize| {
            self.agents
                .values()
                .map(|a| count(&a.total, k))
                .sum::<i64>()
        };
        let part = |k: usize| (total(k) > 0).then(|| held[k] as f64 / total(k) as f64);
        (0..N).filter_map(part).fold(0.0, f64::max)
    }

    pub fn role_share(&self, role: &str) -> f64 {
        let weight = f64::from(self.weights.get(role).copied().unwrap_or(1000));
        self.share(&|_, r| within(r, role)) * 1000.0 / weight
    }

    /// What counts against a role's quota.
    pub fn charged(&self, role: &str) -> [i64; N] {
        let mut total = self.allocated(&|_, r| within(r, role), true);
        for a in self.agents.values() {
            for (stack, r) in a
                .reserved
                .iter()
                .filter(|(s, _)| within(Self::role_of(s), role))
            {
                assert!(!stack.is_empty());
                (0..N).for_each(|k| total[k] += count(r, k));
            }
        }
        total
    }

    /// What counts against every quota, and what is free in the cluster, summed once for many questions.
    pub fn sums(&self) -> Sums {
        let names = self.quotas.keys();
        Sums {
            charged: names.map(|n| (n.clone(), self.charged(n))).collect(),
            available: std::array::from_fn(|k| {
                let active = self.agents.iter().filter(|(_, a)| a.active);
                active.map(|(id, _)| count(&self.free_of(id, &[]), k)).sum()
            }),
        }
    }

    /// What is owed in the cluster of one kind, if `more` were charged to a role.
    fn owed(&self, sums: &Sums, k: usize, role: &str, more: i64) -> i64 {
        let of = |name: &str| {
            let extra = if within(role, name) { more } else { 0 };
            self.quotas[name].0[k] - sums.charged[name][k] - extra
        };
        // From the deepest up: a role is owed its own unmet guarantee, or more if its subroles are.
        let mut names: Vec<&String> = self.quotas.keys().collect();
        names.sort_by_key(|n| std::cmp::Reverse(n.matches('/').count()));
        let mut owed: BTreeMap<&str, i64> = BTreeMap::new();
        for name in names {
            let nearest = |below: &str| {
                let others = self
                    .quotas
                    .keys()
                    .filter(|o| within(below, o) && *o != below && within(o, name) && *o != name);
                within(below, name) && below != name && others.count() == 0
            };
            let below: i64 = owed
                .iter()
                .filter(|(n, _)| nearest(n))
                .map(|(_, o)| o)
                .sum();
            owed.insert(name, of(name).max(below).max(0));
        }
        let top = |n: &str| !self.quotas.keys().any(|o| o != n && within(n, o));
        owed.iter().filter(|(n, _)| top(n)).map(|(_, o)| o).sum()
    }

    /// The most of one kind, up to `free`, that quota lets a role be offered; and whether it is owed some.
    fn allowance(&self, sums: &Sums, role: &str, k: usize, free: i64) -> (i64, bool) {
        let of_kind = |(g, l): &([i64; N], [Option<i64>; N])| g[k] > 0 || l[k].is_some();
        if !self.quotas.values().any(of_kind) {
            return (free, false);
        }
        let owed = self.owed(sums, k, role, 0);
        let spare = (sums.available[k] - owed).max(0);
        let limits: Vec<i64> = path(role)
            .into_iter()
            .filter_map(|p| Some(self.quotas.get(p)?.1[k]? - sums.charged[p][k]))
            .collect();
        let fits = |x: i64| {
            let within = limits.iter().all(|l| x <= *l);
            within && (owed == 0 || x - owed + self.owed(sums, k, role, x) <= spare)
        };
        let (mut low, mut high) = (0, free);
        while low < high {
            let mid = (low + high + 1) / 2;
            if fits(mid) { low = mid } else { high = mid - 1 }
        }
        let any = fits(1) && self.owed(sums, k, role, 1) < owed;
        (low, any)
    }

    pub fn is_idle(&self, role: &str) -> bool {
        !self
            .clients
            .iter()
            .any(|((_, r), c)| !c.suppressed && within(r, role))
    }

    /// What a client could be offered of an agent now, if anything.
    pub fn bundle(
        &self,
        sums: &Sums,
        id: &AgentId,
        client: &Client,
        now: UnixMillis,
    ) -> Option<Vec<ResourcePart>> {
        let (a, c) = (&self.agents[id], &self.clients[client]);
        let hostname = format!("n{}", &id.as_str()[1..]);
        let away = self
            .home
            .as_ref()
            .zip(a.domain.as_ref())
            .is_some_and(|(h, d)| *h != d.region);
        let barred = (!c.capabilities.gpus && a.total.get(ScalarKind::Gpus).0 > 0)
            || (!c.capabilities.region_aware && away)
            || c.hostname.as_ref().is_some_and(|h| *h != hostname);
        let offerable =
            |r: &Resources| r.get(ScalarKind::Cpus).0 >= 10 || r.get(ScalarKind::Mem).0 >= 32_000;
        if !a.active || c.suppressed || barred || !offerable(&self.free(id)) {
            return None;
        }
        let mut parts = Vec::new();
        for (stack, _) in &a.reserved {
            let mut free = self.free_of(id, stack);
            let owner = Self::role_of(stack);
            let lent = !within(&client.1, owner);
            if lent {
                free = without_volumes(&free);
            }
            if !free.is_empty() && (!lent || (c.capabilities.revocable && self.is_idle(owner))) {
                parts.push(ResourcePart {
                    reservation: stack.clone(),
                    revocable: lent,
                    resources: free,
                });
            }
        }
        let mut plain = self.free_of(id, &[]);
        for k in 0..N {
            let most = self.allowance(sums, &client.1, k, count(&plain, k)).0;
            cut(&mut plain, k, most);
        }
        let cut = !self.quotas.is_empty() && plain.scalars.iter().all(|s| s.0 == 0);
        if !plain.is_empty() && !cut {
            parts.push(ResourcePart {
                reservation: Vec::new(),
                revocable: false,
                resources: plain,
            });
        }
        let all = sum(parts.iter().map(|p| &p.resources));
        let (reserved, lent) = kinds(&parts);
        let filtered = self.filters.iter().any(|f| {
            f.client == *client
                && f.agent == *id
                && f.until > now
                && f.resources.contains(&all)
                && (f.reserved || !reserved)
                && (f.lent || !lent)
        });
        let useful = c.smallest.as_ref().is_none_or(|s| all.contains(s));
        (!filtered && useful && offerable(&all)).then_some(parts)
    }

    fn is_owed(&self, sums: &Sums, client: &Client) -> bool {
        (0..N).any(|k| self.allowance(sums, &client.1, k, 1).1)
    }

    /// Checks that nobody should have been asked before this client, and that it is what it could get.
    pub fn offered(&mut self, offer: &Offer, parts: &[ResourcePart], now: UnixMillis) {
        let id = &offer.agent_id;
        let me = (offer.framework_id.clone(), offer.role.clone());
        let sums = self.sums();
        let mine = self.bundle(&sums, id, &me, now);
        let sorted = |mut p: Vec<ResourcePart>| {
            p.sort_by(|a, b| a.reservation.cmp(&b.reservation));
            p
        };
        assert_eq!(mine.map(sorted), Some(sorted(parts.to_vec())), "{offer:?}");
        assert_eq!(offer.resources, sum(parts.iter().map(|p| &p.resources)));
        let behind = |c: &Client| self.declined.contains(&(id.clone(), c.clone()));
        let mut passed = Vec::new();
        let mut no_more = vec![me.clone()];
        for other in self.clients.keys().filter(|o| **o != me) {
            if self.bundle(&sums, id, other, now).is_none() {
                no_more.push(other.clone());
                continue;
            }
            passed.push(other.clone());
            let class = |c: &Client| (behind(c), !self.is_owed(&sums, c));
            assert!(class(&me) <= class(other), "{other:?} goes before {me:?}");
            if class(&me) == class(other) {
                self.in_order(&me, other);
            }
        }
        if behind(&me) {
            self.declined.retain(|(a, _)| a != id);
        }
        for c in no_more {
            self.waits.remove(&(id.clone(), c));
        }
        self.latest = number(offer);
        self.passed.insert(offer.offer_id.clone(), passed);
        self.declined.remove(&(id.clone(), me));
        let old = self
            .offers
            .insert(offer.offer_id.clone(), (offer.clone(), parts.to_vec()));
        assert!(old.is_none(), "offer ids are used once");
    }

    /// The bounded wait: nobody turns an agent down more than twice while another waits for it. Who turns it down itself
    /// (an older offer, say, while a new round runs) begins to wait anew.
    pub fn waited(&mut self, offer: &Offer) {
        let me = (offer.framework_id.clone(), offer.role.clone());
        self.waits.remove(&(offer.agent_id.clone(), me.clone()));
        for waiting in self.passed.remove(&offer.offer_id).unwrap_or_default() {
            let key = (offer.agent_id.clone(), waiting);
            let by = self.waits.entry(key.clone()).or_default();
            let (n, until) = by.entry(me.clone()).or_default();
            if number(offer) > *until {
                (*n, *until) = (*n + 1, self.latest);
            }
            assert!(
                *n <= 2,
                "{me:?} turns it down again and again, {key:?} waits"
            );
        }
    }

    /// Fairness, level by level, down to where the two paths part.
    fn in_order(&self, me: &Client, other: &Client) {
        let share = |c: &Client, depth: usize| match path(&c.1).get(depth) {
            Some(role) => ((*role).to_owned(), self.role_share(role)),
            // A role's own frameworks compete together with its subroles, at weight 1.
            None => (".".to_owned(), self.share(&|_, r| r == c.1)),
        };
        for depth in 0.. {
            let ((a, x), (b, y)) = (share(me, depth), share(other, depth));
            if a == b && a != "." {
                continue;
            }
            if a == b {
                let own = |c: &Client| self.share(&|f, r| *f == c.0 && *r == c.1);
                let (x, y) = (own(me), own(other));
                assert!(x <= y + 1e-9, "{me:?} {x} against {other:?} {y}");
            } else {
                assert!(x <= y + 1e-9, "{me:?}: {a} {x} against {other:?}: {b} {y}");
            }
            return;
        }
    }
}

fn number(offer: &Offer) -> u64 {
    let digits = offer.offer_id.as_str().rsplit('O').next();
    digits.and_then(|d| d.parse().ok()).expect("a number")
}

/// Leaves at most this much of a kind: the first numbers, the first items.
fn cut(r: &mut Resources, k: usize, most: i64) {
    let n = usize::try_from(most / 1000).unwrap();
    let custom = r.custom.clone();
    match KINDS[k] {
        "ports" => r.ports = PortSet::from_ports(r.ports.iter().take(n)),
        name @ ("licenses" | "disk.fast") => r.custom.set_scalar(name, Milli(most)),
        name @ "vlans" => {
            for (_, all) in custom.ranges() {
                r.custom
                    .set_ranges(name, RangeSet::from_ports(all.iter().take(n)));
            }
        }
        name @ "zones" => {
            for (_, all) in custom.sets() {
                r.custom
                    .set_items(name, all.iter().take(n).cloned().collect());
            }
        }
        _ => r.scalars[k] = Milli(most),
    }
}

pub fn kinds(parts: &[ResourcePart]) -> (bool, bool) {
    (
        parts
            .iter()
            .any(|p| !p.reservation.is_empty() && !p.revocable),
        parts.iter().any(|p| p.revocable),
    )
}
