//! The JSON Schema (draft 2020-12) of an app's definition, for editors and for checks without this program.
//!
//! It says of each key what the parser says of its type, range and words; rules between keys are the parser's alone. A
//! test holds the two against each other: what is accepted fits the schema, and a value of a wrong type does not.

use serde_json::{Map, Value, json};

use super::{
    keys::{NOT_YET, READ_ONLY},
    parse::{MAX_INSTANCES, MAX_PORTS, MAX_SCALAR},
};

/// The schema as a document of its own.
pub fn app_schema() -> Value {
    let mut out = object(&top());
    out["type"] = "object".into();
    out["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    out["title"] = "Marathon app definition".into();
    out["required"] = json!(["id"]);
    out["properties"]["id"]["type"] = "string".into();
    out
}

pub(super) type Keys = Vec<(&'static str, Value)>;

fn top() -> Keys {
    let mut keys = vec![
        (
            "id",
            about(
                pattern("^/*[a-z0-9][a-z0-9./-]*$"),
                "Path of the app: /group/name",
            ),
        ),
        ("cmd", about(text(), "Run by /bin/sh -c; or args")),
        (
            "args",
            about(list(text_only()), "Program and arguments, without a shell"),
        ),
        ("user", about(filled(), "Unix user to run as")),
        (
            "env",
            about(map(env()), "Environment: a text, or a secret by name"),
        ),
        (
            "labels",
            about(map(text_only()), "For people and for load balancers"),
        ),
        (
            "instances",
            about(
                integer(0, u64::from(MAX_INSTANCES)),
                "How many; 1 by default",
            ),
        ),
        ("cpus", about(number(0.0, MAX_SCALAR), "1 by default")),
        ("mem", about(number(0.0, MAX_SCALAR), "MiB; 128 by default")),
        ("disk", about(number(0.0, MAX_SCALAR), "MiB")),
        ("gpus", number(0.0, MAX_SCALAR)),
        (
            "resourceLimits",
            nullable(strict(&vec![("cpus", limit()), ("mem", limit())])),
        ),
        (
            "constraints",
            about(
                bounded(constraint(), 64),
                "[field, operator, value?]: field is hostname, @region, @zone or an attribute",
            ),
        ),
        ("acceptedResourceRoles", list(text_only())),
        ("role", text()),
        (
            "dependencies",
            about(
                bounded(text_only(), 256),
                "Apps and groups that are deployed before; .. leads to the group above",
            ),
        ),
        (
            "residency",
            nullable(strict(&vec![
                ("relaunchEscalationTimeoutSeconds", integer(1, 366 * 86_400)),
                (
                    "taskLostBehavior",
                    words(&["WAIT_FOREVER", "RELAUNCH_AFTER_TIMEOUT"]),
                ),
            ])),
        ),
        ("secrets", secrets()),
        ("container", nullable(object(&container()))),
        (
            "networks",
            about(
                bounded(
                    object(&vec![
                        (
                            "mode",
                            words(&["host", "container", "container/bridge", "none"]),
                        ),
                        ("name", text()),
                    ]),
                    1,
                ),
                "The host's network by default",
            ),
        ),
        (
            "ipAddress",
            about(
                nullable(object(&vec![
                    ("networkName", text()),
                    (
                        "discovery",
                        nullable(object(&vec![("ports", list(object(&port_mapping())))])),
                    ),
                ])),
                "Before networks",
            ),
        ),
        (
            "portDefinitions",
            about(
                bounded(object(&port("port")), MAX_PORTS),
                "Ports on the host's network; one by default",
            ),
        ),
        (
            "ports",
            about(
                bounded(number_between(0, 65_535), MAX_PORTS),
                "Before portDefinitions",
            ),
        ),
        ("requirePorts", boolean()),
        ("healthChecks", bounded(health_check(), 32)),
        ("readinessChecks", bounded(object(&readiness_check()), 32)),
        ("check", nullable(object(&check()))),
        ("fetch", bounded(required(object(&fetch()), &["uri"]), 128)),
        ("uris", about(list(text_only()), "Before fetch")),
        (
            "upgradeStrategy",
            nullable(object(&vec![
                (
                    "minimumHealthCapacity",
                    about(number(0.0, 1.0), "Share of instances that stay healthy"),
                ),
                (
                    "maximumOverCapacity",
                    about(
                        number(0.0, 1.0),
                        "Share of instances that there may be more",
                    ),
                ),
            ])),
        ),
        (
            "unreachableStrategy",
            json!({ "anyOf": [
                { "enum": ["disabled", null] },
                object(&vec![("inactiveAfterSeconds", seconds()), ("expungeAfterSeconds", seconds())]),
            ]}),
        ),
        ("killSelection", words(&["YOUNGEST_FIRST", "OLDEST_FIRST"])),
        (
            "taskKillGracePeriodSeconds",
            about(seconds(), "Between SIGTERM and SIGKILL; 3 by default"),
        ),
        ("backoffSeconds", seconds()),
        ("backoffFactor", number(1.0, 1000.0)),
        ("maxLaunchDelaySeconds", seconds()),
        ("tty", boolean()),
        ("executor", words(&["", "//cmd"])),
    ];
    for key in READ_ONLY {
        keys.push((key, json!({ "readOnly": true })));
    }
    for key in NOT_YET {
        let empty = json!({ "enum": [null, "", [], {}] });
        keys.push((key, about(empty, "Not supported yet")));
    }
    keys
}

fn container() -> Keys {
    vec![
        ("type", words(&["MESOS", "DOCKER"])),
        ("docker", nullable(required(object(&docker()), &["image"]))),
        (
            "volumes",
            bounded(required(object(&volume()), &["containerPath"]), 64),
        ),
        ("portMappings", list(object(&port_mapping()))),
        ("linuxInfo", linux_info()),
    ]
}

pub(super) fn linux_info() -> Value {
    let seccomp = object(&vec![("profileName", text()), ("unconfined", boolean())]);
    let ipc = object(&vec![
        ("mode", words(&["PRIVATE", "SHARE_PARENT"])),
        ("shmSize", integer(1, u64::from(u32::MAX))),
    ]);
    nullable(object(&vec![
        ("seccomp", nullable(seccomp)),
        ("ipcInfo", nullable(ipc)),
    ]))
}

fn docker() -> Keys {
    let parameter = object(&vec![("key", text_only()), ("value", text())]);
    vec![
        ("image", text_only()),
        ("forcePullImage", boolean()),
        ("privileged", boolean()),
        ("network", words(&["HOST", "BRIDGE", "NONE", "USER"])),
        ("parameters", list(required(parameter, &["key"]))),
        ("portMappings", list(object(&port_mapping()))),
        (
            "pullConfig",
            nullable(required(object(&vec![("secret", filled())]), &["secret"])),
        ),
    ]
}

/// `persistent` of a volume.
pub(super) fn persistent() -> Value {
    let keys = vec![
        ("size", about(integer(1, 1 << 30), "MiB")),
        ("type", words(&["root", "path", "mount"])),
        ("profileName", text()),
        ("constraints", json!({})),
    ];
    required(strict(&keys), &["size"])
}

fn volume() -> Keys {
    let external = object(&vec![
        ("provider", text_only()),
        ("name", text_only()),
        ("size", about(integer(1, 4_000_000), "GiB")),
        ("options", map(text_only())),
    ]);
    vec![
        ("containerPath", text_only()),
        ("mode", words(&["RO", "RW"])),
        ("hostPath", text()),
        ("persistent", nullable(persistent())),
        (
            "external",
            nullable(required(external, &["provider", "name"])),
        ),
        ("secret", text()),
    ]
}

fn port(key: &'static str) -> Keys {
    vec![
        (key, integer(0, 65_535)),
        ("name", text()),
        ("protocol", words(&["tcp", "udp", "udp,tcp", "tcp,udp"])),
        (
            "labels",
            about(map(text_only()), "VIP_0: /name:80 makes a virtual IP"),
        ),
    ]
}

fn port_mapping() -> Keys {
    let mut keys = port("servicePort");
    keys.extend([
        ("containerPort", integer(0, 65_535)),
        ("hostPort", integer(0, 65_535)),
        // In `ipAddress.discovery`.
        ("number", integer(1, 65_535)),
        ("networkNames", list(text_only())),
    ]);
    keys
}

fn health_check() -> Value {
    let mut keys = intervals();
    keys.extend([
        (
            "protocol",
            words(&[
                "HTTP",
                "HTTPS",
                "TCP",
                "COMMAND",
                "MESOS_HTTP",
                "MESOS_HTTPS",
                "MESOS_TCP",
            ]),
        ),
        ("path", text()),
        ("port", integer(1, 65_535)),
        ("portIndex", integer(0, u64::from(u32::MAX))),
        ("command", nullable(object(&vec![("value", text())]))),
        ("gracePeriodSeconds", seconds()),
        (
            "maxConsecutiveFailures",
            about(
                integer(0, u64::from(u32::MAX)),
                "0: never killed; 3 by default",
            ),
        ),
        (
            "startup",
            about(boolean(), "Until it passes once, no other check runs"),
        ),
        ("ignoreHttp1xx", boolean()),
        ("ipProtocol", words(&["IPv4"])),
    ]);
    object(&keys)
}

fn readiness_check() -> Keys {
    vec![
        ("name", text()),
        ("protocol", words(&["HTTP", "HTTPS"])),
        ("path", text()),
        ("portName", text()),
        ("intervalSeconds", seconds()),
        ("timeoutSeconds", seconds()),
        (
            "httpStatusCodesForReady",
            bounded(number_between(100, 999), 64),
        ),
        ("preserveLastResponse", boolean()),
    ]
}

fn check() -> Keys {
    let mut keys = intervals();
    let at = || {
        vec![
            ("port", integer(1, 65_535)),
            ("portIndex", integer(0, u64::from(u32::MAX))),
        ]
    };
    let mut http = at();
    http.extend([("path", text()), ("scheme", words(&["HTTP", "HTTPS"]))]);
    let command = object(&vec![("shell", text())]);
    keys.extend([
        ("http", nullable(object(&http))),
        ("tcp", nullable(object(&at()))),
        (
            "exec",
            nullable(object(&vec![("command", nullable(command))])),
        ),
    ]);
    keys
}

pub(super) fn intervals() -> Keys {
    vec![
        ("intervalSeconds", seconds()),
        ("timeoutSeconds", seconds()),
        ("delaySeconds", seconds()),
    ]
}

pub(super) fn fetch() -> Keys {
    vec![
        ("uri", text_only()),
        ("destPath", text()),
        ("outputFile", text()),
        ("sha256", text()),
        ("extract", boolean()),
        ("executable", boolean()),
        ("cache", boolean()),
    ]
}

/// The field, the operator, and for some a value.
pub(super) fn constraint() -> Value {
    let operators = [
        "CLUSTER", "GROUP_BY", "IS", "LIKE", "MAX_PER", "UNIQUE", "UNLIKE",
    ];
    json!({
        "type": "array",
        "prefixItems": [{ "type": "string" }, { "enum": operators }],
        "items": { "type": "string" },
        "minItems": 2,
        "maxItems": 3,
    })
}

pub(super) fn secrets() -> Value {
    let source = required(strict(&vec![("source", text_only())]), &["source"]);
    about(map(source), "Secrets by reference")
}

pub(super) fn env() -> Value {
    let secret = required(strict(&vec![("secret", text_only())]), &["secret"]);
    json!({ "anyOf": [text_only(), secret] })
}

fn limit() -> Value {
    json!({ "anyOf": [{ "enum": ["unlimited", null] }, number(0.0, MAX_SCALAR)] })
}

// Absent and `null` are the same for every key, but not for elements of lists and values of maps.

pub(super) fn text_only() -> Value {
    json!({ "type": "string" })
}

pub(super) fn text() -> Value {
    nullable(text_only())
}

pub(super) fn filled() -> Value {
    json!({ "type": ["string", "null"], "minLength": 1 })
}

pub(super) fn pattern(pattern: &str) -> Value {
    json!({ "type": ["string", "null"], "pattern": pattern })
}

pub(super) fn words(of: &[&str]) -> Value {
    let mut all: Vec<Value> = of.iter().map(|w| (*w).into()).collect();
    all.push(Value::Null);
    json!({ "enum": all })
}

pub(super) fn boolean() -> Value {
    json!({ "type": ["boolean", "null"] })
}

pub(super) fn number(min: f64, max: f64) -> Value {
    json!({ "type": ["number", "null"], "minimum": min, "maximum": max })
}

pub(super) fn seconds() -> Value {
    number(0.0, 1e9)
}

pub(super) fn integer(min: u64, max: u64) -> Value {
    nullable(number_between(min, max))
}

fn number_between(min: u64, max: u64) -> Value {
    json!({ "type": "integer", "minimum": min, "maximum": max })
}

pub(super) fn list(of: Value) -> Value {
    let mut out = json!({ "type": ["array", "null"] });
    out["items"] = of;
    out
}

pub(super) fn bounded(of: Value, max: usize) -> Value {
    let mut out = list(of);
    out["maxItems"] = max.into();
    out
}

pub(super) fn map(of: Value) -> Value {
    let mut out = json!({ "type": ["object", "null"] });
    out["additionalProperties"] = of;
    out
}

pub(super) fn object(keys: &Keys) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.clone()))
        .collect();
    json!({ "type": "object", "properties": properties })
}

/// An object with these keys and no others.
pub(super) fn strict(keys: &Keys) -> Value {
    let mut out = object(keys);
    out["additionalProperties"] = false.into();
    out
}

pub(super) fn required(mut schema: Value, keys: &[&str]) -> Value {
    schema["required"] = json!(keys);
    schema
}

pub(super) fn nullable(mut schema: Value) -> Value {
    let kind = schema["type"].clone();
    if kind.is_string() {
        schema["type"] = json!([kind, "null"]);
    }
    schema
}

pub(super) fn about(mut schema: Value, text: &str) -> Value {
    schema["description"] = text.into();
    schema
}
