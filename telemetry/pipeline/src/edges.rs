//! Which of very many counters have a series of their own: the busiest; the rest is one sum. Totals are always right.
//!
//! A counter that loses its place keeps what its series showed and counts for the sum from then on; one that gets a place
//! begins with what follows. So no series ever goes down, and all of them together, those that are not shown any more
//! included, are what was counted.

use std::collections::BTreeMap;
use std::ops::AddAssign;

/// What counters count.
pub trait Amount: Copy + Default + AddAssign {
    /// By how much it is busier than another one.
    fn weight(&self) -> u64;
}

/// The busiest of many counters.
#[derive(Debug, Clone)]
pub struct Busiest<K, T> {
    places: usize,
    edges: BTreeMap<K, Edge<T>>,
    other: Option<T>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Edge<T> {
    /// What its series shows, or showed.
    own: T,
    /// The same before what came last.
    before: T,
    /// What came last.
    news: T,
    is_shown: bool,
}

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<K, T> {
    /// Counters with a series of their own.
    pub own: BTreeMap<K, T>,
    /// The sum of all that came for others; `None` while there were none.
    pub other: Option<T>,
}

impl<K: Ord + Clone, T: Amount> Busiest<K, T> {
    /// With `places` series, and one for the others.
    pub fn new(places: usize) -> Self {
        Self {
            places,
            edges: BTreeMap::new(),
            other: None,
        }
    }

    /// Takes in what came since the last time, by counter.
    pub fn add(&mut self, news: &BTreeMap<K, T>) {
        for edge in self.edges.values_mut() {
            edge.before = edge.own;
            edge.news = T::default();
        }
        let mut n_shown = self.edges.values().filter(|e| e.is_shown).count();
        for (key, amount) in news {
            let edge = self.edges.entry(key.clone()).or_default();
            edge.news = *amount;
            if !edge.is_shown && n_shown < self.places {
                edge.is_shown = true;
                n_shown += 1;
            }
            if edge.is_shown {
                edge.own += *amount;
            } else {
                *self.other.get_or_insert_default() += *amount;
            }
        }
        self.swap();
        self.forget();
    }

    /// What is to be shown.
    pub fn shown(&self) -> Shown<K, T> {
        let own = self.edges.iter().filter(|(_, e)| e.is_shown);
        Shown {
            own: own.map(|(k, e)| (k.clone(), e.own)).collect(),
            other: self.other,
        }
    }

    /// A counter that is more than twice as busy as the least busy one of those that are shown takes its place; one at a
    /// time, so that series don't come and go.
    fn swap(&mut self) {
        let busiest = self.edges.iter().filter(|(_, e)| !e.is_shown);
        let busiest = busiest.max_by_key(|(_, e)| e.news.weight());
        let idlest = self.edges.iter().filter(|(_, e)| e.is_shown);
        let idlest = idlest.min_by_key(|(_, e)| e.news.weight());
        let (Some((up, busy)), Some((down, idle))) = (busiest, idlest) else {
            return;
        };
        if busy.news.weight() <= idle.news.weight().saturating_mul(2) {
            return;
        }
        let (up, down) = (up.clone(), down.clone());
        if let Some(edge) = self.edges.get_mut(&down) {
            edge.is_shown = false;
            // Nobody would see it grow once more.
            edge.own = edge.before;
            *self.other.get_or_insert_default() += edge.news;
        }
        if let Some(edge) = self.edges.get_mut(&up) {
            edge.is_shown = true;
        }
    }

    /// Of those that are not shown, what their series showed is kept, for as many as there are places: they go on from there if
    /// they come back. One that is forgotten comes back as a new series, which backends take for a restart.
    fn forget(&mut self) {
        self.edges.retain(|_, e| e.is_shown || e.own.weight() > 0);
        let hidden = self.edges.values().filter(|e| !e.is_shown).count();
        let mut excess = hidden.saturating_sub(self.places);
        self.edges.retain(|_, e| {
            let goes = excess > 0 && !e.is_shown;
            excess -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    struct N(u64);

    impl AddAssign for N {
        fn add_assign(&mut self, other: Self) {
            self.0 += other.0;
        }
    }

    impl Amount for N {
        fn weight(&self) -> u64 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_counted_twice(
            all in prop::collection::vec(prop::collection::btree_map(0..8_u8, 0..1000_u64, 0..8), 1..40),
        ) {
            let mut busiest = Busiest::new(4);
            let mut total = 0;
            let mut latest = BTreeMap::<u8, u64>::new();
            let mut other = 0;
            for news in all {
                total += news.values().sum::<u64>();
                busiest.add(&news.into_iter().map(|(k, n)| (k, N(n))).collect());
                let shown = busiest.shown();
                prop_assert!(shown.own.len() <= 4);
                for (key, N(value)) in shown.own {
                    let before = latest.insert(key, value).unwrap_or(0);
                    prop_assert!(value >= before, "a series went down");
                }
                let N(value) = shown.other.unwrap_or_default();
                prop_assert!(value >= other);
                other = value;
                // All that was ever shown, as last seen.
                prop_assert_eq!(latest.values().sum::<u64>() + other, total);
            }
        }

        #[test]
        fn what_is_kept_is_bounded(
            all in prop::collection::vec(prop::collection::btree_map(any::<u16>(), 0..1000_u64, 0..30), 1..40),
        ) {
            let mut busiest = Busiest::new(4);
            for news in all {
                busiest.add(&news.into_iter().map(|(k, n)| (k, N(n))).collect());
                prop_assert!(busiest.edges.len() <= 8);
            }
        }
    }

    #[test]
    fn a_busy_one_takes_the_place_of_an_idle_one() {
        let mut busiest = Busiest::new(2);
        let news = |a, b, c| BTreeMap::from([("a", N(a)), ("b", N(b)), ("c", N(c))]);
        busiest.add(&news(5, 5, 5));
        let shown = busiest.shown();
        assert_eq!(shown.own, BTreeMap::from([("a", N(5)), ("b", N(5))]));
        assert_eq!(shown.other, Some(N(5)));
        // What made it busy is in the sum already; what follows is its own.
        busiest.add(&news(1, 5, 100));
        busiest.add(&news(0, 0, 5));
        let shown = busiest.shown();
        assert_eq!(shown.own, BTreeMap::from([("b", N(10)), ("c", N(5))]));
        assert_eq!(shown.other, Some(N(106)));
    }

    #[test]
    fn with_room_for_all_there_are_no_others() {
        let mut busiest = Busiest::new(2);
        busiest.add(&BTreeMap::from([("a", N(1))]));
        assert_eq!(busiest.shown().other, None);
    }
}
