//! What a cgroup reads from and writes to disks, v2 or v1 files to one shape.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

use super::TaskCgroup;

/// Most devices of one task that are told apart.
const MAX_DEVICES: usize = 32;

/// One disk's figures, since the cgroup was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskIo {
    /// The device's name, or its numbers where it has none any more.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Reads the figures of every disk that was used. Blocking, but no disk is touched.
pub fn read(cgroup: &TaskCgroup) -> Vec<DiskIo> {
    let text = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let figures = if cgroup.unified {
        let v2 = cgroup.v2.as_deref();
        v2.map(|dir| of_v2(&text(dir, "io.stat")))
    } else {
        cgroup.controller("blkio").map(|dir| {
            let bytes = text(dir, "blkio.throttle.io_service_bytes");
            of_v1(&bytes, &text(dir, "blkio.throttle.io_serviced"))
        })
    };
    let used = figures.unwrap_or_default().into_iter();
    used.filter(|(_, io)| io.reads + io.writes > 0)
        .take(MAX_DEVICES)
        .map(|(numbers, io)| DiskIo {
            device: name(&numbers),
            ..io
        })
        .collect()
}

/// The cgroup's id in the hierarchy that has the controller of disks.
pub fn id(cgroup: &TaskCgroup) -> Option<u64> {
    let dir = if cgroup.unified {
        cgroup.v2.as_deref()
    } else {
        cgroup.controller("blkio")
    };
    fs::metadata(dir?).ok().map(|m| m.ino())
}

/// `sda` of `8:0`.
fn name(numbers: &str) -> String {
    let link = fs::read_link(Path::new("/sys/dev/block").join(numbers)).ok();
    let name = link.as_deref().and_then(|l| l.file_name());
    name.map_or_else(|| numbers.to_owned(), |n| n.display().to_string())
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn of_v2(text: &str) -> BTreeMap<String, DiskIo> {
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(numbers) = words.next() else {
            continue;
        };
        let mut io = DiskIo::default();
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        out.insert(numbers.to_owned(), io);
    }
    out
}

/// `8:0 Read 1` and `8:0 Write 2`, in two files.
fn of_v1(bytes: &str, operations: &str) -> BTreeMap<String, DiskIo> {
    let mut out: BTreeMap<String, DiskIo> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let &[numbers, what, value] = words.as_slice() else {
                continue;
            };
            let value = value.parse().unwrap_or(0);
            let io = out.entry(numbers.to_owned()).or_default();
            match (what, is_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.written_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_files_are_read() {
        let want = DiskIo {
            read_bytes: 1,
            written_bytes: 2,
            reads: 3,
            writes: 4,
            ..DiskIo::default()
        };
        let v2 = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n259:0 \n";
        assert_eq!(of_v2(v2)["8:0"], want);
        let bytes = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\nTotal 3\n";
        let operations = "8:0 Read 3\n8:0 Write 4\nTotal 7\n";
        assert_eq!(of_v1(bytes, operations)["8:0"], want);
        assert_eq!(name("0:999999"), "0:999999");
    }
}
