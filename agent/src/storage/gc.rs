//! Which sandboxes of ended tasks go: by age, sooner when the disk fills up, and never more than a number.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use waggle_types::{TaskId, UnixMillis};

/// However full the disk is, a sandbox is kept for this long: what follows a task's end is done by then.
pub const MIN_AGE: Duration = Duration::from_mins(1);

/// How old sandboxes may get: Mesos's rule (`Slave::age`, slave.cpp), `delay * max(0, 1 - headroom - used)`, where `used`
/// is the used part of the disk.
pub fn max_age(delay: Duration, headroom: f64, used: f64) -> Duration {
    let part = (1.0 - headroom - used).clamp(0.0, 1.0);
    let age = if part.is_nan() {
        delay
    } else {
        delay.mul_f64(part)
    };
    age.max(MIN_AGE)
}

/// Ended tasks whose directories are kept, by when they ended.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    by_end: BTreeSet<(UnixMillis, TaskId)>,
    ends: BTreeMap<TaskId, UnixMillis>,
}

impl Finished {
    /// One more. A task that came again counts from its last end.
    pub fn add(&mut self, at: UnixMillis, task_id: TaskId) {
        if let Some(before) = self.ends.insert(task_id.clone(), at) {
            self.by_end.remove(&(before, task_id.clone()));
        }
        self.by_end.insert((at, task_id));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_end.len()
    }

    /// Takes out those that must go, oldest first: older than `max_age`, or more than `keep`.
    pub fn take_old(&mut self, now: UnixMillis, max_age: Duration, keep: usize) -> Vec<TaskId> {
        let mut out = Vec::new();
        while let Some((at, _)) = self.by_end.first() {
            let too_old = now.since(*at).as_duration() > max_age;
            if !too_old && self.by_end.len() <= keep {
                break;
            }
            if let Some((_, task_id)) = self.by_end.pop_first() {
                self.ends.remove(&task_id);
                out.push(task_id);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_disk_makes_them_go_sooner() {
        let week = Duration::from_hours(7 * 24);
        let hours = |used| max_age(week, 0.1, used).as_secs_f64() / 3600.0;
        assert!((hours(0.0) - 151.2).abs() < 0.01);
        assert!((hours(0.5) - 67.2).abs() < 0.01);
        assert_eq!(max_age(week, 0.1, 0.9), MIN_AGE);
        assert_eq!(max_age(week, 0.1, 1.0), MIN_AGE);
        assert_eq!(max_age(week, 0.0, f64::NAN), week, "unknown is no reason");
    }

    #[test]
    fn a_task_that_came_again_counts_from_its_last_end() {
        let id = TaskId::new("t").unwrap();
        let mut all = Finished::default();
        all.add(UnixMillis(1), id.clone());
        all.add(UnixMillis(100), id.clone());
        let age = Duration::from_millis(50);
        assert_eq!(all.take_old(UnixMillis(120), age, 9), []);
        assert_eq!(all.take_old(UnixMillis(151), age, 9), [id]);
    }

    proptest! {
        #[test]
        fn what_stays_is_young_and_few_and_what_goes_had_to(
            ends in prop::collection::vec(0u64..1000, 0..30),
            now in 0u64..1200, max_age in 0u64..500, keep in 0usize..20,
        ) {
            let mut all = Finished::default();
            for (n, at) in ends.iter().enumerate() {
                all.add(UnixMillis(*at), TaskId::new(format!("t{n}")).unwrap());
            }
            let age = Duration::from_millis(max_age);
            let gone = all.take_old(UnixMillis(now), age, keep);
            prop_assert_eq!(gone.len() + all.len(), ends.len());
            prop_assert!(all.len() <= keep);
            let at = |id: &TaskId| ends[id.as_str()[1..].parse::<usize>().unwrap()];
            let old = |at: u64| now.saturating_sub(at) > max_age;
            prop_assert!(all.by_end.iter().all(|(at, _)| !old(at.0)));
            let oldest_kept = all.by_end.first().map(|(at, _)| at.0);
            for (i, id) in gone.iter().enumerate() {
                prop_assert!(oldest_kept.is_none_or(|k| at(id) <= k), "oldest first");
                prop_assert!(old(at(id)) || ends.len() - i > keep);
            }
        }
    }
}
