//! Network policies as stored: `policies/<name>`, in the JSON that operators write.

use waggle_api::native::{policy_from_text, policy_text};
use waggle_types::NetworkPolicy;

use super::{StoreOp, put};

fn key(name: &str) -> String {
    format!("policies/{name}")
}

pub(in crate::core) fn put_policy(policy: &NetworkPolicy) -> StoreOp {
    put(key(&policy.name), policy_text(policy))
}

pub(in crate::core) fn delete_policy(name: &str) -> StoreOp {
    StoreOp::Delete { key: key(name) }
}

pub(super) fn read_policy(text: &str) -> Result<NetworkPolicy, String> {
    policy_from_text(text).map_err(|e| e.to_string())
}
