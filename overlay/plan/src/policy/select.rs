//! Which numbers a selector means, without asking each for each rule.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{LabelTest, PathMatch, PolicySubject, TaskSelector};

/// Kinds of tasks by what selectors ask for most.
pub(super) struct Selectors<'a> {
    all: &'a BTreeMap<Arc<PolicySubject>, u32>,
    by_label: BTreeMap<(&'a str, &'a str), Vec<(&'a PolicySubject, u32)>>,
    by_service: BTreeMap<&'a str, Vec<(&'a PolicySubject, u32)>>,
}

impl<'a> Selectors<'a> {
    pub(super) fn new(all: &'a BTreeMap<Arc<PolicySubject>, u32>) -> Self {
        let mut by_label: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut by_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (subject, number) in all {
            let one = (subject.as_ref(), *number);
            for (key, value) in &subject.labels {
                by_label
                    .entry((key.as_str(), value.as_str()))
                    .or_default()
                    .push(one);
            }
            by_service
                .entry(subject.service.as_str())
                .or_default()
                .push(one);
        }
        Self {
            all,
            by_label,
            by_service,
        }
    }

    /// The numbers of tasks that a rule of a task in `home` means.
    pub(super) fn find(&self, selector: &TaskSelector, home: &str) -> Vec<u32> {
        let meant = |(subject, number): &(&PolicySubject, u32)| {
            selector.matches(subject, Some(home)).then_some(*number)
        };
        if let Some(PathMatch::Is(path)) = &selector.service {
            let some = self.by_service.get(path.as_str());
            return some.into_iter().flatten().filter_map(meant).collect();
        }
        let exact = selector.labels.iter().find_map(|(key, test)| match test {
            LabelTest::Is(value) => Some((key.as_str(), value.as_str())),
            _ => None,
        });
        if let Some(label) = exact {
            let some = self.by_label.get(&label);
            return some.into_iter().flatten().filter_map(meant).collect();
        }
        let all = self.all.iter().map(|(s, n)| (s.as_ref(), *n));
        all.filter_map(|one| meant(&one)).collect()
    }
}
