//! A ring on another edge: updates are data, so that all edges have the same generations in the same order.

use std::collections::BTreeMap;

use waggle_ebpf_common::edge::slot;

/// A change of a ring, from the one who decides to every edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingUpdate {
    /// Everything: for an edge that starts, or has missed an update. Marked slots come marked, with both owners.
    Full {
        /// Number of this state.
        generation: u64,
        /// All slots.
        slots: Vec<u32>,
    },
    /// What is different.
    Delta {
        /// The state that it changes; its own number is one more.
        from: u64,
        /// Slots with what they hold now.
        slots: BTreeMap<u32, u32>,
    },
}

/// Why an update was not taken. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// An update in between is missing: ask for everything.
    #[error("ring is at generation {at}, the update changes {from}")]
    Gap {
        /// What is here.
        at: u64,
        /// What the update is for.
        from: u64,
    },
    /// Older than what is here.
    #[error("ring is at generation {at}, the update is {generation}")]
    Stale {
        /// What is here.
        at: u64,
        /// What came.
        generation: u64,
    },
    /// A slot that the ring does not have.
    #[error("slot {slot} lies outside of the ring's {size}")]
    NoSlot {
        /// The slot.
        slot: u32,
        /// Slots in the ring.
        size: usize,
    },
    /// An unmarked slot with two owners.
    #[error("slot {slot} has two owners and no mark")]
    Unmarked {
        /// The slot.
        slot: u32,
    },
}

/// A ring as an edge has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replica {
    generation: u64,
    slots: Vec<u32>,
}

impl Replica {
    /// Takes an update; returns the slots to write, in order.
    ///
    /// # Errors
    /// [`ReplicaError`]; an update of what is here already is success and writes nothing.
    pub fn apply(&mut self, update: &RingUpdate) -> Result<BTreeMap<u32, u32>, ReplicaError> {
        match update {
            RingUpdate::Full { generation, slots } => {
                if *generation < self.generation {
                    return Err(ReplicaError::Stale {
                        at: self.generation,
                        generation: *generation,
                    });
                }
                for (at, word) in (0..).zip(slots) {
                    sound(at, *word)?;
                }
                let changed = (0..)
                    .zip(slots.iter().copied())
                    .filter(|(at, word)| self.slots.get(*at as usize) != Some(word))
                    .collect();
                self.slots.clone_from(slots);
                self.generation = *generation;
                Ok(changed)
            }
            RingUpdate::Delta { from, slots } => {
                if from.saturating_add(1) == self.generation {
                    let is_here = slots
                        .iter()
                        .all(|(at, word)| self.slots.get(*at as usize) == Some(word));
                    if is_here {
                        return Ok(BTreeMap::new());
                    }
                }
                if *from != self.generation {
                    return Err(ReplicaError::Gap {
                        at: self.generation,
                        from: *from,
                    });
                }
                for (at, word) in slots {
                    if *at as usize >= self.slots.len() {
                        return Err(ReplicaError::NoSlot {
                            slot: *at,
                            size: self.slots.len(),
                        });
                    }
                    sound(*at, *word)?;
                }
                for (at, word) in slots {
                    self.slots[*at as usize] = *word;
                }
                self.generation += 1;
                Ok(slots.clone())
            }
        }
    }

    /// Number of the last update taken.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What the slots hold.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }
}

fn sound(at: u32, word: u32) -> Result<(), ReplicaError> {
    if !slot::is_dirty(word) && slot::previous(word) != slot::current(word) {
        return Err(ReplicaError::Unmarked { slot: at });
    }
    Ok(())
}
