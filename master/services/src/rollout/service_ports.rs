//! Service ports that nobody named: Marathon gives each port of an app one that is its own in the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use waggle_types::{ServiceId, ServiceSpec};

use crate::ids::mix;

/// Where they are taken from, as in Marathon.
pub const SERVICE_PORTS: RangeInclusive<u16> = 10_000..=20_000;

/// Gives the ports of apps that are put, and that have none, a service port: the one that the app has now in that place,
/// else a free one, beginning where the app's name says, so that what others had before is seldom taken. Ports that are
/// asked of agents are left alone, and so are all when none is free.
///
/// `services` are those that there are, without those that go.
pub fn assign_service_ports(
    services: &BTreeMap<ServiceId, Arc<ServiceSpec>>,
    puts: &mut BTreeMap<ServiceId, ServiceSpec>,
) {
    let lacks = |s: &ServiceSpec| {
        s.pod.is_none() && !s.require_ports && s.ports.iter().any(|p| p.port == 0)
    };
    if !puts.values().any(lacks) {
        return;
    }
    let others = services.iter().filter(|(id, _)| !puts.contains_key(*id));
    let ports = |s: &ServiceSpec| s.ports.iter().map(|p| p.port).collect::<Vec<u16>>();
    let mut taken: BTreeSet<u16> = others.flat_map(|(_, s)| ports(s)).collect();
    taken.extend(puts.values().flat_map(ports));
    // What is there stays, whoever comes before it in the order of names.
    for (id, spec) in puts.iter_mut().filter(|(_, s)| lacks(s)) {
        let Some(old) = services.get(id) else {
            continue;
        };
        for (port, had) in spec.ports.iter_mut().zip(&old.ports) {
            let keeps = port.port == 0 && SERVICE_PORTS.contains(&had.port);
            if keeps && taken.insert(had.port) {
                port.port = had.port;
            }
        }
    }
    for (id, spec) in puts.iter_mut().filter(|(_, s)| lacks(s)) {
        let name = id.as_str().bytes();
        let mut at = name.fold(0, |sum, b| mix(sum ^ u64::from(b)));
        for port in spec.ports.iter_mut().filter(|p| p.port == 0) {
            let Some(free) = next_free(&taken, at) else {
                return;
            };
            taken.insert(free);
            port.port = free;
            at = u64::from(free - SERVICE_PORTS.start()) + 1;
        }
    }
}

/// The first free one from a place on, around the range.
fn next_free(taken: &BTreeSet<u16>, from: u64) -> Option<u16> {
    let n = SERVICE_PORTS.len() as u64;
    let all = (0..n).map(|i| (from % n + i) % n);
    let all = all.filter_map(|i| u16::try_from(u64::from(*SERVICE_PORTS.start()) + i).ok());
    let mut free = all.filter(|p| !taken.contains(p));
    free.next()
}

#[cfg(test)]
mod tests {
    use waggle_types::{Balance, Command, PortDefinition, Protocol};

    use super::*;

    fn app(id: &str, ports: &[u16]) -> ServiceSpec {
        let port = |port: &u16| PortDefinition {
            sources: Vec::new(),
            mapping: None,
            port: *port,
            name: None,
            protocols: vec![Protocol::Tcp],
            labels: BTreeMap::new(),
            vips: Vec::new(),
            balance: Balance::default(),
        };
        ServiceSpec {
            ports: ports.iter().map(port).collect(),
            ..ServiceSpec::new(ServiceId::new(id).unwrap(), Command::Shell("x".into()))
        }
    }

    fn put(services: &mut BTreeMap<ServiceId, Arc<ServiceSpec>>, all: &[ServiceSpec]) {
        let mut puts: BTreeMap<_, _> = all.iter().map(|s| (s.id.clone(), s.clone())).collect();
        assign_service_ports(services, &mut puts);
        services.extend(puts.into_iter().map(|(id, s)| (id, Arc::new(s))));
    }

    fn of(services: &BTreeMap<ServiceId, Arc<ServiceSpec>>, id: &str) -> Vec<u16> {
        services[id].ports.iter().map(|p| p.port).collect()
    }

    #[test]
    fn each_port_has_one_of_its_own_and_keeps_it() {
        let mut all = BTreeMap::new();
        put(&mut all, &[app("/a", &[0, 80, 0]), app("/b", &[0])]);
        let (a, b) = (of(&all, "/a"), of(&all, "/b"));
        assert_eq!(a[1], 80, "what is named stays");
        let given = BTreeSet::from([a[0], a[2], b[0]]);
        assert_eq!(given.len(), 3);
        assert!(given.iter().all(|p| SERVICE_PORTS.contains(p)));
        // The same again, and with one more before others of its own.
        put(&mut all, &[app("/a", &[0, 80, 0]), app("/b", &[0])]);
        assert_eq!((of(&all, "/a"), of(&all, "/b")), (a.clone(), b.clone()));
        put(&mut all, &[app("/a", &[0])]);
        assert_eq!(of(&all, "/a"), a[..1]);
        // Who asks for it by number has it; the other gets another.
        put(&mut all, &[app("/b", &[a[0]]), app("/a", &[0])]);
        assert_eq!(of(&all, "/b"), a[..1]);
        assert_ne!(of(&all, "/a"), a[..1]);
    }

    #[test]
    fn what_is_asked_of_agents_is_left_alone_and_so_is_what_finds_none() {
        let mut all = BTreeMap::new();
        let mut required = app("/a", &[0]);
        required.require_ports = true;
        put(&mut all, &[required]);
        assert_eq!(of(&all, "/a"), [0]);
        let full: Vec<u16> = SERVICE_PORTS.collect();
        put(&mut all, &[app("/full", &full), app("/late", &[0])]);
        assert_eq!(of(&all, "/late"), [0]);
    }
}
