//! Wiring: store, core, loop, sessions and HTTP servers of a leading master.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use waggle_telemetry::Telemetry;
use waggle_types::{FrameworkId, Millis, Network, Vxlan};

use crate::{
    clock::{Clock, stopwatch},
    core::{CoreConfig, Effect, LaunchLimits, MasterCore, Restored},
    error::MasterError,
    event_loop::{EventLoop, Inboxes, chain},
    framework::{Frameworks, SchedulerDoor},
    handle::MasterHandle,
    http::{self, HttpLimits},
    rpc,
    session::Sessions,
    store::{SqliteStore, Store},
    view::MasterView,
};

/// Clients of Marathon take a new connection when theirs was closed; those of Mesos end.
const MARATHON_IDLE: Duration = Duration::from_mins(2);
/// API requests that may wait for the loop; more are refused as busy.
const REQUESTS: usize = 256;
/// Session messages that may wait for the loop; more slow their agents down.
const SESSION_EVENTS: usize = 4096;
/// Calls of frameworks that may wait for the loop; more slow their callers down.
const FRAMEWORK_EVENTS: usize = 1024;
/// Calls that one connection may have open at once.
const STREAMS: u32 = 256;
/// Between two questions for the first view.
const FIRST_VIEW: Duration = Duration::from_millis(20);
/// Open subscriptions of frameworks; more are refused.
const MAX_SUBSCRIPTIONS: usize = 1200;

/// How a master runs.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    /// Cluster name.
    pub cluster: String,
    /// Node name.
    pub hostname: String,
    /// The node's address, shown to clients.
    pub ip: Ipv4Addr,
    /// Addresses of all masters, for DNS.
    pub masters: Vec<Ipv4Addr>,
    /// The store's file; its directory must exist.
    pub store: PathBuf,
    /// How often agents are to be heard.
    pub heartbeat_interval: Millis,
    /// Silence after which an agent is unreachable.
    pub agent_timeout: Millis,
    /// How long known agents are waited for after a start.
    pub recovery_grace: Millis,
    /// How long an offer stands; a hoarder gets no more than this.
    pub offer_timeout: Millis,
    /// Most deployments at once; one more is refused.
    pub max_running_deployments: usize,
    /// How services are launched.
    pub launches: LaunchLimits,
    /// The master's own region; agents of others are for frameworks that are aware of regions. `None`: regions
    /// are not looked at.
    pub region: Option<String>,
    /// Overlay networks of a new cluster; afterwards operators add and remove them.
    pub networks: BTreeMap<String, Network>,
    /// How they are carried between nodes: the same for the life of a cluster.
    pub vxlan: Vxlan,
    /// Most agents.
    pub max_agents: usize,
    /// Bounds of each HTTP listener.
    pub http: HttpLimits,
}

impl MasterConfig {
    /// Defaults: cluster `waggle`, heartbeats every 5 s, unreachable after 30 s, grace 10 s.
    pub fn new(hostname: impl Into<String>, ip: Ipv4Addr, store: impl Into<PathBuf>) -> Self {
        Self {
            cluster: "waggle".to_owned(),
            hostname: hostname.into(),
            ip,
            masters: vec![ip],
            store: store.into(),
            heartbeat_interval: Millis::from_secs(5),
            agent_timeout: Millis::from_secs(30),
            recovery_grace: Millis::from_secs(10),
            offer_timeout: Millis::from_secs(60),
            max_running_deployments: 100,
            launches: LaunchLimits::default(),
            region: None,
            networks: BTreeMap::from([
                ("dcos".to_owned(), Network::dcos()),
                ("dcos6".to_owned(), Network::dcos6()),
            ]),
            vxlan: Vxlan::default(),
            max_agents: 50_000,
            http: HttpLimits::default(),
        }
    }
}

/// Listeners of a leading master, bound by the caller.
#[derive(Debug)]
pub struct MasterListeners {
    /// Mesos and native API.
    pub mesos: TcpListener,
    /// Marathon API.
    pub marathon: TcpListener,
    /// Agent sessions and the native framework API (gRPC).
    pub session: TcpListener,
}

/// Leads until stopped. Opens the store, restores what it holds, then serves.
pub async fn run(
    config: MasterConfig,
    listeners: MasterListeners,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    let path = config.store.clone();
    let store = tokio::task::spawn_blocking(move || SqliteStore::open(&path))
        .await
        .map_err(|e| MasterError::Store(e.to_string()))?
        .map_err(|e| MasterError::Store(chain(&e)))?;
    Box::pin(run_on(config, listeners, Arc::new(store), telemetry, stop)).await
}

/// As [`run`], on any store. Who is told to give up its lead, and is the only candidate, leads again, with nothing but
/// what is stored; its listeners stay open meanwhile.
pub async fn run_on(
    config: MasterConfig,
    listeners: MasterListeners,
    store: Arc<dyn Store>,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    let listeners = Kept::new(listeners)?;
    loop {
        let round = (config.clone(), listeners.again()?, Arc::clone(&store));
        let ended = Box::pin(lead(round, telemetry.clone(), stop.clone())).await?;
        if stop.is_cancelled() || ended == Ended::Stopped {
            return Ok(());
        }
        tracing::warn!("has given up its lead, and leads again");
    }
}

/// Why a master leads no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Stopped,
    Abdicated,
}

/// Listeners that outlive a lead.
struct Kept([std::net::TcpListener; 3]);

impl Kept {
    fn new(l: MasterListeners) -> Result<Self, MasterError> {
        let std = |l: TcpListener| l.into_std().map_err(|e| listener_failed(&e));
        Ok(Self([std(l.mesos)?, std(l.marathon)?, std(l.session)?]))
    }

    fn again(&self) -> Result<MasterListeners, MasterError> {
        let one = |l: &std::net::TcpListener| {
            let again = l.try_clone().and_then(TcpListener::from_std);
            again.map_err(|e| listener_failed(&e))
        };
        let [mesos, marathon, session] = &self.0;
        Ok(MasterListeners {
            mesos: one(mesos)?,
            marathon: one(marathon)?,
            session: one(session)?,
        })
    }
}

fn listener_failed(e: &std::io::Error) -> MasterError {
    MasterError::Server(format!("a listener can't be kept: {e}"))
}

/// Leads once.
async fn lead(
    (config, listeners, store): (MasterConfig, MasterListeners, Arc<dyn Store>),
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<Ended, MasterError> {
    let telemetry = telemetry.component("waggle-master");
    let entries = store
        .range("")
        .await
        .map_err(|e| MasterError::Store(chain(&e)))?;
    let restored = Restored::load(&entries).map_err(|e| MasterError::Store(chain(&e)))?;
    let clock = Clock::start();
    let core_config = core_config(&config, &listeners, telemetry.is_exporting())?;
    tracing::info!(
        services = restored.services.len(),
        agents = restored.agents.len(),
        generation = restored.generation.0,
        "leading"
    );
    let (core, first) = MasterCore::new(core_config, restored, clock.now());

    let (handle, requests, view) = MasterHandle::channel(REQUESTS);
    let (inbox, sessions) = mpsc::channel(SESSION_EVENTS);
    let (framework_inbox, framework_events) = mpsc::channel(FRAMEWORK_EVENTS);
    // Stopped when any part ends, so that no half of a master lives on.
    let parts = stop.child_token();
    let service = Sessions::new(
        inbox,
        config.max_agents.saturating_add(config.max_agents / 4 + 16),
        config.heartbeat_interval.as_duration(),
        config.agent_timeout.as_duration() / 4,
        telemetry.clone(),
        parts.clone(),
    );
    let (first_subscription, _) = uuid::Uuid::new_v4().as_u64_pair();
    let numbers = Arc::new(AtomicU64::new(first_subscription));
    let door = SchedulerDoor::new(
        framework_inbox.clone(),
        Arc::clone(&numbers),
        MAX_SUBSCRIPTIONS,
        telemetry.clone(),
        parts.clone(),
    );
    let frameworks = Frameworks::new(
        framework_inbox,
        numbers,
        MAX_SUBSCRIPTIONS,
        config.heartbeat_interval.as_duration(),
        parts.clone(),
    );
    let newsroom = handle.newsroom().clone();
    let abdicates = handle.abdicates().clone();
    let event_loop = EventLoop::new(
        core,
        store,
        clock,
        &telemetry,
        newsroom.clone(),
        view,
        parts.clone(),
    );
    let inboxes = Inboxes {
        requests,
        sessions,
        frameworks: framework_events,
    };
    let looping = guarded(&parts, async {
        let ended = on_its_own_thread(event_loop, first, inboxes, &parts).await;
        newsroom.close();
        ended
    });
    let sessions = guarded(&parts, async {
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(config.heartbeat_interval.as_duration()))
            .http2_keepalive_timeout(Some(config.agent_timeout.as_duration()))
            .max_concurrent_streams(Some(STREAMS))
            .layer(rpc::Observed(telemetry.clone()))
            .add_service(service)
            .add_service(frameworks.into_service())
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listeners.session).with_nodelay(Some(true)),
                parts.cancelled(),
            )
            .await
            .map_err(|e| MasterError::Server(format!("the session server failed: {}", chain(&e))))
    });
    let first = |handle: &MasterHandle| first_view(handle.clone(), parts.clone());
    let mesos = guarded(
        &parts,
        serve_http(
            first(&handle),
            listeners.mesos,
            http::mesos_router(handle.clone(), Some(door), telemetry.clone()),
            config.http,
            &telemetry,
            parts.clone(),
        ),
    );
    let marathon = guarded(
        &parts,
        serve_http(
            first(&handle),
            listeners.marathon,
            http::marathon_router(handle, telemetry.clone()),
            HttpLimits {
                idle_timeout: config.http.idle_timeout.min(MARATHON_IDLE),
                ..config.http
            },
            &telemetry,
            parts.clone(),
        ),
    );
    let watching = guarded(&parts, async {
        tokio::select! {
            () = abdicates.cancelled() => {}
            () = parts.cancelled() => {}
        }
        Ok(())
    });
    tokio::try_join!(looping, sessions, mesos, marathon, watching)?;
    Ok(if abdicates.is_cancelled() {
        Ended::Abdicated
    } else {
        Ended::Stopped
    })
}

/// Runs the loop on a thread of its own: what it answers must not wait behind the sessions of all agents that
/// have something to say at that moment.
async fn on_its_own_thread(
    event_loop: EventLoop,
    first: Vec<Effect>,
    inboxes: Inboxes,
    parts: &CancellationToken,
) -> Result<(), MasterError> {
    let (runtime, stop) = (tokio::runtime::Handle::current(), parts.clone());
    let thread = move || runtime.block_on(event_loop.run(first, inboxes, stop));
    let ended = tokio::task::spawn_blocking(thread).await;
    ended.map_err(|e| MasterError::Server(format!("the event loop failed: {e}")))
}

/// Runs a part; however it ends, the others are told to stop.
async fn guarded<T>(
    parts: &CancellationToken,
    part: impl Future<Output = Result<T, MasterError>>,
) -> Result<T, MasterError> {
    let _stop = parts.clone().drop_guard();
    part.await
}

/// Waits until there is something to read: an empty cluster would be told of one that is only not looked at yet.
async fn first_view(handle: MasterHandle, parts: CancellationToken) {
    let mut views = handle.subscribe();
    // Views are made for who asks.
    let asking = async {
        let mut again = tokio::time::interval(FIRST_VIEW);
        loop {
            again.tick().await;
            handle.fresh().await;
        }
    };
    tokio::select! {
        // The loop is gone, or all is to stop: serving ends at once.
        _ = views.wait_for(|v| v.leader.is_some()) => {}
        () = parts.cancelled() => {}
        () = asking => {}
    }
}

async fn serve_http(
    ready: impl Future<Output = ()>,
    listener: TcpListener,
    router: axum::Router,
    limits: HttpLimits,
    telemetry: &Telemetry,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    ready.await;
    http::serve(listener, router, limits, telemetry.clone(), stop).await;
    Ok(())
}

/// The core's configuration with fresh ids and seeds.
fn core_config(
    config: &MasterConfig,
    listeners: &MasterListeners,
    exporting: bool,
) -> Result<CoreConfig, MasterError> {
    let port = |l: &TcpListener| {
        l.local_addr()
            .map(|a| a.port())
            .map_err(|e| MasterError::Server(format!("a listener has no address: {e}")))
    };
    let id = uuid::Uuid::new_v4();
    let master = MasterView {
        id: id.to_string(),
        hostname: config.hostname.clone(),
        ip: config.ip,
        mesos_port: port(&listeners.mesos)?,
        marathon_port: port(&listeners.marathon)?,
    };
    let framework_id = FrameworkId::new(format!("{}-0000", uuid::Uuid::new_v4()))
        .map_err(|e| MasterError::Server(format!("cannot make a framework id: {e}")))?;
    let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
    let mut core = CoreConfig::new(master, framework_id, seed);
    core.cluster.clone_from(&config.cluster);
    core.masters.clone_from(&config.masters);
    core.heartbeat_interval = config.heartbeat_interval;
    core.agent_timeout = config.agent_timeout;
    core.recovery_grace = config.recovery_grace;
    core.offer_timeout = config.offer_timeout;
    core.max_running_deployments = config.max_running_deployments;
    core.launches = config.launches;
    core.region.clone_from(&config.region);
    core.networks.clone_from(&config.networks);
    core.vxlan = config.vxlan;
    core.max_agents = config.max_agents;
    core.stopwatch = stopwatch;
    if !exporting {
        core.max_own_traces = 0;
    }
    Ok(core)
}
