//! Where instances may run, in whose resources, and which of them end first: what a service asks for beside
//! its constraints.

use std::collections::{BTreeMap, BTreeSet};

use crate::{FieldError, Milli, Millis, ServiceId, VolumeId};

/// Most services that one label names.
const MAX_NAMED: usize = 16;

/// Role that resident services reserve for when they name none; `*` cannot be reserved for.
pub const RESIDENT_ROLE: &str = "marathon";

/// Which instances end first when there are more than are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum KillSelection {
    /// Those that were launched last.
    #[default]
    YoungestFirst,
    /// Those that were launched first.
    OldestFirst,
}

impl KillSelection {
    /// Marathon's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::YoungestFirst => "YOUNGEST_FIRST",
            Self::OldestFirst => "OLDEST_FIRST",
        }
    }
}

/// For which role a service runs, and of whose resources it takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceRoles {
    /// The role that its offers are made to, where it names one.
    pub role: Option<String>,
    /// `*` for what nobody reserved, a role for what is reserved for it; empty: both.
    pub accepted: BTreeSet<String>,
}

impl ServiceRoles {
    /// The role that it is offered resources for: the one that it names, or the one whose reserved resources it
    /// accepts (definitions from before Marathon 1.9 say no more), or `*`; [`RESIDENT_ROLE`] for resident services.
    pub fn effective(&self, resident: bool) -> &str {
        let accepted = || self.accepted.iter().find(|r| *r != "*");
        match self.role.as_ref().filter(|r| *r != "*").or_else(accepted) {
            Some(role) => role,
            None if resident => RESIDENT_ROLE,
            None => "*",
        }
    }

    /// Whether what nobody reserved will do.
    pub fn takes_unreserved(&self) -> bool {
        self.accepted.is_empty() || self.accepted.contains("*")
    }

    /// Whether what is reserved for its role will do.
    pub fn takes_reserved(&self) -> bool {
        self.accepted.is_empty() || self.accepted.iter().any(|r| r != "*")
    }
}

/// What becomes of a resident instance whose agent is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TaskLost {
    /// It is waited for: its data is there and nowhere else.
    #[default]
    WaitForever,
    /// After the relaunch time-out a new one begins elsewhere, with empty volumes.
    RelaunchAfterTimeout,
}

impl TaskLost {
    /// Marathon's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WaitForever => "WAIT_FOREVER",
            Self::RelaunchAfterTimeout => "RELAUNCH_AFTER_TIMEOUT",
        }
    }
}

/// Instances keep their place, with what they reserved there and their volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Residency {
    /// How long an instance may wait for its own place before a new one begins elsewhere, if it may at all.
    pub relaunch_after: Millis,
    /// What happens when that place is out of reach.
    pub task_lost: TaskLost,
}

impl Default for Residency {
    fn default() -> Self {
        Self {
            relaunch_after: Millis::from_secs(3600),
            task_lost: TaskLost::WaitForever,
        }
    }
}

/// A volume that each instance has of its own, and that outlives its tasks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistentVolume {
    /// Where it is mounted, relative to the sandbox.
    pub target: String,
    /// How large, in MiB.
    pub size: Milli,
    /// On which of the node's disks; `None`: that of its work directory.
    pub disk: Option<String>,
    /// Whether it can't be written.
    pub read_only: bool,
}

impl PersistentVolume {
    /// Marathon's id of an instance's volume, `<app>#<path>#<uuid>` with `_` for `/`, and the disk behind an `@`.
    pub fn id(&self, service: &ServiceId, uuid: &str) -> Option<VolumeId> {
        let path = self.name();
        let name: String = service.joined("_").chars().take(96).collect();
        let disk = self
            .disk
            .as_ref()
            .map_or(String::new(), |d| format!("@{d}"));
        VolumeId::new(format!("{name}.{path}.{uuid}{disk}")).ok()
    }

    /// The id of it that belongs to an instance, `shop_db.instance-<uuid>`.
    pub fn id_of(&self, service: &ServiceId, instance: &str) -> Option<VolumeId> {
        self.id(service, Self::uuid(instance))
    }

    /// What of an instance's id its volumes' ids hold.
    pub fn uuid(instance: &str) -> &str {
        let parts = instance.rsplit_once(".instance-");
        parts.map_or(instance, |(_, uuid)| uuid)
    }

    /// What of an instance's volume's id says which of its volumes it is: no two of a service may have the same.
    pub fn name(&self) -> String {
        let readable = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        self.target.chars().map(readable).take(48).collect()
    }
}

/// A secret that becomes a file in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretFile {
    /// Where, relative to the sandbox or absolute inside of an image.
    pub target: String,
    /// Which of the service's secrets.
    pub secret: String,
}

/// Secrets by reference: their values are known to nodes alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Secrets {
    /// Where each is found, by the name that the definition gives it.
    pub sources: BTreeMap<String, String>,
    /// Which become environment variables.
    pub env: BTreeMap<String, String>,
    /// Which become files.
    pub files: Vec<SecretFile>,
}

impl Secrets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Names of those whose values a task needs.
    pub fn used(&self) -> BTreeSet<&str> {
        let files = self.files.iter().map(|f| f.secret.as_str());
        self.env.values().map(String::as_str).chain(files).collect()
    }
}

/// How instances are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Spread {
    /// Over regions, zones, then nodes, as evenly as offers allow.
    #[default]
    Even,
    /// Onto the fullest nodes that have room, so that others stay empty.
    Pack,
}

/// What the `WAGGLE_PLACE_` labels of a service ask for, an addition to Marathon's constraints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Placement {
    /// `WAGGLE_PLACE`: `spread` or `pack`.
    pub spread: Spread,
    /// `WAGGLE_PLACE_WITH`: only on nodes where each of these services runs.
    pub with: BTreeSet<ServiceId>,
    /// `WAGGLE_PLACE_APART`: not on nodes where one of these services runs.
    pub apart: BTreeSet<ServiceId>,
}

impl Placement {
    /// Reads the labels of a service; every label that is wrong is named.
    pub fn from_labels(
        field: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<FieldError>> {
        let mut wrong = Vec::new();
        let spread = match labels.get("WAGGLE_PLACE").map(String::as_str) {
            None | Some("spread") => Spread::Even,
            Some("pack") => Spread::Pack,
            Some(other) => {
                let rule = format!("must be spread or pack, is {other:.40?}");
                wrong.push(FieldError::new(format!("{field}.WAGGLE_PLACE"), rule));
                Spread::Even
            }
        };
        let mut named = |key: &str| {
            let of = services(labels.get(key).map_or("", String::as_str));
            of.unwrap_or_else(|rule| {
                wrong.push(FieldError::new(format!("{field}.{key}"), rule));
                BTreeSet::new()
            })
        };
        let (with, apart) = (named("WAGGLE_PLACE_WITH"), named("WAGGLE_PLACE_APART"));
        if let Some(both) = with.intersection(&apart).next() {
            let rule = format!("must not name {both}, as WAGGLE_PLACE_WITH does");
            wrong.push(FieldError::new(format!("{field}.WAGGLE_PLACE_APART"), rule));
        }
        if wrong.is_empty() {
            Ok(Self {
                spread,
                with,
                apart,
            })
        } else {
            Err(wrong)
        }
    }
}

fn services(text: &str) -> Result<BTreeSet<ServiceId>, String> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    let ids: Result<BTreeSet<ServiceId>, _> = parts
        .map(|p| ServiceId::new(p).map_err(|e| e.to_string()))
        .collect();
    let ids = ids?;
    if ids.len() > MAX_NAMED {
        return Err(format!(
            "must be at most {MAX_NAMED} services, is {}",
            ids.len()
        ));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &[(&str, &str)]) -> Result<Placement, Vec<FieldError>> {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Placement::from_labels("labels", &labels)
    }

    #[test]
    fn labels_say_where_instances_go() {
        assert_eq!(read(&[("team", "a")]), Ok(Placement::default()));
        let p = read(&[
            ("WAGGLE_PLACE", "pack"),
            ("WAGGLE_PLACE_WITH", "/db, cache"),
            ("WAGGLE_PLACE_APART", "/batch"),
        ])
        .unwrap();
        assert_eq!(p.spread, Spread::Pack);
        let ids: Vec<&str> = p.with.iter().map(ServiceId::as_str).collect();
        assert_eq!(ids, ["/cache", "/db"]);
        let wrong = read(&[
            ("WAGGLE_PLACE", "tight"),
            ("WAGGLE_PLACE_WITH", "/a"),
            ("WAGGLE_PLACE_APART", "/a"),
        ])
        .unwrap_err();
        let fields: Vec<&str> = wrong.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["labels.WAGGLE_PLACE", "labels.WAGGLE_PLACE_APART"]);
        assert_eq!(
            read(&[("WAGGLE_PLACE_WITH", "/A")]).unwrap_err()[0].field,
            "labels.WAGGLE_PLACE_WITH"
        );
    }

    #[test]
    fn the_role_is_the_one_named_or_the_one_accepted() {
        let roles = |role: Option<&str>, accepted: &[&str]| ServiceRoles {
            role: role.map(Into::into),
            accepted: accepted.iter().map(|r| (*r).to_owned()).collect(),
        };
        assert_eq!(roles(None, &[]).effective(false), "*");
        assert_eq!(roles(None, &["*"]).effective(true), RESIDENT_ROLE);
        assert_eq!(
            roles(None, &["slave_public"]).effective(false),
            "slave_public"
        );
        assert_eq!(roles(Some("dev"), &["*"]).effective(true), "dev");
        assert!(roles(Some("dev"), &[]).takes_reserved());
        assert!(!roles(Some("dev"), &["*"]).takes_reserved());
        assert!(!roles(Some("dev"), &["dev"]).takes_unreserved());
    }
}
