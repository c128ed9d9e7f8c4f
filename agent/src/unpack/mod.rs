//! Unpacking archives that nobody vouches for.
//!
//! Nothing is written outside of the directory: paths that lead out, by `..`, a root or a link, are refused, links are
//! never followed while files are written ([`root::Root`]), device nodes, pipes and sockets are refused, set-id bits are
//! dropped, and bytes, entries and depth are bounded, so that an archive that unpacks to more than is allowed is given up
//! on as soon as that shows. What was unpacked until then stays, for who looks why.

mod archive;
pub mod root;

use std::{fs::File, io};

pub use archive::{Format, format_of};

use root::{BadPath, Below, Root};

/// How much may come out of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 1_000_000,
        }
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry whose name must not be.
    #[error("entry {name:?} {rule}")]
    Path {
        /// Its name.
        name: String,
        /// What is wrong.
        rule: BadPath,
    },
    /// A link out of the directory.
    #[error("entry {name:?} is a link to {target:?}, which leads out")]
    Link {
        /// Its name.
        name: String,
        /// Where it leads.
        target: String,
    },
    /// Neither a file, a directory nor a link.
    #[error("entry {name:?} is a {what}, which is not unpacked")]
    Kind {
        /// Its name.
        name: String,
        /// `device`, `pipe`...
        what: &'static str,
    },
    /// It does not end.
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// It holds too much.
    #[error("it holds more than {0} entries")]
    TooMany(u64),
    /// Reading it.
    #[error("it can't be read: {0}")]
    Read(io::Error),
    /// Writing one of its entries.
    #[error("entry {name:?} can't be written: {error}")]
    Write {
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
}

/// Unpacks an archive, which has this name, into a directory. Blocking. Answers how many bytes its files have.
pub fn unpack(
    archive: File,
    name: &Below,
    format: Format,
    into: &Root,
    bounds: Bounds,
) -> Result<u64, UnpackError> {
    archive::unpack(archive, name, format, into, bounds)
}

#[cfg(test)]
mod tests;
