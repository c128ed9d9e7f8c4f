//! `waggle exec` and `waggle attach`.

use std::collections::BTreeMap;

use waggle_api::exec::{AttachRequest, Ended, ExecRequest, UPGRADE};

use super::segment;
use crate::{
    args::{AttachCommand, ExecCommand, Reach},
    client::Client,
    error::{CliError, usage},
    session::{self, End, Mode},
};

/// Runs `waggle exec ...`.
pub async fn exec(command: ExecCommand) -> Result<(), CliError> {
    if command.tty && command.stdin && !session::input_is_terminal() {
        return Err(usage(
            "-t: standard input is no terminal; leave -t out to pass it on as it is",
        ));
    }
    let request = ExecRequest {
        argv: command.argv,
        env: variables(&command.env)?,
        work_dir: command.work_dir,
        stdin: command.stdin,
        tty: command.tty.then(|| session::size().unwrap_or_default()),
    };
    request.check().map_err(|e| usage(e.to_string()))?;
    let path = format!("/waggle/v1/tasks/{}/exec", segment("task", &command.task)?);
    let body = serde_json::to_string(&request).map_err(anyhow::Error::from)?;
    let mode = Mode {
        stdin: command.stdin,
        tty: command.tty,
        attached: false,
    };
    hold(&command.reach, &path, body, mode).await
}

/// Runs `waggle attach ...`.
pub async fn attach(command: AttachCommand) -> Result<(), CliError> {
    let request = AttachRequest {
        stdin: !command.no_stdin,
        tty: session::size(),
        lines: command.lines,
    };
    let path = format!(
        "/waggle/v1/tasks/{}/attach",
        segment("task", &command.task)?
    );
    let body = serde_json::to_string(&request).map_err(anyhow::Error::from)?;
    let mode = Mode {
        stdin: !command.no_stdin,
        tty: true,
        attached: true,
    };
    hold(&command.reach, &path, body, mode).await
}

async fn hold(reach: &Reach, path: &str, body: String, mode: Mode) -> Result<(), CliError> {
    let client = Client::new(reach.agent.as_ref().unwrap_or(&reach.master))?;
    let connection = client.upgrade(path, body, UPGRADE).await?;
    match session::hold(connection, mode).await? {
        End::Ended(ended) => told(&ended),
        End::Left(Some(signal)) if !mode.attached => Err(CliError::Ended(128 + signal)),
        // The user knows; who reads no more does not care.
        End::Left(_) | End::Unread => Ok(()),
    }
}

/// The command's end is ours.
fn told(ended: &Ended) -> Result<(), CliError> {
    if !ended.message.is_empty() {
        eprintln!("waggle: {}", ended.message);
    }
    match ended.exit_code() {
        0 => Ok(()),
        code => Err(CliError::Ended(code)),
    }
}

fn variables(given: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let one = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(usage(format!("--env: must be NAME=VALUE, is {text:?}"))),
    };
    given.iter().map(one).collect()
}
