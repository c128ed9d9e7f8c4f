//! Who waits for an offer, and for how long.

use waggle_types::{Millis, Resources};

use crate::{Sim, Violation};

impl Sim {
    /// Longest wait of a framework for an offer of an agent that has room for it all the while: everybody else
    /// (the service framework too) may let an offer time out twice, and what the framework has itself declined
    /// may be filtered for as long as batches do.
    pub(crate) fn longest_wait(&self) -> Millis {
        let others = self.frameworks.len() as u64;
        Millis(2 * others * self.plan.offer_timeout_ms + 10_000)
    }

    /// An offer went out on a stream: its framework waits no longer.
    pub(crate) fn was_offered(&mut self, link: u64) {
        if let Some(at) = self.links.get(&link).map(|l| l.framework) {
            self.waits.retain(|(f, _), _| *f != at);
        }
    }

    /// Nobody starves, whoever else sits on offers.
    pub(crate) fn check_waits(&mut self) -> Result<(), Violation> {
        let Some(allocator) = self
            .master
            .as_ref()
            .map(waggle_master::core::MasterCore::allocator)
        else {
            return Ok(());
        };
        let rooms: Vec<Option<Resources>> = self
            .nodes
            .iter()
            .map(|n| {
                let id = &n.info.agent_id;
                let active = allocator.is_active(id) == Some(true);
                let used = allocator.used(id).filter(|_| active)?;
                allocator.total(id)?.checked_sub(used)
            })
            .collect();
        let longest = self.longest_wait();
        for (at, f) in self.frameworks.iter().enumerate() {
            let wanted = f.mind.wants().filter(|_| f.is_idle());
            for (agent, room) in rooms.iter().enumerate() {
                let key = (at, agent);
                let fits = wanted.is_some_and(|w| room.as_ref().is_some_and(|r| r.contains(w)));
                if !fits {
                    self.waits.remove(&key);
                    continue;
                }
                let waited = self.now.since(*self.waits.entry(key).or_insert(self.now));
                self.worst_wait = self.worst_wait.max(waited);
                if waited > longest {
                    return Err(Violation::Starved {
                        framework: f.mind.info().name,
                        agent_id: self.nodes[agent].info.agent_id.clone(),
                        waited,
                    });
                }
            }
        }
        Ok(())
    }
}
