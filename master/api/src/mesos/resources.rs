//! Mesos's list of resources and a bundle by reservation, both ways.
//!
//! Mesos has one resource for each kind and reservation; disk comes apart by volume. A volume on a disk of its
//! own (`db@fast`, of `disk.fast`) is `db` on a disk whose source is `fast`. The path at which a volume is
//! mounted belongs to the task here; to Mesos it is part of the volume.

use std::collections::BTreeMap;

use waggle_types::{
    Custom, Interval, Milli, PortSet, RangeSet, Reservation, ResourcePart, Resources, ScalarKind,
    Volume, VolumeId, check_kind, check_role,
};

use crate::{
    convert::ConvertError,
    proto::mesos::{self as pb, disk_source, reservation_info, value, volume},
};

/// Most resources in one list.
pub const MAX_RESOURCES: usize = 4096;
/// Most labels of one reservation.
const MAX_LABELS: usize = 64;

/// How a framework reads and writes reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `role` and `reservation`: one deep (before `RESERVATION_REFINEMENT`).
    Role,
    /// `reservations`, a stack.
    Stack,
}

/// Where a framework mounts a volume: Mesos's `disk.volume`, which comes back in every offer of it.
pub type Paths = BTreeMap<VolumeId, String>;

/// What a list of resources holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    /// By reservation; each stack once.
    pub parts: Vec<ResourcePart>,
    /// Where volumes are to be mounted, and whether read-only.
    pub mounts: Vec<(VolumeId, String, bool)>,
}

impl Read {
    /// All of it together; `None` when it does not add up, since two hold the same port.
    pub fn sum(&self) -> Option<Resources> {
        waggle_types::sum_parts(&self.parts)
    }
}

fn wrong(field: &str, rule: impl Into<String>) -> ConvertError {
    ConvertError::new(field, rule)
}

/// Reads a list. Empty resources (`gpus` of 0, `ports` without a range) are dropped. `role` is the role that a
/// framework's resources are allocated to, for checks alone.
pub fn read(field: &str, list: &[pb::Resource]) -> Result<Read, ConvertError> {
    if list.len() > MAX_RESOURCES {
        let rule = format!("must be at most {MAX_RESOURCES}, is {}", list.len());
        return Err(wrong(field, rule));
    }
    let mut out = Read::default();
    for (i, r) in list.iter().enumerate() {
        let at = |e: ConvertError| e.within(&format!("{field}[{i}]"));
        let stack = stack(r).map_err(at)?;
        let (resources, mount) = one(r).map_err(at)?;
        out.mounts.extend(mount);
        if resources.is_empty() {
            continue;
        }
        let revocable = r.revocable.is_some();
        let same = |p: &&mut ResourcePart| p.reservation == stack && p.revocable == revocable;
        match out.parts.iter_mut().find(same) {
            Some(part) => {
                let sum = part.resources.try_add(&resources);
                sum.ok_or_else(|| at(wrong("ranges", "holds what is named before")))?;
            }
            None => out.parts.push(ResourcePart {
                reservation: stack,
                revocable,
                resources,
            }),
        }
    }
    Ok(out)
}

/// The stack of reservations of a resource, in either format.
pub fn stack(r: &pb::Resource) -> Result<Vec<Reservation>, ConvertError> {
    if !r.reservations.is_empty() {
        if r.reservation.is_some() {
            return Err(wrong("reservation", "must not be set with reservations"));
        }
        let each = r.reservations.iter().enumerate();
        return each
            .map(|(i, info)| {
                let dynamic = match info.r#type() {
                    reservation_info::Type::Static => false,
                    reservation_info::Type::Dynamic => true,
                    reservation_info::Type::Unknown => {
                        let field = format!("reservations[{i}].type");
                        return Err(wrong(&field, "must be STATIC or DYNAMIC"));
                    }
                };
                let role = info.role.clone().unwrap_or_default();
                reservation(info, role, dynamic)
                    .map_err(|e| e.within(&format!("reservations[{i}]")))
            })
            .collect();
    }
    let role = r.role();
    match &r.reservation {
        None if role == "*" => Ok(Vec::new()),
        None => {
            reservation(&pb::ReservationInfo::default(), role.to_owned(), false).map(|r| vec![r])
        }
        Some(_) if role == "*" => Err(wrong("role", "must not be * for what is reserved")),
        Some(info) => reservation(info, role.to_owned(), true)
            .map(|r| vec![r])
            .map_err(|e| e.within("reservation")),
    }
}

fn reservation(
    info: &pb::ReservationInfo,
    role: String,
    dynamic: bool,
) -> Result<Reservation, ConvertError> {
    check_role(&role).map_err(|e| wrong(&e.field, e.rule))?;
    let labels = labels(info.labels.as_ref());
    if labels.len() > MAX_LABELS {
        let rule = format!("must be at most {MAX_LABELS}, is {}", labels.len());
        return Err(wrong("labels", rule));
    }
    Ok(Reservation {
        role,
        dynamic,
        principal: info.principal.clone().unwrap_or_default(),
        labels,
    })
}

/// Labels by key; of those with the same key the last counts.
pub fn labels(l: Option<&pb::Labels>) -> BTreeMap<String, String> {
    let all = l.into_iter().flat_map(|l| &l.labels);
    all.map(|l| (l.key.clone(), l.value.clone().unwrap_or_default()))
        .collect()
}

/// Labels as Mesos writes them; none for an empty map.
pub fn to_labels(map: &BTreeMap<String, String>) -> Option<pb::Labels> {
    let label = |(key, value): (&String, &String)| pb::Label {
        key: key.clone(),
        value: Some(value.clone()),
    };
    (!map.is_empty()).then(|| pb::Labels {
        labels: map.iter().map(label).collect(),
    })
}

type Mounted = Option<(VolumeId, String, bool)>;

fn one(r: &pb::Resource) -> Result<(Resources, Mounted), ConvertError> {
    let mut out = Resources::default();
    let kind = r.r#type.map_or(Ok(None), |t| {
        value::Type::try_from(t)
            .map(Some)
            .map_err(|_| wrong("type", format!("must be SCALAR, RANGES or SET, is {t}")))
    })?;
    match kind {
        Some(value::Type::Scalar) => {
            let Some(scalar) = &r.scalar else {
                return Err(wrong("scalar", "is missing"));
            };
            let q = quantity("scalar.value", scalar.value)?;
            if r.name == "disk" {
                return disk(r, q);
            }
            if let Some(kind) = ScalarKind::ALL.iter().find(|k| k.name() == r.name) {
                out.scalars[*kind as usize] = q;
            } else {
                check_kind(&r.name).map_err(|e| wrong(&e.field, e.rule))?;
                out.custom.set_scalar(r.name.clone(), q);
            }
        }
        Some(value::Type::Ranges) => {
            let ranges = r.ranges.iter().flat_map(|r| &r.range);
            if r.name == "ports" {
                let mut ports = Vec::new();
                for range in ranges {
                    let port = |p: u64| {
                        u16::try_from(p)
                            .map_err(|_| wrong("ranges", format!("must be at most 65535, is {p}")))
                    };
                    ports.push(interval(port(range.begin)?, port(range.end)?)?);
                }
                out.ports = PortSet::from_ranges(ports);
            } else {
                check_kind(&r.name).map_err(|e| wrong(&e.field, e.rule))?;
                let ranges: Result<Vec<_>, _> = ranges.map(|r| interval(r.begin, r.end)).collect();
                out.custom
                    .set_ranges(r.name.clone(), RangeSet::from_ranges(ranges?));
            }
        }
        Some(value::Type::Set) => {
            check_kind(&r.name).map_err(|e| wrong(&e.field, e.rule))?;
            let items = r.set.iter().flat_map(|s| s.item.iter().cloned());
            out.custom.set_items(r.name.clone(), items.collect());
        }
        Some(value::Type::Text) | None => {
            return Err(wrong("type", "must be SCALAR, RANGES or SET"));
        }
    }
    Ok((out, None))
}

fn interval<T: PartialOrd + Copy + std::fmt::Display>(
    begin: T,
    end: T,
) -> Result<Interval<T>, ConvertError> {
    if begin > end {
        let rule = format!("must not end before it begins, is [{begin}-{end}]");
        return Err(wrong("ranges", rule));
    }
    Ok(Interval { begin, end })
}

/// A quantity in thousandths.
pub fn quantity(field: &str, value: f64) -> Result<Milli, ConvertError> {
    Milli::from_f64(value).ok_or_else(|| {
        let rule = format!("must be a number between 0 and 1e12, is {value}");
        wrong(field, rule)
    })
}

/// Disk, or a volume made of it.
fn disk(r: &pb::Resource, size: Milli) -> Result<(Resources, Mounted), ConvertError> {
    let on = r.disk.as_ref().and_then(|d| d.source.as_ref()).map(source);
    let on = on.transpose().map_err(|e| e.within("disk.source"))?;
    let persistence = r.disk.as_ref().and_then(|d| d.persistence.as_ref());
    let mut out = Resources::default();
    let Some(persistence) = persistence else {
        match on {
            Some(disk) => out.custom.set_scalar(format!("disk.{disk}"), size),
            None => out.scalars[ScalarKind::Disk as usize] = size,
        }
        return Ok((out, None));
    };
    let id = volume_id(&persistence.id, on.as_deref())?;
    let shared = r.shared.is_some();
    out.custom.set_volume(id.clone(), Volume { size, shared });
    let mount = r.disk.as_ref().and_then(|d| d.volume.as_ref()).map(|v| {
        let read_only = v.mode == Some(volume::Mode::Ro.into());
        (id, v.container_path.clone(), read_only)
    });
    Ok((out, mount))
}

fn volume_id(id: &str, on: Option<&str>) -> Result<VolumeId, ConvertError> {
    let full = on.map_or_else(|| id.to_owned(), |disk| format!("{id}@{disk}"));
    VolumeId::new(full).map_err(|e| wrong("disk.persistence.id", e.to_string()))
}

/// The name of the disk that a source is.
fn source(s: &pb::DiskSource) -> Result<String, ConvertError> {
    let root = match s.r#type() {
        disk_source::Type::Path => s.path.as_ref(),
        disk_source::Type::Mount => s.mount.as_ref(),
        _ => return Err(wrong("type", "must be PATH or MOUNT")),
    };
    let name = root.and_then(|r| r.root.clone()).unwrap_or_default();
    let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 32 || !name.chars().all(of) {
        let rule = format!("must be a disk that was offered, is {name:.80?}");
        return Err(wrong("root", rule));
    }
    Ok(name)
}

/// What the resources of one agent look like to a framework.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// How reservations are written.
    pub format: Format,
    /// The role that they are allocated to; none for what nobody has.
    pub role: Option<&'a str>,
    /// Where volumes are mounted; one that is not here is mounted as it is called.
    pub paths: Option<&'a Paths>,
}

impl Writer<'_> {
    /// Writes a bundle by its parts; without parts nothing of it is reserved.
    pub fn write(&self, resources: &Resources, parts: &[ResourcePart]) -> Vec<pb::Resource> {
        let mut out = Vec::new();
        if parts.is_empty() {
            self.part(resources, &[], false, &mut out);
        }
        for p in parts {
            self.part(&p.resources, &p.reservation, p.revocable, &mut out);
        }
        out
    }

    fn part(
        &self,
        r: &Resources,
        stack: &[Reservation],
        revocable: bool,
        out: &mut Vec<pb::Resource>,
    ) {
        let like = self.like(stack, revocable);
        for kind in ScalarKind::ALL {
            let q = r.get(kind);
            if q.0 != 0 {
                out.push(scalar(&like, kind.name(), q));
            }
        }
        if !r.ports.is_empty() {
            let range = |i: &Interval<u16>| (i.begin.into(), i.end.into());
            out.push(ranges(&like, "ports", r.ports.ranges().iter().map(range)));
        }
        self.custom(&r.custom, &like, out);
    }

    fn custom(&self, c: &Custom, like: &pb::Resource, out: &mut Vec<pb::Resource>) {
        for (name, q) in c.scalars() {
            match name.strip_prefix("disk.") {
                Some(on) => {
                    let mut r = scalar(like, "disk", q);
                    r.disk = Some(pb::DiskInfo {
                        source: Some(path_source(on)),
                        ..pb::DiskInfo::default()
                    });
                    out.push(r);
                }
                None => out.push(scalar(like, name, q)),
            }
        }
        for (name, r) in c.ranges() {
            let range = |i: &Interval<u64>| (i.begin, i.end);
            out.push(ranges(like, name, r.ranges().iter().map(range)));
        }
        for (name, items) in c.sets() {
            out.push(pb::Resource {
                name: name.to_owned(),
                r#type: Some(value::Type::Set.into()),
                set: Some(pb::ValueSet {
                    item: items.iter().cloned().collect(),
                }),
                ..like.clone()
            });
        }
        for (id, v) in c.volumes() {
            let mut r = scalar(like, "disk", v.size);
            let on = id.disk();
            let bare = match on {
                Some(on) => id
                    .as_str()
                    .strip_suffix(on)
                    .and_then(|s| s.strip_suffix('@')),
                None => Some(id.as_str()),
            };
            let principal = principal_of(like);
            let path = self.paths.and_then(|p| p.get(id).cloned());
            r.disk = Some(pb::DiskInfo {
                persistence: Some(pb::DiskPersistence {
                    id: bare.unwrap_or(id.as_str()).to_owned(),
                    principal,
                }),
                volume: Some(pb::Volume {
                    container_path: path.unwrap_or_else(|| id.to_string()),
                    mode: Some(volume::Mode::Rw.into()),
                    ..pb::Volume::default()
                }),
                source: on.map(path_source),
            });
            r.shared = v.shared.then(pb::SharedInfo::default);
            out.push(r);
        }
    }

    /// A resource with everything but what it is.
    fn like(&self, stack: &[Reservation], revocable: bool) -> pb::Resource {
        let mut r = pb::Resource {
            revocable: revocable.then(pb::RevocableInfo::default),
            allocation_info: self.role.map(|role| pb::AllocationInfo {
                role: Some(role.to_owned()),
            }),
            ..pb::Resource::default()
        };
        let info = |s: &Reservation| pb::ReservationInfo {
            principal: (!s.principal.is_empty()).then(|| s.principal.clone()),
            labels: to_labels(&s.labels),
            role: None,
            r#type: None,
        };
        match self.format {
            Format::Stack => {
                let whole = |s: &Reservation| pb::ReservationInfo {
                    role: Some(s.role.clone()),
                    r#type: Some(if s.dynamic {
                        reservation_info::Type::Dynamic.into()
                    } else {
                        reservation_info::Type::Static.into()
                    }),
                    ..info(s)
                };
                r.reservations = stack.iter().map(whole).collect();
            }
            Format::Role => {
                let last = stack.last();
                r.role = Some(last.map_or("*", |s| s.role.as_str()).to_owned());
                r.reservation = last.filter(|s| s.dynamic).map(info);
            }
        }
        r
    }
}

fn principal_of(r: &pb::Resource) -> Option<String> {
    let last = r.reservations.last().or(r.reservation.as_ref());
    last.and_then(|i| i.principal.clone())
}

fn path_source(disk: &str) -> pb::DiskSource {
    pb::DiskSource {
        r#type: Some(disk_source::Type::Path.into()),
        path: Some(pb::DiskRoot {
            root: Some(disk.to_owned()),
        }),
        ..pb::DiskSource::default()
    }
}

fn scalar(like: &pb::Resource, name: &str, q: Milli) -> pb::Resource {
    pb::Resource {
        name: name.to_owned(),
        r#type: Some(value::Type::Scalar.into()),
        scalar: Some(pb::ValueScalar { value: q.to_f64() }),
        ..like.clone()
    }
}

fn ranges(like: &pb::Resource, name: &str, all: impl Iterator<Item = (u64, u64)>) -> pb::Resource {
    let range = all.map(|(begin, end)| pb::ValueRange { begin, end });
    pb::Resource {
        name: name.to_owned(),
        r#type: Some(value::Type::Ranges.into()),
        ranges: Some(pb::ValueRanges {
            range: range.collect(),
        }),
        ..like.clone()
    }
}

#[cfg(test)]
mod tests;
