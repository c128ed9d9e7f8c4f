//! What a framework is never offered, decided once when it subscribes or an agent joins: offer constraints
//! on attributes, the region, GPUs.

use regex::{Regex, RegexBuilder};
use waggle_types::{
    AgentInfo, Capabilities, FieldError, OfferConstraints, Predicate, ScalarKind, Selector,
};

/// Longest pattern of an offer constraint, in bytes.
const MAX_PATTERN: usize = 1024;
/// Largest compiled program of a pattern, in bytes; matching is linear in the text.
const MAX_PROGRAM: usize = 256 * 1024;
/// Groups, and constraints in a group.
const MAX_CONSTRAINTS: usize = 64;

#[derive(Debug, Clone)]
enum Test {
    Plain(Predicate),
    Matches { pattern: Regex, want: bool },
}

/// Checked and ready to be asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compiled {
    groups: Vec<Vec<(Selector, Test)>>,
}

impl Compiled {
    pub fn new(constraints: &OfferConstraints) -> Result<Self, FieldError> {
        let too_many = constraints.len() > MAX_CONSTRAINTS
            || constraints.iter().any(|g| g.len() > MAX_CONSTRAINTS);
        if too_many {
            let rule = format!("at most {MAX_CONSTRAINTS} groups of {MAX_CONSTRAINTS} constraints");
            return Err(FieldError::new("offer_constraints", rule));
        }
        let mut groups = Vec::new();
        for group in constraints {
            let mut tests = Vec::new();
            for c in group {
                tests.push((c.selector.clone(), compile(&c.predicate)?));
            }
            groups.push(tests);
        }
        Ok(Self { groups })
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn allow(&self, info: &AgentInfo) -> bool {
        let holds = |(selector, test): &(Selector, Test)| test.holds(select(selector, info));
        self.groups.is_empty() || self.groups.iter().any(|g| g.iter().all(holds))
    }
}

impl Test {
    fn holds(&self, found: Option<&str>) -> bool {
        match self {
            Self::Matches { pattern, want } => found.is_some_and(|t| pattern.is_match(t)) == *want,
            Self::Plain(Predicate::NotExists) => found.is_none(),
            Self::Plain(Predicate::TextEquals(text)) => found == Some(text.as_str()),
            Self::Plain(Predicate::TextNotEquals(text)) => found != Some(text.as_str()),
            Self::Plain(_) => found.is_some(),
        }
    }
}

fn select<'a>(selector: &Selector, info: &'a AgentInfo) -> Option<&'a str> {
    let domain = info.domain.as_ref();
    match selector {
        Selector::Attribute(name) => info.attributes.get(name).map(String::as_str),
        Selector::Hostname => Some(&info.hostname),
        Selector::Region => domain.map(|d| d.region.as_str()),
        Selector::Zone => domain.map(|d| d.zone.as_str()),
    }
}

fn compile(predicate: &Predicate) -> Result<Test, FieldError> {
    let (pattern, want) = match predicate {
        Predicate::TextMatches(p) => (p, true),
        Predicate::TextNotMatches(p) => (p, false),
        plain => return Ok(Test::Plain(plain.clone())),
    };
    let bad = |rule: String| FieldError::new("offer_constraints.regex", rule);
    if pattern.len() > MAX_PATTERN {
        return Err(bad(format!("must be at most {MAX_PATTERN} bytes")));
    }
    let pattern = RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM)
        .build()
        .map_err(|e| bad(format!("must be a pattern of bounded size: {e}")))?;
    Ok(Test::Matches { pattern, want })
}

/// Why an agent is never offered to a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Barrier {
    /// The agent has GPUs and the framework does not use any.
    Gpus,
    /// The agent is in another region and the framework is not aware of regions.
    Region,
    /// The framework's offer constraints.
    Constraints,
}

impl Barrier {
    /// For logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpus => "agent has GPUs, framework lacks the capability",
            Self::Region => "agent is in another region",
            Self::Constraints => "offer constraints do not hold",
        }
    }
}

/// What stands between a framework and an agent, if anything.
pub(crate) fn barrier(
    capabilities: Capabilities,
    constraints: &Compiled,
    home: Option<&str>,
    info: &AgentInfo,
) -> Option<Barrier> {
    let domain = info.domain.as_ref();
    let away = home
        .zip(domain)
        .is_some_and(|(home, domain)| home != domain.region);
    if !capabilities.gpus && info.total.get(ScalarKind::Gpus).0 > 0 {
        Some(Barrier::Gpus)
    } else if !capabilities.region_aware && away {
        Some(Barrier::Region)
    } else if constraints.allow(info) {
        None
    } else {
        Some(Barrier::Constraints)
    }
}
