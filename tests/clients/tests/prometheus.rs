//! Debian's Prometheus scrapes every node of a cluster, and its promtool finds nothing to complain of on their pages.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use waggle_tests_clients::debian;
use waggle_tests_privileged::{LIMIT, bin_dir, can_run, web, world};
use waggle_tests_support::{cluster::port, scenario::World, wait_until};

/// Where it listens, on the first node's loopback.
const AT: &str = "127.0.0.1:19090";

#[test]
fn debians_prometheus_reads_every_page() {
    if !can_run() {
        return;
    }
    let root = match debian("prometheus", &bin_dir().unwrap()) {
        Ok(root) => root,
        Err(error) => {
            eprintln!("SKIP: Debian's prometheus is not to be had here: {error:#}");
            return;
        }
    };
    let world = world(2).unwrap();
    let (_, tasks) = web(&world).unwrap();
    for node in &world.cluster.state.nodes {
        let page = wait_until(LIMIT, "a page with tasks on it", || {
            let at = (node.ip, port::METRICS).into();
            let page = world.cluster.client().get(at, "/metrics").ok()?.body;
            page.contains("container_cpu_time_seconds_total{")
                .then_some(page)
        })
        .unwrap();
        lint(&root.join("usr/bin/promtool"), &page);
    }
    let dir = tempfile::tempdir().unwrap();
    let server = start(&world, &root.join("usr/bin/prometheus"), dir.path());
    let up = wait_until(LIMIT, "both nodes to be scraped", || {
        let up = query(&world, "count(up == 1)")?;
        up.contains("\"2\"").then_some(())
    });
    // Who a series belongs to is in `target_info`, joined by the identity.
    let on = "on(instance, service_instance_id, service_name, service_namespace)";
    let join = format!(
        "sum by (service_instance_id, waggle_task_id) \
         (container_cpu_time_seconds_total * {on} group_left(waggle_task_id) target_info)"
    );
    let wanted: BTreeSet<&str> = tasks.iter().map(|t| t.id.as_str()).collect();
    let mut last = String::new();
    let joined = wait_until(LIMIT, "every task's CPU time with its identity", || {
        last = query(&world, &join)?;
        let known = |id: &&str| last.contains(&format!("\"waggle_task_id\":\"{id}\""));
        wanted.iter().all(known).then_some(())
    });
    end(server);
    up.unwrap();
    joined.unwrap_or_else(|e| panic!("{e:#}: {last}"));
    world.down(&mut |_| {}).unwrap();
}

fn lint(promtool: &Path, page: &str) {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&said));
}

fn start(world: &World, program: &Path, dir: &Path) -> Child {
    let nodes = world.cluster.state.nodes.iter();
    let targets: Vec<String> = nodes
        .map(|n| format!("'{}:{}'", n.ip, port::METRICS))
        .collect();
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: waggle\n  static_configs: [{{targets: [{}]}}]\n",
        targets.join(", ")
    );
    std::fs::write(dir.join("p.yml"), config).unwrap();
    world
        .cluster
        .command("n1", program.to_str().unwrap())
        .unwrap()
        .arg(format!("--config.file={}", dir.join("p.yml").display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("data").display()
        ))
        .arg(format!("--web.listen-address={AT}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(mut server: Child) {
    // It is asked first, so that it gives its lock back; then made.
    waggle_tests_support::process::terminate(i32::try_from(server.id()).unwrap());
    let gone = wait_until(Duration::from_secs(10), "Prometheus to end", || {
        server.try_wait().ok()?
    });
    if gone.is_err() {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

fn query(world: &World, query: &str) -> Option<String> {
    let url = format!("http://{AT}/api/v1/query");
    let data = format!("query={query}");
    let mut curl = world.cluster.command("n1", "curl").ok()?;
    let out = curl
        .args(["-s", "-m", "5", "--data-urlencode", &data, &url])
        .output()
        .ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}
