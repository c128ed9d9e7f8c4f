//! The registry of agents: who is there, who was heard when, and what they have applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use waggle_types::{AgentId, AgentInfo, Generation, Millis, UnixMillis, WireguardKey};

use super::event::SessionId;

/// An agent that registered with this master.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) info: Arc<AgentInfo>,
    pub(super) version: String,
    /// Its key, where it encrypts what it sends to other nodes.
    pub(super) wireguard: Option<WireguardKey>,
    /// The open session.
    pub(super) session: Option<SessionId>,
    pub(super) reachable: bool,
    /// When it became unreachable.
    pub(super) lost_at: Option<UnixMillis>,
    /// Whether the framework has been told that it is unreachable.
    pub(super) told_lost: bool,
    pub(super) registered_at: UnixMillis,
    pub(super) reregistered_at: UnixMillis,
    pub(super) last_heard: UnixMillis,
    /// Its time in the index of silence: not after `last_heard`.
    pub(super) filed_at: UnixMillis,
    pub(super) applied: Generation,
    pub(super) applied_us: u64,
    pub(super) applied_after: Option<Millis>,
    pub(super) apply_failures: Vec<String>,
}

/// Why a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The id belongs to a living agent elsewhere.
    IdInUse { by: String },
    /// The address belongs to a living agent with another id.
    AddressInUse { by: AgentId },
    /// An operator said that the agent is gone for good.
    Gone,
    /// The limit of agents is reached.
    TooMany(usize),
}

impl Conflict {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::IdInUse { .. } => "agent_id_in_use",
            Self::AddressInUse { .. } => "agent_address_in_use",
            Self::Gone => "agent_gone",
            Self::TooMany(_) => "too_many_agents",
        }
    }

    /// Whether the agent need not try again.
    pub(super) fn is_permanent(&self) -> bool {
        matches!(self, Self::IdInUse { .. } | Self::Gone)
    }

    pub(super) fn text(&self, id: &AgentId) -> String {
        match self {
            Self::IdInUse { by } => format!("agent id {id} is in use by {by}"),
            Self::AddressInUse { by } => format!("the address is in use by agent {by}"),
            Self::Gone => format!("agent {id} is gone for good, by an operator's word"),
            Self::TooMany(n) => format!("the limit of {n} agents is reached"),
        }
    }
}

/// Agents by id, with the way back from sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Agents {
    pub(super) all: BTreeMap<AgentId, Agent>,
    sessions: BTreeMap<SessionId, AgentId>,
    by_ip: BTreeMap<Ipv4Addr, Vec<AgentId>>,
    /// Reachable agents by a time at which they were heard; they may have been heard since.
    silence: BTreeSet<(UnixMillis, AgentId)>,
    n_unreachable: usize,
}

impl Agents {
    /// Whether `info` may register now. An agent that moved or was made anew is told apart from two
    /// that live by who has an open session.
    pub(super) fn conflict(&self, info: &AgentInfo, max: usize) -> Option<Conflict> {
        if let Some(a) = self.all.get(&info.agent_id) {
            let same_node = a.info.ip == info.ip && a.info.hostname == info.hostname;
            if !same_node && a.session.is_some() {
                let by = format!("{} at {}", a.info.hostname, a.info.ip);
                return Some(Conflict::IdInUse { by });
            }
        } else if self.all.len() >= max {
            return Some(Conflict::TooMany(max));
        }
        self.others_at(info)
            .find(|id| self.session(id).is_some())
            .map(|id| Conflict::AddressInUse { by: id.clone() })
    }

    /// Agents with another id at the same address.
    fn others_at<'a>(&'a self, info: &'a AgentInfo) -> impl Iterator<Item = &'a AgentId> {
        let there = self.by_ip.get(&info.ip).into_iter().flatten();
        there.filter(|id| **id != info.agent_id)
    }

    /// Enters a new agent.
    pub(super) fn enter(&mut self, agent: Agent) {
        let id = agent.info.agent_id.clone();
        self.remove(&id);
        self.enter_ip(agent.info.ip, &id);
        if agent.reachable {
            self.silence.insert((agent.filed_at, id.clone()));
        } else {
            self.n_unreachable += 1;
        }
        self.all.insert(id, agent);
    }

    /// Replaces what an agent says of itself.
    pub(super) fn set_info(&mut self, id: &AgentId, info: Arc<AgentInfo>) {
        let Some(a) = self.all.get_mut(id) else {
            return;
        };
        let (old, new) = (a.info.ip, info.ip);
        a.info = info;
        if old == new {
            return;
        }
        self.enter_ip(new, id);
        self.leave_ip(old, id);
    }

    fn enter_ip(&mut self, ip: Ipv4Addr, id: &AgentId) {
        let there = self.by_ip.entry(ip).or_default();
        // Nearly always the only one.
        there.reserve_exact(1);
        there.push(id.clone());
    }

    fn leave_ip(&mut self, ip: Ipv4Addr, id: &AgentId) {
        if let Some(there) = self.by_ip.get_mut(&ip) {
            there.retain(|a| a != id);
            if there.is_empty() {
                self.by_ip.remove(&ip);
            }
        }
    }

    /// An agent is out of reach from now on.
    pub(super) fn lost(&mut self, id: &AgentId, now: UnixMillis) {
        if let Some(a) = self.all.get_mut(id) {
            if std::mem::take(&mut a.reachable) {
                self.n_unreachable += 1;
                self.silence.remove(&(a.filed_at, id.clone()));
            }
            a.lost_at = Some(now);
            a.told_lost = false;
        }
    }

    /// An agent is in reach; answers whether it was not.
    pub(super) fn back(&mut self, id: &AgentId) -> bool {
        let Some(a) = self.all.get_mut(id) else {
            return false;
        };
        a.lost_at = None;
        let was_lost = !std::mem::replace(&mut a.reachable, true);
        if was_lost {
            self.n_unreachable = self.n_unreachable.saturating_sub(1);
            a.filed_at = a.last_heard;
            self.silence.insert((a.filed_at, id.clone()));
        }
        was_lost
    }

    /// Nobody of those in reach has been silent for `timeout` before then.
    pub(super) fn next_silence(&self, timeout: Millis) -> Option<UnixMillis> {
        self.silence.first().map(|(heard, _)| *heard + timeout)
    }

    /// Reachable agents that were not heard for `timeout`, in order of their ids.
    pub(super) fn silent(&mut self, now: UnixMillis, timeout: Millis) -> Vec<AgentId> {
        let mut out = Vec::new();
        while self
            .silence
            .first()
            .is_some_and(|(heard, _)| now.since(*heard) >= timeout)
        {
            let Some((_, id)) = self.silence.pop_first() else {
                break;
            };
            let Some(a) = self.all.get_mut(&id) else {
                continue;
            };
            if now.since(a.last_heard) >= timeout {
                // It is filed until somebody declares it lost.
                out.push(id);
            } else {
                a.filed_at = a.last_heard;
                self.silence.insert((a.filed_at, id));
            }
        }
        for id in &out {
            if let Some(a) = self.all.get(id) {
                self.silence.insert((a.filed_at, id.clone()));
            }
        }
        out.sort();
        out
    }

    /// Agents with another id at the same address and no session: this one took their place.
    pub(super) fn replaced_by(&self, info: &AgentInfo) -> Vec<AgentId> {
        let mut there: Vec<AgentId> = self.others_at(info).cloned().collect();
        there.sort();
        there
    }

    /// The agent of an open session; `None` for a session that was replaced or ended.
    pub(super) fn of_session(&self, session: SessionId) -> Option<&AgentId> {
        self.sessions.get(&session)
    }

    /// Binds a session to an agent; answers the session that it replaces.
    pub(super) fn open(&mut self, id: &AgentId, session: SessionId) -> Option<SessionId> {
        self.sessions.insert(session, id.clone());
        let old = self.all.get_mut(id)?.session.replace(session);
        if let Some(old) = old {
            self.sessions.remove(&old);
        }
        old
    }

    /// Ends a session; answers its agent if the session was the current one.
    pub(super) fn close(&mut self, session: SessionId) -> Option<AgentId> {
        let id = self.sessions.remove(&session)?;
        if let Some(a) = self.all.get_mut(&id) {
            a.session = None;
        }
        Some(id)
    }

    /// Forgets an agent and its session.
    pub(super) fn remove(&mut self, id: &AgentId) -> Option<Agent> {
        let a = self.all.remove(id)?;
        if let Some(s) = a.session {
            self.sessions.remove(&s);
        }
        self.leave_ip(a.info.ip, id);
        if a.reachable {
            self.silence.remove(&(a.filed_at, id.clone()));
        } else {
            self.n_unreachable = self.n_unreachable.saturating_sub(1);
        }
        Some(a)
    }

    /// The open session of an agent.
    pub(super) fn session(&self, id: &AgentId) -> Option<SessionId> {
        self.all.get(id).and_then(|a| a.session)
    }

    pub(super) fn n_unreachable(&self) -> usize {
        self.n_unreachable
    }
}
