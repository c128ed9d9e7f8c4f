//! Output of containers that were launched by an agent's API: two files of bounded size for each stream.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::logs::fresh;

/// Size of one file.
pub const SEGMENT_BYTES: u64 = 10 << 20;

/// One stream.
///
/// When the current file is full it becomes `<name>.1`, replacing the one before. What can't be written (a full disk) is left
/// out: it went to whoever is attached.
pub struct Output {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    segment_bytes: u64,
    owner: Option<(u32, u32)>,
}

impl Output {
    /// Keeps what comes in `path`.
    pub fn new(path: PathBuf, segment_bytes: u64, owner: Option<(u32, u32)>) -> Self {
        let mut output = Self {
            path,
            file: None,
            written: 0,
            segment_bytes: segment_bytes.max(1),
            owner,
        };
        // The file exists from the start, also while nothing is written.
        output.open();
        output
    }

    /// Keeps bytes.
    pub fn store(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.written >= self.segment_bytes {
                self.rotate();
            }
            if self.file.is_none() {
                self.open();
            }
            let room = usize::try_from(self.segment_bytes - self.written.min(self.segment_bytes))
                .unwrap_or(usize::MAX);
            let part = &bytes[..bytes.len().min(room.max(1))];
            let result = match &mut self.file {
                Some(file) => file.write(part),
                None => Err(io::Error::from(io::ErrorKind::NotFound)),
            };
            match result {
                Ok(n) if n > 0 => {
                    self.written += n as u64;
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn rotate(&mut self) {
        self.file = None;
        if fs::rename(&self.path, previous(&self.path)).is_ok() {
            self.open();
        } else {
            // Without a second name the bound still holds: start over in place.
            let _ = fs::remove_file(&self.path);
            self.open();
        }
    }

    fn open(&mut self) {
        self.file = fresh(&self.path, self.owner).ok();
        self.written = 0;
    }
}

/// The name of the segment before the current one: `stdout.1`.
fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_in_two_bounded_segments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let mut out = Output::new(path.clone(), 10, None);
        let mut all = Vec::new();
        for i in 0..9u8 {
            let line = [b'a' + i; 7];
            out.store(&line);
            all.extend(line);
        }
        let current = fs::read(&path).unwrap();
        let before = fs::read(previous(&path)).unwrap();
        assert_eq!((before.len(), current.len()), (10, 3), "63 bytes in tens");
        assert!(all.ends_with(&[before, current].concat()));
    }
}
