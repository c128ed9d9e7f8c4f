//! Taking addresses back together: the kernel looks through all connections to forget those of one address, and waits
//! for several grace periods to remove one device; both take it no longer for many at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Condvar, Mutex, PoisonError},
};

use super::{
    netlink::{Batch, Netlink},
    nfnetlink::NfNetlink,
    plan::device_name,
};
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
    // Whether connections are to be forgotten, too.
    waiting: BTreeMap<Ipv4Addr, bool>,
    removing: BTreeMap<Ipv4Addr, bool>,
    // For who waits; taken by it.
    failed: BTreeMap<Ipv4Addr, String>,
}

impl Remover {
    /// Removes the device of an address, along with those that other threads wait for; one that is not there is fine.
    /// With `forget`, connections that were led there are forgotten. Blocking.
    pub fn remove(&self, ip: Ipv4Addr, forget: bool) -> Result<(), String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.insert(ip, forget);
        loop {
            if !state.waiting.contains_key(&ip) && !state.removing.contains_key(&ip) {
                return state.failed.remove(&ip).map_or(Ok(()), Err);
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
fn remove_all(ips: &BTreeMap<Ipv4Addr, bool>) -> BTreeMap<Ipv4Addr, String> {
    let led: BTreeSet<Ipv4Addr> = ips
        .iter()
        .filter(|(_, forget)| **forget)
        .map(|(ip, _)| *ip)
        .collect();
    if !led.is_empty()
        && let Err(e) = NfNetlink::open().and_then(|mut nf| nf.forget(&led, None))
    {
        tracing::debug!(error = %e, "connections are not forgotten");
    }
    let one = |ip: &Ipv4Addr| {
        let mut netlink = Netlink::open()?;
        let mut batch = Batch::default();
        batch.remove(&device_name(*ip));
        netlink.run(batch)
    };
    let together = || {
        let mut netlink = Netlink::open()?;
        for ip in ips.keys() {
            let mut batch = Batch::default();
            batch.set_group(&device_name(*ip), GROUP);
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
    if ips.len() > 1 && together().is_ok() {
        return BTreeMap::new();
    }
    ips.keys()
        .filter_map(|ip| match one(ip) {
            Err(e) if !e.is_absent() => Some((*ip, chain(&e))),
            _ => None,
        })
        .collect()
}
