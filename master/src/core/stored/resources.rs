//! JSON twins of resources and reservations.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waggle_types::{
    Interval, Milli, PortSet, RangeSet, Reservation, ResourcePart, Resources, ScalarKind, Volume,
    VolumeId,
};

/// Scalars are in thousandths, by name, the built-in kinds among them; so are ranges, with `ports`.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct StoredResources {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    scalars: BTreeMap<String, i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ranges: BTreeMap<String, Vec<(u64, u64)>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sets: BTreeMap<String, BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<String, StoredVolume>,
}

#[derive(Serialize, Deserialize)]
struct StoredVolume {
    size_milli: i64,
    #[serde(default)]
    shared: bool,
}

impl From<&Resources> for StoredResources {
    fn from(r: &Resources) -> Self {
        let mut out = Self::default();
        for kind in ScalarKind::ALL.into_iter().filter(|k| r.get(*k).0 != 0) {
            out.scalars.insert(kind.name().to_owned(), r.get(kind).0);
        }
        let custom = r.custom.scalars().map(|(n, q)| (n.to_owned(), q.0));
        out.scalars.extend(custom);
        if !r.ports.is_empty() {
            let ports = r.ports.ranges().iter();
            let ports = ports.map(|i| (u64::from(i.begin), u64::from(i.end)));
            out.ranges.insert("ports".to_owned(), ports.collect());
        }
        for (name, set) in r.custom.ranges() {
            let ranges = set.ranges().iter().map(|i| (i.begin, i.end)).collect();
            out.ranges.insert(name.to_owned(), ranges);
        }
        let sets = r.custom.sets().map(|(n, s)| (n.to_owned(), s.clone()));
        out.sets.extend(sets);
        let volumes = r.custom.volumes().map(|(id, v)| {
            let volume = StoredVolume {
                size_milli: v.size.0,
                shared: v.shared,
            };
            (id.to_string(), volume)
        });
        out.volumes.extend(volumes);
        out
    }
}

impl TryFrom<StoredResources> for Resources {
    type Error = String;

    fn try_from(s: StoredResources) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, milli) in s.scalars {
            match ScalarKind::ALL.into_iter().find(|k| k.name() == name) {
                Some(kind) => out.scalars[kind as usize] = Milli(milli),
                None => out.custom.set_scalar(name, Milli(milli)),
            }
        }
        for (name, ranges) in s.ranges {
            if name == "ports" {
                let port = |p: u64| u16::try_from(p).map_err(|_| format!("port {p} is too large"));
                let mut ports = Vec::new();
                for (begin, end) in ranges {
                    ports.push(Interval {
                        begin: port(begin)?,
                        end: port(end)?,
                    });
                }
                out.ports = PortSet::from_ranges(ports);
            } else {
                let ranges = ranges.into_iter();
                let ranges = ranges.map(|(begin, end)| Interval { begin, end });
                out.custom.set_ranges(name, RangeSet::from_ranges(ranges));
            }
        }
        for (name, items) in s.sets {
            out.custom.set_items(name, items);
        }
        for (id, v) in s.volumes {
            let id = VolumeId::new(id).map_err(|e| e.to_string())?;
            let size = Milli(v.size_milli);
            let shared = v.shared;
            out.custom.set_volume(id, Volume { size, shared });
        }
        Ok(out)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredReservation {
    role: String,
    #[serde(default)]
    dynamic: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    principal: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

impl From<&Reservation> for StoredReservation {
    fn from(r: &Reservation) -> Self {
        Self {
            role: r.role.clone(),
            dynamic: r.dynamic,
            principal: r.principal.clone(),
            labels: r.labels.clone(),
        }
    }
}

impl From<StoredReservation> for Reservation {
    fn from(r: StoredReservation) -> Self {
        Self {
            role: r.role,
            dynamic: r.dynamic,
            principal: r.principal,
            labels: r.labels,
        }
    }
}

pub(super) fn put_stack(stack: &[Reservation]) -> Vec<StoredReservation> {
    stack.iter().map(Into::into).collect()
}

pub(super) fn take_stack(stack: Vec<StoredReservation>) -> Vec<Reservation> {
    stack.into_iter().map(Into::into).collect()
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredPart {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stack: Vec<StoredReservation>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    revocable: bool,
    resources: StoredResources,
}

impl From<&ResourcePart> for StoredPart {
    fn from(p: &ResourcePart) -> Self {
        Self {
            stack: put_stack(&p.reservation),
            revocable: p.revocable,
            resources: (&p.resources).into(),
        }
    }
}

impl TryFrom<StoredPart> for ResourcePart {
    type Error = String;

    fn try_from(p: StoredPart) -> Result<Self, String> {
        Ok(Self {
            reservation: take_stack(p.stack),
            revocable: p.revocable,
            resources: p.resources.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read_back() {
        let mut r = Resources::from_millis(1500, 64_000, 7).with_ports(PortSet::from_ports([80]));
        r.custom.set_scalar("licenses", Milli(2500));
        r.custom
            .set_ranges("vlans", RangeSet::from_ports([1, 2, u64::MAX]));
        r.custom
            .set_items("zones", ["a".to_owned(), "b".to_owned()].into());
        let volume = Volume {
            size: Milli::units(512),
            shared: true,
        };
        r.custom.set_volume(VolumeId::new("db").unwrap(), volume);
        let mut reservation = Reservation::dynamic("a/b", "ops");
        reservation.labels.insert("k".into(), "v".into());
        let part = ResourcePart {
            reservation: vec![reservation],
            revocable: true,
            resources: r,
        };
        let text = serde_json::to_string(&StoredPart::from(&part)).unwrap();
        let back: StoredPart = serde_json::from_str(&text).unwrap();
        assert_eq!(ResourcePart::try_from(back), Ok(part));
        let port = r#"{"resources":{"ranges":{"ports":[[1,65536]]}}}"#;
        let bad: StoredPart = serde_json::from_str(port).unwrap();
        assert!(ResourcePart::try_from(bad).is_err());
    }
}
