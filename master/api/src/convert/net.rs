//! Network snapshots.

use std::{collections::BTreeMap, fmt::Display, sync::Arc};

use waggle_types::{
    AgentId, AgentNet, Cause, Generation, NetSnapshot, PortNet, TaskId, TaskNet, VipKey, VipLabel,
    VipLease, VipName,
};

use super::reservation::domain;
use super::resources::{balance, balance_to_wire, protocol, protocol_numbers, protocols, vip_port};
use super::task::{health_state, task_state};
use super::{ConvertError, any_ip, each, id, ip, port, trace};
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
        reachable: a.reachable,
        domain: domain(a.domain)?,
    };
    Ok((id("agent_id", a.agent_id, AgentId::new)?, net))
}

fn task_port(p: pb::TaskPort) -> Result<PortNet, ConvertError> {
    Ok(PortNet {
        name: p.name,
        host_port: port("host_port", p.host_port)?,
        protocols: protocols("protocols", &p.protocols)?,
        vips: each("vips", p.vips, VipLabel::try_from)?,
        balance: balance(p.balance)?,
    })
}

fn task(t: pb::TaskNet) -> Result<(TaskId, Arc<TaskNet>), ConvertError> {
    let net = TaskNet {
        agent_id: id("agent_id", t.agent_id, AgentId::new)?,
        name: t.name,
        framework: t.framework,
        state: task_state("state", t.state)?,
        has_check: t.has_check,
        health: health_state("health", t.health)?,
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

impl TryFrom<pb::NetSnapshot> for NetSnapshot {
    type Error = ConvertError;

    fn try_from(s: pb::NetSnapshot) -> Result<Self, ConvertError> {
        let leader = match s.leader.as_str() {
            "" => None,
            text => Some(ip("leader", text)?),
        };
        let masters = s
            .masters
            .iter()
            .enumerate()
            .map(|(i, m)| ip(&format!("masters[{i}]"), m))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            generation: Generation(s.generation),
            leader,
            masters,
            agents: unique("agents", each("agents", s.agents, agent)?)?,
            tasks: unique("tasks", each("tasks", s.tasks, task)?)?,
            vips: unique("vips", each("vips", s.vips, lease)?)?,
            literal_vips: each("literal_vips", s.literal_vips, VipKey::try_from)?,
            causes: each("causes", s.causes, Cause::try_from)?,
        })
    }
}

impl From<&NetSnapshot> for pb::NetSnapshot {
    fn from(s: &NetSnapshot) -> Self {
        let agents = s.agents.iter().map(|(id, a)| pb::AgentNet {
            agent_id: id.to_string(),
            hostname: a.hostname.clone(),
            ip: a.ip.to_string(),
            reachable: a.reachable,
            domain: a.domain.as_ref().map(Into::into),
        });
        let tasks = s.tasks.iter().map(|(id, t)| pb::TaskNet {
            task_id: id.to_string(),
            agent_id: t.agent_id.to_string(),
            name: t.name.clone(),
            framework: t.framework.clone(),
            state: pb::TaskState::from(t.state).into(),
            has_check: t.has_check,
            health: pb::HealthState::from(t.health).into(),
            ports: t.ports.iter().map(net_port).collect(),
        });
        let vips = s.vips.iter().map(|(name, l)| pb::VipLease {
            label: name.label.clone(),
            framework: name.framework.clone(),
            ip: l.ip.to_string(),
            ports: l
                .ports
                .iter()
                .map(|(protocol, port)| pb::VipPort {
                    protocol: pb::Protocol::from(*protocol).into(),
                    ip: String::new(),
                    port: (*port).into(),
                })
                .collect(),
        });
        Self {
            generation: s.generation.0,
            leader: s.leader.map(|ip| ip.to_string()).unwrap_or_default(),
            masters: s.masters.iter().map(ToString::to_string).collect(),
            agents: agents.collect(),
            tasks: tasks.collect(),
            vips: vips.collect(),
            literal_vips: s.literal_vips.iter().map(Into::into).collect(),
            causes: s.causes.iter().map(Into::into).collect(),
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
    }
}
