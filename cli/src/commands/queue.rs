//! `waggle queue`: services that wait to be launched.

use serde_json::Value;

use super::{encode_path, items, print, print_json, text, wait};
use crate::{
    args::{QueueCommand, QueueSub},
    client::Client,
    error::CliError,
    table::Table,
    times,
};

/// The launch queue with pods in it, which other clients do not ask for.
pub const WITH_PODS: &str = "/v2/queue?embed=pods";

/// Runs `waggle queue`.
pub async fn run(command: QueueCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.marathon)?;
    match command.command.unwrap_or(QueueSub::List) {
        QueueSub::List => {
            let answer = client.get(WITH_PODS).await?;
            if command.output.json {
                return print_json(&answer);
            }
            print(&table(&answer).render())
        }
        QueueSub::Reset { id } => {
            let path = format!("/v2/queue/{}/delay", encode_path(id.trim_matches('/')));
            client.delete(&path).await?;
            print(&format!("/{}: no delay\n", id.trim_matches('/')))
        }
    }
}

/// Who waits: an app or a pod.
pub fn id(item: &Value) -> String {
    text(&item["app"], "id") + &text(&item["pod"], "id")
}

fn table(answer: &Value) -> Table {
    let mut table = Table::new(&["id", "waiting", "delay", "since", "offers", "unused", "why"]);
    for item in items(answer, "queue") {
        let left = item["delay"]["timeLeftSeconds"].as_f64().unwrap_or(0.0);
        let summary = &item["processedOffersSummary"];
        let delay = std::time::Duration::try_from_secs_f64(left).unwrap_or_default();
        let delay = if delay.is_zero() {
            String::new()
        } else {
            times::span(times::millis(delay))
        };
        table.row([
            id(item),
            text(item, "count"),
            delay,
            text(item, "since"),
            text(summary, "processedOffersCount"),
            text(summary, "unusedOffersCount"),
            wait::refused(item).join("; "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_queue_says_who_waits_for_what() {
        let answer = json!({"queue": [{
            "app": {"id": "/web"}, "count": 2, "since": "2026-11-23T03:47:00.123Z",
            "delay": {"timeLeftSeconds": 1.5, "overdue": false},
            "processedOffersSummary": {
                "processedOffersCount": 5, "unusedOffersCount": 4,
                "rejectSummaryLastOffers": [
                    {"reason": "InsufficientCpus", "declined": 4, "processed": 5},
                    {"reason": "InsufficientPorts", "declined": 0, "processed": 1}]},
        }]});
        assert_eq!(
            table(&answer).render(),
            "ID    WAITING  DELAY  SINCE                     OFFERS  UNUSED  WHY\n\
             /web  2        1 s    2026-11-23T03:47:00.123Z  5       4       InsufficientCpus: 4 of 5 offers\n"
        );
    }
}
