//! A group whose apps need each other from their first moment: each starts when what it needs is healthy.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, shared};
use waggle_tests_support::{scenario::World, wait_until};

use crate::{
    call,
    nginx::{Web, app},
    says,
};

const REDIS: &str = "/usr/bin/redis-server";

/// An app that ends at once when what it needs does not answer yet.
fn needing(mut app: Value, needs: &[(&str, &str)]) -> Value {
    let ask = needs
        .iter()
        .map(|(_, url)| format!("curl -fsS --max-time 5 {url} || exit 3\n"));
    let cmd = app["cmd"].as_str().unwrap_or_default().to_owned();
    app["cmd"] = (ask.collect::<String>() + &cmd).into();
    app["dependencies"] = needs.iter().map(|(id, _)| json!(id)).collect();
    app
}

fn web(id: &str, vip: &str) -> Value {
    app(&Web {
        id,
        vip,
        version: "v1",
        instances: 2,
    })
}

/// In the reverse of the order in which they are to start.
fn definition() -> Value {
    let at = |name: &str| format!("http://{name}.marathon.l4lb.thisdcos.directory:80/");
    let (api, pages) = (at("shopapi"), at("shoppages"));
    let ask = "printf 'PING\\r\\n' | timeout 5 bash -c \
        'exec 3<>/dev/tcp/shopstore.marathon.l4lb.thisdcos.directory/6379; cat >&3; read -t 4 x <&3; echo $x' \
        | grep -q PONG || exit 4\n";
    let mut service = needing(web("/shop/api", "/shop/api:80"), &[]);
    service["cmd"] = format!("{ask}{}", service["cmd"].as_str().unwrap_or_default()).into();
    service["dependencies"] = json!(["/shop/store"]);
    json!({"id": "/shop", "apps": [
        needing(web("/shop/front", "/shop/front:80"), &[("/shop/api", &api), ("/shop/pages", &pages)]),
        needing(web("/shop/pages", "/shop/pages:80"), &[("/shop/api", &api)]),
        service,
        {
            "id": "/shop/store", "instances": 1, "cpus": 0.1, "mem": 64, "disk": 0,
            "cmd": format!("exec {REDIS} --port $PORT0 --bind 0.0.0.0 --protected-mode no --save ''"),
            "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/shop/store:6379"}}],
            "healthChecks": [{"protocol": "MESOS_TCP", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 20}],
        },
    ]})
}

fn start(world: &World) -> anyhow::Result<()> {
    call(world, "PUT", "/v2/groups", &definition())?;
    let apps = wait_until(LIMIT, "the group to be deployed", || {
        let shown = call(world, "GET", "/v2/groups/shop", &Value::Null).ok()?;
        let embed = "/v2/apps?id=/shop&embed=apps.lastTaskFailure&embed=apps.counts";
        let apps = call(world, "GET", embed, &Value::Null).ok()?;
        let apps = apps["apps"].as_array()?.clone();
        let busy = call(world, "GET", "/v2/deployments", &Value::Null).ok()?;
        let done = apps.len() == 4 && apps.iter().all(|a| a["tasksHealthy"] == a["instances"]);
        (shown["id"] == "/shop" && done && busy == json!([])).then_some(apps)
    })?;
    for app in &apps {
        // Who had started too early would have ended, and been started again.
        ensure!(app["lastTaskFailure"].is_null(), "{app}");
    }
    // By their clocks, too: no instance began before all that it needs had.
    let began = |id: &str| -> anyhow::Result<Vec<String>> {
        let tasks = call(world, "GET", &format!("/v2/apps{id}/tasks"), &Value::Null)?;
        let tasks = tasks["tasks"].as_array().context("no tasks")?;
        let began = tasks.iter().map(|t| t["startedAt"].as_str());
        let mut began: Vec<String> = began
            .map(|at| at.map(str::to_owned).context("no startedAt"))
            .collect::<anyhow::Result<_>>()?;
        began.sort();
        Ok(began)
    };
    let order = ["/shop/store", "/shop/api", "/shop/pages", "/shop/front"];
    for two in order.windows(2) {
        let (before, after) = (began(two[0])?, began(two[1])?);
        ensure!(
            before.last() < after.first(),
            "{two:?}: {before:?}, {after:?}"
        );
    }
    let url = "http://shopfront.marathon.l4lb.thisdcos.directory:80/";
    let said = says(
        &world.cluster,
        "n2",
        "curl",
        &["-fsS", "--max-time", "5", url],
    )?;
    ensure!(said.starts_with("v1 "), "{said}");
    call(world, "DELETE", "/v2/groups/shop?force=true", &Value::Null)?;
    wait_until(LIMIT, "the group to go", || {
        let tasks = call(world, "GET", "/v2/tasks", &Value::Null).ok()?;
        (!tasks.to_string().contains("/shop/")).then_some(())
    })
}

#[test]
fn a_group_starts_in_the_order_of_what_its_apps_need() -> anyhow::Result<()> {
    if !can_run() {
        return Ok(());
    }
    if !std::path::Path::new(REDIS).exists() {
        eprintln!("SKIP: no {REDIS}; package redis-server has it");
        return Ok(());
    }
    let mut shared = shared()?;
    let world = shared.world()?;
    start(world).with_context(|| world.cluster.last_words())
}
