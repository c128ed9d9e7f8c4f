//! skb_ingress, skb_egress: bytes and packets per cgroup, all protocols.

use aya_ebpf::helpers::generated::bpf_skb_cgroup_id;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;

use crate::count;
use crate::verdict::PASS;

/// Packets for a socket of the subtree.
#[cgroup_skb(ingress)]
pub fn skb_ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's own context, a map value.
    unsafe {
        let bytes = (&raw const (*skb).len).read_volatile();
        if let Some(net) = count::cgroup_net(bpf_skb_cgroup_id(skb)) {
            count::add(&raw mut (*net).rx_bytes, u64::from(bytes));
            count::add(&raw mut (*net).rx_packets, 1);
        }
    }
    PASS
}

/// Packets from a socket of the subtree.
#[cgroup_skb(egress)]
pub fn skb_egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's own context, a map value.
    unsafe {
        let bytes = (&raw const (*skb).len).read_volatile();
        if let Some(net) = count::cgroup_net(bpf_skb_cgroup_id(skb)) {
            count::add(&raw mut (*net).tx_bytes, u64::from(bytes));
            count::add(&raw mut (*net).tx_packets, 1);
        }
    }
    PASS
}
