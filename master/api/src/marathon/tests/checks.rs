//! Health, readiness and start checks.

use waggle_types::CheckPurpose;

use super::*;

fn app(more: &Value) -> Value {
    let mut app = json!({"id": "/web", "cmd": "x",
        "portDefinitions": [{"port": 0, "name": "main"}, {"port": 0, "name": "http-api"}]});
    for (k, v) in more.as_object().unwrap() {
        app[k] = v.clone();
    }
    app
}

#[test]
fn each_protocol_of_a_health_check_is_asked_for() {
    let probe = |h: Value| {
        let spec = create(&app(&json!({"healthChecks": [h]}))).unwrap();
        assert_eq!(spec_from_json(&spec_to_json(&spec)).unwrap(), spec);
        spec.health_checks[0].clone()
    };
    for (protocol, want) in [
        ("HTTP", false),
        ("MESOS_HTTP", false),
        ("HTTPS", true),
        ("MESOS_HTTPS", true),
    ] {
        let h = probe(json!({"protocol": protocol, "ignoreHttp1xx": true}));
        let HealthProbe::Http { tls, statuses, .. } = &h.probe else {
            panic!("{h:?}")
        };
        assert_eq!((*tls, statuses.len()), (want, 0), "{protocol}");
    }
    let h = probe(json!({"protocol": "TCP", "delaySeconds": 1.5, "portIndex": 1}));
    assert_eq!(h.delay, Millis(1500));
    let h = probe(
        json!({"protocol": "COMMAND", "command": {"value": "true"}, "startup": true,
        "maxConsecutiveFailures": 7}),
    );
    assert_eq!(h.purpose, CheckPurpose::Startup);
    assert_eq!(h.max_consecutive_failures, 7);
}

#[test]
fn readiness_checks_are_marathons() {
    let spec = create(&app(&json!({"readinessChecks": [
        {}, {"name": "second", "protocol": "HTTPS", "path": "/ready", "portName": "main",
             "intervalSeconds": 2, "timeoutSeconds": 1, "httpStatusCodesForReady": [200, 302],
             "preserveLastResponse": true}]})))
    .unwrap();
    let [first, second] = spec.health_checks.as_slice() else {
        panic!("{:?}", spec.health_checks)
    };
    assert_eq!(first.name.as_deref(), Some("readinessCheck"));
    assert_eq!(first.purpose, CheckPurpose::Readiness);
    assert_eq!(
        (first.interval, first.timeout),
        (Millis(30_000), Millis(10_000))
    );
    let http = |tls, statuses: &[u16], path: &str, port_index| HealthProbe::Http {
        tls,
        statuses: statuses.to_vec(),
        path: path.into(),
        port_index,
        port: None,
    };
    assert_eq!((first.keep_response, second.keep_response), (false, true));
    assert_eq!(first.probe, http(false, &[200], "/", 1));
    assert_eq!(second.probe, http(true, &[200, 302], "/ready", 0));
    assert_eq!(spec_from_json(&spec_to_json(&spec)).unwrap(), spec);
    // As its client reads it: no key but these.
    let shown = serde_json::to_value(app_json(&spec, Counts::default(), vec![])).unwrap();
    let keys: Vec<&str> = shown["readinessChecks"][0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let known =
        "httpStatusCodesForReady intervalSeconds name path portName protocol timeoutSeconds";
    assert_eq!(keys.join(" "), known);
}

#[test]
fn marathons_check_says_whether_a_task_is_ready() {
    for check in [
        json!({"exec": {"command": {"shell": "true"}}}),
        json!({"http": {"portIndex": 1, "path": "/x", "scheme": "HTTPS"}, "intervalSeconds": 1,
            "timeoutSeconds": 3, "delaySeconds": 0}),
        json!({"tcp": {"portIndex": 0}}),
    ] {
        let spec = create(&app(&json!({"check": check, "readinessChecks": [{}]}))).unwrap();
        let last = &spec.health_checks[1];
        assert_eq!((last.purpose, &last.name), (CheckPurpose::Readiness, &None));
        assert_eq!(spec_from_json(&spec_to_json(&spec)).unwrap(), spec);
    }
    // Who does not ask for one is not shown one: clients do not know the key.
    let spec = create(&app(&json!({}))).unwrap();
    let shown = spec_to_json(&spec);
    assert!(!shown.contains("\"check\"") && !shown.contains("readiness"));
}

#[test]
fn what_is_wrong_with_a_check_is_said() {
    let ready = |r: Value| app(&json!({"readinessChecks": [r]}));
    let check = |c: Value| app(&json!({"check": c}));
    let health = |h: Value| app(&json!({"healthChecks": [h]}));
    let cases = [
        (
            ready(json!({"portName": "no"})),
            "readinessChecks[0].portName: no port is named \"no\"",
        ),
        (
            ready(json!({"protocol": "TCP"})),
            "readinessChecks[0].protocol: must be HTTP or HTTPS, is \"TCP\"",
        ),
        (
            ready(json!({"timeoutSeconds": 30})),
            "readinessChecks[0].timeoutSeconds: must be smaller than intervalSeconds",
        ),
        (
            ready(json!({"httpStatusCodesForReady": [99]})),
            "readinessChecks[0].httpStatusCodesForReady[0]: must be between 100 and 999, is 99",
        ),
        (
            ready(json!({"name": ""})),
            "readinessChecks[0].name: must be 1 to 255 bytes, is \"\"",
        ),
        (
            ready(json!({"preserveLastResponse": 1})),
            "readinessChecks[0].preserveLastResponse: must be true or false, is a number",
        ),
        (
            app(&json!({"readinessChecks": [{}, {}]})),
            "readinessChecks: two of them are named \"readinessCheck\"",
        ),
        (
            check(json!({})),
            "check: must have one of exec, http, tcp, has 0",
        ),
        (
            check(json!({"exec": {"command": {"shell": " "}}})),
            "check.exec.command.shell: must not be empty",
        ),
        (
            check(json!({"exec": {"command": {"argv": ["x"], "shell": "x"}}})),
            "check.exec.command.argv: is not supported yet",
        ),
        (
            check(json!({"tcp": {"portIndex": 2}})),
            "check.tcp.portIndex: must be below the number of ports (2), is 2",
        ),
        (
            check(json!({"http": {"scheme": "GOPHER"}})),
            "check.http.scheme: must be HTTP or HTTPS, is \"GOPHER\"",
        ),
        (
            health(json!({"protocol": "UDP"})),
            "healthChecks[0].protocol: must be HTTP, HTTPS or TCP, with or without MESOS_, or COMMAND, is \"UDP\"",
        ),
        (
            health(json!({"startup": "yes"})),
            "healthChecks[0].startup: must be true or false, is a string",
        ),
        (
            health(json!({"ipProtocol": "IPv6"})),
            "healthChecks[0].ipProtocol: only IPv4 is supported yet, is \"IPv6\"",
        ),
    ];
    for (app, want) in cases {
        let err = create(&app).expect_err(want);
        assert_eq!(err.message, want);
        assert_eq!((err.code.http(), err.details.len()), (422, 1), "{err:?}");
    }
    let many: Vec<Value> = (0..33).map(|_| json!({"protocol": "TCP"})).collect();
    let err = create(&app(&json!({"healthChecks": many}))).unwrap_err();
    assert_eq!(err.message, "healthChecks: must be at most 32, is 33");
}
