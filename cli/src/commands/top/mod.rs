//! `waggle top`: services with what they use and how their connections do, now.
//!
//! On a terminal it stays until `q` or Ctrl-C; anywhere else it is printed once.

mod rows;

use std::{
    io::{self, IsTerminal as _, Write as _, stdout},
    time::Duration,
};

use anyhow::anyhow;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use waggle_api::native::TopView;

use super::{fetch, map::warn, print, print_json};
use crate::{
    args::{SortBy, TopCommand},
    client::Client,
    error::{CliError, usage},
    session::{self, Raw, input_is_terminal},
    times,
};

const PATH: &str = "/waggle/v1/top";
/// Most time between two looks.
const RARELY: Duration = Duration::from_hours(1);
/// Another screen, which leaves what was there; no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H\x1b[2J";

/// Runs `waggle top`.
pub async fn run(command: TopCommand) -> Result<(), CliError> {
    let interval = times::duration("interval", &command.interval, RARELY)?;
    if command.limit == Some(0) {
        return Err(usage("limit: must be 1 or more, is 0"));
    }
    let client = Client::new(&command.output.master)?;
    let once = command.once || command.output.json || !stdout().is_terminal();
    if !once {
        return watch(&client, &command, interval).await;
    }
    let (answer, mut top) = fetch::<TopView>(&client, PATH).await?;
    warn(&top.silent);
    if command.output.json {
        return print_json(&answer);
    }
    rows::sort(&mut top.services, command.sort);
    let limit = command.limit.unwrap_or(usize::MAX);
    print(&rows::table(&top, limit))
}

/// The terminal while `top` has it; dropping it gives it back.
struct Screen(Option<Raw>);

impl Screen {
    fn enter() -> Result<Self, CliError> {
        let raw = input_is_terminal().then(Raw::enter).transpose();
        let raw = raw.map_err(|e| anyhow!("this terminal can't be made raw: {e}"))?;
        let screen = Self(raw);
        put(ENTER).map_err(|e| anyhow!(e))?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = put(LEAVE);
        self.0.take();
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

async fn watch(client: &Client, command: &TopCommand, every: Duration) -> Result<(), CliError> {
    let failed = |e: io::Error| CliError::from(anyhow!(e));
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
    let screen = Screen::enter()?;
    let mut keys = screen.0.as_ref().map(|_| session::keyboard());
    let mut tick = tokio::time::interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Keys are heard while an answer is waited for.
    let mut asking = Some(Box::pin(ask(client)));
    let (mut shown, mut sort) = (Err("asking".to_owned()), command.sort);
    loop {
        tokio::select! {
            answer = answer(&mut asking) => {
                (shown, asking) = (answer, None);
            }
            _ = tick.tick(), if asking.is_none() => {
                asking = Some(Box::pin(ask(client)));
                continue;
            }
            _ = resized.recv() => {}
            _ = ended.recv() => return Ok(()),
            pressed = next(&mut keys) => match pressed {
                None => keys = None,
                Some(pressed) => for key in pressed {
                    match rows::key(key) {
                        Some(rows::Key::Quit) => return Ok(()),
                        Some(rows::Key::Sort(by)) => sort = by,
                        None => {}
                    }
                },
            },
        }
        let drawn = draw(&mut shown, sort, command);
        put(&drawn).map_err(failed)?;
    }
}

async fn ask(client: &Client) -> Result<TopView, String> {
    let asked = fetch::<TopView>(client, PATH).await;
    asked.map(|(_, top)| top).map_err(|e| e.to_string())
}

/// What was asked for; never, where nothing is.
async fn answer<T>(asking: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// What was typed; never, where nothing can be.
async fn next(keys: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}

fn draw(shown: &mut Result<TopView, String>, sort: SortBy, command: &TopCommand) -> String {
    let (lines, columns) = session::size().map_or((24, 80), |s| (s.rows, s.cols));
    let room = usize::from(lines).saturating_sub(4).max(1);
    let body = match shown {
        Err(why) => format!("{}: {why}\n", command.output.master),
        Ok(top) => {
            rows::sort(&mut top.services, sort);
            let mut body = rows::table(top, command.limit.unwrap_or(room).min(room));
            for s in top.silent.iter().take(1) {
                let n = top.silent.len();
                body.push_str(&format!("{n} nodes did not tell: {}: {}\n", s.node, s.why));
            }
            body
        }
    };
    let head = format!("waggle top, {}\n", times::absolute(times::now()));
    let foot = "sort: c cpu, m memory, a accepts, e errors, l latency, n name; q ends\n";
    let all = format!("{head}{body}{foot}");
    let cut = |line: &str| line.chars().take(usize::from(columns)).collect::<String>();
    let all: Vec<String> = all.lines().map(cut).collect();
    format!("{HOME}{}", all.join("\r\n"))
}
