//! A spec's checks as Marathon's JSON.

use serde::{Deserialize, Serialize};
use waggle_types::{CheckPurpose, HealthCheck, HealthProbe, Millis, PortDefinition, ServiceSpec};

use super::definition::Number;

/// A health check, or a start check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's health check")]
pub struct HealthCheckJson {
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_index: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<Number>,
    /// An addition to Marathon's keys, absent from what is no start check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<bool>,
    pub grace_period_seconds: Number,
    pub interval_seconds: Number,
    pub timeout_seconds: Number,
    pub max_consecutive_failures: u32,
}

/// `{"value": "exit 0"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandValue {
    /// Run by `/bin/sh -c`.
    pub value: String,
}

/// A readiness check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's readiness check")]
pub struct ReadinessCheckJson {
    pub name: String,
    pub protocol: String,
    pub path: String,
    pub port_name: String,
    pub interval_seconds: Number,
    pub timeout_seconds: Number,
    pub http_status_codes_for_ready: Vec<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_last_response: Option<bool>,
}

/// Marathon's `check`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's check")]
pub struct CheckJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheckJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheckJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecJson>,
    pub delay_seconds: Number,
    pub interval_seconds: Number,
    pub timeout_seconds: Number,
}

/// `check.http`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's HTTP check")]
pub struct HttpCheckJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_index: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub path: String,
    pub scheme: String,
}

/// `check.tcp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's TCP check")]
pub struct TcpCheckJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_index: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// `{"command": {"shell": "exit 0"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecJson {
    /// The command.
    pub command: ShellJson,
}

/// `{"shell": "exit 0"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellJson {
    /// Run by `/bin/sh -c`.
    pub shell: String,
}

/// Health and start checks of a spec.
pub(super) fn health_checks(s: &ServiceSpec) -> Vec<HealthCheckJson> {
    let mine = s.health_checks.iter();
    let mine = mine.filter(|h| h.purpose != CheckPurpose::Readiness);
    mine.map(Into::into).collect()
}

/// Readiness checks of a spec.
pub(super) fn readiness_checks(s: &ServiceSpec) -> Vec<ReadinessCheckJson> {
    let mine = s.health_checks.iter();
    mine.filter_map(|h| readiness_check(h, &s.ports)).collect()
}

/// The `check` of a spec.
pub(super) fn check(s: &ServiceSpec) -> Option<CheckJson> {
    let mut mine = s.health_checks.iter();
    let c = mine.find(|h| h.purpose == CheckPurpose::Readiness && h.name.is_none())?;
    let mut out = CheckJson {
        http: None,
        tcp: None,
        exec: None,
        delay_seconds: Number::seconds(c.delay),
        interval_seconds: Number::seconds(c.interval),
        timeout_seconds: Number::seconds(c.timeout),
    };
    match &c.probe {
        HealthProbe::Http {
            tls,
            path,
            port_index,
            port,
            ..
        } => {
            out.http = Some(HttpCheckJson {
                port_index: port.is_none().then_some(*port_index),
                port: *port,
                path: path.clone(),
                scheme: scheme(*tls).into(),
            });
        }
        HealthProbe::Tcp { port_index, port } => {
            out.tcp = Some(TcpCheckJson {
                port_index: port.is_none().then_some(*port_index),
                port: *port,
            });
        }
        HealthProbe::Command { shell } => {
            out.exec = Some(ExecJson {
                command: ShellJson {
                    shell: shell.clone(),
                },
            });
        }
    }
    Some(out)
}

const fn scheme(tls: bool) -> &'static str {
    if tls { "HTTPS" } else { "HTTP" }
}

fn readiness_check(h: &HealthCheck, ports: &[PortDefinition]) -> Option<ReadinessCheckJson> {
    let HealthProbe::Http {
        tls,
        statuses,
        path,
        port_index,
        ..
    } = &h.probe
    else {
        return None;
    };
    Some(ReadinessCheckJson {
        name: h
            .name
            .clone()
            .filter(|_| h.purpose == CheckPurpose::Readiness)?,
        protocol: scheme(*tls).into(),
        path: path.clone(),
        port_name: ports.get(*port_index)?.name.clone()?,
        interval_seconds: Number::seconds(h.interval),
        timeout_seconds: Number::seconds(h.timeout),
        http_status_codes_for_ready: statuses.clone(),
        preserve_last_response: h.keep_response.then_some(true),
    })
}

impl From<&HealthCheck> for HealthCheckJson {
    fn from(h: &HealthCheck) -> Self {
        let mut out = Self {
            protocol: String::new(),
            path: None,
            port_index: None,
            port: None,
            command: None,
            delay_seconds: (h.delay > Millis(0)).then(|| Number::seconds(h.delay)),
            startup: (h.purpose == CheckPurpose::Startup).then_some(true),
            grace_period_seconds: Number::seconds(h.grace_period),
            interval_seconds: Number::seconds(h.interval),
            timeout_seconds: Number::seconds(h.timeout),
            max_consecutive_failures: h.max_consecutive_failures,
        };
        // Agents run the checks, which is what Marathon calls MESOS_HTTP and MESOS_TCP.
        match &h.probe {
            HealthProbe::Http {
                tls,
                statuses: _,
                path,
                port_index,
                port,
            } => {
                out.protocol = if *tls { "MESOS_HTTPS" } else { "MESOS_HTTP" }.into();
                out.path = Some(path.clone());
                out.port = *port;
                out.port_index = port.is_none().then_some(*port_index);
            }
            HealthProbe::Tcp { port_index, port } => {
                out.protocol = "MESOS_TCP".into();
                out.port = *port;
                out.port_index = port.is_none().then_some(*port_index);
            }
            HealthProbe::Command { shell } => {
                out.protocol = "COMMAND".into();
                out.command = Some(CommandValue {
                    value: shell.clone(),
                });
            }
        }
        out
    }
}
