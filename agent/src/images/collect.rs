//! What of the store goes. Pure: what there is in, what is to be removed out.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::Digest;

/// An image, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its layers.
    pub layers: Vec<Digest>,
    /// When a task was started from it last, or it came; Unix milliseconds.
    pub used_at_ms: u64,
    /// Whether a task has it as its root.
    pub in_use: bool,
}

/// All that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Images by their manifests' digests.
    pub images: BTreeMap<Digest, Candidate>,
    /// Size of each unpacked layer, and when it came; images share them.
    pub layers: BTreeMap<Digest, (u64, u64)>,
    /// Layers that a pull has asked for.
    pub pinned: BTreeSet<Digest>,
}

/// How much may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of layers.
    pub bytes: u64,
    /// Images without tasks that were used last before this go, Unix milliseconds.
    pub oldest_ms: u64,
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Images, in the order in which they go.
    pub images: Vec<Digest>,
    /// Layers that then belong to no image.
    pub layers: Vec<Digest>,
}

/// Decides what goes: images that are too old; then, while the rest is too large, layers of no image and the image that
/// has been unused for longest. Never one with a task, never a layer that a pull has asked for.
pub fn plan(have: &Inventory, bounds: Bounds) -> Plan {
    let mut out = Plan::default();
    let mut left: BTreeMap<Digest, &Candidate> = have.images.iter().map(|(d, c)| (*d, c)).collect();
    let mut by_age: Vec<(u64, Digest)> = left
        .iter()
        .filter(|(_, c)| !c.in_use)
        .map(|(d, c)| (c.used_at_ms, *d))
        .collect();
    by_age.sort_unstable();
    let mut n_users: BTreeMap<Digest, usize> = BTreeMap::new();
    for layer in left
        .values()
        .flat_map(|c| c.layers.iter().collect::<BTreeSet<_>>())
    {
        *n_users.entry(*layer).or_default() += 1;
    }
    let mut total: u64 = have.layers.values().map(|(bytes, _)| *bytes).sum();
    // Left by a pull that ended early: of use to the next try, for a while.
    let orphans = have
        .layers
        .iter()
        .filter(|(d, _)| !n_users.contains_key(d) && !have.pinned.contains(d));
    for (digest, (bytes, came_ms)) in orphans {
        if *came_ms < bounds.oldest_ms || total > bounds.bytes {
            total = total.saturating_sub(*bytes);
            out.layers.push(*digest);
        }
    }
    for (used_at_ms, digest) in by_age {
        if used_at_ms >= bounds.oldest_ms && total <= bounds.bytes {
            break;
        }
        let Some(gone) = left.remove(&digest) else {
            continue;
        };
        out.images.push(digest);
        for layer in gone.layers.iter().collect::<BTreeSet<_>>() {
            let users = n_users.entry(*layer).or_default();
            *users = users.saturating_sub(1);
            if *users == 0
                && !have.pinned.contains(layer)
                && let Some((bytes, _)) = have.layers.get(layer)
            {
                total = total.saturating_sub(*bytes);
                out.layers.push(*layer);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn image(layers: &[u8], used_at_ms: u64, in_use: bool) -> Candidate {
        Candidate {
            layers: layers.iter().copied().map(d).collect(),
            used_at_ms,
            in_use,
        }
    }

    fn inventory() -> Inventory {
        Inventory {
            images: BTreeMap::from([
                (d(101), image(&[1, 2], 10, false)),
                (d(102), image(&[1, 3], 20, false)),
                (d(103), image(&[1, 4], 5, true)),
            ]),
            layers: (1..=5).map(|n| (d(n), (100, 50))).collect(),
            pinned: BTreeSet::new(),
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_shared_layers_stay() {
        let have = inventory();
        let of = |bytes, oldest_ms| plan(&have, Bounds { bytes, oldest_ms });
        assert_eq!(of(500, 0), Plan::default());
        // The layer of no image first.
        assert_eq!(of(400, 0).images, []);
        assert_eq!(of(400, 0).layers, [d(5)]);
        assert_eq!(of(350, 0).images, [d(101)]);
        assert_eq!(of(350, 0).layers, [d(5), d(2)]);
        // What has a task stays, however old.
        assert_eq!(of(0, 0).images, [d(101), d(102)]);
        assert_eq!(of(0, 0).layers, [d(5), d(2), d(3)]);
        assert_eq!(of(1000, 15).images, [d(101)]);
    }

    #[test]
    fn what_is_pulled_stays() {
        let mut have = inventory();
        have.pinned = BTreeSet::from([d(5), d(2)]);
        let plan = plan(
            &have,
            Bounds {
                bytes: 0,
                oldest_ms: 99,
            },
        );
        assert_eq!(plan.layers, [d(3)]);
    }

    fn any_inventory() -> impl Strategy<Value = Inventory> {
        let candidate = (
            prop::collection::vec(0u8..8, 0..5),
            0u64..100,
            any::<bool>(),
        )
            .prop_map(|(layers, at, in_use)| image(&layers, at, in_use));
        (
            prop::collection::btree_map((100u8..120).prop_map(d), candidate, 0..8),
            prop::collection::btree_map((0u8..10).prop_map(d), (0u64..1000, 0u64..100), 0..10),
            prop::collection::btree_set((0u8..10).prop_map(d), 0..3),
        )
            .prop_map(|(images, layers, pinned)| Inventory {
                images,
                layers,
                pinned,
            })
    }

    proptest! {
        #[test]
        fn laws(have in any_inventory(), bytes in 0u64..3000, oldest_ms in 0u64..100) {
            let plan = plan(&have, Bounds { bytes, oldest_ms });
            let gone: BTreeSet<_> = plan.images.iter().copied().collect();
            prop_assert_eq!(gone.len(), plan.images.len());
            let mut kept: BTreeSet<Digest> = have.pinned.clone();
            for (digest, c) in have.images.iter().filter(|(d, _)| !gone.contains(d)) {
                kept.extend(&c.layers);
                // Too old and unused: gone.
                prop_assert!(c.in_use || c.used_at_ms >= oldest_ms, "{}", digest);
            }
            for digest in &plan.images {
                prop_assert!(!have.images[digest].in_use);
            }
            for layer in &plan.layers {
                prop_assert!(!kept.contains(layer), "a layer in use goes");
                prop_assert!(have.layers.contains_key(layer));
            }
            // Small enough, or nothing more could go.
            let removed: u64 = plan.layers.iter().map(|l| have.layers[l].0).sum();
            let total: u64 = have.layers.values().map(|(b, _)| *b).sum();
            let all_gone = have.images.iter().all(|(d, c)| c.in_use || gone.contains(d));
            prop_assert!(total - removed <= bytes || all_gone);
            // What is planned once is not planned again.
            let mut after = have.clone();
            after.images.retain(|d, _| !gone.contains(d));
            after.layers.retain(|d, _| !plan.layers.contains(d));
            prop_assert_eq!(super::plan(&after, Bounds { bytes, oldest_ms }), Plan::default());
        }
    }
}
