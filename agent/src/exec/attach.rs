//! Following what a running task writes.

use std::{fs::File, io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedReadHalf},
    time::Instant,
};
use waggle_api::exec::{Ended, Frame, parse};

use super::{
    talk::Outcome,
    wire::{Reader, Writer},
};
use crate::{checkpoint::TaskDir, logs, shim::socket_path};

/// Between two looks at files that have not grown.
const LOOK: Duration = Duration::from_millis(100);
/// How long a shim may take from its terminal's end to its record.
const RECORD: Duration = Duration::from_secs(6);
/// Most output that is read at once.
const PART: usize = 32 << 10;

/// Shows a task's output from now on, with so many lines before, until it ends or the client goes.
pub async fn follow(
    reader: &mut Reader,
    writer: &Writer,
    dir: &TaskDir,
    lines: u32,
    idle: Duration,
) -> Outcome {
    let gone = async {
        loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return "it closed the connection".to_owned(),
                Err(e) => return e.to_string(),
            }
        }
    };
    tokio::select! {
        why = gone => Outcome::Gone(why),
        shown = show(writer, dir, lines) => match shown {
            Ok(ended) => Outcome::Ended(ended),
            Err(e) => Outcome::Gone(e.to_string()),
        },
        beaten = writer.beat(idle) => match beaten {
            Ok(()) => Outcome::Idle,
            Err(e) => Outcome::Gone(e.to_string()),
        },
    }
}

/// Joins the terminal of a task that has one: what is typed goes there, what it shows comes from there.
pub async fn join(
    reader: &mut Reader,
    writer: &Writer,
    dir: &TaskDir,
    terminal: UnixStream,
    stdin: bool,
    idle: Duration,
) -> Outcome {
    let (read, mut write) = terminal.into_split();
    let listen = async {
        loop {
            match reader.next().await {
                Ok(Some(frame @ Frame::Stdin(_))) if stdin => {
                    writer.active();
                    // The shim is gone when this fails: the task's end is on its way.
                    let _ = write.write_all(&frame.bytes()).await;
                }
                Ok(Some(frame @ Frame::Resize(_))) => drop(write.write_all(&frame.bytes()).await),
                Ok(Some(_)) => {}
                Ok(None) => return "it closed the connection".to_owned(),
                Err(e) => return e.to_string(),
            }
        }
    };
    tokio::select! {
        why = listen => Outcome::Gone(why),
        shown = relay(read, writer, dir) => match shown {
            Ok(ended) => Outcome::Ended(ended),
            Err(e) => Outcome::Gone(e.to_string()),
        },
        beaten = writer.beat(idle) => match beaten {
            Ok(()) => Outcome::Idle,
            Err(e) => Outcome::Gone(e.to_string()),
        },
    }
}

/// The connection to a task's terminal, where it has one.
pub async fn terminal(dir: &TaskDir) -> Option<UnixStream> {
    let open = File::open(dir.path()).ok()?;
    UnixStream::connect(socket_path(&open)).await.ok()
}

async fn relay(mut read: OwnedReadHalf, writer: &Writer, dir: &TaskDir) -> io::Result<Ended> {
    let mut bytes = Vec::new();
    let mut part = vec![0; PART];
    loop {
        while let Some((frame, n)) =
            parse(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
        {
            bytes.drain(..n);
            writer.active();
            writer.send(&frame).await?;
        }
        match read.read(&mut part).await {
            Ok(n @ 1..) => bytes.extend(&part[..n]),
            Ok(0) | Err(_) => break,
        }
    }
    // The record comes a moment after the terminal has gone; of a shim that was killed, none comes.
    let until = Instant::now() + RECORD;
    while dir.exit().is_none() && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
    Ok(match dir.exit() {
        Some(record) => Ended {
            code: record.code,
            signal: record.signal,
            message: String::new(),
        },
        None => Ended {
            message: "the task's shim is gone: how it ended is not known".to_owned(),
            ..Ended::default()
        },
    })
}

async fn show(writer: &Writer, dir: &TaskDir, lines: u32) -> io::Result<Ended> {
    let mut tails = [
        (
            Tail::open(dir, "stdout", lines),
            Frame::Stdout as fn(Vec<u8>) -> Frame,
        ),
        (Tail::open(dir, "stderr", lines), Frame::Stderr),
    ];
    loop {
        // Looked at before the files: what it wrote last is there by then.
        let exit = dir.exit();
        let mut idle = true;
        for (tail, frame) in &mut tails {
            loop {
                // Files of this size come from memory; what a slow disk costs, this session waits for.
                let (bytes, lost) = tail.read(PART)?;
                if lost {
                    let text = "output was lost: it came faster than it was read".to_owned();
                    writer.send(&Frame::Note(text)).await?;
                }
                if bytes.is_empty() {
                    break;
                }
                idle = false;
                writer.active();
                writer.send(&frame(bytes)).await?;
            }
        }
        if let Some(record) = exit {
            return Ok(Ended {
                code: record.code,
                signal: record.signal,
                message: String::new(),
            });
        }
        if idle {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One stream.
struct Tail {
    reader: logs::Reader,
}

impl Tail {
    /// Begins `lines` lines before its end.
    fn open(dir: &TaskDir, name: &str, lines: u32) -> Self {
        let place = logs::OutputDir::new(&dir.sandbox(), dir.path(), name);
        let mut reader = logs::Reader::new(place, 0, None);
        let begin = last_lines(&mut reader, lines).unwrap_or(0);
        reader.seek(begin);
        Self { reader }
    }

    /// What came since, and whether some of it was lost.
    fn read(&mut self, most: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut bytes = vec![0; most];
        Ok(match self.reader.step(&mut bytes)? {
            logs::Step::Bytes(n) => {
                bytes.truncate(n);
                (bytes, false)
            }
            logs::Step::Gap(_) => (Vec::new(), true),
            logs::Step::End => (Vec::new(), false),
        })
    }
}

/// Where the last lines begin; at most [`PART`] bytes before the end.
fn last_lines(reader: &mut logs::Reader, lines: u32) -> io::Result<u64> {
    let (first, end) = reader.bounds();
    if lines == 0 {
        return Ok(end);
    }
    let begin = end.saturating_sub(PART as u64).max(first);
    reader.seek(begin);
    let mut bytes = Vec::new();
    let mut part = vec![0; PART];
    while let logs::Step::Bytes(n) = reader.step(&mut part)? {
        bytes.extend_from_slice(&part[..n]);
        if bytes.len() >= PART {
            break;
        }
    }
    let mut left = u64::from(lines) + u64::from(bytes.ends_with(b"\n"));
    let cut = bytes.iter().rposition(|b| {
        left -= u64::from(*b == b'\n');
        left == 0
    });
    Ok(begin + cut.map_or(0, |c| c as u64 + 1))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use waggle_types::TaskId;

    use super::*;

    fn task() -> (tempfile::TempDir, TaskDir) {
        let dir = tempfile::tempdir().unwrap();
        let task = TaskDir::new(dir.path(), &TaskId::new("t1").unwrap());
        fs::create_dir_all(task.sandbox()).unwrap();
        (dir, task)
    }

    fn text(tail: &mut Tail) -> (String, bool) {
        let (bytes, lost) = tail.read(PART).unwrap();
        (String::from_utf8(bytes).unwrap(), lost)
    }

    #[test]
    fn a_tail_goes_on_over_rotations() {
        let (_dir, task) = task();
        let (file, old) = (
            task.sandbox().join("stdout"),
            task.sandbox().join("stdout.1"),
        );
        fs::write(&file, "a\nb\nc\n").unwrap();
        let mut tail = Tail::open(&task, "stdout", 2);
        assert_eq!(text(&mut tail), ("b\nc\n".to_owned(), false));
        assert_eq!(text(&mut tail), (String::new(), false));
        fs::rename(&file, &old).unwrap();
        fs::write(&file, "d\n").unwrap();
        assert_eq!(text(&mut tail), ("d\n".to_owned(), false));
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_read_from_its_start() {
        let (_dir, task) = task();
        let mut tail = Tail::open(&task, "stdout", 0);
        assert_eq!(text(&mut tail), (String::new(), false));
        fs::write(task.sandbox().join("stdout"), "x").unwrap();
        assert_eq!(text(&mut tail), ("x".to_owned(), false));
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let (_dir, task) = task();
        fs::write(task.sandbox().join("stdout"), "a\nb\nc").unwrap();
        for (lines, want) in [
            (0, ""),
            (1, "c"),
            (2, "b\nc"),
            (3, "a\nb\nc"),
            (9, "a\nb\nc"),
        ] {
            let mut tail = Tail::open(&task, "stdout", lines);
            assert_eq!(text(&mut tail).0, want, "{lines}");
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed_out() {
        let (dir, task) = task();
        fs::write(dir.path().join("secret"), "not yours").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), task.sandbox().join("stdout"))
            .unwrap();
        let mut tail = Tail::open(&task, "stdout", 9);
        assert_eq!(text(&mut tail), (String::new(), false));
    }
}
