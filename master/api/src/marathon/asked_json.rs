//! Secrets and residency of a spec as Marathon's JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waggle_types::Residency;

/// A variable: text, or the name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvJson {
    /// As it is.
    Text(String),
    /// One of `secrets`.
    Secret {
        /// Which.
        secret: String,
    },
}

/// `{"source": "/db/password"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretJson {
    /// Where nodes find it.
    pub source: String,
}

/// `residency`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's residency")]
pub struct ResidencyJson {
    pub relaunch_escalation_timeout_seconds: u64,
    pub task_lost_behavior: String,
}

impl From<Residency> for ResidencyJson {
    fn from(r: Residency) -> Self {
        Self {
            relaunch_escalation_timeout_seconds: r.relaunch_after.0 / 1000,
            task_lost_behavior: r.task_lost.name().into(),
        }
    }
}

/// An environment, of text and of secrets by name.
pub(super) fn env(
    plain: &BTreeMap<String, String>,
    secret: &BTreeMap<String, String>,
) -> BTreeMap<String, EnvJson> {
    let plain = plain.iter();
    let plain = plain.map(|(k, v)| (k.clone(), EnvJson::Text(v.clone())));
    let secret = secret.iter();
    let secret = secret.map(|(k, name)| {
        let secret = name.clone();
        (k.clone(), EnvJson::Secret { secret })
    });
    plain.chain(secret).collect()
}

/// `secrets`: where each is found.
pub(super) fn secrets(sources: &BTreeMap<String, String>) -> BTreeMap<String, SecretJson> {
    let one = |(name, source): (&String, &String)| {
        let source = source.clone();
        (name.clone(), SecretJson { source })
    };
    sources.iter().map(one).collect()
}
