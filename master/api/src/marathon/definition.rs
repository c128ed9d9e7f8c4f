//! The definition part of an app: what a client writes and what is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use waggle_types::{
    Command, Millis, NetworkMode, PortDefinition, Protocol, ScalarKind, ServiceSpec,
    UnreachableStrategy,
};

use super::{
    asked_json::{EnvJson, ResidencyJson, SecretJson, env, secrets},
    container_json::{
        ContainerJson, FetchJson, NetworkJson, ResourceLimitsJson, container, resource_limits,
    },
    health_json::{
        CheckJson, HealthCheckJson, ReadinessCheckJson, check, health_checks, readiness_checks,
    },
    parse::stored_spec,
    pod::pod_json,
};
use crate::error::{ApiError, ErrorCode};

/// A JSON number that prints whole values without a fraction, as Marathon does.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < 9e15 {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "whole and below 2^53 in magnitude"
            )]
            s.serialize_i64(self.0 as i64)
        } else {
            s.serialize_f64(self.0)
        }
    }
}

impl Number {
    pub(super) fn seconds(m: Millis) -> Self {
        Self(m.0 as f64 / 1000.0)
    }

    fn thousandths(n: u32) -> Self {
        Self(f64::from(n) / 1000.0)
    }
}

/// An app as defined: every key of a client's model that a spec holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(
    missing_docs,
    reason = "keys of Marathon's app, CONTRACTS.md section 2"
)]
pub struct AppDefinition {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub env: BTreeMap<String, EnvJson>,
    pub instances: u32,
    pub cpus: Number,
    pub mem: Number,
    pub disk: Number,
    pub gpus: Number,
    pub constraints: Vec<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_resource_roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<ResidencyJson>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerJson>,
    pub networks: Vec<NetworkJson>,
    /// On the host's network only: else ports are in `container.portMappings`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_definitions: Option<Vec<PortDefinitionJson>>,
    pub require_ports: bool,
    pub backoff_seconds: Number,
    pub backoff_factor: Number,
    pub max_launch_delay_seconds: Number,
    pub health_checks: Vec<HealthCheckJson>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readiness_checks: Vec<ReadinessCheckJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckJson>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetch: Vec<FetchJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<ResourceLimitsJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    pub upgrade_strategy: UpgradeStrategyJson,
    pub unreachable_strategy: UnreachableStrategyJson,
    pub kill_selection: String,
    pub task_kill_grace_period_seconds: Number,
    pub labels: BTreeMap<String, String>,
    pub version: String,
}

/// A port of each instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's port definition")]
pub struct PortDefinitionJson {
    pub port: u16,
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// Rolling rules, as shares of `instances`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's upgrade strategy")]
pub struct UpgradeStrategyJson {
    pub minimum_health_capacity: Number,
    pub maximum_over_capacity: Number,
}

/// `"disabled"` or two delays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UnreachableStrategyJson {
    /// The text `disabled`.
    Word(String),
    /// Delays.
    #[serde(rename_all = "camelCase")]
    After {
        /// Until a replacement is launched.
        inactive_after_seconds: Number,
        /// Until the old one is expunged.
        expunge_after_seconds: Number,
    },
}

impl From<&ServiceSpec> for AppDefinition {
    fn from(s: &ServiceSpec) -> Self {
        let scalar = |kind| Number(s.resources.get(kind).to_f64());
        let (cmd, args) = match &s.command {
            Command::Shell(text) => (Some(text.clone()), None),
            Command::Argv(args) => (None, Some(args.clone())),
            Command::Image(args) => (None, Some(args.clone()).filter(|a| !a.is_empty())),
            Command::Executor => (None, None),
        };
        Self {
            id: s.id.to_string(),
            cmd,
            args,
            user: s.user.clone(),
            env: env(&s.env, &s.secrets.env),
            instances: s.instances,
            cpus: scalar(ScalarKind::Cpus),
            mem: scalar(ScalarKind::Mem),
            disk: scalar(ScalarKind::Disk),
            gpus: scalar(ScalarKind::Gpus),
            constraints: s.constraints.clone(),
            dependencies: s.dependencies.iter().map(ToString::to_string).collect(),
            role: s.roles.role.clone(),
            accepted_resource_roles: s.roles.accepted.iter().cloned().collect(),
            residency: s.residency.map(Into::into),
            secrets: secrets(&s.secrets.sources),
            container: container(s),
            networks: vec![(&s.container.network).into()],
            port_definitions: (s.container.network == NetworkMode::Host)
                .then(|| s.ports.iter().map(Into::into).collect()),
            require_ports: s.require_ports,
            backoff_seconds: Number::seconds(s.backoff.initial),
            backoff_factor: Number::thousandths(s.backoff.factor_milli),
            max_launch_delay_seconds: Number::seconds(s.backoff.max),
            health_checks: health_checks(s),
            readiness_checks: readiness_checks(s),
            check: check(s),
            fetch: s.container.fetch.iter().map(Into::into).collect(),
            resource_limits: resource_limits(&s.container),
            tty: s.container.tty.then_some(true),
            upgrade_strategy: UpgradeStrategyJson {
                minimum_health_capacity: Number::thousandths(
                    s.upgrade.minimum_health_capacity_milli,
                ),
                maximum_over_capacity: Number::thousandths(s.upgrade.maximum_over_capacity_milli),
            },
            unreachable_strategy: match s.unreachable {
                UnreachableStrategy::Disabled => UnreachableStrategyJson::Word("disabled".into()),
                UnreachableStrategy::After {
                    inactive_after,
                    expunge_after,
                } => UnreachableStrategyJson::After {
                    inactive_after_seconds: Number::seconds(inactive_after),
                    expunge_after_seconds: Number::seconds(expunge_after),
                },
            },
            kill_selection: s.kill_selection.name().into(),
            task_kill_grace_period_seconds: Number::seconds(s.kill_grace),
            labels: s.labels.clone(),
            version: s.version.to_string(),
        }
    }
}

impl From<&PortDefinition> for PortDefinitionJson {
    fn from(p: &PortDefinition) -> Self {
        Self {
            port: p.port,
            protocol: protocol_text(&p.protocols).into(),
            name: p.name.clone(),
            labels: p.labels.clone(),
        }
    }
}

/// Marathon's text: exactly `tcp`, `udp` or `udp,tcp`.
pub(super) fn protocol_text(protocols: &[Protocol]) -> &'static str {
    match (
        protocols.contains(&Protocol::Tcp),
        protocols.contains(&Protocol::Udp),
    ) {
        (true, true) => "udp,tcp",
        (false, true) => "udp",
        _ => "tcp",
    }
}

/// The stored form: the definition as one line of JSON.
pub fn spec_to_json(spec: &ServiceSpec) -> String {
    definition_value(spec).to_string()
}

/// The definition as a JSON value; its serialization cannot fail, since every key is a string.
pub(super) fn definition_value(spec: &ServiceSpec) -> Value {
    let app = || serde_json::to_value(AppDefinition::from(spec)).unwrap_or(Value::Null);
    pod_json(spec).unwrap_or_else(app)
}

/// Reads the stored form back: `spec_from_json(&spec_to_json(s)) == s` for every spec that
/// `parse_app` or `pod_from_value` gives.
pub fn spec_from_json(json: &str) -> Result<ServiceSpec, ApiError> {
    let value: Value = serde_json::from_str(json)
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("stored app is not JSON: {e}")))?;
    stored_spec(&value)
}
