//! `cargo xtask bench tracing`: what traced requests cost. In the kernel: `ebpf/loader/benches/tracing`; in user space:
//! `requests` of `telemetry/pipeline/benches/pipeline.rs`; on a real node: `node.rs`; and what connections that have ended take:
//! `agent/benches/flows`.

mod node;

use std::process::ExitCode;

use anyhow::ensure;

use super::bench;
use crate::run::step;
use crate::{build, ebpf, setup};

/// Arguments of `bench tracing`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only print what would be installed
    #[arg(long)]
    no_install: bool,
    /// One round of little, in a build without optimizations: whether it works
    #[arg(long)]
    quick: bool,
    /// Rounds; at least 21 for figures that are quoted
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// The CPU for what is measured in the kernel
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
}

/// What there is to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What the programs add to a request and to bulk
    Kernel,
    /// What user space makes of a request
    UserSpace,
    /// The store of ended connections
    Flows,
    /// A real node
    Node,
}

/// Builds and runs all four, or the one.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(code) = setup::ensure(args.no_install)? {
        return Ok(code);
    }
    ensure!(
        waggle_tests_support::is_root(),
        "running kernel programs needs root"
    );
    step("build-ebpf", || ebpf::build(ebpf::Options::default()))?;
    let is_asked = |part| args.only.is_none_or(|only| only == part);
    if is_asked(Part::Kernel) {
        let rounds = if args.quick { 1 } else { args.rounds }.to_string();
        let cpu = args.cpu.to_string();
        bench(args.quick, "tracing", &["--rounds", &rounds, "--cpu", &cpu])?;
    }
    if is_asked(Part::UserSpace) {
        let once: &[&str] = if args.quick {
            &["requests", "--test"]
        } else {
            &["requests"]
        };
        bench(args.quick, "pipeline", once)?;
    }
    if is_asked(Part::Flows) {
        let quick: &[&str] = if args.quick { &["--quick"] } else { &[] };
        bench(args.quick, "flows", quick)?;
    }
    if is_asked(Part::Node) {
        let programs = if args.quick {
            build::programs()?
        } else {
            build::release_programs()?
        };
        node::measure(&programs, args.quick)?;
    }
    Ok(ExitCode::SUCCESS)
}
