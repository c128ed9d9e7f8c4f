//! Domain names as a zone sees them: lower case, any bytes, bounded.

use std::fmt;

/// Longest label and longest name on the wire (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;

/// Bytes that are no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Between two dots there is nothing.
    #[error("name {0:?} has an empty label")]
    EmptyLabel(String),
    /// A label is longer than RFC 1035 allows.
    #[error("name {0:?} has a label of more than 63 bytes")]
    LongLabel(String),
    /// The name is longer than RFC 1035 allows.
    #[error("name {0:?} has more than 255 bytes")]
    LongName(String),
}

/// A fully qualified name, ASCII letters in lower case.
///
/// Kept as labels from the root down, each with its length before it, so that all names below a name
/// start with its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DnsName(Box<[u8]>);

impl DnsName {
    /// A name from text with dots; one dot at the end may be there. No escapes.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.is_empty() {
            return Ok(Self::default());
        }
        Self::from_labels(bare.split('.').map(str::as_bytes))
    }

    /// A name from its labels as read from left to right.
    pub fn from_labels<'a>(
        labels: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Result<Self, NameError> {
        let mut bytes = Vec::with_capacity(64);
        let mut fault: Option<fn(String) -> NameError> = None;
        for label in labels.rev() {
            if label.is_empty() {
                fault = Some(NameError::EmptyLabel);
            } else if label.len() > MAX_LABEL {
                fault = Some(NameError::LongLabel);
            } else if bytes.len() + label.len() + 1 > MAX_NAME - 1 {
                fault = Some(NameError::LongName);
            }
            if let Some(fault) = fault {
                // Enough of it to recognize it by.
                return Err(fault(Self::printable(&label[..label.len().min(80)])));
            }
            // At most 63, which fits.
            bytes.push(u8::try_from(label.len()).unwrap_or(0));
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Ok(Self(bytes.into()))
    }

    /// Labels from the root down: `directory`, `thisdcos`, ...
    pub fn labels_from_root(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(*len))?;
            rest = tail;
            Some(label)
        })
    }

    /// Whether this is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The name of `label` right below this one.
    pub fn child(&self, label: &[u8]) -> Result<Self, NameError> {
        let labels: Vec<&[u8]> = self.labels_from_root().collect();
        Self::from_labels(std::iter::once(label).chain(labels.into_iter().rev()))
    }

    /// The name one label up; none for the root.
    pub fn parent(&self) -> Option<Self> {
        let last = self.labels_from_root().last()?;
        let end = self.0.len() - last.len() - 1;
        Some(Self(self.0[..end].into()))
    }

    /// This name with its end `from` replaced by `to`; none when it does not end so or gets too long.
    pub fn rebase(&self, from: &Self, to: &Self) -> Option<Self> {
        let rest = self.0.strip_prefix(&*from.0)?;
        if to.0.len() + rest.len() > MAX_NAME - 1 {
            return None;
        }
        Some(Self([&to.0, rest].concat().into()))
    }

    /// From bytes on the wire: labels from left to right, the root's 0, no pointers.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        let mut labels: Vec<&[u8]> = Vec::new();
        let mut rest = bytes;
        loop {
            let (len, tail) = rest.split_first()?;
            if *len == 0 {
                break;
            }
            let (label, tail) = tail.split_at_checked(usize::from(*len))?;
            labels.push(label);
            rest = tail;
        }
        Self::from_labels(labels.into_iter()).ok()
    }

    /// Bytes on the wire: labels from left to right, each with its length before it, and the root's 0.
    pub fn to_wire(&self) -> Vec<u8> {
        let labels: Vec<&[u8]> = self.labels_from_root().collect();
        let mut out = Vec::with_capacity(self.0.len() + 1);
        for label in labels.into_iter().rev() {
            // At most 63, which fits.
            out.push(u8::try_from(label.len()).unwrap_or(0));
            out.extend_from_slice(label);
        }
        out.push(0);
        out
    }

    fn printable(label: &[u8]) -> String {
        label
            .iter()
            .map(|b| match b {
                b'.' | b'\\' => format!("\\{}", char::from(*b)),
                0x21..=0x7e => char::from(*b).to_string(),
                _ => format!("\\{b:03}"),
            })
            .collect()
    }
}

/// Presentation form of RFC 1035 section 5.1, with the dot at the end.
impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<&[u8]> = self.labels_from_root().collect();
        if labels.is_empty() {
            return f.write_str(".");
        }
        for label in labels.into_iter().rev() {
            f.write_str(&Self::printable(label))?;
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsName({self})")
    }
}
