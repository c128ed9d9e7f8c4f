//! Resources, in and out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use waggle_types::{
    Interval, Milli, PortRange, PortSet, RangeSet, Resources, ScalarKind, Volume, VolumeId,
    check_kind,
};

use crate::{
    marathon::Number,
    read::{Errors, Obj, kind},
};

/// Largest quantity: `Milli` holds it exactly.
pub(super) const MAX_SCALAR: f64 = 1e12;
/// Most ranges, names or kinds in one request.
const MAX_ITEMS: usize = 1000;

/// A bundle of resources. Ranges are texts, as Mesos writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResourcesView {
    /// CPUs.
    pub cpus: Number,
    /// Memory in MiB.
    pub mem: Number,
    /// Disk in MiB, volumes left out.
    pub disk: Number,
    /// GPUs.
    pub gpus: Number,
    /// Host ports: `[31000-31999, 32500-32500]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Custom kinds by name: a number, ranges as a text, or a list of names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, Value>,
    /// Persistent volumes by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, VolumeView>,
}

/// A persistent volume.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VolumeView {
    /// In MiB.
    pub size: Number,
    /// Several tasks may use it at once.
    pub shared: bool,
}

impl From<Volume> for VolumeView {
    fn from(v: Volume) -> Self {
        Self {
            size: Number(v.size.to_f64()),
            shared: v.shared,
        }
    }
}

impl From<&Resources> for ResourcesView {
    fn from(r: &Resources) -> Self {
        let scalar = |kind| Number(r.get(kind).to_f64());
        let mut custom = BTreeMap::new();
        for (name, q) in r.custom.scalars() {
            custom.insert(name.to_owned(), quantity(q));
        }
        for (name, ranges) in r.custom.ranges() {
            custom.insert(name.to_owned(), ranges.to_string().into());
        }
        for (name, items) in r.custom.sets() {
            let items: Vec<&String> = items.iter().collect();
            custom.insert(name.to_owned(), serde_json::json!(items));
        }
        let volumes = r.custom.volumes();
        Self {
            cpus: scalar(ScalarKind::Cpus),
            mem: scalar(ScalarKind::Mem),
            disk: scalar(ScalarKind::Disk),
            gpus: scalar(ScalarKind::Gpus),
            ports: (!r.ports.is_empty()).then(|| r.ports.to_string()),
            custom,
            volumes: volumes.map(|(id, v)| (id.to_string(), v.into())).collect(),
        }
    }
}

/// A whole number without a fraction, as [`Number`] writes it.
fn quantity(q: Milli) -> Value {
    if q.0 % 1000 == 0 {
        Value::from(q.0 / 1000)
    } else {
        Value::from(q.to_f64())
    }
}

/// Quantities by kind.
pub(super) fn quantities(by_kind: &BTreeMap<String, Milli>) -> BTreeMap<String, Number> {
    let one = |(k, q): (&String, &Milli)| (k.clone(), Number(q.to_f64()));
    by_kind.iter().map(one).collect()
}

/// Reads a bundle; volumes are made by their own requests and can't be named.
pub(super) fn resources(obj: &Obj<'_>, errs: &mut Errors) -> Resources {
    obj.only(&["cpus", "mem", "disk", "gpus", "ports", "custom"], errs);
    let mut out = Resources::default();
    for kind in ScalarKind::ALL {
        if let Some(n) = obj.number(kind.name(), MAX_SCALAR, errs) {
            out.scalars[kind as usize] = Milli::from_f64(n).unwrap_or_default();
        }
    }
    if let Some(text) = obj.string("ports", errs) {
        match ports(&text) {
            Some(ports) => out.ports = ports,
            None => errs.add(
                obj.path("ports"),
                format!("must be of the form [31000-32000, 33000-33100], is {text:?}"),
            ),
        }
    }
    if let Some(custom) = obj.object("custom", errs) {
        for (name, value) in custom.entries().take(MAX_ITEMS) {
            custom_kind(&mut out, custom.path(name), name, value, errs);
        }
    }
    out
}

fn custom_kind(out: &mut Resources, path: String, name: &str, v: &Value, errs: &mut Errors) {
    if let Err(e) = check_kind(name) {
        errs.add(path, e.rule);
        return;
    }
    match v {
        Value::Number(n) => match n.as_f64().and_then(Milli::from_f64) {
            Some(q) => out.custom.set_scalar(name, q),
            None => errs.add(
                path,
                format!("must be a number between 0 and {MAX_SCALAR}, is {n}"),
            ),
        },
        Value::String(text) => match ranges(text) {
            Some(r) => out.custom.set_ranges(name, r),
            None => errs.add(path, format!("must be of the form [1-5, 7-9], is {text:?}")),
        },
        Value::Array(items) if items.len() <= MAX_ITEMS => {
            let names = items.iter().map(|i| i.as_str().map(str::to_owned));
            match names.collect::<Option<BTreeSet<String>>>() {
                Some(names) => out.custom.set_items(name, names),
                None => errs.add(path, "must be a list of names"),
            }
        }
        other => {
            let rule = "must be a number, a text of ranges or a list of at most 1000 names";
            errs.add(path, format!("{rule}, is {}", kind(other)));
        }
    }
}

fn ports(text: &str) -> Option<PortSet> {
    let one = |r: &Interval<u64>| {
        let (begin, end) = (r.begin.try_into().ok()?, r.end.try_into().ok()?);
        (begin > 0).then_some(PortRange { begin, end })
    };
    let found: Option<Vec<PortRange>> = ranges(text)?.ranges().iter().map(one).collect();
    Some(PortSet::from_ranges(found?))
}

/// `[1-5, 7-9]`.
fn ranges(text: &str) -> Option<RangeSet> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let one = |r: &str| {
        let (begin, end) = r.split_once('-').unwrap_or((r, r));
        let (begin, end) = (begin.trim().parse().ok()?, end.trim().parse().ok()?);
        (begin <= end).then_some(Interval { begin, end })
    };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    if parts.len() > MAX_ITEMS {
        return None;
    }
    let found: Option<Vec<Interval<u64>>> = parts
        .into_iter()
        .filter(|p| !p.is_empty())
        .map(one)
        .collect();
    Some(RangeSet::from_ranges(found?))
}

/// Reads quantities by kind, for quotas: scalars only.
pub(super) fn read_quantities(obj: &Obj<'_>, errs: &mut Errors) -> BTreeMap<String, Milli> {
    let mut out = BTreeMap::new();
    for (name, v) in obj.entries().take(MAX_ITEMS) {
        let built_in = ScalarKind::ALL.iter().any(|k| k.name() == name);
        if name == "ports" {
            errs.add(obj.path(name), "is not a scalar, quotas are of scalars");
        } else if let Some(e) = (!built_in).then(|| check_kind(name).err()).flatten() {
            errs.add(obj.path(name), e.rule);
        } else if let Some(q) = v.as_f64().and_then(Milli::from_f64) {
            out.insert(name.clone(), q);
        } else {
            let found = if v.is_number() {
                v.to_string()
            } else {
                kind(v).to_owned()
            };
            let rule = format!("must be a number between 0 and {MAX_SCALAR}, is {found}");
            errs.add(obj.path(name), rule);
        }
    }
    out
}

/// Reads the id and size of a volume that is to be made.
pub(super) fn volume(obj: &Obj<'_>, errs: &mut Errors) -> Option<(VolumeId, Volume)> {
    let id = volume_id(obj, errs);
    let shared = obj.boolean("shared", errs).unwrap_or(false);
    let size = obj.required("size", errs)?;
    let size = obj
        .number("size", MAX_SCALAR, errs)
        .and_then(Milli::from_f64)
        .filter(|s| {
            if s.0 == 0 {
                errs.add(obj.path("size"), format!("must be over 0 MiB, is {size}"));
            }
            s.0 > 0
        });
    Some((
        id?,
        Volume {
            size: size?,
            shared,
        },
    ))
}

pub(super) fn volume_id(obj: &Obj<'_>, errs: &mut Errors) -> Option<VolumeId> {
    obj.required("volume_id", errs)?;
    let text = obj.string("volume_id", errs)?;
    match VolumeId::new(text.as_str()) {
        Ok(id) => Some(id),
        Err(e) => {
            errs.add(obj.path("volume_id"), e.to_string());
            None
        }
    }
}
