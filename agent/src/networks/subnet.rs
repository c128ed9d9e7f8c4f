//! An IPv4 subnet.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use waggle_types::IpNet;

/// A subnet: `172.31.254.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    ip: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The one of that length (at most 32) that an address is in.
    pub fn around(ip: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            ip: Ipv4Addr::from_bits(ip.to_bits() & mask(prefix)),
            prefix,
        }
    }

    /// Its first address.
    pub fn first(self) -> Ipv4Addr {
        self.ip
    }

    /// Its last address: broadcast.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ip.to_bits() | !mask(self.prefix))
    }

    /// Bits that all of its addresses share.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address is in it.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        ip.to_bits() & mask(self.prefix) == self.ip.to_bits()
    }

    /// Whether all of a network is in it.
    pub fn covers_net(self, net: IpNet) -> bool {
        let IpAddr::V4(first) = net.ip() else {
            return false;
        };
        net.prefix() >= self.prefix && self.contains(first)
    }

    /// Whether all of another is in it.
    #[cfg(test)]
    pub fn covers(self, other: Self) -> bool {
        other.prefix >= self.prefix && self.contains(other.ip)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// What a subnet must look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a subnet such as 172.31.254.0/24, is {0:?}")]
pub struct SubnetError(String);

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(s: &str) -> Result<Self, SubnetError> {
        let bad = || SubnetError(s.to_owned());
        let (ip, prefix) = s.split_once('/').ok_or_else(bad)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let subnet = Self::around(ip, prefix);
        if prefix > 32 || subnet.ip != ip {
            return Err(bad());
        }
        Ok(subnet)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subnets_are_read_as_written() {
        for good in ["172.31.254.0/24", "0.0.0.0/0", "10.1.2.3/32"] {
            assert_eq!(good.parse::<Subnet>().unwrap().to_string(), good);
        }
        for bad in [
            "172.31.254.1/24",
            "10.0.0.0",
            "10.0.0.0/33",
            "x/8",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_subnet_has_its_ends_and_what_is_between(bits: u32, prefix in 0u8..=32, at: u32) {
            let subnet = Subnet::around(Ipv4Addr::from_bits(bits), prefix);
            prop_assert!(subnet.contains(subnet.first()) && subnet.contains(subnet.last()));
            prop_assert!(subnet.covers(subnet));
            let between = (subnet.first().to_bits()..=subnet.last().to_bits()).contains(&at);
            prop_assert_eq!(subnet.contains(Ipv4Addr::from_bits(at)), between);
        }
    }
}
