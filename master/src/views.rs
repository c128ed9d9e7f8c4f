//! When a view is made, and who waits for it.
//!
//! Who reads wants to see all that has happened by then; who changed something gets its answer when reads show the
//! change. All of them wait for the next view, which is one for all: views begin [`PACE`] apart and take at most a tenth
//! of the time, however many ask. After a quiet time nobody waits.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use tokio::sync::{oneshot, watch};
use waggle_types::{Millis, UnixMillis};

use crate::{core::Effect, view::ClusterView};

/// Between the beginnings of two views that somebody waits for.
const PACE: Millis = Millis(2);
/// The same where nobody waits, but somebody read lately.
const IDLE_PACE: Millis = Millis(20);
/// Views rest for so many times as long as making one took.
const REST: u128 = 10;
/// What only time changes is shown at most so late.
const STALE: Millis = Millis(1000);
/// When nobody has asked for this long, no views are made: a view costs little, but what it shows is copied
/// when it changes next.
const IDLE: Millis = Millis(5000);
/// Readers that wait for a view; further ones are answered with the one there is.
const MAX_VIEWERS: usize = 1024;
/// Answers that wait for a view; more do not wait for the pace.
const MAX_ANSWERS: usize = 1024;
/// Views that wait for the disk; while there are as many, answers wait for one of them to be shown.
const MAX_BEHIND: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Views {
    sender: watch::Sender<Arc<ClusterView>>,
    /// When the next one is to be made, if it is only time that is missing.
    due: Option<UnixMillis>,
    last: UnixMillis,
    rest: Millis,
    /// When a reader last asked.
    asked: Option<UnixMillis>,
    /// Readers that wait for the next view.
    viewers: Vec<oneshot::Sender<()>>,
    /// Readers of views that wait for the disk, by the view's sequence.
    behind: VecDeque<(u64, Vec<oneshot::Sender<()>>)>,
    /// Answers that wait for the next view.
    answers: Vec<Effect>,
    /// Something happened that the newest view does not show.
    changed: bool,
}

impl Views {
    pub(crate) fn new(sender: watch::Sender<Arc<ClusterView>>, now: UnixMillis) -> Self {
        Self {
            sender,
            due: Some(now),
            last: now,
            rest: Millis(0),
            asked: None,
            viewers: Vec::new(),
            behind: VecDeque::new(),
            answers: Vec::new(),
            changed: false,
        }
    }

    /// When the next one is to be made; `None` while nothing, or only the disk, is waited for.
    pub(crate) fn due(&self) -> Option<UnixMillis> {
        self.due
    }

    /// Something happened that views show.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
    }

    /// A reader wants to see all that has happened by now.
    pub(crate) fn ask(&mut self, reader: oneshot::Sender<()>, now: UnixMillis) {
        self.asked = Some(now);
        let new = now.since(self.last) < STALE;
        let shown = new && !self.changed && self.behind.is_empty();
        if shown || self.viewers.len() >= MAX_VIEWERS {
            let _ = reader.send(());
            return;
        }
        self.viewers.push(reader);
    }

    /// An answer waits for the view that shows what it is about.
    pub(crate) fn hold(&mut self, answer: Effect) {
        self.changed = true;
        self.answers.push(answer);
    }

    /// Whether one is to be made now.
    pub(crate) fn is_due(&mut self, now: UnixMillis) -> bool {
        let waits = !self.viewers.is_empty() || !self.answers.is_empty();
        let lately = self.asked.is_some_and(|at| now.since(at) < IDLE);
        let room = if self.answers.is_empty() {
            self.behind.is_empty()
        } else {
            self.behind.len() < MAX_BEHIND
        };
        if !room || !(waits || self.changed && lately) {
            self.due = None;
            return false;
        }
        let pace = if waits { PACE } else { IDLE_PACE };
        let due = self.last + pace.max(self.rest);
        self.due = Some(due.max(now));
        due <= now || self.answers.len() >= MAX_ANSWERS
    }

    /// One has been made, which took so long; it is shown once all of it is durable. Answers what may be said after that.
    pub(crate) fn made(&mut self, sequence: u64, now: UnixMillis, took: Duration) -> Vec<Effect> {
        let rest = took.as_micros().saturating_mul(REST).div_ceil(1000);
        self.rest = Millis(u64::try_from(rest).unwrap_or(u64::MAX));
        (self.due, self.last, self.changed) = (None, now, false);
        self.behind
            .push_back((sequence, mem::take(&mut self.viewers)));
        mem::take(&mut self.answers)
    }

    /// Shows a view, all of which is durable.
    pub(crate) fn show(&mut self, view: Arc<ClusterView>) {
        let sequence = view.sequence;
        // Without a reader the newest view is kept all the same.
        self.sender.send_replace(view);
        while self.behind.front().is_some_and(|(s, _)| *s <= sequence) {
            let readers = self.behind.pop_front().map(|(_, r)| r);
            for reader in readers.into_iter().flatten() {
                let _ = reader.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Answer, RequestId};

    struct Made {
        views: Views,
        now: UnixMillis,
        n: u64,
        took: Duration,
    }

    impl Made {
        fn new() -> Self {
            let (sender, _) = watch::channel(Arc::new(ClusterView::default()));
            let now = UnixMillis(1_000_000);
            Self {
                views: Views::new(sender, now),
                now,
                n: 0,
                took: Duration::from_micros(100),
            }
        }

        fn ask(&mut self) -> oneshot::Receiver<()> {
            let (tx, rx) = oneshot::channel();
            self.views.ask(tx, self.now);
            rx
        }

        fn hold(&mut self) {
            self.views.hold(Effect::Reply {
                request: RequestId(self.n),
                answer: Answer::Done(Ok(())),
            });
        }

        /// Makes one if it is due, and shows it unless told not to; answers the answers that may go.
        fn turn(&mut self, show: bool) -> usize {
            if !self.views.is_due(self.now) {
                return 0;
            }
            self.n += 1;
            let answers = self.views.made(self.n, self.now, self.took);
            if show {
                self.show(self.n);
            }
            answers.len()
        }

        fn show(&mut self, sequence: u64) {
            self.views.show(Arc::new(ClusterView {
                sequence,
                ..ClusterView::default()
            }));
        }

        fn wait(&mut self, ms: u64) {
            self.now = self.now + Millis(ms);
        }
    }

    #[test]
    fn all_who_wait_share_one_view() {
        let mut m = Made::new();
        m.wait(100);
        let mut readers = Vec::new();
        for _ in 0..50 {
            m.hold();
            readers.push(m.ask());
        }
        assert_eq!(m.turn(true), 50);
        assert_eq!(m.n, 1);
        assert!(readers.iter_mut().all(|r| r.try_recv() == Ok(())));
        // Nothing has happened: the view that is there does.
        assert_eq!(m.ask().try_recv(), Ok(()));
        assert_eq!(m.turn(true), 0);
        assert_eq!(m.n, 1);
    }

    #[test]
    fn a_flood_of_changes_and_reads_makes_no_flood_of_views() {
        let mut m = Made::new();
        m.took = Duration::from_millis(3);
        let mut said = 0;
        for _ in 0..900 {
            m.wait(1);
            m.hold();
            let _reader = m.ask();
            said += m.turn(true);
        }
        // The first after 2 ms, when nobody knew how long one takes, then one in 30 ms.
        assert_eq!(m.n, 30, "a tenth of the time");
        m.wait(30);
        assert_eq!(said + m.turn(true), 900, "every answer once");
    }

    #[test]
    fn whoever_asks_while_one_waits_for_the_disk_waits_for_the_next() {
        let mut m = Made::new();
        m.wait(10);
        m.hold();
        assert_eq!(m.turn(false), 1);
        let mut late = m.ask();
        m.wait(10);
        assert_eq!(m.turn(false), 0, "one is on its way");
        assert_eq!(m.views.due(), None, "time alone does not help");
        m.show(1);
        assert!(late.try_recv().is_err(), "it may not show what was asked");
        assert_eq!(m.turn(true), 0);
        assert_eq!((m.n, late.try_recv()), (2, Ok(())));
    }

    #[test]
    fn answers_do_not_wait_for_the_disk_of_others_but_are_bounded() {
        let mut m = Made::new();
        for _ in 0..20 {
            m.wait(10);
            m.hold();
            m.turn(false);
        }
        assert_eq!(m.n, MAX_BEHIND as u64);
        m.show(1);
        assert_eq!(m.turn(false), 20 - MAX_BEHIND);
        for _ in 0..MAX_ANSWERS {
            m.hold();
        }
        m.show(m.n);
        assert_eq!(m.turn(true), MAX_ANSWERS, "so many do not wait");
    }

    #[test]
    fn nobody_reads_and_none_is_made() {
        let mut m = Made::new();
        let _reader = m.ask();
        m.views.touch();
        m.wait(20);
        m.turn(true);
        m.views.touch();
        m.wait(10);
        assert_eq!((m.turn(true), m.n), (0, 1), "slower, as nobody waits");
        m.wait(10);
        assert_eq!((m.turn(true), m.n), (0, 2), "somebody read lately");
        m.wait(IDLE.0);
        m.views.touch();
        assert_eq!((m.turn(true), m.n), (0, 2));
        assert_eq!(m.views.due(), None);
    }
}
