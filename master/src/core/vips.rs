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
    FieldError, PortDefinition, Protocol, ServiceId, ServiceSpec, SourceRange, VipKey, VipLabel,
    VipLease, VipName,
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

/// The VIPs of a network snapshot.
#[derive(Debug, Default)]
pub(super) struct VipNet {
    /// Named ones with their ports.
    pub(super) named: BTreeMap<VipName, VipLease>,
    pub(super) literal: BTreeSet<VipKey>,
    /// Who may use which from outside, where not everybody may.
    pub(super) sources: BTreeMap<VipKey, Vec<SourceRange>>,
}

/// What a service defines on one VIP port.
struct Use<'a> {
    port: &'a PortDefinition,
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
                    port,
                    field: field.clone(),
                    label,
                    protocol: *protocol,
                });
            }
        }
    }
    out
}

/// Label of a service that takes a part of another one's traffic: that one's id. It may have the other's VIPs, and
/// `LB_WEIGHT` says how much of it.
pub const CANARY_OF: &str = "WAGGLE_CANARY_OF";

/// The service whose canary one is.
fn canary_of(spec: &ServiceSpec) -> Option<ServiceId> {
    let of = ServiceId::new(spec.labels.get(CANARY_OF)?);
    of.ok().filter(|id| *id != spec.id)
}

/// Whether a service says rightly whose canary it is.
pub(super) fn check_canary(spec: &ServiceSpec) -> Result<(), FieldError> {
    match spec.labels.get(CANARY_OF) {
        Some(of) if canary_of(spec).is_none() => {
            let rule = format!("must be the id of another service, is {of:.80?}");
            Err(FieldError::new(format!("labels.{CANARY_OF}"), rule))
        }
        _ => Ok(()),
    }
}

impl Vips {
    pub(super) fn new(pool: Pool, leases: BTreeMap<VipName, Ipv4Addr>) -> Self {
        Self { pool, leases }
    }

    /// Refuses definitions whose VIP another service has, or that are in themselves twice. A service and its canaries have
    /// VIPs together.
    pub(super) fn check(
        &self,
        changed: &BTreeSet<ServiceId>,
        services: &Services,
    ) -> Result<(), FieldError> {
        let mut taken: BTreeMap<(Protocol, String, u16), &ServiceId> = BTreeMap::new();
        for other in services.values().filter(|s| !changed.contains(&s.id)) {
            for u in uses(other) {
                for key in self.keys(&u) {
                    taken.insert(key, &other.id);
                }
            }
        }
        let family = |id: &ServiceId| {
            services
                .get(id)
                .map(|s| canary_of(s).unwrap_or(s.id.clone()))
        };
        for spec in changed.iter().filter_map(|id| services.get(id)) {
            let mut own = BTreeSet::new();
            for u in uses(spec) {
                for key in self.keys(&u) {
                    let twice = !own.insert(key.clone());
                    let owner = taken.insert(key, &spec.id);
                    let by = match owner {
                        _ if twice => "this service twice".to_owned(),
                        Some(owner) if family(owner) != family(&spec.id) => {
                            format!("service {owner}")
                        }
                        _ => continue,
                    };
                    let vip = u.label;
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

    /// What a network snapshot holds of the VIPs that services define.
    pub(super) fn net(&self, services: &Services) -> VipNet {
        let mut net = VipNet::default();
        for u in services.values().flat_map(|s| uses(s)) {
            let (ip, port) = match u.label {
                VipLabel::Named { name, port } => {
                    let name = vip_name(name);
                    let Some(&ip) = self.leases.get(&name) else {
                        continue;
                    };
                    let lease = net.named.entry(name).or_insert(VipLease {
                        ip,
                        ip6: None,
                        ports: Vec::new(),
                    });
                    if u.port.balance.ipv6 {
                        lease.ip6 = Some(ipam::twin(ip));
                    }
                    lease.ports.push((u.protocol, *port));
                    (IpAddr::V4(ip), *port)
                }
                VipLabel::Literal { ip, port } => {
                    net.literal.insert(VipKey {
                        protocol: u.protocol,
                        ip: *ip,
                        port: *port,
                    });
                    (*ip, *port)
                }
            };
            if !u.port.sources.is_empty() {
                let key = VipKey {
                    protocol: u.protocol,
                    ip,
                    port,
                };
                net.sources.insert(key, u.port.sources.clone());
            }
        }
        for lease in net.named.values_mut() {
            lease.ports.sort_unstable();
            lease.ports.dedup();
        }
        net
    }
}
