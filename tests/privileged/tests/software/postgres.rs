//! PostgreSQL on a persistent volume: what was committed is there after its processes and the agent were killed.

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use waggle_tests_frameworks::stateful::{self, Seen, Service};
use waggle_tests_privileged::LIMIT;
use waggle_tests_support::cluster::Cluster;
use waggle_tests_support::{cgroup, process, wait_until};
use waggle_types::{ContainerSpec, ImageSpec, Resources};

use crate::images::Store;
use crate::member::Member;

/// On the node's own network.
const PORT: &str = "15432";
/// Rows of each batch.
const ROWS: u32 = 500;

/// Makes its files where there are none, then serves. The volume is the only one.
const SERVE: &str = "set -e; cd $MESOS_SANDBOX/volumes/*; \
    test -s data/PG_VERSION || initdb -D data -U ann -A trust -E UTF8 --no-locale >/dev/null; \
    exec postgres -D data -p 15432 -c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp -c jit=off";

fn psql(cluster: &Cluster, sql: &str) -> anyhow::Result<String> {
    let mut psql = cluster.command("n1", "psql")?;
    let out = psql
        .env("PGCONNECT_TIMEOUT", "5")
        .args(["-h", "127.0.0.1", "-p", PORT, "-U", "ann", "-d", "postgres"])
        .args(["-v", "ON_ERROR_STOP=1", "-Atqc", sql])
        .output()?;
    if !out.status.success() {
        bail!("{sql}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn answers(cluster: &Cluster) -> anyhow::Result<()> {
    let mut last = String::new();
    wait_until(LIMIT, "the database to answer", || {
        psql(cluster, "select 1")
            .inspect_err(|e| last = format!("{e:#}"))
            .ok()
            .map(drop)
    })
    .with_context(|| last)
}

/// The processes of the database.
fn processes(cluster: &Cluster) -> Vec<i32> {
    let all = cgroup::pids_below(&cluster.state.nodes[0].cgroup);
    let is_its = |pid: &i32| process::comm(*pid) == "postgres";
    all.into_iter().filter(is_its).collect()
}

/// Rows that were committed before the crash, each with a transaction of its own at the end.
fn write(cluster: &Cluster, batch: u32) -> anyhow::Result<()> {
    psql(
        cluster,
        &format!(
            "insert into bees select {batch}, n, md5(n::text) from generate_series(1, {ROWS}) n"
        ),
    )?;
    psql(
        cluster,
        &format!("insert into bees values ({batch}, 0, 'last')"),
    )?;
    Ok(())
}

fn whole(cluster: &Cluster, n_batches: u32) -> anyhow::Result<()> {
    let said = psql(
        cluster,
        "select count(*), count(distinct batch), bool_and(dance = md5(n::text) or n = 0) from bees",
    )?;
    let wanted = format!("{}|{n_batches}|t", n_batches * (ROWS + 1));
    ensure!(said == wanted, "{said:?}, not {wanted:?}");
    Ok(())
}

pub fn keeps_what_was_committed(cluster: &mut Cluster, store: &Store) -> anyhow::Result<()> {
    let service = Service {
        name: "db".to_owned(),
        role: "prod/db".to_owned(),
        prefix: "db".to_owned(),
        command: SERVE.to_owned(),
        container: ContainerSpec {
            image: Some(ImageSpec {
                reference: store.name("postgres:15"),
                ..ImageSpec::default()
            }),
            ..ContainerSpec::default()
        },
        resources: Resources::from_millis(500, 256_000, 256_000),
        id: None,
        volume: None,
    };
    let (tx, seen) = watch::channel(Seen::default());
    let db = Member::start(cluster, async move |channel| {
        // It ends when it is dropped.
        let _ = stateful::run(channel, service, tx).await;
    });
    answers(cluster)?;
    let home = seen.borrow().home.clone();
    psql(cluster, "create table bees (batch int, n int, dance text)")?;
    write(cluster, 1)?;

    // The database alone, in the middle of its work.
    let kill = |cluster: &Cluster| {
        for pid in processes(cluster) {
            process::signal(pid, Signal::SIGKILL);
        }
    };
    kill(cluster);
    wait_until(LIMIT, "another task", || {
        (seen.borrow().n_returned == 1).then_some(())
    })?;
    answers(cluster)?;
    whole(cluster, 1)?;
    write(cluster, 2)?;

    // The node's process; the database goes on without it.
    let before = processes(cluster);
    cluster.kill_node(0)?;
    write(cluster, 3)?;
    let after = processes(cluster);
    let same = before.iter().any(|pid| after.contains(pid));
    ensure!(same, "the database was {before:?} and is {after:?}");
    whole(cluster, 3)?;
    // Then the database, while nobody watches.
    kill(cluster);
    cluster.start_node(0)?;
    wait_until(LIMIT, "yet another task", || {
        (seen.borrow().n_returned == 2).then_some(())
    })?;
    answers(cluster)?;
    whole(cluster, 3)?;
    ensure!(seen.borrow().home == home, "it is the same volume");
    drop(db);
    Ok(())
}
