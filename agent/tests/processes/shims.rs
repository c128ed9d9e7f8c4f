//! The shim alone: a directory in, files out.

use std::{fs, time::Instant};

use nix::sys::signal::{SigHandler, Signal};
use serde_json::json;

use crate::support::{ShimDir, runs, signal, wait_for};

pub fn keeps_exit_code_and_output() {
    let script = "echo $GREETING; echo oops >&2; pwd; exit 42";
    let dir = ShimDir::new(&["/bin/sh", "-c", script], |_| {});
    let mut shim = dir.start();
    assert!(shim.wait().unwrap().success());
    let exit = dir.json("exit.json").unwrap();
    assert_eq!(exit["code"], 42);
    assert_eq!(exit["signal"], json!(null));
    let sandbox = dir.path().join("sandbox").canonicalize().unwrap();
    assert_eq!(
        dir.output("stdout"),
        format!("hello\n{}\n", sandbox.display())
    );
    assert_eq!(dir.output("stderr"), "oops\n");
    assert!(dir.json("shim.json").is_some() && dir.json("task.json").is_some());
}

/// What an agent that was started in the background of a script ignores, a task must not: it could not even trap it.
pub fn gives_a_task_its_signals() {
    let ignore = |handler| {
        #[allow(unsafe_code, reason = "no handler is set")]
        // SAFETY: ignored, or the default.
        unsafe {
            nix::sys::signal::signal(Signal::SIGINT, handler).unwrap()
        }
    };
    let before = ignore(SigHandler::SigIgn);
    let script = "trap 'echo trapped; exit 3' INT; kill -INT $$; exit 0";
    let dir = ShimDir::new(&["/bin/sh", "-c", script], |_| {});
    let mut shim = dir.start();
    ignore(before);
    assert!(shim.wait().unwrap().success());
    assert_eq!(dir.json("exit.json").unwrap()["code"], 3);
    assert_eq!(dir.output("stdout"), "trapped\n");
}

pub fn ends_what_the_task_left_behind() {
    // A grandchild in a session of its own that ignores SIGTERM and holds the pipes.
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ > left; sleep 1000 & wait' & \
                  while ! test -s left; do :; done; exit 0";
    let dir = ShimDir::new(&["/bin/sh", "-c", script], |_| {});
    let mut shim = dir.start();
    assert!(shim.wait().unwrap().success());
    let left: u32 = dir.output("left").trim().parse().unwrap();
    assert!(!runs(left), "grandchild {left} still runs");
    assert_eq!(dir.json("exit.json").unwrap()["code"], 0);
}

pub fn escalates_after_the_grace_period() {
    let script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done";
    let dir = ShimDir::new(&["/bin/sh", "-c", script], |_| {});
    let mut shim = dir.start();
    wait_for("the trap", || {
        dir.path()
            .join("sandbox/stdout")
            .exists()
            .then(|| dir.output("stdout"))
            .filter(|o| !o.is_empty())
    });
    let begun = Instant::now();
    signal(shim.id(), Signal::SIGTERM);
    assert!(shim.wait().unwrap().success());
    assert!(begun.elapsed().as_millis() >= 200, "not before its grace");
    assert_eq!(dir.output("stdout"), "ready\nasked\n");
    let exit = dir.json("exit.json").unwrap();
    assert_eq!((&exit["code"], &exit["signal"]), (&json!(null), &json!(9)));
}

pub fn names_the_step_that_failed() {
    let run = |argv: &[&str], cgroup: Option<&str>| {
        let dir = ShimDir::new(argv, |plan| {
            plan["cgroups"] = cgroup.map_or(json!([]), |c| json!([c]));
        });
        assert!(dir.start().wait().unwrap().success());
        dir.json("exit.json").unwrap()["launch_error"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let missing = run(&["/no/such/program"], None);
    assert_eq!(
        missing,
        "failed to execute \"/no/such/program\": No such file or directory (os error 2)"
    );
    let cgroup = run(&["/bin/true"], Some("/no/such/cgroup"));
    assert!(cgroup.starts_with("failed to join the cgroup"), "{cgroup}");
}

pub fn runs_a_task_once() {
    let dir = ShimDir::new(&["/bin/sh", "-c", "echo x >> count"], |_| {});
    assert!(dir.start().wait().unwrap().success());
    assert!(!dir.start().wait().unwrap().success(), "a second shim");
    assert_eq!(dir.output("count"), "x\n");

    let dir = ShimDir::new(&["/bin/sh", "-c", "echo x >> count"], |_| {});
    fs::write(dir.path().join("abandoned"), "").unwrap();
    assert!(!dir.start().wait().unwrap().success(), "given up");
    assert!(!dir.path().join("sandbox/count").exists());
}

pub fn bounds_the_logs() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo \"line $i\"; i=$((i+1)); done";
    let dir = ShimDir::new(&["/bin/sh", "-c", script], |plan| {
        plan["logs"] = json!({
            "segment_bytes": 4096, "quota_bytes": 16384, "max_age_s": null, "block": false,
        });
    });
    assert!(dir.start().wait().unwrap().success());
    let (old, new) = (dir.output("stdout.1"), dir.output("stdout"));
    assert!(old.len() <= 4096 && new.len() <= 4096);
    assert!((old + &new).ends_with("line 1998\nline 1999\n"));
    assert_eq!(dir.json("exit.json").unwrap()["lost_output_bytes"], 0);
}

pub fn keeps_a_task_waiting_that_asked_for_it() {
    // More than the quota, the pipe and the shim's buffer hold.
    let script = "i=0; while [ $i -lt 30000 ]; do echo \"line $i\"; i=$((i+1)); done; echo > done";
    let dir = ShimDir::new(&["/bin/sh", "-c", script], |plan| {
        plan["logs"] = json!({
            "segment_bytes": 16384, "quota_bytes": 65536, "max_age_s": null, "block": true,
        });
    });
    let mut shim = dir.start();
    let index = || dir.json("stdout.segments");
    let full = wait_for("the task waits", || {
        index().filter(|i| i["blocked_ms"].as_u64() > Some(0))
    });
    assert_eq!(full["segments"][0]["base"], 0, "none of it was dropped");
    assert!(!dir.path().join("sandbox/done").exists(), "it waits");
    // Whoever reads says how far: the task goes on, and waits again.
    let ship = |at: u64| {
        let shipped = json!({"stdout": {"inode": 0, "offset": 0, "at": at}});
        fs::write(dir.path().join("tail.new"), shipped.to_string()).unwrap();
        fs::rename(dir.path().join("tail.new"), dir.path().join("tail.json")).unwrap();
    };
    let second = full["segments"][1]["base"].as_u64().unwrap();
    ship(second);
    wait_for("what was read goes", || {
        (index()?["segments"][0]["base"] == second).then_some(())
    });
    assert!(!dir.path().join("sandbox/done").exists(), "it waits again");
    ship(u64::MAX);
    assert!(shim.wait().unwrap().success());
    assert!(dir.path().join("sandbox/done").exists());
    let index = index().unwrap();
    assert!(index["blocked_ms"].as_u64().unwrap() > 0, "{index}");
    assert_eq!(dir.json("exit.json").unwrap()["lost_output_bytes"], 0);
    let segments = index["segments"].as_array().unwrap();
    let kept: String = (0..segments.len())
        .rev()
        .map(|age| match age {
            0 => dir.output("stdout"),
            age => dir.output(&format!("stdout.{age}")),
        })
        .collect();
    let all = (0..30000).fold(String::new(), |all, i| all + &format!("line {i}\n"));
    assert!(all.ends_with(&kept) && !kept.is_empty());
    assert_eq!(segments[0]["base"], (all.len() - kept.len()) as u64);
}
