//! `cargo xtask cluster up|exec|down|status`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Subcommand;
use waggle_tests_support::cluster::{Cluster, Config, Program, State, clear_leftovers, down};
use waggle_tests_support::names::Names;
use waggle_tests_support::process;

use crate::run::own_dir;
use crate::{build, root, setup};

/// Arguments of `cluster`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start nodes, each in its own namespace, cgroup and bpffs directory
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=250))]
        nodes: u8,
        /// Print the nodes as JSON
        #[arg(long)]
        json: bool,
        /// An OTLP/gRPC endpoint that nodes can reach from their namespaces
        #[arg(long)]
        otlp: Option<String>,
        /// Only print what set-up would install
        #[arg(long)]
        no_install: bool,
    },
    /// Run a command in a node's namespace and cgroup, with its resolver
    Exec {
        /// The node, such as n1
        node: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Take the cluster down, whatever is left of it
    Down,
    /// What is up
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// How long nodes may take until their APIs answer.
pub fn ready_deadline(nodes: u8) -> Duration {
    Duration::from_secs(30 + 3 * u64::from(nodes))
}

/// Runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Up {
            nodes,
            json,
            otlp,
            no_install,
        } => up(*nodes, *json, otlp.clone(), *no_install),
        Action::Exec { node, command } => exec(node, command),
        Action::Down => {
            if let Some(code) = root::again("taking a cluster down")? {
                return Ok(code);
            }
            down(&Names::from_env(), &mut |line| println!("{line}"))?;
            println!("no cluster is left");
            Ok(ExitCode::SUCCESS)
        }
        Action::Status { json } => status(*json),
    }
}

fn up(nodes: u8, json: bool, otlp: Option<String>, no_install: bool) -> anyhow::Result<ExitCode> {
    if std::env::var_os("WAGGLE_BIN_DIR").is_none()
        && let Some(code) = setup::ensure(no_install)?
    {
        return Ok(code);
    }
    let programs = build::programs()?;
    if let Some(code) = root::again("a cluster of namespaces")? {
        return Ok(code);
    }
    let start = Instant::now();
    let names = Names::from_env();
    let mut say = |line: &str| eprintln!("{line}");
    clear_leftovers(&names, &mut say)?;
    let program = Program::Waggle(programs.waggle);
    let config = Config {
        names,
        nodes,
        program,
        otlp,
        owned: false,
    };
    let cluster = Cluster::up(&config, ready_deadline(nodes), &mut say)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&cluster.state.nodes)?);
    } else {
        println!(
            "{nodes} nodes are up after {:.1} s",
            start.elapsed().as_secs_f64()
        );
        print_nodes(&cluster.state);
        println!("try: cargo xtask cluster exec n1 -- curl -s http://192.168.77.1:8080/v2/apps");
    }
    Ok(ExitCode::SUCCESS)
}

/// A table of nodes.
pub fn print_nodes(state: &State) {
    println!(
        "{:5} {:14} {:8} {:9} {:28} {:28} agent",
        "node", "address", "netns", "process", "Mesos API", "Marathon API"
    );
    for node in &state.nodes {
        let word = if process::alive(node.pid) {
            node.pid.to_string()
        } else {
            "dead".to_owned()
        };
        println!(
            "{:5} {:14} {:8} {word:9} {:28} {:28} {}",
            node.name,
            node.ip.to_string(),
            node.netns,
            node.mesos_url,
            node.marathon_url,
            node.agent_url
        );
    }
}

fn exec(node: &str, line: &[String]) -> anyhow::Result<ExitCode> {
    if let Some(code) = root::again("entering a node")? {
        return Ok(code);
    }
    let cluster = Cluster::open(&Names::from_env(), None)?;
    let (program, args) = line.split_first().context("no command")?;
    let mut command = cluster.command(node, program)?;
    if let Some(path) = path_with_ours() {
        command.env("PATH", path);
    }
    let status = match command.args(args).status() {
        Ok(status) => status,
        // As a shell has it: 127 for what is not there, 126 for what can't be run.
        Err(error) => {
            eprintln!("error: run {program} on {node}: {error}");
            let not_there = error.kind() == std::io::ErrorKind::NotFound;
            return Ok(ExitCode::from(if not_there { 127 } else { 126 }));
        }
    };
    Ok(ExitCode::from(exit_code(status)))
}

/// The command's own code; 128 and the signal when one ended it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The search path with the directory of what was built in front: `waggle` is found there.
fn path_with_ours() -> Option<OsString> {
    let dir = own_dir().ok()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(dir).chain(std::env::split_paths(&path))).ok()
}

fn status(json: bool) -> anyhow::Result<ExitCode> {
    let state = State::load(&Names::from_env())?;
    match (&state, json) {
        (Some(state), true) => println!("{}", serde_json::to_string_pretty(state)?),
        (None, true) => println!("null"),
        (Some(state), false) => print_nodes(state),
        (None, false) => println!("no cluster is up"),
    }
    let all_alive = state.is_some_and(|s| s.nodes.iter().all(|n| process::alive(n.pid)));
    Ok(if all_alive {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
    }

    #[test]
    fn what_was_built_is_found_first() {
        let path = path_with_ours().unwrap();
        let first = std::env::split_paths(&path).next().unwrap();
        assert_eq!(first, own_dir().unwrap());
    }
}
