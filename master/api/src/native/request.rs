//! What operators ask, read strictly.
//!
//! Agents are named by id or by node name, as texts here: the master knows them.

use serde_json::{Map, Value};
use waggle_types::{
    FieldError, Milli, Millis, Network, Quota, Reservation, Resources, Unavailability, UnixMillis,
    Volume, VolumeId,
};

use super::{
    networks::read_network,
    reservations::read_stack,
    resources::{resources, volume, volume_id},
    roles::read_quota,
};
use crate::read::{Errors, Obj, kind};

/// Largest weight.
pub const MAX_WEIGHT: f64 = 1_000_000.0;
/// Longest grace or maintenance: a year.
const MAX_DURATION: Millis = Millis::from_secs(365 * 86_400);
/// Latest start: the end of year 9999.
const MAX_START: f64 = 253_402_300_799_999.0;
/// Most agents of one maintenance window.
const MAX_AGENTS: usize = 3000;

pub use super::policies::policy;

/// Fields that break rules; at least one.
pub type Invalid = Vec<FieldError>;

/// What becomes reserved, or is not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationBody {
    /// Where: an id or a node name.
    pub agent: String,
    /// The whole stack.
    pub stack: Vec<Reservation>,
    /// How much.
    pub resources: Resources,
}

/// A volume that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateVolumeBody {
    /// Where: an id or a node name.
    pub agent: String,
    /// Of which reservation.
    pub stack: Vec<Reservation>,
    /// Unique on the agent.
    pub volume_id: VolumeId,
    /// How large, and whether it is shared.
    pub volume: Volume,
}

/// A volume that is to get another size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResizeVolumeBody {
    /// Where: an id or a node name.
    pub agent: String,
    /// Of which reservation.
    pub stack: Vec<Reservation>,
    /// Which.
    pub volume_id: VolumeId,
    /// How large it is then, in MiB.
    pub size: Milli,
}

/// A volume that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestroyVolumeBody {
    /// Where: an id or a node name.
    pub agent: String,
    /// Of which reservation.
    pub stack: Vec<Reservation>,
    /// Which.
    pub volume_id: VolumeId,
}

/// Agents that will be down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceBody {
    /// Ids or node names.
    pub agents: Vec<String>,
    /// When.
    pub window: Unavailability,
}

/// How an agent is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainBody {
    /// Longest time that tasks get to end, where it is shorter than their own.
    pub max_grace: Option<Millis>,
    /// It is removed for good once it is empty.
    pub mark_gone: bool,
}

/// `{"weight": 2.5}`, in thousandths.
pub fn weight(body: &Value) -> Result<u32, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["weight"], errs);
        obj.required("weight", errs)?;
        let n = obj.number("weight", MAX_WEIGHT, errs)?;
        let milli = (n * 1000.0).round();
        if milli < 1.0 || (milli / 1000.0 - n).abs() > 1e-9 {
            let rule = "must be between 0.001 and 1000000 in steps of 0.001";
            errs.add("weight", format!("{rule}, is {n}"));
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 10^9 by the check in number()"
        )]
        Some(milli as u32)
    })
}

/// `{"name": "db", "subnet": "10.9.0.0/16", "prefix": 24, "subnet6": .., "prefix6": .., "mtu": 1400, "masquerade": true}`.
pub fn network(body: &Value) -> Result<(String, Network), Invalid> {
    read(body, read_network)
}

/// `{"guarantee": {"cpus": 4}, "limit": {"mem": 8192}}`: something at least.
pub fn quota(body: &Value) -> Result<Quota, Invalid> {
    read(body, |obj, errs| {
        let quota = read_quota(obj, errs);
        if errs.is_empty() && quota.is_empty() {
            let rule = "must promise or limit something; DELETE removes a quota";
            errs.add("guarantee", rule);
        }
        Some(quota)
    })
}

/// `{"agent": .., "stack": [..], "resources": {..}}`.
pub fn reservation(body: &Value) -> Result<ReservationBody, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["agent", "stack", "resources"], errs);
        let agent = agent(obj, errs);
        let stack = read_stack(obj, errs);
        obj.required("resources", errs);
        let bundle = obj.object("resources", errs).map(|o| resources(&o, errs));
        if errs.is_empty() && bundle.as_ref().is_some_and(Resources::is_empty) {
            errs.add("resources", "must hold something");
        }
        Some(ReservationBody {
            agent: agent?,
            stack,
            resources: bundle?,
        })
    })
}

/// `{"agent": .., "stack": [..], "volume_id": .., "size": MiB, "shared": false}`.
pub fn create_volume(body: &Value) -> Result<CreateVolumeBody, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["agent", "stack", "volume_id", "size", "shared"], errs);
        let agent = agent(obj, errs);
        let stack = read_stack(obj, errs);
        let (volume_id, volume) = volume(obj, errs)?;
        Some(CreateVolumeBody {
            agent: agent?,
            stack,
            volume_id,
            volume,
        })
    })
}

/// `{"agent": .., "stack": [..], "volume_id": .., "size": MiB}`.
pub fn resize_volume(body: &Value) -> Result<ResizeVolumeBody, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["agent", "stack", "volume_id", "size"], errs);
        let agent = agent(obj, errs);
        let stack = read_stack(obj, errs);
        let (volume_id, volume) = volume(obj, errs)?;
        Some(ResizeVolumeBody {
            agent: agent?,
            stack,
            volume_id,
            size: volume.size,
        })
    })
}

/// `{"agent": .., "stack": [..], "volume_id": ..}`.
pub fn destroy_volume(body: &Value) -> Result<DestroyVolumeBody, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["agent", "stack", "volume_id"], errs);
        let agent = agent(obj, errs);
        let stack = read_stack(obj, errs);
        let volume_id = volume_id(obj, errs);
        Some(DestroyVolumeBody {
            agent: agent?,
            stack,
            volume_id: volume_id?,
        })
    })
}

/// `{"agents": [..], "start_ms": .., "duration_ms": ..}`; without a duration nobody knows how long.
pub fn maintenance(body: &Value) -> Result<MaintenanceBody, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["agents", "start_ms", "duration_ms"], errs);
        let agents = agents(obj, errs);
        obj.required("start_ms", errs);
        let start = whole(obj, "start_ms", MAX_START, errs).map(UnixMillis);
        let duration = duration(obj, "duration_ms", errs);
        if duration == Some(Millis(0)) {
            errs.add("duration_ms", "must be over 0, or null for nobody knows");
        }
        Some(MaintenanceBody {
            agents: agents?,
            window: Unavailability {
                start: start?,
                duration,
            },
        })
    })
}

/// `{"agents": [..]}`.
pub fn cancel_maintenance(body: &Value) -> Result<Vec<String>, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["agents"], errs);
        agents(obj, errs)
    })
}

/// `{"max_grace_ms": .., "mark_gone": false}`, both optional.
pub fn drain(body: &Value) -> Result<DrainBody, Invalid> {
    read(body, |obj, errs| {
        obj.only(&["max_grace_ms", "mark_gone"], errs);
        Some(DrainBody {
            max_grace: duration(obj, "max_grace_ms", errs),
            mark_gone: obj.boolean("mark_gone", errs).unwrap_or(false),
        })
    })
}

/// Nothing, or `{}`.
pub fn nothing(body: &Value) -> Result<(), Invalid> {
    read(body, |obj, errs| {
        obj.only(&[], errs);
        Some(())
    })
}

/// A value, if nothing was wrong on the way.
pub(super) fn read<T>(
    body: &Value,
    with: impl FnOnce(&Obj<'_>, &mut Errors) -> Option<T>,
) -> Result<T, Invalid> {
    let none = Map::new();
    let map = match body {
        Value::Null => &none,
        Value::Object(map) => map,
        other => {
            let rule = format!("must be an object, is {}", kind(other));
            return Err(vec![FieldError::new("body", rule)]);
        }
    };
    let mut errs = Errors::default();
    let value = with(&Obj::root(map), &mut errs);
    match value {
        Some(value) if errs.is_empty() => Ok(value),
        _ if errs.is_empty() => Err(vec![FieldError::new("body", "can't be read")]),
        _ => Err(errs.as_slice().to_vec()),
    }
}

fn agent(obj: &Obj<'_>, errs: &mut Errors) -> Option<String> {
    obj.required("agent", errs)?;
    obj.string("agent", errs)
}

fn agents(obj: &Obj<'_>, errs: &mut Errors) -> Option<Vec<String>> {
    obj.required("agents", errs)?;
    let all = obj.strings("agents", errs)?;
    if all.is_empty() || all.len() > MAX_AGENTS {
        let rule = format!("must be 1 to {MAX_AGENTS} agents, is {}", all.len());
        errs.add("agents", rule);
        return None;
    }
    Some(all)
}

fn duration(obj: &Obj<'_>, key: &str, errs: &mut Errors) -> Option<Millis> {
    #[allow(
        clippy::cast_precision_loss,
        reason = "a year of milliseconds is far below 2^53"
    )]
    let most = MAX_DURATION.0 as f64;
    whole(obj, key, most, errs).map(Millis)
}

/// A whole number of milliseconds.
fn whole(obj: &Obj<'_>, key: &str, most: f64, errs: &mut Errors) -> Option<u64> {
    let n = obj.number(key, most, errs)?;
    if n.fract() != 0.0 {
        errs.add(obj.path(key), format!("must be whole milliseconds, is {n}"));
        return None;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and between 0 and 2^53 by the check in number()"
    )]
    Some(n as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;
    use waggle_types::{Milli, PortSet, RangeSet};

    use super::*;
    use crate::native::{ResourcesView, stack};

    fn first<T: std::fmt::Debug>(r: Result<T, Invalid>) -> String {
        r.unwrap_err()[0].to_string()
    }

    #[test]
    fn weights_are_decimals() {
        assert_eq!(weight(&json!({"weight": 2.5})), Ok(2500));
        assert_eq!(weight(&json!({"weight": 0.001})), Ok(1));
        assert_eq!(weight(&json!({"weight": 1})), Ok(1000));
        for (bad, field) in [
            (json!({}), "weight: is required"),
            (json!({"weight": 0}), "weight: must be between"),
            (json!({"weight": 0.0005}), "weight: must be between"),
            (json!({"weight": 1.0001}), "weight: must be between"),
            (json!({"weight": -1}), "weight: must not be negative"),
            (
                json!({"weight": "2"}),
                "weight: must be a number, is a string",
            ),
            (json!({"weight": 1e7}), "weight: must be at most"),
            (json!({"wieght": 1}), "wieght: is not known"),
            (json!([1]), "body: must be an object, is a list"),
        ] {
            let said = first(weight(&bad));
            assert!(said.starts_with(field), "{bad}: {said}");
        }
    }

    #[rstest]
    #[case(json!({}), "guarantee: must promise")]
    #[case(json!({"guarantee": {"cpus": 0}}), "guarantee: must promise")]
    #[case(json!({"guarantee": {"cpus": -1}}), "guarantee.cpus: must be a number between")]
    #[case(json!({"limit": {"cpus": "4"}}), "limit.cpus: must be a number between")]
    #[case(json!({"limit": {"ports": 4}}), "limit.ports: is not a scalar")]
    #[case(json!({"limit": {"a b": 4}}), "limit.a b: must be at most")]
    #[case(json!({"limits": {"cpus": 4}}), "limits: is not known")]
    #[case(json!({"limit": 4}), "limit: must be an object")]
    fn bad_quotas(#[case] body: Value, #[case] says: &str) {
        let said = first(quota(&body));
        assert!(said.starts_with(says), "{said}");
    }

    #[test]
    fn quotas_are_by_kind() {
        let q = quota(&json!({"guarantee": {"cpus": 4}, "limit": {"licenses": 0.5}})).unwrap();
        assert_eq!(q.guarantee["cpus"], Milli(4000));
        assert_eq!(q.limit["licenses"], Milli(500));
        assert!(quota(&json!({"limit": {"gpus": 0}})).is_ok(), "none at all");
    }

    #[rstest]
    #[case(json!({}), "agent: is required")]
    #[case(json!({"agent": "n1", "stack": [], "resources": {}}), "stack: must be 1 to 8")]
    #[case(json!({"agent": "n1", "stack": [{"role": "*"}], "resources": {"cpus": 1}}), "stack[0].role: must not be *")]
    #[case(json!({"agent": "n1", "stack": [{"role": "/a"}], "resources": {"cpus": 1}}), "stack[0].role: must be")]
    #[case(json!({"agent": "n1", "stack": [{"role": "a", "x": 1}], "resources": {"cpus": 1}}), "stack[0].x: is not known")]
    #[case(json!({"agent": "n1", "stack": [{"role": "a"}], "resources": {}}), "resources: must hold something")]
    #[case(json!({"agent": "n1", "stack": [{"role": "a"}], "resources": {"cpu": 1}}), "resources.cpu: is not known")]
    #[case(json!({"agent": "n1", "stack": [{"role": "a"}], "resources": {"cpus": -1}}), "resources.cpus: must not be negative")]
    #[case(json!({"agent": "n1", "stack": [{"role": "a"}], "resources": {"ports": "[0-9]"}}), "resources.ports: must be of the form")]
    #[case(json!({"agent": "n1", "stack": [{"role": "a"}], "resources": {"custom": {"cpus": 1}}}), "resources.custom.cpus: must be")]
    #[case(json!({"agent": "n1", "stack": [{"role": "a"}], "resources": {"custom": {"x": true}}}), "resources.custom.x: must be")]
    fn bad_reservations(#[case] body: Value, #[case] says: &str) {
        let said = first(reservation(&body));
        assert!(said.starts_with(says), "{said}");
    }

    #[rstest]
    #[case(json!({"volume_id": "a/b", "size": 1}), "volume_id: must not hold")]
    #[case(json!({"volume_id": "a", "size": 0}), "size: must be over 0")]
    #[case(json!({"volume_id": "a"}), "size: is required")]
    #[case(json!({"volume_id": "a", "size": 1, "shared": "yes"}), "shared: must be true or false")]
    fn bad_volumes(#[case] mut body: Value, #[case] says: &str) {
        body["agent"] = json!("n1");
        body["stack"] = json!([{"role": "a"}]);
        let said = first(create_volume(&body));
        assert!(said.starts_with(says), "{said}");
    }

    #[rstest]
    #[case(json!({"start_ms": 5}), "agents: is required")]
    #[case(json!({"agents": [], "start_ms": 5}), "agents: must be 1 to")]
    #[case(json!({"agents": ["a"]}), "start_ms: is required")]
    #[case(json!({"agents": ["a"], "start_ms": 1.5}), "start_ms: must be whole")]
    #[case(json!({"agents": ["a"], "start_ms": 5, "duration_ms": 0}), "duration_ms: must be over 0")]
    #[case(json!({"agents": ["a"], "start_ms": 5, "duration_ms": -1}), "duration_ms: must not be")]
    #[case(json!({"agents": ["a"], "start_ms": 5, "duration_ms": 1e15}), "duration_ms: must be at most")]
    fn bad_windows(#[case] body: Value, #[case] says: &str) {
        let said = first(maintenance(&body));
        assert!(said.starts_with(says), "{said}");
    }

    #[test]
    fn what_may_be_left_out() {
        assert_eq!(drain(&Value::Null), Ok(DrainBody::default()));
        let body = json!({"max_grace_ms": 5000, "mark_gone": true});
        assert_eq!(drain(&body).unwrap().max_grace, Some(Millis(5000)));
        assert!(nothing(&json!({"force": true})).is_err());
        let body = json!({"agents": ["a"], "start_ms": 5, "duration_ms": null});
        assert_eq!(maintenance(&body).unwrap().window.duration, None);
    }

    fn bundle() -> impl Strategy<Value = Resources> {
        let scalars = [0i64..10_000, 0i64..10_000, 0i64..10_000, 0i64..10_000];
        let ports = prop::collection::vec(1u16..50, 0..5);
        let custom = prop::collection::btree_map("[a-c]", 1i64..5000, 0..3);
        let ranges =
            prop::collection::btree_map("[d-f]", prop::collection::vec(0u64..20, 1..5), 0..3);
        let sets =
            prop::collection::btree_map("[g-i]", prop::collection::btree_set("[x-z]", 1..3), 0..3);
        (scalars, ports, custom, ranges, sets).prop_map(|(s, ports, custom, ranges, sets)| {
            let mut out = Resources {
                scalars: s.map(Milli),
                ports: PortSet::from_ports(ports),
                ..Resources::default()
            };
            for (n, q) in custom {
                out.custom.set_scalar(n, Milli(q));
            }
            for (n, r) in ranges {
                out.custom.set_ranges(n, RangeSet::from_ports(r));
            }
            for (n, s) in sets {
                out.custom.set_items(n, s);
            }
            out
        })
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_asked_for(r in bundle()) {
            prop_assume!(!r.is_empty());
            let of = [Reservation::dynamic("a", "ops"), Reservation::dynamic("a/b", "")];
            let body = json!({"agent": "n1", "stack": stack(&of), "resources": ResourcesView::from(&r)});
            let read = reservation(&body).unwrap();
            prop_assert_eq!(read.resources, r);
            prop_assert_eq!(read.stack, of);
        }

        #[test]
        fn any_json_is_survived(key in "[a-z_]{1,12}", text in ".{0,12}", n in any::<f64>()) {
            for v in [json!(text), json!(n), json!([text]), json!({text.clone(): n})] {
                let body = json!({key.clone(): v});
                let _ = (weight(&body), quota(&body), reservation(&body), create_volume(&body));
                let _ = (destroy_volume(&body), maintenance(&body), drain(&body), nothing(&body));
            }
        }
    }
}
