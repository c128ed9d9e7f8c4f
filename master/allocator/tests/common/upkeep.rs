//! The laws of maintenance and draining: who is asked to leave, and who is told to end.

use std::collections::BTreeMap;

use waggle_allocator::{Event, EvictReason, Notice};
use waggle_types::{AgentId, FrameworkId, Millis, Resources, Unavailability, UnixMillis};

use super::oracle::sum;
use super::world::{Dice, N_AGENTS, N_FRAMEWORKS, World};
use super::{agent, framework};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Open,
    Accepted,
    Declined(UnixMillis),
}

/// What is planned, what has begun, and who was asked.
#[derive(Debug, Clone, Default)]
pub struct Leave {
    windows: BTreeMap<AgentId, (Unavailability, bool)>,
    asked: BTreeMap<(AgentId, FrameworkId), Answer>,
    /// Whose windows have begun by the latest event.
    began: Vec<AgentId>,
}

impl World {
    pub fn plan(&mut self, d: &mut Dice) {
        let start = self.now + Millis(d.below(60_000) as u64);
        let window = Unavailability {
            start,
            duration: None,
        };
        self.apply(&Event::MaintenanceSet {
            agent_id: agent(d.below(N_AGENTS)),
            window: (d.below(4) > 0).then_some(window),
        });
    }

    pub fn answer(&mut self, d: &mut Dice) {
        let asked: Vec<_> = self.leave.asked.keys().cloned().collect();
        let (agent_id, framework_id) = if asked.is_empty() || d.below(8) == 0 {
            (agent(d.below(N_AGENTS)), framework(d.below(N_FRAMEWORKS)))
        } else {
            asked[d.below(asked.len())].clone()
        };
        let key = (agent_id.clone(), framework_id.clone());
        let open = self.leave.asked.get(&key) == Some(&Answer::Open);
        let subscribed = self.oracle.first_role.contains_key(&framework_id);
        let n = self.allocator.stats().n_rejected;
        self.apply(&Event::InverseAnswered {
            framework_id,
            agent_id,
            accepted: d.below(2) == 0,
            refuse: Millis(d.below(10_000) as u64),
        });
        let refused = self.allocator.stats().n_rejected > n;
        assert_eq!(refused, !(open && subscribed), "{key:?}");
    }

    fn users(&self, id: &AgentId) -> BTreeMap<FrameworkId, Resources> {
        let mut all: BTreeMap<FrameworkId, Vec<&Resources>> = BTreeMap::new();
        for (_, u) in self.oracle.uses.iter().filter(|(a, _)| a == id) {
            let of = all.entry(u.framework_id.clone()).or_default();
            of.push(&u.resources);
        }
        let all = all.into_iter();
        all.map(|(f, r)| (f, sum(r.into_iter()))).collect()
    }

    /// Windows that begin now: nothing of these agents is offered any more.
    pub fn begin_windows(&mut self) {
        for (id, (window, begun)) in &mut self.leave.windows {
            if window.start <= self.now && !*begun {
                *begun = true;
                self.leave.began.push(id.clone());
                if let Some(a) = self.oracle.agents.get_mut(id) {
                    a.active = false;
                }
            }
        }
    }

    /// A window is planned, or not any more.
    pub fn set_window(&mut self, event: &Event) {
        let Event::MaintenanceSet { agent_id, window } = event else {
            return;
        };
        self.leave.windows.remove(agent_id);
        if let Some(w) = window {
            self.leave.windows.insert(agent_id.clone(), (*w, false));
        }
        self.begin_windows();
    }

    /// Follows the latest event on its own books, and expects the notices that belong to it.
    pub fn follow_upkeep(&mut self, event: &Event, rejected: bool) {
        let mut leave = std::mem::take(&mut self.leave);
        let mut want: Vec<Notice> = Vec::new();
        let rescind = |want: &mut Vec<Notice>, key: (AgentId, FrameworkId), answer| {
            if !matches!(answer, Answer::Declined(_)) {
                want.push(Notice::InverseRescinded {
                    framework_id: key.1,
                    agent_id: key.0,
                });
            }
        };
        match event {
            Event::MaintenanceSet { agent_id, .. } if !rejected => {
                for (key, answer) in take(&mut leave, |a, _| a == agent_id) {
                    rescind(&mut want, key, answer);
                }
            }
            Event::InverseAnswered {
                framework_id,
                agent_id,
                accepted,
                refuse,
            } if !rejected => {
                let key = (agent_id.clone(), framework_id.clone());
                let answer = if *accepted {
                    Answer::Accepted
                } else {
                    Answer::Declined(self.now + Millis(refuse.0.max(1)))
                };
                leave.asked.insert(key, answer);
            }
            // It comes with nothing planned and nobody asked.
            Event::AgentJoined { spec, .. } if !rejected => {
                take(&mut leave, |a, _| *a == spec.info.agent_id);
                leave.windows.remove(&spec.info.agent_id);
            }
            _ => {}
        }
        let mut ends: Vec<(AgentId, EvictReason)> = Vec::new();
        if let (Event::AgentDrained { agent_id, .. }, false) = (event, rejected) {
            ends.push((agent_id.clone(), EvictReason::Drained));
        }
        let known = |a: &AgentId| self.oracle.agents.contains_key(a);
        for (key, answer) in take(&mut leave, |a, f| {
            !known(a) || !self.users(a).contains_key(f)
        }) {
            rescind(&mut want, key, answer);
        }
        leave.windows.retain(|a, _| known(a));
        for id in std::mem::take(&mut leave.began) {
            for (key, answer) in take(&mut leave, |a, _| *a == id) {
                rescind(&mut want, key, answer);
            }
            if known(&id) {
                ends.push((id, EvictReason::Maintenance));
            }
        }
        for (id, (window, begun)) in &leave.windows {
            for (framework_id, resources) in self.users(id) {
                let key = (id.clone(), framework_id.clone());
                let ask = match leave.asked.get(&key) {
                    None => true,
                    Some(Answer::Declined(again)) => *again <= self.now,
                    Some(_) => false,
                };
                if ask && !*begun {
                    leave.asked.insert(key, Answer::Open);
                    want.push(Notice::InverseOffer {
                        framework_id,
                        agent_id: id.clone(),
                        window: *window,
                        resources,
                    });
                }
            }
        }
        self.leave = leave;
        // Frameworks that are gone wholly are told nothing.
        let gone = |n: &Notice| match n {
            Notice::InverseRescinded { framework_id, .. } => {
                let uses = self.oracle.uses.iter();
                let mut of_it = uses.filter(|(_, u)| u.framework_id == *framework_id);
                of_it.next().is_none() && !self.oracle.first_role.contains_key(framework_id)
            }
            _ => false,
        };
        want.retain(|n| !gone(n));
        let of_upkeep = |n: &&Notice| {
            matches!(
                n,
                Notice::InverseOffer { .. } | Notice::InverseRescinded { .. }
            )
        };
        let text = |n: &Notice| format!("{n:?}");
        let all = self.allocator.notices().iter();
        let mut got: Vec<String> = all
            .filter(of_upkeep)
            .filter(|n| !gone(n))
            .map(text)
            .collect();
        let mut want: Vec<String> = want.iter().map(text).collect();
        got.sort();
        want.sort();
        assert_eq!(got, want, "{event:?}");
        let emptied = std::mem::take(&mut self.oracle.emptied).into_iter();
        let drained = emptied.map(|(agent_id, gone)| Notice::Drained { agent_id, gone });
        let all = self.allocator.notices().iter();
        let of_drains = all.filter(|n| matches!(n, Notice::Drained { .. }));
        assert!(
            of_drains.eq(drained.collect::<Vec<_>>().iter()),
            "{event:?}"
        );
        // Everybody who is there is told to end.
        for (id, reason) in ends {
            let told = |f: &FrameworkId| {
                self.allocator.notices().iter().any(|n| {
                    matches!(n, Notice::Evict { framework_id, agent_id, reason: r, .. }
                        if framework_id == f && *agent_id == id && *r == reason)
                })
            };
            for f in self.users(&id).keys() {
                assert!(told(f), "{f} is not told to leave {id}");
            }
        }
    }
}

fn take(
    leave: &mut Leave,
    which: impl Fn(&AgentId, &FrameworkId) -> bool,
) -> Vec<((AgentId, FrameworkId), Answer)> {
    let all = leave.asked.iter();
    let out: Vec<_> = all
        .filter(|((a, f), _)| which(a, f))
        .map(|(k, v)| (k.clone(), *v))
        .collect();
    for (key, _) in &out {
        leave.asked.remove(key);
    }
    out
}
