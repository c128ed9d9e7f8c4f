//! How long a change takes from the plan to the kernel's tables.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use waggle_ebpf::edge::{EdgeConfig, EdgePlane};
use waggle_overlay_plan::maglev::{EdgeBackend, EdgePlan, EdgePlanConfig, EdgeService, EdgeWrite};
use waggle_types::{Protocol, UnixMillis, VipKey};

use crate::measure::median;

const TIMES: u64 = 41;

fn key(n: u32) -> VipKey {
    VipKey {
        protocol: Protocol::Tcp,
        ip: Ipv4Addr::from(0x0b00_0000 + n).into(),
        port: 80,
    }
}

fn service(backends: u32) -> EdgeService {
    let backends = (0..backends)
        .map(|n| {
            let node = Ipv4Addr::from(0x0a00_0000 + n);
            let place = EdgeBackend {
                node,
                next_hop: Some([2; 6]),
                is_local: false,
                weight: 1,
            };
            (SocketAddrV4::new(node, 8000), place)
        })
        .collect();
    EdgeService {
        backends,
        ..EdgeService::default()
    }
}

/// One of `backends` drains and comes back, over and over.
pub fn measure(bpffs: &Path, backends: u32) -> anyhow::Result<String> {
    let plane = EdgePlane::open(&EdgeConfig::new(bpffs.join(format!("change{backends}"))))?;
    let mut plan = EdgePlan::new(EdgePlanConfig::new(
        Ipv4Addr::new(10, 9, 9, 9),
        [2; 6],
        1500,
    ));
    let mut services = BTreeMap::from([(key(1), service(backends))]);
    let mut now = 1;
    write(&plane, &plan.apply(&services, UnixMillis(now)).writes)?;
    let (mut planned, mut written) = (Vec::new(), Vec::new());
    let mut slots = 0;
    for n in 0..TIMES {
        now += 200_000;
        let clean = plan.settle(|_| BTreeMap::new(), UnixMillis(now));
        write(&plane, &clean)?;
        if let Some(place) = services
            .get_mut(&key(1))
            .and_then(|service| service.backends.values_mut().nth(1))
        {
            place.weight = u32::from(n % 2 == 1);
        }
        let start = Instant::now();
        let change = plan.apply(&services, UnixMillis(now));
        let middle = Instant::now();
        write(&plane, &change.writes)?;
        planned.push((middle - start).as_secs_f64() * 1e6);
        written.push(middle.elapsed().as_secs_f64() * 1e6);
        ensure!(change.failures.is_empty() && change.deferred == 0);
        slots = change
            .writes
            .iter()
            .map(|write| match write {
                EdgeWrite::SetSlots { slots, .. } => slots.len(),
                _ => 0,
            })
            .sum();
    }
    let size = plan.vip(&key(1)).map_or(0, |(ring, _)| ring.slots().len());
    Ok(format!(
        "one of {backends} backends drains or returns, {size} slots: planned in {:.0} us, {slots} slots written in {:.0} us (medians of {TIMES})\n",
        median(planned),
        median(written),
    ))
}

/// What 10,000 services of 3 backends take in the edge's tables.
pub fn memory() -> String {
    let services: BTreeMap<VipKey, EdgeService> =
        (0..10_000).map(|n| (key(n), service(3))).collect();
    let mut plan = EdgePlan::new(EdgePlanConfig::new(
        Ipv4Addr::new(10, 9, 9, 9),
        [2; 6],
        1500,
    ));
    let start = Instant::now();
    let planned = plan.apply(&services, UnixMillis(1));
    let took = start.elapsed();
    let memory = plan.memory();
    format!(
        "10,000 services of 3 backends: {:.1} MB of tables in use (rings {:.1}, backends {:.1}, records {:.1}, buckets {:.1}), {} refused, planned in {:.0} ms\n",
        memory.total() as f64 / 1e6,
        memory.rings as f64 / 1e6,
        memory.backends as f64 / 1e6,
        memory.records as f64 / 1e6,
        memory.buckets as f64 / 1e6,
        planned.failures.len(),
        took.as_secs_f64() * 1e3,
    )
}

fn write(plane: &EdgePlane, writes: &[EdgeWrite]) -> anyhow::Result<()> {
    let tables = plane.tables();
    for write in writes {
        match write {
            EdgeWrite::SetBackends { base, backends } => tables.set_backends(*base, backends)?,
            EdgeWrite::Retire { at } => tables.retire(*at)?,
            EdgeWrite::SetNextHop { at, mac } => tables.set_next_hop(*at, *mac)?,
            EdgeWrite::SetSlots { base, slots } => tables.set_slots_at(*base, slots)?,
            EdgeWrite::SetRecord { at, record } => tables.set_record(*at, record)?,
            EdgeWrite::Publish { key, record } => tables.publish(*key, *record)?,
            EdgeWrite::Withdraw { key } => tables.withdraw(*key)?,
            EdgeWrite::Allow { range, prefix } => tables.allow(*range, *prefix)?,
            EdgeWrite::Disallow { range, prefix } => tables.disallow(*range, *prefix)?,
        }
    }
    Ok(())
}
