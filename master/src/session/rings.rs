//! What edges have said of their rings, for edges that start: kept here, decided nowhere.
//!
//! Not in the core: nothing depends on it, it is lost with the master and said again by every edge that registers.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use waggle_types::{EdgeMark, EdgeRing, MAX_MARKS, MAX_RINGS, Millis, VipKey};

/// Edges that are listened to at a time; of more, the one that spoke longest ago is forgotten.
const MAX_EDGES: usize = 64;
/// What an edge said longer ago is of no use: windows are shorter.
const KEPT: Duration = Duration::from_mins(5);
/// Longest name of an edge, in bytes.
pub(super) const MAX_NAME: usize = 64;

#[derive(Debug)]
struct Said {
    at: Instant,
    rings: Vec<EdgeRing>,
}

/// See the module. Shared by all sessions of a master.
#[derive(Debug, Default)]
pub(super) struct Rings(Mutex<BTreeMap<String, Said>>);

impl Rings {
    /// Keeps what an edge says now, instead of what it said before.
    pub(super) fn put(&self, edge: String, rings: Vec<EdgeRing>, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, said| now.duration_since(said.at) < KEPT);
        if rings.is_empty() {
            all.remove(&edge);
            return;
        }
        all.insert(edge, Said { at: now, rings });
        if all.len() > MAX_EDGES {
            let oldest = all.iter().min_by_key(|(_, said)| said.at);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                all.remove(&name);
            }
        }
    }

    /// What all edges but this one have said; of several previous owners of a slot the one that was first.
    pub(super) fn of_others(&self, edge: &str, now: Instant) -> Vec<EdgeRing> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merged: BTreeMap<(VipKey, u32), BTreeMap<u32, EdgeMark>> = BTreeMap::new();
        let mut room = MAX_MARKS;
        for said in all.iter().filter(|(name, _)| *name != edge).map(|(_, s)| s) {
            let since = now.duration_since(said.at);
            let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            for ring in &said.rings {
                let key = (ring.vip, ring.size);
                if !merged.contains_key(&key) && merged.len() == MAX_RINGS {
                    continue;
                }
                let marks = merged.entry(key).or_default();
                for mark in &ring.marks {
                    let mark = EdgeMark {
                        age: Millis(mark.age.0.saturating_add(since)),
                        ..*mark
                    };
                    match marks.get_mut(&mark.slot) {
                        Some(held) if held.age < mark.age => *held = mark,
                        Some(_) => {}
                        None if room == 0 => {}
                        None => {
                            room -= 1;
                            marks.insert(mark.slot, mark);
                        }
                    }
                }
            }
        }
        let ring = |((vip, size), marks): ((VipKey, u32), BTreeMap<u32, EdgeMark>)| EdgeRing {
            vip,
            size,
            marks: marks.into_values().collect(),
        };
        merged.into_iter().map(ring).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use waggle_types::Protocol;

    use super::*;

    fn ring(marks: &[(u32, u8, u64)]) -> EdgeRing {
        EdgeRing {
            vip: VipKey {
                protocol: Protocol::Tcp,
                ip: Ipv4Addr::new(11, 0, 0, 1).into(),
                port: 80,
            },
            size: 251,
            marks: marks
                .iter()
                .map(|(slot, backend, age)| EdgeMark {
                    slot: *slot,
                    previous: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, *backend), 31_000),
                    age: Millis(*age),
                })
                .collect(),
        }
    }

    #[test]
    fn an_edge_that_starts_hears_the_others_with_their_age() {
        let rings = Rings::default();
        let start = Instant::now();
        let later = start + Duration::from_millis(500);
        rings.put("a".into(), vec![ring(&[(1, 1, 1000), (2, 1, 10)])], start);
        rings.put("b".into(), vec![ring(&[(1, 2, 100), (3, 2, 0)])], later);
        let heard = rings.of_others("c", later);
        assert_eq!(heard, [ring(&[(1, 1, 1500), (2, 1, 510), (3, 2, 0)])]);
        assert_eq!(
            rings.of_others("a", later),
            [ring(&[(1, 2, 100), (3, 2, 0)])]
        );
        // It has no marks any more.
        rings.put("b".into(), Vec::new(), later);
        assert!(rings.of_others("a", later).is_empty());
        // What is old is forgotten.
        rings.put("d".into(), Vec::new(), start + KEPT);
        assert!(rings.of_others("c", start + KEPT).is_empty());
    }

    #[test]
    fn edges_and_marks_are_bounded() {
        let rings = Rings::default();
        let start = Instant::now();
        for n in 0..=u32::try_from(MAX_EDGES).unwrap() {
            let at = start + Duration::from_millis(n.into());
            rings.put(n.to_string(), vec![ring(&[(n, 1, 0)])], at);
        }
        let heard = rings.of_others("x", start + Duration::from_secs(1));
        assert_eq!(heard[0].marks.len(), MAX_EDGES);
        assert!(
            heard[0].marks.iter().all(|m| m.slot > 0),
            "the first is forgotten"
        );
    }
}
