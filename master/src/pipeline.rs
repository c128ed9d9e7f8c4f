//! Writes on their way to the disk, and the effects that wait for them.
//!
//! While one transaction is being made durable the loop goes on: what it wants to write next gathers for the
//! next transaction, so that one fsync pays for all that happened meanwhile, and what rests on a write
//! waits in order until that is durable. Nothing after a write runs before it, but for soft state: offers,
//! their rescission, and updates that the agent repeats until they are acknowledged. These are told at
//! once, unless their framework still waits for something that was said before.
//!
//! When the store fails, a transaction is tried again for as long as it takes. What waits is bounded: when
//! it is full, the loop takes nothing in, its queues fill up and refuse.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waggle_telemetry::{Telemetry, names};
use waggle_types::SchedulerEvent;

use crate::{
    core::{Effect, SubscriptionId},
    event_loop::chain,
    store::{MAX_OPS, Store, StoreOp, Txn},
    view::ClusterView,
};

/// Steps that may wait for the disk, and writes that may wait for a transaction.
const MAX_WAITING: usize = 65_536;
/// Waits between tries of a failed transaction, the last one again and again.
const STORE_RETRY: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Something to do once all that was to be written before it is durable.
#[derive(Debug)]
pub(crate) enum Step {
    /// An effect.
    Effect(Effect),
    /// Show this to readers.
    View(Arc<ClusterView>),
}

/// A transaction on its way: up to which write it goes, and whether it got there (not when told to stop).
struct Flight {
    up_to: u64,
    outcome: JoinHandle<bool>,
}

/// See the module.
pub(crate) struct Pipeline {
    store: Arc<dyn Store>,
    telemetry: Telemetry,
    stop: CancellationToken,
    /// Writes handed in so far; each has its number.
    written: u64,
    durable: u64,
    /// Writes that are in no transaction yet: number and operations.
    gathering: VecDeque<(u64, Vec<StoreOp>)>,
    n_gathering: usize,
    flight: Option<Flight>,
    /// With the number of the write that must be durable first; in order.
    waiting: VecDeque<(u64, Step)>,
    /// Frameworks that something waits for, and how much.
    held: BTreeMap<SubscriptionId, usize>,
}

/// Whether nothing is lost when a framework is told and the master then forgets.
fn is_soft(event: &SchedulerEvent) -> bool {
    match event {
        // Messages are lost when the master dies in any case.
        SchedulerEvent::Offers(_)
        | SchedulerEvent::Rescind(_)
        | SchedulerEvent::InverseOffer(_)
        | SchedulerEvent::RescindInverse(_)
        | SchedulerEvent::Message { .. } => true,
        SchedulerEvent::Update(status) => status.uuid.is_some(),
        SchedulerEvent::Subscribed { .. }
        | SchedulerEvent::AgentLost(_)
        | SchedulerEvent::AgentUnreachable(_)
        | SchedulerEvent::ExecutorLost { .. } => false,
    }
}

fn subscription_of(effect: &Effect) -> Option<SubscriptionId> {
    match effect {
        Effect::SendFramework { subscription, .. }
        | Effect::CloseFramework { subscription, .. } => Some(*subscription),
        _ => None,
    }
}

impl Pipeline {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        telemetry: Telemetry,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            telemetry,
            stop,
            written: 0,
            durable: 0,
            gathering: VecDeque::new(),
            n_gathering: 0,
            flight: None,
            waiting: VecDeque::new(),
            held: BTreeMap::new(),
        }
    }

    /// Takes an effect; answers it when it is to be run now.
    pub(crate) fn take(&mut self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Persist(ops) => {
                self.written += 1;
                self.n_gathering += ops.len();
                // One event's writes stay in one transaction.
                self.gathering.push_back((self.written, ops));
                None
            }
            // Signals tell what happens in memory.
            Effect::Trace(_) | Effect::Measure(_) => Some(effect),
            _ if self.is_idle() => Some(effect),
            Effect::SendFramework {
                subscription,
                ref event,
            } if is_soft(event) && !self.held.contains_key(&subscription) => Some(effect),
            _ => {
                if let Some(s) = subscription_of(&effect) {
                    *self.held.entry(s).or_default() += 1;
                }
                self.waiting.push_back((self.written, Step::Effect(effect)));
                None
            }
        }
    }

    /// Takes a view; answers it when it can be shown now.
    pub(crate) fn take_view(&mut self, view: Arc<ClusterView>) -> Option<Arc<ClusterView>> {
        if self.is_idle() {
            return Some(view);
        }
        self.waiting.push_back((self.written, Step::View(view)));
        None
    }

    /// Whether everything is durable and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.durable == self.written && self.waiting.is_empty()
    }

    /// Gives back the room that a burst took.
    pub(crate) fn shrink(&mut self) {
        self.waiting.shrink_to(2 * self.waiting.len());
        self.gathering.shrink_to(2 * self.gathering.len());
    }

    /// Whether the loop must take nothing in.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING || self.n_gathering >= MAX_WAITING
    }

    /// Sends what has gathered on its way, unless a transaction is under way.
    pub(crate) fn start(&mut self) {
        if self.flight.is_some() {
            return;
        }
        let (mut up_to, mut ops) = (self.durable, Vec::new());
        while let Some((number, more)) = self.gathering.pop_front() {
            if !ops.is_empty() && ops.len() + more.len() > MAX_OPS {
                self.gathering.push_front((number, more));
                break;
            }
            up_to = number;
            ops.extend(more);
        }
        if ops.is_empty() {
            self.durable = self.durable.max(up_to);
            return;
        }
        self.n_gathering = self.n_gathering.saturating_sub(ops.len());
        let writing = write(
            Arc::clone(&self.store),
            self.telemetry.clone(),
            ops,
            self.stop.clone(),
        );
        self.flight = Some(Flight {
            up_to,
            outcome: tokio::spawn(writing),
        });
    }

    /// Waits until the transaction that is under way is durable; for ever when there is none. False when
    /// told to stop. Safe to cancel.
    pub(crate) async fn done(&mut self) -> bool {
        let Some(flight) = &mut self.flight else {
            return std::future::pending().await;
        };
        let done = matches!((&mut flight.outcome).await, Ok(true));
        if done {
            self.durable = flight.up_to;
        }
        self.flight = None;
        done
    }

    /// The next step that waits for nothing any more.
    pub(crate) fn next(&mut self) -> Option<Step> {
        let (number, _) = self.waiting.front()?;
        if *number > self.durable {
            return None;
        }
        let (_, step) = self.waiting.pop_front()?;
        match &step {
            Step::View(_) => {}
            Step::Effect(effect) => {
                if let Some(s) = subscription_of(effect)
                    && let Some(n) = self.held.get_mut(&s)
                {
                    *n -= 1;
                    if *n == 0 {
                        self.held.remove(&s);
                    }
                }
            }
        }
        Some(step)
    }
}

/// Writes until it is durable; false when told to stop before.
async fn write(
    store: Arc<dyn Store>,
    telemetry: Telemetry,
    ops: Vec<StoreOp>,
    stop: CancellationToken,
) -> bool {
    for n_try in 0_usize.. {
        let started = Instant::now();
        let outcome = store.txn(Vec::new(), ops.clone()).await;
        let took = started.elapsed().as_secs_f64();
        let error = match outcome {
            Ok(Txn::Committed { .. }) => {
                telemetry.record(&names::SCHED_STORE_DURATION, &[], took);
                return true;
            }
            Ok(Txn::Conflict { key, .. }) => format!("conflict on {key}"),
            Err(e) => chain(&e),
        };
        let attrs = [(names::ERROR_TYPE, "store".to_owned().into())];
        telemetry.record(&names::SCHED_STORE_DURATION, &attrs, took);
        tracing::error!(n_try, error, "failed to store, trying again");
        let pause = STORE_RETRY[n_try.min(STORE_RETRY.len() - 1)];
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::{BoxFuture, FutureExt as _};
    use tokio::sync::Semaphore;
    use waggle_types::{FrameworkId, OfferId};

    use crate::{
        core::{Answer, RequestId},
        store::{Compare, Entry, StoreError},
    };

    use super::*;

    /// A store whose transactions wait for permits, and fail as often as told.
    #[derive(Debug)]
    struct Slow {
        permits: Semaphore,
        failures: Mutex<usize>,
        committed: Mutex<Vec<usize>>,
    }

    impl Slow {
        fn new(failures: usize) -> Arc<Self> {
            Arc::new(Self {
                permits: Semaphore::new(0),
                failures: Mutex::new(failures),
                committed: Mutex::default(),
            })
        }
    }

    impl Store for Slow {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
            async { Ok(None) }.boxed()
        }

        fn range<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
            async { Ok(Vec::new()) }.boxed()
        }

        fn txn(
            &self,
            _: Vec<Compare>,
            ops: Vec<StoreOp>,
        ) -> BoxFuture<'_, Result<Txn, StoreError>> {
            async move {
                self.permits.acquire().await.unwrap().forget();
                let mut failures = self.failures.lock().unwrap();
                if *failures > 0 {
                    *failures -= 1;
                    return Err(StoreError::Closed);
                }
                let mut all = self.committed.lock().unwrap();
                all.push(ops.len());
                let revision = all.len() as u64;
                Ok(Txn::Committed { revision })
            }
            .boxed()
        }
    }

    fn pipeline(store: &Arc<Slow>) -> Pipeline {
        let store: Arc<dyn Store> = Arc::<Slow>::clone(store);
        Pipeline::new(store, Telemetry::disabled(), CancellationToken::new())
    }

    fn put(n: usize) -> Effect {
        let op = |i| StoreOp::Delete {
            key: format!("{i}"),
        };
        Effect::Persist((0..n).map(op).collect())
    }

    fn reply(n: u64) -> Effect {
        Effect::Reply {
            request: RequestId(n),
            answer: Answer::Called(Ok(())),
        }
    }

    fn say(to: u64, event: SchedulerEvent) -> Effect {
        Effect::SendFramework {
            subscription: SubscriptionId(to),
            event,
        }
    }

    fn rescind() -> SchedulerEvent {
        SchedulerEvent::Rescind(OfferId::new("o").unwrap())
    }

    fn subscribed() -> SchedulerEvent {
        SchedulerEvent::Subscribed {
            framework_id: FrameworkId::new("f").unwrap(),
        }
    }

    fn replies(p: &mut Pipeline) -> Vec<u64> {
        let mut out = Vec::new();
        while let Some(step) = p.next() {
            if let Step::Effect(Effect::Reply { request, .. }) = step {
                out.push(request.0);
            }
        }
        out
    }

    #[tokio::test]
    async fn what_rests_on_a_write_waits_for_it_in_order() {
        let store = Slow::new(0);
        let mut p = pipeline(&store);
        assert!(p.take(reply(0)).is_some(), "nothing was written");
        assert!(p.take(put(1)).is_none());
        assert!(p.take(reply(1)).is_none());
        p.start();
        // Handed in while the first transaction is under way: one more pays for both.
        for n in 2..4 {
            assert!(p.take(put(n)).is_none());
            assert!(p.take(reply(n as u64)).is_none());
        }
        p.start();
        assert!(replies(&mut p).is_empty(), "nothing is durable");
        store.permits.add_permits(1);
        assert!(p.done().await);
        assert_eq!(replies(&mut p), [1]);
        p.start();
        store.permits.add_permits(1);
        assert!(p.done().await);
        assert_eq!(replies(&mut p), [2, 3]);
        assert!(p.is_idle());
        assert_eq!(*store.committed.lock().unwrap(), [1, 5]);
    }

    #[tokio::test]
    async fn a_failing_store_is_tried_again_and_lets_nothing_through() {
        let store = Slow::new(1);
        store.permits.add_permits(2);
        let mut p = pipeline(&store);
        p.take(put(1));
        p.take(reply(1));
        p.start();
        assert!(p.done().await);
        assert_eq!(replies(&mut p), [1]);
    }

    #[tokio::test]
    async fn soft_state_goes_at_once_but_overtakes_nothing_of_its_framework() {
        let store = Slow::new(0);
        let mut p = pipeline(&store);
        p.take(put(1));
        assert!(p.take(say(1, rescind())).is_some(), "soft state");
        assert!(p.take(say(2, subscribed())).is_none(), "rests on the write");
        assert!(p.take(say(2, rescind())).is_none(), "after what waits");
        assert!(p.take(say(1, rescind())).is_some(), "of another framework");
        p.start();
        store.permits.add_permits(1);
        assert!(p.done().await);
        let mut n = 0;
        while p.next().is_some() {
            n += 1;
        }
        assert_eq!(n, 2);
        assert!(p.take(say(2, rescind())).is_some());
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let store = Slow::new(0);
        let mut p = pipeline(&store);
        p.take(put(1));
        p.start();
        for n in 0..MAX_WAITING {
            assert!(!p.is_full());
            p.take(reply(n as u64));
        }
        assert!(p.is_full());
        store.permits.add_permits(1);
        assert!(p.done().await);
        assert_eq!(replies(&mut p).len(), MAX_WAITING);
        assert!(!p.is_full());
    }
}
