//! Packets between nodes, encrypted by the kernel's WireGuard.
//!
//! The overlay's VXLAN packets keep the nodes' addresses; a rule sends them (UDP to the VXLAN port) to a table of routes of our
//! own, in which each node with a key is behind the device [`DEVICE`], and all else is unreachable. So nothing that the kernel
//! routes leaves in clear from the moment on in which [`Wireguard::start`] returns, also while no agent runs, and what is not
//! yet known has no way. WireGuard's own packets are to another port and take the underlay. **What the overlay's programs
//! write to the underlay themselves does not pass any route: until they are told to leave that, no node offers encryption.**
//!
//! The private key is made here and stays here (a file of its owner's alone); the public one is the kernel's answer.
//!
//! # Never
//! Encrypts or computes keys itself; decides who is a peer (`waggle-overlay-plan::wireguard` does). All calls block.

mod device;
mod key;
mod netlink;
mod routes;

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use waggle_overlay_plan::wireguard::{
    OVERHEAD, WireguardPeer, WireguardPlan, wireguard_diff, wireguard_plan,
};
use waggle_types::WireguardKey;

use netlink::NetlinkError;

/// Our device.
pub const DEVICE: &str = "waggle-wg";
/// WireGuard's usual port.
pub const DEFAULT_PORT: u16 = 51820;
/// Least MTU of an underlay that is worth encrypting on: IPv4's own least (RFC 791) inside.
const MIN_UNDERLAY: u16 = 576 + OVERHEAD;

/// What is encrypted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardConfig {
    /// This node's address on the underlay.
    pub node: Ipv4Addr,
    /// Where the private key is, or will be: 32 bytes.
    pub key_file: PathBuf,
    /// UDP port of WireGuard, the same on every node.
    pub port: u16,
    /// UDP port of the overlay's VXLAN, the same on every node: what is to be encrypted, until [`Wireguard::sync`] names another.
    pub vxlan_port: u16,
    /// Bytes of the longest IP packet of the underlay's device.
    pub underlay_mtu: u16,
}

/// Why packets can't be encrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireguardError {
    /// No such kind of device.
    #[error("this kernel has no WireGuard (CONFIG_WIREGUARD, or the module wireguard)")]
    Unsupported,
    /// The private key's file.
    #[error("private key {path}: {rule}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        rule: String,
    },
    /// Too small an underlay.
    #[error(
        "an underlay with an MTU of {mtu} can't carry encrypted packets: {MIN_UNDERLAY} is the least"
    )]
    Mtu {
        /// The underlay's.
        mtu: u16,
    },
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting of the device.
    #[error("write {path}")]
    Setting {
        /// Its file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// What a peer's way has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WireguardTraffic {
    /// Received, bytes as encrypted.
    pub rx_bytes: u64,
    /// Sent, bytes as encrypted.
    pub tx_bytes: u64,
    /// When keys were last agreed on, seconds since the epoch; 0: never.
    pub last_handshake_s: u64,
}

/// This node's encrypted ways. Dropped, all of it stays in the kernel; see [`remove`].
#[derive(Debug)]
pub struct Wireguard {
    config: WireguardConfig,
    key: WireguardKey,
}

impl Wireguard {
    /// Sees to it that what is to be encrypted has no other way, makes the key and the device, or adopts them. Peers that the
    /// device has stay until the first [`Wireguard::sync`].
    ///
    /// # Errors
    /// [`WireguardError::Unsupported`], [`WireguardError::Key`] and [`WireguardError::Mtu`] before anything has changed.
    pub fn start(config: WireguardConfig) -> Result<Self, WireguardError> {
        if config.underlay_mtu < MIN_UNDERLAY {
            return Err(WireguardError::Mtu {
                mtu: config.underlay_mtu,
            });
        }
        let secret = key::load_or_make(&config.key_file)?;
        let mtu = config.underlay_mtu - OVERHEAD;
        device::ensure(DEVICE, mtu)?;
        routes::close(config.vxlan_port)?;
        // What comes out of the device is from nodes that are reached by other ways, as seen from routes alone.
        let setting = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{DEVICE}/rp_filter"));
        fs::write(&setting, "2").map_err(|source| WireguardError::Setting {
            path: setting,
            source,
        })?;
        let key = device::configure(DEVICE, &secret, config.port)?;
        Ok(Self { config, key })
    }

    /// This node's public key, for the others.
    pub fn key(&self) -> WireguardKey {
        self.key
    }

    /// Longest VXLAN packet that fits: what an underlay without encryption would have as its MTU.
    pub fn mtu(&self) -> u16 {
        self.config.underlay_mtu - OVERHEAD
    }

    /// Brings device and routes to these nodes and their keys, and encrypts what goes to this port; what is to be known of those without a way is in the answer.
    ///
    /// # Errors
    /// [`WireguardError::Netlink`]; what was done stays, and the next call goes on.
    pub fn sync(
        &self,
        vxlan_port: u16,
        nodes: &[(Ipv4Addr, Option<WireguardKey>)],
    ) -> Result<WireguardPlan, WireguardError> {
        routes::close(vxlan_port)?;
        let plan = wireguard_plan((self.config.node, self.key), nodes, self.config.port);
        let observed = device::peers(DEVICE)?;
        let known = observed.iter().map(|(key, seen)| (*key, seen.peer));
        let ops = wireguard_diff(&known.collect(), &plan);
        device::apply(DEVICE, &ops)?;
        let index = netlink::device_index(DEVICE)?;
        let nodes = plan.peers.values().map(|peer| peer.node).collect();
        routes::keep(index, self.config.node, &nodes)?;
        Ok(plan)
    }

    /// What each node's way has carried.
    ///
    /// # Errors
    /// [`WireguardError::Netlink`].
    pub fn read(&self) -> Result<BTreeMap<Ipv4Addr, WireguardTraffic>, WireguardError> {
        let peers = device::peers(DEVICE)?;
        Ok(peers
            .into_values()
            .filter_map(|seen| Some((seen.peer?.node, seen.traffic)))
            .collect())
    }
}

/// Takes all of it away, on a node that is not to encrypt any more: what was encrypted goes in clear from then on. The key
/// stays. What is not there is no error.
///
/// # Errors
/// [`WireguardError::Netlink`].
pub fn remove() -> Result<(), WireguardError> {
    device::remove(DEVICE)?;
    Ok(routes::open()?)
}

/// Bytes of the longest IP packet of the device that has an address.
///
/// # Errors
/// [`WireguardError::Netlink`], also where no device has it.
pub fn underlay_mtu(node: Ipv4Addr) -> Result<u16, WireguardError> {
    Ok(netlink::mtu_of(node)?)
}

/// Whether this kernel has WireGuard; makes a device and removes it. For who only asks.
///
/// # Errors
/// [`WireguardError::Netlink`].
pub fn is_supported() -> Result<bool, WireguardError> {
    const PROBE: &str = "waggle-wg-probe";
    match device::ensure(PROBE, 1420) {
        Ok(_) => {
            device::remove(PROBE)?;
            Ok(true)
        }
        Err(WireguardError::Unsupported) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the kernel says of a peer.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// `None`: its addresses are not as they must be.
    peer: Option<WireguardPeer>,
    traffic: WireguardTraffic,
}

/// For messages.
fn shown(path: &Path) -> PathBuf {
    path.to_path_buf()
}
