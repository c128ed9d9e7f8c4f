//! `waggle map`: who speaks with whom, as a table, as JSON, or as a graph for Graphviz.

use std::fmt::Write as _;

use waggle_api::native::{EdgeSums, EdgeView, MapView, SilentView};

use super::{encode_query, fetch, print, print_json};
use crate::{
    args::MapCommand,
    client::Client,
    error::{CliError, usage},
    show::{bytes, micros},
    table::Table,
    times::{self, YEAR},
};

const MAX_EDGES: usize = 4096;

/// Runs `waggle map`.
pub async fn run(command: MapCommand) -> Result<(), CliError> {
    let limit = command.limit;
    if limit == 0 || limit > MAX_EDGES {
        return Err(usage(format!(
            "limit: must be 1 to {MAX_EDGES}, is {limit}"
        )));
    }
    let mut path = format!("/waggle/v1/map?limit={limit}&{}", since(&command.since)?);
    if let Some(service) = &command.service {
        path.push_str(&format!("&service={}", encode_query(service)));
    }
    let client = Client::new(&command.output.master)?;
    let (answer, map) = fetch::<MapView>(&client, &path).await?;
    warn(&map.silent);
    for (node, since_us) in &map.shortened {
        let at = times::absolute(since_us / 1000);
        eprintln!("{node}: it had too many connections, its own are counted since {at}");
    }
    if command.output.json {
        return print_json(&answer);
    }
    print(&if command.dot { dot(&map) } else { text(&map) })
}

/// `since_us=..` for a span before now.
pub fn since(span: &str) -> Result<String, CliError> {
    let ago = times::millis(times::duration("since", span, YEAR)?);
    Ok(format!(
        "since_us={}",
        times::now().saturating_sub(ago) * 1000
    ))
}

/// Nodes whose part is missing are named, and the others' is shown.
pub fn warn(silent: &[SilentView]) {
    for s in silent {
        eprintln!("{}: {}", s.node, s.why);
    }
}

fn text(map: &MapView) -> String {
    if map.edges.is_empty() {
        return "no connections\n".to_owned();
    }
    let mut table = Table::new(&[
        "source",
        "vip",
        "destination",
        "conn/s",
        "errors",
        "open",
        "connect p50",
        "p99",
        "rtt p50",
        "sent",
        "received",
    ]);
    for EdgeView { name, sums } in &map.edges {
        let vip = name.vip.clone().unwrap_or_default();
        table.row(row(
            [name.source.clone(), vip, name.destination.clone()],
            sums,
        ));
    }
    if let Some(other) = &map.other {
        let name = format!("{} others", map.folded);
        table.row(row([name, String::new(), String::new()], other));
    }
    table.render()
}

fn row(name: [String; 3], sums: &EdgeSums) -> Vec<String> {
    let us = |q: Option<u64>| q.map(micros).unwrap_or_default();
    let mut out = Vec::from(name);
    out.extend([
        rate(sums.per_s),
        errors(sums),
        count(sums.open),
        us(sums.connect_us.quantile(0.5)),
        us(sums.connect_us.quantile(0.99)),
        us(sums.rtt_us.quantile(0.5)),
        bytes(sums.tx_bytes),
        bytes(sums.rx_bytes),
    ]);
    out
}

/// `3 refused, 1 reset`; empty for none.
fn errors(sums: &EdgeSums) -> String {
    let all = sums
        .errors
        .iter()
        .map(|(verdict, n)| format!("{n} {verdict}"));
    all.collect::<Vec<_>>().join(", ")
}

fn count(n: u64) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

/// Two digits that say something.
pub fn rate(per_s: f64) -> String {
    match per_s {
        n if n <= 0.0 => "0".to_owned(),
        n if n < 0.01 => "<0.01".to_owned(),
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}

/// Graphviz: services are boxes, classes of addresses ellipses; what had errors is red.
fn dot(map: &MapView) -> String {
    let mut out = String::from("digraph waggle {\n  rankdir=LR;\n  node [shape=box];\n");
    for s in &map.services {
        let shape = if s.is_service { "" } else { " [shape=ellipse]" };
        let _ = writeln!(out, "  {}{shape};", quoted(&s.name));
    }
    for EdgeView { name, sums } in &map.edges {
        let mut lines: Vec<String> = name.vip.iter().cloned().collect();
        lines.push(format!("{}/s", rate(sums.per_s)));
        let wrong = errors(sums);
        let color = if wrong.is_empty() { "" } else { ", color=red" };
        lines.extend(Some(wrong).filter(|w| !w.is_empty()));
        lines.extend(sums.connect_us.quantile(0.5).map(micros));
        let (from, to) = (quoted(&name.source), quoted(&name.destination));
        let label = quoted(&lines.join("\n"));
        let _ = writeln!(out, "  {from} -> {to} [label={label}{color}];");
    }
    if let Some(other) = &map.other {
        let label = quoted(&format!(
            "{} other edges\n{}/s",
            map.folded,
            rate(other.per_s)
        ));
        let _ = writeln!(out, "  other [shape=note, label={label}];");
    }
    out.push_str("}\n");
    out
}

/// As Graphviz reads a string.
fn quoted(text: &str) -> String {
    let inner = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", inner.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use waggle_api::native::{EdgeName, Spread, ends};

    use super::*;

    fn map() -> MapView {
        let edge = |source: &str, vip: Option<&str>, destination: &str, sums| EdgeView {
            name: EdgeName {
                source: source.to_owned(),
                vip: vip.map(ToOwned::to_owned),
                destination: destination.to_owned(),
            },
            sums,
        };
        let mut fine = EdgeSums {
            connections: 90,
            open: 2,
            tx_bytes: 1234,
            rx_bytes: 5_600_000,
            per_s: 0.3,
            ..EdgeSums::default()
        };
        fine.connect_us = Spread::of(&[0, 0, 0, 0, 0, 0, 90]);
        fine.rtt_us = Spread::of(&[0, 0, 0, 0, 90]);
        let bad = EdgeSums {
            errors: [("no_backend".to_owned(), 3)].into(),
            per_s: 0.01,
            ..EdgeSums::default()
        };
        let edges = vec![
            edge("shop.marathon", Some("web.l4lb:80"), "web.marathon", fine),
            edge("shop.marathon", Some("a\"b:1"), "nobody", bad),
        ];
        MapView {
            since_us: 0,
            until_us: 300_000_000,
            services: ends(&edges, |_| None),
            edges,
            other: Some(EdgeSums {
                connections: 7,
                per_s: 12.0,
                ..EdgeSums::default()
            }),
            folded: 4,
            shortened: [].into(),
            silent: Vec::new(),
        }
    }

    #[test]
    fn edges_are_a_table() {
        assert_eq!(
            text(&map()),
            "\
SOURCE         VIP          DESTINATION   CONN/S  ERRORS        OPEN  CONNECT P50  P99     RTT P50  SENT    RECEIVED
shop.marathon  web.l4lb:80  web.marathon  0.30    -             2     96 us        127 us  24 us    1.2 kB  5.6 MB
shop.marathon  a\"b:1        nobody        0.01    3 no_backend  -     -            -       -        0 B     0 B
4 others       -            -             12.0    -             -     -            -       -        0 B     0 B
"
        );
        let none = MapView {
            edges: Vec::new(),
            ..map()
        };
        assert_eq!(text(&none), "no connections\n");
    }

    #[test]
    fn edges_are_a_graph() {
        assert_eq!(
            dot(&map()),
            r#"digraph waggle {
  rankdir=LR;
  node [shape=box];
  "nobody" [shape=ellipse];
  "shop.marathon";
  "web.marathon";
  "shop.marathon" -> "web.marathon" [label="web.l4lb:80\n0.30/s\n96 us"];
  "shop.marathon" -> "nobody" [label="a\"b:1\n0.01/s\n3 no_backend", color=red];
  other [shape=note, label="4 other edges\n12.0/s"];
}
"#
        );
    }
}
