//! The last readings of tasks that have ended, many at a time.
//!
//! A task's last figures want a reading of the kernel's counters that began after its end, and what counted it is dropped after that. Both go
//! over whole maps, so who ends meanwhile waits for one reading together: a node where thousands of tasks end costs as many readings as fit, not one for each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Mutex as Turn;
use waggle_overlay::NodeNet;
use waggle_telemetry::{Feature, Telemetry};

use crate::{
    net::Net,
    observe::{Kernel, Watched},
    run::blocking,
};

type Shared = Arc<Mutex<Watched>>;

/// Tasks that have ended and were not read for the last time yet.
#[derive(Default)]
pub struct Endings {
    waiting: Mutex<Vec<Shared>>,
    turn: Turn<()>,
}

impl Endings {
    /// Reads a task for the last time, after its end and before its cgroup goes; returns when that is done.
    pub async fn end(&self, task: Shared, net: &Arc<Net>, telemetry: &Telemetry) {
        self.lock().push(task);
        let _turn = self.turn.lock().await;
        // Empty where the turn before this one took it along.
        let batch = std::mem::take(&mut *self.lock());
        if batch.is_empty() {
            return;
        }
        let (net, telemetry) = (Arc::clone(net), telemetry.clone());
        blocking(move || telemetry.cpu().run(|| read(&batch, &net, &telemetry))).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Shared>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(batch: &[Shared], net: &Net, telemetry: &Telemetry) {
    let kernel = Kernel::read(net);
    if telemetry.allows(Feature::Edges) {
        net.read_flows();
    }
    let vips = net.vip_names();
    let mut gone = BTreeMap::new();
    for task in batch {
        let mut task = task.lock().unwrap_or_else(PoisonError::into_inner);
        task.last(net, &kernel, &vips, telemetry);
        let (cgroup, disk) = task.counted_as();
        if cgroup != 0 {
            gone.insert(cgroup, disk);
        }
    }
    forget(&gone, net);
}

/// The kernel's counters of tasks that are gone may go.
fn forget(gone: &BTreeMap<u64, Option<u64>>, net: &Net) {
    let ids = gone.keys().copied().collect();
    if let Some(dns) = net.node().and_then(NodeNet::dns) {
        for id in gone.keys() {
            dns.forget_cgroup(*id);
        }
    }
    net.flows(|flows| flows.forget(&ids));
    for id in gone.keys() {
        net.flow_log().end(*id);
        net.requests().end(*id);
    }
    if let Some(plane) = net.plane()
        && let Err(e) = plane.counters().forget_cgroups(&ids)
    {
        tracing::debug!(error = %e, "counters of ended tasks stay");
    }
    if let Some(observer) = net.observer()
        && let Err(e) = observer.forget(gone)
    {
        tracing::debug!(error = %e, "what was watched of ended tasks stays");
    }
}
