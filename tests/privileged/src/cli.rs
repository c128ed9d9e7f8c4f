//! The command line on the first node, with the leader's addresses.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "what tests ask fails as tests do"
)]

use std::process::{Command, Output};

use anyhow::ensure;
use serde_json::Value;
use waggle_tests_support::{cluster::port, scenario::World};

use crate::waggle;

/// `waggle` with these arguments, to be run.
pub fn command(world: &World, args: &[&str]) -> anyhow::Result<Command> {
    let mut command = world.cluster.command("n1", waggle()?)?;
    for (name, listener) in [
        ("WAGGLE_MASTER", port::MESOS),
        ("WAGGLE_MARATHON", port::MARATHON),
    ] {
        let url = format!("http://{}", world.cluster.leader(listener));
        command.env(name, url);
    }
    command.args(args);
    Ok(command)
}

/// What it answers.
pub fn output(world: &World, args: &[&str]) -> anyhow::Result<Output> {
    Ok(command(world, args)?.output()?)
}

/// Standard output of a command that succeeds.
pub fn run(world: &World, args: &[&str]) -> anyhow::Result<String> {
    let out = output(world, args)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, err) = (text(&out.stdout), text(&out.stderr));
    ensure!(out.status.success(), "waggle {args:?}: {said}{err}");
    Ok(said)
}

/// The same, where a test fails if it does not.
#[track_caller]
pub fn says(world: &World, args: &[&str]) -> String {
    run(world, args).unwrap()
}

/// The same as JSON.
#[track_caller]
pub fn shows(world: &World, args: &[&str]) -> Value {
    let text = says(world, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap()
}

/// What a command that fails says, with this exit code.
#[track_caller]
pub fn fails(world: &World, args: &[&str], code: i32) -> String {
    let out = output(world, args).unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "waggle {args:?}: {err}");
    err
}
