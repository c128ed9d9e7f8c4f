//! sock_ops: what happened to each TCP connection, per (cgroup, VIP).
//!
//! Callbacks of established connections cost time per acknowledgement, so they are switched on per socket,
//! and only for sockets whose owner is known.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_RETRANS_CB, BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTT_CB,
    BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING,
    BPF_TCP_ESTABLISHED, BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, BPF_TCP_SYN_SENT,
    bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use waggle_ebpf_common::flow::FlowStats;
use waggle_ebpf_common::{SockInfo, TcpStats, loss, sock_flags};

use crate::count::{self, lost};
use crate::flow;
use crate::memory::recall;
use crate::record;
use crate::state;
use crate::verdict::DONE;

const WANTED: u32 =
    BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG;

/// Dispatch by callback; all others are left alone at the cost of a few instructions.
#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: the program's own context, read by whole fields.
    unsafe {
        match (&raw const (*ops).op).read_volatile() {
            BPF_SOCK_OPS_TCP_CONNECT_CB => opening(ops),
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(ops),
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ops),
            BPF_SOCK_OPS_RTT_CB => rtt(ops),
            BPF_SOCK_OPS_RETRANS_CB => retransmitted(ops),
            BPF_SOCK_OPS_STATE_CB => changed(ops),
            _ => {}
        }
    }
    DONE
}

/// The socket's memory.
#[inline(always)]
unsafe fn info(ops: *mut bpf_sock_ops) -> Option<*mut SockInfo> {
    // SAFETY: the socket is the context's own.
    unsafe { recall((*ops).__bindgen_anon_2.sk) }
}

/// The counters to which the socket belongs.
#[inline(always)]
unsafe fn stats(info: *mut SockInfo) -> Option<*mut TcpStats> {
    // SAFETY: the memory is a map value.
    unsafe { count::tcp((*info).cgroup_id, (*info).vip_id) }
}

#[inline(always)]
unsafe fn arg(ops: *mut bpf_sock_ops, n: usize) -> u32 {
    // SAFETY: a context field, read as a whole word; `n` is a constant below 4.
    unsafe {
        (&raw const (*ops).__bindgen_anon_1.args)
            .cast::<u32>()
            .add(n)
            .read_volatile()
    }
}

#[inline(always)]
unsafe fn watch(ops: *mut bpf_sock_ops) {
    // SAFETY: the program's own context.
    unsafe {
        let others = (&raw const (*ops).bpf_sock_ops_cb_flags).read_volatile();
        bpf_sock_ops_cb_flags_set(ops, (others | WANTED) as i32);
    }
}

/// The SYN is about to be sent.
#[inline(always)]
unsafe fn opening(ops: *mut bpf_sock_ops) {
    // SAFETY: as in the caller.
    unsafe {
        if let Some(info) = info(ops) {
            watch(ops);
            state::opened(info);
        } else {
            lost(loss::UNATTRIBUTED);
        }
    }
}

/// An active open was established.
#[inline(always)]
unsafe fn connected(ops: *mut bpf_sock_ops) {
    // SAFETY: as in the caller; `info` and `stats` are map values.
    unsafe {
        // Sockets without memory were counted as lost when they opened.
        let Some(info) = info(ops) else { return };
        // Our SYN counts as one acknowledged byte.
        (*info).seen_acked = (&raw const (*ops).bytes_acked).read_volatile();
        if (*info).vip_id != 0 {
            state::answered(info);
        }
        if let Some(edge) = flow::edge(ops, info) {
            count::add(&raw mut (*edge).opened, 1);
        }
        let started = (*info).connect_ns;
        let micros = bpf_ktime_get_ns().saturating_sub(started) / 1000;
        (*info).connect_us = micros.min(u64::from(u32::MAX)) as u32;
        let Some(stats) = stats(info) else { return };
        count::add(&raw mut (*stats).connects, 1);
        if started != 0 {
            count::add(&raw mut (*stats).connect_sum_us, micros);
            count::sample(&raw mut (*stats).connect_hist, micros);
        }
    }
}

/// A passive open was established; its memory is a copy of the listener's.
#[inline(always)]
unsafe fn accepted(ops: *mut bpf_sock_ops) {
    // SAFETY: as in the caller; `info` and `stats` are map values.
    unsafe {
        let Some(info) = info(ops) else {
            lost(loss::UNATTRIBUTED);
            return;
        };
        watch(ops);
        (*info).connect_ns = bpf_ktime_get_ns();
        (*info).flags |= sock_flags::ACCEPTED;
        if let Some(edge) = flow::edge(ops, info) {
            count::add(&raw mut (*edge).opened, 1);
        }
        if let Some(stats) = stats(info) {
            count::add(&raw mut (*stats).accepts, 1);
        }
    }
}

/// A round-trip time was measured.
#[inline(always)]
unsafe fn rtt(ops: *mut bpf_sock_ops) {
    // SAFETY: as in the caller; `info` and `stats` are map values.
    unsafe {
        let Some(info) = info(ops) else { return };
        let Some(stats) = stats(info) else { return };
        // The sample itself since kernel 6.11; before, the smoothed value (in eighths).
        let sample = arg(ops, 0);
        let smoothed = (&raw const (*ops).srtt_us).read_volatile() >> 3;
        let micros = u64::from(if sample == 0 { smoothed } else { sample });
        count::add(&raw mut (*stats).rtt_count, 1);
        count::add(&raw mut (*stats).rtt_sum_us, micros);
        count::sample(&raw mut (*stats).rtt_hist, micros);
        // Acknowledgements of our SYN and FIN arrive here before the state changes: in the states that wait
        // for one, the change itself counts the bytes.
        match (&raw const (*ops).state).read_volatile() {
            BPF_TCP_ESTABLISHED | BPF_TCP_CLOSE_WAIT | BPF_TCP_FIN_WAIT2 => {
                let edge = flow::edge(ops, info);
                bytes(ops, info, stats, edge, 0, 0);
            }
            _ => {}
        }
    }
}

/// Segments were sent again.
#[inline(always)]
unsafe fn retransmitted(ops: *mut bpf_sock_ops) {
    // SAFETY: as in the caller; `info` and `stats` are map values.
    unsafe {
        // Arguments: sequence number, segments, error.
        if arg(ops, 2) != 0 {
            return;
        }
        let Some(info) = info(ops) else { return };
        if let Some(stats) = stats(info) {
            count::add(&raw mut (*stats).retransmits, u64::from(arg(ops, 1)));
        }
        // A second without an answer to the SYN.
        if (*info).vip_id != 0 && (&raw const (*ops).state).read_volatile() == BPF_TCP_SYN_SENT {
            state::failed(info, state::TCP);
        }
    }
}

/// The connection's state changed.
#[inline(always)]
unsafe fn changed(ops: *mut bpf_sock_ops) {
    // SAFETY: as in the caller; `info` and `stats` are map values.
    unsafe {
        let (old, new) = (arg(ops, 0), arg(ops, 1));
        if new == BPF_TCP_ESTABLISHED {
            return;
        }
        let Some(info) = info(ops) else { return };
        if new == BPF_TCP_CLOSE {
            ended(ops, info);
        }
        let edge = flow::edge(ops, info);
        if new == BPF_TCP_CLOSE
            && let Some(edge) = edge
        {
            if old == BPF_TCP_SYN_SENT {
                count::add(&raw mut (*edge).failed, 1);
            } else {
                count::add(&raw mut (*edge).closed, 1);
            }
        }
        if old == BPF_TCP_SYN_SENT {
            // Reset, timed out or closed while opening: there is nothing else to count.
            if new == BPF_TCP_CLOSE {
                if let Some(stats) = stats(info) {
                    count::add(&raw mut (*stats).connect_failures, 1);
                }
                record::not_made(ops, info);
            }
            return;
        }
        // The kernel counts a FIN as one byte, ours when it is acknowledged, the peer's when it is received
        // (which for FIN_WAIT2 -> CLOSE may not have happened: then there is no byte to subtract).
        let (tx_fin, rx_fin) = match (old, new) {
            (BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2)
            | (BPF_TCP_LAST_ACK | BPF_TCP_CLOSING, BPF_TCP_CLOSE) => (1, 0),
            (_, BPF_TCP_CLOSE_WAIT)
            | (BPF_TCP_FIN_WAIT1, BPF_TCP_CLOSING)
            | (BPF_TCP_FIN_WAIT2, BPF_TCP_CLOSE) => (0, 1),
            _ => (0, 0),
        };
        if tx_fin != 0 {
            (*info).flags |= sock_flags::TX_FIN;
        }
        if rx_fin != 0 {
            (*info).flags |= sock_flags::RX_FIN;
        }
        if let Some(stats) = stats(info) {
            bytes(ops, info, stats, edge, tx_fin, rx_fin);
        }
        if new == BPF_TCP_CLOSE {
            record::over(ops, info);
        }
    }
}

/// A connection is over: what that says about its backend.
#[inline(always)]
unsafe fn ended(ops: *mut bpf_sock_ops, info: *mut SockInfo) {
    // SAFETY: as in the caller.
    unsafe {
        state::closed(info);
        if (*info).vip_id == 0 || (*info).flags & sock_flags::RESET == 0 {
            return;
        }
        // A reset after an answer is how some servers end what they have served.
        if (&raw const (*ops).bytes_received).read_volatile() == 0 {
            state::failed(info, state::TCP);
        }
    }
}

/// Counts the payload since the last time, without the FINs that it contains.
#[inline(always)]
unsafe fn bytes(
    ops: *mut bpf_sock_ops,
    info: *mut SockInfo,
    stats: *mut TcpStats,
    edge: Option<*mut FlowStats>,
    tx_fin: u64,
    rx_fin: u64,
) {
    // SAFETY: as in the caller.
    unsafe {
        let acked = (&raw const (*ops).bytes_acked).read_volatile();
        let received = (&raw const (*ops).bytes_received).read_volatile();
        let tx = acked
            .wrapping_sub((*info).seen_acked)
            .saturating_sub(tx_fin);
        let rx = received
            .wrapping_sub((*info).seen_received)
            .saturating_sub(rx_fin);
        (*info).seen_acked = acked;
        (*info).seen_received = received;
        count::add(&raw mut (*stats).tx_bytes, tx);
        count::add(&raw mut (*stats).rx_bytes, rx);
        if let Some(edge) = edge {
            count::add(&raw mut (*edge).tx_bytes, tx);
            count::add(&raw mut (*edge).rx_bytes, rx);
        }
    }
}
