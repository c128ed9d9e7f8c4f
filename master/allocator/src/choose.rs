//! Who is next: weighted dominant resource fairness, with a round per agent so that nobody starves.

use waggle_types::{AgentId, FrameworkId, UnixMillis};

use crate::{Allocator, Choice, Share, allocator::Framework};

/// Rank of a candidate, the smallest goes first: a framework that has turned this agent down in the
/// current round goes last; then the role by share, age and name; then the framework by share, age, id.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    turned_down: bool,
    role_share: Share,
    role_age: u64,
    role: &'a str,
    share: Share,
    age: u64,
    id: &'a FrameworkId,
}

impl Allocator {
    /// Who is next for what is free on this agent, if anybody. The scan is linear in the frameworks;
    /// a heap per role can take its place without a change to the order.
    pub(crate) fn next_for(
        &self,
        agent_id: &AgentId,
        now: UnixMillis,
    ) -> Option<(FrameworkId, Choice)> {
        let agent = self.agents.get(agent_id)?;
        if !agent.active || !self.config.allocatable(&agent.free) {
            return None;
        }
        let eligible: Vec<(&FrameworkId, &Framework)> = self
            .frameworks
            .iter()
            .filter(|(_, f)| !f.suppressed && f.filtered_until(agent_id, &agent.free).is_none())
            .collect();
        let turn = |id: &FrameworkId| agent.turns.get(id).copied().unwrap_or_default();
        // A decline counts against a framework while somebody eligible has not had a turn since.
        let oldest = eligible.iter().map(|(id, _)| turn(id).offered).min()?;
        let mut best: Option<Rank<'_>> = None;
        for (id, framework) in &eligible {
            let Some(role) = self.roles.get(&framework.role) else {
                continue;
            };
            let t = turn(id);
            let rank = Rank {
                turned_down: t.declined && oldest < t.offered,
                role_share: Share::of(&role.allocated, &self.total, role.weight_milli),
                role_age: role.last_offer,
                role: &framework.role,
                share: Share::of(&framework.allocated, &self.total, 1000),
                age: framework.last_offer,
                id,
            };
            if best.as_ref().is_none_or(|b| rank < *b) {
                best = Some(rank);
            }
        }
        let best = best?;
        let choice = Choice {
            framework_id: best.id.clone(),
            role: best.role.to_owned(),
            share: best.role_share,
            n_candidates: eligible.len(),
            at: now,
        };
        Some((best.id.clone(), choice))
    }
}
