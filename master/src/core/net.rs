//! The network snapshot: rebuilt when something in it may have changed, published when it did.

use std::{collections::BTreeMap, sync::Arc};

use waggle_services::Instance;
use waggle_types::{
    AgentNet, AgentOverlay, Generation, Millis, NetSnapshot, ServiceId, ServiceSpec, TaskId,
    TaskNet, UnixMillis,
};

use super::{
    Effect, MasterCore, NetCause, SpanKey, SpanParent,
    agents::Agent,
    stored,
    tasks::{Task, net},
};

/// Generations are reserved in the store by this many at a time, so that publishing costs no fsync.
const RESERVE: u64 = 1024;
/// Most causes in one generation; more are dropped and counted.
const MAX_CAUSES: usize = 64;
/// Generations whose publishing time is remembered.
const MAX_PUBLISHED: usize = 256;

/// Every node gets the whole snapshot. Where that would be more bytes than this for all of them, it tells only of
/// tasks with ports or a service, and of the agents that have some: what nobody connects to would be most
/// of it. Three nodes may have forty thousand tasks, a hundred nodes a thousand.
const LARGE_BYTES: u64 = 16 << 20;
/// In a large cluster so many agents are told of in any case, for the names that list agents.
const LISTED: usize = 64;
/// Changes that only names show (tasks without ports) are published at most this often.
const NAMES_EVERY: Millis = Millis(1000);
/// Pushing snapshots takes no more than this, over time: in a large cluster a generation waits for it.
const BYTES_PER_MS: u64 = 100_000;
/// What an agent and a task take in a snapshot, about.
const AGENT_BYTES: u64 = 48;
const TASK_BYTES: u64 = 160;

/// Whether the network snapshot has to be made anew, and when.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// Something changed that only names show.
    names: bool,
    names_at: UnixMillis,
    not_before: UnixMillis,
    /// What the newest snapshot was made of: all tasks, or the networked ones of a large cluster. `None` before the
    /// first one.
    of_large: Option<bool>,
}

impl MasterCore {
    /// A task began, ended, or is in another state.
    pub(super) fn task_changed(&mut self, networked: bool) {
        if networked {
            self.net_dirty = true;
        } else if !self.is_large() {
            self.net_pace.names = true;
        }
    }

    /// Whether the snapshot leaves out what has no ports.
    fn is_large(&self) -> bool {
        let (agents, tasks) = (self.agents.all.len() as u64, self.tasks.len() as u64);
        agents * (agents * AGENT_BYTES + tasks * TASK_BYTES) > LARGE_BYTES
    }

    /// When the next generation is due.
    pub(super) fn next_publish(&self) -> Option<UnixMillis> {
        let pace = &self.net_pace;
        if self.recovering {
            return None;
        }
        let at = if self.net_dirty || self.tasks.is_touched() {
            pace.not_before
        } else if pace.names {
            pace.names_at.max(pace.not_before)
        } else {
            return None;
        };
        Some(at)
    }

    pub(super) fn publish(&mut self, now: UnixMillis) {
        // While agents come back after a restart the picture has holes; nodes keep what they have
        // (DESIGN section 1: the data plane outlives the master).
        if self.next_publish().is_none_or(|at| at > now) {
            return;
        }
        self.net_dirty = false;
        self.net_pace.names = false;
        self.net_pace.names_at = now + NAMES_EVERY;
        let mut next = self.build_net();
        next.generation = self.net.generation;
        if next == *self.net {
            self.drains.published(self.net.generation);
            self.drains.applied();
            return;
        }
        let bytes = next.agents.len() as u64 * AGENT_BYTES + next.tasks.len() as u64 * TASK_BYTES;
        let pushed = bytes.saturating_mul(self.agents.all.len() as u64);
        self.net_pace.not_before = now + Millis(pushed / BYTES_PER_MS);
        let generation = self.generation.next();
        if generation > self.reserved {
            self.reserved = Generation(generation.0 + RESERVE);
            let op = stored::put_generation(self.reserved);
            self.persist(vec![op]);
        }
        self.generation = generation;
        next.generation = generation;
        self.drains.published(generation);
        self.net = Arc::new(next);
        self.published_at.insert(generation, now);
        while self.published_at.len() > MAX_PUBLISHED {
            self.published_at.pop_first();
        }
        let causes = std::mem::take(&mut self.causes);
        self.out.push(Effect::PublishNet {
            snapshot: Arc::clone(&self.net),
            causes,
        });
    }

    /// A task as the network sees it. Its ports choose as the definition says now, not as it did when the task began: a
    /// change of `LB_` labels replaces no task.
    fn net_of(&self, t: &Task) -> TaskNet {
        let mut out = net(t);
        out.subject = self.policies.subject(t);
        if out.ports.iter().any(|p| !p.vips.is_empty())
            && let Some(spec) = ServiceId::new(&t.spec.service)
                .ok()
                .and_then(|id| self.services.get(&id))
        {
            for (i, port) in out.ports.iter_mut().enumerate() {
                let said = match &spec.pod {
                    None => spec.ports.get(i),
                    // A container has some of its pod's; their names are unique.
                    Some(_) => spec.ports.iter().find(|p| p.name == port.name),
                };
                if let Some(said) = said.filter(|said| said.vips == port.vips) {
                    port.balance = said.balance;
                }
            }
        }
        out
    }

    /// The definition of a service is another one: its tasks may be chosen in another way.
    pub(super) fn redefined(&mut self, old: Option<&ServiceSpec>, new: Option<&ServiceSpec>) {
        let how = |spec: Option<&ServiceSpec>| {
            let ports = spec.map(|s| s.ports.iter().map(|p| p.balance).collect::<Vec<_>>());
            ports.unwrap_or_default()
        };
        let Some(id) = new.or(old).map(|s| s.id.clone()) else {
            return;
        };
        if old.is_some()
            && how(old) != how(new)
            && let Some(service) = self.scheduler.service(&id)
        {
            for id in service.instances().iter().flat_map(Instance::live_ids) {
                self.tasks.touch(id);
            }
        }
    }

    fn build_net(&mut self) -> NetSnapshot {
        let large = self.is_large();
        let (touched, others) = self.tasks.take_touched();
        let kept = self.net_pace.of_large.replace(large) == Some(large) && (large || !others);
        let one = |t: &Task| (t.id.clone(), Arc::new(self.net_of(t)));
        let tasks: BTreeMap<_, _> = if kept {
            let mut tasks = self.net.tasks.clone();
            for id in touched {
                match self.tasks.get(&id) {
                    Some(t) => {
                        let new = self.net_of(t);
                        // What is the same stays the same allocation, so that snapshots share it.
                        if tasks.get(&id).is_none_or(|old| **old != new) {
                            tasks.insert(id, Arc::new(new));
                        }
                    }
                    None => {
                        tasks.remove(&id);
                    }
                }
            }
            tasks
        } else if large {
            self.tasks.networked().map(one).collect()
        } else {
            self.tasks.iter().map(one).collect()
        };
        let listed = if large { LISTED } else { usize::MAX };
        let mut agents: BTreeMap<_, _> = self
            .agents
            .all
            .iter()
            .take(listed)
            .map(|(id, a)| (id.clone(), agent_net(a, self.networks.of(id))))
            .collect();
        if large {
            for t in tasks.values() {
                if let Some(a) = self.agents.all.get(&t.agent_id) {
                    agents
                        .entry(t.agent_id.clone())
                        .or_insert_with(|| agent_net(a, self.networks.of(&t.agent_id)));
                }
            }
        }
        let vips = self.vips.net(&self.services);
        NetSnapshot {
            generation: Generation(0),
            leader: Some(self.config.master.ip),
            masters: self.config.masters.clone(),
            agents,
            tasks,
            vips: vips.named,
            literal_vips: vips.literal.into_iter().collect(),
            sources: vips.sources,
            networks: self.networks.all().clone(),
            policies: self.policies.all().clone(),
            vxlan: *self.networks.vxlan(),
            causes: Vec::new(),
        }
    }

    /// Whether the newest snapshot's tasks are those that one made from nothing would have.
    #[cfg(test)]
    pub(super) fn net_is_true(&self) -> bool {
        if self.net_dirty
            || self.tasks.is_touched()
            || self.net_pace.names
            || self.net_pace.of_large.is_none()
        {
            return true;
        }
        let one = |t: &Task| (t.id.clone(), Arc::new(self.net_of(t)));
        if self.net_pace.of_large == Some(false) && self.tasks.others_changed() {
            return true;
        }
        let tasks: BTreeMap<_, _> = if self.net_pace.of_large == Some(true) {
            self.tasks.networked().map(one).collect()
        } else {
            self.tasks.iter().map(one).collect()
        };
        tasks == self.net.tasks
    }

    /// Notes that a task has just become a backend, so that the next generation carries its trace.
    pub(super) fn announce(&mut self, id: &TaskId) {
        let fresh = |t: &Task| !t.announced && t.is_backend();
        let Some(task) = self.tasks.get(id).filter(|t| fresh(t)) else {
            return;
        };
        let vips: Vec<String> = task
            .ports()
            .iter()
            .flat_map(|p| &p.vips)
            .map(ToString::to_string)
            .collect();
        let parent = SpanParent::Span(SpanKey::Launch(id.clone()), task.trace());
        let cause = NetCause {
            task_id: id.clone(),
            parent,
            vips: vips.join(" "),
        };
        self.tasks.change(id, |t| t.announced = true);
        if self.causes.len() < MAX_CAUSES {
            self.causes.push(cause);
        } else {
            self.reject("too_many_causes");
        }
    }

    /// When a generation was published, if that is remembered.
    pub(super) fn published_at(&self, generation: Generation) -> Option<UnixMillis> {
        self.published_at.get(&generation).copied()
    }
}

fn agent_net(a: &Agent, overlay: AgentOverlay) -> AgentNet {
    AgentNet {
        ip6: a.info.ip6,
        hostname: a.info.hostname.clone(),
        ip: a.info.ip,
        reachable: a.reachable,
        domain: a.info.domain.clone(),
        overlay: AgentOverlay {
            wireguard: a.wireguard,
            ..overlay
        },
    }
}
