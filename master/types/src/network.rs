//! Named overlay networks: their address pools, and what each agent holds of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::{FieldError, Subnets, WireguardKey};

/// Most networks in a cluster.
pub const MAX_NETWORKS: usize = 64;
/// Longest name of a network (DC/OS: a device `m-<name>` must fit the kernel).
pub const MAX_NETWORK_NAME: usize = 13;
/// Least MTU of a network with IPv4 addresses only (DC/OS's rule for `vtep_mtu`).
pub const MIN_MTU: u16 = 552;
/// Least MTU of a network with IPv6 addresses (RFC 8200 section 5).
pub const MIN_MTU6: u16 = 1280;
/// Largest MTU.
pub const MAX_MTU: u16 = 65_485;
/// The least and the longest prefix of a pool, and of an agent's subnet, IPv4. An agent's subnet has at least six addresses.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;
/// The same for IPv6: four bytes of an address are the container's own (its hardware address is made of them).
const PREFIXES6: std::ops::RangeInclusive<u8> = 16..=96;
/// Most subnets that a pool is cut into by so many bits.
const MAX_CUT: u8 = 24;

/// An IP network without host bits: `9.0.0.0/8`, `fd01:b::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpNet {
    ip: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// `None` when the prefix is longer than an address, or host bits are set.
    pub fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let net = Self::around(ip, prefix);
        (prefix <= width(ip) && net.ip == ip).then_some(net)
    }

    /// The network of that length that an address is in; a prefix that is too long is the whole address.
    pub fn around(ip: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(width(ip));
        Self {
            ip: from_bits(ip, bits(ip) & !hosts(ip, prefix)),
            prefix,
        }
    }

    /// An address alone.
    pub const fn host(ip: IpAddr) -> Self {
        Self {
            ip,
            prefix: width(ip),
        }
    }

    /// Its first address.
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// Bits that all of its addresses share.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv4.
    pub const fn is_ipv4(self) -> bool {
        self.ip.is_ipv4()
    }

    /// Its last address.
    pub fn last(self) -> IpAddr {
        from_bits(self.ip, bits(self.ip) | hosts(self.ip, self.prefix))
    }

    /// Addresses after the first one.
    pub fn n_after_first(self) -> u128 {
        hosts(self.ip, self.prefix)
    }

    /// Whether an address is in it.
    pub fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && Self::around(ip, self.prefix).ip == self.ip
    }

    /// Whether all of another is in it.
    pub fn covers(self, other: Self) -> bool {
        other.prefix >= self.prefix && self.contains(other.ip)
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The address so many after the first one; `None` beyond the last one.
    pub fn nth(self, n: u128) -> Option<IpAddr> {
        (n <= hosts(self.ip, self.prefix)).then(|| from_bits(self.ip, bits(self.ip) | n))
    }

    /// How many networks of that length it has; `None` when they would be longer than an address, or shorter than it.
    pub fn n_subnets(self, prefix: u8) -> Option<u128> {
        if prefix > width(self.ip) {
            return None;
        }
        let cut = prefix.checked_sub(self.prefix)?;
        1u128.checked_shl(cut.into())
    }

    /// The `n`th of its networks of that length, from 0.
    pub fn nth_subnet(self, prefix: u8, n: u128) -> Option<Self> {
        if n >= self.n_subnets(prefix)? {
            return None;
        }
        let size = u32::from(width(self.ip) - prefix);
        let ip = from_bits(self.ip, bits(self.ip) | n.checked_shl(size).unwrap_or(0));
        Some(Self { ip, prefix })
    }

    /// Which of its networks of that length another one is, from 0; `None` when it is not in it.
    pub fn subnet_index(self, other: Self) -> Option<u128> {
        if !self.covers(other) {
            return None;
        }
        let size = u32::from(width(self.ip) - other.prefix);
        (bits(other.ip) & hosts(self.ip, self.prefix))
            .checked_shr(size)
            .or(Some(0))
    }
}

const fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn from_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        // Only the low half was ever set.
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// Host bits of a prefix, all set.
fn hosts(like: IpAddr, prefix: u8) -> u128 {
    let n = width(like) - prefix.min(width(like));
    1u128.checked_shl(n.into()).map_or(u128::MAX, |b| b - 1)
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// What a network must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpNetError(String);

impl fmt::Display for IpNetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "must be a network without host bits such as 9.0.0.0/8 or fd01:b::/64, is {:.60?}",
            self.0
        )
    }
}

impl std::error::Error for IpNetError {}

impl FromStr for IpNet {
    type Err = IpNetError;

    fn from_str(s: &str) -> Result<Self, IpNetError> {
        let bad = || IpNetError(s.to_owned());
        let (ip, prefix) = s.split_once('/').ok_or_else(bad)?;
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        Self::new(ip, prefix).ok_or_else(bad)
    }
}

/// Addresses of one family of a network: all of them, and how many bits an agent's part shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressPool {
    /// All of them.
    pub net: IpNet,
    /// Length of an agent's subnet.
    pub prefix: u8,
}

/// A named network that tasks can be on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// IPv4 addresses; a network has some of either family.
    pub pool: Option<AddressPool>,
    /// IPv6 addresses.
    pub pool6: Option<AddressPool>,
    /// MTU inside of containers, bytes; `None`: what each node's underlay carries, less the encapsulation.
    pub mtu: Option<u16>,
    /// Whether what leaves for outside of all networks has the node's address there; without it, it keeps its own,
    /// which something outside must know a way back to.
    pub masquerade: bool,
}

impl Network {
    /// DC/OS's `dcos`: 9.0.0.0/8, a /24 for each agent.
    pub fn dcos() -> Self {
        Self {
            pool: Some(AddressPool {
                net: IpNet::around(Ipv4Addr::new(9, 0, 0, 0).into(), 8),
                prefix: 24,
            }),
            pool6: None,
            mtu: None,
            masquerade: true,
        }
    }

    /// DC/OS's `dcos6`: fd01:b::/64, a /80 for each agent.
    pub fn dcos6() -> Self {
        Self {
            pool: None,
            pool6: Some(AddressPool {
                net: IpNet::around(Ipv6Addr::new(0xfd01, 0xb, 0, 0, 0, 0, 0, 0).into(), 64),
                prefix: 80,
            }),
            mtu: None,
            masquerade: true,
        }
    }

    /// Its pools, IPv4 first.
    pub fn pools(&self) -> impl Iterator<Item = AddressPool> {
        self.pool.into_iter().chain(self.pool6)
    }

    /// Whether it can be one at all, by itself. Fields are named as in the HTTP API.
    ///
    /// # Errors
    /// The field and the rule that it breaks.
    pub fn check(&self, name: &str) -> Result<(), FieldError> {
        check_network_name("name", name)?;
        if self.pools().next().is_none() {
            let rule = "must be given, unless subnet6 is";
            return Err(FieldError::new("subnet", rule));
        }
        let families = [
            (self.pool, true, PREFIXES, "subnet", "prefix"),
            (self.pool6, false, PREFIXES6, "subnet6", "prefix6"),
        ];
        for (pool, is_v4, prefixes, subnet, prefix) in families {
            let Some(pool) = pool else { continue };
            let (least, longest) = (*prefixes.start(), *prefixes.end());
            if pool.net.is_ipv4() != is_v4 {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                let rule = format!("must be an {family} network, is {}", pool.net);
                return Err(FieldError::new(subnet, rule));
            }
            if !prefixes.contains(&pool.net.prefix()) {
                let rule = format!(
                    "must have a prefix between {least} and {longest}, is {}",
                    pool.net
                );
                return Err(FieldError::new(subnet, rule));
            }
            let longest = longest.min(pool.net.prefix().saturating_add(MAX_CUT));
            if !(pool.net.prefix()..=longest).contains(&pool.prefix) {
                let rule = format!(
                    "must be between {} and {longest} for {}, is {}",
                    pool.net.prefix(),
                    pool.net,
                    pool.prefix
                );
                return Err(FieldError::new(prefix, rule));
            }
            if let Some(what) = unusable(pool.net) {
                let rule = format!("must not be in {what}, is {}", pool.net);
                return Err(FieldError::new(subnet, rule));
            }
        }
        if let Some(mtu) = self.mtu {
            let least = if self.pool6.is_some() {
                MIN_MTU6
            } else {
                MIN_MTU
            };
            if !(least..=MAX_MTU).contains(&mtu) {
                let rule = format!("must be between {least} and {MAX_MTU}, is {mtu}");
                return Err(FieldError::new("mtu", rule));
            }
        }
        Ok(())
    }
}

/// Ranges that mean something else everywhere.
fn unusable(net: IpNet) -> Option<&'static str> {
    let is_in = |ip: IpAddr, prefix| IpNet::around(ip, prefix).overlaps(net);
    let v4 = |a, b| IpAddr::V4(Ipv4Addr::new(a, b, 0, 0));
    let v6 = |a| IpAddr::V6(Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, 0));
    [
        (v4(0, 0), 8, "0.0.0.0/8"),
        (v4(127, 0), 8, "127.0.0.0/8"),
        (v4(169, 254), 16, "169.254.0.0/16"),
        (v4(224, 0), 3, "224.0.0.0/3"),
        (v6(0), 8, "::/8"),
        (v6(0xfe80), 10, "fe80::/10"),
        (v6(0xff00), 8, "ff00::/8"),
    ]
    .into_iter()
    .find_map(|(ip, prefix, name)| is_in(ip, prefix).then_some(name))
}

/// Whether a network may be called so: DC/OS's rules, and characters that are safe in paths and labels.
///
/// # Errors
/// The rule that it breaks, for `field`.
pub fn check_network_name(field: &str, name: &str) -> Result<(), FieldError> {
    let wrong = |rule: String| Err(FieldError::new(field, rule));
    if name.is_empty() || name.len() > MAX_NETWORK_NAME {
        return wrong(format!(
            "must have 1 to {MAX_NETWORK_NAME} characters, is {name:.40?}"
        ));
    }
    if matches!(name, "host" | "bridge" | "default" | "none") {
        return wrong(format!(
            "must not be host, bridge, default or none, is {name:?}"
        ));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
        return wrong(format!(
            "must begin with a letter or digit and go on with letters, digits, -, _ or ., is {name:?}"
        ));
    }
    Ok(())
}

/// How networks are carried between nodes: the same on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vxlan {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Addresses of nodes' tunnel endpoints.
    pub vteps: IpNet,
    /// The same over IPv6.
    pub vteps6: IpNet,
}

impl Default for Vxlan {
    /// DC/OS's: VNI 1024 on port 64000, endpoints in 44.128.0.0/20 and fd01:a::/64.
    fn default() -> Self {
        let six = Ipv6Addr::new(0xfd01, 0xa, 0, 0, 0, 0, 0, 0);
        Self {
            vni: 1024,
            port: 64_000,
            vteps: IpNet::around(Ipv4Addr::new(44, 128, 0, 0).into(), 20),
            vteps6: IpNet::around(six.into(), 64),
        }
    }
}

impl Vxlan {
    /// Whether networks can be carried so. Fields are named as in a master's configuration.
    ///
    /// # Errors
    /// The field and the rule that it breaks.
    pub fn check(&self) -> Result<(), FieldError> {
        let wrong = |field, rule: String| Err(FieldError::new(field, rule));
        if self.vni >= 1 << 24 {
            return wrong(
                "overlay-vni",
                format!("must be below 2^24, is {}", self.vni),
            );
        }
        if self.port == 0 {
            return wrong("overlay-port", "must not be 0".to_owned());
        }
        let families = [
            (self.vteps, true, 8..=29, "vtep-subnet"),
            (self.vteps6, false, 16..=112, "vtep-subnet6"),
        ];
        for (net, is_v4, prefixes, field) in families {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            if net.is_ipv4() != is_v4 || !prefixes.contains(&net.prefix()) {
                let rule = format!(
                    "must be an {family} network with a prefix between {} and {}, is {net}",
                    prefixes.start(),
                    prefixes.end()
                );
                return wrong(field, rule);
            }
            if let Some(what) = unusable(net) {
                return wrong(field, format!("must not be in {what}, is {net}"));
            }
        }
        Ok(())
    }
}

/// The tunnel endpoint of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vtep {
    /// Its address inside of the networks: what the node itself sends to containers from.
    pub ip: Ipv4Addr,
    /// The same over IPv6.
    pub ip6: Option<Ipv6Addr>,
}

impl Vtep {
    /// Its hardware address, as DC/OS makes it: 70:b3:d5 and the low 24 bits of its address.
    pub const fn mac(&self) -> [u8; 6] {
        let [_, b, c, d] = self.ip.octets();
        [0x70, 0xb3, 0xd5, b, c, d]
    }
}

/// What an agent holds of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AgentSubnet {
    /// Of its IPv4 addresses; `None` where the network has none, or none were left.
    pub v4: Option<IpNet>,
    /// Of its IPv6 addresses.
    pub v6: Option<IpNet>,
}

impl AgentSubnet {
    /// Both, IPv4 first.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// What an agent holds of the overlay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AgentOverlay {
    /// Its tunnel endpoint; `None` when none was left for it.
    pub vtep: Option<Vtep>,
    /// Its subnets, by network.
    pub subnets: Subnets,
    /// Its key, where it encrypts what it sends to other nodes.
    pub wireguard: Option<WireguardKey>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_read_as_written() {
        for good in [
            "9.0.0.0/8",
            "0.0.0.0/0",
            "10.1.2.3/32",
            "fd01:b::/64",
            "::/0",
        ] {
            assert_eq!(net(good).to_string(), good);
        }
        for bad in [
            "9.0.0.1/8",
            "9.0.0.0",
            "9.0.0.0/33",
            "fd01::1/64",
            "::/129",
            "x/8",
        ] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pool_is_cut_in_order() {
        let pool = net("9.0.0.0/8");
        assert_eq!(pool.n_subnets(24), Some(1 << 16));
        assert_eq!(pool.nth_subnet(24, 0), Some(net("9.0.0.0/24")));
        assert_eq!(pool.nth_subnet(24, 257), Some(net("9.1.1.0/24")));
        assert_eq!(pool.nth_subnet(24, 1 << 16), None);
        let six = net("fd01:b::/64");
        assert_eq!(six.nth_subnet(80, 1), Some(net("fd01:b:0:0:1::/80")));
        assert_eq!(six.nth_subnet(80, 65_536), None);
        assert_eq!(six.n_subnets(63), None);
        assert_eq!(net("10.0.0.0/30").nth(3), Some("10.0.0.3".parse().unwrap()));
        assert_eq!(net("10.0.0.0/30").nth(4), None);
    }

    #[test]
    fn the_vtep_of_dcos() {
        let vtep = Vtep {
            ip: Ipv4Addr::new(44, 128, 0, 1),
            ip6: None,
        };
        assert_eq!(vtep.mac(), [0x70, 0xb3, 0xd5, 0x80, 0x00, 0x01]);
    }

    #[test]
    fn wrong_networks_are_refused_by_field() {
        let with = |change: fn(&mut Network)| {
            let mut network = Network::dcos();
            change(&mut network);
            network.check("dcos").err().map(|e| e.field)
        };
        let pool = |text: &str, prefix| {
            let net = text.parse().unwrap();
            Some(AddressPool { net, prefix })
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(Network::dcos6().check("dcos6"), Ok(()));
        let field = |f: &str| Some(f.to_owned());
        assert_eq!(with(|n| n.pool = None), field("subnet"));
        let mut network = Network::dcos();
        for (text, prefix, want) in [
            ("9.0.0.0/7", 24, None),
            ("8.0.0.0/7", 24, field("subnet")),
            ("9.0.0.0/30", 30, field("subnet")),
            ("9.0.0.0/8", 7, field("prefix")),
            ("9.0.0.0/8", 30, field("prefix")),
            ("127.0.0.0/8", 24, field("subnet")),
            ("224.0.0.0/8", 24, field("subnet")),
            ("fd01::/64", 80, field("subnet")),
        ] {
            if text.parse::<IpNet>().is_err() {
                assert_eq!(want, None, "{text}");
                continue;
            }
            network.pool = pool(text, prefix);
            let found = network.check("dcos").err().map(|e| e.field);
            assert_eq!(found, want, "{text} {prefix}");
        }
        assert_eq!(with(|n| n.mtu = Some(551)), field("mtu"));
        assert_eq!(with(|n| n.mtu = Some(65_500)), field("mtu"));
        let mut six = Network::dcos6();
        six.mtu = Some(1279);
        assert_eq!(six.check("x").err().map(|e| e.field), field("mtu"));
        for name in [
            "",
            "host",
            "bridge",
            "default",
            "none",
            "a/b",
            "-a",
            "abcdefghijklmn",
        ] {
            let found = Network::dcos().check(name).err().map(|e| e.field);
            assert_eq!(found, field("name"), "{name}");
        }
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u32>(), 0u8..=32)
            .prop_map(|(b, p)| IpNet::around(Ipv4Addr::from_bits(b).into(), p));
        let v6 = (any::<u128>(), 0u8..=128)
            .prop_map(|(b, p)| IpNet::around(Ipv6Addr::from_bits(b).into(), p));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn a_network_has_its_ends_and_reads_back(net in any_net()) {
            prop_assert!(net.contains(net.ip()) && net.contains(net.last()));
            prop_assert!(net.covers(net) && net.overlaps(net));
            prop_assert_eq!(net.to_string().parse::<IpNet>().unwrap(), net);
            prop_assert_eq!(net.nth(net.n_after_first()), Some(net.last()));
        }

        #[test]
        fn subnets_are_inside_apart_and_know_their_place(net in any_net(), cut in 0u8..=20, n: u32, m: u32) {
            let prefix = net.prefix() + cut;
            if let Some(count) = net.n_subnets(prefix) {
                let (n, m) = (u128::from(n) % count, u128::from(m) % count);
                let (a, b) = (net.nth_subnet(prefix, n).unwrap(), net.nth_subnet(prefix, m).unwrap());
                prop_assert!(net.covers(a) && net.covers(b));
                prop_assert_eq!(a.overlaps(b), n == m);
                prop_assert_eq!(net.subnet_index(a), Some(n));
            } else {
                prop_assert_eq!(net.nth_subnet(prefix, 0), None);
            }
        }
    }
}
