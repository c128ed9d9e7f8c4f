//! What those who asked for it know of weights, quota, reservations, volumes, maintenance and modes of agents: an
//! answer makes it sure, a missing one leaves both possible.

use std::collections::BTreeMap;

use waggle_allocator::Allocator;
use waggle_types::{
    AgentId, Operation, OperatorCall, Quota, Reservation, Resources, ScalarKind, Unavailability,
    UnixMillis, VolumeId,
};

/// cpus, mem and disk; the disk of volumes counts.
type Amount = [i64; 3];

/// A value that is set as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Register<T> {
    /// What it can be.
    may: Vec<T>,
    /// Since when it is sure.
    since: Option<UnixMillis>,
}

impl<T: Clone + Default + PartialEq> Register<T> {
    fn begin(&mut self, value: T) {
        if self.may.is_empty() {
            self.may.push(T::default());
        }
        self.may.push(value);
        self.since = None;
    }

    fn settle(&mut self, value: &T, taken: bool, now: UnixMillis) {
        if taken {
            self.may = vec![value.clone()];
        } else if let Some(at) = self.may.iter().rposition(|v| v == value) {
            self.may.remove(at);
        }
        if self.may.len() == 1 {
            self.since = Some(now);
        }
    }

    /// Whether it may be this.
    pub fn may_be(&self, value: &T) -> bool {
        match &self.may[..] {
            [] => *value == T::default(),
            may => may.contains(value),
        }
    }

    /// Since when it is surely something that satisfies this.
    pub fn surely(&self, is: impl Fn(&T) -> bool) -> Option<UnixMillis> {
        self.since.filter(|_| self.may.iter().all(is))
    }
}

/// What operators want of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    #[default]
    Active,
    Deactivated,
    Drained,
    /// Gone, or as soon as it is empty.
    Gone,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    low: Amount,
    high: Amount,
}

#[derive(Debug, Clone)]
enum Change {
    Pool(Vec<Reservation>, Amount),
    Made(VolumeId),
    Unmade(VolumeId),
}

/// A change that is asked for and not answered.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    agent_id: AgentId,
    changes: Vec<Change>,
    /// How it was with its volumes before.
    before: Vec<(VolumeId, Option<bool>)>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pools: BTreeMap<(AgentId, Vec<Reservation>), Bounds>,
    /// Volumes that can be there, and whether they surely are.
    volumes: BTreeMap<(AgentId, VolumeId), bool>,
    pub weights: BTreeMap<String, Register<Option<u32>>>,
    pub quotas: BTreeMap<String, Register<Quota>>,
    pub modes: BTreeMap<AgentId, Register<Mode>>,
    pub windows: BTreeMap<AgentId, Register<Option<Unavailability>>>,
}

fn amount(r: &Resources) -> Amount {
    let volumes: i64 = r.custom.volumes().map(|(_, v)| v.size.0).sum();
    let of = |k| r.get(k).0;
    [
        of(ScalarKind::Cpus),
        of(ScalarKind::Mem),
        of(ScalarKind::Disk) + volumes,
    ]
}

fn add(a: &mut Amount, b: Amount) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

fn moved(stack: &[Reservation], r: &Resources, sign: i64, out: &mut Vec<Change>) {
    let by = amount(r).map(|n| n * sign);
    out.push(Change::Pool(stack.to_vec(), by));
    if let Some((_, outer)) = stack.split_last().filter(|(_, outer)| !outer.is_empty()) {
        out.push(Change::Pool(outer.to_vec(), by.map(|n| -n)));
    }
}

fn changes_of(op: &Operation, out: &mut Vec<Change>) {
    match op {
        // What a volume is made of is not kept here.
        Operation::Launch(_) | Operation::ResizeVolume { .. } => {}
        Operation::Reserve { stack, resources } => moved(stack, resources, 1, out),
        Operation::Unreserve { stack, resources } => moved(stack, resources, -1, out),
        Operation::CreateVolume { volume_id, .. } => out.push(Change::Made(volume_id.clone())),
        Operation::DestroyVolume { volume_id, .. } => out.push(Change::Unmade(volume_id.clone())),
    }
}

impl Ledger {
    /// What an agent reserves by itself.
    pub fn has_static(&mut self, agent_id: &AgentId, reserved: &[(String, Resources)]) {
        for (role, resources) in reserved {
            let stack = vec![Reservation {
                dynamic: false,
                ..Reservation::dynamic(role, "")
            }];
            let sum = amount(resources);
            let bounds = Bounds {
                low: sum,
                high: sum,
            };
            self.pools.insert((agent_id.clone(), stack), bounds);
        }
    }

    /// Agents on which something may be reserved so.
    pub fn agents_with(&self, stack: &[Reservation]) -> Vec<AgentId> {
        let pools = self.pools.iter();
        pools
            .filter(|((_, s), b)| s == stack && b.high != [0; 3])
            .map(|((agent_id, _), _)| agent_id.clone())
            .collect()
    }

    /// A framework asks for operations on an agent.
    pub fn begin(&mut self, agent_id: &AgentId, operations: &[Operation]) -> Asked {
        let mut changes = Vec::new();
        for op in operations {
            changes_of(op, &mut changes);
        }
        self.ask(agent_id, changes)
    }

    fn ask(&mut self, agent_id: &AgentId, changes: Vec<Change>) -> Asked {
        let mut before = Vec::new();
        for c in &changes {
            match c {
                Change::Pool(stack, by) => {
                    let key = (agent_id.clone(), stack.clone());
                    let b = self.pools.entry(key).or_default();
                    add(&mut b.high, by.map(|n| n.max(0)));
                    add(&mut b.low, by.map(|n| n.min(0)));
                }
                Change::Made(id) | Change::Unmade(id) => {
                    let key = (agent_id.clone(), id.clone());
                    let was = self.volumes.get(&key).copied();
                    before.push((id.clone(), was));
                    let stays = matches!(c, Change::Made(_)) && was == Some(true);
                    self.volumes.insert(key, stays);
                }
            }
        }
        Asked {
            agent_id: agent_id.clone(),
            changes,
            before,
        }
    }

    /// It is answered.
    pub fn settle(&mut self, asked: &Asked, taken: bool) {
        for c in &asked.changes {
            match c {
                Change::Pool(stack, by) => {
                    let key = (asked.agent_id.clone(), stack.clone());
                    let b = self.pools.entry(key).or_default();
                    let (up, down) = (by.map(|n| n.max(0)), by.map(|n| n.min(0)));
                    if taken {
                        add(&mut b.low, up);
                        add(&mut b.high, down);
                    } else {
                        add(&mut b.high, up.map(|n| -n));
                        add(&mut b.low, down.map(|n| -n));
                    }
                }
                Change::Made(id) | Change::Unmade(id) => {
                    let key = (asked.agent_id.clone(), id.clone());
                    let before = asked.before.iter().find(|(v, _)| v == id);
                    let now = match (c, taken) {
                        (Change::Made(_), true) => Some(true),
                        (_, true) => None,
                        (_, false) => before.and_then(|(_, was)| *was),
                    };
                    match now {
                        Some(sure) => self.volumes.insert(key, sure),
                        None => self.volumes.remove(&key),
                    };
                }
            }
        }
    }

    /// An operator asks.
    pub fn begin_call(&mut self, call: &OperatorCall) -> Option<Asked> {
        let wanted = mode(call);
        match call {
            OperatorCall::SetWeight { role, weight_milli } => {
                let r = self.weights.entry(role.clone()).or_default();
                r.begin(Some(*weight_milli));
            }
            OperatorCall::SetQuota { role, quota, .. } => {
                let r = self.quotas.entry(role.clone()).or_default();
                r.begin(quota.clone());
            }
            OperatorCall::SetMaintenance { agent_ids, window } => {
                for id in agent_ids {
                    self.windows.entry(id.clone()).or_default().begin(*window);
                }
            }
            _ => {}
        }
        if let Some((agent_id, mode)) = wanted {
            self.modes.entry(agent_id).or_default().begin(mode);
        }
        let (agent_id, op) = operation(call)?;
        Some(self.begin(&agent_id, &[op]))
    }

    /// It is answered.
    pub fn settle_call(
        &mut self,
        call: &OperatorCall,
        asked: Option<&Asked>,
        taken: bool,
        now: UnixMillis,
    ) {
        match call {
            OperatorCall::SetWeight { role, weight_milli } => {
                let r = self.weights.entry(role.clone()).or_default();
                r.settle(&Some(*weight_milli), taken, now);
            }
            OperatorCall::SetQuota { role, quota, .. } => {
                let r = self.quotas.entry(role.clone()).or_default();
                r.settle(quota, taken, now);
            }
            OperatorCall::SetMaintenance { agent_ids, window } => {
                for id in agent_ids {
                    let r = self.windows.entry(id.clone()).or_default();
                    r.settle(window, taken, now);
                }
            }
            _ => {}
        }
        if let Some((agent_id, mode)) = mode(call) {
            let r = self.modes.entry(agent_id).or_default();
            r.settle(&mode, taken, now);
        }
        if let Some(asked) = asked {
            self.settle(asked, taken);
        }
    }

    /// Whether an agent surely takes no task, by an operator's word, and since when.
    pub fn closed_since(&self, agent_id: &AgentId, now: UnixMillis) -> Option<UnixMillis> {
        let mode = self.modes.get(agent_id);
        let mode = mode.and_then(|m| m.surely(|m| *m != Mode::Active));
        let begun = |w: &Option<Unavailability>| w.is_some_and(|w| w.start <= now);
        let window = self.windows.get(agent_id);
        let window = window.and_then(|r| {
            let since = r.surely(begun)?;
            let last = r.may.iter().flatten().map(|w| w.start).max();
            Some(since.max(last.unwrap_or(since)))
        });
        [mode, window].into_iter().flatten().min()
    }

    /// What level 1 has reserved of an agent against what is known of it.
    pub fn check(&self, allocator: &Allocator, agent_id: &AgentId) -> Result<(), String> {
        let mut have: BTreeMap<&[Reservation], Amount> = BTreeMap::new();
        let reserved = allocator.reserved(agent_id);
        let mut volumes = Vec::new();
        for (stack, resources) in &reserved {
            add(have.entry(stack).or_default(), amount(resources));
            volumes.extend(resources.custom.volumes().map(|(id, _)| id));
        }
        let key = |id: &VolumeId| (agent_id.clone(), id.clone());
        if let Some(id) = volumes
            .iter()
            .find(|id| !self.volumes.contains_key(&key(id)))
        {
            return Err(format!("nobody made volume {id} of {agent_id}"));
        }
        let of = |(a, _): &&(AgentId, VolumeId)| a == agent_id;
        let sure = self.volumes.iter().filter(|(_, sure)| **sure);
        for (_, id) in sure.map(|(k, _)| k).filter(of) {
            if !volumes.contains(&id) {
                return Err(format!("volume {id} of {agent_id} is lost"));
            }
        }
        let pools = self.pools.iter().filter(|((a, _), _)| a == agent_id);
        for ((_, stack), b) in pools {
            let n = have.remove(&stack[..]).unwrap_or_default();
            let fits = n.iter().zip(b.low).all(|(n, low)| *n >= low)
                && n.iter().zip(b.high).all(|(n, high)| *n <= high);
            if !fits {
                return Err(format!(
                    "{n:?} is reserved for {stack:?} on {agent_id}, not {b:?}"
                ));
            }
        }
        match have.pop_first() {
            Some((stack, n)) => Err(format!("nobody reserved {n:?} for {stack:?} on {agent_id}")),
            None => Ok(()),
        }
    }
}

fn mode(call: &OperatorCall) -> Option<(AgentId, Mode)> {
    let (agent_id, mode) = match call {
        OperatorCall::Drain {
            agent_id,
            mark_gone,
            ..
        } => {
            let mode = if *mark_gone {
                Mode::Gone
            } else {
                Mode::Drained
            };
            (agent_id, mode)
        }
        OperatorCall::Deactivate { agent_id } => (agent_id, Mode::Deactivated),
        OperatorCall::Activate { agent_id } => (agent_id, Mode::Active),
        OperatorCall::MarkGone { agent_id } => (agent_id, Mode::Gone),
        _ => return None,
    };
    Some((agent_id.clone(), mode))
}

/// What an operator does to reservations, as a framework would.
fn operation(call: &OperatorCall) -> Option<(AgentId, Operation)> {
    let (agent_id, op) = match call.clone() {
        OperatorCall::Reserve {
            agent_id,
            stack,
            resources,
        } => (agent_id, Operation::Reserve { stack, resources }),
        OperatorCall::Unreserve {
            agent_id,
            stack,
            resources,
        } => (agent_id, Operation::Unreserve { stack, resources }),
        OperatorCall::CreateVolume {
            agent_id,
            stack,
            volume_id,
            volume,
            ..
        } => {
            let op = Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            };
            (agent_id, op)
        }
        OperatorCall::DestroyVolume {
            agent_id,
            stack,
            volume_id,
        } => (agent_id, Operation::DestroyVolume { stack, volume_id }),
        _ => return None,
    };
    Some((agent_id, op))
}
