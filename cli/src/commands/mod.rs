//! What each command does: ask the API, print.

pub mod app;
pub mod canary;
pub mod confirm;
pub mod deployment;
pub mod dns;
pub mod doctor;
pub mod drops;
pub mod exec;
pub mod explain;
pub mod files;
pub mod flows;
pub mod framework;
pub mod group;
pub mod image;
pub mod job;
pub mod logs;
pub mod maintenance;
pub mod map;
pub mod network;
pub mod node;
pub mod pod;
pub mod policy;
pub mod queue;
pub mod reservation;
pub mod role;
pub mod snapshot;
pub mod task;
pub mod top;
pub mod trace;
pub mod version;
pub mod vip;
pub mod volume;
pub mod wait;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    client::Client,
    error::{CliError, usage},
    table::Table,
};

/// GETs a list of Waggle's own API: the answer as it came, and decoded.
pub async fn fetch_list<T: DeserializeOwned>(
    client: &Client,
    path: &str,
) -> Result<(Value, Vec<T>), CliError> {
    let answer = client.get(path).await?;
    let list = serde_json::from_value(answer.clone()).with_context(|| {
        format!("the answer of {path} is no such list; is that a waggle master?")
    })?;
    Ok((answer, list))
}

/// GETs one object of Waggle's own API: the answer as it came, and decoded.
pub async fn fetch<T: DeserializeOwned>(
    client: &Client,
    path: &str,
) -> Result<(Value, T), CliError> {
    let answer = client.get(path).await?;
    let value = serde_json::from_value(answer.clone())
        .with_context(|| format!("the answer of {path} can't be read; is that a waggle master?"))?;
    Ok((answer, value))
}

/// An answer as what it should be.
pub fn decode<T: DeserializeOwned>(answer: Value) -> Result<T, CliError> {
    let value = serde_json::from_value(answer);
    Ok(value.context("the answer can't be read; is that a waggle master?")?)
}

/// Prints a JSON value for programs.
pub fn print_json(value: &Value) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    print(&format!("{text}\n"))
}

/// Writes to standard output; a closed pipe (`| head`) ends the command quietly.
pub fn print(text: &str) -> Result<(), CliError> {
    print_bytes(text.as_bytes())
}

/// As [`print`], for a task's output, which may be anything.
pub fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(anyhow::Error::from(e).into()),
        _ => Ok(()),
    }
}

/// A string field, empty when it is not there.
pub fn text(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// The elements of an array field; none when it is not there.
pub fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// Prints the versions that are kept of what is at `path`, newest first, or one of them as it was.
pub async fn versions(
    client: &Client,
    path: &str,
    version: Option<&str>,
    as_json: bool,
) -> Result<(), CliError> {
    let base = format!("{path}/versions");
    if let Some(version) = version {
        let path = format!("{base}/{}", encode_path(version));
        return print_json(&client.get(&path).await?);
    }
    let answer = client.get(&base).await?;
    if as_json {
        return print_json(&answer);
    }
    print_versions(items(&answer, "versions"))
}

/// Prints versions, of which the first is in force.
pub fn print_versions<'a>(all: impl Iterator<Item = &'a Value>) -> Result<(), CliError> {
    let mut table = Table::new(&["version", ""]);
    for (i, v) in all.enumerate() {
        let mark = if i == 0 { "in force" } else { " " };
        table.row([v.as_str().unwrap_or_default().to_owned(), mark.to_owned()]);
    }
    print(&table.render())
}

/// Percent-encodes what a path segment may not hold; `/` stays.
pub fn encode_path(path: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    path.bytes()
        .map(|b| {
            if keep(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// Percent-encodes a value of a query.
pub fn encode_query(value: &str) -> String {
    // What a path may hold means nothing in a query.
    encode_path(value)
}

/// A name as one segment of a path, percent-encoded.
pub fn segment(field: &str, name: &str) -> Result<String, CliError> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(usage(format!(
            "{field}: must be a name or an id without slashes, is {name:?}"
        )));
    }
    Ok(encode_path(name))
}
