//! Which task a cgroup is of, for a while after its end.

use std::collections::HashMap;

/// Looks for which a task that is gone is known: its last connections may end after it.
const LINGER: u8 = 8;

/// A task, as connections name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `<task>.<framework>`.
    pub name: String,
    /// Task id.
    pub task_id: String,
    /// App or pod.
    pub service: String,
}

/// Tasks by cgroup id; bounded by the tasks of a node and those of its last seconds.
#[derive(Debug, Default)]
pub struct Owners {
    known: HashMap<u64, (Owner, Option<u8>)>,
}

impl Owners {
    /// A task is there.
    pub fn begin(&mut self, cgroup_id: u64, owner: impl FnOnce() -> Owner) {
        self.known
            .entry(cgroup_id)
            .or_insert_with(|| (owner(), None));
    }

    /// A task is gone.
    pub fn end(&mut self, cgroup_id: u64) {
        if let Some((_, left)) = self.known.get_mut(&cgroup_id) {
            *left = Some(LINGER);
        }
    }

    /// Whose a cgroup is.
    pub fn get(&self, cgroup_id: u64) -> Option<&Owner> {
        self.known.get(&cgroup_id).map(|(owner, _)| owner)
    }

    /// A look is over.
    pub fn pass(&mut self) {
        self.known.retain(|_, (_, left)| match left {
            None => true,
            Some(0) => false,
            Some(n) => {
                *n -= 1;
                true
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_known_for_some_looks_after_its_end() {
        let owner = Owner {
            name: "web.marathon".to_owned(),
            task_id: "web.1".to_owned(),
            service: "/web".to_owned(),
        };
        let mut owners = Owners::default();
        owners.begin(1, || owner.clone());
        for _ in 0..100 {
            owners.pass();
        }
        owners.end(1);
        for _ in 0..LINGER {
            owners.pass();
            assert_eq!(owners.get(1), Some(&owner));
        }
        owners.pass();
        assert_eq!(owners.get(1), None);
        assert!(owners.known.is_empty());
    }
}
