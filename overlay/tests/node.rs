//! A node's network over maps that are a model, with faults: snapshots, local facts, restarts, retries.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use waggle_ebpf_common::{Backend, BackendKey, BackendState, Cell, SetHeader, VipKey as RawKey};
use waggle_overlay::{ApplyError, KernelMaps, MapError, NodeNet, NodeNetConfig};
use waggle_overlay_plan::{
    LoweringConfig,
    lower::{backend_from_kernel, key_from_kernel},
};
use waggle_types::{
    AgentId, AgentNet, Balance, Generation, HealthState, Millis, NetSnapshot, PortNet, Protocol,
    TaskId, TaskNet, TaskState, VipKey, VipLabel, VipLease, VipName,
};

/// The kernel's maps. Survives its node, as pinned maps do.
#[derive(Default)]
struct Model {
    vips: Mutex<BTreeMap<RawKey, u32>>,
    cells: Mutex<BTreeMap<u32, Cell>>,
    states: Mutex<BTreeMap<BackendKey, BackendState>>,
    forgotten: Mutex<Vec<u32>>,
    n_writes: AtomicUsize,
    /// Writes that still succeed.
    healthy_for: Mutex<Option<usize>>,
}

impl Model {
    fn write(&self) -> Result<(), MapError> {
        let mut left = self.healthy_for.lock().unwrap();
        match left.as_mut() {
            Some(0) => {
                let cause = "no space left on device".into();
                let operation = "write".into();
                return Err(MapError { operation, cause });
            }
            Some(n) => *n -= 1,
            None => {}
        }
        self.n_writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn serves(&self) -> BTreeMap<VipKey, BTreeSet<SocketAddr>> {
        let cells = self.cells.lock().unwrap();
        let vips = self.vips.lock().unwrap();
        vips.iter()
            .map(|(key, cell)| {
                let header: SetHeader = cells[cell].into();
                let at = |i: u32| -> Backend { cells[&(cell + 1 + i)].into() };
                let backends = (0..u32::from(header.n))
                    .flat_map(|i| match at(i) {
                        b if b.threshold == 0 => vec![at(b.alias)],
                        b => vec![b, at(b.alias)],
                    })
                    .map(|b| backend_from_kernel(&b).unwrap())
                    .collect();
                (key_from_kernel(key).unwrap(), backends)
            })
            .collect()
    }
}

impl KernelMaps for Model {
    fn write_cells(&self, base: u32, cells: &[Cell]) -> Result<(), MapError> {
        self.write()?;
        let mut all = self.cells.lock().unwrap();
        all.extend((base..).zip(cells.iter().copied()));
        Ok(())
    }

    fn patch_cell(&self, cell: u32, word: u8, value: u32) -> Result<(), MapError> {
        self.write()?;
        let mut all = self.cells.lock().unwrap();
        all.get_mut(&cell).unwrap().words[usize::from(word)] = value;
        Ok(())
    }

    fn set_vip(&self, key: &RawKey, cell: u32) -> Result<(), MapError> {
        self.write()?;
        self.vips.lock().unwrap().insert(*key, cell);
        Ok(())
    }

    fn backend_states(&self) -> Result<Vec<(BackendKey, BackendState)>, MapError> {
        let states = self.states.lock().unwrap();
        Ok(states.iter().map(|(k, s)| (*k, *s)).collect())
    }

    fn forget_backend(&self, key: &BackendKey) -> Result<(), MapError> {
        self.states.lock().unwrap().remove(key);
        Ok(())
    }

    fn remove_vip(&self, key: &RawKey) -> Result<(), MapError> {
        self.write()?;
        self.vips.lock().unwrap().remove(key);
        Ok(())
    }

    fn list_vips(&self) -> Result<Vec<(RawKey, u32)>, MapError> {
        let vips = self.vips.lock().unwrap();
        Ok(vips.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn read_cells(&self, base: u32, n: u32) -> Result<Vec<Cell>, MapError> {
        let cells = self.cells.lock().unwrap();
        let read = |i| cells.get(&i).copied().unwrap_or_default();
        Ok((base..base.saturating_add(n)).map(read).collect())
    }

    fn forget_vip(&self, vip_id: u32) -> Result<(), MapError> {
        self.forgotten.lock().unwrap().push(vip_id);
        Ok(())
    }
}

const VIP: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 1);
const WEB: VipKey = VipKey {
    protocol: Protocol::Tcp,
    ip: IpAddr::V4(VIP),
    port: 80,
};

fn ip(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, i)
}

fn addr(i: u8) -> SocketAddr {
    SocketAddr::from((ip(i), 31000))
}

fn task_id(i: u8) -> TaskId {
    TaskId::new(format!("web.{i}")).unwrap()
}

/// `web` on the agents given, behind 11.0.0.1:80.
fn snapshot(generation: u64, on: &[u8]) -> Arc<NetSnapshot> {
    let mut s = NetSnapshot {
        generation: Generation(generation),
        ..NetSnapshot::default()
    };
    for i in on {
        let agent_id = AgentId::new(format!("a-S{i}")).unwrap();
        let net = AgentNet {
            overlay: waggle_types::AgentOverlay::default(),
            ip6: None,
            hostname: format!("n{i}"),
            ip: ip(*i),
            reachable: true,
            domain: None,
        };
        s.agents.insert(agent_id.clone(), net);
        let task = TaskNet {
            ip: None,
            ip6: None,
            network: None,
            subject: None,
            ready: None,
            agent_id,
            name: "web".into(),
            framework: "marathon".into(),
            state: TaskState::Running,
            has_check: true,
            health: HealthState::Healthy,
            ports: vec![PortNet {
                container_port: None,
                name: None,
                host_port: 31000,
                protocols: vec![Protocol::Tcp],
                vips: vec![VipLabel::Named {
                    name: "web".into(),
                    port: 80,
                }],
                balance: Balance::default(),
            }],
        };
        s.tasks.insert(task_id(*i), task.into());
    }
    let name = VipName {
        label: "web".into(),
        framework: "marathon".into(),
    };
    let lease = VipLease {
        ip6: None,
        ip: VIP,
        ports: vec![(Protocol::Tcp, 80)],
    };
    s.vips.insert(name, lease);
    Arc::new(s)
}

fn config() -> NodeNetConfig {
    NodeNetConfig {
        dns_ips: vec![Ipv4Addr::LOCALHOST.into()],
        dns_port: 0,
        manage_addresses: false,
        retry_after: Duration::from_millis(20),
        ..NodeNetConfig::new(Ipv4Addr::new(10, 0, 0, 1))
    }
}

async fn start(model: &Arc<Model>) -> NodeNet {
    NodeNet::start_with(config(), Some(Arc::clone(model)))
        .await
        .unwrap()
}

#[tokio::test]
async fn snapshots_reach_maps_and_zone_and_older_ones_are_refused() {
    let model = Arc::new(Model::default());
    let node = start(&model).await;
    let applied = node.apply(snapshot(5, &[1, 2])).await;
    assert_eq!(applied.generation, Generation(5));
    assert_eq!(applied.failures, []);
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(1), addr(2)]));
    let (id, (key, name)) = node
        .vip_names()
        .first_key_value()
        .map(|(i, v)| (*i, v.clone()))
        .unwrap();
    assert_eq!(
        (key, name.as_str()),
        (WEB, "web.marathon.l4lb.thisdcos.directory")
    );

    let refused = node.apply(snapshot(4, &[1])).await;
    assert_eq!(refused.generation, Generation(5));
    assert_eq!(
        refused.failures,
        [ApplyError::Stale {
            given: Generation(4),
            applied: Generation(5)
        }]
    );
    assert_eq!(model.serves()[&WEB].len(), 2);
    // The same again is the master's resync: nothing to write.
    assert_eq!(node.apply(snapshot(5, &[1, 2])).await.n_writes, 0);

    // The service is removed: entry, name and counters go.
    let gone = Arc::new(NetSnapshot {
        generation: Generation(6),
        ..NetSnapshot::default()
    });
    node.apply(gone).await;
    assert!(model.serves().is_empty());
    assert!(node.vip_names().is_empty());
    assert_eq!(*model.forgotten.lock().unwrap(), [id]);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_local_death_counts_at_once_and_a_lagging_snapshot_does_not_undo_it() {
    let model = Arc::new(Model::default());
    let node = start(&model).await;
    node.apply(snapshot(1, &[1, 2])).await;
    let fact = (TaskState::Failed, HealthState::Unknown);
    let applied = node.local_fact(task_id(1), fact.into()).await;
    assert!(applied.n_writes > 0);
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(2)]));
    // The same fact again is no news.
    assert_eq!(node.local_fact(task_id(1), fact.into()).await.n_writes, 0);
    // The agent is done with it, and a snapshot from before the master knew arrives.
    node.forget_local(task_id(1)).await;
    node.apply(snapshot(2, &[1, 2])).await;
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(2)]));
    // The master knows; later the same id would be judged by the snapshot again.
    node.apply(snapshot(3, &[2])).await;
    node.apply(snapshot(4, &[1, 2])).await;
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(1), addr(2)]));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_writes_nothing_and_keeps_numbers() {
    let model = Arc::new(Model::default());
    let node = start(&model).await;
    node.apply(snapshot(1, &[1, 2])).await;
    let ids: Vec<u32> = node.vip_names().keys().copied().collect();
    node.shutdown().await.unwrap();
    drop(node);
    let n_writes = model.n_writes.load(Ordering::Relaxed);

    let node = start(&model).await;
    // Serving before any snapshot: nothing is touched.
    assert_eq!(model.serves()[&WEB].len(), 2);
    assert_eq!(node.generation(), Generation(0));
    node.resync().await;
    assert_eq!(node.vip_names().keys().copied().collect::<Vec<_>>(), ids);
    assert_eq!(node.apply(snapshot(1, &[1, 2])).await.n_writes, 0);
    assert_eq!(model.n_writes.load(Ordering::Relaxed), n_writes);
    assert_eq!(node.vip_names().keys().copied().collect::<Vec<_>>(), ids);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_answers_from_what_was_kept_and_leaves_the_maps_to_facts() {
    let model = Arc::new(Model::default());
    let node = start(&model).await;
    node.apply(snapshot(3, &[1, 2])).await;
    // Seen here and not by the master yet.
    node.local_fact(task_id(1), (TaskState::Failed, HealthState::Unknown).into())
        .await;
    let ids: Vec<u32> = node.vip_names().keys().copied().collect();
    node.shutdown().await.unwrap();
    drop(node);
    let n_writes = model.n_writes.load(Ordering::Relaxed);

    let node = NodeNet::start_resolver(config()).await.unwrap();
    assert_eq!(node.dns_addrs().len(), 1);
    let restored = node.restore(snapshot(3, &[1, 2])).await;
    assert_eq!(restored.generation, Generation(3));
    node.attach_maps(Arc::clone(&model)).await.unwrap();
    assert_eq!(node.vip_names().keys().copied().collect::<Vec<_>>(), ids);
    assert_eq!(
        model.n_writes.load(Ordering::Relaxed),
        n_writes,
        "what the maps know better is not overwritten"
    );
    // Facts of all tasks are one change.
    let facts = BTreeMap::from([(
        task_id(1),
        Some((TaskState::Failed, HealthState::Unknown).into()),
    )]);
    node.local_facts(facts).await;
    assert_eq!(node.resync().await.n_writes, 0);
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(2)]));
    // The past does not come back, the future does.
    let stale = node.apply(snapshot(2, &[1])).await;
    assert_eq!(stale.generation, Generation(3));
    assert_eq!(node.restore(snapshot(9, &[])).await.generation.0, 3);
    node.apply(snapshot(4, &[2, 3])).await;
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(2), addr(3)]));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn maps_that_a_reboot_emptied_are_filled_from_what_was_kept() {
    let model = Arc::new(Model::default());
    let node = NodeNet::start_resolver(config()).await.unwrap();
    node.restore(snapshot(3, &[1])).await;
    node.attach_maps(Arc::clone(&model)).await.unwrap();
    assert_eq!(node.resync().await.failures, []);
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(1)]));
    node.shutdown().await.unwrap();
}

async fn until(what: &str, met: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !met() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn failed_writes_are_reported_and_tried_again() {
    for healthy_for in 0..4 {
        let model = Arc::new(Model::default());
        let node = start(&model).await;
        node.apply(snapshot(1, &[1])).await;
        *model.healthy_for.lock().unwrap() = Some(healthy_for);
        let applied = node.apply(snapshot(2, &[2, 3])).await;
        if healthy_for < 2 {
            assert!(matches!(applied.failures[..], [ApplyError::Map(_)]));
            // What was there keeps working.
            assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(1)]));
        }
        *model.healthy_for.lock().unwrap() = None;
        let want = BTreeSet::from([addr(2), addr(3)]);
        until("converges", || model.serves()[&WEB] == want).await;
        node.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn what_others_break_in_the_maps_is_put_right() {
    let model = Arc::new(Model::default());
    let node = start(&model).await;
    node.apply(snapshot(1, &[1, 2])).await;
    model.vips.lock().unwrap().clear();
    let applied = node.resync().await;
    assert_eq!(applied.failures, []);
    assert_eq!(model.serves()[&WEB].len(), 2);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn full_maps_are_reported_and_filled_when_there_is_room() {
    let model = Arc::new(Model::default());
    let lowering = LoweringConfig {
        max_vips: 8,
        max_cells: 5,
        quarantine: Millis(10),
    };
    let config = NodeNetConfig {
        lowering,
        ..config()
    };
    let node = NodeNet::start_with(config, Some(Arc::clone(&model)))
        .await
        .unwrap();
    node.apply(snapshot(1, &[1, 2])).await;
    // Four more cells are not there; the survivor stays until the old cells have rested.
    let applied = node.apply(snapshot(2, &[2, 3, 4])).await;
    assert!(matches!(applied.failures[..], [ApplyError::Lower(_)]));
    assert_eq!(model.serves()[&WEB], BTreeSet::from([addr(2)]));
    let fewer = node.apply(snapshot(3, &[3, 4])).await;
    let want = BTreeSet::from([addr(3), addr(4)]);
    if !fewer.failures.is_empty() {
        until("there is room", || model.serves()[&WEB] == want).await;
    }
    assert_eq!(model.serves()[&WEB], want);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn without_a_data_plane_names_resolve_nonetheless() {
    let node = NodeNet::start(config(), None).await.unwrap();
    let applied = node.apply(snapshot(1, &[1])).await;
    assert_eq!(applied.failures, []);
    assert_eq!(node.dns_addrs().len(), 1);
    let serving: Vec<SocketAddr> = node.table()[&WEB].serving().collect();
    assert_eq!(serving, [addr(1)]);
    node.shutdown().await.unwrap();
}
