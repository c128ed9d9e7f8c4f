//! `waggle framework`, `waggle offer`.

use waggle_api::native::{FrameworkRef, FrameworkView, OfferView, PartView};

use super::{decode, fetch, fetch_list, print, print_json, segment};
use crate::{
    args::{FrameworkCommand, FrameworkSub, OfferCommand, OfferSub},
    client::Client,
    error::CliError,
    show::{amount, stack},
    table::Table,
    times,
};

/// Reasons that `framework show` prints; `explain framework` has all.
const REASONS: usize = 10;

/// Runs `waggle framework ...`.
pub async fn frameworks(command: FrameworkCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let as_json = command.output.json;
    match command.command {
        FrameworkSub::List => {
            let (answer, all) =
                fetch_list::<FrameworkView>(&client, "/waggle/v1/frameworks").await?;
            if as_json {
                return print_json(&answer);
            }
            print(&table(all))
        }
        FrameworkSub::Show { framework } => {
            let path = format!(
                "/waggle/v1/frameworks/{}",
                segment("framework", &framework)?
            );
            let (answer, f) = fetch::<FrameworkView>(&client, &path).await?;
            if as_json {
                return print_json(&answer);
            }
            print(&shown(&f, times::now()))
        }
        FrameworkSub::Teardown { framework } => {
            let path = format!(
                "/waggle/v1/frameworks/{}",
                segment("framework", &framework)?
            );
            let answer = client.delete(&path).await?;
            if as_json {
                return print_json(&answer);
            }
            let gone: FrameworkRef = decode(answer)?;
            let name = crate::show::framework(&gone);
            print(&format!("{name}: torn down, its tasks are killed\n"))
        }
    }
}

fn state(f: &FrameworkView) -> &'static str {
    match (f.connected, f.suppressed, f.active) {
        (false, ..) => "away",
        (_, true, _) => "suppressed",
        (_, _, true) => "active",
        _ => "recovering",
    }
}

fn roles(f: &FrameworkView) -> String {
    let one = |r: &waggle_api::native::FrameworkRoleView| {
        if r.suppressed && !f.suppressed {
            format!("{} (suppressed)", r.role)
        } else {
            r.role.clone()
        }
    };
    f.roles.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn table(all: Vec<FrameworkView>) -> String {
    let mut table = Table::new(&["name", "roles", "state", "tasks", "used", "offered", "id"]);
    for f in all {
        table.row([
            f.name.clone(),
            roles(&f),
            state(&f).to_owned(),
            f.tasks.to_string(),
            amount(&f.used),
            amount(&f.offered),
            f.id,
        ]);
    }
    table.render()
}

fn shown(f: &FrameworkView, now: u64) -> String {
    let mut out = String::new();
    let mut line = |k: &str, v: String| {
        if !v.is_empty() {
            out.push_str(&format!("{k:<14} {v}\n"));
        }
    };
    line("name", f.name.clone());
    line("id", f.id.clone());
    line("state", state(f).to_owned());
    line("roles", roles(f));
    for r in &f.roles {
        if let Some(smallest) = &r.smallest {
            line("smallest", format!("{} for {}", amount(smallest), r.role));
        }
        if r.constraint_groups > 0 {
            let groups = crate::show::count(r.constraint_groups.into(), "group");
            line("constraints", format!("{groups} for {}", r.role));
        }
    }
    line("can handle", f.capabilities.join(", "));
    line("tasks", f.tasks.to_string());
    line("used", amount(&f.used));
    line("offered", amount(&f.offered));
    line("registered", times::relative(f.registered_ms, now));
    line("subscribed", times::relative(f.reregistered_ms, now));
    if let Some(ms) = f.failover_timeout_ms {
        line("may be away", times::span(ms));
    }
    for reason in f.reasons.iter().take(REASONS) {
        line("offered no more", reason.clone());
    }
    if f.reasons.len() > REASONS {
        let more = f.reasons.len() - REASONS;
        line(
            "",
            format!("and {more} more: waggle explain framework {}", f.name),
        );
    }
    out
}

/// Runs `waggle offer ...`.
pub async fn offers(command: OfferCommand) -> Result<(), CliError> {
    let OfferSub::List = command.command;
    let client = Client::new(&command.output.master)?;
    let (answer, all) = fetch_list::<OfferView>(&client, "/waggle/v1/offers").await?;
    if command.output.json {
        return print_json(&answer);
    }
    print(&offer_table(all, times::now()))
}

fn offer_table(all: Vec<OfferView>, now: u64) -> String {
    let mut table = Table::new(&[
        "framework",
        "role",
        "node",
        "resources",
        "of which",
        "made",
        "id",
    ]);
    for o in all {
        let parts: Vec<String> = o.parts.iter().filter_map(part).collect();
        table.row([
            o.framework,
            o.role,
            o.hostname,
            amount(&o.resources),
            parts.join("; "),
            times::relative(o.since_ms, now),
            o.id,
        ]);
    }
    table.render()
}

/// `reserved eng: cpus 2`; nothing for what is neither reserved nor lent.
fn part(p: &PartView) -> Option<String> {
    let how = if p.revocable {
        "lent from"
    } else {
        "reserved for"
    };
    let of = stack(&p.stack);
    (!of.is_empty()).then(|| format!("{how} {of}: {}", amount(&p.resources)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn framework() -> FrameworkView {
        let none = json!({"cpus": 0, "mem": 0, "disk": 0, "gpus": 0});
        serde_json::from_value(json!({
            "id": "f-1", "name": "batch",
            "roles": [
                {"role": "eng", "suppressed": true, "smallest": null, "constraint_groups": 2},
                {"role": "lab", "suppressed": false, "smallest": {"cpus": 1, "mem": 64, "disk": 0, "gpus": 0}, "constraint_groups": 0}],
            "capabilities": ["gpus"], "active": true, "connected": true, "suppressed": false,
            "used": {"cpus": 2, "mem": 64, "disk": 0, "gpus": 0}, "offered": none, "tasks": 3,
            "registered_ms": 0, "reregistered_ms": 60_000, "failover_timeout_ms": 20_000,
            "reasons": (0..12).map(|i| format!("n{i}: why")).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    #[test]
    fn frameworks_are_listed_and_shown() {
        assert_eq!(
            table(vec![framework()]),
            "NAME   ROLES                  STATE   TASKS  USED                OFFERED  ID\n\
             batch  eng (suppressed), lab  active  3      cpus 2, mem 64 MiB  -        f-1\n"
        );
        let text = shown(&framework(), 120_000);
        for says in [
            "roles          eng (suppressed), lab\n",
            "smallest       cpus 1, mem 64 MiB for lab\n",
            "constraints    2 groups for eng\n",
            "can handle     gpus\n",
            "registered     2 min ago\n",
            "may be away    20 s\n",
            "offered no more n9: why\n",
            "and 2 more: waggle explain framework batch\n",
        ] {
            assert!(text.contains(says), "{says}\n{text}");
        }
    }

    #[test]
    fn offers_say_what_is_reserved_and_lent() {
        let entry =
            |role: &str| json!([{"role": role, "dynamic": true, "principal": "", "labels": {}}]);
        let two = json!({"cpus": 2, "mem": 0, "disk": 0, "gpus": 0});
        let offers: Value = json!([{
            "id": "o1", "framework_id": "f", "framework": "batch", "role": "lab", "agent_id": "a",
            "hostname": "n1", "resources": {"cpus": 6, "mem": 0, "disk": 0, "gpus": 0},
            "parts": [{"stack": entry("lab"), "revocable": false, "resources": two},
                {"stack": entry("eng"), "revocable": true, "resources": two},
                {"stack": [], "revocable": false, "resources": two}],
            "maintenance": null, "since_ms": 1000,
        }]);
        let offers = serde_json::from_value(offers).unwrap();
        assert_eq!(
            offer_table(offers, 4000),
            "FRAMEWORK  ROLE  NODE  RESOURCES  OF WHICH                                         MADE     ID\n\
             batch      lab   n1    cpus 6     reserved for lab: cpus 2; lent from eng: cpus 2  3 s ago  o1\n"
        );
    }
}
