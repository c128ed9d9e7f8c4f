//! Where a field is in a structure of the running kernel, from its own description of types.
//!
//! Format: `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h` of the kernel. Only what a look-up by name needs is
//! read; every offset is checked, since the file is as long as it is.

use std::fs;
use std::io;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;

/// The offset, in bytes, of a direct member of a structure of the kernel.
///
/// # Errors
/// Reading the file; `InvalidData` where it has no such member, or is not what it should be.
pub(crate) fn kernel_offset(structure: &str, member: &str) -> io::Result<u32> {
    let bytes = fs::read(VMLINUX)?;
    offset(&bytes, structure, member).ok_or_else(|| {
        let why = format!("{VMLINUX} has no {structure}.{member}");
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

fn offset(bytes: &[u8], structure: &str, member: &str) -> Option<u32> {
    if u16_at(bytes, 0)? != MAGIC {
        return None;
    }
    let body = bytes.get(word(bytes, 4)?..)?;
    let section = |at: usize| {
        let (begin, len) = (word(bytes, at)?, word(bytes, at + 4)?);
        body.get(begin..begin.checked_add(len)?)
    };
    let (types, strings) = (section(8)?, section(16)?);
    let mut at = 0;
    while at < types.len() {
        let (name, info) = (u32_at(types, at)?, u32_at(types, at + 4)?);
        let (kind, len) = (info >> 24 & 0x1f, info & 0xffff);
        let parts = at + 12;
        if kind == KIND_STRUCT && is(strings, name, structure) {
            // With the flag, the upper byte is a bit field's width.
            let mask = if info >> 31 == 1 {
                0x00ff_ffff
            } else {
                u32::MAX
            };
            for part in 0..usize::try_from(len).ok()? {
                let part = parts + part * 12;
                if is(strings, u32_at(types, part)?, member) {
                    return Some((u32_at(types, part + 8)? & mask) / 8);
                }
            }
            return None;
        }
        at = parts + rest(kind, usize::try_from(len).ok()?)?;
    }
    None
}

/// Bytes after the fixed part of a type.
fn rest(kind: u32, len: usize) -> Option<usize> {
    Some(match kind {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Structure, union, section, 64-bit enumeration.
        4 | 5 | 15 | 19 => len * 12,
        // Enumeration, prototype.
        6 | 13 => len * 8,
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn is(strings: &[u8], at: u32, name: &str) -> bool {
    let found = usize::try_from(at).ok().and_then(|at| strings.get(at..));
    found.is_some_and(|s| {
        s.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int`, a struct with a flag (bit field `a:3`, then `sk_err` at byte 8), and one without.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0sock\0a\0sk_err\0other\0";
        let (int, sock, a, sk_err, other) = (1, 5, 10, 12, 19);
        let mut types = Vec::new();
        let mut put = |words: &[u32]| types.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
        put(&[int, 1 << 24, 4, 32]);
        put(&[other, 4 << 24 | 1, 8, a, 1, 32]);
        put(&[
            sock,
            1 << 31 | 4 << 24 | 2,
            16,
            a,
            1,
            3 << 24,
            sk_err,
            1,
            64,
        ]);
        let mut out = Vec::new();
        out.extend(MAGIC.to_ne_bytes());
        out.extend([1, 0]);
        let [t, s] = [types.len(), strings.len()].map(|n| u32::try_from(n).unwrap());
        for w in [24, 0, t, t, s] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn members_are_found_by_name() {
        let bytes = sample();
        assert_eq!(offset(&bytes, "sock", "sk_err"), Some(8));
        assert_eq!(offset(&bytes, "sock", "a"), Some(0));
        assert_eq!(offset(&bytes, "other", "a"), Some(4));
        assert_eq!(offset(&bytes, "sock", "sk_er"), None);
        assert_eq!(offset(&bytes, "sk", "a"), None);
    }

    #[test]
    fn a_file_that_is_cut_or_broken_has_nothing() {
        let bytes = sample();
        for len in 0..bytes.len() {
            let _ = offset(&bytes[..len], "sock", "sk_err");
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0xff;
            let _ = offset(&bad, "sock", "sk_err");
        }
        assert_eq!(offset(b"", "sock", "sk_err"), None);
    }

    #[test]
    fn the_running_kernel_has_a_socket() {
        if !std::path::Path::new(VMLINUX).exists() {
            eprintln!("skipped: this kernel does not describe its types");
            return;
        }
        let at = kernel_offset("sock", "sk_err").unwrap();
        assert!(at > 0 && at < 2048, "{at}");
        let error = kernel_offset("sock", "sk_nothing").unwrap_err();
        assert!(error.to_string().contains("sock.sk_nothing"));
    }
}
