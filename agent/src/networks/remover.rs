//! Taking addresses back together: the kernel looks through all connections to forget those of one address, and waits
//! for several grace periods to remove one device; both take it no longer for many at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Condvar, Mutex, PoisonError},
};

use waggle_overlay::netlink::{Batch, Netlink};

use super::nfnetlink::NfNetlink;
use crate::net::chain;

/// Marks devices that are to go (`ip link show group`): "wgl" in ASCII.
const GROUP: u32 = 0x0077_676c;

/// Does it for many threads at once.
#[derive(Debug, Default)]
pub struct Remover {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    // By device, whose connections are to be forgotten, too.
    waiting: BTreeMap<String, Option<Ipv4Addr>>,
    removing: BTreeMap<String, Option<Ipv4Addr>>,
    // For who waits; taken by it.
    failed: BTreeMap<String, String>,
}

impl Remover {
    /// Removes a device, along with those that other threads wait for; one that is not there is fine. Connections that
    /// were led to the address `forget` are forgotten. Blocking.
    pub fn remove(&self, device: &str, forget: Option<Ipv4Addr>) -> Result<(), String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.insert(device.to_owned(), forget);
        loop {
            if !state.waiting.contains_key(device) && !state.removing.contains_key(device) {
                return state.failed.remove(device).map_or(Ok(()), Err);
            }
            if !state.removing.is_empty() {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Nobody is at it: this thread does it for all.
            let batch = std::mem::take(&mut state.waiting);
            state.removing.clone_from(&batch);
            drop(state);
            let failed = remove_all(&batch);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.removing.clear();
            state.failed.extend(failed);
            self.changed.notify_all();
        }
    }
}

/// Returns those that could not be removed, and why.
fn remove_all(devices: &BTreeMap<String, Option<Ipv4Addr>>) -> BTreeMap<String, String> {
    let led: BTreeSet<Ipv4Addr> = devices.values().flatten().copied().collect();
    if !led.is_empty()
        && let Err(e) = NfNetlink::open().and_then(|mut nf| nf.forget(&led, None))
    {
        tracing::debug!(error = %e, "connections are not forgotten");
    }
    let one = |device: &str| {
        let mut netlink = Netlink::open()?;
        let mut batch = Batch::default();
        batch.remove(device);
        netlink.run(batch)
    };
    let together = || {
        let mut netlink = Netlink::open()?;
        for device in devices.keys() {
            let mut batch = Batch::default();
            batch.set_group(device, GROUP);
            match netlink.run(batch) {
                Err(e) if !e.is_absent() => return Err(e),
                _ => {}
            }
        }
        let mut batch = Batch::default();
        batch.remove_group(GROUP);
        match netlink.run(batch) {
            // None of them was there.
            Err(e) if !e.is_absent() => Err(e),
            _ => Ok(()),
        }
    };
    if devices.len() > 1 && together().is_ok() {
        return BTreeMap::new();
    }
    devices
        .keys()
        .filter_map(|device| match one(device) {
            Err(e) if !e.is_absent() => Some((device.clone(), chain(&e))),
            _ => None,
        })
        .collect()
}
