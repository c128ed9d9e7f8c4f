//! Who is where.

use aya_ebpf::btf_maps::lpm_trie::Key;
use waggle_ebpf_common::Addr;
use waggle_ebpf_common::overlay::{Endpoint, GATEWAY4, GATEWAY6, NOWHERE, Peer, Subnet, THIS_NODE};

use crate::maps::{OV_ENDPOINTS, OV_NODES, OV_PEERS, OV_SPECIAL, OV_SUBNETS, node};
use crate::parse::Packet;
use crate::skb::{Mac, bytes_of};

/// Who has an address on this node.
#[inline(always)]
pub fn endpoint(addr: &Addr) -> Option<Endpoint> {
    let found = OV_ENDPOINTS.get_ptr(addr)?;
    // SAFETY: a map value, of whatever key by now; the key is read last, see `Endpoint::addr`.
    let endpoint = unsafe {
        Endpoint {
            addr: *addr,
            ifindex: (&raw const (*found).ifindex).read_volatile(),
            identity: (&raw const (*found).identity).read_volatile(),
            network: (&raw const (*found).network).read_volatile(),
            flags: (&raw const (*found).flags).read_volatile(),
            mac: [0; 6],
            pad: 0,
        }
    };
    // SAFETY: as above.
    let (mac, key) = unsafe {
        (
            (&raw const (*found).mac).cast::<Mac>().read_volatile(),
            (&raw const (*found).addr).read_volatile(),
        )
    };
    (key == *addr).then_some(Endpoint {
        mac: bytes_of(mac),
        ..endpoint
    })
}

/// Where an address lives, if it is one of the overlay's.
#[inline(always)]
pub fn subnet(addr: &Addr) -> Option<Subnet> {
    OV_SUBNETS.get(&Key::new(128, *addr)).copied()
}

/// A net's node.
#[inline(always)]
pub fn peer(at: u32) -> Option<&'static Peer> {
    if at == THIS_NODE || at == NOWHERE {
        return None;
    }
    OV_PEERS.get(at).filter(|peer| peer.addr != 0)
}

/// Whether an address on the underlay is a peer's.
#[inline(always)]
pub fn is_peer(addr: u32) -> bool {
    // SAFETY: not read.
    unsafe { OV_NODES.get(&addr) }.is_some()
}

/// Whether an address on the underlay is a peer's, or our own.
#[inline(always)]
pub fn is_node(addr: u32) -> bool {
    addr == node() || is_peer(addr)
}

/// The kernel's VXLAN device; 0: there is none.
#[inline(always)]
pub fn vxlan() -> u32 {
    OV_SPECIAL.get(0).map_or(0, |devices| devices.vxlan)
}

/// Whether an address is the gateway's that every container has.
#[inline(always)]
pub fn is_gateway(packet: &Packet) -> bool {
    let dst = packet.dst;
    if packet.is_v6 {
        is_gateway6(&dst)
    } else {
        dst[3] == u32::from_ne_bytes(GATEWAY4)
    }
}

/// Whether an IPv6 address is the gateway's that every container has.
#[inline(always)]
pub fn is_gateway6(addr: &Addr) -> bool {
    let g = GATEWAY6;
    *addr
        == [
            u32::from_ne_bytes([g[0], g[1], g[2], g[3]]),
            0,
            0,
            u32::from_ne_bytes([g[12], g[13], g[14], g[15]]),
        ]
}

/// Whether two networks may talk.
#[inline(always)]
pub fn may_talk(one: u32, other: u32) -> bool {
    one == other || one == 0 || other == 0
}
