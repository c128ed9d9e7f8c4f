//! A ring of two generations: previous and current owner of each slot, and whether it changed lately.

use std::collections::{BTreeMap, BTreeSet};

use waggle_ebpf_common::edge::slot;
use waggle_types::{Millis, UnixMillis};

/// How changes are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Time that flows have to show themselves on a changed slot before its previous owner is forgotten.
    pub window: Millis,
    /// Most marked slots, in thousandths of the ring: they cost memory and time per packet. A backend that is gone is
    /// taken out beyond it.
    pub most_marked: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            window: Millis(60_000),
            most_marked: 100,
        }
    }
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retarget {
    /// Slots that are different now, with what they hold.
    pub changed: BTreeMap<u32, u32>,
    /// Slots that keep their owner for want of room for marks: to be tried again when windows have closed.
    pub deferred: usize,
}

/// A ring.
///
/// A slot is clean, or marked with its window open (flows of the previous owner may not be remembered yet), or marked with
/// its window closed (every flow that is not remembered is the current owner's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    slots: Vec<u32>,
    /// Marked, window open since.
    open: BTreeMap<u32, UnixMillis>,
    /// Marked, window closed.
    closed: BTreeSet<u32>,
}

impl Ring {
    /// A ring that starts with a table.
    pub fn new(table: &[u16]) -> Self {
        Self {
            slots: table
                .iter()
                .map(|owner| slot::pack(*owner, *owner, false))
                .collect(),
            open: BTreeMap::new(),
            closed: BTreeSet::new(),
        }
    }

    /// A ring as another edge, or the kernel, has it. Windows of marked slots open anew, `now`: nothing says since when
    /// they have been.
    pub fn adopt(slots: Vec<u32>, now: UnixMillis) -> Self {
        let open = (0..)
            .zip(&slots)
            .filter(|(_, slot)| slot::is_dirty(**slot))
            .map(|(at, _)| (at, now))
            .collect();
        Self {
            slots,
            open,
            closed: BTreeSet::new(),
        }
    }

    /// What the slots hold.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Marked slots.
    pub fn marked(&self) -> usize {
        self.open.len() + self.closed.len()
    }

    /// Slots with an open window whose previous owner is another than the current: position, that owner, since when.
    pub fn open_marks(&self) -> impl Iterator<Item = (u32, u16, UnixMillis)> + '_ {
        self.open.iter().filter_map(|(at, since)| {
            let word = *self.slots.get(*at as usize)?;
            let previous = slot::previous(word);
            (previous != slot::current(word)).then_some((*at, previous, *since))
        })
    }

    /// Marks a slot of a ring that serves nobody yet, as another edge has it.
    pub fn mark(&mut self, at: u32, previous: u16, since: UnixMillis) {
        let Some(word) = self.slots.get_mut(at as usize) else {
            return;
        };
        let current = slot::current(*word);
        if !slot::is_dirty(*word) && current != previous {
            *word = slot::pack(previous, current, true);
            self.open.insert(at, since);
        }
    }

    /// Owners of new connections.
    pub fn currents(&self) -> BTreeSet<u16> {
        self.slots.iter().map(|word| slot::current(*word)).collect()
    }

    /// Owners that a slot names, previous or current.
    pub fn owners(&self) -> BTreeSet<u16> {
        self.slots
            .iter()
            .flat_map(|word| [slot::previous(*word), slot::current(*word)])
            .collect()
    }

    /// Gives new connections the owners of a table of the same size.
    ///
    /// `gone` are owners that serve no flow any more: they leave at once, as previous owners too.
    pub fn retarget(
        &mut self,
        table: &[u16],
        gone: &BTreeSet<u16>,
        config: RingConfig,
        now: UnixMillis,
    ) -> Retarget {
        let room = self.slots.len() as u64 * u64::from(config.most_marked) / 1000;
        let mut room = usize::try_from(room)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.marked());
        let mut out = Retarget::default();
        for (at, wanted) in (0..).zip(table.iter().copied()) {
            let Some(word) = self.slots.get_mut(at as usize) else {
                break;
            };
            let marked = slot::is_dirty(*word);
            let (previous, current) = (slot::previous(*word), slot::current(*word));
            let (was_gone, is_gone) = (gone.contains(&previous), gone.contains(&current));
            let new = if !marked && is_gone {
                // Nobody's flow is left on it.
                slot::pack(wanted, wanted, false)
            } else if !marked && current != wanted && room == 0 {
                out.deferred += 1;
                *word
            } else if !marked && current != wanted {
                room -= 1;
                slot::pack(current, wanted, true)
            } else if marked {
                let previous = if was_gone { wanted } else { previous };
                slot::pack(previous, wanted, true)
            } else {
                *word
            };
            if new == *word {
                continue;
            }
            *word = new;
            out.changed.insert(at, new);
            if slot::is_dirty(new) && !self.open.contains_key(&at) {
                // What is marked with a closed window gets an open one: its previous owner's flows are remembered
                // only if they have shown themselves.
                self.closed.remove(&at);
                self.open.insert(at, now);
            }
        }
        out
    }

    /// Forgets the previous owners of slots whose window has passed; the marks stay.
    pub fn close(&mut self, config: RingConfig, now: UnixMillis) -> BTreeMap<u32, u32> {
        let over: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, since)| now.since(**since) >= config.window)
            .map(|(at, _)| *at)
            .collect();
        let mut changed = BTreeMap::new();
        for at in over {
            self.open.remove(&at);
            self.closed.insert(at);
            let word = &mut self.slots[at as usize];
            let current = slot::current(*word);
            let new = slot::pack(current, current, true);
            if new != *word {
                *word = new;
                changed.insert(at, new);
            }
        }
        changed
    }

    /// Takes the mark off slots with a closed window of which no remembered flow is another owner's.
    ///
    /// `remembered` are the owners of live flows by slot.
    pub fn clean(&mut self, remembered: &BTreeMap<u32, BTreeSet<u16>>) -> BTreeMap<u32, u32> {
        let mut changed = BTreeMap::new();
        let slots = &mut self.slots;
        self.closed.retain(|at| {
            let word = &mut slots[*at as usize];
            let current = slot::current(*word);
            let elsewhere = remembered
                .get(at)
                .is_some_and(|owners| owners.iter().any(|owner| *owner != current));
            if elsewhere {
                return true;
            }
            *word = slot::pack(current, current, false);
            changed.insert(*at, *word);
            false
        });
        changed
    }

    /// Whether a window is open or a mark left: there is something to do later.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty() && self.closed.is_empty()
    }
}
