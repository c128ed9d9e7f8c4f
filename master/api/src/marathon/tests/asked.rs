//! Dependencies, roles, residency, secrets: read, printed, stored, and refused by field.

use super::*;

/// A definition that says all of it.
fn resident() -> Value {
    json!({
        "id": "/shop/db", "cmd": "serve", "role": "dev",
        "acceptedResourceRoles": ["*", "dev"],
        "dependencies": ["../cache", "/infra", "../../infra/dns"],
        "killSelection": "OLDEST_FIRST",
        "env": {"A": "1", "PASSWORD": {"secret": "pw"}},
        "secrets": {"pw": {"source": "/shop/db/password"}},
        "labels": {"WAGGLE_PLACE": "pack", "WAGGLE_PLACE_APART": "/shop/batch"},
        "residency": {"relaunchEscalationTimeoutSeconds": 60, "taskLostBehavior": "RELAUNCH_AFTER_TIMEOUT"},
        "container": {"type": "MESOS", "volumes": [
            {"containerPath": "data", "mode": "RW", "persistent": {"size": 100}},
            {"containerPath": "log", "mode": "RW", "persistent": {"size": 5, "type": "path", "profileName": "fast"}},
            {"containerPath": "tls/key", "secret": "pw"}
        ]}
    })
}

#[test]
fn all_of_it_is_read() {
    let s = create(&resident()).unwrap();
    let ids: Vec<&str> = s.dependencies.iter().map(ServiceId::as_str).collect();
    assert_eq!(ids, ["/infra", "/infra/dns", "/shop/cache"]);
    assert_eq!(s.kill_selection.name(), "OLDEST_FIRST");
    assert_eq!(s.role(), "dev");
    assert_eq!(s.residency.unwrap().relaunch_after, Millis(60_000));
    assert_eq!((s.volumes.len(), s.secrets.files.len()), (2, 1));
    assert_eq!(s.volumes[1].disk.as_deref(), Some("fast"));
    assert_eq!(s.secrets.env["PASSWORD"], "pw");
    assert_eq!(s.env.len(), 1);
    assert_eq!(
        s.with_volumes().to_string(),
        "cpus:1; mem:128; disk:100; disk.fast:5"
    );
    // Marathon's defaults for resident apps.
    assert_eq!(s.upgrade.minimum_health_capacity_milli, 500);
    assert_eq!(s.upgrade.maximum_over_capacity_milli, 0);
    assert_eq!(s.unreachable, UnreachableStrategy::Disabled);
    assert_eq!(spec_from_json(&spec_to_json(&s)).unwrap(), s);
    let same = put(&s, &json!({})).unwrap();
    assert_eq!(
        ServiceSpec {
            version: s.version,
            ..same
        },
        s
    );
    let printed = serde_json::to_value(AppDefinition::from(&s)).unwrap();
    assert_eq!(printed["env"], resident()["env"]);
    assert_eq!(printed["secrets"], resident()["secrets"]);
    assert_eq!(printed["residency"], resident()["residency"]);
    assert_eq!(
        printed["container"]["volumes"][0]["persistent"],
        json!({"size": 100, "type": "root"})
    );
}

#[test]
fn who_has_volumes_is_resident_and_older_words_are_read() {
    let mut app = resident();
    for key in ["residency", "role", "dependencies"] {
        app.as_object_mut().unwrap().remove(key);
    }
    app["acceptedResourceRoles"] = json!(["slave_public"]);
    let s = create(&app).unwrap();
    assert_eq!(s.residency, Some(waggle_types::Residency::default()));
    assert_eq!(s.role(), "slave_public");
    let s = create(&json!({"id": "a", "cmd": "x", "ipAddress": {"networkName": "dcos", "discovery":
        {"ports": [{"number": 80, "name": "http", "protocol": "tcp", "labels": {"VIP_0": "/a:80"}}]}}}))
    .unwrap();
    assert_eq!(s.ports[0].mapping.unwrap().container_port, 80);
    assert_eq!(s.ports[0].vips.len(), 1);
    assert_eq!(spec_from_json(&spec_to_json(&s)).unwrap(), s);
}

#[test]
fn what_is_wrong_is_named_by_field() {
    let cases = [
        (
            json!({"dependencies": ["../db"]}),
            "dependencies[0]: must not be the app itself or a group that it is in, is \"../db\"",
        ),
        (
            json!({"dependencies": ["/shop"]}),
            "dependencies[0]: must not be the app itself or a group that it is in, is \"/shop\"",
        ),
        (
            json!({"dependencies": ["../../../x"]}),
            "dependencies[0]: must not lead above the root, is \"../../../x\"",
        ),
        (
            json!({"dependencies": "/x"}),
            "dependencies: must be a list, is a string",
        ),
        (
            json!({"killSelection": "BIGGEST"}),
            "killSelection: must be YOUNGEST_FIRST or OLDEST_FIRST, is \"BIGGEST\"",
        ),
        (
            json!({"acceptedResourceRoles": ["prod"]}),
            "acceptedResourceRoles[0]: must be * or the app's role (dev), is \"prod\"",
        ),
        (json!({"role": 1}), "role: must be a string, is a number"),
        (
            json!({"secrets": {}}),
            "env.PASSWORD.secret: must be one of secrets, is \"pw\"",
        ),
        (
            json!({"secrets": {"pw": {"source": "../x"}}}),
            "secrets.pw.source: must be a path of at most 255 letters, digits, ., - and _ without .., is \"../x\"",
        ),
        (
            json!({"secrets": {"pw": {}}}),
            "secrets.pw.source: must be set",
        ),
        (
            json!({"env": {"A": {"from": "x"}}}),
            "env.A.from: is not known, must be one of secret",
        ),
        (
            json!({"residency": {"taskLostBehavior": "PANIC"}}),
            "residency.taskLostBehavior: must be WAIT_FOREVER or RELAUNCH_AFTER_TIMEOUT, is \"PANIC\"",
        ),
        (
            json!({"upgradeStrategy": {"maximumOverCapacity": 1}}),
            "upgradeStrategy.maximumOverCapacity: must be 0 where there are persistent volumes",
        ),
        (
            json!({"unreachableStrategy": {"inactiveAfterSeconds": 1}}),
            "unreachableStrategy: must be \"disabled\" where there are persistent volumes: instances wait for theirs",
        ),
        (
            json!({"labels": {"WAGGLE_PLACE": "tight"}}),
            "labels.WAGGLE_PLACE: must be spread or pack, is \"tight\"",
        ),
        (
            json!({"labels": {"WAGGLE_PLACE_WITH": "/shop/db"}}),
            "labels.WAGGLE_PLACE_WITH: must not name the app itself, constraints say where its own instances go",
        ),
    ];
    for (change, want) in cases {
        let mut app = resident();
        for (k, v) in change.as_object().unwrap() {
            app[k] = v.clone();
        }
        let err = create(&app).expect_err(want);
        assert!(err.message.starts_with(want), "{want}: {}", err.message);
        assert_eq!(err.code.http(), 422, "{want}");
    }
}
