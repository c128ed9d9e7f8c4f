//! Containers that are known: those that run, and the newest of those that have ended.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tokio::sync::{Semaphore, mpsc, watch};

use super::{
    Class, Id, MAX_KNOWN, Typed, alone,
    drive::{Ask, Phase},
    sandbox::Home,
};

/// By name.
#[derive(Default)]
pub struct Known {
    /// All of them.
    pub all: BTreeMap<Id, Container>,
    /// Number of the last one: older ones are forgotten first.
    pub next: u64,
}

/// One of them.
#[derive(Clone)]
pub struct Container {
    /// The lower, the older.
    pub number: u64,
    /// How it lives.
    pub class: Class,
    /// Where it is, once it is somewhere.
    pub home: Option<Home>,
    /// How far it is.
    pub phase: watch::Receiver<Phase>,
    /// The way in for who wants something of it.
    pub asks: mpsc::Sender<Ask>,
    /// The way in for what is typed.
    pub typed: mpsc::Sender<Typed>,
    /// One writer at a time.
    pub writer: Arc<Semaphore>,
}

impl Container {
    /// Whether it has not ended.
    pub fn runs(&self) -> bool {
        self.phase.borrow().ended().is_none()
    }
}

impl Known {
    /// Forgets what has ended: all of roots that do not live, and the oldest where there are too many. Directories that are
    /// to be removed for that are put aside, in `left`. False when all of too many run.
    pub fn make_room(&mut self, lives: impl Fn(&str) -> bool, left: &mut Vec<PathBuf>) -> bool {
        let alone: Vec<Id> = self
            .all
            .keys()
            .filter(|id| !id.is_nested())
            .cloned()
            .collect();
        self.all.retain(|id, c| {
            c.runs() || lives(id.root()) || alone.binary_search(&Id::root_of(id)).is_ok()
        });
        while self.all.len() >= MAX_KNOWN {
            let ended = self.all.iter().filter(|(_, c)| !c.runs());
            let Some(oldest) = ended
                .min_by_key(|(_, c)| c.number)
                .map(|(id, _)| id.clone())
            else {
                return false;
            };
            if let Some(c) = self.all.remove(&oldest).filter(|_| !oldest.is_nested()) {
                left.extend(c.home.and_then(|home| alone::put_aside(&home, c.number)));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use waggle_api::{exec::Ended, proto::mesos as pb};

    use super::*;

    fn id(name: &str, parent: Option<&str>) -> Id {
        let named = |value: &str, parent| pb::ContainerId {
            value: value.to_owned(),
            parent,
        };
        let parent = parent.map(|p| Box::new(named(p, None)));
        Id::read(Some(&named(name, parent))).unwrap()
    }

    fn container(number: u64, phase: Phase, dir: Option<&Path>) -> Container {
        let home = dir.map(|dir| Home {
            dir: dir.to_owned(),
            sandbox: dir.join("sandbox"),
            inside: dir.join("sandbox"),
            user: None,
        });
        Container {
            number,
            class: Class::Plain,
            home,
            phase: watch::channel(phase).1,
            asks: mpsc::channel(1).0,
            typed: mpsc::channel(1).0,
            writer: Arc::new(Semaphore::new(1)),
        }
    }

    fn over() -> Phase {
        Phase::Ended(Ended::default())
    }

    #[test]
    fn the_oldest_goes_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = Known::default();
        for n in 0..MAX_KNOWN as u64 {
            let at = dir.path().join(format!("c{n}"));
            fs::create_dir_all(at.join("sandbox")).unwrap();
            // The very oldest one runs.
            let phase = if n == 0 { Phase::Running(1) } else { over() };
            let c = container(n, phase, Some(&at));
            known.all.insert(id(&format!("c{n}"), None), c);
        }
        let mut left = Vec::new();
        assert!(known.make_room(|_| false, &mut left));
        assert!(!known.all.contains_key(&id("c1", None)));
        assert_eq!(known.all.len(), MAX_KNOWN - 1);
        assert!(!dir.path().join("c1").exists(), "another one may come");
        assert!(left[0].join("sandbox").is_dir());
        alone::gone(&left[0]).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_KNOWN - 1);
    }

    #[test]
    fn what_runs_is_kept_and_what_had_a_root_is_not() {
        let mut known = Known::default();
        known
            .all
            .insert(id("a", Some("t")), container(1, over(), None));
        let running = container(2, Phase::Running(1), None);
        known.all.insert(id("b", Some("t")), running);
        let mut left = Vec::new();
        assert!(known.make_room(|root| root == "t", &mut left));
        assert_eq!(known.all.len(), 2);
        assert!(known.make_room(|_| false, &mut left));
        let names: Vec<_> = known.all.keys().cloned().collect();
        assert_eq!(names, [id("b", Some("t"))]);
        for n in 0..MAX_KNOWN {
            let c = container(3, Phase::Running(1), None);
            known.all.insert(id(&format!("r{n}"), None), c);
        }
        assert!(!known.make_room(|_| true, &mut left), "all of them run");
        assert!(left.is_empty());
    }
}
