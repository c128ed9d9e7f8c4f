//! What a node's network is told and what it answers: configuration, reports, errors.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use waggle_overlay_plan::{LowerError, LoweringConfig, zone::HealthPolicy, zone::Scope};
use waggle_types::{Generation, VipKey};

use crate::{
    address::AddressError,
    dns::{DnsError, Told},
    forward::ForwardConfig,
    maps::MapError,
};

/// VIP numbers of this node, with what they stand for: the key and a name for people
/// (`web.marathon.l4lb.thisdcos.directory`, or the address of a literal VIP).
pub type VipNames = BTreeMap<u32, (VipKey, String)>;

/// What a node's network needs to know about itself.
#[derive(Debug, Clone)]
pub struct NodeNetConfig {
    /// Underlay address.
    pub node_ip: Ipv4Addr,
    /// Addresses to answer DNS on; none means no DNS server.
    pub dns_ips: Vec<IpAddr>,
    /// Port to answer DNS on: 53.
    pub dns_port: u16,
    /// Whom to ask for names outside of the cluster; none means REFUSED.
    pub forward: ForwardConfig,
    /// Whether names of services follow health.
    pub dns_health: HealthPolicy,
    /// Which names are the cluster's.
    pub dns_scope: Scope,
    /// Log one of so many questions; 0 logs none.
    pub dns_log_one_in: u64,
    /// Who must know what is told about names that are not the cluster's.
    pub told: Option<Told>,
    /// Whether to put `dns_ips` on a device of this network namespace (needs CAP_NET_ADMIN).
    pub manage_addresses: bool,
    /// Whether [`NodeNet::shutdown`](crate::NodeNet::shutdown) takes these addresses away again. DNS must outlive an agent's restart,
    /// so only an uninstall says yes.
    pub remove_addresses: bool,
    /// How long a failed or partial change waits for the next try, and the period of the check that the maps
    /// still hold what they should.
    pub retry_after: Duration,
    /// See `retry_after`.
    pub resync_every: Duration,
    /// Capacities and quarantine of the kernel maps.
    pub lowering: LoweringConfig,
}

impl NodeNetConfig {
    /// DC/OS's defaults for a node with this address.
    pub fn new(node_ip: Ipv4Addr) -> Self {
        Self {
            node_ip,
            dns_ips: vec![Ipv4Addr::new(198, 51, 100, 1).into()],
            dns_port: 53,
            forward: ForwardConfig::new(Vec::new()),
            dns_health: HealthPolicy::default(),
            dns_scope: Scope::default(),
            dns_log_one_in: 0,
            told: None,
            manage_addresses: true,
            remove_addresses: false,
            retry_after: Duration::from_millis(1_500),
            resync_every: Duration::from_secs(30),
            lowering: LoweringConfig::default(),
        }
    }
}

/// Why a node's network can't start.
#[derive(Debug, thiserror::Error)]
pub enum NodeNetError {
    /// The addresses that DNS answers on.
    #[error("failed to set up dns addresses")]
    Address(#[from] AddressError),
    /// The DNS server.
    #[error("failed to start the dns server")]
    Dns(#[from] DnsError),
    /// What the pinned maps hold.
    #[error("failed to read the vip maps")]
    Maps(#[from] MapError),
}

/// What was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Older than what is applied.
    #[error("refused snapshot of generation {given}: {applied} is applied")]
    Stale {
        /// The snapshot's.
        given: Generation,
        /// Ours.
        applied: Generation,
    },
    /// A delta from a generation that is not the applied one.
    #[error("refused a change of generation {given}: {applied} is applied")]
    Gap {
        /// What it changes.
        given: Generation,
        /// Ours.
        applied: Generation,
    },
    /// A full map; what is there keeps working, and it is tried again.
    #[error("failed to lower a vip")]
    Lower(#[from] LowerError),
    /// The kernel refused a write; the maps are read and tried again.
    #[error("failed to write the vip maps")]
    Map(#[from] MapError),
    /// The worker that applies is gone (the runtime shuts down).
    #[error("the worker is gone")]
    Worker,
}

/// What became of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The generation that this node has now: what it acknowledges.
    pub generation: Generation,
    /// From the call to the last write.
    pub duration: Duration,
    /// Kernel writes made.
    pub n_writes: usize,
    /// What is not there yet; empty when all is well.
    pub failures: Vec<ApplyError>,
}
