//! The node's journal, of units that the node's configuration names: journalctl is asked, and goes on where it was told.

use std::{fs, io, path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncReadExt, process::Command, time::Instant};
use waggle_telemetry::{Telemetry, names};
use waggle_telemetry_pipeline::{
    IoStream, LineSplitter, LogBudget, LogRate, LogRecord, Severity, decode_line, line_uid,
};

use crate::clock;

/// Longest entry that is read.
const MAX_ENTRY: usize = 1 << 20;
/// Between two attempts to start journalctl: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Between two notes of how far it was read.
const NOTE: Duration = Duration::from_secs(1);

/// What of the journal is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    /// Names of units, with patterns as journalctl has them.
    pub units: Vec<String>,
    /// journalctl.
    pub program: PathBuf,
}

impl JournalSettings {
    /// Of some units, by the journalctl of this node.
    pub fn of(units: Vec<String>) -> Self {
        Self {
            units,
            program: PathBuf::from("journalctl"),
        }
    }

    /// Why there is nothing to read, where that is so.
    pub fn trouble(&self) -> Option<String> {
        let run = std::process::Command::new(&self.program)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        let program = self.program.display();
        match run {
            Ok(out) if out.status.success() => None,
            Ok(out) => Some(format!(
                "journal: {program} --version ends with {}",
                out.status
            )),
            Err(e) => Some(format!("journal: {program} can't be started: {e}")),
        }
    }
}

/// Follows the journal until it is dropped. How far it was read is kept in `dir`.
pub async fn follow(settings: JournalSettings, node: String, dir: PathBuf, telemetry: Telemetry) {
    let place = Place::read(dir.join("journal.cursor"));
    let mut reading = Reading {
        node,
        place,
        telemetry,
        budget: LogBudget::new(LogRate::default(), clock::now_ns()),
    };
    let mut pause = RETRY.0;
    loop {
        let begun = Instant::now();
        let ended = reading.run(&settings).await;
        let error = match ended {
            Ok(status) => format!("ended with {status}"),
            Err(e) => format!("failed: {e}"),
        };
        if begun.elapsed() > RETRY.1 {
            pause = RETRY.0;
        }
        let program = settings.program.display();
        tracing::warn!(%program, error, again_in = ?pause, "the journal is not read");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

struct Reading {
    node: String,
    place: Place,
    telemetry: Telemetry,
    budget: LogBudget,
}

impl Reading {
    async fn run(&mut self, settings: &JournalSettings) -> io::Result<std::process::ExitStatus> {
        let mut command = Command::new(&settings.program);
        command.args(["--output=json", "--follow", "--no-pager", "--quiet"]);
        // Otherwise a message of more than 4 KiB is none.
        command.arg("--all");
        match &self.place.cursor {
            Some(cursor) => command.arg(format!("--after-cursor={cursor}")),
            // Who has never read it begins now.
            None => command.arg("--lines=0"),
        };
        for unit in &settings.units {
            command.arg(format!("--unit={unit}"));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let Some(mut out) = child.stdout.take() else {
            return child.wait().await;
        };
        let mut splitter = LineSplitter::new(MAX_ENTRY);
        let mut buffer = vec![0; 64 << 10];
        let mut noted = Instant::now();
        let mut cut = false;
        loop {
            let Ok(n) = tokio::time::timeout(NOTE, out.read(&mut buffer)).await else {
                self.place.write();
                continue;
            };
            let n = n?;
            if n == 0 {
                self.place.write();
                return child.wait().await;
            }
            for line in splitter.push(&buffer[..n]) {
                self.piece(&line.bytes, line.partial, &mut cut);
            }
            if noted.elapsed() >= NOTE {
                noted = Instant::now();
                self.place.write();
            }
        }
    }

    /// A line of journalctl's, or a piece of one: of an entry that is too long nothing is left, but that it was there.
    fn piece(&mut self, bytes: &[u8], partial: bool, cut: &mut bool) {
        match (std::mem::replace(cut, partial), partial) {
            (false, false) => self.take(bytes),
            (false, true) => self.lose("too_long", 1),
            (true, _) => {}
        }
    }

    fn lose(&self, reason: &'static str, lines: u64) {
        let reason = [(names::DROP_REASON, reason.into())];
        self.telemetry
            .count(&names::AGENT_LOG_DROPPED, &reason, lines);
    }

    fn take(&mut self, line: &[u8]) {
        let now_ns = clock::now_ns();
        let Some((record, cursor)) = read_entry(line, &self.node, now_ns) else {
            self.lose("malformed", 1);
            return;
        };
        self.place.set(cursor);
        if self.budget.take(1, line.len() as u64, now_ns) {
            self.telemetry.log(record);
        } else {
            let dropped = self.budget.take_dropped();
            self.lose("rate", dropped.lines);
        }
    }
}

/// How far it was read.
struct Place {
    path: PathBuf,
    cursor: Option<String>,
    written: bool,
}

impl Place {
    fn read(path: PathBuf) -> Self {
        let cursor = fs::read_to_string(&path).ok();
        let cursor = cursor.map(|c| c.trim().to_owned());
        Self {
            path,
            cursor: cursor.filter(|c| !c.is_empty()),
            written: true,
        }
    }

    fn set(&mut self, cursor: String) {
        self.cursor = Some(cursor);
        self.written = false;
    }

    /// Not fsynced: after a power loss some entries come again, as the same records.
    fn write(&mut self) {
        let Some(cursor) = self.cursor.as_ref().filter(|_| !self.written) else {
            return;
        };
        let tmp = self.path.with_extension("tmp");
        match fs::write(&tmp, cursor).and_then(|()| fs::rename(&tmp, &self.path)) {
            Ok(()) => self.written = true,
            Err(e) => tracing::debug!(error = %e, "place in the journal not written"),
        }
    }
}

/// An entry as journalctl writes it (systemd.journal-fields): a record, and the cursor behind it.
fn read_entry(line: &[u8], node: &str, now_ns: u64) -> Option<(LogRecord, String)> {
    let entry: Value = serde_json::from_slice(line).ok()?;
    let text = |key: &str| entry[key].as_str();
    let cursor = text("__CURSOR")?.to_owned();
    let message = match &entry["MESSAGE"] {
        Value::String(text) => text.clone().into_bytes(),
        // What is no text comes as numbers.
        Value::Array(bytes) => {
            let byte = |b: &Value| u8::try_from(b.as_u64()?).ok();
            bytes.iter().filter_map(byte).collect()
        }
        _ => Vec::new(),
    };
    let time_us = text("__REALTIME_TIMESTAMP").and_then(|t| t.parse::<u64>().ok());
    let time_ns = time_us.map_or(now_ns, |us| us.saturating_mul(1000));
    let mut record = decode_line(&message, IoStream::Stdout, time_ns);
    record.stream = None;
    record.observed_ns = now_ns;
    if record.severity == Severity::UNSPECIFIED
        && let Some(priority) = text("PRIORITY")
    {
        record.severity = match priority {
            "0" => Severity::FATAL,
            "1" => Severity::ALERT,
            "2" => Severity::CRITICAL,
            "3" => Severity::ERROR,
            "4" => Severity::WARN,
            "5" => Severity::NOTICE,
            "6" => Severity::INFO,
            "7" => Severity::DEBUG,
            _ => Severity::UNSPECIFIED,
        };
        priority.clone_into(&mut record.severity_text);
    }
    for (key, field) in [
        ("waggle.journal.unit", "_SYSTEMD_UNIT"),
        ("waggle.journal.identifier", "SYSLOG_IDENTIFIER"),
        ("process.pid", "_PID"),
    ] {
        if let Some(value) = text(field) {
            record.attrs.push((key.into(), value.into()));
        }
    }
    // One cursor, one record.
    let place = cursor.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    record.uid = Some(line_uid(node, "journal", place, time_ns));
    Some((record, cursor))
}

/// How far the journal was read, for tests.
#[cfg(test)]
fn cursor_in(dir: &std::path::Path) -> Option<String> {
    Place::read(dir.join("journal.cursor")).cursor
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_are_read() {
        let line = br#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1795407292000001","PRIORITY":"4",
            "MESSAGE":"disk is slow","_SYSTEMD_UNIT":"ssh.service","_PID":"77","SYSLOG_IDENTIFIER":"sshd"}"#;
        let (record, cursor) = read_entry(line, "n1", 9).unwrap();
        assert_eq!(cursor, "s=1;i=2");
        assert_eq!(record.body.as_str(), Some("disk is slow"));
        assert_eq!(record.severity, Severity::WARN);
        assert_eq!(record.time_ns, 1_795_407_292_000_001_000);
        assert_eq!(record.observed_ns, 9);
        assert_eq!(
            record.attr("waggle.journal.unit"),
            Some(&"ssh.service".into())
        );
        assert_eq!(record.uid, read_entry(line, "n1", 10).unwrap().0.uid);
        let bytes = br#"{"__CURSOR":"x","MESSAGE":[104,105,255],"PRIORITY":"9"}"#;
        let (record, _) = read_entry(bytes, "n1", 9).unwrap();
        assert_eq!(record.body.as_str(), Some("hi\u{fffd}"));
        assert_eq!(record.time_ns, 9);
        assert!(read_entry(br#"{"MESSAGE":"no cursor"}"#, "n1", 9).is_none());
    }

    #[test]
    fn what_becomes_no_record_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut reading = Reading {
            node: "n1".to_owned(),
            place: Place::read(dir.path().join("journal.cursor")),
            telemetry: Telemetry::disabled(),
            budget: LogBudget::new(LogRate::default(), clock::now_ns()),
        };
        let (mut splitter, mut cut) = (LineSplitter::new(100), false);
        let long = "x".repeat(350);
        let said = format!(
            "{{\"__CURSOR\":\"a\",\"MESSAGE\":\"1\"}}\n{long}\nno entry\n{{\"__CURSOR\":\"b\",\"MESSAGE\":\"2\"}}\n"
        );
        for line in splitter.push(said.as_bytes()) {
            reading.piece(&line.bytes, line.partial, &mut cut);
        }
        assert_eq!(reading.place.cursor.as_deref(), Some("b"));
        let page = reading.telemetry.prometheus_text();
        for reason in ["too_long", "malformed"] {
            let series = format!("waggle_drop_reason=\"{reason}\"");
            let line = page
                .lines()
                .find(|l| l.starts_with("waggle_agent_log_dropped_total{") && l.contains(&series));
            assert!(line.is_some_and(|l| l.ends_with(" 1")), "{reason}: {page}");
        }
    }

    proptest! {
        #[test]
        fn reading_is_total(line in prop_oneof![
            any::<Vec<u8>>(),
            r#"\{"__CURSOR":"a","(MESSAGE|PRIORITY|__REALTIME_TIMESTAMP)":("\PC{0,9}"|null|-?[0-9]{1,25}|\[[0-9,]{0,9}\])\}"#
                .prop_map(String::into_bytes),
        ]) {
            let _ = read_entry(&line, "n1", 9);
        }
    }

    /// A journalctl that writes down how it was called, says two things and goes.
    fn stand_in(dir: &Path) -> PathBuf {
        let path = dir.join("journalctl");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {dir}/calls\n\
             n=$(wc -l < {dir}/calls)\n\
             for i in 1 2; do echo '{{\"__CURSOR\":\"c'$n$i'\",\"MESSAGE\":\"m'$n$i'\"}}'; done\n",
            dir = dir.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn it_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let settings = JournalSettings {
            units: vec!["ssh.service".into(), "waggle*".into()],
            program: stand_in(dir.path()),
        };
        let run = follow(
            settings,
            "n1".into(),
            dir.path().to_owned(),
            Telemetry::disabled(),
        );
        let called = async {
            loop {
                let calls = fs::read_to_string(dir.path().join("calls"));
                let calls = calls.unwrap_or_default();
                if calls.lines().count() >= 2 {
                    return calls;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let calls = tokio::select! {
            () = run => String::new(),
            calls = called => calls,
        };
        let mut calls = calls.lines();
        let first = calls.next().unwrap();
        assert!(
            first.ends_with("--lines=0 --unit=ssh.service --unit=waggle*"),
            "{first}"
        );
        let second = calls.next().unwrap();
        assert!(second.contains("--after-cursor=c12 "), "{second}");
        // The second may have been heard out by now.
        let cursor = cursor_in(dir.path()).unwrap();
        assert!(["c12", "c22"].contains(&cursor.as_str()), "{cursor}");
    }

    #[test]
    fn where_there_is_none_it_is_said() {
        let mut settings = JournalSettings::of(vec!["ssh.service".into()]);
        settings.program = PathBuf::from("/no/such/journalctl");
        let why = settings.trouble().unwrap();
        assert!(
            why.starts_with("journal: /no/such/journalctl can't be started"),
            "{why}"
        );
    }
}
