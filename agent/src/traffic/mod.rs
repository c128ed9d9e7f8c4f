//! The first connection that a task is given: when it was, and how long after the task's launch.
//!
//! The kernel tells it in two ways. A connection that has ended has a record with the moment of its accept; one that is still open is
//! only counted, so it came between two readings. What a task opens to itself is no traffic, nor is what the agent opens to it:
//! checks, and questions for its metrics ([`OwnDials`]). Over TCP alone: who sends datagrams opens nothing.
//!
//! # Invariants
//! - Once per task: that it was told is written down before it is, beside the task's other files.
//! - It is never told too early: where the agent's own connections can't be told from others, they are taken for its own.
//! - What is said of its time holds: it was then, or as much earlier as is said.

mod dials;
mod seen;

use std::{io, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use waggle_ebpf_common::{
    flow::{ACCEPTED, FlowKey, FlowStats},
    ip_of,
};
use waggle_telemetry::{SpanKind, Telemetry, names};
use waggle_types::{TaskId, TraceContext};

pub use dials::OwnDials;
pub use seen::{Seen, Seens};

use crate::{checkpoint::TaskDir, clock, net::Net, shim};

/// In a task's directory, once it was told.
const FILE: &str = "traffic.json";

/// Connections that others have opened to a task, from the kernel's edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Given {
    /// From elsewhere.
    pub away: u64,
    /// From this node's own addresses, by the agent among others.
    pub here: u64,
}

impl Given {
    /// Of one task's edges. `is_here`: this node's own addresses.
    pub fn of<'a>(
        edges: &(impl Iterator<Item = (&'a FlowKey, &'a FlowStats)> + Clone),
        is_here: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let is_accepted = |key: &FlowKey| u32::from(key.side) == ACCEPTED;
        let mut given = Self::default();
        for (key, stats) in edges.clone().filter(|(key, _)| is_accepted(key)) {
            let peer = ip_of(key.peer).to_canonical();
            if peer.is_loopback() {
                continue;
            }
            let own = edges.clone().filter(|(dialled, _)| {
                !is_accepted(dialled) && (dialled.peer, dialled.port) == (key.peer, key.port)
            });
            let own: u64 = own.map(|(_, stats)| stats.opened).sum();
            let opened = stats.opened.saturating_sub(own);
            // What found no room has no peer any more: it may be anybody's.
            if is_here(peer) || key.peer == [0; 4] {
                given.here += opened;
            } else {
                given.away += opened;
            }
        }
        given
    }
}

/// When the first one was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// Unix nanoseconds.
    pub at_ns: u64,
    /// It may have been that much earlier.
    pub within_ns: u64,
    /// The kernel has said the moment itself.
    pub is_of_record: bool,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    at_us: u64,
}

/// All that telling it takes.
#[derive(Debug)]
pub struct Awaiting {
    /// What is known.
    pub traffic: Traffic,
    /// What this agent has opened.
    pub dials: Arc<OwnDials>,
    /// The node's own addresses.
    pub here: [Option<IpAddr>; 2],
    /// The task's stored trace.
    pub trace: Option<TraceContext>,
}

impl Awaiting {
    /// Looks at what was read of a running task, after its edges were.
    pub fn look(&mut self, cgroup_id: u64, dir: &TaskDir, net: &Net, at: (&str, &Telemetry)) {
        if cgroup_id == 0 || net.plane().is_none() || !self.traffic.is_awaited() {
            return;
        }
        let is_here = |ip| self.here.contains(&Some(ip));
        let given = net.flows(|flows| Given::of(&flows.edges_of(cgroup_id), is_here));
        let n_own = self.dials.count();
        let seen = net.flow_log().seens().get(cgroup_id);
        let reading = (given, n_own, seen);
        self.traffic
            .tell(reading, (dir, self.trace), at, clock::now_ns());
        if !self.traffic.is_awaited() {
            net.flow_log().seens().end(cgroup_id);
        }
    }

    /// From here on records are looked at.
    pub fn begin(&self, cgroup_id: u64, net: &Net) {
        if self.traffic.is_awaited() {
            let mut seens = net.flow_log().seens();
            seens.begin(cgroup_id, &self.dials, self.here);
        }
    }
}

/// What is known of one task's first connection.
#[derive(Debug)]
pub struct Traffic {
    is_told: bool,
    /// When the agent had got the task, Unix nanoseconds.
    received_ns: u64,
    /// The last reading without any; at first when the task was received.
    none_until_ns: u64,
    /// Connections from here that came before this agent counted its own: not known until the first reading of a task that
    /// another agent has started.
    before: Option<u64>,
}

impl Traffic {
    /// Of a task that this agent got then (Unix nanoseconds), or that an earlier one has started.
    pub fn of(dir: &TaskDir, launched_ns: Option<u64>) -> Self {
        let told = shim::read_json::<Told>(&dir.path().join(FILE));
        let received = || dir.received().map_or(0, |at| at.0 * 1_000_000);
        let received_ns = launched_ns.unwrap_or_else(received);
        Self {
            // Where nobody can tell, it is not told twice.
            is_told: !matches!(told, Ok(None)),
            received_ns,
            none_until_ns: received_ns,
            before: launched_ns.map(|_| 0),
        }
    }

    /// Whether it is still to come.
    pub const fn is_awaited(&self) -> bool {
        !self.is_told
    }

    /// Takes a reading: what the kernel has counted, what this agent has opened itself (read after that), and what records
    /// have told by then.
    fn read(&mut self, given: Given, n_own: u64, seen: Seen, now_ns: u64) -> Option<First> {
        let before = *self.before.get_or_insert(given.here);
        let here = given.here.saturating_sub(before).saturating_sub(n_own);
        // More records than connections that can be others': some are of our own.
        let of_here = seen.here.filter(|r| r.n <= here);
        let records = [seen.away, of_here];
        let n_records: u64 = records.iter().flatten().map(|r| r.n).sum();
        let n_given = given.away + here;
        if n_given == 0 && n_records == 0 {
            self.none_until_ns = now_ns;
            return None;
        }
        self.is_told = true;
        let earliest = records.iter().flatten().map(|r| r.began_ns).min();
        // A clock that was set between them puts nothing before its cause.
        let at_ns = earliest.unwrap_or(now_ns).max(self.received_ns);
        let is_of_record = earliest.is_some() && n_records >= n_given;
        let within_ns = if is_of_record {
            0
        } else {
            at_ns.saturating_sub(self.none_until_ns)
        };
        Some(First {
            at_ns,
            within_ns,
            is_of_record,
        })
    }

    /// Takes a reading, and tells of the first connection if it has come: a span under the task's own trace, and the time since
    /// the task's launch.
    pub fn tell(
        &mut self,
        reading: (Given, u64, Seen),
        (dir, trace): (&TaskDir, Option<TraceContext>),
        (node, telemetry): (&str, &Telemetry),
        now_ns: u64,
    ) {
        let (given, n_own, seen) = reading;
        let Some(first) = self.read(given, n_own, seen, now_ns) else {
            return;
        };
        let task_id = dir.task_id();
        if let Err(error) = write(dir, first) {
            tracing::warn!(%task_id, %error, "that a task has traffic may be told twice");
        }
        let context = span(first, self.received_ns, task_id, node, trace, telemetry);
        let took = first.at_ns.saturating_sub(self.received_ns) as f64 / 1e9;
        let def = &names::TASK_TIME_TO_TRAFFIC;
        telemetry.record_in(def, &[], took, Some(context));
    }
}

fn write(dir: &TaskDir, first: First) -> io::Result<()> {
    let told = Told {
        at_us: first.at_ns / 1000,
    };
    shim::write_json_for_boot(&dir.path().join(FILE), &told)
}

fn span(
    first: First,
    received_ns: u64,
    task_id: &TaskId,
    node: &str,
    trace: Option<TraceContext>,
    telemetry: &Telemetry,
) -> TraceContext {
    let source = if first.is_of_record {
        "record"
    } else {
        "reading"
    };
    let within = first.within_ns as f64 / 1e9;
    let attrs = vec![
        ("waggle.task.id", task_id.as_str().into()),
        ("waggle.node", node.into()),
        ("waggle.traffic.source", source.into()),
        ("waggle.traffic.within", within.into()),
    ];
    let (name, kind) = ("task.first_traffic", SpanKind::Internal);
    telemetry.record_span(name, kind, trace, received_ns, first.at_ns, attrs)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use waggle_ebpf_common::{addr_of, flow::DIALLED};

    use super::{seen::Records, *};

    const NODE: [u8; 4] = [192, 168, 1, 2];

    fn edge(side: u32, peer: [u8; 4], opened: u64) -> (FlowKey, FlowStats) {
        let key = FlowKey {
            cgroup_id: 1,
            peer: addr_of(IpAddr::V4(Ipv4Addr::from(peer))),
            vip_id: 0,
            port: 80_u16.to_be(),
            side: u16::try_from(side).unwrap(),
        };
        let stats = FlowStats {
            opened,
            ..FlowStats::default()
        };
        (key, stats)
    }

    fn given(edges: &[(FlowKey, FlowStats)]) -> Given {
        let node = IpAddr::V4(Ipv4Addr::from(NODE));
        Given::of(&edges.iter().map(|(k, s)| (k, s)), |ip| ip == node)
    }

    fn task() -> (tempfile::TempDir, TaskDir) {
        let dir = tempfile::tempdir().unwrap();
        let task = TaskDir::new(dir.path(), &TaskId::new("web.1").unwrap());
        std::fs::create_dir_all(task.path()).unwrap();
        (dir, task)
    }

    fn records(n: u64, began_ns: u64) -> Records {
        Records { n, began_ns }
    }

    #[test]
    fn what_a_task_opens_to_itself_is_no_traffic() {
        let of = |edges: &[_]| {
            let given = given(edges);
            (given.away, given.here)
        };
        assert_eq!(of(&[edge(ACCEPTED, [127, 0, 0, 1], 5)]), (0, 0));
        let dialled = edge(DIALLED, NODE, 3);
        assert_eq!(of(&[edge(ACCEPTED, NODE, 5), dialled]), (0, 2));
        assert_eq!(of(&[edge(ACCEPTED, [10, 0, 0, 9], 4), dialled]), (4, 0));
        let mut full = edge(ACCEPTED, NODE, 7);
        full.0.peer = [0; 4];
        assert_eq!(of(&[full]), (0, 7), "anybody's");
    }

    #[test]
    fn checks_are_no_traffic_and_what_is_more_is() {
        let (_dir, task) = task();
        let mut t = Traffic::of(&task, Some(100));
        let here = |n| Given { away: 0, here: n };
        let none = Seen::default();
        assert_eq!(t.read(here(3), 3, none, 200), None);
        // One of ours that the kernel has not counted yet.
        assert_eq!(t.read(here(4), 5, none, 300), None);
        let first = t.read(here(6), 5, none, 450);
        let wanted = First {
            at_ns: 450,
            within_ns: 150,
            is_of_record: false,
        };
        assert_eq!(first, Some(wanted));
        assert!(!t.is_awaited());
    }

    #[test]
    fn a_record_says_the_moment_itself() {
        let (_dir, task) = task();
        let away = |n| Given { away: n, here: 0 };
        let seen = |n| Seen {
            away: Some(records(n, 170)),
            here: None,
        };
        let read = |given, seen| {
            let mut t = Traffic::of(&task, Some(100));
            assert_eq!(t.read(away(0), 0, Seen::default(), 150), None);
            t.read(given, 0, seen, 400)
        };
        let at = |at_ns, within_ns| {
            let is_of_record = within_ns == 0;
            Some(First {
                at_ns,
                within_ns,
                is_of_record,
            })
        };
        assert_eq!(read(away(1), seen(1)), at(170, 0));
        // One that is open may have come before the one that has ended.
        assert_eq!(read(away(2), seen(1)), at(170, 20));
        // Read before the edges were.
        assert_eq!(read(away(0), seen(1)), at(170, 0));
        // Records from here that may be checks' say nothing.
        let checks = Seen {
            away: None,
            here: Some(records(3, 120)),
        };
        assert_eq!(read(away(1), checks), at(400, 250));
        assert_eq!(read(away(0), checks), None);
    }

    #[test]
    fn another_agent_tells_it_neither_twice_nor_for_what_it_can_not_know() {
        let (_dir, task) = task();
        let telemetry = Telemetry::disabled().component("waggle-agent");
        let trace = TraceContext {
            trace_id: 7,
            span_id: 8,
            flags: 1,
        };
        let tell = |t: &mut Traffic, given| {
            let of = (&task, Some(trace));
            let now_ns = t.received_ns + 4_000_000_000;
            t.tell((given, 0, Seen::default()), of, ("n1", &telemetry), now_ns);
        };
        let here = |n| Given { away: 0, here: n };
        std::fs::write(task.path().join("spec.pb"), "").unwrap();
        let mut adopted = Traffic::of(&task, None);
        let received_ns = adopted.received_ns;
        assert!(received_ns > 0, "when its file was written");
        // Checks of the agent before, as far as anybody knows.
        tell(&mut adopted, here(9));
        assert!(adopted.is_awaited());
        tell(&mut adopted, here(10));
        assert!(!adopted.is_awaited());
        assert!(!Traffic::of(&task, None).is_awaited());
        let (spans, _) = telemetry.recent_spans(&format!("{:032x}", 7));
        let [span] = <[_; 1]>::try_from(spans).unwrap();
        assert_eq!(span.parent_id, format!("{:016x}", 8));
        let took_ns = span.end_ns - span.start_ns;
        assert_eq!((span.start_ns, took_ns), (received_ns, 4_000_000_000));
        assert_eq!(span.attributes["waggle.traffic.source"], "reading");
        let page = telemetry.prometheus_page(waggle_telemetry::Exposition::OpenMetrics);
        let linked = format!(
            "# {{trace_id=\"{:032x}\",span_id=\"{}\"}} 4 ",
            7, span.span_id
        );
        let bucket = "waggle_task_time_to_traffic_seconds_bucket{";
        assert!(
            page.lines()
                .any(|l| l.starts_with(bucket) && l.contains(&linked)),
            "{page}"
        );
    }

    #[test]
    fn what_can_not_be_read_is_not_told_again() {
        let (_dir, task) = task();
        std::fs::write(task.path().join(FILE), "{").unwrap();
        assert!(!Traffic::of(&task, None).is_awaited());
    }
}
