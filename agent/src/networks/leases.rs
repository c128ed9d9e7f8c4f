//! Pure: which address of a subnet is whose.
//!
//! Addresses are given in turn, so that one that was given back rests as long as others are free: a peer that still
//! sends to a task that has ended must not reach another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use waggle_types::UnixMillis;

use super::subnet::Subnet;

/// How long an address rests while there is another: as long as a closed TCP connection is remembered.
pub const REST: Duration = Duration::from_mins(2);

/// Leases of one subnet. Its first address is the network's, the second the gateway's, the last for broadcasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    subnet: Subnet,
    held: BTreeSet<Ipv4Addr>,
    resting: BTreeMap<Ipv4Addr, UnixMillis>,
    last: Ipv4Addr,
}

/// Every address is held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address is free in {subnet}: tasks have all {held}; a wider --bridge-subnet has more")]
pub struct Exhausted {
    /// Where.
    pub subnet: Subnet,
    /// How many there are.
    pub held: usize,
}

impl Leases {
    /// None given yet; the first will be the one after `last`.
    pub fn new(subnet: Subnet, last: Option<Ipv4Addr>) -> Self {
        let gateway = Self::gateway_of(subnet);
        Self {
            subnet,
            held: BTreeSet::new(),
            resting: BTreeMap::new(),
            last: last.filter(|l| subnet.contains(*l)).unwrap_or(gateway),
        }
    }

    /// The address of the bridge itself.
    pub fn gateway_of(subnet: Subnet) -> Ipv4Addr {
        Ipv4Addr::from_bits(subnet.first().to_bits().saturating_add(1))
    }

    /// Notes an address that is in use already; `false` when it can't be given here or is another's.
    pub fn hold(&mut self, ip: Ipv4Addr) -> bool {
        self.range().contains(&ip.to_bits()) && self.held.insert(ip)
    }

    /// The next address.
    pub fn take(&mut self, now: UnixMillis) -> Result<Ipv4Addr, Exhausted> {
        self.resting
            .retain(|_, since| now.since(*since).as_duration() < REST);
        let range = self.range();
        let after = self.last.to_bits().saturating_add(1);
        let turn = (after..=*range.end()).chain(*range.start()..after.min(*range.end() + 1));
        let mut free = turn
            .filter(|bits| range.contains(bits))
            .map(Ipv4Addr::from_bits)
            .filter(|ip| !self.held.contains(ip));
        let rested = free.find(|ip| !self.resting.contains_key(ip));
        // Better one that has not rested for long than none.
        let eldest = || {
            let resting = self
                .resting
                .iter()
                .filter(|(ip, _)| !self.held.contains(ip));
            resting.min_by_key(|(_, since)| **since).map(|(ip, _)| *ip)
        };
        let ip = rested.or_else(eldest).ok_or(Exhausted {
            subnet: self.subnet,
            held: self.held.len(),
        })?;
        self.resting.remove(&ip);
        self.held.insert(ip);
        self.last = ip;
        Ok(ip)
    }

    /// Gives an address back.
    pub fn give_back(&mut self, ip: Ipv4Addr, now: UnixMillis) {
        if self.held.remove(&ip) {
            self.resting.insert(ip, now);
        }
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The one that was taken last.
    pub fn last(&self) -> Ipv4Addr {
        self.last
    }

    fn range(&self) -> std::ops::RangeInclusive<u32> {
        let first = Self::gateway_of(self.subnet).to_bits().saturating_add(1);
        let last = self.subnet.last().to_bits().saturating_sub(1);
        first..=last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> Leases {
        // .2 to .6
        Leases::new("10.0.0.0/29".parse().unwrap(), None)
    }

    fn at(s: u64) -> UnixMillis {
        UnixMillis(s * 1000)
    }

    #[test]
    fn an_address_rests_before_it_is_given_again() {
        let mut leases = small();
        let first = leases.take(at(0)).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
        leases.give_back(first, at(0));
        let others: Vec<_> = (0..4).map(|_| leases.take(at(1)).unwrap()).collect();
        assert!(!others.contains(&first), "{others:?}");
        // The only one left.
        assert_eq!(leases.take(at(2)).unwrap(), first);
    }

    #[test]
    fn when_all_are_held_it_says_so() {
        let mut leases = small();
        for _ in 0..5 {
            leases.take(at(0)).unwrap();
        }
        let why = leases.take(at(0)).unwrap_err().to_string();
        assert_eq!(
            why,
            "no address is free in 10.0.0.0/29: tasks have all 5; a wider --bridge-subnet has more"
        );
        leases.give_back(Ipv4Addr::new(10, 0, 0, 4), at(0));
        assert_eq!(leases.take(at(1)), Ok(Ipv4Addr::new(10, 0, 0, 4)));
    }

    #[test]
    fn turns_go_on_after_a_restart() {
        let mut leases = small();
        leases.take(at(0)).unwrap();
        let last = leases.take(at(0)).unwrap();
        let mut again = Leases::new("10.0.0.0/29".parse().unwrap(), Some(last));
        assert_eq!(again.take(at(0)), Ok(Ipv4Addr::new(10, 0, 0, 4)));
        assert!(!again.hold(Ipv4Addr::new(10, 0, 0, 1)), "the gateway's");
        assert!(!again.hold(Ipv4Addr::new(10, 0, 0, 7)), "for broadcasts");
        assert!(again.hold(Ipv4Addr::new(10, 0, 0, 2)));
        assert!(!again.hold(Ipv4Addr::new(10, 0, 0, 2)), "held");
    }

    proptest! {
        #[test]
        fn an_address_is_never_given_twice(
            prefix in 27u8..=32,
            steps in prop::collection::vec((any::<bool>(), 0usize..40, 0u64..200), 0..200),
        ) {
            let subnet = Subnet::around(Ipv4Addr::new(10, 1, 2, 0), prefix);
            let mut leases = Leases::new(subnet, None);
            let mut held: Vec<Ipv4Addr> = Vec::new();
            let mut now = 0;
            for (take, which, later) in steps {
                now += later;
                if take {
                    match leases.take(at(now)) {
                        Ok(ip) => {
                            prop_assert!(!held.contains(&ip));
                            prop_assert!(subnet.contains(ip));
                            prop_assert!(ip != subnet.last() && ip > Leases::gateway_of(subnet));
                            held.push(ip);
                        }
                        Err(full) => {
                            prop_assert_eq!(full.held, held.len());
                            let n = (subnet.last().to_bits() - subnet.first().to_bits()).saturating_sub(2);
                            prop_assert_eq!(held.len(), n as usize);
                        }
                    }
                } else if !held.is_empty() {
                    let ip = held.swap_remove(which % held.len());
                    leases.give_back(ip, at(now));
                }
            }
            prop_assert_eq!(leases.is_empty(), held.is_empty());
        }
    }
}
