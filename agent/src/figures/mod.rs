//! What was read of each task on the last tick, beside the reading before it: figures as they are now, without asking anything
//! that keeps them.
//!
//! # Invariants
//! - Two readings per running task, nothing of others.
//! - Rates are of the time between both, or since the task's start where there is one.

mod reading;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Json, Router, extract::State, routing::get};
use waggle_api::native::{NodeFiguresView, TaskFiguresView};
use waggle_telemetry_pipeline::TaskLabels;
use waggle_types::TaskId;

use crate::{net::Net, peers::service_name};

pub use reading::Reading;

/// Readings of all running tasks.
#[derive(Debug, Default)]
pub struct Figures(Mutex<BTreeMap<TaskId, Kept>>);

#[derive(Debug)]
struct Kept {
    labels: Arc<TaskLabels>,
    before: Option<Reading>,
    now: Reading,
}

impl Figures {
    /// A task was read.
    pub fn note(&self, labels: &Arc<TaskLabels>, now: Reading) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(&labels.task_id).map(|kept| kept.now);
        let labels = Arc::clone(labels);
        let id = labels.task_id.clone();
        all.insert(
            id,
            Kept {
                labels,
                before,
                now,
            },
        );
    }

    /// Forgets all others.
    pub fn keep(&self, there: &BTreeSet<TaskId>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| there.contains(id));
    }

    fn shown(&self) -> Vec<TaskFiguresView> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(id, kept): (&TaskId, &Kept)| TaskFiguresView {
            task_id: id.to_string(),
            name: service_name(&kept.labels.task_name, &kept.labels.framework),
            service: kept.labels.service.clone(),
            ..kept.now.since(kept.before.as_ref())
        };
        all.iter().map(one).collect()
    }
}

/// What handlers have.
#[derive(Clone)]
struct FiguresApi {
    figures: Arc<Figures>,
    net: Arc<Net>,
    node: String,
}

/// The routes.
pub fn routes(figures: Arc<Figures>, net: Arc<Net>, node: String) -> Router {
    Router::new()
        .route("/waggle/v1/figures", get(show))
        .with_state(FiguresApi { figures, net, node })
}

async fn show(State(api): State<FiguresApi>) -> Json<NodeFiguresView> {
    let policy = api.net.overlay().policy_counts().unwrap_or_else(|e| {
        tracing::debug!(error = %e, "counters of policies not read");
        Vec::new()
    });
    Json(NodeFiguresView {
        node: api.node,
        tasks: api.figures.shown(),
        policy: policy
            .into_iter()
            .map(|(verdict, n)| (verdict.to_owned(), n))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use waggle_telemetry_pipeline::{Point, PointData, names};

    use super::*;
    use crate::fixture;

    #[test]
    fn a_task_is_shown_while_it_is_there() {
        let figures = Figures::default();
        let labels = Arc::new(fixture::labels("web.1"));
        let read = |cpu_s: f64, at_ns: u64| {
            let attrs = vec![(names::CPU_MODE, "user".into())];
            let data = PointData::SumF64(cpu_s);
            let point = Point::new(&names::CONTAINER_CPU_TIME, attrs, data, 0, at_ns);
            Reading::of(&[point], (0, at_ns), 0)
        };
        figures.note(&labels, read(1.0, 10_000_000_000));
        figures.note(&labels, read(2.0, 14_000_000_000));
        let shown = figures.shown();
        assert_eq!(shown.len(), 1);
        assert_eq!((shown[0].cpus, shown[0].window_s), (Some(0.25), 4.0));
        assert_eq!(shown[0].task_id, "web.1");
        figures.keep(&BTreeSet::new());
        assert!(figures.shown().is_empty());
    }
}
