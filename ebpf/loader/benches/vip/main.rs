//! `cargo xtask bench vip`: what a VIP adds to a connect, and connections through it beside direct ones and nftables.
//!
//! Every configuration is a process in a network namespace and a cgroup of its own, all alive at once, pinned to one CPU;
//! a round visits them one after the other, the next round begins with the next one. Figures are medians over rounds
//! of differences and ratios to the same round's `direct`; a second `direct` shows what is noise. Connections are
//! closed by resets, client and server are one thread, so that its CPU time is all that a connection costs.
#![allow(clippy::print_stdout, reason = "its output")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod child;
mod features;
mod ground;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use child::{Child, Sample};
use ground::{Ground, Place};
use waggle_ebpf::DataPlane;
use waggle_ebpf::common::{Backend, Cell, SetHeader, VipKey, addr_of};

const VIP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(11, 0, 0, 1)), 80);
const BACKENDS: usize = 3;
/// Operations per visit.
const UDP_OPS: u32 = 40_000;
const NEW_OPS: u32 = 8_000;
const TCP_OPS: u32 = 3_000;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if let Some(cgroup) = std::env::var_os(child::ENV) {
        return child::serve(cgroup.as_ref());
    }
    let value = |name: &str, default: usize| -> anyhow::Result<usize> {
        let at = args.iter().position(|a| a == name);
        match at.and_then(|i| args.get(i + 1)) {
            Some(text) => text.parse().with_context(|| format!("{name} {text}")),
            None => Ok(default),
        }
    };
    let (rounds, cpu) = (value("--rounds", 21)?, value("--cpu", 1)?);
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    println!(
        "kernel {}; CPU {cpu} of {}; {rounds} rounds; load average {}",
        ground::first_words("/proc/sys/kernel/osrelease", 1),
        std::thread::available_parallelism().map_or(0, usize::from),
        ground::first_words("/proc/loadavg", 3),
    );
    if args.iter().any(|a| a == "--features") {
        let at = args.iter().position(|a| a == "--empty");
        let empty = at.and_then(|i| args.get(i + 1));
        let empty = empty.context("--empty PATH: the object of programs that do nothing")?;
        return features::measure(&ground, empty.as_ref(), rounds, cpu);
    }
    connects(&ground, rounds, cpu)?;
    connections(&ground, rounds, cpu)
}

/// One configuration. Its parts end in this order.
struct Config {
    name: &'static str,
    child: Child,
    to: SocketAddr,
    _plane: Option<DataPlane>,
    _place: Place,
}

/// Puts `services` VIPs into maps; the bench's own comes last.
fn fill(plane: &DataPlane, services: u32, proto: u8, ports: &[u16]) -> anyhow::Result<()> {
    let mut cell = 0;
    for n in (0..services).rev() {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 1)) + n);
        let key = VipKey {
            addr: addr_of(ip.into()),
            port: 80u16.to_be(),
            proto,
            pad: 0,
        };
        let count = u16::try_from(ports.len())?;
        let header = SetHeader {
            addr: key.addr,
            port: key.port,
            proto,
            vip_id: n + 1,
            n: count,
            members: count,
            ..SetHeader::default()
        };
        let backends = (0..).zip(ports).map(|(alias, port)| {
            Cell::from(Backend {
                addr: addr_of(Ipv4Addr::LOCALHOST.into()),
                port: port.to_be(),
                threshold: u32::MAX,
                alias,
                ..Backend::default()
            })
        });
        let cells: Vec<Cell> = std::iter::once(header.into()).chain(backends).collect();
        plane.vips().write_cells(cell, &cells)?;
        plane.vips().set_vip(&key, cell)?;
        cell += u32::try_from(cells.len())?;
    }
    Ok(())
}

fn start(
    ground: &Ground,
    name: &'static str,
    cpu: usize,
) -> anyhow::Result<(Place, Child, Vec<u16>)> {
    let place = ground.place(name)?;
    let mut child = Child::start(&place, cpu)?;
    let ports = child.listen(BACKENDS)?;
    Ok((place, child, ports))
}

fn direct(ground: &Ground, name: &'static str, cpu: usize) -> anyhow::Result<Config> {
    let (place, child, ports) = start(ground, name, cpu)?;
    Ok(Config {
        name,
        child,
        to: SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0])),
        _plane: None,
        _place: place,
    })
}

/// A place with all hooks, and VIPs over UDP.
fn hooked_place(
    ground: &Ground,
    name: &'static str,
    cpu: usize,
    services: u32,
) -> anyhow::Result<(Place, Child, Vec<u16>, DataPlane)> {
    let (place, child, ports) = start(ground, name, cpu)?;
    let plane = place.open()?;
    plane.watch_resets()?;
    fill(&plane, services, 17, &ports)?;
    Ok((place, child, ports, plane))
}

fn hooked(
    ground: &Ground,
    name: &'static str,
    cpu: usize,
    services: u32,
    to: Option<SocketAddr>,
) -> anyhow::Result<Config> {
    let (place, child, ports, plane) = hooked_place(ground, name, cpu, services)?;
    Ok(Config {
        name,
        child,
        to: to.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0]))),
        _plane: Some(plane),
        _place: place,
    })
}

/// What the hooks add to connect(2), by UDP sockets, whose connect does nothing else.
fn connects(ground: &Ground, rounds: usize, cpu: usize) -> anyhow::Result<()> {
    let mut configs = vec![
        direct(ground, "direct", cpu)?,
        direct(ground, "direct2", cpu)?,
        hooked(ground, "novip", cpu, 1, None)?,
        hooked(ground, "vip1", cpu, 1, Some(VIP))?,
        hooked(ground, "vip10k", cpu, 10_000, Some(VIP))?,
        hooked(ground, "vip30k", cpu, 30_000, Some(VIP))?,
    ];
    for (title, op, n) in [
        ("connect(), same socket", "udp-same", UDP_OPS),
        ("socket + connect + close", "udp-new", NEW_OPS),
        ("getpeername()", "peer", UDP_OPS),
    ] {
        let samples = run(&mut configs, rounds, op, n)?;
        println!(
            "\n{title} (UDP), ns added to direct, median of paired rounds [direct: {:.0} ns]",
            median(samples[0].iter().map(|s| s.wall_ns))
        );
        for (config, of) in configs.iter().zip(&samples).skip(1) {
            let added = median(
                of.iter()
                    .zip(&samples[0])
                    .map(|(a, b)| a.wall_ns - b.wall_ns),
            );
            let note = match config.name {
                "direct2" => "A/A: noise".to_owned(),
                "vip1" if op == "udp-same" => verdict(added, 250.0),
                _ => String::new(),
            };
            println!("  {:<10} {added:>9.0} ns   {note}", config.name);
        }
        if op == "udp-same" {
            let flat = median(
                samples[5]
                    .iter()
                    .zip(&samples[3])
                    .map(|(a, b)| a.wall_ns / b.wall_ns),
            );
            let wide = median(
                samples[1]
                    .iter()
                    .zip(&samples[0])
                    .map(|(a, b)| a.wall_ns / b.wall_ns),
            );
            let met = if flat <= 1.02 { "met" } else { "MISSED" };
            println!("  30k services / 1 service: {flat:.3} (target 1.02: {met}; A/A {wide:.3})");
        }
    }
    Ok(())
}

/// Connections a second and their CPU time, through a VIP, directly and through nftables.
fn connections(ground: &Ground, rounds: usize, cpu: usize) -> anyhow::Result<()> {
    let mut configs = vec![
        direct(ground, "direct", cpu)?,
        direct(ground, "direct2", cpu)?,
    ];
    // All hooks, and a destination that is no VIP: what counting costs, whoever is dialled.
    configs.push(hooked(ground, "metered", cpu, 1, None)?);
    for (name, services) in [("vip1", 1), ("vip10k", 10_000)] {
        let (place, child, ports) = start(ground, name, cpu)?;
        let plane = place.open()?;
        plane.watch_resets()?;
        fill(&plane, services, 6, &ports)?;
        configs.push(Config {
            name,
            child,
            to: VIP,
            _plane: Some(plane),
            _place: place,
        });
    }
    if ground::has_nft() {
        let (place, child, ports) = start(ground, "nft10k", cpu)?;
        place.nft(10_000, &ports)?;
        configs.push(Config {
            name: "nft10k",
            child,
            to: VIP,
            _plane: None,
            _place: place,
        });
    } else {
        println!("nftables: not measured, nft is not installed");
    }
    let samples = run(&mut configs, rounds, "tcp", TCP_OPS)?;
    println!(
        "\nTCP connections, {BACKENDS} backends, ratio to direct over the same {BACKENDS}, median of paired rounds"
    );
    println!(
        "  {:<10} {:>10} {:>10} {:>14} {:>14}",
        "", "rate", "CPU/conn", "added CPU", "absolute"
    );
    let mut added = Vec::new();
    for (config, of) in configs.iter().zip(&samples) {
        let pairs = || of.iter().zip(&samples[0]);
        let rate = median(pairs().map(|(a, b)| b.wall_ns / a.wall_ns));
        let cpu = median(pairs().map(|(a, b)| a.cpu_ns / b.cpu_ns));
        let more = median(pairs().map(|(a, b)| a.cpu_ns - b.cpu_ns));
        let absolute = median(of.iter().map(|s| s.cpu_ns)) / 1e3;
        println!(
            "  {:<10} {rate:>10.3} {cpu:>10.3} {:>11.2} us {absolute:>11.1} us",
            config.name,
            more / 1e3
        );
        added.push((config.name, rate, more));
    }
    let place = |name: &str| configs.iter().position(|c| c.name == name);
    let of = |name: &str| added.iter().find(|(n, ..)| *n == name);
    if let (Some(v), Some(m)) = (place("vip10k"), place("metered")) {
        let pairs = || samples[v].iter().zip(&samples[m]);
        let rate = median(pairs().map(|(a, b)| b.wall_ns / a.wall_ns));
        let more = median(pairs().map(|(a, b)| a.cpu_ns - b.cpu_ns));
        let met = if rate >= 0.99 { "met" } else { "MISSED" };
        println!(
            "  both counted per container: VIP / direct {rate:.3} (target 0.99: {met}), added CPU {:.2} us",
            more / 1e3
        );
        if let Some(nft) = of("nft10k") {
            println!(
                "  added CPU of the VIP alone / nftables: 1/{:.0} (target 1/50)",
                nft.2 / more.max(1.0)
            );
        }
    }
    if let (Some(vip), Some(nft)) = (of("vip10k"), of("nft10k")) {
        let met = |ok: bool| if ok { "met" } else { "MISSED" };
        println!(
            "  counted VIP / uncounted direct {:.3} (target 0.99: {}; A/A {:.3})",
            vip.1,
            met(vip.1 >= 0.99),
            added[1].1
        );
        println!(
            "  VIP / nftables at 10k services: {:.2}x the rate (target 1.2)",
            vip.1 / nft.1
        );
        println!(
            "  added CPU, counted VIP / nftables: 1/{:.1} (target 1/50)",
            nft.2 / vip.2.max(1.0)
        );
    }
    Ok(())
}

/// Samples by configuration, one a round.
fn run(
    configs: &mut [Config],
    rounds: usize,
    op: &str,
    n: u32,
) -> anyhow::Result<Vec<Vec<Sample>>> {
    let mut samples: Vec<Vec<Sample>> = configs.iter().map(|_| Vec::new()).collect();
    // The first round fills caches and is not counted.
    for round in 0..=rounds {
        for i in 0..configs.len() {
            let at = (i + round) % configs.len();
            let config = &mut configs[at];
            let to = config.to;
            let sample = config
                .child
                .measure(op, to, n)
                .with_context(|| format!("{op} of {}", config.name))?;
            if round > 0 {
                samples[at].push(sample);
            }
        }
    }
    Ok(samples)
}

fn verdict(added: f64, target: f64) -> String {
    let met = if added <= target { "met" } else { "MISSED" };
    format!("target {target:.0} ns: {met}")
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
