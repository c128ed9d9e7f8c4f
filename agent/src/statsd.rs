//! The node's statsd for its tasks, as dcos-metrics had one: a UDP port, whose samples are summed up for each task and handed in at
//! intervals under its identity.
//!
//! Whose a datagram is is known by its sender's address, or by the cgroup of the socket that it came from; a socket that is
//! gone by then is nobody's. The answer holds for a moment only: another task may get the same port.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, time::interval};
use waggle_overlay::sock_diag::Transport;
use waggle_telemetry::{Feature, Inbox, Sender, Telemetry};
use waggle_telemetry_pipeline::Statsd;
use waggle_types::TaskId;

use crate::{clock, run::blocking, senders::Senders, sys};

/// How often what was summed up is handed in.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long an address is somebody's, and how many are known.
const KNOWN_FOR: Duration = Duration::from_millis(100);
const MAX_KNOWN: usize = 4096;
/// Series of all tasks together.
const MAX_SERIES: usize = 20_000;
/// Questions to the kernel a second: who sends each datagram from another port must not hold up the others.
const LOOKUPS_S: u32 = 500;
/// Longest datagram.
const MAX_DATAGRAM: usize = 65_536;

struct Task {
    sender: Arc<Sender>,
    samples: Statsd,
}

struct Known {
    sender: Option<Arc<Sender>>,
    until: Instant,
}

/// Whose a datagram is.
enum Whose {
    Task(Arc<Sender>),
    Stranger,
    /// Too many were asked about in this second.
    Unasked,
}

impl From<Option<Arc<Sender>>> for Whose {
    fn from(sender: Option<Arc<Sender>>) -> Self {
        sender.map_or(Self::Stranger, Self::Task)
    }
}

/// Questions that may still be asked in this second.
struct Lookups {
    left: u32,
    since: Instant,
}

impl Lookups {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.left, self.since) = (LOOKUPS_S, now);
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// Serves until it is dropped.
pub async fn serve(socket: UdpSocket, senders: Arc<Senders>, telemetry: Telemetry) {
    let local = match socket.local_addr() {
        Ok(local) => local,
        Err(error) => {
            tracing::warn!(%error, "statsd of tasks is not taken");
            return;
        }
    };
    let mut server = Server {
        local,
        telemetry: telemetry.clone(),
        inbox: telemetry.inbox(),
        senders,
        lookups: Lookups {
            left: LOOKUPS_S,
            since: Instant::now(),
        },
        known: BTreeMap::new(),
        tasks: BTreeMap::new(),
        overflowed: 0,
    };
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut tick = interval(INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => telemetry.cpu().run(|| {
                server.count_overflow(&socket);
                server.hand_in(telemetry.allows(Feature::TaskMetrics));
            }),
            got = socket.recv_from(&mut buffer) => match got {
                Ok((n, peer)) => {
                    let sender = server.of(peer).await;
                    telemetry.cpu().run(|| server.take(sender, &buffer[..n]));
                }
                // Of an earlier answer that nobody waits for; there are none, but the kernel may say so all the same.
                Err(error) => tracing::debug!(%error, "a statsd datagram was not read"),
            }
        }
    }
}

struct Server {
    local: SocketAddr,
    telemetry: Telemetry,
    inbox: Inbox,
    senders: Arc<Senders>,
    lookups: Lookups,
    known: BTreeMap<SocketAddr, Known>,
    tasks: BTreeMap<TaskId, Task>,
    /// What the kernel had thrown away when it was asked last.
    overflowed: u32,
}

impl Server {
    async fn of(&mut self, peer: SocketAddr) -> Whose {
        if let Some(sender) = self.senders.at(peer.ip()) {
            return Whose::Task(sender);
        }
        let now = Instant::now();
        if let Some(known) = self.known.get(&peer).filter(|k| k.until > now) {
            return known.sender.clone().into();
        }
        if !self.lookups.take(now) {
            return Whose::Unasked;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, k| k.until > now);
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
        }
        let (senders, local) = (Arc::clone(&self.senders), self.local);
        let cpu = self.telemetry.cpu().clone();
        let ask = move || cpu.run(|| senders.of(Transport::Udp, peer, local));
        let sender = blocking(ask).await;
        let known = Known {
            sender: sender.clone(),
            until: now + KNOWN_FOR,
        };
        self.known.insert(peer, known);
        sender.into()
    }

    fn take(&mut self, whose: Whose, datagram: &[u8]) {
        let sender = match whose {
            Whose::Task(sender) => sender,
            Whose::Stranger => return self.inbox.samples("stranger", 1),
            Whose::Unasked => return self.inbox.samples("unasked", 1),
        };
        let held: usize = self.tasks.values().map(|t| t.samples.len()).sum();
        let task_id = sender.labels().task_id.clone();
        let task = self.tasks.entry(task_id).or_insert_with(|| Task {
            sender: Arc::clone(&sender),
            samples: Statsd::default(),
        });
        // An agent's next life of the same task has another sender, with the same identity.
        task.sender = sender;
        let room = MAX_SERIES.saturating_sub(held);
        task.samples.take(datagram, room, clock::now_ns());
    }

    /// Datagrams that came faster than they were read never got here: the kernel alone knows how many.
    fn count_overflow(&mut self, socket: &UdpSocket) {
        match sys::dropped_datagrams(socket) {
            Ok(now) => {
                let more = now.wrapping_sub(std::mem::replace(&mut self.overflowed, now));
                self.inbox.samples("overflowed", more.into());
            }
            Err(error) => tracing::debug!(%error, "lost statsd datagrams are not known"),
        }
    }

    /// Hands in all that there is, and forgets tasks that have ended.
    fn hand_in(&mut self, taken: bool) {
        let now_ns = clock::now_ns();
        for task in self.tasks.values_mut() {
            let counts = task.samples.take_counts();
            for (outcome, n) in [
                ("accepted", counts.accepted),
                ("malformed", counts.malformed),
                ("unsupported", counts.unsupported),
                ("no_room", counts.no_room),
            ] {
                self.inbox.samples(outcome, n);
            }
            let metrics = task.samples.read(now_ns);
            // What is not taken now is in the sums of the next time.
            if taken {
                self.inbox.metrics(&task.sender, "statsd", metrics, now_ns);
            }
        }
        let senders = &self.senders;
        self.tasks.retain(|id, _| senders.knows(id));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use waggle_telemetry_pipeline::TaskLabels;

    use super::*;
    use crate::{cgroup::TaskCgroup, fixture, networks::Own};

    pub(crate) fn labels() -> Arc<TaskLabels> {
        Arc::new(fixture::labels("web.1"))
    }

    #[tokio::test]
    async fn samples_are_their_senders_and_strangers_are_counted() {
        let telemetry = Telemetry::disabled();
        let senders = Arc::new(Senders::default());
        let cgroup = TaskCgroup {
            v2: None,
            v2_path: String::new(),
            runtime_path: String::new(),
            unified: false,
            v1: Vec::new(),
        };
        let own = Own {
            v4: Some([127, 0, 0, 2].into()),
            v6: None,
        };
        senders.add(&labels(), &cgroup, own);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut server = Server {
            local: socket.local_addr().unwrap(),
            telemetry: telemetry.clone(),
            inbox: telemetry.inbox(),
            senders: Arc::clone(&senders),
            lookups: Lookups {
                left: 1,
                since: Instant::now() + Duration::from_hours(1),
            },
            known: BTreeMap::new(),
            tasks: BTreeMap::new(),
            overflowed: 0,
        };
        // The third is another stranger, about whom nobody is asked any more; who has an address needs no question.
        for from in ["127.0.0.3:0", "127.0.0.4:0", "127.0.0.2:0"] {
            let client = UdpSocket::bind(from).await.unwrap();
            let datagram = b"orders:1|c\nbad";
            client.send_to(datagram, server.local).await.unwrap();
            let mut buffer = [0; 100];
            let (n, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let sender = server.of(peer).await;
            server.take(sender, &buffer[..n]);
        }
        assert_eq!(server.tasks.len(), 1);
        server.hand_in(true);
        let page = telemetry.prometheus_text();
        for (outcome, n) in [
            ("accepted", 1),
            ("malformed", 1),
            ("stranger", 1),
            ("unasked", 1),
        ] {
            let series = format!("waggle_outcome=\"{outcome}\"");
            let line = page
                .lines()
                .find(|l| {
                    l.starts_with("waggle_telemetry_statsd_samples_total{") && l.contains(&series)
                })
                .unwrap_or_default();
            assert!(line.ends_with(&format!(" {n}")), "{outcome}: {page}");
        }
        assert!(!server.tasks.is_empty());
        senders.remove(&TaskId::new("web.1").unwrap());
        server.hand_in(true);
        assert!(server.tasks.is_empty());
        // The next second has questions of its own.
        let at = server.lookups.since + Duration::from_secs(1);
        let left = (0..=LOOKUPS_S)
            .take_while(|_| server.lookups.take(at))
            .count();
        assert_eq!(left, LOOKUPS_S as usize);
    }

    #[tokio::test]
    async fn what_nobody_reads_in_time_is_counted_once() {
        let telemetry = Telemetry::disabled();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut server = Server {
            local: socket.local_addr().unwrap(),
            telemetry: telemetry.clone(),
            inbox: telemetry.inbox(),
            senders: Arc::default(),
            lookups: Lookups {
                left: 0,
                since: Instant::now(),
            },
            known: BTreeMap::new(),
            tasks: BTreeMap::new(),
            overflowed: 0,
        };
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sent = 2000;
        for _ in 0..sent {
            client.send_to(&[b'x'; 1000], server.local).await.unwrap();
        }
        let mut buffer = [0; 1000];
        let mut kept = 0;
        while socket.try_recv(&mut buffer).is_ok() {
            kept += 1;
        }
        assert!(kept < sent, "the socket holds them all");
        server.count_overflow(&socket);
        server.count_overflow(&socket);
        let page = telemetry.prometheus_text();
        let line = page
            .lines()
            .find(|l| l.contains("waggle_outcome=\"overflowed\""));
        let count = line.and_then(|l| l.rsplit(' ').next()).unwrap_or_default();
        assert_eq!(count, (sent - kept).to_string(), "{page}");
    }
}
