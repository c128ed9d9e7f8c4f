//! `waggle trace`: what a deployment or a task went through, as a tree with durations.

mod tree;

use waggle_api::native::TraceView;

use super::{fetch, map::warn, print, print_json, segment};
use crate::{args::TraceCommand, client::Client, error::CliError};

/// Runs `waggle trace`.
pub async fn run(command: TraceCommand) -> Result<(), CliError> {
    let path = format!("/waggle/v1/traces/{}", segment("trace", &command.what)?);
    let client = Client::new(&command.output.master)?;
    let (answer, trace) = fetch::<TraceView>(&client, &path).await?;
    warn(&trace.silent);
    if trace.left_out > 0 {
        eprintln!("{} spans had no room on their nodes", trace.left_out);
    }
    if command.output.json {
        return print_json(&answer);
    }
    print(&tree::text(&trace))
}
