//! The `waggle` binary: argument grammar, tables and JSON, process wiring.
//!
//! It holds no state and schedules nothing: the master and the agent are libraries that are started
//! here with checked settings and bound listeners, and every other command is a client of the public
//! HTTP API.
//!
//! # Exit codes
//! 0 done; 1 failed; 2 the input was wrong (flag, file, value), nothing was changed. `exec` and `attach` end as the
//! command or task does (128 and the signal's number), with 126 or 127 when it can't be started, 255 when they lost it.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod config;
mod definition;
mod dns;
mod error;
mod listen;
mod node;
mod resources;
mod run;
mod session;
mod show;
mod table;
mod times;

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use error::CliError;

/// Many small messages on many sessions: glibc's allocator takes a seventh of a busy master's CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The shim must stay small and single-threaded: it is decided before any runtime starts, and before the grammar of
    // all commands is made, for which a task's start would wait.
    let mut args = std::env::args_os().skip(1);
    if let (Some(shim), Some(dir), None) = (args.next(), args.next(), args.next())
        && shim == "shim"
        && !dir.as_encoded_bytes().starts_with(b"-")
    {
        return waggle_agent::shim_main(Path::new(&dir));
    }
    let cli = Cli::parse();
    if let Command::Shim { dir } = &cli.command {
        return waggle_agent::shim_main(dir);
    }
    if let Command::ExecShim = &cli.command {
        return waggle_agent::exec_shim_main();
    }
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let code = e.exit_code();
            match e {
                CliError::Ended(_) => {}
                CliError::Failed(chain) => eprintln!("waggle: {chain:#}"),
                other => eprintln!("waggle: {other}"),
            }
            ExitCode::from(code)
        }
    }
}

fn dispatch(command: Command) -> Result<(), CliError> {
    match command {
        Command::Node(node) => match node.command {
            None => run::node(&node.run, run::Half::Both),
            Some(sub) => block_on(commands::node::run(sub)),
        },
        Command::Master(flags) => run::node(&flags, run::Half::Master),
        Command::Agent(flags) => run::node(&flags, run::Half::Agent),
        Command::Doctor(doctor) => commands::doctor::run(&doctor),
        Command::App(app) => block_on(commands::app::run(app)),
        Command::Pod(pod) => block_on(commands::pod::run(pod)),
        Command::Group(group) => block_on(commands::group::run(group)),
        Command::Deployment(d) => block_on(commands::deployment::run(d)),
        Command::Job(job) => block_on(commands::job::run(job)),
        Command::Exec(c) => block_on(commands::exec::exec(c)),
        Command::Attach(c) => block_on(commands::exec::attach(c)),
        Command::Task(task) => block_on(commands::task::run(task)),
        Command::Framework(c) => block_on(commands::framework::frameworks(c)),
        Command::Offer(c) => block_on(commands::framework::offers(c)),
        Command::Network(c) => block_on(commands::network::run(c)),
        Command::Role(c) => block_on(commands::role::roles(c)),
        Command::Quota(c) => block_on(commands::role::quotas(c)),
        Command::Weight(c) => block_on(commands::role::weights(c)),
        Command::Reservation(c) => block_on(commands::reservation::run(c)),
        Command::Volume(c) => block_on(commands::volume::run(c)),
        Command::Image(c) => block_on(commands::image::run(c)),
        Command::Logs(c) => block_on(commands::logs::run(c)),
        Command::Flows(c) => block_on(commands::flows::run(c)),
        Command::Map(c) => block_on(commands::map::run(c)),
        Command::Trace(c) => block_on(commands::trace::run(c)),
        Command::Top(c) => block_on(commands::top::run(c)),
        Command::Drops(c) => block_on(commands::drops::run(c)),
        Command::Queue(c) => block_on(commands::queue::run(c)),
        Command::Version(c) => block_on(commands::version::run(c)),
        Command::Schema(c) => commands::print_json(&match c.of {
            args::Schema::App => waggle_api::marathon::app_schema(),
            args::Schema::Pod => waggle_api::marathon::pod_schema(),
        }),
        Command::Maintenance(c) => block_on(commands::maintenance::run(c)),
        Command::Vip(vip) => block_on(commands::vip::run(vip)),
        Command::Policy(policy) => block_on(commands::policy::run(policy)),
        Command::Explain(explain) => block_on(commands::explain::run(explain)),
        Command::Dns(dns) => block_on(commands::dns::run(dns.command)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "waggle", &mut script);
            commands::print(&String::from_utf8_lossy(&script))
        }
        // Handled before a runtime exists.
        Command::Shim { .. } | Command::ExecShim => Ok(()),
    }
}

/// Client commands need one thread.
fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn node_runs_or_lists() {
        let run = Cli::try_parse_from(["waggle", "node", "--name", "n1"]).unwrap();
        assert!(matches!(run.command, Command::Node(n) if n.command.is_none()));
        let list = Cli::try_parse_from(["waggle", "node", "list", "--json"]).unwrap();
        assert!(matches!(list.command, Command::Node(n) if n.command.is_some()));
        assert!(Cli::try_parse_from(["waggle", "node", "--nonsense"]).is_err());
    }
}
