//! Cost per line and per item: `cargo bench -p waggle-telemetry-pipeline`.

#![allow(missing_docs, reason = "the macros of criterion make public items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use waggle_telemetry_pipeline::{
    Entry, IoStream, Joiner, Limits, LineSplitter, Queue, decode_entry, decode_line, line_uid,
};

const READ: u64 = 1_795_407_292_000_000_000;

fn decode(c: &mut Criterion) {
    let corpus = include_str!("../../../tests/fixtures/logs/lines.txt");
    let lines: Vec<&[u8]> = corpus.lines().map(str::as_bytes).collect();
    let mut group = c.benchmark_group("lines");
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function("decode", |b| {
        b.iter(|| {
            for line in &lines {
                black_box(decode_line(line, IoStream::Stdout, READ));
            }
        });
    });
    group.bench_function("split", |b| {
        b.iter(|| black_box(LineSplitter::default().push(corpus.as_bytes())));
    });
    group.finish();

    // All that a line costs before it is queued: what a node can take, in lines and in bytes.
    let stacks = include_str!("../../../tests/fixtures/logs/stacks.txt");
    let text = format!("{corpus}\n{stacks}\n");
    let mut group = c.benchmark_group("whole");
    for (name, throughput) in [
        ("lines", Throughput::Elements(text.lines().count() as u64)),
        ("bytes", Throughput::Bytes(text.len() as u64)),
    ] {
        group.throughput(throughput);
        group.bench_function(name, |b| b.iter(|| black_box(whole(text.as_bytes()))));
    }
    group.finish();
}

/// From bytes to records with their ids.
fn whole(text: &[u8]) -> usize {
    let (mut splitter, mut joiner) = (LineSplitter::default(), Joiner::default());
    let mut n = 0;
    let mut take = |entry: Entry| {
        let mut record = decode_entry(&entry, IoStream::Stdout, READ);
        record.uid = Some(line_uid("web.1", "stdout", entry.start_offset, READ));
        n += black_box(record).attrs.len();
    };
    for chunk in text.chunks(64 << 10) {
        for line in splitter.push(chunk) {
            joiner.push(line).into_iter().for_each(&mut take);
        }
    }
    joiner.flush().into_iter().for_each(&mut take);
    n
}

fn queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("push_take_export", |b| {
        let mut q = Queue::new(Limits {
            max_items: 512,
            max_bytes: 1 << 20,
        });
        b.iter(|| {
            for i in 0..1000u64 {
                q.push(i, 100);
            }
            while let Some(batch) = q.take(128, 1 << 16) {
                q.exported(batch, 0);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode, queue);
criterion_main!(benches);
