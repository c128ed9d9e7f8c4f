//! dcoscli 0.6.1, unmodified, by the paths of DC/OS's gateway: `dcos marathon`, `dcos task`, `dcos node`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of functions with the attribute"
)]

use std::path::Path;

use waggle_tests_clients::old_python_with_only;
use waggle_tests_privileged::{bin_dir, can_run, shared};

/// What it needs, with one newer version: it pins cryptography 2.0.2, which has no wheel for CPython 3.9 and does not
/// build against a current OpenSSL. Marathon's commands use nothing of it.
const PACKAGES: [&str; 23] = [
    "dcos==0.6.1",
    "dcoscli==0.6.1",
    "cryptography==3.4.8",
    "cffi==1.17.1",
    "pycparser==2.22",
    "certifi==2024.8.30",
    "charset-normalizer==3.4.0",
    "docopt==0.6.2",
    "idna==3.10",
    "jsonschema==2.6.0",
    "pager==3.3",
    "pkginfo==1.2.1",
    "prettytable==0.7.2",
    "Pygments==2.18.0",
    "PyJWT==1.4.2",
    "requests==2.32.3",
    "retrying==1.3.3",
    "setuptools==58.1.0",
    "six==1.16.0",
    "sseclient==0.0.19",
    "toml==0.10.2",
    "urllib3==1.26.20",
    "virtualenv==15.2.0",
];

/// Runs a script on the leading node: the gateway's paths are on the Mesos listener there.
fn run(script: &str) {
    if !can_run() {
        return;
    }
    let python = match old_python_with_only(&PACKAGES, &bin_dir().unwrap()) {
        Ok(python) => python,
        Err(e) => {
            eprintln!("SKIP: dcoscli can not be installed here: {e:#}");
            return;
        }
    };
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let home = tempfile::tempdir().unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let out = world
        .cluster
        .command("n1", python.to_str().unwrap())
        .unwrap()
        .arg(scripts.join(script))
        .arg("http://127.0.0.1:5050")
        .arg(home.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("ok removal"), "{stdout}");
}

#[test]
fn dcos_marathon_does_what_it_did() {
    run("dcoscli_marathon.py");
}

#[test]
fn dcos_task_and_node_do_what_they_did() {
    run("dcoscli_tasks.py");
}
