//! `cargo xtask bench dns`: the resolver beside dnsmasq and unbound. What is measured is in `overlay/benches/dns`; this
//! installs the peers, builds it and runs it.

use std::process::ExitCode;

use crate::run::{cargo, run, shown};
use crate::setup;

/// Arguments of `bench dns`: those of the bench (`-- --help` names them).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only print what would be installed
    #[arg(long)]
    no_install: bool,
    /// A hundred names, three rounds: whether it works
    #[arg(long)]
    quick: bool,
    /// Further arguments: --names, --rounds, --turn, --window, --askers, --rate, --dnsperf
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// What the test set-up does not need: what is looked for, its package.
const PEERS: [(&str, &str); 3] = [
    ("dnsmasq", "dnsmasq-base"),
    ("unbound", "unbound"),
    ("dnsperf", "dnsperf"),
];

/// Builds and runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(code) = setup::ensure_peers(&PEERS, args.no_install)? {
        return Ok(code);
    }
    let mut command = cargo();
    command
        .args(["bench", "--package", "waggle-overlay"])
        .args(["--bench", "dns", "--"]);
    if args.quick {
        command.arg("--quick");
    }
    command.args(&args.rest);
    println!("{}", shown(&command));
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
