//! Why a question is answered as it is: which rule took it, and which tasks the name holds or leaves out.

use std::fmt;

use waggle_types::{NetSnapshot, TaskId};

use super::{
    Answer, DnsName, HealthPolicy, Listed, Outcome, Question, Zone, listing, listing::runs,
};
use crate::eligibility::{LocalFacts, Verdict};

/// What took a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// A zone of the cluster.
    Zone {
        /// Its apex.
        apex: DnsName,
    },
    /// An address of the cluster, which is a reverse zone of its own.
    Reverse,
    /// In no zone of ours: upstreams are asked.
    Forward,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone { apex } => write!(f, "zone {apex}"),
            Self::Reverse => f.write_str("address of the cluster"),
            Self::Forward => f.write_str("forwarded"),
        }
    }
}

/// How a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// What took it.
    pub rule: Rule,
    /// The end of the name that stands for another, and that other.
    pub alias: Option<(DnsName, DnsName)>,
    /// The name that was looked up, aliases resolved.
    pub name: DnsName,
    /// What was found.
    pub answer: Answer,
    /// For a name that is not there: the closest one above it that is.
    pub closest: Option<DnsName>,
    /// Tasks that have this name, with why it does or does not hold them.
    pub tasks: Vec<(TaskId, Verdict)>,
}

/// Answers a question and says why. Zone, snapshot, facts and policy must be of the same moment.
pub fn trace(
    zone: &Zone,
    snapshot: &NetSnapshot,
    local: &LocalFacts,
    policy: HealthPolicy,
    question: &Question,
) -> Trace {
    let (name, alias) = zone.scope.resolve(&question.name);
    let rule = match zone.scope.apex(&name) {
        Some(apex) => Rule::Zone { apex: apex.clone() },
        None if zone.is_reverse(&name) => Rule::Reverse,
        None => Rule::Forward,
    };
    let answer = zone.answer(question);
    let mut closest = None;
    if answer.outcome == Outcome::NxDomain {
        closest = name.parent();
        while let Some(up) = closest.take_if(|up| !zone.exists(up)) {
            closest = up.parent();
        }
    }
    let tasks = listing(snapshot, local, policy)
        .into_iter()
        .filter(|(id, listed)| has_name(id, listed, &name))
        .map(|(id, listed)| (id.clone(), listed.verdict))
        .collect();
    Trace {
        rule,
        alias: alias.cloned(),
        name,
        answer,
        closest,
        tasks,
    }
}

/// Whether `name` is one that the task shares, or its own while it does not run.
fn has_name(id: &TaskId, listed: &Listed<'_>, name: &DnsName) -> bool {
    let text = name.to_string();
    let Some(bare) = text
        .strip_suffix(".mesos.")
        .map(|n| n.strip_suffix(".slave").unwrap_or(n))
        .or_else(|| {
            let n = text.strip_suffix(".dcos.thisdcos.directory.")?;
            [".agentip", ".containerip", ".autoip"]
                .iter()
                .find_map(|kind| n.strip_suffix(kind))
        })
    else {
        return false;
    };
    let Some(task) = bare.strip_suffix(&format!(".{}", listed.framework)) else {
        return false;
    };
    let given = listed.task.name.to_lowercase();
    let is = |t: &str| t == listed.label || t == given;
    // `_port._task._tcp` and `_task._tcp`.
    let service = || {
        let service = task
            .strip_suffix("._tcp")
            .or_else(|| task.strip_suffix("._udp"))?;
        let (_, rest) = service.split_once("._").unwrap_or(("", service));
        Some(is(rest.trim_start_matches('_')))
    };
    let own = || {
        let of_task = super::build::canonical_label(id, listed);
        task == of_task && !runs(listed.verdict)
    };
    is(task) || service() == Some(true) || own()
}
