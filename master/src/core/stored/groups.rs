//! Groups and what was before each deployment, in the store.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waggle_services::GroupDependencies;
use waggle_types::{GroupId, ServiceId, ServiceVersion, UnixMillis};

use super::{
    super::history::Record,
    deployments::{dependency_texts, read_dependencies},
    json, put,
};
use crate::store::StoreOp;

#[derive(Serialize, Deserialize)]
struct StoredRecord {
    before_ms: u64,
    /// Versions before it; null for what was not there.
    services: BTreeMap<String, Option<u64>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, Option<BTreeSet<String>>>,
}

/// `groups/` is the root's.
fn group_key(id: &GroupId) -> String {
    format!("groups{id}")
}

pub(in crate::core) fn put_group(
    id: &GroupId,
    dependencies: Option<&BTreeSet<ServiceId>>,
) -> StoreOp {
    let key = group_key(id);
    match dependencies {
        Some(ids) => put(key, json(&dependency_texts(ids))),
        None => StoreOp::Delete { key },
    }
}

pub(super) fn read_group(
    rest: &str,
    text: &str,
    groups: &mut GroupDependencies,
) -> Result<(), String> {
    let id = GroupId::new(rest).map_err(|x| x.to_string())?;
    let ids: BTreeSet<String> = serde_json::from_str(text).map_err(|x| x.to_string())?;
    groups.insert(id, read_dependencies(&ids)?);
    Ok(())
}

fn record_key(version: ServiceVersion) -> String {
    format!("history/{:020}", version.0.0)
}

pub(in crate::core) fn put_record(r: &Record) -> StoreOp {
    let services = r.services.iter();
    let groups = r.groups.iter();
    let stored = StoredRecord {
        before_ms: r.before.0.0,
        services: services
            .map(|(id, v)| (id.to_string(), v.map(|v| v.0.0)))
            .collect(),
        groups: groups
            .map(|(id, d)| (id.to_string(), d.as_ref().map(dependency_texts)))
            .collect(),
    };
    put(record_key(r.version), json(&stored))
}

pub(in crate::core) fn delete_record(version: ServiceVersion) -> StoreOp {
    StoreOp::Delete {
        key: record_key(version),
    }
}

pub(super) fn read_record(rest: &str, text: &str) -> Result<Record, String> {
    let version = |ms: u64| ServiceVersion(UnixMillis(ms));
    let ms: u64 = rest
        .parse()
        .map_err(|x: std::num::ParseIntError| x.to_string())?;
    let s: StoredRecord = serde_json::from_str(text).map_err(|x| x.to_string())?;
    let mut record = Record {
        version: version(ms),
        before: version(s.before_ms),
        services: BTreeMap::new(),
        groups: BTreeMap::new(),
    };
    for (id, ms) in s.services {
        let id = ServiceId::new(&id).map_err(|x| x.to_string())?;
        record.services.insert(id, ms.map(version));
    }
    for (id, ids) in s.groups {
        let id = GroupId::new(&id).map_err(|x| x.to_string())?;
        let ids = ids.as_ref().map(read_dependencies).transpose()?;
        record.groups.insert(id, ids);
    }
    Ok(record)
}
