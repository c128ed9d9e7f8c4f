//! Ids that both ends of a connection make without talking: hashes of what both see ([`waggle_ebpf_common::inject::ids`]).

use std::net::SocketAddr;

use waggle_ebpf_common::{addr_of, inject::ids};

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
        self.hash(ids::CLIENT_SPAN).max(1)
    }

    pub(super) fn server_span(&self) -> u64 {
        self.hash(ids::SERVER_SPAN).max(1)
    }

    /// The trace that begins here, where no other is known.
    pub(super) fn trace(&self) -> u128 {
        (u128::from(self.hash(ids::TRACE_HIGH)) << 64 | u128::from(self.hash(ids::TRACE_LOW)))
            .max(1)
    }

    pub(super) fn key(&self) -> u128 {
        u128::from(self.hash(ids::KEY_HIGH)) << 64 | u128::from(self.hash(ids::KEY_LOW))
    }

    fn hash(&self, what: u8) -> u64 {
        let address = |a: SocketAddr| addr_of(a.ip());
        let (client, server) = (address(self.client), address(self.server));
        let hop = ids::hop(
            (&client, self.client.port()),
            (&server, self.server.port()),
            self.sequence,
            self.stream,
        );
        ids::hash(&hop, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
