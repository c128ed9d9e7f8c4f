//! Any definition with a container: nothing is lost in the stored form, and nothing panics.

use std::collections::BTreeSet;

use super::containers::new_style;
use super::*;

/// Definitions with containers, all valid.
fn contained() -> impl Strategy<Value = Value> {
    let parameter = prop::sample::select(vec![
        ("cap-add", "NET_ADMIN"),
        ("cap-drop", "ALL"),
        ("device", "/dev/fuse:/dev/fuse:rw"),
        ("env", "X=1"),
        ("hostname", "h"),
        ("workdir", "/w"),
        ("user", "nobody"),
        ("shm-size", "100m"),
        ("ulimit", "nofile=10"),
        ("ulimit", "nproc=10:-1"),
        ("read-only", "true"),
        ("security-opt", "seccomp=unconfined"),
        ("security-opt", "seccomp=p.json"),
        ("security-opt", "no-new-privileges=false"),
        ("tmpfs", "/tmp/x:ro"),
        ("volume", "/a:/mnt/a"),
        ("pids-limit", "7"),
        ("blkio-weight", "10"),
        ("ipc", "host"),
        ("userns", "private"),
    ]);
    let parameters = vec(parameter, 0..6).prop_map(|items| {
        let mut seen = BTreeSet::new();
        let once = items.into_iter().filter(|(key, value)| {
            // Mounts are refused when they meet.
            !matches!(*key, "tmpfs" | "volume") || seen.insert(*value)
        });
        let each = once.map(|(key, value)| json!({"key": key, "value": value}));
        Value::Array(each.collect())
    });
    let volume = |i: usize, kind: u8| match kind {
        0 => {
            json!({"containerPath": format!("/v/{i}"), "hostPath": format!("/h/{i}"), "mode": "RO"})
        }
        1 => json!({"containerPath": format!("v/{i}"), "hostPath": format!("s/{i}")}),
        _ => json!({"containerPath": format!("/v/{i}"), "external": {
            "name": format!("n{i}"), "provider": "csi", "size": i + 1, "options": {"a": "b"}}}),
    };
    let volumes = vec(0u8..3, 0..4).prop_map(move |kinds| {
        let each = kinds.into_iter().enumerate();
        Value::Array(each.map(|(i, kind)| volume(i, kind)).collect())
    });
    let mapping = (
        1u16..,
        option::of(0u16..2),
        any::<bool>(),
        prop::sample::select(vec!["tcp", "udp", "udp,tcp"]),
    );
    let mappings = vec(mapping, 0..4).prop_map(|items| {
        let each = items
            .into_iter()
            .enumerate()
            .map(|(i, (port, host, named, protocol))| {
                let i = u16::try_from(i).unwrap();
                let mut m = json!({"containerPort": port, "protocol": protocol, "labels": {"a": "b"},
                    "servicePort": i * 10});
                if let Some(host) = host {
                    m["hostPort"] = json!(host * (1000 + i));
                }
                if named {
                    m["name"] = json!(format!("p{i}"));
                }
                m
            });
        Value::Array(each.collect())
    });
    let network = prop::sample::select(vec![
        json!([]),
        json!([{"mode": "host"}]),
        json!([{"mode": "none"}]),
        json!([{"mode": "container/bridge"}]),
        json!([{"mode": "container", "name": "dcos"}]),
    ]);
    let fetch = vec((any::<[bool; 3]>(), option::of("[a-z]{1,5}")), 0..3).prop_map(|items| {
        let each = items.into_iter().map(|(b, to)| {
            json!({"uri": "http://h/f.tgz", "extract": b[0], "executable": b[1], "cache": b[2], "destPath": to})
        });
        Value::Array(each.collect())
    });
    let limit = || {
        prop_oneof![
            Just(json!(null)),
            Just(json!("unlimited")),
            Just(json!(512.25))
        ]
    };
    let linux_info = prop::sample::select(vec![
        json!(null),
        json!({}),
        json!({"seccomp": {"profileName": "a.json"}}),
        json!({"ipcInfo": {"mode": "PRIVATE", "shmSize": 7}}),
        json!({"ipcInfo": {"mode": "SHARE_PARENT"}}),
    ]);
    let command = prop::sample::select(vec![
        json!({}),
        json!({"cmd": "run"}),
        json!({"args": ["a", "b"]}),
    ]);
    (
        (parameters, volumes, mappings, option::of(mapping_default())),
        (network, fetch, [limit(), limit()], linux_info),
        (command, any::<[bool; 4]>(), option::of("[a-z]{1,5}")),
    )
        .prop_map(|(a, b, c)| {
            let (parameters, volumes, mappings, explicit) = a;
            let (networks, fetch, limits, linux_info) = b;
            let (command, [force, privileged, tty, mesos], secret) = c;
            let mode = networks[0]["mode"].as_str().unwrap_or("host").to_owned();
            let mut app = json!({"id": "/a", "networks": networks, "fetch": fetch, "tty": tty,
                "resourceLimits": {"cpus": limits[0], "mem": limits[1]},
                "container": {"type": if mesos { "MESOS" } else { "DOCKER" }, "volumes": volumes,
                    "docker": {"image": "r/i:t", "forcePullImage": force, "privileged": privileged,
                        "parameters": parameters}}});
            if mesos {
                app["container"]["linuxInfo"] = linux_info;
            }
            if let Some(secret) = secret {
                app["container"]["docker"]["pullConfig"] = json!({"secret": secret});
            }
            if mode.starts_with("container") && explicit.is_some() {
                app["container"]["portMappings"] = mappings;
            }
            for (k, v) in command.as_object().unwrap() {
                app[k] = v.clone();
            }
            app
        })
}

/// Whether mappings are given at all.
fn mapping_default() -> impl Strategy<Value = ()> {
    Just(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn stored_containers_are_lossless(app in contained()) {
        let spec = match create(&app) {
            Ok(spec) => spec,
            // The one combination that is refused.
            Err(e) => {
                prop_assert!(e.message.contains("SHARE_PARENT"), "{}", e);
                return Ok(());
            }
        };
        prop_assert_eq!(&spec_from_json(&spec_to_json(&spec)).unwrap(), &spec);
        let same = put(&spec, &json!({})).unwrap();
        prop_assert_eq!(ServiceSpec { version: spec.version, ..same }, spec);
    }

    /// Any key below `container` set to any small JSON value: a spec that stores losslessly, or a 422.
    #[test]
    fn any_value_in_a_container_is_survived(
        path in prop::sample::select(vec!["/container", "/container/docker", "/container/linuxInfo",
            "/container/portMappings/0", "/container/volumes/0", "/networks/0", "/fetch/0"]),
        key in "[a-zA-Z]{1,5}|image|network|parameters|portMappings|hostPort|containerPort|volumes|uri|name|mode|external|hostPath|seccomp|ipcInfo",
        v in small_json(),
    ) {
        let mut app = new_style();
        app["fetch"] = json!([{"uri": "/a"}]);
        app["container"]["linuxInfo"] = json!({"seccomp": {"unconfined": false}});
        app["container"]["volumes"] = json!([{"containerPath": "/a", "hostPath": "/a"}]);
        app.pointer_mut(path).unwrap()[key.as_str()] = v;
        match create(&app) {
            Ok(spec) => prop_assert_eq!(&spec_from_json(&spec_to_json(&spec)).unwrap(), &spec),
            Err(e) => prop_assert_eq!(e.code.http(), 422),
        }
    }
}
