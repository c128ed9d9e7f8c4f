//! What many sessions are told alike: snapshots and changes between them, made and encoded once for all of them.
//!
//! A thousand agents that come back are each told the same megabytes. Making them anew for each was half of a master's
//! work while a cluster was filled.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prost::Message as _;
use waggle_api::proto::session::{self as pb, master_message::Kind as Out};
use waggle_types::{Generation, NetSnapshot};

use super::message;

/// Changes that are kept: sessions that are a little behind each other need one each. Older ones are made again.
const KEPT_CHANGES: usize = 16;
/// Snapshots that are kept: the newest, and the one that slower sessions are still told.
const KEPT_SNAPSHOTS: usize = 2;

/// Generations, and the change from one to the other.
type Change = (Generation, Generation, Option<Bytes>);

/// See the module. One for all sessions of a master.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    changes: Mutex<VecDeque<Change>>,
    snapshots: Mutex<VecDeque<(Generation, Bytes)>>,
}

impl Shared {
    /// A message with the change from one snapshot to another, without causes; `None` when the snapshot itself is
    /// hardly more.
    pub(super) fn change(&self, old: &NetSnapshot, new: &NetSnapshot) -> Option<Bytes> {
        let (from, to) = (old.generation, new.generation);
        // Held while one is made: all others want the same one.
        let mut kept = locked(&self.changes);
        if let Some((.., change)) = kept.iter().find(|(f, t, _)| (*f, *t) == (from, to)) {
            return change.clone();
        }
        let delta = old.delta_to(new);
        let whole = new.agents.len() + new.tasks.len() + new.vips.len();
        let change = (delta.len() * 2 <= whole).then(|| encoded(Out::Change((&delta).into())));
        kept.push_back((from, to, change.clone()));
        if kept.len() > KEPT_CHANGES {
            kept.pop_front();
        }
        change
    }

    /// A message with a snapshot, without causes.
    pub(super) fn snapshot(&self, snapshot: &NetSnapshot) -> Bytes {
        let mut kept = locked(&self.snapshots);
        let of = snapshot.generation;
        if let Some((_, bytes)) = kept.iter().find(|(generation, _)| *generation == of) {
            return bytes.clone();
        }
        let bytes = encoded(Out::Desired(snapshot.into()));
        kept.push_back((of, bytes.clone()));
        if kept.len() > KEPT_SNAPSHOTS {
            kept.pop_front();
        }
        bytes
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encoded(kind: Out) -> Bytes {
    message(kind).encode_to_vec().into()
}

/// What a session is told next.
#[derive(Debug)]
pub(super) enum Said {
    One(pb::MasterMessage),
    State(State),
}

/// Desired state. On the wire its parts are one message: a reader puts a field together that comes in several parts
/// (Protocol Buffers, "Encoding", "Last One Wins").
#[derive(Debug)]
pub(super) struct State {
    /// What all are told.
    pub(super) shared: Bytes,
    /// What only this session is told: causes. Its kind is that of the shared part.
    pub(super) own: Out,
}

impl State {
    pub(super) fn snapshot(shared: Bytes, causes: Vec<pb::Cause>) -> Self {
        let own = Out::Desired(pb::NetSnapshot {
            causes,
            ..pb::NetSnapshot::default()
        });
        Self { shared, own }
    }

    pub(super) fn change(shared: Bytes, causes: Vec<pb::Cause>) -> Self {
        let own = Out::Change(pb::NetDelta {
            causes,
            ..pb::NetDelta::default()
        });
        Self { shared, own }
    }

    /// This session's part as it is on the wire; none when there is nothing in it.
    pub(super) fn own_bytes(self) -> Option<Bytes> {
        let some = match &self.own {
            Out::Desired(s) => !s.causes.is_empty(),
            Out::Change(c) => !c.causes.is_empty(),
            _ => true,
        };
        some.then(|| encoded(self.own))
    }
}

#[cfg(test)]
impl Said {
    /// As its reader has it.
    pub(super) fn read(self) -> Option<Out> {
        match self {
            Self::One(m) => m.kind,
            Self::State(state) => {
                let mut all = state.shared.to_vec();
                all.extend(state.own_bytes().unwrap_or_default());
                pb::MasterMessage::decode(&*all).unwrap().kind
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: u64) -> NetSnapshot {
        NetSnapshot {
            generation: Generation(n),
            ..NetSnapshot::default()
        }
    }

    #[test]
    fn what_is_kept_is_the_same_bytes_and_little_of_it() {
        let shared = Shared::default();
        let one = shared.snapshot(&of(1));
        assert_eq!(one.as_ptr(), shared.snapshot(&of(1)).as_ptr());
        for n in 2..10 {
            shared.snapshot(&of(n));
            shared.change(&of(n - 1), &of(n));
        }
        assert_eq!(locked(&shared.snapshots).len(), KEPT_SNAPSHOTS);
        for n in 10..50 {
            shared.change(&of(n - 1), &of(n));
        }
        assert_eq!(locked(&shared.changes).len(), KEPT_CHANGES);
        assert_eq!(one, shared.snapshot(&of(1)), "made again, the same");
    }

    #[test]
    fn a_reader_puts_the_parts_together() {
        let cause = pb::Cause {
            task_id: "t".to_owned(),
            ..pb::Cause::default()
        };
        let shared = Shared::default();
        let state = State::snapshot(shared.snapshot(&of(7)), vec![cause.clone()]);
        let Some(Out::Desired(read)) = Said::State(state).read() else {
            panic!("a snapshot");
        };
        assert_eq!((read.generation, &read.causes[..]), (7, &[cause][..]));
        let whole = pb::NetSnapshot::from(&of(7));
        let alone = State::snapshot(shared.snapshot(&of(7)), Vec::new());
        assert_eq!(Said::State(alone).read(), Some(Out::Desired(whole)));
    }
}
