//! Edges between tasks and their peers: found or made, added to.

use aya_ebpf::bindings::{BPF_NOEXIST, bpf_sock_ops};
use waggle_ebpf_common::flow::{ACCEPTED, DIALLED, FlowKey, FlowStats};
use waggle_ebpf_common::{MAPPED, SockInfo, sock_flags};

use crate::maps::{FLOWS, NO_FLOW};

const AF_INET: u32 = 2;

/// The edge that a socket belongs to; `None` only where user space did not make the last resort.
///
/// # Safety
/// `ops` is the program's own context, `info` a map value.
#[inline(always)]
pub unsafe fn edge(ops: *mut bpf_sock_ops, info: *mut SockInfo) -> Option<*mut FlowStats> {
    // SAFETY: as the caller says; context fields are read as whole words.
    unsafe {
        let mut key = FlowKey {
            cgroup_id: (*info).cgroup_id,
            peer: [0; 4],
            vip_id: (*info).vip_id,
            port: 0,
            side: DIALLED as u16,
        };
        // All are read, whatever the family: of loads in two branches the compiler makes one through a changed pointer to the
        // context, which the verifier refuses.
        let v4 = (&raw const (*ops).remote_ip4).read_volatile();
        let words = (&raw const (*ops).remote_ip6).cast::<u32>();
        let v6 = [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ];
        if (&raw const (*ops).family).read_volatile() == AF_INET {
            key.peer[2] = MAPPED;
            key.peer[3] = v4;
        } else {
            key.peer[0] = v6[0];
            key.peer[1] = v6[1];
            key.peer[2] = v6[2];
            key.peer[3] = v6[3];
        }
        if was_accepted(info) {
            key.side = ACCEPTED as u16;
            key.port = ((&raw const (*ops).local_port).read_volatile() as u16).to_be();
        } else {
            // The context has the 16 bits in the upper half of a word in network order.
            let port = (&raw const (*ops).remote_port).read_volatile();
            key.port = (port >> 16) as u16;
        }
        found(&mut key)
    }
}

/// Whether a socket was accepted: it says so, or has no time of a connect.
///
/// # Safety
/// `info` is a map value.
#[inline(always)]
pub unsafe fn was_accepted(info: *const SockInfo) -> bool {
    // SAFETY: as the caller says.
    unsafe { (*info).connect_ns == 0 || (*info).flags & sock_flags::ACCEPTED != 0 }
}

#[inline(always)]
fn found(key: &mut FlowKey) -> Option<*mut FlowStats> {
    if let Some(stats) = make(key) {
        return Some(stats);
    }
    // No room: what is known is that this task did it.
    key.peer[0] = 0;
    key.peer[1] = 0;
    key.peer[2] = 0;
    key.peer[3] = 0;
    key.port = 0;
    if let Some(stats) = make(key) {
        return Some(stats);
    }
    key.cgroup_id = 0;
    key.vip_id = 0;
    key.side = DIALLED as u16;
    FLOWS.get_ptr_mut(&*key)
}

#[inline(always)]
fn make(key: &FlowKey) -> Option<*mut FlowStats> {
    if let Some(stats) = FLOWS.get_ptr_mut(key) {
        return Some(stats);
    }
    let _ = FLOWS.insert(key, &NO_FLOW, u64::from(BPF_NOEXIST));
    FLOWS.get_ptr_mut(key)
}
