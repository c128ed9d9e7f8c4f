//! Addresses as the maps hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address in four words, each in network byte order; IPv4 addresses are IPv4-mapped (RFC 4291, 2.5.5.2).
/// One form for both families: one map, one program path, and dual-stack sockets need no case of their own.
pub type Addr = [u32; 4];

/// Third word of an IPv4-mapped address, network order.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// The maps' form of an address.
pub const fn addr_of(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => [0, 0, MAPPED, u32::from_ne_bytes(ip.octets())],
        IpAddr::V6(ip) => {
            let o = ip.octets();
            [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ]
        }
    }
}

/// An address from the maps' form; IPv4-mapped ones are IPv4.
pub const fn ip_of(addr: Addr) -> IpAddr {
    let [a, b, c, d] = [
        addr[0].to_ne_bytes(),
        addr[1].to_ne_bytes(),
        addr[2].to_ne_bytes(),
        addr[3].to_ne_bytes(),
    ];
    if addr[0] == 0 && addr[1] == 0 && addr[2] == MAPPED {
        return IpAddr::V4(Ipv4Addr::new(d[0], d[1], d[2], d[3]));
    }
    IpAddr::V6(Ipv6Addr::from_octets([
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]))
}
