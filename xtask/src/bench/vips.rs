//! `cargo xtask bench vip`, `cargo xtask bench tables`, `cargo xtask bench overlay`: VIPs at the socket,
//! bringing their tables to the kernel, containers of several nodes. What is measured is in
//! `ebpf/loader/benches/{vip,overlay}` and `overlay/benches/tables`; this builds both sides and runs them.

use std::process::ExitCode;

use anyhow::ensure;

use crate::ebpf;
use crate::run::{cargo, run, shown, step};
use crate::setup;

/// Arguments of `bench vip`.
#[derive(Debug, clap::Args)]
pub struct VipArgs {
    /// Only print what would be installed
    #[arg(long)]
    no_install: bool,
    /// Rounds; at least 21 for figures that are quoted
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// The CPU to run on
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

/// Arguments of `bench overlay`.
#[derive(Debug, clap::Args)]
pub struct OverlayArgs {
    /// Only print what would be installed
    #[arg(long)]
    no_install: bool,
    /// Rounds; at least 21 for figures that are quoted
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// The CPU to run on
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

/// Arguments of `bench tables`.
#[derive(Debug, clap::Args)]
pub struct TablesArgs {
    /// Only print what would be installed
    #[arg(long)]
    no_install: bool,
}

/// What the test set-up does not need: what is looked for, its package.
const PEERS: [(&str, &str); 1] = [("nft", "nftables")];

/// Builds and runs `bench vip`.
pub fn vip(args: &VipArgs) -> anyhow::Result<ExitCode> {
    let rest = on(args.rounds, args.cpu);
    bench("waggle-ebpf", "vip", args.no_install, &rest)
}

/// Builds and runs `bench overlay`.
pub fn overlay(args: &OverlayArgs) -> anyhow::Result<ExitCode> {
    let rest = on(args.rounds, args.cpu);
    bench("waggle-ebpf", "overlay", args.no_install, &rest)
}

fn on(rounds: usize, cpu: usize) -> [String; 4] {
    ["--rounds", &rounds.to_string(), "--cpu", &cpu.to_string()].map(str::to_owned)
}

/// Builds and runs `bench tables`.
pub fn tables(args: &TablesArgs) -> anyhow::Result<ExitCode> {
    bench("waggle-overlay", "tables", args.no_install, &[])
}

fn bench(package: &str, name: &str, no_install: bool, rest: &[String]) -> anyhow::Result<ExitCode> {
    if let Some(code) = setup::ensure_peers(&PEERS, no_install)? {
        return Ok(code);
    }
    ensure!(
        waggle_tests_support::is_root(),
        "running kernel programs needs root"
    );
    step("build-ebpf", || ebpf::build(ebpf::Options::default()))?;
    let mut command = cargo();
    command
        .args(["bench", "--package", package, "--bench", name, "--"])
        .args(rest);
    println!("{}", shown(&command));
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
