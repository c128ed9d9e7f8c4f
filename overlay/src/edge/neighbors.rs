//! Link-layer addresses of the nodes on the uplink's own network. Nodes beyond a router need none: what is for them
//! goes back to the router that the client's packet came from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, UdpSocket},
};

/// "Discard" (RFC 863): a datagram that asks for nothing but the neighbor's address.
const DISCARD: u16 = 9;
/// Neighbors that are asked for at a time.
const MAX_ASKED: usize = 256;

/// Those that the kernel knows on a device.
pub(super) fn of(device: &str) -> BTreeMap<Ipv4Addr, [u8; 6]> {
    // This thread's: `/proc/net` would be the process's.
    fs::read_to_string("/proc/thread-self/net/arp")
        .map_or_else(|_| BTreeMap::new(), |t| parse(&t, device))
}

/// Makes the kernel ask for those that it does not know; it answers with the next [`of`].
pub(super) fn ask(nodes: BTreeSet<Ipv4Addr>) {
    if nodes.is_empty() {
        return;
    }
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else {
        return;
    };
    for node in nodes.into_iter().take(MAX_ASKED) {
        // A node without a route is none that anybody could reach.
        let _ = socket.send_to(&[], (node, DISCARD));
    }
}

/// The kernel's table, a line each: address, type, flags, link-layer address, mask, device.
fn parse(text: &str, device: &str) -> BTreeMap<Ipv4Addr, [u8; 6]> {
    const COMPLETE: u32 = 0x2;
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [ip, _, flags, mac, _, dev] = words[..] else {
                return None;
            };
            let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
            if dev != device || flags & COMPLETE == 0 {
                return None;
            }
            let bytes = mac
                .split(':')
                .map(|part| u8::from_str_radix(part, 16).ok())
                .collect::<Option<Vec<u8>>>()?;
            Some((ip.parse().ok()?, bytes.try_into().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_neighbors_of_the_device_are_read() {
        let text = "IP address       HW type     Flags       HW address            Mask     Device\n\
                    10.0.0.2         0x1         0x2         02:00:00:00:00:0a     *        eth0\n\
                    10.0.0.3         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                    10.0.0.4         0x1         0x2         02:00:00:00:00:0b     *        eth1\n\
                    what is this\n";
        let expected = BTreeMap::from([(Ipv4Addr::new(10, 0, 0, 2), [2, 0, 0, 0, 0, 10])]);
        assert_eq!(parse(text, "eth0"), expected);
        assert_eq!(parse("", "eth0"), BTreeMap::new());
    }
}
