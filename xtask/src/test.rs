//! `cargo xtask test`: everything that must hold, in the order of its cost.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use waggle_tests_support::is_root;
use waggle_tests_support::leak::Snapshot;
use waggle_tests_support::names::Names;

use crate::beside::Beside;
use crate::run::{cargo, output, own_dir, own_exe, repo, run, shown};
use crate::{build, demo, proto, schema, setup, tidy, vm};

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    elsewhere: Option<Elsewhere>,
    /// Only print what set-up would install, and exit 3 when something is missing
    #[arg(long)]
    no_install: bool,
    /// Property tests draw new random cases: otherwise those of one seed, so that what passed once passes again
    #[arg(long)]
    explore: bool,
    /// Only tests whose names contain one of these; no lints, no demo
    filters: Vec<String>,
}

/// Tests that do not run on this machine's kernel.
#[derive(Debug, clap::Subcommand)]
enum Elsewhere {
    /// The data plane's tests on Debian's kernels, in virtual machines
    Vm(vm::Args),
}

/// Not for this machine's target.
const NOT_HOST: [&str; 2] = ["--exclude", "waggle-ebpf-programs"];
/// Where proptest looks for the seed of its random cases.
const SEED: &str = "PROPTEST_RNG_SEED";
/// Packages with tests that do more as root.
const ROOT_PACKAGES: [&str; 5] = [
    "waggle-tests-privileged",
    "waggle-tests-support",
    "waggle-overlay",
    "waggle-ebpf",
    "waggle-agent",
];

/// Runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(Elsewhere::Vm(args)) = &args.elsewhere {
        return vm::main(args);
    }
    let start = Instant::now();
    if let Some(code) = setup::ensure(args.no_install)? {
        return Ok(code);
    }
    let mut stages = Stages::default();
    let whole = args.filters.is_empty();
    if whole {
        // What needs no build first: it fails soonest.
        stages.run("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
        stages.run("tidy", tidy::check)?;
        stages.run("generated code", proto::fresh)?;
        stages.run("registry of signals", schema::fresh)?;
    }
    let mut packages = vec!["--workspace"];
    packages.extend(NOT_HOST);
    let programs = stages.run("programs", || build::programs_and_tests(&packages))?;
    let names = Names::from_env();
    let before = is_root().then(|| Snapshot::take(&names));
    let seed = std::env::var_os(SEED).or_else(|| (!args.explore).then(|| "1".into()));
    let mut beside = Vec::new();
    stages.run("tests", || {
        let mut tests = cargo();
        tests
            .args(["test", "--workspace", "--no-fail-fast"])
            .args(NOT_HOST)
            .arg("--")
            .args(&args.filters)
            .envs(seed.as_ref().map(|seed| (SEED, seed)));
        if !whole {
            return run(&mut tests);
        }
        let line = shown(&tests);
        let mut tests = tests
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("run `{line}`"))?;
        let others = Beside::of(tests.id(), lints_and_documentation())?;
        let ended = tests.wait();
        // Both are told, whichever failed.
        let others = others.join();
        ensure!(ended?.success(), "`{line}` failed");
        beside = others?;
        Ok(())
    })?;
    if !is_root() {
        stages.run("tests as root", || as_root(&args.filters, seed.as_deref()))?;
    }
    if whole {
        stages.run("demo --once", || demo_once(programs))?;
    }
    if let Some(before) = before {
        stages.run("nothing left behind", || nothing_left(&names, &before))?;
    }
    println!("\nall passed in {:.0} s:", start.elapsed().as_secs_f64());
    for (name, seconds) in &stages.done {
        println!("  {seconds:7.1} s  {name}");
    }
    for (name, seconds) in &beside {
        println!("  {seconds:7.1} s  {name}, beside the tests");
    }
    Ok(ExitCode::SUCCESS)
}

fn lints_and_documentation() -> Vec<(String, Command)> {
    let mut lints = cargo();
    lints
        .args(["clippy", "--workspace", "--all-targets"])
        .args(NOT_HOST)
        .args(["--", "--deny", "warnings"]);
    let mut documentation = cargo();
    documentation
        // Libraries: in the binaries such comments are help texts for clap.
        .args(["doc", "--workspace", "--no-deps", "--lib"])
        .args(NOT_HOST)
        .env("RUSTDOCFLAGS", "--deny warnings");
    vec![
        ("lints".to_owned(), lints),
        ("documentation".to_owned(), documentation),
    ]
}

#[derive(Debug, Default)]
struct Stages {
    done: Vec<(String, f64)>,
}

impl Stages {
    fn run<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let start = Instant::now();
        let value = crate::run::step(name, work)?;
        self.done
            .push((name.to_owned(), start.elapsed().as_secs_f64()));
        Ok(value)
    }
}

/// What tests leave on a machine, the next one who uses it finds: the file system for pins, say, mounted.
fn nothing_left(names: &Names, before: &Snapshot) -> anyhow::Result<()> {
    let left = Snapshot::left_behind(names, before);
    if left.is_empty() {
        return Ok(());
    }
    bail!("left behind by the tests or the demo: {}", left.join("; "))
}

/// The demo as a program of its own: through sudo when we are not root.
fn demo_once(programs: build::Programs) -> anyhow::Result<()> {
    if is_root() {
        if demo::run(&demo::once(), programs)? {
            return Ok(());
        }
        bail!("a step of the demo failed");
    }
    // Built already, and set up.
    run(Command::new(own_exe()?)
        .args(["demo", "--once"])
        .env("WAGGLE_BIN_DIR", own_dir()?))
}

/// Runs the tests that skip without root again, built as the user, run through sudo.
fn as_root(filters: &[String], seed: Option<&OsStr>) -> anyhow::Result<()> {
    let list = output(
        cargo()
            .args(["test", "--workspace", "--no-run", "--message-format=json"])
            .args(NOT_HOST)
            .stderr(Stdio::inherit()),
    )?;
    let mut n_run = 0;
    for line in list.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let package = message["package_id"].as_str().unwrap_or_default();
        let is_test = message["profile"]["test"] == true;
        let ours = ROOT_PACKAGES
            .iter()
            .any(|name| package.contains(&format!("#{name}@")));
        let (Some(exe), true, true) = (message["executable"].as_str(), is_test, ours) else {
            continue;
        };
        let dir = message["manifest_path"].as_str().map(PathBuf::from);
        let dir = dir
            .and_then(|path| path.parent().map(PathBuf::from))
            .unwrap_or_else(repo);
        eprintln!("     Running {exe} through sudo");
        run(Command::new("sudo")
            .arg(format!("--preserve-env=PATH,HOME,WAGGLE_CLUSTER,{SEED}"))
            .arg(exe)
            .args(filters)
            .envs(seed.map(|seed| (SEED, seed)))
            .current_dir(dir))?;
        n_run += 1;
    }
    if n_run == 0 {
        bail!("found no test programs to run as root");
    }
    Ok(())
}
