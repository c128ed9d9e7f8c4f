//! PostgreSQL on a persistent volume keeps its data over kills and changes, and a nightly job backs it up.

use std::path::Path;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, cli, shared};
use waggle_tests_support::{
    cgroup,
    cluster::{Cluster, wait_ready},
    process,
    scenario::{App, Task, World, deploy, remove},
    wait_until,
};

use crate::{call, says};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const NAME: &str = "ledger.marathon.l4lb.thisdcos.directory";
const PORT: &str = "5432";
/// Rows of each batch.
const ROWS: u32 = 500;

/// Makes its files where there are none, then serves; as a user of its own, as it insists on.
fn serve() -> String {
    format!(
        "set -e; D=data/db; if ! test -s $D/PG_VERSION; then \
         {BIN}/initdb -D $D -U ann -A trust -E UTF8 --no-locale >/dev/null; \
         echo 'host all all 0.0.0.0/0 trust' >> $D/pg_hba.conf; fi; \
         exec {BIN}/postgres -D $D -p $PORT0 -c listen_addresses=0.0.0.0 -c unix_socket_directories= -c jit=off"
    )
}

fn definition(version: u32) -> Value {
    json!({
        "id": "/ledger", "cmd": serve(), "user": "nobody",
        "instances": 1, "cpus": 0.2, "mem": 256, "env": {"VERSION": version.to_string()},
        "portDefinitions": [{"port": 0, "name": "postgres", "labels": {"VIP_0": "/ledger:5432"}}],
        "healthChecks": [{
            "protocol": "COMMAND", "command": {"value": format!("{BIN}/pg_isready -h 127.0.0.1 -p $PORT0 -U ann -d postgres")},
            "intervalSeconds": 1, "gracePeriodSeconds": 30, "timeoutSeconds": 10,
        }],
        "container": {"type": "MESOS", "volumes": [
            {"containerPath": "data", "mode": "RW", "persistent": {"size": 256}}
        ]},
        "residency": {"taskLostBehavior": "WAIT_FOREVER"},
        "upgradeStrategy": {"minimumHealthCapacity": 0, "maximumOverCapacity": 0},
        "taskKillGracePeriodSeconds": 10,
    })
}

fn psql(cluster: &Cluster, sql: &str) -> anyhow::Result<String> {
    let at = ["-h", NAME, "-p", PORT, "-U", "ann", "-d", "postgres"];
    let ask = ["-v", "ON_ERROR_STOP=1", "-Atqc", sql];
    says(
        cluster,
        "n2",
        &format!("{BIN}/psql"),
        &[at.as_slice(), &ask].concat(),
    )
}

fn write(cluster: &Cluster, batch: u32) -> anyhow::Result<()> {
    let rows = format!("select {batch}, n, md5(n::text) from generate_series(1, {ROWS}) n");
    psql(cluster, &format!("insert into bees {rows}")).map(drop)
}

fn holds(cluster: &Cluster, n_batches: u32) -> anyhow::Result<()> {
    let ask = "select count(*), count(distinct batch), bool_and(dance = md5(n::text)) from bees";
    let wanted = format!("{}|{n_batches}|t", n_batches * ROWS);
    let mut last = String::new();
    // It may just be coming back.
    let found = wait_until(LIMIT, "the rows", || {
        last = psql(cluster, ask).unwrap_or_else(|e| format!("{e:#}"));
        (last == wanted).then_some(())
    });
    found.with_context(|| format!("{last:?}, not {wanted:?}"))
}

/// The one healthy instance, which is another task than `not`.
fn one(world: &World, app: &App, not: Option<&str>) -> anyhow::Result<Task> {
    let found = wait_until(LIMIT, "the instance to run and be healthy", || {
        let shown = app.show(&world.cluster).ok()?;
        let idle = shown["deployments"].as_array().is_some_and(Vec::is_empty);
        let healthy = shown["tasksHealthy"] == 1 && shown["tasksRunning"] == 1;
        let mut tasks = app.tasks(&world.cluster).ok()?;
        tasks.retain(|t| Some(t.id.as_str()) != not);
        (idle && healthy).then(|| tasks.pop())?
    });
    found.with_context(|| format!("{:?}", app.show(&world.cluster)))
}

/// Nodes on which tasks may have directories below this one.
fn allow(world: &mut World, dir: &Path) -> anyhow::Result<()> {
    for position in 0..world.cluster.state.nodes.len() {
        let node = world.cluster.state.nodes[position].clone();
        let toml = format!("allow_host_paths = [\"{}\"]\n", dir.display());
        std::fs::write(node.work_dir.join("node.toml"), toml)?;
        world.cluster.stop_node(position)?;
        world.cluster.start_node(position)?;
    }
    wait_ready(&world.cluster, LIMIT)
}

/// Killed, changed, killed with its processes: the same data, on the same node.
fn kept(world: &World, app: &App) -> anyhow::Result<Task> {
    let cluster = &world.cluster;
    let first = one(world, app, None)?;
    psql(cluster, "create table bees (batch int, n int, dance text)")?;
    write(cluster, 1)?;

    let task = format!("/v2/apps/ledger/tasks/{}", first.id);
    call(world, "DELETE", &task, &Value::Null)?;
    let second = one(world, app, Some(&first.id))?;
    ensure!(second.host == first.host, "it moved to {}", second.host);
    holds(cluster, 1)?;
    write(cluster, 2)?;

    call(world, "PUT", "/v2/apps/ledger", &definition(2))?;
    let third = one(world, app, Some(&second.id))?;
    ensure!(third.host == first.host, "it moved to {}", third.host);
    holds(cluster, 2)?;
    write(cluster, 3)?;

    let node = third.node(cluster)?;
    let all = cgroup::pids_below(&node.cgroup);
    for pid in all.into_iter().filter(|p| process::comm(*p) == "postgres") {
        process::signal(pid, Signal::SIGKILL);
    }
    let fourth = one(world, app, Some(&third.id))?;
    ensure!(fourth.host == first.host, "it moved to {}", fourth.host);
    holds(cluster, 3)?;
    Ok(fourth)
}

/// The job writes a backup that the data can be made of again.
fn backed_up(world: &World, dir: &Path) -> anyhow::Result<()> {
    let cluster = &world.cluster;
    let to = dir.display();
    let dump = format!(
        "set -e; {BIN}/pg_dump -h {NAME} -p {PORT} -U ann -Fc -f backup/.new postgres; \
         mv backup/.new backup/ledger.dump"
    );
    let job = json!({
        "id": "ledger.backup",
        "run": {
            "cmd": dump, "cpus": 0.1, "mem": 64, "disk": 0,
            "volumes": [{"containerPath": "backup", "hostPath": to.to_string(), "mode": "RW"}],
        },
        "schedules": [{"id": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "concurrencyPolicy": "FORBID"}],
    });
    let file = dir.join("job.json");
    std::fs::write(&file, job.to_string())?;
    cli::run(world, &["job", "add", &file.to_string_lossy()])?;
    let shown = call(
        world,
        "GET",
        "/v1/jobs/ledger.backup?embed=schedules",
        &Value::Null,
    )?;
    let next = shown["schedules"][0]["nextRunAt"].as_str();
    ensure!(next.is_some(), "it has a night to run in: {shown}");
    let run = ["job", "run", "ledger.backup", "--wait", "--timeout", "1m"];
    cli::run(world, &run)?;
    psql(cluster, "drop table bees")?;
    let file = dir.join("ledger.dump");
    let at = ["-h", NAME, "-p", PORT, "-U", "ann", "-d", "postgres", "-e"];
    let file = file.to_string_lossy();
    let restore = format!("{BIN}/pg_restore");
    says(cluster, "n3", &restore, &[at.as_slice(), &[&file]].concat())?;
    holds(cluster, 3)?;
    cli::run(world, &["job", "remove", "ledger.backup"])?;
    Ok(())
}

#[test]
fn postgres_keeps_its_data_and_a_job_backs_it_up() -> anyhow::Result<()> {
    if !can_run() {
        return Ok(());
    }
    if !Path::new(BIN).join("postgres").exists() {
        eprintln!("SKIP: no {BIN}; package postgresql-15 has it");
        return Ok(());
    }
    let mut shared = shared()?;
    let world = shared.world()?;
    let dir = tempfile::tempdir()?;
    allow(world, dir.path())?;
    let app = deploy(&world.cluster, &definition(1).to_string(), LIMIT)
        .with_context(|| world.cluster.last_words())?;
    kept(world, &app).and_then(|_| backed_up(world, dir.path()))?;
    remove(&world.cluster, "/ledger", LIMIT)
}
