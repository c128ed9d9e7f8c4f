//! What each task holds, written down before it is made: `<work_dir>/storage/tasks/<task_id>.json`.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use waggle_types::{TaskId, VolumeId};

use crate::shim::{read_json, write_json_for_boot};

/// What one task holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The pod whose directory it shares.
    pub pod: Option<String>,
    /// Its volumes.
    pub volumes: BTreeSet<VolumeId>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    pod: Option<String>,
    volumes: Vec<String>,
}

/// All of them.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

impl Records {
    /// Below a directory, which is made. Blocking.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("tasks");
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    fn path(&self, task_id: &TaskId) -> PathBuf {
        self.0.join(format!("{task_id}.json"))
    }

    /// Writes a record; after a power loss its task is gone as well.
    pub fn write(&self, task_id: &TaskId, record: &Record) -> io::Result<()> {
        let stored = Stored {
            pod: record.pod.clone(),
            volumes: record.volumes.iter().map(ToString::to_string).collect(),
        };
        write_json_for_boot(&self.path(task_id), &stored)
    }

    /// One record.
    pub fn read(&self, task_id: &TaskId) -> io::Result<Option<Record>> {
        let stored: Option<Stored> = read_json(&self.path(task_id))?;
        Ok(stored.map(|s| Record {
            pod: s.pod,
            volumes: s
                .volumes
                .into_iter()
                .filter_map(|v| VolumeId::new(v).ok())
                .collect(),
        }))
    }

    /// Every record, by task.
    pub fn all(&self) -> io::Result<Vec<(TaskId, Record)>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|n| n.strip_suffix(".json"));
            let Some(id) = id.and_then(|n| TaskId::new(n).ok()) else {
                continue;
            };
            // Removed meanwhile.
            if let Some(record) = self.read(&id)? {
                out.push((id, record));
            }
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    /// Forgets a record.
    pub fn remove(&self, task_id: &TaskId) -> io::Result<()> {
        match fs::remove_file(self.path(task_id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// A name of any text that can be a file's: letters and digits stay, the rest is written in hexadecimal.
pub fn file_name(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => out.push(char::from(b)),
            _ => out.push_str(&format!("_{b:02x}")),
        }
    }
    // File systems take 255 bytes; what is longer is told apart by its digest.
    if out.len() <= 200 {
        return out;
    }
    let digest = Sha256::digest(text.as_bytes());
    format!("{}.{}", &out[..100], hex(&digest))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        out.push_str(&format!("{b:02x}"));
        out
    })
}
