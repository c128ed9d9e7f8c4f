//! A loaded program with a bpffs of its own, and its tables filled from a model or a plan.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use waggle_ebpf::common::edge::{
    self, Backend, BackendPath, Range, Record, backend_flag, flag, slot,
};
use waggle_ebpf::edge::{EdgeConfig, EdgePlane, EdgeSizes, EdgeTables};
use waggle_ebpf::{LoadError, is_built_with_ebpf};
use waggle_overlay_plan::maglev::EdgeWrite;

use crate::model::Model;

/// What one test owns; removed when dropped.
pub struct Rig {
    pub bpffs: PathBuf,
}

impl Rig {
    /// `None` (after saying why) where the test can't run.
    pub fn new(name: &str) -> anyhow::Result<Option<Self>> {
        if !is_root()? {
            eprintln!("SKIP: needs root");
            return Ok(None);
        }
        if !is_built_with_ebpf() {
            eprintln!("SKIP: {}", LoadError::BuiltWithoutEbpf);
            return Ok(None);
        }
        let bpffs = std::env::temp_dir().join(format!("wgl-t-edge-{name}-{}", std::process::id()));
        fs::create_dir(&bpffs)?;
        let rig = Self { bpffs };
        run(Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&rig.bpffs))?;
        Ok(Some(rig))
    }

    pub fn config(&self, name: &str) -> EdgeConfig {
        let mut config = EdgeConfig::new(self.bpffs.join(name));
        config.sizes = EdgeSizes {
            records: 256,
            backends: 4096,
            slot_pairs: 1 << 18,
            flows: 262_144,
            half_open: 131_072,
        };
        // Tests run faster than time passes.
        config.half_open_per_tick = u32::MAX;
        config.adopted_per_tick = u32::MAX;
        config
    }

    pub fn open(&self, name: &str) -> Result<EdgePlane, LoadError> {
        EdgePlane::open(&self.config(name))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A child of another test, between fork and exec, may hold a descriptor for a moment: lazily.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.bpffs)) {
            eprintln!("{error:#}");
        }
        let _ = fs::remove_dir(&self.bpffs);
    }
}

pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn is_root() -> anyhow::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(status
        .lines()
        .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(1) == Some("0")))
}

/// Carries out writes, in order.
pub fn execute(tables: &EdgeTables, writes: &[EdgeWrite]) -> Result<(), LoadError> {
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

/// Fills the tables as a model says.
pub fn fill(tables: &EdgeTables, model: &Model) -> anyhow::Result<()> {
    let (mut slots, mut backends) = (0, 0);
    for (n, ((addr, port, proto), vip)) in (0..).zip(&model.vips) {
        let places: Vec<Backend> = vip
            .backends
            .iter()
            .map(|backend| {
                Backend::new(&BackendPath {
                    next_hop: backend.next_hop.unwrap_or_default(),
                    own_mac: model.own_mac,
                    edge: model.edge.octets(),
                    node: backend.node.octets(),
                    port: backend.port,
                    vip_port: *port,
                    mtu: backend.mtu as u16,
                    flags: match (backend.is_local, backend.next_hop) {
                        (true, _) => backend_flag::LOCAL,
                        (false, None) => backend_flag::BACK,
                        (false, Some(_)) => 0,
                    },
                    generation: 1,
                })
            })
            .collect();
        tables.set_backends(backends, &places)?;
        let words: Vec<u32> = vip
            .ring
            .iter()
            .map(|(previous, current, changed)| slot::pack(*previous, *current, *changed))
            .collect();
        tables.set_slots(slots, &words)?;
        for (net, prefix) in vip.ranges.iter().flatten() {
            let range = Range {
                ranges: n,
                addr: u32::from_ne_bytes(net.octets()),
            };
            tables.allow(range, *prefix)?;
        }
        let key = edge::key(u32::from_ne_bytes(addr.octets()), port.to_be(), *proto);
        let record = Record {
            key,
            ring_base: slots,
            ring_size: if vip.backends.is_empty() {
                0
            } else {
                words.len() as u32
            },
            backend_base: backends,
            vip_id: n,
            flags: if vip.ranges.is_some() {
                flag::RANGES
            } else {
                0
            } | if vip.no_new { flag::NO_NEW } else { 0 },
            ranges: n,
            seed: vip.seed,
            port_mask: if vip.affinity { 0 } else { u32::MAX },
            ..Record::default()
        };
        tables.set_record(n, &record)?;
        tables.publish(key, n)?;
        slots += words.len() as u32;
        backends += places.len() as u32;
    }
    Ok(())
}
