//! A session with a command: frames one way, streams the other.

use std::{io, pin::pin, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::{Receiver, Sender},
    sync::watch,
};
use waggle_api::exec::{Ended, Frame};

use super::{
    input::Input,
    pty::Pty,
    shim::Report,
    start::{Asks, Reports, Running, Streams, next_report},
    wire::{Reader, Writer},
};

/// Most output that is held between a command and its reader, for each stream.
const PART: usize = 32 << 10;
/// After the command's end: output that does not come for so long is not waited for (something that got away holds
/// the pipe).
const LINGER: Duration = Duration::from_secs(1);
/// How long the client may take to close its end once it was told the command's.
const CLOSING: Duration = Duration::from_secs(5);
/// What a terminal takes for the end of input.
const END_OF_INPUT: u8 = 4;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command did.
    Ended(Ended),
    /// The client went, and the command was ended.
    Gone(String),
    /// Nothing was said or typed for too long.
    Idle,
}

/// Serves until the command ends or the client goes; nothing of the command is left then.
pub async fn talk(mut reader: Reader, writer: Writer, running: Running, idle: Duration) -> Outcome {
    let Running {
        streams, mut shim, ..
    } = running;
    let input = Input::default();
    let (told, exited) = watch::channel(false);
    let (pty, stdin, outputs) = match streams {
        Streams::Tty(pty) => (Some(pty.clone()), None, Outputs::Tty(pty)),
        Streams::Pipes {
            stdin,
            stdout,
            stderr,
        } => (None, stdin, Outputs::Pipes(stdout, stderr)),
    };
    let outcome = {
        let listen = listen(&mut reader, &input, &mut shim.asks, pty.as_ref());
        let feed = feed(&input, pty.as_ref(), stdin, &writer);
        let show = show(outputs, &writer, exited);
        let wait = wait(&mut shim.reports, told);
        let beat = writer.beat(idle);
        tokio::select! {
            why = listen => Outcome::Gone(why),
            beaten = beat => match beaten {
                Ok(()) => Outcome::Idle,
                Err(e) => Outcome::Gone(e.to_string()),
            },
            never = feed => match never {},
            done = async { tokio::try_join!(wait, show) } => match done {
                Ok((ended, ())) => Outcome::Ended(ended),
                Err(e) => Outcome::Gone(e.to_string()),
            },
        }
    };
    if let Outcome::Idle = outcome {
        let _ = writer
            .send(&Frame::Note("nothing happened for too long".to_owned()))
            .await;
    }
    let last = match &outcome {
        Outcome::Ended(ended) => Some(ended.clone()),
        Outcome::Idle => Some(Ended::default()),
        Outcome::Gone(_) => None,
    };
    // Beside each other: a client that does not read must not keep the command alive.
    let goodbye = async {
        if let Some(last) = last {
            goodbye(&mut reader, &writer, last).await;
        }
    };
    tokio::join!(goodbye, shim.end());
    outcome
}

/// Tells the client the end and lets it close first.
pub async fn goodbye(reader: &mut Reader, writer: &Writer, last: Ended) {
    let told = async {
        writer.send(&Frame::Ended(last)).await?;
        writer.end().await
    };
    let mut told = pin!(told);
    let sent = tokio::select! {
        sent = &mut told => sent.is_ok(),
        // It may take its time as long as it is there.
        () = reader.until_closed(Duration::MAX) => false,
    };
    if sent {
        reader.until_closed(CLOSING).await;
    }
}

enum Outputs {
    Tty(Pty),
    Pipes(Receiver, Receiver),
}

/// What the client sends, until it goes; then why.
async fn listen(reader: &mut Reader, input: &Input, asks: &mut Asks, pty: Option<&Pty>) -> String {
    loop {
        match reader.next().await {
            Ok(Some(Frame::Stdin(bytes))) => {
                if input.push(&bytes).is_err() {
                    return "it sent more input than it was allowed".to_owned();
                }
            }
            Ok(Some(Frame::StdinEnd)) => input.end(),
            Ok(Some(Frame::Resize(size))) => {
                if let Some(pty) = pty {
                    let _ = pty.resize(size);
                }
            }
            // The shim is gone when this fails; its end is on its way.
            Ok(Some(Frame::Signal(number))) => drop(asks.signal(number).await),
            Ok(Some(Frame::Ping)) => {}
            Ok(Some(other)) => return format!("it sent {}", kind(&other)),
            Ok(None) => return "it closed the connection".to_owned(),
            Err(e) => return e.to_string(),
        }
    }
}

fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Started(_) => "what only agents send: started",
        Frame::Stdout(_) | Frame::Stderr(_) => "what only agents send: output",
        _ => "what only agents send",
    }
}

/// Hands input on, and allows the client as much again.
async fn feed(
    input: &Input,
    pty: Option<&Pty>,
    mut stdin: Option<Sender>,
    writer: &Writer,
) -> std::convert::Infallible {
    while let Some(bytes) = input.next().await {
        writer.active();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let n = match (pty, &mut stdin) {
                (Some(pty), _) => pty.write(rest).await,
                (None, Some(pipe)) => pipe.write(rest).await,
                // Nobody reads: it is thrown away.
                (None, None) => Ok(rest.len()),
            };
            match n {
                Ok(n) if n > 0 => rest = &rest[n..],
                _ => {
                    stdin = None;
                    rest = &[];
                }
            }
        }
        let n = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // A client that is gone shows elsewhere.
        let _ = writer.send(&Frame::Window(n)).await;
    }
    drop(stdin);
    if let Some(pty) = pty {
        let _ = pty.write(&[END_OF_INPUT]).await;
    }
    std::future::pending().await
}

/// Shows output until there is none any more; an error is the client's end.
async fn show(outputs: Outputs, writer: &Writer, exited: watch::Receiver<bool>) -> io::Result<()> {
    match outputs {
        Outputs::Tty(pty) => {
            let mut buffer = vec![0; PART];
            loop {
                let n = tokio::select! {
                    n = pty.read(&mut buffer) => n.unwrap_or(0),
                    () = linger(exited.clone()) => 0,
                };
                if n == 0 {
                    return Ok(());
                }
                writer.active();
                writer.send(&Frame::Stdout(buffer[..n].to_vec())).await?;
            }
        }
        Outputs::Pipes(stdout, stderr) => {
            let other = exited.clone();
            tokio::try_join!(
                pump(stdout, Frame::Stdout, writer, exited),
                pump(stderr, Frame::Stderr, writer, other),
            )?;
            Ok(())
        }
    }
}

async fn pump(
    mut from: Receiver,
    frame: fn(Vec<u8>) -> Frame,
    writer: &Writer,
    exited: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; PART];
    loop {
        let n = tokio::select! {
            n = from.read(&mut buffer) => n.unwrap_or(0),
            () = linger(exited.clone()) => 0,
        };
        if n == 0 {
            return Ok(());
        }
        writer.active();
        writer.send(&frame(buffer[..n].to_vec())).await?;
    }
}

/// Ends a moment after the command has.
async fn linger(mut exited: watch::Receiver<bool>) {
    // The sender stays until then.
    let _ = exited.wait_for(|done| *done).await;
    tokio::time::sleep(LINGER).await;
}

/// Waits for the command's end.
async fn wait(reports: &mut Reports, told: watch::Sender<bool>) -> io::Result<Ended> {
    let ended = match next_report(reports).await {
        Ok(Some(Report::Ended { code, signal })) => Ended {
            code,
            signal,
            message: String::new(),
        },
        Ok(_) | Err(_) => Ended {
            message: "its shim died: how it ended is not known".to_owned(),
            ..Ended::default()
        },
    };
    let _ = told.send(true);
    Ok(ended)
}
