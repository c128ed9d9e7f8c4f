//! What the tables say of a flow's beginning: a constant number of lookups, whatever the rules.

use aya_ebpf::btf_maps::lpm_trie::Key;
use waggle_ebpf_common::Addr;
use waggle_ebpf_common::policy::{
    BLOCK_PORTS, BlockKey, Sets, local_flags, number, port_flags, set,
};

use super::maps::{
    POLICY_ADDRESSES, POLICY_BLOCKS, POLICY_LOCALS, POLICY_NAMES, POLICY_NETS, POLICY_PAIRS,
    POLICY_SETS, scratch,
};
use super::{EGRESS, is_icmp, now_s};
use crate::frame::{TCP, UDP};

/// [`evaluate`]: policies in force allow it.
pub const ALLOWED: u32 = 1;
/// [`evaluate`]: with those in audit mode it would be allowed.
pub const WOULD_BE: u32 = 2;
/// [`evaluate`]: nothing is known of the number.
pub const NO_STATE: u32 = 4;
/// In `how` of [`evaluate`]: the flow has begun already, so a name may have expired.
pub const ESTABLISHED: u32 = 4;

/// What is known of an address.
#[inline(always)]
pub fn word_of(addr: &Addr, side: u32) -> u32 {
    // SAFETY: values are replaced as a whole.
    let own = unsafe { POLICY_ADDRESSES.get(addr) };
    let words = match own {
        Some(sided) => sided.words,
        None => return word_of_net(addr, side),
    };
    if side == 0 { words[0] } else { words[1] }
}

#[inline(never)]
fn word_of_net(addr: &Addr, side: u32) -> u32 {
    match POLICY_NETS.get(&Key::new(128, *addr)) {
        Some(net) if side == 0 => net.words[0],
        Some(net) => net.words[1],
        None => number::OUTSIDE | number::OPEN,
    }
}

/// Whether no policy speaks of a direction.
#[inline(always)]
pub fn is_open(local: u32, direction: u32) -> bool {
    // SAFETY: values are replaced as a whole.
    unsafe { POLICY_LOCALS.get(&local) }.is_some_and(|local| {
        let sets = if direction == EGRESS {
            local.sets[0]
        } else {
            local.sets[1]
        };
        sets.in_force == set::ALL && sets.with_audit == set::ALL
    })
}

/// Whether the packet's flow may begin. `how`: direction, side shifted by one, [`ESTABLISHED`]. `port` is the dialled one, in
/// host order. A function with a name of its own, so that the verifier looks at it once and not on every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_evaluate(how: u32, port: u32, local_number: u32) -> u32 {
    let (direction, side) = (how & 1, how >> 1 & 1);
    let Some(scratch) = scratch() else {
        return NO_STATE;
    };
    // SAFETY: values are replaced as a whole.
    let Some(local) = (unsafe { POLICY_LOCALS.get(&local_number) }) else {
        return NO_STATE;
    };
    let mut sets: Sets = if direction == EGRESS {
        local.sets[0]
    } else {
        local.sets[1]
    };
    let has_names = direction == EGRESS && local.flags & local_flags::NAMES != 0;
    if sets.in_force == set::ALL && sets.with_audit == set::ALL {
        return ALLOWED | WOULD_BE;
    }
    scratch.pair.local = local_number;
    scratch.pair.peer = word_of(&scratch.flow.peer, side) & number::MASK;
    scratch.pair.direction = direction;
    // SAFETY: values are replaced as a whole.
    if let Some(found) = unsafe { POLICY_PAIRS.get(&scratch.pair) } {
        sets = *found;
    }
    let mut said = both(sets, scratch.flow.proto, port);
    if has_names && said != ALLOWED | WOULD_BE {
        scratch.name.local = scratch.flow.local;
        scratch.name.peer = scratch.flow.peer;
        // SAFETY: values are replaced as a whole.
        if let Some(name) = unsafe { POLICY_NAMES.get(&scratch.name) }
            && (how & ESTABLISHED != 0 || now_s() < name.expires_s)
        {
            said |= both(name.sets, scratch.flow.proto, port);
        }
    }
    said
}

/// [`policy_evaluate`].
#[inline(always)]
pub fn evaluate(how: u32, port: u32, local_number: u32) -> u32 {
    policy_evaluate(how, port, local_number)
}

#[inline(always)]
fn both(sets: Sets, proto: u8, port: u32) -> u32 {
    let in_force = has(sets.in_force, u32::from(proto), port);
    let with_audit = if sets.with_audit == sets.in_force {
        in_force
    } else {
        has(sets.with_audit, u32::from(proto), port)
    };
    in_force | with_audit << 1
}

#[inline(always)]
fn has(n: u32, proto: u32, port: u32) -> u32 {
    policy_has(n, proto, port) & 1
}

/// Whether a protocol and port are in a set: 1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_has(n: u32, proto: u32, port: u32) -> u32 {
    if n < set::FIRST {
        return u32::from(n == set::ALL);
    }
    let Some(words) = POLICY_SETS.get(n) else {
        return 0;
    };
    let proto = proto as u8;
    if proto != TCP && proto != UDP {
        let flag = if is_icmp(proto) {
            port_flags::ICMP
        } else {
            port_flags::OTHERS
        };
        return u32::from(words.flags & flag != 0);
    }
    let (full, partial) = if proto == TCP {
        (words.full[0], words.partial[0])
    } else {
        (words.full[1], words.partial[1])
    };
    let block = port / BLOCK_PORTS & 63;
    if full >> block & 1 != 0 {
        return 1;
    }
    if partial >> block & 1 == 0 {
        return 0;
    }
    let key = BlockKey {
        set: n,
        block: u32::from(proto == UDP) * 64 + block,
    };
    // SAFETY: values are replaced as a whole.
    let Some(bits) = (unsafe { POLICY_BLOCKS.get(&key) }) else {
        return 0;
    };
    let word = (port >> 6 & 15) as usize;
    bits.bits
        .get(word)
        .map_or(0, |word| (word >> (port & 63) & 1) as u32)
}
