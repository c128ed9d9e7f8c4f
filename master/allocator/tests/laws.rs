//! The laws of the allocator over random histories, against a slow and naive oracle that keeps its own
//! books from events and effects alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{agent, config, framework, info, node};
use proptest::prelude::*;
use waggle_allocator::{Allocator, Effect, Event, RescindReason};
use waggle_types::{
    AgentId, FrameworkId, Millis, Offer, OfferId, PortSet, Resources, ScalarKind, UnixMillis,
};

const N_AGENTS: usize = 3;
const N_FRAMEWORKS: usize = 5;
const ROLES: [(&str, u32); 3] = [("a", 1000), ("b", 2500), ("c", 500)];

/// A step of a history; numbers pick among what exists.
#[derive(Debug, Clone)]
enum Step {
    AddAgent(usize, bool),
    RemoveAgent(usize),
    Deactivate(usize),
    Activate(usize),
    AddFramework(usize, usize),
    RemoveFramework(usize),
    Accept {
        pick: usize,
        n: usize,
        eighths: i64,
        n_ports: u32,
        refuse: u64,
    },
    Decline {
        pick: usize,
        refuse: u64,
    },
    Stale(usize),
    Release(usize),
    Suppress(usize),
    Revive(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let refuse = prop_oneof![Just(0u64), 1u64..20_000];
    prop_oneof![
        2 => (0..N_AGENTS, any::<bool>()).prop_map(|(a, u)| Step::AddAgent(a, u)),
        1 => (0..N_AGENTS).prop_map(Step::RemoveAgent),
        1 => (0..N_AGENTS).prop_map(Step::Deactivate),
        2 => (0..N_AGENTS).prop_map(Step::Activate),
        3 => (0..N_FRAMEWORKS, 0..ROLES.len()).prop_map(|(f, r)| Step::AddFramework(f, r)),
        1 => (0..N_FRAMEWORKS).prop_map(Step::RemoveFramework),
        8 => (any::<usize>(), 1usize..3, 0i64..10, 0u32..4, refuse.clone()).prop_map(
            |(pick, n, eighths, n_ports, refuse)| Step::Accept { pick, n, eighths, n_ports, refuse }
        ),
        8 => (any::<usize>(), refuse).prop_map(|(pick, refuse)| Step::Decline { pick, refuse }),
        1 => (0..N_FRAMEWORKS).prop_map(Step::Stale),
        4 => any::<usize>().prop_map(Step::Release),
        1 => (0..N_FRAMEWORKS).prop_map(Step::Suppress),
        2 => (0..N_FRAMEWORKS).prop_map(Step::Revive),
        5 => (0u64..40_000).prop_map(Step::Wait),
    ]
}

#[derive(Default)]
struct Oracle {
    agents: BTreeMap<AgentId, (Resources, bool)>,
    frameworks: BTreeMap<FrameworkId, (String, bool)>,
    weights: BTreeMap<String, u32>,
    tasks: Vec<(FrameworkId, AgentId, Resources)>,
    offers: BTreeMap<OfferId, Offer>,
    filters: Vec<(FrameworkId, AgentId, Resources, UnixMillis)>,
    /// (agent, framework) -> when last offered, and whether that was turned down.
    turns: BTreeMap<(AgentId, FrameworkId), (u64, bool)>,
    clock: u64,
}

impl Oracle {
    fn held(&self, agent_id: &AgentId) -> (Resources, Resources) {
        let add = |s: Resources, r: &Resources| s.checked_add(r).expect("disjoint");
        let used = self.tasks.iter().filter(|t| t.1 == *agent_id);
        let offered = self.offers.values().filter(|o| o.agent_id == *agent_id);
        (
            used.fold(Resources::default(), |s, t| add(s, &t.2)),
            offered.fold(Resources::default(), |s, o| add(s, &o.resources)),
        )
    }

    fn free(&self, agent_id: &AgentId) -> Resources {
        let (used, offered) = self.held(agent_id);
        let total = &self.agents[agent_id].0;
        total
            .checked_sub(&used.checked_add(&offered).unwrap())
            .unwrap()
    }

    /// Dominant share in plain floats, summed afresh.
    fn share(&self, of: impl Fn(&FrameworkId) -> bool) -> f64 {
        let mut best = 0.0f64;
        for kind in ScalarKind::ALL {
            let total: i64 = self.agents.values().map(|(t, _)| t.get(kind).0).sum();
            let used = self
                .tasks
                .iter()
                .filter(|t| of(&t.0))
                .map(|t| t.2.get(kind).0);
            let offered = self.offers.values().filter(|o| of(&o.framework_id));
            let sum: i64 =
                used.sum::<i64>() + offered.map(|o| o.resources.get(kind).0).sum::<i64>();
            if total > 0 {
                best = best.max(sum as f64 / total as f64);
            }
        }
        best
    }

    fn role_share(&self, role: &str) -> f64 {
        let of_role = |f: &FrameworkId| self.frameworks.get(f).is_some_and(|(r, _)| r == role);
        self.share(of_role) * 1000.0 / f64::from(self.weights[role])
    }

    fn eligible(&self, agent_id: &AgentId, free: &Resources, now: UnixMillis) -> Vec<FrameworkId> {
        let enough = free.get(ScalarKind::Cpus).0 >= 10 || free.get(ScalarKind::Mem).0 >= 32_000;
        if !self.agents[agent_id].1 || !enough {
            return Vec::new();
        }
        let filtered = |f: &FrameworkId| {
            self.filters.iter().any(|(id, a, r, until)| {
                id == f && a == agent_id && *until > now && r.contains(free)
            })
        };
        self.frameworks
            .iter()
            .filter(|(f, (_, suppressed))| !suppressed && !filtered(f))
            .map(|(f, _)| f.clone())
            .collect()
    }

    /// Checks that nobody should have been asked before this framework, then books the offer.
    fn offered(&mut self, offer: &Offer, now: UnixMillis) {
        assert_eq!(
            offer.resources,
            self.free(&offer.agent_id),
            "offers are whole"
        );
        let eligible = self.eligible(&offer.agent_id, &offer.resources, now);
        assert!(
            eligible.contains(&offer.framework_id),
            "{offer:?} among {eligible:?}"
        );
        let turn = |f: &FrameworkId| {
            let key = (offer.agent_id.clone(), f.clone());
            self.turns.get(&key).copied().unwrap_or_default()
        };
        let behind = |f: &FrameworkId| {
            let (at, down) = turn(f);
            down && eligible.iter().any(|g| turn(g).0 < at)
        };
        let me = &offer.framework_id;
        let role = &self.frameworks[me].0;
        for other in eligible.iter().filter(|o| *o != me) {
            match (behind(me), behind(other)) {
                (true, false) => panic!("{other} is before {me} in this round"),
                (false, true) => {}
                _ => {
                    let other_role = &self.frameworks[other].0;
                    let (mine, theirs) = (self.role_share(role), self.role_share(other_role));
                    assert!(
                        mine <= theirs + 1e-9,
                        "{role} {mine} against {other_role} {theirs}"
                    );
                    if role == other_role {
                        let (mine, theirs) = (self.share(|f| f == me), self.share(|f| f == other));
                        assert!(
                            mine <= theirs + 1e-9,
                            "{me} {mine} against {other} {theirs}"
                        );
                    }
                }
            }
        }
        self.clock += 1;
        let key = (offer.agent_id.clone(), me.clone());
        self.turns.insert(key, (self.clock, false));
        let old = self.offers.insert(offer.offer_id.clone(), offer.clone());
        assert!(old.is_none(), "offer ids are used once");
    }

    fn turned_down(&mut self, offer: &Offer, refuse: Millis, now: UnixMillis) {
        let key = (offer.agent_id.clone(), offer.framework_id.clone());
        if let Some(t) = self.turns.get_mut(&key) {
            t.1 = true;
        }
        let (f, a) = (offer.framework_id.clone(), offer.agent_id.clone());
        self.filters
            .push((f, a, offer.resources.clone(), now + refuse));
    }

    fn forget_framework(&mut self, id: &FrameworkId) {
        self.filters.retain(|f| f.0 != *id);
        self.turns.retain(|(_, f), _| f != id);
        self.frameworks.remove(id);
    }

    fn event(&mut self, event: &Event, now: UnixMillis) {
        match event {
            Event::AgentAdded { info, used } => {
                let id = &info.agent_id;
                self.tasks.retain(|t| t.1 != *id);
                self.turns.retain(|(a, _), _| a != id);
                self.filters.retain(|f| f.1 != *id);
                self.agents.insert(id.clone(), (info.total.clone(), true));
                let tasks = used.iter().map(|(f, r)| (f.clone(), id.clone(), r.clone()));
                self.tasks.extend(tasks);
            }
            Event::AgentRemoved { agent_id } => {
                self.tasks.retain(|t| t.1 != *agent_id);
                self.turns.retain(|(a, _), _| a != agent_id);
                self.filters.retain(|f| f.1 != *agent_id);
                self.agents.remove(agent_id);
            }
            Event::AgentDeactivated { agent_id } => {
                self.agents.get_mut(agent_id).unwrap().1 = false;
            }
            Event::AgentActivated { agent_id } => self.agents.get_mut(agent_id).unwrap().1 = true,
            Event::FrameworkAdded {
                framework_id,
                role,
                weight_milli,
            } => {
                self.forget_framework(framework_id);
                self.weights.insert(role.clone(), *weight_milli);
                self.frameworks
                    .insert(framework_id.clone(), (role.clone(), false));
            }
            Event::FrameworkRemoved { framework_id } => self.forget_framework(framework_id),
            Event::Accepted {
                framework_id,
                offer_ids,
                used,
                refuse,
            } => {
                let taken: Vec<Offer> = offer_ids
                    .iter()
                    .map(|id| self.offers.remove(id).unwrap())
                    .collect();
                let sum = taken.iter().fold(Resources::default(), |s, o| {
                    s.checked_add(&o.resources).unwrap()
                });
                let rest = sum.checked_sub(used).unwrap();
                let agent_id = taken[0].agent_id.clone();
                let filter = (
                    framework_id.clone(),
                    agent_id.clone(),
                    rest.clone(),
                    now + *refuse,
                );
                if !rest.is_empty() {
                    self.filters.push(filter);
                }
                self.tasks
                    .push((framework_id.clone(), agent_id, used.clone()));
            }
            Event::Declined {
                offer_ids, refuse, ..
            } => {
                for id in offer_ids {
                    if let Some(offer) = self.offers.remove(id) {
                        self.turned_down(&offer, *refuse, now);
                    }
                }
            }
            Event::Released {
                framework_id,
                agent_id,
                resources,
            } => {
                let at = self
                    .tasks
                    .iter()
                    .position(|t| (&t.0, &t.1, &t.2) == (framework_id, agent_id, resources));
                self.tasks.remove(at.unwrap());
            }
            Event::Suppress { framework_id } => {
                self.frameworks.get_mut(framework_id).unwrap().1 = true;
            }
            Event::Revive { framework_id } => {
                self.frameworks.get_mut(framework_id).unwrap().1 = false;
                self.filters.retain(|f| f.0 != *framework_id);
            }
            Event::Tick => {}
        }
    }
}

struct World {
    allocator: Allocator,
    oracle: Oracle,
    now: UnixMillis,
    log: Vec<(Event, UnixMillis)>,
    effects: Vec<Effect>,
}

impl World {
    fn new() -> Self {
        Self {
            allocator: Allocator::new(config()),
            oracle: Oracle::default(),
            now: UnixMillis(1000),
            log: Vec::new(),
            effects: Vec::new(),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "reads better at the calls")]
    fn apply(&mut self, event: Event) {
        self.log.push((event.clone(), self.now));
        let effects = self.allocator.apply(event.clone(), self.now);
        self.effects.extend(effects.clone());
        let mut rejected = false;
        for e in &effects {
            match e {
                Effect::Rescind {
                    offer_id, reason, ..
                } => {
                    let offer = self.oracle.offers.remove(offer_id).expect("it was out");
                    if *reason == RescindReason::Timeout {
                        let refuse = config().default_refuse;
                        self.oracle.turned_down(&offer, refuse, self.now);
                    }
                }
                Effect::Rejected { .. } => rejected = true,
                Effect::Offer(_) => {}
            }
        }
        if !rejected {
            self.oracle.event(&event, self.now);
        }
        for e in &effects {
            if let Effect::Offer(offer) = e {
                self.oracle.offered(offer, self.now);
            }
        }
        self.check();
    }

    fn check(&self) {
        self.allocator.check().unwrap();
        for (id, (total, _)) in &self.oracle.agents {
            let (used, offered) = self.oracle.held(id);
            let free = self.oracle.free(id);
            assert_eq!(self.allocator.total(id), Some(total));
            assert_eq!(self.allocator.used(id), Some(&used));
            assert_eq!(self.allocator.offered(id), Some(&offered));
            assert_eq!(self.allocator.free(id), Some(&free));
            // Work conserving: what could be offered has been.
            let left = self.oracle.eligible(id, &free, self.now);
            assert!(left.is_empty(), "{id} has {free} free for {left:?}");
        }
        assert_eq!(self.allocator.agents().count(), self.oracle.agents.len());
        let valid: BTreeSet<_> = self.allocator.offers().map(|(o, _)| &o.offer_id).collect();
        assert!(valid.into_iter().eq(self.oracle.offers.keys()));
        for i in 0..N_FRAMEWORKS {
            assert!(!self.allocator.explain(&framework(i)).is_empty());
        }
    }

    fn run(&mut self, step: &Step) {
        let pick_offer = |world: &Self, pick: usize| -> Option<Offer> {
            let all: Vec<&Offer> = world.oracle.offers.values().collect();
            (!all.is_empty()).then(|| all[pick % all.len()].clone())
        };
        match step {
            Step::AddAgent(a, with_task) => {
                let task = Resources::from_millis(500, 64_000, 0);
                let used = if *with_task {
                    vec![(framework(a % 2), task)]
                } else {
                    vec![]
                };
                self.apply(Event::AgentAdded {
                    info: info(*a, node()),
                    used,
                });
            }
            Step::RemoveAgent(a) => self.apply(Event::AgentRemoved {
                agent_id: agent(*a),
            }),
            Step::Deactivate(a) => self.apply(Event::AgentDeactivated {
                agent_id: agent(*a),
            }),
            Step::Activate(a) => self.apply(Event::AgentActivated {
                agent_id: agent(*a),
            }),
            Step::AddFramework(f, r) => self.apply(Event::FrameworkAdded {
                framework_id: framework(*f),
                role: ROLES[*r].0.into(),
                weight_milli: ROLES[*r].1,
            }),
            Step::RemoveFramework(f) => {
                self.apply(Event::FrameworkRemoved {
                    framework_id: framework(*f),
                });
            }
            Step::Accept {
                pick,
                n,
                eighths,
                n_ports,
                refuse,
            } => {
                let Some(first) = pick_offer(self, *pick) else {
                    return;
                };
                let same = self.oracle.offers.values().filter(|o| {
                    o.agent_id == first.agent_id && o.framework_id == first.framework_id
                });
                let all: Vec<Offer> = same.take(*n).cloned().collect();
                let sum = all.iter().fold(Resources::default(), |s, o| {
                    s.checked_add(&o.resources).unwrap()
                });
                // More than eight eighths is too much, and is refused.
                let part = |k| sum.get(k).0 * eighths / 8;
                let ports = PortSet::from_ports(sum.ports.iter().take(*n_ports as usize));
                let used = Resources::from_millis(
                    part(ScalarKind::Cpus),
                    part(ScalarKind::Mem),
                    part(ScalarKind::Disk),
                )
                .with_ports(ports);
                self.apply(Event::Accepted {
                    framework_id: first.framework_id.clone(),
                    offer_ids: all.iter().map(|o| o.offer_id.clone()).collect(),
                    used,
                    refuse: Millis(*refuse),
                });
            }
            Step::Decline { pick, refuse } => {
                let Some(offer) = pick_offer(self, *pick) else {
                    return;
                };
                self.apply(common::decline(&offer, Millis(*refuse)));
            }
            Step::Stale(f) => self.apply(Event::Accepted {
                framework_id: framework(*f),
                offer_ids: vec![OfferId::new("t-O999999").unwrap()],
                used: Resources::default(),
                refuse: Millis(0),
            }),
            Step::Release(pick) => {
                if self.oracle.tasks.is_empty() {
                    return;
                }
                let (framework_id, agent_id, resources) =
                    self.oracle.tasks[pick % self.oracle.tasks.len()].clone();
                if resources.is_empty() {
                    return;
                }
                self.apply(Event::Released {
                    framework_id,
                    agent_id,
                    resources,
                });
            }
            Step::Suppress(f) => self.apply(Event::Suppress {
                framework_id: framework(*f),
            }),
            Step::Revive(f) => self.apply(Event::Revive {
                framework_id: framework(*f),
            }),
            Step::Wait(ms) => {
                // As a shell does: wake up at each deadline on the way.
                let end = self.now + Millis(*ms);
                while let Some(at) = self.allocator.next_deadline().filter(|at| *at <= end) {
                    self.now = self.now.max(at);
                    self.apply(Event::Tick);
                }
                self.now = end;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Books, filters, fairness and work conservation agree with the oracle after every event.
    #[test]
    fn the_oracle_agrees(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for s in &steps {
            world.run(s);
        }
        // The same history gives the same effects.
        let mut again = Allocator::new(config());
        let mut effects = Vec::new();
        for (event, at) in world.log {
            effects.extend(again.apply(event, at));
        }
        prop_assert_eq!(effects, world.effects);
    }

    /// A framework that wants something is asked soon, whatever the others do: each of them can turn an
    /// agent down at most once before it.
    #[test]
    fn nobody_starves(n_idle in 1usize..40, refuse in 0u64..3000, hold in any::<bool>()) {
        let mut allocator = Allocator::new(config());
        let mut now = 0;
        // The hungry one already has a large share, so that fairness alone would put it last always.
        let used = Resources::from_millis(3000, 1_024_000, 0);
        let event = Event::AgentAdded { info: info(0, node()), used: vec![(framework(0), used)] };
        allocator.apply(event, UnixMillis(now));
        common::add_framework(&mut allocator, 0, "hungry", now);
        let held = common::offers(&allocator.apply(
            Event::Suppress { framework_id: framework(0) }, UnixMillis(now)));
        prop_assert!(held.is_empty());
        let first = allocator.offers().map(|(o, _)| o.clone()).collect::<Vec<_>>();
        let mut out: Vec<Offer> = Vec::new();
        for i in 1..=n_idle {
            out.extend(common::offers(&common::add_framework(&mut allocator, i, &format!("r{i}"), now)));
        }
        for o in first {
            out.extend(common::offers(&allocator.apply(common::decline(&o, Millis(0)), UnixMillis(now))));
        }
        allocator.apply(Event::Revive { framework_id: framework(0) }, UnixMillis(now));
        let mut n_before = 0;
        while let Some(offer) = out.pop() {
            if offer.framework_id == framework(0) {
                prop_assert!(n_before <= n_idle, "{n_before} others were asked first");
                return Ok(());
            }
            n_before += 1;
            prop_assert!(n_before <= n_idle, "the hungry one is never asked");
            let effects = if hold {
                let at = allocator.next_deadline().expect("an offer is out");
                now = now.max(at.0);
                let mut effects = allocator.apply(Event::Tick, UnixMillis(now));
                while common::offers(&effects).is_empty() {
                    now = allocator.next_deadline().expect("something is free").0;
                    effects = allocator.apply(Event::Tick, UnixMillis(now));
                }
                effects
            } else {
                now += 200;
                allocator.apply(common::decline(&offer, Millis(refuse)), UnixMillis(now))
            };
            out = common::offers(&effects);
        }
        prop_assert!(false, "no offer is out");
    }
}
