//! Network policies: listed with whom they select, set, removed, and asked about a flow.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use axum::{body::Body, response::Response};
use waggle_api::{
    error::{ApiError, ErrorCode},
    native::{
        FlowView, PolicyView, PrefixError, Refusal, SideView, by_prefix, policy_json, request,
    },
};
use waggle_overlay_plan::policy::{Decision, Direction, Peer, RESOLVERS, evaluate, node_addresses};
use waggle_types::{
    FieldError, NetworkPolicy, OperatorCall, PolicyPorts, PolicyProtocol, PolicySubject, TaskId,
    TaskNet,
};

use super::operate::{read, run};
use crate::{
    http::{
        Api,
        request::Call,
        respond::{Fail, ok},
    },
    view::ClusterView,
};

/// Tasks that a list names for each policy.
const MAX_NAMED: usize = 100;

pub(super) fn list(view: &ClusterView) -> Vec<PolicyView> {
    view.policies.values().map(|p| show(view, p)).collect()
}

pub(super) fn one(view: &ClusterView, name: &str) -> Result<PolicyView, Fail> {
    let found = view.policies.get(name);
    found
        .map(|p| show(view, p))
        .ok_or_else(|| unknown(view, name))
}

fn unknown(view: &ClusterView, name: &str) -> Fail {
    let known: Vec<&str> = view.policies.keys().map(String::as_str).collect();
    let why = if known.is_empty() {
        format!("no policy {name:.80?}; there is none")
    } else {
        let more = if known.len() > 10 { ", .." } else { "" };
        let some: Vec<&str> = known.into_iter().take(10).collect();
        format!("no policy {name:.80?}; there are {}{more}", some.join(", "))
    };
    ApiError::new(ErrorCode::NotFound, why).into()
}

fn show(view: &ClusterView, policy: &NetworkPolicy) -> PolicyView {
    let selected = view.net.tasks.iter().filter(|(_, t)| {
        let subject = t.subject.as_ref();
        subject.is_some_and(|s| policy.selects.matches(s, None))
    });
    PolicyView {
        name: policy.name.clone(),
        audit: policy.audit,
        ingress_rules: policy.ingress.as_ref().map(Vec::len),
        egress_rules: policy.egress.as_ref().map(Vec::len),
        tasks: selected
            .take(MAX_NAMED)
            .map(|(id, _)| id.to_string())
            .collect(),
        definition: policy_json(policy),
    }
}

/// `PUT /waggle/v1/policies/{name}`; `?force=true` also if it names nobody who is there.
pub(super) async fn set(api: &Api, call: &Call, body: Body, name: &str) -> Result<Response, Fail> {
    let force = call.query.flag("force", false)?;
    let policy = read(call, body, request::policy).await?;
    if policy.name != name {
        let rule = format!(
            "must be the name in the path, {name:.80?}, is {:?}",
            policy.name
        );
        let differs = FieldError::new("name", rule);
        return Err(Fail::refused(Refusal::invalid(&[differs])));
    }
    run(api, OperatorCall::SetPolicy { policy, force }).await?;
    Ok(ok(&one(&api.view(), name)?))
}

pub(super) async fn remove(api: &Api, name: &str) -> Result<Response, Fail> {
    let gone = one(&api.view(), name)?;
    let name = name.to_owned();
    run(api, OperatorCall::RemovePolicy { name }).await?;
    Ok(ok(&gone))
}

/// One end of a flow.
struct End {
    task: Option<(TaskId, Arc<TaskNet>)>,
    ip: Option<IpAddr>,
    names: BTreeSet<String>,
}

impl End {
    fn subject(&self) -> Option<&Arc<PolicySubject>> {
        self.task.as_ref()?.1.subject.as_ref()
    }
}

/// `GET /waggle/v1/policy-test?from=..&to=..&port=tcp/80`: what policies say of a flow between tasks, addresses or names.
pub(super) fn test(view: &ClusterView, call: &Call) -> Result<FlowView, Fail> {
    let (from, to) = (
        end(view, "from", asked(call, "from")?)?,
        end(view, "to", asked(call, "to")?)?,
    );
    let port: PolicyPorts = asked(call, "port")?.parse().map_err(|rule: String| {
        Fail::refused(Refusal::invalid(&[FieldError::new("port", rule)]))
    })?;
    if port.first != port.last && port.protocol != PolicyProtocol::Icmp {
        let rule = FieldError::new("port", "must be one port, such as tcp/80, or icmp");
        return Err(Fail::refused(Refusal::invalid(&[rule])));
    }
    let protocol = match port.protocol {
        PolicyProtocol::Tcp => 6,
        PolicyProtocol::Udp => 17,
        PolicyProtocol::Icmp => 1,
    };
    let side = |own: &End, other: &End, direction| {
        let (id, _) = own.task.as_ref()?;
        let subject = own.subject()?;
        let peer = peer(view, other);
        let policies = view.policies.values();
        let said = evaluate(policies, direction, subject, &peer, (protocol, port.first));
        Some(shown(id, said))
    };
    let egress = side(&from, &to, Direction::Egress);
    let ingress = side(&to, &from, Direction::Ingress);
    let all = |of: fn(&SideView) -> bool| [&egress, &ingress].into_iter().flatten().all(of);
    Ok(FlowView {
        allowed: all(|s| s.allowed),
        would_be_allowed: all(|s| s.would_be_allowed),
        egress,
        ingress,
    })
}

fn asked<'a>(call: &'a Call, key: &'a str) -> Result<&'a str, Fail> {
    let missing = || Fail::refused(Refusal::invalid(&[FieldError::new(key, "is required")]));
    call.query.first(key).ok_or_else(missing)
}

fn shown(task: &TaskId, said: Decision) -> SideView {
    SideView {
        task: task.to_string(),
        allowed: said.allowed,
        would_be_allowed: said.would_be_allowed,
        selected_by: said.selected_by,
        policy: said.rule.as_ref().map(|r| r.policy.clone()),
        rule: said.rule.map(|r| r.rule),
    }
}

/// A task by id or a beginning of it, an address, or a DNS name.
fn end(view: &ClusterView, field: &str, text: &str) -> Result<End, Fail> {
    let tasks = &view.net.tasks;
    let of = |id: &TaskId, task: &Arc<TaskNet>| End {
        ip: task.ip.map(IpAddr::V4).or(task.ip6.map(IpAddr::V6)),
        task: Some((id.clone(), Arc::clone(task))),
        names: BTreeSet::new(),
    };
    if let Ok(ip) = text.parse::<IpAddr>() {
        let has =
            |t: &TaskNet| t.ip.map(IpAddr::V4) == Some(ip) || t.ip6.map(IpAddr::V6) == Some(ip);
        let task = tasks.iter().find(|(_, t)| has(t));
        return Ok(task.map_or_else(
            || End {
                task: None,
                ip: Some(ip),
                names: BTreeSet::new(),
            },
            |(id, t)| End {
                ip: Some(ip),
                ..of(id, t)
            },
        ));
    }
    match by_prefix(tasks.keys().map(TaskId::as_str), text) {
        Ok(id) => {
            let found = tasks.iter().find(|(t, _)| t.as_str() == id);
            Ok(found.map_or_else(
                || End {
                    task: None,
                    ip: None,
                    names: BTreeSet::new(),
                },
                |(id, t)| of(id, t),
            ))
        }
        Err(PrefixError::Nothing(_)) if text.contains('.') && field == "to" => Ok(End {
            task: None,
            ip: None,
            names: [text.trim_end_matches('.').to_ascii_lowercase()].into(),
        }),
        Err(e @ PrefixError::Nothing(_)) => {
            let why = format!("{field}: no task, address or name: {e}");
            Err(ApiError::new(ErrorCode::NotFound, why).into())
        }
        Err(e) => Err(ApiError::new(ErrorCode::Conflict, format!("{field}: {e}")).into()),
    }
}

fn peer<'a>(view: &ClusterView, end: &'a End) -> Peer<'a> {
    if let Some(subject) = end.subject() {
        return Peer::Task(subject);
    }
    let node = |end: &End| {
        let task = end.task.as_ref()?;
        view.net
            .agents
            .get(&task.1.agent_id)
            .map(|a| IpAddr::V4(a.ip))
    };
    // A task in host mode is its node; a name without an address is outside.
    let outside = IpAddr::from([192, 0, 2, 0]);
    let ip = end.ip.or_else(|| node(end)).unwrap_or(outside);
    let is_node = node_addresses(&view.net).contains(&ip);
    let pooled = view
        .net
        .networks
        .values()
        .any(|n| n.pools().any(|p| p.net.contains(ip)));
    if pooled && !is_node {
        return Peer::Unknown;
    }
    Peer::Address {
        ip,
        is_node,
        is_resolver: RESOLVERS.contains(&ip),
        names: &end.names,
    }
}
