//! Resource quantities: integer milli-units, port sets, and what clusters add of their own.

use std::fmt;

use crate::{Custom, PortSet, VolumeId};

/// A quantity in thousandths of its unit (Mesos scalars have three decimals), never negative in a valid value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Milli(pub i64);

impl Milli {
    /// From a wire double, rounded to the nearest thousandth; `None` for NaN, infinity, negative or
    /// over 10^12 units.
    pub fn from_f64(v: f64) -> Option<Self> {
        if !v.is_finite() || !(0.0..=1e12).contains(&v) {
            return None;
        }
        #[allow(
            clippy::cast_possible_truncation,
            reason = "bounded to 10^15 just above"
        )]
        Some(Self((v * 1000.0).round() as i64))
    }

    /// As a wire double.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// Whole units.
    pub const fn units(units: i64) -> Self {
        Self(units * 1000)
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % 1000 == 0 {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}", self.to_f64())
        }
    }
}

/// The built-in scalar kinds; positions in [`Resources::scalars`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum ScalarKind {
    /// CPU shares, in CPUs.
    Cpus = 0,
    /// Memory, in MiB.
    Mem = 1,
    /// Disk, in MiB.
    Disk = 2,
    /// Whole GPUs.
    Gpus = 3,
}

impl ScalarKind {
    /// Every kind, in position order.
    pub const ALL: [Self; 4] = [Self::Cpus, Self::Mem, Self::Disk, Self::Gpus];

    /// Mesos's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpus => "cpus",
            Self::Mem => "mem",
            Self::Disk => "disk",
            Self::Gpus => "gpus",
        }
    }
}

/// A bundle of resources: what an agent has, an offer holds, or a task uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Resources {
    /// Indexed by [`ScalarKind`].
    pub scalars: [Milli; 4],
    /// Host ports.
    pub ports: PortSet,
    /// Custom kinds and persistent volumes.
    pub custom: Custom,
}

impl Resources {
    /// Scalars given in milli-units, no ports.
    pub fn from_millis(cpus: i64, mem: i64, disk: i64) -> Self {
        Self {
            scalars: [Milli(cpus), Milli(mem), Milli(disk), Milli(0)],
            ..Self::default()
        }
    }

    /// What a volume of this size is made of: disk, or the disk of its own that its id names.
    pub fn of_disk(id: &VolumeId, size: Milli) -> Self {
        let mut out = Self::default();
        match id.kind() {
            Some(kind) => out.custom.set_scalar(kind, size),
            None => out.scalars[ScalarKind::Disk as usize] = size,
        }
        out
    }

    /// With its volumes turned back into what they were made of; `None` when that is more than can be counted.
    #[must_use]
    pub fn flat(&self) -> Option<Self> {
        let mut out = self.clone();
        for (id, v) in self.custom.volumes() {
            out.custom.remove_volume(id);
            out.try_add(&Self::of_disk(id, v.size))?;
        }
        Some(out)
    }

    /// The same scalars with these ports.
    #[must_use]
    pub fn with_ports(mut self, ports: PortSet) -> Self {
        self.ports = ports;
        self
    }

    /// The quantity of one kind.
    pub fn get(&self, kind: ScalarKind) -> Milli {
        self.scalars[kind as usize]
    }

    /// Whether nothing is in the bundle.
    pub fn is_empty(&self) -> bool {
        self.scalars.iter().all(|s| s.0 == 0) && self.ports.is_empty() && self.custom.is_empty()
    }

    /// Whether a quantity is below zero, which no valid value is.
    pub fn is_negative(&self) -> bool {
        self.scalars.iter().any(|s| s.0 < 0) || self.custom.is_negative()
    }

    /// Whether `other` fits into this bundle, every kind and every port.
    pub fn contains(&self, other: &Self) -> bool {
        self.scalars.iter().zip(&other.scalars).all(|(a, b)| a >= b)
            && self.ports.contains_all(&other.ports)
            && self.custom.contains(&other.custom)
    }

    /// Adds in place. `None`, and nothing changed, when a port (or another thing that has one holder) is in
    /// both, or a sum overflows.
    pub fn try_add(&mut self, other: &Self) -> Option<()> {
        if !other.ports.is_empty() && self.ports.intersects(&other.ports) {
            return None;
        }
        let mut scalars = self.scalars;
        for (a, b) in scalars.iter_mut().zip(&other.scalars) {
            a.0 = a.0.checked_add(b.0)?;
        }
        if !other.custom.is_empty() {
            self.custom = self.custom.checked_add(&other.custom)?;
        }
        self.scalars = scalars;
        if !other.ports.is_empty() {
            self.ports = self.ports.union(&other.ports);
        }
        Some(())
    }

    /// Takes away in place. `None`, and nothing changed, when `other` does not fit.
    pub fn try_sub(&mut self, other: &Self) -> Option<()> {
        if !self.contains(other) {
            return None;
        }
        for (a, b) in self.scalars.iter_mut().zip(&other.scalars) {
            a.0 -= b.0;
        }
        if !other.ports.is_empty() {
            self.ports = self.ports.difference(&other.ports);
        }
        if !other.custom.is_empty() {
            self.custom = self.custom.checked_sub(&other.custom)?;
        }
        Some(())
    }

    /// What is in both: the smaller quantity of each kind, and what both hold of the others.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let mut scalars = self.scalars;
        for (a, b) in scalars.iter_mut().zip(&other.scalars) {
            *a = (*a).min(*b);
        }
        Self {
            scalars,
            ports: self.ports.intersection(&other.ports),
            custom: self.custom.common(&other.custom),
        }
    }

    /// Sum. `None` when a port is in both: a port has one holder.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let mut out = self.clone();
        out.try_add(other)?;
        Some(out)
    }

    /// Difference. `None` when `other` does not fit.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        if !self.contains(other) {
            return None;
        }
        let mut out = self.clone();
        out.try_sub(other)?;
        Some(out)
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        for kind in ScalarKind::ALL {
            let q = self.get(kind);
            if q.0 != 0 {
                write!(f, "{sep}{}:{q}", kind.name())?;
                sep = "; ";
            }
        }
        if !self.ports.is_empty() {
            write!(f, "{sep}ports:{}", self.ports)?;
            sep = "; ";
        }
        if !self.custom.is_empty() {
            write!(f, "{sep}{}", self.custom)?;
            sep = "; ";
        }
        if sep.is_empty() {
            f.write_str("nothing")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addition_and_subtraction_undo_each_other() {
        let a = Resources::from_millis(1500, 128_000, 0).with_ports(PortSet::from_ports([31000]));
        let b = Resources::from_millis(500, 0, 7).with_ports(PortSet::from_ports([31001]));
        let sum = a.checked_add(&b).unwrap();
        assert_eq!(sum.checked_sub(&b).unwrap(), a);
        assert_eq!(
            sum.to_string(),
            "cpus:2; mem:128; disk:0.007; ports:[31000-31001]"
        );
        assert_eq!(a.checked_sub(&sum), None);
        let mut c = a.clone();
        assert_eq!(c.try_add(&b), Some(()));
        assert_eq!(c, sum);
        assert_eq!(c.try_add(&b), None);
        assert_eq!(c, sum, "nothing changed");
        assert_eq!(sum.common(&a), a);
        assert_eq!(c.try_sub(&a), Some(()));
        assert_eq!(c, b);
        assert_eq!(c.try_sub(&a), None);
        assert_eq!(c, b, "nothing changed");
        assert_eq!(a.checked_add(&a), None, "a port has one holder");
    }

    #[test]
    fn volumes_are_made_of_their_disk() {
        let volume = |mib| crate::Volume {
            size: Milli::units(mib),
            shared: false,
        };
        let id = |s: &str| VolumeId::new(s).unwrap();
        let mut r = Resources::from_millis(0, 0, 5000);
        r.custom.set_scalar("disk.fast", Milli(1000));
        r.custom.set_volume(id("a"), volume(2));
        r.custom.set_volume(id("b@fast"), volume(3));
        let flat = r.flat().unwrap();
        assert_eq!(flat.to_string(), "disk:7; disk.fast:4");
        assert_eq!(flat.flat().unwrap(), flat);
        r.custom.set_volume(id("c"), volume(i64::MAX / 1000));
        assert_eq!(r.flat(), None);
    }

    #[test]
    fn wire_doubles_are_checked() {
        assert_eq!(Milli::from_f64(0.1), Some(Milli(100)));
        for bad in [f64::NAN, f64::INFINITY, -0.5, 1e300] {
            assert_eq!(Milli::from_f64(bad), None, "{bad}");
        }
    }
}
