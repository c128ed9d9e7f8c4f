//! The node's network as the agent drives it: desired state and local facts in, acknowledgements out.
//!
//! Everything that knows `waggle-ebpf` and `waggle-overlay` by name is here.

mod attached;
mod devices;
mod encryption;
mod rings;

pub use encryption::can_encrypt;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};
use waggle_api::proto::session::{self as pb, agent_message::Kind};
use waggle_ebpf::{DataPlane, LoaderConfig, Observer};
use waggle_overlay::edge::EdgeNet;
use waggle_overlay::overlay::OverlayNet;
use waggle_overlay::packet::PacketNet;
use waggle_overlay::wireguard::Wireguard;
use waggle_overlay::{Applied, ApplyError, NodeNet, NodeNetConfig, VipNames};
use waggle_overlay_plan::Fact;
use waggle_telemetry::{Telemetry, names};
use waggle_types::{
    AgentId, Cause, Generation, HealthState, NetDelta, NetSnapshot, TaskId, TaskState,
};

use attached::Attaching;
use rings::{TELL_EVERY, Told};

use crate::{
    AgentConfig, AgentError, DataPlanePolicy, clock, flow_log::FlowLog, flows::Flows, kept::Kept,
    peers::Peers, requests::Requests,
};

/// Causes of snapshots that were overtaken before they were applied; older ones lose their span.
const MAX_CAUSES: usize = 256;

/// The network's parts that could be started, and why the others could not.
pub struct Net {
    node: Option<NodeNet>,
    plane: Option<Arc<DataPlane>>,
    observer: Arc<OnceLock<Observer>>,
    flows: Mutex<NetFlows>,
    flow_log: Arc<FlowLog>,
    requests: Arc<Requests>,
    edge: Option<EdgeNet>,
    packets: Option<PacketNet>,
    overlay: Arc<OverlayNet>,
    encryption: Option<Arc<Wireguard>>,
    troubles: Vec<String>,
    since_ns: u64,
    inbox: Inbox,
    wake: Notify,
    // Whether what programs of another version did is done by ours.
    settled: AtomicBool,
    // What an earlier run of the agent kept, until the first change.
    restored: Option<Arc<NetSnapshot>>,
    kept: Kept,
}

/// Edges, and the names that a desired state gives their ends.
#[derive(Default)]
struct NetFlows {
    flows: Flows,
    peers: Arc<Peers>,
    generation: Option<Generation>,
}

#[derive(Default)]
struct Inbox(Mutex<Waiting>);

/// What is not applied yet is one: bounded by the number of tasks, whatever the worker's speed.
#[derive(Default)]
struct Waiting {
    wanted: Option<Wanted>,
    /// Where the network is once what waits is applied.
    generation: Option<Generation>,
    facts: BTreeMap<TaskId, Option<Fact>>,
}

impl Waiting {
    /// What was taken was refused: changes of it lead nowhere, so that the next one asks for the snapshot.
    fn lost(&mut self) {
        if !matches!(self.wanted, Some(Wanted::Snapshot(_))) {
            self.wanted = None;
            self.generation = None;
        }
    }
}

/// What the master wants.
enum Wanted {
    Snapshot(Arc<NetSnapshot>),
    Change(Arc<NetDelta>),
}

impl Wanted {
    fn generation(&self) -> Generation {
        match self {
            Self::Snapshot(s) => s.generation,
            Self::Change(d) => d.to,
        }
    }

    fn causes(&self) -> &[Cause] {
        match self {
            Self::Snapshot(s) => &s.causes,
            Self::Change(d) => &d.causes,
        }
    }
}

impl Inbox {
    fn with<T>(&self, f: impl FnOnce(&mut Waiting) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Net {
    /// Starts DNS, which answers from what is `kept`, the desired state of an earlier run, at once. The first thing that
    /// an agent does: while it is down, so is its node's resolver.
    pub async fn start(
        config: &AgentConfig,
        kept: Kept,
        overlay: Arc<OverlayNet>,
    ) -> Result<Self, AgentError> {
        let mut troubles = Vec::new();
        let restored = kept.read().await.map(Arc::new);
        if let Some(kept) = &restored {
            overlay.expect(kept.policies.values().map(AsRef::as_ref));
        }
        let node = match start_node(config, overlay.names()).await {
            Ok(node) => node,
            Err(e) if config.dataplane == DataPlanePolicy::Require => {
                return Err(AgentError::Network(e));
            }
            Err(e) => {
                let why = format!("node network: {}", chain(e.as_ref()));
                tracing::warn!(error = why, "tasks run without DNS and VIPs on this node");
                troubles.push(why);
                None
            }
        };
        if let (Some(node), Some(kept)) = (&node, &restored) {
            let applied = node.restore(Arc::clone(kept)).await;
            tracing::info!(generation = %applied.generation, "names answer from the last desired state");
        }
        Ok(Self {
            node,
            plane: None,
            observer: Arc::default(),
            flows: Mutex::default(),
            flow_log: Arc::new(FlowLog::open(config)),
            requests: Arc::new(Requests::new(
                config.trace_requests,
                config.trace_inject,
                config.ip,
            )),
            edge: None,
            packets: None,
            overlay,
            encryption: None,
            troubles,
            since_ns: clock::now_ns(),
            inbox: Inbox::default(),
            wake: Notify::new(),
            settled: AtomicBool::new(false),
            restored,
            kept,
        })
    }

    /// Loads the data plane, as far as the configuration wants and the machine allows.
    pub async fn load(
        &mut self,
        config: &AgentConfig,
        telemetry: &Telemetry,
    ) -> Result<(), AgentError> {
        let attaching = Attaching::begin(telemetry, "sockets");
        let loaded = match load(config).await {
            Ok(Some(plane)) => match &self.node {
                Some(node) => node.attach(Arc::clone(&plane)).await.map(|()| Some(plane)),
                None => Ok(Some(plane)),
            }
            .map_err(AnyError::from),
            other => other,
        };
        match loaded {
            Ok(plane) => {
                if let Some(plane) = &plane {
                    attaching.end(plane.programs().iter().map(|p| p.name), &[]);
                    watch_resets(Arc::clone(plane), telemetry);
                    observe(Arc::clone(plane), Arc::clone(&self.observer), telemetry);
                }
                self.plane = plane;
                if self.node.is_none() {
                    // Nobody fills the maps.
                    self.retire_others(&[]).await;
                }
            }
            Err(e) if config.dataplane == DataPlanePolicy::Require => {
                return Err(AgentError::DataPlane(e));
            }
            Err(e) => {
                attaching.end([], &[chain(e.as_ref())]);
                let why = format!("data plane: {}", chain(e.as_ref()));
                tracing::warn!(error = why, "tasks run without VIPs and network counters");
                self.troubles.push(why);
            }
        }
        Ok(())
    }

    /// Hands the edge what the node's table is now.
    async fn sync_edge(&self, net: &NodeNet) {
        // Before a first desired state the table is empty for want of knowledge: what was found serves on.
        if let Some(edge) = &self.edge
            && net.generation() > Generation::default()
        {
            for error in edge.sync(net.table()).await {
                tracing::warn!(
                    error = chain(&error),
                    "the edge's tables are not as they should be"
                );
            }
        }
    }

    /// Brings the overlay to what is desired; answers what could not be done.
    async fn sync_overlay(&self, net: &NodeNet) -> Vec<String> {
        let (Some(plan), Some(policies)) = (net.node_plan(), net.policy_world()) else {
            return Vec::new();
        };
        let overlay = Arc::clone(&self.overlay);
        let synced = tokio::task::spawn_blocking(move || overlay.sync(plan, policies)).await;
        let errors = synced.unwrap_or_default();
        errors.iter().map(|e| chain(e)).collect()
    }

    /// The same for policies alone, which change with tasks.
    async fn sync_policies(&self, net: &NodeNet) -> Vec<String> {
        let Some(policies) = net.policy_world() else {
            return Vec::new();
        };
        let overlay = Arc::clone(&self.overlay);
        let synced = tokio::task::spawn_blocking(move || overlay.sync_policies(policies)).await;
        let errors = synced.unwrap_or_default();
        errors.iter().map(|e| chain(e)).collect()
    }

    /// What does not work, for `/health`; empty when all does.
    pub fn troubles(&self) -> &[String] {
        &self.troubles
    }

    /// When this was started, Unix nanoseconds.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// The node's network, if it could be started.
    pub fn node(&self) -> Option<&NodeNet> {
        self.node.as_ref()
    }

    /// The kernel's counters.
    pub fn plane(&self) -> Option<&Arc<DataPlane>> {
        self.plane.as_ref()
    }

    /// What the programs that only watch have seen, once they run.
    pub fn observer(&self) -> Option<&Observer> {
        self.observer.get()
    }

    /// Takes in who speaks with whom. Blocking.
    pub fn read_flows(&self) {
        let Some(plane) = &self.plane else { return };
        let mut guard = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut guard);
        let NetFlows { flows, peers, .. } = &mut *guard;
        let counters = plane.counters();
        let read = counters.flows().and_then(|now| {
            for key in flows.read(&now, peers) {
                if let Some(last) = counters.take_flow(&key)? {
                    flows.taken(&key, last, peers);
                }
            }
            Ok(())
        });
        if let Err(e) = read {
            tracing::warn!(error = chain(&e), "who speaks with whom was not read");
        }
    }

    fn refresh(&self, flows: &mut NetFlows) {
        if flows.generation != Some(self.generation())
            && let Some(snapshot) = self.node.as_ref().and_then(NodeNet::snapshot)
        {
            flows.generation = Some(snapshot.generation);
            flows.peers = Arc::new(Peers::of(&snapshot));
        }
    }

    /// Whom addresses belong to now.
    pub fn with_peers<T>(&self, of: impl FnOnce(&Peers) -> T) -> T {
        let mut guard = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut guard);
        of(&guard.peers)
    }

    /// The same, to keep for a while.
    pub fn peers(&self) -> Arc<Peers> {
        let mut guard = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut guard);
        Arc::clone(&guard.peers)
    }

    /// Which connections there were.
    pub fn flow_log(&self) -> &Arc<FlowLog> {
        &self.flow_log
    }

    /// Whose requests are traced.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// What was taken in of a task's edges.
    pub fn flows<T>(&self, of: impl FnOnce(&mut Flows) -> T) -> T {
        let mut guard = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        of(&mut guard.flows)
    }

    /// The node's part in traffic from outside.
    pub fn edge(&self) -> Option<&EdgeNet> {
        self.edge.as_ref()
    }

    /// The node's part in overlay networks.
    pub fn overlay(&self) -> &Arc<OverlayNet> {
        &self.overlay
    }

    /// VIPs per packet.
    pub fn packets(&self) -> Option<&PacketNet> {
        self.packets.as_ref()
    }

    /// VIP numbers to names.
    pub fn vip_names(&self) -> Arc<VipNames> {
        self.node
            .as_ref()
            .map(NodeNet::vip_names)
            .unwrap_or_default()
    }

    /// Generation that is applied.
    pub fn generation(&self) -> Generation {
        self.node
            .as_ref()
            .map_or_else(Generation::default, NodeNet::generation)
    }

    /// What the master wants. An older one that was not applied yet is replaced; its causes are kept.
    pub fn desired(&self, mut snapshot: NetSnapshot) {
        self.inbox.with(|w| {
            if let Some(old) = &w.wanted {
                if old.generation() > snapshot.generation {
                    return;
                }
                let mut causes = old.causes().to_vec();
                causes.append(&mut snapshot.causes);
                let n_old = causes.len().saturating_sub(MAX_CAUSES);
                snapshot.causes = causes.split_off(n_old);
            }
            w.generation = Some(snapshot.generation);
            w.wanted = Some(Wanted::Snapshot(Arc::new(snapshot)));
        });
        self.wake.notify_one();
    }

    /// What changed of what the master wants; `false` when that is not what is here: then the snapshot is needed.
    pub fn change(&self, delta: NetDelta) -> bool {
        let fits = self.inbox.with(|w| {
            if w.generation != Some(delta.from) {
                w.generation = None;
                return false;
            }
            w.generation = Some(delta.to);
            match &mut w.wanted {
                // What waits is nobody else's.
                Some(Wanted::Change(waiting)) => {
                    Arc::make_mut(waiting).extend(delta, MAX_CAUSES);
                }
                Some(Wanted::Snapshot(waiting)) => {
                    let waiting = Arc::make_mut(waiting);
                    let mut causes = std::mem::take(&mut waiting.causes);
                    waiting.apply(&delta);
                    causes.append(&mut waiting.causes);
                    let n_old = causes.len().saturating_sub(MAX_CAUSES);
                    waiting.causes = causes.split_off(n_old);
                }
                None => w.wanted = Some(Wanted::Change(Arc::new(delta))),
            }
            true
        });
        if fits {
            self.wake.notify_one();
        }
        fits
    }

    /// What this node sees of its own task.
    pub fn fact(&self, task_id: TaskId, fact: Fact) {
        self.inbox.with(|w| w.facts.insert(task_id, Some(fact)));
        self.wake.notify_one();
    }

    /// The agent is done with a task.
    pub fn forget(&self, task_id: TaskId) {
        self.inbox.with(|w| w.facts.insert(task_id, None));
        self.wake.notify_one();
    }

    /// Brings the maps to what was restored, now that this node's tasks are known: those that `kept` still has here and
    /// that are not among `known` ended while nobody watched. Call it before [`Net::work`].
    pub async fn settle(&self, me: &AgentId, known: &BTreeSet<TaskId>) {
        let Some(node) = &self.node else { return };
        node.here(me.clone()).await;
        let Some(kept) = &self.restored else { return };
        let gone: BTreeSet<&TaskId> = kept
            .tasks
            .iter()
            .filter(|(id, task)| task.agent_id == *me && !known.contains(*id))
            .map(|(id, _)| id)
            .collect();
        let mut facts = self.inbox.with(|w| std::mem::take(&mut w.facts));
        let fact = Some(Fact::from((TaskState::Gone, HealthState::Unknown)));
        facts.extend(gone.iter().map(|id| ((*id).clone(), fact)));
        node.local_facts(facts).await;
        // They hold until no snapshot names these tasks.
        let forget = gone.into_iter().map(|id| (id.clone(), None)).collect();
        node.local_facts(forget).await;
        let applied = node.resync().await;
        self.retire_others(&applied.failures).await;
        for failure in self.sync_overlay(node).await {
            tracing::warn!(error = failure, "the overlay is not as it was");
        }
        for failure in applied.failures {
            tracing::warn!(error = chain(&failure), "vip maps are not as they were");
        }
    }

    /// Once the maps hold what is wanted, programs of another version go: an agent that was replaced by one whose maps
    /// differ leaves its own, and until here connections to VIPs were theirs.
    async fn retire_others(&self, failures: &[ApplyError]) {
        let Some(plane) = &self.plane else { return };
        if !failures.is_empty() || self.settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let plane = Arc::clone(plane);
        let retired = tokio::task::spawn_blocking(move || plane.retire_others()).await;
        if let Ok(Err(e)) = retired {
            tracing::warn!(error = chain(&e), "programs of another version stay");
        }
    }

    /// Applies what comes in, facts first, until it is dropped.
    pub async fn work(&self, telemetry: Telemetry, to_master: mpsc::Sender<Kind>, node: String) {
        let mut told = Told::default();
        loop {
            if let Some(rings) = told.due(|| self.edge_rings(false))
                && to_master.send(Kind::EdgeRings(rings)).await.is_err()
            {
                return;
            }
            let (facts, wanted) = self
                .inbox
                .with(|w| (std::mem::take(&mut w.facts), w.wanted.take()));
            let Some(net) = &self.node else {
                if let Some(wanted) = wanted {
                    let missing = pb::Applied {
                        generation: wanted.generation().0,
                        duration_us: 0,
                        failures: self.troubles.clone(),
                    };
                    if to_master.send(Kind::Applied(missing)).await.is_err() {
                        return;
                    }
                }
                self.wake.notified().await;
                continue;
            };
            if facts.is_empty() && wanted.is_none() {
                // An edge's rings also change by themselves: windows close.
                let wake = self.wake.notified();
                if self.edge.is_some() {
                    let _ = tokio::time::timeout(TELL_EVERY, wake).await;
                } else {
                    wake.await;
                }
                continue;
            }
            if !facts.is_empty() {
                net.local_facts(facts).await;
                self.sync_edge(net).await;
            }
            if let Some(wanted) = wanted {
                let touched = Touched::by(&wanted);
                let mut applied = self.take(net, wanted, &telemetry, &node).await;
                let failures = match touched {
                    Touched::Overlay => self.sync_overlay(net).await,
                    Touched::Policies => self.sync_policies(net).await,
                    Touched::Neither => Vec::new(),
                };
                applied.failures.extend(failures);
                self.sync_edge(net).await;
                if to_master.send(Kind::Applied(applied)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Keeps and applies. First the file: what is kept must never be older than the maps are, or the next run of the
    /// agent would take them back.
    async fn take(
        &self,
        net: &NodeNet,
        wanted: Wanted,
        telemetry: &Telemetry,
        node: &str,
    ) -> pb::Applied {
        let start_ns = clock::now_ns();
        let applied = match &wanted {
            Wanted::Snapshot(snapshot) => {
                if snapshot.generation >= net.generation() {
                    self.kept.write(Arc::clone(snapshot)).await;
                }
                net.apply(Arc::clone(snapshot)).await
            }
            Wanted::Change(delta) => {
                let long = self.kept.add(Arc::clone(delta)).await;
                let applied = net.change(Arc::clone(delta)).await;
                if long && let Some(snapshot) = net.snapshot() {
                    self.kept.write(Arc::new(snapshot)).await;
                }
                applied
            }
        };
        if applied.generation != wanted.generation() {
            self.inbox.with(Waiting::lost);
        }
        self.retire_others(&applied.failures).await;
        report(&applied, &wanted, telemetry, node, start_ns)
    }

    /// Stops answering DNS; maps and links stay.
    pub async fn shutdown(&self) {
        if let Some(node) = &self.node
            && let Err(e) = node.shutdown().await
        {
            tracing::warn!(error = chain(&e), "node network did not shut down cleanly");
        }
    }
}

/// What of the overlay a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touched {
    /// Nodes or networks, and so all of it.
    Overlay,
    /// Policies, or tasks, whom they select.
    Policies,
    Neither,
}

impl Touched {
    fn by(wanted: &Wanted) -> Self {
        match wanted {
            Wanted::Change(d) if d.agents.is_empty() && d.networks.is_empty() => {
                if d.policies.is_empty() && d.tasks.is_empty() {
                    Self::Neither
                } else {
                    Self::Policies
                }
            }
            Wanted::Snapshot(_) | Wanted::Change(_) => Self::Overlay,
        }
    }
}

/// Tells what became of it, in metrics, spans and to the master.
fn report(
    applied: &Applied,
    wanted: &Wanted,
    telemetry: &Telemetry,
    node: &str,
    start_ns: u64,
) -> pb::Applied {
    let end_ns = clock::now_ns();
    let failures: Vec<String> = applied.failures.iter().map(|e| chain(e)).collect();
    telemetry.record(
        &names::VIP_MAP_UPDATE_DURATION,
        &[],
        applied.duration.as_secs_f64(),
    );
    if !failures.is_empty() {
        let attrs = [(names::ERROR_TYPE, "apply".into())];
        let n = failures.len() as u64;
        telemetry.count(&names::NET_APPLY_FAILURES, &attrs, n);
    }
    // Done once, for all that it carries: under the first, with links to the others.
    if let Some((first, others)) = wanted.causes().split_first() {
        let span = telemetry.span("vip.apply").parent(Some(first.trace));
        let span = span.links(others.iter().map(|c| c.trace)).attrs(vec![
            ("waggle.generation", wanted.generation().0.into()),
            ("waggle.node", node.into()),
            ("waggle.task.id", first.task_id.as_str().into()),
            ("waggle.map.writes", (applied.n_writes as u64).into()),
        ]);
        span.start_ns(start_ns).begin().end_at(end_ns);
    }
    pb::Applied {
        generation: applied.generation.0,
        duration_us: u64::try_from(applied.duration.as_micros()).unwrap_or(u64::MAX),
        failures,
    }
}

/// In the background, for it reads the kernel's type information; nobody waits for it.
fn watch_resets(plane: Arc<DataPlane>, telemetry: &Telemetry) {
    let attaching = Attaching::begin(telemetry, "resets");
    tokio::task::spawn_blocking(move || match plane.watch_resets() {
        Ok(()) => {
            let all = plane.programs();
            let ours = all.iter().filter(|p| p.attach.starts_with("tp_btf"));
            attaching.end(ours.map(|p| p.name), &[]);
        }
        Err(e) => {
            attaching.end([], &[chain(&e)]);
            tracing::warn!(
                error = chain(&e),
                "backends that refuse or reset are not ejected by this node's kernel"
            );
        }
    });
}

/// In the background, as [`watch_resets`].
fn observe(plane: Arc<DataPlane>, place: Arc<OnceLock<Observer>>, telemetry: &Telemetry) {
    let attaching = Attaching::begin(telemetry, "observe");
    tokio::task::spawn_blocking(move || match Observer::open(&plane) {
        Ok(observer) => {
            let refused: Vec<String> = observer.troubles().iter().map(|e| chain(e)).collect();
            attaching.end(observer.attached().iter().copied(), &refused);
            for trouble in observer.troubles() {
                tracing::warn!(
                    error = chain(trouble),
                    "figures of one kind are not had from this node's kernel"
                );
            }
            let _ = place.set(observer);
        }
        Err(e) => {
            attaching.end([], &[chain(&e)]);
            tracing::warn!(
                error = chain(&e),
                "waiting for CPUs, disks and dropped packets are not watched"
            );
        }
    });
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn load(config: &AgentConfig) -> Result<Option<Arc<DataPlane>>, AnyError> {
    let Some(cgroup_root) = config.cgroup_root.clone() else {
        return match config.dataplane {
            DataPlanePolicy::Require => Err("it needs a cgroup2 directory (cgroup_root)".into()),
            _ => Ok(None),
        };
    };
    if config.dataplane == DataPlanePolicy::Off {
        return Ok(None);
    }
    let loader = LoaderConfig {
        cgroup_root,
        pin_dir: config.pin_dir.clone(),
    };
    let opened = tokio::task::spawn_blocking(move || DataPlane::open(&loader)).await?;
    Ok(Some(Arc::new(opened?)))
}

async fn start_node(
    config: &AgentConfig,
    told: waggle_overlay::dns::Told,
) -> Result<Option<NodeNet>, AnyError> {
    if !config.network {
        return Ok(None);
    }
    let net = NodeNetConfig {
        dns_ips: config.dns.ips.clone(),
        dns_port: config.dns.port,
        forward: config.dns.forward.clone(),
        dns_health: config.dns.health,
        dns_scope: config.dns.scope.clone(),
        dns_log_one_in: config.dns.log_one_in,
        told: Some(told),
        ..NodeNetConfig::new(config.ip)
    };
    Ok(Some(NodeNet::start_resolver(net).await?))
}

/// An error with all its causes.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        out.push_str(": ");
        out.push_str(&e.to_string());
        source = e.source();
    }
    out
}

#[cfg(test)]
mod tests;
