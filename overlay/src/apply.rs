//! The part of a node's network that plans and executes: one state, changed under one lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use waggle_overlay_plan::{
    Fact, Lowered, Lowering, MapOp, Plan, VipTable, zone::ZoneOptions, zone::zone_with,
};
use waggle_types::{
    AgentId, Generation, NetDelta, NetSnapshot, Protocol, TaskId, UnixMillis, VipKey,
};

use crate::{
    dns::DnsServer,
    maps::{self, KernelMaps, MapError},
    sockets,
    spec::{Applied, ApplyError, NodeNetConfig, NodeNetError, VipNames},
};

/// A zone that takes less than this is made at once with each change; a larger one beside, and no more often than a
/// tenth of the time allows (dcos-net: once a second).
const QUICK_ZONE: Duration = Duration::from_millis(5);

pub(crate) struct State {
    pub(crate) plan: Plan,
    /// Whether there was a snapshot: before, nothing is desired and nothing is touched.
    pub(crate) desired: bool,
    /// Facts that may go once no snapshot names their task.
    forgotten: BTreeSet<TaskId>,
    lowering: Lowering,
    /// The maps may not hold what `lowering` thinks.
    doubtful: bool,
    /// `lowering` may not hold what the plan wants.
    behind: bool,
    serial: u32,
    zone_took: Duration,
}

pub(crate) struct Shared {
    pub(crate) config: NodeNetConfig,
    maps: OnceLock<Arc<dyn KernelMaps>>,
    state: Mutex<State>,
    pub(crate) names: ArcSwap<VipNames>,
    pub(crate) dns: Option<DnsServer>,
    pub(crate) zone_options: ZoneOptions,
    /// Origin of the time that the plan sees: it must never jump.
    started: Instant,
    pub(crate) retry: tokio::sync::Notify,
    pub(crate) zone: tokio::sync::Notify,
    /// UDP backends that left all sets and whose sockets were not looked for yet: no more than there were backends.
    gone: Mutex<BTreeSet<SocketAddr>>,
    pub(crate) gone_news: tokio::sync::Notify,
    pub(crate) stop: CancellationToken,
}

impl State {
    /// Drops facts that are no longer needed: forgotten, and no snapshot names their task.
    fn prune(&mut self) {
        if !self.desired {
            return;
        }
        let gone: BTreeMap<TaskId, Option<Fact>> = self
            .forgotten
            .iter()
            .filter(|id| !self.plan.snapshot().tasks.contains_key(*id))
            .map(|id| (id.clone(), None))
            .collect();
        for id in gone.keys() {
            self.forgotten.remove(id);
        }
        // Of tasks that no snapshot names: no set changes.
        self.plan.local_facts(&gone);
    }
}

impl Shared {
    pub(crate) fn new(
        config: NodeNetConfig,
        dns: Option<DnsServer>,
        zone_options: ZoneOptions,
    ) -> Self {
        let lowering = Lowering::new(config.lowering);
        Self {
            config,
            maps: OnceLock::new(),
            names: ArcSwap::from_pointee(VipNames::new()),
            state: Mutex::new(State {
                plan: Plan::new(None),
                desired: false,
                forgotten: BTreeSet::new(),
                lowering,
                doubtful: false,
                behind: true,
                serial: 0,
                zone_took: Duration::ZERO,
            }),
            dns,
            zone_options,
            started: Instant::now(),
            retry: tokio::sync::Notify::new(),
            zone: tokio::sync::Notify::new(),
            gone: Mutex::default(),
            gone_news: tokio::sync::Notify::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held is a bug that was reported; the maps are checked before the next write.
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = poisoned.into_inner();
            state.doubtful = true;
            state
        })
    }

    /// A second origin, so that no time is 0, which means "always" to the plan.
    fn now(&self) -> UnixMillis {
        UnixMillis(1 + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1))
    }

    pub(crate) fn here(&self, agent_id: AgentId) -> Applied {
        let mut state = self.lock();
        let ops = state.plan.set_here(agent_id);
        if ops.is_empty() {
            return unchanged(&state);
        }
        self.commit(&mut state, &ops)
    }

    pub(crate) fn apply(&self, snapshot: &NetSnapshot) -> Applied {
        let mut state = self.lock();
        let applied = state.plan.generation();
        if snapshot.generation < applied {
            let given = snapshot.generation;
            return refused(applied, ApplyError::Stale { given, applied });
        }
        let ops = state.plan.replace(snapshot);
        state.desired = true;
        state.prune();
        self.commit(&mut state, &ops)
    }

    pub(crate) fn change(&self, delta: &NetDelta) -> Applied {
        let mut state = self.lock();
        let applied = state.plan.generation();
        if !state.desired || delta.from != applied {
            let given = delta.from;
            return refused(applied, ApplyError::Gap { given, applied });
        }
        let ops = state.plan.change(delta);
        state.prune();
        self.commit(&mut state, &ops)
    }

    pub(crate) fn attach<M: KernelMaps + 'static>(&self, maps: Arc<M>) -> Result<(), NodeNetError> {
        let mut state = self.lock();
        let found = maps::observe(maps.as_ref())?;
        if self.maps.set(maps).is_err() {
            tracing::warn!("a second data plane is ignored");
            return Ok(());
        }
        state.lowering = Lowering::adopt(self.config.lowering, found);
        state.behind = true;
        self.names
            .store(Arc::new(names(&state.lowering, state.plan.table())));
        tracing::info!(n_vips = state.lowering.n_vips(), "vip maps adopted");
        Ok(())
    }

    pub(crate) fn restore(&self, snapshot: &NetSnapshot) -> Applied {
        let mut state = self.lock();
        if state.desired {
            return unchanged(&state);
        }
        let begun = Instant::now();
        state.plan.replace(snapshot);
        state.desired = true;
        state.behind = true;
        self.publish_zone(&mut state);
        Applied {
            duration: begun.elapsed(),
            ..unchanged(&state)
        }
    }

    pub(crate) fn local_facts(&self, facts: BTreeMap<TaskId, Option<Fact>>) -> Applied {
        let mut state = self.lock();
        let mut news = BTreeMap::new();
        for (task_id, fact) in facts {
            let known = state.plan.local().get(&task_id).copied();
            if fact.is_some() {
                state.forgotten.remove(&task_id);
                if fact != known {
                    news.insert(task_id, fact);
                }
            } else if known.is_some() {
                // Facts go only together with their task, so neither table nor zone can change.
                state.forgotten.insert(task_id);
            }
        }
        let ops = state.plan.local_facts(&news);
        state.prune();
        if news.is_empty() {
            return unchanged(&state);
        }
        self.commit(&mut state, &ops)
    }

    /// Whether the maps are not known to hold all that is wanted.
    pub(crate) fn is_behind(&self) -> bool {
        let state = self.lock();
        state.behind || state.doubtful
    }

    /// Reads the maps and makes them what they should be.
    pub(crate) fn resync(&self) -> Applied {
        let mut state = self.lock();
        state.doubtful = true;
        if let (Some(maps), true) = (self.maps.get(), state.desired)
            && let Err(error) = maps::prune(maps.as_ref(), state.plan.table())
        {
            tracing::warn!(%error, "what is known of backends that left stays");
        }
        self.commit(&mut state, &[])
    }

    /// Executes `ops`, or all that the plan wants where the maps are not known to be at the plan's last state. Before
    /// the first snapshot nothing is desired yet, so nothing is touched.
    fn commit(&self, state: &mut State, ops: &[MapOp]) -> Applied {
        let begun = Instant::now();
        if !state.desired {
            return unchanged(state);
        }
        let mut failures: Vec<ApplyError> = Vec::new();
        let known = |op: &MapOp| matches!(op, MapOp::Set { key, .. } if state.lowering.vip_id(key).is_some());
        let gone = udp_backends_gone(state, ops);
        let renamed = state.behind || state.doubtful || !ops.iter().all(known);
        let n_writes = match self.write_maps(state, ops, &mut failures) {
            Ok(n) => n,
            Err(error) => {
                tracing::warn!(%error, "vip maps are not up to date");
                state.doubtful = true;
                failures.push(error.into());
                0
            }
        };
        state.behind = !failures.is_empty() || self.maps.get().is_none();
        let duration = begun.elapsed();
        if !gone.is_empty() && failures.is_empty() && self.maps.get().is_some() {
            self.free_sockets(gone);
        }
        if renamed {
            self.names
                .store(Arc::new(names(&state.lowering, state.plan.table())));
        }
        self.publish_zone(state);
        if !failures.is_empty() || state.lowering.next_ramp().is_some() {
            self.retry.notify_one();
        }
        Applied {
            generation: state.plan.generation(),
            duration,
            n_writes,
            failures,
        }
    }

    /// Leaves it to [`end_sockets`], which takes long where a machine has many sockets.
    fn free_sockets(&self, gone: BTreeSet<SocketAddr>) {
        self.lock_gone().extend(gone);
        self.gone_news.notify_one();
    }

    fn lock_gone(&self) -> MutexGuard<'_, BTreeSet<SocketAddr>> {
        // A set of addresses has no state that a panic could leave half-changed.
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that waits, but who came back; nothing waits then.
    fn to_end(&self) -> BTreeSet<SocketAddr> {
        let mut gone = std::mem::take(&mut *self.lock_gone());
        for addr in udp_backends(self.lock().plan.table()) {
            gone.remove(&addr);
        }
        gone
    }

    /// Ends the sockets of all backends that have gone since the last time and did not come back.
    pub(crate) fn end_gone(&self) {
        match sockets::free(&self.to_end()) {
            Ok(0) => {}
            Ok(n) => tracing::info!(n, "ended udp sockets of backends that are gone"),
            Err(error) => tracing::debug!(%error, "udp sockets of backends that are gone stay"),
        }
    }

    fn publish_zone(&self, state: &mut State) {
        let Some(dns) = &self.dns else { return };
        if state.zone_took > QUICK_ZONE {
            self.zone.notify_one();
            return;
        }
        let begun = Instant::now();
        // Serials follow the number of zones made here: facts of this node change a zone too.
        state.serial = state.serial.wrapping_add(1);
        let plan = &state.plan;
        let zone = zone_with(
            plan.snapshot(),
            plan.local(),
            state.serial,
            &self.zone_options,
        );
        dns.publish(Arc::new(zone));
        state.zone_took = begun.elapsed();
    }

    /// As [`Shared::publish_zone`], of a copy, so that changes of the maps don't wait for it.
    pub(crate) fn publish_large_zone(&self) -> Duration {
        let begun = Instant::now();
        let Some(dns) = &self.dns else {
            return Duration::ZERO;
        };
        let (snapshot, local, serial) = {
            let mut state = self.lock();
            state.serial = state.serial.wrapping_add(1);
            let plan = &state.plan;
            (plan.snapshot().clone(), plan.local().clone(), state.serial)
        };
        let zone = zone_with(&snapshot, &local, serial, &self.zone_options);
        dns.publish(Arc::new(zone));
        let took = begun.elapsed();
        self.lock().zone_took = took;
        took
    }

    fn write_maps(
        &self,
        state: &mut State,
        ops: &[MapOp],
        failures: &mut Vec<ApplyError>,
    ) -> Result<usize, MapError> {
        let now = self.now();
        if state.doubtful
            && let Some(maps) = self.maps.get()
        {
            let found = maps::observe(maps.as_ref())?;
            state.lowering.observe(found, now);
            state.doubtful = false;
            state.behind = true;
        }
        let lowered = if state.behind {
            state.lowering.converge(state.plan.table(), now)
        } else {
            state.lowering.lower(ops, now)
        };
        self.execute(lowered, failures)
    }

    fn execute(&self, lowered: Lowered, failures: &mut Vec<ApplyError>) -> Result<usize, MapError> {
        for failure in lowered.failures {
            tracing::warn!(%failure, "a vip is not up to date");
            failures.push(failure.into());
        }
        if let Some(maps) = self.maps.get() {
            maps::execute(maps.as_ref(), &lowered.writes)?;
        }
        Ok(lowered.writes.len())
    }

    /// The next step of backends that start slowly; answers when the one after it is.
    pub(crate) fn ramp(&self) -> Option<Duration> {
        let mut state = self.lock();
        let now = self.now();
        if state.lowering.next_ramp().is_some_and(|at| at <= now) {
            let State { lowering, plan, .. } = &mut *state;
            let lowered = lowering.ramp(plan.table(), now);
            let mut failures = Vec::new();
            let done = self.execute(lowered, &mut failures);
            if done.is_err() || !failures.is_empty() {
                state.doubtful |= done.is_err();
                state.behind = true;
                self.retry.notify_one();
            }
        }
        let next = state.lowering.next_ramp()?;
        Some(Duration::from_millis(
            next.0.saturating_sub(self.now().0).max(1),
        ))
    }
}

/// UDP backends that `ops` take out of all sets.
fn udp_backends_gone(state: &State, ops: &[MapOp]) -> BTreeSet<SocketAddr> {
    let is_udp = |key: &VipKey| key.protocol == Protocol::Udp;
    let mut gone = BTreeSet::new();
    for op in ops.iter().filter(|op| is_udp(op.key())) {
        gone.extend(state.lowering.members(op.key()));
    }
    if !gone.is_empty() {
        for addr in udp_backends(state.plan.table()) {
            gone.remove(&addr);
        }
    }
    gone
}

/// Backends that are in some UDP VIP's set.
fn udp_backends(table: &VipTable) -> impl Iterator<Item = SocketAddr> + '_ {
    let udp = |key: &VipKey| key.protocol == Protocol::Udp;
    let sets = table.iter().filter(move |(key, _)| udp(key));
    sets.flat_map(|(_, set)| set.backends.keys().copied())
}

fn refused(generation: Generation, why: ApplyError) -> Applied {
    Applied {
        generation,
        duration: Duration::ZERO,
        n_writes: 0,
        failures: vec![why],
    }
}

fn unchanged(state: &State) -> Applied {
    Applied {
        generation: state.plan.generation(),
        duration: Duration::ZERO,
        n_writes: 0,
        failures: Vec::new(),
    }
}

fn names(lowering: &Lowering, table: &VipTable) -> VipNames {
    lowering
        .vip_ids()
        .map(|(id, key)| {
            let named = table.get(&key).and_then(|set| set.name.as_ref());
            let name = named.map_or_else(|| key.ip.to_string(), ToString::to_string);
            (id, (key, name))
        })
        .collect()
}

#[cfg(test)]
mod tests;
