//! Where fields are in structures of the running kernel, from its own description of types.
//!
//! Format: `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h` of the kernel. Only what a look-up by name needs is
//! read; every offset is checked, since the file is as long as it is.

use std::fs;
use std::io;
use std::ops::Range;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_POINTER: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_PROTOTYPE: u32 = 13;
/// Structures without a name within each other that are looked into.
const MAX_DEPTH: usize = 8;

/// The running kernel's types.
pub(crate) struct KernelTypes {
    bytes: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
    /// Where each type begins; ids count from 1.
    begins: Vec<usize>,
}

/// A type's fixed part.
#[derive(Clone, Copy)]
struct Head {
    name: u32,
    kind: u32,
    len: usize,
    /// The upper byte of a member's place is a bit field's width.
    bit_fields: bool,
    /// Size, or the type that this one leads to.
    rest: u32,
    /// Where the parts begin.
    parts: usize,
}

impl KernelTypes {
    /// Reads them: some megabytes.
    ///
    /// # Errors
    /// Reading the file; `InvalidData` where it is not what it should be.
    pub(crate) fn read() -> io::Result<Self> {
        Self::parse(fs::read(VMLINUX)?).ok_or_else(|| invalid("is not a description of types"))
    }

    /// The offset, in bytes, of a member of a structure, also of one in a part of it that has no name; the structure may be known
    /// by a `typedef` alone.
    ///
    /// # Errors
    /// `InvalidData` where it has no such member.
    pub(crate) fn offset(&self, structure: &str, member: &str) -> io::Result<u32> {
        let by_typedef = || {
            let named = self.named(KIND_TYPEDEF, structure)?;
            self.by_id(named.rest)
                .filter(|head| head.kind == KIND_STRUCT)
        };
        self.named(KIND_STRUCT, structure)
            .or_else(by_typedef)
            .and_then(|head| self.member(head, member, MAX_DEPTH))
            .map(|bits| bits / 8)
            .ok_or_else(|| invalid(&format!("has no {structure}.{member}")))
    }

    /// Names and values of an enumeration.
    ///
    /// # Errors
    /// `InvalidData` where there is no such enumeration.
    pub(crate) fn enumeration(&self, name: &str) -> io::Result<Vec<(u32, String)>> {
        let values = || -> Option<Vec<_>> {
            let head = self.named(KIND_ENUM, name)?;
            (0..head.len)
                .map(|n| {
                    let part = head.parts + n * 8;
                    let name = self.string(u32_at(self.types(), part)?)?;
                    Some((u32_at(self.types(), part + 4)?, name.to_owned()))
                })
                .collect()
        };
        values().ok_or_else(|| invalid(&format!("has no enum {name}")))
    }

    /// How many arguments a tracepoint has.
    ///
    /// # Errors
    /// `InvalidData` where there is no such tracepoint.
    pub(crate) fn tracepoint_arguments(&self, name: &str) -> io::Result<usize> {
        let arguments = || {
            let pointer = self.named(KIND_TYPEDEF, &format!("btf_trace_{name}"))?;
            let pointer = self.by_id(pointer.rest)?;
            let prototype = (pointer.kind == KIND_POINTER).then(|| self.by_id(pointer.rest))??;
            // The first one is the tracepoint's own.
            (prototype.kind == KIND_PROTOTYPE)
                .then(|| prototype.len.checked_sub(1))
                .flatten()
        };
        arguments().ok_or_else(|| invalid(&format!("has no tracepoint {name}")))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        if u16_at(&bytes, 0)? != MAGIC {
            return None;
        }
        let header = word(&bytes, 4)?;
        let section = |at: usize| {
            let begin = header.checked_add(word(&bytes, at)?)?;
            let end = begin.checked_add(word(&bytes, at + 4)?)?;
            (end <= bytes.len()).then_some(begin..end)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut begins = Vec::new();
        let mut at = 0;
        while at < types.len() {
            begins.push(at);
            let head = head_at(&bytes[types.clone()], at)?;
            at = head.parts + rest(head.kind, head.len)?;
        }
        Some(Self {
            bytes,
            types,
            strings,
            begins,
        })
    }

    fn types(&self) -> &[u8] {
        self.bytes.get(self.types.clone()).unwrap_or_default()
    }

    fn string(&self, at: u32) -> Option<&str> {
        let strings = self.bytes.get(self.strings.clone())?;
        let rest = strings.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    fn by_id(&self, id: u32) -> Option<Head> {
        let at = usize::try_from(id).ok()?.checked_sub(1)?;
        head_at(self.types(), *self.begins.get(at)?)
    }

    fn named(&self, kind: u32, name: &str) -> Option<Head> {
        let heads = self
            .begins
            .iter()
            .filter_map(|at| head_at(self.types(), *at));
        heads
            .filter(|head| head.kind == kind)
            .find(|head| self.string(head.name) == Some(name))
    }

    /// In bits.
    fn member(&self, of: Head, name: &str, depth: usize) -> Option<u32> {
        (0..of.len).find_map(|n| {
            let part = of.parts + n * 12;
            let own = u32_at(self.types(), part)?;
            let at = u32_at(self.types(), part + 8)?;
            let at = if of.bit_fields { at & 0x00ff_ffff } else { at };
            match self.string(own)? {
                found if found == name => Some(at),
                "" if depth > 0 => {
                    let inner = self.by_id(u32_at(self.types(), part + 4)?)?;
                    let is_compound = matches!(inner.kind, KIND_STRUCT | KIND_UNION);
                    let inner = is_compound.then(|| self.member(inner, name, depth - 1))??;
                    at.checked_add(inner)
                }
                _ => None,
            }
        })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{VMLINUX} {what}"))
}

fn head_at(types: &[u8], at: usize) -> Option<Head> {
    let info = u32_at(types, at + 4)?;
    Some(Head {
        name: u32_at(types, at)?,
        kind: info >> 24 & 0x1f,
        len: usize::try_from(info & 0xffff).ok()?,
        bit_fields: info >> 31 == 1,
        rest: u32_at(types, at + 8)?,
        parts: at + 12,
    })
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

    /// `int`, a struct with a flag (bit field `a:3`, then `sk_err` at byte 8), one without, one in which the first is a part
    /// without a name at byte 16, an enumeration, a tracepoint with two arguments.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0sock\0a\0sk_err\0other\0outer\0reason\0btf_trace_freed\0";
        let (int, sock, a, sk_err, other, outer, reason, freed) = (1, 5, 10, 12, 19, 25, 31, 38);
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
        put(&[outer, 4 << 24 | 1, 32, 0, 3, 128]);
        put(&[reason, 6 << 24 | 2, 4, a, 0, other, 7]);
        put(&[0, 13 << 24 | 3, 0, 0, 1, 0, 1, 0, 1]);
        put(&[0, 2 << 24, 6]);
        put(&[freed, 8 << 24, 7]);
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

    fn offset(bytes: &[u8], structure: &str, member: &str) -> Option<u32> {
        let types = KernelTypes::parse(bytes.to_vec())?;
        let found = types.offset(structure, member);
        let _ = types.enumeration("reason");
        let _ = types.tracepoint_arguments("freed");
        found.ok()
    }

    #[test]
    fn members_are_found_by_name() {
        let bytes = sample();
        assert_eq!(offset(&bytes, "sock", "sk_err"), Some(8));
        assert_eq!(offset(&bytes, "sock", "a"), Some(0));
        assert_eq!(offset(&bytes, "other", "a"), Some(4));
        assert_eq!(
            offset(&bytes, "outer", "sk_err"),
            Some(24),
            "in a part without a name"
        );
        assert_eq!(offset(&bytes, "sock", "sk_er"), None);
        assert_eq!(offset(&bytes, "sk", "a"), None);
    }

    #[test]
    fn values_and_arguments_are_found_by_name() {
        let types = KernelTypes::parse(sample()).unwrap();
        let values = types.enumeration("reason").unwrap();
        assert_eq!(values, [(0, "a".to_owned()), (7, "other".to_owned())]);
        assert_eq!(types.tracepoint_arguments("freed").unwrap(), 2);
        assert!(types.enumeration("sock").is_err());
        assert!(types.tracepoint_arguments("sock").is_err());
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
        let types = KernelTypes::read().unwrap();
        let at = types.offset("sock", "sk_err").unwrap();
        assert!(at > 0 && at < 2048, "{at}");
        assert!(types.offset("socket_lock_t", "owned").unwrap() > 0);
        let error = types.offset("sock", "sk_nothing").unwrap_err();
        assert!(error.to_string().contains("sock.sk_nothing"));
        assert!(types.tracepoint_arguments("kfree_skb").unwrap() >= 3);
        let reasons = types.enumeration("skb_drop_reason").unwrap();
        assert!(
            reasons
                .iter()
                .any(|(_, name)| name == "SKB_DROP_REASON_NO_SOCKET")
        );
    }
}
