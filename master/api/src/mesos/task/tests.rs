//! Tasks as frameworks send them.

use waggle_types::{MountSource, Seccomp};

use super::*;
use crate::mesos::json;

fn read(text: &str) -> Result<TaskSpec, ConvertError> {
    let id = FrameworkId::new("f").unwrap();
    let info = pb::FrameworkInfo {
        user: Some("nobody".into()),
        ..pb::FrameworkInfo::default()
    };
    let by = Launcher {
        framework_id: &id,
        info: &info,
    };
    task(&json::read(text.as_bytes()).unwrap(), by)
}

const HEAD: &str = r#""name":"n","task_id":{"value":"t"},"agent_id":{"value":"a"},
    "resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.5}},
    {"name":"mem","type":"SCALAR","scalar":{"value":32}},
    {"name":"ports","type":"RANGES","ranges":{"range":[{"begin":31000,"end":31001}]}}]"#;

fn with(rest: &str) -> Result<TaskSpec, ConvertError> {
    read(&format!("{{{HEAD},{rest}}}"))
}

#[test]
fn a_plain_command_is_read() {
    let t = with(
        r#""command":{"value":"echo $A","environment":{"variables":[{"name":"A","value":"1"}]},
        "uris":[{"value":"http://h/x.tgz","cache":true}]},
        "kill_policy":{"grace_period":{"nanoseconds":1500000000}},
        "labels":{"labels":[{"key":"k","value":"v"},{"key":"bare"}]},
        "discovery":{"visibility":"CLUSTER","name":"web","ports":{"ports":[{"number":31000,"name":"http","protocol":"tcp"}]}},
        "health_check":{"type":"HTTP","http":{"port":31000,"path":"/ok"},"consecutive_failures":5}"#,
    )
    .unwrap();
    assert_eq!(t.command, Command::Shell("echo $A".into()));
    assert_eq!(t.env["A"], "1");
    assert_eq!(t.kill_grace, Millis(1500));
    assert_eq!(t.user.as_deref(), Some("nobody"), "the framework's");
    assert_eq!(t.labels["bare"], "");
    assert_eq!(t.discovery.name, "web");
    assert_eq!(t.ports.len(), 1);
    assert_eq!(t.ports[0].name.as_deref(), Some("http"));
    assert!(t.container.fetch[0].cache && t.container.fetch[0].extract);
    let h = &t.health_checks[0];
    assert_eq!(h.max_consecutive_failures, 5);
    assert_eq!(
        (h.delay, h.interval, h.timeout),
        (
            Millis::from_secs(15),
            Millis::from_secs(10),
            Millis::from_secs(20)
        )
    );
    assert!(t.parts.is_empty(), "nothing of it is reserved");
}

#[test]
fn arguments_begin_with_the_programs_name() {
    let argv =
        with(r#""command":{"shell":false,"value":"/bin/sh","arguments":["sh","-c","true"]}"#);
    assert_eq!(
        argv.unwrap().command,
        Command::Argv(vec!["/bin/sh".into(), "-c".into(), "true".into()])
    );
    let docker = with(
        r#""command":{"shell":false,"arguments":["-v"]},"container":{"type":"DOCKER","docker":{"image":"alpine"}}"#,
    );
    assert_eq!(docker.unwrap().command, Command::Image(vec!["-v".into()]));
}

#[test]
fn containers_say_what_marathons_do() {
    let t = with(
        r#""command":{"value":"true","user":"app"},"container":{"type":"MESOS","hostname":"h",
        "mesos":{"image":{"type":"DOCKER","docker":{"name":"alpine:3"},"cached":false}},
        "volumes":[{"container_path":"/data","mode":"RO","host_path":"/srv"},
          {"container_path":"/tmp2","mode":"RW","source":{"type":"SANDBOX_PATH","sandbox_path":{"type":"SELF","path":"tmp"}}}],
        "network_infos":[{"name":"dcos","port_mappings":[{"host_port":31001,"container_port":80,"protocol":"tcp"}]}],
        "linux_info":{"effective_capabilities":{"capabilities":["NET_ADMIN"]},"seccomp":{"unconfined":true}},
        "rlimit_info":{"rlimits":[{"type":"RLMT_NOFILE","soft":10,"hard":20}]}}"#,
    )
    .unwrap();
    let c = &t.container;
    let image = c.image.as_ref().unwrap();
    assert_eq!(
        (image.reference.as_str(), image.force_pull),
        ("alpine:3", true)
    );
    assert_eq!(c.network, NetworkMode::Container("dcos".into()));
    assert!(
        c.mounts
            .iter()
            .any(|m| m.source == MountSource::Host("/srv".into()) && m.read_only)
    );
    assert!(
        c.mounts
            .iter()
            .any(|m| m.source == MountSource::Sandbox("tmp".into()))
    );
    assert!(c.isolation.cap_drop.contains("ALL") && c.isolation.cap_add.contains("NET_ADMIN"));
    assert_eq!(c.isolation.seccomp, Seccomp::Unconfined);
    assert_eq!(c.limits.rlimits["nofile"].soft, Some(10));
    assert_eq!(c.hostname.as_deref(), Some("h"));
    assert_eq!(
        (t.ports[0].host_port, t.ports[0].container_port),
        (31001, Some(80))
    );
    assert_eq!(t.user.as_deref(), Some("app"));
}

#[test]
fn errors_name_the_field_in_mesos_words() {
    let field = |rest: &str| with(rest).unwrap_err().field;
    for (rest, want) in [
        (r#""labels":{"labels":[]}"#, "command"),
        (r#""command":{"shell":true}"#, "command.value"),
        (
            r#""command":{"value":"x"},"executor":{"executor_id":{"value":"e"},"command":{"value":"e"}}"#,
            "command",
        ),
        (
            r#""executor":{"executor_id":{"value":"a/b"},"command":{"value":"e"}}"#,
            "executor.executor_id",
        ),
        (
            r#""executor":{"type":"CUSTOM","executor_id":{"value":"e"}}"#,
            "executor.command",
        ),
        (
            r#""command":{"value":"x","uris":[{"value":"hdfs://x"}]}"#,
            "command.uris[0].value",
        ),
        (
            r#""command":{"value":"x","environment":{"variables":[{"name":"A=","value":""}]}}"#,
            "command.environment.variables[0].name",
        ),
        (
            r#""command":{"value":"x"},"container":{}"#,
            "container.type",
        ),
        (
            r#""command":{"value":"x"},"container":{"type":"DOCKER","docker":{"image":"al pine"}}"#,
            "container.docker.image",
        ),
        (
            r#""command":{"value":"x"},"container":{"type":"MESOS","volumes":[{"container_path":"../x","mode":"RW","host_path":"/a"}]}"#,
            "container.volumes[0].container_path",
        ),
        (
            r#""command":{"value":"x"},"health_check":{"type":"TCP"}"#,
            "health_check.tcp",
        ),
        (
            r#""command":{"value":"x"},"health_check":{"type":"TCP","tcp":{"port":0}}"#,
            "health_check.tcp.port",
        ),
        (
            r#""command":{"value":"x"},"max_completion_time":{"nanoseconds":-1}"#,
            "max_completion_time",
        ),
    ] {
        assert_eq!(field(rest), want, "{rest}");
    }
    assert_eq!(read("{}").unwrap_err().field, "task_id");
}

#[test]
fn a_task_on_an_executor_of_ones_own_has_no_command() {
    let t = with(
        r#""data":"AAE=","executor":{"executor_id":{"value":"e"},"name":"mine","command":{"value":"./run","environment":
        {"variables":[{"name":"A","value":"1"}]}},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}}],
        "shutdown_grace_period":{"nanoseconds":2000000000}}"#,
    )
    .unwrap();
    assert_eq!(t.command, Command::Executor);
    let on = t.executor.unwrap();
    assert_eq!(on.spec.kind, ExecutorKind::Custom);
    assert_eq!(on.spec.command, Command::Shell("./run".into()));
    assert_eq!(on.spec.env["A"], "1");
    assert_eq!(on.spec.resources.to_string(), "cpus:0.1");
    assert_eq!(on.spec.shutdown_grace, Millis(2000));
    let info = <pb::TaskInfo as prost::Message>::decode(on.info.as_slice()).unwrap();
    assert_eq!(info.data.unwrap(), [0, 1], "unchanged");
    let framework =
        <pb::FrameworkInfo as prost::Message>::decode(on.spec.framework_info.as_slice());
    assert_eq!(framework.unwrap().id.unwrap().value, "f");
}
