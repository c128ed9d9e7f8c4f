//! Placement constraints: Marathon's `[field, operator, value]`, the part that needs no regular expressions.

use std::collections::BTreeMap;

use waggle_types::FieldError;

use crate::Place;

/// What a constraint demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// No two instances share the value.
    Unique,
    /// At most this many instances share the value.
    MaxPer(u32),
    /// The value is this one.
    Is(String),
}

/// One constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// `hostname` (or `@hostname`) or an attribute's name.
    pub field: String,
    /// What it demands.
    pub operator: Operator,
}

/// Parses an app's constraints; an operator that is not supported is named in the error.
///
/// `CLUSTER` with a value is `IS`. `GROUP_BY`, `LIKE`, `UNLIKE` and `CLUSTER` without a value are refused.
pub fn validate_constraints(constraints: &[Vec<String>]) -> Result<Vec<Constraint>, FieldError> {
    constraints
        .iter()
        .enumerate()
        .map(|(i, parts)| parse(&format!("constraints[{i}]"), parts))
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
    if field.is_empty() {
        return Err(FieldError::new(format!("{at}[0]"), "must not be empty"));
    }
    let operator = match (operator.as_str(), value) {
        ("UNIQUE", None) => Operator::Unique,
        ("UNIQUE", Some(_)) => {
            return Err(FieldError::new(format!("{at}[2]"), "UNIQUE takes no value"));
        }
        ("MAX_PER", Some(v)) => match v.parse::<u32>() {
            Ok(n) if n > 0 => Operator::MaxPer(n),
            _ => {
                let rule = format!("MAX_PER needs a number over 0, is {v:?}");
                return Err(FieldError::new(format!("{at}[2]"), rule));
            }
        },
        ("IS" | "CLUSTER", Some(v)) if !v.is_empty() => Operator::Is(v.clone()),
        ("MAX_PER" | "IS" | "CLUSTER", _) => {
            let rule = format!("{operator} needs a value");
            return Err(FieldError::new(at, rule));
        }
        _ => {
            let rule =
                format!("must be UNIQUE, MAX_PER, IS or CLUSTER with a value, is {operator:?}");
            return Err(FieldError::new(format!("{at}[1]"), rule));
        }
    };
    Ok(Constraint {
        field: field.clone(),
        operator,
    })
}

fn value<'a>(field: &str, place: &'a Place) -> Option<&'a str> {
    match field {
        "hostname" | "@hostname" => Some(&place.hostname),
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

    /// Whether one more instance may go there. A place without the attribute satisfies nothing.
    pub fn allow(&self, place: &Place) -> bool {
        self.constraints
            .iter()
            .zip(&self.counts)
            .all(|(c, counts)| {
                let Some(v) = value(&c.field, place) else {
                    return false;
                };
                let n = counts.get(v).copied().unwrap_or(0);
                match &c.operator {
                    Operator::Unique => n == 0,
                    Operator::MaxPer(max) => n < *max,
                    Operator::Is(want) => v == want,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&str]) -> Result<Constraint, FieldError> {
        let owned = parts.iter().map(|s| (*s).to_owned()).collect();
        validate_constraints(&[owned]).map(|mut c| c.remove(0))
    }

    #[test]
    fn supported_operators_parse_and_others_are_named() {
        assert_eq!(
            check(&["hostname", "UNIQUE"]).unwrap().operator,
            Operator::Unique
        );
        assert_eq!(
            check(&["rack", "MAX_PER", "2"]).unwrap().operator,
            Operator::MaxPer(2)
        );
        assert_eq!(
            check(&["rack", "CLUSTER", "a"]).unwrap().operator,
            Operator::Is("a".into())
        );
        for (bad, field) in [
            (&["rack", "LIKE", "a.*"][..], "constraints[0][1]"),
            (&["rack", "GROUP_BY"], "constraints[0][1]"),
            (&["rack", "MAX_PER", "0"], "constraints[0][2]"),
            (&["rack", "MAX_PER"], "constraints[0]"),
            (&["rack", "CLUSTER"], "constraints[0]"),
            (&["", "UNIQUE"], "constraints[0][0]"),
            (&["rack"], "constraints[0]"),
        ] {
            assert_eq!(check(bad).unwrap_err().field, field, "{bad:?}");
        }
    }
}
