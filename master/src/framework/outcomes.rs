//! How frameworks' operations that have an id ended: for a framework that was away when it was told.
//!
//! An operation is done, durably, when it is answered; what is kept here is only the answer, so it goes with the
//! process: after that its id is not known, as in Mesos after the acknowledgment, and the framework looks at its offers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use waggle_api::proto::mesos as pb;
use waggle_types::FrameworkId;

/// Answers that are kept for one framework; the oldest are forgotten.
const MAX_OF_FRAMEWORK: usize = 1000;
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
    newest_last: VecDeque<pb::OperationStatus>,
    kept_at: u64,
}

impl Outcomes {
    fn locked(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer.
    pub(crate) fn keep(&self, of: &FrameworkId, answer: pb::OperationStatus) {
        let mut inner = self.locked();
        inner.n_kept += 1;
        let kept_at = inner.n_kept;
        if !inner.by_framework.contains_key(of) && inner.by_framework.len() >= MAX_FRAMEWORKS {
            let quiet = inner.by_framework.iter().min_by_key(|(_, a)| a.kept_at);
            if let Some(quiet) = quiet.map(|(id, _)| id.clone()) {
                inner.by_framework.remove(&quiet);
            }
        }
        let answers = inner.by_framework.entry(of.clone()).or_default();
        answers.kept_at = kept_at;
        answers.newest_last.push_back(answer);
        if answers.newest_last.len() > MAX_OF_FRAMEWORK {
            answers.newest_last.pop_front();
        }
    }

    /// All of a framework's by operation; of an id that was used again, the newest.
    pub(crate) fn of(&self, framework: &FrameworkId) -> BTreeMap<String, pb::OperationStatus> {
        let inner = self.locked();
        let answers = inner.by_framework.get(framework).into_iter();
        answers
            .flat_map(|a| &a.newest_last)
            .filter_map(|a| Some((a.operation_id.as_ref()?.value.clone(), a.clone())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, state: pb::OperationState) -> pb::OperationStatus {
        pb::OperationStatus {
            operation_id: Some(pb::OperationId { value: id.into() }),
            state: Some(state.into()),
            ..pb::OperationStatus::default()
        }
    }

    #[test]
    fn the_newest_answers_are_kept_of_each_framework() {
        let outcomes = Outcomes::default();
        let framework = |n: usize| FrameworkId::new(format!("f{n}")).unwrap();
        for n in 0..=MAX_OF_FRAMEWORK {
            outcomes.keep(
                &framework(0),
                answer(&n.to_string(), pb::OperationState::OperationFinished),
            );
        }
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
        for n in 1..=MAX_FRAMEWORKS {
            outcomes.keep(
                &framework(n),
                answer("o", pb::OperationState::OperationFinished),
            );
        }
        assert!(outcomes.of(&framework(0)).is_empty(), "quiet for longest");
        assert_eq!(outcomes.of(&framework(MAX_FRAMEWORKS)).len(), 1);
    }
}
