//! `cargo xtask tidy`: dependency arrows, file sizes, leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

use crate::run::{output, repo};
use crate::schema;

/// Lines of a Rust file above which we grumble, and above which we refuse.
const SOFT_LINES: usize = 500;
const HARD_LINES: usize = 800;

/// Which of our crates each crate may depend on (ARCHITECTURE.md, "folders and arrows"). `*` is
/// anything.
const ARROWS: &[(&str, &[&str])] = &[
    // L0
    ("waggle-ebpf-common", &[]),
    ("waggle-types", &[]),
    // L1
    ("waggle-allocator", &["waggle-types"]),
    ("waggle-services", &["waggle-types"]),
    ("waggle-lifecycle", &["waggle-types"]),
    (
        "waggle-overlay-plan",
        &["waggle-types", "waggle-ebpf-common"],
    ),
    (
        "waggle-telemetry-pipeline",
        &["waggle-types", "waggle-ebpf-common"],
    ),
    // L2; the vocabulary of L0 reaches them through L1 as well.
    ("waggle-ebpf", &["waggle-ebpf-common"]),
    ("waggle-ebpf-programs", &["waggle-ebpf-common"]),
    ("waggle-api", &["waggle-types"]),
    (
        "waggle-overlay",
        &[
            "waggle-overlay-plan",
            "waggle-ebpf",
            "waggle-types",
            "waggle-ebpf-common",
        ],
    ),
    (
        "waggle-telemetry",
        &["waggle-telemetry-pipeline", "waggle-types"],
    ),
    // L3
    (
        "waggle-master",
        &[
            "waggle-types",
            "waggle-ebpf-common",
            "waggle-allocator",
            "waggle-services",
            "waggle-lifecycle",
            "waggle-overlay-plan",
            "waggle-telemetry-pipeline",
            "waggle-api",
            "waggle-telemetry",
        ],
    ),
    (
        "waggle-agent",
        &[
            "waggle-types",
            "waggle-ebpf-common",
            "waggle-lifecycle",
            "waggle-overlay-plan",
            "waggle-telemetry-pipeline",
            "waggle-api",
            "waggle-telemetry",
            "waggle-ebpf",
            "waggle-overlay",
        ],
    ),
    // L4
    (
        "waggle",
        &[
            "waggle-master",
            "waggle-agent",
            "waggle-api",
            "waggle-types",
        ],
    ),
    ("xtask", &["*"]),
    ("waggle-sim", &["*"]),
    ("waggle-tests-frameworks", &["*"]),
    ("waggle-tests-clients", &["*"]),
    ("waggle-tests-support", &["*"]),
    ("waggle-tests-vm", &["*"]),
    ("waggle-tests-privileged", &["*"]),
];

/// The pure crates, and what never reaches them, directly or through others.
const PURE: [&str; 5] = [
    "waggle-allocator",
    "waggle-services",
    "waggle-lifecycle",
    "waggle-overlay-plan",
    "waggle-telemetry-pipeline",
];
const IMPURE: [&str; 6] = [
    "tokio",
    "tonic",
    "prost",
    "aya",
    "rtnetlink",
    "opentelemetry",
];

/// Text that must not be committed. Split, so that this file passes.
const LEFTOVERS: [(&str, &str); 10] = [
    (concat!("to", "do!("), "unfinished code"),
    (concat!("unimple", "mented!("), "unfinished code"),
    (concat!("FIX", "ME"), "write an issue instead"),
    (concat!("#[ign", "ore"), "a test that nobody runs"),
    (concat!(", ign", "ore)]"), "a test that nobody runs"),
    (concat!("db", "g!("), "debugging output"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp/", "target-"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
];

/// Runs all checks.
pub fn main() -> anyhow::Result<ExitCode> {
    check()?;
    println!("tidy");
    Ok(ExitCode::SUCCESS)
}

/// Fails with everything that is untidy.
pub fn check() -> anyhow::Result<()> {
    let mut problems = arrows()?;
    problems.extend(schema::fresh().err().map(|e| format!("{e:#}")));
    let files = tracked_files();
    problems.extend(sizes(&files));
    problems.extend(leftovers(&files));
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "{} untidy things:\n  {}",
        problems.len(),
        problems.join("\n  ")
    )
}

fn arrows() -> anyhow::Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(repo().join("Cargo.toml"))
        .exec()
        .context("read cargo metadata")?;
    let mut problems = Vec::new();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    for package in metadata.workspace_packages() {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            problems.push(format!(
                "{}: not in the table of arrows (xtask/src/tidy.rs)",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let counts = dependency.kind != DependencyKind::Development && ours.contains(name);
            if counts && !allowed.contains(&"*") && !allowed.contains(&name) {
                problems.push(format!("{} -> {name}: not an allowed arrow", package.name));
            }
        }
    }
    for package in metadata.workspace_packages() {
        let uses_aya = package
            .dependencies
            .iter()
            .any(|d| d.name == "aya" && !d.optional);
        if uses_aya && package.name.as_str() != "waggle-ebpf" {
            problems.push(format!("{}: only waggle-ebpf uses aya", package.name));
        }
    }
    for name in PURE {
        for (impure, path) in impurities(&metadata, name) {
            problems.push(format!("{name} is pure, but depends on {impure} ({path})"));
        }
    }
    Ok(problems)
}

/// Impure crates that a crate reaches, with the way to each.
fn impurities(metadata: &Metadata, name: &str) -> Vec<(String, String)> {
    let Some(resolve) = &metadata.resolve else {
        return Vec::new();
    };
    let names: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|p| (&p.id, p.name.as_str()))
        .collect();
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|n| (&n.id, n)).collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let start = metadata
        .packages
        .iter()
        .find(|p| p.name.as_str() == name)
        .map(|p| &p.id);
    let mut queue: Vec<(&PackageId, String)> =
        start.into_iter().map(|id| (id, name.to_owned())).collect();
    while let Some((id, path)) = queue.pop() {
        // Its optional aya belongs to the loader's feature; cargo unifies features over the workspace.
        if !seen.insert(id) || names.get(id) == Some(&"waggle-ebpf-common") {
            continue;
        }
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            let normal = dependency
                .dep_kinds
                .iter()
                .any(|k| k.kind == DependencyKind::Normal);
            let Some(to) = names.get(&dependency.pkg).filter(|_| normal) else {
                continue;
            };
            let path = format!("{path} -> {to}");
            if IMPURE.contains(to) {
                found.push(((*to).to_owned(), path));
            } else {
                queue.push((&dependency.pkg, path));
            }
        }
    }
    found
}

/// Files that are committed or would be.
fn tracked_files() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.current_dir(repo())
        .args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    // A tree without git (an unpacked archive) has nothing to check here.
    let Ok(list) = output(&mut git) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = list.lines().map(|line| repo().join(line)).collect();
    files.retain(|file| file.is_file());
    files.sort();
    files.dedup();
    files
}

fn generated(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "gen")
}

fn shown(path: &Path) -> String {
    path.strip_prefix(repo())
        .unwrap_or(path)
        .display()
        .to_string()
}

fn sizes(files: &[PathBuf]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files
        .iter()
        .filter(|f| f.extension().is_some_and(|ext| ext == "rs"))
    {
        let n_lines = std::fs::read_to_string(file).map_or(0, |text| text.lines().count());
        if generated(file) || n_lines <= SOFT_LINES {
            continue;
        }
        let line = format!("{}: {n_lines} lines", shown(file));
        if n_lines > HARD_LINES {
            problems.push(format!("{line}, at most {HARD_LINES}"));
        } else {
            eprintln!("tidy: warning: {line}, better below {SOFT_LINES}");
        }
    }
    problems
}

fn leftovers(files: &[PathBuf]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        // Not text: nothing to read.
        let Ok(text) = std::fs::read_to_string(file) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for (pattern, why) in LEFTOVERS {
                if line.contains(pattern) {
                    problems.push(format!(
                        "{}:{}: `{pattern}`: {why}",
                        shown(file),
                        number + 1
                    ));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_keeps_its_layers() {
        assert_eq!(arrows().unwrap(), Vec::<String>::new());
    }
}
