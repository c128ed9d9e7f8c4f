//! `waggle flows`: connections that have ended, of all nodes, in the order in which they did.
//!
//! Every node is asked for its own; a node that does not answer is said, and the others are shown.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
    },
    task::JoinSet,
    time::Instant,
};
use waggle_api::native::{Denials, EndedFlow, FlowLine, NodeView};

use super::{encode_query, fetch_list, print};
use crate::{
    args::FlowsCommand,
    client::Client,
    error::{CliError, usage},
    show::{bytes, count, micros},
    times::{self, YEAR},
};

/// Nodes that are asked at the same time; when following, all are.
const AT_ONCE: usize = 16;
/// Most nodes that are followed.
const MAX_FOLLOWED: usize = 256;
/// How long connections wait to be put in order: a node tells of one within a fraction of a second.
const WINDOW: Duration = Duration::from_millis(750);
/// Lines on their way.
const WAITING: usize = 65_536;

/// Runs `waggle flows`.
pub async fn run(command: FlowsCommand) -> Result<(), CliError> {
    let query = query(&command, times::now())?;
    let master = Client::new(&command.output.master)?;
    let (_, mut nodes) = fetch_list::<NodeView>(&master, "/waggle/v1/nodes").await?;
    nodes.retain(|n| n.mode != "gone");
    if let Some(name) = &command.node {
        nodes.retain(|n| n.hostname == *name || n.id == *name);
        if nodes.is_empty() {
            return Err(CliError::Refused {
                status: 404,
                message: format!("no node has the name {name}"),
            });
        }
    }
    if command.follow && nodes.len() > MAX_FOLLOWED {
        let n = nodes.len();
        return Err(usage(format!(
            "there are {n} nodes, at most {MAX_FOLLOWED} can be followed: choose one with --node"
        )));
    }
    if command.follow {
        follow(nodes, &query, &command).await
    } else {
        let mut flows = gather(nodes, &query).await?;
        if !command.both {
            told_once(&mut flows, are_both_asked(&command));
        }
        let from = flows.len().saturating_sub(command.limit);
        show(&flows[from..], command.output.json)
    }
}

/// What the nodes are asked.
fn query(command: &FlowsCommand, now_ms: u64) -> Result<String, CliError> {
    let ago = |field, text: &Option<String>| -> Result<Option<u64>, CliError> {
        let span = text.as_deref().map(|t| times::duration(field, t, YEAR));
        let ms = span.transpose()?.map(times::millis);
        Ok(ms.map(|ms| now_ms.saturating_sub(ms) * 1000))
    };
    // Of both ends' connections one may be left out afterwards.
    let limit = command.limit.saturating_mul(2).clamp(1, 100_000);
    if command.limit == 0 || command.limit > 100_000 {
        let n = command.limit;
        return Err(usage(format!("limit: must be 1 to 100000, is {n}")));
    }
    let (since, until) = (ago("since", &command.since)?, ago("until", &command.until)?);
    if command.follow && until.is_some() {
        return Err(usage("until: can't be with --follow"));
    }
    let verdicts: Vec<&str> = command.verdict.iter().map(|v| v.name()).collect();
    let words = [
        ("service", command.service.clone()),
        ("vip", command.vip.clone()),
        (
            "verdict",
            (!verdicts.is_empty()).then(|| verdicts.join(",")),
        ),
        ("task", command.task.clone()),
        ("since_us", since.map(|at| at.to_string())),
        ("until_us", until.map(|at| at.to_string())),
        ("follow", command.follow.then(|| "true".to_owned())),
    ];
    let mut query = format!("/waggle/v1/flows?limit={limit}");
    for (key, value) in words {
        if let Some(value) = value {
            query.push_str(&format!("&{key}={}", encode_query(&value)));
        }
    }
    Ok(query)
}

/// Whether the other end of each connection between tasks is asked about, too: a task, a path and a node are of one end.
fn are_both_asked(command: &FlowsCommand) -> bool {
    let service = command.service.as_deref();
    let is_of_one = service.is_some_and(|s| s.starts_with('/'));
    !is_of_one && command.task.is_none() && command.node.is_none()
}

/// Leaves out what an accepting end saw of connections that their other end tells of, too. Where `both` ends are asked, a task's
/// connections are told by it, be it a moment later.
fn told_once(flows: &mut Vec<EndedFlow>, both: bool) {
    let is_source = |f: &EndedFlow| f.observer == "source";
    let sources: HashSet<(String, String)> = flows
        .iter()
        .filter(|f| is_source(f))
        .filter_map(|f| Some((f.local.clone()?, f.peer.clone())))
        .collect();
    flows.retain(|f| {
        let local = f.local.clone().unwrap_or_default();
        let is_told = both && f.source.contains('.') || sources.contains(&(f.peer.clone(), local));
        is_source(f) || !is_told || Denials::is_one(f)
    });
}

async fn gather(nodes: Vec<NodeView>, query: &str) -> Result<Vec<EndedFlow>, CliError> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for node in nodes {
        let (slots, query) = (Arc::clone(&slots), query.to_owned());
        asking.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let mut flows = Vec::new();
            let take = |line| {
                if let FlowLine::Flow(flow) = line {
                    flows.push(*flow);
                }
                true
            };
            let asked = ask(&node, &query, take).await;
            (node, asked, flows)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = asking.join_next().await {
        let (node, asked, flows) = done.map_err(anyhow::Error::from)?;
        asked.or_else(|e| silent(&node, e))?;
        all.extend(flows);
    }
    all.sort_by(|a, b| (a.ended_us, &a.node).cmp(&(b.ended_us, &b.node)));
    Ok(all)
}

async fn follow(nodes: Vec<NodeView>, query: &str, command: &FlowsCommand) -> Result<(), CliError> {
    let (lines, mut inbox) = mpsc::channel(WAITING);
    let mut asking = JoinSet::new();
    for node in nodes {
        let (query, lines) = (query.to_owned(), lines.clone());
        asking.spawn(async move {
            let mut left_out = 0;
            let take = |line| match lines.try_send(line) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    left_out += 1;
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            };
            let asked = ask(&node, &query, take).await;
            if left_out > 0 {
                eprintln!(
                    "{}: {left_out} connections were left out: too many at once",
                    node.hostname
                );
            }
            asked.or_else(|e| silent(&node, e))
        });
    }
    drop(lines);
    let mut waiting: Vec<EndedFlow> = Vec::new();
    loop {
        let deadline = Instant::now() + WINDOW;
        let mut over = false;
        loop {
            match tokio::time::timeout_at(deadline, inbox.recv()).await {
                Ok(Some(FlowLine::Flow(flow))) => waiting.push(*flow),
                Ok(Some(FlowLine::Missed { missed })) => {
                    eprintln!(
                        "a node was ahead by {missed} looks, which are left out: this reader is too slow"
                    );
                }
                Ok(None) => {
                    over = true;
                    break;
                }
                Err(_) => break,
            }
        }
        waiting.sort_by(|a, b| (a.ended_us, &a.node).cmp(&(b.ended_us, &b.node)));
        if !command.both {
            told_once(&mut waiting, are_both_asked(command));
        }
        show(&waiting, command.output.json)?;
        waiting.clear();
        if over {
            break;
        }
    }
    while let Some(done) = asking.join_next().await {
        done.map_err(anyhow::Error::from)??;
    }
    Ok(())
}

/// What was asked wrongly is everybody's answer; what one node can't tell is its own.
fn silent(node: &NodeView, error: CliError) -> Result<(), CliError> {
    if let CliError::Refused { status: 400, .. } = error {
        return Err(error);
    }
    eprintln!("{}: {error}", node.hostname);
    Ok(())
}

async fn ask(
    node: &NodeView,
    query: &str,
    mut take: impl FnMut(FlowLine) -> bool,
) -> Result<(), CliError> {
    let client = Client::new(&format!("http://{}:{}", node.ip, node.http_port))?;
    let mut held = Vec::new();
    let asked = client.get_stream(query, |bytes| {
        held.extend_from_slice(bytes);
        while let Some(end) = held.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            // An empty line says that the node is still there.
            if let Ok(line) = serde_json::from_slice(&line)
                && !take(line)
            {
                return Err(anyhow::anyhow!("nobody reads any more").into());
            }
        }
        Ok(())
    });
    asked.await
}

fn show(flows: &[EndedFlow], json: bool) -> Result<(), CliError> {
    let mut out = String::new();
    for flow in flows {
        if json {
            out.push_str(&serde_json::to_string(flow).map_err(anyhow::Error::from)?);
        } else {
            out.push_str(&line(flow));
        }
        out.push('\n');
    }
    print(&out)
}

/// `2026-11-26T10:00:00.123Z n1 shop.marathon -> web.marathon 10.0.0.2:31000 by web.l4lb:80 closed, ...`
fn line(flow: &EndedFlow) -> String {
    let at = times::exact(flow.ended_us / 1000);
    let destination = match flow.destination.as_str() {
        "" => "nobody",
        name => name,
    };
    let mut out = format!(
        "{at} {} {} -> {destination} {}",
        flow.node, flow.source, flow.peer
    );
    if let Some(vip) = &flow.vip {
        out.push_str(&format!(" by {vip}"));
    }
    if Denials::is_one(flow) {
        out.push_str(&denied(flow));
        return out;
    }
    out.push_str(&format!(" {}", flow.verdict));
    if flow.verdict == "closed" || flow.verdict == "reset" {
        let (sent, received) = (bytes(flow.tx_bytes), bytes(flow.rx_bytes));
        out.push_str(&format!(", sent {sent}, received {received}"));
    }
    if flow.verdict != "no_backend" {
        out.push_str(&format!(", {}", micros(flow.duration_us)));
    }
    if flow.connect_us > 0 {
        out.push_str(&format!(", connect {}", micros(flow.connect_us.into())));
    }
    if flow.rtt_us > 0 {
        out.push_str(&format!(", rtt {}", micros(flow.rtt_us.into())));
    }
    if flow.retransmits > 0 {
        out.push_str(&format!(", {} sent again", flow.retransmits));
    }
    out
}

/// ` tcp denied by destination: no_rule of closed, 3 packets`. Of what was dialled at this end the line has the other end alone.
fn denied(flow: &EndedFlow) -> String {
    let of = match flow.policies.as_str() {
        "" => String::new(),
        policies => format!(" of {policies}"),
    };
    let at = match (&flow.local, flow.observer.as_str()) {
        (Some(local), "destination") => format!(" to {local}"),
        _ => String::new(),
    };
    let (protocol, verdict) = (&flow.protocol, &flow.verdict);
    let (observer, reason) = (&flow.observer, &flow.reason);
    let n = count(flow.packets, "packet");
    format!("{at} {protocol} {verdict} by {observer}: {reason}{of}, {n}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> EndedFlow {
        EndedFlow {
            ended_us: 1_764_000_000_123_456,
            duration_us: 3210,
            node: "n1".to_owned(),
            observer: "source".to_owned(),
            source: "shop.marathon".to_owned(),
            destination: "web.marathon".to_owned(),
            task_id: "shop.1".to_owned(),
            service: "/shop".to_owned(),
            vip: Some("web.marathon.l4lb.thisdcos.directory:80".to_owned()),
            local: Some("192.168.1.1:40000".to_owned()),
            peer: "192.168.1.2:31000".to_owned(),
            protocol: "tcp".to_owned(),
            verdict: "closed".to_owned(),
            tx_bytes: 312,
            rx_bytes: 8_123,
            connect_us: 85,
            rtt_us: 45,
            retransmits: 2,
            ..EndedFlow::default()
        }
    }

    #[test]
    fn a_connection_is_one_line() {
        let mut one = flow();
        assert_eq!(
            line(&one),
            "2025-11-24T16:00:00.123Z n1 shop.marathon -> web.marathon 192.168.1.2:31000 by \
             web.marathon.l4lb.thisdcos.directory:80 closed, sent 312 B, received 8.1 kB, 3.2 ms, connect 85 us, rtt 45 us, \
             2 sent again"
        );
        one.verdict = "no_backend".to_owned();
        one.destination.clear();
        one.peer = "11.0.0.1:80".to_owned();
        (one.connect_us, one.rtt_us, one.retransmits) = (0, 0, 0);
        assert_eq!(
            line(&one),
            "2025-11-24T16:00:00.123Z n1 shop.marathon -> nobody 11.0.0.1:80 by \
             web.marathon.l4lb.thisdcos.directory:80 no_backend"
        );
    }

    #[test]
    fn a_denial_says_whose_policies_and_why() {
        let mut one = flow();
        one.vip = None;
        (one.verdict, one.reason) = ("denied".to_owned(), "no_rule".to_owned());
        (one.policies, one.packets) = ("closed,db".to_owned(), 3);
        assert_eq!(
            line(&one),
            "2025-11-24T16:00:00.123Z n1 shop.marathon -> web.marathon 192.168.1.2:31000 tcp denied by source: no_rule of \
             closed,db, 3 packets"
        );
        one.observer = "destination".to_owned();
        (one.verdict, one.reason) = ("audited".to_owned(), "no_flow".to_owned());
        (one.policies, one.packets) = (String::new(), 1);
        assert_eq!(
            line(&one),
            "2025-11-24T16:00:00.123Z n1 shop.marathon -> web.marathon 192.168.1.2:31000 to 192.168.1.1:40000 tcp audited by \
             destination: no_flow, 1 packet"
        );
        // Each end has policies of its own: none stands for the other.
        let all = vec![flow(), one];
        let mut told = all.clone();
        told_once(&mut told, true);
        assert_eq!(told, all);
    }

    #[test]
    fn a_connection_between_tasks_is_told_by_its_source() {
        let source = flow();
        let mut seen = flow();
        seen.observer = "destination".to_owned();
        // Of a task on its node's network the other end knows the node.
        seen.source = "node".to_owned();
        (seen.local, seen.peer) = (Some(source.peer.clone()), "192.168.1.1:40000".to_owned());
        let mut outside = seen.clone();
        (outside.source, outside.peer) = ("public".to_owned(), "203.0.113.9:1234".to_owned());
        let mut named = outside.clone();
        named.source = "cart.marathon".to_owned();
        let all = vec![source.clone(), seen, outside.clone(), named.clone()];
        let mut flows = all.clone();
        told_once(&mut flows, true);
        assert_eq!(flows, [source.clone(), outside.clone()]);
        // Nobody asked the other end.
        flows = all;
        told_once(&mut flows, false);
        assert_eq!(flows, [source, outside, named]);
    }
}
