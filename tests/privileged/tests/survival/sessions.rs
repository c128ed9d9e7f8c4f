//! `waggle exec`, `attach` and files, at a terminal and in pipes, over the master and past it.

use std::io::{Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use waggle_tests_privileged::{LIMIT, can_run, cli, shared};
use waggle_tests_support::cluster::NodeInfo;
use waggle_tests_support::scenario::{Task, World, remove};
use waggle_tests_support::{process, wait_until};

use crate::calm::{Calm, run_app};
use crate::terminal::Terminal;

const TALKER: &str = r#"{"id": "/talker", "instances": 1, "cpus": 0.05, "mem": 32,
    "constraints": [["hostname", "CLUSTER", "n2"]], "env": {"COLOR": "blue"},
    "cmd": "mkdir -p a/b; echo deep > a/b/c; n=0; while :; do echo tick $n; n=$((n+1)); sleep 0.1; done"}"#;

/// A task on n2, where n1 leads.
fn talker(world: &World) -> (Task, NodeInfo) {
    let task = run_app(world, TALKER).remove(0);
    let node = task.node(&world.cluster).unwrap().clone();
    assert_eq!(node.name, "n2");
    (task, node)
}

fn cli(world: &World, args: &[&str]) -> Command {
    let mut command = cli::command(world, args).unwrap();
    command.stdin(Stdio::null());
    command
}

fn run(world: &World, args: &[&str]) -> Output {
    cli(world, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn commands_run_in_tasks_as_in_a_shell() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let calm = Calm::before(world);
    let (task, node) = talker(world);
    let direct = node.agent_url.as_str();

    // Over the master and past it; by the beginning of the id.
    for more in [&["--agent", direct][..], &[]] {
        let mut args = vec!["exec", "talker"];
        args.extend(more);
        args.extend(["--", "sh", "-c", "echo $COLOR; echo oops >&2; exit 3"]);
        let out = run(world, &args);
        assert_eq!(
            (text(&out.stdout), text(&out.stderr), out.status.code()),
            ("blue\n".to_owned(), "oops\n".to_owned(), Some(3))
        );
    }
    // Without a second dash-dash, and what does not exist.
    let out = run(world, &["exec", &task.id, "sh", "-c", "kill -TERM $$"]);
    assert_eq!(out.status.code(), Some(143));
    let out = run(world, &["exec", &task.id, "no-such-program"]);
    assert_eq!(out.status.code(), Some(127));
    assert!(text(&out.stderr).contains("no-such-program"));
    let out = run(world, &["exec", "nobody", "true"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("no task's id begins with \"nobody\""));
    let out = run(world, &["exec", "-it", &task.id, "true"]);
    assert_eq!(out.status.code(), Some(2), "no terminal to take");

    // Bytes through pipes, all of them.
    let mut child = cli(world, &["exec", "-i", &task.id, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            to.write_all(&sent).unwrap();
            drop(to);
        });
        from.read_to_end(&mut got).unwrap();
    });
    assert!(child.wait().unwrap().success());
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());

    // Ctrl-C at a CLI without a terminal is the command's.
    let script = "trap 'echo asked; exit 9' INT; echo ready; while :; do sleep 0.01; done";
    let mut child = cli(world, &["exec", &task.id, "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut begin = [0; 6];
    out.read_exact(&mut begin).unwrap();
    process::signal(i32::try_from(child.id()).unwrap(), Signal::SIGINT);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(
        (rest.as_str(), child.wait().unwrap().code()),
        ("asked\n", Some(9))
    );

    // Files.
    let out = run(world, &["task", "ls", "talker", "a"]);
    assert!(text(&out.stdout).contains("b/"), "{}", text(&out.stderr));
    let out = run(
        world,
        &["task", "cat", "talker", "a/b/c", "--agent", direct],
    );
    assert_eq!(text(&out.stdout), "deep\n");
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("copy").display().to_string();
    let out = run(world, &["task", "download", "talker", "a", &to]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let copied = std::fs::read_to_string(dir.path().join("copy/b/c")).unwrap();
    assert_eq!(copied, "deep\n");
    let out = run(world, &["task", "cat", "talker", "../spec.pb"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    let out = run(world, &["task", "log", "talker", "-n", "1"]);
    assert!(
        text(&out.stdout).starts_with("tick "),
        "{}",
        text(&out.stderr)
    );

    // Its output as it comes, until it ends.
    let mut child = cli(world, &["attach", "talker"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut begin = [0; 5];
    out.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"tick ");
    remove(&world.cluster, "/talker", LIMIT).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(
        child.wait().unwrap().code(),
        Some(143),
        "as the task: SIGTERM"
    );
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.contains("input is not connected"), "{said}");
    calm.assert_after(world);
}

#[test]
fn a_terminal_is_passed_on_and_put_back() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let calm = Calm::before(world);
    let (task, _) = talker(world);
    let open = |world: &World, script: &str| {
        let args = ["exec", "-it", &task.id, "--", "sh", "-c", script];
        Terminal::start(cli(world, &args), 31, 97)
    };
    // Sizes, keys, Ctrl-C.
    let script = "stty size; trap 'echo hit; stty size' INT; echo ready; while :; do read line; echo \"<$line>\"; \
                  test \"$line\" = quit && exit 5; done";
    let mut terminal = open(world, script);
    terminal.expect("31 97");
    terminal.expect("ready");
    assert!(!terminal.is_restored(), "raw while the session has it");
    terminal.type_("hello\r");
    terminal.expect("<hello>");
    terminal.resize(40, 120);
    terminal.type_("\x03");
    terminal.expect("hit");
    terminal.expect("40 120");
    terminal.type_("quit\r");
    assert_eq!(terminal.code(), 5);

    // Whoever ends the CLI, the terminal is put back, and nothing runs on.
    let wait = "echo $$; echo ready; exec sleep 1000";
    for (signal, code) in [(Signal::SIGHUP, 129), (Signal::SIGTERM, 143)] {
        let mut terminal = open(world, wait);
        terminal.expect("ready");
        terminal.signal(signal);
        assert_eq!(terminal.code(), code, "{signal}");
    }
    // Killed outright it can't, but what it had begun ends.
    let terminal = open(world, wait);
    terminal.expect("ready");
    drop(terminal);

    // The agent goes: said, and put back.
    let mut terminal = open(world, wait);
    terminal.expect("ready");
    world.cluster.kill_node(1).unwrap();
    assert_eq!(terminal.code(), 255);
    terminal.expect("the session broke off");
    world.cluster.start_node(1).unwrap();
    let back = wait_until(LIMIT, "the agent to take sessions again", || {
        let out = run(world, &["exec", &task.id, "true"]);
        out.status.success().then_some(())
    });
    back.unwrap();
    remove(&world.cluster, "/talker", LIMIT).unwrap();
    calm.assert_after(world);
}
