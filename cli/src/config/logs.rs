//! What becomes of tasks' output, and of the node's journal.

use std::time::Duration;

use waggle_agent::{JournalSettings, LogSettings};

use crate::{
    args::RunArgs,
    error::{CliError, usage},
    times,
};

/// Most names of units.
const MAX_UNITS: usize = 64;

/// `--task-log-size`, `--task-log-age`, `--node-log-size` and `--journal`.
pub fn logs(args: &RunArgs) -> Result<LogSettings, CliError> {
    let mut out = LogSettings::default();
    let bytes = |field: &str, mib: u64| {
        let bytes = mib.checked_mul(1 << 20).filter(|b| *b > 0);
        bytes.ok_or_else(|| usage(format!("{field}: must be 1 MiB to 16 EiB, is {mib} MiB")))
    };
    if let Some(mib) = args.task_log_size {
        out.defaults.quota_bytes = bytes("task-log-size", mib)?;
    }
    if let Some(mib) = args.node_log_size {
        out.node_quota_bytes = bytes("node-log-size", mib)?;
    }
    if let Some(text) = &args.task_log_age {
        let age = times::duration("task-log-age", text, Duration::from_hours(24 * 3650))?;
        if age < Duration::from_secs(1) {
            return Err(usage(format!(
                "task-log-age: must be 1s at least, is {text:?}"
            )));
        }
        out.defaults.max_age_s = Some(age.as_secs());
    }
    let named = |unit: &String| !unit.is_empty() && !unit.contains(char::is_whitespace);
    if let Some(unit) = args.journal.iter().find(|unit| !named(unit)) {
        return Err(usage(format!(
            "journal: must be names of units, is {unit:?}"
        )));
    }
    if args.journal.len() > MAX_UNITS {
        let n = args.journal.len();
        return Err(usage(format!(
            "journal: must be at most {MAX_UNITS} units, are {n}"
        )));
    }
    if !args.journal.is_empty() {
        out.journal = Some(JournalSettings::of(args.journal.clone()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_read() {
        let args = RunArgs {
            task_log_size: Some(8),
            task_log_age: Some("2h".to_owned()),
            node_log_size: Some(1024),
            journal: vec!["ssh.service".to_owned()],
            ..RunArgs::default()
        };
        let got = logs(&args).unwrap();
        assert_eq!(got.defaults.quota_bytes, 8 << 20);
        assert_eq!(got.defaults.max_age_s, Some(7200));
        assert_eq!(got.node_quota_bytes, 1 << 30);
        assert_eq!(got.journal.unwrap().units, ["ssh.service"]);
        assert!(logs(&RunArgs::default()).unwrap().journal.is_none());
    }
}
