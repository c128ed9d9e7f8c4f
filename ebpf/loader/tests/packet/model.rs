//! What the programs should do, naively: maps, and packets built anew.

use std::collections::BTreeMap;

use crate::fixture::{
    ACK, CLIENT_MAC, EDGE_MAC, FIN, ICMP, Packet, RST, SYN, TCP, checksum, ethernet, ip_header,
    transport_checksum,
};
use crate::rig::At;

/// Left alone or changed.
pub const OK: u32 = u32::MAX;
/// Dropped.
pub const SHOT: u32 = 2;
/// Sent back.
pub const REDIRECT: u32 = 7;

/// A client's or a backend's side of a flow.
type Pair = (At, At, u8);

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Expect {
    /// This verdict, this frame.
    Exactly(u32, Vec<u8>),
    /// Dropped.
    Dropped,
    /// A new flow to one of these; perhaps dropped, if some other one can't be told from another flow.
    One(Vec<At>, bool),
}

#[derive(Default)]
pub struct Model {
    pub vips: BTreeMap<(At, u8), Vec<At>>,
    /// (client, VIP): backend, and whether it ends.
    flows: BTreeMap<Pair, (At, bool)>,
    /// (backend, client): VIP, and whether it ends.
    answers: BTreeMap<Pair, (At, bool)>,
}

pub fn ends(packet: &Packet) -> bool {
    packet.proto == TCP && packet.flags & (FIN | RST) != 0
}

pub fn to(packet: &Packet, at: At) -> Packet {
    Packet {
        dst: at.0,
        dport: at.1,
        ..packet.clone()
    }
}

pub fn from(packet: &Packet, at: At) -> Packet {
    Packet {
        src: at.0,
        sport: at.1,
        ..packet.clone()
    }
}

impl Model {
    /// What `packet_in` does.
    pub fn inbound(&mut self, packet: &Packet) -> Expect {
        let (src, dst) = ((packet.src, packet.sport), (packet.dst, packet.dport));
        let pair = (src, dst, packet.proto);
        let begins = packet.proto != TCP || packet.flags & (SYN | ACK) == SYN;
        if let Some(backends) = self.vips.get(&(dst, packet.proto)).cloned() {
            let known = self.flows.get(&pair).copied();
            return match known {
                Some((backend, is_over)) if !begins || packet.proto != TCP || !is_over => {
                    self.follow(packet, backend)
                }
                _ if !begins && packet.flags & RST != 0 => Expect::Dropped,
                _ if !begins => Expect::Exactly(REDIRECT, reset(packet)),
                _ if backends.is_empty() => Expect::Exactly(REDIRECT, refusal(packet)),
                _ => {
                    let (free, taken): (Vec<At>, Vec<At>) =
                        backends.into_iter().partition(|backend| {
                            match self.answers.get(&(*backend, src, packet.proto)) {
                                Some((vip, is_over)) => {
                                    *vip == dst || (*is_over && packet.proto == TCP)
                                }
                                None => true,
                            }
                        });
                    Expect::One(free, !taken.is_empty())
                }
            };
        }
        if let Expect::Exactly(verdict, frame) = self.outbound(packet)
            && frame != packet.frame()
        {
            return Expect::Exactly(verdict, frame);
        }
        if begins {
            self.answers.remove(&(dst, src, packet.proto));
        }
        Expect::Exactly(OK, packet.frame())
    }

    /// What `packet_out` does with what the node itself sends.
    pub fn own(&mut self, packet: &Packet) -> Expect {
        let (src, dst) = ((packet.src, packet.sport), (packet.dst, packet.dport));
        let is_answer = self.answers.contains_key(&(src, dst, packet.proto));
        if is_answer || !self.vips.contains_key(&(dst, packet.proto)) {
            return self.outbound(packet);
        }
        match self.inbound(packet) {
            // Routed again.
            Expect::Exactly(OK, frame) => Expect::Exactly(REDIRECT, frame),
            other => other,
        }
    }

    /// The program chose.
    pub fn chose(&mut self, packet: &Packet, backend: At) {
        let (src, dst) = ((packet.src, packet.sport), (packet.dst, packet.dport));
        self.flows
            .insert((src, dst, packet.proto), (backend, false));
        self.answers
            .insert((backend, src, packet.proto), (dst, false));
    }

    fn follow(&mut self, packet: &Packet, backend: At) -> Expect {
        let (src, dst) = ((packet.src, packet.sport), (packet.dst, packet.dport));
        let flow = self
            .flows
            .entry((src, dst, packet.proto))
            .or_insert((backend, false));
        flow.1 |= ends(packet);
        let over = flow.1;
        let answer = self
            .answers
            .entry((backend, src, packet.proto))
            .or_insert((dst, over));
        if answer.0 != dst {
            if packet.proto != TCP || !answer.1 {
                return Expect::Dropped;
            }
            answer.0 = dst;
        }
        answer.1 = over;
        Expect::Exactly(OK, to(packet, backend).frame())
    }

    /// What `packet_out` does with what it was not asked to translate, and `packet_in` with answers.
    pub fn outbound(&mut self, packet: &Packet) -> Expect {
        let (src, dst) = ((packet.src, packet.sport), (packet.dst, packet.dport));
        let Some(answer) = self.answers.get_mut(&(src, dst, packet.proto)) else {
            return Expect::Exactly(OK, packet.frame());
        };
        let vip = answer.0;
        if ends(packet) {
            answer.1 = true;
            if let Some(flow) = self.flows.get_mut(&(dst, vip, packet.proto))
                && flow.0 == src
            {
                flow.1 = true;
            }
        }
        Expect::Exactly(OK, from(packet, vip).frame())
    }
}

/// What tells a client that nobody is there.
pub fn refusal(packet: &Packet) -> Vec<u8> {
    if packet.proto == TCP {
        return reset(packet);
    }
    let mut body = vec![3, 3, 0, 0, 0, 0, 0, 0];
    body.extend(&packet.ip()[..28]);
    let sum = checksum(&body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    back(packet, ICMP, &body)
}

/// RFC 9293, 3.10.7.1.
pub fn reset(packet: &Packet) -> Vec<u8> {
    let (seq, ack, flags) = if packet.flags & ACK != 0 {
        (packet.ack, 0, RST)
    } else {
        let control = u32::from(packet.flags & SYN != 0) + u32::from(packet.flags & FIN != 0);
        let length = packet.payload.len() as u32 + control;
        (0, packet.seq.wrapping_add(length), RST | ACK)
    };
    let mut body = Vec::new();
    body.extend(packet.dport.to_be_bytes());
    body.extend(packet.sport.to_be_bytes());
    body.extend(seq.to_be_bytes());
    body.extend(ack.to_be_bytes());
    body.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let sum = transport_checksum(packet.dst, packet.src, TCP, &body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    back(packet, TCP, &body)
}

fn back(packet: &Packet, proto: u8, body: &[u8]) -> Vec<u8> {
    let mut out = ethernet(CLIENT_MAC, EDGE_MAC, &[]);
    let length = 20 + body.len() as u16;
    out.extend(ip_header(
        packet.dst, packet.src, proto, length, 0, 0, 0x4000,
    ));
    out.extend(body);
    out
}
