//! `waggle explain ...`: why something is not where it should be.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use waggle_api::native::{
    AgentExplainView, BecauseView, DeploymentView, ExplainView, FrameworkExplainView,
    FrameworkRoleExplainView, JobExplainView, PlacementView, RoleExplainView, WhyView,
};

use super::{encode_path, fetch, fetch_list, print, print_json, role, segment};
use crate::{
    args::{ExplainCommand, ExplainSub},
    client::Client,
    error::CliError,
    show::{self, amount, by_kind, count, percent, without},
    table::Table,
    times,
};

/// Runs `waggle explain ...`.
pub async fn run(command: ExplainCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let as_json = command.output.json;
    match command.command {
        ExplainSub::App { id } | ExplainSub::Pod { id } => {
            let id = encode_path(id.trim_matches('/'));
            say(&client, &format!("app/{id}"), as_json, app).await
        }
        ExplainSub::Job { id } => {
            let id = segment("id", &id)?;
            say(&client, &format!("job/{id}"), as_json, job).await
        }
        ExplainSub::Deployment { id } => deployment(&client, &id, as_json).await,
        ExplainSub::Framework { framework: name } => {
            let name = segment("framework", &name)?;
            say(&client, &format!("framework/{name}"), as_json, framework).await
        }
        ExplainSub::Role { role: name } => {
            let path = format!("role/{}", role::role_path(&name)?);
            say::<RoleExplainView>(&client, &path, as_json, role::explained).await
        }
        ExplainSub::Agent { agent: name } => {
            let path = format!("agent/{}", segment("agent", &name)?);
            let now = times::now();
            say::<AgentExplainView>(&client, &path, as_json, |a| agent(a, now)).await
        }
    }
}

async fn say<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    as_json: bool,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let (answer, found) = fetch::<T>(client, &format!("/waggle/v1/explain/{path}")).await?;
    if as_json {
        return print_json(&answer);
    }
    print(&text(&found))
}

fn job(j: &JobExplainView) -> String {
    let mut out = format!("{}: {}\n", j.job, count(j.runs.len() as u64, "active run"));
    for r in &j.runs {
        out.push_str(&format!("  run {}, {}\n", r.id, r.state));
        if r.offers > 0 {
            out.push_str(&format!("    looked at {}\n", count(r.offers, "offer")));
        }
        for rule in &r.refused {
            out.push_str(&format!("    {rule}\n"));
        }
    }
    let lines = j.schedules.iter().map(|s| format!("schedule {s}"));
    for line in lines.chain(j.dependencies.iter().cloned()) {
        out.push_str(&format!("  {line}\n"));
    }
    if let Some(last) = &j.last_failure {
        out.push_str(&format!("  the last failure: {last}\n"));
    }
    for reason in &j.allocator {
        out.push_str(&format!("  no more is offered: {reason}\n"));
    }
    out
}

/// Services of a deployment that are explained one by one.
const MAX_SERVICES: usize = 20;

/// The step under way, and each of its services that is not as it should be.
async fn deployment(client: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let (_, all) = fetch_list::<DeploymentView>(client, "/waggle/v1/deployments").await?;
    let Some(d) = all.into_iter().find(|d| d.id == id) else {
        return Err(anyhow::anyhow!("deployment {id} does not exist, or is over").into());
    };
    let (mut answers, mut late, mut rest) = (Vec::new(), Vec::new(), 0);
    for service in &d.services {
        if late.len() == MAX_SERVICES {
            rest += 1;
            continue;
        }
        let path = encode_path(service.trim_matches('/'));
        let found = fetch::<ExplainView>(client, &format!("/waggle/v1/explain/app/{path}")).await;
        // One that goes has no definition any more.
        let Ok((answer, e)) = found else {
            continue;
        };
        let turn_comes = e
            .deployments
            .iter()
            .any(|d| d.waiting_for.starts_with("its turn"));
        if !turn_comes && (e.waiting > 0 || e.running != e.instances) {
            answers.push(answer);
            late.push(e);
        }
    }
    if as_json {
        return print_json(&serde_json::json!({ "deployment": d, "services": answers }));
    }
    let mut out = format!(
        "deployment {}: step {} of {} waits for {}\n",
        d.id, d.step, d.total_steps, d.waiting_for
    );
    for e in &late {
        out.push_str(&format!("\n{}", app(e)));
    }
    if rest > 0 {
        out.push_str(&format!("\nand perhaps more of {rest} other services\n"));
    }
    print(&out)
}

fn framework(f: &FrameworkExplainView) -> String {
    let state = if f.connected { "connected" } else { "away" };
    let mut out = format!("{} ({}): {state}", f.name, f.id);
    if !f.capabilities.is_empty() {
        out.push_str(&format!(", can handle {}", f.capabilities.join(", ")));
    }
    out.push('\n');
    for b in &f.general {
        out.push_str(&format!("{}\n", b.message));
    }
    for r in &f.roles {
        out.push_str(&role_of_framework(r));
    }
    out
}

fn role_of_framework(r: &FrameworkRoleExplainView) -> String {
    let mut out = format!(
        "\nrole {}: has {} of the cluster by its weight, holds {}",
        r.role,
        percent(r.share),
        count(r.offers, "offer")
    );
    if r.suppressed {
        out.push_str(", wants none now (suppressed)");
    }
    out.push('\n');
    if let Some(smallest) = &r.smallest {
        out.push_str(&format!(
            "nothing below {} is of use to it\n",
            amount(smallest)
        ));
    }
    if let Some(headroom) = &r.headroom {
        let left = by_kind(headroom);
        let left = if left.is_empty() { "nothing" } else { &left };
        out.push_str(&format!("quotas leave it {left} of unreserved resources\n"));
    }
    let mut table = Table::new(&["node", "why it is offered no more of it", "reason"]);
    for a in &r.agents {
        let message = without(&a.message, &a.agent_id);
        table.row([a.hostname.clone(), message.to_owned(), a.code.clone()]);
    }
    if !r.agents.is_empty() {
        out.push_str(&table.render());
    }
    out.push_str(&rest(&r.rest, "node"));
    if r.agents.is_empty() && r.rest.is_empty() && !r.suppressed {
        out.push_str("nothing stands in its way: it is offered what is free next\n");
    }
    out
}

fn agent(a: &AgentExplainView, now: u64) -> String {
    let name = if a.hostname.is_empty() {
        &a.id
    } else {
        &a.hostname
    };
    let heard = if a.reachable {
        "reachable"
    } else {
        "unreachable"
    };
    let mut out = format!("{name}: {}, {heard}\n", a.mode);
    if let Some(w) = &a.maintenance {
        out.push_str(&format!("maintenance {}\n", show::window(w, now)));
    }
    for (what, r) in [
        ("used", &a.used),
        ("offered", &a.offered),
        ("free", &a.free),
    ] {
        let r = amount(r);
        let r = if r.is_empty() { "nothing" } else { &r };
        out.push_str(&format!("{what:<8} {r}\n"));
    }
    for p in &a.reserved {
        out.push_str(&format!(
            "reserved {} for {}\n",
            amount(&p.resources),
            show::stack(&p.stack)
        ));
    }
    for text in &a.given_way {
        out.push_str(&format!("no room any more: {text}\n"));
    }
    if let Some(c) = &a.last_choice {
        out.push_str(&format!(
            "last offered to {} (role {}, which had {}), chosen among {}, {}\n",
            show::framework(&c.framework),
            c.role,
            percent(c.share),
            count(c.candidates, "framework"),
            times::relative(c.at_ms, now)
        ));
    }
    let mut table = Table::new(&[
        "framework",
        "role",
        "why it is offered no more of it",
        "reason",
    ]);
    for p in &a.passed_over {
        let all = p.because.iter();
        let texts: Vec<&str> = all.clone().map(|b| without(&b.message, &a.id)).collect();
        let codes: Vec<&str> = all.map(|b: &BecauseView| b.code.as_str()).collect();
        table.row([
            show::framework(&p.framework).to_owned(),
            p.role.clone(),
            texts.join("; "),
            codes.join(", "),
        ]);
    }
    if a.passed_over.is_empty() {
        out.push_str("nobody is subscribed\n");
    } else {
        out.push_str(&format!("\n{}", table.render()));
    }
    out.push_str(&rest(&a.rest, "framework"));
    out
}

/// `and 12 more nodes: filtered 10, nothing_free 2`.
fn rest(by_reason: &BTreeMap<String, u64>, what: &str) -> String {
    let n: u64 = by_reason.values().sum();
    if n == 0 {
        return String::new();
    }
    let reasons: Vec<String> = by_reason.iter().map(|(r, n)| format!("{r} {n}")).collect();
    format!("and {n} more {what}s: {}\n", reasons.join(", "))
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
        // An older master counts reasons alone.
        if e.why.is_empty() {
            for (reason, n) in &e.refused {
                out.push_str(&format!("  {reason}: {n}\n"));
            }
        }
        reasons(&e.why, &mut out);
    }
    out.push_str(&never(e));
    for h in e.homes.iter().filter(|h| !h.in_use) {
        let node = if h.hostname.is_empty() {
            &h.agent_id
        } else {
            &h.hostname
        };
        out.push_str(&format!(
            "{} has its volumes on {node}, and does not run\n",
            h.instance
        ));
    }
    let kept = e.placements.len();
    for p in e
        .placements
        .iter()
        .skip(kept.saturating_sub(MAX_PLACEMENTS))
    {
        out.push_str(&placement(p));
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

/// Placements that are shown, the newest.
const MAX_PLACEMENTS: usize = 4;

/// Why an instance is where it is.
fn placement(p: &PlacementView) -> String {
    let offers = count(p.offers.into(), "offer");
    let mut out = format!(
        "{} is on {}: of {offers} {} fitted, {}\n",
        p.instance, p.hostname, p.fit, p.because
    );
    if !p.refused.is_empty() {
        out.push_str(&format!("  {} before it:\n", count(p.before, "offer")));
        for w in &p.refused {
            out.push_str(&format!("    {}\n", w.message));
        }
    }
    out
}

/// What could never run; empty when all could.
pub fn never(e: &ExplainView) -> String {
    let Some(never) = &e.never else {
        return String::new();
    };
    let mut out = format!(
        "of {} instances {} could ever run on the nodes that there are ({}):\n",
        e.instances, never.fit, never.nodes
    );
    reasons(&never.why, &mut out);
    out
}

/// Rules with what would help.
fn reasons(all: &[WhyView], out: &mut String) {
    for w in all {
        out.push_str(&format!("  {}\n", w.message));
        if !w.fix.is_empty() {
            out.push_str(&format!("    to fix it: {}\n", w.fix));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_framework_hears_why_it_waits() {
        let f: FrameworkExplainView = serde_json::from_value(json!({
            "id": "f1", "name": "batch", "connected": true, "capabilities": ["gpus"],
            "general": [{"code": "recovering", "message": "the master recovers"}],
            "roles": [{"role": "eng", "suppressed": false, "share": 0.25, "smallest": null,
                "headroom": {"cpus": 2}, "offers": 1,
                "agents": [{"agent_id": "a1", "hostname": "n1", "code": "filtered", "message": "a1: declined, filtered for 4 s"}],
                "rest": {"filtered": 10, "nothing_free": 2}}],
        }))
        .unwrap();
        assert_eq!(
            framework(&f),
            "batch (f1): connected, can handle gpus\n\
             the master recovers\n\
             \n\
             role eng: has 25.0 % of the cluster by its weight, holds 1 offer\n\
             quotas leave it cpus 2 of unreserved resources\n\
             NODE  WHY IT IS OFFERED NO MORE OF IT  REASON\n\
             n1    declined, filtered for 4 s       filtered\n\
             and 12 more nodes: filtered 10, nothing_free 2\n"
        );
    }

    #[test]
    fn a_node_says_who_is_passed_over() {
        let a: AgentExplainView = serde_json::from_value(json!({
            "id": "a1", "hostname": "n1", "reachable": true, "mode": "active",
            "maintenance": {"start_ms": 60_000, "duration_ms": 60_000},
            "used": {"cpus": 2, "mem": 64, "disk": 0, "gpus": 0},
            "offered": {"cpus": 0, "mem": 0, "disk": 0, "gpus": 0},
            "free": {"cpus": 2, "mem": 64, "disk": 0, "gpus": 0},
            "reserved": [{"stack": [{"role": "eng", "dynamic": true, "principal": "", "labels": {}}],
                "revocable": false, "resources": {"cpus": 1, "mem": 0, "disk": 0, "gpus": 0}}],
            "given_way": [],
            "last_choice": {"framework": {"id": "f1", "name": "batch"}, "role": "eng", "share": 0.1,
                "candidates": 3, "at_ms": 0},
            "passed_over": [{"framework": {"id": "f1", "name": "batch"}, "role": "eng",
                "because": [{"code": "suppressed", "message": "it is suppressed"}]}],
            "rest": {},
        }))
        .unwrap();
        assert_eq!(
            agent(&a, 5000),
            "n1: active, reachable\n\
             maintenance in 55 s, for 1 min\n\
             used     cpus 2, mem 64 MiB\n\
             offered  nothing\n\
             free     cpus 2, mem 64 MiB\n\
             reserved cpus 1 for eng\n\
             last offered to batch (role eng, which had 10.0 %), chosen among 3 frameworks, 5 s ago\n\
             \n\
             FRAMEWORK  ROLE  WHY IT IS OFFERED NO MORE OF IT  REASON\n\
             batch      eng   it is suppressed                 suppressed\n"
        );
    }

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
            why: vec![WhyView {
                reason: "InsufficientCpus".into(),
                message: "needs 4 cpus: 4 offers had less, the most was 2".into(),
                fix: "ask for at most 2 cpus".into(),
                offers: 4,
            }],
            never: Some(waggle_api::native::NeverView {
                fit: 0,
                nodes: 3,
                why: vec![WhyView {
                    reason: "InsufficientCpus".into(),
                    message: "needs 4 cpus: 3 nodes had less, the most was 2".into(),
                    fix: String::new(),
                    offers: 3,
                }],
            }),
            homes: vec![waggle_api::native::HomeView {
                instance: "web.instance-1".into(),
                agent_id: "a1".into(),
                hostname: "n1".into(),
                in_use: false,
            }],
            placements: vec![PlacementView {
                instance: "web.instance-2".into(),
                hostname: "n2".into(),
                at: 1,
                offers: 3,
                fit: 2,
                because: "the least is left there".into(),
                before: 1,
                refused: vec![WhyView {
                    reason: "InsufficientCpus".into(),
                    message: "needs 4 cpus: 1 offer had less, the most was 2".into(),
                    fix: String::new(),
                    offers: 1,
                }],
            }],
        };
        assert_eq!(
            app(&e),
            "/web: 1 of 3 instances run, 1 healthy\n\
             2 instances wait to be launched, the backoff ends in 1.5 s\n\
             of 5 offers these did not fit:\n\
             \x20 needs 4 cpus: 4 offers had less, the most was 2\n\
             \x20   to fix it: ask for at most 2 cpus\n\
             of 3 instances 0 could ever run on the nodes that there are (3):\n\
             \x20 needs 4 cpus: 3 nodes had less, the most was 2\n\
             web.instance-1 has its volumes on n1, and does not run\n\
             web.instance-2 is on n2: of 3 offers 2 fitted, the least is left there\n\
             \x20 1 offer before it:\n\
             \x20   needs 4 cpus: 1 offer had less, the most was 2\n\
             allocator: agent a1 has no cpus left\n"
        );
        (e.running, e.waiting, e.never) = (3, 0, None);
        e.homes.clear();
        e.placements.clear();
        assert_eq!(
            app(&e),
            "/web: 3 of 3 instances run, 1 healthy\nnothing is missing\n"
        );
    }
}
