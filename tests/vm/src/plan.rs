//! What a machine is to do: a text of lines, fields divided by tabs.

use std::time::Duration;

use anyhow::{Context as _, bail};

/// Where the machine finds it.
pub const PLAN: &str = "/plan";

/// One program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Names it in reports: no white space.
    pub name: String,
    /// After this it is ended, and has failed.
    pub limit: Duration,
    /// The program and its arguments: without tabs and ends of lines.
    pub words: Vec<String>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files of kernel modules, each after those that it needs.
    pub modules: Vec<String>,
    /// In this order.
    pub jobs: Vec<Job>,
}

impl Plan {
    /// As [`Plan::parse`] reads it.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for module in &self.modules {
            text.push_str(&format!("module\t{module}\n"));
        }
        for job in &self.jobs {
            let words = job.words.join("\t");
            text.push_str(&format!(
                "job\t{}\t{}\t{words}\n",
                job.name,
                job.limit.as_secs()
            ));
        }
        text
    }

    /// # Errors
    /// A line that is not understood.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["module", path] => plan.modules.push(path.to_owned()),
                ["job", name, limit, ref words @ ..] if !words.is_empty() => plan.jobs.push(Job {
                    name: name.to_owned(),
                    limit: Duration::from_secs(limit.parse().context("a job's limit")?),
                    words: words.iter().map(|word| (*word).to_owned()).collect(),
                }),
                _ => bail!("a line that is no part of a plan: {line:?}"),
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_read() {
        let plan = Plan {
            modules: vec!["/modules/veth.ko".to_owned()],
            jobs: vec![Job {
                name: "packet".to_owned(),
                limit: Duration::from_mins(1),
                words: ["/tests/packet", "--test-threads", "2"]
                    .map(str::to_owned)
                    .to_vec(),
            }],
        };
        assert_eq!(Plan::parse(&plan.render()).unwrap(), plan);
        assert_eq!(Plan::parse("").unwrap(), Plan::default());
        for bad in ["job\tx\t1", "job\tx\tsoon\t/x", "what", ""] {
            assert!(Plan::parse(&format!("{bad}\n")).is_err(), "{bad:?}");
        }
    }
}
