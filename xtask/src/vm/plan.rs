//! What runs in a machine, and where its programs come from: an ordinary build, without symbols.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use waggle_tests_vm::Job;

use crate::run::{cargo, output, run};

/// A job for a machine: its name, package and test program, seconds that it may take, and arguments. Slow ones are those
/// whose property tests or traffic emulation makes slow; what they leave out runs on the developer's own kernel.
const JOBS: &[(&str, &str, &str, u64, &[&str])] = &[
    // Kernel 6.1 walks the programs that read requests for minutes.
    ("verifier", "waggle-ebpf", "verify", 600, &[]),
    (
        "overlay",
        "waggle-ebpf",
        "overlay",
        600,
        &[
            "containers_reach",
            "behind_veths",
            "nobody_speaks",
            "container_that_forwards",
            "connections_outlive",
        ],
    ),
    (
        "edge",
        "waggle-ebpf",
        "edge",
        240,
        &[
            "ways::",
            "node::only",
            "node::icmp",
            "node::fragments",
            "fixtures::",
        ],
    ),
    (
        "packet",
        "waggle-ebpf",
        "packet",
        300,
        &["e2e::", "icmp_errors", "who_drains"],
    ),
    (
        "datagrams",
        "waggle-ebpf",
        "datagrams",
        200,
        &["child", "a_socket_keeps", "dual_stack"],
    ),
    (
        "sockets",
        "waggle-ebpf",
        "dataplane",
        300,
        &[
            "child",
            "connects_through",
            "without_backends",
            "outlive_a_killed",
        ],
    ),
    (
        "choice",
        "waggle-ebpf",
        "choice",
        200,
        &["child", "ipv6_vips", "draining_backend_keeps"],
    ),
    ("addresses", "waggle-overlay", "address", 60, &[]),
    ("maps", "waggle-overlay", "kernel", 200, &[]),
    ("wireguard", "waggle-overlay", "wireguard", 400, &[]),
    ("wireguard-overlay", "waggle-overlay", "sealed", 600, &[]),
    (
        "requests",
        "waggle-ebpf",
        "requests",
        300,
        &[
            "child",
            "both_ends",
            "nothing_is_told",
            "frames_with_heads",
            "many_frames",
        ],
    ),
    (
        "inject",
        "waggle-ebpf",
        "inject",
        300,
        &["child", "gets_the_ids", "kernel_encrypts"],
    ),
];

/// One of them, with its program.
#[derive(Debug, Clone)]
pub struct Test {
    /// What the machine is told.
    pub job: Job,
    /// The program's name in the machine.
    pub program: String,
    /// On this one.
    pub file: PathBuf,
}

/// Everything that goes into a machine.
#[derive(Debug, Clone)]
pub struct Tests {
    /// The machine's first program.
    pub init: PathBuf,
    /// In order.
    pub jobs: Vec<Test>,
}

impl Tests {
    /// The jobs' names.
    pub fn names(&self) -> Vec<String> {
        self.jobs.iter().map(|test| test.job.name.clone()).collect()
    }
}

/// Builds what `only` selects, all without it.
pub fn programs(cache: &Path, only: Option<&str>) -> anyhow::Result<Tests> {
    let wanted = |name: &str| only.is_none_or(|part| name.contains(part));
    let selected: Vec<_> = JOBS.iter().filter(|(name, ..)| wanted(name)).collect();
    if selected.is_empty() {
        let names: Vec<&str> = JOBS.iter().map(|(name, ..)| *name).collect();
        bail!("--only: none of {} matches", names.join(", "));
    }
    let mut build = cargo();
    build.args(["test", "--no-run", "--message-format=json"]);
    for (_, package, test, ..) in &selected {
        build.args(["--package", package, "--test", test]);
    }
    let tests = executables(&output(build.stderr(Stdio::inherit()))?);
    let mut first = cargo();
    first.args([
        "build",
        "--message-format=json",
        "--package",
        "waggle-tests-vm",
    ]);
    let init = executables(&output(first.stderr(Stdio::inherit()))?);
    let dir = cache.join("programs");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let small = |found: &BTreeMap<String, PathBuf>, name: &str| -> anyhow::Result<PathBuf> {
        let from = found
            .get(name)
            .with_context(|| format!("no program {name} was built"))?;
        let to = dir.join(name);
        run(Command::new("strip").arg("-o").arg(&to).arg(from))?;
        Ok(to)
    };
    let jobs = selected
        .into_iter()
        .map(|(name, _, test, seconds, args)| {
            let mut words = vec![format!("/tests/{test}"), "--test-threads=2".to_owned()];
            // What a test skips is worth a line in the log.
            words.push("--nocapture".to_owned());
            words.extend(args.iter().map(|word| (*word).to_owned()));
            Ok(Test {
                job: Job {
                    name: (*name).to_owned(),
                    limit: Duration::from_secs(*seconds),
                    words,
                },
                program: (*test).to_owned(),
                file: small(&tests, test)?,
            })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(Tests {
        init: small(&init, "waggle-vm-init")?,
        jobs,
    })
}

/// What cargo says that it has built: names and files.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    messages
        .lines()
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let file = message["executable"].as_str()?;
            let name = message["target"]["name"].as_str()?;
            Some((name.to_owned(), PathBuf::from(file)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_programs_are_found_in_what_cargo_says() {
        let text = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"packet\"},\"executable\":\"/t/packet-1\"}\n\
                    {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"lib\"},\"executable\":null}\n\
                    not json\n";
        let expected = BTreeMap::from([("packet".to_owned(), PathBuf::from("/t/packet-1"))]);
        assert_eq!(executables(text), expected);
    }

    #[test]
    fn names_of_jobs_and_programs_are_unique() {
        for (i, one) in JOBS.iter().enumerate() {
            for other in &JOBS[i + 1..] {
                assert_ne!(one.0, other.0);
            }
            assert!(!one.0.contains(char::is_whitespace));
        }
    }
}
