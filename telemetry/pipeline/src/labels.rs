//! Resources: who a signal is about (semantic conventions 1.44.0, "Resource").

use std::fmt::Write as _;

use waggle_types::{AgentId, FrameworkId, TaskId};

use crate::{AttrValue, Attrs, decode::format_rfc3339};

/// Facts of the machine, read once by the shell; part of every resource made on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// `/etc/machine-id`; empty when it is unknown.
    pub id: String,
    /// Node name.
    pub name: String,
    /// `amd64`, `arm64`: the conventions' word for the CPU.
    pub arch: String,
    /// Kernel release.
    pub os_version: String,
}

impl HostFacts {
    fn push_to(&self, out: &mut Attrs) {
        push_text(out, "host.id", &self.id);
        push_text(out, "host.arch", &self.arch);
        out.push(("os.type", "linux".into()));
        push_text(out, "os.version", &self.os_version);
    }
}

/// Everything that identifies a task in its signals. Made once per task, when its process is known,
/// and never changed: all three signals carry the same resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLabels {
    /// Cluster name.
    pub cluster: String,
    /// The framework that launched it.
    pub framework_id: FrameworkId,
    /// The framework's name: `marathon`.
    pub framework: String,
    /// Role that its resources are allocated to.
    pub role: String,
    /// Its agent.
    pub agent_id: AgentId,
    /// Its node's name.
    pub hostname: String,
    /// The task.
    pub task_id: TaskId,
    /// The task's name: `cart.shop`.
    pub task_name: String,
    /// App path (`/shop/cart`), or empty for a task that belongs to no service.
    pub service: String,
    /// The app definition's version.
    pub service_version: String,
    /// Path of its cgroup below the cgroup2 mount; empty without one.
    pub cgroup_path: String,
    /// cgroup2 id, 0 without one.
    pub cgroup_id: u64,
    /// The task's first process, 0 when it is not known.
    pub pid: u32,
    /// When that process was created, Unix nanoseconds, 0 when it is not known.
    pub pid_start_ns: u64,
}

impl TaskLabels {
    /// `service.name`: `/shop/cart` is `shop.cart`; without a service, the task's name.
    pub fn service_name(&self) -> String {
        service_name(&self.service, &self.task_name)
    }

    /// `container.id`: 64 hex digits, a stable hash of the task id.
    pub fn container_id(&self) -> String {
        container_id(&self.task_id)
    }

    /// The identity part of the task's resource, sorted by key. The whole resource is
    /// [`Self::resource`].
    pub fn resource_attributes(&self) -> Attrs {
        let mut out: Attrs = vec![
            ("service.name", self.service_name().into()),
            ("service.namespace", self.framework.as_str().into()),
            ("service.instance.id", self.task_id.as_str().into()),
            ("container.id", self.container_id().into()),
            ("container.runtime.name", "waggle".into()),
            ("waggle.framework.id", self.framework_id.as_str().into()),
            ("waggle.agent.id", self.agent_id.as_str().into()),
            ("waggle.task.id", self.task_id.as_str().into()),
        ];
        push_text(&mut out, "service.version", &self.service_version);
        push_text(&mut out, "container.name", &self.task_name);
        push_text(&mut out, "host.name", &self.hostname);
        push_text(&mut out, "process.linux.cgroup", &self.cgroup_path);
        push_text(&mut out, "waggle.cluster.name", &self.cluster);
        push_text(&mut out, "waggle.role", &self.role);
        if self.cgroup_id != 0 {
            out.push(("waggle.cgroup.id", self.cgroup_id.into()));
        }
        // An identifying pair: both or none.
        if self.pid != 0 && self.pid_start_ns != 0 {
            out.push(("process.pid", self.pid.into()));
            let created = format_rfc3339(self.pid_start_ns);
            out.push(("process.creation.time", created.into()));
        }
        out.sort();
        out
    }

    /// The task's whole resource: identity, the machine, the producer. The only source of it for
    /// logs, metrics and spans.
    pub fn resource(&self, host: &HostFacts) -> Attrs {
        let mut out = self.resource_attributes();
        host.push_to(&mut out);
        push_sdk(&mut out);
        out.sort();
        out
    }
}

/// `service.name` of a task of an app path, or else of a name.
pub fn service_name(service: &str, task_name: &str) -> String {
    let path = service.trim_matches('/').replace('/', ".");
    if path.is_empty() {
        task_name.to_owned()
    } else {
        path
    }
}

/// The resource of one of Waggle's own components: `waggle-master`, `waggle-agent`.
pub fn component_resource(
    component: &str,
    version: &str,
    cluster: &str,
    instance: &str,
    host: &HostFacts,
) -> Attrs {
    let mut out: Attrs = vec![
        ("service.name", component.into()),
        ("service.namespace", "waggle".into()),
    ];
    push_text(&mut out, "service.instance.id", instance);
    push_text(&mut out, "service.version", version);
    push_text(&mut out, "host.name", &host.name);
    push_text(&mut out, "waggle.cluster.name", cluster);
    host.push_to(&mut out);
    push_sdk(&mut out);
    out.sort();
    out
}

fn push_sdk(out: &mut Attrs) {
    out.push(("telemetry.sdk.language", "rust".into()));
    out.push(("telemetry.sdk.name", "waggle".into()));
    let version = env!("CARGO_PKG_VERSION");
    out.push(("telemetry.sdk.version", version.into()));
}

fn push_text(out: &mut Attrs, key: &'static str, value: &str) {
    if !value.is_empty() {
        out.push((key, AttrValue::from(value)));
    }
}

/// Four FNV-1a lanes with different offsets, each finished by splitmix64: stable over versions and
/// machines, spread well enough for an id, and no secret depends on it.
fn container_id(task: &TaskId) -> String {
    let mut out = String::with_capacity(64);
    for lane in 0u64..4 {
        let mut h = 0xcbf2_9ce4_8422_2325_u64 ^ lane.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for b in task.as_str().bytes() {
            h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        h ^= h >> 31;
        let _ = write!(out, "{h:016x}");
    }
    out
}
