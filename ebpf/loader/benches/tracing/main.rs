//! `cargo xtask bench tracing`: CPU time that traced requests cost in the kernel, both ends on this machine, and what becomes of bulk.
//!
//! Every configuration is a process in a network namespace and a cgroup of its own, all alive at once, pinned to one CPU; a round visits
//! them one after the other. Figures are medians over rounds of differences and ratios to the same round's `off`; a second `off`
//! shows what is noise. Client and server are one thread, so that its CPU time is all that a request costs; reading the ring is measured
//! beside it, in this process. What user space makes of the records is not in it.
#![allow(clippy::print_stdout, reason = "its output")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod child;
#[allow(dead_code, reason = "it has more than is needed here")]
#[path = "../vip/ground.rs"]
mod ground;

use std::time::Instant;

use anyhow::Context as _;
use child::Child;
use ground::{Ground, Place};
use waggle_ebpf::{
    DataPlane, Injector, Opened, RequestRecords, RequestTracer, Stay, Terms, cgroup_id,
};

/// Per visit.
const KEPT: u32 = 4000;
const SHORT: u32 = 800;
const BULK_MIB: u32 = 256;

/// One configuration. Its parts end in this order.
struct Config {
    name: &'static str,
    child: Child,
    records: Option<RequestRecords>,
    _injector: Option<Box<Injector>>,
    _tracer: Option<RequestTracer>,
    _plane: DataPlane,
    _place: Place,
}

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
    let mut configs = Vec::new();
    // A data plane everywhere: the difference is the tracer alone.
    for (name, parts) in [
        ("off", Parts::None),
        ("off again", Parts::None),
        ("on, of others", Parts::OfOthers),
        ("on", Parts::Traced),
        ("put in, first", Parts::PutIn(Stay::First)),
        ("put in, all", Parts::PutIn(Stay::Whole)),
    ] {
        configs.extend(config(&ground, name, parts, cpu)?);
    }
    for (what, command, unit) in [
        ("keep-alive", format!("kept {KEPT}"), "us a request"),
        (
            "short connections",
            format!("short {SHORT}"),
            "us a request",
        ),
        ("bulk", format!("bulk {BULK_MIB}"), "ms"),
    ] {
        measure(&mut configs, rounds, what, &command, unit)?;
    }
    Ok(())
}

/// What a configuration has beside a data plane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    None,
    /// The tracer, which looks at nothing here.
    OfOthers,
    Traced,
    /// Traced, and a header is put into requests: a connection's first, or all.
    PutIn(Stay),
}

/// `None`, after saying why, where this kernel lets no headers be put in.
fn config(
    ground: &Ground,
    name: &'static str,
    parts: Parts,
    cpu: usize,
) -> anyhow::Result<Option<Config>> {
    let place = ground.place(&name.replace([' ', ','], "-"))?;
    let plane = place.open()?;
    let id = cgroup_id(&place.cgroup)?;
    let tracer = match parts {
        Parts::None => None,
        _ => Some(RequestTracer::open(&plane, &place.cgroup)?),
    };
    if let Some(tracer) = tracer.as_ref().filter(|_| parts != Parts::OfOthers) {
        tracer.trace(id)?;
    }
    let injector = match parts {
        Parts::PutIn(stay) => {
            let terms = Terms {
                without_send_zc: true,
            };
            let injector = match Injector::open(&plane, &place.cgroup, terms)? {
                Opened::Works(injector) => injector,
                Opened::Refused(why, _) => {
                    println!("{name}: left out, this kernel can't: {why}");
                    return Ok(None);
                }
            };
            injector.set_stay(stay)?;
            injector.inject(id)?;
            Some(injector)
        }
        _ => None,
    };
    Ok(Some(Config {
        name,
        child: Child::start(&place, cpu)?,
        records: tracer.as_ref().and_then(RequestTracer::take_records),
        _injector: injector,
        _tracer: tracer,
        _plane: plane,
        _place: place,
    }))
}

fn measure(
    configs: &mut [Config],
    rounds: usize,
    what: &str,
    command: &str,
    unit: &str,
) -> anyhow::Result<()> {
    let n = configs.len();
    let mut samples = vec![Vec::new(); n];
    let (mut records, mut bytes, mut reading_us) = (0_u64, 0_u64, 0.0);
    for round in 0..rounds {
        for visit in 0..n {
            let at = (round + visit) % n;
            let config = &mut configs[at];
            samples[at].push(config.child.ask(command)?);
            let Some(ring) = &mut config.records else {
                continue;
            };
            let begun = Instant::now();
            while let Some(len) = ring.next(|_, bytes| bytes.len()) {
                records += 1;
                bytes += len as u64;
            }
            reading_us += begun.elapsed().as_secs_f64() * 1e6;
        }
    }
    println!("\n{what} ({unit}; median, difference and ratio to off)");
    for (at, config) in configs.iter().enumerate() {
        let pairs = || samples[at].iter().zip(&samples[0]);
        let difference = median(pairs().map(|(a, b)| a - b).collect());
        let ratio = median(pairs().map(|(a, b)| a / b).collect());
        let own = median(samples[at].clone());
        println!(
            "  {:14} {own:9.2} {difference:+8.2} {ratio:7.3}",
            config.name
        );
    }
    if records > 0 {
        let each = reading_us / records as f64;
        println!("  {records} records, {bytes} bytes of payload, {each:.2} us to read one");
    }
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
