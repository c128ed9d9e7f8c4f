use std::{collections::VecDeque, fs};

use proptest::prelude::*;

use super::{Record, Spool, SpoolLimits};

fn limits(max_bytes: u64) -> SpoolLimits {
    SpoolLimits {
        max_bytes,
        max_age_ms: 1000,
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// So many bytes and items.
    Append(usize, u32),
    /// Hand out the next one.
    Next,
    /// It is settled.
    Settle,
    /// Time goes on.
    Pass(u64),
    /// The process dies and another one opens what is there.
    Reopen,
    /// The same, and so many bytes of the newest segment never reached the disk.
    Cut(u64),
    /// A byte of some segment is another one when the next process looks.
    Flip(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..30_000, 1u32..50).prop_map(|(n, items)| Op::Append(n, items)),
        4 => Just(Op::Next),
        4 => Just(Op::Settle),
        1 => (0u64..400).prop_map(Op::Pass),
        1 => Just(Op::Reopen),
        1 => (0u64..40_000).prop_map(Op::Cut),
        1 => (0usize..1_000_000).prop_map(Op::Flip),
    ]
}

/// A payload that says which one it is.
fn payload(n: u64, len: usize) -> Vec<u8> {
    let mut out = n.to_le_bytes().to_vec();
    out.resize(len.max(8), u8::try_from(n % 251).unwrap());
    out
}

fn number(r: &Record) -> u64 {
    u64::from_le_bytes(r.payload[..8].try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// In order, each at least once or counted as lost; nothing that was not written comes out.
    #[test]
    fn what_goes_in_comes_out_in_order_or_is_counted(
        ops in prop::collection::vec(op(), 1..120),
        max in 60_000u64..600_000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), limits(max)).unwrap();
        let (mut now, mut next, mut last, mut hand) = (10_000u64, 0u64, None, None);
        // Items that this process has to answer for.
        let (mut taken_over, mut written, mut settled, mut lost) = (0u64, 0u64, 0u64, 0u64);
        for op in ops {
            let mut reopened = false;
            match op {
                Op::Append(len, items) => {
                    spool.append(&payload(next, len), items, now).unwrap();
                    next += 1;
                    written += u64::from(items);
                }
                Op::Next => {
                    let record = spool.next(now).unwrap();
                    if let Some(r) = &record {
                        let n = number(r);
                        prop_assert!(n < next);
                        prop_assert_eq!(&r.payload, &payload(n, r.payload.len()));
                        prop_assert!(last.is_none_or(|l| l < n), "{:?} after {:?}", n, last);
                        prop_assert!(r.at + 1000 >= now);
                    }
                    hand = record;
                }
                Op::Settle => {
                    let n = spool.settle();
                    if let Some(r) = hand.take() {
                        prop_assert_eq!(n, r.items);
                        last = Some(number(&r));
                        settled += n;
                    } else {
                        prop_assert_eq!(n, 0);
                    }
                }
                Op::Pass(ms) => now += ms,
                Op::Reopen => reopened = true,
                Op::Cut(bytes) => {
                    if let Some(path) = segments(dir.path()).pop() {
                        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                        let len = file.metadata().unwrap().len();
                        file.set_len(len.saturating_sub(bytes)).unwrap();
                    }
                    reopened = true;
                }
                Op::Flip(at) => {
                    let all = segments(dir.path());
                    if !all.is_empty() {
                        let path = &all[at % all.len()];
                        let mut bytes = fs::read(path).unwrap();
                        if !bytes.is_empty() {
                            let at = at % bytes.len();
                            bytes[at] ^= 0x10;
                            fs::write(path, bytes).unwrap();
                        }
                    }
                    reopened = true;
                }
            }
            if reopened {
                spool = Spool::open(dir.path(), limits(max)).unwrap();
                hand = None;
                taken_over = spool.items();
                (written, settled, lost) = (0, 0, 0);
            }
            lost += spool.take_lost().total();
            prop_assert_eq!(taken_over + written, settled + lost + spool.items());
            prop_assert!(spool.bytes() <= max.max(30_020));
            let on_disk: u64 = segments(dir.path()).iter().map(|p| fs::metadata(p).unwrap().len()).sum();
            prop_assert!(on_disk >= spool.bytes());
        }
        // All that is left comes out.
        while let Some(r) = spool.next(now).unwrap() {
            prop_assert!(last.is_none_or(|l| l < number(&r)));
            last = Some(number(&r));
            settled += spool.settle();
        }
        lost += spool.take_lost().total();
        prop_assert_eq!(taken_over + written, settled + lost);
        prop_assert_eq!((spool.items(), spool.bytes()), (0, 0));
        prop_assert_eq!(segments(dir.path()).len(), 0);
    }
}

fn segments(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<_> = all
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    all.sort();
    all
}

#[test]
fn nothing_is_lost_by_a_process_that_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected: VecDeque<u64> = VecDeque::new();
    let mut n = 0;
    for round in 0..20u64 {
        let mut spool = Spool::open(dir.path(), limits(10 << 20)).unwrap();
        assert_eq!(spool.items(), expected.len() as u64);
        for _ in 0..10 {
            spool.append(&payload(n, 5000), 1, 5000).unwrap();
            expected.push_back(n);
            n += 1;
        }
        for _ in 0..round % 12 {
            let Some(r) = spool.next(5000).unwrap() else {
                break;
            };
            assert_eq!(Some(number(&r)), expected.pop_front());
            assert_eq!(spool.settle(), 1);
        }
        // One in hand when it dies comes again.
        let _ = spool.next(5000).unwrap();
        assert_eq!(spool.take_lost().total(), 0);
    }
}

#[test]
fn the_oldest_go_when_there_is_no_room_or_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), limits(256 << 10)).unwrap();
    for n in 0..20 {
        spool.append(&payload(n, 60_000), 2, 1000).unwrap();
    }
    let lost = spool.take_lost();
    assert_eq!((lost.full, lost.old, lost.damaged), (32, 0, 0));
    let first = spool.next(1000).unwrap().unwrap();
    assert_eq!((number(&first), first.items), (16, 2));
    // The one that is under way may be dropped meanwhile: it counts as what becomes of it.
    for n in 20..24 {
        spool.append(&payload(n, 60_000), 2, 1500).unwrap();
    }
    assert_eq!((spool.take_lost().full, spool.items()), (6, 10));
    assert_eq!((spool.settle(), spool.items()), (2, 8));
    let first = spool.next(1500).unwrap().unwrap();
    assert_eq!(number(&first), 20);
    for n in 24..28 {
        spool.append(&payload(n, 60_000), 2, 1500).unwrap();
    }
    assert_eq!((spool.take_lost().full, spool.items()), (6, 10));
    spool.give_back();
    assert_eq!((spool.take_lost().full, spool.items()), (2, 8));
    assert!(spool.next(2501).unwrap().is_none());
    assert_eq!(spool.take_lost().old, 8);
    assert_eq!(segments(dir.path()).len(), 0);
}

#[test]
fn a_damaged_record_costs_itself_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), limits(1 << 20)).unwrap();
    for n in 0..3 {
        spool.append(&payload(n, 1000), 5, 1000).unwrap();
    }
    drop(spool);
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1020 + 500] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut spool = Spool::open(dir.path(), limits(1 << 20)).unwrap();
    let mut seen = Vec::new();
    while let Some(r) = spool.next(1000).unwrap() {
        seen.push(number(&r));
        assert_eq!(spool.settle(), 5);
    }
    assert_eq!(seen, [0, 2]);
    assert_eq!(spool.take_lost().damaged, 5);
}

#[test]
fn segments_that_are_gone_or_cut_are_counted_and_passed() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), limits(1 << 20)).unwrap();
    for n in 0..3 {
        spool.append(&payload(n, 60_000), 2, 1000).unwrap();
    }
    let files = segments(dir.path());
    assert_eq!(files.len(), 3);
    fs::remove_file(&files[0]).unwrap();
    let cut = fs::OpenOptions::new().write(true).open(&files[1]).unwrap();
    cut.set_len(10).unwrap();
    assert_eq!(number(&spool.next(1000).unwrap().unwrap()), 2);
    assert_eq!((spool.take_lost().damaged, spool.items()), (4, 2));
}
