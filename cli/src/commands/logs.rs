//! `waggle logs NAME`: the output of all tasks of a service, a pod or a job, as one, in the order in which it came.
//!
//! The leading master merges it. When the connection breaks off, the next one goes on where this one stopped: by the
//! cursor that came last, and by what was printed since.

use std::{collections::BTreeMap, time::Duration};

use waggle_api::logs::{LineView, LogEvent};

use super::{encode_query, print_bytes};
use crate::{
    args::LogsCommand,
    client::{Client, Events},
    error::CliError,
};

/// Last lines of each stream, where nobody says how many.
const LINES: usize = 100;
/// Between two attempts to reach a master.
const RETRY: Duration = Duration::from_secs(1);

/// Runs `waggle logs`.
pub async fn run(command: LogsCommand) -> Result<(), CliError> {
    let master = Client::new(&command.output.master)?;
    let mut query = format!(
        "/waggle/v1/logs?of={}&follow={}",
        encode_query(&command.name),
        command.follow
    );
    let lines = command.lines.or(match &command.since {
        Some(_) => None,
        None => Some(LINES),
    });
    if let Some(lines) = lines {
        query.push_str(&format!("&tail={lines}"));
    }
    if let Some(since) = &command.since {
        query.push_str(&format!("&since={}", encode_query(since)));
    }
    if let Some(stream) = command.stream {
        query.push_str(&format!("&stream={}", stream.name()));
    }
    let mut shown = Shown::new(&command);
    let mut events = master.events(&query, None).await?;
    loop {
        let why = match read(&mut events, &mut shown).await {
            Ok(true) => return shown.rest(),
            Ok(false) if !command.follow => return shown.rest(),
            Ok(false) => "the connection has ended".to_owned(),
            Err(CliError::Failed(e)) if command.follow => e.to_string(),
            Err(e) => return Err(e),
        };
        eprintln!("waggle: {why}; going on where it stopped");
        events = loop {
            tokio::time::sleep(RETRY).await;
            match master.events(&query, shown.cursor.as_deref()).await {
                Ok(events) => break events,
                // Nobody leads, or nobody answers: that passes.
                Err(CliError::Failed(_) | CliError::Refused { status: 503, .. }) => {}
                // It ended meanwhile.
                Err(CliError::Refused { status: 404, .. }) => return shown.rest(),
                Err(e) => return Err(e),
            }
        };
    }
}

/// Prints what comes; whether that was all that will ever come.
async fn read(events: &mut Events, shown: &mut Shown) -> Result<bool, CliError> {
    while let Some(event) = events.next().await? {
        let Ok(told) = serde_json::from_str::<LogEvent>(&event.data) else {
            continue;
        };
        print_bytes(&shown.show(&told, &event.data))?;
        if let Some(id) = event.id {
            shown.cursor = Some(id);
        }
        if matches!(told, LogEvent::Ended { ended } if ended == shown.name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What was printed.
struct Shown {
    name: String,
    json: bool,
    cursor: Option<String>,
    // How far each stream of each task was printed: a cursor may be older.
    places: BTreeMap<(String, String), u64>,
    // Whose piece of a line was printed last, without its end.
    open: Option<(String, String)>,
}

impl Shown {
    fn new(command: &LogsCommand) -> Self {
        Self {
            name: command.name.clone(),
            json: command.output.json,
            cursor: None,
            places: BTreeMap::new(),
            open: None,
        }
    }

    fn show(&mut self, event: &LogEvent, data: &str) -> Vec<u8> {
        match event {
            LogEvent::Line(line) => {
                let key = (line.task.clone(), line.stream.clone());
                let place = self.places.entry(key).or_default();
                if line.offset < *place {
                    return Vec::new();
                }
                *place = line.next;
            }
            LogEvent::Ended { ended } => self.places.retain(|(task, _), _| task != ended),
            LogEvent::Gap { .. } | LogEvent::Upto { .. } | LogEvent::LeftOut { .. } => {}
        }
        if self.json {
            return format!("{data}\n").into_bytes();
        }
        match event {
            LogEvent::Line(line) => self.line(line),
            LogEvent::Gap {
                gap_bytes,
                task,
                stream,
            } => {
                let mut out = self.close();
                let task = short(task);
                out.push_str(&format!(
                    "[{gap_bytes} bytes of {stream} of {task} were removed before they were read]\n"
                ));
                out.into_bytes()
            }
            LogEvent::LeftOut { left_out } => {
                let mut out = self.close();
                out.push_str(&format!(
                    "[{left_out} more tasks are not followed: there are too many at once]\n"
                ));
                out.into_bytes()
            }
            LogEvent::Ended { .. } | LogEvent::Upto { .. } => Vec::new(),
        }
    }

    fn line(&mut self, line: &LineView) -> Vec<u8> {
        let key = (line.task.clone(), line.stream.clone());
        let mut out = String::new();
        if self.open.as_ref() != Some(&key) {
            out.push_str(&self.close());
            out.push_str(&format!("{} {} | ", line.node, short(&line.task)));
        }
        out.push_str(&line.line);
        self.open = line.partial.then_some(key);
        if !line.partial {
            out.push('\n');
        }
        out.into_bytes()
    }

    /// The end of a line whose own has not come.
    fn close(&mut self) -> String {
        self.open
            .take()
            .map(|_| "\n".to_owned())
            .unwrap_or_default()
    }

    fn rest(&mut self) -> Result<(), CliError> {
        print_bytes(self.close().as_bytes())
    }
}

/// `web.instance-547b7de2-05fb-..._app.1` is known by `web.547b7de2`, which is a prefix of nothing else in practice.
fn short(task: &str) -> String {
    match task.split_once(".instance-") {
        Some((name, id)) => {
            let id: String = id.chars().take(8).collect();
            format!("{name}.{id}")
        }
        None => task.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn shown(json: bool) -> Shown {
        Shown {
            name: "web".into(),
            json,
            cursor: None,
            places: BTreeMap::new(),
            open: None,
        }
    }

    fn line(task: &str, offset: u64, text: &str, partial: bool) -> LogEvent {
        LogEvent::Line(LineView {
            time_us: 1,
            task: task.into(),
            node: "n1".into(),
            stream: "stdout".into(),
            offset,
            next: offset + text.len() as u64 + 1,
            uid: String::new(),
            line: text.into(),
            partial,
        })
    }

    fn show(shown: &mut Shown, event: &LogEvent) -> String {
        let data = event.json();
        String::from_utf8(shown.show(event, data.trim_end())).unwrap()
    }

    #[test]
    fn lines_are_printed_once_and_by_whom() {
        let mut all = shown(false);
        assert_eq!(
            show(&mut all, &line("web.1", 0, "one", false)),
            "n1 web.1 | one\n"
        );
        assert_eq!(
            show(&mut all, &line("web.2", 0, "one", false)),
            "n1 web.2 | one\n"
        );
        // Told again after a connection broke off.
        assert_eq!(show(&mut all, &line("web.1", 0, "one", false)), "");
        assert_eq!(
            show(&mut all, &line("web.1", 4, "", false)),
            "n1 web.1 | \n"
        );
        // Pieces of a line are put together, unless another one comes between.
        assert_eq!(
            show(&mut all, &line("web.1", 5, "lo", true)),
            "n1 web.1 | lo"
        );
        assert_eq!(show(&mut all, &line("web.1", 8, "ng", true)), "ng");
        assert_eq!(
            show(&mut all, &line("web.2", 4, "x", false)),
            "\nn1 web.2 | x\n"
        );
        let gap = LogEvent::Gap {
            gap_bytes: 7,
            task: "web.1".into(),
            stream: "stderr".into(),
        };
        assert!(show(&mut all, &gap).starts_with("[7 bytes of stderr of web.1 "));
        let ended = LogEvent::Ended {
            ended: "web.1".into(),
        };
        assert_eq!(show(&mut all, &ended), "");
    }

    #[test]
    fn json_is_passed_on() {
        let event = line("web.1", 0, "one", false);
        let text = show(&mut shown(true), &event);
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["line"], "one");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn tasks_are_named_shortly() {
        assert_eq!(
            short("shop_web.instance-547b7de2-05fb-4d87-88b3-7cc2ae711395._app.1"),
            "shop_web.547b7de2"
        );
        assert_eq!(short("other"), "other");
    }
}
