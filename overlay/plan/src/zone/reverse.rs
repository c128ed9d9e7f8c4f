//! Names of addresses: `1.0.0.11.in-addr.arpa` (RFC 1035), and `ip6.arpa` by nibbles (RFC 3596).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::DnsName;

/// The name that PTR records of an address are at.
pub fn reverse_name(ip: IpAddr) -> DnsName {
    let text = match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let mut text = String::with_capacity(72);
            for byte in ip.octets().into_iter().rev() {
                text.push_str(&format!("{:x}.{:x}.", byte & 15, byte >> 4));
            }
            text + "ip6.arpa"
        }
    };
    // Both forms are within RFC 1035's limits.
    DnsName::parse(&text).unwrap_or_default()
}

/// The address that a whole reverse name is about.
pub fn reverse_address(name: &DnsName) -> Option<IpAddr> {
    let labels: Vec<&str> = name
        .labels_from_root()
        .map(std::str::from_utf8)
        .collect::<Result<_, _>>()
        .ok()?;
    match labels.as_slice() {
        ["arpa", "in-addr", octets @ ..] if octets.len() == 4 => {
            let mut out = [0; 4];
            for (byte, text) in out.iter_mut().zip(octets) {
                *byte = text.parse().ok()?;
            }
            let ip = IpAddr::V4(Ipv4Addr::from(out));
            (reverse_name(ip) == *name).then_some(ip)
        }
        ["arpa", "ip6", nibbles @ ..] if nibbles.len() == 32 => {
            let mut bits = 0u128;
            for text in nibbles {
                let nibble = u128::from_str_radix(text, 16).ok()?;
                bits = (bits << 4) | nibble;
            }
            let ip = IpAddr::V6(Ipv6Addr::from(bits));
            (reverse_name(ip) == *name).then_some(ip)
        }
        _ => None,
    }
}
