//! Random histories: numbers pick among what makes sense (and some that does not), the allocator and the
//! oracle both live through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waggle_allocator::{
    AgentSpec, Allocator, AllocatorConfig, Effect, Event, FrameworkSpec, Operation, RescindReason,
    Usage,
};
use waggle_types::{
    AgentId, AttributeConstraint, Capabilities, Domain, Milli, Millis, OfferId, Predicate, Quota,
    Reservation, ResourcePart, Resources, RoleSubscription, ScalarKind, Selector, UnixMillis,
    Volume, VolumeId,
};

use super::books::disk;
use super::kinds::{KINDS, N, count, eighths, with_custom, without_volumes};
use super::lending::Holder;
use super::oracle::{OAgent, Oracle, sum};
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
    /// Custom kinds, and quota of them and of ports.
    pub custom: bool,
    /// Persistent volumes, with `reserve`.
    pub volumes: bool,
}

/// Events with their times, and all that they led to.
pub type Log = (Vec<(Event, UnixMillis)>, Vec<Effect>);

pub struct World {
    pub allocator: Allocator,
    /// Is told everything but what was rejected, and must answer the same: a rejected event changes nothing.
    pub shadow: Allocator,
    pub oracle: Oracle,
    pub features: Features,
    pub now: UnixMillis,
    pub n_offers: u64,
    pub n_evicted: u64,
    /// What was told to end and has not: of whom, where, of which reservation.
    pub ending: Vec<(Holder, Resources)>,
    /// Who is asked to leave which agent.
    pub leave: super::upkeep::Leave,
    /// What counted against quotas after the latest event.
    charged: BTreeMap<String, [i64; N]>,
    /// Accepts that were done, by how many operations they had.
    pub n_operated: [u64; 5],
    /// Print all events and effects: set by `WAGGLE_ALLOCATOR_TRACE`.
    trace: bool,
    /// All that happened, to be played again; `None` in long runs.
    pub log: Option<Log>,
}

/// Decodes one number into choices, and goes on at random when it is used up.
pub struct Dice {
    left: u64,
    seed: u64,
}

impl Dice {
    pub fn new(n: u64) -> Self {
        Self { left: n, seed: n }
    }

    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if self.left < n {
            self.seed = split_mix(self.seed);
            self.left = self.seed;
        }
        let out = self.left % n;
        self.left /= n;
        usize::try_from(out).unwrap()
    }
}

/// SplitMix64.
pub fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
            shadow: Allocator::new(world_config()),
            oracle,
            features,
            now: UnixMillis(1000),
            n_offers: 0,
            n_evicted: 0,
            ending: Vec::new(),
            leave: super::upkeep::Leave::default(),
            charged: BTreeMap::new(),
            n_operated: [0; 5],
            trace: std::env::var_os("WAGGLE_ALLOCATOR_TRACE").is_some(),
            log: keep_log.then(Default::default),
        }
    }

    pub fn apply(&mut self, event: &Event) {
        let effects = self.allocator.apply(event.clone(), self.now);
        // To follow a history that fails.
        if self.trace {
            eprintln!(
                "{} {event:?}
  -> {effects:?}",
                self.now.0
            );
        }
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
                Effect::Rescind {
                    offer_id, reason, ..
                } if *reason == RescindReason::FrameworkChanged => self.oracle.dropped(offer_id),
                Effect::Rescind { offer_id, .. } => {
                    self.oracle.offers.remove(offer_id).expect("it was out");
                    self.oracle.passed.remove(offer_id);
                }
                Effect::Rejected { .. } => rejected = true,
                Effect::Offer(_) | Effect::Launched { .. } => {}
            }
        }
        self.shadow(event, rejected, &effects);
        self.begin_windows();
        match event {
            Event::Accepted {
                offer_ids,
                used,
                refuse,
                ..
            } => {
                let launch = Operation::Launch {
                    resources: used.clone(),
                    parts: Vec::new(),
                };
                self.operated(offer_ids, &[launch], *refuse, rejected);
            }
            Event::Operated {
                offer_ids,
                operations,
                refuse,
                ..
            } => {
                let given = self.operated(offer_ids, operations, *refuse, rejected);
                let told = effects.iter().find_map(|e| match e {
                    Effect::Launched { parts } => Some(parts.clone()),
                    _ => None,
                });
                let plain = |parts: Vec<ResourcePart>| {
                    let all_plain = parts.iter().all(ResourcePart::is_plain);
                    if all_plain { Vec::new() } else { parts }
                };
                let given: Option<Vec<_>> = given.map(|g| g.into_iter().map(plain).collect());
                assert_eq!(told, given);
            }
            _ if rejected => {}
            Event::AgentJoined { spec, used } => self.joined(spec, used),
            other => self.oracle.event(other, self.now),
        }
        if !rejected {
            self.set_window(event);
        }
        for e in &effects {
            if let Effect::Offer(offer) = e {
                let parts = self.allocator.offer_parts(&offer.offer_id);
                self.oracle.offered(offer, &parts, self.now);
                self.n_offers += 1;
            }
        }
        self.follow_evictions(event, rejected);
        self.follow_upkeep(event, rejected);
        self.check();
        self.check_limits(event, rejected);
        self.check_lending();
    }

    /// Without the rejected events everything goes the same way.
    fn shadow(&mut self, event: &Event, rejected: bool, effects: &[Effect]) {
        let whole = !rejected || matches!(event, Event::Declined { .. });
        let told = if whole { event.clone() } else { Event::Tick };
        let mut same = self.shadow.apply(told, self.now);
        same.retain(|e| !matches!(e, Effect::Rejected { .. }));
        let rest = effects.iter();
        let rest = rest.filter(|e| !matches!(e, Effect::Rejected { .. }));
        assert!(same.iter().eq(rest), "{event:?} changed something");
        assert_eq!(self.shadow.notices(), self.allocator.notices());
        assert_eq!(self.shadow.next_deadline(), self.allocator.next_deadline());
    }

    /// What each launch was given, if the reference allocator would do it too.
    fn operated(
        &mut self,
        ids: &[OfferId],
        operations: &[Operation],
        refuse: Millis,
        rejected: bool,
    ) -> Option<Vec<Vec<ResourcePart>>> {
        let mut tried = self.oracle.clone();
        let done = tried.operate(ids, operations, refuse, self.now);
        assert_eq!(done.is_none(), rejected, "{operations:?}");
        if done.is_some() {
            self.oracle = tried;
            self.n_operated[operations.len().min(4)] += 1;
        }
        done
    }

    fn joined(&mut self, spec: &AgentSpec, used: &[Usage]) {
        let id = &spec.info.agent_id;
        self.oracle.event(
            &Event::AgentRemoved {
                agent_id: id.clone(),
            },
            self.now,
        );
        let mut total = spec.info.total.clone();
        for (_, r) in &spec.reserved {
            for (id, v) in r.custom.volumes() {
                total = total.checked_sub(&disk(id, v)).expect("it has the disk");
                total.custom.set_volume(id.clone(), v);
            }
        }
        let a = OAgent {
            total,
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
        let sums = o.sums();
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
                let left = o.bundle(&sums, id, client, self.now);
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

    /// A limit is never exceeded by the allocator's own act: who is over it has been found so, or the limit
    /// has become lower, and it gets no more.
    fn check_limits(&mut self, event: &Event, rejected: bool) {
        let o = &self.oracle;
        let mut now = BTreeMap::new();
        for (role, (_, limits)) in &o.quotas {
            let charged = o.charged(role);
            let before = self.charged.get(role).copied();
            for k in 0..N {
                let over = limits[k].is_some_and(|l| charged[k] > l);
                let more = before.is_none_or(|b: [i64; N]| charged[k] > b[k]);
                let found = matches!(
                    event,
                    Event::AgentJoined { .. } | Event::Subscribed { .. } | Event::QuotaSet { .. }
                );
                assert!(!(over && more) || found, "{role} gets more {}", KINDS[k]);
            }
            now.insert(role.clone(), charged);
        }
        self.charged = now;
        if let Event::QuotaSet { role, .. } = event
            && !rejected
            && let Some((_, limits)) = o.quotas.get(role)
        {
            let charged = o.charged(role);
            let over = |r: &Resources| {
                let mut all = 0..N;
                all.any(|k| limits[k].is_some_and(|l| charged[k] > l) && count(r, k) > 0)
            };
            let all = o.offers.values();
            let mut plain = all.flat_map(|(o, p)| p.iter().map(move |p| (o, p)));
            let out = plain.any(|(o, p)| {
                let plain = p.reservation.is_empty() && over(&p.resources);
                plain && super::oracle::within(&o.role, role)
            });
            assert!(!out, "offers beyond a limit are taken back");
        }
    }

    /// One step; numbers pick among what exists.
    pub fn step(&mut self, n: u64) {
        let mut d = Dice::new(n);
        let f = self.features;
        match d.below(60) {
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
            46 | 49 if f.reserve => self.unreserve(&mut d),
            48 | 50 if f.volumes => self.volume(&mut d),
            56 | 57 => self.plan(&mut d),
            58 | 59 => self.answer(&mut d),
            51..=55 if f.reserve => self.operate(&mut d),
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
            info: Arc::new(info(at, node())),
            reserved: Vec::new(),
        };
        let own = Arc::make_mut(&mut spec.info);
        let mut used = Vec::new();
        if self.features.volumes {
            own.total.scalars[ScalarKind::Disk as usize] = Milli(40_960_000);
        }
        if self.features.custom && d.below(3) > 0 {
            own.total = with_custom(own.total.clone());
        }
        if self.features.barriers {
            own.total.scalars[ScalarKind::Gpus as usize] = Milli([0, 0, 2000][d.below(3)]);
            own.domain = [None, Some("home"), Some("away")][d.below(3)].map(|r| Domain {
                region: r.into(),
                zone: "z".into(),
            });
        }
        if let (Some(old), true) = (self.oracle.agents.get(&agent(at)), d.below(3) == 0) {
            // It comes again with all that it has and runs, and sometimes with less.
            let again = &mut own.total;
            let custom = old.total.clone();
            if d.below(4) > 0 {
                *again = flat(&custom);
            }
            spec.reserved.clone_from(&old.reserved);
            let of_it = self.oracle.uses.iter().filter(|(a, _)| *a == agent(at));
            used = of_it.map(|(_, u)| u.clone()).collect();
            return self.apply(&Event::AgentJoined { spec, used });
        }
        if self.features.reserve && d.below(3) == 0 {
            let mut r = reservation(ROLES[1 + d.below(5)]);
            r.dynamic = false;
            let mut some = Resources::from_millis(1500, 1_024_000, 4_096_000);
            if self.features.custom && d.below(2) == 0 {
                some = sum([&some, &eighths(&spec.info.total, 3)].into_iter());
            }
            spec.reserved.push((vec![r], some));
        }
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

    fn quota(&mut self, d: &mut Dice) {
        let mut quota = Quota::default();
        let unit = |k: usize| count(&with_custom(node()), k) / 4;
        let kinds = if self.features.custom {
            vec![0, 1, 4 + d.below(4)]
        } else {
            vec![0, 1]
        };
        for k in kinds {
            let quarters = |n: usize| Milli(unit(k) * i64::try_from(n).unwrap());
            let guarantee = [0, 0, 1, 2, 5][d.below(5)];
            let name = KINDS[k].to_owned();
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
        let mut stack = self.some_stack(&agent_id, d);
        if d.below(2) == 0 {
            stack.clear();
        }
        stack.push(reservation(ROLES[d.below(ROLES.len())]));
        let resources = self.a_little(d);
        self.apply(&Event::Reserve {
            agent_id,
            stack,
            resources,
        });
    }

    pub fn a_little(&self, d: &mut Dice) -> Resources {
        let cpus = 500 + 500 * i64::from(d.below(3) == 0);
        let disk = if self.features.volumes { 2_048_000 } else { 0 };
        let mut r = Resources::from_millis(cpus, 256_000, disk);
        if self.features.custom && d.below(3) == 0 {
            r.custom.set_scalar("licenses", Milli(1000));
            r.custom.set_scalar("disk.fast", Milli(1_024_000));
        }
        r
    }

    /// The stack of something that is reserved, or none.
    fn some_stack(&self, agent_id: &AgentId, d: &mut Dice) -> Vec<Reservation> {
        let reserved = self.allocator.reserved(agent_id);
        if reserved.is_empty() {
            return Vec::new();
        }
        reserved[d.below(reserved.len())].0.clone()
    }

    fn unreserve(&mut self, d: &mut Dice) {
        let agent_id = agent(d.below(N_AGENTS));
        let reserved = self.allocator.reserved(&agent_id);
        if reserved.is_empty() {
            return;
        }
        let (stack, mut resources) = reserved[d.below(reserved.len())].clone();
        if d.below(2) == 0 {
            resources = without_volumes(&resources);
        }
        self.apply(&Event::Unreserve {
            agent_id,
            stack,
            resources,
        });
    }

    /// An operator makes, resizes or destroys a volume.
    fn volume(&mut self, d: &mut Dice) {
        let agent_id = agent(d.below(N_AGENTS));
        let stack = self.some_stack(&agent_id, d);
        let volume_id = volume_id(d);
        self.apply(&match d.below(4) {
            0 | 1 => Event::CreateVolume {
                agent_id,
                stack,
                volume_id,
                volume: a_volume(d),
            },
            2 => Event::ResizeVolume {
                agent_id,
                stack,
                volume_id,
                size: a_volume(d).size,
            },
            _ => Event::DestroyVolume {
                agent_id,
                stack,
                volume_id,
            },
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

pub fn volume_ids() -> impl Iterator<Item = VolumeId> {
    ["v0", "v1", "v2@fast"]
        .map(|i| VolumeId::new(i).unwrap())
        .into_iter()
}

pub fn volume_id(d: &mut Dice) -> VolumeId {
    volume_ids().nth(d.below(3)).unwrap()
}

pub fn a_volume(d: &mut Dice) -> Volume {
    Volume {
        size: Milli([0, 1_024_000, 1_024_000, 2_048_000][d.below(4)]),
        shared: d.below(2) == 0,
    }
}

/// With volumes turned back into disk.
fn flat(r: &Resources) -> Resources {
    let mut out = without_volumes(r);
    for (id, v) in r.custom.volumes() {
        out = out.checked_add(&disk(id, v)).expect("it fits");
    }
    out
}

pub fn refuse(d: &mut Dice) -> Millis {
    match d.below(2) {
        0 => Millis(0),
        _ => Millis(1 + d.below(20_000) as u64),
    }
}
