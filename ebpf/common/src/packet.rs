//! VIPs per packet: what is remembered of flows that the socket hooks can't see.
//!
//! Two maps share keys and values: one leads from what a client sends (client, VIP) to the backend, the other from what a
//! backend answers (backend, client) to the VIP.

/// Flows that are remembered; with more, those that were used longest ago are forgotten.
pub const MAX_FLOWS: u32 = 131_072;
/// First fragments that are remembered for the ones that follow.
pub const MAX_FRAGMENTS: u32 = 16_384;
/// A TCP flow that was silent for as long as this may give way to another one, seconds.
pub const TCP_IDLE_S: u32 = 7_200;
/// A UDP flow that was silent for as long as this begins anew, seconds.
pub const UDP_IDLE_S: u32 = 60;
/// In [`crate::AffinityKey::client`]: the client is an IPv4 address (low half, network order), not a cgroup.
pub const CLIENT_IS_ADDRESS: u64 = 1 << 63;

/// Addresses and ports as they stand in a packet. Network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FlowKey {
    /// Source.
    pub src: u32,
    /// Destination.
    pub dst: u32,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IANA protocol.
    pub proto: u32,
}

/// What a flow's packets become.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flow {
    /// The backend (for what a client sends) or the VIP (for answers), network order.
    pub addr: u32,
    /// Its port, network order.
    pub port: u16,
    /// [`flow_flags`].
    pub flags: u16,
    /// `CLOCK_MONOTONIC` of the last packet, seconds.
    pub seen_s: u32,
    /// The cell that held the backend; 0 for answers.
    pub cell: u32,
}

/// What is known of a flow.
pub mod flow_flags {
    /// A FIN or RST was seen: the next SYN is a new flow.
    pub const CLOSING: u16 = 1;
}

/// What a first fragment became, for the ones that follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fragment {
    /// The new address, network order.
    pub addr: u32,
    /// 1: of the source, 0: of the destination.
    pub is_source: u32,
}

crate::edge::reasons::reasons! {
    /// Positions in the array of counters.
    pub mod reason {
        /// A packet to a VIP went to a backend.
        FORWARDED = 0, "forwarded";
        /// An answer got the VIP as its source.
        ANSWERED = 1, "answered";
        /// A flow began.
        FLOW_MADE = 2, "flow_made";
        /// A fragment without ports followed its first one.
        FRAGMENT = 3, "fragment";
        /// Dropped: a fragment to a VIP whose first one is not known.
        FRAGMENT_LOST = 4, "fragment_lost";
        /// An ICMP error was translated on its way to a backend.
        ICMP_FORWARDED = 5, "icmp_forwarded";
        /// An ICMP error was translated on its way to a client.
        ICMP_ANSWERED = 6, "icmp_answered";
        /// Not forwarded: the VIP has no backend. Answered with a reset or "port unreachable".
        NO_BACKEND = 7, "no_backend";
        /// Not forwarded: TCP in the middle of a flow that is not known (forgotten, or never seen).
        NO_FLOW = 8, "no_flow";
        /// Not forwarded: the client has the same port open to the same backend through another VIP.
        COLLISION = 9, "collision";
        /// Not forwarded: the only backend is the client itself, which would not take its own address as a peer.
        HAIRPIN = 10, "hairpin";
        /// Dropped: no room to remember a flow or a first fragment.
        NOT_REMEMBERED = 11, "not_remembered";
        /// Dropped: a header to a VIP is shorter than its protocol needs.
        MALFORMED = 12, "malformed";
        /// Dropped: IPv4 options to a VIP.
        OPTIONS = 13, "ip_options";
        /// Dropped: the VIP's entry can't be read, or its backend is no IPv4 address.
        BAD_TABLE = 14, "bad_table";
        /// Dropped: the kernel refused to change the packet.
        FAILED = 15, "failed";
        /// A reset was sent.
        RESET_SENT = 16, "reset_sent";
        /// An ICMP "port unreachable" was sent.
        ICMP_SENT = 17, "icmp_sent";
        /// A client that had used the VIP dialled the backend itself.
        DIRECT = 18, "direct";
        /// Dropped without an answer: more were due in 17 ms than one CPU may send.
        UNANSWERED = 19, "unanswered";
    }
}

const _: () = {
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<Flow>() == 16);
    assert!(size_of::<Fragment>() == 8);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: all are `#[repr(C)]`, `Copy`, without padding (sizes asserted above) and valid for any bit pattern.
    unsafe impl aya::Pod for super::FlowKey {}
    unsafe impl aya::Pod for super::Flow {}
    unsafe impl aya::Pod for super::Fragment {}
}
