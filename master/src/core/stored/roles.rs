//! Weights and quota of roles as stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waggle_types::{Milli, Quota};

use super::{StoreOp, json, put};

/// In thousandths, by kind.
#[derive(Serialize, Deserialize)]
struct StoredQuota {
    #[serde(default)]
    guarantee: BTreeMap<String, i64>,
    #[serde(default)]
    limit: BTreeMap<String, i64>,
}

/// The default weight is stored as nothing.
pub(in crate::core) fn put_weight(role: &str, weight_milli: u32) -> StoreOp {
    let key = format!("weights/{role}");
    if weight_milli == super::DEFAULT_WEIGHT {
        return StoreOp::Delete { key };
    }
    put(key, weight_milli.to_string())
}

pub(super) fn read_weight(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|x: std::num::ParseIntError| x.to_string())
}

/// An empty quota is stored as nothing.
pub(in crate::core) fn put_quota(role: &str, quota: &Quota) -> StoreOp {
    let key = format!("quota/{role}");
    if quota.is_empty() {
        return StoreOp::Delete { key };
    }
    let millis = |m: &BTreeMap<String, Milli>| m.iter().map(|(k, q)| (k.clone(), q.0)).collect();
    let stored = StoredQuota {
        guarantee: millis(&quota.guarantee),
        limit: millis(&quota.limit),
    };
    put(key, json(&stored))
}

pub(super) fn read_quota(text: &str) -> Result<Quota, String> {
    let q: StoredQuota = serde_json::from_str(text).map_err(|x| x.to_string())?;
    let millis = |m: BTreeMap<String, i64>| m.into_iter().map(|(k, q)| (k, Milli(q))).collect();
    Ok(Quota {
        guarantee: millis(q.guarantee),
        limit: millis(q.limit),
    })
}
