//! Cost per line and per item: `cargo bench -p waggle-telemetry-pipeline`.

#![allow(missing_docs, reason = "the macros of criterion make public items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use waggle_telemetry_pipeline::{
    Entry, IoStream, Joiner, Limits, LineSplitter, Queue, decode_entry, decode_line, line_uid,
    requests::{Direction, Guess, Options, Piece, Role, Rule, Tracer},
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

/// A request on a connection that is kept, seen by one end.
fn requests(c: &mut Criterion) {
    let ask = b"GET /cart/17/items HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello";
    let mut group = c.benchmark_group("requests");
    group.throughput(Throughput::Elements(1));
    group.bench_function("http1", |b| {
        let mut tracer = Tracer::new(Options::default());
        tracer.rule(
            1,
            Rule {
                spans_per_s: u32::MAX,
                ..Rule::default()
            },
        );
        let mut piece = Piece {
            at: READ,
            socket: 1,
            cgroup: 1,
            local: ([10, 0, 0, 1], 80).into(),
            remote: ([10, 0, 0, 2], 40_000).into(),
            direction: Direction::In,
            role: Role::Server,
            protocol: Guess::Http1,
            number: 0,
            sequence: 0,
            length: 0,
            thread: Some(7),
            vip: None,
            bytes: ask,
        };
        let mut sequences = [0_u32; 2];
        b.iter(|| {
            for (direction, bytes) in [(Direction::In, &ask[..]), (Direction::Out, answer)] {
                let at = &mut sequences[usize::from(direction == Direction::Out)];
                piece.direction = direction;
                piece.bytes = bytes;
                piece.sequence = *at;
                piece.length = u32::try_from(bytes.len()).unwrap_or(0);
                *at = at.wrapping_add(piece.length);
                tracer.piece(&piece);
            }
            piece.number = piece.number.wrapping_add(1);
            black_box(tracer.drain())
        });
    });
    group.finish();
}

criterion_group!(benches, decode, queue, requests);
criterion_main!(benches);
