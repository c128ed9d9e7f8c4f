//! The native framework API: subscriptions, offers, launches, rejections.

use waggle_types::{
    AgentId, CallRejection, Capabilities, FrameworkId, FrameworkInfo, Millis, Offer, OfferId,
    RejectReason, Resources, RoleSubscription, SchedulerEvent, TaskId, TaskSpec, TaskStatus,
    UnixMillis,
};

use super::{ConvertError, each, id, ip, required};
use crate::proto::{framework as pb, session};

/// Most tasks, offers or ids in one call; more are refused.
pub const MAX_ITEMS: usize = 10_000;
/// Grace of tasks that name none.
const KILL_GRACE: Millis = Millis::from_secs(3);

const REASONS: [(RejectReason, pb::RejectReason); 19] = {
    use RejectReason as R;
    use pb::RejectReason as W;
    [
        (R::Invalid, W::RejectInvalid),
        (R::UnknownFramework, W::RejectUnknownFramework),
        (R::FrameworkRemoved, W::RejectFrameworkRemoved),
        (R::ReservedFramework, W::RejectReservedFramework),
        (R::NotSubscribed, W::RejectNotSubscribed),
        (R::Replaced, W::RejectReplaced),
        (R::TooMany, W::RejectTooMany),
        (R::StaleOffer, W::RejectStaleOffer),
        (R::ForeignOffer, W::RejectForeignOffer),
        (R::DuplicateOffer, W::RejectDuplicateOffer),
        (R::NoOffers, W::RejectNoOffers),
        (R::MixedAgents, W::RejectMixedAgents),
        (R::Overuse, W::RejectOveruse),
        (R::AgentDisconnected, W::RejectAgentDisconnected),
        (R::DuplicateTask, W::RejectDuplicateTask),
        (R::UnknownTask, W::RejectUnknownTask),
        (R::ForeignTask, W::RejectForeignTask),
        (R::TooSlow, W::RejectTooSlow),
        (R::Refused, W::RejectRefused),
    ]
};

/// A reason from its wire number; what a newer master says is `Refused`.
pub fn reject_reason(value: i32) -> RejectReason {
    let found = REASONS.iter().find(|(_, w)| i32::from(*w) == value);
    found.map_or(RejectReason::Refused, |(r, _)| *r)
}

impl From<RejectReason> for pb::RejectReason {
    fn from(r: RejectReason) -> Self {
        let found = REASONS.iter().find(|(domain, _)| *domain == r);
        found.map_or(Self::RejectRefused, |(_, w)| *w)
    }
}

impl From<&CallRejection> for pb::Rejection {
    fn from(r: &CallRejection) -> Self {
        Self {
            reason: pb::RejectReason::from(r.reason).into(),
            object: r.object.clone(),
            message: r.message.clone(),
        }
    }
}

impl From<pb::Rejection> for CallRejection {
    fn from(r: pb::Rejection) -> Self {
        Self::new(reject_reason(r.reason), r.object, r.message)
    }
}

impl From<ConvertError> for CallRejection {
    fn from(e: ConvertError) -> Self {
        Self::new(RejectReason::Invalid, e.field, e.rule)
    }
}

impl TryFrom<pb::SubscribeRequest> for FrameworkInfo {
    type Error = ConvertError;

    fn try_from(s: pb::SubscribeRequest) -> Result<Self, ConvertError> {
        let out = Self {
            id: match s.framework_id {
                none if none.is_empty() => None,
                some => Some(id("framework_id", some, FrameworkId::new)?),
            },
            name: s.name,
            roles: vec![RoleSubscription::new(if s.role.is_empty() {
                "*".to_owned()
            } else {
                s.role
            })],
            capabilities: Capabilities::default(),
            failover_timeout: Millis(s.failover_timeout_ms),
        };
        out.check()
            .map_err(|e| ConvertError::new(e.field, e.rule))?;
        Ok(out)
    }
}

impl From<&FrameworkInfo> for pb::SubscribeRequest {
    fn from(f: &FrameworkInfo) -> Self {
        Self {
            framework_id: f.id.as_ref().map(ToString::to_string).unwrap_or_default(),
            name: f.name.clone(),
            role: f.roles.first().map(|r| r.role.clone()).unwrap_or_default(),
            failover_timeout_ms: f.failover_timeout.0,
        }
    }
}

/// An offer as its framework reads it; whose it is, the stream says.
pub fn offer(o: pb::Offer, framework_id: &FrameworkId) -> Result<Offer, ConvertError> {
    Ok(Offer {
        offer_id: id("offer_id", o.offer_id, OfferId::new)?,
        framework_id: framework_id.clone(),
        role: o.role,
        agent_id: id("agent_id", o.agent_id, AgentId::new)?,
        hostname: o.hostname,
        ip: ip("ip", &o.ip)?,
        resources: required("resources", o.resources)?
            .try_into()
            .map_err(|e: ConvertError| e.within("resources"))?,
        parts: Vec::new(),
        domain: None,
        unavailability: None,
        attributes: o.attributes,
        at: UnixMillis(o.at_ms),
    })
}

impl From<&Offer> for pb::Offer {
    fn from(o: &Offer) -> Self {
        Self {
            offer_id: o.offer_id.to_string(),
            role: o.role.clone(),
            agent_id: o.agent_id.to_string(),
            hostname: o.hostname.clone(),
            ip: o.ip.to_string(),
            resources: Some((&o.resources).into()),
            attributes: o.attributes.clone(),
            at_ms: o.at.0,
        }
    }
}

/// A list of ids, bounded.
pub fn ids<T>(
    field: &str,
    given: Vec<String>,
    new: impl Fn(String) -> Result<T, waggle_types::IdError> + Copy,
) -> Result<Vec<T>, ConvertError> {
    bounded(field, given.len())?;
    let named = |(i, v)| id(&format!("{field}[{i}]"), v, new);
    given.into_iter().enumerate().map(named).collect()
}

fn bounded(field: &str, len: usize) -> Result<(), ConvertError> {
    if len > MAX_ITEMS {
        let rule = format!("must be at most {MAX_ITEMS}, is {len}");
        return Err(ConvertError::new(field, rule));
    }
    Ok(())
}

/// Tasks of an accept. Framework name and role are empty: the master knows them.
pub fn launches(
    tasks: Vec<pb::TaskInfo>,
    framework_id: &FrameworkId,
    traceparent: &str,
) -> Result<Vec<TaskSpec>, ConvertError> {
    bounded("launch", tasks.len())?;
    each("launch", tasks, |t| launch(t, framework_id, traceparent))
}

fn launch(
    t: pb::TaskInfo,
    framework_id: &FrameworkId,
    traceparent: &str,
) -> Result<TaskSpec, ConvertError> {
    let name = if t.name.is_empty() {
        t.task_id.clone()
    } else {
        t.name
    };
    let wire = session::TaskSpec {
        discovery_name: name.clone(),
        name,
        framework_id: framework_id.to_string(),
        command: t.command.map(|c| match c {
            pb::task_info::Command::Shell(s) => session::task_spec::Command::Shell(s),
            pb::task_info::Command::Argv(a) => session::task_spec::Command::Argv(a),
        }),
        task_id: t.task_id,
        env: t.env,
        labels: t.labels,
        resources: t.resources,
        ports: t.ports,
        health_checks: t.health_checks,
        kill_grace_ms: if t.kill_grace_ms == 0 {
            KILL_GRACE.0
        } else {
            t.kill_grace_ms
        },
        user: t.user,
        traceparent: traceparent.to_owned(),
        ..session::TaskSpec::default()
    };
    let spec = TaskSpec::try_from(wire)?;
    check(&spec)?;
    Ok(spec)
}

/// Rules between fields, which an agent would only find out later.
fn check(spec: &TaskSpec) -> Result<(), ConvertError> {
    let nul = |s: &str| s.contains('\0');
    for key in spec.env.keys() {
        if key.is_empty() || key.contains('=') || nul(key) {
            let rule = format!("keys must not be empty or hold = or NUL, is {key:.80?}");
            return Err(ConvertError::new("env", rule));
        }
    }
    let text = match &spec.command {
        waggle_types::Command::Shell(s) => nul(s),
        waggle_types::Command::Argv(a) => a.iter().any(|s| nul(s)),
    };
    if text || spec.env.values().any(|v| nul(v)) {
        return Err(ConvertError::new(
            "command",
            "must not hold a NUL character",
        ));
    }
    for (i, p) in spec.ports.iter().enumerate() {
        let field = format!("ports[{i}]");
        if !p.vips.is_empty() {
            let rule = "VIPs of frameworks are not supported yet";
            return Err(ConvertError::new(format!("{field}.vips"), rule));
        }
        if !spec.resources.ports.contains(p.host_port) {
            let rule = format!("must be among resources.ports, is {}", p.host_port);
            return Err(ConvertError::new(format!("{field}.host_port"), rule));
        }
    }
    for (i, h) in spec.health_checks.iter().enumerate() {
        let at = match &h.probe {
            waggle_types::HealthProbe::Http {
                port_index, port, ..
            }
            | waggle_types::HealthProbe::Tcp { port_index, port } => {
                port.is_none().then_some(*port_index)
            }
            waggle_types::HealthProbe::Command { .. } => None,
        };
        if at.is_some_and(|at| at >= spec.ports.len()) {
            let rule = format!("must be below {}, the number of ports", spec.ports.len());
            return Err(ConvertError::new(
                format!("health_checks[{i}].port_index"),
                rule,
            ));
        }
    }
    Ok(())
}

/// A task as a framework sends it: what the master sets is left out.
impl From<&TaskSpec> for pb::TaskInfo {
    fn from(t: &TaskSpec) -> Self {
        let wire = session::TaskSpec::from(t);
        Self {
            task_id: wire.task_id,
            name: wire.name,
            command: wire.command.map(|c| match c {
                session::task_spec::Command::Shell(s) => pb::task_info::Command::Shell(s),
                session::task_spec::Command::Argv(a) => pb::task_info::Command::Argv(a),
            }),
            env: wire.env,
            labels: wire.labels,
            resources: wire.resources,
            ports: wire.ports,
            health_checks: wire.health_checks,
            kill_grace_ms: wire.kill_grace_ms,
            user: wire.user,
        }
    }
}

/// An event for a framework; `Subscribed` is the session's to fill in.
pub fn event(e: &SchedulerEvent) -> Option<pb::event::Kind> {
    use pb::event::Kind;
    Some(match e {
        SchedulerEvent::Subscribed { .. }
        | SchedulerEvent::InverseOffer(_)
        | SchedulerEvent::RescindInverse(_) => return None,
        SchedulerEvent::Offers(offers) => Kind::Offers(pb::Offers {
            offers: offers.iter().map(Into::into).collect(),
        }),
        SchedulerEvent::Rescind(offer_id) => Kind::Rescind(pb::Rescind {
            offer_id: offer_id.to_string(),
        }),
        SchedulerEvent::Update(status) => Kind::Update(status.into()),
        SchedulerEvent::AgentLost(agent_id) => Kind::AgentLost(pb::AgentLost {
            agent_id: agent_id.to_string(),
        }),
    })
}

/// An event as a framework reads it; `None` for those of the connection itself.
pub fn scheduler_event(
    kind: pb::event::Kind,
    framework_id: &FrameworkId,
) -> Result<Option<SchedulerEvent>, ConvertError> {
    use pb::event::Kind;
    Ok(Some(match kind {
        Kind::Offers(o) => {
            SchedulerEvent::Offers(each("offers", o.offers, |o| offer(o, framework_id))?)
        }
        Kind::Rescind(r) => SchedulerEvent::Rescind(id("offer_id", r.offer_id, OfferId::new)?),
        Kind::Update(s) => SchedulerEvent::Update(TaskStatus::try_from(s)?),
        Kind::AgentLost(a) => SchedulerEvent::AgentLost(id("agent_id", a.agent_id, AgentId::new)?),
        Kind::Subscribed(_) | Kind::Heartbeat(_) | Kind::Closed(_) => return Ok(None),
    }))
}

/// The resources of a message that must be set.
pub fn resources(field: &str, r: Option<session::Resources>) -> Result<Resources, ConvertError> {
    required(field, r)?
        .try_into()
        .map_err(|e: ConvertError| e.within(field))
}

/// A task id from the wire.
pub fn task_id(field: &str, value: String) -> Result<TaskId, ConvertError> {
    id(field, value, TaskId::new)
}

/// An agent id from the wire.
pub fn agent_id(field: &str, value: String) -> Result<AgentId, ConvertError> {
    id(field, value, AgentId::new)
}

/// A framework id from the wire.
pub fn framework_id(field: &str, value: String) -> Result<FrameworkId, ConvertError> {
    id(field, value, FrameworkId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for r in RejectReason::ALL {
            let wire = i32::from(pb::RejectReason::from(r));
            assert_ne!(wire, 0);
            assert_eq!(reject_reason(wire), r);
        }
        assert_eq!(reject_reason(4711), RejectReason::Refused);
    }

    fn task() -> pb::TaskInfo {
        pb::TaskInfo {
            task_id: "t1".into(),
            command: Some(pb::task_info::Command::Shell("true".into())),
            resources: Some(session::Resources {
                cpus_milli: 100,
                ports: vec![session::PortRange {
                    begin: 31000,
                    end: 31000,
                }],
                ..session::Resources::default()
            }),
            ports: vec![session::TaskPort {
                host_port: 31000,
                protocols: vec![session::Protocol::Tcp.into()],
                ..session::TaskPort::default()
            }],
            ..pb::TaskInfo::default()
        }
    }

    #[test]
    fn tasks_are_checked_by_field() {
        let framework = FrameworkId::new("f").unwrap();
        let read = |t: pb::TaskInfo| launches(vec![t], &framework, "");
        let spec = read(task()).unwrap().remove(0);
        assert_eq!((spec.name.as_str(), spec.kill_grace), ("t1", KILL_GRACE));
        assert_eq!(read(pb::TaskInfo::from(&spec)).unwrap()[0], spec);
        let wrong = |change: &dyn Fn(&mut pb::TaskInfo)| {
            let mut t = task();
            change(&mut t);
            read(t).unwrap_err().field
        };
        assert_eq!(wrong(&|t| t.task_id = "a/b".into()), "launch[0].task_id");
        assert_eq!(wrong(&|t| t.command = None), "launch[0].command");
        assert_eq!(wrong(&|t| t.resources = None), "launch[0].resources");
        assert_eq!(
            wrong(&|t| t.ports[0].host_port = 31001),
            "launch[0].ports[0].host_port"
        );
        let negative = wrong(&|t| {
            if let Some(r) = &mut t.resources {
                r.cpus_milli = -1;
            }
        });
        assert_eq!(negative, "launch[0].resources.cpus_milli");
        assert_eq!(
            wrong(&|t| _ = t.env.insert("a=b".into(), String::new())),
            "launch[0].env"
        );
        let check = session::HealthCheck {
            probe: Some(session::health_check::Probe::Tcp(session::TcpProbe {
                port_index: 1,
                port: None,
            })),
            ..session::HealthCheck::default()
        };
        assert_eq!(
            wrong(&|t| t.health_checks.push(check.clone())),
            "launch[0].health_checks[0].port_index"
        );
        assert!(launches(vec![task(); MAX_ITEMS + 1], &framework, "").is_err());
        assert!(launches(vec![task()], &framework, "junk").is_err());
    }

    #[test]
    fn offers_survive_the_wire() {
        let o = Offer {
            offer_id: OfferId::new("o").unwrap(),
            framework_id: FrameworkId::new("f").unwrap(),
            role: "*".into(),
            agent_id: AgentId::new("a").unwrap(),
            hostname: "n1".into(),
            ip: std::net::Ipv4Addr::LOCALHOST,
            resources: Resources::from_millis(1, 2, 3),
            parts: Vec::new(),
            domain: None,
            unavailability: None,
            attributes: [("rack".to_owned(), "a".to_owned())].into(),
            at: UnixMillis(7),
        };
        assert_eq!(offer(pb::Offer::from(&o), &o.framework_id), Ok(o));
    }
}
