//! What this edge tells others of its rings, and hears of theirs.

use std::time::{Duration, Instant};

use waggle_api::{convert, proto::session as pb};
use waggle_types::EdgeRing;

use super::Net;

/// The rings of an edge are told at most this often.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(1);

impl Net {
    /// What an edge says of its rings; `None` on a node that is none. With `ask` it also wants to hear of the others.
    pub fn edge_rings(&self, ask: bool) -> Option<pb::EdgeRings> {
        let edge = self.edge.as_ref()?;
        let rings = edge.marks()?;
        Some(pb::EdgeRings {
            edge: edge.name(),
            ask,
            rings: convert::edge_rings_to_wire(&rings),
        })
    }

    /// What other edges have.
    pub async fn learn(&self, rings: Vec<EdgeRing>) {
        let Some(edge) = &self.edge else { return };
        for error in edge.learn(rings).await {
            let error = super::chain(&error);
            tracing::warn!(error, "the edge's tables are not as they should be");
        }
    }
}

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct Told {
    at: Option<Instant>,
    marks: Vec<(Option<pb::VipPort>, Vec<u32>, Vec<u32>)>,
}

impl Told {
    /// What is to be said now: something else than before, and not too soon after it.
    pub(super) fn due(
        &mut self,
        rings: impl FnOnce() -> Option<pb::EdgeRings>,
    ) -> Option<pb::EdgeRings> {
        if self.at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return None;
        }
        let rings = rings()?;
        // Without ages: they change by themselves.
        let one = |r: &pb::EdgeRing| (r.vip.clone(), r.slots.clone(), r.previous.clone());
        let marks: Vec<_> = rings.rings.iter().map(one).collect();
        if marks == self.marks {
            return None;
        }
        self.marks = marks;
        self.at = Some(Instant::now());
        Some(rings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_said_and_not_too_often() {
        let say = |slot, age| {
            Some(pb::EdgeRings {
                rings: vec![pb::EdgeRing {
                    slots: vec![slot],
                    ages_ms: vec![age],
                    ..pb::EdgeRing::default()
                }],
                ..pb::EdgeRings::default()
            })
        };
        let mut told = Told::default();
        assert!(told.due(|| None).is_none(), "no edge");
        assert!(told.due(|| say(1, 0)).is_some());
        assert!(told.due(|| say(2, 0)).is_none(), "too soon");
        told.at = Instant::now().checked_sub(TELL_EVERY);
        assert!(told.due(|| say(1, 99)).is_none(), "nothing new");
        assert!(told.due(|| say(2, 0)).is_some());
    }
}
