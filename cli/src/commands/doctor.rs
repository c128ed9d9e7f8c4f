//! `waggle doctor`: what this machine has and lacks, in one look.

use serde_json::json;

use super::{print, print_json};
use crate::{args::DoctorArgs, error::CliError, table::Table};

/// Runs `waggle doctor`; fails when something that a node needs is missing.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let checks = waggle_agent::doctor();
    if args.json {
        let list: Vec<_> = checks
            .iter()
            .map(|c| json!({"name": c.name, "ok": c.ok, "detail": c.detail}))
            .collect();
        print_json(&json!({"checks": list}))?;
    } else {
        let mut table = Table::new(&["check", "ok", "detail"]);
        for c in &checks {
            let ok = if c.ok { "yes" } else { "NO" };
            table.row([c.name.to_string(), ok.to_owned(), c.detail.clone()]);
        }
        print(&table.render())?;
    }
    let missing: Vec<_> = checks
        .iter()
        .filter(|c| !c.ok)
        .map(|c| c.name.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!("this machine lacks: {}", missing.join(", ")).into())
}
