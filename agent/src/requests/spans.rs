//! From the kernel's records to pieces, and from spans to the tasks that they are about.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use waggle_ebpf_common::{
    Addr, ip_of,
    requests::{Head, direction, kind, protocol, role},
};
use waggle_overlay::VipNames;
use waggle_telemetry::{Telemetry, names};
use waggle_telemetry_pipeline::requests::{
    Counts, Direction, Guess, Options, Peer, Piece, RequestSpan, Role, Rule, Tracer,
};

use super::{Requests, readers::Told};
use crate::{clock, flow_log::wall_offset_ns, net::Net, peers::Peers};

/// Between two looks for what has waited too long.
const TICK_NS: u64 = 1_000_000_000;
/// Not lost, and told otherwise.
const NO_LOSS: [&str; 6] = [
    "pieces",
    "requests",
    "spans",
    "unlinked",
    "not_sampled",
    "lost_records",
];

/// Most connections whose own ends are known.
const MAX_SOCKETS: usize = 16_384;

/// What tells who is at the other end of a connection.
#[derive(Debug, Default)]
struct Known {
    /// Own ends of the connections that are followed.
    here: HashMap<SocketAddr, u64>,
    peers: Arc<Peers>,
    /// This node's address.
    node: Option<Ipv4Addr>,
}

impl Known {
    /// Who speaks from a node's own address can be anybody of that node: a port says more than an address.
    fn peer(&self, at: SocketAddr, of: Role) -> Peer {
        if self.here.contains_key(&at) {
            return Peer::Here;
        }
        let listens = of == Role::Server;
        let is_elsewhere = |node| self.peers.is_elsewhere(at, listens, node);
        if self.node.is_some_and(is_elsewhere) {
            Peer::Elsewhere
        } else {
            Peer::Unknown
        }
    }
}

/// What makes spans.
pub struct Spans {
    tracer: Tracer,
    known: Arc<RwLock<Known>>,
    /// By cookie, with its cgroup and its own end.
    sockets: BTreeMap<u64, (u64, SocketAddr)>,
    ruled: BTreeSet<u64>,
    vips: Vips,
    ticked_ns: u64,
    told: Counts,
}

impl Default for Spans {
    fn default() -> Self {
        let known = Arc::<RwLock<Known>>::default();
        let asked = Arc::clone(&known);
        let peers = move |at: SocketAddr, of: Role| {
            let known = asked.read().unwrap_or_else(PoisonError::into_inner);
            known.peer(at, of)
        };
        let options = Options {
            peers: Arc::new(peers),
            ..Options::default()
        };
        Self {
            tracer: Tracer::new(options),
            known,
            sockets: BTreeMap::new(),
            ruled: BTreeSet::new(),
            vips: Vips::default(),
            ticked_ns: 0,
            told: Counts::default(),
        }
    }
}

impl Spans {
    /// So many records found no room.
    pub fn lost(&mut self, n: u64) {
        self.tracer.lost(n);
    }

    /// Takes what one look has found, and hands in the spans that are done.
    pub fn look(&mut self, came: &[Told], requests: &Requests, net: &Net, telemetry: &Telemetry) {
        let offset_ns = wall_offset_ns();
        if !came.is_empty() {
            let mut known = self.known();
            known.peers = net.peers();
            known.node = Some(requests.node());
        }
        for told in came {
            self.take(told, requests, offset_ns);
        }
        let now_ns = clock::now_ns();
        if now_ns.saturating_sub(self.ticked_ns) >= TICK_NS {
            self.ticked_ns = now_ns;
            self.tracer.tick(now_ns);
            self.leave(requests, now_ns);
            self.count(telemetry);
        }
        self.hand_in(requests, net, telemetry);
    }

    fn take(&mut self, told: &Told, requests: &Requests, offset_ns: u64) {
        let head = &told.head;
        let at = head.at_ns.saturating_add(offset_ns);
        if head.kind == kind::CLOSED {
            self.close(head.socket, at);
            return;
        }
        let Some(piece) = piece(head, &told.bytes, at) else {
            return;
        };
        if !self.sockets.contains_key(&head.socket) {
            // Of no task: what was traced for an agent before this one, perhaps.
            let Some(labels) = requests.labels(head.cgroup_id) else {
                return;
            };
            if self.ruled.insert(head.cgroup_id) {
                let service = labels.service_name().into();
                let rule = Rule {
                    service,
                    ..Rule::default()
                };
                self.tracer.rule(head.cgroup_id, rule);
            }
            if self.sockets.len() < MAX_SOCKETS {
                let own = (head.cgroup_id, piece.local);
                self.sockets.insert(head.socket, own);
                self.known().here.insert(piece.local, head.socket);
            }
        }
        self.tracer.piece(&piece);
    }

    fn close(&mut self, socket: u64, at: u64) {
        self.tracer.closed(socket, at);
        if let Some((_, own)) = self.sockets.remove(&socket) {
            let here = &mut self.known().here;
            // Another connection may have the address by now.
            if here.get(&own) == Some(&socket) {
                here.remove(&own);
            }
        }
    }

    fn known(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of tasks that are gone.
    fn leave(&mut self, requests: &Requests, now_ns: u64) {
        let is_gone = |cgroup_id: &u64| requests.labels(*cgroup_id).is_none();
        let gone: BTreeSet<u64> = self.ruled.iter().copied().filter(is_gone).collect();
        if gone.is_empty() {
            return;
        }
        let of_gone = self.sockets.iter().filter(|(_, (of, _))| gone.contains(of));
        let sockets: Vec<u64> = of_gone.map(|(socket, _)| *socket).collect();
        for socket in sockets {
            self.close(socket, now_ns);
        }
        for cgroup_id in gone {
            self.ruled.remove(&cgroup_id);
            self.tracer.task_gone(cgroup_id);
        }
    }

    fn hand_in(&mut self, requests: &Requests, net: &Net, telemetry: &Telemetry) {
        let mut by_task: BTreeMap<u64, Vec<RequestSpan>> = BTreeMap::new();
        for span in self.tracer.drain() {
            by_task.entry(span.cgroup).or_default().push(span);
        }
        if by_task.is_empty() {
            return;
        }
        self.vips.follow(net.vip_names());
        for (cgroup_id, mut spans) in by_task {
            let Some(labels) = requests.labels(cgroup_id) else {
                continue;
            };
            net.with_peers(|peers| {
                for span in &mut spans {
                    give_names(span, peers, &self.vips.names);
                }
            });
            telemetry.count(&names::REQUESTS_SPANS, &[], spans.len() as u64);
            telemetry.request_spans(&labels, spans);
        }
    }

    fn count(&mut self, telemetry: &Telemetry) {
        let now = self.tracer.counts();
        for ((name, n), (_, before)) in now.each().zip(self.told.each()) {
            if n > before && !NO_LOSS.contains(&name) {
                let attrs = [(names::DROP_REASON, name.into())];
                telemetry.count(&names::REQUESTS_LOST, &attrs, n - before);
            }
        }
        self.told = now;
        let (sockets, _, _) = self.tracer.holds();
        telemetry.set(&names::REQUESTS_CONNECTIONS, &[], sockets as f64);
    }
}

/// Names of VIPs by address, made anew when they change.
#[derive(Default)]
struct Vips {
    of: Arc<VipNames>,
    names: HashMap<SocketAddr, String>,
}

impl Vips {
    fn follow(&mut self, now: Arc<VipNames>) {
        if !Arc::ptr_eq(&self.of, &now) {
            let all = now.values();
            self.names = all
                .map(|(key, name)| {
                    let at = SocketAddr::new(key.ip, key.port);
                    (at, format!("{name}:{}", key.port))
                })
                .collect();
            self.of = now;
        }
    }
}

/// A record of bytes; none where it is no such record, or of a protocol that is not known here.
fn piece<'a>(head: &Head, bytes: &'a [u8], at: u64) -> Option<Piece<'a>> {
    let protocol = match head.protocol {
        protocol::HTTP1 => Guess::Http1,
        protocol::HTTP2 => Guess::Http2,
        _ => return None,
    };
    if head.kind != kind::PIECE {
        return None;
    }
    Some(Piece {
        at,
        socket: head.socket,
        cgroup: head.cgroup_id,
        local: address(head.local, head.local_port),
        remote: address(head.remote, head.remote_port),
        direction: if head.direction == direction::IN {
            Direction::In
        } else {
            Direction::Out
        },
        role: match head.role {
            role::CLIENT => Role::Client,
            role::SERVER => Role::Server,
            _ => Role::Unknown,
        },
        protocol,
        number: head.number,
        sequence: head.sequence,
        length: head.length,
        thread: (head.thread != 0).then_some(head.thread),
        vip: (head.vip != [0; 4]).then(|| address(head.vip, head.vip_port)),
        bytes,
    })
}

fn address(addr: Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip_of(addr).to_canonical(), u16::from_be(port))
}

/// Who is at the other end, and by which name it was called, as flows say it.
fn give_names(span: &mut RequestSpan, peers: &Peers, vips: &HashMap<SocketAddr, String>) {
    let text = |key: &str| {
        let found = span.attrs.iter().find(|(k, _)| *k == key);
        found.map(|(_, value)| value.to_text())
    };
    let ip = text("network.peer.address").and_then(|ip| ip.parse().ok());
    let port = text("network.peer.port").and_then(|port| port.parse().ok());
    let vip = text("waggle.vip.address").and_then(|vip| vip.parse().ok());
    // A client's port is anybody's.
    let is_client = span.side == names::SpanSide::Client;
    if let Some(ip) = ip {
        let name = peers.name(ip, port.filter(|_| is_client));
        span.attrs
            .push(("service.peer.name", name.to_owned().into()));
    }
    if let Some(name) = vip.and_then(|vip: SocketAddr| vips.get(&vip)) {
        span.attrs.push(("waggle.vip.name", name.clone().into()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use waggle_ebpf_common::addr_of;
    use waggle_types::TraceContext;

    use super::*;

    #[test]
    fn a_record_says_all_that_a_piece_does() {
        let v4 = |last| addr_of(IpAddr::V4(Ipv4Addr::new(9, 0, 0, last)));
        let head = Head {
            at_ns: 1,
            socket: 2,
            cgroup_id: 3,
            thread: 4,
            local: v4(1),
            remote: v4(2),
            vip: v4(3),
            sequence: 5,
            length: 6,
            captured: 2,
            number: 7,
            local_port: 80_u16.to_be(),
            remote_port: 81_u16.to_be(),
            vip_port: 82_u16.to_be(),
            kind: kind::PIECE,
            direction: direction::OUT,
            role: role::CLIENT,
            protocol: protocol::HTTP2,
            pad: [0; 6],
        };
        let made = piece(&head, b"ab", 9).unwrap();
        assert_eq!((made.at, made.socket, made.cgroup), (9, 2, 3));
        assert_eq!(made.local, "9.0.0.1:80".parse().unwrap());
        assert_eq!(made.remote, "9.0.0.2:81".parse().unwrap());
        assert_eq!(made.vip, Some("9.0.0.3:82".parse().unwrap()));
        assert_eq!(made.direction, Direction::Out);
        assert_eq!((made.role, made.protocol), (Role::Client, Guess::Http2));
        assert_eq!((made.number, made.sequence, made.length), (7, 5, 6));
        assert_eq!((made.thread, made.bytes), (Some(4), &b"ab"[..]));
        let other = Head {
            protocol: protocol::OTHER,
            ..head
        };
        assert!(piece(&other, b"", 1).is_none());
        let read = Head {
            kind: kind::READ,
            ..head
        };
        assert!(piece(&read, b"", 1).is_none());
        let bare = Head {
            thread: 0,
            vip: [0; 4],
            ..head
        };
        let made = piece(&bare, b"", 1).unwrap();
        assert_eq!((made.thread, made.vip), (None, None));
    }

    #[test]
    fn a_port_says_more_than_an_address() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let peers = crate::peers::tests::peers([10, 0, 0, 2], &[("far", None, Some(80))]);
        let known = Known {
            here: [(at("10.0.0.2:80"), 1)].into(),
            peers: Arc::new(peers),
            node: Some(Ipv4Addr::new(10, 0, 0, 1)),
        };
        assert_eq!(known.peer(at("10.0.0.2:80"), Role::Server), Peer::Here);
        assert_eq!(known.peer(at("10.0.0.2:81"), Role::Client), Peer::Elsewhere);
        assert_eq!(known.peer(at("10.0.0.2:81"), Role::Server), Peer::Unknown);
        let nowhere = Known {
            node: None,
            ..known
        };
        assert_eq!(nowhere.peer(at("10.0.0.2:81"), Role::Client), Peer::Unknown);
    }

    #[test]
    fn a_vip_has_the_name_that_flows_give_it() {
        let mut span = RequestSpan {
            cgroup: 1,
            context: TraceContext {
                trace_id: 1,
                span_id: 1,
                flags: 1,
            },
            parent: None,
            parent_is_remote: false,
            links: Vec::new(),
            side: names::SpanSide::Client,
            name: "GET".to_owned(),
            start_ns: 0,
            end_ns: 0,
            attrs: vec![
                ("network.peer.address", "10.0.0.1".into()),
                ("network.peer.port", 80_u16.into()),
                ("waggle.vip.address", "11.0.0.1:8080".into()),
            ],
            failed: false,
        };
        let vip = "11.0.0.1:8080".parse().unwrap();
        give_names(
            &mut span,
            &Peers::default(),
            &[(vip, "web.l4lb:8080".to_owned())].into(),
        );
        let told: Vec<_> = span.attrs[3..]
            .iter()
            .map(|(key, value)| (*key, value.to_text()))
            .collect();
        let want = [
            ("service.peer.name", "private".to_owned()),
            ("waggle.vip.name", "web.l4lb:8080".to_owned()),
        ];
        assert_eq!(told, want);
    }
}
