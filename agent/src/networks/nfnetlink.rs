//! The kernel's packet filter and connection table by nfnetlink messages: what a join and a leave change, without
//! starting a program. Formats: `linux/netfilter/nfnetlink.h`, `nf_tables.h`, `nfnetlink_conntrack.h`.

use std::{collections::BTreeSet, io, net::Ipv4Addr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::plan::Mapping;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// `struct nfgenmsg`.
const GENERIC: usize = 4;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const CONNTRACK: u16 = 1 << 8;
const CT_GET: u16 = CONNTRACK | 1;
const CT_DELETE: u16 = CONNTRACK | 2;
/// `CTA_TUPLE_REPLY`.
const REPLY: u16 = 2;
const TABLES: u16 = 10;
const NFT_GET_TABLE: u16 = (TABLES << 8) | 1;
const NFT_DELETE_TABLE: u16 = (TABLES << 8) | 2;
const NFT_NEW_ELEMENTS: u16 = (TABLES << 8) | 0x0c;
const NFT_DELETE_ELEMENTS: u16 = (TABLES << 8) | 0x0e;
/// `NFPROTO_INET`.
const INET: u8 = 1;

/// Elements in one message; an attribute's length is 16 bits.
const CHUNK: usize = 512;

/// A socket of the network namespace that its opener's thread was in.
pub struct NfNetlink {
    socket: Socket,
    sequence: u32,
}

impl NfNetlink {
    /// In the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Whether the table exists.
    pub fn has_table(&mut self, table: &str) -> io::Result<bool> {
        let mut out = Vec::new();
        let at = self.begin(&mut out, NFT_GET_TABLE, NLM_F_ACK, (INET, 0));
        text(&mut out, 1, table);
        end(&mut out, at);
        match self.talk(&out, 1) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes a table and all in it.
    pub fn delete_table(&mut self, table: &str) -> io::Result<()> {
        let mut out = Vec::new();
        self.batch(&mut out, |me, out| {
            let at = me.begin(out, NFT_DELETE_TABLE, NLM_F_ACK, (INET, 0));
            text(out, 1, table);
            end(out, at);
        });
        self.talk(&out, 1).map(|_| ())
    }

    /// Adds elements to a map from protocol and port to address and port, or removes them; all or none.
    pub fn change(
        &mut self,
        (table, map): (&str, &str),
        add: bool,
        ip: Ipv4Addr,
        ports: &[Mapping],
    ) -> io::Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        let kind = if add {
            NFT_NEW_ELEMENTS
        } else {
            NFT_DELETE_ELEMENTS
        };
        let flags = if add {
            NLM_F_ACK | NLM_F_CREATE
        } else {
            NLM_F_ACK
        };
        self.batch(&mut out, |me, out| {
            for chunk in ports.chunks(CHUNK) {
                let at = me.begin(out, kind, flags, (INET, 0));
                text(out, 1, table);
                text(out, 2, map);
                nested(out, 3, |out| {
                    for port in chunk {
                        nested(out, 1, |out| element(out, ip, *port));
                    }
                });
                end(out, at);
            }
        });
        self.talk(&out, ports.len().div_ceil(CHUNK)).map(|_| ())
    }

    /// Forgets connections that were led to one of these addresses: a later holder of the host port must get the next
    /// packets, not the dead. With `ports` only those that came by one of them. Returns how many there were.
    ///
    /// The kernel looks through its whole table each time, which takes it tens of milliseconds: ask for many at once.
    pub fn forget(
        &mut self,
        ips: &BTreeSet<Ipv4Addr>,
        ports: Option<&[Mapping]>,
    ) -> io::Result<usize> {
        let inet = u8::try_from(libc::AF_INET).unwrap_or_default();
        let mut out = Vec::new();
        let at = self.begin(&mut out, CT_GET, NLM_F_DUMP, (inet, 0));
        if let (1, Some(ip)) = (ips.len(), ips.first()) {
            // CTA_TUPLE_REPLY, and in CTA_FILTER (Linux 5.8) the flag that says to look at its source address.
            nested(&mut out, REPLY, |out| {
                nested(out, 1, |out| attribute(out, 1, &ip.octets()));
            });
            nested(&mut out, 25, |out| {
                attribute(out, REPLY, &1u32.to_ne_bytes());
            });
        }
        end(&mut out, at);
        let is_meant = |message: &Vec<u8>| {
            let attributes = message.get(GENERIC..).unwrap_or_default();
            let Some((from, protocol, port)) = source(attributes, REPLY) else {
                return false;
            };
            let is_among = |ports: &[Mapping]| {
                ports
                    .iter()
                    .any(|p| (p.protocol.number(), p.container_port) == (protocol, port))
            };
            ips.contains(&from) && ports.is_none_or(is_among)
        };
        let found = self.talk(&out, 0)?;
        let tuples: Vec<Vec<u8>> = found.into_iter().filter(is_meant).collect();
        let mut n = 0;
        for message in tuples {
            let mut out = Vec::new();
            let at = self.begin(&mut out, CT_DELETE, NLM_F_ACK, (inet, 0));
            for (kind, value) in attributes(message.get(GENERIC..).unwrap_or_default()) {
                // The tuple as it was told, its zone and its id.
                if matches!(kind & !NESTED, 1 | 12 | 18) {
                    attribute(&mut out, kind, value);
                }
            }
            end(&mut out, at);
            match self.talk(&out, 1) {
                Ok(_) => n += 1,
                // It ended by itself.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(n)
    }

    fn batch(&mut self, out: &mut Vec<u8>, inner: impl FnOnce(&mut Self, &mut Vec<u8>)) {
        let at = self.begin(out, BATCH_BEGIN, 0, (0, TABLES));
        end(out, at);
        inner(self, out);
        let at = self.begin(out, BATCH_END, 0, (0, TABLES));
        end(out, at);
    }

    fn begin(
        &mut self,
        out: &mut Vec<u8>,
        kind: u16,
        flags: u16,
        (family, resource): (u8, u16),
    ) -> usize {
        self.sequence = self.sequence.wrapping_add(1);
        let at = out.len();
        out.extend(0u32.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend(self.sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend([family, 0]);
        out.extend(resource.to_be_bytes());
        at
    }

    /// Sends and waits for so many acknowledgements, or for the end of a dump when it is none. An error of any message
    /// is the result. Answers are the messages' bodies.
    fn talk(&mut self, out: &[u8], n_acks: usize) -> io::Result<Vec<Vec<u8>>> {
        let first = u32::from_ne_bytes(array(out, 8)?);
        self.socket.send(out, 0)?;
        let mut found = Vec::new();
        let mut n_seen = 0;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while rest.len() >= HEADER {
                let len = u32::from_ne_bytes(array(rest, 0)?) as usize;
                let kind = u16::from_ne_bytes(array(rest, 4)?);
                let sequence = u32::from_ne_bytes(array(rest, 8)?);
                let body = rest.get(HEADER..len).unwrap_or_default();
                rest = rest
                    .get(len.max(HEADER).next_multiple_of(4)..)
                    .unwrap_or_default();
                // An answer to something before that had failed early.
                if sequence.wrapping_sub(first) > u32::MAX / 2 {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => {
                        let code = i32::from_ne_bytes(array(body, 0)?);
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(-code));
                        }
                        n_seen += 1;
                        if n_seen >= n_acks {
                            return Ok(found);
                        }
                    }
                    NLMSG_DONE => return Ok(found),
                    _ => found.push(body.to_vec()),
                }
            }
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    bytes
        .get(at..at + N)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn end(out: &mut [u8], at: usize) {
    let len = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&len.to_ne_bytes());
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn text(out: &mut Vec<u8>, kind: u16, value: &str) {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    attribute(out, kind, &bytes);
}

fn nested(out: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    attribute(out, kind | NESTED, &[]);
    inner(out);
    let len = u16::try_from(out.len() - at).unwrap_or(u16::MAX);
    out[at..at + 2].copy_from_slice(&len.to_ne_bytes());
}

/// Fields of a concatenation fill 32 bits each.
fn element(out: &mut Vec<u8>, ip: Ipv4Addr, port: Mapping) {
    let mut key = [port.protocol.number(), 0, 0, 0, 0, 0, 0, 0];
    key[4..6].copy_from_slice(&port.host_port.to_be_bytes());
    let mut data = [0; 8];
    data[..4].copy_from_slice(&ip.octets());
    data[4..6].copy_from_slice(&port.container_port.to_be_bytes());
    nested(out, 1, |out| attribute(out, 1, &key));
    nested(out, 2, |out| attribute(out, 1, &data));
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(array(rest, 0).ok()?));
        let kind = u16::from_ne_bytes(array(rest, 2).ok()?);
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn inside(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| kind & !NESTED == wanted)
        .map(|(_, value)| value)
}

/// Source address, protocol and source port of a connection's tuple; port 0 where the protocol has none.
fn source(bytes: &[u8], direction: u16) -> Option<(Ipv4Addr, u8, u16)> {
    let tuple = inside(bytes, direction)?;
    let octets: [u8; 4] = inside(inside(tuple, 1)?, 1)?.try_into().ok()?;
    let protocol = inside(tuple, 2).unwrap_or_default();
    let number = inside(protocol, 1).and_then(|p| p.first().copied());
    let port = inside(protocol, 2).and_then(|p| p.try_into().ok());
    let port = port.map_or(0, u16::from_be_bytes);
    Some((Ipv4Addr::from(octets), number.unwrap_or(0), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = Vec::new();
        nested(&mut out, 2, |out| {
            nested(out, 1, |out| attribute(out, 1, &[10, 0, 0, 7]));
            nested(out, 2, |out| {
                attribute(out, 1, &[6]);
                attribute(out, 2, &80u16.to_be_bytes());
            });
        });
        text(&mut out, 9, "abc");
        assert_eq!(out.len() % 4, 0);
        assert_eq!(source(&out, 2), Some((Ipv4Addr::new(10, 0, 0, 7), 6, 80)));
        assert_eq!(source(&out, 1), None);
        assert_eq!(inside(&out, 9), Some(b"abc\0".as_slice()));
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = source(&bytes, 1);
            prop_assert!(attributes(&bytes).count() <= 16);
        }
    }
}
