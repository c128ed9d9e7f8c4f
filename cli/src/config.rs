//! From flags and a file to checked settings; nothing is opened or bound here but the file.

mod containers;
mod devices;
mod images;
mod launches;
mod logs;
mod overlay;
mod storage;
mod telemetry;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use waggle_agent::telemetry::{Destination, SpoolConfig, pipeline::Cost};
use waggle_agent::{
    DnsSettings, EdgeSettings, FetchSettings, FlowLogConfig, LogSettings, NetworkSettings,
    NodePolicy, Reconfiguration, RuntimeSettings, StorageSettings, TraceInject, TraceRequests,
    images::ImageSettings,
};
use waggle_master::LaunchLimits;
use waggle_types::Domain;

use launches::launches;
use overlay::OverlaySettings;

use crate::{
    args::RunArgs,
    dns,
    error::{CliError, usage},
    node::{ResourceOverrides, domain, resources},
    times,
};

/// Longest interval and time-out of a node.
const DAY: Duration = Duration::from_hours(24);

/// Everything that a node needs to know about itself, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Node name.
    pub name: String,
    /// Cluster name.
    pub cluster: String,
    /// Underlay address.
    pub ip: Ipv4Addr,
    /// The same over IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Session listeners of the masters, the leading one first.
    pub masters: Vec<SocketAddr>,
    /// Where plain listeners bind.
    pub http_address: IpAddr,
    /// Ports of the listeners.
    pub ports: Ports,
    /// State.
    pub work_dir: PathBuf,
    /// cgroup2 directory, `None` to choose by the machine.
    pub cgroup_root: Option<PathBuf>,
    /// Pins.
    pub bpf_dir: PathBuf,
    /// OTLP endpoint.
    pub otlp: Vec<Destination>,
    /// What telemetry may cost.
    pub budget: Cost,
    /// Where telemetry waits on disk.
    pub spool: Option<SpoolConfig>,
    /// Which connections are remembered.
    pub flows: FlowLogConfig,
    /// Whose requests become spans.
    pub trace_requests: TraceRequests,
    /// Whether a `traceparent` may be put into requests.
    pub trace_inject: TraceInject,
    /// Collection interval.
    pub tick: Duration,
    /// Silence until unreachable.
    pub agent_timeout: Duration,
    /// Age at which an offer is taken back.
    pub offer_timeout: Duration,
    /// Most deployments at once.
    pub max_running_deployments: usize,
    /// How services are launched.
    pub launches: LaunchLimits,
    /// Resources that replace detected ones, by name.
    pub resources: ResourceOverrides,
    /// Attributes.
    pub attributes: BTreeMap<String, String>,
    /// Region and zone.
    pub domain: Option<Domain>,
    /// The resolver; without addresses none runs.
    pub dns: DnsSettings,
    /// The node's part in traffic from outside.
    pub edge: Option<EdgeSettings>,
    /// Devices with VIPs per packet.
    pub packet_vips: BTreeSet<String>,
    /// How tasks with images are run.
    pub runtime: RuntimeSettings,
    /// What tasks may ask for.
    pub policy: NodePolicy,
    /// Networks of the node's own.
    pub networks: NetworkSettings,
    /// Overlay networks.
    pub overlay: OverlaySettings,
    /// Whether CPUs are a ceiling.
    pub cpu_hard_limits: bool,
    /// What of the node may be other than before.
    pub reconfiguration: Reconfiguration,
    /// Where images come from, and how many stay.
    pub images: ImageSettings,
    /// Device nodes of GPUs; `None`: those that are found.
    pub gpu_devices: Option<Vec<PathBuf>>,
    /// Disks and drivers of storage.
    pub storage: StorageSettings,
    /// What is put into sandboxes.
    pub fetch: FetchSettings,
    /// Tasks' output, the journal.
    pub logs: LogSettings,
    /// Whether to refuse without eBPF.
    pub require_dataplane: bool,
    /// Log filter.
    pub log: String,
    /// JSON logs.
    pub log_json: bool,
}

/// One port for each listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Mesos-style master API.
    pub master: u16,
    /// Agent API.
    pub agent: u16,
    /// Agents' session.
    pub session: u16,
    /// Marathon API.
    pub marathon: u16,
    /// Prometheus page.
    pub metrics: u16,
    /// OTLP of tasks, unless none is taken.
    pub otlp: Option<u16>,
    /// statsd of tasks, unless none is taken.
    pub statsd: Option<u16>,
    /// dcos-net's API about names.
    pub dns: u16,
}

impl Settings {
    /// Whether this node is the master that leads: with the embedded store that is the first of the list.
    pub fn leads(&self) -> bool {
        self.masters
            .first()
            .is_some_and(|m| m.ip() == IpAddr::V4(self.ip))
    }
}

/// Reads the file that the flags name, lets flags win, checks everything.
pub fn settings(flags: &RunArgs) -> Result<Settings, CliError> {
    let file = flags
        .config
        .as_deref()
        .map(read_file)
        .transpose()?
        .unwrap_or_default();
    let args = merge(flags.clone(), file);
    let dns = dns::settings(&args)?;
    let edge = devices::edge(&args)?;
    let packet_vips = devices::packet_vips(&args.packet_vips)?;
    let runtime = containers::runtime(&args)?;
    let policy = containers::policy(&args)?;
    let networks = containers::networks(&args)?;
    let overlay = overlay::overlay(&args)?;
    let gpu_devices = containers::gpu_devices(&args)?;
    let storage = storage::storage(&args)?;
    let fetch = storage::fetch(&args)?;
    let launches = launches(&args)?;
    let logs = logs::logs(&args)?;
    let images = images::settings(&args)?;
    let work_dir = args.work_dir.clone();
    let work_dir = work_dir.unwrap_or_else(|| PathBuf::from("/var/lib/waggle"));
    let spool = telemetry::spool(&args, &work_dir)?;
    let flows = telemetry::flows(&args)?;
    let trace_requests = telemetry::trace_requests(&args)?;
    let trace_inject = telemetry::trace_inject(&args)?;
    let budget = telemetry::budget(&args)?;
    let name = match args.name {
        Some(n) => n,
        None => hostname()?,
    };
    if waggle_types::AgentId::new(name.as_str()).is_err() || name.len() > 63 {
        return Err(usage(format!(
            "name: must be 1 to 63 characters without spaces or slashes, is {name:?}"
        )));
    }
    let ip = ip(args.ip.as_deref().unwrap_or("127.0.0.1"))?;
    let ip6 = args.ip6.as_deref().map(ip6).transpose()?;
    let ports = Ports {
        master: args.master_port.unwrap_or(5050),
        agent: args.agent_port.unwrap_or(5051),
        session: args.session_port.unwrap_or(5060),
        marathon: args.marathon_port.unwrap_or(8080),
        metrics: args.metrics_port.unwrap_or(61091),
        otlp: telemetry::task_port("task-otlp", args.task_otlp.as_deref(), 61317)?,
        statsd: telemetry::task_port("task-statsd", args.task_statsd.as_deref(), 61318)?,
        dns: args.dns_api_port.unwrap_or(62080),
    };
    let masters = if args.masters.is_empty() {
        vec![SocketAddr::new(IpAddr::V4(ip), ports.session)]
    } else {
        addresses("masters", &args.masters, ports.session)?
    };
    Ok(Settings {
        bpf_dir: args
            .bpf_dir
            .unwrap_or_else(|| Path::new("/sys/fs/bpf/waggle").join(&name)),
        cluster: args.cluster.unwrap_or_else(|| "waggle".to_owned()),
        http_address: args.http_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        work_dir,
        cgroup_root: args.cgroup_root,
        budget,
        otlp: telemetry::destinations(&args.otlp, |name| std::env::var(name).ok())?,
        spool,
        flows,
        trace_requests,
        trace_inject,
        tick: positive("tick", args.tick.as_deref().unwrap_or("5s"))?,
        agent_timeout: positive(
            "agent-timeout",
            args.agent_timeout.as_deref().unwrap_or("30s"),
        )?,
        offer_timeout: positive(
            "offer-timeout",
            args.offer_timeout.as_deref().unwrap_or("60s"),
        )?,
        max_running_deployments: match args.max_running_deployments.unwrap_or(100) {
            0 => return Err(usage("max-running-deployments: must be at least 1, is 0")),
            n => n,
        },
        launches,
        resources: resources(args.resources.as_deref().unwrap_or_default())?,
        domain: args.domain.as_deref().map(domain).transpose()?,
        attributes: attributes(args.attributes.as_deref().unwrap_or_default())?,
        dns,
        edge,
        packet_vips,
        runtime,
        policy,
        networks,
        overlay,
        cpu_hard_limits: args.cpu_hard_limits,
        reconfiguration: reconfiguration(args.reconfiguration_policy.as_deref())?,
        images,
        gpu_devices,
        storage,
        fetch,
        logs,
        require_dataplane: args.require_dataplane,
        log: args.log.unwrap_or_else(|| "info".to_owned()),
        log_json: args.log_json,
        name,
        ip,
        ip6,
        masters,
        ports,
    })
}

fn read_file(path: &Path) -> Result<RunArgs, CliError> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|e| usage(format!("config {shown}: {e}")))?;
    toml::from_str(&text)
        .map_err(|e| usage(format!("config {shown}: {}", e.to_string().trim_end())))
}

fn merge(flags: RunArgs, file: RunArgs) -> RunArgs {
    let list = |a: Vec<String>, b: Vec<String>| if a.is_empty() { b } else { a };
    RunArgs {
        config: flags.config,
        name: flags.name.or(file.name),
        cluster: flags.cluster.or(file.cluster),
        ip: flags.ip.or(file.ip),
        ip6: flags.ip6.or(file.ip6),
        masters: list(flags.masters, file.masters),
        http_address: flags.http_address.or(file.http_address),
        master_port: flags.master_port.or(file.master_port),
        agent_port: flags.agent_port.or(file.agent_port),
        session_port: flags.session_port.or(file.session_port),
        marathon_port: flags.marathon_port.or(file.marathon_port),
        metrics_port: flags.metrics_port.or(file.metrics_port),
        task_otlp: flags.task_otlp.or(file.task_otlp),
        task_statsd: flags.task_statsd.or(file.task_statsd),
        telemetry_cpu: flags.telemetry_cpu.or(file.telemetry_cpu),
        telemetry_memory: flags.telemetry_memory.or(file.telemetry_memory),
        work_dir: flags.work_dir.or(file.work_dir),
        cgroup_root: flags.cgroup_root.or(file.cgroup_root),
        bpf_dir: flags.bpf_dir.or(file.bpf_dir),
        otlp: list(flags.otlp, file.otlp),
        otlp_spool: flags.otlp_spool.or(file.otlp_spool),
        otlp_spool_size: flags.otlp_spool_size.or(file.otlp_spool_size),
        otlp_spool_age: flags.otlp_spool_age.or(file.otlp_spool_age),
        flow_log_size: flags.flow_log_size.or(file.flow_log_size),
        flow_log_age: flags.flow_log_age.or(file.flow_log_age),
        trace_requests: flags.trace_requests.or(file.trace_requests),
        trace_inject: flags.trace_inject.or(file.trace_inject),
        tick: flags.tick.or(file.tick),
        agent_timeout: flags.agent_timeout.or(file.agent_timeout),
        offer_timeout: flags.offer_timeout.or(file.offer_timeout),
        max_running_deployments: flags
            .max_running_deployments
            .or(file.max_running_deployments),
        launch_tokens: flags.launch_tokens.or(file.launch_tokens),
        launch_token_refresh_interval: flags
            .launch_token_refresh_interval
            .or(file.launch_token_refresh_interval),
        min_revive_offers_interval: flags
            .min_revive_offers_interval
            .or(file.min_revive_offers_interval),
        max_instances_per_offer: flags
            .max_instances_per_offer
            .or(file.max_instances_per_offer),
        decline_offer_duration: flags.decline_offer_duration.or(file.decline_offer_duration),
        task_launch_timeout: flags.task_launch_timeout.or(file.task_launch_timeout),
        resources: flags.resources.or(file.resources),
        domain: flags.domain.or(file.domain),
        attributes: flags.attributes.or(file.attributes),
        dns: list(flags.dns, file.dns),
        dns_upstreams: list(flags.dns_upstreams, file.dns_upstreams),
        dns_forward: list(flags.dns_forward, file.dns_forward),
        dns_tls_roots: flags.dns_tls_roots.or(file.dns_tls_roots),
        dns_cache: flags.dns_cache.or(file.dns_cache),
        dns_stale: flags.dns_stale.or(file.dns_stale),
        dns_health: flags.dns_health.or(file.dns_health),
        dns_crypto_id: flags.dns_crypto_id.or(file.dns_crypto_id),
        dns_log: flags.dns_log.or(file.dns_log),
        dns_api_port: flags.dns_api_port.or(file.dns_api_port),
        edge: flags.edge.or(file.edge),
        edge_mode: flags.edge_mode.or(file.edge_mode),
        edges: list(flags.edges, file.edges),
        uplink: flags.uplink.or(file.uplink),
        packet_vips: list(flags.packet_vips, file.packet_vips),
        gc_delay: flags.gc_delay.or(file.gc_delay),
        enforce_disk_quota: flags.enforce_disk_quota || file.enforce_disk_quota,
        disk: list(flags.disk, file.disk),
        fetch_cache: flags.fetch_cache.or(file.fetch_cache),
        fetch_tls_roots: flags.fetch_tls_roots.or(file.fetch_tls_roots),
        task_log_size: flags.task_log_size.or(file.task_log_size),
        task_log_age: flags.task_log_age.or(file.task_log_age),
        node_log_size: flags.node_log_size.or(file.node_log_size),
        journal: list(flags.journal, file.journal),
        csi: list(flags.csi, file.csi),
        runtime: flags.runtime.or(file.runtime),
        allow: list(flags.allow, file.allow),
        deny: list(flags.deny, file.deny),
        allow_host_paths: if flags.allow_host_paths.is_empty() {
            file.allow_host_paths
        } else {
            flags.allow_host_paths
        },
        bridge: flags.bridge.or(file.bridge),
        bridge_subnet: flags.bridge_subnet.or(file.bridge_subnet),
        no_overlay: flags.no_overlay || file.no_overlay,
        overlay_network: list(flags.overlay_network, file.overlay_network),
        overlay_vni: flags.overlay_vni.or(file.overlay_vni),
        overlay_port: flags.overlay_port.or(file.overlay_port),
        encrypt: flags.encrypt.or(file.encrypt),
        vtep_subnet: flags.vtep_subnet.or(file.vtep_subnet),
        vtep_subnet6: flags.vtep_subnet6.or(file.vtep_subnet6),
        registries: list(flags.registries, file.registries),
        registry_mirror: list(flags.registry_mirror, file.registry_mirror),
        registry_plain_http: list(flags.registry_plain_http, file.registry_plain_http),
        registry_auth: list(flags.registry_auth, file.registry_auth),
        registry_tls_roots: flags.registry_tls_roots.or(file.registry_tls_roots),
        image_store_size: flags.image_store_size.or(file.image_store_size),
        image_max_age: flags.image_max_age.or(file.image_max_age),
        cpu_hard_limits: flags.cpu_hard_limits || file.cpu_hard_limits,
        reconfiguration_policy: flags.reconfiguration_policy.or(file.reconfiguration_policy),
        gpu_devices: if flags.gpu_devices.is_empty() {
            file.gpu_devices
        } else {
            flags.gpu_devices
        },
        seccomp_profiles: flags.seccomp_profiles.or(file.seccomp_profiles),
        require_dataplane: flags.require_dataplane || file.require_dataplane,
        log: flags.log.or(file.log),
        log_json: flags.log_json || file.log_json,
    }
}

fn hostname() -> Result<String, CliError> {
    let name = nix::unistd::gethostname().map_err(|e| {
        usage(format!(
            "name: the host's name can't be read ({e}); give --name"
        ))
    })?;
    Ok(name.to_string_lossy().into_owned())
}

fn ip(text: &str) -> Result<Ipv4Addr, CliError> {
    let ip: Ipv4Addr = text
        .parse()
        .map_err(|_| usage(format!("ip: must be an IPv4 address, is {text:?}")))?;
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
        return Err(usage(format!(
            "ip: must be this node's own address, is {ip}"
        )));
    }
    Ok(ip)
}

fn ip6(text: &str) -> Result<Ipv6Addr, CliError> {
    let ip: Ipv6Addr = text
        .parse()
        .map_err(|_| usage(format!("ip6: must be an IPv6 address, is {text:?}")))?;
    // A link-local one is an address on one device only: nobody else could use it as it is.
    if ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() {
        return Err(usage(format!(
            "ip6: must be this node's own address, and not link-local, is {ip}"
        )));
    }
    Ok(ip)
}

/// `IP[:PORT]`, each.
fn addresses(field: &str, texts: &[String], port: u16) -> Result<Vec<SocketAddr>, CliError> {
    texts.iter().map(|t| address(field, t, port)).collect()
}

/// `IP` or `IP:PORT`.
pub fn address(field: &str, text: &str, port: u16) -> Result<SocketAddr, CliError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    text.parse()
        .map_err(|_| usage(format!("{field}: must be IP or IP:PORT, is {text:?}")))
}

/// `500ms`, `5s`, `2m`; at least 1 ms and at most a day.
pub fn positive(field: &str, text: &str) -> Result<Duration, CliError> {
    times::duration(field, text, DAY)
}

fn reconfiguration(name: Option<&str>) -> Result<Reconfiguration, CliError> {
    let Some(name) = name else {
        return Ok(Reconfiguration::default());
    };
    let mut all = Reconfiguration::ALL.into_iter();
    all.find(|p| p.name() == name).ok_or_else(|| {
        usage(format!(
            "reconfiguration-policy: must be equal, additive or any, is {name:?}"
        ))
    })
}

fn attributes(text: &str) -> Result<BTreeMap<String, String>, CliError> {
    text.split(';')
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(|p| match p.split_once(':') {
            Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
            _ => Err(usage(format!("attributes: must be name:value, is {p:?}"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rstest::rstest;

    use super::*;

    pub(super) fn with(change: impl FnOnce(&mut RunArgs)) -> Result<Settings, CliError> {
        let mut args = RunArgs {
            name: Some("n1".to_owned()),
            ..RunArgs::default()
        };
        change(&mut args);
        settings(&args)
    }

    #[test]
    fn defaults_bind_loopback_and_lead() {
        let s = with(|_| ()).unwrap();
        assert_eq!(s.http_address, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(s.masters, ["127.0.0.1:5060".parse().unwrap()]);
        assert!(s.leads());
        assert_eq!(s.bpf_dir, Path::new("/sys/fs/bpf/waggle/n1"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "cluster = \"blue\"\ntick = \"2s\"\nmasters = [\"10.0.0.1\"]"
        )
        .unwrap();
        let s = with(|a| {
            a.config = Some(file.path().to_owned());
            a.tick = Some("7s".to_owned());
        })
        .unwrap();
        assert_eq!(
            (s.cluster.as_str(), s.tick),
            ("blue", Duration::from_secs(7))
        );
        assert_eq!(s.masters, ["10.0.0.1:5060".parse().unwrap()]);
        assert!(!s.leads());
    }

    #[rstest]
    #[case::ip("ip", |a: &mut RunArgs| a.ip = Some("fe80::1".into()))]
    #[case::ip6("ip6", |a: &mut RunArgs| a.ip6 = Some("10.0.0.1".into()))]
    #[case::link_local("ip6", |a: &mut RunArgs| a.ip6 = Some("fe80::1".into()))]
    #[case::any_ip("ip", |a: &mut RunArgs| a.ip = Some("0.0.0.0".into()))]
    #[case::masters("masters", |a: &mut RunArgs| a.masters = vec!["n1".into()])]
    #[case::otlp("otlp", |a: &mut RunArgs| a.otlp = vec!["127.0.0.1:4317".into()])]
    #[case::tick("tick", |a: &mut RunArgs| a.tick = Some("5".into()))]
    #[case::no_tick("tick", |a: &mut RunArgs| a.tick = Some("0s".into()))]
    #[case::timeout("agent-timeout", |a: &mut RunArgs| a.agent_timeout = Some("99999999999999999999s".into()))]
    #[case::offer_timeout("offer-timeout", |a: &mut RunArgs| a.offer_timeout = Some("0s".into()))]
    #[case::no_deployments("max-running-deployments", |a: &mut RunArgs| a.max_running_deployments = Some(0))]
    #[case::tokens("launch-tokens", |a: &mut RunArgs| a.launch_tokens = Some(0))]
    #[case::per_offer("max-instances-per-offer", |a: &mut RunArgs| a.max_instances_per_offer = Some(0))]
    #[case::refresh("launch-token-refresh-interval", |a: &mut RunArgs| a.launch_token_refresh_interval = Some("0s".into()))]
    #[case::revive("min-revive-offers-interval", |a: &mut RunArgs| a.min_revive_offers_interval = Some("2h".into()))]
    #[case::decline("decline-offer-duration", |a: &mut RunArgs| a.decline_offer_duration = Some("5".into()))]
    #[case::scalar("resources", |a: &mut RunArgs| a.resources = Some("cpus:-1".into()))]
    #[case::kind("resources", |a: &mut RunArgs| a.resources = Some("a b:1".into()))]
    #[case::role("resources", |a: &mut RunArgs| a.resources = Some("cpus(a//b):1".into()))]
    #[case::two_sorts("resources", |a: &mut RunArgs| a.resources = Some("x:1;x(prod):[1-2]".into()))]
    #[case::two_holders("resources", |a: &mut RunArgs| a.resources = Some("ports:[1-9];ports(prod):[9-9]".into()))]
    #[case::item_twice("resources", |a: &mut RunArgs| a.resources = Some("z:{a};z(prod):{a, b}".into()))]
    #[case::half_a_gpu("resources", |a: &mut RunArgs| a.resources = Some("gpus:0.5".into()))]
    #[case::kinds("resources", |a: &mut RunArgs| {
        let kinds: Vec<String> = (0..17).map(|i| format!("k{i}:1")).collect();
        a.resources = Some(kinds.join(";"));
    })]
    #[case::domain("domain", |a: &mut RunArgs| a.domain = Some("eu".into()))]
    #[case::empty_zone("domain", |a: &mut RunArgs| a.domain = Some("eu/".into()))]
    #[case::deep_domain("domain", |a: &mut RunArgs| a.domain = Some("eu/a/b".into()))]
    #[case::ports("resources", |a: &mut RunArgs| a.resources = Some("ports:[9-1]".into()))]
    #[case::reconfiguration("reconfiguration-policy", |a: &mut RunArgs| a.reconfiguration_policy = Some("some".into()))]
    #[case::attributes("attributes", |a: &mut RunArgs| a.attributes = Some("rack".into()))]
    #[case::dns("dns", |a: &mut RunArgs| a.dns = vec!["x".into()])]
    #[case::upstream("dns-upstreams", |a: &mut RunArgs| a.dns_upstreams = vec!["resolver".into()])]
    #[case::own_resolver("dns-upstreams", |a: &mut RunArgs| a.dns_upstreams = vec!["198.51.100.2".into()])]
    #[case::forward("dns-forward", |a: &mut RunArgs| a.dns_forward = vec!["corp.example".into()])]
    #[case::own_zone("dns-forward", |a: &mut RunArgs| a.dns_forward = vec!["x.mesos=10.0.0.1".into()])]
    #[case::stale("dns-stale", |a: &mut RunArgs| a.dns_stale = Some("8d".into()))]
    #[case::cache("dns-cache", |a: &mut RunArgs| a.dns_cache = Some(1_000_001))]
    #[case::health("dns-health", |a: &mut RunArgs| a.dns_health = Some("maybe".into()))]
    #[case::crypto_id("dns-crypto-id", |a: &mut RunArgs| a.dns_crypto_id = Some("a.b".into()))]
    #[case::tls_roots("dns-tls-roots", |a: &mut RunArgs| a.dns_tls_roots = Some("/nonexistent".into()))]
    #[case::name("name", |a: &mut RunArgs| a.name = Some("a/b".into()))]
    #[case::allow("allow", |a: &mut RunArgs| a.allow = vec!["everything".into()])]
    #[case::deny("deny", |a: &mut RunArgs| a.deny = vec!["privileged".into()])]
    #[case::bridge("bridge", |a: &mut RunArgs| a.bridge = Some("0bridge".into()))]
    #[case::bridge_name("bridge", |a: &mut RunArgs| a.bridge = Some("a-name-that-is-too-long".into()))]
    #[case::bridge_subnet("bridge-subnet", |a: &mut RunArgs| a.bridge_subnet = Some("172.31.254.1/24".into()))]
    #[case::bridge_small("bridge-subnet", |a: &mut RunArgs| a.bridge_subnet = Some("172.31.254.0/30".into()))]
    #[case::gpu_devices("gpu-devices", |a: &mut RunArgs| a.gpu_devices = vec!["dev/x".into()])]
    #[case::gpu_elsewhere("gpu-devices", |a: &mut RunArgs| a.gpu_devices = vec!["/tmp/x".into()])]
    #[case::host_paths("allow-host-paths", |a: &mut RunArgs| a.allow_host_paths = vec!["srv/../etc".into()])]
    #[case::gc_delay("gc-delay", |a: &mut RunArgs| a.gc_delay = Some("week".into()))]
    #[case::task_log_size("task-log-size", |a: &mut RunArgs| a.task_log_size = Some(0))]
    #[case::task_log_age("task-log-age", |a: &mut RunArgs| a.task_log_age = Some("10ms".into()))]
    #[case::node_log_size("node-log-size", |a: &mut RunArgs| a.node_log_size = Some(u64::MAX))]
    #[case::journal("journal", |a: &mut RunArgs| a.journal = vec!["a b".into()])]
    #[case::disk("disk", |a: &mut RunArgs| a.disk = vec!["fast=/data".into()])]
    #[case::disk_twice("disk", |a: &mut RunArgs| a.disk = vec!["a=path:/a:1".into(), "a=path:/b:1".into()])]
    #[case::csi("csi", |a: &mut RunArgs| a.csi = vec!["nfs=/run/csi.sock".into()])]
    #[case::runtime("runtime", |a: &mut RunArgs| a.runtime = Some("bin/runc".into()))]
    #[case::file("config", |a: &mut RunArgs| a.config = Some("/nonexistent".into()))]
    fn bad_input_names_the_field(#[case] field: &str, #[case] change: fn(&mut RunArgs)) {
        let err = with(change).unwrap_err();
        assert_eq!(err.exit_code(), 2);
        assert!(err.to_string().starts_with(field), "{err}");
    }

    #[test]
    fn unknown_keys_in_the_file_are_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "clutser = \"blue\"").unwrap();
        let err = with(|a| a.config = Some(file.path().to_owned())).unwrap_err();
        assert!(err.to_string().contains("clutser"), "{err}");
    }

    #[test]
    fn a_domain_is_a_flag_and_a_key() {
        let s = with(|a| a.domain = Some("eu-1/eu-1a".into())).unwrap();
        let domain = s.domain.unwrap();
        assert_eq!(
            (domain.region.as_str(), domain.zone.as_str()),
            ("eu-1", "eu-1a")
        );
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "domain = \"eu/a\"\nresources = \"licenses:3\"").unwrap();
        let s = with(|a| a.config = Some(file.path().to_owned())).unwrap();
        assert_eq!(s.domain.unwrap().zone, "a");
        let licenses = s.resources.unreserved.custom.scalar("licenses");
        assert_eq!(licenses.to_string(), "3");
    }
}
