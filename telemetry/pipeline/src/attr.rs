//! Attribute values: OpenTelemetry's `AnyValue` without bytes.

use std::{cmp::Ordering, collections::BTreeMap};

/// Attributes of a point, span or record, in the order they were set.
pub type Attrs = Vec<(&'static str, AttrValue)>;

/// A value of an attribute or a log body. Totally ordered (floats by `total_cmp`), so that it can be
/// part of a series' key.
#[derive(Debug, Clone)]
pub enum AttrValue {
    /// No value (JSON null).
    Null,
    /// A flag.
    Bool(bool),
    /// A whole number.
    I64(i64),
    /// Any other number.
    F64(f64),
    /// Text.
    Str(String),
    /// A list; log bodies and log attributes only.
    List(Vec<Self>),
    /// Keys and values; log bodies and log attributes only.
    Map(BTreeMap<String, Self>),
}

impl AttrValue {
    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// About how many bytes it takes on the wire; for queue limits.
    pub fn approx_bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 4,
            Self::I64(_) | Self::F64(_) => 12,
            Self::Str(s) => s.len() + 8,
            Self::List(l) => 8 + l.iter().map(Self::approx_bytes).sum::<usize>(),
            Self::Map(m) => {
                8 + m
                    .iter()
                    .map(|(k, v)| k.len() + 8 + v.approx_bytes())
                    .sum::<usize>()
            }
        }
    }

    /// As a label value: text as it is, the rest as JSON would write it.
    pub fn to_text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(b) => b.to_string(),
            Self::I64(i) => i.to_string(),
            Self::F64(f) => f.to_string(),
            Self::Str(s) => s.clone(),
            Self::List(l) => {
                let parts: Vec<String> = l.iter().map(Self::to_text).collect();
                format!("[{}]", parts.join(","))
            }
            Self::Map(m) => {
                let parts: Vec<String> = m
                    .iter()
                    .map(|(k, v)| format!("{k}={}", v.to_text()))
                    .collect();
                format!("{{{}}}", parts.join(","))
            }
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::I64(_) => 2,
            Self::F64(_) => 3,
            Self::Str(_) => 4,
            Self::List(_) => 5,
            Self::Map(_) => 6,
        }
    }
}

impl Ord for AttrValue {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::I64(a), Self::I64(b)) => a.cmp(b),
            (Self::F64(a), Self::F64(b)) => a.total_cmp(b),
            (Self::Str(a), Self::Str(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) => a.cmp(b),
            (Self::Map(a), Self::Map(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for AttrValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for AttrValue {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for AttrValue {}

impl From<&str> for AttrValue {
    fn from(s: &str) -> Self {
        Self::Str(s.to_owned())
    }
}

impl From<String> for AttrValue {
    fn from(s: String) -> Self {
        Self::Str(s)
    }
}

impl From<&String> for AttrValue {
    fn from(s: &String) -> Self {
        Self::Str(s.clone())
    }
}

impl From<bool> for AttrValue {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<f64> for AttrValue {
    fn from(f: f64) -> Self {
        Self::F64(f)
    }
}

macro_rules! from_int {
    ($($t:ty),*) => {$(
        impl From<$t> for AttrValue {
            fn from(i: $t) -> Self {
                Self::I64(i64::from(i))
            }
        }
    )*};
}
from_int!(i64, i32, i16, u8, u16, u32);

impl From<u64> for AttrValue {
    /// Saturates: OTLP has signed integers only.
    fn from(i: u64) -> Self {
        Self::I64(i64::try_from(i).unwrap_or(i64::MAX))
    }
}

impl From<usize> for AttrValue {
    /// Saturates: OTLP has signed integers only.
    fn from(i: usize) -> Self {
        Self::I64(i64::try_from(i).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_total_over_kinds_and_nan() {
        let nan = AttrValue::F64(f64::NAN);
        assert_eq!(nan, nan.clone());
        assert!(AttrValue::I64(9) < AttrValue::Str("1".into()));
        assert!(AttrValue::F64(1.0) < nan);
    }

    #[test]
    fn unsigned_saturates() {
        assert_eq!(AttrValue::from(u64::MAX), AttrValue::I64(i64::MAX));
    }
}
