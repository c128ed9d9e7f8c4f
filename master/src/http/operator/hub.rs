//! Who listens to the operator stream, and where who comes begins.
//!
//! All of a cluster takes long to write, and a thousand may come at once: what was written for one is where those begin
//! who come soon after, with what has been said since. It is written anew when what was said since takes more than it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::OnceCell;
use waggle_api::mesos::Media;

use crate::{framework::Queued, queue::Queue, view::ClusterView};

/// Most subscribers (Mesos's default of `--max_operator_event_stream_subscribers`).
pub(super) const MAX_SUBSCRIBERS: usize = 1000;
/// Most bytes that are kept of what is said while all of the cluster is still being written.
const MAX_UNWRITTEN: usize = 1 << 20;

/// All of the cluster at a moment, for all who begin there.
#[derive(Debug, Clone)]
pub(super) struct Start {
    /// The moment.
    pub view: Arc<ClusterView>,
    /// How it is said, written by the first who needs it.
    pub record: Arc<OnceCell<Bytes>>,
}

/// Where one who comes begins.
#[derive(Debug)]
pub(super) struct Begin {
    /// What comes first.
    pub start: Start,
    /// What has been said since; what is said from now on is queued.
    pub since: Vec<Bytes>,
    /// Nobody else listens: changes are to be looked for from now on.
    pub is_first: bool,
}

#[derive(Debug)]
struct Shared {
    media: Media,
    start: Start,
    since: Vec<Bytes>,
    bytes: usize,
}

impl Shared {
    /// Notes what is said; false when that is more than the whole.
    fn note(&mut self, record: &Bytes) -> bool {
        self.bytes += record.len();
        self.since.push(record.clone());
        let whole = self.start.record.get();
        self.bytes <= whole.map_or(MAX_UNWRITTEN, Bytes::len)
    }
}

#[derive(Debug, Default)]
struct Listeners {
    /// What has been said, while somebody listens.
    last: Option<Arc<ClusterView>>,
    queues: Vec<(Media, Arc<Queue<Queued>>)>,
    /// One for each form that somebody reads, at most.
    shared: Vec<Shared>,
}

/// All who listen. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Hub(Arc<Mutex<Listeners>>);

impl Hub {
    fn locked(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a listener and answers where it begins; `None` when there are too many. `now` is asked when nobody listens.
    pub(super) fn join(
        &self,
        media: Media,
        queue: Arc<Queue<Queued>>,
        now: impl FnOnce() -> Arc<ClusterView>,
    ) -> Option<Begin> {
        let mut all = self.locked();
        all.queues.retain(|(_, q)| !q.has_ended());
        if all.queues.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        all.queues.push((media, queue));
        let is_first = all.last.is_none();
        let last = Arc::clone(all.last.get_or_insert_with(now));
        if let Some(shared) = all.shared.iter().find(|s| s.media == media) {
            return Some(Begin {
                start: shared.start.clone(),
                since: shared.since.clone(),
                is_first,
            });
        }
        let start = Start {
            view: last,
            record: Arc::default(),
        };
        all.shared.push(Shared {
            media,
            start: start.clone(),
            since: Vec::new(),
            bytes: 0,
        });
        Some(Begin {
            start,
            since: Vec::new(),
            is_first,
        })
    }

    /// Says what has changed; none when nobody listens any more, else how many were cut off for not reading.
    pub(super) fn say(
        &self,
        new: &Arc<ClusterView>,
        changes: impl FnOnce(&ClusterView, &ClusterView) -> Vec<Value>,
        write: impl Fn(Media, &Value) -> Bytes,
    ) -> Option<u64> {
        let mut all = self.locked();
        let Listeners {
            last,
            queues,
            shared,
        } = &mut *all;
        queues.retain(|(_, q)| !q.has_ended());
        // What nobody reads is not written, so nobody can begin before it.
        shared.retain(|s| queues.iter().any(|(media, _)| *media == s.media));
        if queues.is_empty() {
            *last = None;
            return None;
        }
        let n = queues.len();
        if let Some(last) = last.replace(Arc::clone(new)) {
            for event in changes(&last, new) {
                // Once for all who read it so.
                let (mut json, mut protobuf) = (None, None);
                let mut record = |media: Media| -> Bytes {
                    let record = match media {
                        Media::Json => &mut json,
                        Media::Protobuf => &mut protobuf,
                    };
                    record.get_or_insert_with(|| write(media, &event)).clone()
                };
                shared.retain_mut(|s| s.note(&record(s.media)));
                // One that has no room is cut off by its queue.
                queues.retain(|(media, q)| q.push(Queued::Record(record(*media))));
            }
        }
        Some((n - queues.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::queue::Next;

    const EVENT: usize = 100;

    /// Changes are told as numbers, each of so many bytes.
    fn say(hub: &Hub, n: usize) -> Option<u64> {
        let write = |_: Media, v: &Value| {
            let mut out = v.to_string().into_bytes();
            out.resize(EVENT, b' ');
            Bytes::from(out)
        };
        hub.say(&Arc::default(), |_, _| vec![json!(n)], write)
    }

    fn join(hub: &Hub, media: Media) -> (Begin, Arc<Queue<Queued>>) {
        let queue = Arc::new(Queue::new(CancellationToken::new()));
        let begin = hub.join(media, Arc::clone(&queue), Arc::default);
        (begin.unwrap(), queue)
    }

    fn numbers(records: impl IntoIterator<Item = Bytes>) -> Vec<usize> {
        let each = records.into_iter();
        each.map(|r| std::str::from_utf8(&r).unwrap().trim().parse().unwrap())
            .collect()
    }

    /// All that one has heard after its beginning.
    async fn heard(begin: &Begin, queue: &Queue<Queued>) -> Vec<usize> {
        queue.end(None);
        let mut all = begin.since.clone();
        while let Next::Event(Queued::Record(r)) = queue.next().await {
            all.push(r);
        }
        numbers(all)
    }

    #[tokio::test]
    async fn who_comes_soon_after_begins_where_others_did_and_misses_nothing() {
        let hub = Hub::default();
        assert_eq!(say(&hub, 0), None, "nobody listens");
        let (a, of_a) = join(&hub, Media::Json);
        assert!(a.is_first);
        a.start.record.set(vec![b'x'; 5 * EVENT].into()).unwrap();
        for n in 1..=5 {
            assert_eq!(say(&hub, n), Some(0));
        }
        let (b, of_b) = join(&hub, Media::Json);
        assert!(!b.is_first && Arc::ptr_eq(&a.start.record, &b.start.record));
        // Another form begins by itself.
        let (c, of_c) = join(&hub, Media::Protobuf);
        assert!(!Arc::ptr_eq(&a.start.record, &c.start.record));
        // More than the whole takes: it is written anew for the next.
        say(&hub, 6);
        let (d, of_d) = join(&hub, Media::Json);
        assert!(!Arc::ptr_eq(&a.start.record, &d.start.record));
        assert!(Arc::ptr_eq(
            &d.start.view,
            hub.locked().last.as_ref().unwrap()
        ));
        say(&hub, 7);
        assert_eq!(heard(&a, &of_a).await, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(heard(&b, &of_b).await, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(heard(&c, &of_c).await, [6, 7]);
        assert_eq!(heard(&d, &of_d).await, [7]);
        assert_eq!(say(&hub, 8), None);
        assert!(hub.locked().shared.is_empty() && hub.locked().last.is_none());
    }

    #[test]
    fn what_is_kept_for_who_comes_is_bounded() {
        let hub = Hub::default();
        let (a, _queue) = join(&hub, Media::Json);
        let (_other, reads_protobuf) = join(&hub, Media::Protobuf);
        for n in 0..MAX_UNWRITTEN / EVENT {
            say(&hub, n);
        }
        let (b, _queue) = join(&hub, Media::Json);
        assert!(Arc::ptr_eq(&a.start.record, &b.start.record));
        say(&hub, 0);
        let (c, _queue) = join(&hub, Media::Json);
        assert!(c.since.is_empty(), "and it was never written");
        // Nobody reads it so any more.
        reads_protobuf.end(None);
        say(&hub, 0);
        let kept = hub
            .locked()
            .shared
            .iter()
            .map(|s| s.media)
            .collect::<Vec<_>>();
        assert_eq!(kept, [Media::Json]);
    }

    #[test]
    fn listeners_are_bounded() {
        let hub = Hub::default();
        let all: Vec<_> = (0..MAX_SUBSCRIBERS)
            .map(|_| join(&hub, Media::Json))
            .collect();
        let more = || Arc::new(Queue::new(CancellationToken::new()));
        assert!(hub.join(Media::Json, more(), Arc::default).is_none());
        all[7].1.end(None);
        assert!(hub.join(Media::Json, more(), Arc::default).is_some());
    }
}
