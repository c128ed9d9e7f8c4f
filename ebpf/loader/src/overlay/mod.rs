//! The overlay, from user space: load, attach, say who is where.
//!
//! Containers have veths, or netkit devices, whose host sides stand in the node's own network namespace, on no bridge. The programs
//! there answer ARP and neighbour discovery, hand packets to containers of the same node, and write VXLAN headers for other nodes;
//! those on the underlay take the headers off. One VXLAN device of the kernel that takes its tunnel from the packet (`external`) is
//! the slow path. `ebpf/programs/src/overlay/main.rs` says which program does what.
//!
//! # Order
//! [`OverlayPlane::open`], [`attach_vxlan`](OverlayPlane::attach_vxlan), [`attach_underlay`](OverlayPlane::attach_underlay); peers
//! before the nets that are on them; a container's endpoints before [`attach_endpoint`](OverlayPlane::attach_endpoint), and that
//! before the container's first process: what it sends without an endpoint is dropped as spoofed.
//!
//! Maps and links are pinned (`<pin_dir>/v<ABI>`): packets go on being steered while no process of ours runs, and
//! [`OverlayPlane::open`] finds all tables as they were.

mod netkit;
mod policy;
mod spec;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use waggle_ebpf_common::overlay::reason;

pub use self::policy::{PolicyMaps, Prefix};
pub use self::spec::{At, Endpoint, Net, OverlayConfig, Peer, Place, Reach, Subnet};
use self::tables::{DEVICES, ENDPOINTS, NODES, PEERS, SPECIAL, SUBNETS, Tables};
use crate::edge::raw::{self, TestContext, TestRun};
use crate::edge::{load_program, program_fd};
use crate::lock::{self, Lock};
use crate::maps::{count, open};
use crate::pins::{self, Pins};
use crate::tc::{Side, TcHook, TcHooks, TcWay, priority};
use crate::{LoadError, ProgramInfo, object, programs};

const COUNTS: &str = "OV_COUNTS";
/// Every map that outlives the process.
const MAPS: [&str; 7] = [ENDPOINTS, DEVICES, SUBNETS, PEERS, NODES, SPECIAL, COUNTS];

/// What a device is to the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The host side of a container's veth or netkit device.
    Endpoint,
    /// The device that leads to other nodes.
    Underlay,
    /// The kernel's VXLAN device.
    Vxlan,
    /// An underlay of a node that encrypts: no tunnel leaves there in clear.
    SealedUnderlay,
    /// The device that encrypts and decrypts.
    Sealing,
}

const fn hook(name: &'static str, side: Side, priority: u16) -> TcHook {
    TcHook {
        name,
        side,
        priority,
    }
}

const AT_ENDPOINT: [TcHook; 2] = [
    hook("overlay_to", Side::Egress, priority::OVERLAY),
    hook("overlay_from", Side::Ingress, priority::OVERLAY),
];
const AT_UNDERLAY: [TcHook; 1] = [hook("overlay_under", Side::Ingress, priority::OVERLAY + 1)];
const AT_VXLAN: [TcHook; 2] = [
    hook("overlay_down", Side::Egress, priority::OVERLAY + 2),
    hook("overlay_up", Side::Ingress, priority::OVERLAY + 2),
];

const AT_SEALED_UNDERLAY: [TcHook; 1] = [hook("overlay_seal", Side::Egress, priority::OVERLAY + 3)];
const AT_SEALING: [TcHook; 1] = [hook("overlay_unseal", Side::Ingress, priority::OVERLAY + 4)];

impl Role {
    const ALL: [Self; 5] = [
        Self::Endpoint,
        Self::Underlay,
        Self::Vxlan,
        Self::SealedUnderlay,
        Self::Sealing,
    ];

    /// Its programs, in the order of attachment.
    fn hooks(self) -> &'static [TcHook] {
        match self {
            Self::Endpoint => &AT_ENDPOINT,
            Self::Underlay => &AT_UNDERLAY,
            Self::Vxlan => &AT_VXLAN,
            Self::SealedUnderlay => &AT_SEALED_UNDERLAY,
            Self::Sealing => &AT_SEALING,
        }
    }
}

/// The overlay's programs and maps, loaded.
///
/// Dropping it releases the lock on the pin directory; links and maps stay, pinned. All calls block, and are short.
pub struct OverlayPlane {
    ebpf: Mutex<Ebpf>,
    tables: Mutex<Tables>,
    policy: Mutex<PolicyMaps>,
    counts: PerCpuArray<MapData, u64>,
    config: OverlayConfig,
    pins: Pins,
    way: TcWay,
    _lock: Lock,
}

impl fmt::Debug for OverlayPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("OverlayPlane")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl OverlayPlane {
    /// Loads the programs, reusing pinned maps. Nothing is attached that was not; what is attached runs the earlier programs until
    /// it is attached again. Pins of other versions of the tables are removed, with what they had attached.
    ///
    /// `pin_dir` is the overlay's own: `overlay` in the data plane's, which removes it with its own.
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; [`LoadError::Busy`] while another one is open on the directory;
    /// see [`LoadError`] for the rest.
    pub fn open(pin_dir: &Path, config: &OverlayConfig) -> Result<Self, LoadError> {
        Self::open_with(pin_dir, config, TcWay::of_kernel())
    }

    /// As [`OverlayPlane::open`], with programs that are held in a way of the caller's choice.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(
        pin_dir: &Path,
        config: &OverlayConfig,
        way: TcWay,
    ) -> Result<Self, LoadError> {
        let object = object::overlay()?;
        let pins = Pins::of(pin_dir, waggle_ebpf_common::overlay::ABI_VERSION);
        pins.create()?;
        let lock = lock::lock(pins.root())?;
        pins.remove_other_versions()?;
        let mut loader = EbpfLoader::new();
        let all = MAPS.iter().chain(&policy::MAPS);
        let paths: Vec<(&str, PathBuf)> = all.map(|name| (*name, pins.map(name))).collect();
        for (name, path) in paths {
            loader.map_pin_path(name, path);
        }
        let vni = (config.vni << 8).to_be();
        let port = u32::from(config.port.to_be());
        let node = u32::from(config.node).to_be();
        let icmp4 = u32::from(config.icmp4).to_be();
        let icmp6 = waggle_ebpf_common::addr_of(IpAddr::V6(config.icmp6));
        loader.override_global("VNI", &vni, true);
        loader.override_global("PORT", &port, true);
        loader.override_global("NODE", &node, true);
        loader.override_global("ICMP4", &icmp4, true);
        loader.override_global("ICMP6", &icmp6, true);
        let sealed = u32::from(config.sealed);
        loader.override_global("SEALED", &sealed, true);
        loader.override_global("ANSWERS_PER_TICK", &config.answers_per_tick, true);
        // Our own object needs no CO-RE relocations.
        loader.btf(None);
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
        for hook in Role::ALL.iter().flat_map(|role| role.hooks()) {
            load_program(&mut ebpf, hook.name)?;
        }
        if netkit::is_known() {
            load_program(&mut ebpf, netkit::NAME)?;
        }
        let mut tables = Tables {
            endpoints: open(&mut ebpf, ENDPOINTS)?,
            devices: open(&mut ebpf, DEVICES)?,
            subnets: open(&mut ebpf, SUBNETS)?,
            peers: open(&mut ebpf, PEERS)?,
            nodes: open(&mut ebpf, NODES)?,
            special: open(&mut ebpf, SPECIAL)?,
            places: BTreeMap::new(),
            users: BTreeMap::new(),
        };
        tables.adopt()?;
        Ok(Self {
            counts: open(&mut ebpf, COUNTS)?,
            tables: Mutex::new(tables),
            policy: Mutex::new(PolicyMaps::open(&mut ebpf)?),
            ebpf: Mutex::new(ebpf),
            config: *config,
            pins,
            way,
            _lock: lock,
        })
    }

    /// Removes all pins: nothing is steered any more. A pin directory that does not exist is success.
    ///
    /// # Errors
    /// [`LoadError::Busy`] while an [`OverlayPlane`] is open on it; [`LoadError::File`] for what could not be removed.
    pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
        if !pin_dir.exists() {
            return Ok(());
        }
        let _lock = lock::lock(pin_dir)?;
        pins::remove_all(pin_dir)
    }

    /// What it was opened with.
    pub fn config(&self) -> &OverlayConfig {
        &self.config
    }

    /// Takes VXLAN headers off what the underlay's device receives (for our port, VNI, and from peers; all else is left alone).
    /// Several devices may be underlays. Returns whether it was attached before, and got the new program.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn attach_underlay(&self, ifindex: u32) -> Result<bool, LoadError> {
        self.attach(Role::Underlay, ifindex)
    }

    /// Makes a VXLAN device of the kernel the slow path, for what comes from other nodes and what goes there, and the way of the
    /// node's own processes to containers elsewhere (routes to the pools lead to it).
    ///
    /// The device must be `external` (collect metadata), on our UDP port, up, with `noarp` (`ip link set DEV arp off`).
    ///
    /// # Errors
    /// [`LoadError::Link`], [`LoadError::Map`] with the kernel's answer.
    pub fn attach_vxlan(&self, ifindex: u32) -> Result<bool, LoadError> {
        let found = self.attach(Role::Vxlan, ifindex)?;
        self.tables().set_vxlan(ifindex)?;
        Ok(found)
    }

    /// Steers what a container sends, from the host side of its veth or netkit device on; only its endpoints' addresses may send from
    /// there on.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn attach_endpoint(&self, ifindex: u32) -> Result<bool, LoadError> {
        self.attach(Role::Endpoint, ifindex)
    }

    /// Takes the programs off a device, whatever it is; without a device for the slow path, what would take it is dropped. Not
    /// attached, or a device that is gone, is success.
    ///
    /// # Errors
    /// [`LoadError::Link`], [`LoadError::Map`].
    pub fn detach(&self, ifindex: u32) -> Result<(), LoadError> {
        let mut tables = self.tables();
        if tables.vxlan()? == ifindex {
            tables.set_vxlan(0)?;
        }
        drop(tables);
        Role::ALL
            .into_iter()
            .try_for_each(|role| self.detach_role(role, ifindex))
    }

    /// Takes the programs of one role off a device. Not attached, or a device that is gone, is success.
    ///
    /// # Errors
    /// [`LoadError::Link`].
    pub fn detach_role(&self, role: Role, ifindex: u32) -> Result<(), LoadError> {
        if role == Role::Endpoint {
            netkit::detach(&self.pins, ifindex)?;
        }
        self.hooks(role).detach(ifindex)
    }

    /// The devices that have programs, or had them and are gone, by their numbers.
    ///
    /// # Errors
    /// [`LoadError::File`] where the pins can't be listed.
    pub fn attached(&self) -> Result<BTreeMap<u32, BTreeSet<Role>>, LoadError> {
        let mut found: BTreeMap<u32, BTreeSet<Role>> = BTreeMap::new();
        for role in Role::ALL {
            for ifindex in self.hooks(role).attached()? {
                found.entry(ifindex).or_default().insert(role);
            }
        }
        Ok(found)
    }

    /// Sends to a node and takes packets from it, or says anew how.
    ///
    /// # Errors
    /// [`LoadError::Full`] without room; [`LoadError::Map`] from the kernel.
    pub fn set_peer(&self, peer: &Peer) -> Result<(), LoadError> {
        self.tables().set_peer(peer, &self.config)
    }

    /// Forgets a node and the nets on it. One that is not known is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn remove_peer(&self, node: Ipv4Addr) -> Result<(), LoadError> {
        self.tables().remove_peer(node)
    }

    /// The nodes.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn peers(&self) -> Result<BTreeMap<Ipv4Addr, Peer>, LoadError> {
        self.tables().peers()
    }

    /// Says where a net is. Of several that an address is in, the longest prefix counts; what is in none is outside of the
    /// overlay, and the kernel's to route.
    ///
    /// # Errors
    /// [`LoadError::NoPeer`] for a node that is not known; [`LoadError::Full`] without room; [`LoadError::Map`] from the kernel.
    pub fn set_subnet(&self, net: Net, subnet: Subnet) -> Result<(), LoadError> {
        self.tables().set_subnet(net, subnet)
    }

    /// Forgets where a net is. One that is not known is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn remove_subnet(&self, net: Net) -> Result<(), LoadError> {
        self.tables().remove_subnet(net)
    }

    /// The nets.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn subnets(&self) -> Result<BTreeMap<Net, Subnet>, LoadError> {
        self.tables().subnets()
    }

    /// Says who has an address on this node. Several addresses may be behind one device, with one MAC address.
    ///
    /// # Errors
    /// [`LoadError::Full`] without room; [`LoadError::Map`] from the kernel.
    pub fn set_endpoint(&self, ip: IpAddr, endpoint: &Endpoint) -> Result<(), LoadError> {
        self.tables().set_endpoint(ip, endpoint)
    }

    /// Nobody has the address any more. One that is not known is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn remove_endpoint(&self, ip: IpAddr) -> Result<(), LoadError> {
        self.tables().remove_endpoint(ip)
    }

    /// Who has which address on this node.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn endpoints(&self) -> Result<BTreeMap<IpAddr, Endpoint>, LoadError> {
        self.tables().endpoints()
    }

    /// The tables of policies. Nobody else reads or writes them while they are held.
    pub fn policy(&self) -> MutexGuard<'_, PolicyMaps> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A count by reason ([`reason`]), over all CPUs, since the pins were made.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn count(&self, reason: u32) -> Result<u64, LoadError> {
        count(&self.counts, COUNTS, reason)
    }

    /// All counts, by name.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        (0..)
            .zip(reason::NAMES)
            .map(|(reason, name)| Ok((*name, self.count(reason)?)))
            .collect()
    }

    /// The programs, with what they cost while run statistics are on ([`crate::RunStats`]).
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let ebpf = self.lock();
        Role::ALL
            .iter()
            .flat_map(|role| role.hooks())
            .filter_map(|hook| programs::classifier(&ebpf, hook.name))
            .chain(netkit::program(&ebpf))
            .collect()
    }

    /// Runs a program (`overlay_from`, say) on a frame. For tests.
    ///
    /// # Errors
    /// [`LoadError::Missing`] for an unknown name, [`LoadError::Link`] with the kernel's answer.
    pub fn test_run(
        &self,
        name: &'static str,
        frame: &[u8],
        context: TestContext,
    ) -> Result<TestRun, LoadError> {
        self.test_runs(name, frame, context, 1)
    }

    /// The same many times, for what one takes.
    ///
    /// # Errors
    /// As [`OverlayPlane::test_run`]'s.
    pub fn test_runs(
        &self,
        name: &'static str,
        frame: &[u8],
        context: TestContext,
        repeat: u32,
    ) -> Result<TestRun, LoadError> {
        let ebpf = self.lock();
        let program = program_fd(&ebpf, name)?;
        raw::test_run_in(program, frame, context, repeat).map_err(|source| LoadError::Link {
            action: "test-run",
            name,
            source,
        })
    }

    /// Attaches the programs of a role; [`Role::Vxlan`] does not become the slow path by that, if it is not.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer; [`LoadError::FilterTaken`].
    pub fn attach(&self, role: Role, ifindex: u32) -> Result<bool, LoadError> {
        let ebpf = self.lock();
        let found = self.hooks(role).attach(&ebpf, ifindex)?;
        if role != Role::Endpoint {
            return Ok(found);
        }
        // After those that it leaves packets to.
        Ok(netkit::attach(&ebpf, &self.pins, ifindex)? && found)
    }

    fn hooks(&self, role: Role) -> TcHooks {
        TcHooks::new(self.pins.clone(), self.way, role.hooks())
    }

    fn lock(&self) -> MutexGuard<'_, Ebpf> {
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
