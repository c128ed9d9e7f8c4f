//! `waggle task ls|cat|download`: files of a task's sandbox.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use waggle_api::native::{FileKind, FileView, FilesView};

use super::{encode_query, fetch, print, print_bytes, print_json, segment};
use crate::{
    client::Client,
    error::{CliError, usage},
    table::Table,
    times,
};

/// Deepest directory that is downloaded: a task can make any.
const MAX_DEPTH: usize = 64;

/// `ls`.
pub async fn ls(client: &Client, task: &str, path: &str, as_json: bool) -> Result<(), CliError> {
    let (answer, view) = listing(client, task, path).await?;
    if as_json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["mode", "user", "group", "size", "modified", "name"]);
    for f in &view.files {
        table.row([
            f.mode.clone(),
            f.user.clone(),
            f.group.clone(),
            f.size.to_string(),
            times::absolute(f.modified_ms),
            shown(f),
        ]);
    }
    print(&table.render())?;
    if view.truncated {
        eprintln!("waggle: there is more in it than is shown");
    }
    Ok(())
}

/// Names are the task's: what would move the cursor is shown as what it is.
fn shown(file: &FileView) -> String {
    let clean: String = file
        .name
        .chars()
        .flat_map(|c| {
            let escaped: Vec<char> = if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            };
            escaped
        })
        .collect();
    match file.kind {
        FileKind::Directory => format!("{clean}/"),
        _ => clean,
    }
}

/// `cat`.
pub async fn cat(client: &Client, task: &str, path: &str) -> Result<(), CliError> {
    let url = file_url(task, path)?;
    client.get_stream(&url, print_bytes).await
}

/// `download`: a file, or a directory with what is in it. Never over what is there.
pub async fn download(
    client: &Client,
    task: &str,
    path: &str,
    to: Option<PathBuf>,
) -> Result<(), CliError> {
    let (_, view) = listing(client, task, path).await?;
    let name = path
        .trim_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let name = if name.is_empty() {
        view.task_id.as_str()
    } else {
        name
    };
    let to = match to {
        Some(dir) if dir.is_dir() => dir.join(safe(name)?),
        Some(to) => to,
        None => PathBuf::from(safe(name)?),
    };
    if !view.directory {
        return save(client, task, path, &to).await;
    }
    let mut left = vec![(view, to, 0)];
    let mut skipped = 0_usize;
    while let Some((view, to, depth)) = left.pop() {
        fs::create_dir(&to).with_context(|| format!("cannot make {}", to.display()))?;
        skipped += usize::from(view.truncated);
        for f in &view.files {
            let inside = format!("{}/{}", view.path, f.name);
            let target = to.join(safe(&f.name)?);
            match f.kind {
                FileKind::File => save(client, task, &inside, &target).await?,
                FileKind::Directory if depth < MAX_DEPTH => {
                    let (_, below) = listing(client, task, &inside).await?;
                    left.push((below, target, depth + 1));
                }
                _ => skipped += 1,
            }
        }
    }
    if skipped > 0 {
        eprintln!("waggle: {skipped} were left out: links, devices, or more than is listed");
    }
    Ok(())
}

async fn save(client: &Client, task: &str, path: &str, to: &Path) -> Result<(), CliError> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(to)
        .with_context(|| format!("cannot make {}", to.display()))?;
    let url = file_url(task, path)?;
    let done = client
        .get_stream(&url, |bytes| {
            let written = file.write_all(bytes);
            Ok(written.with_context(|| format!("cannot write {}", to.display()))?)
        })
        .await;
    if done.is_err() {
        // A part of a file would be taken for the whole.
        let _ = fs::remove_file(to);
    }
    done
}

/// A name that stays where it is put.
fn safe(name: &str) -> Result<&str, CliError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(anyhow!("{name:?} is no name that can be made here").into());
    }
    Ok(name)
}

async fn listing(
    client: &Client,
    task: &str,
    path: &str,
) -> Result<(serde_json::Value, FilesView), CliError> {
    let path = encode_query(path);
    fetch(
        client,
        &format!(
            "/waggle/v1/tasks/{}/files?path={path}",
            segment("task", task)?
        ),
    )
    .await
}

fn file_url(task: &str, path: &str) -> Result<String, CliError> {
    if path.trim_matches('/').is_empty() {
        return Err(usage("path: must name a file"));
    }
    let task = segment("task", task)?;
    Ok(format!(
        "/waggle/v1/tasks/{task}/file?path={}",
        encode_query(path)
    ))
}
