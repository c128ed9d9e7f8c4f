//! What the machine says on its serial line.

use std::fmt;

/// Begins every line that a program in the machine wrote, so that none of them can speak for the machine.
pub const OUTPUT: &str = "| ";
const RESULT: &str = "VMTEST";
const KERNEL: &str = "VMKERNEL";
const END: &str = "VMALLDONE";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The kernel's release.
    Kernel(String),
    /// A program has ended.
    Result {
        /// The job's name.
        name: String,
        /// Its exit code; 128 and the signal's number; 124 when it took too long.
        code: i32,
        /// How long it took.
        milliseconds: u64,
    },
    /// What a program wrote.
    Output(String),
    /// Everything was done.
    End,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(release) => write!(f, "{KERNEL} {release}"),
            Self::Result {
                name,
                code,
                milliseconds,
            } => write!(f, "{RESULT} {name} {code} {milliseconds}"),
            Self::Output(text) => write!(f, "{OUTPUT}{text}"),
            Self::End => f.write_str(END),
        }
    }
}

impl Line {
    /// The machine's line in a line of the serial log; `None` for the kernel's own.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(['\r', '\n']);
        if let Some(output) = text.strip_prefix(OUTPUT) {
            return Some(Self::Output(output.to_owned()));
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        Some(match words[..] {
            [END] => Self::End,
            [KERNEL, release] => Self::Kernel(release.to_owned()),
            [RESULT, name, code, milliseconds] => Self::Result {
                name: name.to_owned(),
                code: code.parse().ok()?,
                milliseconds: milliseconds.parse().ok()?,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let lines = [
            Line::Kernel("6.1.0-56-cloud-amd64".to_owned()),
            Line::Result {
                name: "packet".to_owned(),
                code: 101,
                milliseconds: 1234,
            },
            Line::Output("VMALLDONE".to_owned()),
            Line::Output(String::new()),
            Line::End,
        ];
        for line in lines {
            // A serial line ends with a carriage return, too.
            assert_eq!(Line::parse(&format!("{line}\r\n")), Some(line));
        }
        for other in ["[    1.2] Kernel panic", "VMTEST", "VMTEST x y 3", ""] {
            assert_eq!(Line::parse(other), None, "{other}");
        }
    }
}
