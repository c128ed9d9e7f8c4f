//! Containers, networks, volumes, fetched files, limits.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    Ceiling, ContainerSpec, ContainerType, FetchUri, ImageSpec, Milli, MountSource, NetworkMode,
    PortMapping, Rlimit, Seccomp,
};

use super::*;

/// As the DC/OS documentation writes a bridged container, before and since Marathon 1.5.
fn old_style() -> Value {
    json!({
        "id": "/web", "cpus": 0.1, "mem": 64,
        "container": {
            "type": "DOCKER",
            "docker": {
                "image": "registry:5000/team/nginx:1.25", "network": "BRIDGE", "forcePullImage": true,
                "portMappings": [
                    {"containerPort": 80, "hostPort": 0, "servicePort": 10_080, "protocol": "tcp",
                     "name": "http", "labels": {"VIP_0": "/web:80"}},
                    {"containerPort": 53, "hostPort": 8053, "protocol": "udp,tcp"}
                ]
            }
        }
    })
}

pub(super) fn new_style() -> Value {
    let mut app = old_style();
    let mappings = app["container"]["docker"]["portMappings"].take();
    app["container"]["docker"] =
        json!({"image": "registry:5000/team/nginx:1.25", "forcePullImage": true});
    app["container"]["portMappings"] = mappings;
    app["networks"] = json!([{"mode": "container/bridge"}]);
    app
}

/// An app with a container of type DOCKER, as given.
pub(super) fn docker(container: &Value) -> Value {
    json!({"id": "/web", "mem": 64, "container": {"type": "DOCKER", "docker": container}})
}

fn with_parameter(key: &str, value: &str) -> Value {
    docker(&json!({"image": "app", "parameters": [{"key": key, "value": value}]}))
}

pub(super) fn lossless(spec: &ServiceSpec) {
    assert_eq!(spec_from_json(&spec_to_json(spec)).unwrap(), *spec);
}

#[test]
fn a_bridged_container_is_the_same_in_both_words() {
    let spec = create(&old_style()).unwrap();
    assert_eq!(create(&new_style()).unwrap(), spec);
    assert_eq!(spec.command, Command::Image(Vec::new()));
    assert_eq!(spec.container_type, ContainerType::Docker);
    let image = ImageSpec {
        reference: "registry:5000/team/nginx:1.25".into(),
        force_pull: true,
        credentials: None,
    };
    let want = ContainerSpec {
        image: Some(image),
        network: NetworkMode::Bridge,
        ..ContainerSpec::default()
    };
    assert_eq!(spec.container, want);
    let mapping = |container_port, host_port| {
        Some(PortMapping {
            container_port,
            host_port: Some(host_port),
        })
    };
    assert_eq!(spec.ports[0].mapping, mapping(80, 0));
    assert_eq!((spec.ports[0].port, spec.ports[0].vips.len()), (10_080, 1));
    assert_eq!(spec.ports[1].mapping, mapping(53, 8053));
    lossless(&spec);
    assert_eq!(
        spec_to_json(&spec),
        concat!(
            r#"{"backoffFactor":1.15,"backoffSeconds":1,"constraints":[],"#,
            r#""container":{"docker":{"forcePullImage":true,"image":"registry:5000/team/nginx:1.25","#,
            r#""parameters":[],"privileged":false},"portMappings":["#,
            r#"{"containerPort":80,"hostPort":0,"labels":{"VIP_0":"/web:80"},"name":"http","#,
            r#""protocol":"tcp","servicePort":10080},"#,
            r#"{"containerPort":53,"hostPort":8053,"labels":{},"protocol":"udp,tcp","servicePort":0}],"#,
            r#""type":"DOCKER","volumes":[]},"cpus":0.1,"#,
            r#""disk":0,"env":{},"gpus":0,"healthChecks":[],"id":"/web","instances":1,"#,
            r#""killSelection":"YOUNGEST_FIRST","labels":{},"maxLaunchDelaySeconds":300,"mem":64,"#,
            r#""networks":[{"mode":"container/bridge"}],"requirePorts":false,"#,
            r#""taskKillGracePeriodSeconds":3,"#,
            r#""unreachableStrategy":{"expungeAfterSeconds":0,"inactiveAfterSeconds":0},"#,
            r#""upgradeStrategy":{"maximumOverCapacity":1,"minimumHealthCapacity":1},"#,
            r#""version":"2026-11-23T03:47:00.123Z"}"#
        )
    );
}

#[test]
fn what_an_image_runs() {
    let command = |more: Value| {
        let mut app = docker(&json!({"image": "app"}));
        for (k, v) in more.as_object().unwrap() {
            app[k] = v.clone();
        }
        create(&app).unwrap().command
    };
    assert_eq!(command(json!({})), Command::Image(vec![]));
    assert_eq!(command(json!({"args": []})), Command::Image(vec![]));
    let args = vec!["--port".to_owned(), "80".to_owned()];
    assert_eq!(command(json!({"args": args})), Command::Image(args));
    let shell = Command::Shell("sleep 1".into());
    assert_eq!(command(json!({"cmd": "sleep 1"})), shell);
}

#[test]
fn networks_by_all_their_names() {
    let mode = |app: Value| {
        let spec = create(&app).unwrap();
        lossless(&spec);
        (spec.container.network, spec.ports.len())
    };
    let bridged = docker(&json!({"image": "a", "network": "BRIDGE"}));
    // As in Marathon, one port by default, the same inside and outside.
    assert_eq!(mode(bridged), (NetworkMode::Bridge, 1));
    let host = docker(&json!({"image": "a", "network": "HOST"}));
    assert_eq!(mode(host), (NetworkMode::Host, 1));
    let none = docker(&json!({"image": "a", "network": "NONE"}));
    assert_eq!(mode(none), (NetworkMode::None, 0));
    let mut user = docker(&json!({"image": "a", "network": "USER"}));
    user["ipAddress"] = json!({"networkName": "dcos"});
    assert_eq!(mode(user), (NetworkMode::Container("dcos".into()), 0));
    let app = json!({"id": "a", "cmd": "x", "networks": [{"mode": "container", "name": "dcos"}],
        "container": {"portMappings": [{"containerPort": 80}, {"hostPort": 8080}]}});
    assert_eq!(
        mode(app.clone()),
        (NetworkMode::Container("dcos".into()), 2)
    );
    let inside_only = create(&app).unwrap().ports[0].mapping.unwrap();
    assert_eq!(inside_only.host_port, None);
    let mut no_ports = docker(&json!({"image": "a", "network": "BRIDGE"}));
    no_ports["container"]["portMappings"] = json!([]);
    assert_eq!(mode(no_ports), (NetworkMode::Bridge, 0));
}

#[test]
fn docker_parameters_say_what_the_spec_holds() {
    let parameters: Vec<Value> = [
        ("cap-add", "net_admin"),
        ("cap-drop", "CAP_CHOWN"),
        ("device", "/dev/fuse"),
        ("env", "A=b=c"),
        ("hostname", "db-1"),
        ("workdir", "/srv"),
        ("user", "1000:1000"),
        ("shm-size", "1g"),
        ("ulimit", "nofile=1024:4096"),
        ("ulimit", "core=-1"),
        ("read-only", "true"),
        ("security-opt", "no-new-privileges:false"),
        ("security-opt", "seccomp=strict.json"),
        ("tmpfs", "/run:size=16m,noexec"),
        ("volume", "/srv/data:/data:ro"),
        ("pids-limit", "100"),
        ("blkio-weight", "500"),
        ("memory-swap", "64m"),
        ("userns", "private"),
        ("init", "true"),
        ("privileged", "false"),
        ("ipc", "private"),
    ]
    .iter()
    .map(|(key, value)| json!({"key": key, "value": value}))
    .collect();
    let app = docker(&json!({"image": "app", "parameters": parameters, "privileged": true}));
    let spec = create(&app).unwrap();
    lossless(&spec);
    assert_eq!(spec.env["A"], "b=c");
    assert_eq!(spec.user.as_deref(), Some("1000:1000"));
    let c = &spec.container;
    assert_eq!(c.hostname.as_deref(), Some("db-1"));
    assert_eq!(c.work_dir.as_deref(), Some("/srv"));
    let i = &c.isolation;
    assert_eq!(i.cap_add, BTreeSet::from(["NET_ADMIN".to_owned()]));
    assert_eq!(i.cap_drop, BTreeSet::from(["CHOWN".to_owned()]));
    let devices = BTreeMap::from([("/dev/fuse".to_owned(), "rwm".to_owned())]);
    assert_eq!(i.devices, devices);
    assert!(i.privileged && i.read_only_root && i.user_namespace && i.new_privileges);
    assert_eq!(i.seccomp, Seccomp::Profile("strict.json".into()));
    let l = &c.limits;
    assert_eq!(
        (l.shm_mib, l.pids, l.io_weight),
        (Some(1024), Some(100), Some(500))
    );
    let rlimit = |soft, hard| Rlimit { soft, hard };
    assert_eq!(l.rlimits["nofile"], rlimit(Some(1024), Some(4096)));
    assert_eq!(l.rlimits["core"], rlimit(None, None));
    assert_eq!(c.mounts.len(), 2);
    let data = (&*c.mounts[0].target, &c.mounts[0].source);
    assert_eq!(data, ("/data", &MountSource::Host("/srv/data".into())));
    assert!(c.mounts[0].read_only);
    assert_eq!(c.mounts[1].source, MountSource::Memory(16));
}

#[test]
fn volumes_fetched_files_and_limits() {
    let sum = "a".repeat(64);
    let app = json!({
        "id": "/db", "cmd": "./run", "cpus": 0.5, "mem": 64, "tty": true,
        "container": {"type": "MESOS", "docker": {"image": "db", "pullConfig": {"secret": "team"}},
            "linuxInfo": {"seccomp": {"unconfined": true}, "ipcInfo": {"mode": "PRIVATE", "shmSize": 32}},
            "volumes": [
                {"containerPath": "/etc/ssl", "hostPath": "/etc/ssl", "mode": "RO"},
                {"containerPath": "cache", "hostPath": "shared-cache", "mode": "RW"},
                {"containerPath": "/data", "mode": "RW", "external": {
                    "name": "db-0", "provider": "csi", "size": 10, "options": {"fs": "ext4"}}}
            ]},
        "fetch": [{"uri": "https://example.com/a.tgz", "cache": true, "destPath": "in/a.tgz",
            "extract": false, "sha256": sum.to_uppercase()}],
        "uris": ["http://ignored.example.com/b.zip"],
        "resourceLimits": {"cpus": "unlimited", "mem": 128.5}
    });
    let spec = create(&app).unwrap();
    lossless(&spec);
    let c = &spec.container;
    assert_eq!(
        c.image.as_ref().unwrap().credentials.as_deref(),
        Some("team")
    );
    assert_eq!(c.isolation.seccomp, Seccomp::Unconfined);
    assert_eq!(c.limits.shm_mib, Some(32));
    assert_eq!(c.limits.cpus, Ceiling::Unlimited);
    assert_eq!(c.limits.mem, Ceiling::At(Milli(128_500)));
    assert!(c.tty);
    // The outer ones first, wherever they were written.
    assert_eq!(
        c.mounts[2].source,
        MountSource::Sandbox("shared-cache".into())
    );
    let MountSource::External(e) = &c.mounts[0].source else {
        panic!("{:?}", c.mounts)
    };
    assert_eq!((&*e.name, e.size_mib), ("db-0", 10_240));
    let fetch = FetchUri {
        uri: "https://example.com/a.tgz".into(),
        extract: false,
        executable: false,
        cache: true,
        output_file: Some("in/a.tgz".into()),
        sha256: Some(sum),
    };
    assert_eq!(c.fetch, [fetch]);
    // What Mesos's containerizer was told in linuxInfo is told there.
    let shown: Value = serde_json::from_str(&spec_to_json(&spec)).unwrap();
    assert_eq!(shown["container"]["linuxInfo"]["ipcInfo"]["shmSize"], 32);
    assert_eq!(shown["container"]["docker"]["parameters"], json!([]));
    // The older key means the same, and unpacks archives alone.
    let old = create(&json!({"id": "a", "cmd": "x", "uris": ["/opt/a.tar.gz", "file:///opt/b"]}));
    let old = old.unwrap().container.fetch;
    assert_eq!((old[0].extract, old[1].extract), (true, false));
}

#[test]
fn what_is_wrong_with_a_container_is_said() {
    let image = |more: Value| {
        let mut c = json!({"image": "app"});
        for (k, v) in more.as_object().unwrap() {
            c[k] = v.clone();
        }
        docker(&c)
    };
    let container = |more: Value| json!({"id": "/a", "cmd": "x", "container": more});
    let top = |more: Value| {
        let mut app = json!({"id": "/a", "cmd": "x", "cpus": 1, "mem": 64});
        for (k, v) in more.as_object().unwrap() {
            app[k] = v.clone();
        }
        app
    };
    let volume = |v: Value| container(json!({"docker": {"image": "a"}, "volumes": [v]}));
    let cases = [
        (
            container(json!([])),
            "container: must be an object, is a list",
        ),
        (
            container(json!({"docker": 1})),
            "container.docker: must be an object, is a number",
        ),
        (
            container(json!({"type": "RKT"})),
            "container.type: must be MESOS or DOCKER, is \"RKT\"",
        ),
        (
            container(json!({"type": "DOCKER"})),
            "container.docker: must be set for type DOCKER",
        ),
        (
            container(json!({"docker": {}})),
            "container.docker.image: must be set",
        ),
        (
            container(json!({"docker": {"image": "-x"}})),
            "container.docker.image: must be an image's name such as nginx:1.25 or registry:5000/team/app@sha256:.., is \"-x\"",
        ),
        (
            container(json!({"appc": {"image": "a"}})),
            "container.appc: is not supported yet",
        ),
        (
            image(json!({"credential": {"principal": "me"}})),
            "container.docker.credential: is not supported, name an entry of the node's registry credentials in pullConfig.secret",
        ),
        (
            image(json!({"pullConfig": {}})),
            "container.docker.pullConfig.secret: must be set",
        ),
        (
            image(json!({"network": "WEIRD"})),
            "container.docker.network: must be HOST, BRIDGE, NONE or USER, is \"WEIRD\"",
        ),
        (
            image(json!({"network": "USER"})),
            "container.docker.network: USER needs ipAddress.networkName",
        ),
        (
            image(json!({"portMappings": [{"containerPort": 80}]})),
            "container.docker.portMappings: must not be set on the host's network, use portDefinitions or another of networks",
        ),
        (
            image(json!({"network": "NONE", "portMappings": [{"containerPort": 80}]})),
            "container.docker.portMappings: must not be set without a network",
        ),
        (
            image(
                json!({"network": "BRIDGE", "portMappings": [{"hostPort": 80}, {"hostPort": 80}]}),
            ),
            "container.docker.portMappings[1].hostPort: must be unique, 80 is also container.docker.portMappings[0]",
        ),
        (
            container(
                json!({"docker": {"image": "a", "network": "BRIDGE", "portMappings": [{}]}, "portMappings": [{}]}),
            ),
            "container.docker.portMappings: must not be set together with container.portMappings",
        ),
        (
            top(
                json!({"networks": [{"mode": "container", "name": "n"}], "container": {"portMappings": [{}]}}),
            ),
            "container.portMappings[0].containerPort: must be set where there is no hostPort",
        ),
        (
            top(
                json!({"networks": [{"mode": "container/bridge"}], "portDefinitions": [{"port": 0}]}),
            ),
            "portDefinitions: must not be set off the host's network, use container.portMappings",
        ),
        (
            top(json!({"networks": [{"mode": "host", "name": "n"}]})),
            "networks[0].name: must not be set for mode host",
        ),
        (
            top(json!({"networks": [{"mode": "weird"}]})),
            "networks[0].mode: must be host, container, container/bridge or none, is \"weird\"",
        ),
        (
            top(json!({"networks": [{"mode": "host"}, {"mode": "host"}]})),
            "networks: only one network is supported yet, is 2",
        ),
        (
            top(
                json!({"networks": [{"mode": "host"}], "container": {"docker": {"image": "a", "network": "BRIDGE"}}}),
            ),
            "networks: must not say something else than container.docker.network and ipAddress",
        ),
        (
            top(json!({"ipAddress": {"networkName": "n", "discovery": {"ports": [1]}}})),
            "ipAddress.discovery.ports[0]: must be an object, is a number",
        ),
        (
            volume(json!({"containerPath": "/a", "mode": "RW"})),
            "container.volumes[0].hostPath: must have one of hostPath, external, persistent, secret, has 0",
        ),
        (
            volume(json!({"hostPath": "/a"})),
            "container.volumes[0].containerPath: must be set",
        ),
        (
            volume(json!({"containerPath": "/a/../b", "hostPath": "/a"})),
            "container.volumes[0].containerPath: must be a path without .., is \"/a/../b\"",
        ),
        (
            volume(json!({"containerPath": "/a", "hostPath": "/a", "mode": "RX"})),
            "container.volumes[0].mode: must be RO or RW, is \"RX\"",
        ),
        (
            volume(json!({"containerPath": "/a", "hostPath": "../a"})),
            "container.volumes[0].hostPath: must be a path without .., is \"../a\"",
        ),
        (
            volume(json!({"containerPath": "/a", "secret": "s"})),
            "container.volumes[0].secret: must be one of secrets, is \"s\"",
        ),
        (
            volume(json!({"containerPath": "data", "persistent": {}})),
            "container.volumes[0].persistent.size: must be set",
        ),
        (
            volume(json!({"containerPath": "/a", "external": {"name": "", "provider": "csi"}})),
            "container.volumes[0].external.name: must be 1 to 128 letters, digits, ., - or _, is \"\"",
        ),
        (
            container(json!({"volumes": [{"containerPath": "/a", "hostPath": "/a"}]})),
            "container.volumes[0].containerPath: must be relative to the sandbox where there is no image, is \"/a\"",
        ),
        (
            container(
                json!({"volumes": [{"containerPath": "a", "hostPath": "/a"}, {"containerPath": "a/", "hostPath": "/b"}]}),
            ),
            "container.volumes: two of them are mounted at \"a\"",
        ),
        (
            container(json!({"linuxInfo": {"seccomp": {}}})),
            "container.linuxInfo: is for containers with an image",
        ),
        (
            container(
                json!({"docker": {"image": "a"}, "linuxInfo": {"seccomp": {"profileName": "../x"}}}),
            ),
            "container.linuxInfo.seccomp.profileName: must be the name of a file in the node's profile directory, is \"../x\"",
        ),
        (
            container(
                json!({"docker": {"image": "a"}, "linuxInfo": {"ipcInfo": {"mode": "SHARE_PARENT", "shmSize": 1}}}),
            ),
            "container: shared memory has no size of its own with the host's IPC (SHARE_PARENT, ipc=host)",
        ),
        (top(json!({"fetch": [{}]})), "fetch[0].uri: must be set"),
        (
            top(json!({"fetch": [{"uri": "ftp://x/y"}]})),
            "fetch[0].uri: must begin with http://, https://, file:/// or /, is \"ftp://x/y\"",
        ),
        (
            top(json!({"uris": ["x"]})),
            "uris[0]: must begin with http://, https://, file:/// or /, is \"x\"",
        ),
        (
            top(json!({"fetch": [{"uri": "/a", "destPath": "../b"}]})),
            "fetch[0].destPath: must be a path below the sandbox without .., is \"../b\"",
        ),
        (
            top(json!({"fetch": [{"uri": "/a", "sha256": "12"}]})),
            "fetch[0].sha256: must be 64 hexadecimal digits, is \"12\"",
        ),
        (
            top(json!({"resourceLimits": {"cpus": 0.5}})),
            "resourceLimits.cpus: must not be below the app's cpus (1), is 0.5",
        ),
        (
            top(json!({"resourceLimits": {"mem": "lots"}})),
            "resourceLimits.mem: must be a number or \"unlimited\", is \"lots\"",
        ),
        (
            top(json!({"resourceLimits": {"gpus": 1}})),
            "resourceLimits.gpus: is not known, must be one of cpus, mem",
        ),
        (
            top(json!({"tty": "yes"})),
            "tty: must be true or false, is a string",
        ),
        (
            top(json!({"executorResources": {"cpus": 1}})),
            "executorResources: is not supported yet",
        ),
    ];
    for (app, want) in cases {
        let err = create(&app).expect_err(want);
        assert_eq!(err.message, want);
        assert_eq!((err.code.http(), err.details.len()), (422, 1), "{err:?}");
    }
}

#[test]
fn what_is_wrong_with_a_docker_parameter_is_said() {
    let cases = [
        (
            "log-driver",
            "syslog",
            "key: docker parameter \"log-driver\" is not supported yet",
        ),
        (
            "memory",
            "1g",
            "key: docker parameter \"memory\" is said by mem of the app",
        ),
        (
            "net",
            "host",
            "key: docker parameter \"net\" is said by networks of the app",
        ),
        (
            "cap-add",
            "FLY",
            "value: must be a capability such as NET_ADMIN, is \"FLY\"",
        ),
        (
            "device",
            "/etc/passwd",
            "value: must be a path below /dev, is \"/etc/passwd\"",
        ),
        (
            "device",
            "/dev/../etc",
            "value: must be a path below /dev, is \"/dev/../etc\"",
        ),
        (
            "device",
            "/dev/a:/dev/b",
            "value: must have the same path inside and outside, is \"/dev/a:/dev/b\"",
        ),
        (
            "device",
            "/dev/a:rx",
            "value: access must be of r, w and m, is \"rx\"",
        ),
        ("env", "A", "value: must be NAME=value, is \"A\""),
        (
            "hostname",
            "a_b",
            "value: must be 1 to 63 letters, digits, - or ., is \"a_b\"",
        ),
        (
            "workdir",
            "srv",
            "value: must be an absolute path, is \"srv\"",
        ),
        ("user", "", "value: must not be empty"),
        (
            "shm-size",
            "much",
            "value: must be a size such as 64m or 1g, is \"much\"",
        ),
        (
            "shm-size",
            "99999999999999999999",
            "value: must be a size such as 64m or 1g, is \"99999999999999999999\"",
        ),
        (
            "ulimit",
            "files=1",
            "value: must be one of as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack, is \"files\"",
        ),
        (
            "ulimit",
            "nofile=2:1",
            "value: the soft limit must not be above the hard one, is \"nofile=2:1\"",
        ),
        (
            "ulimit",
            "nofile",
            "value: must be NAME=soft[:hard] such as nofile=1024:4096, is \"nofile\"",
        ),
        ("read-only", "1", "value: must be true or false, is \"1\""),
        (
            "security-opt",
            "apparmor=x",
            "value: must be no-new-privileges or seccomp=PROFILE, is \"apparmor=x\"",
        ),
        (
            "tmpfs",
            "run",
            "value: must begin with an absolute path, is \"run\"",
        ),
        (
            "tmpfs",
            "/run:uid=1",
            "value: option \"uid=1\" of tmpfs is not supported yet",
        ),
        (
            "volume",
            "data:/data",
            "value: both paths must be absolute, is \"data:/data\"",
        ),
        (
            "volume",
            "/a:/b:z",
            "value: must be /host/path:/path/inside, with :ro or :rw, is \"/a:/b:z\"",
        ),
        (
            "pids-limit",
            "0",
            "value: must be between 1 and 4194304, is \"0\"",
        ),
        (
            "memory-swap",
            "128m",
            "value: tasks get no swap, so it must be the app's mem (64m), is \"128m\"",
        ),
        (
            "ipc",
            "container:x",
            "value: must be private or host, is \"container:x\"",
        ),
        ("userns", "x", "value: must be private or host, is \"x\""),
    ];
    for (key, value, want) in cases {
        let err = create(&with_parameter(key, value)).expect_err(want);
        let want = format!("container.docker.parameters[0].{want}");
        assert_eq!(err.message, want);
    }
}

#[test]
fn a_change_of_the_container_replaces_it_whole() {
    let old = create(&new_style()).unwrap();
    // The network stays, so do the rest of the keys; the ports are those of the new container.
    let new = put(&old, &json!({"container": {"docker": {"image": "b"}}})).unwrap();
    assert_eq!(new.container.image.as_ref().unwrap().reference, "b");
    assert_eq!(new.container.network, NetworkMode::Bridge);
    assert_eq!(new.ports.len(), 1);
    assert_eq!(new.resources, old.resources);
    // Older words for the network win over what newer ones said.
    let new = put(
        &old,
        &json!({"container": {"docker": {"image": "b", "network": "HOST"}}}),
    );
    assert_eq!(new.unwrap().container.network, NetworkMode::Host);
    // From the host's network to a bridge: its ports go.
    let host = create(&json!({"id": "/web", "cmd": "x", "ports": [8080]})).unwrap();
    let new = put(
        &host,
        &json!({"container": new_style()["container"], "networks": [{"mode": "container/bridge"}]}),
    );
    assert_eq!(new.unwrap().ports, old.ports);
    // Scaling changes nothing of it, and neither does what a client got and sends back.
    let new = put(&old, &json!({"instances": 4})).unwrap();
    assert_eq!((&new.container, &new.ports), (&old.container, &old.ports));
    let mut app = serde_json::to_value(app_json(&old, Counts::default(), vec![])).unwrap();
    app["uris"] = json!([]);
    let new = put(&old, &app).unwrap();
    assert_eq!((&new.container, &new.ports), (&old.container, &old.ports));
    // Fetched files by either name.
    let new = put(&old, &json!({"uris": ["/opt/a"]})).unwrap();
    let new = put(&new, &json!({"fetch": [{"uri": "/opt/b"}]})).unwrap();
    assert_eq!(new.container.fetch.len(), 1);
    let new = put(&new, &json!({"uris": ["/opt/c"]})).unwrap();
    assert_eq!(new.container.fetch[0].uri, "/opt/c");
}

/// As the release before this one stored it.
#[test]
fn definitions_stored_before_there_were_containers_are_read() {
    let stored = concat!(
        r#"{"backoffFactor":1.15,"backoffSeconds":1,"cmd":"sleep 100","constraints":[],"cpus":1,"#,
        r#""disk":0,"env":{},"gpus":0,"healthChecks":[{"gracePeriodSeconds":300,"intervalSeconds":60,"#,
        r#""maxConsecutiveFailures":3,"path":"/","portIndex":0,"protocol":"MESOS_HTTP","timeoutSeconds":20}],"#,
        r#""id":"/sleep","instances":1,"#,
        r#""killSelection":"YOUNGEST_FIRST","labels":{},"maxLaunchDelaySeconds":300,"mem":128,"#,
        r#""networks":[{"mode":"host"}],"#,
        r#""portDefinitions":[{"labels":{},"name":"default","port":0,"protocol":"tcp"}],"#,
        r#""requirePorts":false,"taskKillGracePeriodSeconds":3,"#,
        r#""unreachableStrategy":{"expungeAfterSeconds":0,"inactiveAfterSeconds":0},"#,
        r#""upgradeStrategy":{"maximumOverCapacity":1,"minimumHealthCapacity":1},"#,
        r#""version":"2026-11-23T03:47:00.123Z"}"#
    );
    let spec = spec_from_json(stored).unwrap();
    assert_eq!(spec.container, ContainerSpec::default());
    assert_eq!(spec_to_json(&spec), stored);
}

/// The white-lists of marathon-python 0.13 below an app.
#[test]
fn a_container_holds_only_keys_that_its_client_knows() {
    let mut app = new_style();
    app["container"]["volumes"] = json!([{"containerPath": "/a", "hostPath": "/a", "mode": "RO"}]);
    let spec = create(&app).unwrap();
    let shown = serde_json::to_value(app_json(&spec, Counts::default(), vec![])).unwrap();
    let known = |v: &Value, keys: &str| {
        let keys: Vec<&str> = keys.split(' ').collect();
        for key in v.as_object().unwrap().keys() {
            assert!(keys.contains(&key.as_str()), "{key}");
        }
    };
    known(&shown, APP_KEYS);
    let c = &shown["container"];
    known(c, "type docker portMappings volumes");
    let mapping = "name containerPort hostPort servicePort protocol labels";
    known(&c["portMappings"][0], mapping);
    known(
        &c["volumes"][0],
        "containerPath hostPath mode persistent external",
    );
}
