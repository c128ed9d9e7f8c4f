//! How a VIP chooses among its backends: the `LB_` labels of a port, beside its `VIP_` labels.

use std::{collections::BTreeMap, fmt};

use crate::FieldError;

/// Largest `LB_WEIGHT`.
pub const MAX_WEIGHT: u16 = 1_000;
/// Longest `LB_AFFINITY` and `LB_SLOW_START`, seconds: a week.
pub const MAX_BALANCE_S: u32 = 7 * 24 * 3600;

/// What a port's labels ask of the load balancer.
///
/// Weight and slow start are the backend's own. Policy, affinity and locality are the VIP's: where several services
/// back one VIP and disagree, the backend whose task id comes first decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Balance {
    /// `LB_WEIGHT`, 0 to [`MAX_WEIGHT`]: share of new connections in proportion to the others'; 0 gets none, and
    /// keeps those it has.
    pub weight: u16,
    /// `LB_POLICY`.
    pub policy: Policy,
    /// `LB_AFFINITY`: seconds for which a client keeps its backend after its last connect; 0 for none.
    pub affinity_s: u32,
    /// `LB_LOCALITY`.
    pub locality: Locality,
    /// `LB_SLOW_START`: seconds over which a new backend's weight grows to its own; 0 for at once.
    pub slow_start_s: u32,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            weight: 1,
            policy: Policy::default(),
            affinity_s: 0,
            locality: Locality::default(),
            slow_start_s: 0,
        }
    }
}

/// How one of the backends is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Policy {
    /// `random`: by weight.
    #[default]
    Random,
    /// `least-connections`: of two that are chosen by weight the one with fewer connections of the client's node.
    LeastConnections,
}

/// Which backends are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Locality {
    /// `any`: none.
    #[default]
    Any,
    /// `zone`: those in the client's zone, where there are some.
    Zone,
    /// `node`: those on the client's node, else those in its zone, where there are some.
    Node,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::LeastConnections => "least-connections",
        })
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Zone => "zone",
            Self::Node => "node",
        })
    }
}

impl Balance {
    /// Reads the labels of a port; others are nobody's business here. Errors name `<field>.<label>` and the rule.
    pub fn from_labels(
        field: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<FieldError>> {
        let mut balance = Self::default();
        let mut errors = Vec::new();
        for (label, value) in labels {
            let field = format!("{field}.{label}");
            let read = match label.as_str() {
                "LB_WEIGHT" => number(value, u32::from(MAX_WEIGHT)).map(|n| {
                    balance.weight = u16::try_from(n).unwrap_or(MAX_WEIGHT);
                }),
                "LB_POLICY" => policy(value).map(|p| balance.policy = p),
                "LB_AFFINITY" => seconds(value).map(|s| balance.affinity_s = s),
                "LB_LOCALITY" => locality(value).map(|l| balance.locality = l),
                "LB_SLOW_START" => seconds(value).map(|s| balance.slow_start_s = s),
                _ => Ok(()),
            };
            if let Err(rule) = read {
                errors.push(FieldError::new(field, format!("{rule}, is {value:?}")));
            }
        }
        if errors.is_empty() {
            Ok(balance)
        } else {
            Err(errors)
        }
    }
}

fn policy(value: &str) -> Result<Policy, String> {
    let all = [Policy::Random, Policy::LeastConnections];
    let found = all.into_iter().find(|p| p.to_string() == value);
    found.ok_or_else(|| "must be random or least-connections".to_owned())
}

fn locality(value: &str) -> Result<Locality, String> {
    let all = [Locality::Any, Locality::Zone, Locality::Node];
    let found = all.into_iter().find(|l| l.to_string() == value);
    found.ok_or_else(|| "must be any, zone or node".to_owned())
}

fn number(value: &str, max: u32) -> Result<u32, String> {
    match value.parse::<u32>() {
        Ok(n) if n <= max => Ok(n),
        _ => Err(format!("must be a whole number from 0 to {max}")),
    }
}

/// `90`, `90s`, `15m` or `3h`.
fn seconds(value: &str) -> Result<u32, String> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b's') => (&value[..value.len() - 1], 1),
        Some(b'm') => (&value[..value.len() - 1], 60),
        Some(b'h') => (&value[..value.len() - 1], 3600),
        _ => (value, 1),
    };
    let all = digits.parse::<u32>().ok().and_then(|n| n.checked_mul(unit));
    match all {
        Some(n) if n <= MAX_BALANCE_S => Ok(n),
        _ => Err(format!(
            "must be a time of at most {} h, as 90s, 15m or 3h",
            MAX_BALANCE_S / 3600
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn labels_are_read_and_foreign_ones_left_alone() {
        let given = labels(&[
            ("VIP_0", "/web:80"),
            ("LB_WEIGHT", "5"),
            ("LB_POLICY", "least-connections"),
            ("LB_AFFINITY", "3h"),
            ("LB_LOCALITY", "node"),
            ("LB_SLOW_START", "30s"),
            ("LB_OTHER", "whatever"),
        ]);
        let want = Balance {
            weight: 5,
            policy: Policy::LeastConnections,
            affinity_s: 10_800,
            locality: Locality::Node,
            slow_start_s: 30,
        };
        assert_eq!(Balance::from_labels("l", &given), Ok(want));
        assert_eq!(
            Balance::from_labels("l", &labels(&[])),
            Ok(Balance::default())
        );
    }

    #[test]
    fn bad_values_name_the_label_and_the_rule() {
        for (label, value) in [
            ("LB_WEIGHT", "1001"),
            ("LB_WEIGHT", "-1"),
            ("LB_WEIGHT", "1.5"),
            ("LB_POLICY", "wlc"),
            ("LB_AFFINITY", "forever"),
            ("LB_AFFINITY", "169h"),
            ("LB_AFFINITY", "9999999999h"),
            ("LB_AFFINITY", "h"),
            ("LB_AFFINITY", "10é"),
            ("LB_LOCALITY", "rack"),
            ("LB_SLOW_START", ""),
        ] {
            let errors = Balance::from_labels("labels", &labels(&[(label, value)])).unwrap_err();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].field, format!("labels.{label}"));
            assert!(errors[0].to_string().contains(&format!("{value:?}")));
        }
    }
}
