//! TCP: questions of one connection are answered in their order. Connections are bounded: at the bound nothing is
//! accepted until one ends, and who is silent does not last.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    Shared,
    answer::{Answerer, Step},
    counters::add,
    log::Asker,
    slow,
};

/// Connections of one listener at once.
const MAX_CONNECTIONS: usize = 256;
/// Between attempts when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest question that is read; a longer one ends its connection.
const MAX_QUESTION: usize = 4096;

/// Accepts until it is dropped; connections end with the process or by themselves.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, idle: Duration) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a dns connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = talk(&shared, stream, peer.ip(), idle).await {
                tracing::debug!(%error, "a dns connection ended early");
            }
        });
    }
}

async fn talk(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    peer: IpAddr,
    idle: Duration,
) -> std::io::Result<()> {
    let counting = &shared.counting;
    let _ = stream.set_nodelay(true);
    let mut answerer = Answerer::brief(Arc::clone(shared));
    let mut packet = Vec::new();
    let asker = Asker {
        ip: peer,
        cgroup: None,
        tcp: true,
    };
    loop {
        let read = async {
            let len = usize::from(stream.read_u16().await?);
            if len > MAX_QUESTION {
                return Ok(false);
            }
            packet.resize(len, 0);
            stream.read_exact(&mut packet).await?;
            std::io::Result::Ok(true)
        };
        match timeout(idle, read).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                counting.fault(waggle_overlay_plan::wire::Fault::Long);
                return Ok(());
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                add(&counting.tcp_timeouts);
                return Ok(());
            }
        }
        let begun = Instant::now();
        // The length comes first.
        let mut out = vec![0; 2];
        answerer.refresh();
        let mut reply = Vec::new();
        match answerer.step(&packet, asker, begun, &mut reply) {
            Step::Done => counting.took(begun.elapsed(), 1),
            Step::Silent => return Ok(()),
            Step::Wait => match Arc::clone(&shared.waiting).try_acquire_owned() {
                Ok(_permit) => reply = slow::answer(shared, &packet, asker).await,
                Err(_) => slow::turned_away(shared, &packet, true, &mut reply),
            },
        }
        // Answers are cut to what a length can say.
        let len = u16::try_from(reply.len()).unwrap_or(0);
        out[..2].copy_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&reply);
        match timeout(idle, stream.write_all(&out)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                add(&counting.send_failures);
                return Err(error);
            }
            Err(_) => {
                add(&counting.tcp_timeouts);
                return Ok(());
            }
        }
    }
}
