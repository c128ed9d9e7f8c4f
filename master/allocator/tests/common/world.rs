//! Random histories: numbers pick among what makes sense (and some that does not), the allocator and the
//! oracle both live through it.

use std::collections::{BTreeMap, BTreeSet};

use waggle_allocator::{
    AgentSpec, Allocator, AllocatorConfig, Effect, Event, FrameworkSpec, Notice, Operation,
    RescindReason, Usage,
};
use waggle_types::{
    AttributeConstraint, Capabilities, Domain, FrameworkId, Milli, Millis, Offer, OfferId, PortSet,
    Predicate, Quota, Reservation, Resources, RoleSubscription, ScalarKind, Selector, UnixMillis,
};

use super::oracle::{N, OAgent, Oracle};
use super::{agent, config, decline, framework, info, node};

pub const N_AGENTS: usize = 3;
pub const N_FRAMEWORKS: usize = 5;
pub const ROLES: [&str; 6] = ["*", "a", "a/b", "a/b/c", "a/d", "e"];

pub fn reservation(role: &str) -> Reservation {
    Reservation {
        role: role.into(),
        dynamic: true,
        principal: "p".into(),
        labels: BTreeMap::new(),
    }
}

/// What a history may do; the rest of its numbers do nothing.
#[derive(Debug, Clone, Copy)]
pub struct Features {
    pub roles: bool,
    pub quota: bool,
    pub reserve: bool,
    pub barriers: bool,
}

/// Events with their times, and all that they led to.
pub type Log = (Vec<(Event, UnixMillis)>, Vec<Effect>);

pub struct World {
    pub allocator: Allocator,
    pub oracle: Oracle,
    pub features: Features,
    pub now: UnixMillis,
    pub n_offers: u64,
    pub n_evicted: u64,
    /// All that happened, to be played again; `None` in long runs.
    pub log: Option<Log>,
}

/// Decodes one number into choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let out = self.0 % n;
        self.0 /= n;
        usize::try_from(out).unwrap()
    }
}

pub fn world_config() -> AllocatorConfig {
    AllocatorConfig {
        region: Some("home".into()),
        ..config()
    }
}

impl World {
    pub fn new(features: Features, keep_log: bool) -> Self {
        let oracle = Oracle {
            home: Some("home".into()),
            ..Oracle::default()
        };
        Self {
            allocator: Allocator::new(world_config()),
            oracle,
            features,
            now: UnixMillis(1000),
            n_offers: 0,
            n_evicted: 0,
            log: keep_log.then(Default::default),
        }
    }

    pub fn apply(&mut self, event: &Event) {
        let effects = self.allocator.apply(event.clone(), self.now);
        if let Some((events, all)) = &mut self.log {
            events.push((event.clone(), self.now));
            all.extend(effects.clone());
        }
        let mut rejected = false;
        for e in &effects {
            match e {
                Effect::Rescind {
                    offer_id, reason, ..
                } if *reason == RescindReason::Timeout => {
                    self.oracle
                        .turned_down(offer_id, config().default_refuse, self.now);
                }
                Effect::Rescind { offer_id, .. } => {
                    self.oracle.offers.remove(offer_id).expect("it was out");
                }
                Effect::Rejected { .. } => rejected = true,
                Effect::Offer(_) | Effect::Launched { .. } => {}
            }
        }
        if !rejected {
            match event {
                Event::AgentJoined { spec, used } => self.joined(spec, used),
                other => self.oracle.event(other, self.now),
            }
        }
        for e in &effects {
            if let Effect::Offer(offer) = e {
                let parts = self.allocator.offer_parts(&offer.offer_id);
                self.oracle.offered(offer, &parts, self.now);
                self.n_offers += 1;
            }
        }
        let evicted = |n: &&Notice| matches!(n, Notice::Evict { .. });
        self.n_evicted += self.allocator.notices().iter().filter(evicted).count() as u64;
        self.check();
    }

    fn joined(&mut self, spec: &AgentSpec, used: &[Usage]) {
        let id = &spec.info.agent_id;
        self.oracle.event(
            &Event::AgentRemoved {
                agent_id: id.clone(),
            },
            self.now,
        );
        let a = OAgent {
            total: spec.info.total.clone(),
            active: true,
            draining: None,
            domain: spec.info.domain.clone(),
            reserved: spec.reserved.clone(),
        };
        self.oracle.agents.insert(id.clone(), a);
        for u in used {
            let mut u = u.clone();
            if u.role.is_empty() {
                let first = self.oracle.first_role.get(&u.framework_id);
                u.role = first.cloned().unwrap_or_default();
            }
            self.oracle.uses.push((id.clone(), u));
        }
    }

    /// The laws that hold after every event.
    fn check(&self) {
        self.allocator.check().unwrap();
        let o = &self.oracle;
        for (id, a) in &o.agents {
            let (used, offered) = o.held(id);
            assert_eq!(self.allocator.total(id), Some(&a.total));
            assert_eq!(self.allocator.used(id), Some(&used));
            assert_eq!(self.allocator.offered(id), Some(&offered));
            assert_eq!(self.allocator.free(id), Some(&o.free(id)));
            let sorted: BTreeMap<_, _> = a.reserved.iter().cloned().collect();
            assert_eq!(
                self.allocator
                    .reserved(id)
                    .into_iter()
                    .collect::<BTreeMap<_, _>>(),
                sorted
            );
            // Work conserving: what could be offered has been.
            for client in o.clients.keys() {
                let left = o.bundle(id, client, self.now);
                assert!(
                    left.is_none(),
                    "{id} could be offered to {client:?}: {left:?}"
                );
            }
        }
        assert_eq!(self.allocator.agents().count(), o.agents.len());
        let valid: BTreeSet<OfferId> = self.allocator.offers().map(|(o, _)| o.offer_id).collect();
        assert!(valid.iter().eq(o.offers.keys()));
        // Shares agree.
        for role in ROLES {
            let (mine, theirs) = (
                self.allocator.dominant_share(role).as_f64(),
                o.role_share(role),
            );
            assert!((mine - theirs).abs() < 1e-9, "{role}: {mine}, not {theirs}");
        }
        // What is lent is not on offer while its owner wants it.
        for (offer, parts) in o.offers.values() {
            for p in parts.iter().filter(|p| p.revocable) {
                let owner = &p.reservation.last().unwrap().role;
                let wanted = o
                    .clients
                    .iter()
                    .any(|((_, r), c)| !c.suppressed && super::oracle::within(r, owner));
                assert!(!wanted, "{offer:?} is lent, and wanted");
            }
        }
        for i in 0..N_FRAMEWORKS {
            assert!(!self.allocator.explain(&framework(i)).is_empty());
        }
    }

    /// One step; numbers pick among what exists.
    pub fn step(&mut self, n: u64) {
        let mut d = Dice(n);
        let f = self.features;
        match d.below(48) {
            0..=2 => self.join(&mut d),
            3 => {
                let agent_id = agent(d.below(N_AGENTS));
                self.apply(&Event::AgentRemoved { agent_id });
            }
            4 => {
                let agent_id = agent(d.below(N_AGENTS));
                self.apply(&Event::AgentDeactivated { agent_id });
            }
            5 | 6 => {
                let agent_id = agent(d.below(N_AGENTS));
                self.apply(&Event::AgentActivated { agent_id });
            }
            7..=9 => self.subscribe(&mut d),
            10 => {
                let framework_id = framework(d.below(N_FRAMEWORKS));
                self.apply(&Event::FrameworkRemoved { framework_id });
            }
            11..=18 => self.accept(&mut d),
            19..=26 => {
                if let Some(offer) = self.pick_offer(&mut d) {
                    let refuse = refuse(&mut d);
                    self.apply(&decline(&offer, refuse));
                }
            }
            27 => {
                let framework_id = framework(d.below(N_FRAMEWORKS));
                self.apply(&Event::Accepted {
                    framework_id,
                    offer_ids: vec![OfferId::new("t-O999999999").unwrap()],
                    used: Resources::default(),
                    refuse: Millis(0),
                });
            }
            28..=31 => {
                if self.oracle.uses.is_empty() {
                    return;
                }
                let at = d.below(self.oracle.uses.len());
                let (agent_id, usage) = self.oracle.uses[at].clone();
                if !usage.resources.is_empty() {
                    self.apply(&Event::UsageEnded { agent_id, usage });
                }
            }
            32 => {
                let framework_id = framework(d.below(N_FRAMEWORKS));
                self.apply(&Event::Suppress { framework_id });
            }
            33 | 34 => {
                let framework_id = framework(d.below(N_FRAMEWORKS));
                self.apply(&Event::Revive { framework_id });
            }
            35..=38 => self.wait(d.below(40_000) as u64),
            39 if f.roles => {
                let framework_id = framework(d.below(N_FRAMEWORKS));
                let roles = vec![ROLES[d.below(ROLES.len())].to_owned()];
                self.apply(&if d.below(2) == 0 {
                    Event::SuppressRoles {
                        framework_id,
                        roles,
                    }
                } else {
                    Event::ReviveRoles {
                        framework_id,
                        roles,
                    }
                });
            }
            40 if f.roles => {
                let role = ROLES[d.below(ROLES.len())].to_owned();
                let weight_milli = [500, 1000, 1000, 2500, 0][d.below(5)];
                self.apply(&Event::WeightSet { role, weight_milli });
            }
            41 if f.roles => {
                let smallest = (d.below(3) > 0).then(|| Resources::from_millis(2000, 0, 0));
                self.apply(&Event::Demand {
                    framework_id: framework(d.below(N_FRAMEWORKS)),
                    role: ROLES[d.below(ROLES.len())].to_owned(),
                    smallest,
                });
            }
            42 | 43 if f.quota => self.quota(&mut d),
            44 | 45 if f.reserve => self.reserve(&mut d),
            46 if f.reserve => {
                let agent_id = agent(d.below(N_AGENTS));
                let reserved = self.allocator.reserved(&agent_id);
                if reserved.is_empty() {
                    return;
                }
                let (stack, resources) = reserved[d.below(reserved.len())].clone();
                self.apply(&Event::Unreserve {
                    agent_id,
                    stack,
                    resources,
                });
            }
            47 => self.apply(&Event::AgentDrained {
                agent_id: agent(d.below(N_AGENTS)),
                max_grace: None,
                mark_gone: d.below(2) == 0,
            }),
            _ => {}
        }
    }

    fn join(&mut self, d: &mut Dice) {
        let at = d.below(N_AGENTS);
        let mut spec = AgentSpec {
            info: info(at, node()),
            reserved: Vec::new(),
        };
        if self.features.barriers {
            spec.info.total.scalars[ScalarKind::Gpus as usize] = Milli([0, 0, 2000][d.below(3)]);
            spec.info.domain = [None, Some("home"), Some("away")][d.below(3)].map(|r| Domain {
                region: r.into(),
                zone: "z".into(),
            });
        }
        if self.features.reserve && d.below(3) == 0 {
            let mut r = reservation(ROLES[1 + d.below(5)]);
            r.dynamic = false;
            spec.reserved
                .push((vec![r], Resources::from_millis(1500, 1_024_000, 0)));
        }
        let mut used = Vec::new();
        if d.below(2) == 0 {
            used.push(Usage {
                framework_id: framework(d.below(2)),
                role: ["", ROLES[d.below(ROLES.len())]][d.below(2)].to_owned(),
                reservation: Vec::new(),
                revocable: false,
                resources: Resources::from_millis(500, 64_000, 0),
            });
        }
        self.apply(&Event::AgentJoined { spec, used });
    }

    fn subscribe(&mut self, d: &mut Dice) {
        let n = if self.features.roles {
            1 + d.below(3)
        } else {
            1
        };
        let flat = ["a", "e", "*"];
        let mut roles: Vec<RoleSubscription> = Vec::new();
        for _ in 0..n {
            let role = if self.features.roles {
                ROLES[d.below(ROLES.len())]
            } else {
                flat[d.below(3)]
            };
            if roles.iter().all(|r| r.role != role) {
                roles.push(RoleSubscription {
                    role: role.into(),
                    suppressed: self.features.roles && d.below(6) == 0,
                    ..RoleSubscription::default()
                });
            }
        }
        let mut capabilities = Capabilities {
            gpus: true,
            region_aware: true,
            revocable: self.features.reserve && d.below(2) == 0,
        };
        if self.features.barriers {
            capabilities.gpus = d.below(2) == 0;
            capabilities.region_aware = d.below(2) == 0;
            if d.below(3) == 0 {
                roles[0].constraints = vec![vec![AttributeConstraint {
                    selector: Selector::Hostname,
                    predicate: Predicate::TextEquals(format!("n{}", d.below(N_AGENTS))),
                }]];
            }
        }
        self.apply(&Event::Subscribed {
            framework_id: framework(d.below(N_FRAMEWORKS)),
            spec: FrameworkSpec {
                roles,
                capabilities,
            },
        });
    }

    fn pick_offer(&self, d: &mut Dice) -> Option<Offer> {
        let all: Vec<&Offer> = self.oracle.offers.values().map(|(o, _)| o).collect();
        (!all.is_empty()).then(|| all[d.below(all.len())].clone())
    }

    fn accept(&mut self, d: &mut Dice) {
        let Some(first) = self.pick_offer(d) else {
            return;
        };
        let key = |o: &Offer| (o.agent_id.clone(), o.framework_id.clone(), o.role.clone());
        let same = self
            .oracle
            .offers
            .values()
            .map(|(o, _)| o)
            .filter(|o| key(o) == key(&first));
        let all: Vec<Offer> = same.take(1 + d.below(2)).cloned().collect();
        let sum = all.iter().fold(Resources::default(), |s, o| {
            s.checked_add(&o.resources).unwrap()
        });
        // More than eight eighths is too much, and is refused.
        let eighths = i64::try_from(d.below(10)).unwrap();
        let part = |k: ScalarKind| sum.get(k).0 * eighths / 8;
        let n_ports = d.below(4);
        let used = Resources::from_millis(
            part(ScalarKind::Cpus),
            part(ScalarKind::Mem),
            part(ScalarKind::Disk),
        )
        .with_ports(PortSet::from_ports(sum.ports.iter().take(n_ports)));
        let framework_id: FrameworkId = first.framework_id.clone();
        let offer_ids: Vec<OfferId> = all.iter().map(|o| o.offer_id.clone()).collect();
        let refuse = refuse(d);
        if self.features.reserve && d.below(4) == 0 && first.role != "*" {
            let resources = Resources::from_millis(500, 128_000, 0);
            let role = ["a", first.role.as_str(), "e"][d.below(3)];
            self.apply(&Event::Operated {
                framework_id,
                offer_ids,
                operations: vec![
                    Operation::Reserve {
                        stack: vec![reservation(role)],
                        resources,
                    },
                    Operation::Launch {
                        resources: part_of(&sum, 2),
                        parts: Vec::new(),
                    },
                ],
                refuse,
            });
        } else {
            self.apply(&Event::Accepted {
                framework_id,
                offer_ids,
                used,
                refuse,
            });
        }
    }

    fn quota(&mut self, d: &mut Dice) {
        let mut quota = Quota::default();
        for k in 0..2.min(N) {
            let unit = node().scalars[k].0 / 4;
            let quarters = |n: usize| Milli(unit * i64::try_from(n).unwrap());
            let guarantee = [0, 0, 1, 2, 5][d.below(5)];
            let name = ScalarKind::ALL[k].name().to_owned();
            quota.guarantee.insert(name.clone(), quarters(guarantee));
            if let Some(n) = [None, None, Some(1), Some(3), Some(6)][d.below(5)] {
                quota.limit.insert(name, quarters(n));
            }
        }
        if d.below(4) == 0 {
            quota = Quota::default();
        }
        self.apply(&Event::QuotaSet {
            role: ROLES[d.below(ROLES.len())].to_owned(),
            quota,
            force: d.below(3) == 0,
        });
    }

    fn reserve(&mut self, d: &mut Dice) {
        let agent_id = agent(d.below(N_AGENTS));
        let mut stack = Vec::new();
        let reserved = self.allocator.reserved(&agent_id);
        if !reserved.is_empty() && d.below(2) == 0 {
            stack.clone_from(&reserved[d.below(reserved.len())].0);
        }
        stack.push(reservation(ROLES[d.below(ROLES.len())]));
        let resources = Resources::from_millis(500 + 500 * i64::from(d.below(3) == 0), 256_000, 0);
        self.apply(&Event::Reserve {
            agent_id,
            stack,
            resources,
        });
    }

    pub fn wait(&mut self, ms: u64) {
        // As a shell does: wake up at each deadline on the way.
        let end = self.now + Millis(ms);
        while let Some(at) = self.allocator.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.apply(&Event::Tick);
        }
        self.now = end;
    }
}

fn part_of(sum: &Resources, eighths: i64) -> Resources {
    let part = |k: ScalarKind| sum.get(k).0 * eighths / 8;
    Resources::from_millis(part(ScalarKind::Cpus), part(ScalarKind::Mem), 0)
}

fn refuse(d: &mut Dice) -> Millis {
    match d.below(2) {
        0 => Millis(0),
        _ => Millis(1 + d.below(20_000) as u64),
    }
}
