//! Ids of containers: one of the agent's own, and those below it. Pure.

use std::{fmt, path::PathBuf};

use waggle_api::proto::mesos as pb;

/// How deep containers may be in each other: executor, task, what debugs it, and some room.
const MAX_DEPTH: usize = 8;
/// Longest name: it is a directory's.
const MAX_NAME: usize = 255;
/// Where the sandboxes of nested containers are in their parent's.
const CONTAINERS: &str = "containers";

/// A container: a task, an executor or a standalone one, and the way down from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    root: String,
    below: Vec<String>,
}

impl Id {
    /// As a message has it. The error is Mesos's (`slave/validation.cpp`).
    ///
    /// Mesos lets no id have a period; here the agent's own are called as their tasks, which do.
    pub fn read(id: Option<&pb::ContainerId>) -> Result<Self, String> {
        let id = id.ok_or("Expecting 'container_id' to be present")?;
        let (mut at, mut names) = (id, Vec::new());
        while let Some(parent) = &at.parent {
            if names.len() == MAX_DEPTH {
                return Err(format!("it is nested deeper than {MAX_DEPTH} containers"));
            }
            let inside = |e: String| "'ContainerID.parent' is invalid: ".repeat(names.len()) + &e;
            check(&at.value, true).map_err(inside)?;
            names.push(at.value.clone());
            at = parent;
        }
        let inside = |e: String| "'ContainerID.parent' is invalid: ".repeat(names.len()) + &e;
        check(&at.value, false).map_err(inside)?;
        names.reverse();
        Ok(Self {
            root: at.value.clone(),
            below: names,
        })
    }

    /// The container that has no parent.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Whether it has a parent.
    pub fn is_nested(&self) -> bool {
        !self.below.is_empty()
    }

    /// The one that it is in.
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.below.split_last()?;
        Some(Self {
            root: self.root.clone(),
            below: above.to_vec(),
        })
    }

    /// The container that is the root of another.
    pub fn root_of(id: &Self) -> Self {
        Self {
            root: id.root.clone(),
            below: Vec::new(),
        }
    }

    /// Whether it is another one, or in it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.root == other.root && self.below.starts_with(&other.below)
    }

    /// A name that a new container may have: Mesos's rule for all of them.
    pub fn check_new(&self) -> Result<(), String> {
        check(&self.root, !self.is_nested())
    }

    /// Its sandbox below its root's; empty for a root.
    pub fn sandbox(&self) -> PathBuf {
        let parts = self.below.iter().flat_map(|name| [CONTAINERS, name]);
        parts.collect()
    }

    /// As a message.
    pub fn message(&self) -> pb::ContainerId {
        let root = pb::ContainerId {
            value: self.root.clone(),
            parent: None,
        };
        let below = self.below.iter();
        below.fold(root, |parent, name| pb::ContainerId {
            value: name.clone(),
            parent: Some(Box::new(parent)),
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)?;
        for name in &self.below {
            write!(f, ".{name}")?;
        }
        Ok(())
    }
}

/// The name of one.
fn check(name: &str, strict: bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("ID must not be empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!("ID must not be greater than {MAX_NAME} characters"));
    }
    if name == "." || name == ".." {
        return Err(format!("'{name}' is disallowed"));
    }
    let bad = |c: char| c.is_control() || c == '/' || c == '\\';
    if name.contains(bad) {
        return Err(format!("'{name:.100}' contains invalid characters"));
    }
    // Periods would make the ids of several look alike; spaces need escapes on terminals.
    if strict && name.contains(['.', ' ']) {
        return Err(format!(
            "'ContainerID.value' '{name:.100}' contains invalid characters"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(names: &[&str]) -> pb::ContainerId {
        let (root, below) = names.split_first().unwrap();
        let one = |value: &str, parent| pb::ContainerId {
            value: value.to_owned(),
            parent,
        };
        below.iter().fold(one(root, None), |parent, name| {
            one(name, Some(Box::new(parent)))
        })
    }

    fn read(names: &[&str]) -> Result<Id, String> {
        Id::read(Some(&message(names)))
    }

    #[test]
    fn an_id_is_the_way_down() {
        let id = read(&["web.1", "redis", "backup"]).unwrap();
        assert_eq!(id.to_string(), "web.1.redis.backup");
        assert_eq!(id.message(), message(&["web.1", "redis", "backup"]));
        assert_eq!(
            id.sandbox(),
            PathBuf::from("containers/redis/containers/backup")
        );
        assert_eq!(id.parent(), read(&["web.1", "redis"]).ok());
        let root = read(&["web.1"]).unwrap();
        assert_eq!(Id::root_of(&id), root);
        assert!(id.is_within(&root) && id.is_within(&id) && !root.is_within(&id));
        assert!(!root.is_nested() && root.parent().is_none());
        assert_eq!(root.sandbox(), PathBuf::new());
        assert!(root.check_new().is_err() && read(&["web"]).unwrap().check_new().is_ok());
    }

    #[test]
    fn names_are_refused_in_mesos_words() {
        for (names, why) in [
            (&["web.1", "a.b"][..], "'ContainerID.value' 'a.b' contains"),
            (&["web.1", "a b"], "'ContainerID.value' 'a b' contains"),
            (&["web.1", ".."], "'..' is disallowed"),
            (&["web.1", ""], "ID must not be empty"),
            (&["..", "a"], "'ContainerID.parent' is invalid: '..' is"),
            (&["a/b", "a"], "'ContainerID.parent' is invalid: 'a/b' cont"),
            (
                &["web.1", "a.b", "c"],
                "'ContainerID.parent' is invalid: 'C",
            ),
            (
                &["a", "a", "a", "a", "a", "a", "a", "a", "a", "a"],
                "it is nested deeper",
            ),
        ] {
            let got = read(names).unwrap_err();
            assert!(got.starts_with(why), "{got}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        assert!(read(&["web.1", &long]).is_err());
        assert!(Id::read(None).is_err());
    }

    proptest! {
        /// No name leads anywhere but into its own directory.
        #[test]
        fn sandboxes_stay_below(names in prop::collection::vec(".{0,12}", 1..5)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if let Ok(id) = read(&names) {
                let sandbox = id.sandbox();
                let normal = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
                prop_assert!(sandbox.components().all(normal));
                prop_assert_eq!(sandbox.components().count(), 2 * (names.len() - 1));
                prop_assert_eq!(Id::read(Some(&id.message())), Ok(id));
            }
        }
    }
}
