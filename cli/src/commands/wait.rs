//! Waiting for a deployment: what it waits for, on one line of a terminal, or a plain line for each change.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use serde_json::Value;
use waggle_api::native::DeploymentView;

use super::{fetch_list, items, text};
use crate::{client::Client, error::CliError, times};

/// Between two looks at a deployment.
const POLL: Duration = Duration::from_millis(200);
/// Longest line on a terminal whose width is not known.
const WIDTH: usize = 100;

/// What is said while something goes on, on standard error: results alone go to standard output.
pub struct Progress {
    terminal: bool,
    said: String,
    /// How many columns the line on the terminal takes.
    shown: usize,
}

impl Progress {
    /// Progress where standard error is.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            said: String::new(),
            shown: 0,
        }
    }

    /// Says how things are, if that is new; on a terminal in place of what was said before.
    pub fn say(&mut self, line: &str, since: Instant) {
        let mut err = std::io::stderr().lock();
        let elapsed = times::millis(since.elapsed());
        if self.terminal {
            let width = terminal_size::terminal_size().map_or(WIDTH, |(w, _)| usize::from(w.0));
            let full = format!("{line} ({})", times::span(elapsed));
            let full: String = full.chars().take(width.saturating_sub(1)).collect();
            let blank = " ".repeat(self.shown.saturating_sub(full.chars().count()));
            self.shown = full.chars().count();
            // A terminal that is gone is no reason to stop waiting.
            let _ = write!(err, "\r{full}{blank}").and_then(|()| err.flush());
        } else if line != self.said {
            let _ = writeln!(err, "{line}");
        }
        line.clone_into(&mut self.said);
    }

    /// Takes away what is on the terminal.
    pub fn clear(&mut self) {
        if self.terminal && self.shown > 0 {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r{}\r", " ".repeat(self.shown)).and_then(|()| err.flush());
            self.shown = 0;
        }
    }
}

/// Waits until a deployment is over; a service that is held up is told of with what the launch queue says.
pub async fn deployment(
    client: &Client,
    master: &Client,
    id: &str,
    limit: Duration,
) -> Result<(), CliError> {
    let started = Instant::now();
    let mut progress = Progress::new();
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let (_, all) = fetch_list::<DeploymentView>(master, "/waggle/v1/deployments").await?;
        let Some(d) = all.iter().find(|d| d.id == id) else {
            progress.clear();
            return Ok(());
        };
        progress.say(&line(d), started);
        if started.elapsed() > limit {
            progress.clear();
            let queue = client.get("/v2/queue").await.unwrap_or_default();
            let services = d.services.iter();
            let why: String = services.map(|s| waiting_for(&queue, s)).collect();
            let line = line(d);
            let error = anyhow!("deployment {id} is not over after {limit:?}: {line}{why}");
            return Err(error.into());
        }
    }
}

fn line(d: &DeploymentView) -> String {
    let what = if d.waiting_for.is_empty() {
        "under way"
    } else {
        &d.waiting_for
    };
    if d.total_steps > 1 {
        let (step, steps) = (d.step, d.total_steps);
        return format!("{}: step {step} of {steps}: {what}", d.service);
    }
    format!("{}: {}: {what}", d.service, d.kind)
}

/// What the launch queue says about a service that does not get on.
fn waiting_for(queue: &Value, id: &str) -> String {
    let Some(item) = items(queue, "queue").find(|q| text(&q["app"], "id") == id) else {
        return String::new();
    };
    let mut out = format!("\n{id}: {} instances wait", text(item, "count"));
    for reason in refused(item) {
        out.push_str(&format!("\n  {reason}"));
    }
    out
}

/// Why an item of the launch queue found no offer lately: `InsufficientCpus: 12 of 12 offers`.
pub fn refused(item: &Value) -> Vec<String> {
    let reasons = items(&item["processedOffersSummary"], "rejectSummaryLastOffers");
    let some = reasons.filter(|r| r["declined"].as_u64().unwrap_or(0) > 0);
    some.map(|r| {
        let (reason, declined) = (text(r, "reason"), &r["declined"]);
        format!("{reason}: {declined} of {} offers", r["processed"])
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_holds_a_service_up_is_told() {
        let queue = json!({"queue": [{"app": {"id": "/web"}, "count": 2, "processedOffersSummary": {
        "rejectSummaryLastOffers": [
            {"reason": "UnfulfilledRole", "declined": 0, "processed": 3},
            {"reason": "InsufficientCpus", "declined": 3, "processed": 3},
        ]}}]});
        assert_eq!(
            waiting_for(&queue, "/web"),
            "\n/web: 2 instances wait\n  InsufficientCpus: 3 of 3 offers"
        );
        assert_eq!(waiting_for(&queue, "/other"), "");
    }
}
