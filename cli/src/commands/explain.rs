//! `waggle explain ...`: why something is not where it should be.

use waggle_api::native::ExplainView;

use super::{encode_path, fetch, print, print_json};
use crate::{
    args::{ExplainCommand, ExplainSub},
    client::Client,
    error::CliError,
};

/// Runs `waggle explain ...`.
pub async fn run(command: ExplainCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let ExplainSub::App { id } = command.command;
    let path = format!("/waggle/v1/explain/{}", encode_path(id.trim_matches('/')));
    let (answer, e) = fetch::<ExplainView>(&client, &path).await?;
    if command.output.json {
        return print_json(&answer);
    }
    print(&app(&e))
}

/// Sentences, the most telling first.
fn app(e: &ExplainView) -> String {
    let mut out = format!(
        "{}: {} of {} instances run, {} healthy\n",
        e.service, e.running, e.instances, e.healthy
    );
    for d in &e.deployments {
        out.push_str(&format!(
            "deployment {} ({}) waits: {}\n",
            d.id, d.kind, d.waiting_for
        ));
    }
    if e.waiting > 0 {
        out.push_str(&format!("{} instances wait to be launched", e.waiting));
        if e.delay_ms > 0 {
            let seconds = e.delay_ms as f64 / 1000.0;
            out.push_str(&format!(", the backoff ends in {seconds} s"));
        }
        out.push('\n');
        let n = e.refused.values().sum::<u64>();
        match (e.offers, n) {
            (0, _) => out.push_str("no offer came since then\n"),
            (offers, 0) => out.push_str(&format!("{offers} offers were looked at\n")),
            (offers, _) => out.push_str(&format!("of {offers} offers these did not fit:\n")),
        }
        for (reason, n) in &e.refused {
            out.push_str(&format!("  {reason}: {n}\n"));
        }
    }
    if let Some(failure) = &e.last_failure {
        out.push_str(&format!("last failure: {failure}\n"));
    }
    if e.waiting > 0 {
        for reason in &e.allocator {
            out.push_str(&format!("allocator: {reason}\n"));
        }
    }
    if e.waiting == 0 && e.deployments.is_empty() && e.running >= e.instances {
        out.push_str("nothing is missing\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_says_why() {
        let mut e = ExplainView {
            service: "/web".into(),
            instances: 3,
            running: 1,
            healthy: 1,
            waiting: 2,
            delay_ms: 1500,
            offers: 5,
            refused: [("InsufficientCpus".to_owned(), 4)].into(),
            deployments: Vec::new(),
            last_failure: None,
            allocator: vec!["agent a1 has no cpus left".into()],
        };
        assert_eq!(
            app(&e),
            "/web: 1 of 3 instances run, 1 healthy\n\
             2 instances wait to be launched, the backoff ends in 1.5 s\n\
             of 5 offers these did not fit:\n  InsufficientCpus: 4\n\
             allocator: agent a1 has no cpus left\n"
        );
        (e.running, e.waiting) = (3, 0);
        assert_eq!(
            app(&e),
            "/web: 3 of 3 instances run, 1 healthy\nnothing is missing\n"
        );
    }
}
