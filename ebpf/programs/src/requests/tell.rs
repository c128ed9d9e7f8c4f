//! Records.

use aya_ebpf::bindings::{__sk_buff, BPF_RB_NO_WAKEUP, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_skb_load_bytes,
};
use waggle_ebpf_common::requests::{
    Head, MAX_BYTES, Record, SIZES, Socket, Stream, at, count, direction, kind, protocol, role,
};
use waggle_ebpf_common::{Addr, MAPPED, sock_flags};

use crate::maps::{TRACE_RECORDS, counted, opened, place, recall};
use crate::packet::{bounded, socket};

const AF_INET: u32 = 2;
/// Records for what is longer than one may be.
const PARTS: u32 = 2;

/// One direction of a socket.
///
/// # Safety
/// `memory` is a map value.
#[inline(always)]
pub unsafe fn stream_of(memory: *mut Socket, way: u8) -> *mut Stream {
    // SAFETY: as the caller says; two places.
    unsafe {
        (&raw mut (*memory).streams)
            .cast::<Stream>()
            .add(usize::from(way & 1))
    }
}

/// Tells `n` bytes of a packet's payload, which is `length` bytes long from there on.
#[inline(always)]
pub fn tell(skb: *mut __sk_buff, at: u32, n: u32, length: u32, sequence: u32, way: u8, what: u8) {
    let mut done = 0;
    for _ in 0..PARTS {
        let rest = n.wrapping_sub(done);
        let part = if rest < MAX_BYTES { rest } else { MAX_BYTES };
        tell_one(
            skb,
            at.wrapping_add(done),
            part,
            length.wrapping_sub(done),
            sequence.wrapping_add(done),
            (way, what),
        );
        done += part;
        if done >= n {
            break;
        }
    }
}

/// Tells `n` bytes that one record has room for; of which direction and protocol they are.
#[inline(always)]
pub fn tell_one(
    skb: *mut __sk_buff,
    at: u32,
    n: u32,
    length: u32,
    sequence: u32,
    (way, what): (u8, u8),
) {
    let words = n | u32::from(way) << 16 | u32::from(what) << 24;
    trace_tell(skb, at, words, length, sequence);
}

/// `words`: how many bytes, direction, protocol, in 16, 8 and 8 bits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_tell(
    skb: *mut __sk_buff,
    at: u32,
    words: u32,
    length: u32,
    sequence: u32,
) -> u32 {
    let Some(sk) = socket(skb) else { return 0 };
    // SAFETY: the packet's socket.
    let Some(memory) = (unsafe { recall(sk.cast()) }) else {
        return 0;
    };
    let n = words & 0xffff;
    let way = (words >> 16) as u8 & 1;
    // SAFETY: map values.
    unsafe {
        let stream = stream_of(memory, way);
        let number = (*stream).number;
        (*stream).number = number.wrapping_add(1);
        let mut head = blank();
        head.kind = kind::PIECE;
        head.sequence = sequence;
        head.length = length;
        head.captured = n;
        head.number = number;
        head.direction = way;
        head.protocol = (words >> 24) as u8;
        describe(sk, memory, &mut head);
        if way == direction::OUT {
            head.thread = sender(sk, memory);
        } else if head.role != role::CLIENT {
            expect(memory, sequence);
        }
        if n <= SIZES[0] as u32 {
            put::<{ SIZES[0] }>(skb, at, n, &head);
        } else if n <= SIZES[1] as u32 {
            put::<{ SIZES[1] }>(skb, at, n, &head);
        } else if n <= SIZES[2] as u32 {
            put::<{ SIZES[2] }>(skb, at, n, &head);
        } else if n <= SIZES[3] as u32 {
            put::<{ SIZES[3] }>(skb, at, n, &head);
        } else {
            put::<{ SIZES[4] }>(skb, at, n, &head);
        }
    }
    0
}

/// Tells that a connection is over.
#[inline(always)]
pub fn tell_closed(skb: *mut __sk_buff) {
    trace_closed(skb);
}

/// Apart for its stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_closed(skb: *mut __sk_buff) -> u32 {
    let Some(sk) = socket(skb) else { return 0 };
    // SAFETY: the packet's socket, a map value.
    unsafe {
        let Some(memory) = recall(sk.cast()) else {
            return 0;
        };
        let mut head = blank();
        head.kind = kind::CLOSED;
        head.protocol = (*memory).protocol as u8;
        describe(sk, memory, &mut head);
        write(&head);
    }
    0
}

/// Tells what a thread has read.
///
/// # Safety
/// `memory` is a map value.
#[inline(always)]
pub unsafe fn tell_read(memory: *mut Socket, thread: u64, up_to: u32) {
    // SAFETY: as the caller says.
    unsafe {
        let mut head = blank();
        head.kind = kind::READ;
        head.at_ns = bpf_ktime_get_ns();
        head.socket = (*memory).cookie;
        head.cgroup_id = (*memory).cgroup_id;
        head.thread = thread;
        head.sequence = up_to;
        write(&head);
    }
}

#[inline(always)]
fn blank() -> Head {
    Head {
        at_ns: 0,
        socket: 0,
        cgroup_id: 0,
        thread: 0,
        local: [0; 4],
        remote: [0; 4],
        vip: [0; 4],
        sequence: 0,
        length: 0,
        captured: 0,
        number: 0,
        local_port: 0,
        remote_port: 0,
        vip_port: 0,
        kind: 0,
        direction: 0,
        role: role::UNKNOWN,
        protocol: protocol::UNKNOWN,
        pad: [0; 6],
    }
}

/// Both ends, who opened the connection, and the VIP.
#[inline(always)]
unsafe fn describe(sk: *mut bpf_sock, memory: *mut Socket, head: &mut Head) {
    // SAFETY: the packet's socket, a map value. All is read as whole words, whatever the family: of loads in two branches the
    // compiler makes one through a changed pointer.
    unsafe {
        head.at_ns = bpf_ktime_get_ns();
        head.socket = (*memory).cookie;
        head.cgroup_id = (*memory).cgroup_id;
        let family = (&raw const (*sk).family).read_volatile();
        let local4 = (&raw const (*sk).src_ip4).read_volatile();
        let remote4 = (&raw const (*sk).dst_ip4).read_volatile();
        let local = words((&raw const (*sk).src_ip6).cast());
        let remote = words((&raw const (*sk).dst_ip6).cast());
        if family == AF_INET {
            head.local = [0, 0, MAPPED, local4];
            head.remote = [0, 0, MAPPED, remote4];
        } else {
            head.local = local;
            head.remote = remote;
        }
        head.local_port = ((&raw const (*sk).src_port).read_volatile() as u16).to_be();
        head.remote_port = (&raw const (*sk).dst_port).read_volatile();
        if let Some(info) = opened(sk) {
            let accepted = (*info).connect_ns == 0 || (*info).flags & sock_flags::ACCEPTED != 0;
            if accepted {
                head.role = role::SERVER;
            } else {
                head.role = role::CLIENT;
                if (*info).vip_id != 0 {
                    head.vip = (*info).vip_addr;
                    head.vip_port = (*info).vip_port;
                }
            }
        }
        if (*memory).is_older != 0 {
            head.role = role::UNKNOWN;
        }
    }
}

#[inline(always)]
unsafe fn words(from: *const u32) -> Addr {
    // SAFETY: four words of a socket.
    unsafe {
        [
            from.read_volatile(),
            from.add(1).read_volatile(),
            from.add(2).read_volatile(),
            from.add(3).read_volatile(),
        ]
    }
}

/// Who sends: the current thread, where it holds the socket. Otherwise this is an interrupt, and the thread anybody.
#[inline(always)]
unsafe fn sender(sk: *mut bpf_sock, memory: *mut Socket) -> u64 {
    let (Some(owned), Some(pid)) = (place::<{ at::SK_OWNED }>(), place::<{ at::TASK_PID }>())
    else {
        return 0;
    };
    // SAFETY: a map value; the helper checks addresses. The socket's address is made a number by way of memory: the verifier lets
    // nobody add to it.
    unsafe {
        let scratch = &raw mut (*memory).scratch;
        scratch.cast::<*mut bpf_sock>().write_volatile(sk);
        let address = scratch.read_volatile();
        let mut is_owned = 0_i32;
        let from = address.wrapping_add(owned as u64) as *const core::ffi::c_void;
        if bpf_probe_read_kernel((&raw mut is_owned).cast(), 4, from) != 0 || is_owned == 0 {
            return 0;
        }
        let mut ids = [0_u32; 2];
        let from = bpf_get_current_task().wrapping_add(pid as u64) as *const core::ffi::c_void;
        if bpf_probe_read_kernel((&raw mut ids).cast(), 8, from) != 0 {
            return 0;
        }
        u64::from(ids[1]) << 32 | u64::from(ids[0])
    }
}

/// Somebody will read this.
#[inline(always)]
unsafe fn expect(memory: *mut Socket, sequence: u32) {
    // SAFETY: a map value.
    unsafe {
        if (*memory).is_pending == 0 {
            (&raw mut (*memory).first).write_volatile(sequence);
        }
        (&raw mut (*memory).last).write_volatile(sequence);
        (&raw mut (*memory).is_pending).write_volatile(1);
    }
}

#[inline(always)]
unsafe fn put<const N: usize>(skb: *mut __sk_buff, at: u32, n: u32, head: &Head) {
    let Some(mut entry) = TRACE_RECORDS.reserve_untyped::<Record<N>>(0) else {
        counted(count::RING_FULL);
        return;
    };
    let record = entry.as_mut_ptr();
    let Some(n) = bounded::<N>(n) else {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        return;
    };
    // SAFETY: reserved room.
    let read = unsafe {
        copy(&raw mut (*record).head, head);
        bpf_skb_load_bytes(skb.cast(), at, (&raw mut (*record).bytes).cast(), n)
    };
    if read == 0 {
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
    }
}

#[inline(always)]
fn write(head: &Head) {
    let Some(mut entry) = TRACE_RECORDS.reserve_untyped::<Head>(0) else {
        counted(count::RING_FULL);
        return;
    };
    // SAFETY: reserved room.
    unsafe { copy(entry.as_mut_ptr(), head) };
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Word by word: of a whole one the compiler makes a call of memcpy.
#[inline(always)]
unsafe fn copy(to: *mut Head, from: &Head) {
    let (to, from) = (to.cast::<u64>(), (&raw const *from).cast::<u64>());
    // SAFETY: both are as long.
    unsafe {
        for word in 0..size_of::<Head>() / 8 {
            to.add(word).write_volatile(from.add(word).read_volatile());
        }
    }
}
