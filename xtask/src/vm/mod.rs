//! `cargo xtask test vm`: the data plane's tests on other kernels than this machine's, under emulation.
//!
//! Debian's cloud kernels come from its archive and are kept under the target directory; the first file system holds the
//! test programs of an ordinary build, the host's tools with their libraries, and the modules. Nothing of it touches the host.

mod boot;
mod golden;
mod image;
mod kernels;
mod modules;
mod plan;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::run::{own_dir, repo, step};
use crate::{build, setup};

/// The job that tells counts of verified instructions.
const COUNTS: &str = "verifier";

/// Arguments of `test vm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kernels, by the beginning of their version
    #[arg(long, value_delimiter = ',', default_value = "6.1,6.12")]
    kernel: Vec<String>,
    /// Only programs whose names contain this
    #[arg(long)]
    only: Option<String>,
    /// Seconds until a machine is ended
    #[arg(long, default_value_t = 2400)]
    limit: u64,
    /// Only print what set-up would install, and exit 3 when something is missing
    #[arg(long)]
    no_install: bool,
}

/// What only this needs: a program, its package.
const PEERS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("depmod", "kmod"),
    ("strip", "binutils"),
    ("tcpdump", "tcpdump"),
    ("wg", "wireguard-tools"),
    ("ping", "iputils-ping"),
];

/// Runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    if let Some(code) = setup::ensure(args.no_install)? {
        return Ok(code);
    }
    if let Some(code) = setup::ensure_peers(&PEERS, args.no_install)? {
        return Ok(code);
    }
    let cache = own_dir()?
        .parent()
        .context("the target directory")?
        .join("vm");
    let kernels = step("kernels", || {
        let pins = kernels::pins()?;
        args.kernel
            .iter()
            .map(|version| kernels::fetch(&cache, &pins, version))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let tests = step("test programs", || {
        build::ebpf()?;
        plan::programs(&cache, args.only.as_deref())
    })?;
    let accelerator = boot::accelerator(&kernels[0], &cache)?;
    let machines: Vec<(String, anyhow::Result<report::Report>)> = std::thread::scope(|scope| {
        let running: Vec<_> = kernels
            .iter()
            .map(|kernel| {
                let run = || machine(kernel, &tests, &cache, accelerator, args.limit);
                (kernel.asked.clone(), scope.spawn(run))
            })
            .collect();
        running
            .into_iter()
            .map(|(asked, thread)| {
                let joined = thread.join();
                let result = joined.unwrap_or_else(|_| bail!("the machine's thread panicked"));
                (asked, result)
            })
            .collect()
    });
    let mut failures = Vec::new();
    let mut counts = BTreeMap::new();
    for (asked, result) in machines {
        match result.with_context(|| format!("the machine with kernel {asked}")) {
            Ok(report) => {
                print!("{report}");
                failures.extend(
                    report
                        .failures()
                        .into_iter()
                        .map(|f| format!("{asked}: {f}")),
                );
                counts.insert(asked, report.verified);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    // Of a part of the tests nothing is known about the others' counts.
    if args.only.as_deref().is_none_or(|only| only == COUNTS) {
        failures.extend(golden::check(&golden_file(), &counts)?);
    }
    if failures.is_empty() {
        println!("\nall passed in {:.0} s", start.elapsed().as_secs_f64());
        return Ok(ExitCode::SUCCESS);
    }
    bail!("in virtual machines:\n  {}", failures.join("\n  "))
}

fn machine(
    kernel: &kernels::Kernel,
    tests: &plan::Tests,
    cache: &std::path::Path,
    accelerator: boot::Accelerator,
    limit: u64,
) -> anyhow::Result<report::Report> {
    let image = image::build(kernel, tests, cache)?;
    let log = cache.join(format!("{}.log", kernel.asked));
    eprintln!("kernel {}: serial log in {}", kernel.release, log.display());
    let text = boot::boot(
        kernel,
        &image,
        accelerator,
        Duration::from_secs(limit),
        &log,
    )?;
    Ok(report::Report::read(&text, &tests.names()))
}

fn golden_file() -> PathBuf {
    repo().join("tests/vm/verified-instructions.txt")
}
