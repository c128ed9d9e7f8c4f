//! A node's overlay, applied: the tunnel device, addresses and routes of the node itself, and what the kernel's programs know
//! of nodes, nets and containers.
//!
//! [`OverlayNet::sync`] takes a [`NodePlan`], looks at what is there and does the steps of the difference. Everything outlives
//! the process: the device and its routes are the kernel's, tables and links are pinned. What does not carry our mark is left
//! alone: the device by its alias, routes by their protocol number.
//!
//! All calls block, for milliseconds; they may come from any thread.

mod check;
mod names;
mod ping;
mod sealing;
mod steps;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use waggle_ebpf::{
    LoadError,
    overlay::{At, Endpoint, OverlayConfig, OverlayPlane},
};
use waggle_ebpf_common::overlay::{MTU_OVERHEAD, mac_of};
use waggle_ebpf_common::policy::PolicyRecord;
use waggle_overlay_plan::network::{LocalNetwork, NodePlan, mtu_inside};
use waggle_overlay_plan::policy::PolicyWorld;
use waggle_overlay_plan::wireguard::WireguardPlan;
use waggle_types::{AgentOverlay, AgentSubnet, FieldError, IpNet, Network, Vtep, Vxlan};

use crate::{
    netlink::NetlinkError,
    policy::{Askers, PolicyPlane},
    wireguard::{Wireguard, WireguardError},
};

pub use check::OverlayCheck;
pub use ping::Echo;
pub use steps::ALIAS;

/// How a node takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayNetConfig {
    /// The node's underlay address.
    pub node_ip: Ipv4Addr,
    /// Directory of the programs' pins.
    pub pin_dir: PathBuf,
}

/// Why the overlay is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A program or table.
    #[error("overlay programs: {0}")]
    Load(#[from] LoadError),
    /// A device, address or route.
    #[error("overlay: {0}")]
    Netlink(#[from] NetlinkError),
    /// Ways to other nodes are not encrypted as they must be; nothing takes others.
    #[error("encryption between nodes: {0}")]
    Encryption(#[from] WireguardError),
    /// The node's address is on no device here.
    #[error("overlay: no device has the node's address {0}")]
    NoUnderlay(Ipv4Addr),
    /// Other nodes can't be asked.
    #[error("overlay: echo requests: {0}")]
    Ping(#[source] std::io::Error),
    /// Somebody else's device has the name.
    #[error("overlay: device {0} is there and is not ours")]
    ForeignDevice(String),
    /// A network can't be carried here.
    #[error("network {name}: {error}")]
    Network {
        /// Which.
        name: String,
        /// The rule that it breaks here.
        error: FieldError,
    },
}

/// What a container needs to be on a network of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachable {
    /// The node's part of the addresses.
    pub subnet: AgentSubnet,
    /// MTU inside, bytes.
    pub mtu: u16,
    /// The network's number in the tables.
    pub number: u32,
    /// What the node itself sends from.
    pub vtep: Vtep,
}

/// What the packet filter must know of the networks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    /// The node's subnets whose containers have the node's address outside.
    pub masqueraded: Vec<IpNet>,
    /// All addresses of all networks and tunnel endpoints.
    pub inside: Vec<IpNet>,
    /// What the node itself sends from.
    pub vtep: Option<Vtep>,
}

/// What a node has of the networks, for who shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The node's underlay address.
    pub node_ip: Ipv4Addr,
    /// How networks are carried.
    pub vxlan: Vxlan,
    /// What it holds.
    pub overlay: AgentOverlay,
    /// The networks that it has something of.
    pub networks: BTreeMap<String, Network>,
    /// Why none of it works.
    pub trouble: Option<String>,
}

/// See the module.
pub struct OverlayNet {
    config: OverlayNetConfig,
    state: Mutex<State>,
    /// The same as in the state.
    askers: Arc<Askers>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    plane: Option<OverlayPlane>,
    policy: Option<PolicyPlane>,
    askers: Arc<Askers>,
    world: PolicyWorld,
    plan: NodePlan,
    underlay: Option<steps::Underlay>,
    /// Where packets between nodes are encrypted.
    encryption: Option<Arc<Wireguard>>,
    /// Who has an encrypted way, who has none and why, as of the last plan.
    ways: WireguardPlan,
    /// Whether links may run programs of an earlier process.
    is_stale: bool,
    /// Why it does not work at all; `None` while it does.
    trouble: Option<String>,
    /// This process's containers, so that tables that are made anew have them again.
    endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Whether the agent has said which containers there are: until then others in the tables stay.
    is_settled: bool,
    /// It never works here.
    is_off: bool,
}

impl OverlayNet {
    /// Makes nothing yet.
    pub fn new(config: OverlayNetConfig) -> Self {
        let askers = Arc::<Askers>::default();
        Self {
            config,
            state: Mutex::new(State {
                trouble: Some("the master has not said yet what this node has of it".to_owned()),
                askers: Arc::clone(&askers),
                ..State::default()
            }),
            askers,
            changed: watch::Sender::new(0),
        }
    }

    /// One that never works, and says why.
    pub fn off(config: OverlayNetConfig, why: impl Into<String>) -> Self {
        let net = Self::new(config);
        {
            let mut state = net.lock();
            state.trouble = Some(why.into());
            state.is_off = true;
        }
        net
    }

    /// From the next plan on nothing of the overlay leaves or enters this node but encrypted. To be called before the first one.
    pub fn encrypt(&self, encryption: Arc<Wireguard>) {
        self.lock().encryption = Some(encryption);
    }

    /// Whether it never works here.
    pub fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Removes device, programs and tables of an earlier run. For a node that is to take no part any more.
    ///
    /// # Errors
    /// [`OverlayError`] for what could not be removed.
    pub fn remove(pin_dir: &Path) -> Result<(), OverlayError> {
        OverlayPlane::remove(pin_dir)?;
        steps::remove_devices()
    }

    /// Brings the node's policies alone to what the cluster says: what there are, and who they are about.
    pub fn sync_policies(&self, world: PolicyWorld) -> Vec<OverlayError> {
        let mut state = self.lock();
        state.world = world;
        let mut errors = Vec::new();
        steps::policies(&mut state, &mut errors);
        errors
    }

    /// Brings the node to a plan, policies first; the answer is what could not be done, which the next call tries again.
    pub fn sync(&self, plan: NodePlan, world: PolicyWorld) -> Vec<OverlayError> {
        let mut state = self.lock();
        if state.is_off {
            return Vec::new();
        }
        (state.plan, state.world) = (plan, world);
        let errors = steps::converge(&mut state, &self.config);
        drop(state);
        self.changed.send_modify(|n| *n += 1);
        errors
    }

    /// Now and then: puts right what others have changed, and follows neighbours.
    pub fn upkeep(&self) -> Vec<OverlayError> {
        let mut state = self.lock();
        if state.plan.vtep.is_none() {
            return Vec::new();
        }
        let before = state.trouble.clone();
        let errors = steps::converge(&mut state, &self.config);
        let has_changed = state.trouble != before;
        drop(state);
        if has_changed {
            self.changed.send_modify(|n| *n += 1);
        }
        errors
    }

    /// What a container needs to be on a network.
    ///
    /// # Errors
    /// Why none can be, for people.
    pub fn network(&self, name: &str) -> Result<Attachable, String> {
        let state = self.lock();
        if let Some(why) = &state.trouble {
            return Err(why.clone());
        }
        let Some(local) = state.plan.local.get(name) else {
            let there: Vec<&str> = state.plan.local.keys().map(String::as_str).collect();
            let there = if there.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", there.join(", "))
            };
            return Err(format!(
                "this node has no subnet of network {name:?}; {there}"
            ));
        };
        let underlay = state.underlay.ok_or("its underlay is gone")?;
        let vtep = state.plan.vtep.ok_or("it has no tunnel endpoint")?;
        Ok(Attachable {
            subnet: local.subnet,
            mtu: mtu_of(local, underlay.mtu).map_err(|e| e.to_string())?,
            number: local.number(),
            vtep,
        })
    }

    /// Waits until containers can be on a network, or for so long.
    pub async fn ready(&self, name: &str, for_at_most: Duration) {
        if self.lock().is_off {
            return;
        }
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|_| self.network(name).is_ok());
        // Whoever asks looks for himself.
        let _ = tokio::time::timeout(for_at_most, wait).await;
    }

    /// A container's addresses and device: from now on it is reached, and may send.
    ///
    /// # Errors
    /// [`LoadError`]; then nothing of it stays.
    pub fn add_container(&self, ips: &[IpAddr], endpoint: Endpoint) -> Result<(), OverlayError> {
        let mut state = self.lock();
        let At::Container { ifindex, .. } = endpoint.at else {
            return Ok(());
        };
        let Some(plane) = &state.plane else {
            return Err(OverlayError::NoUnderlay(self.config.node_ip));
        };
        let added = || -> Result<(), LoadError> {
            for ip in ips {
                plane.set_endpoint(*ip, &endpoint)?;
            }
            plane.attach_endpoint(ifindex).map(|_| ())
        };
        if let Err(error) = added() {
            for ip in ips {
                let _ = plane.remove_endpoint(*ip);
            }
            let _ = plane.detach(ifindex);
            return Err(error.into());
        }
        state.endpoints.extend(ips.iter().map(|ip| (*ip, endpoint)));
        Ok(())
    }

    /// The container is gone.
    ///
    /// # Errors
    /// [`LoadError`] for what stays.
    pub fn remove_container(&self, ips: &[IpAddr]) -> Result<(), OverlayError> {
        let mut state = self.lock();
        let mut devices = Vec::new();
        for ip in ips {
            if let Some(Endpoint {
                at: At::Container { ifindex, .. },
                ..
            }) = state.endpoints.remove(ip)
            {
                devices.push(ifindex);
            }
        }
        let Some(plane) = &state.plane else {
            return Ok(());
        };
        devices.dedup();
        // All of it is tried; what stays, upkeep finds.
        let mut done = Ok(());
        for ip in ips {
            done = done.and(plane.remove_endpoint(*ip));
        }
        for ifindex in devices {
            done = done.and(plane.detach(ifindex));
        }
        Ok(done?)
    }

    /// After a restart: these containers there are, and no other.
    pub fn keep_containers(&self, containers: BTreeMap<IpAddr, Endpoint>) {
        let mut state = self.lock();
        state.endpoints = containers;
        state.is_settled = true;
    }

    /// For the packet filter.
    pub fn ranges(&self) -> Ranges {
        let state = self.lock();
        let plan = &state.plan;
        let local = plan.local.values().filter(|l| l.network.masquerade);
        let mut inside: Vec<IpNet> = plan.pools.keys().copied().collect();
        if plan.vtep.is_some() {
            inside.extend([plan.vxlan.vteps, plan.vxlan.vteps6]);
        }
        Ranges {
            masqueraded: local.flat_map(|l| l.subnet.nets()).collect(),
            inside,
            vtep: plan.vtep,
        }
    }

    /// What the node has.
    pub fn part(&self) -> Part {
        let state = self.lock();
        let local = state.plan.local.iter();
        Part {
            node_ip: self.config.node_ip,
            vxlan: state.plan.vxlan,
            overlay: AgentOverlay {
                vtep: state.plan.vtep,
                subnets: local.clone().map(|(n, l)| (n.clone(), l.subnet)).collect(),
                wireguard: state.encryption.as_ref().map(|e| e.key()),
            },
            networks: local.map(|(n, l)| (n.clone(), l.network.clone())).collect(),
            trouble: state.trouble.clone(),
        }
    }

    /// Changes whenever a plan was applied.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Packets by what became of them.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        self.lock()
            .plane
            .as_ref()
            .map_or(Ok(Vec::new()), OverlayPlane::counts)
    }

    /// Packets that policies were asked about, by verdict.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn policy_counts(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        let state = self.lock();
        let plane = state.plane.as_ref();
        plane.map_or(Ok(Vec::new()), |plane| plane.policy().counts())
    }

    /// What policies have dropped, or would, and who was not asked for yet; at most so many.
    pub fn policy_records(&self, most: usize) -> Vec<PolicyRecord> {
        let state = self.lock();
        let plane = state.plane.as_ref();
        plane.map_or(Vec::new(), |plane| plane.policy().take_records(most))
    }

    /// Packets of these that have no record of their own, by reason.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn policy_untold(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        let state = self.lock();
        let plane = state.plane.as_ref();
        plane.map_or(Ok(Vec::new()), |plane| plane.policy().untold())
    }

    /// The hardware address of a container with that address.
    pub const fn mac_of(ip: IpAddr) -> [u8; 6] {
        mac_of(ip)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mtu_of(local: &LocalNetwork, underlay: u16) -> Result<u16, FieldError> {
    let overhead = u16::try_from(MTU_OVERHEAD).unwrap_or(u16::MAX);
    mtu_inside(&local.network, underlay.into(), overhead)
}

fn config_of(plan: &NodePlan, vtep: Vtep, node: Ipv4Addr, sealed: bool) -> OverlayConfig {
    let mut config = OverlayConfig::new(node);
    config.sealed = sealed;
    config.vni = plan.vxlan.vni;
    config.port = plan.vxlan.port;
    config.icmp4 = vtep.ip;
    if let Some(ip6) = vtep.ip6 {
        config.icmp6 = ip6;
    }
    config
}
