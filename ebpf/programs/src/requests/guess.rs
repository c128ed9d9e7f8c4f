//! What a stream looks like, by the first eight bytes of a packet (big end first).

/// `PRI * HT`, the beginning of HTTP/2's preface (RFC 9113, section 3.4).
const PREFACE: u64 = u64::from_be_bytes(*b"PRI * HT");
/// Bytes of the whole preface.
pub const PREFACE_BYTES: u32 = 24;
/// What a frame's header has before the stream's number, and that.
pub const FRAME_HEADER: u32 = 9;

/// Kinds of frames (RFC 9113, section 6).
pub mod frame {
    pub const DATA: u32 = 0;
    pub const HEADERS: u32 = 1;
    pub const RST_STREAM: u32 = 3;
    pub const SETTINGS: u32 = 4;
    pub const PUSH_PROMISE: u32 = 5;
    pub const PING: u32 = 6;
    pub const WINDOW_UPDATE: u32 = 8;
    pub const CONTINUATION: u32 = 9;
    /// Above this no kind is defined, nor used by anybody.
    pub const LAST: u32 = 0x10;
    /// Flag of DATA: the message is over.
    pub const END_STREAM: u32 = 1;
}

/// Whether HTTP/2 begins here.
#[inline(always)]
pub fn is_preface(head: u64) -> bool {
    head == PREFACE
}

/// Whether an HTTP/1 request begins here: a method and a space.
#[inline(always)]
pub fn is_request(head: u64) -> bool {
    const fn word<const N: usize>(method: &[u8; N]) -> u64 {
        let mut word = 0;
        let mut at = 0;
        while at < N {
            word = word << 8 | method[at] as u64;
            at += 1;
        }
        word
    }
    const GET: u64 = word(b"GET ");
    const PUT: u64 = word(b"PUT ");
    const POST: u64 = word(b"POST ");
    const HEAD: u64 = word(b"HEAD ");
    const PATCH: u64 = word(b"PATCH ");
    const TRACE: u64 = word(b"TRACE ");
    const DELETE: u64 = word(b"DELETE ");
    const OPTIONS: u64 = word(b"OPTIONS ");
    const CONNECT: u64 = word(b"CONNECT ");
    let four = head >> 32;
    let five = head >> 24;
    let six = head >> 16;
    four == GET
        || four == PUT
        || five == POST
        || five == HEAD
        || six == PATCH
        || six == TRACE
        || head >> 8 == DELETE
        || head == OPTIONS
        || head == CONNECT
}

/// Whether an HTTP/1 answer begins here.
#[inline(always)]
pub fn is_answer(head: u64) -> bool {
    head >> 8 == 0x0048_5454_502f_312e
}

/// Whether a record of TLS begins here.
#[inline(always)]
pub fn is_tls(head: u64) -> bool {
    let (kind, version) = (head >> 56, (head >> 48) as u8);
    (kind == 0x16 || kind == 0x17) && version == 3
}

/// Length, kind and flags of a frame.
#[inline(always)]
pub fn frame_of(head: u64) -> (u32, u32, u32) {
    (
        (head >> 40) as u32,
        (head >> 32) as u32 & 0xff,
        (head >> 24) as u32 & 0xff,
    )
}

/// Whether a frame begins here, and nothing else: one that has a form of its own and ends within the packet, of which `length`
/// bytes are there.
#[inline(always)]
pub fn is_frame(head: u64, length: u32) -> bool {
    let (size, kind, flags) = frame_of(head);
    // Without the last byte of the stream's number.
    let stream = head as u32 & 0x00ff_ffff;
    if stream & 0x0080_0000 != 0 || size + FRAME_HEADER > length {
        return false;
    }
    match kind {
        frame::SETTINGS => {
            stream == 0 && (flags == 0 && size % 6 == 0 && size <= 120 || flags == 1 && size == 0)
        }
        frame::PING => stream == 0 && size == 8 && flags <= 1,
        frame::WINDOW_UPDATE => size == 4 && flags == 0,
        frame::RST_STREAM => size == 4 && flags == 0,
        // END_STREAM, END_HEADERS, PADDED, PRIORITY.
        frame::HEADERS => size > 0 && size <= 4096 && flags & 4 != 0 && flags & !0x2d == 0,
        _ => false,
    }
}
