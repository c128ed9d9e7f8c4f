//! Mesos: its v1 scheduler API (the modules below), and its operator JSON: `/version`, `/state`, `/state-summary`,
//! `/slaves`, `/frameworks`, `/tasks`.
//!
//! Names are Mesos's (`master/http.cpp`, CONTRACTS.md section 1.6); what clients index is always there.

mod checks;
mod container;
pub mod discovery;
pub mod duration;
pub mod event;
mod executor;
pub mod framework;
pub mod json;
pub mod jsonp;
mod media;
#[cfg(test)]
mod numbers;
pub mod operation;
pub mod recordio;
pub mod resources;
pub mod streaming;
pub mod task;
#[cfg(test)]
mod wild;

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use waggle_types::{Custom, Milli, Resources, ScalarKind, TaskState, UnixMillis};

use crate::marathon::Number;
pub use media::{Media, MediaError};

/// The Mesos release whose API this follows. Numeric only, since clients run `int()` over the parts, and
/// at least 1.0.0, below which pymesos drops `GPU_RESOURCES`.
pub const MESOS_VERSION: &str = "1.11.0";

/// `/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// [`MESOS_VERSION`].
    pub version: String,
    /// The release of Waggle, numeric only as well.
    pub waggle_version: String,
}

impl Version {
    /// The answer of every component; `waggle_version` loses any suffix that is not a number.
    pub fn new(waggle_version: &str) -> Self {
        Self {
            version: MESOS_VERSION.into(),
            waggle_version: numeric(waggle_version),
        }
    }
}

/// `1.2.0-dev` becomes `1.2.0`.
fn numeric(version: &str) -> String {
    let end = version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(version.len());
    version[..end].trim_end_matches('.').to_owned()
}

/// Resources as `/state` shows them: scalars by name, ports, ranges and sets as text. Volumes are disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Mesos's resources")]
pub struct ResourcesJson {
    pub cpus: Number,
    pub mem: Number,
    pub disk: Number,
    pub gpus: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Custom kinds by name.
    #[serde(flatten)]
    pub custom: BTreeMap<String, CustomJson>,
}

/// How much of a custom kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CustomJson {
    /// A scalar.
    Scalar(Number),
    /// Ranges `[1-4, 7-9]` or a set `{a, b}`.
    Text(String),
}

impl From<&Resources> for ResourcesJson {
    fn from(r: &Resources) -> Self {
        let scalar = |kind| Number(r.get(kind).to_f64());
        let volumes = r.custom.volumes();
        let disk = volumes.fold(r.get(ScalarKind::Disk).0, |sum, (_, v)| {
            sum.saturating_add(v.size.0)
        });
        Self {
            cpus: scalar(ScalarKind::Cpus),
            mem: scalar(ScalarKind::Mem),
            disk: Number(Milli(disk).to_f64()),
            gpus: scalar(ScalarKind::Gpus),
            ports: (!r.ports.is_empty()).then(|| r.ports.to_string()),
            custom: custom(&r.custom),
        }
    }
}

fn custom(c: &Custom) -> BTreeMap<String, CustomJson> {
    let scalars = c
        .scalars()
        .map(|(name, q)| (name.to_owned(), CustomJson::Scalar(Number(q.to_f64()))));
    let ranges = c
        .ranges()
        .map(|(name, r)| (name.to_owned(), CustomJson::Text(r.to_string())));
    let sets = c.sets().map(|(name, s)| {
        let items: Vec<&str> = s.iter().map(String::as_str).collect();
        let text = format!("{{{}}}", items.join(", "));
        (name.to_owned(), CustomJson::Text(text))
    });
    scalars.chain(ranges).chain(sets).collect()
}

/// Milliseconds as Mesos's double of seconds.
pub fn seconds(at: UnixMillis) -> f64 {
    at.0 as f64 / 1000.0
}

/// `/state` of a master, but its lists `slaves`, `frameworks` and `completed_frameworks`, which are long and written piece by
/// piece. Names are those of the view that it is made of: large clusters have many.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's state")]
pub struct State<'a> {
    pub version: &'a str,
    pub id: &'a str,
    pub pid: String,
    pub hostname: &'a str,
    pub cluster: &'a str,
    pub start_time: f64,
    pub elected_time: f64,
    pub leader: String,
    pub leader_info: Option<LeaderInfo<'a>>,
    pub activated_slaves: u64,
    pub deactivated_slaves: u64,
    pub unreachable_slaves: u64,
    pub flags: BTreeMap<String, String>,
    pub recovered_slaves: Vec<Slave<'a>>,
    pub unregistered_frameworks: Vec<String>,
    pub orphan_tasks: Vec<Task<'a>>,
}

/// The leading master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's leader info")]
pub struct LeaderInfo<'a> {
    pub id: &'a str,
    pub pid: String,
    pub hostname: &'a str,
    pub port: u16,
}

/// What agents here can do, in Mesos's words.
pub const AGENT_CAPABILITIES: [&str; 6] = [
    "MULTI_ROLE",
    "HIERARCHICAL_ROLE",
    "RESERVATION_REFINEMENT",
    "RESIZE_VOLUME",
    "AGENT_DRAINING",
    "TASK_RESOURCE_LIMITS",
];

/// An agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's agent")]
pub struct Slave<'a> {
    pub id: &'a str,
    pub pid: String,
    pub hostname: &'a str,
    pub port: u16,
    pub active: bool,
    pub deactivated: bool,
    pub version: &'a str,
    pub registered_time: f64,
    pub reregistered_time: f64,
    pub attributes: &'a BTreeMap<String, String>,
    pub resources: ResourcesJson,
    pub used_resources: ResourcesJson,
    pub offered_resources: ResourcesJson,
    pub unreserved_resources: ResourcesJson,
    pub reserved_resources: BTreeMap<String, ResourcesJson>,
    pub capabilities: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<crate::proto::mesos::DomainInfo>,
}

/// A framework, but its lists `tasks`, `unreachable_tasks` and `completed_tasks`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's framework")]
pub struct Framework<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub pid: &'a str,
    pub hostname: &'a str,
    pub user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<&'a str>,
    pub role: &'a str,
    pub roles: Vec<&'a str>,
    pub active: bool,
    pub connected: bool,
    pub recovered: bool,
    pub checkpoint: bool,
    pub failover_timeout: f64,
    pub webui_url: Cow<'a, str>,
    pub registered_time: f64,
    pub reregistered_time: f64,
    pub unregistered_time: f64,
    pub resources: ResourcesJson,
    pub used_resources: ResourcesJson,
    pub offered_resources: ResourcesJson,
    pub capabilities: Vec<&'a str>,
    pub executors: Vec<Executor<'a>>,
}

/// An executor that a framework brought along.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's executor")]
pub struct Executor<'a> {
    pub executor_id: &'a str,
    pub framework_id: &'a str,
    pub slave_id: &'a str,
    pub name: &'a str,
    pub source: &'a str,
    pub resources: ResourcesJson,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's task")]
pub struct Task<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub framework_id: &'a str,
    pub executor_id: &'a str,
    pub slave_id: &'a str,
    pub role: &'a str,
    pub state: &'a str,
    pub resources: ResourcesJson,
    pub statuses: Vec<Status<'a>>,
    pub labels: Vec<Label<'a>>,
    pub discovery: Discovery<'a>,
}

/// One status of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's status")]
pub struct Status<'a> {
    pub state: &'a str,
    pub timestamp: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    pub container_status: ContainerStatus<'a>,
}

/// Addresses of a task, in the nesting that DNS servers walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's container status")]
pub struct ContainerStatus<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<ContainerId<'a>>,
    pub network_infos: [NetworkInfo<'a>; 1],
}

/// A container's name, which its agent takes for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's container id")]
pub struct ContainerId<'a> {
    pub value: &'a str,
}

impl<'a> ContainerStatus<'a> {
    /// Of a container that is called so, if it has a name; on one network, which has a name unless it is the node's own or
    /// behind its bridge.
    pub fn of(
        id: Option<&'a str>,
        ips: impl Iterator<Item = std::net::IpAddr>,
        network: Option<&'a str>,
    ) -> Self {
        let address = |ip: std::net::IpAddr| IpAddress {
            protocol: if ip.is_ipv4() { "IPv4" } else { "IPv6" },
            ip_address: ip,
        };
        Self {
            container_id: id.map(|value| ContainerId { value }),
            network_infos: [NetworkInfo {
                name: network,
                ip_addresses: ips.map(address).collect(),
            }],
        }
    }
}

/// Addresses on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's network info")]
pub struct NetworkInfo<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    pub ip_addresses: Vec<IpAddress>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's address")]
pub struct IpAddress {
    pub protocol: &'static str,
    pub ip_address: std::net::IpAddr,
}

/// A label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's label")]
pub struct Label<'a> {
    pub key: Cow<'a, str>,
    pub value: Cow<'a, str>,
}

/// How a task is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's discovery info")]
pub struct Discovery<'a> {
    pub visibility: &'static str,
    pub name: &'a str,
    pub ports: DiscoveryPorts<'a>,
}

/// `{"ports": [..]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiscoveryPorts<'a> {
    /// The ports.
    pub ports: Vec<DiscoveryPort<'a>>,
}

/// A port of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's port")]
pub struct DiscoveryPort<'a> {
    pub number: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    pub protocol: &'static str,
    pub labels: Labels<'a>,
}

/// `{"labels": [..]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Labels<'a> {
    /// The labels.
    pub labels: Vec<Label<'a>>,
}

/// `/state-summary`: counts in place of tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's state summary")]
pub struct StateSummary<'a> {
    pub hostname: &'a str,
    pub cluster: &'a str,
    pub slaves: Vec<SlaveSummary<'a>>,
    pub frameworks: Vec<FrameworkSummary<'a>>,
}

/// An agent with counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's state summary")]
pub struct SlaveSummary<'a> {
    #[serde(flatten)]
    pub slave: Slave<'a>,
    #[serde(flatten)]
    pub counts: StateCounts,
    pub framework_ids: Vec<&'a str>,
}

/// A framework with counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's state summary")]
pub struct FrameworkSummary<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub hostname: &'a str,
    pub webui_url: Cow<'a, str>,
    pub active: bool,
    pub resources: ResourcesJson,
    pub used_resources: ResourcesJson,
    pub offered_resources: ResourcesJson,
    #[serde(flatten)]
    pub counts: StateCounts,
    pub slave_ids: Vec<&'a str>,
}

/// Tasks by state: `{"TASK_RUNNING": 3, ..}`, every state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateCounts(pub BTreeMap<String, u64>);

impl StateCounts {
    /// Counts states; each one of Mesos's states has a key.
    pub fn of(states: impl IntoIterator<Item = TaskState>) -> Self {
        let zero = |s: TaskState| (s.mesos_name().to_owned(), 0);
        let mut out: BTreeMap<String, u64> = TaskState::ALL.into_iter().map(zero).collect();
        for s in states {
            *out.entry(s.mesos_name().to_owned()).or_default() += 1;
        }
        Self(out)
    }
}

/// `/slaves`, but its list `slaves`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's slaves")]
pub struct Slaves<'a> {
    pub recovered_slaves: Vec<Slave<'a>>,
}

/// `/frameworks`, but its lists `frameworks` and `completed_frameworks`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "keys of Mesos's frameworks")]
pub struct Frameworks {
    pub unregistered_frameworks: Vec<String>,
}

/// `/tasks`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tasks<'a> {
    /// Tasks, as they were asked for.
    pub tasks: Vec<Task<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numeric() {
        for given in ["0.1.0", "0.1.0-dev.3", "1.2-rc1", "1.2.-x"] {
            let v = Version::new(given);
            for text in [&v.version, &v.waggle_version] {
                assert!(text.split('.').all(|p| p.parse::<u64>().is_ok()), "{text}");
            }
        }
    }

    #[test]
    fn resources_read_as_mesos_writes_them() {
        let r = Resources::from_millis(1500, 128_000, 0)
            .with_ports(waggle_types::PortSet::from_ports([31000, 31001, 31005]));
        assert_eq!(
            serde_json::to_string(&ResourcesJson::from(&r)).unwrap(),
            r#"{"cpus":1.5,"mem":128,"disk":0,"gpus":0,"ports":"[31000-31001, 31005-31005]"}"#
        );
    }

    #[test]
    fn custom_kinds_are_keys_and_volumes_are_disk() {
        let mut r = Resources::from_millis(0, 0, 1000);
        r.custom.set_scalar("licenses", Milli(2500));
        let vlans = waggle_types::RangeSet::from_ports([1, 2, 7]);
        r.custom.set_ranges("vlans", vlans);
        r.custom
            .set_items("zones", ["b".to_owned(), "a".to_owned()].into());
        let volume = waggle_types::Volume {
            size: Milli::units(5),
            shared: false,
        };
        let id = waggle_types::VolumeId::new("db").unwrap();
        r.custom.set_volume(id, volume);
        let json = serde_json::to_string(&ResourcesJson::from(&r)).unwrap();
        assert_eq!(
            json,
            r#"{"cpus":0,"mem":0,"disk":6,"gpus":0,"licenses":2.5,"vlans":"[1-2, 7-7]","zones":"{a, b}"}"#
        );
        let back: ResourcesJson = serde_json::from_str(&json).unwrap();
        assert_eq!(back, ResourcesJson::from(&r));
    }

    #[test]
    fn every_state_is_counted() {
        let c = StateCounts::of([TaskState::Running, TaskState::Running]);
        assert_eq!(c.0.len(), TaskState::ALL.len());
        assert_eq!(c.0["TASK_RUNNING"], 2);
    }
}
