//! Waiting for a deployment: what it waits for, on one line of a terminal, or a plain line for each change.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use serde_json::Value;
use waggle_api::native::{DeploymentStateView, DeploymentView, ExplainView};

use super::{encode_path, explain::never, fetch, items, queue, segment, text};
use crate::{client::Client, error::CliError, times};

/// Between two looks at a deployment.
const POLL: Duration = Duration::from_millis(200);
/// Services of a deployment that are looked at by themselves.
const MAX_EXPLAINED: usize = 20;
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

/// Waits until a deployment is over; one that did not come to its end is an error. A service that is held up is told of
/// with what the launch queue says.
pub async fn deployment(
    client: &Client,
    master: &Client,
    id: &str,
    limit: Duration,
) -> Result<(), CliError> {
    let started = Instant::now();
    let mut progress = Progress::new();
    let mut interval = tokio::time::interval(POLL);
    let mut was_there = false;
    loop {
        interval.tick().await;
        let path = format!("/waggle/v1/deployments/{}", segment("deployment", id)?);
        let now = match fetch::<DeploymentStateView>(master, &path).await {
            Ok((_, now)) => now,
            // Another master leads since, and does not know how it ended.
            Err(CliError::Refused { status: 404, .. }) if was_there => {
                progress.clear();
                let error = anyhow!(
                    "deployment {id} is over, and the master that saw how is not there any more"
                );
                return Err(error.into());
            }
            Err(e) => return Err(e),
        };
        let Some(d) = now.deployment else {
            progress.clear();
            return ended(id, &now.state);
        };
        if !was_there {
            in_vain(master, &d).await;
        }
        was_there = true;
        progress.say(&line(&d), started);
        if started.elapsed() > limit {
            progress.clear();
            let waiting = client.get(queue::WITH_PODS).await.unwrap_or_default();
            let services = d.services.iter();
            let why: String = services.map(|s| waiting_for(&waiting, s)).collect();
            let line = line(&d);
            let error = anyhow!("deployment {id} is not over after {limit:?}: {line}{why}");
            return Err(error.into());
        }
    }
}

/// Says at once what no wait will bring: instances that could never run on the nodes that there are. What can't be told is no reason
/// to stop waiting.
async fn in_vain(master: &Client, d: &DeploymentView) {
    for service in d.services.iter().take(MAX_EXPLAINED) {
        let path = encode_path(service.trim_matches('/'));
        let path = format!("/waggle/v1/explain/app/{path}");
        // One that goes has no definition any more.
        let Ok((_, e)) = fetch::<ExplainView>(master, &path).await else {
            continue;
        };
        let never = never(&e);
        if !never.is_empty() {
            let _ = write!(std::io::stderr().lock(), "{service}: {never}");
        }
    }
}

fn ended(id: &str, state: &str) -> Result<(), CliError> {
    let how = match state {
        "finished" => return Ok(()),
        "superseded" => "a newer one took its place",
        "cancelled" => "it was cancelled",
        "rolled_back" => "it was rolled back",
        "late" => "a step took too long, and it went back by itself",
        other => other,
    };
    Err(anyhow!("deployment {id} did not come to its end: {how}").into())
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
fn waiting_for(answer: &Value, id: &str) -> String {
    let Some(item) = items(answer, "queue").find(|q| queue::id(q) == id) else {
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
    fn only_one_that_finished_is_a_success() {
        assert!(ended("d", "finished").is_ok());
        for (state, how) in [
            ("superseded", "a newer one took its place"),
            ("late", "it went back by itself"),
        ] {
            let told = ended("d", state).unwrap_err();
            assert!(told.to_string().ends_with(how), "{told}");
            assert_eq!(told.exit_code(), 1);
        }
    }

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
        let queue = json!({"queue": [{"pod": {"id": "/cart"}, "count": 1}]});
        assert_eq!(waiting_for(&queue, "/cart"), "\n/cart: 1 instances wait");
    }
}
