//! Ids that both ends of a connection make without talking: hashes of what both see.
//!
//! A request is told by its hop: client's address, server's address, TCP sequence number of its first byte, stream of HTTP/2. The hash is
//! SipHash-2-4 with the key 00 01 .. 0f over: client's address (16 bytes, IPv4 mapped), its port, server's address, its port, sequence
//! number, stream (all big endian), and one byte: 1 for the client's span id, 2 for the server's, 3 and 4 for the halves of the trace id,
//! 5 and 6 for the key under which ends on one node find each other. Changing any of it parts agents of two versions.

use crate::Addr;

/// Span of the client's end.
pub const CLIENT_SPAN: u8 = 1;
/// Span of the server's end.
pub const SERVER_SPAN: u8 = 2;
/// High half of the trace.
pub const TRACE_HIGH: u8 = 3;
/// Low half of the trace.
pub const TRACE_LOW: u8 = 4;
/// High half of the key under which ends on one node find each other.
pub const KEY_HIGH: u8 = 5;
/// Its low half.
pub const KEY_LOW: u8 = 6;

/// Bytes that are hashed.
const BYTES: u64 = 45;

/// What is hashed of a hop, but for the last byte: words, little end first. Addresses are as they are on the wire, IPv4 mapped; ports
/// are numbers.
#[inline(always)]
pub fn hop(client: (&Addr, u16), server: (&Addr, u16), sequence: u32, stream: u32) -> [u64; 6] {
    let c = |n: usize| u64::from(u32::from_le(client.0[n]));
    let s = |n: usize| u64::from(u32::from_le(server.0[n]));
    let port = |port: u16| u64::from(port.swap_bytes());
    [
        c(0) | c(1) << 32,
        c(2) | c(3) << 32,
        port(client.1) | s(0) << 16 | s(1) << 48,
        s(1) >> 16 | s(2) << 16 | s(3) << 48,
        s(3) >> 16 | port(server.1) << 16 | u64::from(sequence.swap_bytes()) << 32,
        u64::from(stream.swap_bytes()),
    ]
}

/// SipHash-2-4 (Aumasson, Bernstein) of a hop and `what`, with the key of its reference vectors.
#[inline(always)]
pub fn hash(hop: &[u64; 6], what: u8) -> u64 {
    let (k0, k1) = (0x0706_0504_0302_0100_u64, 0x0f0e_0d0c_0b0a_0908_u64);
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut n = 0;
    while n < 6 {
        let mut word = hop[n];
        if n == 5 {
            word |= u64::from(what) << 32 | BYTES << 56;
        }
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
        n += 1;
    }
    v[2] ^= 0xff;
    n = 0;
    while n < 4 {
        round(&mut v);
        n += 1;
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use crate::addr_of;

    #[test]
    fn agents_of_all_versions_come_to_the_same() {
        let addr = |text: &str| addr_of(text.parse::<IpAddr>().unwrap());
        let (client, server) = (addr("10.0.0.1"), addr("10.0.0.2"));
        let hop = hop((&client, 4000), (&server, 80), 7, 0);
        assert_eq!(hash(&hop, TRACE_HIGH), 0xaac2_0ab6_e3ac_c236);
        assert_eq!(hash(&hop, TRACE_LOW), 0xaa2b_4884_1284_15a2);
    }
}
