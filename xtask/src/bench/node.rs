//! A cluster for benches, and what its nodes say of themselves.

use std::net::SocketAddr;

use anyhow::Context as _;
use waggle_tests_support::cluster::{Config, NodeInfo, Program, port};
use waggle_tests_support::names::Names;
use waggle_tests_support::scenario::World;

use crate::build::Programs;
use crate::cluster::ready_deadline;

/// Brings up a node, measures, takes it down.
pub fn on_one(
    programs: &Programs,
    measure: impl FnOnce(&World, &NodeInfo) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    on(programs, 1, |world, nodes| {
        measure(world, nodes.first().context("no node")?)
    })
}

/// The same with several, of which the first leads.
pub fn on(
    programs: &Programs,
    nodes: u8,
    measure: impl FnOnce(&World, &[NodeInfo]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let config = Config {
        names: Names::from_env(),
        nodes,
        program: Program::Waggle(programs.waggle.clone()),
        otlp: None,
        owned: true,
    };
    let mut say = |line: &str| eprintln!("  {line}");
    let world = World::up(config, None, ready_deadline(nodes), &mut say)?;
    let result = measure(&world, &world.cluster.state.nodes);
    world.down(&mut |_| {})?;
    result
}

/// Sums over all series of its Prometheus page's metrics with these names.
pub fn totals<const N: usize>(
    world: &World,
    node: &NodeInfo,
    names: [&str; N],
) -> anyhow::Result<[f64; N]> {
    let addr = SocketAddr::from((node.ip, port::METRICS));
    let page = world.cluster.client().get(addr, "/metrics")?.ok()?.body;
    Ok(names.map(|name| {
        page.lines()
            .filter(|l| l.split(['{', ' ']).next() == Some(name))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }))
}
