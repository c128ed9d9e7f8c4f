//! Slow start: a new backend's weight grows in steps.

use std::{collections::BTreeMap, net::SocketAddr};

use waggle_types::{Millis, UnixMillis, VipKey};

use crate::table::BackendSet;

/// Steps to the full weight.
const STEPS: u64 = 10;

/// Since when backends with a slow start serve, by VIP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ramps {
    since: BTreeMap<VipKey, BTreeMap<SocketAddr, UnixMillis>>,
    /// VIPs with a backend that is not yet at its weight, and when its next step is.
    due: BTreeMap<VipKey, UnixMillis>,
}

impl Ramps {
    /// The weights of a set now. Backends in `known` have served before this began, so they have their weight.
    pub(super) fn weights(
        &mut self,
        key: &VipKey,
        set: &BackendSet,
        known: impl Fn(&SocketAddr) -> bool,
        now: UnixMillis,
    ) -> BTreeMap<SocketAddr, u32> {
        let slow = |s: &crate::Share| s.slow_start_s > 0 && s.weight_milli > 0;
        if !set.backends.values().any(slow) {
            self.forget(key);
            return set
                .backends
                .iter()
                .map(|(addr, share)| (*addr, share.weight_milli))
                .collect();
        }
        let since = self.since.entry(*key).or_default();
        since.retain(|addr, _| set.backends.get(addr).is_some_and(slow));
        let mut next: Option<UnixMillis> = None;
        let mut out = BTreeMap::new();
        for (addr, share) in &set.backends {
            let mut weight = share.weight_milli;
            if slow(share) {
                let length = Millis::from_secs(share.slow_start_s.into());
                let begun =
                    *since
                        .entry(*addr)
                        .or_insert(if known(addr) { UnixMillis(0) } else { now });
                let gone = now.0.saturating_sub(begun.0);
                if begun.0 != 0 && gone < length.0 {
                    let step = (gone * STEPS / length.0).clamp(1, STEPS - 1);
                    weight = u32::try_from(u64::from(weight) * step / STEPS)
                        .unwrap_or(weight)
                        .max(1);
                    let at = UnixMillis(begun.0 + length.0 * (step + 1) / STEPS);
                    next = Some(next.map_or(at, |n| n.min(at)));
                }
            }
            out.insert(*addr, weight);
        }
        match next {
            Some(at) => self.due.insert(*key, at),
            None => self.due.remove(key),
        };
        out
    }

    pub(super) fn forget(&mut self, key: &VipKey) {
        self.since.remove(key);
        self.due.remove(key);
    }

    /// When some VIP's weights change next.
    pub(super) fn next(&self) -> Option<UnixMillis> {
        self.due.values().min().copied()
    }

    /// VIPs whose weights have changed by now.
    pub(super) fn due(&self, now: UnixMillis) -> Vec<VipKey> {
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        due.map(|(key, _)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use waggle_types::Protocol;

    use super::*;
    use crate::table::Share;

    #[test]
    fn a_new_backend_grows_and_one_that_served_before_does_not() {
        let addr = |port| SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port));
        let share = Share {
            weight_milli: 2000,
            slow_start_s: 10,
        };
        let key = VipKey {
            protocol: Protocol::Tcp,
            ip: IpAddr::from(Ipv4Addr::new(11, 0, 0, 1)),
            port: 80,
        };
        let set = BackendSet {
            backends: BTreeMap::from([(addr(1), share), (addr(2), share)]),
            ..BackendSet::default()
        };
        let mut ramps = Ramps::default();
        let mut at = |s: u64| {
            let now = UnixMillis(1_000_000 + s * 1000);
            let weights = ramps.weights(&key, &set, |a| *a == addr(1), now);
            (
                weights[&addr(1)],
                weights[&addr(2)],
                ramps.next().map(|n| n.0 - 1_000_000),
            )
        };
        assert_eq!(at(0), (2000, 200, Some(2000)));
        assert_eq!(at(1), (2000, 200, Some(2000)));
        assert_eq!(at(5), (2000, 1000, Some(6000)));
        assert_eq!(at(9), (2000, 1800, Some(10_000)));
        assert_eq!(at(10), (2000, 2000, None));
        assert_eq!(ramps.due(UnixMillis(u64::MAX)), []);
    }
}
