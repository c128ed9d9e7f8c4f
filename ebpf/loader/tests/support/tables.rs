//! Writing VIPs and reading counters.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use waggle_ebpf::DataPlane;
use waggle_ebpf::common::{
    Backend, Cell, SetHeader, TcpKey, TcpStats, VipKey, VipStat, VipStatKey, addr_of,
};

pub fn vip_key(vip: impl Into<SocketAddr>, proto: u8) -> VipKey {
    let vip = vip.into();
    VipKey {
        addr: addr_of(vip.ip()),
        port: vip.port().to_be(),
        proto,
        pad: 0,
    }
}

pub fn backend(ip: impl Into<IpAddr>, port: &str) -> anyhow::Result<Backend> {
    Ok(Backend {
        addr: addr_of(ip.into()),
        port: port.parse::<u16>()?.to_be(),
        // Chosen itself, always.
        threshold: u32::MAX,
        ..Backend::default()
    })
}

pub fn loopback(port: &str) -> anyhow::Result<Backend> {
    backend(Ipv4Addr::LOCALHOST, port)
}

/// Backends that are all alike: the set first, then the VIP that names it.
pub fn publish(
    plane: &DataPlane,
    vip: impl Into<SocketAddr>,
    proto: u8,
    base: u32,
    vip_id: u32,
    backends: &[Backend],
) -> anyhow::Result<()> {
    let n = u16::try_from(backends.len())?;
    let how = SetHeader {
        vip_id,
        n,
        members: n,
        ..SetHeader::default()
    };
    publish_set(plane, vip, proto, base, how, &sorted(backends.to_vec()))
}

/// As sets have them: by address and port.
pub fn sorted(mut backends: Vec<Backend>) -> Vec<Backend> {
    backends.sort_by_key(|b| (b.addr.map(u32::from_be), u16::from_be(b.port)));
    backends
}

/// Any set; `how` tells all but the key. Both parts of it are in order (see [`sorted`]).
pub fn publish_set(
    plane: &DataPlane,
    vip: impl Into<SocketAddr>,
    proto: u8,
    base: u32,
    how: SetHeader,
    backends: &[Backend],
) -> anyhow::Result<()> {
    let key = vip_key(vip, proto);
    let header = SetHeader {
        addr: key.addr,
        port: key.port,
        proto,
        ..how
    };
    // A column that is whole is its backend's own.
    let own = |(i, b): (u32, &Backend)| match b.threshold {
        u32::MAX => Backend { alias: i, ..*b },
        _ => *b,
    };
    let cells: Vec<Cell> = std::iter::once(header.into())
        .chain((0..).zip(backends).map(|one| own(one).into()))
        .collect();
    plane.vips().write_cells(base, &cells)?;
    plane.vips().set_vip(&key, base)?;
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
