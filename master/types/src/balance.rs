//! How a VIP chooses among its backends: the `LB_` labels of a port, beside its `VIP_` labels.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use crate::FieldError;

/// Largest `LB_WEIGHT`.
pub const MAX_WEIGHT: u16 = 1_000;
/// Longest `LB_AFFINITY` and `LB_SLOW_START`, seconds: a week.
pub const MAX_BALANCE_S: u32 = 7 * 24 * 3600;

/// Most networks in one `LB_SOURCES`.
pub const MAX_SOURCES: usize = 64;

/// A network of clients outside of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// Its address; host bits are 0.
    pub net: Ipv4Addr,
    /// Length of its prefix, 0 to 32.
    pub prefix: u8,
}

impl SourceRange {
    /// `None` when the prefix is longer than an address, or host bits are set.
    pub fn new(net: Ipv4Addr, prefix: u8) -> Option<Self> {
        let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        (prefix <= 32 && u32::from(net) & hosts == 0).then_some(Self { net, prefix })
    }

    /// Reads a port's `LB_SOURCES` label, `10.0.0.0/8,192.0.2.7`: who may use its VIPs from outside, by an edge. Without
    /// the label: everybody. Sorted, each once.
    pub fn from_labels(
        field: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<Self>, FieldError> {
        let Some(value) = labels.get("LB_SOURCES") else {
            return Ok(Vec::new());
        };
        let wrong = |rule: String| FieldError::new(format!("{field}.LB_SOURCES"), rule);
        let mut out = Vec::new();
        for text in value.split(',').map(str::trim) {
            let range = text.parse().map_err(|()| {
                wrong(format!(
                    "must be IPv4 networks such as 10.0.0.0/8 without host bits, is {text:.40?}"
                ))
            })?;
            out.push(range);
        }
        out.sort_unstable();
        out.dedup();
        if out.len() > MAX_SOURCES {
            let rule = format!("must be at most {MAX_SOURCES} networks, is {}", out.len());
            return Err(wrong(rule));
        }
        Ok(out)
    }
}

impl std::str::FromStr for SourceRange {
    type Err = ();

    /// `10.0.0.0/8`, or an address alone.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (net, prefix) = match text.split_once('/') {
            Some((net, prefix)) => (net, prefix.parse().map_err(|_| ())?),
            None => (text, 32),
        };
        Self::new(net.parse().map_err(|_| ())?, prefix).ok_or(())
    }
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.net, self.prefix)
    }
}

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
    /// `LB_IPV6`: it listens on the node's IPv6 address too, so that its named VIPs have one.
    pub ipv6: bool,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            weight: 1,
            policy: Policy::default(),
            affinity_s: 0,
            locality: Locality::default(),
            slow_start_s: 0,
            ipv6: false,
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
                "LB_IPV6" => flag(value).map(|yes| balance.ipv6 = yes),
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

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
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
            ("LB_IPV6", "true"),
            ("LB_OTHER", "whatever"),
        ]);
        let want = Balance {
            weight: 5,
            policy: Policy::LeastConnections,
            affinity_s: 10_800,
            locality: Locality::Node,
            slow_start_s: 30,
            ipv6: true,
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
            ("LB_IPV6", "yes"),
        ] {
            let errors = Balance::from_labels("labels", &labels(&[(label, value)])).unwrap_err();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].field, format!("labels.{label}"));
            assert!(errors[0].to_string().contains(&format!("{value:?}")));
        }
    }

    #[test]
    fn sources_are_networks() {
        let read = |text: &str| SourceRange::from_labels("l", &labels(&[("LB_SOURCES", text)]));
        let shown = |text| {
            let all = read(text).unwrap();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            shown("192.0.2.7, 10.0.0.0/8,10.0.0.0/8,0.0.0.0/0"),
            ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32"]
        );
        assert_eq!(SourceRange::from_labels("l", &labels(&[])), Ok(Vec::new()));
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "fd00::/8",
            "10.0.0.0/8;",
            "10/8",
            "0.0.0.1/0",
        ] {
            let e = read(bad).unwrap_err();
            assert_eq!(e.field, "l.LB_SOURCES", "{bad}");
        }
        let many: Vec<String> = (0..=MAX_SOURCES)
            .map(|n| format!("10.0.{n}.0/24"))
            .collect();
        assert!(read(&many.join(",")).is_err());
    }
}
