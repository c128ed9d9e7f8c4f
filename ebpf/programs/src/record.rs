//! What is written down of each connection when it is over.
//!
//! Nobody is woken for a record: that alone would cost more than the record. User space looks on a tick; what finds no room until
//! then is counted.

use aya_ebpf::bindings::{BPF_RB_NO_WAKEUP, bpf_sock_ops};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use waggle_ebpf_common::flow::{ACCEPTED, DIALLED, outcome};
use waggle_ebpf_common::{Addr, MAPPED, SockInfo, VipKey, sock_flags};

use crate::address::copy;
use crate::count::add;
use crate::flow::was_accepted;
use crate::maps::{FLOW_LOST, FLOW_RECORDS};
use crate::memory::task;

const AF_INET: u32 = 2;
const TCP: u8 = 6;

/// A connection was not established.
///
/// # Safety
/// `ops` is the program's own context, `info` a map value.
#[inline(always)]
pub unsafe fn not_made(ops: *mut bpf_sock_ops, info: *mut SockInfo) {
    // SAFETY: as the caller says.
    unsafe {
        let how = if (*info).flags & sock_flags::RESET != 0 {
            outcome::REFUSED
        } else {
            outcome::FAILED
        };
        write(ops, info, how, 0, 0);
    }
}

/// An established connection is over, and its bytes are counted.
///
/// # Safety
/// `ops` is the program's own context, `info` a map value.
#[inline(always)]
pub unsafe fn over(ops: *mut bpf_sock_ops, info: *mut SockInfo) {
    // SAFETY: as the caller says.
    unsafe {
        let flags = (*info).flags;
        let how = if flags & sock_flags::RESET != 0 {
            outcome::RESET
        } else {
            outcome::CLOSED
        };
        let acked = (&raw const (*ops).bytes_acked).read_volatile();
        let received = (&raw const (*ops).bytes_received).read_volatile();
        // The kernel counts an active open's SYN and each FIN as a byte.
        let syn = u64::from(!was_accepted(info));
        let tx_fin = u64::from(flags & sock_flags::TX_FIN != 0);
        let rx_fin = u64::from(flags & sock_flags::RX_FIN != 0);
        let tx = acked.saturating_sub(syn + tx_fin);
        write(ops, info, how, tx, received.saturating_sub(rx_fin));
    }
}

/// A VIP without a backend was dialled.
#[inline(always)]
pub fn no_backend(vip: &VipKey, vip_id: u32) {
    let Some(mut entry) = FLOW_RECORDS.reserve(0) else {
        lost();
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: reserved room of this size; all of it is written.
    unsafe {
        let now = bpf_ktime_get_ns();
        (&raw mut (*record).began_ns).write_volatile(now);
        (&raw mut (*record).ended_ns).write_volatile(now);
        (&raw mut (*record).cgroup_id).write_volatile(task());
        (&raw mut (*record).tx_bytes).write_volatile(0);
        (&raw mut (*record).rx_bytes).write_volatile(0);
        put(&raw mut (*record).local, 0, 0, 0, 0);
        copy(&raw mut (*record).peer, &raw const vip.addr);
        (&raw mut (*record).vip_id).write_volatile(vip_id);
        (&raw mut (*record).rtt_us).write_volatile(0);
        (&raw mut (*record).retransmits).write_volatile(0);
        (&raw mut (*record).connect_us).write_volatile(0);
        (&raw mut (*record).local_port).write_volatile(0);
        (&raw mut (*record).peer_port).write_volatile(vip.port);
        (&raw mut (*record).side).write_volatile(DIALLED as u8);
        (&raw mut (*record).outcome).write_volatile(outcome::NO_BACKEND);
        (&raw mut (*record).proto).write_volatile(vip.proto);
        (&raw mut (*record).pad).write_volatile(0);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

#[inline(always)]
unsafe fn write(ops: *mut bpf_sock_ops, info: *mut SockInfo, how: u8, tx: u64, rx: u64) {
    // SAFETY: as the caller says; reserved room of this size, all of which is written. All of the context is read as whole
    // words, whatever the family: of loads in two branches the compiler makes one through a changed pointer.
    unsafe {
        let family = (&raw const (*ops).family).read_volatile();
        let local4 = (&raw const (*ops).local_ip4).read_volatile();
        let peer4 = (&raw const (*ops).remote_ip4).read_volatile();
        let local = (&raw const (*ops).local_ip6).cast::<u32>();
        let local = [
            local.read_volatile(),
            local.add(1).read_volatile(),
            local.add(2).read_volatile(),
            local.add(3).read_volatile(),
        ];
        let peer = (&raw const (*ops).remote_ip6).cast::<u32>();
        let peer = [
            peer.read_volatile(),
            peer.add(1).read_volatile(),
            peer.add(2).read_volatile(),
            peer.add(3).read_volatile(),
        ];
        let local_port = (&raw const (*ops).local_port).read_volatile() as u16;
        // The context has the 16 bits in the upper half of a word in network order.
        let peer_port = ((&raw const (*ops).remote_port).read_volatile() >> 16) as u16;
        let rtt = (&raw const (*ops).srtt_us).read_volatile() >> 3;
        let retransmits = (&raw const (*ops).total_retrans).read_volatile();
        let accepted = was_accepted(info);

        let Some(mut entry) = FLOW_RECORDS.reserve(0) else {
            lost();
            return;
        };
        let record = entry.as_mut_ptr();
        (&raw mut (*record).began_ns).write_volatile((*info).connect_ns);
        (&raw mut (*record).ended_ns).write_volatile(bpf_ktime_get_ns());
        (&raw mut (*record).cgroup_id).write_volatile((*info).cgroup_id);
        (&raw mut (*record).tx_bytes).write_volatile(tx);
        (&raw mut (*record).rx_bytes).write_volatile(rx);
        if family == AF_INET {
            put(&raw mut (*record).local, 0, 0, MAPPED, local4);
            put(&raw mut (*record).peer, 0, 0, MAPPED, peer4);
        } else {
            put(
                &raw mut (*record).local,
                local[0],
                local[1],
                local[2],
                local[3],
            );
            put(&raw mut (*record).peer, peer[0], peer[1], peer[2], peer[3]);
        }
        (&raw mut (*record).vip_id).write_volatile((*info).vip_id);
        (&raw mut (*record).rtt_us).write_volatile(rtt);
        (&raw mut (*record).retransmits).write_volatile(retransmits);
        (&raw mut (*record).connect_us).write_volatile((*info).connect_us);
        (&raw mut (*record).local_port).write_volatile(local_port.to_be());
        (&raw mut (*record).peer_port).write_volatile(peer_port);
        let side = if accepted { ACCEPTED } else { DIALLED };
        (&raw mut (*record).side).write_volatile(side as u8);
        (&raw mut (*record).outcome).write_volatile(how);
        (&raw mut (*record).proto).write_volatile(TCP);
        (&raw mut (*record).pad).write_volatile(0);
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    }
}

/// # Safety
/// `to` points into reserved room.
#[inline(always)]
unsafe fn put(to: *mut Addr, a: u32, b: u32, c: u32, d: u32) {
    // SAFETY: as the caller says; four words.
    unsafe {
        let words = to.cast::<u32>();
        words.write_volatile(a);
        words.add(1).write_volatile(b);
        words.add(2).write_volatile(c);
        words.add(3).write_volatile(d);
    }
}

#[inline(always)]
fn lost() {
    if let Some(counter) = FLOW_LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own value.
        unsafe { add(counter, 1) };
    }
}
