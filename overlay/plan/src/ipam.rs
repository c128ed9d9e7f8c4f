//! Leases of VIP addresses: a start by hash, then linear probing, so that a name mostly gets the same
//! address again and two names never share one. The master stores what it leased; nodes only read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use waggle_types::VipName;

use crate::lower::fnv1a;

/// A range of addresses to lease from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    first: u32,
    len: u32,
}

/// A prefix that can't be a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address pool {net}/{prefix}: prefix must be between 8 and 30 and the host bits 0")]
pub struct PoolError {
    net: Ipv4Addr,
    prefix: u8,
}

/// No address is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address left in {pool} for {name}")]
pub struct PoolExhausted {
    /// The pool, as a range.
    pub pool: String,
    /// Who asked.
    pub name: VipName,
}

impl Pool {
    /// DC/OS's named VIPs: 11.0.0.0/8.
    pub const VIPS: Self = Self {
        first: 11 << 24,
        len: 1 << 24,
    };

    /// A pool of a whole prefix, between /8 and /30.
    pub fn new(net: Ipv4Addr, prefix: u8) -> Result<Self, PoolError> {
        let first = u32::from(net);
        if !(8..=30).contains(&prefix) || first & ((1 << (32 - prefix)) - 1) != 0 {
            return Err(PoolError { net, prefix });
        }
        Ok(Self {
            first,
            len: 1 << (32 - prefix),
        })
    }

    /// Whether `ip` can be leased from here: never the .0 or .255 of a /24, which some clients take for
    /// a network's or broadcast address.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        let at = u32::from(ip);
        at >= self.first && at - self.first < self.len && !matches!(ip.octets()[3], 0 | 255)
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = Ipv4Addr::from(self.first + (self.len - 1));
        write!(f, "{}-{last}", Ipv4Addr::from(self.first))
    }
}

/// A free address for `name`, or none when all of the pool is taken.
pub fn lease(pool: Pool, name: &VipName, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let text = name.to_string();
    // 32 bits of a hash over at most 2^24 addresses: the remainder's bias does not matter here.
    let start = fnv1a(text.as_bytes()) % pool.len;
    (0..pool.len)
        .map(|i| {
            let offset = (u64::from(start) + u64::from(i)) % u64::from(pool.len);
            // The offset is below `len`, which fits.
            Ipv4Addr::from(
                pool.first
                    .wrapping_add(u32::try_from(offset).unwrap_or_default()),
            )
        })
        .find(|ip| pool.contains(*ip) && !taken.contains(ip))
}

/// The IPv6 address of a name that has this IPv4 one: unique because that is, so that nothing more is leased or stored.
/// DC/OS's range for named VIPs over IPv6 is fd01:c::/64 too.
pub fn twin(ip: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = ip.octets().map(u16::from);
    Ipv6Addr::new(0xfd01, 0xc, 0, 0, 0, 0, a << 8 | b, c << 8 | d)
}

/// The leases for `wanted`: those of `held` stay as they are, new names get free addresses in name order,
/// names that are not wanted lose theirs. Nothing changes when the pool is exhausted.
pub fn renew(
    pool: Pool,
    held: &BTreeMap<VipName, Ipv4Addr>,
    wanted: &BTreeSet<VipName>,
) -> Result<BTreeMap<VipName, Ipv4Addr>, PoolExhausted> {
    let mut out: BTreeMap<VipName, Ipv4Addr> = held
        .iter()
        .filter(|(name, _)| wanted.contains(name))
        .map(|(name, ip)| (name.clone(), *ip))
        .collect();
    let mut taken: BTreeSet<Ipv4Addr> = out.values().copied().collect();
    for name in wanted {
        if out.contains_key(name) {
            continue;
        }
        let ip = lease(pool, name, &taken).ok_or_else(|| PoolExhausted {
            pool: pool.to_string(),
            name: name.clone(),
        })?;
        taken.insert(ip);
        out.insert(name.clone(), ip);
    }
    Ok(out)
}
