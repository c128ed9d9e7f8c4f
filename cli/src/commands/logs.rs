//! `waggle logs APP`: the output of all instances of a service, line by line as it arrives.
//!
//! Each stream of each task is asked for what came since the last look. Lines are printed whole, with the task that they
//! are of; between streams they come in the order in which they arrive here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use waggle_api::native::TaskView;

use super::{fetch_list, print_bytes, segment};
use crate::{
    args::{LogsCommand, Stream},
    client::Client,
    error::{CliError, usage},
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(300);
/// Most bytes of a stream that are asked for at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Streams that are asked at once.
const AT_ONCE: usize = 16;
/// Longest line that is held back for its end; a longer one is printed in pieces.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Most tasks of one service that are followed.
const MAX_TASKS: usize = 1000;

/// Runs `waggle logs`.
pub async fn run(command: LogsCommand) -> Result<(), CliError> {
    let master = Client::new(&command.output.master)?;
    let app = format!("/{}", command.app.trim_matches('/'));
    let streams: &[Stream] = match &command.stream {
        Some(one) => std::slice::from_ref(one),
        None => &[Stream::Stdout, Stream::Stderr],
    };
    let mut all = Merged::default();
    let tasks = tasks_of(&master, &app).await?;
    if tasks.is_empty() && !exists(&command, &app).await? {
        return Err(CliError::Refused {
            status: 404,
            message: format!("App '{app}' does not exist"),
        });
    }
    all.watch(&tasks, streams, Some(command.lines));
    all.look(&master).await?;
    if !command.follow {
        return all.rest();
    }
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let tasks = tasks_of(&master, &app).await?;
        all.watch(&tasks, streams, None);
        let more = all.look(&master).await?;
        all.forget(&tasks)?;
        if tasks.is_empty() && !more && !exists(&command, &app).await? {
            return all.rest();
        }
    }
}

async fn exists(command: &LogsCommand, app: &str) -> Result<bool, CliError> {
    let marathon = Client::new(&command.output.marathon)?;
    let path = super::encode_path(app);
    for kind in ["apps", "pods"] {
        match marathon.get(&format!("/v2/{kind}{path}")).await {
            Ok(_) => return Ok(true),
            Err(CliError::Refused { status: 404, .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

async fn tasks_of(master: &Client, app: &str) -> Result<Vec<TaskView>, CliError> {
    let (_, mut tasks) = fetch_list::<TaskView>(master, "/waggle/v1/tasks").await?;
    tasks.retain(|t| t.service == app);
    if tasks.len() > MAX_TASKS {
        let n = tasks.len();
        return Err(usage(format!(
            "{app} has {n} tasks, at most {MAX_TASKS} can be followed; see waggle task log"
        )));
    }
    Ok(tasks)
}

/// Where one stream of one task is.
#[derive(Debug, Default)]
struct Source {
    label: String,
    /// Where to go on; before the first look, how many lines to show.
    offset: Option<u64>,
    lines: Option<usize>,
    /// What came of a line whose end did not.
    held: Vec<u8>,
    /// Its task is listed.
    listed: bool,
    /// The last look found nothing more.
    drained: bool,
}

/// All streams that are watched.
#[derive(Debug, Default)]
struct Merged {
    sources: BTreeMap<(String, &'static str), Source>,
}

impl Merged {
    /// Watches streams of tasks that are new; of those that came later than the first look everything is shown.
    fn watch(&mut self, tasks: &[TaskView], streams: &[Stream], lines: Option<usize>) {
        let listed: BTreeSet<&str> = tasks.iter().map(|t| t.id.as_str()).collect();
        for ((task, _), source) in &mut self.sources {
            source.listed = listed.contains(task.as_str());
        }
        for task in tasks {
            for stream in streams {
                let key = (task.id.clone(), stream.name());
                self.sources.entry(key).or_insert_with(|| Source {
                    label: format!("{} {}", task.hostname, short(&task.id)),
                    offset: lines.is_none().then_some(0),
                    lines,
                    held: Vec::new(),
                    listed: true,
                    drained: false,
                });
            }
        }
    }

    /// Prints what has come; whether anything had.
    async fn look(&mut self, master: &Client) -> Result<bool, CliError> {
        let asked: Vec<((String, &'static str), String)> = self
            .sources
            .iter()
            .map(|(key, s)| {
                let task = segment("task", &key.0)?;
                let path = format!("/waggle/v1/tasks/{task}/log/{}", key.1);
                let query = match s.offset {
                    Some(offset) => format!("offset={offset}&length={CHUNK_BYTES}"),
                    None => format!("tail={}", s.lines.unwrap_or_default()),
                };
                Ok((key.clone(), format!("{path}?{query}")))
            })
            .collect::<Result<_, CliError>>()?;
        let mut answers = stream::iter(asked)
            .map(|(key, path)| async move { (key, master.get_page(&path).await) })
            .buffer_unordered(AT_ONCE);
        let mut any = false;
        while let Some((key, answer)) = answers.next().await {
            let Some(source) = self.sources.get_mut(&key) else {
                continue;
            };
            match answer {
                Ok(page) => {
                    source.drained = page.0.is_empty();
                    any |= !source.drained;
                    print_bytes(&source.take(&page))?;
                }
                // It has not begun yet, its node is out of reach, or it is gone: the next look tells.
                Err(CliError::Refused { .. }) => source.drained = true,
                Err(e) => return Err(e),
            }
        }
        Ok(any)
    }

    /// Forgets streams of tasks that have ended, once they were read to their end.
    fn forget(&mut self, tasks: &[TaskView]) -> Result<(), CliError> {
        let listed: BTreeSet<&str> = tasks.iter().map(|t| t.id.as_str()).collect();
        let gone = |key: &(String, &str), s: &Source| {
            !s.listed && s.drained && !listed.contains(key.0.as_str())
        };
        for (key, source) in &mut self.sources {
            if gone(key, source) {
                print_bytes(&source.end())?;
            }
        }
        self.sources.retain(|key, s| !gone(key, s));
        Ok(())
    }

    /// Prints what was held back.
    fn rest(&mut self) -> Result<(), CliError> {
        for source in self.sources.values_mut() {
            print_bytes(&source.end())?;
        }
        Ok(())
    }
}

impl Source {
    /// Takes a page; answers what is to be printed of it.
    fn take(&mut self, (bytes, next): &(Bytes, u64)) -> Vec<u8> {
        self.offset = Some(*next);
        self.held.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(end) = self.held.iter().position(|b| *b == b'\n') {
            let rest = self.held.split_off(end + 1);
            let line = std::mem::replace(&mut self.held, rest);
            self.print(&line[..end], &mut out);
        }
        while self.held.len() > MAX_LINE_BYTES {
            let rest = self.held.split_off(MAX_LINE_BYTES);
            let piece = std::mem::replace(&mut self.held, rest);
            self.print(&piece, &mut out);
        }
        out
    }

    /// What is left of a line that never ended.
    fn end(&mut self) -> Vec<u8> {
        let (mut out, held) = (Vec::new(), std::mem::take(&mut self.held));
        if !held.is_empty() {
            self.print(&held, &mut out);
        }
        out
    }

    fn print(&self, line: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(self.label.as_bytes());
        out.extend_from_slice(b" | ");
        out.extend_from_slice(line);
        out.push(b'\n');
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
    use super::*;

    fn page(text: &str, next: u64) -> (Bytes, u64) {
        (Bytes::copy_from_slice(text.as_bytes()), next)
    }

    #[test]
    fn lines_are_printed_whole_and_by_whom() {
        let mut a = Source {
            label: "n1 web.1".into(),
            ..Source::default()
        };
        assert_eq!(a.take(&page("one\ntw", 6)), b"n1 web.1 | one\n");
        assert_eq!(a.offset, Some(6));
        assert_eq!(a.take(&page("", 6)), b"");
        assert_eq!(
            a.take(&page("o\n\nthr", 12)),
            b"n1 web.1 | two\nn1 web.1 | \n"
        );
        assert_eq!(a.end(), b"n1 web.1 | thr\n");
        assert_eq!(a.end(), b"");
        let long = "x".repeat(MAX_LINE_BYTES + 1);
        let out = a.take(&page(&long, 0));
        assert_eq!(out.len(), "n1 web.1 | \n".len() + MAX_LINE_BYTES);
        assert_eq!(a.end(), b"n1 web.1 | x\n");
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
