//! [`NodeNet`]: one node's network, from snapshots and local facts to maps and zone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use waggle_ebpf::DataPlane;
use waggle_overlay_plan::{
    LocalFacts, Lowering, VipTable, table, zone::ZoneOptions, zone::zone_with,
};
use waggle_types::{Generation, HealthState, NetSnapshot, TaskId, TaskState, UnixMillis};

use crate::{
    address::{self, DnsAddresses},
    dns::{DnsCounters, DnsServer, DnsServerConfig},
    maps::{self, KernelMaps, MapError},
    spec::{Applied, ApplyError, NodeNetConfig, NodeNetError, VipNames},
};

struct State {
    snapshot: Option<Arc<NetSnapshot>>,
    local: LocalFacts,
    /// Facts that may go once no snapshot names their task.
    forgotten: BTreeSet<TaskId>,
    table: VipTable,
    lowering: Lowering,
    /// The maps may not hold what `lowering` thinks.
    doubtful: bool,
    serial: u32,
}

struct Shared {
    config: NodeNetConfig,
    maps: OnceLock<Arc<dyn KernelMaps>>,
    state: Mutex<State>,
    names: ArcSwap<VipNames>,
    dns: Option<DnsServer>,
    /// Origin of the time that the plan sees: it must never jump.
    started: Instant,
    retry: tokio::sync::Notify,
    stop: CancellationToken,
}

/// One node's network. Cheap to share; all methods take `&self`.
pub struct NodeNet {
    shared: Arc<Shared>,
    addresses: Option<DnsAddresses>,
    keeper: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl NodeNet {
    /// Sets up addresses, adopts what the maps hold and starts answering DNS. Without a data plane (no eBPF on
    /// this machine) names resolve but VIPs carry no traffic.
    pub async fn start(
        config: NodeNetConfig,
        data_plane: Option<Arc<DataPlane>>,
    ) -> Result<Self, NodeNetError> {
        Self::start_with(config, data_plane).await
    }

    /// [`NodeNet::start`] over any maps, so that everything but the kernel can be tested without it.
    pub async fn start_with<M: KernelMaps + 'static>(
        config: NodeNetConfig,
        maps: Option<Arc<M>>,
    ) -> Result<Self, NodeNetError> {
        let node = Self::start_resolver(config).await?;
        if let Some(maps) = maps {
            node.attach_maps(maps).await?;
        }
        Ok(node)
    }

    /// The part of [`NodeNet::start`] that needs no kernel programs: addresses and DNS. An agent that restarts calls
    /// this first, so that names resolve ([`NodeNet::restore`]) while all else is still being loaded.
    pub async fn start_resolver(config: NodeNetConfig) -> Result<Self, NodeNetError> {
        let addresses = if config.manage_addresses && !config.dns_ips.is_empty() {
            Some(address::ensure(&config.dns_ips).await?)
        } else {
            None
        };
        let dns = if config.dns_ips.is_empty() {
            None
        } else {
            let listen = config
                .dns_ips
                .iter()
                .map(|ip| SocketAddr::from((*ip, config.dns_port)));
            let dns = DnsServerConfig::new(listen.collect(), config.upstreams.clone());
            Some(DnsServer::start(dns).await?)
        };
        let lowering = Lowering::new(config.lowering);
        let shared = Arc::new(Shared {
            config,
            maps: OnceLock::new(),
            names: ArcSwap::from_pointee(VipNames::new()),
            state: Mutex::new(State {
                snapshot: None,
                local: LocalFacts::new(),
                forgotten: BTreeSet::new(),
                table: VipTable::new(),
                lowering,
                doubtful: false,
                serial: 0,
            }),
            dns,
            started: Instant::now(),
            retry: tokio::sync::Notify::new(),
            stop: CancellationToken::new(),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared)));
        Ok(Self {
            shared,
            addresses,
            keeper: Mutex::new(Some(keeper)),
        })
    }

    /// Takes the kernel's maps: adopts what they hold and writes nothing yet. What has been desired meanwhile reaches
    /// them with the next change or [`NodeNet::resync`]. A node has one data plane: a second is ignored.
    pub async fn attach(&self, data_plane: Arc<DataPlane>) -> Result<(), NodeNetError> {
        self.attach_maps(data_plane).await
    }

    /// [`NodeNet::attach`] of any maps.
    pub async fn attach_maps<M: KernelMaps + 'static>(
        &self,
        maps: Arc<M>,
    ) -> Result<(), NodeNetError> {
        let shared = Arc::clone(&self.shared);
        let adopted = tokio::task::spawn_blocking(move || shared.attach(maps));
        // Only a runtime that shuts down ends it otherwise, and then nobody asks for the maps.
        adopted.await.unwrap_or(Ok(()))
    }

    /// Takes the desired state that an earlier run of the agent kept: names resolve from it at once, and no older
    /// generation is accepted any more. The maps are left alone until the next change or [`NodeNet::resync`], because
    /// they may know better: facts of this node's own tasks come first. After a first snapshot it does nothing.
    pub async fn restore(&self, snapshot: Arc<NetSnapshot>) -> Applied {
        self.on_worker(move |shared| shared.restore(&snapshot))
            .await
    }

    /// Brings maps and zone to a snapshot. A lower generation than the applied one is refused; the same one
    /// is applied again (the master's periodic resync).
    pub async fn apply(&self, snapshot: Arc<NetSnapshot>) -> Applied {
        self.on_worker(move |shared| shared.apply(snapshot)).await
    }

    /// Tells what this node sees of its own task, before the master knows: a dead backend leaves its VIPs here at once.
    pub async fn local_fact(
        &self,
        task_id: TaskId,
        state: TaskState,
        health: HealthState,
    ) -> Applied {
        self.local_facts(BTreeMap::from([(task_id, Some((state, health)))]))
            .await
    }

    /// Many facts as one change: `None` is [`NodeNet::forget_local`].
    pub async fn local_facts(
        &self,
        facts: BTreeMap<TaskId, Option<(TaskState, HealthState)>>,
    ) -> Applied {
        self.on_worker(move |shared| shared.local_facts(facts))
            .await
    }

    /// The agent is done with a task. Its last fact still holds while the snapshot names the task, so that a snapshot
    /// that lags behind does not bring it back.
    pub async fn forget_local(&self, task_id: TaskId) -> Applied {
        self.local_facts(BTreeMap::from([(task_id, None)])).await
    }

    /// Reads the kernel's maps and makes them what they should be. Happens by itself every
    /// [`NodeNetConfig::resync_every`].
    pub async fn resync(&self) -> Applied {
        self.on_worker(|shared| {
            let mut state = shared.lock();
            state.doubtful = true;
            shared.commit(&mut state)
        })
        .await
    }

    /// VIP numbers and what they stand for, for joining kernel counters to names.
    pub fn vip_names(&self) -> Arc<VipNames> {
        self.shared.names.load_full()
    }

    /// Generation that is applied; 0 before the first snapshot.
    pub fn generation(&self) -> Generation {
        self.shared.lock().generation()
    }

    /// The table that is applied.
    pub fn table(&self) -> VipTable {
        self.shared.lock().table.clone()
    }

    /// What the DNS server has counted; none without a DNS server.
    pub fn dns_counters(&self) -> Option<DnsCounters> {
        self.shared.dns.as_ref().map(DnsServer::counters)
    }

    /// Where DNS is answered (useful with port 0).
    pub fn dns_addrs(&self) -> Vec<SocketAddr> {
        self.shared
            .dns
            .as_ref()
            .map(|d| d.addrs().to_vec())
            .unwrap_or_default()
    }

    /// Stops answering. Map entries stay, and the addresses too unless
    /// [`NodeNetConfig::remove_addresses`] says otherwise.
    pub async fn shutdown(&self) -> Result<(), NodeNetError> {
        self.shared.stop.cancel();
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(keeper) = keeper {
            // Only a panic in it makes this an error, and that was reported where it happened.
            let _ = keeper.await;
        }
        if let Some(dns) = &self.shared.dns {
            dns.shutdown().await;
        }
        if let (Some(addresses), true) = (&self.addresses, self.shared.config.remove_addresses) {
            addresses.remove().await?;
        }
        Ok(())
    }

    async fn on_worker(&self, work: impl FnOnce(&Shared) -> Applied + Send + 'static) -> Applied {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|_| Applied {
            generation: self.generation(),
            duration: Duration::ZERO,
            n_writes: 0,
            failures: vec![ApplyError::Worker],
        })
    }
}

/// Dropped without [`NodeNet::shutdown`] it stops too, only nobody waits for it.
impl Drop for NodeNet {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl State {
    fn generation(&self) -> Generation {
        self.snapshot
            .as_ref()
            .map_or_else(Generation::default, |s| s.generation)
    }

    /// Drops facts that are no longer needed: forgotten, and no snapshot names their task.
    fn prune(&mut self) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let (local, tasks) = (&mut self.local, &snapshot.tasks);
        self.forgotten.retain(|id| {
            let keep = tasks.contains_key(id);
            if !keep {
                local.remove(id);
            }
            keep
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held is a bug that was reported; the maps are checked before the next write.
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = poisoned.into_inner();
            state.doubtful = true;
            state
        })
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn apply(&self, snapshot: Arc<NetSnapshot>) -> Applied {
        let mut state = self.lock();
        let applied = state.generation();
        if snapshot.generation < applied {
            return Applied {
                generation: applied,
                duration: Duration::ZERO,
                n_writes: 0,
                failures: vec![ApplyError::Stale {
                    given: snapshot.generation,
                    applied,
                }],
            };
        }
        state.snapshot = Some(snapshot);
        state.prune();
        self.commit(&mut state)
    }

    fn attach<M: KernelMaps + 'static>(&self, maps: Arc<M>) -> Result<(), NodeNetError> {
        let mut state = self.lock();
        let found = maps::observe(maps.as_ref())?;
        if self.maps.set(maps).is_err() {
            tracing::warn!("a second data plane is ignored");
            return Ok(());
        }
        state.lowering = Lowering::adopt(self.config.lowering, found);
        self.names
            .store(Arc::new(names(&state.lowering, &state.table)));
        tracing::info!(n_vips = state.lowering.n_vips(), "vip maps adopted");
        Ok(())
    }

    fn restore(&self, snapshot: &Arc<NetSnapshot>) -> Applied {
        let mut state = self.lock();
        if state.snapshot.is_some() {
            return unchanged(&state);
        }
        let begun = Instant::now();
        state.table = table(snapshot, &state.local);
        state.snapshot = Some(Arc::clone(snapshot));
        self.publish_zone(&mut state, snapshot);
        Applied {
            duration: begun.elapsed(),
            ..unchanged(&state)
        }
    }

    fn local_facts(&self, facts: BTreeMap<TaskId, Option<(TaskState, HealthState)>>) -> Applied {
        let mut state = self.lock();
        let mut changed = false;
        for (task_id, fact) in facts {
            if let Some(fact) = fact {
                state.forgotten.remove(&task_id);
                changed |= state.local.insert(task_id, fact) != Some(fact);
            } else if state.local.contains_key(&task_id) {
                // Facts go only together with their task, so neither table nor zone can change.
                state.forgotten.insert(task_id);
            }
        }
        state.prune();
        if changed {
            self.commit(&mut state)
        } else {
            unchanged(&state)
        }
    }

    /// Plans and executes. Before the first snapshot nothing is desired yet, so nothing is touched.
    fn commit(&self, state: &mut State) -> Applied {
        let begun = Instant::now();
        let Some(snapshot) = state.snapshot.clone() else {
            return unchanged(state);
        };
        let mut failures: Vec<ApplyError> = Vec::new();
        state.table = table(&snapshot, &state.local);
        let n_writes = match self.write_maps(state, &mut failures) {
            Ok(n) => n,
            Err(error) => {
                tracing::warn!(%error, "vip maps are not up to date");
                state.doubtful = true;
                failures.push(error.into());
                0
            }
        };
        self.names
            .store(Arc::new(names(&state.lowering, &state.table)));
        self.publish_zone(state, &snapshot);
        if !failures.is_empty() {
            self.retry.notify_one();
        }
        Applied {
            generation: snapshot.generation,
            duration: begun.elapsed(),
            n_writes,
            failures,
        }
    }

    fn publish_zone(&self, state: &mut State, snapshot: &NetSnapshot) {
        let Some(dns) = &self.dns else { return };
        // Serials follow the number of zones made here: facts of this node change a zone too.
        state.serial = state.serial.wrapping_add(1);
        let options = ZoneOptions {
            dns_ips: self.config.dns_ips.iter().map(|ip| (*ip).into()).collect(),
            ..ZoneOptions::default()
        };
        let zone = zone_with(snapshot, &state.local, state.serial, &options);
        dns.publish(Arc::new(zone));
    }

    fn write_maps(
        &self,
        state: &mut State,
        failures: &mut Vec<ApplyError>,
    ) -> Result<usize, MapError> {
        let now = self.now();
        if state.doubtful
            && let Some(maps) = self.maps.get()
        {
            let found = maps::observe(maps.as_ref())?;
            state.lowering.observe(found, now);
            state.doubtful = false;
        }
        let lowered = state.lowering.converge(&state.table, now);
        for failure in lowered.failures {
            tracing::warn!(%failure, "a vip is not up to date");
            failures.push(failure.into());
        }
        if let Some(maps) = self.maps.get() {
            maps::execute(maps.as_ref(), &lowered.writes)?;
        }
        Ok(lowered.writes.len())
    }
}

fn unchanged(state: &State) -> Applied {
    Applied {
        generation: state.generation(),
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

/// The safety net: tries failed changes again and checks the maps from time to time.
async fn keep(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.retry.notified() => {
                // One try per interval, however many changes failed meanwhile.
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = tokio::time::sleep(shared.config.retry_after) => {}
                }
            }
            () = tokio::time::sleep(shared.config.resync_every) => {}
        }
        let worker = Arc::clone(&shared);
        let done = tokio::task::spawn_blocking(move || {
            let mut state = worker.lock();
            state.doubtful = true;
            worker.commit(&mut state)
        });
        if done.await.is_err() {
            return;
        }
    }
}
