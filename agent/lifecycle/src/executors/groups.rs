//! Groups of tasks that an executor of a framework's own is handed at once: they come one by one, and whole or not at all.

use std::collections::{BTreeMap, VecDeque};

use waggle_types::{
    ExecutorKey, ExecutorKind, Millis, StatusReason, TaskId, TaskSpec, TaskState, UnixMillis,
};

use super::key_of;
use crate::{AgentCore, Effect, core::Entry};

/// How long a part of a group waits for the others. They are sent at once: what does not come was lost with a master.
pub const GROUP_TIMEOUT: Millis = Millis::from_secs(60);
/// Groups of which is remembered that they will never be whole, while parts of them may still be on their way.
const MAX_BROKEN: usize = 64;

/// What an executor knows of groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Those that will never be whole, the latest last.
    broken: VecDeque<TaskId>,
    /// Those that are not whole, and until when their parts wait.
    waiting: BTreeMap<TaskId, UnixMillis>,
}

impl Groups {
    /// When a group has waited for long enough.
    pub(super) fn deadline(&self) -> Option<UnixMillis> {
        self.waiting.values().min().copied()
    }

    /// Answers whether that is new.
    fn will_never_be_whole(&mut self, group: &TaskId) -> bool {
        self.waiting.remove(group);
        if self.broken.contains(group) {
            return false;
        }
        self.broken.push_back(group.clone());
        if self.broken.len() > MAX_BROKEN {
            self.broken.pop_front();
        }
        true
    }
}

/// The group with which a task is handed to an executor's process, and how many tasks it has.
pub(super) fn group_of(spec: &TaskSpec) -> Option<(TaskId, usize)> {
    let on = spec.executor.as_ref().filter(|on| on.n_group > 0)?;
    let custom = on.spec.kind == ExecutorKind::Custom;
    let group = on.group.clone().filter(|_| custom)?;
    Some((group, usize::try_from(on.n_group).ok()?))
}

impl AgentCore {
    /// A task of an executor is there: it waits for the rest of its group, or ends with it.
    pub(super) fn part_came(
        &mut self,
        key: &ExecutorKey,
        spec: &TaskSpec,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some((group, n)) = group_of(spec) else {
            return;
        };
        let n_here = self.parts(key, &group).len();
        let Some(e) = self.executors.get_mut(key) else {
            return;
        };
        if e.groups.broken.contains(&group) {
            let why = "another task of its group had ended before its executor had them";
            self.end_part(&spec.task_id, why, now, out);
        } else if n_here < n {
            let until = e.groups.waiting.entry(group);
            until.or_insert(now + GROUP_TIMEOUT);
        } else {
            e.groups.waiting.remove(&group);
        }
    }

    /// A task that is handed over with its group has ended before: so do the others, which nobody else will end.
    pub(crate) fn break_group(&mut self, spec: &TaskSpec, now: UnixMillis, out: &mut Vec<Effect>) {
        let (Some(key), Some((group, _))) = (key_of(spec), group_of(spec)) else {
            return;
        };
        let why = "another task of its group had ended before its executor had them";
        self.end_group(&key, &group, why, now, out);
    }

    /// Groups of which parts have waited for too long end.
    pub(super) fn groups_due(&mut self, now: UnixMillis, out: &mut Vec<Effect>) {
        let mut late = Vec::new();
        for (key, e) in &self.executors {
            let of = e.groups.waiting.iter().filter(|(_, until)| **until <= now);
            late.extend(of.map(|(group, _)| (key.clone(), group.clone())));
        }
        let why = format!(
            "the rest of its group did not come within {} s",
            GROUP_TIMEOUT.0 / 1000
        );
        for (key, group) in late {
            self.end_group(&key, &group, &why, now, out);
        }
    }

    fn end_group(
        &mut self,
        key: &ExecutorKey,
        group: &TaskId,
        why: &str,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let e = self.executors.get_mut(key);
        if e.is_some_and(|e| e.groups.will_never_be_whole(group)) {
            for id in self.parts(key, group) {
                self.end_part(&id, why, now, out);
            }
        }
    }

    /// Tasks of a group that live and that the executor does not have yet.
    fn parts(&self, key: &ExecutorKey, group: &TaskId) -> Vec<TaskId> {
        let waits = |e: &Entry| {
            let of = group_of(e.machine.spec());
            !e.on.sent && of.is_some_and(|(g, _)| g == *group)
        };
        let live = self.live_on(key).into_iter();
        live.filter(|id| self.tasks.get(id).is_some_and(waits))
            .collect()
    }

    fn end_part(&mut self, task_id: &TaskId, why: &str, now: UnixMillis, out: &mut Vec<Effect>) {
        let reason = StatusReason::TaskKilledDuringLaunch;
        self.end_on(task_id, TaskState::Killed, reason, why.to_owned(), now, out);
    }
}
