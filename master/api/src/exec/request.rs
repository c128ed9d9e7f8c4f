//! What opens a session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waggle_types::FieldError;

use super::Winsize;

/// Most arguments of a command, and most variables beside the task's.
const MAX_ITEMS: usize = 1024;
/// Longest of all of them together, in bytes.
const MAX_BYTES: usize = 128 << 10;

/// Runs a command in a task: `POST /waggle/v1/tasks/<id>/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables beside the task's; they win.
    pub env: BTreeMap<String, String>,
    /// Working directory; none: the task's.
    pub work_dir: Option<String>,
    /// Whether the client sends input.
    pub stdin: bool,
    /// The terminal that the command gets; none: pipes.
    pub tty: Option<Winsize>,
}

/// Shows a running task's output and connects to its input: `POST /waggle/v1/tasks/<id>/attach`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttachRequest {
    /// Whether the client sends input.
    pub stdin: bool,
    /// The client's terminal, where it has one.
    pub tty: Option<Winsize>,
    /// Lines of earlier output to begin with; of a task with a terminal, none are shown.
    pub lines: u32,
}

impl ExecRequest {
    /// Whether it can be run at all; the error names the field and the rule.
    pub fn check(&self) -> Result<(), FieldError> {
        let bad = |field: &str, rule: String| Err(FieldError::new(field, rule));
        if self.argv.first().is_none_or(String::is_empty) {
            return bad("argv", "must begin with a program".to_owned());
        }
        if self.argv.len() > MAX_ITEMS || self.env.len() > MAX_ITEMS {
            let field = if self.argv.len() > MAX_ITEMS {
                "argv"
            } else {
                "env"
            };
            return bad(field, format!("must have at most {MAX_ITEMS} items"));
        }
        let args: usize = self.argv.iter().map(String::len).sum();
        let env: usize = self.env.iter().map(|(k, v)| k.len() + v.len()).sum();
        if args + env > MAX_BYTES {
            let rule = format!(
                "must be at most {MAX_BYTES} bytes with env, is {}",
                args + env
            );
            return bad("argv", rule);
        }
        let nul = |text: &str| text.contains('\0');
        if self.argv.iter().any(|a| nul(a)) {
            return bad("argv", "must not hold a NUL".to_owned());
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') || nul(name) || nul(value) {
                return bad(
                    "env",
                    format!("{name:?} must be a name without = and NUL, with a value without NUL"),
                );
            }
        }
        let dir = self.work_dir.as_deref();
        if dir.is_some_and(|d| d.is_empty() || nul(d)) {
            return bad("work_dir", "must be a path".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(argv: &[&str]) -> ExecRequest {
        ExecRequest {
            argv: argv.iter().map(|s| (*s).to_owned()).collect(),
            ..ExecRequest::default()
        }
    }

    #[test]
    fn requests_are_checked() {
        assert_eq!(request(&["ls", ""]).check(), Ok(()));
        let field = |r: ExecRequest| r.check().unwrap_err().field;
        assert_eq!(field(request(&[])), "argv");
        assert_eq!(field(request(&[""])), "argv");
        assert_eq!(field(request(&["a\0b"])), "argv");
        assert_eq!(field(request(&vec!["x"; MAX_ITEMS + 1])), "argv");
        assert_eq!(field(request(&[&"x".repeat(MAX_BYTES + 1)])), "argv");
        let mut bad = request(&["ls"]);
        bad.env.insert("A=B".to_owned(), String::new());
        assert_eq!(field(bad), "env");
        let mut bad = request(&["ls"]);
        bad.work_dir = Some(String::new());
        assert_eq!(field(bad), "work_dir");
    }

    #[test]
    fn keys_that_nobody_knows_are_refused() {
        assert!(serde_json::from_str::<ExecRequest>(r#"{"argv":["a"],"tyy":true}"#).is_err());
        let given = r#"{"argv":["a"],"tty":{"rows":1,"cols":2}}"#;
        let got: ExecRequest = serde_json::from_str(given).unwrap();
        assert_eq!(got.tty, Some(Winsize { rows: 1, cols: 2 }));
    }
}
