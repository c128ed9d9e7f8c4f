//! The binary as a new user meets it: exit codes and messages, without a cluster.

use std::process::{Command, Output};

use rstest::rstest;

fn waggle(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waggle"));
    for variable in ["WAGGLE_MASTER", "WAGGLE_MARATHON", "WAGGLE_CONFIG"] {
        command.env_remove(variable);
    }
    match command.args(args).output() {
        Ok(out) => out,
        Err(e) => panic!("the binary does not run: {e}"),
    }
}

#[rstest]
#[case::no_command(&[], "Usage")]
#[case::unknown_flag(&["node", "--nonsense"], "--nonsense")]
#[case::unknown_command(&["swarm"], "swarm")]
#[case::unreadable_config(&["node", "--config", "/nonexistent/waggle.toml"], "/nonexistent/waggle.toml")]
#[case::bad_ip(&["node", "--ip", "somewhere"], "ip: must be an IPv4 address")]
#[case::bad_tick(&["agent", "--tick", "0s"], "tick: must be a duration")]
#[case::bad_otlp(&["master", "--otlp", "localhost:4317"], "otlp: must be of the form")]
#[case::missing_definition(&["app", "add", "/nonexistent.json"], "/nonexistent.json")]
#[case::negative_scale(&["app", "scale", "web", "--", "-1"], "-1")]
#[case::bad_api(&["app", "list", "--marathon", "ftp://x"], "must be of the form http://host:port")]
#[case::bad_server(&["dns", "query", "x", "--server", "nowhere"], "server: must be IP or IP:PORT")]
#[case::bad_type(&["dns", "query", "x", "--type", "mx"], "mx")]
#[case::no_flows(&["flows", "-n", "0"], "limit: must be 1 to 100000, is 0")]
#[case::flows_of_when(&["flows", "--since", "yesterday"], "since: must be a duration")]
#[case::followed_until(&["flows", "-f", "--until", "5m"], "until: can't be with --follow")]
#[case::no_such_verdict(&["flows", "--verdict", "closed,dropped"], "possible values: closed, reset, refused, failed, no_backend")]
#[case::large_flow_log(&["node", "--flow-log-size", "1048577"], "flow-log-size: must be 0 to 1048576 MiB")]
#[case::short_flow_log(&["node", "--flow-log-age", "0s"], "flow-log-age: must be a duration")]
#[case::encrypted_what(&["agent", "--encrypt", "--no-overlay"], "encrypt: can't be with no-overlay")]
#[case::encrypted_over_itself(&["agent", "--encrypt", "64000"], "encrypt: must be a UDP port other than 0 and overlay-port (64000)")]
#[case::encrypted_where(&["agent", "--encrypt", "--ip", "192.0.2.77"], "encrypt: ")]
#[case::no_edges(&["map", "-n", "0"], "limit: must be 1 to 4096, is 0")]
#[case::map_of_when(&["map", "--since", "5"], "since: must be a duration")]
#[case::two_forms(&["map", "--dot", "--json"], "cannot be used with")]
#[case::top_of_nothing(&["top", "-n", "0"], "limit: must be 1 or more, is 0")]
#[case::no_such_column(&["top", "--sort", "luck"], "possible values: cpu, memory, accepts, errors, latency, name")]
#[case::restless_top(&["top", "--interval", "0s"], "interval: must be a duration")]
#[case::trace_of_what(&["trace"], "DEPLOYMENT|TASK")]
#[case::trace_of_a_path(&["trace", "a/b"], "trace: must be a name or an id without slashes")]
#[case::drops_of_whom(&["drops"], "SERVICE")]
#[case::drops_of_when(&["drops", "web", "--since", "never"], "since: must be a duration")]
#[case::two_types(&["dns", "query", "x", "a", "--type", "srv"], "cannot be used with")]
#[case::bad_dns_api(&["dns", "zone", "--api", "ftp://x"], "must be of the form http://host:port")]
#[case::own_upstream(&["node", "--dns-upstreams", "198.51.100.1"], "dns-upstreams: must not be this node's own resolver")]
#[case::negative_weight(&["weight", "set", "eng", "x"], "weight: must be a number over 0")]
#[case::bad_role(&["weight", "set", "a//b", "1"], "role: must be * or a path")]
#[case::no_quota(&["quota", "set", "eng"], "--guarantee")]
#[case::bad_quota(&["quota", "set", "eng", "--guarantee", "cpus:4"], "guarantee: must be kind=quantity")]
#[case::negative_quota(&["quota", "set", "eng", "--limit", "cpus=-4"], "limit: cpus must be a number of 0 or more")]
#[case::no_agent(&["reservation", "add", "--role", "eng", "--resources", "cpus:1"], "--agent")]
#[case::bad_resources(&["reservation", "add", "--agent", "n1", "--role", "eng", "--resources", "cpus=1"], "resources: must be name:value")]
#[case::nothing_to_reserve(&["reservation", "add", "--agent", "n1", "--role", "eng", "--resources", "cpus:0"], "resources: must name something")]
#[case::bad_label(&["reservation", "add", "--agent", "n1", "--role", "eng", "--resources", "cpus:1", "--label", "x"], "label: must be KEY=VALUE")]
#[case::bad_size(&["volume", "create", "db", "--agent", "n1", "--role", "eng", "--size", "20GB"], "size: must be over 0")]
#[case::no_start(&["maintenance", "schedule", "--agent", "n1"], "--start")]
#[case::bad_start(&["maintenance", "schedule", "--agent", "n1", "--start", "tomorrow"], "start: must be now, +DURATION")]
#[case::bad_duration(&["maintenance", "schedule", "--agent", "n1", "--start", "+1m", "--duration", "1w"], "duration: must be a duration")]
#[case::bad_grace(&["node", "drain", "n1", "--max-grace", "5"], "max-grace: must be a duration")]
#[case::bad_name(&["node", "drain", "a/b"], "node: must be a name or an id without slashes")]
#[case::no_name(&["framework", "show"], "FRAMEWORK")]
#[case::nothing_to_explain(&["explain", "cluster"], "cluster")]
#[case::bad_shell(&["completions", "cmd.exe"], "cmd.exe")]
fn bad_input_exits_2_and_says_why(#[case] args: &[&str], #[case] says: &str) {
    let out = waggle(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
}

#[test]
fn an_api_about_names_that_is_not_there_exits_1_and_is_named() {
    let out = waggle(&[
        "dns",
        "trace",
        "leader.mesos",
        "--api",
        "http://127.0.0.1:1",
    ]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--api or WAGGLE_DNS_API"), "{stderr}");
}

#[test]
fn a_master_that_is_not_there_exits_1_and_says_how_to_name_another() {
    // Port 1 on loopback: nothing listens there.
    let out = waggle(&["node", "list", "--master", "http://127.0.0.1:1"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot reach") && stderr.contains("WAGGLE_MASTER"),
        "{stderr}"
    );
}

/// A master whose page's port is somebody else's says so, and has led nobody until then.
#[test]
fn a_port_in_use_is_named_before_anything_runs() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let page = held.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_string_lossy().into_owned();
    let ports = [
        "--master-port",
        "0",
        "--marathon-port",
        "0",
        "--session-port",
        "0",
    ];
    let mut args = vec!["master", "--work-dir", &dir, "--metrics-port", &page];
    args.extend(ports);
    let out = waggle(&args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let logged = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("for the Prometheus page: Address already in use"),
        "{said}"
    );
    let all = said + &logged;
    assert!(
        !all.contains("panicked") && !all.contains("leading"),
        "{all}"
    );
}

#[test]
fn a_definition_that_is_not_json_is_refused_before_it_is_sent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"id\": ").unwrap();
    let path = file.path().to_str().unwrap();
    let out = waggle(&["app", "add", path, "--marathon", "http://127.0.0.1:1"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("not JSON"));
}

#[rstest]
#[case("bash")]
#[case("zsh")]
#[case("fish")]
fn completions_know_the_commands(#[case] shell: &str) {
    let out = waggle(&["completions", shell]);
    assert!(out.status.success());
    let script = String::from_utf8_lossy(&out.stdout);
    for word in ["doctor", "maintenance", "guarantee", "mark-gone"] {
        assert!(script.contains(word), "{word}");
    }
}

#[test]
fn help_names_every_command() {
    let out = waggle(&["--help"]);
    let text = String::from_utf8_lossy(&out.stdout);
    for command in [
        "node",
        "master",
        "agent",
        "doctor",
        "app",
        "task",
        "framework",
        "offer",
        "role",
        "quota",
        "weight",
        "reservation",
        "volume",
        "maintenance",
        "vip",
        "dns",
        "explain",
    ] {
        assert!(text.contains(command), "{command}");
    }
    assert!(text.starts_with("Waggle: your apps"), "{text}");
    assert!(!text.contains("shim"), "the shim is not for people");
}
