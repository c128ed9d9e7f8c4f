//! Network snapshots.

use std::{collections::BTreeMap, fmt::Display, net::Ipv4Addr, sync::Arc};

use waggle_types::{
    AgentId, AgentNet, Cause, Generation, MAX_NETWORKS, MAX_POLICIES, MAX_SOURCES, NetDelta,
    NetSnapshot, NetworkPolicy, PolicySubject, PortNet, SourceRange, TaskId, TaskNet, VipKey,
    VipLabel, VipLease, VipName,
};

use super::network::{network, network_to_wire, overlay, overlay_to_wire, vxlan, vxlan_to_wire};
use super::reservation::domain;
use super::resources::{balance, balance_to_wire, protocol, protocol_numbers, protocols, vip_port};
use super::task::{health_state, task_state};
use super::{ConvertError, any_ip, at_most, each, id, ip, ip_if_any, ip6, port, required, trace};
use crate::native::{policies::from_wire, policy_text};
use crate::proto::session as pb;

/// Keyed items become a map; a key twice is an error, since the sender's map cannot hold one.
fn unique<K: Ord + Display, V>(
    field: &str,
    items: Vec<(K, V)>,
) -> Result<BTreeMap<K, V>, ConvertError> {
    let mut out = BTreeMap::new();
    for (i, (k, v)) in items.into_iter().enumerate() {
        if out.contains_key(&k) {
            let rule = format!("must be unique, {k} is there twice");
            return Err(ConvertError::new(format!("{field}[{i}]"), rule));
        }
        out.insert(k, v);
    }
    Ok(out)
}

fn agent(a: pb::AgentNet) -> Result<(AgentId, AgentNet), ConvertError> {
    let net = AgentNet {
        hostname: a.hostname,
        ip: ip("ip", &a.ip)?,
        ip6: ip6("ip6", &a.ip6)?,
        reachable: a.reachable,
        domain: domain(a.domain)?,
        overlay: overlay(a.overlay).map_err(|e| e.within("overlay"))?,
    };
    Ok((id("agent_id", a.agent_id, AgentId::new)?, net))
}

fn networks(
    networks: Vec<pb::OverlayNetwork>,
) -> Result<Vec<(String, waggle_types::Network)>, ConvertError> {
    at_most("networks", networks.len(), MAX_NETWORKS)?;
    each("networks", networks, network)
}

fn policies(texts: &[String]) -> Result<Vec<(String, Arc<NetworkPolicy>)>, ConvertError> {
    at_most("policies", texts.len(), MAX_POLICIES)?;
    from_wire(texts).map_err(|e| ConvertError::new(e.field, e.rule))
}

fn subject(s: pb::PolicySubject, network: &str, framework: &str) -> Arc<PolicySubject> {
    Arc::new(PolicySubject {
        network: network.to_owned(),
        framework: framework.to_owned(),
        role: s.role,
        service: s.service,
        labels: s.labels.into_iter().collect(),
    })
}

fn subject_to_wire(s: &PolicySubject) -> pb::PolicySubject {
    let labels = s.labels.iter().map(|(k, v)| (k.clone(), v.clone()));
    pb::PolicySubject {
        role: s.role.clone(),
        service: s.service.clone(),
        labels: labels.collect(),
    }
}

fn task_port(p: pb::TaskPort) -> Result<PortNet, ConvertError> {
    Ok(PortNet {
        name: p.name,
        host_port: port("host_port", p.host_port)?,
        container_port: Some(port("container_port", p.container_port)?).filter(|p| *p > 0),
        protocols: protocols("protocols", &p.protocols)?,
        vips: each("vips", p.vips, VipLabel::try_from)?,
        balance: balance(p.balance)?,
    })
}

fn task(t: pb::TaskNet) -> Result<(TaskId, Arc<TaskNet>), ConvertError> {
    let net = TaskNet {
        ip: ip_if_any("ip", &t.ip)?,
        ip6: ip6("ip6", &t.ip6)?,
        subject: t.subject.map(|s| subject(s, &t.network, &t.framework)),
        network: Some(t.network).filter(|n| !n.is_empty()),
        agent_id: id("agent_id", t.agent_id, AgentId::new)?,
        name: t.name,
        framework: t.framework,
        state: task_state("state", t.state)?,
        has_check: t.has_check,
        health: health_state("health", t.health)?,
        ready: t.ready,
        ports: each("ports", t.ports, task_port)?,
    };
    Ok((id("task_id", t.task_id, TaskId::new)?, Arc::new(net)))
}

fn lease(v: pb::VipLease) -> Result<(VipName, VipLease), ConvertError> {
    let ports = each("ports", v.ports, |p| {
        Ok((protocol("protocol", p.protocol)?, vip_port("port", p.port)?))
    })?;
    let name = VipName {
        label: v.label,
        framework: v.framework,
    };
    let lease = VipLease {
        ip: ip("ip", &v.ip)?,
        ip6: ip6("ip6", &v.ip6)?,
        ports,
    };
    Ok((name, lease))
}

impl TryFrom<pb::VipPort> for VipKey {
    type Error = ConvertError;

    fn try_from(v: pb::VipPort) -> Result<Self, ConvertError> {
        Ok(Self {
            protocol: protocol("protocol", v.protocol)?,
            ip: any_ip("ip", &v.ip)?,
            port: vip_port("port", v.port)?,
        })
    }
}

impl From<&VipKey> for pb::VipPort {
    fn from(v: &VipKey) -> Self {
        Self {
            protocol: pb::Protocol::from(v.protocol).into(),
            ip: v.ip.to_string(),
            port: v.port.into(),
        }
    }
}

impl TryFrom<pb::Cause> for Cause {
    type Error = ConvertError;

    fn try_from(c: pb::Cause) -> Result<Self, ConvertError> {
        Ok(Self {
            task_id: id("task_id", c.task_id, TaskId::new)?,
            trace: trace("traceparent", &c.traceparent)?,
        })
    }
}

impl From<&Cause> for pb::Cause {
    fn from(c: &Cause) -> Self {
        Self {
            task_id: c.task_id.to_string(),
            traceparent: c.trace.to_string(),
        }
    }
}

fn leaders(
    leader: &str,
    masters: &[String],
) -> Result<(Option<Ipv4Addr>, Vec<Ipv4Addr>), ConvertError> {
    let leader = match leader {
        "" => None,
        text => Some(ip("leader", text)?),
    };
    let masters = masters
        .iter()
        .enumerate()
        .map(|(i, m)| ip(&format!("masters[{i}]"), m))
        .collect::<Result<_, _>>()?;
    Ok((leader, masters))
}

impl TryFrom<pb::NetSnapshot> for NetSnapshot {
    type Error = ConvertError;

    fn try_from(s: pb::NetSnapshot) -> Result<Self, ConvertError> {
        let (leader, masters) = leaders(&s.leader, &s.masters)?;
        Ok(Self {
            generation: Generation(s.generation),
            leader,
            masters,
            agents: unique("agents", each("agents", s.agents, agent)?)?,
            tasks: unique("tasks", each("tasks", s.tasks, task)?)?,
            vips: unique("vips", each("vips", s.vips, lease)?)?,
            literal_vips: each("literal_vips", s.literal_vips, VipKey::try_from)?,
            causes: each("causes", s.causes, Cause::try_from)?,
            sources: unique("sources", each("sources", s.sources, sources)?)?,
            networks: unique("networks", networks(s.networks)?)?,
            policies: unique("policies", policies(&s.policies)?)?,
            vxlan: vxlan(s.vxlan).map_err(|e| e.within("vxlan"))?,
        })
    }
}

fn agent_to_wire((id, a): (&AgentId, &AgentNet)) -> pb::AgentNet {
    pb::AgentNet {
        agent_id: id.to_string(),
        hostname: a.hostname.clone(),
        ip: a.ip.to_string(),
        ip6: a.ip6.map(|ip| ip.to_string()).unwrap_or_default(),
        reachable: a.reachable,
        domain: a.domain.as_ref().map(Into::into),
        overlay: overlay_to_wire(&a.overlay),
    }
}

fn task_to_wire((id, t): (&TaskId, &Arc<TaskNet>)) -> pb::TaskNet {
    pb::TaskNet {
        task_id: id.to_string(),
        agent_id: t.agent_id.to_string(),
        name: t.name.clone(),
        framework: t.framework.clone(),
        state: pb::TaskState::from(t.state).into(),
        has_check: t.has_check,
        health: pb::HealthState::from(t.health).into(),
        ready: t.ready,
        ip: t.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        ip6: t.ip6.map(|ip| ip.to_string()).unwrap_or_default(),
        network: t.network.clone().unwrap_or_default(),
        subject: t.subject.as_deref().map(subject_to_wire),
        ports: t.ports.iter().map(net_port).collect(),
    }
}

fn lease_to_wire((name, l): (&VipName, &VipLease)) -> pb::VipLease {
    let port = |(protocol, port): &(waggle_types::Protocol, u16)| pb::VipPort {
        protocol: pb::Protocol::from(*protocol).into(),
        ip: String::new(),
        port: (*port).into(),
    };
    pb::VipLease {
        label: name.label.clone(),
        framework: name.framework.clone(),
        ip: l.ip.to_string(),
        ip6: l.ip6.map(|ip| ip.to_string()).unwrap_or_default(),
        ports: l.ports.iter().map(port).collect(),
    }
}

fn sources(s: pb::VipSources) -> Result<(VipKey, Vec<SourceRange>), ConvertError> {
    let key = VipKey::try_from(required("vip", s.vip)?).map_err(|e| e.within("vip"))?;
    at_most("networks", s.networks.len(), MAX_SOURCES)?;
    let ranges = each("networks", s.networks, |text| {
        text.parse().map_err(|()| {
            ConvertError::new(
                "",
                format!("must be a network without host bits, is {text:?}"),
            )
        })
    })?;
    Ok((key, ranges))
}

fn sources_to_wire(key: &VipKey, ranges: &[SourceRange]) -> pb::VipSources {
    pb::VipSources {
        vip: Some(key.into()),
        networks: ranges.iter().map(ToString::to_string).collect(),
    }
}

/// What came or changed, and what went, become one map.
fn changes<K: Ord + Display, V>(
    field: &str,
    there: Vec<(K, V)>,
    gone: Vec<K>,
) -> Result<BTreeMap<K, Option<V>>, ConvertError> {
    let there = there.into_iter().map(|(k, v)| (k, Some(v)));
    unique(
        field,
        there.chain(gone.into_iter().map(|k| (k, None))).collect(),
    )
}

/// Entries of a change that are there.
fn there<K, V>(changes: &BTreeMap<K, Option<V>>) -> impl Iterator<Item = (&K, &V)> {
    changes.iter().filter_map(|(k, v)| Some((k, v.as_ref()?)))
}

/// Keys of a change that are gone.
fn gone<K, V>(changes: &BTreeMap<K, Option<V>>) -> impl Iterator<Item = &K> {
    changes.iter().filter(|(_, v)| v.is_none()).map(|(k, _)| k)
}

impl TryFrom<pb::NetDelta> for NetDelta {
    type Error = ConvertError;

    fn try_from(d: pb::NetDelta) -> Result<Self, ConvertError> {
        let (leader, masters) = leaders(&d.leader, &d.masters)?;
        let name = |v: pb::VipLease| VipName {
            label: v.label,
            framework: v.framework,
        };
        Ok(Self {
            from: Generation(d.from),
            to: Generation(d.to),
            leader,
            masters,
            agents: changes(
                "agents",
                each("agents", d.agents, agent)?,
                super::ids("agents_gone", d.agents_gone, AgentId::new)?,
            )?,
            tasks: changes(
                "tasks",
                each("tasks", d.tasks, task)?,
                super::ids("tasks_gone", d.tasks_gone, TaskId::new)?,
            )?,
            vips: changes(
                "vips",
                each("vips", d.vips, lease)?,
                d.vips_gone.into_iter().map(name).collect(),
            )?,
            literal_vips: if d.literal_changed {
                Some(each("literal_vips", d.literal_vips, VipKey::try_from)?)
            } else {
                None
            },
            causes: each("causes", d.causes, Cause::try_from)?,
            sources: unique("sources", each("sources", d.sources, sources)?)?
                .into_iter()
                .map(|(key, ranges)| (key, Some(ranges).filter(|r| !r.is_empty())))
                .collect(),
            networks: changes("networks", networks(d.networks)?, d.networks_gone)?,
            policies: changes("policies", policies(&d.policies)?, d.policies_gone)?,
            vxlan: vxlan(d.vxlan).map_err(|e| e.within("vxlan"))?,
        })
    }
}

impl From<&NetDelta> for pb::NetDelta {
    fn from(d: &NetDelta) -> Self {
        let name = |name: &VipName| pb::VipLease {
            label: name.label.clone(),
            framework: name.framework.clone(),
            ..pb::VipLease::default()
        };
        let literal = d.literal_vips.iter().flatten();
        Self {
            from: d.from.0,
            to: d.to.0,
            leader: d.leader.map(|ip| ip.to_string()).unwrap_or_default(),
            masters: d.masters.iter().map(ToString::to_string).collect(),
            agents: there(&d.agents).map(agent_to_wire).collect(),
            agents_gone: gone(&d.agents).map(ToString::to_string).collect(),
            tasks: there(&d.tasks).map(task_to_wire).collect(),
            tasks_gone: gone(&d.tasks).map(ToString::to_string).collect(),
            vips: there(&d.vips).map(lease_to_wire).collect(),
            vips_gone: gone(&d.vips).map(name).collect(),
            literal_changed: d.literal_vips.is_some(),
            literal_vips: literal.map(Into::into).collect(),
            causes: d.causes.iter().map(Into::into).collect(),
            sources: d
                .sources
                .iter()
                .map(|(key, ranges)| sources_to_wire(key, ranges.as_deref().unwrap_or_default()))
                .collect(),
            networks: there(&d.networks).map(network_to_wire).collect(),
            networks_gone: gone(&d.networks).cloned().collect(),
            policies: there(&d.policies).map(|(_, p)| policy_text(p)).collect(),
            policies_gone: gone(&d.policies).cloned().collect(),
            vxlan: vxlan_to_wire(d.vxlan),
        }
    }
}

impl From<&NetSnapshot> for pb::NetSnapshot {
    fn from(s: &NetSnapshot) -> Self {
        Self {
            generation: s.generation.0,
            leader: s.leader.map(|ip| ip.to_string()).unwrap_or_default(),
            masters: s.masters.iter().map(ToString::to_string).collect(),
            agents: s.agents.iter().map(agent_to_wire).collect(),
            tasks: s.tasks.iter().map(task_to_wire).collect(),
            vips: s.vips.iter().map(lease_to_wire).collect(),
            literal_vips: s.literal_vips.iter().map(Into::into).collect(),
            causes: s.causes.iter().map(Into::into).collect(),
            sources: s
                .sources
                .iter()
                .map(|(k, r)| sources_to_wire(k, r))
                .collect(),
            networks: s.networks.iter().map(network_to_wire).collect(),
            policies: s.policies.values().map(|p| policy_text(p)).collect(),
            vxlan: vxlan_to_wire(s.vxlan),
        }
    }
}

fn net_port(p: &PortNet) -> pb::TaskPort {
    pb::TaskPort {
        name: p.name.clone(),
        host_port: p.host_port.into(),
        protocols: protocol_numbers(&p.protocols),
        vips: p.vips.iter().map(Into::into).collect(),
        balance: balance_to_wire(&p.balance),
        container_port: p.container_port.unwrap_or(0).into(),
        // For who runs the task alone.
        metrics: String::new(),
    }
}
