//! VIPs per packet, at tc: for traffic that the socket hooks can't see, since it comes from other network namespaces whose
//! processes are outside of the node's cgroup, from raw sockets, or from the uplink. A NAT of destinations:
//! the client's address stays; no conntrack.
//!
//! | file | programs, role |
//! |---|---|
//! | main.rs | packet_in, tc ingress; packet_out, tc egress, of the devices that clients and backends are behind |
//! | parse.rs | what kind of packet |
//! | forward.rs | VIP -> backend: flows that are known, and new ones |
//! | own.rs | the same for what the node itself sends past the socket hooks |
//! | answer.rs | backend -> VIP; ICMP errors both ways |
//! | fragment.rs | fragments without ports |
//! | refuse.rs | a reset or "port unreachable" of our own |
//! | maps.rs, count.rs | maps, counters |
//!
//! Tables, choice and what is known of backends are the socket programs' own: maps by their pins, code by its file.
//!
//! # Invariants
//! - A packet is translated whole or dropped; what is dropped is counted by reason.
//! - No packet goes to a backend whose answers could not be translated: the answers' side is remembered first.
//! - An established flow keeps its backend whatever its set becomes; only a SYN, or a datagram whose backend is no member
//!   any more, is given one. A draining backend keeps its flows.
//! - A client that dials the backend itself is answered by the backend: its first packet ends what is remembered.
//!
//! # Where to attach
//! A packet must meet `packet_in` once on its way through the node (a veth's host side or the uplink, not also the bridge
//! that it is a port of), and an answer leaves by a device that has `packet_out`. Ethernet only.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For the atomic addition in tally.rs.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[allow(dead_code, reason = "the socket programs' file; they need all of it")]
#[path = "../address.rs"]
mod address;
#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
#[path = "../choose.rs"]
mod choose;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod forward;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
#[path = "../frame.rs"]
mod frame;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod own;
#[cfg(target_arch = "bpf")]
mod parse;
#[cfg(target_arch = "bpf")]
mod refuse;
#[cfg(target_arch = "bpf")]
#[path = "../dsr/rewrite.rs"]
mod rewrite;
#[cfg(target_arch = "bpf")]
#[allow(dead_code, reason = "the socket programs' file; they need all of it")]
#[path = "../state.rs"]
mod state;
#[cfg(target_arch = "bpf")]
#[path = "../sum.rs"]
mod sum;
#[cfg(target_arch = "bpf")]
#[path = "../tally.rs"]
mod tally;
#[cfg(target_arch = "bpf")]
#[path = "../vip_maps.rs"]
mod vip_maps;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    use crate::answer;
    use crate::forward;
    use crate::fragment;
    use crate::frame::OK;
    use crate::own;
    use crate::parse::{Kind, NOT_OURS, REFUSE, parse};
    use crate::refuse::{OUT, refuse};

    /// At tc ingress: what clients send to VIPs, and what backends answer.
    #[classifier]
    fn packet_in(ctx: TcContext) -> i32 {
        let skb = ctx.skb.skb;
        // SAFETY: the program's context.
        let (kind, packet) = unsafe { parse(skb) };
        match kind {
            Kind::Other => OK,
            Kind::Options => fragment::options(&packet),
            Kind::Later => fragment::later(skb, &packet, true),
            Kind::Error => answer::error_in(skb),
            Kind::Flow => {
                let done = forward::forward(skb, &packet, &mut 0);
                if done == REFUSE {
                    return refuse(skb, &packet, OUT);
                }
                if done != NOT_OURS {
                    return done;
                }
                let done = answer::answer(skb, &packet);
                if done != NOT_OURS {
                    return done;
                }
                forward::direct(&packet);
                OK
            }
        }
    }

    /// At tc egress: answers that no `packet_in` has seen, as those of the node's own processes, and what these send to VIPs
    /// from raw sockets.
    #[classifier]
    fn packet_out(ctx: TcContext) -> i32 {
        let skb = ctx.skb.skb;
        // SAFETY: the program's context.
        let (kind, packet) = unsafe { parse(skb) };
        match kind {
            Kind::Other | Kind::Options => OK,
            Kind::Later => fragment::later(skb, &packet, false),
            Kind::Error => answer::error_out(skb),
            Kind::Flow => {
                let done = answer::answer(skb, &packet);
                if done != NOT_OURS {
                    return done;
                }
                // SAFETY: a context field; 0 for what no device has received.
                if unsafe { (*skb).ingress_ifindex } != 0 {
                    return OK;
                }
                own::send(skb, &packet)
            }
        }
    }
}

/// Some helpers need a GPL-compatible program.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Never linked into a program: the verifier would refuse the endless loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// On any other target this crate is empty, so that tools that look at the whole workspace can compile it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
