//! `waggle volume`.

use serde_json::json;
use waggle_api::native::{ReservationView, VolumeUse};

use super::{confirm::confirm, decode, print, print_json, reservation, snapshot};
use crate::{
    args::{VolumeCommand, VolumeSub},
    client::Client,
    error::{CliError, usage},
    show::{mib, stack},
    table::Table,
};

const PATH: &str = "/waggle/v1/volumes";

/// Runs `waggle volume ...`.
pub async fn run(command: VolumeCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let as_json = command.output.json;
    let (says, answer) = match command.command {
        VolumeSub::List { agent } => {
            let all = reservation::of_agent(&client, agent.as_deref()).await?;
            let volumes: Vec<_> = volumes(&all).collect();
            if as_json {
                let one = |(s, v): &(&ReservationView, &VolumeUse)| {
                    json!({"agent_id": s.agent_id, "hostname": s.hostname, "stack": s.stack,
                        "id": v.id, "size": v.size, "shared": v.shared, "tasks": v.tasks})
                };
                return print_json(&json!(volumes.iter().map(one).collect::<Vec<_>>()));
            }
            return print(&table(&volumes));
        }
        VolumeSub::Create {
            id,
            reserved,
            size,
            shared,
        } => {
            let size = size_mib(&size)?;
            let found = reservation::existing(&client, &reserved).await?;
            let body = json!({"agent": found.agent_id, "stack": found.stack, "volume_id": id,
                "size": size, "shared": shared});
            let answer = client.post(PATH, body.to_string()).await?;
            let says = format!(
                "{id}: {} of {} on {}",
                mib(size),
                stack(&found.stack),
                found.hostname
            );
            (says, answer)
        }
        VolumeSub::Resize { id, size, agent } => {
            let size = size_mib(&size)?;
            let all = reservation::of_agent(&client, agent.as_deref()).await?;
            let found = find(&all, &id)?;
            let body = json!({"agent": found.agent_id, "stack": found.stack, "volume_id": id,
                "size": size});
            let answer = client.put(PATH, body.to_string()).await?;
            let says = format!("{id}: {} on {}", mib(size), found.hostname);
            (says, answer)
        }
        VolumeSub::Destroy { id, agent, yes } => {
            let all = reservation::of_agent(&client, agent.as_deref()).await?;
            let found = find(&all, &id)?;
            confirm(yes, &format!("the data of volume {id}"), &id)?;
            let body = json!({"agent": found.agent_id, "stack": found.stack, "volume_id": id});
            let answer = client.delete_with(PATH, body.to_string()).await?;
            (format!("{id}: destroyed on {}", found.hostname), answer)
        }
        VolumeSub::Snapshots { id, agent } => {
            return snapshot::list(&client, id.as_deref(), agent.as_deref(), as_json).await;
        }
        VolumeSub::Snapshot { of } => return snapshot::take(&client, &of, as_json).await,
        VolumeSub::Restore { of, yes } => {
            return snapshot::restore(&client, &of, yes, as_json).await;
        }
        VolumeSub::Forget { of, yes } => {
            return snapshot::forget(&client, &of, yes, as_json).await;
        }
    };
    if as_json {
        return print_json(&answer);
    }
    let _: Vec<ReservationView> = decode(answer)?;
    print(&format!("{says}\n"))
}

fn volumes(all: &[ReservationView]) -> impl Iterator<Item = (&ReservationView, &VolumeUse)> {
    all.iter()
        .flat_map(|s| s.volumes.iter().map(move |v| (s, v)))
}

fn table(volumes: &[(&ReservationView, &VolumeUse)]) -> String {
    let mut table = Table::new(&["volume", "node", "reservation", "size", "shared", "tasks"]);
    for (s, v) in volumes {
        table.row([
            v.id.clone(),
            s.hostname.clone(),
            stack(&s.stack),
            mib(v.size.0),
            if v.shared { "yes" } else { "no" }.to_owned(),
            v.tasks.join(", "),
        ]);
    }
    table.render()
}

pub fn find<'a>(all: &'a [ReservationView], id: &str) -> Result<&'a ReservationView, CliError> {
    let found: Vec<&ReservationView> = volumes(all)
        .filter(|(_, v)| v.id == id)
        .map(|(s, _)| s)
        .collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(usage(format!(
            "id: there is no volume {id:?}; `waggle volume list` shows them"
        ))),
        many => {
            let nodes: Vec<&str> = many.iter().map(|s| s.hostname.as_str()).collect();
            Err(usage(format!(
                "agent: {} have a volume {id:?}, name one of them",
                nodes.join(", ")
            )))
        }
    }
}

/// `512`, `512MiB`, `20GiB`, `1TiB`.
fn size_mib(text: &str) -> Result<f64, CliError> {
    let units = [("MiB", 1.0), ("GiB", 1024.0), ("TiB", 1_048_576.0)];
    let with_unit = units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)));
    let (number, scale) = with_unit.unwrap_or((text, 1.0));
    let size: Option<f64> = number.trim().parse().ok();
    size.map(|n: f64| n * scale)
        .filter(|n| n.is_finite() && *n > 0.0)
        .ok_or_else(|| {
            usage(format!(
                "size: must be over 0, in MiB or with a unit such as 512MiB or 20GiB, is {text:?}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, mib) in [
            ("512", 512.0),
            ("512MiB", 512.0),
            ("1.5 GiB", 1536.0),
            ("1TiB", 1_048_576.0),
        ] {
            assert!((size_mib(text).unwrap() - mib).abs() < 1e-9, "{text}");
        }
        for bad in ["", "0", "-1", "GiB", "5GB", "nan", "inf"] {
            assert_eq!(size_mib(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn a_volume_is_found_by_its_name() {
        let none = json!({"cpus": 0, "mem": 0, "disk": 0, "gpus": 0});
        let on = |host: &str, id: &str| -> ReservationView {
            serde_json::from_value(json!({
                "agent_id": host, "hostname": host,
                "stack": [{"role": "eng", "dynamic": true, "principal": "", "labels": {}}],
                "resources": none, "used": none, "offered": none, "lent": none, "free": none,
                "volumes": [{"id": id, "size": 512, "shared": true, "tasks": ["t1", "t2"]}],
            }))
            .unwrap()
        };
        let all = [on("n1", "db"), on("n2", "db"), on("n2", "logs")];
        assert_eq!(find(&all, "logs").unwrap().hostname, "n2");
        let two = find(&all, "db").unwrap_err();
        assert!(two.to_string().starts_with("agent: n1, n2 have"), "{two}");
        assert_eq!(find(&all, "x").unwrap_err().exit_code(), 2);
        let all: Vec<_> = volumes(&all[2..]).collect();
        assert_eq!(
            table(&all),
            "VOLUME  NODE  RESERVATION  SIZE     SHARED  TASKS\n\
             logs    n2    eng          512 MiB  yes     t1, t2\n"
        );
    }
}
