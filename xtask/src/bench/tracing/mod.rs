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
}

/// Builds and runs all four.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(code) = setup::ensure(args.no_install)? {
        return Ok(code);
    }
    ensure!(
        waggle_tests_support::is_root(),
        "running kernel programs needs root"
    );
    step("build-ebpf", || ebpf::build(ebpf::Options::default()))?;
    let rounds = if args.quick { 1 } else { args.rounds }.to_string();
    let cpu = args.cpu.to_string();
    let kernel = ["--rounds", &rounds, "--cpu", &cpu];
    bench(args.quick, "tracing", &kernel)?;
    let once: &[&str] = if args.quick {
        &["requests", "--test"]
    } else {
        &["requests"]
    };
    bench(args.quick, "pipeline", once)?;
    let quick: &[&str] = if args.quick { &["--quick"] } else { &[] };
    bench(args.quick, "flows", quick)?;
    let programs = if args.quick {
        build::programs()?
    } else {
        build::release_programs()?
    };
    node::measure(&programs, args.quick)?;
    Ok(ExitCode::SUCCESS)
}
