//! The peer: `runc` alone, with the same namespaces; and with all that a task's container has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use waggle_tests_support::images::Image;

/// A root that all of its containers share, and where it keeps their state.
pub struct Runc {
    dir: PathBuf,
}

/// How much of a container it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spec {
    /// What `runc spec` writes: no seccomp filter, few mounts.
    Minimal,
    /// What a task has: its spec with its mounts, masks and devices, and the default seccomp profile.
    Same,
}

/// What it says of itself.
pub fn version() -> anyhow::Result<String> {
    let out = Command::new("runc")
        .arg("--version")
        .output()
        .context("runc --version")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl Runc {
    /// Unpacks the image's layers into one root.
    pub fn new(dir: &Path, image: &Image) -> anyhow::Result<Self> {
        let rootfs = dir.join("rootfs");
        std::fs::create_dir_all(&rootfs)?;
        let built = image.build()?;
        let n_layers = built.blobs.len() - 1;
        for (i, (_, bytes)) in built.blobs.iter().take(n_layers).enumerate() {
            let file = dir.join(format!("layer-{i}"));
            std::fs::write(&file, bytes)?;
            run(Command::new("tar")
                .arg("-xf")
                .arg(&file)
                .arg("-C")
                .arg(&rootfs))?;
        }
        run(Command::new("runc").arg("spec").current_dir(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The root that its containers share.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Takes over what a running task of the node has, whose bundle this is.
    pub fn learn(&self, bundle: &Path) -> anyhow::Result<()> {
        let text = std::fs::read(bundle.join("config.json"))
            .with_context(|| format!("no config.json in {}", bundle.display()))?;
        let mut config: Value = serde_json::from_slice(&text)?;
        config["linux"]["seccomp"] = default_seccomp()?;
        // Limits beside it, as the agent writes them.
        config["linux"]["resources"]["cpu"] = json!({ "shares": 2 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 1024 });
        // What is mounted goes with the task: copies.
        let mounts = config["mounts"].as_array_mut().context("no mounts")?;
        for (i, mount) in mounts
            .iter_mut()
            .filter(|m| m["type"] == "bind")
            .enumerate()
        {
            let from = PathBuf::from(mount["source"].as_str().unwrap_or_default());
            let to = self.dir.join(format!("mount-{i}"));
            if from.is_dir() {
                std::fs::create_dir_all(&to)?;
            } else {
                std::fs::copy(&from, &to)?;
            }
            mount["source"] = json!(to);
        }
        std::fs::write(self.same(), config.to_string())?;
        Ok(())
    }

    fn same(&self) -> PathBuf {
        self.dir.join("same.json")
    }

    fn bundle(&self, spec: Spec, id: &str) -> anyhow::Result<PathBuf> {
        let file = match spec {
            Spec::Minimal => self.dir.join("config.json"),
            Spec::Same => self.same(),
        };
        let text = std::fs::read(file)?;
        let mut config: Value = serde_json::from_slice(&text)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/sleep", "36000"]);
        config["root"]["path"] = json!(self.dir.join("rootfs"));
        config["linux"]["cgroupsPath"] = json!(format!("/waggle-bench-runc/{id}"));
        // The node's network, as the task has it.
        if let Some(list) = config["linux"]["namespaces"].as_array_mut() {
            list.retain(|n| n["type"] != "network");
        }
        // Which rules out a sysfs of its own, as `runc spec` has it.
        if let (Spec::Minimal, Some(list)) = (spec, config["mounts"].as_array_mut()) {
            list.retain(|m| m["type"] != "sysfs");
        }
        let bundle = self.dir.join(format!("bundle-{id}"));
        std::fs::create_dir_all(&bundle)?;
        std::fs::write(bundle.join("config.json"), config.to_string())?;
        Ok(bundle)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.dir.join("state"));
        command
    }

    /// Starts one; how long `run` took.
    pub fn start(&self, spec: Spec, id: &str) -> anyhow::Result<Duration> {
        let bundle = self.bundle(spec, id)?;
        let began = Instant::now();
        run(self
            .command()
            .args(["run", "--detach", "--bundle"])
            .arg(bundle)
            .arg(id))?;
        Ok(began.elapsed())
    }

    /// Kills and deletes it; how long that took.
    pub fn stop(&self, id: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        run(self.command().args(["delete", "--force", id]))?;
        Ok(began.elapsed())
    }

    /// Starts so many by two loops, then deletes them: time and CPU of the starts.
    pub fn many(&self, spec: Spec, n: u32) -> anyhow::Result<(Duration, f64)> {
        let before = children_cpu();
        let began = Instant::now();
        let done: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
            let loops: Vec<_> = (0..2)
                .map(|part| {
                    scope.spawn(move || {
                        (part..n)
                            .step_by(2)
                            .try_for_each(|i| self.start(spec, &format!("many-{i}")).map(drop))
                    })
                })
                .collect();
            loops
                .into_iter()
                .map(|l| l.join().unwrap_or_else(|_| bail!("a loop panicked")))
                .collect()
        });
        let took = began.elapsed();
        let cpu = children_cpu() - before;
        for i in 0..n {
            let _ = self.stop(&format!("many-{i}"));
        }
        done.into_iter().collect::<anyhow::Result<()>>()?;
        Ok((took, cpu))
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        let list = std::fs::read_dir(self.dir.join("state"));
        for entry in list.into_iter().flatten().flatten() {
            let _ = self.stop(&entry.file_name().to_string_lossy());
        }
        // What runc leaves: the directory above its containers', in each hierarchy.
        for mount in super::cgroup_mounts() {
            let _ = std::fs::remove_dir(mount.join("waggle-bench-runc"));
        }
    }
}

/// The agent's default profile for a container with the usual capabilities on this machine, as runc takes it.
fn default_seccomp() -> anyhow::Result<Value> {
    let profile: Value =
        serde_json::from_str(include_str!("../../../../agent/src/runtime/seccomp.json"))?;
    let machine = match std::env::consts::ARCH {
        "aarch64" => ("arm64", vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => (
            "amd64",
            vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        ),
    };
    let rules = profile["syscalls"].as_array().context("no rules")?;
    let has = |rule: &Value, key: &str, what: &str| {
        let list = rule["includes"][key].as_array();
        list.is_none_or(|l| l.is_empty() || l.iter().any(|v| v == what))
    };
    let syscalls: Vec<Value> = rules
        .iter()
        // Of the capabilities that rules name, root has the right to change its root directory.
        .filter(|r| has(r, "arches", machine.0) && has(r, "caps", "CAP_SYS_CHROOT"))
        .map(|rule| {
            let mut out = json!({ "names": rule["names"], "action": rule["action"] });
            for key in ["args", "errnoRet"] {
                if !rule[key].is_null() {
                    out[key] = rule[key].clone();
                }
            }
            out
        })
        .collect();
    Ok(json!({
        "defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": machine.1, "syscalls": syscalls,
    }))
}

/// CPU time of commands that have ended, in hundredths of a second (proc(5), `cutime` and `cstime`).
fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ');
    let ticks: f64 = fields
        .skip(13)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    // A container keeps what it is given: no pipe, or the wait for its end would be one for the container's.
    let log = std::env::temp_dir().join(format!("waggle-bench-{}.log", std::process::id()));
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .with_context(|| shown.clone())?;
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    if !status.success() {
        bail!("{shown}: {status}: {}", said.trim());
    }
    Ok(())
}
