//! A task's output: pipes copied into two segment files of bounded size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

/// One stream of a task: the pipe's end and the files that it goes to.
///
/// When the current file is full it becomes `<name>.1`, replacing the one before. A write that fails
/// (a full disk) is counted and the pipe is still drained: the task never blocks on its output.
pub struct Output {
    pipe: Option<File>,
    path: PathBuf,
    file: Option<File>,
    written: u64,
    segment_bytes: u64,
    lost_bytes: u64,
    owner: Option<(u32, u32)>,
}

impl Output {
    /// Copies `pipe` to `path`; without one the file stays empty.
    pub fn new(
        pipe: Option<File>,
        path: PathBuf,
        segment_bytes: u64,
        owner: Option<(u32, u32)>,
    ) -> Self {
        let mut output = Self {
            pipe,
            path,
            file: None,
            written: 0,
            segment_bytes: segment_bytes.max(1),
            lost_bytes: 0,
            owner,
        };
        // The file exists from the start, also while nothing is written.
        output.open();
        output
    }

    /// The pipe, while its writers may still write.
    pub fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Bytes that were read and could not be written.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// Takes what is in the pipe now (one read). Returns how much of the buffer it filled.
    pub fn pump(&mut self, buffer: &mut [u8]) -> usize {
        let Some(pipe) = &mut self.pipe else {
            return 0;
        };
        match pipe.read(buffer) {
            Ok(0) => {
                self.pipe = None;
                0
            }
            Ok(n) => {
                self.store(&buffer[..n]);
                n
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                0
            }
            Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    /// Keeps bytes that came another way.
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
                Ok(_) | Err(_) => {
                    self.lost_bytes += bytes.len() as u64;
                    return;
                }
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
        // The task owns the directory: a link that it put there must not choose what the shim writes to.
        let file = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&self.path)
        };
        self.file = match file() {
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                let _ = fs::remove_file(&self.path);
                file().ok()
            }
            other => other.ok(),
        };
        self.written = self
            .file
            .as_ref()
            .and_then(|f| f.metadata().ok())
            .map_or(0, |m| m.len());
        if let (Some(file), Some((uid, gid))) = (&self.file, self.owner) {
            // Readable by its user; a failure only means that it is not.
            let _ = std::os::unix::fs::fchown(file, Some(uid), Some(gid));
        }
    }
}

/// The name of the segment before the current one: `stdout.1`.
pub fn previous(path: &Path) -> PathBuf {
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
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut out = Output::new(Some(File::from(reader)), path.clone(), 10, None);
        let mut writer = File::from(writer);
        let mut all = Vec::new();
        for i in 0..9u8 {
            let line = [b'a' + i; 7];
            writer.write_all(&line).unwrap();
            all.extend(line);
            assert!(out.pump(&mut [0; 64]) > 0);
        }
        drop(writer);
        assert_eq!(out.pump(&mut [0; 64]), 0);
        let current = fs::read(&path).unwrap();
        let before = fs::read(previous(&path)).unwrap();
        assert_eq!((before.len(), current.len()), (10, 3), "63 bytes in tens");
        assert!(all.ends_with(&[before, current].concat()));
    }
}
