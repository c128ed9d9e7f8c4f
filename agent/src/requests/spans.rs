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
    Counts, Direction, Guess, Options, Peer, Piece, RequestSpan, Role, Tracer,
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

/// Records between two times that spans are handed in: what a tracer keeps until then is bounded, and a look may have many more.
const HAND_IN: usize = 2048;
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
        self.take_all(came, requests, offset_ns, |this| {
            this.hand_in(requests, net, telemetry);
        });
        let now_ns = clock::now_ns();
        if now_ns.saturating_sub(self.ticked_ns) >= TICK_NS {
            self.ticked_ns = now_ns;
            self.tracer.tick(now_ns);
            self.leave(requests, now_ns);
            self.count(telemetry);
        }
        self.hand_in(requests, net, telemetry);
    }

    fn take_all(
        &mut self,
        came: &[Told],
        requests: &Requests,
        offset_ns: u64,
        mut hand_in: impl FnMut(&mut Self),
    ) {
        for some in came.chunks(HAND_IN) {
            for told in some {
                self.take(told, requests, offset_ns);
            }
            hand_in(self);
        }
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
            let Some(rule) = requests.rule(head.cgroup_id) else {
                return;
            };
            if self.ruled.insert(head.cgroup_id) {
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
mod tests;
