//! Network policies as JSON: what operators write, what is stored, and what nodes are sent.
//!
//! ```json
//! {"name": "db", "audit": false,
//!  "selects": {"service": "/shop/db", "network": "blue", "role": "eng/*", "labels": {"tier": "db", "env": ["a", "b"], "x": true}},
//!  "ingress": [{"from": [{"tasks": {"service": "/shop/*"}}, {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"nodes": true}],
//!               "ports": ["tcp/5432", "udp/1000-2000", "icmp"]}],
//!  "egress": [{"to": [{"name": "*.example.com"}, {"resolver": true}]}]}
//! ```

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use waggle_types::{
    FieldError, IpNet, LabelTest, NamePattern, NetworkMatch, NetworkPolicy, PathMatch, PolicyPeer,
    PolicyPorts, PolicyRule, TaskSelector,
};

use super::request::{Invalid, read};
use crate::read::{Errors, Obj, kind};

/// A policy with what it means now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyView {
    /// Its name.
    pub name: String,
    /// It only counts.
    pub audit: bool,
    /// Rules of ingress; `None`: says nothing about it.
    pub ingress_rules: Option<usize>,
    /// Rules of egress; `None`: says nothing about it.
    pub egress_rules: Option<usize>,
    /// Tasks that it selects now.
    pub tasks: Vec<String>,
    /// As it was written.
    pub definition: Value,
}

/// What policies say of a flow from one to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowView {
    /// Both sides let it pass.
    pub allowed: bool,
    /// So it would be if policies in audit mode were in force, too.
    pub would_be_allowed: bool,
    /// What those of the task that dials say; `None`: it is no task with an address of its own.
    pub egress: Option<SideView>,
    /// What those of the task that is dialled say; `None`: it is no task with an address of its own.
    pub ingress: Option<SideView>,
}

/// One side of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SideView {
    /// The task.
    pub task: String,
    /// It passes.
    pub allowed: bool,
    /// It would pass with policies in audit mode.
    pub would_be_allowed: bool,
    /// Policies that speak of it; none: it is open.
    pub selected_by: Vec<String>,
    /// The policy with the first rule that allows it.
    pub policy: Option<String>,
    /// That rule's position.
    pub rule: Option<usize>,
}

/// Reads a policy, strictly.
///
/// # Errors
/// Every field that breaks a rule.
pub fn policy(body: &Value) -> Result<NetworkPolicy, Invalid> {
    let read = read(body, |obj, errs| {
        obj.only(&["name", "audit", "selects", "ingress", "egress"], errs);
        obj.required("name", errs);
        obj.required("selects", errs);
        Some(NetworkPolicy {
            name: obj.string("name", errs)?,
            selects: selector(&obj.object("selects", errs)?, errs),
            audit: obj.boolean("audit", errs).unwrap_or(false),
            ingress: rules(obj, "ingress", "from", errs),
            egress: rules(obj, "egress", "to", errs),
        })
    })?;
    read.check().map_err(|e| vec![e])?;
    Ok(read)
}

/// Reads a policy from text that was made by [`policy_text`].
///
/// # Errors
/// The first field that breaks a rule.
pub fn policy_from_text(text: &str) -> Result<NetworkPolicy, FieldError> {
    let value: Value =
        serde_json::from_str(text).map_err(|e| FieldError::new("definition", e.to_string()))?;
    policy(&value).map_err(|all| {
        let first = all.into_iter().next();
        first.unwrap_or_else(|| FieldError::new("definition", "can't be read"))
    })
}

/// A policy as text, the same for the same policy.
pub fn policy_text(policy: &NetworkPolicy) -> String {
    policy_json(policy).to_string()
}

/// A policy as it is written.
pub fn policy_json(policy: &NetworkPolicy) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), json!(policy.name));
    if policy.audit {
        out.insert("audit".into(), json!(true));
    }
    out.insert("selects".into(), selector_json(&policy.selects));
    for (key, peers, rules) in [
        ("ingress", "from", &policy.ingress),
        ("egress", "to", &policy.egress),
    ] {
        if let Some(rules) = rules {
            let rules: Vec<Value> = rules.iter().map(|rule| rule_json(rule, peers)).collect();
            out.insert(key.into(), json!(rules));
        }
    }
    Value::Object(out)
}

/// A list that is not there says something else than an empty one, which would be an accident.
fn some<'a>(obj: &Obj<'a>, key: &str, errs: &mut Errors) -> Option<&'a [Value]> {
    let items = obj.list(key, errs)?;
    if items.is_empty() {
        errs.add(
            obj.path(key),
            "must not be empty; without it everybody or everything is meant",
        );
    }
    Some(items)
}

fn rules(obj: &Obj<'_>, key: &str, peers: &str, errs: &mut Errors) -> Option<Vec<PolicyRule>> {
    let items = obj.list(key, errs)?;
    let mut out = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        let Some(rule) = Obj::of(format!("{}[{n}]", obj.path(key)), item, errs) else {
            continue;
        };
        rule.only(&[peers, "ports"], errs);
        let mut read = PolicyRule::default();
        for (n, item) in some(&rule, peers, errs).into_iter().flatten().enumerate() {
            let path = format!("{}[{n}]", rule.path(peers));
            read.peers
                .extend(Obj::of(path, item, errs).and_then(|obj| peer(&obj, errs)));
        }
        for (n, item) in some(&rule, "ports", errs).into_iter().flatten().enumerate() {
            let path = format!("{}[{n}]", rule.path("ports"));
            read.ports.extend(parsed::<PolicyPorts>(path, item, errs));
        }
        out.push(read);
    }
    Some(out)
}

fn peer(obj: &Obj<'_>, errs: &mut Errors) -> Option<PolicyPeer> {
    const KINDS: [&str; 5] = ["tasks", "cidr", "name", "nodes", "resolver"];
    obj.only(
        &["tasks", "cidr", "except", "name", "nodes", "resolver"],
        errs,
    );
    let said: Vec<&str> = KINDS.into_iter().filter(|k| obj.get(k).is_some()).collect();
    let [one] = said.as_slice() else {
        errs.add(
            obj.path(""),
            format!("must have one of {}", KINDS.join(", ")),
        );
        return None;
    };
    if *one != "cidr" && obj.get("except").is_some() {
        errs.add(obj.path("except"), "is of a cidr only");
    }
    let value = obj.get(one)?;
    let path = obj.path(one);
    match *one {
        "tasks" => Some(PolicyPeer::Tasks(selector(
            &obj.object("tasks", errs)?,
            errs,
        ))),
        "cidr" => {
            let mut except = Vec::new();
            for (n, item) in obj.list("except", errs).into_iter().flatten().enumerate() {
                except.extend(net(format!("{}[{n}]", obj.path("except")), item, errs));
            }
            let net = net(path, value, errs)?;
            Some(PolicyPeer::Cidr { net, except })
        }
        "name" => {
            let text = obj.string("name", errs)?;
            match NamePattern::parse(&text) {
                Ok(name) => Some(PolicyPeer::Name(name)),
                Err(rule) => {
                    errs.add(path, rule);
                    None
                }
            }
        }
        kind => {
            if !obj.boolean(kind, errs)? {
                errs.add(path, "must be true, or not there");
            }
            Some(if kind == "nodes" {
                PolicyPeer::Nodes
            } else {
                PolicyPeer::Resolver
            })
        }
    }
}

/// A network, or an address alone.
fn net(path: String, value: &Value, errs: &mut Errors) -> Option<IpNet> {
    let alone = value.as_str().and_then(|t| t.parse::<IpAddr>().ok());
    alone
        .map(IpNet::host)
        .or_else(|| parsed::<IpNet>(path, value, errs))
}

fn parsed<T>(path: String, value: &Value, errs: &mut Errors) -> Option<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let Value::String(text) = value else {
        errs.add(path, format!("must be a string, is {}", kind(value)));
        return None;
    };
    text.parse()
        .map_err(|e| errs.add(path, format!("{e}")))
        .ok()
}

fn selector(obj: &Obj<'_>, errs: &mut Errors) -> TaskSelector {
    obj.only(&["network", "framework", "role", "service", "labels"], errs);
    let network = match obj.string("network", errs) {
        None => NetworkMatch::Unsaid,
        Some(any) if any == "*" => NetworkMatch::Any,
        Some(name) => NetworkMatch::Named(name),
    };
    let mut labels = BTreeMap::new();
    if let Some(all) = obj.object("labels", errs) {
        for (key, value) in all.entries() {
            let test = match value {
                Value::String(value) => LabelTest::Is(value.clone()),
                Value::Bool(true) => LabelTest::Exists,
                Value::Array(_) => match all.strings(key, errs) {
                    Some(values) => LabelTest::In(values.into_iter().collect()),
                    None => continue,
                },
                other => {
                    let rule = "must be a value, a list of values, or true for any value";
                    errs.add(all.path(key), format!("{rule}, is {}", kind(other)));
                    continue;
                }
            };
            labels.insert(key.clone(), test);
        }
    }
    TaskSelector {
        network,
        framework: obj.string("framework", errs),
        role: obj.string("role", errs).map(|t| PathMatch::parse(&t)),
        service: obj.string("service", errs).map(|t| PathMatch::parse(&t)),
        labels,
    }
}

fn selector_json(s: &TaskSelector) -> Value {
    let mut out = Map::new();
    let mut say = |key: &str, value: Option<String>| {
        out.extend(value.map(|value| (key.to_owned(), Value::String(value))));
    };
    say(
        "network",
        match &s.network {
            NetworkMatch::Unsaid => None,
            NetworkMatch::Any => Some("*".to_owned()),
            NetworkMatch::Named(name) => Some(name.clone()),
        },
    );
    say("framework", s.framework.clone());
    say("role", s.role.as_ref().map(ToString::to_string));
    say("service", s.service.as_ref().map(ToString::to_string));
    if !s.labels.is_empty() {
        let test = |test: &LabelTest| match test {
            LabelTest::Is(value) => json!(value),
            LabelTest::In(values) => json!(values),
            LabelTest::Exists => json!(true),
        };
        let labels: Map<String, Value> =
            s.labels.iter().map(|(k, t)| (k.clone(), test(t))).collect();
        out.insert("labels".into(), Value::Object(labels));
    }
    Value::Object(out)
}

fn rule_json(rule: &PolicyRule, key: &str) -> Value {
    let mut out = Map::new();
    let peer = |peer: &PolicyPeer| match peer {
        PolicyPeer::Tasks(tasks) => json!({"tasks": selector_json(tasks)}),
        PolicyPeer::Cidr { net, except } if except.is_empty() => json!({"cidr": net.to_string()}),
        PolicyPeer::Cidr { net, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            json!({"cidr": net.to_string(), "except": except})
        }
        PolicyPeer::Name(name) => json!({"name": name.to_string()}),
        PolicyPeer::Nodes => json!({"nodes": true}),
        PolicyPeer::Resolver => json!({"resolver": true}),
    };
    if !rule.peers.is_empty() {
        out.insert(key.to_owned(), rule.peers.iter().map(peer).collect());
    }
    if !rule.ports.is_empty() {
        let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
        out.insert("ports".into(), json!(ports));
    }
    Value::Object(out)
}

/// Policies as nodes are sent them.
pub(crate) fn from_wire(texts: &[String]) -> Result<Vec<(String, Arc<NetworkPolicy>)>, FieldError> {
    texts
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let policy = policy_from_text(text)
                .map_err(|e| FieldError::new(format!("policies[{n}].{}", e.field), e.rule))?;
            Ok((policy.name.clone(), Arc::new(policy)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let text = json!({
            "name": "db", "audit": true,
            "selects": {"network": "*", "framework": "marathon", "role": "eng/*", "service": "/shop/db",
                        "labels": {"a": "b", "c": ["d", "e"], "f": true}},
            "ingress": [
                {"from": [{"tasks": {"labels": {"x": "y"}}}, {"nodes": true},
                          {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "192.0.2.1/32"}],
                 "ports": ["tcp/80", "udp/1000-2000", "icmp", "tcp"]},
                {},
            ],
            "egress": [{"to": [{"name": "*.example.com"}, {"resolver": true}]}],
        });
        let read = policy(&text).unwrap();
        assert_eq!(policy_json(&read), text);
        assert_eq!(policy_from_text(&policy_text(&read)), Ok(read));
        let closed = json!({"name": "x", "selects": {"network": "blue"}, "egress": []});
        let read = policy(&closed).unwrap();
        assert_eq!((&read.ingress, &read.egress), (&None, &Some(Vec::new())));
    }

    #[test]
    fn what_is_wrong_is_named_by_field() {
        let with = |key: &str, value: Value| {
            let mut all = json!({"name": "x", "selects": {"service": "/a"}, "ingress": []});
            all[key] = value;
            all
        };
        let from = |peer: Value| with("ingress", json!([{"from": [peer]}]));
        for (field, body) in [
            ("name", json!({"selects": {"service": "/a"}, "ingress": []})),
            ("selects", with("selects", json!({}))),
            (
                "selects.labels.a",
                with("selects", json!({"labels": {"a": 1}})),
            ),
            ("selects.tier", with("selects", json!({"tier": "x"}))),
            ("ingres", with("ingres", json!([]))),
            ("ingress[0].from", with("ingress", json!([{"from": []}]))),
            ("ingress[0].ports", with("ingress", json!([{"ports": []}]))),
            (
                "ingress[0].ports[0]",
                with("ingress", json!([{"ports": ["http"]}])),
            ),
            ("ingress[0].to", with("ingress", json!([{"to": []}]))),
            (
                "ingress[0].from[0].cidr",
                from(json!({"cidr": "10.0.0.1/8"})),
            ),
            (
                "ingress[0].from[0].except",
                from(json!({"nodes": true, "except": []})),
            ),
            ("ingress[0].from[0].nodes", from(json!({"nodes": false}))),
            (
                "ingress[0].from[0].",
                from(json!({"nodes": true, "cidr": "10.0.0.0/8"})),
            ),
            ("ingress[0].peers[0]", from(json!({"tasks": {}}))),
        ] {
            let errors = policy(&body).unwrap_err();
            assert!(
                errors.iter().any(|e| e.field == field),
                "{field}: {errors:?}"
            );
        }
    }
}
