//! What frameworks have in common: when to try again, and a task's plain parts.

use std::{collections::BTreeMap, time::Duration};

use waggle_api::client::CallError;
use waggle_types::{
    Command, DiscoveryInfo, FrameworkId, Millis, RejectReason, Resources, TaskId, TaskSpec,
};

/// Between two tries to reach the master.
pub const PAUSE: Duration = Duration::from_millis(200);

/// Refusals that trying again does not mend.
pub fn is_final(e: &CallError) -> bool {
    let last = match e {
        CallError::Closed(r) => Some(r),
        CallError::Rejected(all) => all.first(),
        _ => return false,
    };
    !last.is_some_and(|r| {
        matches!(
            r.reason,
            RejectReason::NotSubscribed
                | RejectReason::StaleOffer
                | RejectReason::TooSlow
                | RejectReason::AgentDisconnected
        )
    })
}

/// A stream that ends without a word is a lost connection.
pub fn lost() -> CallError {
    tonic::Status::unavailable("the stream ended").into()
}

/// A task that runs a shell command. Whose it is and its role are the master's to set.
pub fn task(
    framework_id: &FrameworkId,
    task_id: TaskId,
    shell: &str,
    resources: Resources,
) -> TaskSpec {
    let name = task_id.to_string();
    TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id,
        framework_id: framework_id.clone(),
        framework_name: String::new(),
        role: String::new(),
        name: name.clone(),
        command: Command::Shell(shell.to_owned()),
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources,
        parts: Vec::new(),
        ports: Vec::new(),
        discovery: DiscoveryInfo { name },
        health_checks: Vec::new(),
        kill_grace: Millis::from_secs(3),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}
