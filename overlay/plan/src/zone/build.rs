//! From a snapshot to zones: one function per family of names of CONTRACTS section 3.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use waggle_types::{
    AgentNet, HealthState, NetSnapshot, Protocol, TaskId, TaskNet, TaskState, mangle_label,
};

use super::{DnsName, NS_TTL, Node, RData, TTL, Zone, sha1::short_hash};
use crate::eligibility::{LocalFacts, effective};

/// Zones with an SOA of their own.
const APEXES: [&str; 5] = [
    "mesos",
    "spartan",
    "thisdcos.directory",
    "dcos.thisdcos.directory",
    "l4lb.thisdcos.directory",
];
/// Longest first: the first that fits is taken.
const ALIASES: [(&str, &str); 3] = [
    ("dclb.thisdcos.directory", "l4lb.thisdcos.directory"),
    ("dclb.thisdcos.global", "l4lb.thisdcos.directory"),
    ("thisdcos.global", "thisdcos.directory"),
];
/// The built-in service framework, which runs beside the leading master.
const BUILT_IN: &str = "marathon";
const MASTER_PORT: u16 = 5050;
const AGENT_PORT: u16 = 5051;
const FRAMEWORK_PORT: u16 = 8080;

/// What a zone holds that is not in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneOptions {
    /// Addresses on which this node answers: `ns.spartan`.
    pub dns_ips: Vec<Ipv4Addr>,
}

impl Default for ZoneOptions {
    fn default() -> Self {
        Self {
            dns_ips: vec![Ipv4Addr::new(198, 51, 100, 1)],
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
    let mut b = Builder::default();
    b.authority(serial, options);
    b.masters(snapshot);
    b.agents(snapshot);
    b.vips(snapshot);
    for (id, task) in &snapshot.tasks {
        // mesos-dns and dcos-dns alike: only running tasks, whatever their health.
        let (state, _health): (TaskState, HealthState) = effective(id, task, local);
        let agent = snapshot.agents.get(&task.agent_id);
        if let (TaskState::Running, Some(agent)) = (state, agent) {
            b.task(id, task, agent);
        }
    }
    b.finish(serial)
}

#[derive(Default)]
struct Builder {
    nodes: BTreeMap<DnsName, BTreeSet<(u32, RData)>>,
}

impl Builder {
    /// Adds a record. A name that is too long for DNS (a task's name is not checked by anybody) has none.
    fn add(&mut self, owner: &str, data: RData) {
        let Ok(owner) = DnsName::parse(owner) else {
            return;
        };
        let ttl = if matches!(data, RData::Ns(_)) {
            NS_TTL
        } else {
            TTL
        };
        self.nodes.entry(owner).or_default().insert((ttl, data));
    }

    fn add_a(&mut self, owner: &str, ip: Ipv4Addr) {
        self.add(owner, RData::A(ip));
    }

    fn add_srv(&mut self, owner: &str, port: u16, target: &str) {
        if let Ok(target) = DnsName::parse(target) {
            self.add(owner, RData::Srv { port, target });
        }
    }

    /// A name that exists even while it has no record.
    fn exists(&mut self, owner: &str) {
        if let Ok(owner) = DnsName::parse(owner) {
            self.nodes.entry(owner).or_default();
        }
    }

    fn authority(&mut self, serial: u32, options: &ZoneOptions) {
        let parse = |s: &str| DnsName::parse(s).unwrap_or_default();
        for apex in APEXES {
            self.add(
                apex,
                RData::Soa {
                    mname: parse("ns.spartan"),
                    rname: parse("support.mesosphere.com"),
                    serial,
                    minimum: 1,
                },
            );
            self.add(apex, RData::Ns(parse("ns.spartan")));
        }
        for ip in &options.dns_ips {
            self.add_a("ns.spartan", *ip);
        }
        // dcos-net's health probe: whoever resolves it has a working server on this node.
        self.add_a("ready.spartan", Ipv4Addr::LOCALHOST);
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
        }
    }

    fn agents(&mut self, snapshot: &NetSnapshot) {
        for agent in snapshot.agents.values().filter(|a| a.reachable) {
            self.add_a("slave.mesos", agent.ip);
            self.add_srv("_slave._tcp.mesos", AGENT_PORT, "slave.mesos");
        }
    }

    fn vips(&mut self, snapshot: &NetSnapshot) {
        for (name, lease) in &snapshot.vips {
            self.add_a(&name.to_string(), lease.ip);
        }
    }

    fn task(&mut self, id: &TaskId, task: &TaskNet, agent: &AgentNet) {
        let label = mangle_label(&task.name);
        let framework = domain_frag(&task.framework);
        if label.is_empty() || framework.is_empty() {
            return;
        }
        // Tasks are in host mode for now: their container's address is the agent's.
        for kind in ["agentip", "containerip", "autoip"] {
            let zone = format!("{kind}.dcos.thisdcos.directory");
            self.add_a(&format!("{label}.{framework}.{zone}"), agent.ip);
        }
        // generator.go emits the mangled name and the name as given, dots and all.
        let as_given = task.name.to_lowercase();
        let names = BTreeSet::from([label.as_str(), as_given.as_str()]);
        for domain in ["mesos", "slave.mesos"] {
            let canonical = format!(
                "{label}-{}-{}.{framework}.{domain}",
                short_hash(id.as_str()),
                agent_tail(task.agent_id.as_str())
            );
            self.add_a(&canonical, agent.ip);
            for name in &names {
                self.add_a(&format!("{name}.{framework}.{domain}"), agent.ip);
                for port in task.ports.iter().filter(|p| p.host_port != 0) {
                    let port_label = port.name.as_deref().map(mangle_label).unwrap_or_default();
                    for protocol in &port.protocols {
                        let proto = protocol_label(*protocol);
                        let service = format!("_{name}.{proto}.{framework}.{domain}");
                        self.add_srv(&service, port.host_port, &canonical);
                        if !port_label.is_empty() {
                            let service = format!("_{port_label}.{service}");
                            self.add_srv(&service, port.host_port, &canonical);
                        }
                    }
                }
            }
        }
    }

    fn finish(self, serial: u32) -> Zone {
        let mut nodes: BTreeMap<DnsName, Node> = BTreeMap::new();
        for (name, records) in self.nodes {
            let mut above = name.parent();
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
        let parse = |s: &str| DnsName::parse(s).unwrap_or_default();
        Zone {
            serial,
            nodes,
            apexes: APEXES.map(parse).into(),
            aliases: ALIASES.map(|(from, to)| (parse(from), parse(to))).into(),
        }
    }
}

/// mesos_state.erl `domain_frag`: split on dots first, each label mangled.
fn domain_frag(s: &str) -> String {
    let labels: Vec<String> = s
        .split('.')
        .map(mangle_label)
        .filter(|l| !l.is_empty())
        .collect();
    labels.join(".")
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
