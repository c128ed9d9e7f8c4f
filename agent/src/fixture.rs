//! What unit tests start from.

use waggle_telemetry_pipeline::TaskLabels;
use waggle_types::{
    AgentId, Command, ContainerSpec, DiscoveryInfo, FrameworkId, Millis, Resources, TaskId,
    TaskSpec,
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

/// Who a task is in its signals.
pub fn labels(task_id: &str) -> TaskLabels {
    TaskLabels {
        cluster: "test".into(),
        framework_id: FrameworkId::new("f-1").unwrap(),
        framework: "marathon".into(),
        role: "*".into(),
        agent_id: AgentId::new("a-1").unwrap(),
        hostname: "n1".into(),
        task_id: TaskId::new(task_id).unwrap(),
        task_name: "web".into(),
        service: "/web".into(),
        service_version: "v1".into(),
        cgroup_path: String::new(),
        cgroup_id: 0,
        pid: 1,
        pid_start_ns: 1,
    }
}
