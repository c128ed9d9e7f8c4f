//! What the core writes to the store and how it reads it back.
//!
//! Keys: `cluster/<what>`, `services<path>`, `versions<path>/<milliseconds>`, `deployments/<id>`, `vips/<framework>/<label>`,
//! `agents/<id>`, `gone_agents/<id>`, `maintenance/<agent>`, `reservations/<agent>`, `wiped/<instance>`, `frameworks/<id>`, `removed_frameworks/<id>`,
//! `groups<path>`, `history/<milliseconds>`, `mounts/<agent>`, `weights/<role>`, `quota/<role>`, `launches/<task>`, `jobs/<id>`, `job_runs/<id>/<run>`, `networks/<name>`, `policies/<name>`, `overlay/<agent>`. A spec is stored as the Marathon app JSON that the API shows.

mod agents;
mod deployments;
mod frameworks;
mod groups;
mod jobs;
mod launches;
mod networks;
mod policies;
mod reservations;
mod resources;
mod roles;

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use serde::Serialize;
use waggle_overlay_plan::network::Held;
use waggle_services::{
    GroupDependencies,
    jobs::{Kept, KeptRun},
};
use waggle_types::{
    AgentId, DeploymentId, FrameworkId, Generation, JobId, JobSpec, Network, NetworkPolicy, Quota,
    ResourcePart, ServiceId, ServiceSpec, ServiceVersion, TaskId, Unavailability, UnixMillis,
    VipName,
};

pub use agents::KnownAgent;
pub(super) use agents::{delete_agent, delete_gone, put_agent, put_gone, put_window};
pub use deployments::{Flight, FlightChange};
pub(super) use deployments::{delete_deployment, live_flights, put_deployment};
pub(super) use frameworks::{
    delete_framework, delete_removed, framework_value, put_framework, put_removed,
};
pub(super) use groups::{delete_record, put_group, put_record};
pub(super) use jobs::{delete_job, delete_job_run, job_bytes, put_job, put_job_run};
pub use launches::InFlight;
pub(super) use launches::{delete_launch, put_launch};
pub(super) use networks::{delete_network, delete_overlay, put_network, put_overlay};
pub(super) use policies::{delete_policy, put_policy};
pub(super) use reservations::{delete_wiped, put_reservations, put_wiped, reservations_value};

/// Where volumes of an agent are mounted; none is stored as nothing.
pub(super) fn put_mounts(id: &AgentId, at: &BTreeMap<String, String>) -> StoreOp {
    let key = format!("mounts/{id}");
    if at.is_empty() {
        return StoreOp::Delete { key };
    }
    put(key, json(at))
}
pub(super) use roles::{put_quota, put_weight};

use deployments::ReadFlight;

use super::{frameworks::Framework, history::Record, versions::Versions, vips::LeaseChanges};
use crate::store::{Entry, StoreOp};

const FRAMEWORK_ID: &str = "cluster/framework_id";
const GENERATION: &str = "cluster/generation";
const MASTER_ID: &str = "cluster/master_id";
/// There once from the first start on: networks that were removed do not come back with the next one.
const HAS_NETWORKS: &str = "cluster/has_networks";
/// A role's weight when nobody set one, in thousandths.
pub(super) const DEFAULT_WEIGHT: u32 = 1000;

/// A stored value that this version can't read. The master does not start over it: nothing is lost.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {key} from the store: {rule}")]
pub struct RestoreError {
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub rule: String,
}

/// Everything that the store held when this master began to lead.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The built-in framework's id.
    pub framework_id: Option<FrameworkId>,
    /// The master's id.
    pub master_id: Option<String>,
    /// No generation above this was ever published.
    pub generation: Generation,
    /// Definitions.
    pub services: BTreeMap<ServiceId, Arc<ServiceSpec>>,
    /// Kept definitions.
    pub versions: Versions,
    /// Deployments that had not finished.
    pub deployments: BTreeMap<DeploymentId, Flight>,
    /// Leases.
    pub vips: BTreeMap<VipName, Ipv4Addr>,
    /// Agents that were known.
    pub agents: BTreeMap<AgentId, KnownAgent>,
    /// Agents that are gone for good, and when they were marked.
    pub gone_agents: BTreeMap<AgentId, UnixMillis>,
    /// Planned maintenance.
    pub maintenance: BTreeMap<AgentId, Unavailability>,
    /// What is reserved at run time, and volumes, by agent.
    pub reservations: BTreeMap<AgentId, Vec<ResourcePart>>,
    /// Homes of resident instances that are to be given back.
    pub wiped: BTreeMap<String, AgentId>,
    /// Where frameworks mount volumes, by agent and volume.
    pub mounts: BTreeMap<AgentId, BTreeMap<String, String>>,
    /// Weights that are not the default, in thousandths.
    pub weights: BTreeMap<String, u32>,
    /// Quota of roles.
    pub quota: BTreeMap<String, Quota>,
    /// Jobs, with their active runs.
    pub jobs: BTreeMap<JobId, (JobSpec, Kept, Vec<KeptRun>)>,
    /// Launches that may not have reached their agent.
    pub launches: BTreeMap<TaskId, InFlight>,
    /// Overlay networks; `None` before the first start of a version that has them.
    pub networks: Option<BTreeMap<String, Network>>,
    /// Network policies.
    pub policies: BTreeMap<String, NetworkPolicy>,
    /// What agents hold of them, or held until not long ago.
    pub overlay: BTreeMap<AgentId, Held>,
    /// Registered frameworks, the built-in one not among them.
    pub frameworks: BTreeMap<FrameworkId, Framework>,
    /// Frameworks that must not come back.
    pub removed_frameworks: Vec<FrameworkId>,
    /// What groups that are there by themselves depend on.
    pub groups: GroupDependencies,
    /// What was before the newest deployments.
    pub history: BTreeMap<ServiceVersion, Record>,
    /// Deployments, until all definitions are read.
    flights: BTreeMap<DeploymentId, ReadFlight>,
    /// Active runs, until all jobs are read.
    job_runs: Vec<(JobId, KeptRun)>,
}

impl Restored {
    /// Reads a whole store.
    pub fn load(entries: &[Entry]) -> Result<Self, RestoreError> {
        let mut out = Self::default();
        for e in entries {
            out.take(e).map_err(|rule| RestoreError {
                key: e.key.clone(),
                rule,
            })?;
        }
        for spec in out.services.values() {
            // A store of a version that kept no history.
            out.versions.note(spec);
        }
        for (id, run) in std::mem::take(&mut out.job_runs) {
            // They are written and deleted with their job.
            if let Some((_, _, runs)) = out.jobs.get_mut(&id) {
                runs.push(run);
            }
        }
        for (id, flight) in std::mem::take(&mut out.flights) {
            out.deployments.insert(id, flight.resolve(&out.versions));
        }
        Ok(out)
    }

    fn take(&mut self, e: &Entry) -> Result<(), String> {
        let text = std::str::from_utf8(&e.value).map_err(|x| x.to_string())?;
        match e.key.split_once('/') {
            Some(("cluster", _)) => match e.key.as_str() {
                FRAMEWORK_ID => {
                    self.framework_id = Some(FrameworkId::new(text).map_err(|x| x.to_string())?);
                }
                GENERATION => {
                    let n = text
                        .parse()
                        .map_err(|x: std::num::ParseIntError| x.to_string())?;
                    self.generation = Generation(n);
                }
                MASTER_ID => self.master_id = Some(text.to_owned()),
                HAS_NETWORKS => {
                    self.networks.get_or_insert_default();
                }
                _ => return unknown(&e.key),
            },
            Some(("services", _)) => {
                let spec = waggle_api::marathon::spec_from_json(text).map_err(|x| x.to_string())?;
                self.services.insert(spec.id.clone(), Arc::new(spec));
            }
            Some(("versions", _)) => {
                let spec = waggle_api::marathon::spec_from_json(text).map_err(|x| x.to_string())?;
                self.versions.note(&Arc::new(spec));
            }
            Some(("deployments", id)) => {
                let id = DeploymentId::new(id).map_err(|x| x.to_string())?;
                self.flights.insert(id, deployments::read_flight(text)?);
            }
            Some(("groups", rest)) => groups::read_group(rest, text, &mut self.groups)?,
            Some(("history", rest)) => {
                let record = groups::read_record(rest, text)?;
                self.history.insert(record.version, record);
            }
            Some(("vips", name)) => {
                let (framework, label) = name.split_once('/').ok_or("must be framework/label")?;
                let name = VipName {
                    label: label.to_owned(),
                    framework: framework.to_owned(),
                };
                let ip = text
                    .parse()
                    .map_err(|x: std::net::AddrParseError| x.to_string())?;
                self.vips.insert(name, ip);
            }
            Some(("frameworks", id)) => {
                let id = FrameworkId::new(id).map_err(|x| x.to_string())?;
                let framework = frameworks::read_framework(&id, text)?;
                self.frameworks.insert(id, framework);
            }
            Some(("removed_frameworks", id)) => {
                let id = FrameworkId::new(id).map_err(|x| x.to_string())?;
                self.removed_frameworks.push(id);
            }
            Some((kind, rest)) => return self.take_level_1(kind, rest, text),
            None => return unknown(&e.key),
        }
        Ok(())
    }

    fn take_level_1(&mut self, kind: &str, rest: &str, text: &str) -> Result<(), String> {
        let agent = || AgentId::new(rest).map_err(|x| x.to_string());
        match kind {
            "agents" => {
                self.agents.insert(agent()?, agents::read_agent(text)?);
            }
            "gone_agents" => {
                self.gone_agents.insert(agent()?, agents::read_gone(text)?);
            }
            "maintenance" => {
                self.maintenance
                    .insert(agent()?, agents::read_window(text)?);
            }
            "reservations" => {
                let parts = reservations::read_reservations(text)?;
                self.reservations.insert(agent()?, parts);
            }
            "wiped" => {
                let on = AgentId::new(text).map_err(|x| x.to_string())?;
                self.wiped.insert(rest.to_owned(), on);
            }
            "mounts" => {
                let at: BTreeMap<String, String> =
                    serde_json::from_str(text).map_err(|x| x.to_string())?;
                self.mounts.insert(agent()?, at);
            }
            "weights" => {
                self.weights
                    .insert(rest.to_owned(), roles::read_weight(text)?);
            }
            "quota" => {
                self.quota.insert(rest.to_owned(), roles::read_quota(text)?);
            }
            "policies" => {
                let policy = policies::read_policy(text)?;
                self.policies.insert(policy.name.clone(), policy);
            }
            "networks" => {
                let network = networks::read_network(rest, text)?;
                let all = self.networks.get_or_insert_default();
                all.insert(rest.to_owned(), network);
            }
            "overlay" => {
                self.overlay.insert(agent()?, networks::read_overlay(text)?);
            }
            "jobs" => {
                let (spec, kept) = jobs::read_job(text)?;
                self.jobs.insert(spec.id.clone(), (spec, kept, Vec::new()));
            }
            "job_runs" => self.job_runs.push(jobs::read_job_run(rest, text)?),
            "launches" => {
                let id = TaskId::new(rest).map_err(|x| x.to_string())?;
                self.launches.insert(id, launches::read_launch(text)?);
            }
            _ => return unknown(&format!("{kind}/{rest}")),
        }
        Ok(())
    }
}

/// Written by a newer version: kept as it is, not needed here.
#[allow(
    clippy::unnecessary_wraps,
    reason = "reads as the last arm of a fallible match"
)]
fn unknown(key: &str) -> Result<(), String> {
    tracing::warn!(key, "ignoring an unknown key in the store");
    Ok(())
}

fn put(key: String, value: impl Into<Vec<u8>>) -> StoreOp {
    StoreOp::Put {
        key,
        value: value.into(),
    }
}

pub(super) fn put_framework_id(id: &FrameworkId) -> StoreOp {
    put(FRAMEWORK_ID.to_owned(), id.as_str())
}

pub(super) fn put_master_id(id: &str) -> StoreOp {
    put(MASTER_ID.to_owned(), id)
}

pub(super) fn put_generation(up_to: Generation) -> StoreOp {
    put(GENERATION.to_owned(), up_to.0.to_string())
}

pub(super) fn put_has_networks() -> StoreOp {
    put(HAS_NETWORKS.to_owned(), "1")
}

pub(super) fn put_service(spec: &ServiceSpec) -> StoreOp {
    let key = format!("services{}", spec.id);
    put(key, waggle_api::marathon::spec_to_json(spec))
}

/// Bytes that a definition takes in the store.
pub(super) fn spec_bytes(spec: &ServiceSpec) -> usize {
    waggle_api::marathon::spec_to_json(spec).len()
}

fn version_key(id: &ServiceId, version: ServiceVersion) -> String {
    format!("versions{id}/{:020}", version.0.0)
}

pub(super) fn put_version(spec: &ServiceSpec) -> StoreOp {
    let key = version_key(&spec.id, spec.version);
    put(key, waggle_api::marathon::spec_to_json(spec))
}

pub(super) fn delete_version(id: &ServiceId, version: ServiceVersion) -> StoreOp {
    StoreOp::Delete {
        key: version_key(id, version),
    }
}

pub(super) fn delete_service(id: &ServiceId) -> StoreOp {
    StoreOp::Delete {
        key: format!("services{id}"),
    }
}

fn vip_key(name: &VipName) -> String {
    format!("vips/{}/{}", name.framework, name.label)
}

pub(super) fn lease_ops(changes: &LeaseChanges) -> Vec<StoreOp> {
    let released = changes
        .released
        .iter()
        .map(|name| StoreOp::Delete { key: vip_key(name) });
    let taken = changes
        .taken
        .iter()
        .map(|(name, ip)| put(vip_key(name), ip.to_string()));
    released.chain(taken).collect()
}

/// Strings and numbers only: serializing them can't fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
