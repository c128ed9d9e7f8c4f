//! A data plane with VIPs, and the packet programs beside it.

use std::net::{Ipv4Addr, SocketAddrV4};

use waggle_ebpf::common::{Backend, SetHeader};
use waggle_ebpf::packet::{PacketConfig, PacketPlane};
use waggle_ebpf::{DataPlane, TcWay};

use crate::support::Node;
use crate::support::tables::{backend, publish, publish_set, sorted};

pub type At = (Ipv4Addr, u16);

/// What one test owns; removed when dropped.
pub struct Rig {
    pub packets: PacketPlane,
    pub plane: DataPlane,
    _node: Node,
}

impl Rig {
    /// `None` (after saying why) where the test can't run.
    pub fn new(name: &str) -> anyhow::Result<Option<Self>> {
        // Tests run faster than time passes.
        Self::with_answers(name, u32::MAX)
    }

    /// With a budget for answers of the programs' own.
    pub fn with_answers(name: &str, per_tick: u32) -> anyhow::Result<Option<Self>> {
        Self::with(
            name,
            &PacketConfig {
                answers_per_tick: per_tick,
                ..PacketConfig::default()
            },
        )
    }

    /// With programs that are held in a given way.
    pub fn held_by(name: &str, way: TcWay) -> anyhow::Result<Option<Self>> {
        if way == TcWay::Links && TcWay::of_kernel() == TcWay::Filters {
            eprintln!("SKIP: this kernel has no links at tc");
            return Ok(None);
        }
        Self::with(
            name,
            &PacketConfig {
                answers_per_tick: u32::MAX,
                way,
                ..PacketConfig::default()
            },
        )
    }

    fn with(name: &str, config: &PacketConfig) -> anyhow::Result<Option<Self>> {
        let Some(node) = Node::new(&format!("pkt-{name}"))? else {
            return Ok(None);
        };
        let plane = node.open()?;
        let packets = PacketPlane::open(&plane, config)?;
        Ok(Some(Self {
            packets,
            plane,
            _node: node,
        }))
    }

    /// A VIP whose backends are all alike.
    pub fn serve(&self, vip: At, proto: u8, base: u32, backends: &[At]) -> anyhow::Result<()> {
        let backends = all(backends)?;
        let vip = SocketAddrV4::new(vip.0, vip.1);
        publish(&self.plane, vip, proto, base, base + 1, &backends)
    }

    /// A VIP with one backend, and others that drain.
    pub fn drain(
        &self,
        vip: At,
        proto: u8,
        base: u32,
        serving: At,
        draining: &[At],
    ) -> anyhow::Result<()> {
        let mut backends = all(&[serving])?;
        backends.extend(sorted(all(draining)?));
        let how = SetHeader {
            vip_id: base + 1,
            n: 1,
            members: backends.len() as u16,
            ..SetHeader::default()
        };
        let vip = SocketAddrV4::new(vip.0, vip.1);
        publish_set(&self.plane, vip, proto, base, how, &backends)
    }

    pub fn count(&self, reason: u32) -> anyhow::Result<u64> {
        Ok(self.packets.count(reason)?)
    }
}

fn all(backends: &[At]) -> anyhow::Result<Vec<Backend>> {
    backends
        .iter()
        .map(|(ip, port)| backend(*ip, &port.to_string()))
        .collect()
}
