//! Groups, deployments of several steps, and canaries, by the commands that people use.

use std::path::Path;

use serde_json::{Value, json};
use waggle_tests_frameworks::agent::Books;

use super::harness::{Master, own_address};

/// Writes a definition; answers its path.
fn file(dir: &Path, name: &str, body: &Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, body.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn app(id: &str, instances: u32, cpus: f64) -> Value {
    json!({"id": id, "cmd": "serve", "instances": instances, "cpus": cpus, "mem": 16})
}

/// A database and what needs it.
fn shop(db_cpus: f64) -> Value {
    json!({"id": "/shop", "groups": [
        {"id": "db", "apps": [app("main", 1, db_cpus)]},
        {"id": "web", "dependencies": ["../db"], "apps": [app("front", 2, 0.1)]},
    ]})
}

fn is_empty(v: &Value) -> bool {
    v.as_array().is_some_and(Vec::is_empty)
}

/// Ids of a group's apps with how many of their instances run.
async fn running(m: &Master) -> Vec<(String, u64)> {
    let all = m.json(&["app", "list"]).await;
    let apps = all["apps"].as_array().unwrap().iter();
    let one = |a: &Value| {
        let id = a["id"].as_str().unwrap().to_owned();
        (id, a["tasksRunning"].as_u64().unwrap())
    };
    apps.map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_deployed_in_steps_and_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let books = [Books::default(), Books::default()];
    let ip = own_address();
    let m = Master::start(dir.path(), ip, &books).await;
    let (db, front) = ("/shop/db/main".to_owned(), "/shop/web/front".to_owned());

    let good = file(dir.path(), "shop.json", &shop(0.1));
    let dry = m
        .says(&["group", "update", "/shop", &good, "--dry-run"])
        .await;
    assert_eq!(
        dry,
        "step 1\n  StartApplication /shop/db/main\n  StartApplication /shop/web/front\nstep 2\n  \
         ScaleApplication /shop/db/main\nstep 3\n  ScaleApplication /shop/web/front\n"
    );
    assert!(running(&m).await.is_empty(), "nothing was done");
    let said = m.says(&["group", "add", &good, "--wait"]).await;
    assert!(said.ends_with(" is over\n"), "{said}");
    assert_eq!(running(&m).await, [(db.clone(), 1), (front.clone(), 2)]);
    let listed = m.says(&["group", "list"]).await;
    assert!(
        listed.contains("/shop/web") && listed.contains("/shop/db"),
        "{listed}"
    );
    let (code, err) = m.fails(&["group", "add", &good]).await;
    assert_eq!(code, 1);
    assert!(err.contains("Group /shop is already created"), "{err}");

    m.says(&["group", "scale", "/shop/web", "2.5"]).await;
    m.until(&["deployment", "list"], is_empty).await;
    assert_eq!(running(&m).await, [(db.clone(), 1), (front.clone(), 5)]);

    // One that never fits: what depends on it waits for its turn.
    let huge = file(dir.path(), "huge.json", &shop(1000.0));
    let started = m.says(&["group", "update", "/shop", &huge]).await;
    let id = started.split_whitespace().nth(1).unwrap().to_owned();
    let all = m.json(&["deployment", "list"]).await;
    assert_eq!((&all[0]["id"], &all[0]["step"]), (&json!(id), &json!(1)));
    let shown = m.says(&["deployment", "show", &id]).await;
    assert!(
        shown.contains("step 1 (now)\n  RestartApplication /shop/db/main\n"),
        "{shown}"
    );
    assert!(
        shown.contains("step 2\n  ScaleApplication /shop/web/front\n"),
        "{shown}"
    );
    let (_, err) = m.fails(&["app", "scale", "/shop/web/front", "1"]).await;
    assert!(err.contains("locked"), "{err}");
    let explained = m.says(&["explain", "app", "/shop/web/front"]).await;
    assert!(explained.contains("its turn in step 2"), "{explained}");
    let explained = m.says(&["explain", "deployment", &id]).await;
    assert!(explained.contains("step 1 of 2 waits for"), "{explained}");
    assert!(explained.contains("/shop/db/main: "), "{explained}");
    assert!(!explained.contains("/shop/web/front: "), "{explained}");
    m.fails(&["deployment", "watch", &id, "--timeout", "1s"])
        .await;

    // The next master goes on with it, and puts all of it back.
    let ip = m.stop().await;
    let m = Master::start(dir.path(), ip, &books).await;
    let all = m.json(&["deployment", "list"]).await;
    assert_eq!((&all[0]["id"], &all[0]["step"]), (&json!(id), &json!(1)));
    m.says(&["deployment", "rollback", &id]).await;
    m.until(&["deployment", "list"], is_empty).await;
    assert_eq!(running(&m).await, [(db.clone(), 1), (front.clone(), 5)]);

    let versions = m.json(&["group", "versions", "/shop"]).await;
    let versions = versions["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 4, "{versions:?}");
    m.says(&["group", "rollback", "/shop", versions[3].as_str().unwrap()])
        .await;
    m.until(&["deployment", "list"], is_empty).await;
    assert_eq!(running(&m).await, [(db, 1), (front, 2)]);

    let (code, err) = m.fails(&["group", "remove", "/"]).await;
    assert_eq!(code, 2, "{err}");
    m.says(&["group", "remove", "/shop"]).await;
    m.until(&["deployment", "list"], is_empty).await;
    assert!(running(&m).await.is_empty());
    assert_eq!(books.iter().map(Books::running).sum::<usize>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_takes_its_part_and_then_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let books = [Books::default(), Books::default()];
    let m = Master::start(dir.path(), own_address(), &books).await;
    let web = |cmd: &str, instances: u32| {
        json!({"id": "/web", "cmd": cmd, "instances": instances, "cpus": 0.1, "mem": 16,
               "portDefinitions": [{"port": 0, "protocol": "tcp", "labels": {"VIP_0": "/web:80"}}]})
    };
    let old = file(dir.path(), "old.json", &web("v1", 4));
    m.says(&["app", "add", &old, "--wait"]).await;

    let mut stranger = web("v2", 1);
    stranger["portDefinitions"] =
        json!([{"port": 0, "protocol": "tcp", "labels": {"VIP_0": "/other:80"}}]);
    let stranger = file(dir.path(), "stranger.json", &stranger);
    let (code, err) = m
        .fails(&["app", "canary", "start", "/web", &stranger])
        .await;
    assert_eq!(code, 2);
    assert!(err.contains("must have a VIP of /web (/web:80)"), "{err}");

    let new = file(dir.path(), "new.json", &web("v2", 1));
    m.says(&["app", "canary", "start", "/web", &new, "--weight", "20"])
        .await;
    let part = |v: &Value| v["canaryPercent"].as_f64().unwrap();
    let shown = m.json(&["app", "canary", "show", "/web"]).await;
    assert!((part(&shown) - 20.0).abs() < 0.5, "{}", part(&shown));
    assert_eq!(shown["canary"]["tasksRunning"], 1);
    let n = books.iter().map(Books::launched).sum::<usize>();
    assert_eq!(n, 5, "nobody was replaced for a weight");
    let vips = m.says(&["vip", "list"]).await;
    // One VIP of all five, of which each has the same weight here.
    assert_eq!(vips.matches("web.marathon.l4lb").count(), 5, "{vips}");

    m.says(&["app", "canary", "weight", "/web", "100"]).await;
    let shown = m.json(&["app", "canary", "show", "/web"]).await;
    assert!((part(&shown) - 100.0).abs() < 0.001);
    m.says(&["app", "canary", "promote", "/web"]).await;
    let shown = m.json(&["app", "show", "/web"]).await;
    let app = &shown["app"];
    assert_eq!((&app["cmd"], &app["instances"]), (&json!("v2"), &json!(4)));
    assert_eq!(
        app["portDefinitions"][0]["labels"],
        json!({"VIP_0": "/web:80"})
    );
    assert_eq!(app["labels"], json!({}));
    assert_eq!(running(&m).await, [("/web".to_owned(), 4)]);

    m.says(&["app", "canary", "start", "/web", &old, "--weight", "1"])
        .await;
    m.says(&["app", "canary", "abort", "/web"]).await;
    assert_eq!(running(&m).await, [("/web".to_owned(), 4)]);
    let (_, err) = m.fails(&["app", "canary", "show", "/web"]).await;
    assert!(err.contains("App '/web-canary' does not exist"), "{err}");
}
