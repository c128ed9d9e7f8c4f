//! What goes on between a running container and those who are at its ends.
//!
//! A container's command is served as any session's ([`crate::exec::talk`]); this is the client of that session. It knows one
//! owner, whose pace is the command's, any number of readers, who are let go when they are too slow, and one writer at a
//! time, who waits for the command to read.

use std::{io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::mpsc,
    time::MissedTickBehavior,
};
use waggle_api::exec::{Ended, FIRST_WINDOW, Frame, PING_SECONDS, parse};

use super::{io::Typed, sandbox::Files};

/// Read from the session at once.
const PART: usize = 32 << 10;
/// How long what is let go of may take to end: the shim's own patience, and some.
const LETTING_GO: Duration = Duration::from_secs(15);

/// What is asked of a container that runs.
#[derive(Debug)]
pub enum Ask {
    /// A signal for its process group.
    Signal(u8),
    /// Its output from now on, too.
    Show(mpsc::Sender<Arc<Frame>>),
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is being started.
    Starting,
    /// It runs, as this process.
    Running(u32),
    /// It has ended.
    Ended(Ended),
}

impl Phase {
    /// How it ended, if it has.
    pub fn ended(&self) -> Option<&Ended> {
        match self {
            Self::Ended(ended) => Some(ended),
            Self::Starting | Self::Running(_) => None,
        }
    }
}

/// All that a container's ends are.
pub struct Ends {
    /// The client's end of the session.
    pub session: DuplexStream,
    /// Who lives and dies with it, and is waited for.
    pub owner: Option<mpsc::Sender<Arc<Frame>>>,
    /// What is kept of its output.
    pub files: Option<Files>,
    /// What is asked of it.
    pub asks: mpsc::Receiver<Ask>,
    /// What is typed.
    pub typed: mpsc::Receiver<Typed>,
    /// How many readers were too slow.
    pub slow: Box<dyn Fn() + Send>,
}

/// Serves a container until it ends, its owner goes, or `given_up` says that it is not to go on; what is left of it in its
/// session is gone then. Answers how it ended, and what `over`, the session's own end, did.
pub async fn drive<O>(
    ends: Ends,
    given_up: impl Future<Output = ()>,
    over: impl Future<Output = O>,
) -> (Ended, O) {
    let Ends {
        session,
        owner,
        files,
        mut asks,
        mut typed,
        slow,
    } = ends;
    let (read, write) = tokio::io::split(session);
    let mut serving = Serving {
        read,
        write,
        bytes: Vec::new(),
        credit: FIRST_WINDOW as usize,
        rest: None,
        owner,
        waiting: None,
        readers: Vec::new(),
        files,
        slow,
    };
    let ended = serving.serve(&mut asks, &mut typed, pin!(given_up)).await;
    // From here on nobody can ask, type or read.
    drop((serving, asks, typed));
    // Letting go of the session ends all that is left of the command; the session's own end says that it has.
    let mut over = pin!(over);
    let outcome = match tokio::time::timeout(LETTING_GO, &mut over).await {
        Ok(outcome) => outcome,
        Err(_) => over.await,
    };
    let ended = ended.unwrap_or(Ended {
        signal: Some(libc::SIGKILL),
        ..Ended::default()
    });
    (ended, outcome)
}

struct Serving {
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
    // Frames that are not whole yet.
    bytes: Vec<u8>,
    // Input that the command's side takes.
    credit: usize,
    // Input that it does not take yet; then nothing more is read from who types.
    rest: Option<Vec<u8>>,
    owner: Option<mpsc::Sender<Arc<Frame>>>,
    // Output that the owner has no room for; then nothing more is read from the command.
    waiting: Option<Arc<Frame>>,
    readers: Vec<mpsc::Sender<Arc<Frame>>>,
    files: Option<Files>,
    slow: Box<dyn Fn() + Send>,
}

impl Serving {
    /// How it ended; none when it was let go of.
    async fn serve(
        &mut self,
        asks: &mut mpsc::Receiver<Ask>,
        typed: &mut mpsc::Receiver<Typed>,
        mut given_up: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Option<Ended> {
        let mut beat = tokio::time::interval(Duration::from_secs(PING_SECONDS));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut part = vec![0; PART];
        loop {
            while self.waiting.is_none() {
                match parse(&self.bytes) {
                    Ok(Some((frame, n))) => {
                        self.bytes.drain(..n);
                        if let Frame::Ended(ended) = frame {
                            return Some(ended);
                        }
                        self.take(frame).await;
                    }
                    Ok(None) => break,
                    // Both ends are ours.
                    Err(e) => {
                        tracing::error!(error = %e, "a container's session broke off");
                        return None;
                    }
                }
            }
            let owner = self.owner.clone();
            let reserve = async {
                match &owner {
                    Some(owner) => owner.reserve().await,
                    None => std::future::pending().await,
                }
            };
            let gone = async {
                match &owner {
                    Some(owner) => owner.closed().await,
                    None => std::future::pending().await,
                }
            };
            let done: io::Result<()> = tokio::select! {
                () = &mut given_up => return None,
                () = gone => return None,
                permit = reserve, if self.waiting.is_some() => match (permit, self.waiting.take()) {
                    (Ok(permit), Some(frame)) => {
                        permit.send(frame);
                        Ok(())
                    }
                    _ => return None,
                },
                read = self.read.read(&mut part), if self.waiting.is_none() => match read {
                    Ok(n @ 1..) => {
                        self.bytes.extend(&part[..n]);
                        Ok(())
                    }
                    Ok(0) | Err(_) => return None,
                },
                Some(what) = typed.recv(), if self.rest.is_none() => self.type_in(what).await,
                Some(ask) = asks.recv() => match ask {
                    Ask::Signal(number) => self.say(&Frame::Signal(number)).await,
                    Ask::Show(reader) => {
                        self.readers.push(reader);
                        Ok(())
                    }
                },
                _ = beat.tick() => self.say(&Frame::Ping).await,
            };
            // Its end is on its way when it can't be told anything any more.
            if let Err(e) = done {
                tracing::debug!(error = %e, "a container takes nothing more");
            }
        }
    }

    /// What the command's side says.
    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Window(n) => {
                self.credit += usize::try_from(n).unwrap_or(0);
                if let Some(rest) = self.rest.take() {
                    let _ = self.type_in(Typed::Data(rest)).await;
                }
            }
            Frame::Stdout(_) | Frame::Stderr(_) => {
                if let Some(files) = self.files.take() {
                    self.files = files.store(frame.clone()).await;
                }
                let frame = Arc::new(frame);
                self.readers.retain(|reader| {
                    let sent = reader.try_send(Arc::clone(&frame));
                    if matches!(sent, Err(mpsc::error::TrySendError::Full(_))) {
                        (self.slow)();
                    }
                    sent.is_ok()
                });
                if self.owner.is_some() {
                    self.waiting = Some(frame);
                }
            }
            _ => {}
        }
    }

    async fn type_in(&mut self, what: Typed) -> io::Result<()> {
        match what {
            Typed::Data(mut bytes) => {
                let n = bytes.len().min(self.credit);
                let later = bytes.split_off(n);
                self.rest = Some(later).filter(|l| !l.is_empty());
                self.credit -= n;
                if bytes.is_empty() {
                    return Ok(());
                }
                self.say(&Frame::Stdin(bytes)).await
            }
            Typed::End => self.say(&Frame::StdinEnd).await,
            Typed::Resize(size) => self.say(&Frame::Resize(size)).await,
            Typed::Heartbeat => Ok(()),
        }
    }

    async fn say(&mut self, frame: &Frame) -> io::Result<()> {
        self.write.write_all(&frame.bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    struct Far {
        session: DuplexStream,
        bytes: Vec<u8>,
    }

    impl Far {
        async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some((frame, n)) = parse(&self.bytes).unwrap() {
                    self.bytes.drain(..n);
                    if frame == Frame::Ping {
                        continue;
                    }
                    return Some(frame);
                }
                let mut part = [0; 4096];
                match self.session.read(&mut part).await.unwrap() {
                    0 => return None,
                    n => self.bytes.extend(&part[..n]),
                }
            }
        }

        async fn say(&mut self, frame: Frame) {
            self.session.write_all(&frame.bytes()).await.unwrap();
        }
    }

    struct Near {
        asks: mpsc::Sender<Ask>,
        typed: mpsc::Sender<Typed>,
        done: tokio::task::JoinHandle<(Ended, ())>,
        n_slow: Arc<std::sync::atomic::AtomicUsize>,
    }

    fn start(owner: Option<mpsc::Sender<Arc<Frame>>>) -> (Far, Near) {
        let (session, far) = duplex(64 << 10);
        let (asks, asked) = mpsc::channel(4);
        let (typed, typing) = mpsc::channel(4);
        let n_slow = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&n_slow);
        let ends = Ends {
            session,
            owner,
            files: None,
            asks: asked,
            typed: typing,
            slow: Box::new(move || {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }),
        };
        let done = tokio::spawn(drive(ends, std::future::pending(), async {}));
        let near = Near {
            asks,
            typed,
            done,
            n_slow,
        };
        let bytes = Vec::new();
        (
            Far {
                session: far,
                bytes,
            },
            near,
        )
    }

    #[tokio::test]
    async fn input_keeps_to_the_window() {
        let (mut far, near) = start(None);
        let window = FIRST_WINDOW as usize;
        near.typed
            .send(Typed::Data(vec![1; window + 10]))
            .await
            .unwrap();
        near.typed.send(Typed::End).await.unwrap();
        let mut n = 0;
        while n < window {
            match far.next().await.unwrap() {
                Frame::Stdin(bytes) => n += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
        // A signal does not wait behind it.
        near.asks.send(Ask::Signal(15)).await.unwrap();
        assert_eq!(far.next().await, Some(Frame::Signal(15)));
        far.say(Frame::Window(100)).await;
        assert_eq!(far.next().await, Some(Frame::Stdin(vec![1; 10])));
        assert_eq!(far.next().await, Some(Frame::StdinEnd));
    }

    #[tokio::test]
    async fn an_owner_slows_it_down_and_a_reader_is_let_go() {
        let (owner, mut owned) = mpsc::channel(1);
        let (mut far, near) = start(Some(owner));
        let (reader, mut read) = mpsc::channel(2);
        near.asks.send(Ask::Show(reader)).await.unwrap();
        // Asked after it: so it was heard.
        near.asks.send(Ask::Signal(1)).await.unwrap();
        assert_eq!(far.next().await, Some(Frame::Signal(1)));
        // The reader takes nothing: it has the first two, and is let go at the third; the owner has all.
        for i in 0..4u8 {
            far.say(Frame::Stdout(vec![i])).await;
            assert_eq!(*owned.recv().await.unwrap(), Frame::Stdout(vec![i]));
        }
        let mut seen = 0;
        while read.recv().await.is_some() {
            seen += 1;
        }
        assert!((1..=2).contains(&seen), "{seen}");
        assert_eq!(near.n_slow.load(std::sync::atomic::Ordering::Relaxed), 1);
        let ended = Ended {
            code: Some(3),
            ..Ended::default()
        };
        far.say(Frame::Ended(ended.clone())).await;
        assert_eq!(near.done.await.unwrap().0, ended);
        assert!(owned.recv().await.is_none(), "and its stream is over");
    }

    #[tokio::test]
    async fn it_ends_with_its_owner() {
        let (owner, owned) = mpsc::channel(1);
        let (mut far, near) = start(Some(owner));
        drop(owned);
        let (ended, ()) = near.done.await.unwrap();
        assert_eq!(far.next().await, None, "the session was let go of");
        assert_eq!((ended.code, ended.signal), (None, Some(9)));
    }
}
