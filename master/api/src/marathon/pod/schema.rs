//! The JSON Schema (draft 2020-12) of a pod's definition; see [`app_schema`](super::super::app_schema).

use serde_json::{Value, json};

use super::{
    super::{
        parse::{MAX_INSTANCES, MAX_SCALAR},
        schema::{
            Keys, about, boolean, bounded, constraint, env, fetch, filled, integer, intervals,
            linux_info, list, map, nullable, number, object, pattern, persistent, required,
            seconds, secrets, strict, text, text_only, words,
        },
    },
    parse::MAX_CONTAINERS,
};

/// The schema as a document of its own.
pub fn pod_schema() -> Value {
    let mut out = strict(&top());
    out["type"] = "object".into();
    out["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    out["title"] = "Marathon pod definition".into();
    out["required"] = json!(["id", "containers"]);
    out["properties"]["id"]["type"] = "string".into();
    out
}

fn name() -> Value {
    about(
        pattern("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
        "Unique in the pod",
    )
}

fn top() -> Keys {
    let mut of_containers = bounded(container(), MAX_CONTAINERS);
    of_containers["minItems"] = 1.into();
    of_containers["type"] = "array".into();
    let network = object(&vec![
        (
            "mode",
            words(&["host", "container", "container/bridge", "none"]),
        ),
        ("name", text()),
    ]);
    let volume = strict(&vec![
        ("name", name()),
        (
            "host",
            about(
                text(),
                "A path of the host; without it the volume goes with its instance",
            ),
        ),
        (
            "persistent",
            about(
                nullable(persistent()),
                "Kept on its node over restarts of its instance, which comes back to it",
            ),
        ),
        (
            "secret",
            about(text(), "A file with the value of one of secrets"),
        ),
    ]);
    vec![
        (
            "id",
            about(
                pattern("^/*[a-z0-9][a-z0-9./-]*$"),
                "Path of the pod: /group/name",
            ),
        ),
        (
            "containers",
            about(
                of_containers,
                "Started together, on one node, and ended together",
            ),
        ),
        ("labels", map(text_only())),
        ("version", text()),
        ("user", about(filled(), "Unix user of all containers")),
        (
            "environment",
            about(
                map(env()),
                "For all containers: a text, or a secret by name",
            ),
        ),
        ("secrets", secrets()),
        (
            "volumes",
            about(
                bounded(required(volume, &["name"]), 64),
                "What containers may mount",
            ),
        ),
        (
            "networks",
            about(bounded(network, 1), "The host's network by default"),
        ),
        (
            "scaling",
            nullable(strict(&vec![
                ("kind", words(&["fixed"])),
                (
                    "instances",
                    about(integer(0, u64::from(MAX_INSTANCES)), "1 by default"),
                ),
                ("maxInstances", integer(0, u64::from(MAX_INSTANCES))),
            ])),
        ),
        ("scheduling", nullable(strict(&scheduling()))),
        (
            "executorResources",
            about(
                nullable(strict(&vec![
                    ("cpus", number(0.0, MAX_SCALAR)),
                    ("mem", number(0.0, MAX_SCALAR)),
                    ("disk", number(0.0, MAX_SCALAR)),
                ])),
                "Held by each instance beside its containers; none by default",
            ),
        ),
        ("role", text()),
    ]
}

fn scheduling() -> Keys {
    let named = strict(&vec![
        ("fieldName", text_only()),
        (
            "operator",
            words(&[
                "CLUSTER", "GROUP_BY", "IS", "LIKE", "MAX_PER", "UNIQUE", "UNLIKE",
            ]),
        ),
        ("value", text()),
    ]);
    let one = json!({ "anyOf": [required(named, &["fieldName", "operator"]), constraint()] });
    vec![
        (
            "backoff",
            nullable(strict(&vec![
                ("backoff", seconds()),
                ("backoffFactor", number(1.0, 1000.0)),
                ("maxLaunchDelay", seconds()),
            ])),
        ),
        (
            "upgrade",
            nullable(object(&vec![
                ("minimumHealthCapacity", number(0.0, 1.0)),
                ("maximumOverCapacity", number(0.0, 1.0)),
            ])),
        ),
        (
            "placement",
            nullable(strict(&vec![
                ("constraints", bounded(one, 64)),
                ("acceptedResourceRoles", list(text_only())),
            ])),
        ),
        ("killSelection", words(&["YOUNGEST_FIRST", "OLDEST_FIRST"])),
        (
            "unreachableStrategy",
            json!({ "anyOf": [
                { "enum": ["disabled"] },
                nullable(object(&vec![
                    ("inactiveAfterSeconds", seconds()),
                    ("expungeAfterSeconds", seconds()),
                ])),
            ]}),
        ),
    ]
}

fn container() -> Value {
    let command = || {
        strict(&vec![
            ("shell", about(text(), "Run by /bin/sh -c")),
            ("argv", list(text_only())),
        ])
    };
    let exec = strict(&vec![
        ("command", command()),
        (
            "overrideEntrypoint",
            about(boolean(), "argv replaces the image's entry point"),
        ),
    ]);
    let resources = strict(&vec![
        ("cpus", about(number(0.0, MAX_SCALAR), "1 by default")),
        ("mem", about(number(0.0, MAX_SCALAR), "MiB; 128 by default")),
        ("disk", about(number(0.0, MAX_SCALAR), "MiB")),
        ("gpus", number(0.0, MAX_SCALAR)),
    ]);
    let image = strict(&vec![
        ("kind", words(&["DOCKER"])),
        ("id", text_only()),
        ("forcePull", boolean()),
        (
            "pullConfig",
            nullable(required(object(&vec![("secret", filled())]), &["secret"])),
        ),
        ("labels", nullable(strict(&Vec::new()))),
    ]);
    let endpoint = strict(&vec![
        ("name", text_only()),
        ("containerPort", integer(0, 65_535)),
        (
            "hostPort",
            about(integer(0, 65_535), "0: any of the agent's"),
        ),
        (
            "protocol",
            json!({ "anyOf": [protocol(), list(protocol())] }),
        ),
        (
            "labels",
            about(map(text_only()), "VIP_0: /name:80 makes a virtual IP"),
        ),
        ("networkNames", list(text_only())),
    ]);
    let mount = strict(&vec![
        ("name", text_only()),
        ("mountPath", text_only()),
        ("readOnly", boolean()),
    ]);
    let keys = vec![
        ("name", name()),
        ("exec", nullable(required(exec, &["command"]))),
        ("resources", resources),
        ("endpoints", list(required(endpoint, &["name"]))),
        ("image", nullable(required(image, &["id"]))),
        ("environment", map(env())),
        ("user", filled()),
        ("healthCheck", nullable(health_check())),
        ("check", nullable(strict(&probes(intervals())))),
        (
            "volumeMounts",
            list(required(mount, &["name", "mountPath"])),
        ),
        ("artifacts", list(required(object(&fetch()), &["uri"]))),
        ("labels", map(text_only())),
        (
            "lifecycle",
            nullable(strict(&vec![("killGracePeriodSeconds", seconds())])),
        ),
        ("tty", boolean()),
        ("linuxInfo", linux_info()),
    ];
    required(strict(&keys), &["name", "resources"])
}

fn protocol() -> Value {
    json!({ "enum": ["tcp", "udp", "http", "https"] })
}

fn health_check() -> Value {
    let mut keys = probes(intervals());
    keys.extend([
        ("gracePeriodSeconds", seconds()),
        (
            "maxConsecutiveFailures",
            about(
                integer(0, u64::from(u32::MAX)),
                "0: never killed; 3 by default",
            ),
        ),
    ]);
    strict(&keys)
}

fn probes(mut keys: Keys) -> Keys {
    let http = strict(&vec![
        ("endpoint", about(text_only(), "By name, of the container")),
        ("path", text()),
        ("scheme", words(&["HTTP", "HTTPS"])),
    ]);
    let tcp = strict(&vec![("endpoint", text_only())]);
    let shell = required(strict(&vec![("shell", text_only())]), &["shell"]);
    keys.extend([
        ("http", nullable(required(http, &["endpoint"]))),
        ("tcp", nullable(required(tcp, &["endpoint"]))),
        (
            "exec",
            nullable(required(strict(&vec![("command", shell)]), &["command"])),
        ),
    ]);
    keys
}
