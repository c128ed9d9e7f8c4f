//! The law of the queue: in = exported + held + dropped(reason), whatever happens.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use waggle_telemetry_pipeline::{Batch, DropReason, Limits, Queue};

#[derive(Debug, Clone)]
enum Op {
    Push(usize),
    Refuse(u64),
    Take(usize, usize),
    Export(u64),
    Fail,
    Requeue,
    DropAll,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0usize..60).prop_map(Op::Push),
        1 => (0u64..5).prop_map(Op::Refuse),
        3 => (0usize..6, 0usize..80).prop_map(|(n, b)| Op::Take(n, b)),
        2 => (0u64..4).prop_map(Op::Export),
        1 => Just(Op::Fail),
        1 => Just(Op::Requeue),
        1 => Just(Op::DropAll),
    ]
}

proptest! {
    #[test]
    fn books_balance(
        ops in prop::collection::vec(op(), 0..200),
        max_items in 1usize..12,
        max_bytes in 0usize..200,
    ) {
        let mut q: Queue<u64> = Queue::new(Limits { max_items, max_bytes });
        let mut in_hand: Vec<Batch<u64>> = Vec::new();
        let (mut pushed, mut next, mut exported) = (0u64, 0u64, BTreeSet::new());
        for op in ops {
            match op {
                Op::Push(bytes) => {
                    q.push(next, bytes);
                    next += 1;
                    pushed += 1;
                }
                Op::Refuse(n) => {
                    q.refuse(n, DropReason::SeriesLimit);
                    pushed += n;
                }
                Op::Take(items, bytes) => {
                    let waiting = q.queued();
                    if let Some(b) = q.take(items, bytes) {
                        prop_assert!(!b.is_empty() && b.len() <= items.max(1));
                        in_hand.push(b);
                    } else {
                        prop_assert_eq!(waiting, 0);
                    }
                }
                Op::Export(rejected) => if let Some(b) = in_hand.pop() {
                    for i in b.items() {
                        prop_assert!(exported.insert(*i), "{} was exported twice", i);
                    }
                    q.exported(b, rejected);
                },
                Op::Fail => if let Some(b) = in_hand.pop() {
                    q.failed(b, DropReason::ExportFailed);
                },
                Op::Requeue => if let Some(b) = in_hand.pop() {
                    q.requeue(b);
                },
                Op::DropAll => q.drop_queued(DropReason::Shutdown),
            }
            let c = q.counts();
            prop_assert!(c.balanced(), "{:?}", c);
            prop_assert_eq!(c.input, pushed);
            let in_flight: usize = in_hand.iter().map(Batch::len).sum();
            prop_assert_eq!(c.held, (q.queued() + in_flight) as u64);
            prop_assert!(c.held <= max_items as u64);
            prop_assert_eq!(c.dropped_total(), c.drops().map(|(_, n)| n).sum::<u64>());
        }
    }
}

#[test]
fn the_oldest_goes_first_and_what_is_in_flight_stays() {
    let mut q = Queue::new(Limits {
        max_items: 3,
        max_bytes: 1000,
    });
    for i in 0..3 {
        q.push(i, 1);
    }
    let batch = q.take(1, 100).unwrap();
    assert_eq!(batch.items().copied().collect::<Vec<_>>(), [0]);
    q.push(3, 1);
    q.requeue(batch);
    let rest = q.take(9, 100).unwrap();
    assert_eq!(rest.items().copied().collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!(q.counts().dropped(DropReason::QueueFull), 1);
    q.exported(rest, 1);
    let c = q.counts();
    assert_eq!((c.exported, c.dropped(DropReason::Rejected)), (2, 1));
}

#[test]
fn an_item_that_never_fits_is_too_large() {
    let mut q = Queue::new(Limits {
        max_items: 3,
        max_bytes: 10,
    });
    q.push('a', 5);
    q.push('b', 11);
    assert_eq!(q.queued(), 1);
    assert_eq!(q.counts().dropped(DropReason::TooLarge), 1);
}
