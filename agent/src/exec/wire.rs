//! Frames over a connection: one that was upgraded, or the half of one within the agent.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::Mutex,
    time::Instant,
};
use waggle_api::exec::{Frame, PING_SECONDS, SILENCE_SECONDS, parse};

/// What frames go over.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

type Io = Box<dyn Connection>;

/// Frames of the client.
pub struct Reader {
    half: ReadHalf<Io>,
    bytes: Vec<u8>,
    part: Box<[u8]>,
}

/// Frames for the client, one at a time: who sends waits for who sent before, and for a client that reads slowly.
#[derive(Clone)]
pub struct Writer {
    half: Arc<Mutex<WriteHalf<Io>>>,
    clock: Arc<Clock>,
}

/// When something was last said or typed.
struct Clock {
    begun: Instant,
    last_ms: AtomicU64,
}

/// Both directions of a connection.
pub fn open(connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> (Reader, Writer) {
    let (read, write) = split(Box::new(connection) as Io);
    let reader = Reader {
        half: read,
        bytes: Vec::new(),
        part: vec![0; 16 << 10].into_boxed_slice(),
    };
    let writer = Writer {
        half: Arc::new(Mutex::new(write)),
        clock: Arc::new(Clock {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
        }),
    };
    (reader, writer)
}

impl Reader {
    /// The next frame; `None` when the client has gone. One that says nothing for too long has.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            match parse(&self.bytes) {
                Ok(Some((frame, n))) => {
                    self.bytes.drain(..n);
                    return Ok(Some(frame));
                }
                Ok(None) => {}
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
            // At most one frame and one read are held.
            let read = self.half.read(&mut self.part);
            let silence = Duration::from_secs(SILENCE_SECONDS);
            match tokio::time::timeout(silence, read).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(n)) => self.bytes.extend(&self.part[..n]),
                Ok(Err(e)) => return Err(e),
                Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            }
        }
    }

    /// Reads until the client has closed its end, at most so long: closing before would cut off what it has not
    /// read yet.
    pub async fn until_closed(&mut self, most: Duration) {
        let _ = tokio::time::timeout(most, async { while let Ok(Some(_)) = self.next().await {} })
            .await;
    }
}

impl Writer {
    /// Sends a frame.
    pub async fn send(&self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.bytes();
        let mut half = self.half.lock().await;
        half.write_all(&bytes).await?;
        half.flush().await
    }

    /// Nothing more comes.
    pub async fn end(&self) -> io::Result<()> {
        self.half.lock().await.shutdown().await
    }

    /// Something was said or typed.
    pub fn active(&self) {
        let ms = self.clock.begun.elapsed().as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        self.clock.last_ms.store(ms, Ordering::Relaxed);
    }

    /// Pings the client, until nothing has been said or typed for `idle`; an error is the client's end.
    pub async fn beat(&self, idle: Duration) -> io::Result<()> {
        let mut tick = tokio::time::interval(Duration::from_secs(PING_SECONDS).min(idle));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let last = Duration::from_millis(self.clock.last_ms.load(Ordering::Relaxed));
            if self.clock.begun.elapsed().saturating_sub(last) >= idle {
                return Ok(());
            }
            self.send(&Frame::Ping).await?;
        }
    }
}
