//! The static and the dynamic table (RFC 7541, 2.3 and appendix A).

use std::collections::VecDeque;

use super::{Field, MAX_TABLE, Name};

/// An entry: text of what is asked for, sizes of the rest. `None` is what can't be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Option<Name>,
    pub(super) value: Option<String>,
    pub(super) name_bytes: Option<usize>,
    pub(super) value_bytes: Option<usize>,
}

impl Entry {
    pub(super) fn field(&self) -> Field {
        Field {
            name: self.name,
            value: self.value.clone(),
        }
    }

    const UNKNOWN: Self = Self {
        name: None,
        value: None,
        name_bytes: None,
        value_bytes: None,
    };

    /// RFC 7541, 4.1.
    fn size(&self) -> usize {
        32 + self.name_bytes.unwrap_or(0) + self.value_bytes.unwrap_or(0)
    }

    fn held(&self) -> usize {
        size_of::<Self>() + self.value.as_ref().map_or(0, String::len)
    }
}

/// What a sender's dynamic table holds, as far as it is known: the newest entries, without a hole.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    held: usize,
    /// Nothing is older than the entries.
    is_whole: bool,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max: 4096,
            held: 0,
            is_whole: true,
        }
    }

    pub(super) fn forget(&mut self) {
        // How large it may be is unknown as well: what is evicted too late is not asked for.
        *self = Self {
            max: MAX_TABLE,
            is_whole: false,
            ..Self::new()
        };
    }

    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// `None`: there can't be such an entry.
    pub(super) fn get(&self, index: usize) -> Option<Entry> {
        let index = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(index) {
            let wanted = Name::of(name.as_bytes());
            return Some(Entry {
                name: Some(wanted),
                value: (wanted != Name::Other).then(|| (*value).to_owned()),
                name_bytes: Some(name.len()),
                value_bytes: Some(value.len()),
            });
        }
        let found = self.entries.get(index - STATIC.len()).cloned();
        found.or((!self.is_whole).then_some(Entry::UNKNOWN))
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.max.saturating_sub(size));
        if size <= self.max {
            self.size += size;
            self.held += entry.held();
            self.entries.push_front(entry);
        }
    }

    pub(super) fn resize(&mut self, max: usize) {
        if max == 0 {
            // Empty for everybody: from here on all is known again.
            *self = Self {
                max: 0,
                ..Self::new()
            };
            return;
        }
        if max > MAX_TABLE {
            self.is_whole = false;
        }
        self.max = max.min(MAX_TABLE);
        self.shrink(self.max);
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to {
            let Some(oldest) = self.entries.pop_back() else {
                return;
            };
            self.size -= oldest.size();
            self.held -= oldest.held();
        }
    }
}

#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];
