//! [`NodeNet`]: one node's network, from snapshots and local facts to maps and zone.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use waggle_ebpf::DataPlane;
use waggle_overlay_plan::policy::PolicyWorld;
use waggle_overlay_plan::{
    Fact, Question, VipTable,
    network::{NodePlan, node_plan},
    zone::{self, Trace, ZoneOptions},
};
use waggle_types::{AgentId, Generation, NetDelta, NetSnapshot, TaskId};

use crate::{
    address::{self, DnsAddresses},
    apply::Shared,
    dns::{DnsCounters, DnsServer, DnsServerConfig},
    maps::KernelMaps,
    spec::{Applied, ApplyError, NodeNetConfig, NodeNetError, VipNames},
    upkeep::{end_sockets, keep, make_zones},
};

/// One node's network. Cheap to share; all methods take `&self`.
pub struct NodeNet {
    shared: Arc<Shared>,
    addresses: Option<DnsAddresses>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
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
        let mut dns_ips = config.dns_ips.clone();
        let addresses = if config.manage_addresses && !dns_ips.is_empty() {
            let addresses = address::ensure(&dns_ips).await?;
            dns_ips.retain(|ip| addresses.devices.contains_key(ip));
            Some(addresses)
        } else {
            None
        };
        let dns = if dns_ips.is_empty() {
            None
        } else {
            let listen = dns_ips
                .iter()
                .map(|ip| SocketAddr::from((*ip, config.dns_port)));
            let dns = DnsServerConfig {
                scope: config.dns_scope.clone(),
                forward: config.forward.clone(),
                log_one_in: config.dns_log_one_in,
                told: config.told.clone(),
                ..DnsServerConfig::new(listen.collect(), Vec::new())
            };
            Some(DnsServer::start(dns).await?)
        };
        let zone_options = ZoneOptions {
            dns_ips,
            health: config.dns_health,
            scope: config.dns_scope.clone(),
        };
        let shared = Arc::new(Shared::new(config, dns, zone_options));
        let tasks = vec![
            tokio::spawn(keep(Arc::clone(&shared))),
            tokio::spawn(make_zones(Arc::clone(&shared))),
            tokio::spawn(end_sockets(Arc::clone(&shared))),
        ];
        Ok(Self {
            shared,
            addresses,
            tasks: Mutex::new(tasks),
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
        self.on_worker(move |shared| shared.apply(&snapshot)).await
    }

    /// Brings maps and zone to what a delta makes of the applied snapshot. One from another generation is refused
    /// ([`ApplyError::Gap`]): the whole snapshot is needed then.
    pub async fn change(&self, delta: Arc<NetDelta>) -> Applied {
        self.on_worker(move |shared| shared.change(&delta)).await
    }

    /// Says which agent this node's is, once that is known: its backends and its zone may be preferred.
    pub async fn here(&self, agent_id: AgentId) -> Applied {
        self.on_worker(move |shared| shared.here(agent_id)).await
    }

    /// The desired state as it is applied; none before the first one.
    pub fn snapshot(&self) -> Option<NetSnapshot> {
        let state = self.shared.lock();
        state.desired.then(|| state.plan.snapshot().clone())
    }

    /// What the node's overlay must be, by the desired state that is applied; none before the first one, or while it is not
    /// known which agent this node's is.
    pub fn node_plan(&self) -> Option<NodePlan> {
        let state = self.shared.lock();
        let here = state.plan.here().filter(|_| state.desired)?;
        Some(node_plan(state.plan.snapshot(), here))
    }

    /// What policies there are and who they are about, likewise.
    pub fn policy_world(&self) -> Option<PolicyWorld> {
        let state = self.shared.lock();
        let here = state.plan.here().filter(|_| state.desired)?;
        Some(PolicyWorld::of(state.plan.snapshot(), Some(here)))
    }

    /// Tells what this node sees of its own task, before the master knows: a dead backend leaves its VIPs here at once.
    pub async fn local_fact(&self, task_id: TaskId, fact: Fact) -> Applied {
        self.local_facts(BTreeMap::from([(task_id, Some(fact))]))
            .await
    }

    /// Many facts as one change: `None` is [`NodeNet::forget_local`].
    pub async fn local_facts(&self, facts: BTreeMap<TaskId, Option<Fact>>) -> Applied {
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
        self.on_worker(Shared::resync).await
    }

    /// VIP numbers and what they stand for, for joining kernel counters to names.
    pub fn vip_names(&self) -> Arc<VipNames> {
        self.shared.names.load_full()
    }

    /// Generation that is applied; 0 before the first snapshot.
    pub fn generation(&self) -> Generation {
        self.shared.lock().plan.generation()
    }

    /// The table that is applied.
    pub fn table(&self) -> VipTable {
        self.shared.lock().plan.table().clone()
    }

    /// What the DNS server has counted; none without a DNS server.
    pub fn dns_counters(&self) -> Option<DnsCounters> {
        self.shared.dns.as_ref().map(DnsServer::counters)
    }

    /// The DNS server, if there is one.
    pub fn dns(&self) -> Option<&DnsServer> {
        self.shared.dns.as_ref()
    }

    /// How a question is answered here, and why; none before the first snapshot.
    pub fn trace(&self, question: &Question) -> Option<Trace> {
        let zone = self.shared.dns.as_ref()?.zone()?;
        let (snapshot, local) = {
            let state = self.shared.lock();
            let plan = state.desired.then_some(&state.plan)?;
            (plan.snapshot().clone(), plan.local().clone())
        };
        let health = self.shared.zone_options.health;
        Some(zone::trace(&zone, &snapshot, &local, health, question))
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
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // Only a panic in it makes this an error, and that was reported where it happened.
            let _ = task.await;
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
