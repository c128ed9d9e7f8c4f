//! Why an archive was not unpacked.

use std::io;

/// What stopped it. Nothing of it may be used then.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Reading the archive failed: cut off, or damaged.
    #[error("failed to read the archive")]
    Read(#[source] io::Error),
    /// The archive is not one.
    #[error("not a tar archive: {0}")]
    Malformed(String),
    /// An entry breaks a rule.
    #[error("entry {entry:?}: {rule}")]
    Entry {
        /// Its path, cut to a readable length.
        entry: String,
        /// The rule.
        rule: String,
    },
    /// More than a bound allows.
    #[error("more than {most} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: u64,
    },
    /// Writing it failed.
    #[error("failed to write {entry:?}")]
    Write {
        /// The entry's path, cut to a readable length.
        entry: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    /// For an entry that breaks a rule.
    pub fn rule(entry: &[u8], rule: impl Into<String>) -> Self {
        Self::Entry {
            entry: shown(entry),
            rule: rule.into(),
        }
    }

    /// For `map_err`: what was being written.
    pub fn write(entry: &[u8]) -> impl Fn(nix::Error) -> Self {
        let entry = shown(entry);
        move |e| Self::Write {
            entry: entry.clone(),
            source: e.into(),
        }
    }

    /// Whether the disk, or the quota on it, is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Write { source, .. } if is_no_space(source))
    }
}

/// Whether the disk, or the quota on it, is full.
pub fn is_no_space(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
    )
}

fn shown(entry: &[u8]) -> String {
    String::from_utf8_lossy(entry).chars().take(200).collect()
}
