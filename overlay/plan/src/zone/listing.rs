//! Which tasks the names of a service hold.
//!
//! mesos-dns and dcos-dns list every running task, whatever its health ([`HealthPolicy::Ignore`]). Here, unless
//! told so, a name that several tasks share holds those that can be expected to answer: running, not unhealthy,
//! its check answered if it has one, on an agent that the master hears from. Where that would leave none, all
//! running ones are listed: a name that stops to resolve would turn a failing check into an outage.

use std::collections::BTreeMap;

use waggle_types::{NetSnapshot, TaskId, TaskNet, TaskState, mangle_label};

use crate::eligibility::{LocalFacts, Reason, Verdict, checks_say, effective};

/// Whether names of services follow health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthPolicy {
    /// Tasks that fail their checks or are out of reach are left out, unless none would remain.
    #[default]
    Aware,
    /// Every running task is in: DC/OS's behavior.
    Ignore,
}

/// A task that has a name, and whether the names that it shares with others hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The task.
    pub task: &'a TaskNet,
    /// Discovery name as one label.
    pub label: String,
    /// Framework as labels.
    pub framework: String,
    /// In, or out and why.
    pub verdict: Verdict,
}

/// Every task of the snapshot that can have a name, with its verdict.
pub fn listing<'a>(
    snapshot: &'a NetSnapshot,
    local: &LocalFacts,
    policy: HealthPolicy,
) -> BTreeMap<&'a TaskId, Listed<'a>> {
    let mut out: BTreeMap<&TaskId, Listed<'_>> = BTreeMap::new();
    // Whether a name has somebody who can be expected to answer.
    let mut served: BTreeMap<(String, String), bool> = BTreeMap::new();
    for (id, task) in &snapshot.tasks {
        let label = mangle_label(&task.name);
        let framework = domain_frag(&task.framework);
        if label.is_empty() || framework.is_empty() {
            continue;
        }
        let verdict = judge(snapshot, id, task, local, policy);
        let key = (label.clone(), framework.clone());
        *served.entry(key).or_default() |= verdict == Verdict::Eligible;
        let listed = Listed {
            task,
            label,
            framework,
            verdict,
        };
        out.insert(id, listed);
    }
    for listed in out.values_mut() {
        let key = (listed.label.clone(), listed.framework.clone());
        if served.get(&key) == Some(&false) && is_soft(listed.verdict) {
            listed.verdict = Verdict::LastResort;
        }
    }
    out
}

fn judge(
    snapshot: &NetSnapshot,
    id: &TaskId,
    task: &TaskNet,
    local: &LocalFacts,
    policy: HealthPolicy,
) -> Verdict {
    let fact = effective(id, task, local);
    match fact.state {
        TaskState::Running => {}
        TaskState::Killing => return Verdict::Excluded(Reason::Killing),
        other => return Verdict::Excluded(Reason::NotRunning(other)),
    }
    let Some(agent) = snapshot.agents.get(&task.agent_id) else {
        return Verdict::Excluded(Reason::AgentUnknown);
    };
    if policy == HealthPolicy::Ignore {
        return Verdict::Eligible;
    }
    if let Some(reason) = checks_say(fact, task) {
        return Verdict::Excluded(reason);
    }
    // What this node has a fact of runs here, whatever the master hears.
    if !agent.reachable && !local.contains_key(id) {
        return Verdict::Excluded(Reason::AgentUnreachable);
    }
    Verdict::Eligible
}

/// Left out only as long as others remain: it runs.
const fn is_soft(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Excluded(
            Reason::Unhealthy
                | Reason::NoHealthResult
                | Reason::NotReady
                | Reason::AgentUnreachable
        )
    )
}

/// Whether a task has a name of its own: it runs, and where is known.
pub(super) const fn runs(verdict: Verdict) -> bool {
    verdict.is_in() || is_soft(verdict)
}

/// mesos_state.erl `domain_frag`: split on dots first, each label mangled.
pub(super) fn domain_frag(s: &str) -> String {
    let labels: Vec<String> = s
        .split('.')
        .map(mangle_label)
        .filter(|l| !l.is_empty())
        .collect();
    labels.join(".")
}
