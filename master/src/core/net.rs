//! The network snapshot: rebuilt when something in it may have changed, published when it did.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{AgentNet, Generation, NetSnapshot, TaskId, UnixMillis, VipLabel};

use super::{
    Effect, MasterCore, NetCause, SpanKey, SpanParent, stored,
    tasks::{Task, net},
};

/// Generations are reserved in the store by this many at a time, so that publishing costs no fsync.
const RESERVE: u64 = 1024;
/// Most causes in one generation; more are dropped and counted.
const MAX_CAUSES: usize = 64;
/// Generations whose publishing time is remembered.
const MAX_PUBLISHED: usize = 256;

impl MasterCore {
    pub(super) fn publish(&mut self, now: UnixMillis) {
        // While agents come back after a restart the picture has holes; nodes keep what they have
        // (DESIGN section 1: the data plane outlives the master).
        if self.recovering || !std::mem::take(&mut self.net_dirty) {
            return;
        }
        let mut next = self.build_net();
        next.generation = self.net.generation;
        if next == *self.net {
            return;
        }
        let generation = self.generation.next();
        if generation > self.reserved {
            self.reserved = Generation(generation.0 + RESERVE);
            let op = stored::put_generation(self.reserved);
            self.persist(vec![op]);
        }
        self.generation = generation;
        next.generation = generation;
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

    fn build_net(&self) -> NetSnapshot {
        let agents = self
            .agents
            .all
            .iter()
            .map(|(id, a)| {
                let net = AgentNet {
                    hostname: a.info.hostname.clone(),
                    ip: a.info.ip,
                    reachable: a.reachable,
                };
                (id.clone(), net)
            })
            .collect();
        let tasks: BTreeMap<_, _> = self.tasks.iter().map(|t| (t.id.clone(), net(t))).collect();
        let (vips, literal) = self.vips.net(&self.services);
        NetSnapshot {
            generation: Generation(0),
            leader: Some(self.config.master.ip),
            masters: self.config.masters.clone(),
            agents,
            tasks,
            vips,
            literal_vips: literal.into_iter().collect(),
            causes: Vec::new(),
        }
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
            .map(|v| match v {
                VipLabel::Named { name, port } => format!("{name}:{port}"),
                VipLabel::Literal { ip, port } => format!("{ip}:{port}"),
            })
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
