//! The formats: tar in its compressions, zip, and single compressed files.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, Read, Seek, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use super::{
    Bounds, UnpackError,
    root::{Below, Root},
};

/// Longest target of a link, in bytes.
const MAX_LINK: u64 = 4096;
/// Most memory of the xz decoder, in KiB: enough for what `xz -9` makes.
const XZ_MEMORY_KIB: u32 = 128 << 10;
/// Largest window of the zstd decoder: 2^27 bytes, as `zstd -d` takes it without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How an archive is compressed and packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// tar.
    Tar,
    /// tar and gzip.
    TarGz,
    /// tar and bzip2.
    TarBz2,
    /// tar and xz.
    TarXz,
    /// tar and zstd.
    TarZst,
    /// zip.
    Zip,
    /// One file and gzip: the name loses `.gz`, as Mesos does.
    Gz,
}

/// The format by a file's name, as Mesos's fetcher decides it; `None` for what is no archive.
pub fn format_of(name: &Path) -> Option<Format> {
    let name = name.file_name()?.as_bytes();
    let ends: [(&[u8], Format); 12] = [
        (b".tar.gz", Format::TarGz),
        (b".tgz", Format::TarGz),
        (b".tar.bz2", Format::TarBz2),
        (b".tbz2", Format::TarBz2),
        (b".tbz", Format::TarBz2),
        (b".tar.xz", Format::TarXz),
        (b".txz", Format::TarXz),
        (b".tar.zst", Format::TarZst),
        (b".tzst", Format::TarZst),
        (b".tar", Format::Tar),
        (b".zip", Format::Zip),
        (b".gz", Format::Gz),
    ];
    let lower = name.to_ascii_lowercase();
    let found = ends.iter().find(|(end, _)| lower.ends_with(end));
    found.map(|(_, f)| *f)
}

/// What is left of the bounds.
struct Left {
    bounds: Bounds,
    bytes: u64,
    entries: u64,
}

impl Left {
    fn entry(&mut self) -> Result<(), UnpackError> {
        match self.entries.checked_sub(1) {
            Some(left) => {
                self.entries = left;
                Ok(())
            }
            None => Err(UnpackError::TooMany(self.bounds.entries)),
        }
    }

    /// Copies a file's bytes; what its header said of its size is not believed.
    fn copy(
        &mut self,
        from: &mut impl Read,
        to: &mut impl Write,
        name: &str,
    ) -> Result<(), UnpackError> {
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(UnpackError::Read(e)),
            };
            self.bytes = self
                .bytes
                .checked_sub(n as u64)
                .ok_or(UnpackError::TooLarge(self.bounds.bytes))?;
            to.write_all(&buffer[..n])
                .map_err(|error| failed(name, error))?;
        }
    }
}

/// Unpacks into a root. Blocking.
pub(super) fn unpack(
    archive: File,
    name: &Below,
    format: Format,
    root: &Root,
    bounds: Bounds,
) -> Result<u64, UnpackError> {
    let mut left = Left {
        bounds,
        bytes: bounds.bytes,
        entries: bounds.entries,
    };
    let buffered = BufReader::with_capacity(128 << 10, archive);
    match format {
        Format::Tar => tar(buffered, root, &mut left)?,
        Format::Gz => gunzip(buffered, root, name, &mut left)?,
        Format::TarGz => {
            let reader = flate2::bufread::MultiGzDecoder::new(buffered);
            tar(reader, root, &mut left)?;
        }
        Format::TarBz2 => tar(
            bzip2::bufread::MultiBzDecoder::new(buffered),
            root,
            &mut left,
        )?,
        Format::TarXz => {
            let reader = lzma_rust2::XzReader::new_mem_limit(buffered, true, XZ_MEMORY_KIB);
            tar(reader, root, &mut left)?;
        }
        Format::TarZst => {
            let mut reader =
                zstd::stream::read::Decoder::with_buffer(buffered).map_err(UnpackError::Read)?;
            reader
                .window_log_max(ZSTD_WINDOW_LOG)
                .map_err(UnpackError::Read)?;
            tar(reader, root, &mut left)?;
        }
        Format::Zip => zip(buffered, root, &mut left)?,
    }
    Ok(bounds.bytes - left.bytes)
}

/// One file, beside the archive, without its ending.
fn gunzip(
    archive: impl io::BufRead,
    root: &Root,
    name: &Below,
    left: &mut Left,
) -> Result<(), UnpackError> {
    let name = name.as_path().with_extension("");
    let name = name.as_os_str().as_bytes();
    let said = shown(name);
    let Some(path) = below(name, &said)? else {
        return Ok(());
    };
    let mut reader = flate2::bufread::MultiGzDecoder::new(archive);
    let mut file = root
        .create(&path, 0o644)
        .map_err(|error| failed(&said, error))?;
    left.copy(&mut reader, &mut file, &said)
}

fn tar(reader: impl Read, root: &Root, left: &mut Left) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(reader);
    // Modes of directories last: one without write permission would be in the way of its own content.
    let mut dirs: Vec<(Below, u32)> = Vec::new();
    for entry in archive.entries().map_err(UnpackError::Read)? {
        let mut entry = entry.map_err(UnpackError::Read)?;
        left.entry()?;
        let raw = entry.path_bytes().into_owned();
        let name = shown(&raw);
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let Some(path) = below(&raw, &name)? else {
            continue;
        };
        let mode = entry.header().mode().unwrap_or(0o644);
        let write = |error| failed(&name, error);
        match kind {
            tar::EntryType::Directory => {
                root.make_dir(&path).map_err(write)?;
                dirs.push((path, mode | 0o700));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                // Old archives have directories as files whose name ends with a slash.
                if raw.ends_with(b"/") {
                    root.make_dir(&path).map_err(write)?;
                    continue;
                }
                let mut file = root.create(&path, mode).map_err(write)?;
                left.copy(&mut entry, &mut file, &name)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                link(root, &path, &name, &target)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let leads_out = || UnpackError::Link {
                    name: name.clone(),
                    target: shown(&target),
                };
                let existing = Below::new(&target).map_err(|_| leads_out())?;
                root.hard_link(&path, &existing).map_err(write)?;
            }
            other => {
                return Err(UnpackError::Kind {
                    name,
                    what: match other {
                        tar::EntryType::Char | tar::EntryType::Block => "device",
                        tar::EntryType::Fifo => "pipe",
                        _ => "thing of a kind of its own",
                    },
                });
            }
        }
    }
    for (path, mode) in dirs.iter().rev() {
        let name = shown(path.as_path().as_os_str().as_bytes());
        root.set_mode(path, *mode)
            .map_err(|error| failed(&name, error))?;
    }
    Ok(())
}

fn zip(reader: impl Read + Seek, root: &Root, left: &mut Left) -> Result<(), UnpackError> {
    let bad = |e: zip::result::ZipError| UnpackError::Read(io::Error::other(e));
    let mut archive = zip::ZipArchive::new(reader).map_err(bad)?;
    for i in 0..archive.len() {
        left.entry()?;
        let mut entry = archive.by_index(i).map_err(bad)?;
        // The text, not the raw bytes: those may be of an old code page.
        let raw = if std::str::from_utf8(entry.name_raw()).is_ok() {
            entry.name_raw().to_vec()
        } else {
            entry.name().map_err(bad)?.as_bytes().to_vec()
        };
        let name = shown(&raw);
        let Some(path) = below(&raw, &name)? else {
            continue;
        };
        let mode = entry.unix_mode();
        let kind = mode.unwrap_or(0) & libc::S_IFMT;
        if kind == libc::S_IFLNK {
            let mut target = Vec::new();
            (&mut entry)
                .take(MAX_LINK + 1)
                .read_to_end(&mut target)
                .map_err(UnpackError::Read)?;
            link(root, &path, &name, &target)?;
        } else if entry.is_dir() {
            root.make_dir(&path).map_err(|error| failed(&name, error))?;
        } else if matches!(kind, 0 | libc::S_IFREG) {
            let mut file = root
                .create(&path, mode.unwrap_or(0o644))
                .map_err(|error| failed(&name, error))?;
            left.copy(&mut entry, &mut file, &name)?;
        } else {
            return Err(UnpackError::Kind {
                name,
                what: "device, pipe or socket",
            });
        }
    }
    Ok(())
}

fn below(raw: &[u8], name: &str) -> Result<Option<Below>, UnpackError> {
    Below::or_here(raw).map_err(|rule| UnpackError::Path {
        name: name.to_owned(),
        rule,
    })
}

fn link(root: &Root, path: &Below, name: &str, target: &[u8]) -> Result<(), UnpackError> {
    if target.len() as u64 > MAX_LINK || target.contains(&0) || !path.link_stays(target) {
        return Err(UnpackError::Link {
            name: name.to_owned(),
            target: shown(target),
        });
    }
    root.symlink(path, OsStr::from_bytes(target))
        .map_err(|error| failed(name, error))
}

fn failed(name: &str, error: io::Error) -> UnpackError {
    UnpackError::Write {
        name: name.to_owned(),
        error,
    }
}

/// For messages: short, and text.
fn shown(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    text.chars().take(200).collect()
}
