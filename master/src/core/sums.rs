//! Numbers for gauges: what is where, summed up as it changes. Asking costs what there is of frameworks and
//! roles, not of agents and tasks.

use std::collections::BTreeMap;

use waggle_overlay_plan::network::Usage;
use waggle_types::{Milli, TaskState};

use super::{MasterCore, SERVICE_FRAMEWORK};
use crate::view::AgentMode;

/// Frameworks and roles with numbers of their own: those that hold most. What the others hold is under
/// [`OTHER`], so that sums are right.
pub const MAX_LABELS: usize = 200;
/// Stands for all that have no numbers of their own.
pub const OTHER: &str = "other";

const UNREACHABLE: &str = "unreachable";
const DRAINING: &str = "draining";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sums {
    /// Tasks that have not ended, by framework and, in the order of [`TaskState::ALL`], by state as shown.
    pub tasks: BTreeMap<String, [u64; TaskState::ALL.len()]>,
    /// Agents by state; each is in one.
    pub agents: BTreeMap<&'static str, u64>,
    /// Frameworks with a subscription, and those that may come back.
    pub frameworks: [u64; 2],
    /// What the agents that level 1 knows have.
    pub total: [Milli; 4],
    /// By role.
    pub roles: BTreeMap<String, RoleSums>,
    /// Overlay networks, by name; at most [`waggle_types::MAX_NETWORKS`].
    pub networks: BTreeMap<String, Usage>,
    /// Deployments in progress.
    pub deployments: u64,
}

/// What a role has. Without what is below it in the tree, but for its share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoleSums {
    /// Held by tasks.
    pub used: [Milli; 4],
    /// Out in offers.
    pub offered: [Milli; 4],
    /// Weighted dominant share, of 1; the role with all below it. `None` under [`OTHER`].
    pub share: Option<f64>,
}

fn plus(sum: &mut [Milli; 4], more: &[Milli; 4]) {
    for (s, m) in sum.iter_mut().zip(more) {
        s.0 = s.0.saturating_add(m.0);
    }
}

/// The entries that weigh most keep their names; the others become one.
fn named<V: Default>(
    all: BTreeMap<String, V>,
    max: usize,
    weight: impl Fn(&V) -> f64,
    merge: impl Fn(&mut V, V),
) -> BTreeMap<String, V> {
    if all.len() <= max {
        return all;
    }
    let mut sorted: Vec<(String, V)> = all.into_iter().collect();
    // Stable: the same weights go by name.
    sorted.sort_by(|a, b| weight(&b.1).total_cmp(&weight(&a.1)));
    let mut other = V::default();
    for (_, v) in sorted.split_off(max) {
        merge(&mut other, v);
    }
    let mut out: BTreeMap<String, V> = sorted.into_iter().collect();
    merge(out.entry(OTHER.to_owned()).or_default(), other);
    out
}

impl MasterCore {
    /// The numbers now.
    pub fn sums(&self) -> Sums {
        let away = self.frameworks.all.values();
        let away = away.filter(|f| f.subscription.is_none()).count() as u64;
        Sums {
            tasks: self.sum_tasks(),
            agents: self.sum_agents(),
            // The built-in one is always there.
            frameworks: [1 + self.frameworks.all.len() as u64 - away, away],
            total: self.allocator.cluster_total(),
            roles: self.sum_roles(),
            networks: self.networks.usage(),
            deployments: self.flights.len() as u64,
        }
    }

    fn sum_tasks(&self) -> BTreeMap<String, [u64; TaskState::ALL.len()]> {
        // That there are none is worth saying of the framework that is always there.
        let mut out = BTreeMap::from([(SERVICE_FRAMEWORK.to_owned(), Default::default())]);
        let merge = |sum: &mut [u64; TaskState::ALL.len()], more: [u64; TaskState::ALL.len()]| {
            for (s, m) in sum.iter_mut().zip(more) {
                *s += m;
            }
        };
        for (id, tally) in self.tasks.tallies() {
            // Several frameworks may have one name, and those that are gone have none.
            let of = out.entry(self.framework_name(id)).or_default();
            merge(of, tally.states.map(u64::from));
        }
        let most = |states: &[u64; TaskState::ALL.len()]| states.iter().sum::<u64>() as f64;
        named(out, MAX_LABELS, most, merge)
    }

    fn sum_agents(&self) -> BTreeMap<&'static str, u64> {
        let (all, unreachable) = (self.agents.all.len(), self.agents.n_unreachable());
        let mut out = BTreeMap::from([
            (UNREACHABLE, unreachable as u64),
            (AgentMode::Active.name(), 0),
            (AgentMode::Deactivated.name(), 0),
            (DRAINING, 0),
            (AgentMode::Drained.name(), 0),
        ]);
        let mut active = (all - unreachable) as u64;
        for (id, mode) in self.upkeep.modes() {
            if self.agents.all.get(id).is_some_and(|a| a.reachable) {
                *out.entry(mode.name()).or_default() += 1;
                active -= 1;
            }
        }
        out.insert(AgentMode::Active.name(), active);
        out
    }

    fn sum_roles(&self) -> BTreeMap<String, RoleSums> {
        let mut out: BTreeMap<String, RoleSums> = BTreeMap::new();
        for role in self.allocator.roles() {
            let share = Some(self.allocator.dominant_share(role).as_f64());
            let sums = RoleSums {
                share,
                ..RoleSums::default()
            };
            out.insert(role.to_owned(), sums);
        }
        for (role, used) in self.tasks.by_role() {
            plus(&mut out.entry(role.to_owned()).or_default().used, used);
        }
        for (role, offered) in self.out_offers.by_role() {
            plus(
                &mut out.entry(role.to_owned()).or_default().offered,
                offered,
            );
        }
        let merge = |sum: &mut RoleSums, more: RoleSums| {
            plus(&mut sum.used, &more.used);
            plus(&mut sum.offered, &more.offered);
        };
        named(out, MAX_LABELS, |r| r.share.unwrap_or(0.0), merge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_ones_become_one_and_nothing_is_lost() {
        let all: BTreeMap<String, u64> = (0..5).map(|n| (format!("r{n}"), n)).collect();
        let out = named(all, 2, |n| *n as f64, |sum, n| *sum += n);
        let out: Vec<_> = out.iter().map(|(r, n)| (r.as_str(), *n)).collect();
        assert_eq!(out, [(OTHER, 3), ("r3", 3), ("r4", 4)]);
        let all = BTreeMap::from([(OTHER.to_owned(), 9), ("a".to_owned(), 1)]);
        let out = named(all, 1, |n| f64::from(*n), |sum, n| *sum += n);
        assert_eq!(out, BTreeMap::from([(OTHER.to_owned(), 10)]));
    }
}
