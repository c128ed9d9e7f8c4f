//! `waggle drops`: what of a service's traffic does not get through, why, and what would help.

mod reasons;

use waggle_api::native::{DenialName, DenialView, DropsView, RefusedView};

use super::{
    encode_query, fetch,
    map::{since, warn},
    print, print_json,
};
use crate::{args::DropsCommand, client::Client, error::CliError, show::count, times};

/// Runs `waggle drops`.
pub async fn run(command: DropsCommand) -> Result<(), CliError> {
    let path = format!(
        "/waggle/v1/drops?service={}&{}",
        encode_query(&command.service),
        since(&command.since)?
    );
    let client = Client::new(&command.output.master)?;
    let (answer, drops) = fetch::<DropsView>(&client, &path).await?;
    warn(&drops.silent);
    if command.output.json {
        return print_json(&answer);
    }
    print(&text(&command.service, &drops))
}

fn text(service: &str, drops: &DropsView) -> String {
    let mut parts: Vec<(String, Vec<Line>)> = Vec::new();
    let span = times::span(drops.until_us.saturating_sub(drops.since_us) / 1000);
    let connections = drops.connections.iter().map(connection).collect();
    parts.push((format!("connections of the last {span}"), connections));
    let kernel = drops.kernel.iter().map(|(reason, n)| {
        let (means, helps) = reasons::kernel(reason);
        Line::new(*n, "packet", reason, means, helps)
    });
    let since_start = format!(
        "packets that the kernel dropped since {} began",
        tasks(drops)
    );
    parts.push((since_start, kernel.collect()));
    let whom = drops.denials.iter().map(denial);
    parts.push((
        format!("packets that policies denied, or would, in the last {span}"),
        whom.collect(),
    ));
    let denied = drops.denied.iter().map(|(verdict, n)| {
        let (means, helps) = reasons::policy(verdict);
        Line::new(*n, "packet", verdict, means, helps)
    });
    let whose = "packets that policies dropped on their nodes, whosever they were";
    parts.push((whose.to_owned(), denied.collect()));
    parts.push(("the tasks themselves".to_owned(), own(drops)));
    parts.retain(|(_, lines)| !lines.is_empty());
    if parts.is_empty() {
        return format!(
            "{service}: nothing was dropped or refused, of {}\n",
            tasks(drops)
        );
    }
    let mut out = String::new();
    for (head, lines) in parts {
        out.push_str(&format!("{head}:\n"));
        for line in lines {
            out.push_str(&line.text());
        }
    }
    out
}

fn tasks(drops: &DropsView) -> String {
    count(drops.tasks.into(), "task")
}

/// One reason.
struct Line {
    what: String,
    means: &'static str,
    helps: &'static str,
}

impl Line {
    fn new(n: u64, what: &str, reason: &str, means: &'static str, helps: &'static str) -> Self {
        Self {
            what: format!("{}, {reason}", count(n, what)),
            means,
            helps,
        }
    }

    fn text(&self) -> String {
        let Self { what, means, helps } = self;
        format!("  {what}\n    {means}\n    {helps}\n")
    }
}

fn connection(refused: &RefusedView) -> Line {
    let RefusedView {
        source,
        vip,
        destination,
        verdict,
        count: n,
    } = refused;
    let by = vip.as_ref().map(|v| format!(" by {v}")).unwrap_or_default();
    let reason = format!("{verdict}: {source} -> {destination}{by}");
    let (means, helps) = reasons::verdict(verdict);
    Line::new(*n, "connection", &reason, means, helps)
}

/// `3 packets, denied: web.marathon -> db.marathon tcp/5432, no_rule of closed (destination's)`
fn denial(denial: &DenialView) -> Line {
    let DenialName {
        source,
        destination,
        port,
        protocol,
        verdict,
        observer,
        reason,
        policies,
    } = &denial.name;
    let at = match port {
        0 => protocol.clone(),
        port => format!("{protocol}/{port}"),
    };
    let of = match policies.as_str() {
        "" => format!("{reason} ({observer})"),
        policies => format!("{reason} of {policies} ({observer})"),
    };
    let what = format!("{verdict}: {source} -> {destination} {at}, {of}");
    let (means, helps) = reasons::denial(verdict, observer, reason);
    Line::new(denial.packets, "packet", &what, means, helps)
}

fn own(drops: &DropsView) -> Vec<Line> {
    let all = [
        (drops.retransmits, "segment", "sent again"),
        (drops.oom_kills, "OOM kill", "ended for memory"),
        (
            drops.log_lines_dropped,
            "line",
            "of output left out of logs",
        ),
    ];
    let some = all.into_iter().filter(|(n, ..)| *n > 0);
    some.map(|(n, what, reason)| {
        let (means, helps) = reasons::own(reason);
        Line::new(n, what, reason, means, helps)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_sentence_and_what_would_help() {
        let drops = DropsView {
            names: vec!["shop.marathon".to_owned()],
            since_us: 0,
            until_us: 3_600_000_000,
            tasks: 2,
            kernel: [
                ("tcp_overwindow".to_owned(), 3),
                ("no_socket".to_owned(), 1),
            ]
            .into(),
            connections: vec![RefusedView {
                source: "shop.marathon".to_owned(),
                vip: Some("web.l4lb:80".to_owned()),
                destination: "nobody".to_owned(),
                verdict: "no_backend".to_owned(),
                count: 4,
            }],
            denied: [("denied_egress".to_owned(), 9)].into(),
            denials: vec![DenialView {
                name: DenialName {
                    source: "shop.marathon".to_owned(),
                    destination: "db.marathon".to_owned(),
                    port: 5432,
                    protocol: "tcp".to_owned(),
                    verdict: "denied".to_owned(),
                    observer: "destination".to_owned(),
                    reason: "no_rule".to_owned(),
                    policies: "db,closed".to_owned(),
                },
                packets: 7,
            }],
            log_lines_dropped: 5,
            oom_kills: 2,
            ..DropsView::default()
        };
        assert_eq!(
            text("/shop", &drops),
            "\
connections of the last 1 h:
  4 connections, no_backend: shop.marathon -> nobody by web.l4lb:80
    the VIP had no backend that may take connections
    see why with `waggle vip list` and `waggle explain app`: none runs, none is ready, or all are being drained
packets that the kernel dropped since 2 tasks began:
  1 packet, no_socket
    nobody listens at the port, or the connection is gone already
    see whether the client has an old address or port, or the server has ended
  3 packets, tcp_overwindow
    a segment lies outside of the receiver's window: late, sent twice, or forged
    harmless if rare; else look for a path that delays or repeats packets
packets that policies denied, or would, in the last 1 h:
  7 packets, denied: shop.marathon -> db.marathon tcp/5432, no_rule of db,closed (destination)
    no rule lets the task be sent it
    ask `waggle policy test` which policy says so, and add a rule if it should pass
packets that policies dropped on their nodes, whosever they were:
  9 packets, denied_egress
    no rule lets the task send it
    ask `waggle policy test` which policy says so, and add a rule if it should pass
the tasks themselves:
  2 OOM kills, ended for memory
    a process of the task was ended, its cgroup was out of memory
    raise mem, or make it need less
  5 lines, of output left out of logs
    the task writes more than its rate of lines; its files have them all the same
    write less, raise its rate, or label it WAGGLE_LOG_POLICY=block to make it wait
"
        );
    }

    #[test]
    fn nothing_is_said_plainly() {
        let none = DropsView {
            tasks: 1,
            ..DropsView::default()
        };
        assert_eq!(
            text("/web", &none),
            "/web: nothing was dropped or refused, of 1 task\n"
        );
    }
}
