//! Resources, ports, protocols, VIP labels and agents.

use waggle_types::{
    AgentId, AgentInfo, Balance, Locality, MAX_BALANCE_S, MAX_WEIGHT, Policy, PortRange, PortSet,
    Protocol, Resources, ScalarKind, TaskPort, VipLabel,
};

use super::custom::{MAX_RANGES, custom, milli, put_custom};
use super::reservation::{domain, statics, statics_message};
use super::{ConvertError, any_ip, at_most, each, id, ip, ip6, port, required};
use crate::proto::session as pb;

/// Longest name of a node, in bytes.
const MAX_HOSTNAME: usize = 255;
/// Most attributes of an agent.
const MAX_ATTRIBUTES: usize = 256;
/// Longest name or value of an attribute, in bytes.
const MAX_ATTRIBUTE: usize = 1024;

impl TryFrom<pb::Resources> for Resources {
    type Error = ConvertError;

    fn try_from(r: pb::Resources) -> Result<Self, ConvertError> {
        at_most("ports", r.ports.len(), MAX_RANGES)?;
        Ok(Self {
            scalars: [
                milli("cpus_milli", r.cpus_milli)?,
                milli("mem_milli", r.mem_milli)?,
                milli("disk_milli", r.disk_milli)?,
                milli("gpus_milli", r.gpus_milli)?,
            ],
            ports: PortSet::from_ranges(each("ports", r.ports, PortRange::try_from)?),
            custom: custom(r.scalars_milli, r.ranges, r.sets, r.volumes)?,
        })
    }
}

impl From<&Resources> for pb::Resources {
    fn from(r: &Resources) -> Self {
        let mut out = Self {
            cpus_milli: r.get(ScalarKind::Cpus).0,
            mem_milli: r.get(ScalarKind::Mem).0,
            disk_milli: r.get(ScalarKind::Disk).0,
            gpus_milli: r.get(ScalarKind::Gpus).0,
            ports: r.ports.ranges().iter().map(Into::into).collect(),
            ..Self::default()
        };
        put_custom(&r.custom, &mut out);
        out
    }
}

impl TryFrom<pb::PortRange> for PortRange {
    type Error = ConvertError;

    fn try_from(r: pb::PortRange) -> Result<Self, ConvertError> {
        let (begin, end) = (port("begin", r.begin)?, port("end", r.end)?);
        if begin > end {
            let rule = format!("must not be below begin, {end} is below {begin}");
            return Err(ConvertError::new("end", rule));
        }
        Ok(Self { begin, end })
    }
}

impl From<&PortRange> for pb::PortRange {
    fn from(r: &PortRange) -> Self {
        Self {
            begin: r.begin.into(),
            end: r.end.into(),
        }
    }
}

/// A protocol from its wire number; `field` names it in the error.
pub(super) fn protocol(field: &str, value: i32) -> Result<Protocol, ConvertError> {
    match pb::Protocol::try_from(value) {
        Ok(pb::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(pb::Protocol::Udp) => Ok(Protocol::Udp),
        _ => Err(ConvertError::new(
            field,
            format!("must be PROTOCOL_TCP or PROTOCOL_UDP, is {value}"),
        )),
    }
}

pub(super) fn protocols(field: &str, values: &[i32]) -> Result<Vec<Protocol>, ConvertError> {
    values
        .iter()
        .enumerate()
        .map(|(i, v)| protocol(&format!("{field}[{i}]"), *v))
        .collect()
}

impl From<Protocol> for pb::Protocol {
    fn from(p: Protocol) -> Self {
        match p {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

pub(super) fn protocol_numbers(protocols: &[Protocol]) -> Vec<i32> {
    protocols
        .iter()
        .map(|p| pb::Protocol::from(*p).into())
        .collect()
}

/// A VIP's port: never 0.
pub(super) fn vip_port(field: &str, value: u32) -> Result<u16, ConvertError> {
    match port(field, value)? {
        0 => Err(ConvertError::new(field, "must not be 0")),
        p => Ok(p),
    }
}

impl TryFrom<pb::VipLabel> for VipLabel {
    type Error = ConvertError;

    fn try_from(v: pb::VipLabel) -> Result<Self, ConvertError> {
        let vip_port = vip_port("port", v.port)?;
        match (v.name.is_empty(), v.ip.is_empty()) {
            (false, true) => Ok(Self::Named {
                name: v.name,
                port: vip_port,
            }),
            (true, false) => Ok(Self::Literal {
                ip: any_ip("ip", &v.ip)?,
                port: vip_port,
            }),
            _ => Err(ConvertError::new(
                "name",
                "exactly one of name and ip must be set",
            )),
        }
    }
}

impl From<&VipLabel> for pb::VipLabel {
    fn from(v: &VipLabel) -> Self {
        let (name, ip) = match v {
            VipLabel::Named { name, .. } => (name.clone(), String::new()),
            VipLabel::Literal { ip, .. } => (String::new(), ip.to_string()),
        };
        Self {
            name,
            ip,
            port: v.port().into(),
        }
    }
}

impl TryFrom<pb::TaskPort> for TaskPort {
    type Error = ConvertError;

    fn try_from(p: pb::TaskPort) -> Result<Self, ConvertError> {
        Ok(Self {
            name: p.name,
            host_port: port("host_port", p.host_port)?,
            container_port: match p.container_port {
                0 => None,
                n => Some(port("container_port", n)?),
            },
            protocols: protocols("protocols", &p.protocols)?,
            vips: each("vips", p.vips, VipLabel::try_from)?,
            balance: balance(p.balance)?,
            metrics: metrics(p.metrics)?,
        })
    }
}

fn metrics(path: String) -> Result<Option<String>, ConvertError> {
    if path.is_empty() {
        return Ok(None);
    }
    if !TaskPort::is_metrics_path(&path) {
        let rule = "must be a path of visible characters".to_owned();
        return Err(ConvertError::new("metrics", rule));
    }
    Ok(Some(path))
}

impl From<&TaskPort> for pb::TaskPort {
    fn from(p: &TaskPort) -> Self {
        Self {
            name: p.name.clone(),
            host_port: p.host_port.into(),
            container_port: p.container_port.unwrap_or(0).into(),
            protocols: protocol_numbers(&p.protocols),
            vips: p.vips.iter().map(Into::into).collect(),
            balance: balance_to_wire(&p.balance),
            metrics: p.metrics.clone().unwrap_or_default(),
        }
    }
}

/// Absent from a sender that has none, or that is older than they are.
pub(super) fn balance(b: Option<pb::Balance>) -> Result<Balance, ConvertError> {
    let Some(b) = b else {
        return Ok(Balance::default());
    };
    let seconds = |field, s: u32| match s {
        s if s <= MAX_BALANCE_S => Ok(s),
        s => Err(ConvertError::new(
            field,
            format!("must be at most {MAX_BALANCE_S}, is {s}"),
        )),
    };
    Ok(Balance {
        weight: u16::try_from(b.weight)
            .ok()
            .filter(|w| *w <= MAX_WEIGHT)
            .ok_or_else(|| {
                let rule = format!("must be at most {MAX_WEIGHT}, is {}", b.weight);
                ConvertError::new("balance.weight", rule)
            })?,
        policy: if b.least_connections {
            Policy::LeastConnections
        } else {
            Policy::Random
        },
        affinity_s: seconds("balance.affinity_s", b.affinity_s)?,
        locality: match b.locality {
            0 => Locality::Any,
            1 => Locality::Zone,
            2 => Locality::Node,
            n => {
                let rule = format!("must be 0, 1 or 2, is {n}");
                return Err(ConvertError::new("balance.locality", rule));
            }
        },
        slow_start_s: seconds("balance.slow_start_s", b.slow_start_s)?,
        ipv6: b.ipv6,
    })
}

pub(super) fn balance_to_wire(b: &Balance) -> Option<pb::Balance> {
    (*b != Balance::default()).then(|| pb::Balance {
        weight: b.weight.into(),
        least_connections: b.policy == Policy::LeastConnections,
        affinity_s: b.affinity_s,
        locality: match b.locality {
            Locality::Any => 0,
            Locality::Zone => 1,
            Locality::Node => 2,
        },
        slow_start_s: b.slow_start_s,
        ipv6: b.ipv6,
    })
}

impl TryFrom<pb::AgentInfo> for AgentInfo {
    type Error = ConvertError;

    fn try_from(a: pb::AgentInfo) -> Result<Self, ConvertError> {
        if a.hostname.is_empty() || a.hostname.len() > MAX_HOSTNAME {
            let rule = format!("must be 1 to {MAX_HOSTNAME} bytes, is {}", a.hostname.len());
            return Err(ConvertError::new("hostname", rule));
        }
        at_most("attributes", a.attributes.len(), MAX_ATTRIBUTES)?;
        for (name, value) in &a.attributes {
            if name.len().max(value.len()) > MAX_ATTRIBUTE {
                let rule = format!("must be at most {MAX_ATTRIBUTE} bytes each, {name:.80} is not");
                return Err(ConvertError::new("attributes", rule));
            }
        }
        let total: Resources = required("total", a.total)?
            .try_into()
            .map_err(|e: ConvertError| e.within("total"))?;
        if total.custom.volumes().next().is_some() {
            let rule = "must be empty: volumes are made of reservations, the master keeps them";
            return Err(ConvertError::new("total.volumes", rule));
        }
        Ok(Self {
            agent_id: id("agent_id", a.agent_id, AgentId::new)?,
            hostname: a.hostname,
            ip: ip("ip", &a.ip)?,
            ip6: ip6("ip6", &a.ip6)?,
            http_port: port("http_port", a.http_port)?,
            reserved: statics(a.reserved, &total)?,
            total,
            attributes: a.attributes,
            domain: domain(a.domain)?,
        })
    }
}

impl From<&AgentInfo> for pb::AgentInfo {
    fn from(a: &AgentInfo) -> Self {
        Self {
            agent_id: a.agent_id.to_string(),
            hostname: a.hostname.clone(),
            ip: a.ip.to_string(),
            ip6: a.ip6.map(|ip| ip.to_string()).unwrap_or_default(),
            http_port: a.http_port.into(),
            total: Some((&a.total).into()),
            attributes: a.attributes.clone(),
            reserved: statics_message(&a.reserved),
            domain: a.domain.as_ref().map(Into::into),
        }
    }
}
