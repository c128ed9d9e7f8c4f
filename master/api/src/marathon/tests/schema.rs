//! The published schema against what the parser accepts.

use proptest::prelude::*;
use serde_json::{Value, json};
use waggle_types::UnixMillis;

use crate::marathon::{ParseMode, app_from_value, app_schema};

/// As much of JSON Schema as ours uses; an unknown keyword is a defect of this test.
pub(super) fn fits(schema: &Value, v: &Value) -> bool {
    let Some(rules) = schema.as_object() else {
        return schema != &Value::Bool(false);
    };
    rules.iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "title" | "description" | "readOnly" => true,
        "type" => {
            let is = |kind: &Value| match kind.as_str().unwrap() {
                "object" => v.is_object(),
                "array" => v.is_array(),
                "string" => v.is_string(),
                "boolean" => v.is_boolean(),
                "null" => v.is_null(),
                "number" => v.is_number(),
                "integer" => v.as_f64().is_some_and(|n| n.fract() == 0.0),
                other => panic!("type {other}"),
            };
            match rule {
                Value::Array(kinds) => kinds.iter().any(is),
                one => is(one),
            }
        }
        "enum" => rule.as_array().unwrap().contains(v),
        "anyOf" => rule.as_array().unwrap().iter().any(|s| fits(s, v)),
        "minimum" => v.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
        "maximum" => v.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
        "minLength" => v
            .as_str()
            .is_none_or(|s| s.chars().count() as u64 >= rule.as_u64().unwrap()),
        "pattern" => v.as_str().is_none_or(|s| {
            regex::Regex::new(rule.as_str().unwrap())
                .unwrap()
                .is_match(s)
        }),
        "minItems" => v
            .as_array()
            .is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => v
            .as_array()
            .is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()),
        "prefixItems" => v.as_array().is_none_or(|a| {
            a.iter()
                .zip(rule.as_array().unwrap())
                .all(|(v, s)| fits(s, v))
        }),
        "items" => v.as_array().is_none_or(|a| {
            let before = rules
                .get("prefixItems")
                .map_or(0, |p| p.as_array().unwrap().len());
            a.iter().skip(before).all(|v| fits(rule, v))
        }),
        "required" => v.as_object().is_none_or(|o| {
            rule.as_array()
                .unwrap()
                .iter()
                .all(|k| o.contains_key(k.as_str().unwrap()))
        }),
        "properties" => v.as_object().is_none_or(|o| {
            rule.as_object()
                .unwrap()
                .iter()
                .all(|(k, s)| o.get(k).is_none_or(|v| fits(s, v)))
        }),
        "additionalProperties" => v.as_object().is_none_or(|o| {
            let known = rules.get("properties").and_then(Value::as_object);
            o.iter()
                .filter(|(k, _)| known.is_none_or(|p| !p.contains_key(*k)))
                .all(|(_, v)| fits(rule, v))
        }),
        other => panic!("keyword {other}"),
    })
}

fn parsed(app: &Value) -> Result<(), Vec<String>> {
    let parsed = app_from_value(app, ParseMode::Create, UnixMillis(1));
    parsed.map(|_| ()).map_err(|e| {
        let mut all: Vec<String> = e.details.into_iter().flat_map(|d| d.errors).collect();
        all.push(e.message);
        all
    })
}

/// Definitions that between them have every key.
fn corpus() -> Vec<Value> {
    vec![
        json!({"id": "/a", "cmd": "x"}),
        json!({
            "id": "/shop/web", "args": ["nginx", "-g"], "user": "www", "instances": 3,
            "cpus": 0.5, "mem": 64, "disk": 1, "gpus": 0, "env": {"A": "1", "S": {"secret": "s"}},
            "secrets": {"s": {"source": "a/b"}}, "labels": {"x": "y"}, "role": "dev", "acceptedResourceRoles": ["*"],
            "constraints": [["hostname", "UNIQUE"], ["rack", "GROUP_BY", "2"]],
            "dependencies": ["/db", "../other"], "killSelection": "OLDEST_FIRST", "executor": "",
            "portDefinitions": [{"port": 0, "name": "http", "protocol": "udp,tcp", "labels": {"VIP_0": "/web:80"}},
                {"port": 10001}],
            "requirePorts": false, "tty": false,
            "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/h", "portIndex": 0, "intervalSeconds": 1.5,
                "timeoutSeconds": 2, "gracePeriodSeconds": 3, "maxConsecutiveFailures": 0, "delaySeconds": 1,
                "startup": true, "ignoreHttp1xx": true, "ipProtocol": "IPv4"},
                {"protocol": "COMMAND", "command": {"value": "true"}}, {"protocol": "TCP", "port": 80}],
            "readinessChecks": [{"name": "r", "portName": "http", "path": "/", "protocol": "HTTP", "intervalSeconds": 3,
                "timeoutSeconds": 1, "httpStatusCodesForReady": [200, 204], "preserveLastResponse": false}],
            "check": {"http": {"portIndex": 0, "path": "/", "scheme": "HTTP"}, "delaySeconds": 1, "intervalSeconds": 2,
                "timeoutSeconds": 1},
            "fetch": [{"uri": "https://x/y.tgz", "extract": true, "executable": false, "cache": true, "destPath": "z"}],
            "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0},
            "unreachableStrategy": {"inactiveAfterSeconds": 1, "expungeAfterSeconds": 2},
            "backoffSeconds": 1, "backoffFactor": 1.15, "maxLaunchDelaySeconds": 300,
            "taskKillGracePeriodSeconds": 5, "resourceLimits": {"cpus": "unlimited", "mem": 128},
            "version": "x", "tasksRunning": 3, "deployments": [], "storeUrls": [], "taskRateLimit": null,
        }),
        json!({
            "id": "c", "networks": [{"mode": "container", "name": "dcos"}], "uris": ["http://x/y"],
            "container": {"type": "DOCKER", "docker": {"image": "nginx:1.25", "forcePullImage": true,
                "privileged": false, "parameters": [{"key": "hostname", "value": "web"}],
                "pullConfig": {"secret": "reg"}},
                "linuxInfo": {"seccomp": {"unconfined": true}, "ipcInfo": {"mode": "PRIVATE", "shmSize": 16}},
                "volumes": [{"containerPath": "/a", "hostPath": "/b", "mode": "RO"},
                    {"containerPath": "/e", "external": {"provider": "dvdi", "name": "v", "size": 1, "options": {"a": "b"}}}],
                "portMappings": [{"containerPort": 80, "hostPort": 0, "servicePort": 10000, "protocol": "tcp",
                    "name": "http", "labels": {"a": "b"}, "networkNames": ["dcos"]}]},
            "check": {"exec": {"command": {"shell": "true"}}},
            "unreachableStrategy": "disabled",
        }),
        json!({
            "id": "/db", "cmd": "x", "residency": {"taskLostBehavior": "WAIT_FOREVER", "relaunchEscalationTimeoutSeconds": 9},
            "container": {"volumes": [{"containerPath": "data", "mode": "RW", "persistent": {"size": 100, "type": "root"}},
                {"containerPath": "s", "secret": "s"}]}, "secrets": {"s": {"source": "x"}},
            "ports": [0, 10002], "check": {"tcp": {"port": 1}},
        }),
        json!({
            "id": "old", "ipAddress": {"networkName": "dcos", "discovery": {"ports": [{"number": 80, "name": "http"}]}},
            "container": {"docker": {"image": "x", "network": "USER"}},
        }),
        json!({
            "id": "bridged", "container": {"docker": {"image": "x", "network": "BRIDGE",
                "portMappings": [{"containerPort": 80}]}},
        }),
    ]
}

#[test]
fn what_the_parser_accepts_fits() {
    let schema = app_schema();
    for app in corpus() {
        assert_eq!(parsed(&app), Ok(()), "{app}");
        assert!(fits(&schema, &app), "{app}");
    }
    for (bad, why) in [
        (json!({"cmd": "x"}), "no id"),
        (json!({"id": "/a", "cpus": "1"}), "a text for a number"),
        (json!({"id": "/a", "instances": 1.5}), "a half instance"),
        (json!({"id": "/a", "killSelection": "ANY"}), "no such word"),
        (json!({"id": "/a", "residency": {"x": 1}}), "no such key"),
        (json!([]), "a list"),
    ] {
        assert!(!fits(&schema, &bad), "{why}");
    }
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let schema = app_schema();
    let keys = schema["properties"].as_object().unwrap().keys().cloned();
    let known: Vec<String> = super::super::keys::known()
        .into_iter()
        .map(Into::into)
        .collect();
    assert_eq!(keys.collect::<Vec<_>>(), known);
}

/// Every place in a value, as the keys and positions that lead there.
fn places(v: &Value, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    if !at.is_empty() {
        out.push(at.clone());
    }
    let below: Vec<(String, &Value)> = match v {
        Value::Object(o) => o.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(a) => a
            .iter()
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        _ => Vec::new(),
    };
    for (key, v) in below {
        at.push(key);
        places(v, at, out);
        at.pop();
    }
}

fn set(v: &mut Value, at: &[String], new: Value) {
    let place = at.iter().fold(v, |v, key| match v {
        Value::Array(a) => &mut a[key.parse::<usize>().unwrap()],
        v => &mut v[key.as_str()],
    });
    *place = new;
}

/// A rule of one value's type, range or words, which the schema has, too.
fn is_of_one_value(rule: &str) -> bool {
    [
        "must be a string",
        "must be a number",
        "must be a whole number",
        "must be true or false",
        "must be a list",
        "must be an object",
        "must not be negative",
    ]
    .iter()
    .any(|r| rule.contains(r))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn parser_and_schema_agree(
        which in 0usize..6,
        place in any::<prop::sample::Index>(),
        new in prop::sample::select(vec![
            Value::Null, json!(true), json!(-1), json!(0), json!(2), json!(1.5), json!(70_000), json!(""), json!("x"),
            json!("/"), json!("tcp"), json!([]), json!(["x"]), json!([1]), json!([{}]), json!({}), json!({"x": "y"}), json!({"x": 1}),
        ]),
    ) {
        let mut app = corpus().swap_remove(which);
        let mut all = Vec::new();
        places(&app, &mut Vec::new(), &mut all);
        let at: &Vec<String> = place.get(&all);
        set(&mut app, at, new);
        let fit = fits(&app_schema(), &app);
        match parsed(&app) {
            Ok(()) => prop_assert!(fit, "accepted, but does not fit: {app}"),
            Err(rules) => prop_assert!(
                !fit || !rules.iter().any(|r| is_of_one_value(r)),
                "fits, but {rules:?}: {app}"
            ),
        }
    }
}
