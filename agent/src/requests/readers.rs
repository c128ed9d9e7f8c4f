//! Who has read what: the kernel says it after the bytes, in a record of its own.
//!
//! Bytes that a server has received and nobody has read yet wait for one look, and with them all that comes after them on their
//! socket: its records stay in order. What nobody reads until then has no known reader.

use std::collections::{BTreeMap, BTreeSet};

use waggle_ebpf_common::requests::{Head, direction, kind, role};

/// Bytes of a record wait for so many looks.
const LOOKS: u8 = 1;
/// Most records that wait; beyond that the reader is not known.
const MAX_WAITING: usize = 16_384;

/// A record as the ring had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub head: Head,
    pub bytes: Vec<u8>,
}

/// What waits for its reader.
#[derive(Debug, Default)]
pub struct Readers {
    waiting: Vec<(Told, u8)>,
}

impl Readers {
    /// Takes what one look has found, in the ring's order; gives what is complete, in that order, with the thread that has read it.
    pub fn join(&mut self, came: Vec<Told>) -> Vec<Told> {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(came.into_iter().map(|told| (told, 0)));
        let read = assign(&mut all);
        let mut held = BTreeSet::new();
        let mut out = Vec::with_capacity(all.len());
        for (place, (told, looks)) in all.into_iter().enumerate() {
            let head = &told.head;
            if head.kind == kind::READ {
                continue;
            }
            let waits = is_read_by_somebody(head)
                && !read.contains(&place)
                && looks < LOOKS
                && self.waiting.len() < MAX_WAITING;
            if waits || held.contains(&head.socket) {
                held.insert(head.socket);
                self.waiting.push((told, looks + 1));
            } else {
                out.push(told);
            }
        }
        out
    }
}

/// A client's reading causes nothing.
fn is_read_by_somebody(head: &Head) -> bool {
    head.kind == kind::PIECE && head.direction == direction::IN && head.role != role::CLIENT
}

/// Writes down who reads; the places where that is known.
fn assign(all: &mut [(Told, u8)]) -> BTreeSet<usize> {
    let mut places = BTreeSet::new();
    // By socket: up to where somebody has read, and who; the nearest one last.
    let mut reads: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
    for (place, (told, _)) in all.iter_mut().enumerate().rev() {
        let head = &mut told.head;
        if head.kind == kind::READ {
            let of = reads.entry(head.socket).or_default();
            of.push((head.sequence, head.thread));
        } else if is_read_by_somebody(head) {
            let of = reads.get(&head.socket).into_iter().flatten().rev();
            // Numbers go round.
            let is_past = |up_to: u32| up_to.wrapping_sub(head.sequence).cast_signed() > 0;
            if let Some((_, thread)) = of.copied().find(|(up_to, _)| is_past(*up_to)) {
                head.thread = thread;
                places.insert(place);
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(socket: u64, way: u8, sequence: u32) -> Told {
        let head = Head {
            socket,
            sequence,
            direction: way,
            role: role::SERVER,
            ..Head::default()
        };
        Told {
            head,
            bytes: vec![1],
        }
    }

    fn read(socket: u64, thread: u64, up_to: u32) -> Told {
        let mut told = piece(socket, direction::IN, up_to);
        told.head.kind = kind::READ;
        told.head.thread = thread;
        told
    }

    fn shown(out: &[Told]) -> Vec<(u64, u32, u64)> {
        let show = |t: &Told| (t.head.socket, t.head.sequence, t.head.thread);
        out.iter().map(show).collect()
    }

    #[test]
    fn the_first_who_reads_past_it_is_the_reader() {
        let mut readers = Readers::default();
        let out = readers.join(vec![
            piece(1, direction::IN, u32::MAX - 5),
            // Up to where it begins, not into it.
            read(1, 8, u32::MAX - 5),
            read(1, 7, 20),
            piece(1, direction::OUT, 5),
            piece(1, direction::IN, 20),
            piece(2, direction::IN, 1),
            read(2, 5, 3),
            read(1, 9, 40),
        ]);
        let want = [(1, u32::MAX - 5, 7), (1, 5, 0), (1, 20, 9), (2, 1, 5)];
        assert_eq!(shown(&out), want);
    }

    #[test]
    fn what_nobody_has_read_waits_once_and_keeps_the_order_of_its_socket() {
        let mut readers = Readers::default();
        let out = readers.join(vec![
            piece(1, direction::IN, 1),
            piece(1, direction::OUT, 1),
            piece(2, direction::OUT, 1),
        ]);
        assert_eq!(shown(&out), [(2, 1, 0)]);
        let out = readers.join(vec![read(1, 7, 9), piece(1, direction::IN, 9)]);
        assert_eq!(shown(&out), [(1, 1, 7), (1, 1, 0)]);
        assert_eq!(shown(&readers.join(Vec::new())), [(1, 9, 0)]);
        assert!(readers.waiting.is_empty());
    }

    #[test]
    fn a_client_waits_for_nobody() {
        let mut readers = Readers::default();
        let mut answer = piece(1, direction::IN, 1);
        answer.head.role = role::CLIENT;
        assert_eq!(readers.join(vec![answer]).len(), 1);
    }
}
