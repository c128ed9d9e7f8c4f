//! VIPs per packet, from user space: load beside the node's [`DataPlane`], attach to devices, read the counters.
//!
//! [`PacketPlane`] has an object of its own, so that nodes that don't need it pay nothing. Tables and what is known of backends
//! are the data plane's own maps, reused by their pins; flows, counters and links are pinned beside them
//! (`<pin_dir>/v<ABI>`), so that packets go on being translated while no process of ours runs, and
//! [`DataPlane::remove`] removes all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use waggle_ebpf_common::edge::FragmentKey;
use waggle_ebpf_common::packet::{Flow, FlowKey, Fragment, MAX_FLOWS, MAX_FRAGMENTS, reason};

use crate::edge::raw::{self, TestRun};
use crate::edge::{load_program, program_fd};
use crate::maps::{Layout, check_layout, count, list, open};
use crate::tc::{Side, TcHook, TcHooks, TcWay, priority};
use crate::{DataPlane, LoadError, object};

const INBOUND: &str = "packet_in";
const OUTBOUND: &str = "packet_out";
/// The answers' side comes first, so that no flow is taken in that can't be answered.
const HOOKS: [TcHook; 2] = [
    TcHook {
        name: OUTBOUND,
        side: Side::Egress,
        priority: priority::PACKET,
    },
    TcHook {
        name: INBOUND,
        side: Side::Ingress,
        priority: priority::PACKET,
    },
];
const FLOWS: &str = "PACKET_FLOWS";
const ANSWERS: &str = "PACKET_ANSWERS";
const FRAGMENTS: &str = "PACKET_FRAGS";
const COUNTS: &str = "PACKET_COUNTS";
/// The data plane's maps; names as in `ebpf/programs/src/vip_maps.rs`.
const SHARED: [&str; 7] = [
    "VIPS",
    "CELLS",
    "AFFINITIES",
    "BACKEND_STATES",
    "EJECTIONS",
    "VIP_STATS",
    "LOSS",
];

const OWN: [(&str, Layout); 4] = [
    (FLOWS, (size_of::<FlowKey>(), size_of::<Flow>(), MAX_FLOWS)),
    (
        ANSWERS,
        (size_of::<FlowKey>(), size_of::<Flow>(), MAX_FLOWS),
    ),
    (
        FRAGMENTS,
        (
            size_of::<FragmentKey>(),
            size_of::<Fragment>(),
            MAX_FRAGMENTS,
        ),
    ),
    (COUNTS, (size_of::<u32>(), size_of::<u64>(), reason::COUNT)),
];

/// What the programs are told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketConfig {
    /// The net that all named VIPs are in, and its prefix length (at most 32): fragments to there whose first one is not
    /// known are dropped.
    pub vip_net: (Ipv4Addr, u8),
    /// Resets and ICMP messages that one CPU sends within 17 ms; beyond that it drops.
    pub answers_per_tick: u32,
    /// How the programs are held at devices.
    pub way: TcWay,
}

impl Default for PacketConfig {
    fn default() -> Self {
        Self {
            vip_net: (Ipv4Addr::new(11, 0, 0, 0), 8),
            answers_per_tick: 512,
            way: TcWay::of_kernel(),
        }
    }
}

/// The programs and maps of VIPs per packet, loaded.
///
/// Dropping it leaves links and maps, pinned. Its owner keeps the data plane open as long: the lock on the pins is that one's.
pub struct PacketPlane {
    ebpf: Mutex<Ebpf>,
    flows: HashMap<MapData, FlowKey, Flow>,
    answers: HashMap<MapData, FlowKey, Flow>,
    counts: PerCpuArray<MapData, u64>,
    hooks: TcHooks,
}

impl fmt::Debug for PacketPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("PacketPlane").finish_non_exhaustive()
    }
}

impl PacketPlane {
    /// Loads the programs on the tables of a data plane, reusing pinned flows. Nothing is attached.
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; see [`LoadError`] for the rest.
    pub fn open(plane: &DataPlane, config: &PacketConfig) -> Result<Self, LoadError> {
        let object = object::packet()?;
        let pins = plane.pins.clone();
        let mut loader = EbpfLoader::new();
        for name in SHARED {
            let path = pins.map(name);
            // Otherwise the loader would make another one, which nobody fills.
            if !path.exists() {
                return Err(LoadError::Missing {
                    what: "pinned map",
                    name,
                });
            }
            loader.map_pin_path(name, path);
        }
        for (name, layout) in OWN {
            let path = pins.map(name);
            if path.exists() {
                check_layout(name, path.clone(), layout)?;
            }
            loader.map_pin_path(name, path);
        }
        let (net, prefix) = config.vip_net;
        let mask = u32::MAX
            .checked_shl(32_u32.saturating_sub(u32::from(prefix)))
            .unwrap_or(0);
        let words = [(u32::from(net) & mask).to_be(), mask.to_be()];
        loader.override_global("VIP_NET", &words, true);
        loader.override_global("ANSWERS_PER_TICK", &config.answers_per_tick, true);
        // Our own object needs no CO-RE relocations.
        loader.btf(None);
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
        for name in [INBOUND, OUTBOUND] {
            load_program(&mut ebpf, name)?;
        }
        Ok(Self {
            flows: open(&mut ebpf, FLOWS)?,
            answers: open(&mut ebpf, ANSWERS)?,
            counts: open(&mut ebpf, COUNTS)?,
            ebpf: Mutex::new(ebpf),
            hooks: TcHooks::new(pins, config.way, &HOOKS),
        })
    }

    /// Makes the programs run for what a device of the caller's network namespace receives and sends: what is there gets the
    /// new program in one step. The answers' side comes first, so that no flow is taken in that can't be answered. Returns
    /// whether both were found.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer; [`LoadError::FilterTaken`].
    pub fn attach(&self, ifindex: u32) -> Result<bool, LoadError> {
        self.hooks.attach(&self.lock(), ifindex)
    }

    /// Takes the programs off a device. Not attached is success.
    ///
    /// # Errors
    /// [`LoadError::Link`].
    pub fn detach(&self, ifindex: u32) -> Result<(), LoadError> {
        self.hooks.detach(ifindex)
    }

    /// The devices that have a program, or had one and are gone, by their numbers, sorted.
    ///
    /// # Errors
    /// [`LoadError::File`] where the pins can't be listed.
    pub fn attached(&self) -> Result<Vec<u32>, LoadError> {
        self.hooks.attached()
    }

    /// A count by reason ([`reason`]), over all CPUs.
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

    /// What clients send, and the backends of it. What comes and goes meanwhile may be missing.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, Flow>, LoadError> {
        list(&self.flows, FLOWS)
    }

    /// What backends answer, and the VIPs of it. What comes and goes meanwhile may be missing.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn answers(&self) -> Result<BTreeMap<FlowKey, Flow>, LoadError> {
        list(&self.answers, ANSWERS)
    }

    /// Forgets what a client sends, as a full map would. For tests.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel, also where it is not known.
    pub fn forget(&mut self, key: &FlowKey) -> Result<(), LoadError> {
        self.flows
            .remove(key)
            .map_err(|e| LoadError::map("remove from", FLOWS, e))
    }

    /// Runs `packet_in` on a frame as if a device had received it. For tests.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn test_inbound(&self, frame: &[u8]) -> Result<TestRun, LoadError> {
        self.test_run(INBOUND, frame)
    }

    /// Runs `packet_out` on a frame as if a device was to send it. For tests.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn test_outbound(&self, frame: &[u8]) -> Result<TestRun, LoadError> {
        self.test_run(OUTBOUND, frame)
    }

    fn test_run(&self, name: &'static str, frame: &[u8]) -> Result<TestRun, LoadError> {
        let ebpf = self.lock();
        raw::test_run(program_fd(&ebpf, name)?, frame, 1).map_err(|source| LoadError::Link {
            action: "test-run",
            name,
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Ebpf> {
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the programs off every device that has them: for a node that is not to have them any more.
///
/// # Errors
/// [`LoadError::Link`], [`LoadError::File`].
pub fn detach_all(plane: &DataPlane) -> Result<(), LoadError> {
    let hooks = TcHooks::new(plane.pins.clone(), TcWay::of_kernel(), &HOOKS);
    hooks
        .attached()?
        .into_iter()
        .try_for_each(|ifindex| hooks.detach(ifindex))
}
