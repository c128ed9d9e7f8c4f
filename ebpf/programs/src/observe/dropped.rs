//! dropped: packets that the kernel freed because it had to, of the node and of the cgroups that are watched.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use waggle_ebpf_common::observe::{DropKey, MAX_REASONS, at, missed};

use crate::maps::{DROPS, NODE_DROPS, OBSERVE_LOSS, RUN_DELAY, has_rx_sk};
use crate::read::{Ptr, cgroup_id, field};
use crate::sum::add;

/// What these states are of is smaller than a whole socket (`TCP_TIME_WAIT`, `TCP_NEW_SYN_RECV`).
const SMALL: [u8; 2] = [6, 12];

/// Arguments: the packet, where, why and, in newer kernels, the socket that it was for.
#[btf_tracepoint(function = "kfree_skb")]
pub fn dropped(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>();
    // SAFETY: the arguments, of which the last is only read where there is one: the verifier knows that.
    let (skb, reason, socket) = unsafe {
        let socket = if has_rx_sk() {
            *args.add(3) as Ptr
        } else {
            core::ptr::null()
        };
        (*args as Ptr, *args.add(2) as u32, socket)
    };
    let socket = if socket.is_null() {
        field::<Ptr, { at::SKB_SK }>(skb).unwrap_or(core::ptr::null())
    } else {
        socket
    };
    let last = MAX_REASONS - 1;
    if let Some(total) = NODE_DROPS.get_ptr_mut(if reason < last { reason } else { last }) {
        // SAFETY: a map value.
        unsafe { add(total, 1) };
    }
    if let Some(cgroup_id) = owner(socket)
        && RUN_DELAY.get_ptr(&cgroup_id).is_some()
    {
        count(DropKey {
            cgroup_id,
            reason,
            pad: 0,
        });
    }
    0
}

/// The cgroup of a socket.
#[inline(always)]
fn owner(socket: Ptr) -> Option<u64> {
    let state: u8 = field::<_, { at::SK_STATE }>(socket)?;
    if state == SMALL[0] || state == SMALL[1] {
        return None;
    }
    let cgroup: Ptr = field::<_, { at::SK_CGROUP }>(socket)?;
    cgroup_id(cgroup)
}

#[inline(always)]
fn count(key: DropKey) {
    let mut found = DROPS.get_ptr_mut(&key);
    if found.is_none() {
        let _ = DROPS.insert(&key, &0, u64::from(BPF_NOEXIST));
        found = DROPS.get_ptr_mut(&key);
    }
    let counter = match found {
        Some(counter) => Some(counter),
        None => OBSERVE_LOSS.get_ptr_mut(missed::DROPS_FULL),
    };
    if let Some(counter) = counter {
        // SAFETY: a map value.
        unsafe { add(counter, 1) };
    }
}
