//! Writing VIPs and reading counters.

use std::net::{Ipv4Addr, SocketAddrV4};

use waggle_ebpf::DataPlane;
use waggle_ebpf::common::{Backend, TcpKey, TcpStats, VipKey, VipStat, VipStatKey, VipValue};

pub fn vip_key(vip: SocketAddrV4, proto: u8) -> VipKey {
    VipKey {
        addr: u32::from_ne_bytes(vip.ip().octets()),
        port: vip.port().to_be(),
        proto,
        pad: 0,
    }
}

pub fn loopback(port: &str) -> anyhow::Result<Backend> {
    let addr = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    Ok(Backend {
        addr,
        port: port.parse::<u16>()?.to_be(),
        pad: 0,
    })
}

/// Backends first, then the VIP that names them.
pub fn publish(
    plane: &DataPlane,
    vip: SocketAddrV4,
    proto: u8,
    base: u32,
    vip_id: u32,
    backends: &[Backend],
) -> anyhow::Result<()> {
    plane.vips().set_backends(base, backends)?;
    let n = u32::try_from(backends.len())?;
    plane.vips().set_vip(
        &vip_key(vip, proto),
        &VipValue {
            base,
            n,
            vip_id,
            flags: 0,
        },
    )?;
    Ok(())
}

pub fn choices(stats: &[(VipStatKey, VipStat)], vip_id: u32, backend: Backend) -> u64 {
    let key = VipStatKey {
        vip_id,
        addr: backend.addr,
        port: backend.port,
        pad: 0,
    };
    stats
        .iter()
        .filter(|(found, _)| *found == key)
        .map(|(_, stat)| stat.count)
        .sum()
}

pub fn tcp(plane: &DataPlane, key: TcpKey) -> anyhow::Result<TcpStats> {
    let all = plane.counters().tcp()?;
    Ok(all
        .iter()
        .find(|(found, _)| *found == key)
        .map(|(_, stats)| *stats)
        .unwrap_or_default())
}

/// A port on which nobody listens, since it was just given back.
pub fn unused_port() -> anyhow::Result<String> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port().to_string())
}
