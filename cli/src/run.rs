//! `waggle node|master|agent`: parse, validate, build, run, drain.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, anyhow};
use futures::future::BoxFuture;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use waggle_agent::{
    AgentConfig, AgentError, AgentListeners, DataPlanePolicy, ResourceOverrides,
    telemetry::{Guard, Telemetry, TelemetryConfig},
};
use waggle_master::{
    MasterConfig, MasterListeners,
    redirect::{self, Leader, RedirectListeners},
};
use waggle_types::{Millis, ScalarKind};

use crate::{
    args::RunArgs,
    config::{self, Settings},
    error::{CliError, usage},
    listen,
};

/// How long halves may take to stop after the signal.
const DRAIN: Duration = Duration::from_secs(10);
/// How long telemetry may take to ship what it holds.
const FLUSH: Duration = Duration::from_secs(3);

/// Which halves of a node this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Agent and master candidate.
    Both,
    /// Master candidate alone.
    Master,
    /// Agent alone.
    Agent,
}

/// What a node runs, once it is begun.
type Halves = Vec<BoxFuture<'static, anyhow::Result<()>>>;

/// Runs a node until SIGTERM or SIGINT, or until a half fails.
pub fn node(flags: &RunArgs, half: Half) -> Result<(), CliError> {
    let settings = config::settings(flags)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run(settings, half))
}

async fn run(settings: Settings, half: Half) -> Result<(), CliError> {
    if half != Half::Master && settings.overlay.encrypt.is_some() {
        // Before anything is bound or led: it is the kernel that is missing something, and another flag is the way out.
        let ip = settings.ip;
        let looked = tokio::task::spawn_blocking(move || waggle_agent::can_encrypt(ip)).await;
        looked
            .context("cannot look for WireGuard")?
            .map_err(|e| usage(e.to_string()))?;
    }
    let (telemetry, guard) = start_telemetry(&settings)?;
    let stop = CancellationToken::new();
    let mut halves = Halves::new();
    if half != Half::Agent {
        start_master(&settings, &telemetry, &stop, &mut halves).await?;
    }
    if half == Half::Master {
        // A whole node's page is its agent's, with the master's figures on it.
        start_page(&settings, &telemetry, &stop, &mut halves).await?;
    }
    if half != Half::Master {
        start_agent(&settings, &telemetry, &stop, &mut halves).await?;
    }
    // Only now, when every address is ours: a master that can't have its page must not lead for a moment.
    let mut halves: JoinSet<_> = halves.into_iter().collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = settings.name,
        ip = %settings.ip,
        leads = settings.leads(),
        masters = ?settings.masters,
        "waggle started"
    );
    let result = until_stopped(&stop, &mut halves).await;
    report_losses(guard).await;
    result.map_err(as_usage)
}

/// A setting that can't work here is for the user to mend, though it took a start to see it.
fn as_usage(error: anyhow::Error) -> CliError {
    match error.downcast_ref() {
        Some(AgentError::Config(_)) => usage(format!("{error:#}")),
        _ => error.into(),
    }
}

fn start_telemetry(s: &Settings) -> Result<(Telemetry, Guard), CliError> {
    let mut config = TelemetryConfig::new("waggle-agent", &s.name, &s.cluster);
    config.otlp.clone_from(&s.otlp);
    config.budget = s.budget;
    config.filter.clone_from(&s.log);
    config.json_logs = s.log_json;
    config.metric_interval = s.tick;
    config.spool.clone_from(&s.spool);
    // What can fail here is what the operator wrote: the endpoint, the filter or the spool's directory.
    Telemetry::start(&config).map_err(|e| CliError::Usage(format!("{:#}", anyhow::Error::from(e))))
}

async fn start_master(
    s: &Settings,
    telemetry: &Telemetry,
    stop: &CancellationToken,
    halves: &mut Halves,
) -> Result<(), CliError> {
    let mesos = listen::bind("master API", s.http_address, s.ports.master).await?;
    let marathon = listen::bind("Marathon API", s.http_address, s.ports.marathon).await?;
    let stop = stop.clone();
    if !s.leads() {
        let ip = s.masters.first().map_or(IpAddr::V4(s.ip), SocketAddr::ip);
        let leader = Leader {
            mesos: SocketAddr::new(ip, s.ports.master),
            marathon: SocketAddr::new(ip, s.ports.marathon),
        };
        halves.push(Box::pin(async move {
            redirect::run(leader, RedirectListeners { mesos, marathon }, stop)
                .await
                .context("the master candidate failed")
        }));
        return Ok(());
    }
    let session = listen::bind("agents' session", s.http_address, s.ports.session).await?;
    let mut config = MasterConfig::new(&s.name, s.ip, master_dir(s)?.join("store.db"));
    config.cluster.clone_from(&s.cluster);
    config.masters = s
        .masters
        .iter()
        .filter_map(|m| match m.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    config.region = s.domain.as_ref().map(|d| d.region.clone());
    config.vxlan = s.overlay.vxlan;
    config.networks.clone_from(&s.overlay.networks);
    let millis = |d: Duration| Millis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    config.agent_timeout = millis(s.agent_timeout);
    config.offer_timeout = millis(s.offer_timeout);
    config.max_running_deployments = s.max_running_deployments;
    config.launches = s.launches;
    let telemetry = telemetry.component("waggle-master");
    halves.push(Box::pin(async move {
        let listeners = MasterListeners {
            mesos,
            marathon,
            session,
        };
        waggle_master::run(config, listeners, telemetry, stop)
            .await
            .context("the master failed")
    }));
    Ok(())
}

async fn start_page(
    s: &Settings,
    telemetry: &Telemetry,
    stop: &CancellationToken,
    halves: &mut Halves,
) -> Result<(), CliError> {
    let listener = listen::bind("Prometheus page", s.http_address, s.ports.metrics).await?;
    let (telemetry, stop) = (telemetry.clone(), stop.clone());
    halves.push(Box::pin(async move {
        let page = waggle_agent::serve_metrics(listener, telemetry);
        stop.run_until_cancelled(page).await;
        Ok(())
    }));
    Ok(())
}

async fn start_agent(
    s: &Settings,
    telemetry: &Telemetry,
    stop: &CancellationToken,
    halves: &mut Halves,
) -> Result<(), CliError> {
    let http = listen::bind("agent API", s.http_address, s.ports.agent).await?;
    let metrics = listen::bind("Prometheus page", s.http_address, s.ports.metrics).await?;
    let otlp = match s.ports.otlp.filter(|_| telemetry.is_exporting()) {
        Some(port) => Some(listen::bind("OTLP of tasks", IpAddr::V4(s.ip), port).await?),
        None => None,
    };
    let statsd = match s.ports.statsd.filter(|_| telemetry.is_exporting()) {
        Some(port) => Some(listen::bind_udp("statsd of tasks", IpAddr::V4(s.ip), port).await?),
        None => None,
    };
    let mut config = AgentConfig::new(&s.name, s.ip, s.masters.clone(), &s.work_dir.join("agent"));
    config.ip6 = s.ip6;
    config.cluster.clone_from(&s.cluster);
    config.cgroup_root = s
        .cgroup_root
        .clone()
        .or_else(waggle_agent::find_cgroup2_mount);
    config.pin_dir.clone_from(&s.bpf_dir);
    config.dataplane = if s.require_dataplane {
        DataPlanePolicy::Require
    } else {
        DataPlanePolicy::Prefer
    };
    // For programs on the node, as dcos-net's.
    let dns = if s.dns.ips.is_empty() {
        None
    } else {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Some(listen::bind("DNS API", loopback, s.ports.dns).await?)
    };
    config.dns.clone_from(&s.dns);
    config.edge.clone_from(&s.edge);
    config.packet_devices.clone_from(&s.packet_vips);
    config.overlay = s.overlay.takes_part;
    config.encrypt = s.overlay.encrypt;
    config.resources = resources(s);
    config.domain.clone_from(&s.domain);
    config.attributes.clone_from(&s.attributes);
    config.runtime.clone_from(&s.runtime);
    config.policy.clone_from(&s.policy);
    config.networks.clone_from(&s.networks);
    config.cpu_hard_limits = s.cpu_hard_limits;
    config.reconfiguration = s.reconfiguration;
    config.images.clone_from(&s.images);
    config.flows.clone_from(&s.flows);
    config.trace_requests = s.trace_requests;
    config.trace_inject = s.trace_inject;
    config.gpu_devices.clone_from(&s.gpu_devices);
    config.storage.clone_from(&s.storage);
    config.fetch.clone_from(&s.fetch);
    config.logs.clone_from(&s.logs);
    config.tick = s.tick;
    let telemetry = telemetry.clone();
    let stop = stop.clone();
    halves.push(Box::pin(async move {
        let listeners = AgentListeners {
            http,
            metrics,
            otlp,
            statsd,
            dns,
        };
        // It holds the state of a whole node.
        Box::pin(waggle_agent::run(config, listeners, telemetry, stop))
            .await
            .context("the agent failed")
    }));
    Ok(())
}

/// A kind that is named is not detected, even if all of it is for some role.
fn resources(s: &Settings) -> ResourceOverrides {
    let given = &s.resources;
    let scalar = |kind: ScalarKind| {
        let named = given.named.contains(kind.name());
        named.then(|| given.unreserved.get(kind))
    };
    let ports = given.named.contains("ports");
    ResourceOverrides {
        cpus: scalar(ScalarKind::Cpus),
        mem: scalar(ScalarKind::Mem),
        disk: scalar(ScalarKind::Disk),
        gpus: scalar(ScalarKind::Gpus),
        ports: ports.then(|| given.unreserved.ports.clone()),
        custom: given.unreserved.custom.clone(),
        reserved: given.reserved.clone(),
    }
}

/// Where the store is; made when it is not there.
fn master_dir(s: &Settings) -> anyhow::Result<PathBuf> {
    let dir = s.work_dir.join("master");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Waits for a signal or a failed half, then stops the others within [`DRAIN`].
async fn until_stopped(
    stop: &CancellationToken,
    halves: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let first = tokio::select! {
        _ = term.recv() => { info!("stopping on SIGTERM"); Ok(()) }
        _ = int.recv() => { info!("stopping on SIGINT"); Ok(()) }
        Some(ended) = halves.join_next() => flatten(ended).and(Err(anyhow!("a half of the node ended by itself"))),
    };
    stop.cancel();
    let rest = async {
        let mut result = first;
        while let Some(ended) = halves.join_next().await {
            result = result.and(flatten(ended));
        }
        result
    };
    match tokio::time::timeout(DRAIN, rest).await {
        Ok(result) => result,
        Err(_) => Err(anyhow!(
            "the node did not stop within {DRAIN:?}; tasks go on"
        )),
    }
}

fn flatten(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    ended.context("a half of the node panicked")?
}

async fn report_losses(guard: Guard) {
    let losses = guard.shutdown(FLUSH).await;
    if !losses.balanced() {
        error!(?losses, "telemetry lost count of its items");
    }
}
