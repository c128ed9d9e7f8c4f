//! Somebody outside of the nodes, in the hub: names below `outside.test`, and ports that answer.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use waggle_tests_support::{netns::NetNs, scenario::World};

/// Time to live of its names, seconds.
const TTL: u32 = 60;
/// How often a listener looks whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub struct Outside {
    /// Where it is.
    pub ip: Ipv4Addr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Outside {
    /// Every name is its address, and each of the ports says `outside`.
    pub fn open(world: &World, ports: &[u16]) -> anyhow::Result<Self> {
        let hub = NetNs::open(&world.cluster.names.hub())?;
        let ip = world.cluster.names.hub_ip();
        let mut outside = Self {
            ip,
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let names = hub.run(|| UdpSocket::bind((ip, 53)))?.context("names")?;
        names.set_read_timeout(Some(LOOK_UP))?;
        outside.run(move || {
            let mut question = [0; 512];
            if let Ok((n, from)) = names.recv_from(&mut question)
                && let Some(answer) = answer(&question[..n], ip)
            {
                let _ = names.send_to(&answer, from);
            }
        });
        for port in ports {
            let listener: TcpListener = hub.listen(SocketAddr::from((ip, *port)))?;
            listener.set_nonblocking(true)?;
            outside.run(move || match listener.accept() {
                Ok((mut stream, _)) => {
                    let _ = stream.write_all(b"outside\n");
                }
                Err(_) => std::thread::park_timeout(LOOK_UP / 10),
            });
        }
        Ok(outside)
    }

    fn run(&mut self, mut turn: impl FnMut() + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                turn();
            }
        }));
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One address for a question about A, none for another one.
fn answer(question: &[u8], ip: Ipv4Addr) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += 1 + usize::from(*question.get(end)?);
    }
    let end = end + 5;
    let asks_a = question.get(end - 4..end)? == [0, 1, 0, 1];
    let mut out = question.get(..2)?.to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, u8::from(asks_a), 0, 0, 0, 0]);
    out.extend(question.get(12..end)?);
    if asks_a {
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(TTL.to_be_bytes());
        out.extend([0, 4]);
        out.extend(ip.octets());
    }
    Some(out)
}
