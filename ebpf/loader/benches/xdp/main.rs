//! Nanoseconds per packet of the edge's program, beside a minimal C load balancer in the same rounds.
//!
//! `cargo xtask bench xdp` builds both objects and runs this; by hand:
//! `cargo bench -p waggle-ebpf --bench xdp -- --ours OBJECT --peer OBJECT [--rounds N] [--cpu N]`.
//!
//! BPF_PROG_TEST_RUN with many repeats, each through a wrapper that restores the packet and may change the client. All
//! cases take turns within a round; a case's figure is the median over the rounds of its difference to the wrapper
//! alone in the same round, its ratio the median of the ratios of such differences. One case runs twice: how far
//! the two are apart is the noise.

mod cases;
mod change;
mod measure;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

struct Args {
    ours: PathBuf,
    peer: PathBuf,
    rounds: usize,
    cpu: usize,
}

fn main() -> anyhow::Result<()> {
    let args = arguments()?;
    measure::pin(args.cpu)?;
    let bpffs = measure::Bpffs::mount()?;
    let mut bench = cases::Bench::load(&args.ours, &args.peer, bpffs.path())?;
    let table = bench.run(args.rounds)?;
    print!("{table}");
    for backends in [100, 700] {
        print!("{}", change::measure(bpffs.path(), backends)?);
    }
    print!("{}", change::memory());
    Ok(())
}

fn arguments() -> anyhow::Result<Args> {
    let (mut ours, mut peer, mut rounds, mut cpu) = (None, None, 21, 1);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        // What cargo adds.
        if word == "--bench" {
            continue;
        }
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--ours" => ours = Some(PathBuf::from(value)),
            "--peer" => peer = Some(PathBuf::from(value)),
            "--rounds" => rounds = value.parse().context("--rounds")?,
            "--cpu" => cpu = value.parse().context("--cpu")?,
            _ => bail!("unknown argument {word}"),
        }
    }
    Ok(Args {
        ours: ours.context("--ours: the object of our programs in their wrapper")?,
        peer: peer.context("--peer: the object of the peer")?,
        rounds,
        cpu,
    })
}
