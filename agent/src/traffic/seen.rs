//! What records of ended connections say of tasks whose first connection is awaited.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use waggle_ebpf_common::{
    Addr,
    flow::{ACCEPTED, FlowRecord},
    ip_of,
};

use super::OwnDials;

/// Connections that have ended, and the earliest of their beginnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records {
    /// How many.
    pub n: u64,
    /// Unix nanoseconds.
    pub began_ns: u64,
}

/// Those that one task was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// From elsewhere.
    pub away: Option<Records>,
    /// From this node's own addresses; not by the agent, as far as it knows.
    pub here: Option<Records>,
}

#[derive(Debug)]
struct Awaited {
    dials: Arc<OwnDials>,
    here: [Option<IpAddr>; 2],
    seen: Seen,
}

/// By cgroup: tasks whose first connection has not been told yet.
#[derive(Debug, Default)]
pub struct Seens {
    of: HashMap<u64, Awaited>,
}

impl Seens {
    /// A task's first connection is awaited; `here` are the node's own addresses.
    pub fn begin(&mut self, cgroup_id: u64, dials: &Arc<OwnDials>, here: [Option<IpAddr>; 2]) {
        self.of.entry(cgroup_id).or_insert_with(|| Awaited {
            dials: Arc::clone(dials),
            here,
            seen: Seen::default(),
        });
    }

    /// Of one task.
    pub fn get(&self, cgroup_id: u64) -> Seen {
        self.of.get(&cgroup_id).map_or(Seen::default(), |a| a.seen)
    }

    /// It was told, or the task is gone.
    pub fn end(&mut self, cgroup_id: u64) {
        self.of.remove(&cgroup_id);
    }

    /// A connection has ended; `offset_ns` leads from the kernel's clock to Unix time.
    pub fn note(&mut self, record: &FlowRecord, offset_ns: u64) {
        let Some(task) = self.of.get_mut(&record.cgroup_id) else {
            return;
        };
        let is_own = record.peer == record.local || address(record.peer).is_loopback();
        if u32::from(record.side) != ACCEPTED || record.began_ns == 0 || is_own {
            return;
        }
        let is_here = task.here.contains(&Some(address(record.peer)));
        if is_here && task.dials.had(u16::from_be(record.peer_port)) {
            return;
        }
        let began_ns = record.began_ns + offset_ns;
        let seen = if is_here {
            &mut task.seen.here
        } else {
            &mut task.seen.away
        };
        let before = seen.unwrap_or(Records { n: 0, began_ns });
        *seen = Some(Records {
            n: before.n + 1,
            began_ns: before.began_ns.min(began_ns),
        });
    }
}

fn address(addr: Addr) -> IpAddr {
    ip_of(addr).to_canonical()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use waggle_ebpf_common::{addr_of, flow::DIALLED};

    use super::*;

    fn record(peer: [u8; 4], port: u16, began_ns: u64) -> FlowRecord {
        FlowRecord {
            cgroup_id: 1,
            began_ns,
            local: addr_of(IpAddr::V4(Ipv4Addr::new(9, 0, 0, 5))),
            peer: addr_of(IpAddr::V4(Ipv4Addr::from(peer))),
            peer_port: port.to_be(),
            side: u8::try_from(ACCEPTED).unwrap(),
            ..FlowRecord::default()
        }
    }

    #[test]
    fn what_others_have_opened_is_seen_and_the_earliest_counts() {
        let dials = Arc::new(OwnDials::default());
        dials.begin().opened(4000);
        let node = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));
        let mut seens = Seens::default();
        seens.begin(1, &dials, [Some(node), None]);
        for not in [
            record([127, 0, 0, 1], 1, 5),
            record([9, 0, 0, 5], 1, 5),
            record([192, 168, 1, 2], 4000, 5),
            record([10, 0, 0, 1], 1, 0),
            FlowRecord {
                side: u8::try_from(DIALLED).unwrap(),
                ..record([10, 0, 0, 1], 1, 5)
            },
            FlowRecord {
                cgroup_id: 2,
                ..record([10, 0, 0, 1], 1, 5)
            },
        ] {
            seens.note(&not, 100);
        }
        assert_eq!(seens.get(1), Seen::default());
        seens.note(&record([10, 0, 0, 1], 1, 9), 100);
        seens.note(&record([10, 0, 0, 1], 4000, 7), 100);
        seens.note(&record([192, 168, 1, 2], 4001, 3), 100);
        let of = |n, began_ns| Some(Records { n, began_ns });
        let wanted = Seen {
            away: of(2, 107),
            here: of(1, 103),
        };
        assert_eq!(seens.get(1), wanted);
        seens.end(1);
        assert_eq!(seens.get(1), Seen::default());
    }
}
