//! Which UDP sockets a node ends after changes of its VIPs: who is gone, once for all changes since the last time.

use std::net::Ipv4Addr;

use futures::FutureExt as _;
use waggle_ebpf_common::{BackendKey, BackendState, Cell, VipKey as RawKey};
use waggle_types::{
    AgentNet, Balance, HealthState, PortNet, TaskNet, TaskState, VipLabel, VipLease, VipName,
};

use super::*;

/// Maps that take everything.
#[derive(Default)]
struct Maps(Mutex<BTreeMap<RawKey, u32>>);

impl KernelMaps for Maps {
    fn write_cells(&self, _: u32, _: &[Cell]) -> Result<(), MapError> {
        Ok(())
    }

    fn patch_cell(&self, _: u32, _: u8, _: u32) -> Result<(), MapError> {
        Ok(())
    }

    fn set_vip(&self, key: &RawKey, cell: u32) -> Result<(), MapError> {
        self.0.lock().unwrap().insert(*key, cell);
        Ok(())
    }

    fn remove_vip(&self, key: &RawKey) -> Result<(), MapError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }

    fn list_vips(&self) -> Result<Vec<(RawKey, u32)>, MapError> {
        let vips = self.0.lock().unwrap();
        Ok(vips.iter().map(|(key, cell)| (*key, *cell)).collect())
    }

    fn read_cells(&self, _: u32, n: u32) -> Result<Vec<Cell>, MapError> {
        Ok((0..n).map(|_| Cell::default()).collect())
    }

    fn forget_vip(&self, _: u32) -> Result<(), MapError> {
        Ok(())
    }

    fn backend_states(&self) -> Result<Vec<(BackendKey, BackendState)>, MapError> {
        Ok(Vec::new())
    }

    fn forget_backend(&self, _: &BackendKey) -> Result<(), MapError> {
        Ok(())
    }
}

fn ip(i: u8) -> Ipv4Addr {
    // Nobody on this machine is connected to one of these (RFC 5737).
    Ipv4Addr::new(192, 0, 2, i)
}

fn addr(i: u8) -> SocketAddr {
    SocketAddr::from((ip(i), 31000))
}

/// A UDP service on these agents, behind a VIP.
fn snapshot(generation: u64, on: &[u8]) -> NetSnapshot {
    let mut s = NetSnapshot {
        generation: Generation(generation),
        ..NetSnapshot::default()
    };
    for i in on {
        let agent_id = AgentId::new(format!("a-S{i}")).unwrap();
        let agent = AgentNet {
            overlay: waggle_types::AgentOverlay::default(),
            ip6: None,
            hostname: format!("n{i}"),
            ip: ip(*i),
            reachable: true,
            domain: None,
        };
        s.agents.insert(agent_id.clone(), agent);
        let task = TaskNet {
            ip: None,
            ip6: None,
            network: None,
            subject: None,
            ready: None,
            agent_id,
            name: "log".into(),
            framework: "marathon".into(),
            state: TaskState::Running,
            has_check: false,
            health: HealthState::Unknown,
            ports: vec![PortNet {
                container_port: None,
                name: None,
                host_port: 31000,
                protocols: vec![Protocol::Udp],
                vips: vec![VipLabel::Named {
                    name: "log".into(),
                    port: 514,
                }],
                balance: Balance::default(),
            }],
        };
        let id = TaskId::new(format!("log.{i}")).unwrap();
        s.tasks.insert(id, task.into());
    }
    let name = VipName {
        label: "log".into(),
        framework: "marathon".into(),
    };
    let lease = VipLease {
        ip6: None,
        ip: Ipv4Addr::new(11, 0, 0, 1),
        ports: vec![(Protocol::Udp, 514)],
    };
    s.vips.insert(name, lease);
    s
}

fn waiting(shared: &Shared) -> BTreeSet<SocketAddr> {
    shared.lock_gone().clone()
}

/// How often whoever ends sockets would be woken.
fn wakes(shared: &Shared) -> usize {
    let mut n = 0;
    while shared.gone_news.notified().now_or_never().is_some() {
        n += 1;
    }
    n
}

#[test]
fn many_changes_are_one_listing_and_who_came_back_is_left_alone() {
    let config = NodeNetConfig::new(Ipv4Addr::LOCALHOST);
    let shared = Shared::new(config, None, ZoneOptions::default());
    shared.attach(Arc::new(Maps::default())).unwrap();
    let apply = |generation, on: &[u8]| {
        let applied = shared.apply(&snapshot(generation, on));
        assert_eq!(applied.failures, []);
    };
    apply(1, &[1, 2, 3, 4]);
    assert_eq!((waiting(&shared), wakes(&shared)), (BTreeSet::new(), 0));
    apply(2, &[2, 3, 4]);
    apply(3, &[3, 4]);
    apply(4, &[4]);
    // However many changes: what they took out waits together, and there is one who lists.
    let gone = BTreeSet::from([1, 2, 3].map(addr));
    assert_eq!((waiting(&shared), wakes(&shared)), (gone, 1));
    // One came back before anybody looked.
    apply(5, &[2, 4]);
    assert_eq!(shared.to_end(), BTreeSet::from([1, 3].map(addr)));
    // Taken once: nothing is left for another listing.
    assert_eq!(shared.to_end(), BTreeSet::new());
    shared.end_gone();
    assert_eq!((waiting(&shared), wakes(&shared)), (BTreeSet::new(), 0));
    apply(6, &[4]);
    assert_eq!(
        (waiting(&shared), wakes(&shared)),
        (BTreeSet::from([addr(2)]), 1)
    );
}
