//! From a snapshot to zones: one function per family of names of CONTRACTS section 3.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use waggle_types::{AgentNet, NetSnapshot, Protocol, TaskId, mangle_label};

use super::{
    DnsName, HealthPolicy, Listed, NS_TTL, Node, RData, Scope, TTL, Zone, listing, listing::runs,
    reverse_name, scope::APEXES, sha1::short_hash,
};
use crate::eligibility::LocalFacts;

/// The built-in service framework, which runs beside the leading master.
const BUILT_IN: &str = "marathon";
const MASTER_PORT: u16 = 5050;
const AGENT_PORT: u16 = 5051;
const FRAMEWORK_PORT: u16 = 8080;
/// DC/OS's programs name five ZooKeeper servers, however many masters there are: addresses repeat.
const N_ZK: usize = 5;
/// Where TXT says what this node answers from.
const ABOUT: &str = "_zone.thisdcos.directory";

/// What a zone holds that is not in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneOptions {
    /// Addresses on which this node answers: `ns.spartan`.
    pub dns_ips: Vec<IpAddr>,
    /// Whether names of services follow health.
    pub health: HealthPolicy,
    /// Which names are served.
    pub scope: Scope,
}

impl Default for ZoneOptions {
    fn default() -> Self {
        Self {
            dns_ips: vec![IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1))],
            health: HealthPolicy::default(),
            scope: Scope::default(),
        }
    }
}

/// The cluster's zones with [`ZoneOptions::default`].
pub fn zone(snapshot: &NetSnapshot, local: &LocalFacts, serial: u32) -> Zone {
    zone_with(snapshot, local, serial, &ZoneOptions::default())
}

/// The cluster's zones.
pub fn zone_with(
    snapshot: &NetSnapshot,
    local: &LocalFacts,
    serial: u32,
    options: &ZoneOptions,
) -> Zone {
    let mut b = Builder {
        nodes: BTreeMap::new(),
        serial,
    };
    for apex in APEXES {
        b.apex(apex);
    }
    b.authority(options);
    b.masters(snapshot);
    b.agents(snapshot);
    b.vips(snapshot);
    let tasks = listing(snapshot, local, options.health);
    for (id, listed) in &tasks {
        let agent = snapshot.agents.get(&listed.task.agent_id);
        if let (true, Some(agent)) = (runs(listed.verdict), agent) {
            b.task(id, listed, agent);
        }
    }
    b.about(snapshot, &tasks);
    b.finish(options.scope.clone())
}

struct Builder {
    nodes: BTreeMap<DnsName, BTreeSet<(u32, RData)>>,
    serial: u32,
}

impl Builder {
    /// Adds a record. A name that is too long for DNS (a task's name is not checked by anybody) has none.
    fn add(&mut self, owner: &str, data: RData) {
        if let Ok(owner) = DnsName::parse(owner) {
            self.add_at(owner, data);
        }
    }

    fn add_at(&mut self, owner: DnsName, data: RData) {
        let ttl = if matches!(data, RData::Ns(_)) {
            NS_TTL
        } else {
            TTL
        };
        self.nodes.entry(owner).or_default().insert((ttl, data));
    }

    fn add_a(&mut self, owner: &str, ip: impl Into<IpAddr>) {
        self.add(owner, ip.into().into());
    }

    fn add_srv(&mut self, owner: &str, port: u16, target: &str) {
        if let Ok(target) = DnsName::parse(target) {
            self.add(owner, RData::Srv { port, target });
        }
    }

    /// A name for an address, at which its own zone begins: what is beside it is not ours.
    fn add_ptr(&mut self, ip: impl Into<IpAddr>, name: &str) {
        let Ok(name) = DnsName::parse(name) else {
            return;
        };
        let owner = reverse_name(ip.into());
        self.apex_at(&owner);
        self.add_at(owner, RData::Ptr(name));
    }

    /// A name that exists even while it has no record.
    fn exists(&mut self, owner: &str) {
        if let Ok(owner) = DnsName::parse(owner) {
            self.nodes.entry(owner).or_default();
        }
    }

    fn apex(&mut self, name: &str) {
        if let Ok(name) = DnsName::parse(name) {
            self.apex_at(&name);
        }
    }

    fn apex_at(&mut self, name: &DnsName) {
        let parse = |s: &str| DnsName::parse(s).unwrap_or_default();
        let soa = RData::Soa {
            mname: parse("ns.spartan"),
            rname: parse("support.mesosphere.com"),
            serial: self.serial,
            minimum: 1,
        };
        self.add_at(name.clone(), soa);
        self.add_at(name.clone(), RData::Ns(parse("ns.spartan")));
    }

    fn authority(&mut self, options: &ZoneOptions) {
        for ip in &options.dns_ips {
            self.add_a("ns.spartan", *ip);
            self.add_ptr(*ip, "ns.spartan");
        }
        // dcos-net's health probe: whoever resolves it has a working server on this node.
        self.add_a("ready.spartan", Ipv4Addr::LOCALHOST);
        // RFC 6761: never asked of anybody else.
        self.add_a("localhost", Ipv4Addr::LOCALHOST);
        self.add_a("localhost", Ipv6Addr::LOCALHOST);
    }

    fn masters(&mut self, snapshot: &NetSnapshot) {
        for name in [
            "leader.mesos",
            "master.mesos",
            "leader.dcos.thisdcos.directory",
            "master.dcos.thisdcos.directory",
            "_leader._tcp.mesos",
        ] {
            self.exists(name);
        }
        if let Some(leader) = snapshot.leader {
            self.add_a("leader.mesos", leader);
            self.add_a("leader.dcos.thisdcos.directory", leader);
            self.add_srv("_leader._tcp.mesos", MASTER_PORT, "leader.mesos");
            self.add_a(&format!("{BUILT_IN}.mesos"), leader);
            let framework = format!("_framework._tcp.{BUILT_IN}.mesos");
            self.add_srv(&framework, FRAMEWORK_PORT, &format!("{BUILT_IN}.mesos"));
        }
        let masters: BTreeSet<Ipv4Addr> = snapshot.masters.iter().copied().collect();
        for (i, ip) in masters.iter().enumerate() {
            self.add_a("master.mesos", *ip);
            self.add_a("master.dcos.thisdcos.directory", *ip);
            self.add_a(&format!("master{i}.mesos"), *ip);
            if !snapshot.agents.values().any(|a| a.ip == *ip) {
                self.add_ptr(*ip, &format!("master{i}.mesos"));
            }
        }
        for (i, ip) in (1..=N_ZK).zip(masters.iter().cycle()) {
            self.add_a(&format!("zk-{i}.zk"), *ip);
        }
    }

    fn agents(&mut self, snapshot: &NetSnapshot) {
        for agent in snapshot.agents.values() {
            let label = mangle_label(&agent.hostname);
            if !label.is_empty() {
                let name = format!("{label}.node.dcos.thisdcos.directory");
                // Names of tasks have no AAAA for it: a task in host mode may well listen on IPv4 alone.
                let six = agent.ip6.map(IpAddr::V6);
                for ip in [Some(agent.ip.into()), six].into_iter().flatten() {
                    self.add_a(&name, ip);
                    self.add_ptr(ip, &name);
                }
            }
        }
        for agent in snapshot.agents.values().filter(|a| a.reachable) {
            self.add_a("slave.mesos", agent.ip);
            self.add_srv("_slave._tcp.mesos", AGENT_PORT, "slave.mesos");
        }
    }

    fn vips(&mut self, snapshot: &NetSnapshot) {
        for (name, lease) in &snapshot.vips {
            let name = name.to_string();
            let six = lease.ip6.map(IpAddr::V6);
            for ip in [Some(lease.ip.into()), six].into_iter().flatten() {
                self.add_a(&name, ip);
                self.add_ptr(ip, &name);
            }
        }
    }

    fn about(&mut self, snapshot: &NetSnapshot, tasks: &BTreeMap<&TaskId, Listed<'_>>) {
        let n_listed = tasks.values().filter(|t| t.verdict.is_in()).count();
        let text = vec![
            format!("serial={}", self.serial),
            format!("generation={}", snapshot.generation.0),
            format!("agents={}", snapshot.agents.len()),
            format!("vips={}", snapshot.vips.len()),
            format!("tasks={n_listed}"),
        ];
        self.add(ABOUT, RData::Txt(text));
    }

    /// A task's own name holds it as long as it runs; names that it shares only if it is listed.
    fn task(&mut self, id: &TaskId, listed: &Listed<'_>, agent: &AgentNet) {
        let Listed {
            task,
            label,
            framework,
            verdict,
        } = listed;
        let shared = verdict.is_in();
        // A task on its node's network has its agent's address. What can be reached through the agent is (CONTRACTS
        // section 3): from other nodes there may be no other way.
        let of_agent = vec![IpAddr::from(agent.ip)];
        let own: Vec<IpAddr> = task
            .ip
            .map(IpAddr::from)
            .into_iter()
            .chain(task.ip6.map(IpAddr::from))
            .collect();
        let own = if own.is_empty() {
            of_agent.clone()
        } else {
            own
        };
        let is_mapped = task.ports.iter().any(|p| p.host_port != 0);
        let auto = if is_mapped { &of_agent } else { &own };
        for (kind, ips) in [
            ("agentip", &of_agent),
            ("containerip", &own),
            ("autoip", auto),
        ] {
            if !shared {
                break;
            }
            let owner = format!("{label}.{framework}.{kind}.dcos.thisdcos.directory");
            for ip in ips {
                self.add_a(&owner, *ip);
            }
        }
        // Behind a bridge nobody else reaches it; on a network everybody does.
        let on_network = task.network.is_some();
        let reached = if on_network { &own } else { &of_agent };
        // generator.go emits the mangled name and the name as given, dots and all.
        let as_given = task.name.to_lowercase();
        let names = BTreeSet::from([label.as_str(), as_given.as_str()]);
        for domain in ["mesos", "slave.mesos"] {
            let canonical = format!("{}.{framework}.{domain}", canonical_label(id, listed));
            for ip in reached {
                self.add_a(&canonical, *ip);
            }
            if !shared {
                continue;
            }
            for name in &names {
                for ip in reached {
                    self.add_a(&format!("{name}.{framework}.{domain}"), *ip);
                }
                for port in &task.ports {
                    let inside = port.container_port.filter(|_| on_network);
                    let number = inside.unwrap_or(port.host_port);
                    if number == 0 {
                        continue;
                    }
                    let port_label = port.name.as_deref().map(mangle_label).unwrap_or_default();
                    for protocol in &port.protocols {
                        let proto = protocol_label(*protocol);
                        let service = format!("_{name}.{proto}.{framework}.{domain}");
                        self.add_srv(&service, number, &canonical);
                        if !port_label.is_empty() {
                            let service = format!("_{port_label}.{service}");
                            self.add_srv(&service, number, &canonical);
                        }
                    }
                }
            }
        }
    }

    fn finish(self, scope: Scope) -> Zone {
        let mut nodes: BTreeMap<DnsName, Node> = BTreeMap::new();
        for (name, records) in self.nodes {
            // What is above an address is not ours.
            let mut above = name.parent().filter(|up| scope.is_ours(up));
            while let Some(up) = above {
                above = up.parent();
                if above.is_some() && !nodes.contains_key(&up) {
                    nodes.insert(up, Vec::new());
                } else {
                    // The root is not ours; a known name's parents are known too.
                    break;
                }
            }
            nodes.insert(name, records.into_iter().collect());
        }
        Zone {
            serial: self.serial,
            nodes,
            scope,
        }
    }
}

/// The label that is one task's alone.
pub(super) fn canonical_label(id: &TaskId, listed: &Listed<'_>) -> String {
    let (hash, tail) = (
        short_hash(id.as_str()),
        agent_tail(listed.task.agent_id.as_str()),
    );
    format!("{}-{hash}-{tail}", listed.label)
}

/// mesos-dns `slaveIDTail`: what is after the last dash.
fn agent_tail(id: &str) -> String {
    mangle_label(id.rsplit('-').next().unwrap_or(id))
}

fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
    }
}
