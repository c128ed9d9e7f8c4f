//! A node's part in traffic from outside: an edge that balances it, and the other end that takes it out.
//!
//! [`EdgeNet`] is given the node's VIP table whenever that changes. What is to be written comes from
//! `waggle-overlay-plan` (`maglev`); here it is executed, and windows are closed as time passes.

pub(crate) mod link;
mod neighbors;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use waggle_ebpf::{
    LoadError,
    edge::{EdgeConfig, EdgePlane, EdgeTables, NodePlane, Served},
};
use waggle_ebpf_common::edge as abi;
use waggle_overlay_plan::{
    VipTable,
    maglev::{
        EdgeAdopted, EdgeBackend, EdgeError, EdgePlan, EdgePlanConfig, EdgeService, EdgeWrite,
    },
};
use waggle_types::{EdgeRing, UnixMillis, VipKey};

pub use link::{Link, LinkError};
pub use waggle_ebpf::edge::EdgeMode;

/// How often windows, marks and next hops are looked at.
const TICK: Duration = Duration::from_secs(5);
/// How long an edge with nothing of its own waits to hear of other edges' rings.
const HOLD: Duration = Duration::from_secs(4);

/// What a node is to traffic from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeNetConfig {
    /// Underlay address.
    pub node_ip: Ipv4Addr,
    /// Directory on a bpffs for the pins.
    pub pin_dir: PathBuf,
    /// The device that it comes and goes by.
    pub uplink: String,
    /// This node is an edge, in this mode.
    pub edge: Option<EdgeMode>,
    /// Edges whose packets are taken out here, besides this one.
    pub edges: BTreeSet<Ipv4Addr>,
}

/// Why a node's part could not be started, or a change not be made.
#[derive(Debug, thiserror::Error)]
pub enum EdgeNetError {
    /// The uplink is not there, or not as it must be.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused.
    #[error("edge: {0}")]
    Load(#[from] LoadError),
    /// A table has no room.
    #[error(transparent)]
    Plan(#[from] EdgeError),
}

struct Edge {
    plane: EdgePlane,
    plan: EdgePlan,
    /// Flows that were remembered when they were last counted: counting reads them all.
    flows: usize,
}

struct State {
    edge: Option<Edge>,
    node: NodePlane,
    served: BTreeSet<Served>,
    /// The last table, for when next hops change.
    table: VipTable,
    /// Whether there was one.
    desired: bool,
    /// An edge that has nothing begins when it has heard what others have, or at this time.
    hold_until: Option<Instant>,
}

struct Shared {
    config: EdgeNetConfig,
    /// Origin of the plan's time.
    started: Instant,
    state: Mutex<State>,
    stop: CancellationToken,
}

/// A node's part in traffic from outside. Dropped, it stops watching; programs and tables stay.
pub struct EdgeNet {
    shared: Arc<Shared>,
}

impl EdgeNet {
    /// Loads and attaches what the configuration asks for, and adopts what the tables hold. Nothing is written before
    /// the first [`EdgeNet::sync`].
    ///
    /// # Errors
    /// [`EdgeNetError`]; what was attached before stays.
    pub async fn start(config: EdgeNetConfig) -> Result<Self, EdgeNetError> {
        let link = link::find(&config.uplink).await?;
        let shared = tokio::task::spawn_blocking(move || open(config, &link)).await;
        // Only a runtime that shuts down ends it otherwise.
        let shared = Arc::new(shared.map_err(|_| LinkError::Runtime)??);
        let ticking = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = ticking.stop.cancelled() => return,
                    () = tokio::time::sleep(TICK) => {}
                }
                let shared = Arc::clone(&ticking);
                let done = tokio::task::spawn_blocking(move || shared.tick()).await;
                for error in done.unwrap_or_default() {
                    tracing::warn!(%error, "the edge's tables are not as they should be");
                }
            }
        });
        Ok(Self { shared })
    }

    /// Removes what an earlier run left, on a node that is no part of it any more.
    ///
    /// # Errors
    /// [`LoadError`] for what could not be removed.
    pub fn remove(pin_dir: &std::path::Path) -> Result<(), LoadError> {
        EdgePlane::remove(&pin_dir.join("edge"))?;
        NodePlane::remove(&pin_dir.join("dsr"))
    }

    /// Brings the tables to a VIP table. What failed is tried again with the next one, and with time.
    ///
    /// An edge that starts with nothing begins to serve when it has heard of the others ([`EdgeNet::learn`]), or 4 s after its start.
    pub async fn sync(&self, table: VipTable) -> Vec<EdgeNetError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || shared.sync(table)).await;
        done.unwrap_or_default()
    }
}

impl EdgeNet {
    /// How other edges know it: its underlay address.
    pub fn name(&self) -> String {
        self.shared.config.node_ip.to_string()
    }

    /// Slots that changed lately, for edges that start; `None` on a node that is no edge.
    pub fn marks(&self) -> Option<Vec<EdgeRing>> {
        let state = self.shared.lock();
        let edge = state.edge.as_ref()?;
        Some(edge.plan.marks(self.shared.now()))
    }

    /// Takes what other edges have, for VIPs that this one does not serve yet.
    pub async fn learn(&self, rings: Vec<EdgeRing>) -> Vec<EdgeNetError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || shared.learn(&rings)).await;
        done.unwrap_or_default()
    }

    /// What the kernel has counted. Blocking.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn read(&self) -> Result<EdgeReading, LoadError> {
        let state = self.shared.lock();
        let mut out = EdgeReading {
            deliveries: state.node.counts()?,
            ..EdgeReading::default()
        };
        let Some(edge) = &state.edge else {
            return Ok(out);
        };
        let counters = edge.plane.counters();
        for (key, record) in edge.plan.records() {
            out.vips.push((key, counters.traffic(record.vip_id)?));
        }
        let names = abi::reason::NAMES.iter().copied();
        out.events = names.zip(counters.counts()?).collect();
        out.flows = Some(edge.flows);
        Ok(out)
    }
}

/// What the kernel has counted of traffic from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeReading {
    /// By VIP, where this node is an edge.
    pub vips: Vec<(VipKey, abi::Traffic)>,
    /// Unusual packets by reason, where this node is an edge.
    pub events: Vec<(&'static str, u64)>,
    /// Flows remembered for changed slots when last counted, where this node is an edge.
    pub flows: Option<usize>,
    /// Packets of edges by what became of them.
    pub deliveries: Vec<(&'static str, u64)>,
}

impl Drop for EdgeNet {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

fn open(config: EdgeNetConfig, link: &Link) -> Result<Shared, EdgeNetError> {
    let node = NodePlane::open(&config.pin_dir.join("dsr"))?;
    node.attach(link.index)?;
    let edges = config.edges.iter().copied();
    let own = config.edge.map(|_| config.node_ip);
    node.set_edges(&edges.chain(own).collect())?;
    let edge = match config.edge {
        None => {
            EdgePlane::remove(&config.pin_dir.join("edge"))?;
            None
        }
        Some(mode) => {
            let plane = EdgePlane::open(&EdgeConfig::new(config.pin_dir.join("edge")))?;
            let mut planned = EdgePlanConfig::new(config.node_ip, link.mac, link.mtu);
            let tables = plane.tables();
            planned.records = tables.record_capacity();
            planned.slots = tables.slot_capacity();
            planned.backends = tables.backend_capacity();
            let plan = EdgePlan::adopt(planned, found(tables)?, UnixMillis(1));
            plane.attach(link.index, mode)?;
            Some(Edge {
                plane,
                plan,
                flows: 0,
            })
        }
    };
    let served = node.served()?;
    let others = config.edges.iter().any(|ip| *ip != config.node_ip);
    let begins = edge
        .as_ref()
        .is_some_and(|e| e.plan.records().next().is_none());
    let hold_until = (others && begins).then(|| Instant::now() + HOLD);
    Ok(Shared {
        config,
        started: Instant::now(),
        state: Mutex::new(State {
            edge,
            node,
            served,
            table: VipTable::new(),
            desired: false,
            hold_until,
        }),
        stop: CancellationToken::new(),
    })
}

/// What the tables hold.
fn found(tables: &EdgeTables) -> Result<Vec<EdgeAdopted>, LoadError> {
    tables
        .list()?
        .into_iter()
        .map(|(_, record, value)| {
            let backends = (0..value.places)
                .map(|n| tables.backend(value.backend_base + n))
                .collect::<Result<_, _>>()?;
            Ok(EdgeAdopted {
                record,
                value,
                slots: tables.slots(value.ring_base, value.ring_size)?,
                backends,
            })
        })
        .collect()
}

impl Shared {
    /// A second origin, so that no time is 0.
    fn now(&self) -> UnixMillis {
        UnixMillis(1 + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self, table: VipTable) -> Vec<EdgeNetError> {
        let mut state = self.lock();
        state.table = table;
        state.desired = true;
        self.bring(&mut state)
    }

    fn learn(&self, rings: &[EdgeRing]) -> Vec<EdgeNetError> {
        let mut state = self.lock();
        state.hold_until = None;
        if let Some(edge) = &mut state.edge {
            edge.plan.learn(rings, self.now());
        }
        if state.desired {
            self.bring(&mut state)
        } else {
            Vec::new()
        }
    }

    fn tick(&self) -> Vec<EdgeNetError> {
        let mut state = self.lock();
        if !state.desired {
            return Vec::new();
        }
        let now = self.now();
        let mut errors = self.bring(&mut state);
        if let Some(edge) = &mut state.edge {
            errors.extend(settle(edge, now).err().map(EdgeNetError::from));
        }
        errors
    }

    /// Backends first: what an edge sends must find them. Then the edge, then what is no longer served.
    fn bring(&self, state: &mut State) -> Vec<EdgeNetError> {
        let mut errors = Vec::new();
        let wanted = served_here(&state.table, self.config.node_ip);
        for served in wanted.difference(&state.served) {
            errors.extend(state.node.serve(served).err().map(EdgeNetError::from));
        }
        state.hold_until = state.hold_until.filter(|at| Instant::now() < *at);
        if let Some(edge) = &mut state.edge
            && state.hold_until.is_none()
        {
            let next_hops = neighbors::of(&self.config.uplink);
            let services = services(&state.table, self.config.node_ip, &next_hops);
            neighbors::ask(
                services
                    .values()
                    .flat_map(|service| service.backends.values())
                    .filter(|backend| backend.next_hop.is_none() && !backend.is_local)
                    .map(|backend| backend.node)
                    .collect(),
            );
            let planned = edge.plan.apply(&services, self.now());
            errors.extend(planned.failures.into_iter().map(EdgeNetError::from));
            let written = execute(edge.plane.tables(), &planned.writes);
            errors.extend(written.err().map(EdgeNetError::from));
        }
        for served in state.served.difference(&wanted) {
            errors.extend(state.node.forget(served).err().map(EdgeNetError::from));
        }
        state.served = wanted;
        errors
    }
}

/// Closes windows that have passed, and takes marks off slots of which nothing else is remembered.
fn settle(edge: &mut Edge, now: UnixMillis) -> Result<(), LoadError> {
    if edge.plan.is_settled() {
        // What is still remembered is never looked up.
        edge.flows = 0;
        return Ok(());
    }
    // Flows by VIP and slot; what is remembered of others is nobody's.
    let mut by_key: BTreeMap<u64, Vec<(abi::FlowKey, abi::Flow)>> = BTreeMap::new();
    let flows = edge.plane.counters().flows()?;
    edge.flows = flows.len();
    for (flow, value) in flows {
        // The destination's, as it stands in the packet.
        let port = u16::try_from(flow.ports >> 16).unwrap_or(0);
        let proto = u8::try_from(flow.proto).unwrap_or(0);
        let key = abi::key(flow.dst, port, proto);
        by_key.entry(key).or_default().push((flow, value));
    }
    let records: BTreeMap<VipKey, abi::Record> = edge.plan.records().collect();
    let remembered = |key: &VipKey| {
        let mut slots: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
        let Some(record) = records.get(key) else {
            return slots;
        };
        for (flow, value) in by_key.get(&record.key).into_iter().flatten() {
            let hash = abi::hash(flow.src, flow.ports & record.port_mask, record.seed);
            let slot = abi::slot_of(hash, record.ring_size);
            slots.entry(slot).or_default().insert(value.owner);
        }
        slots
    };
    let writes = edge.plan.settle(remembered, now);
    execute(edge.plane.tables(), &writes)
}

/// VIPs with the backends that are here.
fn served_here(table: &VipTable, node_ip: Ipv4Addr) -> BTreeSet<Served> {
    table
        .iter()
        .filter_map(|(key, set)| match key.ip {
            IpAddr::V4(ip) => Some((SocketAddrV4::new(ip, key.port), key.protocol, set)),
            IpAddr::V6(_) => None,
        })
        .flat_map(|(vip, protocol, set)| {
            v4(set.backends.keys())
                .filter(|backend| *backend.ip() == node_ip)
                .map(move |backend| Served {
                    vip,
                    backend,
                    proto: protocol.number(),
                })
        })
        .collect()
}

fn v4<'a>(addrs: impl Iterator<Item = &'a SocketAddr>) -> impl Iterator<Item = SocketAddrV4> {
    addrs.filter_map(|addr| match addr {
        SocketAddr::V4(addr) => Some(*addr),
        SocketAddr::V6(_) => None,
    })
}

/// What an edge serves. Weights are as they will be: an edge's flows come from many clients, and a new backend's
/// slow start is not played here.
fn services(
    table: &VipTable,
    node_ip: Ipv4Addr,
    next_hops: &BTreeMap<Ipv4Addr, [u8; 6]>,
) -> BTreeMap<VipKey, EdgeService> {
    table
        .iter()
        .filter(|(key, _)| key.ip.is_ipv4())
        .map(|(key, set)| {
            let backends = set
                .backends
                .iter()
                .filter_map(|(addr, share)| {
                    let SocketAddr::V4(addr) = addr else {
                        return None;
                    };
                    let node = *addr.ip();
                    let backend = EdgeBackend {
                        node,
                        next_hop: next_hops.get(&node).copied(),
                        is_local: node == node_ip,
                        weight: share.weight_milli,
                    };
                    Some((*addr, backend))
                })
                .collect();
            let service = EdgeService {
                backends,
                affinity: set.affinity_s > 0,
                ranges: (!set.sources.is_empty())
                    .then(|| set.sources.iter().map(|s| (s.net, s.prefix)).collect()),
            };
            (*key, service)
        })
        .collect()
}

/// Carries out writes, in order, up to the first that fails.
fn execute(tables: &EdgeTables, writes: &[EdgeWrite]) -> Result<(), LoadError> {
    for write in writes {
        match write {
            EdgeWrite::SetBackends { base, backends } => tables.set_backends(*base, backends)?,
            EdgeWrite::Retire { at } => tables.retire(*at)?,
            EdgeWrite::SetNextHop { at, mac } => tables.set_next_hop(*at, *mac)?,
            EdgeWrite::SetSlots { base, slots } => tables.set_slots_at(*base, slots)?,
            EdgeWrite::SetRecord { at, record } => tables.set_record(*at, record)?,
            EdgeWrite::Publish { key, record } => tables.publish(*key, *record)?,
            EdgeWrite::Withdraw { key } => tables.withdraw(*key)?,
            EdgeWrite::Allow { range, prefix } => tables.allow(*range, *prefix)?,
            EdgeWrite::Disallow { range, prefix } => tables.disallow(*range, *prefix)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_overlay_plan::{BackendSet, Share};
    use waggle_types::Protocol;

    #[test]
    fn a_table_becomes_services_and_what_is_served_here() {
        let here = Ipv4Addr::new(10, 0, 0, 1);
        let there = Ipv4Addr::new(10, 0, 0, 2);
        let key = |ip: IpAddr| VipKey {
            protocol: Protocol::Tcp,
            ip,
            port: 80,
        };
        let web = key(Ipv4Addr::new(11, 0, 0, 1).into());
        let backends = BTreeMap::from([
            (SocketAddr::from((here, 31_000)), Share::ONE),
            (SocketAddr::from((there, 31_001)), Share::DRAINING),
        ]);
        let set = BackendSet {
            backends,
            affinity_s: 60,
            ..BackendSet::default()
        };
        let six = key(IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, 1]));
        let table = VipTable::from([(web, set.clone()), (six, set)]);
        let hops = BTreeMap::from([(there, [2, 0, 0, 0, 0, 2])]);
        let services = services(&table, here, &hops);
        assert_eq!(services.keys().collect::<Vec<_>>(), [&web]);
        let service = &services[&web];
        assert!(service.affinity);
        let of = |ip, port| service.backends[&SocketAddrV4::new(ip, port)];
        assert!(of(here, 31_000).is_local && of(here, 31_000).weight > 0);
        assert_eq!(
            (of(there, 31_001).next_hop, of(there, 31_001).weight),
            (Some([2, 0, 0, 0, 0, 2]), 0)
        );
        let served = Served {
            vip: SocketAddrV4::new(Ipv4Addr::new(11, 0, 0, 1), 80),
            backend: SocketAddrV4::new(here, 31_000),
            proto: 6,
        };
        assert_eq!(served_here(&table, here), BTreeSet::from([served]));
    }
}
