//! Named VIP leases and who defines which VIP.
//!
//! A name keeps its address for as long as some service defines it. Two services may share a *name*
//! on different ports; the same name:port or ip:port of the same protocol has one owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use waggle_overlay_plan::ipam::{self, Pool};
use waggle_types::{
    FieldError, Protocol, ServiceId, ServiceSpec, VipKey, VipLabel, VipLease, VipName,
};

use super::SERVICE_FRAMEWORK;

/// Definitions by id, as stored.
pub(super) type Services = BTreeMap<ServiceId, Arc<ServiceSpec>>;

/// Leases, by name.
#[derive(Debug, Clone)]
pub(super) struct Vips {
    pool: Pool,
    leases: BTreeMap<VipName, Ipv4Addr>,
}

/// Changes of leases that must be stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseChanges {
    pub(super) taken: Vec<(VipName, Ipv4Addr)>,
    pub(super) released: Vec<VipName>,
}

/// What a service defines on one VIP port.
struct Use<'a> {
    /// `portDefinitions[0].labels.VIP_0`.
    field: String,
    label: &'a VipLabel,
    protocol: Protocol,
}

fn vip_name(label: &str) -> VipName {
    VipName {
        label: label.to_owned(),
        framework: SERVICE_FRAMEWORK.to_owned(),
    }
}

fn uses(spec: &ServiceSpec) -> Vec<Use<'_>> {
    let mut out = Vec::new();
    for (i, port) in spec.ports.iter().enumerate() {
        for label in &port.vips {
            let field = port
                .labels
                .iter()
                .find(|(k, v)| VipLabel::is_key(k) && VipLabel::parse(k, v).as_ref() == Ok(label))
                .map_or_else(
                    || format!("portDefinitions[{i}].labels"),
                    |(k, _)| format!("portDefinitions[{i}].labels.{k}"),
                );
            for protocol in &port.protocols {
                out.push(Use {
                    field: field.clone(),
                    label,
                    protocol: *protocol,
                });
            }
        }
    }
    out
}

impl Vips {
    pub(super) fn new(pool: Pool, leases: BTreeMap<VipName, Ipv4Addr>) -> Self {
        Self { pool, leases }
    }

    /// Refuses a definition whose VIP another service has, or that is in itself twice.
    pub(super) fn check(&self, spec: &ServiceSpec, services: &Services) -> Result<(), FieldError> {
        let mut taken: BTreeMap<(Protocol, String, u16), &ServiceId> = BTreeMap::new();
        for other in services.values().filter(|s| s.id != spec.id) {
            for u in uses(other) {
                for key in self.keys(&u) {
                    taken.insert(key, &other.id);
                }
            }
        }
        for u in uses(spec) {
            for key in self.keys(&u) {
                if let Some(owner) = taken.insert(key, &spec.id) {
                    let vip = u.label;
                    let by = if *owner == spec.id {
                        "this service twice".to_owned()
                    } else {
                        format!("service {owner}")
                    };
                    let rule = format!("VIP {vip}/{} is already defined by {by}", u.protocol);
                    return Err(FieldError::new(u.field, rule));
                }
            }
        }
        Ok(())
    }

    /// What one use occupies: its name and, where that is known, its address.
    fn keys(&self, u: &Use<'_>) -> Vec<(Protocol, String, u16)> {
        match u.label {
            VipLabel::Named { name, port } => {
                let mut keys = vec![(u.protocol, name.clone(), *port)];
                if let Some(ip) = self.leases.get(&vip_name(name)) {
                    keys.push((u.protocol, ip.to_string(), *port));
                }
                keys
            }
            VipLabel::Literal { ip, port } => vec![(u.protocol, ip.to_string(), *port)],
        }
    }

    /// Leases what the services define and releases what none defines any more. `None` when the pool
    /// is used up: nothing changes then.
    pub(super) fn lease(&mut self, services: &Services) -> Option<LeaseChanges> {
        let mut wanted = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for u in services.values().flat_map(|s| uses(s)) {
            match u.label {
                VipLabel::Named { name, .. } => {
                    wanted.insert(vip_name(name));
                }
                VipLabel::Literal { ip, .. } => {
                    if let IpAddr::V4(ip) = ip {
                        taken.insert(*ip);
                    }
                }
            }
        }
        let mut next = self.leases.clone();
        next.retain(|name, _| wanted.contains(name));
        taken.extend(next.values().copied());
        let mut changes = LeaseChanges {
            taken: Vec::new(),
            released: self
                .leases
                .keys()
                .filter(|n| !wanted.contains(n))
                .cloned()
                .collect(),
        };
        for name in wanted {
            if next.contains_key(&name) {
                continue;
            }
            let ip = ipam::lease(self.pool, &name, &taken)?;
            taken.insert(ip);
            next.insert(name.clone(), ip);
            changes.taken.push((name, ip));
        }
        self.leases = next;
        Some(changes)
    }

    /// The named VIPs with their ports, and the literal ones: what a network snapshot holds.
    pub(super) fn net(
        &self,
        services: &Services,
    ) -> (BTreeMap<VipName, VipLease>, BTreeSet<VipKey>) {
        let mut named: BTreeMap<VipName, (Ipv4Addr, BTreeSet<(Protocol, u16)>)> = BTreeMap::new();
        let mut literal = BTreeSet::new();
        for u in services.values().flat_map(|s| uses(s)) {
            match u.label {
                VipLabel::Named { name, port } => {
                    let name = vip_name(name);
                    if let Some(ip) = self.leases.get(&name) {
                        let ports = &mut named.entry(name).or_insert((*ip, BTreeSet::new())).1;
                        ports.insert((u.protocol, *port));
                    }
                }
                VipLabel::Literal { ip, port } => {
                    literal.insert(VipKey {
                        protocol: u.protocol,
                        ip: *ip,
                        port: *port,
                    });
                }
            }
        }
        let named = named
            .into_iter()
            .map(|(name, (ip, ports))| {
                let ports = ports.into_iter().collect();
                (name, VipLease { ip, ports })
            })
            .collect();
        (named, literal)
    }
}
