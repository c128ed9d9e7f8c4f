//! Ids that both ends of a connection make without talking: hashes of what both see.
//!
//! A request is told by its hop: client's address, server's address, TCP sequence number of its first byte, stream of HTTP/2. The hash is
//! SipHash-2-4 with the key 00 01 .. 0f over: client's address (16 bytes, IPv4 mapped), its port, server's address, its port, sequence
//! number, stream (all big endian), and one byte: 1 for the client's span id, 2 for the server's, 3 and 4 for the halves of the trace id,
//! 5 and 6 for the key under which ends on one node find each other. Changing any of it parts agents of two versions.

use std::net::SocketAddr;

/// One request between two ends, as both ends see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) sequence: u32,
    /// 0 with HTTP/1.
    pub(super) stream: u32,
}

impl Hop {
    pub(super) fn client_span(&self) -> u64 {
        self.hash(1).max(1)
    }

    pub(super) fn server_span(&self) -> u64 {
        self.hash(2).max(1)
    }

    /// The trace that begins here, where no other is known.
    pub(super) fn trace(&self) -> u128 {
        (u128::from(self.hash(3)) << 64 | u128::from(self.hash(4))).max(1)
    }

    pub(super) fn key(&self) -> u128 {
        u128::from(self.hash(5)) << 64 | u128::from(self.hash(6))
    }

    fn hash(&self, what: u8) -> u64 {
        let mut bytes = [0; 45];
        let address = |a: SocketAddr| match a.ip().to_canonical() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        };
        let (client, server) = (address(self.client), address(self.server));
        let parts: [&[u8]; 7] = [
            &client,
            &self.client.port().to_be_bytes(),
            &server,
            &self.server.port().to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.stream.to_be_bytes(),
            &[what],
        ];
        let all = parts.into_iter().flatten();
        for (to, from) in bytes.iter_mut().zip(all) {
            *to = *from;
        }
        siphash(&bytes)
    }
}

/// SipHash-2-4 (Aumasson, Bernstein), with the key of its reference vectors.
fn siphash(bytes: &[u8]) -> u64 {
    let (k0, k1) = (0x0706_0504_0302_0100_u64, 0x0f0e_0d0c_0b0a_0908_u64);
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut blocks = bytes.chunks_exact(8);
    let absorb = |m: u64, v: &mut [u64; 4]| {
        v[3] ^= m;
        round(v);
        round(v);
        v[0] ^= m;
    };
    for block in &mut blocks {
        let word = block.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        absorb(word, &mut v);
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(blocks.remainder()) {
        *to = *from;
    }
    let length = (bytes.len() as u64) << 56;
    absorb(u64::from_le_bytes(last) | length, &mut v);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

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
    use super::*;

    #[test]
    fn the_hash_is_the_papers() {
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(&bytes), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(&[]), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn both_ends_agree_however_they_write_an_address() {
        let hop = |client: &str| Hop {
            client: client.parse().unwrap(),
            server: "10.0.0.2:80".parse().unwrap(),
            sequence: 7,
            stream: 0,
        };
        let (four, six) = (hop("10.0.0.1:4000"), hop("[::ffff:10.0.0.1]:4000"));
        assert_eq!(four.trace(), six.trace());
        assert_eq!(four.client_span(), six.client_span());
        assert_ne!(four.client_span(), four.server_span());
        assert_ne!(
            four.trace(),
            Hop {
                sequence: 8,
                ..four
            }
            .trace()
        );
        // Agents of other versions must come to the same.
        assert_eq!(format!("{:032x}", four.trace()), TRACE);
    }

    const TRACE: &str = "aac20ab6e3acc236aa2b4884128415a2";
}
