//! What an accept holds while its operations are done one by one.

use waggle_types::{Reservation, ResourcePart, Resources, Volume, VolumeId};

use crate::volumes::{in_the_way, owned};

/// Parts by reservation: those of the framework's role first, then what is unreserved, then what is lent.
#[derive(Debug, Clone)]
pub(crate) struct Hand(Vec<ResourcePart>);

impl Hand {
    pub fn new(mut parts: Vec<ResourcePart>) -> Self {
        parts.sort_by_key(order);
        Self(parts)
    }

    pub fn parts(&self) -> &[ResourcePart] {
        &self.0
    }

    /// Takes this much, in order; `None`, and nothing changed, when there is not enough.
    pub fn give(&mut self, want: &Resources) -> Option<Vec<ResourcePart>> {
        let mut left = want.clone();
        let mut given = Vec::new();
        for part in &self.0 {
            let resources = part.resources.common(&left);
            if !resources.is_empty() {
                left.try_sub(&resources)?;
                given.push(ResourcePart {
                    resources,
                    ..part.clone()
                });
            }
        }
        if !left.is_empty() {
            return None;
        }
        for g in &given {
            self.launch(&g.reservation, g.revocable, &g.resources)?;
        }
        Some(given)
    }

    /// Takes exactly this for a task; shared volumes stay in it. `None`, and nothing changed, when it is
    /// not there.
    pub fn launch(&mut self, stack: &[Reservation], revocable: bool, r: &Resources) -> Option<()> {
        let at = self.at(stack, revocable)?;
        let part = self.0.get(at)?;
        if !part.resources.contains(r) {
            return None;
        }
        self.take(stack, revocable, &owned(r))
    }

    fn at(&self, stack: &[Reservation], revocable: bool) -> Option<usize> {
        let same = |p: &ResourcePart| p.reservation == stack && p.revocable == revocable;
        self.0.iter().position(same)
    }

    /// A volume because of which a reservation can't end for this much.
    pub fn in_the_way(&self, stack: &[Reservation], r: &Resources) -> Option<&VolumeId> {
        in_the_way(&self.0.get(self.at(stack, false)?)?.resources, r)
    }

    pub fn volume(&self, stack: &[Reservation], id: &VolumeId) -> Option<Volume> {
        self.0
            .get(self.at(stack, false)?)?
            .resources
            .custom
            .volume(id)
    }

    /// Takes exactly this; `None`, and nothing changed, when it is not there.
    pub fn take(&mut self, stack: &[Reservation], revocable: bool, r: &Resources) -> Option<()> {
        let at = self.at(stack, revocable)?;
        let part = self.0.get_mut(at)?;
        part.resources.try_sub(r)?;
        if part.resources.is_empty() {
            self.0.remove(at);
        }
        Some(())
    }

    /// Puts in what an operation made.
    pub fn put(&mut self, stack: &[Reservation], r: &Resources) {
        let same = |p: &&mut ResourcePart| p.reservation == stack && !p.revocable;
        if let Some(part) = self.0.iter_mut().find(same) {
            part.resources.try_add(r);
        } else {
            self.0.push(ResourcePart {
                reservation: stack.to_vec(),
                revocable: false,
                resources: r.clone(),
            });
            self.0.sort_by_key(order);
        }
    }
}

fn order(p: &ResourcePart) -> (bool, bool) {
    (p.revocable, p.reservation.is_empty())
}
