//! Finds the tools that builds, demo and tests need; installs what is missing, or says how.
//!
//! Finding is by looking at files only, so that a machine that has everything costs no time.

mod bpf;

use std::process::ExitCode;
use std::time::Instant;

use crate::root;
use crate::run::{cargo, find, run, shown};

/// Arguments of `setup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only print the commands, and exit 3 when something is missing
    #[arg(long)]
    no_install: bool,
}

/// Programs from the distribution: what is looked for, its package, what it is for.
const APT: [(&str, &str, &str); 20] = [
    ("cc", "gcc", "linking, SQLite"),
    ("c++", "g++", "bpf-linker"),
    ("ip", "iproute2", "namespaces"),
    ("nft", "nftables", "bridges of nodes"),
    ("python3", "python3-minimal", "services in tests"),
    ("protoc", "protobuf-compiler", "generated code"),
    ("runc", "runc", "containers"),
    ("busybox", "busybox-static", "images of tests"),
    ("docker-registry", "docker-registry", "tests' registry"),
    ("skopeo", "skopeo", "images, to compare with"),
    ("nginx", "nginx-light", "the demo's service"),
    ("curl", "curl", "the demo's requests"),
    ("dig", "bind9-dnsutils", "the demo's DNS questions"),
    ("wrk", "wrk", "load"),
    ("ethtool", "ethtool", "checksums of veths in tests"),
    (
        "tcpdump",
        "tcpdump",
        "a reader of the overlay's packets in tests",
    ),
    ("redis-server", "redis-server", "a real service in tests"),
    ("iperf3", "iperf3", "a real service in tests"),
    (
        "ping",
        "iputils-ping",
        "what containers of a network are reached with in tests",
    ),
    ("psql", "postgresql-15", "a real database in tests"),
];

/// What only `bench xdp` needs, for the C program that it compares with: a file, its package.
const PEER: [(&str, &str); 2] = [
    ("/usr/bin/clang-19", "clang-19"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
];

/// Steps after which what is still missing is an error: packages, compiler, the other compiler, linker.
const MAX_STEPS: usize = 5;

/// One thing to do to complete the set-up.
#[derive(Debug)]
enum Action {
    /// Packages of the distribution.
    Apt(Vec<&'static str>),
    /// The distribution's compiler for BPF and the LLVM that fits it.
    Compiler,
    /// `rustup toolchain install`.
    Nightly,
    /// `cargo install bpf-linker` for this toolchain.
    Linker(bpf::Toolchain),
}

/// Runs `cargo xtask setup`.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    Ok(ensure(args.no_install)?.unwrap_or(ExitCode::SUCCESS))
}

/// Makes sure that all tools are there. `Some(3)` when some are missing and may not be installed.
pub fn ensure(no_install: bool) -> anyhow::Result<Option<ExitCode>> {
    let start = Instant::now();
    report();
    let mut compilers = bpf::Compilers::default();
    let mut actions = plan(&compilers);
    if actions.is_empty() {
        eprintln!(
            "set-up: everything is there ({} ms)",
            start.elapsed().as_millis()
        );
        return Ok(None);
    }
    if no_install {
        eprintln!("set-up: missing; with --no-install nothing is installed. Run:");
        for line in actions.iter().flat_map(commands) {
            println!("{line}");
        }
        return Ok(Some(ExitCode::from(3)));
    }
    let mut n_done = 0;
    // Planned anew after each step: what could be installed decides what comes next.
    while let Some(action) = actions.first() {
        if n_done == MAX_STEPS {
            let lines: Vec<String> = actions.iter().flat_map(commands).collect();
            anyhow::bail!(
                "set-up: still missing after installing; try by hand: {}",
                lines.join("; ")
            );
        }
        let began = Instant::now();
        let step = format!("{}/{}", n_done + 1, n_done + actions.len());
        for line in commands(action) {
            eprintln!("set-up [{step}]: {line}");
        }
        perform(action, &mut compilers)?;
        n_done += 1;
        eprintln!(
            "set-up [{step}]: done in {:.0} s",
            began.elapsed().as_secs_f64()
        );
        actions = plan(&compilers);
    }
    eprintln!(
        "set-up: complete after {:.0} s",
        start.elapsed().as_secs_f64()
    );
    Ok(None)
}

/// Makes sure that C for the kernel can be compiled. `Some(3)` when something is missing and may not be installed.
pub fn ensure_clang(no_install: bool) -> anyhow::Result<Option<ExitCode>> {
    let missing = PEER
        .iter()
        .filter(|(file, _)| !std::path::Path::new(file).exists());
    packages(missing.map(|(_, package)| *package).collect(), no_install)
}

/// Makes sure that programs are there which only a bench needs (what is looked for, its package), as [`ensure`].
pub fn ensure_peers(
    peers: &[(&'static str, &'static str)],
    no_install: bool,
) -> anyhow::Result<Option<ExitCode>> {
    let missing = peers.iter().filter(|(program, _)| find(program).is_none());
    packages(missing.map(|(_, package)| *package).collect(), no_install)
}

fn packages(missing: Vec<&'static str>, no_install: bool) -> anyhow::Result<Option<ExitCode>> {
    if missing.is_empty() {
        return Ok(None);
    }
    let action = Action::Apt(missing);
    for line in commands(&action) {
        eprintln!("set-up: {line}");
    }
    if no_install {
        return Ok(Some(ExitCode::from(3)));
    }
    perform(&action, &mut bpf::Compilers::default())?;
    Ok(None)
}

/// One line per tool.
fn report() {
    for (program, package, purpose) in APT {
        match find(program) {
            Some(path) => eprintln!("set-up: {program:10} {}", path.display()),
            None => eprintln!("set-up: {program:10} MISSING ({purpose}; package {package})"),
        }
    }
    match bpf::toolchain() {
        Some(toolchain) => eprintln!("set-up: BPF        {}", toolchain.describe()),
        None => eprintln!("set-up: BPF        MISSING (a compiler with core's source)"),
    }
    match find("bpf-linker") {
        Some(path) => eprintln!("set-up: bpf-linker {}", path.display()),
        None => eprintln!("set-up: bpf-linker MISSING (links the kernel programs)"),
    }
}

fn plan(compilers: &bpf::Compilers) -> Vec<Action> {
    let mut packages: Vec<&'static str> = APT
        .iter()
        .filter(|(program, ..)| find(program).is_none())
        .map(|(_, p, _)| *p)
        .collect();
    let mut actions = Vec::new();
    let linker = find("bpf-linker").is_some();
    // A nightly without a linker is no start: no package has the LLVM of a nightly.
    let there = bpf::toolchain()
        .filter(|t| linker || *t == compilers.choose() || *t == bpf::Toolchain::Distribution);
    let toolchain = there.unwrap_or_else(|| compilers.choose());
    let llvm = linker || bpf::llvm_is_there();
    match toolchain {
        bpf::Toolchain::Distribution if there.is_none() || !llvm => actions.push(Action::Compiler),
        bpf::Toolchain::Nightly if there.is_none() => actions.push(Action::Nightly),
        _ => {}
    }
    if !linker {
        actions.push(Action::Linker(toolchain));
    }
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        actions.insert(0, Action::Apt(packages));
    }
    actions
}

/// The lines that a person would type.
fn commands(action: &Action) -> Vec<String> {
    let sudo = if waggle_tests_support::is_root() {
        ""
    } else {
        "sudo "
    };
    match action {
        Action::Apt(packages) => apt_lines(sudo, packages),
        Action::Compiler => apt_lines(sudo, &compiler_packages()),
        Action::Nightly => vec![shown(&bpf::install_nightly())],
        Action::Linker(toolchain) => vec![shown(&bpf::install_linker(*toolchain, cargo()))],
    }
}

fn apt_lines(sudo: &str, packages: &[&str]) -> Vec<String> {
    let options = APT_OPTIONS.join(" ");
    let packages = packages.join(" ");
    vec![
        format!("{sudo}apt-get {options} update"),
        format!("{sudo}apt-get {options} install -y --no-install-recommends {packages}"),
    ]
}

fn compiler_packages() -> Vec<&'static str> {
    bpf::PACKAGES
        .into_iter()
        .chain(bpf::LLVM_PACKAGES)
        .collect()
}

const APT_OPTIONS: [&str; 4] = ["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"];

fn perform(action: &Action, compilers: &mut bpf::Compilers) -> anyhow::Result<()> {
    match action {
        Action::Apt(packages) => apt(packages),
        Action::Compiler => {
            if let Err(error) = apt(&compiler_packages()) {
                eprintln!("set-up: {error:#}; taking rustup's nightly instead");
                compilers.without_packages();
            }
            Ok(())
        }
        Action::Nightly => bpf::run_limited(&mut bpf::install_nightly(), bpf::RUSTUP_LIMIT),
        Action::Linker(toolchain) => run(&mut bpf::install_linker(*toolchain, cargo())),
    }
}

fn apt(packages: &[&str]) -> anyhow::Result<()> {
    if !waggle_tests_support::is_root() {
        eprintln!("set-up: not root; apt-get runs through sudo");
    }
    let apt = || {
        let mut command = root::command("env");
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"])
            .args(APT_OPTIONS);
        command.stdout(std::io::stderr());
        command
    };
    run(apt().arg("update"))?;
    run(apt()
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages))?;
    // Only the programs are wanted, not servers on ports 80 and 53. Without systemd there are none.
    for (package, service) in [
        ("nginx-light", "nginx"),
        ("unbound", "unbound"),
        ("redis-server", "redis-server"),
        ("docker-registry", "docker-registry"),
    ] {
        if packages.contains(&package) && find("systemctl").is_some() {
            let mut stop = root::command("systemctl");
            let _ = stop
                .args(["disable", "--now", service])
                .stdout(std::io::stderr())
                .status();
        }
    }
    Ok(())
}
