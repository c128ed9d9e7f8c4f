//! `cargo xtask bench xdp`: what the edge costs per packet. What is measured is in `ebpf/loader/benches/xdp`; this builds
//! both sides and runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

use crate::ebpf;
use crate::run::{cargo, repo, run, shown, step};
use crate::setup;

/// Arguments of `bench xdp`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only print what set-up would install
    #[arg(long)]
    no_install: bool,
    /// Rounds; at least 21 for figures that are quoted
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// The CPU to run on
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

/// Builds and runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(code) = setup::ensure_clang(args.no_install)? {
        return Ok(code);
    }
    ensure!(
        waggle_tests_support::is_root(),
        "running kernel programs needs root"
    );
    let object = step("build-ebpf", || ebpf::build(ebpf::Options::default()))?;
    let ours = object.with_file_name("waggle-edge-bench.o");
    let peer = peer(&ours)?;
    let mut command = cargo();
    command
        .args(["bench", "--package", "waggle-ebpf", "--bench", "xdp", "--"])
        .arg("--ours")
        .arg(&ours)
        .arg("--peer")
        .arg(&peer)
        .args(["--rounds", &args.rounds.to_string()])
        .args(["--cpu", &args.cpu.to_string()]);
    println!("{}", shown(&command));
    println!(
        "kernel {}; load average {} (figures on a busy machine are noise)",
        super::first_words("/proc/sys/kernel/osrelease", 1),
        super::first_words("/proc/loadavg", 3),
    );
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

/// The C program, compiled as such programs are.
fn peer(ours: &Path) -> anyhow::Result<PathBuf> {
    let source = repo().join("ebpf/loader/benches/xdp/peer.bpf.c");
    let target = ours
        .parent()
        .and_then(Path::parent)
        .context("no target directory")?;
    let object = target.join("bpf-build/peer.o");
    let mut clang = Command::new("clang-19");
    clang
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall"])
        .arg(format!(
            "-I/usr/include/{}-linux-gnu",
            std::env::consts::ARCH
        ))
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&object);
    step(&shown(&clang), || run(&mut clang))?;
    Ok(object)
}
