//! `waggle role`, `waggle quota`, `waggle weight`.

use serde_json::{Map, Value, json};
use waggle_api::native::{QuotaView, ReservationView, RoleExplainView, RoleView, WeightView};
use waggle_types::Milli;

use super::{decode, encode_path, fetch, fetch_list, print, print_json};
use crate::{
    args::{QuotaCommand, QuotaSub, RoleCommand, RoleSub, WeightCommand, WeightSub},
    client::Client,
    error::{CliError, usage},
    resources,
    show::{amount, by_kind, count, framework, percent, stack},
    table::Table,
};

/// Runs `waggle role ...`.
pub async fn roles(command: RoleCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    match command.command {
        RoleSub::List => list(&client, command.output.json).await,
        RoleSub::Show { role } => show(&client, &role, command.output.json).await,
    }
}

async fn list(client: &Client, as_json: bool) -> Result<(), CliError> {
    let (answer, all) = fetch_list::<RoleView>(client, "/waggle/v1/roles").await?;
    if as_json {
        return print_json(&answer);
    }
    print(&role_table(&all))
}

fn role_table(all: &[RoleView]) -> String {
    let mut table = Table::new(&[
        "role",
        "weight",
        "share",
        "frameworks",
        "used",
        "offered",
        "guarantee",
        "limit",
    ]);
    for r in all {
        let quota = r.quota.as_ref();
        table.row([
            r.name.clone(),
            r.weight.0.to_string(),
            percent(r.share),
            r.frameworks.len().to_string(),
            amount(&r.used),
            amount(&r.offered),
            quota.map(|q| by_kind(&q.guarantee)).unwrap_or_default(),
            quota.map(|q| by_kind(&q.limit)).unwrap_or_default(),
        ]);
    }
    table.render()
}

async fn show(client: &Client, role: &str, as_json: bool) -> Result<(), CliError> {
    let path = format!("/waggle/v1/explain/role/{}", role_path(role)?);
    let (answer, r) = fetch::<RoleExplainView>(client, &path).await?;
    if as_json {
        return print_json(&answer);
    }
    let (_, mut reserved) =
        fetch_list::<ReservationView>(client, "/waggle/v1/reservations").await?;
    reserved.retain(|s| s.stack.last().is_some_and(|l| l.role == role));
    print(&shown(&r, &reserved))
}

fn shown(r: &RoleExplainView, reserved: &[ReservationView]) -> String {
    let mut out = String::new();
    let mut line = |k: &str, v: String| {
        if !v.is_empty() {
            out.push_str(&format!("{k:<12} {v}\n"));
        }
    };
    line("role", r.role.clone());
    line("weight", r.weight.0.to_string());
    line("share", percent(r.share));
    line("allocated", by_kind(&r.allocated));
    if let Some(q) = &r.quota {
        line("guarantee", by_kind(&q.guarantee));
        line("limit", by_kind(&q.limit));
        line("charged", by_kind(&q.charged));
        line("owed", by_kind(&q.owed));
    }
    line(
        "may get",
        r.may_get.as_ref().map(by_kind).unwrap_or_default(),
    );
    let names: Vec<&str> = r.frameworks.iter().map(framework).collect();
    line("frameworks", told(&names, r.n_frameworks));
    let below: Vec<&str> = r.subroles.iter().map(String::as_str).collect();
    line("subroles", told(&below, r.n_subroles));
    if !reserved.is_empty() {
        let mut table = Table::new(&["node", "reservation", "resources", "free"]);
        for s in reserved {
            table.row([
                s.hostname.clone(),
                stack(&s.stack),
                amount(&s.resources),
                amount(&s.free),
            ]);
        }
        out.push_str(&format!("\n{}", table.render()));
    }
    out
}

/// `a, b and 3 more`.
fn told(names: &[&str], n: u64) -> String {
    let rest = n.saturating_sub(names.len() as u64);
    let names = names.join(", ");
    match rest {
        0 => names,
        n => format!("{names} and {n} more"),
    }
}

/// Runs `waggle quota ...`.
pub async fn quotas(command: QuotaCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let as_json = command.output.json;
    let answer = match command.command {
        QuotaSub::List => {
            let (answer, all) = fetch_list::<QuotaView>(&client, "/waggle/v1/quotas").await?;
            if as_json {
                return print_json(&answer);
            }
            return print(&quota_table(&all));
        }
        QuotaSub::Set {
            role,
            guarantee,
            limit,
            force,
        } => {
            let body = json!({
                "guarantee": quantities("guarantee", guarantee.as_deref())?,
                "limit": quantities("limit", limit.as_deref())?,
            });
            let path = format!("/waggle/v1/quotas/{}?force={force}", role_path(&role)?);
            client.put(&path, body.to_string()).await?
        }
        QuotaSub::Remove { role } => {
            let path = format!("/waggle/v1/quotas/{}", role_path(&role)?);
            client.delete(&path).await?
        }
    };
    if as_json {
        return print_json(&answer);
    }
    print(&quota_line(&decode::<QuotaView>(answer)?))
}

fn quota_table(all: &[QuotaView]) -> String {
    let mut table = Table::new(&["role", "guarantee", "owed", "limit", "headroom", "charged"]);
    for q in all {
        table.row([
            q.role.clone(),
            by_kind(&q.guarantee),
            by_kind(&q.owed),
            by_kind(&q.limit),
            by_kind(&q.headroom),
            by_kind(&q.charged),
        ]);
    }
    table.render()
}

fn quota_line(q: &QuotaView) -> String {
    let mut says = Vec::new();
    if !q.guarantee.is_empty() {
        says.push(format!("guarantee {}", by_kind(&q.guarantee)));
    }
    if !q.limit.is_empty() {
        says.push(format!("limit {}", by_kind(&q.limit)));
    }
    if says.is_empty() {
        says.push("no quota".to_owned());
    }
    format!("{}: {}\n", q.role, says.join("; "))
}

fn quantities(field: &str, text: Option<&str>) -> Result<Value, CliError> {
    let by_kind = resources::quantities(field, text.unwrap_or_default())?;
    let one = |(kind, q): (String, Milli)| (kind, json!(q.to_f64()));
    Ok(Value::Object(
        by_kind.into_iter().map(one).collect::<Map<_, _>>(),
    ))
}

/// Runs `waggle weight ...`.
pub async fn weights(command: WeightCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let as_json = command.output.json;
    let answer = match command.command {
        WeightSub::List => {
            let (answer, all) = fetch_list::<WeightView>(&client, "/waggle/v1/weights").await?;
            if as_json {
                return print_json(&answer);
            }
            let mut table = Table::new(&["role", "weight"]);
            for w in all {
                table.row([w.role, w.weight.0.to_string()]);
            }
            return print(&table.render());
        }
        WeightSub::Set { role, weight } => {
            let number: Option<f64> = weight.parse().ok().filter(|w: &f64| w.is_finite());
            let number = number
                .ok_or_else(|| usage(format!("weight: must be a number over 0, is {weight:?}")))?;
            let path = format!("/waggle/v1/weights/{}", role_path(&role)?);
            client
                .put(&path, json!({"weight": number}).to_string())
                .await?
        }
        WeightSub::Remove { role } => {
            let path = format!("/waggle/v1/weights/{}", role_path(&role)?);
            client.delete(&path).await?
        }
    };
    if as_json {
        return print_json(&answer);
    }
    let w: WeightView = decode(answer)?;
    print(&format!("{}: weight {}\n", w.role, w.weight.0))
}

/// The role as it stands in a URL, checked here: what a server would make of `a//b` or `../x` is another role.
pub fn role_path(role: &str) -> Result<String, CliError> {
    waggle_types::check_role(role).map_err(|e| usage(e.to_string()))?;
    Ok(encode_path(role))
}

/// Sentences for `waggle explain role`.
pub fn explained(r: &RoleExplainView) -> String {
    let mut out = format!(
        "{}: has {} of the cluster by its weight of {}, {} subscribed\n",
        r.role,
        percent(r.share),
        r.weight.0,
        count(r.n_frameworks, "framework")
    );
    let or_nothing = |s: String| {
        if s.is_empty() {
            "nothing".to_owned()
        } else {
            s
        }
    };
    out.push_str(&format!(
        "used and offered, with all below: {}\n",
        or_nothing(by_kind(&r.allocated))
    ));
    if let Some(q) = &r.quota {
        if !q.limit.is_empty() {
            out.push_str(&format!(
                "quota: at most {}; left: {}\n",
                by_kind(&q.limit),
                by_kind(&q.headroom)
            ));
        }
        if !q.guarantee.is_empty() {
            let owed = if q.owed.is_empty() {
                "all of it is used".to_owned()
            } else {
                format!("still owed, and held back for it: {}", by_kind(&q.owed))
            };
            out.push_str(&format!(
                "quota: promised {}; {owed}\n",
                by_kind(&q.guarantee)
            ));
        }
        out.push_str(&format!(
            "counted against the quota: {}\n",
            or_nothing(by_kind(&q.charged))
        ));
    } else {
        out.push_str("it has no quota of its own\n");
    }
    match &r.may_get {
        None => out.push_str("no quota of any role holds it back\n"),
        Some(may) => out.push_str(&format!(
            "quotas, its own and others', leave it {} of unreserved resources\n",
            or_nothing(by_kind(may))
        )),
    }
    if r.n_frameworks == 0 && r.n_subroles == 0 {
        out.push_str("nobody is subscribed with it: it is offered nothing\n");
    }
    let names: Vec<&str> = r.frameworks.iter().map(framework).collect();
    if !names.is_empty() {
        out.push_str(&format!("frameworks: {}\n", told(&names, r.n_frameworks)));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role() -> RoleExplainView {
        serde_json::from_value(json!({
            "role": "eng/batch", "weight": 2, "share": 0.125, "allocated": {"cpus": 4, "mem": 2048},
            "quota": {"role": "eng/batch", "guarantee": {"cpus": 6}, "limit": {"cpus": 8},
                "charged": {"cpus": 4}, "owed": {"cpus": 2}, "headroom": {"cpus": 4}},
            "may_get": {"cpus": 4, "mem": 100_000},
            "frameworks": [{"id": "f1", "name": "batch"}], "n_frameworks": 3,
            "subroles": [], "n_subroles": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_role_is_shown_and_explained() {
        assert_eq!(
            shown(&role(), &[]),
            "role         eng/batch\n\
             weight       2\n\
             share        12.5 %\n\
             allocated    cpus 4, mem 2 GiB\n\
             guarantee    cpus 6\n\
             limit        cpus 8\n\
             charged      cpus 4\n\
             owed         cpus 2\n\
             may get      cpus 4, mem 97.66 GiB\n\
             frameworks   batch and 2 more\n"
        );
        assert_eq!(
            explained(&role()),
            "eng/batch: has 12.5 % of the cluster by its weight of 2, 3 frameworks subscribed\n\
             used and offered, with all below: cpus 4, mem 2 GiB\n\
             quota: at most cpus 8; left: cpus 4\n\
             quota: promised cpus 6; still owed, and held back for it: cpus 2\n\
             counted against the quota: cpus 4\n\
             quotas, its own and others', leave it cpus 4, mem 97.66 GiB of unreserved resources\n\
             frameworks: batch and 2 more\n"
        );
    }

    #[test]
    fn roles_and_quotas_are_tables() {
        let roles: Vec<RoleView> = serde_json::from_value(json!([
            {"name": "*", "weight": 1, "share": 0.5, "frameworks": [{"id": "f", "name": "marathon"}],
             "used": {"cpus": 1, "mem": 512, "disk": 0, "gpus": 0},
             "offered": {"cpus": 0, "mem": 0, "disk": 0, "gpus": 0}, "quota": null},
            {"name": "eng", "weight": 1.5, "share": 0, "frameworks": [],
             "used": {"cpus": 0, "mem": 0, "disk": 0, "gpus": 0},
             "offered": {"cpus": 0, "mem": 0, "disk": 0, "gpus": 0},
             "quota": {"role": "eng", "guarantee": {"cpus": 2}, "limit": {}, "charged": {}, "owed": {}, "headroom": {}}},
        ]))
        .unwrap();
        assert_eq!(
            role_table(&roles),
            "ROLE  WEIGHT  SHARE   FRAMEWORKS  USED                 OFFERED  GUARANTEE  LIMIT\n\
             *     1       50.0 %  1           cpus 1, mem 512 MiB  -        -          -\n\
             eng   1.5     0.0 %   0           -                    -        cpus 2     -\n"
        );
        let quota = role().quota.unwrap();
        assert_eq!(
            quota_table(std::slice::from_ref(&quota)),
            "ROLE       GUARANTEE  OWED    LIMIT   HEADROOM  CHARGED\n\
             eng/batch  cpus 6     cpus 2  cpus 8  cpus 4    cpus 4\n"
        );
        assert_eq!(
            quota_line(&quota),
            "eng/batch: guarantee cpus 6; limit cpus 8\n"
        );
    }

    #[test]
    fn roles_are_checked_before_they_become_paths() {
        assert_eq!(role_path("eng/batch").unwrap(), "eng/batch");
        for bad in ["", "/", "a//b", "../nodes", "a b"] {
            assert_eq!(role_path(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
