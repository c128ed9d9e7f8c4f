//! What edges tell each other: slots whose previous owner may have connections that nobody remembers yet.
//!
//! All edges see the same changes, so their rings agree. One that has just started has not seen those of the last window:
//! it would send a connection that comes over from another edge to the current owner. So it begins with the others' marks.

use std::{collections::BTreeMap, net::SocketAddrV4};

use waggle_types::{EdgeMark, EdgeRing, MAX_MARKS, MAX_RINGS, Millis, UnixMillis, VipKey};

use super::{
    plan::EdgePlan,
    ring::Ring,
    table::{RING_SIZES, ring_size},
    vip::Vip,
};

/// What was heard of one ring: its size, and by slot the previous owner and since when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Heard {
    /// Slots in the ring, which is as large as it was when the VIP had other backends.
    pub(super) size: u32,
    at: UnixMillis,
    marks: BTreeMap<u32, (SocketAddrV4, UnixMillis)>,
}

/// By VIP; bounded by what is told at once.
pub(super) type AllHeard = BTreeMap<VipKey, Heard>;

impl EdgePlan {
    /// The marks of this edge whose windows are open, for edges that start, and rings of a size that today's number of
    /// backends would not give. Bounded; a mark that is left out is the same as one whose window has closed.
    pub fn marks(&self, now: UnixMillis) -> Vec<EdgeRing> {
        let mut room = MAX_MARKS;
        let mut out = Vec::new();
        for (vip, of) in self.vips() {
            let marks: Vec<EdgeMark> = of.marks(now).take(room).collect();
            if marks.is_empty() && of.size == ring_size(of.service.backends.len()) {
                continue;
            }
            room -= marks.len();
            out.push(EdgeRing {
                vip: *vip,
                size: of.size,
                marks,
            });
            if room == 0 || out.len() == MAX_RINGS {
                break;
            }
        }
        out
    }

    /// Takes other edges' marks, for VIPs that this edge does not serve yet. Of two for one slot the older one counts.
    pub fn learn(&mut self, rings: &[EdgeRing], now: UnixMillis) {
        for ring in rings.iter().take(MAX_RINGS) {
            if self.vip(&ring.vip).is_some() {
                // Its own connections go by its own ring.
                continue;
            }
            if !RING_SIZES.contains(&ring.size) {
                continue;
            }
            let heard = self.heard.entry(ring.vip).or_default();
            if heard.size != ring.size {
                *heard = Heard {
                    size: ring.size,
                    ..Heard::default()
                };
            }
            heard.at = now;
            for mark in &ring.marks {
                let since = now - mark.age;
                let held = heard
                    .marks
                    .entry(mark.slot)
                    .or_insert((mark.previous, since));
                if since < held.1 {
                    *held = (mark.previous, since);
                }
            }
        }
    }

    /// What was heard is of no use any more once the window has passed.
    pub(super) fn forget_heard(&mut self, now: UnixMillis) {
        let window = self.window();
        self.heard.retain(|_, heard| now.since(heard.at) < window);
    }
}

impl Heard {
    /// Marks a new ring. Previous owners that serve nothing any more are nobody's.
    pub(super) fn mark(
        &self,
        ring: &mut Ring,
        owners: &BTreeMap<SocketAddrV4, u16>,
        window: Millis,
        now: UnixMillis,
    ) {
        if usize::try_from(self.size) != Ok(ring.slots().len()) {
            return;
        }
        for (slot, (previous, since)) in &self.marks {
            if let Some(owner) = owners.get(previous)
                && now.since(*since) < window
            {
                ring.mark(*slot, *owner, *since);
            }
        }
    }
}

impl Vip {
    fn marks(&self, now: UnixMillis) -> impl Iterator<Item = EdgeMark> + '_ {
        let addrs: BTreeMap<u16, SocketAddrV4> = self
            .owners
            .iter()
            .map(|(addr, owner)| (*owner, *addr))
            .collect();
        self.ring
            .open_marks()
            .filter_map(move |(slot, previous, since)| {
                Some(EdgeMark {
                    slot,
                    previous: *addrs.get(&previous)?,
                    age: now.since(since),
                })
            })
    }
}
