//! Pods: definitions of Marathon's documentation, what is refused, and the stored form.

use proptest::prelude::*;
use serde_json::{Value, json};
use waggle_types::{
    CheckPurpose, Command, MountSource, NetworkMode, PortMapping, Resources, ServiceId,
    ServiceSpec, UnixMillis,
};

use super::schema::fits;
use crate::{
    error::ApiError,
    marathon::{pod_from_value, pod_json, pod_schema, spec_from_json, spec_to_json},
};

const NOW: UnixMillis = UnixMillis(1_795_405_620_123);

fn read(v: &Value) -> Result<ServiceSpec, ApiError> {
    pod_from_value(v, None, NOW)
}

/// Much of what a pod may say.
fn whole() -> Value {
    json!({
        "id": "/shop/cart",
        "labels": {"owner": "zeus"},
        "user": "nobody",
        "environment": {"MODE": "prod", "LEVEL": "1"},
        "volumes": [{"name": "etc", "host": "/etc/cart"}, {"name": "spool"}],
        "networks": [{"mode": "container", "name": "dcos"}],
        "scaling": {"kind": "fixed", "instances": 3, "maxInstances": 9},
        "scheduling": {
            "backoff": {"backoff": 1, "backoffFactor": 1.15, "maxLaunchDelay": 3600},
            "upgrade": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0},
            "placement": {
                "constraints": [
                    {"fieldName": "hostname", "operator": "UNIQUE"},
                    {"fieldName": "rack", "operator": "LIKE", "value": "r1|r2"},
                ],
                "acceptedResourceRoles": ["*"],
            },
            "killSelection": "OLDEST_FIRST",
            "unreachableStrategy": {"inactiveAfterSeconds": 60, "expungeAfterSeconds": 120},
        },
        "executorResources": {"cpus": 0.1, "mem": 32, "disk": 10},
        "containers": [
            {
                "name": "web",
                "exec": {"command": {"argv": ["nginx", "-g", "daemon off;"]}, "overrideEntrypoint": true},
                "resources": {"cpus": 1, "mem": 128, "disk": 0, "gpus": 0},
                "image": {"kind": "DOCKER", "id": "nginx:1.25", "forcePull": false, "pullConfig": {"secret": "hub"}},
                "endpoints": [
                    {"name": "http", "containerPort": 80, "hostPort": 0, "protocol": ["tcp"], "labels": {"VIP_0": "/cart:80"}},
                    {"name": "dns", "containerPort": 53, "protocol": ["tcp", "udp"]},
                ],
                "environment": {"LEVEL": "2"},
                "user": "www-data",
                "labels": {"part": "front"},
                "healthCheck": {
                    "http": {"endpoint": "http", "path": "/ping", "scheme": "HTTPS"},
                    "gracePeriodSeconds": 30, "intervalSeconds": 2, "maxConsecutiveFailures": 3,
                    "timeoutSeconds": 20, "delaySeconds": 2,
                },
                "check": {
                    "tcp": {"endpoint": "dns"},
                    "intervalSeconds": 5, "timeoutSeconds": 2, "delaySeconds": 1,
                },
                "volumeMounts": [
                    {"name": "etc", "mountPath": "/etc/nginx", "readOnly": true},
                    {"name": "spool", "mountPath": "/var/spool/nginx", "readOnly": false},
                ],
                "artifacts": [{"uri": "https://example.com/a.tgz", "extract": true, "executable": false, "cache": true, "destPath": "a/b"}],
                "lifecycle": {"killGracePeriodSeconds": 60},
                "linuxInfo": {"seccomp": {"profileName": "tight", "unconfined": false}},
                "tty": true,
            },
            {
                "name": "shipper",
                "exec": {"command": {"shell": "tail -F spool/log"}},
                "resources": {"cpus": 0.1, "mem": 32},
                "volumeMounts": [{"name": "spool", "mountPath": "spool"}],
                "healthCheck": {"exec": {"command": {"shell": "test -e spool/log"}}},
            },
        ],
    })
}

#[test]
fn a_pod_says_what_its_containers_run() {
    let spec = read(&whole()).unwrap();
    let pod = spec.pod.as_deref().unwrap();
    assert_eq!((spec.id.as_str(), spec.instances), ("/shop/cart", 3));
    assert_eq!(
        spec.resources,
        Resources::from_millis(1200, 192_000, 10_000)
    );
    assert_eq!(
        spec.container.network,
        NetworkMode::Container("dcos".into())
    );
    assert_eq!(spec.constraints[1], ["rack", "LIKE", "r1|r2"]);
    let [web, shipper] = pod.containers.as_slice() else {
        panic!("{:?}", pod.containers);
    };
    assert_eq!(
        web.run.command,
        Command::Argv(vec!["nginx".into(), "-g".into(), "daemon off;".into()])
    );
    assert_eq!(web.run.env["LEVEL"], "2", "the container's own wins");
    assert_eq!(web.run.env["MODE"], "prod");
    assert_eq!(web.run.labels["owner"], "zeus");
    assert_eq!(web.run.user.as_deref(), Some("www-data"));
    assert_eq!(shipper.run.user.as_deref(), Some("nobody"));
    assert_eq!(
        shipper.run.command,
        Command::Shell("tail -F spool/log".into())
    );
    let shared = |i: usize, at: usize| &pod.containers[i].run.container.mounts[at].source;
    assert_eq!(shared(0, 0), &MountSource::Host("/etc/cart".into()));
    assert_eq!(shared(0, 1), &MountSource::Sandbox("spool".into()));
    assert_eq!(shared(1, 0), shared(0, 1), "one directory for both");
    // Ports are the pod's, one after the other, and its VIPs are found there.
    let ports: Vec<_> = spec.ports.iter().map(|p| p.mapping.unwrap()).collect();
    let mapped = |container_port, host_port| PortMapping {
        container_port,
        host_port,
    };
    assert_eq!(ports, [mapped(80, Some(0)), mapped(53, None)]);
    assert_eq!(spec.ports[0].vips.len(), 1);
    let purposes: Vec<_> = spec.health_checks.iter().map(|h| h.purpose).collect();
    assert_eq!(
        purposes,
        [
            CheckPurpose::Health,
            CheckPurpose::Readiness,
            CheckPurpose::Health
        ]
    );
}

#[test]
fn a_definition_is_printed_as_it_was_written() {
    let mut printed = pod_json(&read(&whole()).unwrap()).unwrap();
    let mut written = whole();
    written["version"] = json!("2026-11-23T03:47:00.123Z");
    // Defaults are said.
    let shipper = &mut written["containers"][1];
    shipper["resources"] = json!({"cpus": 0.1, "mem": 32, "disk": 0, "gpus": 0});
    shipper["volumeMounts"][0]["readOnly"] = json!(false);
    shipper["healthCheck"] = json!({
        "exec": {"command": {"shell": "test -e spool/log"}},
        "gracePeriodSeconds": 300, "intervalSeconds": 60, "maxConsecutiveFailures": 3,
        "timeoutSeconds": 20, "delaySeconds": 0,
    });
    assert_eq!(printed, written);
    // What is shown may be sent back.
    printed["scaling"]["instances"] = json!(4);
    let id = ServiceId::new("/shop/cart").unwrap();
    assert_eq!(
        pod_from_value(&printed, Some(&id), NOW).unwrap().instances,
        4
    );
}

#[test]
fn the_documentations_pods_are_read() {
    let simple = json!({
        "id": "/simplepod",
        "scaling": {"kind": "fixed", "instances": 1},
        "containers": [{
            "name": "sleep1",
            "exec": {"command": {"shell": "sleep 1000"}},
            "resources": {"cpus": 0.1, "mem": 32}
        }],
        "networks": [{"mode": "host"}]
    });
    let spec = read(&simple).unwrap();
    assert!(spec.ports.is_empty() && spec.container.network == NetworkMode::Host);
    let with_check = json!({
        "id": "/pod-with-healthcheck",
        "containers": [{
            "name": "sleep1",
            "exec": {"command": {"shell": "sleep 1000"}},
            "resources": {"cpus": 0.1, "mem": 32},
            "image": {"id": "nginx", "kind": "DOCKER"},
            "endpoints": [{"name": "web", "containerPort": 80, "protocol": ["http"]}],
            "healthCheck": {"http": {"endpoint": "web", "path": "/ping"}}
        }],
        "networks": [{"mode": "container", "name": "my-virtual-network-name"}]
    });
    assert_eq!(read(&with_check).unwrap().health_checks.len(), 1);
    let ports = json!({
        "id": "/host",
        "containers": [{
            "name": "a",
            "exec": {"command": {"shell": "serve $ENDPOINT_WEB"}},
            "resources": {"cpus": 0.1, "mem": 32},
            "endpoints": [{"name": "web", "hostPort": 8080}, {"name": "any", "hostPort": 0}]
        }]
    });
    let spec = read(&ports).unwrap();
    let asked: Vec<_> = spec
        .ports
        .iter()
        .map(|p| (p.port, p.mapping.unwrap().host_port))
        .collect();
    assert_eq!(asked, [(0, Some(8080)), (0, Some(0))], "no service ports");
    for v in [simple, with_check, ports] {
        assert!(fits(&pod_schema(), &v), "{v}");
    }
}

#[test]
fn a_pod_with_volumes_is_resident() {
    let pod = json!({
        "id": "/shop/db",
        "volumes": [
            {"name": "spool"},
            {"name": "data", "persistent": {"size": 100, "type": "root"}},
            {"name": "wal", "persistent": {"size": 10, "type": "path", "profileName": "fast"}},
        ],
        "containers": [
            {
                "name": "db", "exec": {"command": {"shell": "serve"}}, "resources": {"cpus": 1, "mem": 64},
                "volumeMounts": [
                    {"name": "data", "mountPath": "pg"}, {"name": "spool", "mountPath": "tmp"},
                    {"name": "wal", "mountPath": "pg-wal", "readOnly": true},
                ],
            },
            {"name": "side", "exec": {"command": {"shell": "watch"}}, "resources": {"cpus": 0.1, "mem": 32}},
        ],
    });
    let spec = read(&pod).unwrap();
    assert_eq!(spec.residency, Some(waggle_types::Residency::default()));
    assert_eq!(
        spec.unreachable,
        waggle_types::UnreachableStrategy::Disabled
    );
    assert_eq!(spec.upgrade.maximum_over_capacity_milli, 0);
    let names: Vec<&str> = spec.volumes.iter().map(|v| v.target.as_str()).collect();
    assert_eq!(names, ["data", "wal"]);
    assert_eq!(spec.volumes[1].disk.as_deref(), Some("fast"));
    assert_eq!(
        spec.with_volumes().to_string(),
        "cpus:1.1; mem:96; disk:100; disk.fast:10"
    );
    let of = spec.pod.as_deref().unwrap();
    for c in &of.containers {
        assert_eq!((c.run.role(), c.run.volumes.len()), (spec.role(), 0));
    }
    // What is shared and goes is mounted as ever, what stays when it is known what it is called.
    let mounts = &of.containers[0].run.container.mounts;
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    assert_eq!(of.containers[0].mounts.len(), 3);
    let printed = pod_json(&spec).unwrap();
    assert_eq!(printed["volumes"], pod["volumes"]);
    assert!(fits(&pod_schema(), &pod) && fits(&pod_schema(), &printed));
    assert_eq!(spec_from_json(&spec_to_json(&spec)).unwrap(), spec);
    let mut bad = pod.clone();
    bad["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/abs");
    bad["volumes"][1]["persistent"] = json!({"type": "root"});
    let err = read(&bad).unwrap_err();
    let paths: Vec<&str> = err.details.iter().map(|d| d.path.as_str()).collect();
    for path in [
        "/volumes(1)/persistent/size",
        "/containers(0)/volumeMounts(0)/mountPath",
    ] {
        assert!(paths.contains(&path), "{path}: {paths:?}");
    }
}

#[test]
fn secrets_are_kept_by_reference() {
    let mut pod = whole();
    pod["secrets"] = json!({"pw": {"source": "/shop/password"}, "tls": {"source": "shop/key"}, "spare": {"source": "x"}});
    pod["environment"]["PASSWORD"] = json!({"secret": "pw"});
    pod["containers"][0]["environment"]["TOKEN"] = json!({"secret": "pw"});
    pod["containers"][1]["environment"] = json!({"PASSWORD": "plain"});
    pod["volumes"][1] = json!({"name": "spool", "secret": "tls"});
    let spec = read(&pod).unwrap();
    let used: Vec<&str> = spec.used_secrets().into_iter().collect();
    assert_eq!(used, ["pw", "tls"]);
    let [web, shipper] = spec.pod.as_deref().unwrap().containers.as_slice() else {
        panic!("{spec:?}");
    };
    let names: Vec<&str> = web.run.secrets.env.keys().map(String::as_str).collect();
    assert_eq!(names, ["PASSWORD", "TOKEN"]);
    assert_eq!(web.run.secrets.files[0].target, "/var/spool/nginx");
    // The container's own wins.
    assert_eq!(shipper.run.env["PASSWORD"], "plain");
    assert!(shipper.run.secrets.env.is_empty());
    let printed = pod_json(&spec).unwrap();
    for path in [
        "/secrets",
        "/environment",
        "/volumes",
        "/containers/0/environment",
        "/containers/1/environment",
        "/containers/0/volumeMounts",
    ] {
        assert_eq!(printed.pointer(path), pod.pointer(path), "{path}");
    }
    assert!(fits(&pod_schema(), &pod) && fits(&pod_schema(), &printed));
    assert_eq!(spec_from_json(&spec_to_json(&spec)).unwrap(), spec);
    for other in [json!({"host": "/x"}), json!({"persistent": {"size": 1}})] {
        let mut bad = pod.clone();
        let of = bad["volumes"][1].as_object_mut().unwrap();
        of.extend(other.as_object().unwrap().clone());
        let e = read(&bad).unwrap_err();
        let mut named = e.details.iter().map(|d| d.path.as_str());
        assert!(named.any(|p| p == "/volumes(1)/secret"), "{e:?}");
    }
}

fn with(path: &str, value: Value) -> Value {
    let mut out = whole();
    let at = path.rsplit_once('/').unwrap();
    out.pointer_mut(at.0).unwrap()[at.1] = value;
    out
}

#[test]
fn what_is_wrong_is_named_in_the_words_of_pods() {
    for (path, value, field, rule) in [
        ("/id", json!("Shop"), "/id", "lower-case"),
        (
            "/containers",
            json!([]),
            "/containers",
            "must be 1 to 32, is 0",
        ),
        ("/contaners", json!([]), "/contaners", "is not known"),
        (
            "/secrets",
            json!({"a": {"source": "../x"}}),
            "/secrets/a/source",
            "must be a path",
        ),
        (
            "/environment/PASSWORD",
            json!({"secret": "pw"}),
            "/environment/PASSWORD/secret",
            "must be one of secrets, is \"pw\"",
        ),
        (
            "/containers/0/environment/PASSWORD",
            json!({"secret": "pw"}),
            "/containers(0)/environment/PASSWORD/secret",
            "must be one of secrets, is \"pw\"",
        ),
        (
            "/volumes/1/secret",
            json!("pw"),
            "/volumes(1)/secret",
            "must be one of secrets, is \"pw\"",
        ),
        (
            "/scaling/kind",
            json!("auto"),
            "/scaling/kind",
            "must be fixed",
        ),
        (
            "/scaling/instances",
            json!(-1),
            "/scaling/instances",
            "must not be negative",
        ),
        (
            "/scaling/maxInstances",
            json!(2),
            "/scaling/instances",
            "must be at most scaling.maxInstances (2)",
        ),
        (
            "/scheduling/backoff/backoffFactor",
            json!(0.5),
            "/scheduling/backoff/backoffFactor",
            "must be at least 1",
        ),
        (
            "/scheduling/upgrade/minimumHealthCapacity",
            json!(2),
            "/scheduling/upgrade/minimumHealthCapacity",
            "must be at most 1",
        ),
        (
            "/scheduling/killSelection",
            json!("ANY"),
            "/scheduling/killSelection",
            "must be YOUNGEST_FIRST",
        ),
        (
            "/scheduling/placement/constraints",
            json!([{"fieldName": "a", "operator": "NEAR"}]),
            "/scheduling/placement/constraints(0)/operator",
            "must be one of",
        ),
        (
            "/networks",
            json!([{"mode": "mesh"}]),
            "/networks(0)/mode",
            "must be host",
        ),
        (
            "/volumes",
            json!([{"name": "etc", "host": "/etc"}, {"name": "spool", "persistent": {"size": 0}}]),
            "/volumes(1)/persistent/size",
            "must be between 1 and",
        ),
        (
            "/volumes/0/persistent",
            json!({"size": 1}),
            "/volumes(0)/host",
            "must not be set together with persistent",
        ),
        (
            "/volumes",
            json!([{"name": "etc", "persistent": {"size": 1}}, {"name": "spool"}]),
            "/scheduling/unreachableStrategy",
            "must be \"disabled\" where there are persistent volumes",
        ),
        (
            "/executorResources/cpus",
            json!("x"),
            "/executorResources/cpus",
            "must be a number",
        ),
        (
            "/containers/0/name",
            json!("Web"),
            "/containers(0)/name",
            "must be 1 to 63",
        ),
        (
            "/containers/1/name",
            json!("web"),
            "/containers(1)/name",
            "must be unique",
        ),
        (
            "/containers/0/resources/cpus",
            json!(-1),
            "/containers(0)/resources/cpus",
            "must not be negative",
        ),
        (
            "/containers/0/image/kind",
            json!("APPC"),
            "/containers(0)/image/kind",
            "only DOCKER",
        ),
        (
            "/containers/0/image/id",
            json!("a b"),
            "/containers(0)/image/id",
            "must be an image's name",
        ),
        (
            "/containers/0/exec/command",
            json!({"argv": ["a"], "shell": "b"}),
            "/containers(0)/exec/command/shell",
            "must not be set together with args",
        ),
        (
            "/containers/1/exec",
            json!(null),
            "/containers(1)/exec/command/shell",
            "must be set",
        ),
        (
            "/containers/0/endpoints/0/containerPort",
            json!(70000),
            "/containers(0)/endpoints(0)/containerPort",
            "must be between",
        ),
        (
            "/containers/0/endpoints/0/protocol",
            json!(["sctp"]),
            "/containers(0)/endpoints(0)/protocol",
            "must be tcp",
        ),
        (
            "/containers/1/endpoints",
            json!([{"name": "http", "containerPort": 81}]),
            "/containers(1)/endpoints(0)/name",
            "must be unique",
        ),
        (
            "/containers/0/endpoints/0/labels/VIP_0",
            json!("cart"),
            "/containers(0)/endpoints(0)/labels/VIP_0",
            "",
        ),
        (
            "/containers/0/healthCheck/http/endpoint",
            json!("x"),
            "/containers(0)/healthCheck/http/endpoint",
            "no endpoint of the container is named",
        ),
        (
            "/containers/0/healthCheck/http/path",
            json!("x"),
            "/containers(0)/healthCheck/http/path",
            "must start with /",
        ),
        (
            "/containers/0/healthCheck/tcp",
            json!({"endpoint": "http"}),
            "/containers(0)/healthCheck",
            "must have one of",
        ),
        (
            "/containers/1/volumeMounts/0/name",
            json!("x"),
            "/containers(1)/volumeMounts(0)/name",
            "must be one of the pod's volumes",
        ),
        (
            "/containers/1/volumeMounts/0/mountPath",
            json!("/abs"),
            "/containers(1)/volumeMounts(0)/mountPath",
            "must be relative to the sandbox",
        ),
        (
            "/containers/0/artifacts/0/uri",
            json!("ftp://x"),
            "/containers(0)/artifacts(0)/uri",
            "must begin with http",
        ),
        (
            "/containers/0/lifecycle/killGracePeriodSeconds",
            json!(-1),
            "/containers(0)/lifecycle/killGracePeriodSeconds",
            "must not be negative",
        ),
    ] {
        let err = read(&with(path, value)).unwrap_err();
        assert_eq!(err.code.http(), 422);
        let found = err.details.iter().find(|d| d.path == field);
        let found = found.unwrap_or_else(|| panic!("{path}: {:?}", err.details));
        assert!(found.errors[0].contains(rule), "{path}: {:?}", found.errors);
    }
    // On the host's network a port is the host's.
    let host = json!({"id": "h", "containers": [{
        "name": "a", "exec": {"command": {"shell": "x"}}, "resources": {"cpus": 1},
        "endpoints": [{"name": "web", "containerPort": 80, "hostPort": 0}, {"name": "two"}]
    }]});
    let err = read(&host).unwrap_err();
    let paths: Vec<&str> = err.details.iter().map(|d| d.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/containers(0)/endpoints(0)/containerPort",
            "/containers(0)/endpoints(1)/hostPort"
        ]
    );
    let other = ServiceId::new("/x").unwrap();
    assert!(pod_from_value(&whole(), Some(&other), NOW).is_err());
}

#[test]
fn the_schema_says_what_is_read() {
    let schema = pod_schema();
    assert!(fits(&schema, &whole()));
    let printed = pod_json(&read(&whole()).unwrap()).unwrap();
    assert!(fits(&schema, &printed), "{printed}");
    for (path, value) in [
        ("/containers", json!([])),
        ("/id", json!(1)),
        ("/containers/0/name", json!("Web")),
        ("/containers/0/healthCheck/http/endpoint", json!(1)),
        ("/containers/0/resources/cpus", json!("1")),
        ("/scaling/instances", json!(-1)),
        ("/unknown", json!(1)),
    ] {
        assert!(!fits(&schema, &with(path, value.clone())), "{path} {value}");
        assert!(read(&with(path, value)).is_err(), "{path}");
    }
}

fn container() -> impl Strategy<Value = Value> {
    let exec = prop_oneof![
        "[a-z ]{1,12}x".prop_map(|s| json!({"command": {"shell": s}})),
        prop::collection::vec("[a-z]{1,5}", 1..4).prop_map(|a| json!({"command": {"argv": a}})),
    ];
    let env = prop::collection::btree_map("[A-Z]{1,4}", "[ -~]{0,9}", 0..3);
    let n_ports = 0usize..3;
    (exec, env, n_ports, any::<bool>(), 1u32..5000, any::<bool>()).prop_map(
        |(exec, env, n_ports, image, cpus, checked)| {
            let endpoints: Vec<Value> = (0..n_ports)
                .map(|i| json!({"name": format!("p{i}"), "hostPort": 0}))
                .collect();
            let mut out = json!({
                "exec": exec,
                "environment": env,
                "endpoints": endpoints,
                "resources": {"cpus": f64::from(cpus) / 1000.0, "mem": 32},
                "volumeMounts": [{"name": "v", "mountPath": "at"}],
            });
            if image {
                out["image"] = json!({"kind": "DOCKER", "id": "a"});
                out["exec"]["overrideEntrypoint"] = json!(true);
            }
            if checked && n_ports > 0 {
                out["healthCheck"] = json!({"tcp": {"endpoint": "p0"}});
            }
            out
        },
    )
}

proptest! {
    #[test]
    fn the_stored_form_loses_nothing(
        mut containers in prop::collection::vec(container(), 1..5),
        env in prop::collection::btree_map("[A-Z]{1,4}", "[a-z]{0,4}", 0..3),
        n in 0u32..50,
    ) {
        for (i, c) in containers.iter_mut().enumerate() {
            c["name"] = json!(format!("c{i}"));
            for p in c["endpoints"].as_array_mut().unwrap() {
                let name = format!("{}-{i}", p["name"].as_str().unwrap());
                p["name"] = json!(name);
            }
            if c.get("healthCheck").is_some() {
                c["healthCheck"]["tcp"]["endpoint"] = json!(format!("p0-{i}"));
            }
        }
        let pod = json!({
            "id": "p", "containers": containers, "environment": env,
            "scaling": {"instances": n}, "volumes": [{"name": "v"}],
        });
        prop_assert!(fits(&pod_schema(), &pod), "{}", pod);
        let spec = read(&pod).unwrap();
        prop_assert_eq!(spec_from_json(&spec_to_json(&spec)).unwrap(), spec);
    }
}
