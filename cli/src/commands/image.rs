//! `waggle image`: a node's images, by its agent's API.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{decode, print, print_json};
use crate::{
    args::{ImageCommand, ImageSub},
    client::Client,
    error::{CliError, usage},
    show::mib,
    table::Table,
    times,
};

const PATH: &str = "/waggle/v1/images";
/// The agent gives up a pull after an hour.
const PATIENCE: Duration = Duration::from_mins(65);

#[derive(Deserialize)]
struct List {
    images: Vec<Image>,
    disk_bytes: u64,
    max_disk_bytes: u64,
}

#[derive(Deserialize)]
struct Image {
    names: Vec<String>,
    digest: String,
    n_layers: usize,
    disk_bytes: u64,
    used_at_ms: u64,
    tasks: Vec<String>,
}

#[derive(Deserialize)]
struct Loaded {
    images: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    names: Vec<String>,
    digest: String,
}

#[derive(Deserialize)]
struct Pulled {
    digest: String,
}

#[derive(Deserialize)]
struct Pruned {
    images: Vec<String>,
    bytes: u64,
}

/// Runs `waggle image ...`.
pub async fn run(command: ImageCommand) -> Result<(), CliError> {
    let client = Client::new(&command.agent)?.patient_for(PATIENCE);
    let answer = match &command.command {
        ImageSub::List => client.get(PATH).await?,
        ImageSub::Pull {
            reference,
            cached,
            credentials,
        } => {
            let body =
                json!({"reference": reference, "cached": cached, "credentials": credentials});
            let path = format!("{PATH}/pull");
            client.post(&path, body.to_string()).await?
        }
        ImageSub::Load { path, name } => {
            let whole = path
                .canonicalize()
                .map_err(|e| usage(format!("{}: {e}", path.display())))?;
            let body = json!({"path": whole, "name": name});
            let path = format!("{PATH}/load");
            client.post(&path, body.to_string()).await?
        }
        ImageSub::Prune { all, max_size } => {
            let most = match max_size {
                Some(text) => Some(bytes("max-size", text)?),
                None => all.then_some(0),
            };
            let path = format!("{PATH}/prune");
            let body = json!({"max_bytes": most});
            client.post(&path, body.to_string()).await?
        }
    };
    if command.json {
        return print_json(&answer);
    }
    let text = match command.command {
        ImageSub::List => table(&decode(answer)?, times::now()),
        ImageSub::Pull { reference, .. } => {
            let pulled: Pulled = decode(answer)?;
            format!("{reference}: {}\n", pulled.digest)
        }
        ImageSub::Load { .. } => {
            let loaded: Loaded = decode(answer)?;
            let line = |i: &One| format!("{}: {}\n", i.names.join(", "), i.digest);
            loaded.images.iter().map(line).collect()
        }
        ImageSub::Prune { .. } => {
            let pruned: Pruned = decode(answer)?;
            let mut lines = pruned.images.join("\n");
            if !lines.is_empty() {
                lines.push('\n');
            }
            lines.push_str(&format!(
                "{} images removed, {} free\n",
                pruned.images.len(),
                size(pruned.bytes)
            ));
            lines
        }
    };
    print(&text)
}

fn table(list: &List, now_ms: u64) -> String {
    let mut table = Table::new(&["image", "digest", "layers", "size", "used", "tasks"]);
    for image in &list.images {
        let short: String = image.digest.chars().take("sha256:".len() + 12).collect();
        let ago = Duration::from_millis(now_ms.saturating_sub(image.used_at_ms));
        table.row([
            image.names.join(", "),
            short,
            image.n_layers.to_string(),
            size(image.disk_bytes),
            format!("{} ago", coarse(ago)),
            image.tasks.join(", "),
        ]);
    }
    format!(
        "{}{} of {}\n",
        table.render(),
        size(list.disk_bytes),
        size(list.max_disk_bytes)
    )
}

fn coarse(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

fn size(bytes: u64) -> String {
    mib(bytes as f64 / 1_048_576.0)
}

/// `512MiB`, `20GiB`, in bytes. Errors begin with `field`.
pub fn bytes(field: &str, text: &str) -> Result<u64, CliError> {
    let units = [("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let with_unit = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    with_unit
        .and_then(|(number, shift)| {
            let n: u64 = number.trim().parse().ok()?;
            n.checked_mul(1 << shift)
        })
        .ok_or_else(|| {
            usage(format!(
                "{field}: must be whole MiB, GiB or TiB such as 20GiB, is {text:?}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("x", "512MiB").unwrap(), 512 << 20);
        assert_eq!(bytes("x", "20 GiB").unwrap(), 20 << 30);
        for bad in ["", "20", "-1GiB", "1.5GiB", "99999999999TiB"] {
            assert_eq!(bytes("x", bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn the_table_says_what_there_is() {
        let list: List = serde_json::from_value(json!({
            "images": [{
                "names": ["docker.io/library/nginx:1", "nginx.test/x:2"],
                "digest": format!("sha256:{}", "ab".repeat(32)),
                "n_layers": 3, "disk_bytes": 52_428_800u64, "compressed_bytes": 1,
                "used_at_ms": 1000, "tasks": ["web.1"],
            }],
            "disk_bytes": 52_428_800u64, "max_disk_bytes": 1u64 << 34,
        }))
        .unwrap();
        assert_eq!(
            table(&list, 7_201_000),
            "\
IMAGE                                      DIGEST               LAYERS  SIZE    USED    TASKS
docker.io/library/nginx:1, nginx.test/x:2  sha256:abababababab  3       50 MiB  2h ago  web.1
50 MiB of 16 GiB
"
        );
    }
}
