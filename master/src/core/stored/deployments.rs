//! Deployments in flight, in the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use waggle_services::{DeploymentKind, DeploymentPlan, DeploymentStep, Rollout, StepAction};
use waggle_types::{
    DeploymentId, GroupId, ServiceId, ServiceSpec, ServiceVersion, TraceContext, UnixMillis,
};

use super::{super::vips::Services, Versions, json, put};
use crate::store::StoreOp;

/// A deployment in flight, as kept by the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// The version of what it brings; every definition of it that is new has it.
    pub version: ServiceVersion,
    /// When it was accepted.
    pub since: UnixMillis,
    /// Its root span.
    pub trace: Option<TraceContext>,
    /// The services that it changes.
    pub changes: BTreeMap<ServiceId, FlightChange>,
    /// What groups that it changes depended on before; `None` for those that were not there by themselves.
    pub groups: BTreeMap<GroupId, Option<BTreeSet<ServiceId>>>,
    /// Its steps, and where it is.
    pub rollout: Rollout,
    /// When the step under way began, or this master did.
    pub step_since: UnixMillis,
    /// Whether it goes back by itself when a step takes longer than a label allows. What goes back does not.
    pub returns: bool,
    /// When it does, by the label of a service of the step under way.
    pub goes_back_at: Option<UnixMillis>,
}

/// What a deployment does to one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlightChange {
    /// The definition that was in force before; `None` for a service that it makes.
    pub before: Option<Arc<ServiceSpec>>,
    /// The definition that it brings; `None` for a service that it removes.
    pub after: Option<ServiceVersion>,
    /// Instances of definitions older than this are replaced, even when they would be the same.
    pub restart_before: Option<ServiceVersion>,
}

#[derive(Serialize, Deserialize)]
struct StoredFlight {
    version_ms: u64,
    since_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    changes: Vec<StoredChange>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Pairs of kind and service.
    steps: Vec<Vec<(String, String)>>,
    step: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    returns: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredChange {
    service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restart_before_ms: Option<u64>,
}

/// What was written before deployments had steps: one service.
#[derive(Deserialize)]
struct OldFlight {
    service: String,
    version_ms: u64,
    kind: String,
    since_ms: u64,
    traceparent: Option<String>,
    restart_before_ms: Option<u64>,
    previous_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnyFlight {
    New(StoredFlight),
    Old(OldFlight),
}

/// A flight as read: definitions are still versions.
#[derive(Debug, Clone)]
pub(super) struct ReadFlight {
    flight: Flight,
    before: BTreeMap<ServiceId, ServiceVersion>,
}

impl ReadFlight {
    /// With the definitions that its versions mean, as far as they are kept.
    pub(super) fn resolve(mut self, versions: &Versions) -> Flight {
        for (service, version) in self.before {
            if let Some(change) = self.flight.changes.get_mut(&service) {
                change.before = versions.get(&service, version);
            }
        }
        self.flight
    }
}

const KINDS: [(DeploymentKind, &str); 4] = [
    (DeploymentKind::Start, "start"),
    (DeploymentKind::Scale, "scale"),
    (DeploymentKind::Restart, "restart"),
    (DeploymentKind::Stop, "stop"),
];

/// What the kind of a pod's action ends with.
const OF_POD: &str = " pod";

fn kind_name(kind: DeploymentKind) -> &'static str {
    let of = KINDS.iter().find(|(k, _)| *k == kind);
    of.map_or("", |(_, name)| name)
}

fn kind(name: &str) -> Result<DeploymentKind, String> {
    let of = KINDS.iter().find(|(_, n)| *n == name);
    of.map(|(k, _)| *k)
        .ok_or_else(|| format!("unknown kind {name:?}"))
}

fn version(ms: u64) -> ServiceVersion {
    ServiceVersion(UnixMillis(ms))
}

fn service(id: &str) -> Result<ServiceId, String> {
    ServiceId::new(id).map_err(|x| x.to_string())
}

fn trace(text: Option<&String>) -> Result<Option<TraceContext>, String> {
    let parsed = text.map(|t| t.parse());
    parsed
        .transpose()
        .map_err(|x: waggle_types::TraceParseError| x.to_string())
}

/// Ids of what groups depend on.
pub(super) fn read_dependencies(ids: &BTreeSet<String>) -> Result<BTreeSet<ServiceId>, String> {
    ids.iter().map(|id| service(id)).collect()
}

pub(super) fn read_flight(text: &str) -> Result<ReadFlight, String> {
    match serde_json::from_str(text).map_err(|x| x.to_string())? {
        AnyFlight::New(s) => read_new(s),
        AnyFlight::Old(s) => read_old(&s),
    }
}

fn read_new(s: StoredFlight) -> Result<ReadFlight, String> {
    let mut before = BTreeMap::new();
    let mut changes = BTreeMap::new();
    for c in s.changes {
        let id = service(&c.service)?;
        if let Some(ms) = c.before_ms {
            before.insert(id.clone(), version(ms));
        }
        let change = FlightChange {
            before: None,
            after: c.after_ms.map(version),
            restart_before: c.restart_before_ms.map(version),
        };
        changes.insert(id, change);
    }
    let step = |actions: Vec<(String, String)>| {
        let actions = actions.into_iter().map(|(k, id)| {
            let (k, pod) = k
                .strip_suffix(OF_POD)
                .map_or((k.as_str(), false), |k| (k, true));
            Ok(StepAction {
                kind: kind(k)?,
                service: service(&id)?,
                pod,
            })
        });
        let actions = actions.collect::<Result<_, String>>()?;
        Ok(DeploymentStep { actions })
    };
    let steps = s.steps.into_iter().map(step);
    let plan = DeploymentPlan {
        steps: steps.collect::<Result<_, String>>()?,
    };
    let groups = s.groups.into_iter().map(|(id, dependencies)| {
        let id = GroupId::new(&id).map_err(|x| x.to_string())?;
        let dependencies = dependencies.as_ref().map(read_dependencies);
        Ok((id, dependencies.transpose()?))
    });
    Ok(ReadFlight {
        flight: Flight {
            version: version(s.version_ms),
            since: UnixMillis(s.since_ms),
            trace: trace(s.traceparent.as_ref())?,
            changes,
            groups: groups.collect::<Result<_, String>>()?,
            rollout: Rollout::resumed(plan, s.step),
            step_since: UnixMillis(s.since_ms),
            returns: s.returns,
            goes_back_at: None,
        },
        before,
    })
}

fn read_old(s: &OldFlight) -> Result<ReadFlight, String> {
    let id = service(&s.service)?;
    let kind = kind(&s.kind)?;
    let change = FlightChange {
        before: None,
        after: (kind != DeploymentKind::Stop).then(|| version(s.version_ms)),
        restart_before: s.restart_before_ms.map(version),
    };
    let kind = match kind {
        DeploymentKind::Start => DeploymentKind::Scale,
        kind => kind,
    };
    let action = StepAction {
        kind,
        service: id.clone(),
        pod: false,
    };
    let step = DeploymentStep {
        actions: vec![action],
    };
    Ok(ReadFlight {
        before: s
            .previous_ms
            .map(|ms| (id.clone(), version(ms)))
            .into_iter()
            .collect(),
        flight: Flight {
            version: version(s.version_ms),
            since: UnixMillis(s.since_ms),
            trace: trace(s.traceparent.as_ref())?,
            changes: BTreeMap::from([(id, change)]),
            groups: BTreeMap::new(),
            rollout: Rollout::new(DeploymentPlan { steps: vec![step] }),
            step_since: UnixMillis(s.since_ms),
            returns: false,
            goes_back_at: None,
        },
    })
}

/// Ids of what groups depend on, as text.
pub(super) fn dependency_texts(ids: &BTreeSet<ServiceId>) -> BTreeSet<String> {
    ids.iter().map(ToString::to_string).collect()
}

pub(in crate::core) fn put_deployment(id: &DeploymentId, f: &Flight) -> StoreOp {
    let changes = f.changes.iter().map(|(service, c)| StoredChange {
        service: service.to_string(),
        before_ms: c.before.as_ref().map(|s| s.version.0.0),
        after_ms: c.after.map(|v| v.0.0),
        restart_before_ms: c.restart_before.map(|v| v.0.0),
    });
    let pair = |a: &StepAction| {
        let of_pod = if a.pod { OF_POD } else { "" };
        (
            format!("{}{of_pod}", kind_name(a.kind)),
            a.service.to_string(),
        )
    };
    let steps = f.rollout.plan().steps.iter();
    let groups = f.groups.iter().map(|(id, dependencies)| {
        let dependencies = dependencies.as_ref().map(dependency_texts);
        (id.to_string(), dependencies)
    });
    let stored = StoredFlight {
        version_ms: f.version.0.0,
        since_ms: f.since.0,
        traceparent: f.trace.map(|t| t.to_string()),
        changes: changes.collect(),
        groups: groups.collect(),
        steps: steps
            .map(|s| s.actions.iter().map(pair).collect())
            .collect(),
        step: f.rollout.step_idx(),
        returns: f.returns,
    };
    put(format!("deployments/{id}"), json(&stored))
}

pub(in crate::core) fn delete_deployment(id: &DeploymentId) -> StoreOp {
    StoreOp::Delete {
        key: format!("deployments/{id}"),
    }
}

/// Deployments all of whose services are what they were made for; others were overtaken, or end with this start.
pub(in crate::core) fn live_flights(
    flights: BTreeMap<DeploymentId, Flight>,
    services: &Services,
) -> BTreeMap<DeploymentId, Flight> {
    let fits = |(id, c): (&ServiceId, &FlightChange)| match c.after {
        Some(_) => services.contains_key(id),
        // What it ran and is not known any more is told to end when it is seen.
        None => c.before.is_some() && !services.contains_key(id),
    };
    flights
        .into_iter()
        .filter(|(_, f)| !f.rollout.is_finished() && f.changes.iter().all(fits))
        .collect()
}
