//! Table, diff, lowering and zone of 10,000 services with 3 tasks each, on 200 agents: what one change costs.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use waggle_overlay_plan::{
    LocalFacts, Lowering, LoweringConfig, Plan, Question, RType, diff, table, zone,
};
use waggle_types::UnixMillis;

#[path = "sample/snapshot.rs"]
mod sample;
use sample::snapshot;

fn plan(c: &mut Criterion) {
    let before = snapshot(10_000);
    let mut after = before.clone();
    after.tasks.remove("service5000.1");
    let local = LocalFacts::new();
    let (old, new) = (table(&before, &local), table(&after, &local));

    c.bench_function("table, 10k services", |b| {
        b.iter(|| table(black_box(&before), &local));
    });
    c.bench_function(
        "one change of a kept plan and its writes, 10k services",
        |b| {
            let mut plan = Plan::new(None);
            plan.replace(&before);
            let mut lowering = Lowering::new(LoweringConfig::default());
            lowering.converge(plan.table(), UnixMillis(0));
            let (away, back) = (before.delta_to(&after), after.delta_to(&before));
            let mut now = 0;
            b.iter(|| {
                now += 2_000;
                let there = lowering.lower(&plan.change(black_box(&away)), UnixMillis(now));
                let back = lowering.lower(&plan.change(black_box(&back)), UnixMillis(now + 1_000));
                (there, back)
            });
        },
    );
    c.bench_function("diff of one change, 10k services", |b| {
        b.iter(|| diff(black_box(&old), &new));
    });
    c.bench_function("converge of one change, 10k services", |b| {
        let mut lowering = Lowering::new(LoweringConfig::default());
        lowering.converge(&old, UnixMillis(0));
        let mut now = 0;
        b.iter(|| {
            now += 2_000;
            let there = lowering.converge(&new, UnixMillis(now));
            let back = lowering.converge(&old, UnixMillis(now + 1_000));
            (there, back)
        });
    });
    c.bench_function("zone, 10k services", |b| {
        b.iter(|| zone(black_box(&before), &local, 1));
    });
    let served = zone(&before, &local, 1);
    let asked = Question::new("service5000.marathon.l4lb.thisdcos.directory", RType::A).unwrap();
    c.bench_function("answer a vip name, 10k services", |b| {
        b.iter(|| served.answer(black_box(&asked)));
    });
    let missing = Question::new("nobody.marathon.mesos", RType::A).unwrap();
    c.bench_function("answer nxdomain, 10k services", |b| {
        b.iter(|| served.answer(black_box(&missing)));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = plan
}
criterion_main!(benches);
