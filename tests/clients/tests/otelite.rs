//! otelite, a store of OTLP with a REST API that shares nothing with this code, takes what a cluster ships and is asked for it by task.
//!
//! It takes minutes to build, so it is asked where it is there: as `otelite` in PATH, or where `WAGGLE_TEST_OTELITE` says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use waggle_tests_privileged::{LIMIT, can_run, config, web};
use waggle_tests_support::{process, scenario::World, wait_until};

const TASK: &str = "waggle.task.id";

#[test]
fn its_answers_know_every_task() {
    if !can_run() {
        return;
    }
    let Some(program) = program() else {
        eprintln!("SKIP: no otelite here: cargo install otelite --version 0.1.156 --locked");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let otelite = Otelite::start(&program, dir.path());
    let url = format!("http://127.0.0.1:{}", otelite.otlp);
    let mut say = |line: &str| println!("{line}");
    let world = World::up(config(2).unwrap(), Some(url), LIMIT, &mut say).unwrap();
    let (_, tasks) = web(&world).unwrap();
    for task in &tasks {
        let of = format!("resource={TASK}%3D{}", task.id);
        let is_mine =
            |one: &Value| one["resource"]["attributes"][TASK].as_str() == Some(task.id.as_str());
        wait_until(LIMIT, &format!("log lines of {}", task.id), || {
            let answer = otelite.get(&format!("logs?limit=1000&{of}"))?;
            answer["logs"].as_array()?.iter().any(is_mine).then_some(())
        })
        .unwrap();
        wait_until(LIMIT, &format!("CPU time of {}", task.id), || {
            // Its list of metrics has the last point of a name alone, whoever's it is.
            let answer = otelite.get("metrics/export?name=container.cpu.time")?;
            let all = answer.as_array()?;
            all.iter().any(is_mine).then_some(())
        })
        .unwrap();
    }
    wait_until(LIMIT, "the deployment's trace", || {
        let answer = otelite.get("traces?limit=1000")?;
        let mut names = answer["traces"].as_array()?.iter();
        let root = |t: &Value| t["root_span_name"].as_str().map(ToOwned::to_owned);
        let is_deployment = |t: &Value| root(t).is_some_and(|n| n.starts_with("deployment "));
        names.any(is_deployment).then_some(())
    })
    .unwrap();
    world.down(&mut |_| {}).unwrap();
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WAGGLE_TEST_OTELITE") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).map(|dir| dir.join("otelite"));
    all.find(|p| p.is_file())
}

/// It, running. Dropping it ends it.
struct Otelite {
    child: Child,
    http: u16,
    otlp: u16,
}

impl Otelite {
    fn start(program: &Path, dir: &Path) -> Self {
        // All three at once, so that they differ.
        let held: [TcpListener; 3] =
            std::array::from_fn(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [http, otlp, other] = held.each_ref().map(|l| l.local_addr().unwrap().port());
        drop(held);
        let child = Command::new(program)
            .args(["serve", "--addr", &format!("127.0.0.1:{http}")])
            .env("OTELITE_DATA_DIR", dir)
            .env("OTELITE_OTLP_GRPC_PORT", otlp.to_string())
            .env("OTELITE_OTLP_HTTP_PORT", other.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let otelite = Self { child, http, otlp };
        wait_until(LIMIT, "otelite", || otelite.get("logs?limit=1")).unwrap();
        otelite
    }

    fn get(&self, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/api/{path}", self.http);
        let out = Command::new("curl")
            .args(["-sfm", "10", &url])
            .output()
            .ok()?;
        serde_json::from_slice(&out.stdout).ok()
    }
}

impl Drop for Otelite {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            process::terminate(pid);
        }
        let _ = self.child.wait();
    }
}
