//! Resources as people write them: Mesos's text (`cpus:4;mem(eng):8192;ports:[31000-32000];zones:{a, b}`), and
//! quantities by kind (`cpus=4,mem=8192`).

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    Interval, Milli, PortRange, PortSet, RangeSet, Resources, ScalarKind, check_kind, check_role,
};

use crate::error::{CliError, usage};

/// Most items in one text, and most ranges or names in one item.
const MAX_ITEMS: usize = 1000;

/// One item of a text: so much of one kind, unreserved or for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Whose it is statically; `None` for `cpus:4` and `cpus(*):4`.
    pub role: Option<String>,
    /// Name of the kind: `cpus`, `ports`, a custom one.
    pub kind: String,
    /// How much.
    pub amount: Amount,
}

/// How much of a kind, by its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amount {
    /// `4`: a quantity; memory and disk in MiB.
    Scalar(Milli),
    /// `[1-5, 7-9]`: numbers.
    Ranges(RangeSet),
    /// `{a, b}`: names.
    Set(BTreeSet<String>),
}

/// Reads Mesos's text. Each kind is named at most once for each role; built-in kinds have their own type.
/// Errors begin with `field`.
pub fn items(field: &str, text: &str) -> Result<Vec<Item>, CliError> {
    let mut out: Vec<Item> = Vec::new();
    for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
        let item = item(field, part)?;
        if out.len() == MAX_ITEMS {
            return Err(usage(format!("{field}: must be at most {MAX_ITEMS} items")));
        }
        let twice = |i: &Item| i.kind == item.kind && i.role == item.role;
        if out.iter().any(twice) {
            return Err(usage(format!("{field}: {} is named twice", item.kind)));
        }
        out.push(item);
    }
    Ok(out)
}

/// As [`items`], for what names no roles: something at least, in one bundle.
pub fn bundle(field: &str, text: &str) -> Result<Resources, CliError> {
    let mut out = Resources::default();
    for item in items(field, text)? {
        if item.role.is_some() {
            let kind = &item.kind;
            return Err(usage(format!(
                "{field}: must be {kind}:value without a role here"
            )));
        }
        add(&mut out, &item);
    }
    if out.is_empty() {
        return Err(usage(format!(
            "{field}: must name something, such as cpus:2;mem:1024, is {text:?}"
        )));
    }
    Ok(out)
}

/// Sets an item's kind in a bundle.
pub fn add(to: &mut Resources, item: &Item) {
    let kind = item.kind.as_str();
    match &item.amount {
        Amount::Scalar(q) => match built_in(kind) {
            Some(k) => to.scalars[k as usize] = *q,
            None => to.custom.set_scalar(kind, *q),
        },
        Amount::Ranges(r) if kind == "ports" => to.ports = to_ports(r),
        Amount::Ranges(r) => to.custom.set_ranges(kind, r.clone()),
        Amount::Set(s) => to.custom.set_items(kind, s.clone()),
    }
}

/// Reads `cpus=4,mem=8192`: quantities by kind, for quotas. Errors begin with `field`.
pub fn quantities(field: &str, text: &str) -> Result<BTreeMap<String, Milli>, CliError> {
    let mut out = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (kind, value) = part
            .split_once('=')
            .ok_or_else(|| usage(format!("{field}: must be kind=quantity, is {part:?}")))?;
        let (kind, value) = (kind.trim(), value.trim());
        if kind == "ports" {
            return Err(usage(format!(
                "{field}: must name scalars; ports are not one"
            )));
        }
        check_name(field, kind)?;
        let quantity = scalar(field, kind, value)?;
        if out.insert(kind.to_owned(), quantity).is_some() {
            return Err(usage(format!("{field}: {kind} is named twice")));
        }
    }
    Ok(out)
}

fn item(field: &str, part: &str) -> Result<Item, CliError> {
    let (name, value) = part
        .split_once(':')
        .ok_or_else(|| usage(format!("{field}: must be name:value, is {part:?}")))?;
    let (kind, role) = name_and_role(field, name.trim())?;
    let value = value.trim();
    let amount = if value.starts_with('[') || kind == "ports" {
        Amount::Ranges(ranges(field, kind, value)?)
    } else if value.starts_with('{') {
        Amount::Set(set(field, kind, value)?)
    } else {
        Amount::Scalar(scalar(field, kind, value)?)
    };
    if built_in(kind).is_some() && !matches!(amount, Amount::Scalar(_)) {
        return Err(usage(format!(
            "{field}: {kind} must be a number of 0 or more, is {value:?}"
        )));
    }
    Ok(Item {
        role,
        kind: kind.to_owned(),
        amount,
    })
}

/// `cpus` or `cpus(role)`.
fn name_and_role<'a>(field: &str, name: &'a str) -> Result<(&'a str, Option<String>), CliError> {
    let Some((kind, rest)) = name.split_once('(') else {
        check_name(field, name)?;
        return Ok((name, None));
    };
    let kind = kind.trim();
    check_name(field, kind)?;
    let role = rest
        .strip_suffix(')')
        .ok_or_else(|| usage(format!("{field}: must be {kind}(role):value, is {name:?}")))?
        .trim();
    check_role(role).map_err(|e| usage(format!("{field}: {e}")))?;
    Ok((kind, (role != "*").then(|| role.to_owned())))
}

fn check_name(field: &str, kind: &str) -> Result<(), CliError> {
    if kind == "ports" || built_in(kind).is_some() {
        return Ok(());
    }
    check_kind(kind).map_err(|e| usage(format!("{field}: {e}")))
}

fn built_in(kind: &str) -> Option<ScalarKind> {
    ScalarKind::ALL.into_iter().find(|k| k.name() == kind)
}

fn scalar(field: &str, kind: &str, text: &str) -> Result<Milli, CliError> {
    let quantity = text.parse().ok().and_then(Milli::from_f64);
    quantity.ok_or_else(|| {
        let of = match kind {
            "mem" | "disk" => " of MiB",
            _ => "",
        };
        usage(format!(
            "{field}: {kind} must be a number{of} of 0 or more, is {text:?}"
        ))
    })
}

fn ranges(field: &str, kind: &str, text: &str) -> Result<RangeSet, CliError> {
    let bad = || {
        usage(format!(
            "{field}: {kind} must be of the form [31000-32000, 33000-33100], is {text:?}"
        ))
    };
    let inner = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .ok_or_else(bad)?;
    let port = kind == "ports";
    let range = |r: &str| {
        let (begin, end) = r.split_once('-').unwrap_or((r, r));
        let (begin, end) = (begin.trim().parse().ok()?, end.trim().parse().ok()?);
        let fits = !port || (begin > 0 && u16::try_from(end).is_ok());
        (begin <= end && fits).then_some(Interval { begin, end })
    };
    let parts = inner.split(',').map(str::trim).filter(|r| !r.is_empty());
    let found: Option<Vec<Interval<u64>>> = parts.take(MAX_ITEMS).map(range).collect();
    Ok(RangeSet::from_ranges(found.ok_or_else(bad)?))
}

fn to_ports(ranges: &RangeSet) -> PortSet {
    let range = |r: &Interval<u64>| {
        let (begin, end) = (r.begin.try_into().ok()?, r.end.try_into().ok()?);
        Some(PortRange { begin, end })
    };
    PortSet::from_ranges(ranges.ranges().iter().filter_map(range))
}

fn set(field: &str, kind: &str, text: &str) -> Result<BTreeSet<String>, CliError> {
    let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
    let names = inner.map(|t| t.split(',').map(str::trim).filter(|n| !n.is_empty()));
    let names: Option<BTreeSet<String>> =
        names.map(|n| n.take(MAX_ITEMS).map(str::to_owned).collect());
    names.ok_or_else(|| {
        usage(format!(
            "{field}: {kind} must be of the form {{a, b}}, is {text:?}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn texts_are_read_as_mesos_writes_them() {
        let r = bundle(
            "resources",
            "cpus:0.5; mem:1024;ports:[31000-31001, 31003-31003]; licenses:2;zones:{a,b}; vlans:[1-4]",
        )
        .unwrap();
        assert_eq!(
            r.to_string(),
            "cpus:0.5; mem:1024; ports:[31000-31001, 31003-31003]; licenses:2; vlans:[1-4]; zones:{a, b}"
        );
        assert_eq!(bundle("x", &r.to_string()).unwrap(), r, "as it is printed");
        let of = items("resources", "cpus(*):1;cpus(eng/web):2;cpus:0").map(|_| ());
        assert!(of.is_err(), "cpus(*) is cpus");
        let of = items("resources", "cpus:1;cpus(eng/web):2").unwrap();
        assert_eq!(of[1].role.as_deref(), Some("eng/web"));
        assert_eq!(items("resources", "").unwrap(), []);
    }

    #[rstest]
    #[case("cpus")]
    #[case("cpus:-1")]
    #[case("cpus:nan")]
    #[case("cpus:[1-2]")]
    #[case("mem:{a}")]
    #[case("ports:7")]
    #[case("ports:[9-1]")]
    #[case("ports:[0-1]")]
    #[case("ports:[1-70000]")]
    #[case("a b:1")]
    #[case("x:[1-")]
    #[case("x:{a")]
    #[case("cpus(eng:1")]
    #[case("cpus(-x):1")]
    #[case("cpus:1;cpus:2")]
    fn bad_texts_name_the_field(#[case] text: &str) {
        let err = items("resources", text).unwrap_err();
        assert_eq!(err.exit_code(), 2);
        assert!(err.to_string().starts_with("resources: "), "{err}");
    }

    #[test]
    fn a_bundle_is_something_without_roles() {
        for text in ["", "cpus:0", "cpus(eng):1"] {
            assert_eq!(
                bundle("resources", text).unwrap_err().exit_code(),
                2,
                "{text}"
            );
        }
    }

    #[test]
    fn quantities_are_by_kind() {
        let q = quantities("guarantee", "cpus=4, mem=8192,licenses=0.5").unwrap();
        assert_eq!(q["mem"], Milli::units(8192));
        assert_eq!(q["licenses"], Milli(500));
        for bad in [
            "cpus",
            "cpus=x",
            "cpus=1,cpus=2",
            "ports=1",
            "a b=1",
            "cpus=-1",
        ] {
            let err = quantities("guarantee", bad).unwrap_err();
            assert!(err.to_string().starts_with("guarantee: "), "{err}");
        }
    }
}
