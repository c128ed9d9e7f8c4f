//! A machine's first file system: a cpio archive in the kernel's "newc" format (`buffer-format.rst` of its documentation).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use waggle_tests_vm::{PLAN, Plan};

use super::kernels::Kernel;
use super::modules;
use super::plan::Tests;
use crate::run::{find, output};

/// The host's programs that tests run.
const TOOLS: &[&str] = &[
    "ip", "tc", "ethtool", "mount", "umount", "nft", "curl", "nginx", "tcpdump", "wg", "ping",
    "busybox",
];
/// What `busybox` is called by in the machine.
const APPLETS: &[&str] = &["sh", "cat", "ls", "dmesg", "sleep", "env"];
/// Text files.
const TEXTS: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n\
         www-data:x:33:33:www-data:/:/bin/false\ntcpdump:x:105:105::/:/bin/false\n",
    ),
    (
        "etc/group",
        "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\ntcpdump:x:105:\n",
    ),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
];
/// Empty directories.
const DIRECTORIES: &[&str] = &[
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "root",
    "var/log/nginx",
    "var/lib/nginx",
];
const FILE: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

/// Writes a machine's first file system; its path.
pub fn build(kernel: &Kernel, tests: &Tests, cache: &Path) -> anyhow::Result<PathBuf> {
    let mut tree = Tree::default();
    for dir in DIRECTORIES {
        tree.add(dir, DIRECTORY, Vec::new());
    }
    for (path, text) in TEXTS {
        tree.add(path, FILE, text.as_bytes().to_vec());
    }
    let mut programs: Vec<(String, PathBuf)> = vec![("init".to_owned(), tests.init.clone())];
    for tool in TOOLS {
        let path = find(tool).with_context(|| format!("there is no {tool} on this machine"))?;
        programs.push((format!("bin/{tool}"), path));
    }
    for test in &tests.jobs {
        programs.push((format!("tests/{}", test.program), test.file.clone()));
    }
    for applet in APPLETS {
        tree.add(&format!("bin/{applet}"), LINK, b"busybox".to_vec());
    }
    let mut libraries = BTreeSet::new();
    for (place, file) in &programs {
        if tree.has(place) {
            continue;
        }
        libraries.extend(libraries_of(file)?);
        tree.add(place, FILE, read(file)?);
    }
    for library in libraries {
        let place = library.trim_start_matches('/').to_owned();
        tree.add(&place, FILE, read(Path::new(&library))?);
    }
    let mut plan = Plan::default();
    for file in modules::needed(&kernel.modules)? {
        let bytes = module(&kernel.modules.join(&file))?;
        let name = file.rsplit('/').next().unwrap_or(&file);
        let place = format!("modules/{}", name.trim_end_matches(".xz"));
        tree.add(&place, FILE, bytes);
        plan.modules.push(format!("/{place}"));
    }
    plan.jobs = tests.jobs.iter().map(|test| test.job.clone()).collect();
    let place = PLAN.trim_start_matches('/');
    tree.add(place, FILE, plan.render().into_bytes());
    let path = cache.join(format!("{}.cpio", kernel.asked));
    fs::write(&path, tree.archive()?).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// A file system that only holds a machine's first program, and no plan: it powers off at once.
pub fn only_init(init: &Path, path: &Path) -> anyhow::Result<()> {
    let mut tree = Tree::default();
    tree.add("init", FILE, read(init)?);
    for library in libraries_of(init)? {
        let place = library.trim_start_matches('/').to_owned();
        tree.add(&place, FILE, read(Path::new(&library))?);
    }
    fs::write(path, tree.archive()?).with_context(|| format!("write {}", path.display()))
}

/// Files by their paths, parents first.
#[derive(Debug, Default)]
struct Tree(BTreeMap<String, (u32, Vec<u8>)>);

impl Tree {
    fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn add(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        for (at, _) in path.match_indices('/') {
            let parent = path[..at].to_owned();
            self.0.entry(parent).or_insert((DIRECTORY, Vec::new()));
        }
        self.0.insert(path.to_owned(), (mode, bytes));
    }

    fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::new();
        for (number, (path, (mode, bytes))) in (1_u32..).zip(&self.0) {
            entry(&mut out, number, path, *mode, bytes)?;
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[])?;
        Ok(out)
    }
}

/// A header of hexadecimal numbers, the name, the bytes; each padded to four.
fn entry(
    out: &mut Vec<u8>,
    number: u32,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let size = u32::try_from(bytes.len()).with_context(|| format!("{path} is too long"))?;
    let name = u32::try_from(path.len() + 1).with_context(|| format!("{path} is too long"))?;
    // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, no checksum.
    let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A module's bytes, unpacked: the machine has no memory to waste on the format.
fn module(path: &Path) -> anyhow::Result<Vec<u8>> {
    let packed = read(path)?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(packed);
    }
    let mut bytes = Vec::new();
    lzma_rust2::XzReader::new(packed.as_slice(), true)
        .read_to_end(&mut bytes)
        .with_context(|| format!("unpack {}", path.display()))?;
    Ok(bytes)
}

/// The dynamic loader and the libraries of a program.
fn libraries_of(program: &Path) -> anyhow::Result<Vec<String>> {
    // It fails for a program that is static.
    let Ok(text) = output(Command::new("ldd").arg(program)) else {
        return Ok(Vec::new());
    };
    if text.contains("not found") {
        bail!("{} lacks libraries: {text}", program.display());
    }
    Ok(parse_ldd(&text))
}

fn parse_ldd(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let path = match (words.next()?, words.next()) {
                (_, Some("=>")) => words.next()?,
                (path, _) => path,
            };
            path.starts_with('/').then(|| path.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(text),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn an_archive_has_parents_before_files_and_ends() {
        let mut tree = Tree::default();
        tree.add("a/b/c", FILE, b"text".to_vec());
        let bytes = tree.archive().unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<usize> = ["a\0", "a/b\0", "a/b/c\0", "text", "TRAILER!!!\0"]
            .iter()
            .map(|name| text.find(name).unwrap())
            .collect();
        assert!(names.is_sorted());
        assert_eq!(text.matches("070701").count(), 4);
    }
}
