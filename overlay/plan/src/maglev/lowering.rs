//! Small steps of the plan: what a VIP's parts are as kernel bytes and writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use waggle_ebpf_common::edge::{self as abi, backend_flag, flag, slot};
use waggle_types::{Protocol, VipKey};

use super::{
    table::{Member, mix},
    write::{EdgeBackend, EdgeError, EdgeService, EdgeWrite},
};
use crate::lower::slots::Slots;

pub(super) fn check(key: VipKey, n: usize) -> Result<(), EdgeError> {
    let max = slot::MAX_OWNERS / 2;
    if u32::try_from(n).is_ok_and(|n| n <= max) {
        Ok(())
    } else {
        Err(EdgeError::TooManyBackends { key, n, max })
    }
}

/// Places for so many backends, with room for some that come before others have left.
pub(super) fn places(n: usize) -> u32 {
    u32::try_from((n + n / 2 + 1).max(2))
        .unwrap_or(u32::MAX)
        .min(slot::MAX_OWNERS + 1)
}

pub(super) fn take(
    pool: &mut Slots,
    n: u32,
    key: VipKey,
    table: &'static str,
) -> Result<u32, EdgeError> {
    pool.take(n).ok_or(EdgeError::Full {
        key,
        table,
        wanted: n,
        free: pool.n_free(),
        resting: pool.n_resting(),
    })
}

/// None for a VIP of IPv6, which the program does not serve yet.
pub(super) fn kernel_key(key: VipKey) -> Option<u64> {
    let IpAddr::V4(ip) = key.ip else { return None };
    Some(abi::key(
        u32::from(ip).to_be(),
        key.port.to_be(),
        key.protocol.number(),
    ))
}

/// The opposite of [`kernel_key`].
pub(super) fn vip_key(key: u64) -> Option<VipKey> {
    let [_, proto, port @ .., a, b, c, d] = key.to_le_bytes();
    let protocol = match proto {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Some(VipKey {
        protocol,
        // Both stand in the key as little-endian words of what was in network order.
        ip: Ipv4Addr::new(a, b, c, d).into(),
        port: u16::from_be_bytes(port),
    })
}

/// What a backend's headers say of it; its weight is not among that.
pub(super) fn backend_of(place: &abi::Backend) -> (SocketAddrV4, EdgeBackend) {
    let h = &place.header;
    let node = Ipv4Addr::new(h[30], h[31], h[32], h[33]);
    let port = u16::from_be_bytes([h[46], h[47]]);
    let is_local = place.flags & backend_flag::LOCAL != 0;
    let has_hop = place.flags & (backend_flag::LOCAL | backend_flag::BACK) == 0;
    let backend = EdgeBackend {
        node,
        next_hop: has_hop.then_some([h[0], h[1], h[2], h[3], h[4], h[5]]),
        is_local,
        weight: 0,
    };
    (SocketAddrV4::new(node, port), backend)
}

pub(super) fn members(owners: &BTreeMap<SocketAddrV4, u16>, service: &EdgeService) -> Vec<Member> {
    owners
        .iter()
        .filter_map(|(addr, owner)| {
            let backend = service.backends.get(addr)?;
            Some(Member {
                id: mix(u64::from(u32::from(*addr.ip())) << 16 | u64::from(addr.port())),
                owner: *owner,
                weight: backend.weight,
            })
        })
        .collect()
}

pub(super) fn describe(value: &mut abi::Record, service: &EdgeService, all_drain: bool) {
    value.port_mask = if service.affinity { 0 } else { u32::MAX };
    value.flags = if service.ranges.is_some() {
        flag::RANGES
    } else {
        0
    };
    if all_drain {
        value.flags |= flag::NO_NEW;
    }
    // A VIP has a set of its own, by its own number.
    value.ranges = value.vip_id;
}

pub(super) fn ranges(
    vip_id: u32,
    old: &EdgeService,
    new: &EdgeService,
    writes: &mut Vec<EdgeWrite>,
) {
    let none = BTreeSet::new();
    let (old, new) = (
        old.ranges.as_ref().unwrap_or(&none),
        new.ranges.as_ref().unwrap_or(&none),
    );
    let range = |ip: &Ipv4Addr| abi::Range {
        ranges: vip_id,
        addr: u32::from(*ip).to_be(),
    };
    writes.extend(new.difference(old).map(|(ip, prefix)| EdgeWrite::Allow {
        range: range(ip),
        prefix: *prefix,
    }));
    writes.extend(old.difference(new).map(|(ip, prefix)| EdgeWrite::Disallow {
        range: range(ip),
        prefix: *prefix,
    }));
}

pub(super) fn all_slots(base: u32, slots: &[u32]) -> EdgeWrite {
    EdgeWrite::SetSlots {
        base,
        slots: (0..).zip(slots.iter().copied()).collect(),
    }
}

pub(super) fn publish(at: u32, value: &abi::Record, writes: &mut Vec<EdgeWrite>) {
    writes.push(EdgeWrite::SetRecord { at, record: *value });
    writes.push(EdgeWrite::Publish {
        key: value.key,
        record: at,
    });
}
