//! Why things are as they are, asked of level 1 and told in bounded size.

use std::collections::BTreeMap;

use waggle_allocator::{Barrier, Reason};
use waggle_types::{AgentId, FrameworkId, Resources, RoleSubscription};

use super::{MasterCore, SERVICE_FRAMEWORK, levels::service_framework};
use crate::{
    error::MasterError,
    explain::{
        AgentBecause, AgentExplained, Because, ExplainQuery, Explained, FrameworkExplained,
        FrameworkRoleExplained, LastChoice, MAX_TOLD, PassedOver, RoleExplained,
    },
    view::AgentMode,
};

/// Pairs of agents and roles that one question looks at; the others are counted as not looked at. The
/// answer is computed where everything else waits for it.
const MAX_LOOKS: usize = 20_000;

/// A stable name for a reason.
fn code(reason: &Reason) -> &'static str {
    match reason {
        Reason::UnknownFramework => "not_subscribed",
        Reason::NoAgents => "no_agents",
        Reason::Suppressed | Reason::RoleSuppressed { .. } => "suppressed",
        Reason::Barred { barrier, .. } => match barrier {
            Barrier::Gpus => "gpus",
            Barrier::Region => "region",
            Barrier::Constraints => "offer_constraints",
        },
        Reason::HeldBack { .. } => "quota",
        Reason::Reserved { .. } => "reserved",
        Reason::TooSmall { .. } => "too_small",
        Reason::HoldsOffer { .. } => "holds_offer",
        Reason::AgentInactive { .. } => "agent_inactive",
        Reason::NothingFree { .. } => "nothing_free",
        Reason::BelowMinimum { .. } => "below_minimum",
        Reason::Filtered { .. } => "filtered",
    }
}

fn because(code: &'static str, message: impl Into<String>) -> Because {
    Because {
        code,
        message: message.into(),
    }
}

impl MasterCore {
    /// One question.
    pub(super) fn explain(&self, query: &ExplainQuery) -> Result<Explained, MasterError> {
        match query {
            ExplainQuery::Framework(id) => self
                .explain_framework(id)
                .map(|f| Explained::Framework(Box::new(f)))
                .ok_or_else(|| MasterError::NoSuchFramework(id.clone())),
            ExplainQuery::Role(role) => self
                .explain_role(role)
                .map(|r| Explained::Role(Box::new(r)))
                .ok_or_else(|| MasterError::NoSuchRole(role.clone())),
            ExplainQuery::Agent(id) => self
                .explain_agent(id)
                .map(|a| Explained::Agent(Box::new(a)))
                .ok_or_else(|| MasterError::NoSuchAgent(id.clone())),
        }
    }

    /// A reason, where the master knows better why an agent is inactive.
    fn tell(&self, agent: &AgentId, reason: &Reason) -> Because {
        let inactive = matches!(reason, Reason::AgentInactive { .. });
        match self.why_inactive(agent) {
            Some(why) if inactive => why,
            _ => because(code(reason), reason.to_string()),
        }
    }

    fn why_inactive(&self, id: &AgentId) -> Option<Because> {
        match self.upkeep.mode(id) {
            AgentMode::Active => {}
            mode => {
                let message = format!("{id}: an operator set it to {}", mode.name());
                return Some(because(mode.name(), message));
            }
        }
        let a = self.agents.all.get(id)?;
        if a.session.is_none() || !a.reachable {
            let message = format!("{id}: the agent is not connected");
            return Some(because("not_connected", message));
        }
        let w = self.upkeep.windows.get(id)?;
        let since = w.start.rfc3339();
        let message = format!("{id}: down for maintenance since {since}");
        Some(because("maintenance", message))
    }

    fn explain_framework(&self, id: &FrameworkId) -> Option<FrameworkExplained> {
        let builtin = *id == self.framework_id;
        let own = self.own_roles();
        let known = self.frameworks.all.get(id);
        if known.is_none() && !builtin {
            return None;
        }
        let name = known.map_or(SERVICE_FRAMEWORK, |f| f.info.name.as_str());
        let connected = known.map_or(builtin, |f| f.subscription.is_some());
        let roles = known.map_or(own.as_slice(), |f| &f.roles);
        let mut general = Vec::new();
        if builtin && self.recovering {
            let message =
                "the master waits for the agents that it knows before it launches services";
            general.push(because("recovering", message));
        } else if !connected {
            let message = "the framework is not subscribed";
            general.push(because("not_subscribed", message));
        }
        if self.agents.all.is_empty() {
            general.push(because("no_agents", "no agent is registered"));
        }
        let mut offers: BTreeMap<&str, usize> = BTreeMap::new();
        for o in self.out_offers.values().filter(|o| o.framework_id == *id) {
            *offers.entry(o.role.as_str()).or_default() += 1;
        }
        let looks = MAX_LOOKS / roles.len().max(1);
        let one = |r: &RoleSubscription| {
            let (agents, rest) = self.explain_agents(id, r, looks);
            FrameworkRoleExplained {
                subscription: r.clone(),
                share: self.allocator.dominant_share(&r.role).as_f64(),
                headroom: self.headroom(&r.role),
                n_offers: offers.get(r.role.as_str()).copied().unwrap_or_default(),
                agents,
                rest,
            }
        };
        Some(FrameworkExplained {
            id: id.clone(),
            name: name.to_owned(),
            connected,
            capabilities: known.map_or_else(
                || service_framework(Vec::new()).capabilities,
                |f| f.info.capabilities,
            ),
            general,
            roles: roles.iter().map(one).collect(),
        })
    }

    /// `None` without any quota.
    fn headroom(&self, role: &str) -> Option<BTreeMap<String, waggle_types::Milli>> {
        if self.settings.quota.is_empty() {
            return None;
        }
        self.allocator.explain_role(role).map(|r| r.may_get)
    }

    /// Why a framework holds nothing (more) for one of its roles, agent by agent.
    fn explain_agents(
        &self,
        id: &FrameworkId,
        role: &RoleSubscription,
        looks: usize,
    ) -> (Vec<AgentBecause>, BTreeMap<&'static str, usize>) {
        let (mut told, mut rest) = (Vec::new(), BTreeMap::new());
        for (n, (agent_id, a)) in self.agents.all.iter().enumerate() {
            if n >= looks {
                *rest.entry("not_looked_at").or_default() = self.agents.all.len() - looks;
                break;
            }
            let all = match self.allocator.explain_one(id, &role.role, agent_id) {
                _ if role.suppressed => {
                    let message = format!("offers to role {} are suppressed", role.role);
                    vec![because("suppressed", message)]
                }
                Some(reasons) => reasons.iter().map(|r| self.tell(agent_id, r)).collect(),
                None if self.allocator.total(agent_id).is_none() => {
                    let message = format!("{agent_id}: its tasks use more than it has");
                    vec![because("overcommitted", message)]
                }
                None => continue,
            };
            for because in all {
                if told.len() < MAX_TOLD {
                    told.push(AgentBecause {
                        agent_id: agent_id.clone(),
                        hostname: a.info.hostname.clone(),
                        because,
                    });
                } else {
                    *rest.entry(because.code).or_default() += 1;
                }
            }
        }
        (told, rest)
    }

    fn explain_role(&self, role: &str) -> Option<RoleExplained> {
        let books = self.allocator.explain_role(role);
        let quota = self.settings.quota.get(role).cloned();
        let set = quota.is_some() || self.settings.weights.contains_key(role);
        if books.is_none() && !set {
            return None;
        }
        let prefix = format!("{role}/");
        let below = |r: &&str| {
            let rest = r.strip_prefix(prefix.as_str());
            rest.is_some_and(|rest| !rest.contains('/'))
        };
        let subroles = self.allocator.roles().filter(below);
        let subroles: Vec<String> = subroles.map(str::to_owned).collect();
        let headroom = self.headroom(role);
        let (mut frameworks, allocated, charged, owed) = books.map_or_else(
            || {
                (
                    Vec::new(),
                    BTreeMap::new(),
                    BTreeMap::new(),
                    BTreeMap::new(),
                )
            },
            |b| (b.frameworks, b.allocated, b.charged, b.owed),
        );
        let n_frameworks = frameworks.len();
        frameworks.truncate(MAX_TOLD);
        Some(RoleExplained {
            role: role.to_owned(),
            weight_milli: self.settings.weight(role),
            share: self.allocator.dominant_share(role).as_f64(),
            quota: quota.unwrap_or_default(),
            allocated,
            charged,
            owed,
            headroom,
            n_frameworks,
            frameworks,
            n_subroles: subroles.len(),
            subroles: subroles.into_iter().take(MAX_TOLD).collect(),
        })
    }

    fn explain_agent(&self, id: &AgentId) -> Option<AgentExplained> {
        let a = self.agents.all.get(id);
        let expected = self.expected.get(id);
        if a.is_none() && expected.is_none() && !self.upkeep.is_gone(id) {
            return None;
        }
        let hostname = a
            .map(|a| a.info.hostname.clone())
            .or_else(|| expected.map(|e| e.hostname.clone()));
        let (mut passed_over, mut rest) = (Vec::new(), BTreeMap::new());
        for (framework_id, role, reasons) in self.allocator.explain_agent(id) {
            let because: Vec<Because> = reasons.iter().map(|r| self.tell(id, r)).collect();
            if passed_over.len() < MAX_TOLD {
                passed_over.push(PassedOver {
                    framework_id,
                    role,
                    because,
                });
            } else {
                for b in because {
                    *rest.entry(b.code).or_default() += 1;
                }
            }
        }
        let books = |r: Option<&Resources>| r.cloned().unwrap_or_default();
        Some(AgentExplained {
            id: id.clone(),
            hostname: hostname.unwrap_or_default(),
            reachable: a.is_some_and(|a| a.reachable),
            mode: self.upkeep.mode(id),
            maintenance: self.upkeep.windows.get(id).copied(),
            used: books(self.allocator.used(id)),
            offered: books(self.allocator.offered(id)),
            free: books(self.allocator.free(id)),
            reserved: self.show_reserved(id),
            given_way: self.show_given_way(id),
            last_choice: self.allocator.last_chosen(id).map(|c| LastChoice {
                framework_id: c.framework_id,
                role: c.role,
                share: c.share.as_f64(),
                n_candidates: c.n_candidates,
                at: c.at,
            }),
            passed_over,
            rest,
        })
    }

    /// What of an agent had no room, in words.
    fn show_given_way(&self, id: &AgentId) -> Vec<String> {
        let mut out = Vec::new();
        if self.agents.all.contains_key(id) && self.allocator.total(id).is_none() {
            out.push("its tasks use more than it has: nothing of it is offered".to_owned());
        }
        let parts = self.reservations.given_way.get(id).into_iter().flatten();
        out.extend(parts.take(MAX_TOLD).map(|p| {
            let role = p.reservation.last().map_or("", |r| r.role.as_str());
            format!("{} of role {role} has no room", p.resources)
        }));
        out
    }
}
