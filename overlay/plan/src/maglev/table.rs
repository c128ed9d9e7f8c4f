//! The table: a member for each slot.

/// Sizes of rings: primes, so that every step visits all slots.
pub const RING_SIZES: [u32; 6] = [251, 509, 1_021, 4_093, 16_381, 65_537];

/// Slots for each member that a ring has at least, as far as sizes go: shares are then exact within 1 %.
const SLOTS_EACH: u32 = 100;

/// The size of a ring for so many members.
pub fn ring_size(members: usize) -> u32 {
    let wanted = u32::try_from(members)
        .unwrap_or(u32::MAX)
        .saturating_mul(SLOTS_EACH);
    let [.., largest] = RING_SIZES;
    RING_SIZES
        .into_iter()
        .find(|size| *size >= wanted)
        .unwrap_or(largest)
}

/// A backend of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// What tells it from others, on all edges and for as long as it lives: its address and port, say.
    pub id: u64,
    /// What the table says where it owns a slot.
    pub owner: u16,
    /// Its share, in proportion to the others'; 0 owns nothing.
    pub weight: u32,
}

/// The owner of each of `size` slots (a prime); empty when no member has a weight.
///
/// Each member has a permutation of the slots of its own (an offset and a step from a hash of its id) and takes the
/// first free slot of it in turn, more often the more it weighs. So a member that comes or goes changes few slots
/// but those that it gets or had.
pub fn table(members: &[Member], size: u32) -> Vec<u16> {
    let mut turns: Vec<Turn> = members
        .iter()
        .filter(|member| member.weight > 0)
        .map(|member| Turn::new(*member, size))
        .collect();
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else {
        return Vec::new();
    };
    // Whoever comes first gets a contested slot: an order that does not depend on how they were named.
    turns.sort_unstable_by_key(|turn| (turn.rank, turn.id));
    let mut slots: Vec<Option<u16>> = vec![None; size as usize];
    let mut left = size;
    let mut round: u64 = 0;
    while left > 0 {
        round += 1;
        for turn in &mut turns {
            // In `round` rounds the heaviest has had `round` turns, the others their share of that.
            if round * turn.weight < turn.due {
                continue;
            }
            turn.due += heaviest;
            let slot = loop {
                let at = turn.next(size) as usize;
                if slots[at].is_none() {
                    break at;
                }
            };
            slots[slot] = Some(turn.owner);
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    slots.into_iter().flatten().collect()
}

/// A member on its way through its permutation.
struct Turn {
    id: u64,
    rank: u64,
    owner: u16,
    weight: u64,
    /// The next turn is due when rounds times weight reach this.
    due: u64,
    at: u32,
    step: u32,
}

impl Turn {
    fn new(member: Member, size: u32) -> Self {
        let modulus = u64::from(size.max(2));
        Self {
            id: member.id,
            rank: mix(member.id ^ 0x5bd1_e995_97f4_a7c1),
            owner: member.owner,
            weight: u64::from(member.weight),
            due: 1,
            at: low(mix(member.id) % modulus),
            step: low(mix(member.id ^ 0x9e37_79b9_7f4a_7c15) % (modulus - 1)) + 1,
        }
    }

    fn next(&mut self, size: u32) -> u32 {
        let at = self.at;
        self.at = low((u64::from(at) + u64::from(self.step)) % u64::from(size));
        at
    }
}

/// A number below a ring's size.
fn low(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// A bijection whose bits all depend on all bits.
pub(super) fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}
