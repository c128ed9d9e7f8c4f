//! What a definition asks for beside its process: dependencies, roles, residency, and which instances end first.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    FieldError, KillSelection, Millis, Placement, Residency, ServiceId, ServiceRoles, TaskLost,
    UnreachableStrategy, UpgradeStrategy, check_role,
};

use super::group::resolve;
use crate::read::{Errors, Obj};

/// Most dependencies of one service.
const MAX_DEPENDENCIES: usize = 256;
/// Longest wait before a resident instance begins anew: a year.
const MAX_RELAUNCH: u32 = 366 * 86_400;

/// `dependencies`: services or groups by id; what does not begin with `/` is relative to the app, as in Marathon, so that
/// `../db` is its neighbour.
pub(super) fn dependencies(
    obj: &Obj<'_>,
    own: Option<&ServiceId>,
    errs: &mut Errors,
) -> BTreeSet<ServiceId> {
    let given = obj.strings("dependencies", errs).unwrap_or_default();
    if given.len() > MAX_DEPENDENCIES {
        let rule = format!("must be at most {MAX_DEPENDENCIES}, is {}", given.len());
        errs.add("dependencies", rule);
        return BTreeSet::new();
    }
    let mut out = BTreeSet::new();
    for (i, text) in given.iter().enumerate() {
        let at = format!("dependencies[{i}]");
        match absolute(text, own) {
            Ok(id) if own.is_some_and(|own| is_within(own, &id)) => {
                errs.add(
                    at,
                    format!("must not be the app itself or a group that it is in, is {text:?}"),
                );
            }
            Ok(id) => {
                out.insert(id);
            }
            Err(rule) => errs.add(at, rule),
        }
    }
    out
}

/// A path that may be relative to a service.
fn absolute(text: &str, own: Option<&ServiceId>) -> Result<ServiceId, String> {
    let path = resolve(text, own.map_or("", ServiceId::as_str))?;
    ServiceId::new(&path).map_err(|e| e.to_string())
}

/// Whether `id` is the group or in it.
fn is_within(id: &ServiceId, group: &ServiceId) -> bool {
    let rest = id.as_str().strip_prefix(group.as_str());
    rest.is_some_and(|r| r.is_empty() || r.starts_with('/'))
}

/// `killSelection`.
pub(super) fn kill_selection(obj: &Obj<'_>, errs: &mut Errors) -> KillSelection {
    match obj.string("killSelection", errs).as_deref() {
        None | Some("YOUNGEST_FIRST") => KillSelection::YoungestFirst,
        Some("OLDEST_FIRST") => KillSelection::OldestFirst,
        Some(k) => {
            let rule = format!("must be YOUNGEST_FIRST or OLDEST_FIRST, is {k:?}");
            errs.add("killSelection", rule);
            KillSelection::default()
        }
    }
}

/// `role` and `acceptedResourceRoles`: `*`, and the role of the service, which is the one accepted where it names none.
pub(super) fn roles(obj: &Obj<'_>, errs: &mut Errors) -> ServiceRoles {
    let role = obj.string("role", errs).filter(|r| !r.is_empty());
    if let Some(Err(e)) = role.as_deref().map(check_role) {
        errs.add("role", e.rule);
    }
    let given = obj
        .strings("acceptedResourceRoles", errs)
        .unwrap_or_default();
    let mut own = role.clone().filter(|r| r != "*");
    let mut accepted = BTreeSet::new();
    for (i, r) in given.into_iter().enumerate() {
        let at = format!("acceptedResourceRoles[{i}]");
        if let Err(e) = check_role(&r) {
            errs.add(at, e.rule);
            continue;
        }
        if r != "*" {
            let own = own.get_or_insert_with(|| r.clone());
            if *own != r {
                errs.add(at, format!("must be * or the app's role ({own}), is {r:?}"));
                continue;
            }
        }
        accepted.insert(r);
    }
    ServiceRoles { role, accepted }
}

/// `residency`; who has persistent volumes is resident, and only they are.
pub(super) fn residency(obj: &Obj<'_>, volumes: bool, errs: &mut Errors) -> Option<Residency> {
    let Some(r) = obj.object("residency", errs) else {
        return volumes.then(Residency::default);
    };
    r.only(
        &["relaunchEscalationTimeoutSeconds", "taskLostBehavior"],
        errs,
    );
    if !volumes {
        errs.add("residency", "needs persistent volumes in container.volumes");
    }
    let key = "relaunchEscalationTimeoutSeconds";
    let seconds = r.integer(key, 1, MAX_RELAUNCH, errs);
    let task_lost = match r.string("taskLostBehavior", errs).as_deref() {
        None | Some("WAIT_FOREVER") => TaskLost::WaitForever,
        Some("RELAUNCH_AFTER_TIMEOUT") => TaskLost::RelaunchAfterTimeout,
        Some(b) => {
            let rule = format!("must be WAIT_FOREVER or RELAUNCH_AFTER_TIMEOUT, is {b:?}");
            errs.add(r.path("taskLostBehavior"), rule);
            TaskLost::default()
        }
    };
    let default = Residency::default();
    volumes.then(|| Residency {
        relaunch_after: seconds.map_or(default.relaunch_after, |s| Millis::from_secs(s.into())),
        task_lost,
    })
}

/// What Marathon has as defaults, and rules, for resident apps: an instance's place is taken once, so that nothing runs on
/// top, and it is waited for.
pub(super) fn resident_rules(
    obj: &Obj<'_>,
    upgrade: &mut UpgradeStrategy,
    unreachable: &mut UnreachableStrategy,
    errs: &mut Errors,
) {
    // Wrong types were named where these were read.
    let ignored = &mut Errors::default();
    let given = obj.object("upgradeStrategy", ignored);
    let says = |key: &str| given.as_ref().is_some_and(|u| u.get(key).is_some());
    if !says("minimumHealthCapacity") {
        upgrade.minimum_health_capacity_milli = 500;
    }
    if !says("maximumOverCapacity") {
        upgrade.maximum_over_capacity_milli = 0;
    } else if upgrade.maximum_over_capacity_milli > 0 {
        let rule = "must be 0 where there are persistent volumes";
        errs.add("upgradeStrategy.maximumOverCapacity", rule);
    }
    if obj.get("unreachableStrategy").is_none() {
        *unreachable = UnreachableStrategy::Disabled;
    } else if *unreachable != UnreachableStrategy::Disabled {
        let rule =
            "must be \"disabled\" where there are persistent volumes: instances wait for theirs";
        errs.add("unreachableStrategy", rule);
    }
}

/// The `WAGGLE_PLACE` labels.
pub(super) fn placement(
    labels: &BTreeMap<String, String>,
    own: Option<&ServiceId>,
    errs: &mut Errors,
) -> Placement {
    let placement = Placement::from_labels("labels", labels).unwrap_or_else(|wrong| {
        for e in wrong {
            errs.push(e);
        }
        Placement::default()
    });
    for (key, ids) in [
        ("WAGGLE_PLACE_WITH", &placement.with),
        ("WAGGLE_PLACE_APART", &placement.apart),
    ] {
        if own.is_some_and(|own| ids.contains(own)) {
            let rule = "must not name the app itself, constraints say where its own instances go";
            errs.push(FieldError::new(format!("labels.{key}"), rule));
        }
    }
    placement
}
