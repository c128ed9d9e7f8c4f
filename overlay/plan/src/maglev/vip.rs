//! What is known of a VIP: its places, its ring, its backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
};

use waggle_ebpf_common::edge as abi;
use waggle_types::UnixMillis;

use super::{
    lowering::backend_of,
    ring::Ring,
    write::{EdgeAdopted, EdgeService},
};

/// A VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vip {
    pub(super) service: EdgeService,
    pub(super) record: u32,
    pub(super) value: abi::Record,
    pub(super) ring: Ring,
    /// Slots that belong to it.
    pub(super) size: u32,
    /// Nobody gets new connections, but some have old ones.
    pub(super) all_drain: bool,
    /// Slots that a change could not mark yet.
    pub(super) deferred: usize,
    /// Places for backends.
    pub(super) places: u32,
    pub(super) owners: BTreeMap<SocketAddrV4, u16>,
    /// Last generation of each place.
    pub(super) generations: BTreeMap<u16, u16>,
    /// Places of backends that left, and until when they rest.
    pub(super) resting: BTreeMap<u16, UnixMillis>,
}

impl Vip {
    /// As it was found; planned anew whatever is asked for.
    pub(super) fn adopted(found: EdgeAdopted, now: UnixMillis) -> Self {
        let mut vip = Self {
            service: EdgeService {
                affinity: found.value.port_mask == 0,
                ..EdgeService::default()
            },
            record: found.record,
            size: u32::try_from(found.slots.len()).unwrap_or(0),
            all_drain: false,
            deferred: 1,
            places: found.value.places,
            value: found.value,
            ring: Ring::adopt(found.slots, now),
            owners: BTreeMap::new(),
            generations: BTreeMap::new(),
            resting: BTreeMap::new(),
        };
        let serving: BTreeSet<u16> = vip.ring.currents();
        for (owner, place) in (0..).zip(&found.backends) {
            vip.generations.insert(owner, place.last_generation);
            if place.generation == 0 {
                continue;
            }
            let (addr, mut backend) = backend_of(place);
            backend.weight = u32::from(serving.contains(&owner));
            vip.owners.insert(addr, owner);
            vip.service.backends.insert(addr, backend);
        }
        vip
    }
}
