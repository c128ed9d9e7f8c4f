//! Real definitions in, errors by field and rule out, and no loss in the stored form.

use proptest::{collection::vec, option, prelude::*};
use serde_json::{Value, json};
use waggle_types::{
    Command, HealthProbe, Millis, Protocol, ScalarKind, ServiceId, ServiceSpec, UnixMillis,
    UnreachableStrategy, VipLabel,
};

use super::*;
use crate::error::ApiError;

mod any_container;
mod asked;
mod checks;
mod containers;
mod groups;
mod hostile;
mod pods;
mod schema;

const NOW: UnixMillis = UnixMillis(1_795_405_620_123);

fn create(v: &Value) -> Result<ServiceSpec, ApiError> {
    parse_app(v.to_string().as_bytes(), ParseMode::Create, NOW)
}

fn put(old: &ServiceSpec, v: &Value) -> Result<ServiceSpec, ApiError> {
    let mode = ParseMode::Put {
        id: &old.id,
        existing: Some(old),
        partial: true,
    };
    app_from_value(v, mode, NOW)
}

/// From the DC/OS documentation's tutorial on named VIPs, with a check as its UI writes them.
fn nginx() -> Value {
    json!({
        "id": "/mygroup/web",
        "cmd": "nginx -g 'daemon off;'",
        "instances": 3,
        "cpus": 0.1,
        "mem": 64,
        "networks": [{"mode": "host"}],
        "portDefinitions": [
            {"port": 0, "protocol": "tcp", "name": "http", "labels": {"VIP_0": "/web:80"}},
            {"port": 0, "protocol": "udp,tcp", "labels": {"VIP_1": "11.1.2.3:53", "owner": "dns"}}
        ],
        "healthChecks": [{
            "gracePeriodSeconds": 300, "intervalSeconds": 2.5, "timeoutSeconds": 20,
            "maxConsecutiveFailures": 3, "portIndex": 0, "path": "/healthz",
            "protocol": "MESOS_HTTP", "ipProtocol": "IPv4", "delaySeconds": 15
        }],
        "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.2},
        "env": {"A": "1"},
        "labels": {"team": "web"},
        "constraints": [["hostname", "UNIQUE"]],
        "unreachableStrategy": {"inactiveAfterSeconds": 60, "expungeAfterSeconds": 120}
    })
}

#[test]
fn a_documented_definition_parses() {
    let s = create(&nginx()).unwrap();
    assert_eq!(s.id, ServiceId::new("/mygroup/web").unwrap());
    assert_eq!(s.version.to_string(), "2026-11-23T03:47:00.123Z");
    assert_eq!(s.command, Command::Shell("nginx -g 'daemon off;'".into()));
    assert_eq!(s.resources.get(ScalarKind::Cpus).0, 100);
    assert_eq!(s.resources.get(ScalarKind::Mem).0, 64_000);
    let vip = VipLabel::Named {
        name: "web".into(),
        port: 80,
    };
    assert_eq!(s.ports[0].vips, [vip]);
    assert_eq!(s.ports[1].protocols, [Protocol::Tcp, Protocol::Udp]);
    assert_eq!(s.health_checks[0].interval, Millis(2500));
    assert_eq!(s.upgrade.maximum_over_capacity_milli, 200);
    let HealthProbe::Http { path, .. } = &s.health_checks[0].probe else {
        panic!("{:?}", s.health_checks)
    };
    assert_eq!(path, "/healthz");
}

#[test]
fn defaults_are_marathons() {
    let s = create(&json!({"id": "sleep", "cmd": "sleep 100"})).unwrap();
    assert_eq!(
        spec_to_json(&s),
        concat!(
            r#"{"backoffFactor":1.15,"backoffSeconds":1,"cmd":"sleep 100","constraints":[],"cpus":1,"#,
            r#""disk":0,"env":{},"gpus":0,"healthChecks":[],"id":"/sleep","instances":1,"#,
            r#""killSelection":"YOUNGEST_FIRST","labels":{},"maxLaunchDelaySeconds":300,"mem":128,"#,
            r#""networks":[{"mode":"host"}],"#,
            r#""portDefinitions":[{"labels":{},"name":"default","port":0,"protocol":"tcp"}],"#,
            r#""requirePorts":false,"taskKillGracePeriodSeconds":3,"#,
            r#""unreachableStrategy":{"expungeAfterSeconds":0,"inactiveAfterSeconds":0},"#,
            r#""upgradeStrategy":{"maximumOverCapacity":1,"minimumHealthCapacity":1},"#,
            r#""version":"2026-11-23T03:47:00.123Z"}"#
        )
    );
}

#[test]
fn forms_that_mean_the_same_are_accepted() {
    let s = create(
        &json!({"id": "a", "args": ["/bin/sleep", "1"], "ports": [8080, 0],
        "requirePorts": true, "container": {"type": "MESOS", "volumes": []}, "cmd": null,
        "fetch": [], "uris": [], "dependencies": [], "acceptedResourceRoles": ["*"],
        "unreachableStrategy": "disabled", "instances": 2.0, "tasksRunning": 7,
        "executor": "//cmd", "version": "2020-01-01T00:00:00Z", "_comment": "kept out"}),
    )
    .unwrap();
    assert_eq!(
        s.command,
        Command::Argv(vec!["/bin/sleep".into(), "1".into()])
    );
    assert_eq!(
        s.ports.iter().map(|p| p.port).collect::<Vec<_>>(),
        [8080, 0]
    );
    assert_eq!(s.unreachable, UnreachableStrategy::Disabled);
    assert_eq!(s.instances, 2);
    assert_eq!(s.version.0, NOW);
}

/// One table of every rule: what is changed in a fine definition, and what is said.
#[test]
fn errors_name_field_and_rule() {
    let cases = [
        (json!({"id": null}), "id: must be set"),
        (json!({"id": 7}), "id: must be a string, is a number"),
        (
            json!({"id": "/Web"}),
            "id: must be a path of lower-case labels ([a-z0-9] with inner - or .) joined by /, is \"/Web\"",
        ),
        (json!({"cpus": -1}), "cpus: must not be negative, is -1"),
        (json!({"cpus": "1"}), "cpus: must be a number, is a string"),
        (json!({"mem": true}), "mem: must be a number, is a boolean"),
        (
            json!({"instances": -1}),
            "instances: must not be negative, is -1",
        ),
        (
            json!({"instances": 1.5}),
            "instances: must be a whole number, is 1.5",
        ),
        (
            json!({"instances": 4_000_000_000_u32}),
            "instances: must be between 0 and 100000, is 4000000000",
        ),
        (
            json!({"instances": "3"}),
            "instances: must be a whole number, is a string",
        ),
        (json!({"cmd": null}), "cmd: cmd or args must be set"),
        (json!({"cmd": " "}), "cmd: must not be empty"),
        (
            json!({"args": ["x"]}),
            "cmd: must not be set together with args",
        ),
        (
            json!({"portDefinitions": [{"port": 70_000}]}),
            "portDefinitions[0].port: must be between 0 and 65535, is 70000",
        ),
        (
            json!({"portDefinitions": [{"port": 0}, {"port": -1}]}),
            "portDefinitions[1].port: must be between 0 and 65535, is -1",
        ),
        (
            json!({"portDefinitions": [{"port": 1}, {"port": 1}]}),
            "portDefinitions[1].port: must be unique, 1 is also portDefinitions[0]",
        ),
        (
            json!({"portDefinitions": [{"protocol": "sctp"}]}),
            "portDefinitions[0].protocol: must be tcp, udp or udp,tcp, is \"sctp\"",
        ),
        (
            json!({"portDefinitions": null, "ports": [65_536]}),
            "ports[0]: must be between 0 and 65535, is 65536",
        ),
        (
            json!({"portDefinitions": [{"labels": {"VIP_0": "web"}}]}),
            "portDefinitions[0].labels.VIP_0: must be name:port or ip:port, is \"web\"",
        ),
        (
            json!({"portDefinitions": [{"labels": {"VIP_0": "/web:80"}}, {"labels": {"VIP_0": "web:80"}}]}),
            "portDefinitions[1].labels.VIP_0: VIP \"web:80\" is already defined by portDefinitions[0].labels.VIP_0",
        ),
        (
            json!({"env": {"A": 1}}),
            "env.A: must be a string, is a number",
        ),
        (json!({"env": []}), "env: must be an object, is a list"),
        (
            json!({"healthChecks": [{"portIndex": 2}]}),
            "healthChecks[0].portIndex: must be below the number of ports (2), is 2",
        ),
        (
            json!({"healthChecks": [{"protocol": "COMMAND"}]}),
            "healthChecks[0].command: must be set for protocol COMMAND",
        ),
        (
            json!({"healthChecks": [{"path": "x"}]}),
            "healthChecks[0].path: must start with / and hold no space, is \"x\"",
        ),
        (
            json!({"healthChecks": [{"intervalSeconds": 0}]}),
            "healthChecks[0].intervalSeconds: must be at least 0.1, is 0",
        ),
        (
            json!({"upgradeStrategy": {"minimumHealthCapacity": 1.5}}),
            "upgradeStrategy.minimumHealthCapacity: must be at most 1, is 1.5",
        ),
        (
            json!({"backoffFactor": 0.5}),
            "backoffFactor: must be at least 1, is 0.5",
        ),
        (
            json!({"constraints": [["a", "NEAR"]]}),
            "constraints[0][1]: must be one of CLUSTER, GROUP_BY, IS, LIKE, MAX_PER, UNIQUE, UNLIKE, is \"NEAR\"",
        ),
        (
            json!({"residency": {"taskLostBehavior": "WAIT_FOREVER"}}),
            "residency: needs persistent volumes in container.volumes",
        ),
        (
            json!({"instnaces": 3}),
            "instnaces: is not a field of an app, did you mean instances?",
        ),
        (
            json!({"cpu": 3}),
            "cpu: is not a field of an app, did you mean cpus?",
        ),
    ];
    for (change, want) in cases {
        let mut app = nginx();
        for (k, v) in change.as_object().unwrap() {
            app[k] = v.clone();
        }
        let err = create(&app).expect_err(want);
        assert_eq!(err.message, want);
        assert_eq!(err.code.http(), 422, "{want}");
        assert_eq!(err.details.len(), 1, "{want}");
    }
}

#[test]
fn all_errors_are_told_and_bounded() {
    let err = create(&json!({"cpus": -1, "mem": -1})).unwrap_err();
    assert_eq!(err.details.len(), 4, "{err:?}");
    assert!(err.message.ends_with("(and 3 more, see details)"), "{err}");
    let many: Vec<Value> = (0..200).map(|_| json!({"port": -1})).collect();
    let err = create(&json!({"id": "a", "cmd": "x", "portDefinitions": many})).unwrap_err();
    assert_eq!(err.details.len(), 20);
}

#[test]
fn malformed_json_is_a_400_and_other_values_are_not_apps() {
    let err = parse_app(b"{\"id\": ", ParseMode::Create, NOW).unwrap_err();
    assert_eq!(err.code.http(), 400);
    assert_eq!(
        err.message,
        "Invalid JSON: EOF while parsing a value at line 1 column 7"
    );
    let err = parse_app(b"[]", ParseMode::Create, NOW).unwrap_err();
    assert_eq!(err.to_string(), "app: must be an object, is a list");
}

#[test]
fn put_changes_what_is_given_and_nothing_else() {
    let old = create(&nginx()).unwrap();
    let new = put(&old, &json!({"instances": 5})).unwrap();
    assert_eq!(new.instances, 5);
    assert!(new.version > old.version, "a change is a new version");
    assert_eq!(
        ServiceSpec {
            instances: 3,
            version: old.version,
            ..new
        },
        old
    );

    let new = put(
        &old,
        &json!({"args": ["true"], "ports": [0], "healthChecks": []}),
    )
    .unwrap();
    assert_eq!(new.command, Command::Argv(vec!["true".into()]));
    assert_eq!(new.ports.len(), 1);
    assert_eq!(new.ports[0].name, None);

    let err = put(&old, &json!({"id": "/other"})).unwrap_err();
    assert_eq!(
        err.message,
        "id: must be /mygroup/web as in the path, is /other"
    );
    let err = put(&old, &json!({"portDefinitions": []})).unwrap_err();
    assert_eq!(
        err.message,
        "healthChecks[0].portIndex: must be below the number of ports (0), is 0"
    );
}

#[test]
fn get_modify_put_works() {
    let old = create(&nginx()).unwrap();
    let mut app =
        serde_json::to_value(app_json(&old, Counts::default(), vec!["d".into()])).unwrap();
    app["instances"] = json!(7);
    app["tasks"] = json!([]);
    let new = put(&old, &app).unwrap();
    assert_eq!(new.instances, 7);
    assert_eq!(new.ports, old.ports);
}

#[test]
fn a_full_replacement_has_defaults_for_the_rest() {
    let old = create(&nginx()).unwrap();
    let mode = ParseMode::Put {
        id: &old.id,
        existing: Some(&old),
        partial: false,
    };
    let new = app_from_value(&json!({"cmd": "x"}), mode, NOW).unwrap();
    assert_eq!((new.instances, new.env.len()), (1, 0));
}

/// The white-list of marathon-python 0.13's `MarathonApp`.
const APP_KEYS: &str = "acceptedResourceRoles args backoffFactor backoffSeconds cmd constraints \
container cpus dependencies deployments disk env executor fetch gpus healthChecks id instances \
ipAddress killSelection labels lastTaskFailure maxLaunchDelaySeconds mem networks portDefinitions \
ports readinessChecks readinessCheckResults requirePorts residency role secrets storeUrls \
taskKillGracePeriodSeconds taskRateLimit taskStats tasks tasksHealthy tasksRunning tasksStaged \
tasksUnhealthy unreachableStrategy upgradeStrategy uris user version versionInfo";

#[test]
fn an_app_holds_only_keys_that_its_client_knows() {
    let spec = create(&nginx()).unwrap();
    let app = serde_json::to_value(app_json(&spec, Counts::default(), vec![])).unwrap();
    let known: Vec<&str> = APP_KEYS.split(' ').collect();
    for key in app.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "{key}");
    }
    let back: App = serde_json::from_value(app).unwrap();
    assert_eq!(back.definition, AppDefinition::from(&spec));
}

/// Definitions over every key, all valid, on the host's network.
fn definition() -> impl Strategy<Value = Value> {
    let text = "[a-zA-Z0-9 =/\u{e9}\"\\\\]{1,9}x";
    let map = prop::collection::btree_map("[a-zA-Z0-9_]{1,6}", text, 0..3);
    let seconds = (0u64..1_000_000_000_000).prop_map(|ms| ms as f64 / 1000.0);
    let scalar = (0i64..1_000_000_000_000).prop_map(|m| m as f64 / 1000.0);
    let command = prop_oneof![
        text.prop_map(|c| json!({"cmd": c})),
        vec(text, 1..4).prop_map(|a| json!({"args": a})),
    ];
    let port = (
        prop::sample::select(vec!["tcp", "udp", "udp,tcp"]),
        map.clone(),
        option::of(1u16..),
    );
    let ports =
        vec(port, 1..4).prop_map(|ports| {
            let ports = ports.into_iter().enumerate().map(|(i, (p, mut labels, vip))| {
            labels.retain(|k, _| !VipLabel::is_key(k));
            if let Some(port) = vip {
                labels.insert("VIP_0".into(), format!("/g/web{i}:{port}"));
                labels.insert("VIP_1".into(), format!("11.0.0.{i}:{port}"));
            }
            json!({"port": i * 10, "protocol": p, "name": format!("p-{i}"), "labels": labels})
        });
            Value::Array(ports.collect())
        });
    let check = (0u8..5, vec(1_00u64..1_000_000_000, 3), any::<u32>()).prop_map(|(kind, t, n)| {
        let mut h = json!({"gracePeriodSeconds": t[0] as f64 / 1000.0,
            "intervalSeconds": t[1] as f64 / 1000.0, "timeoutSeconds": t[2] as f64 / 1000.0,
            "maxConsecutiveFailures": n});
        let more = match kind {
            0 => json!({"protocol": "HTTP", "path": "/a?b=c", "portIndex": 0}),
            1 => json!({"protocol": "MESOS_HTTP", "port": 8080}),
            2 => json!({"protocol": "TCP"}),
            3 => json!({"protocol": "MESOS_TCP", "port": 1}),
            _ => json!({"protocol": "COMMAND", "command": {"value": "true"}}),
        };
        for (k, v) in more.as_object().unwrap() {
            h[k] = v.clone();
        }
        h
    });
    let unreachable = prop_oneof![
        Just(json!("disabled")),
        (0u32..1_000_000, 0u32..1_000_000)
            .prop_map(|(a, b)| json!({"inactiveAfterSeconds": a, "expungeAfterSeconds": a + b})),
    ];
    (
        (command, ports, vec(check, 0..3), map.clone(), map),
        (
            prop::array::uniform4(scalar),
            prop::array::uniform3(seconds),
        ),
        (
            0u32..=MAX_INSTANCES,
            0u32..=1000,
            0u32..=1000,
            1000u32..1_000_000,
        ),
        (unreachable, any::<bool>(), option::of("[a-z]{1,8}")),
    )
        .prop_map(|(a, b, c, d)| {
            let ((command, ports, checks, env, labels), (s, t)) = (a, b);
            let mut app = json!({
                "id": "/g/a.b/c-d", "portDefinitions": ports, "healthChecks": checks,
                "env": env, "labels": labels, "cpus": s[0], "mem": s[1], "disk": s[2],
                "gpus": s[3], "backoffSeconds": t[0], "maxLaunchDelaySeconds": t[1],
                "taskKillGracePeriodSeconds": t[2], "instances": c.0,
                "upgradeStrategy": {"minimumHealthCapacity": f64::from(c.1) / 1000.0,
                    "maximumOverCapacity": f64::from(c.2) / 1000.0},
                "backoffFactor": f64::from(c.3) / 1000.0, "unreachableStrategy": d.0,
                "requirePorts": d.1, "user": d.2,
                "constraints": [["hostname", "UNIQUE"], ["rack", "MAX_PER", "2"]]
            });
            for (k, v) in command.as_object().unwrap() {
                app[k] = v.clone();
            }
            app
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_stored_form_is_lossless(app in definition(), ms in 0u64..253_402_300_800_000) {
        let spec = app_from_value(&app, ParseMode::Create, UnixMillis(ms)).unwrap();
        prop_assert_eq!(&spec_from_json(&spec_to_json(&spec)).unwrap(), &spec);
        // An empty PATCH changes the version alone.
        let same = put(&spec, &json!({})).unwrap();
        prop_assert_eq!(ServiceSpec { version: spec.version, ..same }, spec);
    }

    /// Any one key set to any small JSON value: a spec that stores losslessly, or a 422.
    #[test]
    fn any_value_anywhere_is_survived(key in prop::sample::select(APP_KEYS.split(' ').collect::<Vec<_>>()), v in small_json()) {
        let mut app = nginx();
        app[key] = v;
        match create(&app) {
            Ok(spec) => prop_assert_eq!(&spec_from_json(&spec_to_json(&spec)).unwrap(), &spec),
            Err(e) => prop_assert_eq!(e.code.http(), 422),
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..100)) {
        let _ = parse_app(&bytes, ParseMode::Create, NOW);
        let _ = spec_from_json(&String::from_utf8_lossy(&bytes));
    }
}

fn small_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..3).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(
                "port|name|labels|type|path|protocol|[a-z]{1,3}",
                inner,
                0..3
            )
            .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}
