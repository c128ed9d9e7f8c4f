//! `waggle reservation`.

use std::collections::BTreeMap;

use serde_json::json;
use waggle_api::native::{ReservationView, ResourcesView, StackEntry};

use super::{decode, fetch_list, print, print_json};
use crate::{
    args::{ReservationCommand, ReservationSub, Reserved},
    client::Client,
    error::{CliError, usage},
    resources,
    show::{amount, made_by, stack},
    table::Table,
};

const PATH: &str = "/waggle/v1/reservations";

/// Runs `waggle reservation ...`.
pub async fn run(command: ReservationCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let as_json = command.output.json;
    let (agent, answer) = match command.command {
        ReservationSub::List { agent, role } => {
            return list(&client, agent.as_deref(), role.as_deref(), as_json).await;
        }
        ReservationSub::Add {
            reserved,
            resources,
        } => {
            let bundle = resources::bundle("resources", &resources)?;
            let stack = new_stack(&client, &reserved).await?;
            let body = body(&reserved.agent, &stack, &(&bundle).into());
            (reserved.agent, client.post(PATH, body).await?)
        }
        ReservationSub::Remove {
            reserved,
            resources,
        } => {
            let given = resources.map(|r| resources::bundle("resources", &r));
            let given = given.transpose()?;
            let found = existing(&client, &reserved).await?;
            let bundle = match given {
                Some(bundle) => (&bundle).into(),
                None => all_free(&found)?,
            };
            let body = body(&reserved.agent, &found.stack, &bundle);
            (reserved.agent, client.delete_with(PATH, body).await?)
        }
    };
    if as_json {
        return print_json(&answer);
    }
    let left: Vec<ReservationView> = decode(answer)?;
    if left.is_empty() {
        return print(&format!("{agent}: nothing is reserved\n"));
    }
    print(&table(&left))
}

async fn list(
    client: &Client,
    agent: Option<&str>,
    role: Option<&str>,
    as_json: bool,
) -> Result<(), CliError> {
    let all = of_agent(client, agent).await?;
    let below = |s: &ReservationView, role: &str| {
        let last = s.stack.last().map_or("", |r| r.role.as_str());
        last == role || last.strip_prefix(role).is_some_and(|r| r.starts_with('/'))
    };
    let wanted: Vec<ReservationView> = all
        .into_iter()
        .filter(|s| role.is_none_or(|r| below(s, r)))
        .collect();
    if as_json {
        return print_json(&json!(wanted));
    }
    print(&table(&wanted))
}

/// All reservations, or those of a node, which must be there.
pub async fn of_agent(
    client: &Client,
    agent: Option<&str>,
) -> Result<Vec<ReservationView>, CliError> {
    let (_, mut all) = fetch_list::<ReservationView>(client, PATH).await?;
    if let Some(agent) = agent {
        let id = super::node::find(client, agent).await?.id;
        all.retain(|s| s.agent_id == id);
    }
    Ok(all)
}

fn table(all: &[ReservationView]) -> String {
    let mut table = Table::new(&[
        "node",
        "reservation",
        "made by",
        "resources",
        "used",
        "offered",
        "lent",
        "free",
    ]);
    for s in all {
        table.row([
            s.hostname.clone(),
            stack(&s.stack),
            made_by(&s.stack),
            amount(&s.resources),
            amount(&s.used),
            amount(&s.offered),
            amount(&s.lent),
            amount(&s.free),
        ]);
    }
    table.render()
}

fn body(agent: &str, stack: &[StackEntry], resources: &ResourcesView) -> String {
    json!({"agent": agent, "stack": stack, "resources": resources}).to_string()
}

/// What `--role`, `--principal` and `--label` ask for: the last role is new, those before it are refined.
async fn new_stack(client: &Client, reserved: &Reserved) -> Result<Vec<StackEntry>, CliError> {
    let labels = labels(&reserved.labels)?;
    for role in &reserved.roles {
        super::role::role_path(role)?;
        if role == "*" {
            return Err(usage("role: must not be *: that is what is unreserved"));
        }
    }
    let (last, outer) = match reserved.roles.as_slice() {
        [] => return Err(usage("role: is required")),
        [outer @ .., last] => (last, outer),
    };
    let mut stack = Vec::new();
    if !outer.is_empty() {
        let all = of_agent(client, Some(&reserved.agent)).await?;
        let found = all.into_iter().filter(|s| roles(&s.stack).eq(outer));
        stack = only_one(found.collect(), reserved, outer)?.stack;
    }
    stack.push(StackEntry {
        role: last.clone(),
        dynamic: true,
        principal: reserved.principal.clone().unwrap_or_default(),
        labels,
    });
    Ok(stack)
}

/// The reservation that `--role`, `--principal` and `--label` name.
pub async fn existing(client: &Client, reserved: &Reserved) -> Result<ReservationView, CliError> {
    let labels = labels(&reserved.labels)?;
    let all = of_agent(client, Some(&reserved.agent)).await?;
    let fits = |s: &ReservationView| {
        let last = s.stack.last();
        let who = |r: &StackEntry| {
            reserved
                .principal
                .as_ref()
                .is_none_or(|p| *p == r.principal)
        };
        let marked = |r: &StackEntry| labels.is_empty() || labels == r.labels;
        roles(&s.stack).eq(&reserved.roles) && last.is_some_and(|r| who(r) && marked(r))
    };
    only_one(
        all.into_iter().filter(fits).collect(),
        reserved,
        &reserved.roles,
    )
}

fn roles(stack: &[StackEntry]) -> impl Iterator<Item = &String> {
    stack.iter().map(|r| &r.role)
}

fn only_one(
    mut found: Vec<ReservationView>,
    reserved: &Reserved,
    roles: &[String],
) -> Result<ReservationView, CliError> {
    let path = roles.join(" > ");
    let agent = &reserved.agent;
    if found.len() > 1 {
        let told: Vec<String> = found.iter().map(|s| made_by(&s.stack)).collect();
        return Err(usage(format!(
            "role: {agent} has {} reservations {path}, made by {}; tell them apart with --principal and --label",
            found.len(),
            told.join(" and by ")
        )));
    }
    found.pop().ok_or_else(|| {
        usage(format!(
            "role: {agent} has no such reservation {path}; `waggle reservation list --agent {agent}` shows what it has"
        ))
    })
}

/// What can be unreserved of it: volumes must be destroyed before.
fn all_free(found: &ReservationView) -> Result<ResourcesView, CliError> {
    let free = ResourcesView {
        volumes: BTreeMap::new(),
        ..found.free.clone()
    };
    if amount(&free).is_empty() {
        let of = stack(&found.stack);
        return Err(usage(format!(
            "resources: nothing of {of} is free on {}, name what to take back of offers and loans",
            found.hostname
        )));
    }
    Ok(free)
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut out = BTreeMap::new();
    for text in texts {
        let pair = text.split_once('=').filter(|(k, _)| !k.is_empty());
        let (k, v) = pair.ok_or_else(|| usage(format!("label: must be KEY=VALUE, is {text:?}")))?;
        if out.insert(k.to_owned(), v.to_owned()).is_some() {
            return Err(usage(format!("label: {k} is named twice")));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(principal: &str) -> ReservationView {
        let none = json!({"cpus": 0, "mem": 0, "disk": 0, "gpus": 0});
        serde_json::from_value(json!({
            "agent_id": "a1", "hostname": "n1",
            "stack": [{"role": "eng", "dynamic": true, "principal": principal, "labels": {}}],
            "resources": {"cpus": 4, "mem": 2048, "disk": 0, "gpus": 0, "volumes": {"db": {"size": 512, "shared": false}}},
            "used": none, "offered": none, "lent": {"cpus": 1, "mem": 0, "disk": 0, "gpus": 0},
            "free": {"cpus": 3, "mem": 2048, "disk": 0, "gpus": 0, "volumes": {"db": {"size": 512, "shared": false}}},
            "volumes": [],
        }))
        .unwrap()
    }

    fn reserved() -> Reserved {
        Reserved {
            agent: "n1".to_owned(),
            roles: vec!["eng".to_owned()],
            principal: None,
            labels: Vec::new(),
        }
    }

    #[test]
    fn reservations_are_a_table() {
        assert_eq!(
            table(&[view("ops")]),
            "NODE  RESERVATION  MADE BY  RESOURCES                               USED  OFFERED  LENT    FREE\n\
             n1    eng          ops      cpus 4, mem 2 GiB, volume db (512 MiB)  -     -        cpus 1  cpus 3, mem 2 GiB, volume db (512 MiB)\n"
        );
    }

    #[test]
    fn a_reservation_is_named_without_doubt() {
        let roles = ["eng".to_owned()];
        assert!(only_one(vec![view("ops")], &reserved(), &roles).is_ok());
        let two = only_one(vec![view("ops"), view("dev")], &reserved(), &roles).unwrap_err();
        assert!(two.to_string().contains("made by ops and by dev"), "{two}");
        let none = only_one(Vec::new(), &reserved(), &roles).unwrap_err();
        assert_eq!(none.exit_code(), 2);
        assert!(
            none.to_string().contains("reservation list --agent n1"),
            "{none}"
        );
    }

    #[test]
    fn volumes_are_not_unreserved_on_the_way() {
        let free = all_free(&view("ops")).unwrap();
        assert_eq!(amount(&free), "cpus 3, mem 2 GiB");
        let mut used = view("ops");
        used.free = used.used.clone();
        assert_eq!(all_free(&used).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(labels(&["a=b=c".to_owned()]).unwrap()["a"], "b=c");
        for bad in ["a", "=b"] {
            assert_eq!(labels(&[bad.to_owned()]).unwrap_err().exit_code(), 2);
        }
        assert!(labels(&["a=1".to_owned(), "a=2".to_owned()]).is_err());
    }
}
