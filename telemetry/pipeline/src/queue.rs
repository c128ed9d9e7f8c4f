//! A bounded queue that accounts for every item: in = exported + held + dropped(reason).

use std::{collections::VecDeque, fmt};

/// Why an item was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The queue was full; the oldest items go first.
    QueueFull,
    /// One item is larger than the whole queue or batch may be.
    TooLarge,
    /// The endpoint answered `partial_success` with rejected items, or refused the batch for good.
    Rejected,
    /// Export kept failing in a way that a retry does not mend.
    ExportFailed,
    /// The process ended before it could be delivered.
    Shutdown,
    /// The series limit was reached.
    SeriesLimit,
    /// It breaks the metric registry: wrong kind or an attribute that is not listed.
    Unregistered,
    /// The spool was full, or its disk was; the oldest items go first.
    SpoolFull,
    /// It waited in the spool for longer than anything may.
    TooOld,
    /// What the spool has of it is not what was written.
    Damaged,
    /// The spool could not be written.
    SpoolFailed,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 11] = [
        Self::QueueFull,
        Self::TooLarge,
        Self::Rejected,
        Self::ExportFailed,
        Self::Shutdown,
        Self::SeriesLimit,
        Self::Unregistered,
        Self::SpoolFull,
        Self::TooOld,
        Self::Damaged,
        Self::SpoolFailed,
    ];

    /// Value of the exported attribute.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::ExportFailed => "export_failed",
            Self::Shutdown => "shutdown",
            Self::SeriesLimit => "series_limit",
            Self::Unregistered => "unregistered",
            Self::SpoolFull => "spool_full",
            Self::TooOld => "too_old",
            Self::Damaged => "damaged",
            Self::SpoolFailed => "spool_failed",
        }
    }

    const fn idx(self) -> usize {
        match self {
            Self::QueueFull => 0,
            Self::TooLarge => 1,
            Self::Rejected => 2,
            Self::ExportFailed => 3,
            Self::Shutdown => 4,
            Self::SeriesLimit => 5,
            Self::Unregistered => 6,
            Self::SpoolFull => 7,
            Self::TooOld => 8,
            Self::Damaged => 9,
            Self::SpoolFailed => 10,
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most items, those in flight included.
    pub max_items: usize,
    /// Most bytes (as the pusher estimates them), those in flight included.
    pub max_bytes: usize,
}

/// A queue's books at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Items ever handed in.
    pub input: u64,
    /// Items that the endpoint took.
    pub exported: u64,
    /// Items queued, in flight or in the spool.
    pub held: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counts {
    /// Items dropped for a reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason.idx()]
    }

    /// Items dropped, for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Reasons that occurred and how often.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .map(|r| (r, self.dropped(r)))
            .filter(|(_, n)| *n > 0)
    }

    /// Both books as one.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.input += other.input;
        self.exported += other.exported;
        self.held += other.held;
        for (sum, n) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += n;
        }
        self
    }

    /// The law: in = exported + held + dropped.
    pub fn balanced(&self) -> bool {
        self.input == self.exported + self.held + self.dropped_total()
    }
}

/// Items taken out for export and not yet settled. Hand it back to the queue it came from by
/// [`Queue::exported`], [`Queue::failed`] or [`Queue::requeue`]: until then its items are held.
#[derive(Debug)]
#[must_use = "a batch that is not settled stays in the books as held"]
pub struct Batch<T> {
    items: Vec<(T, usize)>,
}

impl<T> Batch<T> {
    /// The items, oldest first.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(t, _)| t)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none; [`Queue::take`] never returns such a batch.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn bytes(&self) -> usize {
        self.items.iter().map(|(_, b)| b).sum()
    }
}

/// The queue. When full, the oldest *queued* items are dropped (never those in flight).
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    items: VecDeque<(T, usize)>,
    queued_bytes: usize,
    in_flight_items: usize,
    in_flight_bytes: usize,
    /// Items that left the queue for the spool and are not settled.
    spooled: u64,
    counts: Counts,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            items: VecDeque::new(),
            queued_bytes: 0,
            in_flight_items: 0,
            in_flight_bytes: 0,
            spooled: 0,
            counts: Counts::default(),
        }
    }

    /// Hands an item of about `bytes` in; makes room by dropping the oldest.
    pub fn push(&mut self, item: T, bytes: usize) {
        self.counts.input += 1;
        if bytes > self.limits.max_bytes {
            self.drop_n(DropReason::TooLarge, 1);
        } else if self.make_room(bytes) {
            self.items.push_back((item, bytes));
            self.queued_bytes += bytes;
        } else {
            self.drop_n(DropReason::QueueFull, 1);
        }
        self.update_held();
    }

    /// Books items that were lost before they reached the queue.
    pub fn refuse(&mut self, n: u64, reason: DropReason) {
        self.counts.input += n;
        self.drop_n(reason, n);
    }

    /// Takes the oldest items out, at least one when there are any.
    pub fn take(&mut self, max_items: usize, max_bytes: usize) -> Option<Batch<T>> {
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < max_items.max(1) {
            match self.items.front() {
                Some((_, b)) if items.is_empty() || bytes + b <= max_bytes => {}
                _ => break,
            }
            let Some(item) = self.items.pop_front() else {
                break;
            };
            bytes += item.1;
            items.push(item);
        }
        if items.is_empty() {
            return None;
        }
        self.queued_bytes -= bytes;
        self.in_flight_items += items.len();
        self.in_flight_bytes += bytes;
        self.update_held();
        Some(Batch { items })
    }

    /// The endpoint took the batch but for `rejected` items (never more than it holds).
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a settled batch must not be settled twice"
    )]
    pub fn exported(&mut self, batch: Batch<T>, rejected: u64) {
        let n = batch.len() as u64;
        let rejected = rejected.min(n);
        self.land(&batch);
        self.counts.exported += n - rejected;
        self.drop_n(DropReason::Rejected, rejected);
        self.update_held();
    }

    /// The batch is lost.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a settled batch must not be settled twice"
    )]
    pub fn failed(&mut self, batch: Batch<T>, reason: DropReason) {
        self.land(&batch);
        self.drop_n(reason, batch.len() as u64);
        self.update_held();
    }

    /// The batch is in the spool: its items stay held until [`Queue::unspooled`] or [`Queue::lost`] settles them.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a settled batch must not be settled twice"
    )]
    pub fn spooled(&mut self, batch: Batch<T>) {
        self.land(&batch);
        self.spooled += batch.len() as u64;
        self.update_held();
    }

    /// Items that a process before this one left in the spool: they are handed in again.
    pub fn found(&mut self, n: u64) {
        self.counts.input += n;
        self.spooled += n;
        self.update_held();
    }

    /// The endpoint took items of the spool but for `rejected` of them.
    pub fn unspooled(&mut self, n: u64, rejected: u64) {
        let n = n.min(self.spooled);
        let rejected = rejected.min(n);
        self.spooled -= n;
        self.counts.exported += n - rejected;
        self.drop_n(DropReason::Rejected, rejected);
        self.update_held();
    }

    /// Items of the spool are lost.
    pub fn lost(&mut self, n: u64, reason: DropReason) {
        let n = n.min(self.spooled);
        self.spooled -= n;
        self.drop_n(reason, n);
        self.update_held();
    }

    /// The batch goes back to the front, in order, to be tried again.
    pub fn requeue(&mut self, batch: Batch<T>) {
        self.land(&batch);
        self.queued_bytes += batch.bytes();
        for item in batch.items.into_iter().rev() {
            self.items.push_front(item);
        }
        self.update_held();
    }

    /// Drops all that is queued (not what is in flight).
    pub fn drop_queued(&mut self, reason: DropReason) {
        let n = self.items.len() as u64;
        self.items.clear();
        self.queued_bytes = 0;
        self.drop_n(reason, n);
        self.update_held();
    }

    /// The books.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Items waiting, without those in flight.
    pub fn queued(&self) -> usize {
        self.items.len()
    }

    /// Items and bytes that fit until half of it is taken: what others hand in finds room in the other half.
    pub fn half_room(&self) -> Limits {
        let left = |most: usize, taken: usize| (most / 2).saturating_sub(taken);
        Limits {
            max_items: left(
                self.limits.max_items,
                self.items.len() + self.in_flight_items,
            ),
            max_bytes: left(
                self.limits.max_bytes,
                self.queued_bytes + self.in_flight_bytes,
            ),
        }
    }

    /// Bytes that it holds, those in flight included.
    pub const fn bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes
    }

    /// The limits it was made with.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Drops the oldest until one more item fits; `false` when all room is taken by what is in flight.
    fn make_room(&mut self, bytes: usize) -> bool {
        while self.items.len() + self.in_flight_items >= self.limits.max_items
            || self.queued_bytes + self.in_flight_bytes + bytes > self.limits.max_bytes
        {
            let Some((_, oldest)) = self.items.pop_front() else {
                return false;
            };
            self.queued_bytes -= oldest;
            self.drop_n(DropReason::QueueFull, 1);
        }
        true
    }

    fn land(&mut self, batch: &Batch<T>) {
        self.in_flight_items -= batch.len();
        self.in_flight_bytes -= batch.bytes();
    }

    fn drop_n(&mut self, reason: DropReason, n: u64) {
        self.counts.dropped[reason.idx()] += n;
    }

    /// The end of every operation: the law holds again.
    fn update_held(&mut self) {
        let in_memory = (self.items.len() + self.in_flight_items) as u64;
        self.counts.held = in_memory + self.spooled;
        debug_assert!(self.counts.balanced(), "{:?}", self.counts);
    }
}
