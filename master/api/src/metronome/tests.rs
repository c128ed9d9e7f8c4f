//! Definitions as clients write them, there and back.

use serde_json::{Value, json};
use waggle_types::{Command, Concurrency, JobId, Millis, RestartPolicy, UnixMillis};

use super::*;

const NOW: UnixMillis = UnixMillis(1_795_405_620_123);

fn full() -> Value {
    json!({
        "id": "prod.backup",
        "description": "saves the database",
        "labels": {"team": "bees"},
        "dependencies": [{"id": "prod.dump"}],
        "run": {
            "cmd": "backup --all",
            "cpus": 0.5, "mem": 64, "disk": 10, "gpus": 0,
            "env": {"MODE": "full"},
            "user": "nobody",
            "artifacts": [{"uri": "http://files/a.tgz", "extract": true, "executable": false, "cache": true}],
            "ucr": {"image": {"id": "busybox:1", "kind": "docker", "forcePull": true}, "privileged": false},
            "volumes": [{"containerPath": "/data", "hostPath": "/srv/data", "mode": "RO"}],
            "placement": {"constraints": [{"attribute": "@region", "operator": "EQ", "value": "eu"}]},
            "maxLaunchDelay": 60,
            "restart": {"policy": "ON_FAILURE", "activeDeadlineSeconds": 120},
            "taskKillGracePeriodSeconds": 7,
        },
        "schedules": [{"id": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Berlin",
            "startingDeadlineSeconds": 300, "concurrencyPolicy": "FORBID", "enabled": true}],
    })
}

fn parse(value: &Value) -> Result<waggle_types::JobSpec, crate::error::ApiError> {
    let parse = JobParse {
        id: None,
        schedules: true,
    };
    job_from_value(value, parse, NOW)
}

#[test]
fn a_definition_is_read_whole_and_printed_back() {
    let spec = parse(&full()).unwrap();
    assert_eq!(spec.run.id.as_str(), "/prod/backup");
    assert_eq!(spec.run.command, Command::Shell("backup --all".into()));
    assert_eq!(spec.run.constraints, [["@region", "IS", "eu"]]);
    assert_eq!(spec.run.container.fetch.len(), 1);
    assert_eq!(spec.max_launch_delay, Millis::from_secs(60));
    assert_eq!(
        spec.restart,
        RestartPolicy::OnFailure {
            active_deadline: Some(Millis::from_secs(120))
        }
    );
    assert_eq!(spec.schedules[0].concurrency, Concurrency::Forbid);
    let mut printed = job_json(&spec);
    printed.schedules = Some(vec![schedule_json(&spec.schedules[0], Some(NOW))]);
    let printed = serde_json::to_value(printed).unwrap();
    for key in [
        "cpus",
        "mem",
        "ucr",
        "artifacts",
        "env",
        "restart",
        "maxLaunchDelay",
    ] {
        assert_eq!(printed["run"][key], full()["run"][key], "{key}");
    }
    assert_eq!(printed["run"]["volumes"][0]["hostPath"], "/srv/data");
    let next = &printed["schedules"][0]["nextRunAt"];
    assert_eq!(next, "2026-11-23T03:47:00.123+0000");
    // What is printed is what is read.
    assert_eq!(parse(&printed).unwrap(), spec);
}

#[test]
fn defaults_are_metronomes() {
    let spec = parse(
        &json!({"id": "j", "run": {"cmd": "x"}, "schedules": [{"id": "s", "cron": "* * * * *"}]}),
    );
    let spec = spec.unwrap();
    assert_eq!(spec.restart, RestartPolicy::Never);
    assert_eq!(spec.max_launch_delay, Millis::from_secs(3600));
    let s = &spec.schedules[0];
    assert_eq!((s.time_zone.as_str(), s.enabled), ("UTC", true));
    assert_eq!(s.starting_deadline, Millis::from_secs(900));
    assert_eq!(s.concurrency, Concurrency::Allow);
    let docker = json!({"id": "j", "run": {"docker": {"image": "busybox"}, "cpus": 1, "mem": 32, "disk": 0}});
    let printed = job_json(&parse(&docker).unwrap());
    assert_eq!(printed.run["docker"]["image"], "busybox");
}

#[test]
fn secrets_are_kept_by_reference() {
    let mut given = full();
    given["run"]["env"] = json!({"MODE": "full", "PASSWORD": {"secret": "pw"}});
    given["run"]["secrets"] =
        json!({"pw": {"source": "/shop/db/password"}, "key": {"source": "tls"}});
    let files = json!([{"containerPath": "/data", "hostPath": "/srv/data", "mode": "RO"},
        {"containerPath": "/etc/key", "secret": "key"}]);
    given["run"]["volumes"] = files.clone();
    let spec = parse(&given).unwrap();
    let used: Vec<&str> = spec.run.used_secrets().into_iter().collect();
    assert_eq!(used, ["key", "pw"]);
    assert_eq!(spec.run.env["MODE"], "full");
    let printed = json!(job_json(&spec));
    for key in ["env", "secrets"] {
        assert_eq!(printed["run"][key], given["run"][key]);
    }
    let of_secret = printed["run"]["volumes"].as_array().unwrap();
    assert_eq!(of_secret[1]["secret"], "key");
    // What is stored is what is printed.
    let mut again = printed.clone();
    again["schedules"] = given["schedules"].clone();
    assert_eq!(parse(&again).unwrap(), spec);
    given["run"]["secrets"] = json!({"pw": {"source": "../x"}});
    let e = parse(&given).unwrap_err();
    let paths: Vec<&str> = e.details.iter().map(|d| d.path.as_str()).collect();
    for path in [
        "/run/secrets/pw/source",
        "/run/env/PASSWORD/secret",
        "/run/volumes(1)/secret",
    ] {
        assert!(paths.contains(&path), "{path}: {paths:?}");
    }
}

#[test]
fn every_wrong_field_is_named_as_the_job_has_it() {
    for (change, field) in [
        (json!({"id": "A"}), "/id"),
        (json!({"id": 7}), "/id"),
        (json!({"runs": {}}), "/runs"),
        (json!({"run": null}), "/run"),
        (json!({"run": {"cmd": "x", "cpu": 1}}), "/run/cpu"),
        (json!({"run": {"cmd": "x", "mem": 1}}), "/run/mem"),
        (json!({"run": {"cmd": "x", "cpus": "1"}}), "/run/cpus"),
        (json!({"run": {}}), "/run/cmd"),
        (
            json!({"run": {"cmd": "x", "artifacts": [{}]}}),
            "/run/artifacts(0)/uri",
        ),
        (
            json!({"run": {"cmd": "x", "docker": {}}}),
            "/run/docker/image",
        ),
        (
            json!({"run": {"cmd": "x", "ucr": {"image": {"id": 1}}}}),
            "/run/ucr/image/id",
        ),
        (
            json!({"run": {"cmd": "x", "restart": {"policy": "ALWAYS"}}}),
            "/run/restart/policy",
        ),
        (
            json!({"run": {"cmd": "x", "maxLaunchDelay": 0}}),
            "/run/maxLaunchDelay",
        ),
        (
            json!({"run": {"cmd": "x", "placement": {"constraints": [{"attribute": "a", "operator": "UNIQUE"}]}}}),
            "/run/placement/constraints(0)/operator",
        ),
        (
            json!({"run": {"cmd": "x", "volumes": [{"containerPath": "/a", "hostPath": "/b", "mode": "XX"}]}}),
            "/run/volumes(0)/mode",
        ),
        (json!({"dependencies": ["a"]}), "/dependencies(0)"),
        (json!({"schedules": [{"id": "s"}]}), "/schedules(0)/cron"),
        (
            json!({"schedules": [{"id": "s", "cron": "x", "concurrencyPolicy": "REPLACE"}]}),
            "/schedules(0)/concurrencyPolicy",
        ),
    ] {
        let mut given = full();
        for (k, v) in change.as_object().unwrap() {
            given[k] = v.clone();
        }
        let e = parse(&given).unwrap_err();
        assert_eq!(e.code.http(), 422);
        let paths: Vec<&str> = e.details.iter().map(|d| d.path.as_str()).collect();
        assert!(paths.contains(&field), "{change}: {paths:?}");
    }
}

#[test]
fn a_path_names_the_job_and_v1_leaves_schedules_alone() {
    let id = JobId::new("prod.backup").unwrap();
    let on_path = JobParse {
        id: Some(&id),
        schedules: false,
    };
    let spec = job_from_value(&full(), on_path, NOW).unwrap();
    assert!(spec.schedules.is_empty());
    let other = JobId::new("other").unwrap();
    let parse = JobParse {
        id: Some(&other),
        schedules: false,
    };
    assert!(job_from_value(&full(), parse, NOW).is_err());
}

#[test]
fn one_run_may_have_its_own_environment_and_place() {
    let (env, constraints) = overrides_from_value(&Value::Null).unwrap();
    assert!(env.is_empty() && constraints.is_none());
    let (env, constraints) =
        overrides_from_value(&json!({"env": {"A": "b"}, "placement": {"constraints": [
        {"attribute": "rack", "operator": "IS", "value": "1"}]}}))
        .unwrap();
    assert_eq!(env["A"], "b");
    assert_eq!(constraints.unwrap(), [["rack", "IS", "1"]]);
    assert!(overrides_from_value(&json!({"cmd": "x"})).is_err());
}
