//! Which address of an agent's subnet is which container's.
//!
//! Addresses are given in turn, and one that was given back is not given again before it has rested: a peer that still
//! sends to a container that has ended must not reach another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use waggle_types::{IpNet, Millis, UnixMillis};

/// How long an address rests at least.
pub const REST: Millis = Millis(60_000);
/// In larger subnets only so many addresses are used, from the first: turns stay short to look through.
const MOST: u128 = 1 << 16;

/// Addresses of one subnet. Its first address is the network's, the second the way out; of IPv4 the last is for
/// broadcasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    subnet: IpNet,
    held: BTreeSet<u128>,
    resting: BTreeMap<u128, UnixMillis>,
    last: u128,
}

/// No address can be given now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address is free in {subnet}: containers have {n_held}, {n_resting} rest after use{}", .next.map_or(String::new(), |ms| format!(", the next one for {} s", ms.div_ceil(1000))))]
pub struct Exhausted {
    /// Where.
    pub subnet: IpNet,
    /// Containers that have one.
    pub n_held: usize,
    /// Addresses that rest.
    pub n_resting: usize,
    /// When the next of these may be given, in milliseconds from now.
    pub next: Option<u64>,
}

impl Addresses {
    /// None given yet.
    pub fn new(subnet: IpNet) -> Self {
        Self {
            subnet,
            held: BTreeSet::new(),
            resting: BTreeMap::new(),
            last: 1,
        }
    }

    /// The subnet.
    pub const fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// What containers take for their way out; nobody has it.
    pub fn gateway(subnet: IpNet) -> IpAddr {
        subnet.nth(1).unwrap_or(subnet.ip())
    }

    /// How many containers can have an address at once.
    pub fn capacity(&self) -> u128 {
        self.end().saturating_sub(2)
    }

    /// Containers that have one.
    pub fn n_held(&self) -> usize {
        self.held.len()
    }

    /// Addresses that rest.
    pub fn n_resting(&self) -> usize {
        self.resting.len()
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Notes an address that is in use already; `false` when it can't be given here or is another's.
    pub fn hold(&mut self, ip: IpAddr) -> bool {
        let Some(place) = self.place(ip) else {
            return false;
        };
        self.resting.remove(&place);
        self.held.insert(place)
    }

    /// Notes what an earlier run has given last, and what rested then.
    pub fn resume(&mut self, last: Option<IpAddr>, resting: &BTreeMap<IpAddr, UnixMillis>) {
        if let Some(place) = last.and_then(|ip| self.place(ip)) {
            self.last = place;
        }
        for (ip, since) in resting {
            if let Some(place) = self.place(*ip).filter(|p| !self.held.contains(p)) {
                self.resting.insert(place, *since);
            }
        }
    }

    /// The next address.
    ///
    /// # Errors
    /// [`Exhausted`] when every address is held or rests.
    pub fn take(&mut self, now: UnixMillis) -> Result<IpAddr, Exhausted> {
        self.resting.retain(|_, since| *since + REST > now);
        let end = self.end();
        let after = self.last.saturating_add(1).clamp(2, end.max(2));
        let is_free = |p: &u128| !self.held.contains(p) && !self.resting.contains_key(p);
        let found = (after..end).chain(2..after.min(end)).find(is_free);
        let Some(place) = found else {
            let eldest = self.resting.values().min();
            return Err(Exhausted {
                subnet: self.subnet,
                n_held: self.held.len(),
                n_resting: self.resting.len(),
                next: eldest.map(|since| (*since + REST).0.saturating_sub(now.0)),
            });
        };
        self.held.insert(place);
        self.last = place;
        Ok(self.address(place))
    }

    /// Gives an address back.
    pub fn give_back(&mut self, ip: IpAddr, now: UnixMillis) {
        if let Some(place) = self.place(ip)
            && self.held.remove(&place)
        {
            self.resting.insert(place, now);
        }
    }

    /// The address that was given last.
    pub fn last(&self) -> IpAddr {
        self.address(self.last)
    }

    /// What rests, and since when.
    pub fn resting(&self) -> BTreeMap<IpAddr, UnixMillis> {
        let one = |(place, since): (&u128, &UnixMillis)| (self.address(*place), *since);
        self.resting.iter().map(one).collect()
    }

    /// One past the last place.
    fn end(&self) -> u128 {
        let hosts = self.subnet.n_after_first();
        let end = if self.subnet.is_ipv4() {
            hosts
        } else {
            hosts.saturating_add(1)
        };
        end.min(MOST)
    }

    fn address(&self, place: u128) -> IpAddr {
        self.subnet.nth(place).unwrap_or(self.subnet.ip())
    }

    fn place(&self, ip: IpAddr) -> Option<u128> {
        let place = self.subnet.subnet_index(IpNet::host(ip))?;
        (2..self.end()).contains(&place).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn at(s: u64) -> UnixMillis {
        UnixMillis(s * 1000)
    }

    #[test]
    fn the_first_is_after_the_way_out() {
        let mut four = Addresses::new(net("9.0.1.0/24"));
        assert_eq!(Addresses::gateway(four.subnet()).to_string(), "9.0.1.1");
        assert_eq!(four.take(at(0)).unwrap().to_string(), "9.0.1.2");
        assert_eq!(four.capacity(), 253);
        let mut six = Addresses::new(net("fd01:b:0:0:1::/80"));
        assert_eq!(six.take(at(0)).unwrap().to_string(), "fd01:b::1:0:0:2");
        assert_eq!(six.capacity(), (1 << 16) - 2);
    }

    #[test]
    fn what_is_exhausted_says_until_when() {
        let mut addresses = Addresses::new(net("10.0.0.0/29"));
        let all: Vec<IpAddr> = (0..5).map(|_| addresses.take(at(0)).unwrap()).collect();
        assert!(
            !all.contains(&"10.0.0.7".parse().unwrap()),
            "for broadcasts"
        );
        let why = addresses.take(at(1)).unwrap_err().to_string();
        assert_eq!(
            why,
            "no address is free in 10.0.0.0/29: containers have 5, 0 rest after use"
        );
        addresses.give_back(all[3], at(10));
        let why = addresses.take(at(20)).unwrap_err().to_string();
        assert_eq!(
            why,
            "no address is free in 10.0.0.0/29: containers have 4, 1 rest after use, the next one for 50 s"
        );
        assert_eq!(addresses.take(at(70)), Ok(all[3]));
    }

    #[test]
    fn turns_and_rests_go_on_after_a_restart() {
        let mut addresses = Addresses::new(net("10.0.0.0/29"));
        let first = addresses.take(at(0)).unwrap();
        let second = addresses.take(at(0)).unwrap();
        addresses.give_back(second, at(1));
        let mut again = Addresses::new(addresses.subnet());
        assert!(again.hold(first) && !again.hold(first));
        assert!(!again.hold("10.0.0.1".parse().unwrap()), "the way out");
        again.resume(Some(addresses.last()), &addresses.resting());
        assert_eq!(again, addresses);
    }

    proptest! {
        #[test]
        fn nobody_shares_and_nothing_comes_too_early(
            prefix in 27u8..=29,
            is_six: bool,
            steps in prop::collection::vec((0u8..8, 0usize..40, 0u64..30), 0..200),
        ) {
            let subnet = if is_six {
                IpNet::around("fd01:b::".parse().unwrap(), prefix + 96)
            } else {
                IpNet::around("10.1.2.0".parse().unwrap(), prefix)
            };
            let mut addresses = Addresses::new(subnet);
            let mut held: Vec<IpAddr> = Vec::new();
            let mut given_back: BTreeMap<IpAddr, UnixMillis> = BTreeMap::new();
            let mut now = at(0);
            for (what, which, later) in steps {
                now = now + Millis(later * 1000);
                match what {
                    0..=3 => match addresses.take(now) {
                        Ok(ip) => {
                            prop_assert!(!held.contains(&ip) && subnet.contains(ip));
                            prop_assert!(ip != subnet.ip() && ip != Addresses::gateway(subnet));
                            prop_assert!(is_six || ip != subnet.last());
                            prop_assert!(given_back.get(&ip).is_none_or(|since| *since + REST <= now));
                            held.push(ip);
                        }
                        Err(full) => {
                            prop_assert_eq!(full.n_held, held.len());
                            let rest = given_back.iter().filter(|(ip, since)| !held.contains(ip) && **since + REST > now);
                            prop_assert_eq!(full.n_resting, rest.count());
                            prop_assert_eq!((full.n_held + full.n_resting) as u128, addresses.capacity());
                        }
                    },
                    4..=6 if !held.is_empty() => {
                        let ip = held.swap_remove(which % held.len());
                        addresses.give_back(ip, now);
                        given_back.insert(ip, now);
                    }
                    _ => {
                        let mut again = Addresses::new(subnet);
                        for ip in &held {
                            prop_assert!(again.hold(*ip));
                        }
                        again.resume(Some(addresses.last()), &addresses.resting());
                        prop_assert_eq!(&again, &addresses);
                        addresses = again;
                    }
                }
                prop_assert_eq!(addresses.n_held(), held.len());
            }
        }
    }
}
