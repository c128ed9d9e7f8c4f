//! The heart: one service, its instances and some offers in, a plan out. Pure.

use std::cmp::Reverse;

use waggle_types::{
    KillSelection, Millis, ServiceSpec, ServiceVersion, UnixMillis, UnreachableStrategy,
};

use crate::{
    Around, Because, Choice, Goal, Home, HomeUse, Instance, Kill, KillReason, Launch, OpenOffer,
    Place, Plan, Refusal, Rule, choose::Chooser, constraints::validate_constraints, ids::mix,
    matching::Unmet, pods::is_current_instance, residency,
};

/// Limits that are the same for all services; defaults are Marathon's flags, but for tokens and revival: launches cost
/// little here, and level 1 bounds what reviving costs.
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
    /// Launches under way, over all services: sent and not yet running. `None`: as many as offers hold.
    pub launch_tokens: Option<u32>,
    /// A launch that is under way for longer does not count any more.
    pub launch_token_refresh: Millis,
    /// Offers are asked for again at most this often; 0: whenever something waits for them.
    pub min_revive_interval: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_instances_per_offer: 5,
            launch_timeout: Millis::from_secs(300),
            kill_retry: Millis::from_secs(10),
            decline_duration: Millis::from_secs(120),
            launch_tokens: None,
            launch_token_refresh: Millis::from_secs(30),
            min_revive_interval: Millis(0),
        }
    }
}

/// What else a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    /// Launches that may begin now, where that is limited.
    pub tokens: Option<usize>,
    /// Where other services run that this one has to be with, or apart from.
    pub around: Around,
    /// Where its instances are at home, if it is resident.
    pub homes: Vec<Home>,
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
    /// When a rolling upgrade may neither end one nor start one, one more is allowed, as in Marathon; or one may be
    /// missing, when instances are resident and can't run beside themselves.
    pub fn of(spec: &ServiceSpec, rolling: bool) -> Self {
        let n = u64::from(spec.instances);
        let min = (n * u64::from(spec.upgrade.minimum_health_capacity_milli)).div_ceil(1000);
        let over = n * u64::from(spec.upgrade.maximum_over_capacity_milli) / 1000;
        let min = min.min(n);
        let max = n + over;
        let (min, max) = match (rolling && min >= max, spec.residency) {
            (false, _) => (min, max),
            (true, None) => (min, max + 1),
            (true, Some(_)) => (max.saturating_sub(1), max),
        };
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
            && is_current_instance(spec, k.instance)
            && !residency::is_doomed(&context.homes, k.instance.task_id())
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

    give_up_homes(spec, instances, context, now, &mut plan);
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
        let lost = instance.unreachable_since;
        let lost = lost.and_then(|since| residency::gives_up_at(spec, since));
        match lost {
            Some(at) if at <= now => {
                plan.expunge.push(instance.task_id().clone());
                let id = instance.task_id().instance();
                plan.abandon.push(id.to_owned());
                continue;
            }
            Some(at) => plan.look_at(at),
            None => {}
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

/// Homes that have been empty for so long that their instances begin anew elsewhere, if they may.
fn give_up_homes(
    spec: &ServiceSpec,
    instances: &[Instance],
    context: &Context,
    now: UnixMillis,
    plan: &mut Plan,
) {
    for home in residency::empty(&context.homes, instances) {
        match residency::gives_up_at(spec, home.since) {
            Some(at) if at <= now => plan.abandon.push(home.id.clone()),
            Some(at) => plan.look_at(at),
            None => {}
        }
    }
}

/// Places up to `n` instances: those that have a home there, the others on the best of the offers that fit.
fn launch(
    spec: &ServiceSpec,
    known: &[Known<'_>],
    offers: &mut [OpenOffer],
    context: &Context,
    n: usize,
    plan: &mut Plan,
) {
    plan.n_waiting = u32::try_from(n).unwrap_or(u32::MAX);
    if n == 0 || offers.is_empty() {
        return;
    }
    if !spec.used_secrets().is_empty() {
        // Nobody gives their values yet, and without them it is not what was asked for.
        for (offer_idx, o) in offers.iter().enumerate() {
            if o.offer.role == spec.role() {
                plan.refusals
                    .push(refusal(offer_idx, o, Rule::Secrets.into()));
            }
        }
        return;
    }
    let mut tokens = context.tokens.unwrap_or(usize::MAX);
    let constraints = validate_constraints(&spec.constraints).ok();
    let instances = known.iter().map(|k| k.instance);
    let empty: Vec<&Home> = residency::empty(&context.homes, instances)
        .into_iter()
        .filter(|h| !plan.abandon.contains(&h.id))
        .collect();
    let mut here: Vec<&Place> = known
        .iter()
        .filter(|k| k.counts)
        .map(|k| &k.instance.place)
        .collect();
    // Who has a home there will be back.
    here.extend(empty.iter().map(|h| &h.place));
    let mut chooser = Chooser::new(
        spec,
        constraints.as_deref(),
        &here,
        offers,
        &context.around,
        context.limits.max_instances_per_offer,
    );
    let mut left = n;
    for home in &empty {
        if left == 0 || tokens == 0 {
            break;
        }
        let seed = mix(context.seed.wrapping_add(left as u64));
        let took = offers.iter_mut().enumerate().find_map(|(i, o)| {
            let fits = o.n_launched < context.limits.max_instances_per_offer;
            let took = fits.then(|| residency::take(spec, &home.id, o, seed));
            took.flatten().map(|t| (i, t))
        });
        if let Some((offer_idx, (host_ports, parts))) = took {
            plan.launches.push(Launch {
                offer_idx,
                host_ports,
                parts,
                home: Some(HomeUse::Back(home.id.clone())),
                choice: Choice {
                    n_fit: 1,
                    because: Because::Home,
                },
            });
            left -= 1;
            tokens -= 1;
        }
    }
    // Who has no home yet. The others wait for theirs.
    let kept = |h: &&Home| !h.doomed && !plan.abandon.contains(&h.id);
    let n_kept = context.homes.iter().filter(kept).count();
    let homeless = (spec.instances as usize).saturating_sub(n_kept);
    let mut n_new = if spec.residency.is_some() {
        left.min(homeless)
    } else {
        left
    };
    while n_new > 0 && tokens > 0 {
        let seed = mix(context.seed.wrapping_add(left as u64));
        let Some((offer_idx, host_ports, choice)) = chooser.best(offers, seed) else {
            break;
        };
        let Some(parts) = chooser.take(offers, offer_idx, &host_ports) else {
            break;
        };
        plan.launches.push(Launch {
            offer_idx,
            host_ports,
            parts,
            home: spec.residency.map(|_| HomeUse::New),
            choice,
        });
        left -= 1;
        n_new -= 1;
        tokens -= 1;
    }
    plan.short_of_tokens = left > 0 && tokens == 0;
    plan.n_waiting = u32::try_from(left).unwrap_or(u32::MAX);
    let used: Vec<usize> = plan.launches.iter().map(|l| l.offer_idx).collect();
    let mine = |(i, o): &(usize, &OpenOffer)| !used.contains(i) && o.offer.role == spec.role();
    for (i, o) in offers.iter().enumerate().filter(mine) {
        let waits_for_homes = left > 0 && n_new == 0 && spec.residency.is_some();
        let why = if plan.short_of_tokens {
            Rule::Tokens.into()
        } else if waits_for_homes {
            Rule::Reservation.into()
        } else {
            let fits = chooser.check(i, o, context.seed);
            fits.err().unwrap_or_else(|| Rule::Unneeded.into())
        };
        plan.refusals.push(refusal(i, o, why));
    }
}

fn refusal(offer_idx: usize, open: &OpenOffer, why: Unmet) -> Refusal {
    let Unmet { rule, had } = why;
    Refusal {
        offer_id: open.offer.offer_id.clone(),
        offer_idx,
        reason: rule.reason(),
        rule,
        had,
    }
}
