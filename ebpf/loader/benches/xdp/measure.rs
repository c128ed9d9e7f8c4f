//! Runs, medians, the table.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Keeps this process on one CPU.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    let status = Command::new("taskset")
        .args([
            "-p",
            "-c",
            &cpu.to_string(),
            &std::process::id().to_string(),
        ])
        .stdout(std::process::Stdio::null())
        .status()
        .context("run taskset")?;
    ensure!(status.success(), "taskset to cpu {cpu}: {status}");
    Ok(())
}

/// A bpffs of its own, unmounted when dropped.
pub struct Bpffs(PathBuf);

impl Bpffs {
    pub fn mount() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("wgl-bench-xdp-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        let this = Self(path);
        let status = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&this.0)
            .status()?;
        ensure!(status.success(), "mount a bpffs: {status}");
        Ok(this)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The middle one.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One line of the result.
pub struct Row {
    pub name: String,
    pub ours: f64,
    pub peer: Option<(f64, f64)>,
    pub target: Option<f64>,
}

/// The table, with `noise` as what the two equal cases differ by, a share.
pub fn table(rows: &[Row], noise: f64) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "| case | ours, ns | peer, ns | ratio | target, ns | verdict |\n|---|---|---|---|---|---|"
    );
    let figure = |n: f64, digits: usize| {
        if n.is_nan() {
            String::new()
        } else {
            format!("{n:.digits$}")
        }
    };
    for row in rows {
        let (peer, ratio) = row.peer.map_or_else(
            || (String::new(), String::new()),
            |(peer, ratio)| (figure(peer, 0), figure(ratio, 2)),
        );
        let (target, verdict) = match row.target {
            None => (String::new(), ""),
            Some(target) => (
                format!("{target:.0}"),
                if row.ours <= target { "met" } else { "missed" },
            ),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {peer} | {ratio} | {target} | {verdict} |",
            row.name,
            figure(row.ours, 0)
        );
    }
    let _ = writeln!(
        out,
        "noise: two equal cases differ by {:.0} %",
        noise * 100.0
    );
    out
}
