//! Custom kinds and persistent volumes: the part of a bundle that most bundles don't have.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{Custom, Interval, Milli, RangeSet, Volume, VolumeId, check_kind};

use super::{ConvertError, at_most, id};
use crate::proto::session as pb;

/// Most custom kinds of one bundle, of all sorts together.
pub const MAX_KINDS: usize = 16;
/// Most intervals of one kind, ports included.
pub const MAX_RANGES: usize = 4096;
/// Most items of one set.
pub const MAX_SET_ITEMS: usize = 1024;
/// Longest item of a set, in bytes.
const MAX_ITEM: usize = 256;
/// Most persistent volumes of one bundle.
pub const MAX_VOLUMES: usize = 1024;

/// The custom part of a message, checked.
pub(super) fn custom(
    scalars: BTreeMap<String, i64>,
    ranges: BTreeMap<String, pb::Ranges>,
    sets: BTreeMap<String, pb::Items>,
    volumes: BTreeMap<String, pb::Volume>,
) -> Result<Custom, ConvertError> {
    let n = scalars.len() + ranges.len() + sets.len();
    if n == 0 && volumes.is_empty() {
        return Ok(Custom::default());
    }
    if n > MAX_KINDS {
        let rule = format!("must be at most {MAX_KINDS} kinds with ranges and sets, is {n}");
        return Err(ConvertError::new("scalars_milli", rule));
    }
    at_most("volumes", volumes.len(), MAX_VOLUMES)?;
    let twice = ranges
        .keys()
        .map(|k| ("ranges", k))
        .chain(sets.keys().map(|k| ("sets", k)))
        .find(|(of, k)| {
            scalars.contains_key(*k) || (*of == "sets" && ranges.contains_key(k.as_str()))
        });
    if let Some((of, name)) = twice {
        let field = format!("{of}.{name:.80}");
        return Err(ConvertError::new(field, "must be a kind of one sort only"));
    }
    Ok(Custom::new(
        entries("scalars_milli", scalars, milli)?,
        entries("ranges", ranges, |f, r| {
            range_set(&r).map_err(|e| e.within(f))
        })?,
        entries("sets", sets, |f, s| items(s).map_err(|e| e.within(f)))?,
        volumes
            .into_iter()
            .map(|(name, v)| {
                let field = format!("volumes.{name:.80}");
                let volume = Volume::try_from(v).map_err(|e| e.within(&field))?;
                Ok((id(&field, name, VolumeId::new)?, volume))
            })
            .collect::<Result<_, ConvertError>>()?,
    ))
}

/// A quantity, never negative.
pub(super) fn milli(field: &str, v: i64) -> Result<Milli, ConvertError> {
    if v < 0 {
        let rule = format!("must not be negative, is {v}");
        return Err(ConvertError::new(field, rule));
    }
    Ok(Milli(v))
}

/// Kinds of one sort by name.
fn entries<P, T>(
    field: &str,
    given: BTreeMap<String, P>,
    convert: impl Fn(&str, P) -> Result<T, ConvertError>,
) -> Result<BTreeMap<String, T>, ConvertError> {
    given
        .into_iter()
        .map(|(name, value)| {
            check_kind(&name).map_err(|e| ConvertError::new(field, e.rule))?;
            let value = convert(&format!("{field}.{name}"), value)?;
            Ok((name, value))
        })
        .collect()
}

fn range_set(r: &pb::Ranges) -> Result<RangeSet, ConvertError> {
    at_most("ranges", r.ranges.len(), MAX_RANGES)?;
    for (i, r) in r.ranges.iter().enumerate() {
        if r.begin > r.end {
            let rule = format!("must not be below begin, {} is below {}", r.end, r.begin);
            return Err(ConvertError::new(format!("ranges[{i}].end"), rule));
        }
    }
    let all = r.ranges.iter().map(|r| Interval {
        begin: r.begin,
        end: r.end,
    });
    Ok(RangeSet::from_ranges(all))
}

fn items(s: pb::Items) -> Result<BTreeSet<String>, ConvertError> {
    at_most("items", s.items.len(), MAX_SET_ITEMS)?;
    for (i, item) in s.items.iter().enumerate() {
        if item.is_empty() || item.len() > MAX_ITEM {
            let rule = format!("must be 1 to {MAX_ITEM} bytes, is {}", item.len());
            return Err(ConvertError::new(format!("items[{i}]"), rule));
        }
    }
    Ok(s.items.into_iter().collect())
}

impl TryFrom<pb::Volume> for Volume {
    type Error = ConvertError;

    fn try_from(v: pb::Volume) -> Result<Self, ConvertError> {
        if v.size_milli <= 0 {
            let rule = format!("must be over 0, is {}", v.size_milli);
            return Err(ConvertError::new("size_milli", rule));
        }
        Ok(Self {
            size: Milli(v.size_milli),
            shared: v.shared,
        })
    }
}

impl From<&Volume> for pb::Volume {
    fn from(v: &Volume) -> Self {
        Self {
            size_milli: v.size.0,
            shared: v.shared,
        }
    }
}

/// Puts the custom part into a message.
pub(super) fn put_custom(c: &Custom, out: &mut pb::Resources) {
    if c.is_empty() {
        return;
    }
    out.scalars_milli = c.scalars().map(|(n, q)| (n.to_owned(), q.0)).collect();
    let ranges = |r: &RangeSet| pb::Ranges {
        ranges: r
            .ranges()
            .iter()
            .map(|r| pb::Range {
                begin: r.begin,
                end: r.end,
            })
            .collect(),
    };
    out.ranges = c.ranges().map(|(n, r)| (n.to_owned(), ranges(r))).collect();
    let items = |s: &BTreeSet<String>| pb::Items {
        items: s.iter().cloned().collect(),
    };
    out.sets = c.sets().map(|(n, s)| (n.to_owned(), items(s))).collect();
    out.volumes = c
        .volumes()
        .map(|(id, v)| (id.to_string(), (&v).into()))
        .collect();
}
