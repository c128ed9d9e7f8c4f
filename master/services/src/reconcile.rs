//! The heart: one service, its instances and some offers in, a plan out. Pure.

use std::cmp::Reverse;

use waggle_types::{
    AgentId, KillSelection, Millis, ServiceSpec, ServiceVersion, UnixMillis, UnreachableStrategy,
};

use crate::{
    DeclineReason, Goal, Instance, Kill, KillReason, Launch, OpenOffer, Place, Plan, Refusal,
    constraints::{Taken, validate_constraints},
    ids::mix,
    matching::{fit, on_agent},
    task::is_current,
};

/// Limits that are the same for all services; defaults are Marathon's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Launches on one offer.
    pub max_instances_per_offer: u32,
    /// An instance that is not running after this long is killed.
    pub launch_timeout: Millis,
    /// A kill is repeated after this long without an end.
    pub kill_retry: Millis,
    /// Filter on offers that are of no use.
    pub decline_duration: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_instances_per_offer: 5,
            launch_timeout: Millis::from_secs(300),
            kill_retry: Millis::from_secs(10),
            decline_duration: Millis::from_secs(120),
        }
    }
}

/// What else a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// The service goes: all instances end.
    pub removing: bool,
    /// Launch nothing now (the picture is known to be incomplete).
    pub hold: bool,
    /// No launch before this (backoff).
    pub not_before: Option<UnixMillis>,
    /// Instances of versions before this one are outdated even if their tasks are what the spec asks for.
    pub restart_before: Option<ServiceVersion>,
    /// Where the spread of ports begins.
    pub seed: u64,
    /// Limits.
    pub limits: Limits,
}

/// What a spec's upgrade strategy means in instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Ready instances that we do not go below by our own act: rounded up.
    pub min_ready: usize,
    /// Instances that we do not go above by our own act: rounded down.
    pub max_total: usize,
}

impl Capacity {
    /// Of a spec; `rolling` while instances of an older definition run.
    ///
    /// When a rolling upgrade may neither end one nor start one, one more is allowed, as in Marathon.
    pub fn of(spec: &ServiceSpec, rolling: bool) -> Self {
        let n = u64::from(spec.instances);
        let min = (n * u64::from(spec.upgrade.minimum_health_capacity_milli)).div_ceil(1000);
        let over = n * u64::from(spec.upgrade.maximum_over_capacity_milli) / 1000;
        let min = min.min(n);
        let max = n + over;
        let max = if rolling && min >= max { max + 1 } else { max };
        let size = |v: u64| usize::try_from(v).unwrap_or(usize::MAX);
        Self {
            min_ready: size(min),
            max_total: size(max),
        }
    }
}

/// Decides about one service. `offers` are reduced by what the launches take.
///
/// In this order: forget instances that are unreachable for too long; end what is outdated, surplus, or
/// never came up, as far as `minimumHealthCapacity` allows; launch what is missing, as far as
/// `maximumOverCapacity`, backoff and offers allow.
pub fn reconcile(
    spec: &ServiceSpec,
    instances: &[Instance],
    offers: &mut [OpenOffer],
    context: &Context,
    now: UnixMillis,
) -> Plan {
    let mut plan = Plan::default();
    let known = unreachable(spec, instances, context.removing, now, &mut plan);
    repeat_kills(&known, context, now, &mut plan);
    if context.removing {
        let wanted = known.iter().filter(|k| k.instance.goal == Goal::Run);
        plan.kills
            .extend(wanted.map(|k| kill(k, KillReason::Removed)));
        // While the picture is incomplete, who is not seen may still be there.
        plan.done = known.is_empty() && !context.hold;
        return plan;
    }
    let want = spec.instances as usize;
    let current = |k: &&Known<'_>| {
        k.counts
            && k.instance.goal == Goal::Run
            && context
                .restart_before
                .is_none_or(|v| k.instance.version >= v)
            && is_current(spec, &k.instance.task)
    };
    let outdated = |k: &&Known<'_>| k.instance.goal == Goal::Run && !current(k) && k.counts;
    let n_current = known.iter().filter(current).count();
    let n_outdated = known.iter().filter(outdated).count();
    let capacity = Capacity::of(spec, n_outdated > 0);

    // What may end, the least useful first: not ready before ready, outdated before surplus, then by age.
    let by_age = |k: &&Known<'_>| {
        let staged = k.instance.staged_at.0;
        (
            k.instance.is_ready(),
            match spec.kill_selection {
                KillSelection::YoungestFirst => u64::MAX - staged,
                KillSelection::OldestFirst => staged,
            },
            Reverse(k.instance.task_id().clone()),
        )
    };
    let mut old: Vec<&Known<'_>> = known.iter().filter(outdated).collect();
    old.sort_by_key(by_age);
    let mut surplus: Vec<&Known<'_>> = known.iter().filter(current).collect();
    surplus.sort_by_key(by_age);
    surplus.truncate(n_current.saturating_sub(want));
    let n_ready = known.iter().filter(|k| k.instance.is_ready()).count();
    let mut may_lose = n_ready.saturating_sub(capacity.min_ready);
    let doomed = old
        .into_iter()
        .map(|k| (k, KillReason::Outdated))
        .chain(surplus.into_iter().map(|k| (k, KillReason::Surplus)));
    for (k, reason) in doomed {
        if k.instance.is_ready() {
            if may_lose == 0 {
                continue;
            }
            may_lose -= 1;
        }
        plan.kills.push(kill(k, reason));
    }
    let mut n_timed_out = 0;
    for k in known
        .iter()
        .filter(current)
        .filter(|k| k.instance.is_launching())
    {
        let late = k.instance.staged_at + context.limits.launch_timeout;
        if k.instance.unreachable_since.is_some()
            || plan
                .kills
                .iter()
                .any(|p| p.task_id == *k.instance.task_id())
        {
            continue;
        }
        if late <= now {
            n_timed_out += 1;
            plan.kills.push(kill(k, KillReason::LaunchTimeout));
        } else {
            plan.look_at(late);
        }
    }

    let n_total = known.iter().filter(|k| k.counts).count();
    let missing = want.saturating_sub(n_current - n_timed_out);
    let room = capacity.max_total.saturating_sub(n_total);
    let n_launch = missing.min(room);
    if context.hold {
        return plan;
    }
    match context.not_before {
        Some(at) if at > now && n_launch > 0 => {
            plan.n_delayed = u32::try_from(n_launch).unwrap_or(u32::MAX);
            plan.look_at(at);
        }
        _ => launch(spec, &known, offers, context, n_launch, &mut plan),
    }
    let all_ready = known.iter().all(|k| !k.counts || k.instance.is_ready());
    plan.done = all_ready && n_total == want && n_current == want && plan.is_empty();
    plan
}

/// An instance that is still remembered.
struct Known<'a> {
    instance: &'a Instance,
    /// Whether it counts against what is asked for and allowed: not when it is out of reach for so long
    /// that it is to be replaced.
    counts: bool,
}

fn kill(k: &Known<'_>, reason: KillReason) -> Kill {
    Kill {
        task_id: k.instance.task_id().clone(),
        reason,
    }
}

/// Forgets what is out of reach for too long, and marks what is to be replaced.
fn unreachable<'a>(
    spec: &ServiceSpec,
    instances: &'a [Instance],
    removing: bool,
    now: UnixMillis,
    plan: &mut Plan,
) -> Vec<Known<'a>> {
    let mut known = Vec::with_capacity(instances.len());
    for instance in instances {
        let mut counts = true;
        if instance.unreachable_since.is_some() && removing {
            // Should it come back, no service claims it, and it is told to end then.
            plan.expunge.push(instance.task_id().clone());
            continue;
        }
        if let (
            Some(since),
            UnreachableStrategy::After {
                inactive_after,
                expunge_after,
            },
        ) = (instance.unreachable_since, spec.unreachable)
        {
            let inactive = since + inactive_after;
            let expunge = since + expunge_after.max(inactive_after);
            if expunge <= now {
                plan.expunge.push(instance.task_id().clone());
                continue;
            }
            plan.look_at(expunge);
            if inactive <= now {
                counts = false;
            } else {
                plan.look_at(inactive);
            }
        }
        known.push(Known { instance, counts });
    }
    known
}

/// Kills get lost with the agent's process or its connection; ends that do not come are asked for again.
fn repeat_kills(known: &[Known<'_>], context: &Context, now: UnixMillis, plan: &mut Plan) {
    for k in known {
        let i = k.instance;
        if i.goal != Goal::Stop || i.unreachable_since.is_some() {
            continue;
        }
        let at = i.kill_sent_at.map_or(now, |sent| {
            sent + i.task.kill_grace + context.limits.kill_retry
        });
        if at <= now {
            plan.kills.push(kill(k, KillReason::Again));
        } else {
            plan.look_at(at);
        }
    }
}

/// Places up to `n` instances, each on the fitting offer whose agent runs the fewest of this service.
fn launch(
    spec: &ServiceSpec,
    known: &[Known<'_>],
    offers: &mut [OpenOffer],
    context: &Context,
    n: usize,
    plan: &mut Plan,
) {
    let constraints = validate_constraints(&spec.constraints).ok();
    let mut taken = constraints.as_deref().map(Taken::new);
    if let Some(t) = &mut taken {
        for k in known.iter().filter(|k| k.counts) {
            t.add(&k.instance.place);
        }
    }
    let places: Vec<Place> = offers.iter().map(|o| Place::from(&o.offer)).collect();
    let n_there = |agent_id: &AgentId| {
        known
            .iter()
            .filter(|k| k.counts && k.instance.place.agent_id == *agent_id)
            .count()
    };
    let mut load: Vec<usize> = places.iter().map(|p| n_there(&p.agent_id)).collect();
    let mut left = n;
    while left > 0 {
        let seed = mix(context.seed.wrapping_add(left as u64));
        let best = offers
            .iter()
            .enumerate()
            .filter(|(_, o)| o.n_launched < context.limits.max_instances_per_offer)
            .filter_map(|(i, o)| {
                let ports = fit(spec, &o.offer, &places[i], taken.as_ref(), seed).ok()?;
                Some((load[i], i, ports))
            })
            .min_by_key(|(load, i, _)| (*load, *i));
        let Some((_, idx, host_ports)) = best else {
            break;
        };
        let used = spec.resources.clone().with_ports(on_agent(&host_ports));
        let Some(rest) = offers[idx].offer.resources.checked_sub(&used) else {
            break;
        };
        offers[idx].offer.resources = rest;
        offers[idx].n_launched += 1;
        if let Some(t) = &mut taken {
            t.add(&places[idx]);
        }
        for (l, p) in load.iter_mut().zip(&places) {
            if p.agent_id == places[idx].agent_id {
                *l += 1;
            }
        }
        plan.launches.push(Launch {
            offer_idx: idx,
            host_ports,
        });
        left -= 1;
    }
    plan.n_waiting = u32::try_from(left).unwrap_or(u32::MAX);
    if n == 0 {
        return;
    }
    let used: Vec<usize> = plan.launches.iter().map(|l| l.offer_idx).collect();
    for (i, o) in offers.iter().enumerate().filter(|(i, _)| !used.contains(i)) {
        let why = fit(spec, &o.offer, &places[i], taken.as_ref(), context.seed);
        plan.refusals.push(Refusal {
            offer_id: o.offer.offer_id.clone(),
            reason: why.err().unwrap_or(DeclineReason::NoWaitingInstance),
        });
    }
}
