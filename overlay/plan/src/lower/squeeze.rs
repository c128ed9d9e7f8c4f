//! A set that can't be written elsewhere: the columns of backends that are gone are handed to those that are not, word
//! by word.

use waggle_ebpf_common as abi;

/// One word of the set's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patch {
    /// Counted from the header.
    pub(super) cell: u32,
    /// Which of its words.
    pub(super) word: u8,
    /// Kernel bytes.
    pub(super) value: u32,
}

/// The patches, in their order, after which only backends that are `alive` are chosen, and how many these are. After
/// each of them the set is sound: a choice falls on a backend that it fell on before, or on one that is alive.
pub(super) fn patches(
    cells: &[abi::Cell],
    alive: impl Fn(&abi::Cell) -> bool,
) -> (Vec<Patch>, usize) {
    let header: abi::SetHeader = cells.first().copied().unwrap_or_default().into();
    let chosen = cells.get(1..=usize::from(header.n)).unwrap_or_default();
    let living: Vec<u32> = (0..)
        .zip(chosen)
        .filter_map(|(i, c)| alive(c).then_some(i))
        .collect();
    let mut out = Vec::new();
    let mut patch = |cell, word, value| out.push(Patch { cell, word, value });
    if living.is_empty() && header.n > 0 {
        patch(0, abi::COUNTS_WORD, 0);
    }
    let mut turn = living.iter().cycle();
    for (i, cell) in (0..).zip(chosen) {
        let own: abi::Backend = (*cell).into();
        let strays = living.binary_search(&own.alias).is_err();
        let to = if living.binary_search(&i).is_ok() {
            // One that was dead takes its column back.
            let handed_on = own.alias != i && own.threshold == 0;
            (handed_on || strays).then_some(i)
        } else {
            let chosen_yet = own.threshold != 0 || strays;
            turn.next().copied().filter(|_| chosen_yet)
        };
        let Some(to) = to else {
            continue;
        };
        // The alias first: until the threshold is written too, some still choose the backend itself.
        patch(i + 1, abi::ALIAS_WORD, to);
        if to != i {
            patch(i + 1, abi::THRESHOLD_WORD, 0);
        }
    }
    (out, living.len())
}
