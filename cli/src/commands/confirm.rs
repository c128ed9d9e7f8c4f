//! Asking before data goes.

use std::io::{BufRead, IsTerminal, Write};

use crate::error::{CliError, usage};

/// Has a person type `name` before `what` is gone; `yes` says that somebody has thought about it. Without a terminal
/// there is nobody to ask, so nothing is done.
pub fn confirm(yes: bool, what: &str, name: &str) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(usage(format!("yes: {what} will be gone; say --yes")));
    }
    let mut err = std::io::stderr().lock();
    // Who does not see the question does not answer it.
    let _ = write!(err, "This removes {what}. Type {name} to go on: ");
    let _ = err.flush();
    let mut line = String::new();
    stdin
        .lock()
        .read_line(&mut line)
        .map_err(anyhow::Error::from)?;
    judge(&line, name)
}

fn judge(line: &str, name: &str) -> Result<(), CliError> {
    if line.trim() == name {
        return Ok(());
    }
    Err(usage(format!("that is not {name}: nothing was done")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_confirms() {
        assert!(judge("db\n", "db").is_ok());
        for other in ["", "\n", "y\n", "yes\n", "DB\n", "db2\n"] {
            assert_eq!(judge(other, "db").unwrap_err().exit_code(), 2, "{other:?}");
        }
        assert!(confirm(true, "all", "db").is_ok());
    }
}
