//! What the programs that trace requests tell: some bytes of TCP streams, who read them, which connections are over.
//!
//! A record is a [`Head`] and, for [`kind::PIECE`], as many bytes as fit into one of a few sizes. Records of a socket are in the
//! order in which they were written; nobody is woken for them.

use crate::Addr;

/// Version of these maps' forms.
pub const REQUESTS_ABI: u32 = 2;
/// Bytes of the ring.
pub const RING_BYTES: u32 = 8 << 20;
/// Most cgroups whose requests are traced.
pub const MAX_TRACED: u32 = crate::MAX_CGROUPS;
/// Most bytes of one record.
pub const MAX_BYTES: u32 = 2048;
/// Most bytes of a packet that begins with the head of an HTTP/1 answer.
pub const MAX_ANSWER_BYTES: u32 = 1024;
/// An HTTP/1 head that is not over after so many bytes is not followed on.
pub const MAX_HEAD: u32 = 4096;
/// Bytes of a packet that ends a write of an answer's body.
pub const MARK_BYTES: u32 = 128;
/// Most such packets that are told of one answer.
pub const MAX_MARKS: u32 = 1024;
/// Packets after which a stream that looks like nothing known is not looked at any more.
pub const MAX_LOOKS: u32 = 32;

/// What a record says.
pub mod kind {
    /// Bytes of a stream.
    pub const PIECE: u8 = 0;
    /// A thread has read up to a sequence number.
    pub const READ: u8 = 1;
    /// Both ends are closed, or it was reset.
    pub const CLOSED: u8 = 2;
}

/// Which way, seen from the socket.
pub mod direction {
    /// Received.
    pub const IN: u8 = 0;
    /// Sent.
    pub const OUT: u8 = 1;
}

/// Who opened the connection.
pub mod role {
    /// The socket is older than the programs that would know, or bytes had gone over it before it was looked at.
    pub const UNKNOWN: u8 = 0;
    /// This end.
    pub const CLIENT: u8 = 1;
    /// The other end.
    pub const SERVER: u8 = 2;
}

/// What a stream was taken for.
pub mod protocol {
    /// Nothing yet.
    pub const UNKNOWN: u8 = 0;
    /// HTTP/1.
    pub const HTTP1: u8 = 1;
    /// HTTP/2.
    pub const HTTP2: u8 = 2;
    /// Nothing that is looked at.
    pub const OTHER: u8 = 3;
}

/// Beginning of a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Cookie of the socket.
    pub socket: u64,
    /// cgroup2 id of the socket.
    pub cgroup_id: u64,
    /// `tgid << 32 | tid` of who sends or has read; 0 where that is not known.
    pub thread: u64,
    /// The socket's own address.
    pub local: Addr,
    /// The other end's.
    pub remote: Addr,
    /// The VIP that was dialled; zeros for none.
    pub vip: Addr,
    /// TCP's number of the first byte; for [`kind::READ`] of the byte after the last that was read.
    pub sequence: u32,
    /// Payload bytes of the packet from the first one of the record on; more than [`Head::captured`] where that is cut.
    pub length: u32,
    /// Bytes that follow.
    pub captured: u32,
    /// Counts the pieces of this socket and direction, and what was lost of it.
    pub number: u32,
    /// Port of [`Head::local`], network order.
    pub local_port: u16,
    /// Port of [`Head::remote`], network order.
    pub remote_port: u16,
    /// Port of [`Head::vip`], network order.
    pub vip_port: u16,
    /// [`kind`].
    pub kind: u8,
    /// [`direction`].
    pub direction: u8,
    /// [`role`].
    pub role: u8,
    /// [`protocol`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 6],
}

/// A record with room for `N` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Record<const N: usize> {
    /// What it is about.
    pub head: Head,
    /// The first [`Head::captured`] of them are.
    pub bytes: [u8; N],
}

/// Sizes of records.
pub const SIZES: [usize; 5] = [128, 256, 512, 1024, MAX_BYTES as usize];

/// One direction of a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stream {
    /// First bytes of an HTTP/2 frame's header that is split, big end first.
    pub partial: u64,
    /// Number of the next byte.
    pub next: u32,
    /// Number of the next piece.
    pub number: u32,
    /// HTTP/2: bytes left of the frame. HTTP/1: bytes that may still be of the head.
    pub left: u32,
    /// HTTP/2: bytes of [`Stream::partial`], and one more where the ninth is missing. HTTP/1: packets of the body that were told.
    pub have: u32,
    /// HTTP/2: whether the frame's bytes are told. HTTP/1: whether the last head was an answer's.
    pub is_told: u32,
    /// [`stream_flags`].
    pub flags: u32,
    /// HTTP/2, of the packet at hand: where it begins, bytes from the network header.
    pub at: u32,
    /// Its bytes.
    pub length: u32,
    /// Number of the first one.
    pub sequence: u32,
    /// Bytes that were walked over.
    pub done: u32,
    /// The first of them that is to be told.
    pub from: u32,
    /// The one after the last.
    pub to: u32,
}

/// What is known of a direction.
pub mod stream_flags {
    /// [`super::Stream::next`] is.
    pub const KNOWN: u32 = 1;
    /// HTTP/2: where frames begin is.
    pub const SYNCED: u32 = 2;
}

/// What is remembered of a socket of a traced cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Socket {
    /// Its cookie.
    pub cookie: u64,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Where an address is written to be read as a number.
    pub scratch: u64,
    /// [`protocol`].
    pub protocol: u32,
    /// Packets that looked like nothing known.
    pub looks: u32,
    /// [`closed`].
    pub closed: u32,
    /// 1 while somebody is waited for to read.
    pub is_pending: u32,
    /// The first byte that is waited for.
    pub first: u32,
    /// The first byte of the last piece that is waited for.
    pub last: u32,
    /// 1 where bytes had gone over it before it was looked at.
    pub is_older: u32,
    /// Zero.
    pub pad: u32,
    /// By [`direction`].
    pub streams: [Stream; 2],
}

/// What of a connection is over.
pub mod closed {
    /// The other end sends no more.
    pub const IN: u32 = 1;
    /// This end sends no more.
    pub const OUT: u32 = 2;
    /// Both.
    pub const BOTH: u32 = 3;
    /// It was told.
    pub const TOLD: u32 = 4;
}

/// Positions in the array of counts.
pub mod count {
    /// Records that found no room.
    pub const RING_FULL: u32 = 0;
    /// Sockets that no memory was found for.
    pub const NO_MEMORY: u32 = 1;
    /// HTTP/2 streams in which the place of frames was lost.
    pub const OUT_OF_STEP: u32 = 2;
    /// Sockets that speak nothing that is looked at.
    pub const OTHER: u32 = 3;
    /// Number of counts.
    pub const COUNT: u32 = 4;
    /// Names, by position.
    pub const NAMES: [&str; COUNT as usize] = ["ring_full", "no_memory", "out_of_step", "other"];
}

/// Places of fields, by position: bytes from the beginning of the structure.
pub mod at {
    /// `task_struct.pid`, which `tgid` follows.
    pub const TASK_PID: usize = 0;
    /// `sock.sk_lock` and `socket_lock_t.owned` added up.
    pub const SK_OWNED: usize = 1;
    /// `tcp_sock.copied_seq`.
    pub const COPIED_SEQ: usize = 2;
    /// Number of places.
    pub const COUNT: usize = 3;
    /// No such field.
    pub const NONE: u32 = u32::MAX;
}

impl Head {
    /// What is in the ring, and the bytes that follow; `None` for what is no record.
    pub fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        fn at<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
            let mut out = [0; N];
            for (to, byte) in out.iter_mut().zip(&bytes[from..]) {
                *to = *byte;
            }
            out
        }
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        let u64_at = |from| u64::from_ne_bytes(at(bytes, from));
        let u32_at = |from| u32::from_ne_bytes(at(bytes, from));
        let u16_at = |from| u16::from_ne_bytes(at(bytes, from));
        let addr_at = |from| {
            [
                u32_at(from),
                u32_at(from + 4),
                u32_at(from + 8),
                u32_at(from + 12),
            ]
        };
        let head = Self {
            at_ns: u64_at(0),
            socket: u64_at(8),
            cgroup_id: u64_at(16),
            thread: u64_at(24),
            local: addr_at(32),
            remote: addr_at(48),
            vip: addr_at(64),
            sequence: u32_at(80),
            length: u32_at(84),
            captured: u32_at(88),
            number: u32_at(92),
            local_port: u16_at(96),
            remote_port: u16_at(98),
            vip_port: u16_at(100),
            kind: bytes[102],
            direction: bytes[103],
            role: bytes[104],
            protocol: bytes[105],
            pad: [0; 6],
        };
        let rest = &bytes[size_of::<Self>()..];
        Some((head, rest.get(..head.captured as usize)?))
    }
}

const _: () = {
    assert!(size_of::<Head>() == 112);
    assert!(size_of::<Stream>() == 56);
    assert!(size_of::<Socket>() == 168);
    assert!(size_of::<Record<128>>() == 240);
};
