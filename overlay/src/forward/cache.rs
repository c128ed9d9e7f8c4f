//! What upstreams said, for as long as it is good, in a bounded space.
//!
//! Split into parts with a lock each. When a part is full the oldest entry goes that was not asked for since
//! it was last passed over; that is counted.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use waggle_overlay_plan::wire::{Limits, Query, Scan, Written};

const N_PARTS: usize = 16;
/// TTL of an answer whose time is over (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// After upstreams failed, an old answer is given at once for so long (RFC 8767 section 5).
const FAILURE_RECHECK: Duration = Duration::from_secs(30);
/// What an entry takes beside its bytes, roughly.
const OVERHEAD: usize = 200;

/// How much is kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// Most answers; 0 keeps none.
    pub max_entries: usize,
    /// Most bytes of answers.
    pub max_bytes: usize,
    /// Longest time, whatever an answer says.
    pub max_ttl: Duration,
    /// The same for negative answers (RFC 2308 section 5: one to three hours are sensible at most).
    pub max_negative_ttl: Duration,
    /// How long after its time an answer may be given when upstreams do not answer (RFC 8767); none never.
    pub stale: Option<Duration>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            max_entries: 10_000,
            max_bytes: 16 << 20,
            max_ttl: Duration::from_hours(24),
            max_negative_ttl: Duration::from_hours(1),
            stale: None,
        }
    }
}

/// What became of the cache since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounters {
    /// Questions that were answered from it.
    pub hits: u64,
    /// Questions that were not.
    pub misses: u64,
    /// Answers that were dropped before their time, for others.
    pub evictions: u64,
    /// Answers that are kept now.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

/// A question as the cache knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    /// Letter case is the asker's own affair; the flags change what upstreams say.
    pub(crate) fn new(query: &Query<'_>) -> Self {
        let mut bytes = Vec::with_capacity(query.question.len() + 1);
        bytes.extend_from_slice(query.question);
        // Type and class are numbers: only the name has letters.
        let name = query.name_wire().len();
        bytes[..name].make_ascii_lowercase();
        let dnssec_ok = query.edns.is_some_and(|e| e.dnssec_ok);
        bytes.push(
            u8::from(dnssec_ok)
                | u8::from(query.checking_disabled) << 1
                | u8::from(query.recursion) << 2,
        );
        Self(bytes.into())
    }

    fn part(&self) -> usize {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        // The remainder is below the number of parts.
        usize::try_from(hasher.finish() % N_PARTS as u64).unwrap_or(0)
    }
}

#[derive(Debug)]
struct Entry {
    scan: Arc<Scan>,
    stored: Instant,
    ttl: Duration,
    /// When upstreams last failed to renew it.
    failed: Option<Instant>,
    /// Asked for since it was last passed over.
    used: bool,
}

/// An answer out of the cache.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    scan: Arc<Scan>,
    age: u32,
    is_stale: bool,
    max_ttl: u32,
}

impl Hit {
    /// A fresh answer, as it came.
    pub(crate) fn new(scan: Arc<Scan>) -> Self {
        Self {
            scan,
            age: 0,
            is_stale: false,
            max_ttl: u32::MAX,
        }
    }

    /// Appends it as the answer to `query`.
    pub(crate) fn write(&self, query: &Query<'_>, limits: Limits, out: &mut Vec<u8>) -> Written {
        let change = |ttl: u32| {
            if self.is_stale {
                STALE_TTL
            } else {
                ttl.min(self.max_ttl).saturating_sub(self.age)
            }
        };
        self.scan.write(query, limits, change, out)
    }
}

#[derive(Debug, Default)]
struct Part {
    entries: HashMap<Key, Entry>,
    /// Each key once, in the order of their coming or being passed over.
    order: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Cache {
    config: CacheConfig,
    parts: [Mutex<Part>; N_PARTS],
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

impl Cache {
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self {
            config,
            parts: std::array::from_fn(|_| Mutex::default()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    fn with<T>(&self, key: &Key, f: impl FnOnce(&mut Part) -> T) -> T {
        let part = &self.parts[key.part()];
        f(&mut part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is good at `now`: also an old answer, for a while after upstreams failed to renew it.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Hit> {
        let hit = self.with(key, |part| {
            let entry = part.entries.get_mut(key)?;
            let age = now.saturating_duration_since(entry.stored);
            let failed = |at: Instant| now.saturating_duration_since(at) < FAILURE_RECHECK;
            let is_stale = age >= entry.ttl;
            if is_stale && !(entry.failed.is_some_and(failed) && self.may_be_stale(entry, age)) {
                return None;
            }
            entry.used = true;
            Some(self.hit(entry, age, is_stale))
        });
        let counter = if hit.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        hit
    }

    /// An answer whose time is over but that may be given when nothing better is to be had.
    pub(crate) fn stale(&self, key: &Key, now: Instant) -> Option<Hit> {
        self.with(key, |part| {
            let entry = part.entries.get(key)?;
            let age = now.saturating_duration_since(entry.stored);
            self.may_be_stale(entry, age)
                .then(|| self.hit(entry, age, age >= entry.ttl))
        })
    }

    /// Whether an answer is kept, and for how many more seconds it is good.
    pub(crate) fn peek(&self, key: &Key, now: Instant) -> Option<u64> {
        self.with(key, |part| {
            let entry = part.entries.get(key)?;
            let age = now.saturating_duration_since(entry.stored);
            entry.ttl.checked_sub(age).map(|left| left.as_secs())
        })
    }

    fn may_be_stale(&self, entry: &Entry, age: Duration) -> bool {
        self.config.stale.is_some_and(|s| age < entry.ttl + s)
    }

    fn hit(&self, entry: &Entry, age: Duration, is_stale: bool) -> Hit {
        let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
        Hit {
            scan: Arc::clone(&entry.scan),
            age: seconds(age),
            is_stale,
            max_ttl: seconds(self.config.max_ttl),
        }
    }

    /// Remembers that upstreams did not renew it.
    pub(crate) fn failed(&self, key: &Key, now: Instant) {
        self.with(key, |part| {
            if let Some(entry) = part.entries.get_mut(key) {
                entry.failed = Some(now);
            }
        });
    }

    /// Keeps an answer, if it may be.
    pub(crate) fn put(&self, key: Key, scan: Arc<Scan>, now: Instant) {
        let Some(ttl) = scan.ttl.filter(|ttl| *ttl > 0) else {
            return;
        };
        let most = if scan.is_negative() {
            self.config.max_negative_ttl.min(self.config.max_ttl)
        } else {
            self.config.max_ttl
        };
        let entry = Entry {
            ttl: Duration::from_secs(ttl.into()).min(most),
            scan,
            stored: now,
            failed: None,
            used: false,
        };
        let max_entries = self.config.max_entries / N_PARTS;
        let max_bytes = self.config.max_bytes / N_PARTS;
        self.with(&key.clone(), |part| {
            part.bytes += cost(&key, &entry);
            if let Some(old) = part.entries.insert(key.clone(), entry) {
                part.bytes -= cost(&key, &old);
            } else {
                part.order.push_back(key);
            }
            while part.entries.len() > max_entries || part.bytes > max_bytes {
                let Some(key) = part.order.pop_front() else {
                    break;
                };
                match part.entries.get_mut(&key) {
                    Some(entry) if entry.used => {
                        entry.used = false;
                        part.order.push_back(key);
                    }
                    _ => {
                        if let Some(old) = part.entries.remove(&key) {
                            part.bytes -= cost(&key, &old);
                            if now.saturating_duration_since(old.stored) < old.ttl {
                                self.evictions.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                }
            }
        });
    }

    pub(crate) fn counters(&self) -> CacheCounters {
        let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let mut out = CacheCounters {
            hits: n(&self.hits),
            misses: n(&self.misses),
            evictions: n(&self.evictions),
            ..CacheCounters::default()
        };
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            out.entries += part.entries.len() as u64;
            out.bytes += part.bytes as u64;
        }
        out
    }
}

/// Key twice: in the map and in the order.
fn cost(key: &Key, entry: &Entry) -> usize {
    2 * key.0.len() + entry.scan.len() + OVERHEAD
}
