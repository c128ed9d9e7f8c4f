//! `taskStats`: counts and ages of an app's tasks, by what they run.

use serde::{Deserialize, Serialize};
use waggle_types::{HealthState, ServiceVersion, TaskState, UnixMillis};

use super::{app::Instance, definition::Number};

/// Statistics of an app's tasks; a part without tasks is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's statistics")]
pub struct TaskStats {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_after_last_scaling: Option<StatsOf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_latest_config: Option<StatsOf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_outdated_config: Option<StatsOf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_summary: Option<StatsOf>,
}

/// `{"stats": ..}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsOf {
    /// What is in it.
    pub stats: Stats,
}

/// Of some tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// How many.
    pub counts: StateCounts,
    /// How long those that run have run; left out where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_time: Option<LifeTime>,
}

/// Tasks by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's counts")]
pub struct StateCounts {
    pub staged: u32,
    pub running: u32,
    pub healthy: u32,
    pub unhealthy: u32,
}

/// In seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's life time")]
pub struct LifeTime {
    pub average_seconds: Number,
    pub median_seconds: Number,
}

/// Statistics at `now` of the tasks of an app that was last scaled, and last changed but for that, by these versions.
pub fn task_stats(
    instances: &[Instance<'_>],
    (scaled_at, configured_at): (ServiceVersion, ServiceVersion),
    now: UnixMillis,
) -> TaskStats {
    let of = |rule: &dyn Fn(&Instance<'_>) -> bool| {
        let mine: Vec<&Instance<'_>> = instances.iter().filter(|i| rule(i)).collect();
        (!mine.is_empty()).then(|| StatsOf {
            stats: stats(&mine, now),
        })
    };
    TaskStats {
        started_after_last_scaling: of(&|i| i.staged_at >= scaled_at.0),
        with_latest_config: of(&|i| i.version >= configured_at),
        with_outdated_config: of(&|i| i.version < configured_at),
        total_summary: of(&|_| true),
    }
}

fn stats(of: &[&Instance<'_>], now: UnixMillis) -> Stats {
    let count = |rule: &dyn Fn(&Instance<'_>) -> bool| {
        u32::try_from(of.iter().filter(|i| rule(i)).count()).unwrap_or(u32::MAX)
    };
    let runs = |i: &Instance<'_>| matches!(i.state, TaskState::Running | TaskState::Killing);
    let running = of.iter().filter(|i| runs(i));
    let mut ages: Vec<u64> = running
        .filter_map(|i| Some(now.since(i.started_at?).0))
        .collect();
    ages.sort_unstable();
    let seconds = |ms: f64| Number(ms / 1000.0);
    let n = ages.len();
    let median = || {
        let middle = [ages.get(n.saturating_sub(1) / 2), ages.get(n / 2)];
        middle.into_iter().flatten().sum::<u64>() as f64 / 2.0
    };
    Stats {
        counts: StateCounts {
            staged: count(&|i| matches!(i.state, TaskState::Staging | TaskState::Starting)),
            running: count(&runs),
            healthy: count(&|i| runs(i) && i.health == HealthState::Healthy),
            unhealthy: count(&|i| runs(i) && i.health == HealthState::Unhealthy),
        },
        life_time: (n > 0).then(|| LifeTime {
            average_seconds: seconds(ages.iter().sum::<u64>() as f64 / n as f64),
            median_seconds: seconds(median()),
        }),
    }
}
