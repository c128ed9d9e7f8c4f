//! Packets between nodes, encrypted by the kernel's WireGuard.
//!
//! The overlay's VXLAN packets keep the nodes' addresses; a rule sends them (UDP to the VXLAN port) to a table of routes of our
//! own, in which each node with a key is behind the device [`DEVICE`], and all else is unreachable. So nothing that the kernel
//! routes leaves in clear from the moment on in which [`Wireguard::start`] returns, also while no agent runs, and what is not
//! yet known has no way. WireGuard's own packets are to another port and take the underlay. The overlay's programs leave all
//! that goes to other nodes to the kernel's VXLAN device then (`overlay/steps.rs`), and drop what is in clear all the same.
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

use key::Secret;
use netlink::NetlinkError;

/// Our device.
pub const DEVICE: &str = "waggle-wg";
/// WireGuard's usual port.
pub const DEFAULT_PORT: u16 = 51820;
/// The address of who needs one and has none (RFC 7600).
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
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
    /// Bytes of the longest IP packet of the underlay's device, until [`Wireguard::sync`] says otherwise.
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
    /// The overlay's packets have WireGuard's port: they would be encrypted again and again.
    #[error("port {0} is that of the overlay's packets, WireGuard must have another")]
    Port(u16),
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
    // Kept, so that a device that is made anew has it whatever has become of the file.
    secret: Secret,
    key: WireguardKey,
}

impl Wireguard {
    /// Sees to it that what is to be encrypted has no other way, makes the key and the device, or adopts them. Peers that the
    /// device has stay until the first [`Wireguard::sync`].
    ///
    /// # Errors
    /// [`WireguardError::Unsupported`], [`WireguardError::Key`], [`WireguardError::Mtu`] and [`WireguardError::Port`] before
    /// anything but the key's file has changed.
    pub fn start(config: WireguardConfig) -> Result<Self, WireguardError> {
        let mtu = mtu_inside(config.underlay_mtu)?;
        is_other_port(config.port, config.vxlan_port)?;
        let secret = key::load_or_make(&config.key_file)?;
        let device = device::ensure(DEVICE, mtu)?;
        routes::close(config.vxlan_port)?;
        loosen(device)?;
        let key = device::configure(DEVICE, &secret, config.port)?;
        Ok(Self {
            config,
            secret,
            key,
        })
    }

    /// This node's public key, for the others.
    pub fn key(&self) -> WireguardKey {
        self.key
    }

    /// What there must be for these nodes, keys and nothing else: who has a way, and who has none and why.
    pub fn plan(&self, nodes: &[(Ipv4Addr, Option<WireguardKey>)]) -> WireguardPlan {
        wireguard_plan((self.config.node, self.key), nodes, self.config.port)
    }

    /// Brings device and routes to a plan ([`Wireguard::plan`]), on an underlay with this MTU, and encrypts what goes to this
    /// port. A device that somebody has removed or changed is made again. Answers the device's number.
    ///
    /// # Errors
    /// [`WireguardError`]; what was done stays, and the next call goes on. Nothing leaves in clear meanwhile: what has no way in
    /// our table has none.
    pub fn sync(
        &self,
        vxlan_port: u16,
        underlay_mtu: u16,
        plan: &WireguardPlan,
    ) -> Result<u32, WireguardError> {
        is_other_port(self.config.port, vxlan_port)?;
        // The rule first: whatever fails afterwards, there is no other way.
        routes::close(vxlan_port)?;
        let index = device::ensure(DEVICE, mtu_inside(underlay_mtu)?)?;
        if !device::is_configured(DEVICE, self.key, self.config.port)? {
            tracing::warn!(
                device = DEVICE,
                "the device that encrypts was taken away or changed, and is made anew"
            );
            device::configure(DEVICE, &self.secret, self.config.port)?;
        }
        loosen(index)?;
        let observed = device::peers(DEVICE)?;
        let known = observed.iter().map(|(key, seen)| (*key, seen.peer));
        let ops = wireguard_diff(&known.collect(), plan);
        device::apply(DEVICE, &ops)?;
        let nodes = plan.peers.values().map(|peer| peer.node).collect();
        routes::keep(index, self.config.node, &nodes)?;
        Ok(index)
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

/// Longest packet that fits into the encrypted way: what an underlay without encryption would have as its MTU.
///
/// # Errors
/// [`WireguardError::Mtu`].
pub fn mtu_inside(underlay: u16) -> Result<u16, WireguardError> {
    if underlay < MIN_UNDERLAY {
        return Err(WireguardError::Mtu { mtu: underlay });
    }
    Ok(underlay - OVERHEAD)
}

fn is_other_port(port: u16, vxlan_port: u16) -> Result<(), WireguardError> {
    if port == vxlan_port {
        return Err(WireguardError::Port(port));
    }
    Ok(())
}

/// What comes out of the device is from nodes that are reached by other ways, as seen from routes alone: the kernel is told not
/// to mind. It minds all the same on a device without an address (`__fib_validate_source`).
fn loosen(device: u32) -> Result<(), WireguardError> {
    device::address(device, DUMMY)?;
    let setting = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{DEVICE}/rp_filter"));
    fs::write(&setting, "2").map_err(|source| WireguardError::Setting {
        path: setting,
        source,
    })
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
