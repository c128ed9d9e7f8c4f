//! Network policies: stored, told to every node, and asked about.
//!
//! Every node gets all policies, and of tasks on overlay networks what policies can select by: of labels only those with keys that some policy asks for,
//! so that a cluster without policies pays nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{
    MAX_ALL_POLICY_RULES, MAX_POLICIES, MAX_POLICY_KEYS, MAX_POLICY_LABEL, NetworkMatch,
    NetworkMode, NetworkPolicy, PolicyPeer, PolicySubject, RejectReason, ServiceSpec, TaskId,
    TaskSelector,
};

use super::{
    MasterCore,
    frameworks::{Called, no},
    stored,
    tasks::Task,
};

/// The built-in framework's DNS name.
const FRAMEWORK: &str = "marathon";

/// Policies, as stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    all: BTreeMap<String, Arc<NetworkPolicy>>,
    /// Label keys that they ask for.
    keys: BTreeSet<String>,
}

impl Policies {
    pub(super) fn restored(all: BTreeMap<String, NetworkPolicy>) -> Self {
        let all = all.into_iter().map(|(name, p)| (name, Arc::new(p)));
        let mut policies = Self {
            all: all.collect(),
            keys: BTreeSet::new(),
        };
        policies.keys = keys(policies.all.values());
        policies
    }

    /// All, by name.
    pub(super) const fn all(&self) -> &BTreeMap<String, Arc<NetworkPolicy>> {
        &self.all
    }

    /// What a task is to them; `None` on no network, and where there are none.
    pub(super) fn subject(&self, t: &Task) -> Option<Arc<PolicySubject>> {
        if self.all.is_empty() {
            return None;
        }
        let network = t.network()?.to_owned();
        Some(Arc::new(PolicySubject {
            network,
            framework: t.spec.framework_name.clone(),
            role: t.spec.role.clone(),
            service: t.spec.service.clone(),
            labels: self.labels(&t.spec.labels),
        }))
    }

    fn labels(&self, all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let asked = all.iter().filter(|(key, _)| self.keys.contains(*key));
        asked.map(|(k, v)| (k.clone(), clip(v))).collect()
    }
}

/// A value that is longer than any in a policy is told as one that is just too long: it is there, and equals none of them.
fn clip(value: &str) -> String {
    if value.len() <= MAX_POLICY_LABEL {
        return value.to_owned();
    }
    let mut end = MAX_POLICY_LABEL + 1;
    while !value.is_char_boundary(end) {
        end += 1;
    }
    value.get(..end).unwrap_or(value).to_owned()
}

fn keys<'a>(all: impl Iterator<Item = &'a Arc<NetworkPolicy>>) -> BTreeSet<String> {
    all.flat_map(|p| {
        p.label_keys()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .collect()
}

impl MasterCore {
    /// Stores a policy in place of the one with its name, if there is one.
    pub(super) fn set_policy(&mut self, policy: NetworkPolicy, force: bool) -> Called {
        policy.check().map_err(|e| vec![e.into()])?;
        let name = policy.name.clone();
        let mut all = self.policies.all.clone();
        all.insert(name.clone(), Arc::new(policy));
        if all.len() > MAX_POLICIES {
            let message = format!("there are {MAX_POLICIES} policies already");
            return Err(vec![no(RejectReason::TooMany, "name", message)]);
        }
        let n_rules: usize = all.values().map(|p| p.n_rules()).sum();
        if n_rules > MAX_ALL_POLICY_RULES {
            let message =
                format!("all policies may have {MAX_ALL_POLICY_RULES} rules, would have {n_rules}");
            return Err(vec![no(RejectReason::TooMany, "rules", message)]);
        }
        let keys = keys(all.values());
        if keys.len() > MAX_POLICY_KEYS {
            let message = format!(
                "all policies may ask for {MAX_POLICY_KEYS} labels, would ask for {}",
                keys.len()
            );
            return Err(vec![no(RejectReason::TooMany, "labels", message)]);
        }
        let policy = all.get(&name).map(Arc::clone);
        if let Some(policy) = policy {
            self.check_networks(&policy)?;
            if !force && !self.names_somebody(&policy.selects) {
                let message = "names nobody: no task and no service on an overlay network is meant; force stores it for those to come";
                return Err(vec![no(RejectReason::Invalid, "selects", message)]);
            }
            self.persist(vec![stored::put_policy(&policy)]);
        }
        self.take_policies(all, keys);
        Ok(())
    }

    /// Forgets a policy.
    pub(super) fn remove_policy(&mut self, name: &str) -> Called {
        let mut all = self.policies.all.clone();
        if all.remove(name).is_none() {
            return Err(vec![no(
                RejectReason::UnknownPolicy,
                name,
                "no such policy",
            )]);
        }
        self.persist(vec![stored::delete_policy(name)]);
        let keys = keys(all.values());
        self.take_policies(all, keys);
        Ok(())
    }

    fn take_policies(&mut self, all: BTreeMap<String, Arc<NetworkPolicy>>, keys: BTreeSet<String>) {
        let tells = self.policies.all.is_empty() != all.is_empty() || self.policies.keys != keys;
        self.policies = Policies { all, keys };
        self.net_dirty = true;
        if tells {
            let ids: Vec<TaskId> = self
                .tasks
                .networked()
                .filter(|t| t.network().is_some())
                .map(|t| t.id.clone())
                .collect();
            for id in ids {
                self.tasks.touch(&id);
            }
        }
    }

    /// Every network that a policy names is there.
    fn check_networks(&self, policy: &NetworkPolicy) -> Called {
        let unknown = |s: &TaskSelector| match &s.network {
            NetworkMatch::Named(name) if !self.networks.all().contains_key(name) => {
                Some(name.clone())
            }
            _ => None,
        };
        let refuse = |field: String, network: String| -> Called {
            let message = format!("names a network that is not there: {network}");
            Err(vec![no(RejectReason::Invalid, &field, message)])
        };
        if let Some(network) = unknown(&policy.selects) {
            return refuse("selects.network".into(), network);
        }
        for (direction, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
            for (n, rule) in rules.iter().flatten().enumerate() {
                for (m, peer) in rule.peers.iter().enumerate() {
                    if let PolicyPeer::Tasks(tasks) = peer
                        && let Some(network) = unknown(tasks)
                    {
                        return refuse(format!("{direction}[{n}].peers[{m}].network"), network);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a task or a service is meant, of those that are there.
    fn names_somebody(&self, selects: &TaskSelector) -> bool {
        let task = |t: &Task| {
            t.network().is_some_and(|network| {
                let subject = PolicySubject {
                    network: network.to_owned(),
                    framework: t.spec.framework_name.clone(),
                    role: t.spec.role.clone(),
                    service: t.spec.service.clone(),
                    labels: t.spec.labels.clone(),
                };
                selects.matches(&subject, None)
            })
        };
        // Which role its tasks will have is level 1's to say.
        let any_role = TaskSelector {
            role: None,
            ..selects.clone()
        };
        let service = |s: &Arc<ServiceSpec>| {
            let NetworkMode::Container(network) = &s.container.network else {
                return false;
            };
            let subject = PolicySubject {
                network: network.clone(),
                framework: FRAMEWORK.to_owned(),
                role: String::new(),
                service: s.id.to_string(),
                labels: s.labels.clone(),
            };
            any_role.matches(&subject, None)
        };
        self.tasks.networked().any(task) || self.services.values().any(service)
    }
}
