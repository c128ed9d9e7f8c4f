//! Which demand of a service an offer did not meet: finer than Marathon's reasons, to be told to people.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{Milli, ScalarKind, ServiceId, ServiceSpec};

use crate::{DeclineReason, constraints::validate_constraints};

/// Node names that are kept of those that a rule refused.
const MAX_NODES: usize = 8;

/// One demand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// What is offered is there, but reserved in another way than the service accepts.
    Role,
    /// The placement constraint at this position.
    Constraint(usize),
    /// A service runs there that has to be apart.
    Apart(ServiceId),
    /// A service does not run there that has to.
    With(ServiceId),
    /// What a resident instance reserved is not in it.
    Reservation,
    /// Too little of a kind.
    Scalar(ScalarKind),
    /// Too little of a disk of its own.
    Disk(String),
    /// Too few ports, or not those that are required.
    Ports,
    /// It needs secrets, and nobody gives their values.
    Secrets,
    /// As many launches are under way as may be.
    Tokens,
    /// None: it would fit and nothing needs it.
    Unneeded,
}

impl Rule {
    /// Marathon's reason.
    pub fn reason(&self) -> DeclineReason {
        match self {
            Self::Role => DeclineReason::UnfulfilledRole,
            // Clients know Marathon's reasons alone, which has none for secrets: it launches without.
            Self::Constraint(_) | Self::Apart(_) | Self::With(_) | Self::Secrets => {
                DeclineReason::UnfulfilledConstraint
            }
            Self::Reservation => DeclineReason::NoCorrespondingReservationFound,
            Self::Scalar(ScalarKind::Cpus) => DeclineReason::InsufficientCpus,
            Self::Scalar(ScalarKind::Mem) => DeclineReason::InsufficientMemory,
            Self::Scalar(ScalarKind::Disk) | Self::Disk(_) => DeclineReason::InsufficientDisk,
            Self::Scalar(ScalarKind::Gpus) => DeclineReason::InsufficientGpus,
            Self::Ports => DeclineReason::InsufficientPorts,
            Self::Tokens | Self::Unneeded => DeclineReason::NoWaitingInstance,
        }
    }
}

/// What one rule turned away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleCount {
    /// Offers.
    pub n_offers: u64,
    /// The most that one of them had of the kind that was too little.
    pub most: Milli,
    /// The first nodes whose they were, by name.
    pub nodes: BTreeSet<String>,
}

impl RuleCount {
    pub(crate) fn add(&mut self, hostname: &str, had: Milli) {
        self.n_offers += 1;
        self.most = self.most.max(had);
        if self.nodes.len() < MAX_NODES && !self.nodes.contains(hostname) {
            self.nodes.insert(hostname.to_owned());
        }
    }
}

/// A rule that stands in the way, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Marathon's reason.
    pub reason: DeclineReason,
    /// `needs 4 cpus: 12 offers had less, the most was 2`.
    pub message: String,
    /// What would help.
    pub fix: String,
    /// How many offers it turned away.
    pub n_offers: u64,
}

/// Counts in words, the rule that turned most away first. `what` is what was looked at: `offer`, `node`.
pub fn tell(spec: &ServiceSpec, rules: &BTreeMap<Rule, RuleCount>, what: &str) -> Vec<Why> {
    let mut out: Vec<Why> = rules
        .iter()
        .filter(|(rule, _)| **rule != Rule::Unneeded)
        .map(|(rule, count)| why(spec, rule, count, what))
        .collect();
    out.sort_by_key(|w| std::cmp::Reverse(w.n_offers));
    out
}

fn why(spec: &ServiceSpec, rule: &Rule, count: &RuleCount, what: &str) -> Why {
    let n = count.n_offers;
    let these = if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    };
    let names: Vec<&str> = count.nodes.iter().map(String::as_str).collect();
    let mut nodes = names.join(", ");
    if names.len() == MAX_NODES && n > names.len() as u64 {
        nodes.push_str(", ..");
    }
    let lack = |need: Milli, kind: &str, unit: &str| {
        (
            format!(
                "needs {need}{unit} {kind}: {these} had less, the most was {}{unit}",
                count.most
            ),
            format!(
                "ask for at most {}{unit} {kind}, free some, or add a node that has more",
                count.most
            ),
        )
    };
    let (message, fix) = match rule {
        Rule::Role => {
            let accepted: Vec<&str> = spec.roles.accepted.iter().map(String::as_str).collect();
            (
                format!(
                    "accepts resources of {} alone: {these} held enough of others",
                    accepted.join(", ")
                ),
                "name more in acceptedResourceRoles, or reserve resources for the role".to_owned(),
            )
        }
        Rule::Constraint(at) => constraint(spec, *at, &these, &nodes),
        Rule::Apart(id) => (
            format!("must not be where {id} runs: {these} of such nodes ({nodes})"),
            format!("add a node, or let one of the two go without WAGGLE_PLACE_APART {id}"),
        ),
        Rule::With(id) => (
            format!("must be where {id} runs: {these} of other nodes ({nodes})"),
            format!("see that {id} runs and leaves room on its nodes, or drop WAGGLE_PLACE_WITH"),
        ),
        Rule::Reservation => (
            format!("waits for the places that hold its volumes: {these} of other nodes ({nodes})"),
            "bring their nodes back, or kill the instances with wipe=true to begin anew".to_owned(),
        ),
        Rule::Scalar(kind) => {
            let unit = if matches!(kind, ScalarKind::Mem | ScalarKind::Disk) {
                " MiB"
            } else {
                ""
            };
            lack(spec.with_volumes().get(*kind), kind.name(), unit)
        }
        Rule::Disk(disk) => {
            let need = spec.with_volumes().custom.scalar(&format!("disk.{disk}"));
            lack(need, &format!("of disk {disk}"), " MiB")
        }
        Rule::Ports => {
            let required: Vec<String> = spec
                .ports
                .iter()
                .filter_map(|p| match p.mapping {
                    Some(m) => m.host_port.filter(|p| *p != 0),
                    None => Some(p.port).filter(|p| spec.require_ports && *p != 0),
                })
                .map(|p| p.to_string())
                .collect();
            if required.is_empty() {
                (
                    format!("needs {} ports: {these} had fewer", spec.ports.len()),
                    "offer more ports on nodes".to_owned(),
                )
            } else {
                (
                    format!("needs host port {}: {these} did not hold it ({nodes})", required.join(", ")),
                    "free these ports, offer them on nodes, or let the node choose (hostPort 0, requirePorts false)".to_owned(),
                )
            }
        }
        Rule::Secrets => {
            let used: Vec<&str> = spec.used_secrets().into_iter().collect();
            (
                format!(
                    "needs the values of secrets ({}) and there is no secret store: {these} refused",
                    used.join(", ")
                ),
                "give the values as plain env or files, or wait for a release that has a secret store"
                    .to_owned(),
            )
        }
        Rule::Tokens => (
            format!("as many launches are under way as may be: {these} left for later"),
            "wait until some of them run, or raise --launch-tokens".to_owned(),
        ),
        Rule::Unneeded => (format!("{these} were not needed"), String::new()),
    };
    Why {
        reason: rule.reason(),
        message,
        fix,
        n_offers: n,
    }
}

fn constraint(spec: &ServiceSpec, at: usize, these: &str, nodes: &str) -> (String, String) {
    use crate::Operator;
    let parsed = validate_constraints(&spec.constraints).unwrap_or_default();
    let Some(c) = parsed.get(at) else {
        return (format!("constraint {at}: {these} ({nodes})"), String::new());
    };
    let field = c.field.trim_start_matches('@');
    let (verdict, fix) = match &c.operator {
        Operator::Unique => (
            format!("of a {field} that is taken or of none"),
            format!("ask for fewer instances, add another {field}, or use MAX_PER"),
        ),
        Operator::MaxPer(n) => (
            format!("of a {field} that has {n} already or of none"),
            format!("ask for fewer instances, add another {field}, or allow more"),
        ),
        Operator::Is(v) => (
            format!("of another {field} or of none"),
            format!("give a node the {field} {v} and leave room on it"),
        ),
        Operator::Cluster => (
            format!("of another {field} than the instances that run, or of none"),
            format!("leave more room where they run, or drop the constraint on {field}"),
        ),
        Operator::GroupBy(_) => (
            format!("of a {field} that has more instances than others, or of none"),
            format!("leave room in the {field} that has the fewest, or add another"),
        ),
        Operator::Like(_) => (
            format!("of a {field} that does not match, or of none"),
            format!("change the pattern, or give nodes a {field} that matches"),
        ),
        Operator::Unlike(_) => (
            format!("of a {field} that matches"),
            format!("change the pattern, or add nodes of another {field}"),
        ),
    };
    (format!("{c}: {these} {verdict} ({nodes})"), fix)
}
