//! Reads a tar stream (POSIX.1-2001 pax, ustar, GNU) entry by entry, with every length bounded: libraries read long
//! names whole, however long they say they are.

use std::io::{self, Read};

use super::{Limits, UnpackError};

const BLOCK: usize = 512;
/// Longest extended header, with the names and attributes of one entry.
const MAX_EXTENSION: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// Another name of the entry [`Entry::link`].
    HardLink,
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

/// One entry's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path as it is written.
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds of its last change.
    pub mtime: i64,
    /// Bytes that follow.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extended headers say about the entry after them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The stream. After [`TarReader::next`] it reads the entry's bytes.
pub struct TarReader<R> {
    inner: R,
    max_bytes: u64,
    max_xattr: usize,
    // Of the stream so far.
    n_bytes: u64,
    // Of the entry, and after it up to the next block.
    left: u64,
    pad: u64,
}

impl<R: Read> TarReader<R> {
    /// Bounded by `limits`.
    pub fn new(inner: R, limits: &Limits) -> Self {
        Self {
            inner,
            max_bytes: limits.max_bytes,
            max_xattr: limits.max_xattr,
            n_bytes: 0,
            left: 0,
            pad: 0,
        }
    }

    /// The next entry's head, past what is left of the one before; `None` at the archive's end.
    pub fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number("size", &header.as_old().size)?;
            self.expect(size)?;
            match header.entry_type().as_byte() {
                b'x' => self.pax(size, &mut extended)?,
                b'g' => {}
                b'L' => extended.path = Some(self.long_name(size)?),
                b'K' => extended.link = Some(self.long_name(size)?),
                kind => return self.entry(&header, kind, size, extended).map(Some),
            }
        }
    }

    /// Reads on to the end of the stream: what follows the archive's end belongs to its digest.
    pub fn drain(&mut self) -> Result<(), UnpackError> {
        let mut buf = [0; 16 << 10];
        while self.raw(&mut buf).map_err(UnpackError::Read)? > 0 {}
        self.check_total()
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        kind: u8,
        size: u64,
        extended: Extended,
    ) -> Result<Entry, UnpackError> {
        let path = extended
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let refuse = |rule: String| UnpackError::rule(&path, rule);
        let kind = match kind {
            // Old archives have a slash after the name of a directory and no kind.
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' | 0 => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(refuse("kind: GNU sparse files are not taken".to_owned())),
            other => {
                return Err(refuse(format!(
                    "kind: must be a file, directory, link, pipe or device, is {:?}",
                    char::from(other)
                )));
            }
        };
        // Of other kinds it is without meaning, as Go's reader has it, which images are made with.
        let size = match header.entry_type().as_byte() {
            b'0' | b'7' | 0 => extended.size.unwrap_or(size),
            _ => 0,
        };
        self.expect(size)?;
        let id = |what: &str, n: u64| {
            u32::try_from(n)
                .ok()
                .filter(|n| *n != u32::MAX)
                .ok_or_else(|| refuse(format!("{what}: must be below 2^32 - 1, is {n}")))
        };
        let of = |field: &str, extended: Option<u64>, own: &[u8]| {
            extended.map_or_else(|| number(field, own), Ok)
        };
        let mtime = match extended.mtime {
            Some(t) => t,
            // Before 1970 in some, and then no number that matters.
            None => number("mtime", &header.as_old().mtime)
                .ok()
                .and_then(|t| i64::try_from(t).ok())
                .unwrap_or(0),
        };
        Ok(Entry {
            link: extended
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            mode: u32::try_from(number("mode", &header.as_old().mode)? & 0o7777).unwrap_or(0),
            uid: id("uid", of("uid", extended.uid, &header.as_old().uid)?)?,
            gid: id("gid", of("gid", extended.gid, &header.as_old().gid)?)?,
            xattrs: extended.xattrs,
            mtime,
            size,
            kind,
            path,
        })
    }

    /// The next block that is not all zero; `None` at the end of the archive or of the stream.
    fn header(&mut self) -> Result<Option<tar::Header>, UnpackError> {
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let n = self.fill(block)?;
        if n == 0 || block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if n < BLOCK {
            return Err(cut_off());
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| {
                if (148..156).contains(&i) {
                    32
                } else {
                    u32::from(*b)
                }
            })
            .sum();
        match header.cksum() {
            Ok(is) if is == sum => Ok(Some(header)),
            _ => Err(UnpackError::Malformed("bad header checksum".to_owned())),
        }
    }

    /// Says that so many bytes follow.
    fn expect(&mut self, size: u64) -> Result<(), UnpackError> {
        if size > self.max_bytes {
            return Err(self.too_long());
        }
        self.left = size;
        self.pad = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip(&mut self) -> Result<(), UnpackError> {
        let mut n = self.left + self.pad;
        (self.left, self.pad) = (0, 0);
        let mut buf = [0; 16 << 10];
        while n > 0 {
            let part = usize::try_from(n).unwrap_or(buf.len()).min(buf.len());
            let read = self.fill(&mut buf[..part])?;
            if read < part {
                return Err(cut_off());
            }
            n -= read as u64;
        }
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENSION {
            return Err(UnpackError::TooMuch {
                what: "bytes in an extended header",
                most: MAX_EXTENSION,
            });
        }
        let mut out = vec![0; usize::try_from(size).unwrap_or_default()];
        let n = self.fill(&mut out)?;
        self.left = 0;
        if n < out.len() {
            return Err(cut_off());
        }
        Ok(out)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut name = self.extension(size)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn pax(&mut self, size: u64, out: &mut Extended) -> Result<(), UnpackError> {
        let text = self.extension(size)?;
        for record in records(&text) {
            let (key, value) = record?;
            match key {
                b"path" => out.path = Some(value.to_vec()),
                b"linkpath" => out.link = Some(value.to_vec()),
                b"size" => out.size = Some(decimal("size", value)?),
                b"uid" => out.uid = Some(decimal("uid", value)?),
                b"gid" => out.gid = Some(decimal("gid", value)?),
                b"mtime" => out.mtime = seconds(value),
                key if key.starts_with(b"GNU.sparse.") => {
                    let path = out.path.clone().unwrap_or_default();
                    let rule = "kind: GNU sparse files are not taken";
                    return Err(UnpackError::rule(&path, rule));
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        out.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        let n: usize = out.xattrs.iter().map(|(k, v)| k.len() + v.len()).sum();
        if n > self.max_xattr {
            return Err(UnpackError::TooMuch {
                what: "bytes of extended attributes of an entry",
                most: self.max_xattr as u64,
            });
        }
        Ok(())
    }

    /// As much as there is, up to the whole buffer.
    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, UnpackError> {
        let mut n = 0;
        while n < buf.len() {
            match self.raw(&mut buf[n..]).map_err(UnpackError::Read)? {
                0 => break,
                read => n += read,
            }
        }
        self.check_total()?;
        Ok(n)
    }

    fn raw(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // The bound holds for bytes that are only read past, too.
        if self.n_bytes > self.max_bytes {
            return Ok(0);
        }
        loop {
            match self.inner.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let n = read?;
                    self.n_bytes += n as u64;
                    return Ok(n);
                }
            }
        }
    }

    fn check_total(&self) -> Result<(), UnpackError> {
        if self.n_bytes > self.max_bytes {
            return Err(self.too_long());
        }
        Ok(())
    }

    fn too_long(&self) -> UnpackError {
        UnpackError::TooMuch {
            what: "bytes unpacked",
            most: self.max_bytes,
        }
    }

    /// Bytes of the entry; 0 at its end.
    pub fn body(&mut self, buf: &mut [u8]) -> Result<usize, UnpackError> {
        let part = usize::try_from(self.left)
            .unwrap_or(buf.len())
            .min(buf.len());
        if part == 0 {
            return Ok(0);
        }
        let n = self.raw(&mut buf[..part]).map_err(UnpackError::Read)?;
        self.check_total()?;
        if n == 0 {
            return Err(cut_off());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn cut_off() -> UnpackError {
    UnpackError::Malformed("it is cut off".to_owned())
}

/// A number in a header: octal, nothing for 0, or GNU's base 256 where the first bit is set.
fn number(field: &str, bytes: &[u8]) -> Result<u64, UnpackError> {
    let bad = || UnpackError::Malformed(format!("{field} of a header is not a number"));
    if let Some((first @ 0x80..=0xbf, rest)) = bytes.split_first() {
        return rest
            .iter()
            .try_fold(u64::from(first & 0x3f), |n, b| {
                (n < 1 << 55).then(|| n << 8 | u64::from(*b))
            })
            .ok_or_else(bad);
    }
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(&bytes[..end])
        .map_err(|_| bad())?
        .trim();
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| bad())
}

fn decimal(field: &str, value: &[u8]) -> Result<u64, UnpackError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| {
            UnpackError::Malformed(format!("{field} of an extended header is not a number"))
        })
}

/// Whole seconds of `1350244992.023960108`.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split('.').next()?.parse().ok()
}

/// `LEN KEY=VALUE\n` each; values may hold anything, newlines too.
fn records(mut text: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), UnpackError>> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let bad = || UnpackError::Malformed("a record of an extended header".to_owned());
        let record = (|| {
            let space = text.iter().take(20).position(|b| *b == b' ')?;
            let len: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
            let record = text.get(space + 1..len)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|b| *b == b'=')?;
            text = &text[len..];
            Some((&record[..equals], &record[equals + 1..]))
        })();
        if record.is_none() {
            text = &[];
        }
        Some(record.ok_or_else(bad))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Entry>, UnpackError> {
        let mut reader = TarReader::new(bytes, &Limits::for_tests());
        let mut out = Vec::new();
        while let Some(entry) = reader.next()? {
            out.push(entry);
        }
        reader.drain()?;
        Ok(out)
    }

    #[test]
    fn records_may_hold_newlines() {
        let text = b"11 a=1\n2\n3\n5 b=\n";
        let read: Vec<_> = records(text).map(Result::unwrap).collect();
        assert_eq!(read, [(&b"a"[..], &b"1\n2\n3"[..]), (b"b", b"")]);
        assert!(records(b"99 a=1\n").next().unwrap().is_err());
        assert!(records(b"3 a=1\n").next().unwrap().is_err());
        assert!(records(b"0 =\n").next().unwrap().is_err());
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        let of = |bytes: &[u8]| number("x", bytes).ok();
        assert_eq!(of(b"0000644\0"), Some(0o644));
        assert_eq!(of(b"   644 \0"), Some(0o644));
        assert_eq!(of(b"\0\0\0\0"), Some(0));
        assert_eq!(of(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(of(&[0xff; 12]), None);
        assert_eq!(of(&[0xbf; 12]), None);
        assert_eq!(of(b"9"), None);
        assert_eq!(of(b"+7"), Some(7));
    }

    #[test]
    fn long_names_and_numbers_of_libraries_are_read() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "d/".repeat(90) + &"x".repeat(200);
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o4755);
        header.set_uid(3_000_000_000);
        builder
            .append_data(&mut header, &long, &b"abc"[..])
            .unwrap();
        builder
            .append_pax_extensions([("mtime", &b"12.5"[..]), ("SCHILY.xattr.user.a", b"\n=\0")])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        builder.append_data(&mut header, "short", &b""[..]).unwrap();
        let read = all(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(read[0].path, long.as_bytes());
        assert_eq!(
            (read[0].mode, read[0].uid, read[0].size),
            (0o4755, 3_000_000_000, 3)
        );
        assert_eq!(read[1].mtime, 12);
        assert_eq!(read[1].xattrs, [(b"user.a".to_vec(), b"\n=\0".to_vec())]);
    }

    #[test]
    fn what_says_it_is_too_long_is_refused_before_it_is_read() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(2 << 20);
        header.set_cksum();
        let refused = all(header.as_bytes()).unwrap_err().to_string();
        assert_eq!(refused, "more than 1048576 bytes in an extended header");
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(1 << 60);
        header.set_cksum();
        let refused = all(header.as_bytes()).unwrap_err().to_string();
        assert_eq!(refused, "more than 4194304 bytes unpacked");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = all(&bytes);
        }

        #[test]
        fn damaged_archives_are_survived(at in 0usize..1536, with in any::<u8>(), cut in 0usize..2048) {
            let mut builder = tar::Builder::new(Vec::new());
            builder.append_pax_extensions([("path", &b"abc"[..])]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(4);
            builder.append_data(&mut header, "short", &b"data"[..]).unwrap();
            let mut bytes = builder.into_inner().unwrap();
            bytes[at] = with;
            bytes.truncate(cut.max(at));
            let _ = all(&bytes);
        }
    }
}
