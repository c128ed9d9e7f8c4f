//! The project's commands: `cargo xtask demo`, `test`, `cluster`, `bench`, `tidy`, `build-ebpf`.
//!
//! What: set-up of a machine, builds, the demo, the tests, checks on the tree. Everything that a
//! reader of the README runs is here, and CI runs the same.
//!
//! Invariants: every step says what it does and how long it took; set-up is idempotent; exit codes
//! are 0 (all well), 1 (a step failed), 2 (bad arguments), 3 (something is missing and
//! `--no-install` was given).
//!
//! Never: logic of the product; the demo and the tests use its public API only.

#![forbid(unsafe_code)]

mod bench;
mod beside;
mod build;
mod cluster;
mod demo;
mod ebpf;
mod forward;
mod proto;
mod root;
mod run;
mod schema;
mod setup;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Waggle's development commands"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up, start a cluster on this machine, run the main job on it
    Demo(demo::Args),
    /// Set up and pass every test
    Test(test::Args),
    /// A cluster on this machine for trials
    Cluster(cluster::Args),
    /// Figures
    Bench(bench::Args),
    /// Layers, file sizes, leftovers
    Tidy,
    /// Find or install the tools that builds and tests need
    Setup(setup::Args),
    /// Build the kernel programs
    BuildEbpf,
    /// Regenerate what is made of the registry of signals
    Schema {
        /// Only check that what is committed is what would be generated
        #[arg(long)]
        check: bool,
    },
    /// Regenerate the code of the protobuf files
    Proto {
        /// Only check that the committed code is what would be generated
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Demo(args) => demo::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Cluster(args) => cluster::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Tidy => tidy::main(),
        Command::Setup(args) => setup::main(&args),
        Command::BuildEbpf => build::ebpf().map(|_| ExitCode::SUCCESS),
        Command::Schema { check } => schema::main(check),
        Command::Proto { check } => proto::main(check),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
