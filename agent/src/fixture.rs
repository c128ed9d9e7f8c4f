//! What unit tests start from.

use waggle_types::{
    Command, ContainerSpec, DiscoveryInfo, FrameworkId, Millis, Resources, TaskId, TaskSpec,
};

/// A task that sleeps.
pub fn spec(task_id: &str) -> TaskSpec {
    TaskSpec {
        task_id: TaskId::new(task_id).unwrap(),
        framework_id: FrameworkId::new("f").unwrap(),
        framework_name: "f".to_owned(),
        role: "*".to_owned(),
        name: task_id.to_owned(),
        command: Command::Shell("sleep 1000".to_owned()),
        env: [].into(),
        labels: [].into(),
        resources: Resources::from_millis(100, 32_000, 0),
        parts: Vec::new(),
        ports: Vec::new(),
        discovery: DiscoveryInfo {
            name: task_id.to_owned(),
        },
        health_checks: Vec::new(),
        container: ContainerSpec::default(),
        kill_grace: Millis(1000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}
