//! A loopback port of this machine that leads to an address inside a namespace.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use waggle_tests_support::netns::NetNs;

/// Connections at once; more are closed at once.
const MAX_CONNECTIONS: usize = 64;

/// A running forward; it lives as long as the process.
#[derive(Debug)]
pub struct Forward {
    /// Where to connect to.
    pub local: SocketAddr,
}

impl Forward {
    /// Listens on 127.0.0.1, on the same port when it is free.
    pub fn start(netns: &str, target: SocketAddr, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("listen on loopback")?;
        let local = listener.local_addr().context("the listener's address")?;
        let netns = NetNs::open(netns)?;
        let open = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
                    open.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                let (netns, open) = (netns.clone(), Arc::clone(&open));
                std::thread::spawn(move || {
                    if let Ok(server) = netns.connect(target, Duration::from_secs(5)) {
                        both_ways(&client, &server);
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { local })
    }
}

fn both_ways(client: &TcpStream, server: &TcpStream) {
    let copy = |from: &TcpStream, to: &TcpStream| {
        let (mut reader, mut writer) = (from, to);
        let _ = std::io::copy(&mut reader, &mut writer);
        let _ = to.shutdown(Shutdown::Write);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| copy(client, server));
        copy(server, client);
    });
}
