//! What a machine's serial line means.

use std::fmt;

use waggle_tests_vm::Line;

/// A program's result.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Result {
    name: String,
    code: i32,
    milliseconds: u64,
    /// Tests that said why they did not run.
    skipped: Vec<String>,
}

/// A run of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    kernel: Option<String>,
    results: Vec<Result>,
    /// Jobs that have no result.
    missing: Vec<String>,
    /// The kernel's last words.
    panic: Option<String>,
    ended: bool,
    /// What failed tests wrote, in order.
    details: Vec<String>,
    /// Instructions verified, by object and program.
    pub verified: Vec<(String, u32)>,
}

/// Words in a line of the kernel's that say that it is broken.
const BROKEN: [&str; 5] = [
    "Kernel panic",
    "BUG:",
    "Oops",
    "general protection fault",
    "soft lockup",
];
/// Lines of a failed program's output that are kept.
const MAX_DETAILS: usize = 60;

impl Report {
    /// Reads a serial log; `jobs` are those that must have a result.
    pub fn read(log: &str, jobs: &[String]) -> Self {
        let mut report = Self::default();
        let mut output = Vec::new();
        for text in log.lines() {
            match Line::parse(text) {
                Some(Line::Kernel(release)) => report.kernel = Some(release),
                Some(Line::Output(line)) => {
                    report.verified.extend(verified(&line));
                    output.push(line);
                }
                Some(Line::Result {
                    name,
                    code,
                    milliseconds,
                }) => {
                    let skipped = output.iter().filter_map(|line| skipped(line)).collect();
                    if code != 0 {
                        report.details.push(format!("--- {name}:"));
                        let from = output.len().saturating_sub(MAX_DETAILS);
                        report.details.extend(output.drain(from..));
                    }
                    output.clear();
                    report.results.push(Result {
                        name,
                        code,
                        milliseconds,
                        skipped,
                    });
                }
                Some(Line::End) => report.ended = true,
                None => {
                    if report.panic.is_none() && BROKEN.iter().any(|word| text.contains(word)) {
                        report.panic = Some(text.trim().to_owned());
                    }
                }
            }
        }
        report.verified.sort();
        let has = |job: &&String| report.results.iter().any(|result| result.name == **job);
        report.missing = jobs.iter().filter(|job| !has(job)).cloned().collect();
        if !report.ended {
            // The one that was running, or the machine itself.
            let from = output.len().saturating_sub(MAX_DETAILS);
            report.details.extend(output.drain(from..));
        }
        report
    }

    /// Each thing that is not as it must be.
    pub fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = self
            .results
            .iter()
            .filter(|result| result.code != 0)
            .map(|result| format!("{} ended with {}", result.name, result.code))
            .collect();
        failures.extend(
            self.missing
                .iter()
                .map(|name| format!("{name} did not end")),
        );
        failures.extend(
            self.panic
                .iter()
                .map(|line| format!("the kernel said: {line}")),
        );
        if !self.ended {
            failures.push("the machine did not come to its end".to_owned());
        }
        failures
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = self.kernel.as_deref().unwrap_or("(did not start)");
        writeln!(f, "\nkernel {kernel}")?;
        for line in &self.details {
            writeln!(f, "  {line}")?;
        }
        for result in &self.results {
            let word = if result.code == 0 { "PASS" } else { "FAIL" };
            let seconds = std::time::Duration::from_millis(result.milliseconds).as_secs_f64();
            writeln!(f, "  {word}  {:7.1} s  {}", seconds, result.name)?;
            for reason in &result.skipped {
                writeln!(f, "        skipped: {reason}")?;
            }
        }
        for (program, instructions) in &self.verified {
            writeln!(f, "  {instructions:8} instructions verified of {program}")?;
        }
        Ok(())
    }
}

/// A line of the test `verify` of the loader.
fn verified(line: &str) -> Option<(String, u32)> {
    let rest = line.split_once("VERIFIED ")?.1;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [object, program, instructions] = words[..] else {
        return None;
    };
    Some((format!("{object}/{program}"), instructions.parse().ok()?))
}

fn skipped(line: &str) -> Option<String> {
    Some(line.split_once("SKIP: ")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> Vec<String> {
        ["verifier", "packet"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_good_run_has_no_failures() {
        let log = "VMKERNEL 6.1.0\r\n\
                   | VERIFIED edge edge 1234\r\n\
                   VMTEST verifier 0 1500\r\n\
                   | SKIP: no tracking\r\n\
                   VMTEST packet 0 10\r\n\
                   VMALLDONE\r\n";
        let report = Report::read(log, &jobs());
        assert_eq!(report.failures(), Vec::<String>::new());
        assert_eq!(report.verified, [("edge/edge".to_owned(), 1234)]);
        let text = report.to_string();
        assert!(text.contains("kernel 6.1.0"));
        assert!(text.contains("skipped: no tracking"), "{text}");
    }

    #[test]
    fn whatever_is_missing_is_a_failure() {
        let log = "VMKERNEL 6.1.0\n\
                   | thread panicked: why\n\
                   | VMALLDONE\n\
                   VMTEST verifier 101 7\n\
                   [   9.0] Kernel panic - not syncing: Attempted to kill init!\n";
        let report = Report::read(log, &jobs());
        assert_eq!(
            report.failures(),
            [
                "verifier ended with 101",
                "packet did not end",
                "the kernel said: [   9.0] Kernel panic - not syncing: Attempted to kill init!",
                "the machine did not come to its end",
            ]
        );
        assert!(report.to_string().contains("thread panicked: why"));
        let nothing = Report::read("", &jobs());
        assert_eq!(nothing.failures().len(), 3);
    }
}
