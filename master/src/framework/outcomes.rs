//! Frameworks' operations that have an id and have ended, until the framework has acknowledged that it knows.
//!
//! An operation is done, durably, when it is answered; what is kept here is only the answer, so it goes with the
//! process: after that its id is not known, as in Mesos after the acknowledgment, and the framework looks at its offers.
//! Who was away when it was told is told again when it subscribes. What was refused is told once, without a uuid, as in
//! Mesos: it was never an operation of the cluster, and is kept only for who asks by its id.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::Message as _;
use waggle_api::proto::mesos as pb;
use waggle_types::FrameworkId;

/// Answers that are kept for one framework; the oldest are forgotten.
const MAX_OF_FRAMEWORK: usize = 1000;
/// Bytes of what was asked for that are kept for one framework; the oldest are forgotten.
const MAX_INFO_BYTES: usize = 1 << 18;
/// Frameworks that answers are kept for; the one that has been quiet for longest is forgotten.
const MAX_FRAMEWORKS: usize = 256;

/// Answers by framework.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_framework: BTreeMap<FrameworkId, Answers>,
    /// Counts what was kept.
    n_kept: u64,
}

#[derive(Debug, Default)]
struct Answers {
    newest_last: VecDeque<Arc<Outcome>>,
    info_bytes: usize,
    kept_at: u64,
}

/// How an operation ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// As it was told; to be acknowledged if it has a uuid.
    pub(crate) status: pb::OperationStatus,
    /// The operation's own, as operators read it.
    pub(crate) uuid: [u8; 16],
    /// What was asked for, encoded: the decoded message is several times as large. Empty where it alone is too large.
    info: Vec<u8>,
}

impl Outcome {
    pub(crate) fn new(status: pb::OperationStatus, asked: &pb::OfferOperation) -> Self {
        let info = if asked.encoded_len() <= MAX_INFO_BYTES {
            asked.encode_to_vec()
        } else {
            Vec::new()
        };
        Self {
            status,
            uuid: uuid::Uuid::new_v4().into_bytes(),
            info,
        }
    }

    /// What was asked for; of an operation that was too large to be kept its id alone.
    pub(crate) fn info(&self) -> pb::OfferOperation {
        let info = pb::OfferOperation::decode(self.info.as_slice()).unwrap_or_default();
        pb::OfferOperation {
            id: self.status.operation_id.clone(),
            ..info
        }
    }

    /// Its status is to be acknowledged.
    fn is_open(&self) -> bool {
        self.status.uuid.is_some()
    }

    fn is(&self, operation: &str) -> bool {
        let id = self.status.operation_id.as_ref();
        id.is_some_and(|id| id.value == operation)
    }
}

impl Answers {
    /// How many had to go that were not acknowledged yet.
    fn add(&mut self, outcome: Outcome) -> usize {
        self.info_bytes += outcome.info.len();
        self.newest_last.push_back(Arc::new(outcome));
        let mut forgotten = 0;
        while self.newest_last.len() > MAX_OF_FRAMEWORK || self.info_bytes > MAX_INFO_BYTES {
            let Some(oldest) = self.newest_last.pop_front() else {
                break;
            };
            self.info_bytes -= oldest.info.len();
            forgotten += usize::from(oldest.is_open());
        }
        forgotten
    }

    /// Those whose status is to be acknowledged and is not yet, the oldest first.
    fn unacknowledged(&self) -> impl Iterator<Item = &Arc<Outcome>> {
        self.newest_last.iter().filter(|o| o.is_open())
    }
}

impl Outcomes {
    fn locked(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer. How many were forgotten for want of room though they were not acknowledged: those are told no more.
    pub(crate) fn keep(&self, of: &FrameworkId, outcome: Outcome) -> usize {
        let mut inner = self.locked();
        let mut forgotten = 0;
        inner.n_kept += 1;
        let kept_at = inner.n_kept;
        if !inner.by_framework.contains_key(of) && inner.by_framework.len() >= MAX_FRAMEWORKS {
            let quiet = inner.by_framework.iter().min_by_key(|(_, a)| a.kept_at);
            if let Some(quiet) = quiet.map(|(id, _)| id.clone()) {
                let gone = inner.by_framework.remove(&quiet);
                forgotten += gone.map_or(0, |a| a.unacknowledged().count());
            }
        }
        let answers = inner.by_framework.entry(of.clone()).or_default();
        answers.kept_at = kept_at;
        forgotten + answers.add(outcome)
    }

    /// The framework knows this: it is kept no longer.
    pub(crate) fn acknowledge(&self, of: &FrameworkId, operation: &str, status_uuid: &[u8]) {
        let mut inner = self.locked();
        let Some(answers) = inner.by_framework.get_mut(of) else {
            return;
        };
        let meant = |o: &Arc<Outcome>| {
            let uuid = o.status.uuid.as_ref();
            o.is(operation) && uuid.is_some_and(|u| u.value == status_uuid)
        };
        if let Some(at) = answers.newest_last.iter().position(meant)
            && let Some(known) = answers.newest_last.remove(at)
        {
            answers.info_bytes -= known.info.len();
        }
        if answers.newest_last.is_empty() {
            inner.by_framework.remove(of);
        }
    }

    /// All of a framework's by operation; of an id that was used again, the newest.
    pub(crate) fn of(&self, framework: &FrameworkId) -> BTreeMap<String, pb::OperationStatus> {
        let inner = self.locked();
        let answers = inner.by_framework.get(framework).into_iter();
        answers
            .flat_map(|a| &a.newest_last)
            .filter_map(|o| {
                let id = o.status.operation_id.as_ref()?;
                Some((id.value.clone(), o.status.clone()))
            })
            .collect()
    }

    /// What a framework has not acknowledged yet, the oldest first.
    pub(crate) fn unacknowledged(&self, framework: &FrameworkId) -> Vec<Arc<Outcome>> {
        let inner = self.locked();
        let answers = inner.by_framework.get(framework).into_iter();
        answers.flat_map(Answers::unacknowledged).cloned().collect()
    }

    /// What all frameworks have not acknowledged yet.
    pub(crate) fn all_unacknowledged(&self) -> Vec<(FrameworkId, Arc<Outcome>)> {
        let inner = self.locked();
        let of = |(id, answers): (&FrameworkId, &Answers)| -> Vec<_> {
            let all = answers.unacknowledged();
            all.map(|o| (id.clone(), Arc::clone(o))).collect()
        };
        inner.by_framework.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, state: pb::OperationState) -> Outcome {
        let status = pb::OperationStatus {
            operation_id: Some(pb::OperationId { value: id.into() }),
            state: Some(state.into()),
            uuid: (state == pb::OperationState::OperationFinished)
                .then(|| pb::Uuid { value: vec![7; 16] }),
            ..pb::OperationStatus::default()
        };
        Outcome::new(status, &pb::OfferOperation::default())
    }

    fn framework(n: usize) -> FrameworkId {
        FrameworkId::new(format!("f{n}")).unwrap()
    }

    #[test]
    fn the_newest_answers_are_kept_of_each_framework() {
        let outcomes = Outcomes::default();
        let finished = |id: &str| answer(id, pb::OperationState::OperationFinished);
        for n in 0..MAX_OF_FRAMEWORK {
            let forgotten = outcomes.keep(&framework(0), finished(&n.to_string()));
            assert_eq!(forgotten, 0);
        }
        let forgotten = outcomes.keep(&framework(0), finished("1000"));
        assert_eq!(forgotten, 1, "is told no more");
        outcomes.keep(
            &framework(0),
            answer("7", pb::OperationState::OperationError),
        );
        let kept = outcomes.of(&framework(0));
        assert!(
            !kept.contains_key("0") && !kept.contains_key("1"),
            "the oldest are forgotten"
        );
        assert_eq!(
            kept["7"].state(),
            pb::OperationState::OperationError,
            "the newest counts"
        );
        assert_eq!(kept.len(), MAX_OF_FRAMEWORK - 1);
        assert!(
            outcomes.of(&framework(1)).is_empty(),
            "of each framework its own"
        );
        let mut forgotten = 0;
        for n in 1..=MAX_FRAMEWORKS {
            forgotten += outcomes.keep(&framework(n), finished("o"));
        }
        assert_eq!(forgotten, MAX_OF_FRAMEWORK - 1, "a refusal is not");
        assert!(outcomes.of(&framework(0)).is_empty(), "quiet for longest");
        assert_eq!(outcomes.of(&framework(MAX_FRAMEWORKS)).len(), 1);
    }

    #[test]
    fn what_is_acknowledged_is_known_no_longer() {
        use pb::OperationState::{OperationDropped, OperationFinished};
        let outcomes = Outcomes::default();
        let f = framework(0);
        outcomes.keep(&f, answer("done", OperationFinished));
        outcomes.keep(&f, answer("again", OperationFinished));
        outcomes.keep(&f, answer("dropped", OperationDropped));
        let open = || -> Vec<String> {
            let all = outcomes.unacknowledged(&f).into_iter();
            all.filter_map(|o| Some(o.status.operation_id.clone()?.value))
                .collect()
        };
        assert_eq!(open(), ["done", "again"], "a refusal is said once");
        outcomes.acknowledge(&f, "done", &[8; 16]);
        outcomes.acknowledge(&f, "other", &[7; 16]);
        outcomes.acknowledge(&framework(1), "done", &[7; 16]);
        assert_eq!(open(), ["done", "again"], "of nothing that is kept");
        outcomes.acknowledge(&f, "done", &[7; 16]);
        assert_eq!(open(), ["again"]);
        assert_eq!(outcomes.all_unacknowledged().len(), 1);
        assert!(!outcomes.of(&f).contains_key("done"));
        assert!(outcomes.of(&f).contains_key("dropped"));
    }

    #[test]
    fn what_was_asked_for_is_bounded_in_bytes() {
        let outcomes = Outcomes::default();
        let asked = |bytes: usize| pb::OfferOperation {
            launch: Some(pb::Launch {
                task_infos: vec![pb::TaskInfo {
                    data: Some(vec![0; bytes]),
                    ..pb::TaskInfo::default()
                }],
            }),
            ..pb::OfferOperation::default()
        };
        let keep = |id: &str, bytes: usize| {
            let status = answer(id, pb::OperationState::OperationFinished).status;
            outcomes.keep(&framework(0), Outcome::new(status, &asked(bytes)));
        };
        let ids = || {
            outcomes
                .of(&framework(0))
                .into_keys()
                .collect::<Vec<String>>()
        };
        for id in ["a", "b", "c"] {
            keep(id, MAX_INFO_BYTES / 2 - 100);
        }
        assert_eq!(ids(), ["b", "c"]);
        keep("large", MAX_INFO_BYTES);
        assert_eq!(ids(), ["b", "c", "large"]);
        let open = outcomes.unacknowledged(&framework(0));
        assert_eq!(open[2].info().id.unwrap().value, "large");
        assert!(open[0].info().launch.is_some() && open[2].info().launch.is_none());
        outcomes.acknowledge(&framework(0), "b", &[7; 16]);
        keep("d", MAX_INFO_BYTES / 2 - 100);
        assert_eq!(ids(), ["c", "d", "large"], "there is room again");
    }
}
