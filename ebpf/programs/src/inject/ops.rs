//! inject_ops: which connections are looked at, and for how long.
//!
//! A member's answers to `ioctl(FIONREAD)` are wrong on many kernels. Where that is so it stays one only until what it has sent first
//! has arrived: the acknowledgement is seen here before a byte of the answer can be read.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RETRANS_CB, BPF_SOCK_OPS_RETRANS_CB_FLAG,
    BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use waggle_ebpf_common::inject::{count, state};
use waggle_ebpf_common::sock_flags;

use crate::maps::{INJECT, caller, caller_new, counted, join, leave, opened};

const DONE: u32 = 1;
const WANTED: u32 = BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG;

/// Dispatch by callback.
#[sock_ops]
pub fn inject_ops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: the program's own context, read by whole fields.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return DONE;
        }
        match (&raw const (*ops).op).read_volatile() {
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(ops, sk),
            BPF_SOCK_OPS_RTT_CB | BPF_SOCK_OPS_RETRANS_CB => arrived(sk),
            _ => {}
        }
    }
    DONE
}

#[inline(always)]
unsafe fn connected(ops: *mut bpf_sock_ops, sk: *mut bpf_sock) {
    // SAFETY: the program's own context, map values.
    unsafe {
        let Some(info) = opened(sk) else { return };
        let cgroup_id = (*info).cgroup_id;
        if (*info).flags & sock_flags::ACCEPTED != 0 || INJECT.get_ptr(&cgroup_id).is_none() {
            return;
        }
        let Some(caller) = caller_new(sk) else { return };
        let cookie = bpf_get_socket_cookie(ops.cast());
        (*caller).cookie = cookie;
        (*caller).cgroup_id = cgroup_id;
        (*caller).state = state::BEGIN;
        if !join(ops, cookie) {
            (*caller).state = state::OFF;
            counted(count::NO_MEMORY);
            return;
        }
        (*caller).is_member = 1;
        let others = (&raw const (*ops).bpf_sock_ops_cb_flags).read_volatile();
        bpf_sock_ops_cb_flags_set(ops, (others | WANTED) as i32);
    }
}

/// What was sent has arrived, or was lost: who is left alone is a member no more.
#[inline(always)]
unsafe fn arrived(sk: *mut bpf_sock) {
    // SAFETY: the program's own context, map values.
    unsafe {
        let Some(caller) = caller(sk) else { return };
        let is_off = (&raw const (*caller).state).read_volatile() == state::OFF;
        if is_off && (*caller).is_member != 0 {
            (*caller).is_member = 0;
            leave((*caller).cookie);
        }
    }
}
