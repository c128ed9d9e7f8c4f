//! The peer: nftables with the same services in one map, where one backend changes.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

const ROUNDS: usize = 21;

/// Loads the services into a namespace's nftables and changes one at a time, in a netlink transaction each.
pub fn measure(services: u32) -> anyhow::Result<()> {
    if Command::new("nft").arg("--version").output().is_err() {
        println!("nftables: not measured, nft is not installed");
        return Ok(());
    }
    let name = format!("wgb-nft-{}", std::process::id());
    ip(&["netns", "add", &name])?;
    let measured = in_namespace(&name, services);
    ip(&["netns", "del", &name])?;
    measured
}

fn in_namespace(name: &str, services: u32) -> anyhow::Result<()> {
    let mut script = String::from(
        "table ip lb {\n map svc { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = {\n",
    );
    for n in 0..services {
        let _ = writeln!(script, "{} : {},", element(n), backend(n, 0));
    }
    script.push_str("} }\n chain out { type nat hook output priority -100; dnat ip to ip daddr . tcp dport map @svc; }\n}\n");
    let begun = Instant::now();
    nft(name, &script)?;
    let load = begun.elapsed();
    let mut took: Vec<Duration> = Vec::new();
    let mut floor: Vec<Duration> = Vec::new();
    for round in 0..ROUNDS {
        let n = u32::try_from(round * 397)? % services;
        let change = format!(
            "delete element ip lb svc {{ {e} }}\nadd element ip lb svc {{ {e} : {b} }}\n",
            e = element(n),
            b = backend(n, 1)
        );
        let at = Instant::now();
        nft(name, &change)?;
        took.push(at.elapsed());
        let at = Instant::now();
        nft(name, "")?;
        floor.push(at.elapsed());
    }
    took.sort_unstable();
    floor.sort_unstable();
    let (change, start) = (took[ROUNDS / 2], floor[ROUNDS / 2]);
    println!(
        "nftables, 10k services in one map, 1 backend each: load {:.0} ms; one change {:.2} ms (of these {:.2} ms for nft's own start), median of {ROUNDS}",
        load.as_secs_f64() * 1e3,
        change.as_secs_f64() * 1e3,
        start.as_secs_f64() * 1e3
    );
    Ok(())
}

fn element(n: u32) -> String {
    format!("{} . 80", std::net::Ipv4Addr::from(0x0b00_0001 + n))
}

fn backend(n: u32, shift: u32) -> String {
    format!(
        "{} . 31000",
        std::net::Ipv4Addr::from(0x0a00_0001 + n + shift)
    )
}

fn nft(name: &str, script: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", name, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(script.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status}");
    Ok(())
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("ip").args(args).status()?;
    ensure!(status.success(), "ip {args:?}: {status}");
    Ok(())
}
