//! What a node says that it has, and where it stands.

use std::collections::{BTreeMap, BTreeSet};

use waggle_api::{convert::MAX_STATIC, proto::session as pb};
use waggle_types::{Domain, Resources, ScalarKind};

use crate::{
    error::{CliError, usage},
    resources::{Amount, Item, add, items},
};

/// Resources given by the operator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceOverrides {
    /// Kinds that are given, for a role or not: they are not detected.
    pub named: BTreeSet<String>,
    /// What is for everybody.
    pub unreserved: Resources,
    /// On top of it, what is for a role each.
    pub reserved: Vec<(String, Resources)>,
}

/// Mesos's `--resources` text: `cpus:4;cpus(prod):2;mem:8192;ports:[31000-32000];licenses:3`.
pub fn resources(text: &str) -> Result<ResourceOverrides, CliError> {
    const FIELD: &str = "resources";
    let mut out = ResourceOverrides::default();
    let mut all = Resources::default();
    let mut sorts: BTreeMap<String, Sort> = BTreeMap::new();
    for item in items(FIELD, text)? {
        let mut one = Resources::default();
        add(&mut one, &item);
        if item.kind == "gpus" && one.get(ScalarKind::Gpus).0 % 1000 != 0 {
            return Err(usage(format!("{FIELD}: gpus must be whole")));
        }
        let sort = Sort::of(&item.amount);
        if *sorts.entry(item.kind.clone()).or_insert(sort) != sort {
            let kind = &item.kind;
            return Err(usage(format!(
                "{FIELD}: {kind} must be of one sort: numbers, ranges or a set"
            )));
        }
        if all.try_add(&one).is_none() {
            let kind = &item.kind;
            return Err(usage(format!(
                "{FIELD}: {kind} must add up over roles, without anything in two of them"
            )));
        }
        match item.role {
            Some(role) => match out.reserved.iter_mut().find(|(r, _)| *r == role) {
                Some((_, r)) => add(r, &Item { role: None, ..item }),
                None => out.reserved.push((role, one)),
            },
            None => add(&mut out.unreserved, &item),
        }
    }
    let n = out.reserved.len();
    if n > MAX_STATIC {
        let rule = format!("must be for at most {MAX_STATIC} roles, is for {n}");
        return Err(usage(format!("{FIELD}: {rule}")));
    }
    // As the master will read it.
    Resources::try_from(pb::Resources::from(&all)).map_err(|e| usage(format!("{FIELD}: {e}")))?;
    out.reserved.retain(|(_, r)| !r.is_empty());
    out.named = sorts.into_keys().collect();
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Scalar,
    Ranges,
    Set,
}

impl Sort {
    fn of(amount: &Amount) -> Self {
        match amount {
            Amount::Scalar(_) => Self::Scalar,
            Amount::Ranges(_) => Self::Ranges,
            Amount::Set(_) => Self::Set,
        }
    }
}

/// `REGION/ZONE`.
pub fn domain(text: &str) -> Result<Domain, CliError> {
    let good = |s: &str| {
        let of = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        !s.is_empty() && s.len() <= 200 && s.chars().all(of)
    };
    match text.split_once('/') {
        Some((region, zone)) if good(region) && good(zone) => Ok(Domain {
            region: region.to_owned(),
            zone: zone.to_owned(),
        }),
        _ => Err(usage(format!(
            "domain: must be REGION/ZONE, names of at most 200 bytes without spaces, is {text:.80?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::Milli;

    use super::*;

    #[test]
    fn resources_are_read_as_mesos_writes_them() {
        let r = resources("cpus:0.5; mem:1024;ports:[31000-31001, 31003-31003]").unwrap();
        assert_eq!(r.unreserved.get(ScalarKind::Cpus), Milli(500));
        assert_eq!(r.unreserved.ports.len(), 3);
        assert_eq!(r.named.len(), 3);
        assert_eq!(r.reserved, []);
    }

    #[test]
    fn roles_have_their_own_on_top() {
        let text = "cpus:4;cpus(prod):2;mem(prod/web):64;ports(prod):[5-6];ports:[7-8];\
                    licenses(*):3;licenses(prod):1;zones:{a,b};zones(prod):{c}";
        let r = resources(text).unwrap();
        let shown = |r: &Resources| r.to_string();
        assert_eq!(
            shown(&r.unreserved),
            "cpus:4; ports:[7-8]; licenses:3; zones:{a, b}"
        );
        let reserved: Vec<_> = r.reserved.iter().map(|(n, r)| (&**n, shown(r))).collect();
        let prod = "cpus:2; ports:[5-6]; licenses:1; zones:{c}".to_owned();
        assert_eq!(
            reserved,
            [("prod", prod), ("prod/web", "mem:64".to_owned())]
        );
        assert!(r.named.contains("mem"), "and it is not detected");
    }
}
