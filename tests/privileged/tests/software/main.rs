//! Software that people run, in containers made of images, from a private registry with a password and TLS: nginx before
//! a Python app that keeps its number in Redis, each behind a VIP; PostgreSQL on a persistent volume. And what of it
//! survives the node's agent.
//!
//! The images are made here, of what is installed on this machine; they share their lower layers.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

#[path = "../survival/load.rs"]
mod load;
#[path = "../level1/member.rs"]
mod member;

mod images;
mod postgres;
mod web;

use anyhow::Context as _;
use waggle_tests_privileged::{LIMIT, can_run, config};
use waggle_tests_support::cluster::{self, Cluster};
use waggle_tests_support::leak::Snapshot;
use waggle_tests_support::registry::{self, PASSWORD};

/// One node, and the registry in its network.
fn in_containers(cluster: &mut Cluster) -> anyhow::Result<()> {
    let node = cluster.state.nodes.first().context("no node")?.clone();
    let store = images::Store::fill(&node)?;
    let (auth, roots) = (store.registry.auth_file(PASSWORD)?, store.registry.ca());
    let toml = format!(
        "registry_auth = [\"{}\"]\nregistry_tls_roots = \"{}\"\n",
        auth.display(),
        roots.display()
    );
    std::fs::write(node.work_dir.join("node.toml"), toml)?;
    cluster.start_all()?;
    cluster::wait_ready(cluster, LIMIT)?;
    web::serves_and_survives(cluster, &store).context("the web")?;
    postgres::keeps_what_was_committed(cluster, &store).context("the database")
}

#[test]
fn real_software_runs_in_containers_and_survives() {
    if !can_run() {
        return;
    }
    let absent = registry::missing().or_else(images::missing);
    if let Some(why) = absent {
        eprintln!("SKIP: {why}");
        return;
    }
    let config = config(1).unwrap();
    cluster::clear_leftovers(&config.names, &mut |_| {}).unwrap();
    let before = Snapshot::take(&config.names);
    let mut cluster = Cluster::prepare(&config, &mut |_| {}).unwrap();
    let result = in_containers(&mut cluster);
    let words = cluster.last_words();
    let names = cluster.names.clone();
    cluster.down(&mut |_| {}).unwrap();
    result.map_err(|e| format!("{e:#}\n{words}")).unwrap();
    assert_eq!(Snapshot::left_behind(&names, &before), Vec::<String>::new());
}
