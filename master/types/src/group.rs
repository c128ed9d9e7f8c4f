//! Groups of services: folders of Marathon's tree of ids.

use std::{borrow::Borrow, collections::BTreeSet, fmt};

use crate::{IdError, ServiceId, ServiceSpec};

/// A group's id: `/` is the root, every other one a path as a [`ServiceId`]'s.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(String);

impl GroupId {
    /// The group that holds everything.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Parses a path; a missing leading `/` is added, repeated and trailing ones are removed.
    pub fn new(s: &str) -> Result<Self, IdError> {
        if s.split('/').all(str::is_empty) {
            return Ok(Self::root());
        }
        ServiceId::new(s).map(|id| Self(id.as_str().to_owned()))
    }

    /// The group that holds a service directly.
    pub fn of(service: &ServiceId) -> Self {
        Self(parent(service.as_str()).to_owned())
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The absolute path: `/shop`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the paths of all that it holds begin with: `/shop/`.
    pub fn prefix(&self) -> String {
        if self.is_root() {
            "/".to_owned()
        } else {
            format!("{}/", self.0)
        }
    }

    /// Whether the path of a service or group is below it, directly or not; not its own.
    pub fn holds(&self, path: &str) -> bool {
        path.len() > 1
            && (self.is_root()
                || path
                    .strip_prefix(self.as_str())
                    .is_some_and(|rest| rest.starts_with('/')))
    }

    /// The group that holds it directly; none of the root.
    pub fn parent(&self) -> Option<Self> {
        (!self.is_root()).then(|| Self(parent(&self.0).to_owned()))
    }

    /// The group directly below this one that holds a path, or is it; `None` for what is not below it.
    pub fn child_towards(&self, path: &str) -> Option<Self> {
        if !self.holds(path) {
            return None;
        }
        let from = self.prefix().len();
        let end = path[from..].find('/').map_or(path.len(), |at| from + at);
        Some(Self(path[..end].to_owned()))
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(at) if at > 0 => &path[..at],
        _ => "/",
    }
}

impl Borrow<str> for GroupId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({})", self.0)
    }
}

/// A group as it is wanted. What is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupUpdate {
    /// Which.
    pub id: GroupId,
    /// The apps that it holds directly; others that it holds so are removed.
    pub services: Option<Vec<ServiceSpec>>,
    /// Pods that it holds directly. Others stay: what ends pods is their own removal, or that of their group.
    pub pods: Vec<ServiceSpec>,
    /// The groups that it holds directly; others that it holds so are removed with all that is in them.
    pub groups: Option<Vec<GroupUpdate>>,
    /// What all of its services depend on.
    pub dependencies: Option<BTreeSet<ServiceId>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_what_is_below_them() {
        let root = GroupId::root();
        let shop = GroupId::new("shop/").unwrap();
        assert_eq!(GroupId::new("//").unwrap(), root);
        assert_eq!((shop.as_str(), shop.prefix()), ("/shop", "/shop/".into()));
        for (group, path, holds) in [
            (&root, "/", false),
            (&root, "/a", true),
            (&shop, "/shop", false),
            (&shop, "/shop/cart", true),
            (&shop, "/shop/eu/cart", true),
            (&shop, "/shop-2/cart", false),
            (&shop, "/shopping", false),
        ] {
            assert_eq!(group.holds(path), holds, "{group} {path}");
        }
        let eu = GroupId::new("/shop/eu").unwrap();
        assert_eq!(shop.child_towards("/shop/eu/cart"), Some(eu.clone()));
        assert_eq!(shop.child_towards("/shop/eu"), Some(eu.clone()));
        assert_eq!(root.child_towards("/shop/eu"), Some(shop.clone()));
        assert_eq!(shop.child_towards("/x"), None);
        assert_eq!(eu.parent(), Some(shop.clone()));
        assert_eq!(shop.parent(), Some(root.clone()));
        assert_eq!(root.parent(), None);
        let cart = ServiceId::new("/shop/cart").unwrap();
        assert_eq!(GroupId::of(&cart), shop);
        assert_eq!(GroupId::of(&ServiceId::new("/cart").unwrap()), root);
    }
}
