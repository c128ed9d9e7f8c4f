//! `waggle dns zone` and `trace`: what a node's resolver holds, and why it answers as it does.

use anyhow::anyhow;
use serde::Deserialize;

use super::super::{encode_path, fetch, print, print_json};
use crate::{
    args::{DnsApi, RecordType},
    client::Client,
    error::CliError,
    table::Table,
};

#[derive(Debug, Deserialize)]
struct Record {
    name: String,
    ttl: u32,
    #[serde(rename = "type")]
    kind: String,
    data: String,
}

#[derive(Debug, Deserialize)]
struct Zone {
    serial: u32,
    generation: u64,
    records: Vec<Record>,
    left_out: usize,
}

/// `waggle dns zone [NAME]`. A name without records is an error.
pub async fn zone(name: Option<&str>, api: &DnsApi) -> Result<(), CliError> {
    let client = Client::new(&api.api)?;
    let path = match name {
        Some(name) => format!("/waggle/v1/dns/zone?name={}", encode_query(name)),
        None => "/waggle/v1/dns/zone".to_owned(),
    };
    let (answer, zone) = fetch::<Zone>(&client, &path)
        .await
        .map_err(|e| unreached(e, api))?;
    if api.json {
        print_json(&answer)?;
    } else {
        let mut table = Table::new(&["name", "ttl", "type", "data"]);
        for r in &zone.records {
            table.row([
                r.name.clone(),
                r.ttl.to_string(),
                r.kind.clone(),
                r.data.clone(),
            ]);
        }
        print(&table.render())?;
        let n = zone.records.len();
        let more = match zone.left_out {
            0 => String::new(),
            n => format!(", {n} more not shown"),
        };
        let (serial, generation) = (zone.serial, zone.generation);
        print(&format!(
            "{n} records{more}; serial {serial}, generation {generation}\n"
        ))?;
    }
    match name {
        Some(name) if zone.records.is_empty() => {
            Err(anyhow!("{name}: no such name in a zone of the cluster").into())
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Deserialize)]
struct Trace {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    rule: Rule,
    alias: Option<Alias>,
    looked_up: String,
    outcome: String,
    closest: Option<String>,
    tasks: Vec<Task>,
    answers: Vec<Record>,
    #[serde(default)]
    forward: Option<Forward>,
    serial: u32,
    generation: u64,
}

#[derive(Debug, Deserialize)]
struct Rule {
    kind: String,
    zone: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Alias {
    from: String,
    to: String,
}

#[derive(Debug, Deserialize)]
struct Task {
    #[serde(rename = "task_id")]
    id: String,
    listed: bool,
    why: String,
}

#[derive(Debug, Deserialize)]
struct Forward {
    suffix: String,
    upstreams: Vec<String>,
    cached_for_seconds: Option<u64>,
}

/// `waggle dns trace NAME [TYPE]`. Fails where the answer would be that there is no such name, or a refusal.
pub async fn trace(name: &str, record_type: RecordType, api: &DnsApi) -> Result<(), CliError> {
    let client = Client::new(&api.api)?;
    let (name_text, kind) = (encode_query(name), record_type.name());
    let path = format!("/waggle/v1/dns/trace?name={name_text}&type={kind}");
    let (answer, trace) = fetch::<Trace>(&client, &path)
        .await
        .map_err(|e| unreached(e, api))?;
    if api.json {
        print_json(&answer)?;
    } else {
        print(&text(&trace))?;
    }
    let refused = trace.rule.kind == "forward" && trace.forward.is_none();
    match trace.outcome.as_str() {
        "no_such_name" => Err(anyhow!("{name}: no such name").into()),
        "refused" => Err(anyhow!("{name}: refused").into()),
        _ if refused => Err(anyhow!("{name}: no resolver is configured for it").into()),
        _ => Ok(()),
    }
}

fn text(t: &Trace) -> String {
    let mut out = format!("{} {}\n", t.name, t.kind);
    if let Some(alias) = &t.alias {
        let Alias { from, to } = alias;
        out.push_str(&format!(
            "  {from} stands for {to}: looked up as {}\n",
            t.looked_up
        ));
    }
    match (t.rule.kind.as_str(), &t.rule.zone) {
        ("zone", Some(zone)) => out.push_str(&format!(
            "  answered from zone {zone} (serial {}, generation {})\n",
            t.serial, t.generation
        )),
        ("address", _) => out.push_str("  an address of the cluster, answered here\n"),
        _ => match &t.forward {
            None => {
                out.push_str("  in no zone of the cluster, and there is nobody to ask: refused\n");
            }
            Some(f) => {
                out.push_str(&format!(
                    "  in no zone of the cluster: asked of {} (for names below {})\n",
                    f.upstreams.join(", "),
                    f.suffix
                ));
                if let Some(seconds) = f.cached_for_seconds {
                    out.push_str(&format!("  an answer is kept, good for {seconds} s more\n"));
                }
            }
        },
    }
    match (t.outcome.as_str(), &t.closest) {
        ("no_such_name", Some(closest)) => {
            out.push_str(&format!(
                "  no such name; the closest one above it is {closest}\n"
            ));
        }
        ("no_data", _) => out.push_str("  the name is there, without such a record\n"),
        _ => {}
    }
    for r in &t.answers {
        out.push_str(&format!("  {} {} {} {}\n", r.name, r.ttl, r.kind, r.data));
    }
    if !t.tasks.is_empty() {
        let mut table = Table::new(&["task", "listed", "why"]);
        for task in &t.tasks {
            let listed = if task.listed { "yes" } else { "no" };
            table.row([task.id.clone(), listed.to_owned(), task.why.clone()]);
        }
        out.push_str(&table.render());
    }
    out
}

/// Says which API it was that did not answer: not a master's.
fn unreached(error: CliError, api: &DnsApi) -> CliError {
    match error {
        CliError::Failed(e) => CliError::Failed(e.context(format!(
            "no answer from the node's API about names at {} (--api or WAGGLE_DNS_API names another)",
            api.api
        ))),
        other => other,
    }
}

/// A value in a query string; what a path may hold and a query may not is encoded too.
fn encode_query(value: &str) -> String {
    encode_path(value).replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> String {
        text(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_trace_reads_from_the_question_to_the_tasks() {
        let shown = of(r#"{
            "name": "web.marathon.dclb.thisdcos.directory.", "type": "A", "serial": 3, "generation": 7,
            "rule": {"kind": "zone", "zone": "l4lb.thisdcos.directory."}, "outcome": "found",
            "alias": {"from": "dclb.thisdcos.directory.", "to": "l4lb.thisdcos.directory."},
            "looked_up": "web.marathon.l4lb.thisdcos.directory.", "closest": null,
            "tasks": [{"task_id": "web.1", "listed": false, "why": "health check fails"}],
            "answers": [{"name": "w.", "ttl": 5, "type": "A", "data": "11.0.0.1"}]
        }"#);
        let want = "web.marathon.dclb.thisdcos.directory. A\n  dclb.thisdcos.directory. stands for \
                    l4lb.thisdcos.directory.: looked up as web.marathon.l4lb.thisdcos.directory.\n  \
                    answered from zone l4lb.thisdcos.directory. (serial 3, generation 7)\n  w. 5 A 11.0.0.1\n\
                    TASK   LISTED  WHY\nweb.1  no      health check fails\n";
        assert_eq!(shown, want);
    }

    #[test]
    fn a_forwarded_name_says_whom() {
        let json = |forward: &str| {
            format!(
                r#"{{"name": "a.", "type": "A", "serial": 1, "generation": 1, "rule": {{"kind": "forward"}},
                "alias": null, "looked_up": "a.", "outcome": "not_ours", "closest": null, "tasks": [],
                "answers": [], "forward": {forward}}}"#
            )
        };
        let shown = of(&json(
            r#"{"suffix": ".", "upstreams": ["10.0.0.1:53"], "cached_for_seconds": 4}"#,
        ));
        assert!(shown.contains("asked of 10.0.0.1:53"), "{shown}");
        assert!(shown.contains("good for 4 s more"), "{shown}");
        assert!(of(&json("null")).contains("refused"));
    }
}
