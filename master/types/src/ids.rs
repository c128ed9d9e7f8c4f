//! Typed ids: never a bare `String` where an id is meant.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Ids are never empty.
    #[error("must not be empty")]
    Empty,
    /// Ids are bounded, since they become file names and map keys.
    #[error("must be at most {max} characters, is {len}")]
    TooLong {
        /// Longest allowed length, in bytes.
        max: usize,
        /// Length found, in bytes.
        len: usize,
    },
    /// Ids become path components: no `/`, no control characters, not `.` or `..`.
    #[error("must not hold {found:?}")]
    BadCharacter {
        /// The first offending text.
        found: String,
    },
    /// Metronome's rule for job ids.
    #[error("must be lower-case labels ([a-z0-9] with inner -) joined by dots, is {found:?}")]
    BadJob {
        /// The id as given.
        found: String,
    },
    /// Marathon's rule for service ids.
    #[error(
        "must be a path of lower-case labels ([a-z0-9] with inner - or .) joined by /, is {found:?}"
    )]
    BadPath {
        /// The id as given.
        found: String,
    },
}

/// Longest id, in bytes: with a suffix it still fits a file name.
const MAX_ID: usize = 200;

fn check_component(s: &str) -> Result<(), IdError> {
    if s.is_empty() {
        return Err(IdError::Empty);
    }
    if s.len() > MAX_ID {
        return Err(IdError::TooLong {
            max: MAX_ID,
            len: s.len(),
        });
    }
    if s == "." || s == ".." {
        return Err(IdError::BadCharacter {
            found: s.to_owned(),
        });
    }
    match s
        .chars()
        .find(|c| *c == '/' || *c == '\\' || c.is_control() || c.is_whitespace())
    {
        Some(c) => Err(IdError::BadCharacter {
            found: c.to_string(),
        }),
        None => Ok(()),
    }
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Cheap to clone: copies share the text.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a string that is safe as a file name and a map key.
            pub fn new(s: impl Into<String>) -> Result<Self, IdError> {
                let s = s.into();
                check_component(&s)?;
                Ok(Self(s.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// An agent, stable over restarts of its process (it is stored in the agent's work directory).
    AgentId
);
string_id!(
    /// A framework: a client that receives offers.
    FrameworkId
);
string_id!(
    /// A task of a framework.
    TaskId
);
string_id!(
    /// An executor of a framework, unique on its agent.
    ExecutorId
);
string_id!(
    /// An offer of one agent's resources to one framework.
    OfferId
);
string_id!(
    /// A persistent volume, unique on its agent.
    VolumeId
);
impl VolumeId {
    /// The disk of its own that a volume is on: `db@fast` is on `fast` and made of `disk.fast`; a volume without such an
    /// ending is on the disk of the agent's work directory and made of `disk`.
    pub fn disk(&self) -> Option<&str> {
        let (_, disk) = self.as_str().rsplit_once('@')?;
        let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (!disk.is_empty() && disk.len() <= 32 && disk.chars().all(of)).then_some(disk)
    }

    /// The kind of resource that a volume on a disk of its own is made of: `disk.fast`.
    pub fn kind(&self) -> Option<String> {
        self.disk().map(|disk| format!("disk.{disk}"))
    }
}

string_id!(
    /// A deployment of the service framework.
    DeploymentId
);
string_id!(
    /// A run of a job: `20160715130259A34HX`, when it was made and five characters to tell it apart.
    RunId
);

/// A service's id: a Marathon path such as `/shop/cart`, always absolute.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(String);

impl ServiceId {
    /// Parses a Marathon id; a missing leading `/` is added, repeated and trailing `/` are removed.
    pub fn new(s: &str) -> Result<Self, IdError> {
        let labels: Vec<&str> = s.split('/').filter(|l| !l.is_empty()).collect();
        if labels.is_empty() {
            return Err(IdError::Empty);
        }
        let path = format!("/{}", labels.join("/"));
        if path.len() > MAX_ID {
            return Err(IdError::TooLong {
                max: MAX_ID,
                len: path.len(),
            });
        }
        if labels.iter().all(|l| is_label(l)) {
            Ok(Self(path))
        } else {
            Err(IdError::BadPath {
                found: s.to_owned(),
            })
        }
    }

    /// The absolute path: `/shop/cart`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Labels joined by `sep`, without the leading slash: `shop.cart`.
    pub fn joined(&self, sep: &str) -> String {
        self.0[1..].replace('/', sep)
    }

    /// Labels in reverse, joined by dots: `/shop/cart` is `cart.shop`, Marathon's discovery name.
    pub fn discovery_name(&self) -> String {
        self.0[1..].rsplit('/').collect::<Vec<_>>().join(".")
    }
}

/// Marathon: lower-case letters, digits, inner `-`, inner `.` (several labels in one).
fn is_label(l: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    l.chars().all(inner)
        && l.starts_with(|c: char| c.is_ascii_alphanumeric())
        && l.ends_with(|c: char| c.is_ascii_alphanumeric())
}

impl Borrow<str> for ServiceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceId({})", self.0)
    }
}

/// Identity of one status update; an acknowledgement names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StatusUuid(pub [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_ids_are_normalized() {
        for (given, want) in [
            ("web", "/web"),
            ("/web/", "/web"),
            ("//shop//cart", "/shop/cart"),
            ("/a.b", "/a.b"),
        ] {
            assert_eq!(ServiceId::new(given).unwrap().as_str(), want);
        }
        assert_eq!(
            ServiceId::new("/shop/cart").unwrap().discovery_name(),
            "cart.shop"
        );
    }

    #[test]
    fn a_volume_says_where_it_is() {
        for (id, disk) in [
            ("db", None),
            ("db@fast", Some("fast")),
            ("a@b@hdd-2", Some("hdd-2")),
            ("db@", None),
            ("me@Example", None),
        ] {
            assert_eq!(VolumeId::new(id).unwrap().disk(), disk, "{id}");
        }
    }

    #[test]
    fn bad_ids_are_refused() {
        for bad in ["", "/", "/Web", "/a_b", "/a b", "/-a", "/a-", "/a/../b"] {
            assert!(ServiceId::new(bad).is_err(), "{bad}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\n"] {
            assert!(TaskId::new(bad).is_err(), "{bad}");
        }
    }
}
