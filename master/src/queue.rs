//! What waits for somebody who listens to a stream.
//!
//! It is bounded in number and in bytes. Who does not read is cut off: what waited is forgotten at once and its
//! connection closed, since who does not read does not read an end either.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Events that may wait for one listener; one that falls further behind is cut off.
pub(crate) const QUEUE: usize = 32_768;
/// Bytes that may wait for one listener, to within what small strings take; the same holds.
pub(crate) const MAX_BYTES: usize = 32 << 20;

/// Something that can wait.
pub(crate) trait Weighed {
    /// As how many events it counts.
    fn weight(&self) -> usize;
    /// What it takes, in bytes.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Waiting<T> {
    events: VecDeque<T>,
    weight: usize,
    bytes: usize,
    /// Whether nothing can be queued any more, and what is said at the end.
    ended: bool,
    last_words: Option<String>,
    /// The listener knows why.
    quiet: bool,
}

/// The events of one stream.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    more: Notify,
    /// Ends the connection.
    cut: CancellationToken,
}

/// What comes next on a stream.
#[derive(Debug)]
pub(crate) enum Next<T> {
    Event(T),
    /// The end, with what is to be said before it.
    End(Option<String>),
}

impl<T: Weighed> Queue<T> {
    pub(crate) fn new(cut: CancellationToken) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                events: VecDeque::new(),
                weight: 0,
                bytes: 0,
                ended: false,
                last_words: None,
                quiet: false,
            }),
            more: Notify::new(),
            cut,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        // Nothing panics while it is held; what is in it stays whole in any case.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event; false when there is no room or the stream has ended.
    pub(crate) fn push(&self, event: T) -> bool {
        let mut w = self.waiting();
        if w.ended {
            return false;
        }
        let (weight, bytes) = (event.weight(), event.bytes());
        // One that is larger than all of it goes out when nothing else waits.
        let full = w.weight + weight > QUEUE || w.bytes + bytes > MAX_BYTES;
        if full && !w.events.is_empty() {
            w.events = VecDeque::new();
            (w.weight, w.bytes) = (0, 0);
            w.ended = true;
            drop(w);
            self.cut.cancel();
            self.more.notify_one();
            return false;
        }
        w.weight += weight;
        w.bytes += bytes;
        w.events.push_back(event);
        drop(w);
        self.more.notify_one();
        true
    }

    /// The listener itself ends its stream: no reason is said.
    pub(crate) fn hush(&self) {
        self.waiting().quiet = true;
    }

    /// Whether nothing can be queued any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.waiting().ended
    }

    /// Ends the stream after what is queued; the first reason counts.
    pub(crate) fn end(&self, why: Option<String>) {
        let mut w = self.waiting();
        if !w.ended {
            w.last_words = why.filter(|_| !w.quiet);
            w.ended = true;
        }
        drop(w);
        self.more.notify_one();
    }

    /// Waits for the next event. Nothing is lost when this is dropped before it is done.
    pub(crate) async fn next(&self) -> Next<T> {
        loop {
            {
                let mut w = self.waiting();
                if let Some(event) = w.events.pop_front() {
                    w.weight -= event.weight();
                    w.bytes -= event.bytes();
                    return Next::Event(event);
                }
                if w.ended {
                    return Next::End(w.last_words.clone());
                }
            }
            self.more.notified().await;
        }
    }
}
