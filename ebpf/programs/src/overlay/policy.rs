//! Whether a flow is allowed: asked for every packet from a container and to one, before it is steered.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::Addr;

/// Which way a packet goes, as its container sees it.
pub const EGRESS: u32 = 0;
/// Which way a packet goes, as its container sees it.
pub const INGRESS: u32 = 1;

/// A packet, as policies see it. Ports and addresses in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// The container's address.
    pub local: Addr,
    /// The other end's address.
    pub peer: Addr,
    /// The container's port; 0 where the protocol has none, and in later fragments. ICMP: 0.
    pub local_port: u16,
    /// The other end's port, alike. ICMP: type and code.
    pub peer_port: u16,
    /// IANA protocol.
    pub proto: u8,
    /// Flags of TCP; 0 of others.
    pub tcp_flags: u8,
    /// A fragment without ports: 1.
    pub is_later_fragment: u8,
    /// 0.
    pub pad: u8,
    /// [`EGRESS`] or [`INGRESS`].
    pub direction: u32,
    /// The container's number ([`waggle_ebpf_common::overlay::Endpoint::identity`]); 0: unknown.
    pub identity: u32,
}

/// Answer of [`verdict`]: the packet goes on.
pub const ALLOW: u32 = 0;
/// Answer of [`verdict`]: the packet is dropped, counted as the direction's (`POLICY_EGRESS`, `POLICY_INGRESS`).
#[allow(dead_code, reason = "no policy denies yet")]
pub const DENY: u32 = 1;

/// Decides about a packet. The frame is at `skb`, as it leaves or reaches the container; it must be neither changed nor pulled,
/// since callers go on with pointers into it.
#[inline(always)]
pub fn verdict(_skb: *mut __sk_buff, _flow: &Flow) -> u32 {
    ALLOW
}
