//! Places in the edge's tables, and the writes that bring a change there.
//!
//! Order within a change: backends, slots, record, VIP; what is left behind rests before it is used again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
};

use waggle_ebpf_common::edge::{self as abi, backend_flag, slot};
use waggle_types::{Millis, UnixMillis, VipKey};

use super::{
    lowering::{
        all_slots, check, describe, kernel_key, members, places, publish, ranges, take, vip_key,
    },
    marks::AllHeard,
    ring::{Ring, RingConfig},
    table::{ring_size, table},
    vip::Vip,
    write::{
        EdgeAdopted, EdgeBackend, EdgeError, EdgePlanConfig, EdgeService, EdgeWrite, Memory,
        Planned,
    },
};
use crate::lower::slots::Slots;

/// What the edge's tables hold, as written by us.
#[derive(Debug, Clone)]
pub struct EdgePlan {
    config: EdgePlanConfig,
    vips: BTreeMap<VipKey, Vip>,
    records: Slots,
    ids: Slots,
    rings: Slots,
    backends: Slots,
    /// VIPs that were found and are not kept as they are: key and record.
    strays: BTreeMap<u64, u32>,
    /// Other edges' marks of VIPs that are not served yet.
    pub(super) heard: AllHeard,
}

impl EdgePlan {
    /// Of empty tables.
    pub fn new(config: EdgePlanConfig) -> Self {
        Self {
            vips: BTreeMap::new(),
            records: Slots::new(config.records),
            ids: Slots::new(config.records),
            rings: Slots::new(config.slots),
            backends: Slots::new(config.backends),
            strays: BTreeMap::new(),
            heard: AllHeard::new(),
            config,
        }
    }

    /// Of tables that outlived the agent: VIPs keep their places, generations and marks, and nothing is written until
    /// services are asked for that differ. What serves nobody or can't be
    /// trusted (it overlaps another) is begun anew with the first change, or withdrawn.
    pub fn adopt(config: EdgePlanConfig, found: Vec<EdgeAdopted>, now: UnixMillis) -> Self {
        let mut this = Self::new(config);
        for adopted in found {
            let value = adopted.value;
            let size = u32::try_from(adopted.slots.len()).unwrap_or(u32::MAX);
            let claims = [
                this.records.claim(adopted.record, 1),
                this.ids.claim(value.vip_id, 1),
                this.rings.claim(value.ring_base, size),
                this.backends.claim(value.backend_base, value.places),
            ];
            let is_whole = size > 0 && claims.iter().all(|(_, whole)| *whole);
            match vip_key(value.key) {
                Some(key) if is_whole => {
                    this.vips.insert(key, Vip::adopted(adopted, now));
                }
                _ => {
                    this.strays.insert(value.key, adopted.record);
                }
            }
        }
        this
    }

    /// Plans the way from what is there to `services`. VIPs that are not named are withdrawn first.
    pub fn apply(&mut self, services: &BTreeMap<VipKey, EdgeService>, now: UnixMillis) -> Planned {
        for pool in [
            &mut self.records,
            &mut self.ids,
            &mut self.rings,
            &mut self.backends,
        ] {
            pool.release(now);
        }
        self.forget_heard(now);
        let mut out = Planned::default();
        let left: Vec<VipKey> = self
            .vips
            .keys()
            .filter(|key| !services.contains_key(key))
            .copied()
            .collect();
        for key in left {
            self.remove(key, now, &mut out);
        }
        let strays = std::mem::take(&mut self.strays);
        let wanted: BTreeSet<u64> = services.keys().filter_map(|key| kernel_key(*key)).collect();
        for key in strays.keys().filter(|key| !wanted.contains(key)) {
            out.writes.push(EdgeWrite::Withdraw { key: *key });
        }
        for (key, service) in services {
            let done = match self.vips.remove(key) {
                None => self
                    .add(*key, service, now, &mut out)
                    .map(|vip| (vip, Ok::<_, EdgeError>(()))),
                Some(mut vip) => {
                    let done = self.change(*key, &mut vip, service, now, &mut out);
                    Ok((vip, done))
                }
            };
            match done {
                Ok((vip, done)) => {
                    self.vips.insert(*key, vip);
                    out.failures.extend(done.err());
                }
                Err(error) => out.failures.push(error),
            }
        }
        for at in strays.into_values() {
            self.records.rest(at..at + 1, now + self.config.quarantine);
        }
        out
    }

    /// Closes the windows that have passed, and cleans slots. `remembered` says, for a VIP, the owners of live flows
    /// by slot.
    pub fn settle(
        &mut self,
        remembered: impl Fn(&VipKey) -> BTreeMap<u32, BTreeSet<u16>>,
        now: UnixMillis,
    ) -> Vec<EdgeWrite> {
        let mut writes = Vec::new();
        for (key, vip) in &mut self.vips {
            if vip.ring.is_settled() {
                continue;
            }
            let mut slots = vip.ring.close(self.config.ring, now);
            slots.extend(vip.ring.clean(&remembered(key)));
            if !slots.is_empty() {
                writes.push(EdgeWrite::SetSlots {
                    base: vip.value.ring_base,
                    slots,
                });
            }
        }
        writes
    }

    /// Whether no window is open and no mark left.
    pub fn is_settled(&self) -> bool {
        self.vips.values().all(|vip| vip.ring.is_settled())
    }

    /// VIPs with their records.
    pub fn records(&self) -> impl Iterator<Item = (VipKey, abi::Record)> + '_ {
        self.vips.iter().map(|(key, vip)| (*key, vip.value))
    }

    /// A VIP's ring, and the record that leads to it.
    pub fn vip(&self, key: &VipKey) -> Option<(&Ring, &abi::Record)> {
        self.vips.get(key).map(|vip| (&vip.ring, &vip.value))
    }

    /// The owner that a backend of a VIP is in its ring.
    pub fn owner(&self, key: &VipKey, backend: &SocketAddrV4) -> Option<u16> {
        self.vips.get(key)?.owners.get(backend).copied()
    }

    /// What the tables in use take.
    pub fn memory(&self) -> Memory {
        let used =
            |max: u32, pool: &Slots, each: usize| u64::from(max - pool.n_free()) * each as u64;
        Memory {
            buckets: u64::from(abi::BUCKETS) * size_of::<abi::Bucket>() as u64,
            records: used(self.config.records, &self.records, size_of::<abi::Record>()),
            rings: used(self.config.slots, &self.rings, 4),
            backends: used(
                self.config.backends,
                &self.backends,
                size_of::<abi::Backend>(),
            ),
        }
    }

    /// VIPs, by key.
    pub(super) fn vips(&self) -> impl Iterator<Item = (&VipKey, &Vip)> {
        self.vips.iter()
    }

    /// How long changes count.
    pub(super) fn window(&self) -> Millis {
        self.config.ring.window
    }

    fn add(
        &mut self,
        key: VipKey,
        service: &EdgeService,
        now: UnixMillis,
        out: &mut Planned,
    ) -> Result<Vip, EdgeError> {
        let n = service.backends.len();
        check(key, n)?;
        let kernel_key = kernel_key(key).ok_or(EdgeError::Family { key })?;
        let places = places(n);
        let heard = self.heard.remove(&key);
        let size = heard
            .as_ref()
            .map_or_else(|| ring_size(n), |heard| heard.size);
        let vip_id = take(&mut self.ids, 1, key, "numbers")?;
        let mut undo = Undo::default();
        let taken = (|| {
            undo.record = Some(take(&mut self.records, 1, key, "records")?);
            undo.ring = Some(take(&mut self.rings, size, key, "slots")?);
            undo.backends = Some(take(&mut self.backends, places, key, "backends")?);
            Ok(())
        })();
        let (Some(record), Some(ring_base), Some(backend_base), Ok(())) =
            (undo.record, undo.ring, undo.backends, &taken)
        else {
            // At once: nothing was written.
            self.ids.rest(vip_id..vip_id + 1, UnixMillis(0));
            if let Some(at) = undo.record {
                self.records.rest(at..at + 1, UnixMillis(0));
            }
            if let Some(at) = undo.ring {
                self.rings.rest(at..at + size, UnixMillis(0));
            }
            return Err(match taken {
                Err(error) => error,
                Ok(()) => EdgeError::TooManyBackends {
                    key,
                    n,
                    max: slot::MAX_OWNERS,
                },
            });
        };
        let mut vip = Vip {
            service: service.clone(),
            record,
            value: abi::Record {
                key: kernel_key,
                ring_base,
                ring_size: 0,
                backend_base,
                vip_id,
                places,
                seed: self.config.seed,
                ..abi::Record::default()
            },
            ring: Ring::new(&[]),
            size,
            all_drain: false,
            deferred: 0,
            places,
            owners: BTreeMap::new(),
            generations: BTreeMap::new(),
            resting: BTreeMap::new(),
        };
        for (owner, addr) in (0..).zip(service.backends.keys()) {
            vip.owners.insert(*addr, owner);
            vip.generations.insert(owner, 1);
        }
        out.writes.push(EdgeWrite::SetBackends {
            base: backend_base,
            backends: self.kernel_backends(key, &vip, service),
        });
        let table = table(&members(&vip.owners, service), size);
        vip.ring = Ring::new(&table);
        if let Some(heard) = heard {
            heard.mark(&mut vip.ring, &vip.owners, self.window(), now);
        }
        out.writes.push(all_slots(ring_base, vip.ring.slots()));
        vip.value.ring_size = if table.is_empty() { 0 } else { size };
        describe(&mut vip.value, service, false);
        ranges(vip_id, &EdgeService::default(), service, &mut out.writes);
        publish(record, &vip.value, &mut out.writes);
        Ok(vip)
    }

    fn change(
        &mut self,
        key: VipKey,
        vip: &mut Vip,
        service: &EdgeService,
        now: UnixMillis,
        out: &mut Planned,
    ) -> Result<(), EdgeError> {
        if vip.service == *service && vip.deferred == 0 {
            return Ok(());
        }
        check(key, service.backends.len())?;
        vip.resting.retain(|_, until| *until > now);
        // Everything that may be refused comes before the first write.
        let record = take(&mut self.records, 1, key, "records")?;
        let mut value = vip.value;
        if let Err(error) = self.make_room(key, vip, service, &mut value, now, out) {
            self.records.rest(record..record + 1, UnixMillis(0));
            return Err(error);
        }
        let gone = self.change_backends(key, vip, service, value.backend_base, out);
        let slots = Self::change_slots(vip, service, &gone, &mut value, self.config.ring, now, out);
        describe(&mut value, service, vip.all_drain);
        ranges(value.vip_id, &vip.service, service, &mut out.writes);
        // A ring that begins is written before it is read; one that is read may name places of the new record only.
        let (before, after) = if vip.value.ring_size == 0 {
            (slots, None)
        } else {
            (None, slots)
        };
        out.writes.extend(before);
        if value == vip.value {
            self.records.rest(record..record + 1, UnixMillis(0));
        } else {
            publish(record, &value, &mut out.writes);
            self.records
                .rest(vip.record..vip.record + 1, now + self.config.quarantine);
            vip.record = record;
            vip.value = value;
        }
        out.writes.extend(after);
        for owner in gone {
            out.writes.push(EdgeWrite::Retire {
                at: value.backend_base + u32::from(owner),
            });
            vip.resting.insert(owner, now + self.config.quarantine);
        }
        vip.service = service.clone();
        Ok(())
    }

    /// Places for backends that are new, next hops of those that stay; returns the owners that are gone.
    fn change_backends(
        &self,
        key: VipKey,
        vip: &mut Vip,
        service: &EdgeService,
        base: u32,
        out: &mut Planned,
    ) -> BTreeSet<u16> {
        let gone: BTreeSet<u16> = vip
            .owners
            .iter()
            .filter(|(addr, _)| !service.backends.contains_key(addr))
            .map(|(_, owner)| *owner)
            .collect();
        vip.owners.retain(|_, owner| !gone.contains(owner));
        let named = vip.ring.owners();
        let mut free: Vec<u16> = (0..u16::try_from(vip.places).unwrap_or(u16::MAX))
            .rev()
            .filter(|at| {
                !vip.resting.contains_key(at)
                    && !named.contains(at)
                    && !gone.contains(at)
                    && !vip.owners.values().any(|owner| owner == at)
            })
            .collect();
        for (addr, backend) in &service.backends {
            if let Some(owner) = vip.owners.get(addr) {
                let was = vip.service.backends.get(addr).and_then(|was| was.next_hop);
                if let (Some(was), Some(mac)) = (was, backend.next_hop)
                    && was != mac
                    && base == vip.value.backend_base
                {
                    let at = base + u32::from(*owner);
                    out.writes.push(EdgeWrite::SetNextHop { at, mac });
                }
                continue;
            }
            // `make_room` has seen to it that there is one.
            let Some(owner) = free.pop() else { continue };
            let generation = vip.generations.entry(owner).or_insert(0);
            *generation = generation.checked_add(1).unwrap_or(1);
            vip.owners.insert(*addr, owner);
            out.writes.push(EdgeWrite::SetBackends {
                base: base + u32::from(owner),
                backends: vec![self.kernel_backend(key, *addr, backend, *generation)],
            });
        }
        gone
    }

    fn change_slots(
        vip: &mut Vip,
        service: &EdgeService,
        gone: &BTreeSet<u16>,
        value: &mut abi::Record,
        config: RingConfig,
        now: UnixMillis,
        out: &mut Planned,
    ) -> Option<EdgeWrite> {
        let mut owners = table(&members(&vip.owners, service), vip.size);
        vip.deferred = 0;
        vip.all_drain = owners.is_empty() && vip.value.ring_size > 0;
        if vip.all_drain {
            // What they have goes on: the ring stays, but for those who are gone.
            let mut members = members(&vip.owners, service);
            for member in &mut members {
                member.weight = 1;
            }
            owners = table(&members, vip.size);
        }
        if owners.is_empty() {
            vip.all_drain = false;
            value.ring_size = 0;
            None
        } else if vip.value.ring_size == 0 {
            // Nobody was served: a beginning.
            vip.ring = Ring::new(&owners);
            value.ring_size = vip.size;
            Some(all_slots(value.ring_base, vip.ring.slots()))
        } else {
            let done = vip.ring.retarget(&owners, gone, config, now);
            vip.deferred = done.deferred;
            out.deferred += done.deferred;
            (!done.changed.is_empty()).then_some(EdgeWrite::SetSlots {
                base: value.ring_base,
                slots: done.changed,
            })
        }
    }

    /// A fresh range of places, when there may be too few for those who are new, or when the way to one that stays has
    /// changed in more than its next hop.
    fn make_room(
        &mut self,
        key: VipKey,
        vip: &mut Vip,
        service: &EdgeService,
        value: &mut abi::Record,
        now: UnixMillis,
        out: &mut Planned,
    ) -> Result<(), EdgeError> {
        let new = service
            .backends
            .keys()
            .filter(|addr| !vip.owners.contains_key(addr))
            .count();
        let used: BTreeSet<u16> = vip
            .ring
            .owners()
            .into_iter()
            .chain(vip.owners.values().copied())
            .chain(vip.resting.keys().copied())
            .collect();
        let wanted = used.len() + new;
        let way = |b: &EdgeBackend| (b.node, b.is_local, b.next_hop.is_some());
        let moved = vip.service.backends.iter().any(|(addr, was)| {
            let is = service.backends.get(addr);
            is.is_some_and(|is| way(is) != way(was))
        });
        if wanted <= vip.places as usize && !moved {
            return Ok(());
        }
        check(key, wanted)?;
        // Never fewer: owners keep their numbers.
        let more = places(wanted).max(vip.places);
        let base = take(&mut self.backends, more, key, "backends")?;
        let old = value.backend_base..value.backend_base + vip.places;
        value.backend_base = base;
        value.places = more;
        vip.places = more;
        out.writes.push(EdgeWrite::SetBackends {
            base,
            backends: self.kernel_backends(key, vip, service),
        });
        self.backends.rest(old, now + self.config.quarantine);
        Ok(())
    }

    fn remove(&mut self, key: VipKey, now: UnixMillis, out: &mut Planned) {
        let Some(vip) = self.vips.remove(&key) else {
            return;
        };
        let until = now + self.config.quarantine;
        out.writes.push(EdgeWrite::Withdraw { key: vip.value.key });
        ranges(
            vip.value.vip_id,
            &vip.service,
            &EdgeService::default(),
            &mut out.writes,
        );
        self.records.rest(vip.record..vip.record + 1, until);
        self.ids.rest(vip.value.vip_id..vip.value.vip_id + 1, until);
        self.rings
            .rest(vip.value.ring_base..vip.value.ring_base + vip.size, until);
        let base = vip.value.backend_base;
        self.backends.rest(base..base + vip.places, until);
    }

    /// All places of a VIP, free ones empty.
    fn kernel_backends(&self, key: VipKey, vip: &Vip, service: &EdgeService) -> Vec<abi::Backend> {
        let mut out = vec![abi::Backend::NONE; vip.places as usize];
        for (addr, owner) in &vip.owners {
            let generation = vip.generations.get(owner).copied().unwrap_or(1);
            if let (Some(place), Some(backend)) = (
                out.get_mut(usize::from(*owner)),
                service
                    .backends
                    .get(addr)
                    .or(vip.service.backends.get(addr)),
            ) {
                *place = self.kernel_backend(key, *addr, backend, generation);
            }
        }
        out
    }

    fn kernel_backend(
        &self,
        key: VipKey,
        addr: SocketAddrV4,
        backend: &EdgeBackend,
        generation: u16,
    ) -> abi::Backend {
        let flags = match (backend.is_local, backend.next_hop) {
            (true, _) => backend_flag::LOCAL,
            (false, None) => backend_flag::BACK,
            (false, Some(_)) => 0,
        };
        abi::Backend::new(&abi::BackendPath {
            next_hop: backend.next_hop.unwrap_or_default(),
            own_mac: self.config.own_mac,
            edge: self.config.edge.octets(),
            node: backend.node.octets(),
            port: addr.port(),
            vip_port: key.port,
            mtu: self.config.mtu,
            flags,
            generation,
        })
    }
}

#[derive(Default)]
struct Undo {
    record: Option<u32>,
    ring: Option<u32>,
    backends: Option<u32>,
}
