//! Whether a flow is allowed: asked for every packet from a container and to one, before it is steered.
//!
//! A flow that was allowed is remembered as its container sees it, with who began it: so answers pass, and the packets after the
//! first cost one lookup more than those of a container that no policy selects. When tables change, flows are judged again by
//! whoever began them, in both directions: taking a rule away ends them.
//!
//! | file | role |
//! |---|---|
//! | policy.rs | the order of things |
//! | policy/rules.rs | what the tables say of a flow's beginning |
//! | policy/flow.rs | which flow a packet is of; ICMP errors, fragments |
//! | policy/tell.rs | what is written down of what is dropped |
//! | policy/maps.rs | tables |

mod flow;
mod maps;
mod rules;
mod tell;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use waggle_ebpf_common::Addr;
use waggle_ebpf_common::policy::{
    self as abi, FlowKey, ICMP_IDLE_S, UDP_IDLE_S, config_flags, flow_flags, number,
    verdict as said,
};

use self::flow::{classify, kind};
use self::maps::{POLICY_CONFIG, POLICY_COUNTS, POLICY_FLOWS, Scratch, scratch};
use self::rules::{ALLOWED, ESTABLISHED, NO_STATE, WOULD_BE, evaluate, word_of};
use crate::frame::{TCP, UDP};
use crate::parse::ICMP6;

/// Which way a packet goes, as its container sees it.
pub const EGRESS: u32 = abi::EGRESS;
/// Which way a packet goes, as its container sees it.
pub const INGRESS: u32 = abi::INGRESS;

/// A packet, as policies see it. Ports and addresses in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packet {
    /// The container's address.
    pub local: Addr,
    /// The other end's address.
    pub peer: Addr,
    /// The container's port; 0 where the protocol has none, and in later fragments. ICMP: 0.
    pub local_port: u16,
    /// The other end's port, alike. ICMP: type and code.
    pub peer_port: u16,
    /// IANA protocol.
    pub proto: u8,
    /// Flags of TCP; 0 of others.
    pub tcp_flags: u8,
    /// A fragment without ports: 1.
    pub is_later_fragment: u8,
    /// Any fragment: 1.
    pub is_fragment: u8,
    /// [`EGRESS`] or [`INGRESS`].
    pub direction: u32,
    /// Bytes before the transport header, from the packet's own beginning.
    pub header: u32,
}

/// Answer of [`verdict`]: the packet goes on.
pub const ALLOW: u32 = 0;
/// Answer of [`verdict`]: the packet is dropped, counted as the direction's (`POLICY_EGRESS`, `POLICY_INGRESS`).
pub const DENY: u32 = 1;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Decides about a packet, which `fill` describes where that is needed. The frame is at `skb`, as it leaves or reaches the
/// container; it is neither changed nor pulled, since callers go on with pointers into it.
#[inline(always)]
pub fn verdict(skb: *mut __sk_buff, fill: impl FnOnce(&mut Packet)) -> u32 {
    let Some(config) = POLICY_CONFIG.get(0) else {
        return ALLOW;
    };
    if config.flags == 0 {
        return ALLOW;
    }
    let Some(scratch) = scratch() else {
        return DENY;
    };
    fill(&mut scratch.flow);
    let side = config.side & 1;
    let adopts = u32::from(now_s() < config.adopt_until_s);
    let all = config.flags & config_flags::CLOSED | side << 8 | adopts << 9;
    policy_judge(skb, all, config.generation)
}

/// The same where there are policies. `state`: closed, side, whether flows in the middle are taken in. A function with a name of
/// its own, so that the verifier looks at it once and not for each caller.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_judge(skb: *mut __sk_buff, state: u32, generation: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return DENY;
    };
    let flow = &scratch.flow;
    let side = state >> 8 & 1;
    let word = word_of(&flow.local, side);
    if state & config_flags::CLOSED != 0 {
        return deny(said::NO_STATE);
    }
    if word & number::OPEN != 0 {
        return allow(said::NOT_SELECTED);
    }
    if word & number::SELECTED == 0 {
        return deny(said::NO_STATE);
    }
    let number = word & number::MASK;
    let direction = flow.direction & 1;
    let what = classify(skb);
    match what & 0xff {
        kind::FLOW => {}
        kind::PASS => return allow(said::ESTABLISHED),
        kind::RELATED => return allow(said::RELATED),
        kind::FRAGMENT => return allow(said::FRAGMENT),
        kind::ORPHAN => {
            // Nothing that was allowed belongs to it: only where nothing would be dropped.
            let why = what >> 16 & 0xf;
            let found = evaluate(direction | side << 1, 0, number);
            let may = found & ALLOWED != 0
                && (why != said::NO_FRAGMENT || rules::is_open(number, direction));
            return if may {
                allow(said::FLOW_ALLOWED)
            } else {
                deny(why)
            };
        }
        _ => return deny(said::MALFORMED),
    }
    let now = now_s();
    let begins = match flow.proto {
        TCP => flow.tcp_flags & (SYN | ACK) == SYN,
        UDP => false,
        _ => true,
    };
    let mut is_known = false;
    if let Some(entry) = POLICY_FLOWS.get_ptr_mut(&scratch.key) {
        // SAFETY: a map value; whoever else writes it writes the same or decides anew.
        let entry = unsafe { &mut *entry };
        let began = if entry.flags & flow_flags::EGRESS != 0 {
            EGRESS
        } else {
            INGRESS
        };
        let is_own = began == direction;
        let idle = match flow.proto {
            TCP => u32::MAX,
            UDP => UDP_IDLE_S,
            _ => ICMP_IDLE_S,
        };
        if now.saturating_sub(entry.seen_s) < idle && (is_own || !begins || flow.proto != TCP) {
            is_known = true;
            let mut flags = entry.flags;
            if entry.generation != generation {
                let port = dialled(&scratch.key, began);
                let found = evaluate(began | side << 1 | ESTABLISHED, port, number);
                if found & NO_STATE != 0 {
                    return deny(said::NO_STATE);
                }
                flags = flags & flow_flags::EGRESS | flags_of(found);
                entry.flags = flags;
                entry.generation = generation;
            }
            if flags & flow_flags::ALLOWED != 0 {
                if entry.seen_s != now {
                    entry.seen_s = now;
                }
                remember_fragments(skb, scratch);
                return allow(if !is_own {
                    said::ANSWER
                } else if flags & flow_flags::AUDITED != 0 {
                    said::AUDITED_EGRESS + direction
                } else {
                    said::ESTABLISHED
                });
            }
            // What answers a flow that must end is none of its own, except where that can't be told.
            if is_own || flow.proto == TCP {
                return deny(said::DENIED_EGRESS + direction);
            }
        }
    }
    let begins = u32::from(begins || is_known) << 10;
    begin(skb, scratch, state | begins, number, generation)
}

/// A packet of no flow that is known.
#[inline(always)]
fn begin(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    state: u32,
    number: u32,
    generation: u32,
) -> u32 {
    let (flow, key) = (&scratch.flow, &scratch.key);
    let direction = flow.direction & 1;
    let (side, adopts, begins) = (state >> 8 & 1, state >> 9 & 1, state >> 10 & 1);
    let (mut began, mut remembers) = (direction, true);
    if flow.proto == TCP && begins == 0 {
        // In the middle: whoever has the higher port has dialled, most likely.
        let (own, other) = (dialled(key, 1 - direction), dialled(key, direction));
        if own < other {
            if adopts != 0 && flow.tcp_flags & SYN == 0 {
                began = 1 - direction;
            } else {
                remembers = false;
            }
        }
        if flow.tcp_flags & RST != 0 {
            remembers = false;
        }
    }
    let found = evaluate(began | side << 1, dialled(key, began), number);
    if found & NO_STATE != 0 {
        return deny(said::NO_STATE);
    }
    if found & ALLOWED == 0 {
        return deny(said::DENIED_EGRESS + direction);
    }
    if remembers {
        let egress = if began == EGRESS {
            flow_flags::EGRESS
        } else {
            0
        };
        scratch.entry.generation = generation;
        scratch.entry.seen_s = now_s();
        scratch.entry.flags = egress | flags_of(found);
        scratch.entry.pad = 0;
        if POLICY_FLOWS.insert(key, &scratch.entry, 0).is_err() {
            count(said::NOT_REMEMBERED);
        }
    }
    remember_fragments(skb, scratch);
    allow(if began != direction {
        said::ANSWER
    } else if found & WOULD_BE == 0 {
        tell::tell(said::AUDITED_EGRESS + direction);
        said::AUDITED_EGRESS + direction
    } else {
        said::FLOW_ALLOWED
    })
}

/// The port that was dialled, if this direction dialled. Host order.
#[inline(always)]
fn dialled(key: &FlowKey, direction: u32) -> u32 {
    let port = if direction == EGRESS {
        key.peer_port
    } else {
        key.local_port
    };
    u32::from(u16::from_be(port))
}

#[inline(always)]
fn flags_of(found: u32) -> u32 {
    let allowed = if found & ALLOWED != 0 {
        flow_flags::ALLOWED
    } else {
        0
    };
    let audited = if found & WOULD_BE == 0 {
        flow_flags::AUDITED
    } else {
        0
    };
    allowed | audited
}

#[inline(always)]
fn remember_fragments(skb: *mut __sk_buff, scratch: &Scratch) {
    if scratch.flow.is_fragment != 0 {
        flow::remember_fragments(skb);
    }
}

#[inline(always)]
fn allow(why: u32) -> u32 {
    count(why);
    ALLOW
}

#[inline(always)]
fn deny(why: u32) -> u32 {
    count(why);
    tell::tell(why);
    DENY
}

#[inline(always)]
fn count(why: u32) {
    if let Some(counter) = POLICY_COUNTS.get_ptr_mut(why) {
        // Plain: programs at tc of one CPU don't interrupt each other.
        // SAFETY: this CPU's own value.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn now_s() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// Whether it is either ICMP.
#[inline(always)]
const fn is_icmp(proto: u8) -> bool {
    proto == crate::frame::ICMP || proto == ICMP6
}
