//! Ranges of addresses.

use std::{fmt, net::IpAddr};

/// A range of addresses: a network and the length of its prefix, without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    ip: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` when the prefix is longer than an address or host bits are set.
    pub fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let made = Self::around(ip, prefix)?;
        (made.ip == ip).then_some(made)
    }

    /// The network of this length that an address is in; `None` when the prefix is longer than an address.
    pub fn around(ip: IpAddr, prefix: u8) -> Option<Self> {
        let ip = match ip {
            IpAddr::V4(v4) => {
                let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                (prefix <= 32).then(|| IpAddr::from((u32::from(v4) & !hosts).to_be_bytes()))?
            }
            IpAddr::V6(v6) => {
                let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                (prefix <= 128).then(|| IpAddr::from((u128::from(v6) & !hosts).to_be_bytes()))?
            }
        };
        Some(Self { ip, prefix })
    }

    /// One address.
    pub const fn host(ip: IpAddr) -> Self {
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        Self { ip, prefix }
    }

    /// Its first address.
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Length of its prefix, bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && Self::around(ip, self.prefix) == Some(*self)
    }

    /// Whether all of another one is in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.ip)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    /// `10.0.0.0/8`, `fd00::/8`, or an address alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be a network such as 10.0.0.0/8 or fd00::/8, is {text:.60?}");
        let Some((ip, prefix)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| wrong());
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let around = Self::around(ip, prefix).ok_or_else(wrong)?;
        if around.ip == ip {
            return Ok(around);
        }
        Err(format!(
            "has address bits beyond its prefix: {text}; that network is {around}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        for good in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "fd00::/8",
            "::/0",
            "192.0.2.1/32",
        ] {
            assert_eq!(good.parse::<Cidr>().unwrap().to_string(), good);
        }
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "fd00::1/8",
            "10/8",
            "",
            "/8",
            "::/129",
        ] {
            bad.parse::<Cidr>().unwrap_err();
        }
        let net: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.255.255".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()));
        assert!(!net.contains("::ffff:10.1.0.0".parse().unwrap()));
        assert!(net.covers(&"10.1.2.0/24".parse().unwrap()));
        assert!(!net.covers(&"10.0.0.0/8".parse().unwrap()));
    }
}
