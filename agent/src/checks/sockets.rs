//! Sockets for checks: of the node, or of a task's network namespace.
//!
//! A socket belongs for good to the namespace in which it was made, wherever it is used. So one thread, and no other,
//! goes from namespace to namespace and makes sockets; everything else of a check happens on the runtime's threads,
//! which never leave the node's.

use std::{
    io,
    net::TcpStream as StdStream,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use tokio::{net::TcpSocket, sync::oneshot};

struct Wanted {
    process: Arc<OwnedFd>,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

/// Makes sockets. The thread starts with the first that is asked for and ends with this.
#[derive(Default)]
pub struct Sockets {
    thread: Mutex<Option<mpsc::Sender<Wanted>>>,
}

impl Sockets {
    /// A socket of the node.
    pub fn of_node() -> io::Result<TcpSocket> {
        TcpSocket::new_v4()
    }

    /// A socket of the network namespace of this process, by its descriptor: it can't be another one by now.
    pub async fn of_process(&self, process: Arc<OwnedFd>) -> io::Result<TcpSocket> {
        let (answer, socket) = oneshot::channel();
        self.sender()?
            .send(Wanted { process, answer })
            .map_err(|_| gone())?;
        let fd = socket.await.map_err(|_| gone())??;
        Ok(TcpSocket::from_std_stream(StdStream::from(fd)))
    }

    fn sender(&self) -> io::Result<mpsc::Sender<Wanted>> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*thread {
            return Ok(sender.clone());
        }
        let (sender, wanted) = mpsc::channel::<Wanted>();
        std::thread::Builder::new()
            .name("check-sockets".to_owned())
            .spawn(move || {
                while let Ok(Wanted { process, answer }) = wanted.recv() {
                    // Who gave up waiting needs none.
                    let _ = answer.send(make(&process));
                }
            })?;
        *thread = Some(sender.clone());
        Ok(sender)
    }
}

fn make(process: &OwnedFd) -> io::Result<OwnedFd> {
    setns(process, CloneFlags::CLONE_NEWNET)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?)
}

fn gone() -> io::Error {
    io::Error::other("the thread that makes sockets is gone")
}
