//! Frameworks as stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use waggle_types::{
    About, AttributeConstraint, Capabilities, FrameworkId, FrameworkInfo, Millis, Predicate,
    RoleSubscription, Selector, UnixMillis,
};

use super::{StoreOp, json, put, resources::StoredResources};
use crate::core::frameworks::Framework;

/// `role` alone is what versions with one role per framework wrote, and read.
#[derive(Serialize, Deserialize)]
struct StoredFramework {
    name: String,
    role: String,
    failover_timeout_ms: u64,
    since_ms: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<StoredRole>,
    #[serde(default)]
    gpus: bool,
    #[serde(default)]
    region_aware: bool,
    #[serde(default)]
    revocable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<StoredAbout>,
}

#[derive(Serialize, Deserialize)]
struct StoredAbout {
    title: String,
    user: String,
    principal: String,
    hostname: String,
    webui_url: String,
    checkpoint: bool,
    labels: BTreeMap<String, String>,
    capabilities: BTreeSet<String>,
}

impl From<&About> for StoredAbout {
    fn from(a: &About) -> Self {
        Self {
            title: a.title.clone(),
            user: a.user.clone(),
            principal: a.principal.clone(),
            hostname: a.hostname.clone(),
            webui_url: a.webui_url.clone(),
            checkpoint: a.checkpoint,
            labels: a.labels.clone(),
            capabilities: a.capabilities.clone(),
        }
    }
}

impl From<StoredAbout> for About {
    fn from(a: StoredAbout) -> Self {
        Self {
            title: a.title,
            user: a.user,
            principal: a.principal,
            hostname: a.hostname,
            webui_url: a.webui_url,
            checkpoint: a.checkpoint,
            labels: a.labels,
            capabilities: a.capabilities,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredRole {
    role: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    suppressed: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    constraints: Vec<Vec<StoredConstraint>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    smallest: Option<StoredResources>,
}

#[derive(Serialize, Deserialize)]
struct StoredConstraint {
    on: On,
    is: Is,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum On {
    Attribute(String),
    Hostname,
    Region,
    Zone,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Is {
    Exists,
    NotExists,
    TextEquals(String),
    TextNotEquals(String),
    TextMatches(String),
    TextNotMatches(String),
}

impl From<&AttributeConstraint> for StoredConstraint {
    fn from(c: &AttributeConstraint) -> Self {
        let on = match &c.selector {
            Selector::Attribute(name) => On::Attribute(name.clone()),
            Selector::Hostname => On::Hostname,
            Selector::Region => On::Region,
            Selector::Zone => On::Zone,
        };
        let is = match &c.predicate {
            Predicate::Exists => Is::Exists,
            Predicate::NotExists => Is::NotExists,
            Predicate::TextEquals(t) => Is::TextEquals(t.clone()),
            Predicate::TextNotEquals(t) => Is::TextNotEquals(t.clone()),
            Predicate::TextMatches(t) => Is::TextMatches(t.clone()),
            Predicate::TextNotMatches(t) => Is::TextNotMatches(t.clone()),
        };
        Self { on, is }
    }
}

impl From<StoredConstraint> for AttributeConstraint {
    fn from(c: StoredConstraint) -> Self {
        let selector = match c.on {
            On::Attribute(name) => Selector::Attribute(name),
            On::Hostname => Selector::Hostname,
            On::Region => Selector::Region,
            On::Zone => Selector::Zone,
        };
        let predicate = match c.is {
            Is::Exists => Predicate::Exists,
            Is::NotExists => Predicate::NotExists,
            Is::TextEquals(t) => Predicate::TextEquals(t),
            Is::TextNotEquals(t) => Predicate::TextNotEquals(t),
            Is::TextMatches(t) => Predicate::TextMatches(t),
            Is::TextNotMatches(t) => Predicate::TextNotMatches(t),
        };
        Self {
            selector,
            predicate,
        }
    }
}

impl From<&RoleSubscription> for StoredRole {
    fn from(r: &RoleSubscription) -> Self {
        let group = |g: &Vec<AttributeConstraint>| g.iter().map(Into::into).collect();
        Self {
            role: r.role.clone(),
            suppressed: r.suppressed,
            constraints: r.constraints.iter().map(group).collect(),
            smallest: r.smallest.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<StoredRole> for RoleSubscription {
    type Error = String;

    fn try_from(r: StoredRole) -> Result<Self, String> {
        let group = |g: Vec<StoredConstraint>| g.into_iter().map(Into::into).collect();
        Ok(Self {
            role: r.role,
            suppressed: r.suppressed,
            constraints: r.constraints.into_iter().map(group).collect(),
            smallest: r.smallest.map(TryInto::try_into).transpose()?,
        })
    }
}

/// The value of a framework: what it subscribed with, and since when it is registered.
pub(in crate::core) fn framework_value(info: &FrameworkInfo, since: UnixMillis) -> Vec<u8> {
    let first = info.roles.first().map_or("*", |r| r.role.as_str());
    json(&StoredFramework {
        name: info.name.clone(),
        role: first.to_owned(),
        failover_timeout_ms: info.failover_timeout.0,
        since_ms: since.0,
        roles: info.roles.iter().map(Into::into).collect(),
        gpus: info.capabilities.gpus,
        region_aware: info.capabilities.region_aware,
        revocable: info.capabilities.revocable,
        about: (*info.about != About::default()).then(|| info.about.as_ref().into()),
    })
}

pub(in crate::core) fn put_framework(id: &FrameworkId, value: Vec<u8>) -> StoreOp {
    put(format!("frameworks/{id}"), value)
}

pub(super) fn read_framework(id: &FrameworkId, text: &str) -> Result<Framework, String> {
    let f: StoredFramework = serde_json::from_str(text).map_err(|x| x.to_string())?;
    let mut roles = Vec::new();
    for r in f.roles {
        roles.push(RoleSubscription::try_from(r)?);
    }
    if roles.is_empty() {
        roles.push(RoleSubscription::new(f.role));
    }
    let info = FrameworkInfo {
        id: Some(id.clone()),
        name: f.name,
        roles,
        capabilities: Capabilities {
            gpus: f.gpus,
            region_aware: f.region_aware,
            revocable: f.revocable,
        },
        failover_timeout: Millis(f.failover_timeout_ms),
        about: Arc::new(f.about.map(Into::into).unwrap_or_default()),
    };
    Ok(Framework::new(info, UnixMillis(f.since_ms)))
}

pub(in crate::core) fn delete_framework(id: &FrameworkId) -> StoreOp {
    StoreOp::Delete {
        key: format!("frameworks/{id}"),
    }
}

pub(in crate::core) fn put_removed(id: &FrameworkId) -> StoreOp {
    put(format!("removed_frameworks/{id}"), "")
}

pub(in crate::core) fn delete_removed(id: &FrameworkId) -> StoreOp {
    StoreOp::Delete {
        key: format!("removed_frameworks/{id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frameworks_of_every_version_are_read() {
        let id = FrameworkId::new("f").unwrap();
        let old = r#"{"name":"batch","role":"eng","failover_timeout_ms":5,"since_ms":7}"#;
        let f = read_framework(&id, old).unwrap();
        assert_eq!(f.info.roles, [RoleSubscription::new("eng")]);
        assert_eq!(f.info.capabilities, Capabilities::default());

        let constraint = |selector, predicate| AttributeConstraint {
            selector,
            predicate,
        };
        let t = || "x".to_owned();
        let mut info = FrameworkInfo::new("batch", "a");
        info.id = Some(id.clone());
        info.capabilities.revocable = true;
        info.roles.push(RoleSubscription {
            role: "b".into(),
            suppressed: true,
            constraints: vec![
                vec![
                    constraint(Selector::Attribute(t()), Predicate::TextEquals(t())),
                    constraint(Selector::Hostname, Predicate::Exists),
                    constraint(Selector::Region, Predicate::NotExists),
                ],
                vec![
                    constraint(Selector::Zone, Predicate::TextNotEquals(t())),
                    constraint(Selector::Zone, Predicate::TextMatches(t())),
                    constraint(Selector::Zone, Predicate::TextNotMatches(t())),
                ],
            ],
            smallest: Some(waggle_types::Resources::from_millis(100, 0, 0)),
        });
        let value = framework_value(&info, UnixMillis(9));
        let text = std::str::from_utf8(&value).unwrap();
        let back = read_framework(&id, text).unwrap();
        assert_eq!((back.info, back.registered_at), (info, UnixMillis(9)));
    }
}
