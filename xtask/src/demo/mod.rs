//! `cargo xtask demo`: a cluster on this machine and the main job on it, step by step.

mod failures;
mod signals;
mod steps;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use waggle_tests_support::cluster::{Config, Program, down};
use waggle_tests_support::leak::Snapshot;
use waggle_tests_support::names::Names;
use waggle_tests_support::scenario::{App, World};
use waggle_tests_support::wait::give_up;
use waggle_tests_support::wait_until;

use crate::build::Programs;
use crate::cluster::{print_nodes, ready_deadline};
use crate::forward::Forward;
use crate::{build, root, setup};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take everything down at the end and exit 0 or 1
    #[arg(long)]
    once: bool,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=250))]
    nodes: u8,
    /// Also ship all telemetry to this OTLP/gRPC endpoint, such as <http://127.0.0.1:4317>
    #[arg(long, value_parser = endpoint)]
    otlp: Option<String>,
    /// Only print what set-up would install, and exit 3 when something is missing
    #[arg(long)]
    no_install: bool,
}

/// Held while the cluster is taken down: an interrupt and the ordinary end do not race.
static TAKING_DOWN: Mutex<()> = Mutex::new(());

/// An OTLP/gRPC endpoint as the relay can use it.
fn endpoint(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").unwrap_or_default();
    if host.is_empty() {
        return Err("must be http://HOST:PORT (OTLP/gRPC without TLS)".to_owned());
    }
    Ok(text.to_owned())
}

/// What the steps share.
struct Stage {
    world: World,
    programs: Programs,
    app: Option<App>,
}

/// One step of the demo.
type Step = fn(&mut Stage) -> anyhow::Result<()>;

/// Runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if std::env::var_os("WAGGLE_BIN_DIR").is_none()
        && let Some(code) = setup::ensure(args.no_install)?
    {
        return Ok(code);
    }
    let programs = build::programs()?;
    if let Some(code) = root::again("the demo's namespaces, cgroups and kernel programs")? {
        return Ok(code);
    }
    let passed = run(args, programs)?;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the demo with what is built; true when every step passed.
pub fn run(args: &Args, programs: Programs) -> anyhow::Result<bool> {
    let names = Names::from_env();
    let interrupted = on_interrupt(&names)?;
    let before = {
        // Leftovers of an earlier crash are not ours to compare with.
        waggle_tests_support::cluster::clear_leftovers(&names, &mut |line| println!("  {line}"))?;
        Snapshot::take(&names)
    };
    let mut report = Report::default();
    let start = Instant::now();
    let config = Config {
        names: names.clone(),
        nodes: args.nodes,
        program: Program::Waggle(programs.waggle.clone()),
        otlp: None,
        owned: true,
    };
    println!("\n=== 0. start {} nodes", args.nodes);
    let deadline = ready_deadline(args.nodes);
    let world = World::up(config, args.otlp.clone(), deadline, &mut |line| {
        println!("  {line}");
    });
    let world = match world {
        Ok(world) => world,
        Err(error) => {
            if interrupted.load(Ordering::SeqCst) {
                bail!("interrupted");
            }
            println!("FAIL start: {error:#}");
            explain_machine(&programs);
            return Ok(false);
        }
    };
    print_nodes(&world.cluster.state);
    report.add("0. start the nodes", start, &Ok(()));
    let mut stage = Stage {
        world,
        programs,
        app: None,
    };
    let steps: [(&str, Step); 6] = [
        (
            "1. deploy 3 instances of nginx behind a VIP",
            steps::deploy_web,
        ),
        ("2. ask each node's DNS", steps::dns),
        ("3. 300 requests to the VIP from each node", steps::spread),
        ("4. kill one nginx while wrk runs", failures::kill_backend),
        ("5. kill one agent while requests run", failures::kill_agent),
        (
            "6. metrics, logs and the trace, as they arrived over OTLP",
            signals::show,
        ),
    ];
    for (title, step) in steps {
        if interrupted.load(Ordering::SeqCst) {
            break;
        }
        println!("\n=== {title}");
        let began = Instant::now();
        let result = step(&mut stage);
        let failed_first = result.is_err() && stage.app.is_none();
        report.add(title, began, &result);
        if failed_first {
            println!("{}", stage.world.cluster.last_words());
            explain_machine(&stage.programs);
            break;
        }
    }
    if !args.once && !interrupted.load(Ordering::SeqCst) {
        stay(&stage, &interrupted)?;
    }
    println!("\n=== 7. take everything down");
    let began = Instant::now();
    let _alone = TAKING_DOWN.lock().unwrap_or_else(PoisonError::into_inner);
    give_up(false);
    let torn = stage
        .world
        .down(&mut |line| println!("  {line}"))
        .and_then(|()| {
            let left = Snapshot::left_behind(&names, &before);
            if left.is_empty() {
                Ok(())
            } else {
                bail!("left behind: {}", left.join(", "))
            }
        });
    report.add("7. take everything down, nothing left behind", began, &torn);
    if interrupted.load(Ordering::SeqCst) && args.once {
        bail!("interrupted");
    }
    Ok(report.print(start))
}

/// Ctrl-C, SIGTERM and SIGHUP take the cluster down even while a step runs.
fn on_interrupt(names: &Names) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let (shared, names) = (Arc::clone(&flag), names.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Installed before the thread runs, so that no signal finds the default action.
    let (mut interrupt, mut terminate, mut hangup) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let _alone = TAKING_DOWN.lock().unwrap_or_else(PoisonError::into_inner);
        shared.store(true, Ordering::SeqCst);
        // Not println!, which panics when the terminal is gone.
        let say = |line: &str| drop(writeln!(std::io::stdout(), "{line}"));
        say("\ninterrupted: taking the cluster down");
        // What fails here, the ordinary end will try again.
        let _ = down(&names, &mut |line| say(&format!("  {line}")));
        // A step that still waits for something on the cluster ends now.
        give_up(true);
    });
    Ok(flag)
}

/// Keeps the cluster until Ctrl-C.
fn stay(stage: &Stage, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let cluster = &stage.world.cluster;
    println!("\nthe cluster stays up; Ctrl-C takes it down");
    print_nodes(&cluster.state);
    let hub = cluster.names.hub();
    let mut forwards = Vec::new();
    for (what, port) in [("Marathon API", 8080), ("Mesos API", 5050)] {
        let target = cluster.leader(port);
        let forward =
            Forward::start(&hub, target, port).with_context(|| format!("forward to {target}"))?;
        println!("  {what} of n1 from this machine: http://{}", forward.local);
        forwards.push(forward);
    }
    println!(
        "  cargo xtask cluster exec n2 -- curl -s http://web.marathon.l4lb.thisdcos.directory/"
    );
    println!("  logs: {}", cluster.names.state_dir().display());
    while !interrupted.load(Ordering::SeqCst) {
        let hour = Duration::from_hours(1);
        let _ = wait_until(hour, "Ctrl-C", || {
            interrupted.load(Ordering::SeqCst).then_some(())
        });
    }
    Ok(())
}

/// What this machine lacks, when the start failed.
fn explain_machine(programs: &Programs) {
    println!("`waggle doctor` says:");
    match std::process::Command::new(&programs.waggle)
        .arg("doctor")
        .output()
    {
        Ok(out) => {
            print!(
                "{}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
        }
        Err(error) => println!("  it does not run: {error}"),
    }
}

/// The results of the steps.
#[derive(Debug, Default)]
struct Report {
    lines: Vec<(bool, String)>,
}

impl Report {
    fn add(&mut self, title: &str, began: Instant, result: &anyhow::Result<()>) {
        let took = began.elapsed().as_secs_f64();
        let line = match result {
            Ok(()) => format!("PASS  {title} ({took:.1} s)"),
            Err(error) => format!("FAIL  {title} ({took:.1} s): {error:#}"),
        };
        println!("{line}");
        self.lines.push((result.is_ok(), line));
    }

    fn print(&self, start: Instant) -> bool {
        println!("\n=== result after {:.1} s", start.elapsed().as_secs_f64());
        for (_, line) in &self.lines {
            println!("{line}");
        }
        self.lines.iter().all(|(passed, _)| *passed)
    }
}

/// Arguments of a demo that `cargo xtask test` runs.
pub fn once() -> Args {
    Args {
        once: true,
        nodes: 3,
        otlp: None,
        no_install: false,
    }
}
