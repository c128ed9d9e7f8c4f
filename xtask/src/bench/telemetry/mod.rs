//! `cargo xtask bench telemetry`: what telemetry costs, and how much it carries. What is measured is in
//! `ebpf/loader/benches/vip/features.rs` (per packet, per connect), `node.rs` (nodes at rest and one under connections) and
//! `telemetry/benches/delivery` (lines, spool, receiver).

mod node;

use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use super::bench;
use crate::run::step;
use crate::{build, ebpf, setup};

/// Arguments of `bench telemetry`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only print what would be installed
    #[arg(long)]
    no_install: bool,
    /// One round of little, in a build without optimizations: whether it works
    #[arg(long)]
    quick: bool,
    /// The CPU for what is measured per packet
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
}

/// What there is to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What the programs add to a packet and to a connection
    Kernel,
    /// Real nodes, at rest and under connections
    Node,
    /// Lines, spool, receiver
    Delivery,
}

/// What the test set-up does not need: what is looked for, its package.
const PEERS: [(&str, &str); 1] = [("rsyslogd", "rsyslog")];

/// Builds and runs all three, or the one.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(code) = setup::ensure_peers(&PEERS, args.no_install)? {
        return Ok(code);
    }
    ensure!(
        waggle_tests_support::is_root(),
        "running kernel programs needs root"
    );
    let object = step("build-ebpf", || ebpf::build(ebpf::Options::default()))?;
    let is_asked = |part| args.only.is_none_or(|only| only == part);
    if is_asked(Part::Kernel) {
        let empty = object.with_file_name("waggle-empty-bench.o");
        let empty = empty.to_str().context("the object's path is no text")?;
        let rounds = if args.quick { "1" } else { "21" };
        let cpu = args.cpu.to_string();
        let features = [
            "--features",
            "--empty",
            empty,
            "--rounds",
            rounds,
            "--cpu",
            &cpu,
        ];
        bench(args.quick, "vip", &features)?;
    }
    if is_asked(Part::Node) {
        let programs = if args.quick {
            build::programs()?
        } else {
            build::release_programs()?
        };
        node::measure(&programs, args.quick)?;
    }
    if is_asked(Part::Delivery) {
        let quick: &[&str] = if args.quick { &["--quick"] } else { &[] };
        bench(args.quick, "delivery", quick)?;
    }
    Ok(ExitCode::SUCCESS)
}
