//! `waggle version`: of this program, and of the cluster where there is one.

use serde_json::{Value, json};

use super::{print, print_json, text};
use crate::{args::VersionCommand, client::Client, error::CliError};

/// Runs `waggle version`. A cluster that does not answer is no error: this program has a version without it.
pub async fn run(command: VersionCommand) -> Result<(), CliError> {
    let master = Client::new(&command.output.master)?;
    let marathon = Client::new(&command.output.marathon)?;
    let own = env!("CARGO_PKG_VERSION");
    let ask = async |client: &Client, path: &str| -> Result<Value, String> {
        client.get(path).await.map_err(|e| e.to_string())
    };
    let master = ask(&master, "/version").await;
    let marathon = ask(&marathon, "/v2/info").await;
    let version = |of: &Result<Value, String>| of.as_ref().ok().map(|v| text(v, "version"));
    if command.output.json {
        return print_json(&json!({
            "waggle": own,
            "mesos_api": version(&master),
            "marathon_api": version(&marathon),
            "leader": marathon.as_ref().ok().map(|v| text(v, "leader")),
        }));
    }
    let mut out = format!("waggle        {own}\n");
    match &marathon {
        Ok(info) => {
            let line = |k: &str, v: String| format!("{k:<13} {v}\n");
            out.push_str(&line("cluster", text(info, "buildref")));
            out.push_str(&line("leader", text(info, "leader")));
            let mesos = version(&master).unwrap_or_default();
            out.push_str(&line("Mesos API", mesos));
            out.push_str(&line("Marathon API", text(info, "version")));
        }
        Err(why) => out.push_str(&format!("cluster       {why}\n")),
    }
    print(&out)
}
