//! Which connections there were: taken from the kernel's ring, given names, kept on disk, told to who follows.
//!
//! The ring outlives the agent, so what ends while it restarts is not missing. Names are those of the moment at which a
//! connection is read, which is within a fraction of a second of its end.
//!
//! # Invariants
//! - What is asked for while connections end is told once: what is on disk, then what came since.
//! - What found no room in the ring, or could not be written, is counted.

mod api;
mod denied;
mod filter;
mod map;
mod owners;
mod segments;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::broadcast;
use waggle_api::native::EndedFlow;
use waggle_ebpf::FlowRecords;
use waggle_ebpf_common::{
    Addr,
    flow::{ACCEPTED, FlowRecord, outcome},
    ip_of,
};
use waggle_overlay::VipNames;
use waggle_telemetry::{Telemetry, names};

use crate::{AgentConfig, clock, net::Net, peers::Peers, run::blocking, traffic::Seens};

pub use api::routes;
use denied::Denied;
pub use filter::{BadQuery, Filter, Query};
pub use owners::Owner;
use owners::Owners;
pub use segments::{Extent, Segments, each, read};

/// Between two looks at the ring, which holds 20,000 connections; after a look that found many the next one comes sooner.
const EVERY: Duration = Duration::from_millis(250);
const SOONER: Duration = Duration::from_millis(40);
const MANY: usize = 4000;
/// Most connections of one look: what a block on disk holds.
const AT_ONCE: usize = 32_768;
/// Looks that one who follows may be behind.
const BEHIND: usize = 64;
const UDP: u8 = 17;

/// What is kept of connections that have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowLogConfig {
    /// Most bytes on disk; 0 keeps none.
    pub max_bytes: u64,
    /// How long.
    pub max_age: Duration,
}

impl Default for FlowLogConfig {
    fn default() -> Self {
        Self {
            max_bytes: 128 << 20,
            max_age: Duration::from_hours(24),
        }
    }
}

/// A node's memory of connections.
pub struct FlowLog {
    node: String,
    owners: Mutex<Owners>,
    kept: Mutex<Kept>,
    /// Of cgroups that were not known at the last look: a task's first connection may end before the agent knows its process.
    unknown: Mutex<Vec<FlowRecord>>,
    seens: Mutex<Seens>,
}

/// Both under one lock: who follows sees each connection once.
struct Kept {
    segments: Option<Segments>,
    news: broadcast::Sender<Arc<[EndedFlow]>>,
}

impl FlowLog {
    /// Goes on with what is in the agent's directory.
    pub fn open(config: &AgentConfig) -> Self {
        let dir = config.work_dir.join("flows");
        let segments = segments(&dir, &config.flows).unwrap_or_else(|e| {
            tracing::warn!(dir = %dir.display(), error = %e, "connections that have ended are not kept");
            None
        });
        Self::new(config.hostname.clone(), segments)
    }

    fn new(node: String, segments: Option<Segments>) -> Self {
        Self {
            node,
            owners: Mutex::default(),
            kept: Mutex::new(Kept {
                segments,
                news: broadcast::Sender::new(BEHIND),
            }),
            unknown: Mutex::default(),
            seens: Mutex::default(),
        }
    }

    /// Keeps nothing.
    #[cfg(test)]
    pub(crate) fn without_disk() -> Self {
        Self::new("n1".to_owned(), None)
    }

    /// A task begins to be known by its cgroup.
    pub fn begin(&self, cgroup_id: u64, owner: impl FnOnce() -> Owner) {
        self.owners().begin(cgroup_id, owner);
    }

    /// A task is gone; what is still in the ring of it is told as its own.
    pub fn end(&self, cgroup_id: u64) {
        self.owners().end(cgroup_id);
        self.seens().end(cgroup_id);
    }

    /// What is seen of tasks whose first connection is awaited.
    pub fn seens(&self) -> MutexGuard<'_, Seens> {
        self.seens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was kept until now, and what comes from now on.
    fn subscribe(&self) -> (Vec<Extent>, broadcast::Receiver<Arc<[EndedFlow]>>) {
        let kept = self.kept();
        let extents = kept.segments.as_ref().map(Segments::extents);
        (extents.unwrap_or_default(), kept.news.subscribe())
    }

    /// One look; how many there were. Blocking, briefly.
    fn look(&self, records: &mut FlowRecords, net: &Net, telemetry: &Telemetry) -> usize {
        let vips = net.vip_names();
        let mut dialled = Vec::new();
        let records = records.inspect(|record| {
            if record.vip_id != 0 {
                dialled.push(*record);
            }
        });
        let (n, mut flows) = net.with_peers(|peers| self.take(records, peers, &vips));
        net.requests().connects(&dialled, &vips, telemetry);
        let others = Denied::look(net, &self.node, wall_offset_ns());
        if self.is_wanted() && !others.is_empty() {
            flows.extend(others);
            flows.sort_by_key(|f| f.ended_us);
        }
        self.keep(flows, telemetry);
        n
    }

    /// Takes what there is; how many that were, and those whose owner is known by now, with their names.
    fn take(
        &self,
        records: impl Iterator<Item = FlowRecord>,
        peers: &Peers,
        vips: &VipNames,
    ) -> (usize, Vec<EndedFlow>) {
        let owners = self.owners();
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = std::mem::take(&mut *unknown);
        let mut n = 0;
        for record in records.take(AT_ONCE) {
            n += 1;
            if owners.get(record.cgroup_id).is_some() {
                taken.push(record);
            } else {
                unknown.push(record);
            }
        }
        let mut flows = Vec::new();
        let offset = wall_offset_ns();
        let mut seens = self.seens();
        for record in &taken {
            seens.note(record, offset);
        }
        drop(seens);
        if self.is_wanted() {
            let name = |r: &FlowRecord| self.named(r, owners.get(r.cgroup_id), peers, vips, offset);
            flows.extend(taken.iter().map(name));
            // Of several processors' connections those of one moment may be in any order.
            flows.sort_by_key(|f| f.ended_us);
        }
        (n, flows)
    }

    /// Whether anybody keeps or follows what ends.
    fn is_wanted(&self) -> bool {
        let kept = self.kept();
        kept.segments.is_some() || kept.news.receiver_count() > 0
    }

    fn keep(&self, flows: Vec<EndedFlow>, telemetry: &Telemetry) {
        if flows.is_empty() {
            return;
        }
        telemetry.count(&names::FLOW_LOG_RECORDS, &[], flows.len() as u64);
        let mut kept = self.kept();
        if let Some(segments) = &mut kept.segments {
            let now_us = clock::now_ns() / 1000;
            if let Err(e) = segments.append(&flows, now_us) {
                tracing::warn!(error = %e, connections = flows.len(), "connections that have ended were not kept");
                let attrs = [(names::DROP_REASON, "write_failed".into())];
                telemetry.count(&names::FLOW_LOG_LOST, &attrs, flows.len() as u64);
            }
            telemetry.set(&names::FLOW_LOG_SIZE, &[], segments.bytes() as f64);
        }
        // Nobody follows: nothing to tell.
        let _ = kept.news.send(flows.into());
    }

    fn named(
        &self,
        record: &FlowRecord,
        owner: Option<&Owner>,
        peers: &Peers,
        vips: &VipNames,
        offset_ns: u64,
    ) -> EndedFlow {
        let own = owner.map_or("node", |o| o.name.as_str());
        let peer = at(record.peer, record.peer_port);
        let accepted = u32::from(record.side) == ACCEPTED;
        let other = if record.outcome == outcome::NO_BACKEND {
            ""
        } else {
            // A client's port is anybody's.
            peers.name(peer.ip(), (!accepted).then_some(peer.port()))
        };
        let (observer, source, destination) = if accepted {
            ("destination", other, own)
        } else {
            ("source", own, other)
        };
        let began = if record.began_ns == 0 {
            record.ended_ns
        } else {
            record.began_ns
        };
        let vip = vips.get(&record.vip_id);
        let verdict = outcome::NAMES.get(usize::from(record.outcome));
        EndedFlow {
            ended_us: (record.ended_ns + offset_ns) / 1000,
            duration_us: record.ended_ns.saturating_sub(began) / 1000,
            node: self.node.clone(),
            observer: observer.to_owned(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            task_id: owner.map(|o| o.task_id.clone()).unwrap_or_default(),
            service: owner.map(|o| o.service.clone()).unwrap_or_default(),
            vip: vip.map(|(key, name)| format!("{name}:{}", key.port)),
            local: (record.local != [0; 4])
                .then(|| at(record.local, record.local_port).to_string()),
            peer: peer.to_string(),
            protocol: if record.proto == UDP { "udp" } else { "tcp" }.to_owned(),
            verdict: verdict.copied().unwrap_or("closed").to_owned(),
            tx_bytes: record.tx_bytes,
            rx_bytes: record.rx_bytes,
            connect_us: if accepted { 0 } else { record.connect_us },
            rtt_us: record.rtt_us,
            retransmits: record.retransmits,
            ..EndedFlow::default()
        }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until it is dropped. Without programs in the kernel there is nothing to look at.
pub async fn work(net: Arc<Net>, telemetry: Telemetry) {
    let log = Arc::clone(net.flow_log());
    let Some(mut records) = net.plane().and_then(|p| p.take_flow_records()) else {
        return;
    };
    let mut lost = records.lost().unwrap_or(0);
    let mut denied = Denied::default();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut passed = Instant::now();
    loop {
        tick.tick().await;
        let (kept, looked, told) = (Arc::clone(&log), Arc::clone(&net), telemetry.clone());
        let n;
        (records, n) = blocking(move || {
            let n = told.cpu().run(|| kept.look(&mut records, &looked, &told));
            (records, n)
        })
        .await;
        // Looks that come sooner don't make a task be forgotten sooner.
        if passed.elapsed() >= EVERY / 2 {
            log.owners().pass();
            denied.count(&net, &telemetry);
            passed = Instant::now();
        }
        if n >= MANY {
            tick.reset_after(SOONER);
        }
        if let Ok(now) = records.lost()
            && now > lost
        {
            let attrs = [(names::DROP_REASON, "ring_full".into())];
            telemetry.count(&names::FLOW_LOG_LOST, &attrs, now - lost);
            lost = now;
        }
    }
}

fn segments(dir: &Path, config: &FlowLogConfig) -> io::Result<Option<Segments>> {
    if config.max_bytes == 0 {
        return Ok(None);
    }
    let age_us = u64::try_from(config.max_age.as_micros()).unwrap_or(u64::MAX);
    Segments::open(dir, config.max_bytes, age_us).map(Some)
}

fn at(addr: Addr, port: u16) -> SocketAddr {
    let ip: IpAddr = ip_of(addr);
    SocketAddr::new(ip.to_canonical(), u16::from_be(port))
}

/// From `CLOCK_MONOTONIC` to Unix time.
pub fn wall_offset_ns() -> u64 {
    let uptime = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    let uptime = uptime.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    clock::now_ns().saturating_sub(uptime)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use waggle_ebpf_common::{addr_of, flow::DIALLED};
    use waggle_types::{Protocol, VipKey};

    use super::*;

    /// From `shop` to `web`, ended at a moment.
    pub(super) fn flow(ended_us: u64) -> EndedFlow {
        EndedFlow {
            ended_us,
            duration_us: 5,
            node: "n1".to_owned(),
            observer: "source".to_owned(),
            source: "shop.marathon".to_owned(),
            destination: "web.marathon".to_owned(),
            task_id: "shop.1".to_owned(),
            service: "/shop".to_owned(),
            vip: None,
            local: None,
            peer: "192.168.1.2:31000".to_owned(),
            protocol: "tcp".to_owned(),
            verdict: "closed".to_owned(),
            tx_bytes: 1,
            rx_bytes: 2,
            connect_us: 3,
            rtt_us: 4,
            retransmits: 0,
            ..EndedFlow::default()
        }
    }

    fn record(side: u32, how: u8, peer: [u8; 4], vip_id: u32) -> FlowRecord {
        FlowRecord {
            began_ns: 1_000_000,
            ended_ns: 4_000_000,
            cgroup_id: 1,
            tx_bytes: 10,
            rx_bytes: 20,
            local: addr_of(IpAddr::V4(Ipv4Addr::new(9, 0, 0, 5))),
            peer: addr_of(IpAddr::V4(Ipv4Addr::from(peer))),
            vip_id,
            rtt_us: 7,
            retransmits: 1,
            connect_us: 55,
            local_port: 40_000_u16.to_be(),
            peer_port: 80_u16.to_be(),
            side: u8::try_from(side).unwrap(),
            outcome: how,
            proto: 6,
            pad: 0,
        }
    }

    #[test]
    fn each_of_a_burst_is_kept_once() {
        const N: u64 = 40_000;
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path(), 64 << 20, u64::MAX).unwrap();
        let log = FlowLog::new("n1".to_owned(), Some(segments));
        log.begin(5, || Owner {
            name: "shop.marathon".to_owned(),
            task_id: "shop.1".to_owned(),
            service: "/shop".to_owned(),
        });
        let telemetry = Telemetry::disabled();
        // Half of them are of somebody who is not known at first: these are told at the next look.
        let burst = |n: u64| FlowRecord {
            cgroup_id: 5 + n % 2,
            tx_bytes: n,
            ..record(DIALLED, outcome::CLOSED, [10, 0, 0, 1], 0)
        };
        let mut all = (0..N).map(burst);
        let (peers, vips) = (Peers::default(), VipNames::default());
        loop {
            let (n, flows) = log.take(&mut all, &peers, &vips);
            let is_over = n == 0;
            log.keep(flows, &telemetry);
            if is_over {
                break;
            }
        }
        let (extents, _) = log.subscribe();
        let wanted = Filter {
            until_us: u64::MAX,
            limit: filter::MAX_LIMIT,
            ..Filter::default()
        };
        let kept = read(&extents, &wanted);
        let mut numbers: Vec<u64> = kept.iter().map(|f| f.tx_bytes).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..N));
        let owned = kept.iter().filter(|f| f.task_id == "shop.1");
        assert_eq!(owned.count() as u64, N / 2);
        let page = telemetry.prometheus_text();
        let counted = page
            .lines()
            .find_map(|l| l.strip_prefix("waggle_flow_log_records_total"));
        assert!(
            counted.is_some_and(|l| l.ends_with(&format!(" {N}"))),
            "{page}"
        );
    }

    #[test]
    fn a_record_gets_the_names_of_both_ends() {
        let vip = VipKey {
            protocol: Protocol::Tcp,
            ip: Ipv4Addr::new(11, 1, 2, 3).into(),
            port: 8080,
        };
        let vips: VipNames = BTreeMap::from([(7, (vip, "web.l4lb".to_owned()))])
            .into_iter()
            .collect();
        let owner = Owner {
            name: "shop.marathon".to_owned(),
            task_id: "shop.1".to_owned(),
            service: "/shop".to_owned(),
        };
        let peers = Peers::default();
        let log = FlowLog::without_disk();
        let named = |r: &FlowRecord| log.named(r, Some(&owner), &peers, &vips, 1_000_000_000);

        let dialled = named(&record(DIALLED, outcome::CLOSED, [93, 184, 216, 34], 7));
        assert_eq!(dialled.ended_us, 1_004_000);
        assert_eq!(dialled.duration_us, 3000);
        assert_eq!(
            (dialled.source.as_str(), dialled.destination.as_str()),
            ("shop.marathon", "public")
        );
        assert_eq!(dialled.vip.as_deref(), Some("web.l4lb:8080"));
        assert_eq!(dialled.local.as_deref(), Some("9.0.0.5:40000"));
        assert_eq!(dialled.peer, "93.184.216.34:80");

        let accepted = named(&record(ACCEPTED, outcome::RESET, [127, 0, 0, 1], 0));
        assert_eq!(
            (accepted.source.as_str(), accepted.destination.as_str()),
            ("loopback", "shop.marathon")
        );
        assert_eq!(
            (accepted.verdict.as_str(), accepted.connect_us),
            ("reset", 0)
        );

        let nobody = named(&record(DIALLED, outcome::NO_BACKEND, [11, 1, 2, 3], 7));
        assert_eq!(
            (nobody.destination.as_str(), nobody.verdict.as_str()),
            ("", "no_backend")
        );
        let host = log.named(
            &record(DIALLED, outcome::FAILED, [10, 0, 0, 1], 0),
            None,
            &peers,
            &vips,
            0,
        );
        assert_eq!(
            (host.source.as_str(), host.destination.as_str()),
            ("node", "private")
        );
    }
}
