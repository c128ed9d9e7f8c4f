//! One table of definitions that nobody means, and what is said of each: which field, by Marathon's path, and which rule.

use super::*;

fn cases() -> Vec<Value> {
    let long = "a".repeat(300);
    let many = |one: Value, n: usize| Value::Array(vec![one; n]);
    let ports = |p: Value| json!({"portDefinitions": [p], "healthChecks": []});
    let checks = |c: Value| json!({"healthChecks": [c]});
    let volume = |v: Value| json!({"container": {"type": "MESOS", "volumes": [v]}});
    vec![
        json!({"id": ""}),
        json!({"id": "/"}),
        json!({"id": "/a/../b"}),
        json!({"id": "/-a"}),
        json!({"id": format!("/{long}")}),
        json!({"cmd": "a\u{0}b"}),
        json!({"cmd": ["x"]}),
        json!({"cmd": null, "args": []}),
        json!({"cmd": null, "args": [""]}),
        json!({"cmd": null, "args": ["x", 7]}),
        json!({"cpus": 1e300}),
        json!({"cpus": null, "mem": "64M"}),
        json!({"disk": -0.5, "gpus": -1}),
        json!({"instances": 1e20}),
        json!({"env": {"": "x"}}),
        json!({"env": {"A=B": "x"}}),
        json!({"env": {"A": null, "B": ["x"]}}),
        json!({"env": {"A": {"secret": "nope"}}}),
        json!({"labels": {"a": 1, "b": {}}}),
        json!({"labels": {"WAGGLE_PLACE": "anywhere"}}),
        ports(json!({"name": "a b"})),
        ports(json!({"port": "80"})),
        ports(json!({"labels": {"VIP_0": "web:99999"}})),
        ports(json!({"labels": {"VIP_0": ":80"}})),
        ports(json!([])),
        json!({"portDefinitions": many(json!({"port": 0}), 257), "healthChecks": []}),
        json!({"networks": "host"}),
        json!({"networks": [{"mode": "warp"}]}),
        json!({"networks": [{"mode": "host"}, {"mode": "container/bridge"}]}),
        json!({"container": []}),
        json!({"container": {"type": "LXC"}}),
        json!({"container": {"type": "DOCKER"}}),
        json!({"container": {"type": "DOCKER", "docker": {"image": "a b"}}}),
        volume(json!({"mode": "RW", "hostPath": "/x"})),
        volume(json!({"containerPath": "x", "mode": "RX", "hostPath": "/x"})),
        volume(json!({"containerPath": "x", "mode": "RW", "hostPath": "/a/../b"})),
        volume(json!({"containerPath": "x", "mode": "RW"})),
        volume(json!({"containerPath": "x", "mode": "RW", "persistent": {"size": 0}})),
        volume(
            json!({"containerPath": "x", "mode": "RW", "persistent": {"size": 1, "type": "mount"}}),
        ),
        volume(json!({"containerPath": "x", "mode": "RW", "persistent": {
            "size": 1, "type": "path", "profileName": "fast", "constraints": [["path", "LIKE", "/mnt/.*"]]}})),
        json!({"healthChecks": {}}),
        json!({"healthChecks": [null]}),
        checks(json!({"protocol": "TCP", "port": 0})),
        checks(json!({"path": "/a b"})),
        checks(json!({"timeoutSeconds": 0, "gracePeriodSeconds": -1})),
        checks(json!({"port": 80, "portIndex": 0})),
        json!({"healthChecks": many(json!({"portIndex": 0}), 33)}),
        json!({"readinessChecks": [{"portName": "http", "timeoutSeconds": 60}]}),
        json!({"upgradeStrategy": {"minimumHealthCapacity": -0.1, "maximumOverCapacity": "1"}}),
        json!({"upgradeStrategy": 1}),
        json!({"backoffSeconds": -1, "maxLaunchDelaySeconds": "long"}),
        json!({"unreachableStrategy": "sometimes"}),
        json!({"unreachableStrategy": 7}),
        json!({"unreachableStrategy": {"inactiveAfterSeconds": 10, "expungeAfterSeconds": 5}}),
        json!({"constraints": "hostname"}),
        json!({"constraints": [["hostname"]]}),
        json!({"constraints": [["hostname", "UNIQUE", "x", "y"]]}),
        json!({"constraints": [["hostname", 2]]}),
        json!({"constraints": [["hostname", "unique"]]}),
        json!({"fetch": [{}]}),
        json!({"fetch": [{"uri": "gopher://x/y"}]}),
        json!({"fetch": [{"uri": 7}]}),
        json!({"dependencies": [""]}),
        json!({"killSelection": 7}),
        json!({"taskKillGracePeriodSeconds": -1}),
        json!({"requirePorts": "yes"}),
        json!({"role": "a b"}),
        json!({"user": ""}),
        json!({"resourceLimits": {"cpus": 0.01}}),
        json!({"residency": 7}),
        json!({"executor": "/usr/bin/mine", "taskRateLimit": 3}),
        json!({"Instances": 3}),
    ]
}

#[test]
fn what_nobody_means_is_refused_field_by_field() {
    let mut out = String::new();
    for change in cases() {
        let mut app = nginx();
        for (k, v) in change.as_object().unwrap() {
            app[k] = v.clone();
        }
        let text: String = change.to_string().chars().take(120).collect();
        out.push_str(&format!("{text}\n"));
        let Err(err) = create(&app) else {
            panic!("taken: {change}");
        };
        assert_eq!(err.code.http(), 422, "{change}");
        assert!(!err.details.is_empty(), "{change}");
        // Clients print the message alone: it names the first of them.
        assert!(err.message.contains(&err.details[0].errors[0]), "{err:?}");
        for d in &err.details {
            assert!(!d.path.is_empty() && d.path.starts_with('/'), "{err:?}");
            out.push_str(&format!("    {}: {}\n", d.path, d.errors.join("; ")));
        }
    }
    insta::assert_snapshot!(out);
}
