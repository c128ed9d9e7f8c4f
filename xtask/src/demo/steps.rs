//! Steps 1 to 3: deploy, resolve, request.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use waggle_tests_support::scenario::{DnsAnswers, VIP_NAME, WEB_JSON, ask, curl_spread, deploy};
use waggle_tests_support::wait_until;

use super::Stage;

/// How long the three instances may take.
const DEPLOY_LIMIT: Duration = Duration::from_mins(1);
/// How long a change may take to reach every node's DNS and VIP map.
const CONVERGE_LIMIT: Duration = Duration::from_secs(5);

/// Step 1.
pub fn deploy_web(stage: &mut Stage) -> anyhow::Result<()> {
    let cluster = &stage.world.cluster;
    let start = Instant::now();
    let app = deploy(cluster, WEB_JSON, DEPLOY_LIMIT)?;
    let first = wait_until(CONVERGE_LIMIT, "a first answer through the VIP", || {
        let out = cluster
            .command("n1", "curl")
            .ok()?
            .args([
                "-sS",
                "--fail",
                "--max-time",
                "2",
                &format!("http://{VIP_NAME}/"),
            ])
            .stderr(std::process::Stdio::null())
            .output()
            .ok()?;
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    })?;
    for (what, took) in [
        ("accepted by the API", app.accepted),
        ("all instances running", app.running),
        ("all instances healthy", app.healthy),
        ("deployment done", app.deployed),
        ("first answer through the VIP", start.elapsed()),
    ] {
        println!("  {:8.3} s  {what}", took.as_secs_f64());
    }
    println!("  that answer: {first}");
    let tasks = app.tasks(cluster)?;
    for task in &tasks {
        let pids = task.nginx_pids(cluster)?;
        println!(
            "  {} on {} port {} (nginx processes {pids:?})",
            task.id, task.host, task.port
        );
        if pids.is_empty() {
            bail!("{}: no nginx process in its cgroup", task.id);
        }
    }
    let n_tasks = tasks.len();
    stage.app = Some(app);
    if n_tasks != 3 {
        bail!("{n_tasks} tasks, expected 3");
    }
    Ok(())
}

/// Step 2.
pub fn dns(stage: &mut Stage) -> anyhow::Result<()> {
    let cluster = &stage.world.cluster;
    let tasks = stage.app.as_ref().context("no app")?.tasks(cluster)?;
    let ports: BTreeSet<u16> = tasks.iter().map(|task| task.port).collect();
    let mut hosts = BTreeSet::new();
    for task in &tasks {
        hosts.insert(task.node(cluster)?.ip);
    }
    let mut vips = BTreeSet::new();
    for node in &cluster.state.nodes {
        let mut seen: anyhow::Result<DnsAnswers> = Err(anyhow::anyhow!("not asked"));
        let good = wait_until(
            CONVERGE_LIMIT,
            &format!("{}'s resolver to agree", node.name),
            || {
                seen = ask(cluster, &node.name);
                let answers = seen.as_ref().ok()?;
                let same_hosts = answers.mesos.iter().copied().collect::<BTreeSet<_>>() == hosts;
                let same_ports = answers
                    .srv
                    .iter()
                    .map(|(port, _)| *port)
                    .collect::<BTreeSet<_>>()
                    == ports;
                (same_hosts && same_ports).then_some(())
            },
        );
        match (good, seen) {
            (Err(late), Err(error)) => return Err(error.context(late.to_string())),
            (Err(late), Ok(answers)) => bail!(
                "{late}: it says {answers:?}; the API says nodes {hosts:?} and ports {ports:?}"
            ),
            (Ok(()), Err(error)) => return Err(error),
            (Ok(()), Ok(answers)) => {
                println!("  {}: {VIP_NAME} A {}", node.name, answers.vip);
                println!("  {}: web.marathon.mesos A {:?}", node.name, answers.mesos);
                for (port, target) in &answers.srv {
                    println!(
                        "  {}: _web._tcp.marathon.mesos SRV {port} {target}",
                        node.name
                    );
                }
                vips.insert(answers.vip);
            }
        }
    }
    if vips.len() != 1 {
        bail!("nodes disagree about the VIP's address: {vips:?}");
    }
    Ok(())
}

/// Step 3.
pub fn spread(stage: &mut Stage) -> anyhow::Result<()> {
    let cluster = &stage.world.cluster;
    let n_backends = stage.app.as_ref().context("no app")?.tasks(cluster)?.len();
    let start = Instant::now();
    let spreads = curl_spread(cluster, 300)?;
    println!(
        "  {} nodes in {:.2} s",
        spreads.len(),
        start.elapsed().as_secs_f64()
    );
    let mut problems = Vec::new();
    for spread in &spreads {
        println!("  from {}:", spread.node);
        for (backend, count) in &spread.by_backend {
            println!("    {count:4}  {backend}");
        }
        if spread.failed > 0 {
            problems.push(format!(
                "{}: {} failed ({})",
                spread.node, spread.failed, spread.complaint
            ));
        }
        if spread.by_backend.len() != n_backends {
            let seen = spread.by_backend.len();
            problems.push(format!(
                "{}: {seen} of {n_backends} backends answered",
                spread.node
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("{}", problems.join("; "))
    }
}
