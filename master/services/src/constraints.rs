//! Placement constraints: Marathon's `[field, operator, value?]`.

use std::{collections::BTreeMap, fmt};

use regex::{Regex, RegexBuilder};
use waggle_types::FieldError;

use crate::Place;

/// Longest pattern of `LIKE` and `UNLIKE`, in bytes.
const MAX_PATTERN: usize = 512;
/// Largest compiled program of a pattern, in bytes; matching is linear in the text.
const MAX_PROGRAM: usize = 256 * 1024;

/// A regular expression that has to match all of a value, as Marathon's (which are Java's) do.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATTERN {
            return Err(format!("must be at most {MAX_PATTERN} bytes"));
        }
        let found = RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(MAX_PROGRAM)
            .dfa_size_limit(MAX_PROGRAM)
            .build();
        found
            .map(Self)
            .map_err(|_| format!("must be a regular expression of bounded size, is {text:.80?}"))
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// What a constraint demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// No two instances share the value.
    Unique,
    /// At most this many instances share the value.
    MaxPer(u32),
    /// The value is this one (`IS`, or `CLUSTER` with a value).
    Is(String),
    /// All instances share one value, whichever the first one has.
    Cluster,
    /// Instances are spread evenly over the values, of which there are at least this many (0: as many as are
    /// seen).
    GroupBy(u32),
    /// The value matches.
    Like(Pattern),
    /// The value does not match, or there is none.
    Unlike(Pattern),
}

/// One constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// `hostname`, `@hostname`, `@region`, `@zone`, or an attribute's name.
    pub field: String,
    /// What it demands.
    pub operator: Operator,
}

impl fmt::Display for Constraint {
    /// `UNIQUE hostname`, `rack IS a1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field.trim_start_matches('@');
        match &self.operator {
            Operator::Unique => write!(f, "UNIQUE {field}"),
            Operator::MaxPer(n) => write!(f, "MAX_PER {n} {field}"),
            Operator::Is(value) => write!(f, "{field} IS {value}"),
            Operator::Cluster => write!(f, "CLUSTER {field}"),
            Operator::GroupBy(0) => write!(f, "GROUP_BY {field}"),
            Operator::GroupBy(n) => write!(f, "GROUP_BY {n} {field}"),
            Operator::Like(p) => write!(f, "{field} LIKE {}", bare(p)),
            Operator::Unlike(p) => write!(f, "{field} UNLIKE {}", bare(p)),
        }
    }
}

/// A pattern as it was given.
fn bare(p: &Pattern) -> &str {
    let text = p.0.as_str();
    text.get(4..text.len().saturating_sub(2)).unwrap_or(text)
}

/// Parses an app's constraints; what is wrong is named in the error.
pub fn validate_constraints(constraints: &[Vec<String>]) -> Result<Vec<Constraint>, FieldError> {
    constraints
        .iter()
        .enumerate()
        .map(|(i, parts)| parse(&format!("constraints[{i}]"), parts))
        .collect()
}

/// What is wrong with an app's constraints, each named.
pub fn wrong_constraints(constraints: &[Vec<String>]) -> Vec<FieldError> {
    let all = constraints.iter().enumerate();
    all.filter_map(|(i, parts)| parse(&format!("constraints[{i}]"), parts).err())
        .collect()
}

fn parse(at: &str, parts: &[String]) -> Result<Constraint, FieldError> {
    let (field, operator, value) = match parts {
        [field, operator] => (field, operator, None),
        [field, operator, value] => (field, operator, Some(value)),
        _ => {
            let rule = format!(
                "must be [field, operator] or [field, operator, value], has {} parts",
                parts.len()
            );
            return Err(FieldError::new(at, rule));
        }
    };
    let known = ["@hostname", "@region", "@zone"];
    if field.is_empty() {
        return Err(FieldError::new(format!("{at}[0]"), "must not be empty"));
    }
    if field.starts_with('@') && !known.contains(&field.as_str()) {
        let rule = format!(
            "must be an attribute or one of {}, is {field:.80?}",
            known.join(", ")
        );
        return Err(FieldError::new(format!("{at}[0]"), rule));
    }
    Ok(Constraint {
        field: field.clone(),
        operator: operator_of(at, operator, value.filter(|v| !v.is_empty()))?,
    })
}

fn operator_of(at: &str, name: &str, value: Option<&String>) -> Result<Operator, FieldError> {
    let wrong = |rule: String| FieldError::new(format!("{at}[2]"), rule);
    let number = |v: &String| match v.parse::<u32>() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(wrong(format!("{name} needs a number over 0, is {v:.80?}"))),
    };
    let pattern = |v: &String| Pattern::new(v).map_err(wrong);
    Ok(match (name, value) {
        ("UNIQUE", None) => Operator::Unique,
        ("UNIQUE", Some(_)) => return Err(wrong("UNIQUE takes no value".to_owned())),
        ("MAX_PER", Some(v)) => Operator::MaxPer(number(v)?),
        ("IS" | "CLUSTER", Some(v)) => Operator::Is(v.clone()),
        ("CLUSTER", None) => Operator::Cluster,
        ("GROUP_BY", None) => Operator::GroupBy(0),
        ("GROUP_BY", Some(v)) => Operator::GroupBy(number(v)?),
        ("LIKE", Some(v)) => Operator::Like(pattern(v)?),
        ("UNLIKE", Some(v)) => Operator::Unlike(pattern(v)?),
        ("MAX_PER" | "IS" | "LIKE" | "UNLIKE", None) => {
            return Err(FieldError::new(at, format!("{name} needs a value")));
        }
        _ => {
            let rule = format!(
                "must be UNIQUE, CLUSTER, GROUP_BY, LIKE, UNLIKE, MAX_PER or IS, is {name:.80?}"
            );
            return Err(FieldError::new(format!("{at}[1]"), rule));
        }
    })
}

/// What a place has for a field.
pub(crate) fn value<'a>(field: &str, place: &'a Place) -> Option<&'a str> {
    let domain = place.domain.as_ref();
    match field {
        "hostname" | "@hostname" => Some(&place.hostname),
        "@region" => domain.map(|d| d.region.as_str()),
        "@zone" => domain.map(|d| d.zone.as_str()),
        _ => place.attributes.get(field).map(String::as_str),
    }
}

/// Places that are taken, counted by the values that the constraints look at.
pub(crate) struct Taken<'a> {
    constraints: &'a [Constraint],
    counts: Vec<BTreeMap<String, u32>>,
}

impl<'a> Taken<'a> {
    pub fn new(constraints: &'a [Constraint]) -> Self {
        Self {
            constraints,
            counts: vec![BTreeMap::new(); constraints.len()],
        }
    }

    pub fn add(&mut self, place: &Place) {
        for (c, counts) in self.constraints.iter().zip(&mut self.counts) {
            if let Some(v) = value(&c.field, place) {
                *counts.entry(v.to_owned()).or_default() += 1;
            }
        }
    }

    /// The first constraint that one more instance there would break, by its position. A place without the
    /// attribute satisfies nothing but `UNLIKE`.
    pub fn refuses(&self, place: &Place) -> Option<usize> {
        let allows = |(c, counts): (&Constraint, &BTreeMap<String, u32>)| {
            let Some(v) = value(&c.field, place) else {
                return matches!(c.operator, Operator::Unlike(_));
            };
            let n = counts.get(v).copied().unwrap_or(0);
            match &c.operator {
                Operator::Unique => n == 0,
                Operator::MaxPer(max) => n < *max,
                Operator::Is(want) => v == want,
                Operator::Cluster => shared(counts).is_none_or(|shared| shared == v),
                // As Marathon: into a new group, or into the smallest one when there are enough groups.
                Operator::GroupBy(least) => {
                    n == 0
                        || (counts.len() >= *least as usize
                            && counts.values().min().is_some_and(|min| n == *min))
                }
                Operator::Like(p) => p.matches(v),
                Operator::Unlike(p) => !p.matches(v),
            }
        };
        let all = self.constraints.iter().zip(&self.counts);
        all.into_iter().position(|pair| !allows(pair))
    }

    /// How many instances are in the groups that a place belongs to, one number a `GROUP_BY`: who has the smaller
    /// ones is preferred.
    pub fn groups(&self, place: &Place) -> Vec<u32> {
        let all = self.constraints.iter().zip(&self.counts);
        let grouped = all.filter(|(c, _)| matches!(c.operator, Operator::GroupBy(_)));
        grouped
            .map(|(c, counts)| {
                let n = value(&c.field, place).and_then(|v| counts.get(v));
                n.copied().unwrap_or(0)
            })
            .collect()
    }
}

/// The value that most instances have, for `CLUSTER` where it is not the first one's only because the constraint is
/// younger than they are.
fn shared(counts: &BTreeMap<String, u32>) -> Option<&str> {
    let most = counts
        .iter()
        .max_by_key(|(v, n)| (**n, std::cmp::Reverse(*v)));
    most.map(|(v, _)| v.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&str]) -> Result<Constraint, FieldError> {
        let owned = parts.iter().map(|s| (*s).to_owned()).collect();
        validate_constraints(&[owned]).map(|mut c| c.remove(0))
    }

    #[test]
    fn operators_parse_and_mistakes_are_named() {
        for (parts, shown) in [
            (&["hostname", "UNIQUE"][..], "UNIQUE hostname"),
            (&["rack", "MAX_PER", "2"], "MAX_PER 2 rack"),
            (&["rack", "CLUSTER", "a"], "rack IS a"),
            (&["rack", "CLUSTER"], "CLUSTER rack"),
            (&["@zone", "GROUP_BY"], "GROUP_BY zone"),
            (&["@zone", "GROUP_BY", "3"], "GROUP_BY 3 zone"),
            (&["rack", "LIKE", "a|b"], "rack LIKE a|b"),
            (&["rack", "UNLIKE", "a.*"], "rack UNLIKE a.*"),
        ] {
            assert_eq!(check(parts).unwrap().to_string(), shown);
        }
        let long = "a".repeat(MAX_PATTERN + 1);
        for (bad, field) in [
            (&["rack", "LIKE", "(a"][..], "constraints[0][2]"),
            (&["rack", "LIKE", "(a{9999}){9999}"], "constraints[0][2]"),
            (&["rack", "UNLIKE", &long], "constraints[0][2]"),
            (&["rack", "LIKE"], "constraints[0]"),
            (&["rack", "GROUP_BY", "x"], "constraints[0][2]"),
            (&["rack", "MAX_PER", "0"], "constraints[0][2]"),
            (&["rack", "MAX_PER"], "constraints[0]"),
            (&["rack", "IS"], "constraints[0]"),
            (&["rack", "NEAR"], "constraints[0][1]"),
            (&["", "UNIQUE"], "constraints[0][0]"),
            (&["@rack", "UNIQUE"], "constraints[0][0]"),
            (&["rack"], "constraints[0]"),
        ] {
            assert_eq!(check(bad).unwrap_err().field, field, "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_matches_all_of_a_value() {
        let p = Pattern::new("a|b").unwrap();
        assert!(p.matches("a") && p.matches("b") && !p.matches("ab") && !p.matches("xa"));
    }
}
