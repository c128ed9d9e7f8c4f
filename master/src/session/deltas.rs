//! Changes between snapshots, made once for all sessions that need the same one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use waggle_api::proto::session as pb;
use waggle_types::{Generation, NetSnapshot};

/// Changes that are kept: sessions that are a little behind each other need one each. Older ones are made again.
const KEPT: usize = 16;

/// Generations, and the change from one to the other.
type Change = (Generation, Generation, Option<Arc<pb::NetDelta>>);

/// See the module. Shared by all sessions of a master.
#[derive(Debug, Default)]
pub(crate) struct Deltas(Mutex<VecDeque<Change>>);

impl Deltas {
    /// The change from one snapshot to another, without causes; `None` when the snapshot itself is hardly more.
    pub(super) fn between(
        &self,
        old: &NetSnapshot,
        new: &NetSnapshot,
    ) -> Option<Arc<pb::NetDelta>> {
        let (from, to) = (old.generation, new.generation);
        // Held while one is made: all others want the same one.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., delta)) = kept.iter().find(|(f, t, _)| (*f, *t) == (from, to)) {
            return delta.clone();
        }
        let delta = old.delta_to(new);
        let whole = new.agents.len() + new.tasks.len() + new.vips.len();
        let delta = (delta.len() * 2 <= whole).then(|| Arc::new(pb::NetDelta::from(&delta)));
        kept.push_back((from, to, delta.clone()));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        delta
    }
}
