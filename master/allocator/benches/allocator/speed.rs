//! How long it takes.

use std::hint::black_box;
use std::time::Instant;

use waggle_allocator::{Allocator, AllocatorConfig, Effect, Event};
use waggle_types::{
    AttributeConstraint, FrameworkId, Millis, Offer, Predicate, Resources, Selector,
};

use crate::cluster::{
    Dice, Inbox, NOW, Scale, accept, agent, cpu_seconds, decline, framework, info, median, node,
    offers, revive_all, silent, subscribed, tree_role,
};

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A full cycle: everything is free, everybody wants offers at once; the whole batch, from the events to
/// the list of offers, in milliseconds on the CPU and on the clock.
pub fn cycle(scale: Scale, rounds: usize) -> (f64, f64) {
    let start = silent(scale, AllocatorConfig::default());
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut a = start.clone();
        let events = revive_all(scale);
        let (on, t) = (cpu_seconds(), Instant::now());
        let effects = a.apply_all(events, NOW);
        times.push(ms(t));
        cpu.push((cpu_seconds() - on) * 1e3);
        assert_eq!(effects.len(), scale.agents, "every agent is offered");
        black_box(effects);
    }
    (median(cpu), median(times))
}

/// One event at a time in a full cluster: a task ends, its resources are offered, the framework launches.
/// Microseconds per event.
pub fn incremental(scale: Scale) -> Vec<(&'static str, f64)> {
    const TASKS: usize = 33;
    let mut a = Allocator::new(AllocatorConfig::default());
    let task = Resources::from_millis(900, 3_700_000, 0);
    let mut dice = Dice(7);
    let mut tasks: Vec<(FrameworkId, usize)> = Vec::new();
    for i in 0..scale.agents {
        let mut used = Vec::new();
        for _ in 0..TASKS {
            let f = framework(dice.below(scale.frameworks));
            used.push((f.clone(), task.clone()));
            tasks.push((f, i));
        }
        // What is left is too little to be offered.
        let mut total = Resources::default();
        for _ in 0..TASKS {
            total = total.checked_add(&task).unwrap();
        }
        a.apply(
            Event::AgentAdded {
                info: info(i, total),
                used,
            },
            NOW,
        );
    }
    let all = (0..scale.frameworks).map(|i| subscribed(i, tree_role(i), false));
    a.apply_all(all, NOW);
    let n = (tasks.len() / 8).clamp(1000, 200_000);
    let (mut ends, mut launches) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let at = dice.below(tasks.len());
        let (framework_id, on) = tasks[at].clone();
        let event = Event::Released {
            framework_id,
            agent_id: agent(on),
            resources: task.clone(),
        };
        let t = Instant::now();
        let effects = a.apply(event, NOW);
        ends.push(t.elapsed().as_secs_f64() * 1e6);
        let [Effect::Offer(offer)] = effects.as_slice() else {
            panic!("not one offer: {effects:?}");
        };
        tasks[at].0 = offer.framework_id.clone();
        let event = accept(offer, task.clone());
        let t = Instant::now();
        let effects = a.apply(event, NOW);
        launches.push(t.elapsed().as_secs_f64() * 1e6);
        assert!(effects.is_empty(), "all of it was used");
    }
    let mut all = ends.clone();
    all.extend(&launches);
    let mut out = Vec::new();
    for (name50, name99, mut of) in [
        ("event_end_p50", "event_end_p99", ends),
        ("event_launch_p50", "event_launch_p99", launches),
        ("event_p50", "event_p99", all),
    ] {
        of.sort_by(f64::total_cmp);
        out.push((name50, of[of.len() / 2]));
        out.push((name99, of[of.len() * 99 / 100]));
    }
    out
}

/// A call of several parts is tried on a copy before it is done: for so long nobody else is served. Milliseconds, with so
/// many tasks on each agent, of all frameworks in turn.
pub fn trial(scale: Scale, n_tasks: usize, rounds: usize) -> f64 {
    let mut a = Allocator::new(AllocatorConfig::default());
    let task = Resources::from_millis(100, 1_000_000, 0);
    for i in 0..scale.agents {
        let used = (0..n_tasks).map(|n| (framework((i + n) % scale.frameworks), task.clone()));
        let event = Event::AgentAdded {
            info: info(i, node()),
            used: used.collect(),
        };
        a.apply(event, NOW);
    }
    let all = (0..scale.frameworks).map(|i| subscribed(i, tree_role(i), true));
    a.apply_all(all, NOW);
    let weight = |i| Event::WeightSet {
        role: tree_role(i),
        weight_milli: 2000,
    };
    let mut times = Vec::new();
    for _ in 0..rounds {
        let t = Instant::now();
        let refused = a.would_refuse([weight(0), weight(1)], NOW);
        times.push(ms(t));
        assert_eq!(black_box(refused), None);
    }
    median(times)
}

/// Declines in one micro-batch.
const BATCH: usize = 256;

/// What it took when everybody had declined everything.
pub struct AllFiltered {
    /// Real declines, one for each framework and agent: CPU time of all, in seconds, and of one with the
    /// offer that follows, in microseconds.
    pub setup_s: f64,
    pub decline_us: f64,
    /// A look at all agents, in milliseconds on the CPU and on the clock: the first one after a framework
    /// came that none of them is for, and one when nothing has changed since the last.
    pub look: (f64, f64),
    pub again: (f64, f64),
}

/// Everybody declines everything for a year; then everything is looked at again.
pub fn all_filtered(scale: Scale, rounds: usize) -> AllFiltered {
    let start = cpu_seconds();
    let mut a = silent(scale, AllocatorConfig::default());
    let mut out: Vec<Offer> = offers(a.apply_all(revive_all(scale), NOW)).collect();
    let year = Millis::from_secs(365 * 24 * 3600);
    let mut n = 0;
    // The latest offers are answered first, some at a time: all of an agent's declines in a row.
    while !out.is_empty() {
        let batch = out.split_off(out.len().saturating_sub(BATCH));
        n += batch.len();
        let declines = batch.into_iter().map(|o| Event::Declined {
            framework_id: o.framework_id,
            offer_ids: vec![o.offer_id],
            refuse: year,
        });
        out.extend(offers(a.apply_all(declines, NOW)));
    }
    assert_eq!(n, scale.agents * scale.frameworks);
    let setup_s = cpu_seconds() - start;
    let look = |a: &mut Allocator, event: Event| {
        let before = a.stats().n_looked_at;
        let (on, t) = (cpu_seconds(), Instant::now());
        let effects = a.apply(event, NOW);
        let took = ((cpu_seconds() - on) * 1e3, ms(t));
        assert!(effects.is_empty(), "all is filtered");
        let looked = a.stats().n_looked_at - before;
        assert_eq!(looked, scale.agents as u64, "every agent is looked at");
        took
    };
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // One that is for no agent, so that who is blocked where has to be found anew.
        first.push(look(&mut a, nowhere(scale.frameworks + round)));
        // A hint: whatever is free may be of use to it now.
        let hint = || Event::Demand {
            framework_id: framework(0),
            role: tree_role(0),
            smallest: None,
        };
        again.push(look(&mut a, hint()));
    }
    let medians = |all: Vec<(f64, f64)>| {
        let (cpu, wall) = all.into_iter().unzip();
        (median(cpu), median(wall))
    };
    AllFiltered {
        setup_s,
        decline_us: setup_s * 1e6 / n as f64,
        look: medians(first),
        again: medians(again),
    }
}

/// A framework that wants agents of a host name that none has.
fn nowhere(i: usize) -> Event {
    let Event::Subscribed {
        framework_id,
        mut spec,
    } = subscribed(i, tree_role(i), false)
    else {
        unreachable!("it subscribes");
    };
    spec.roles[0].constraints = vec![vec![AttributeConstraint {
        selector: Selector::Hostname,
        predicate: Predicate::TextEquals("nowhere".into()),
    }]];
    Event::Subscribed { framework_id, spec }
}

struct Profile {
    left: u32,
    per_offer: u32,
    task: Resources,
}

/// Mesos's MultiFrameworkAllocations: 80 agents of 64 CPUs and 488 GB; four frameworks of 4,000 small
/// tasks (100 an offer at most), 500 of five (one an offer), 50 of twenty (five an offer). Frameworks that
/// are done give their offers back without a filter and without a word, as they do there. Milliseconds to
/// the last launch, tasks, offers.
pub fn multi_framework(divide: u32) -> (f64, u32, u32) {
    let mut a = Allocator::new(AllocatorConfig::default());
    for i in 0..80 {
        let event = Event::AgentAdded {
            info: info(i, Resources::from_millis(64_000, 488_000_000, 0)),
            used: Vec::new(),
        };
        a.apply(event, NOW);
    }
    let mut profiles: Vec<Profile> = Vec::new();
    let mut events = Vec::new();
    let mut add = |role: String, left, per_offer, task| {
        events.push(subscribed(profiles.len(), role, false));
        profiles.push(Profile {
            left,
            per_offer,
            task,
        });
    };
    for i in 0..4 {
        let task = Resources::from_millis(70, 400_000, 0);
        add(format!("roleA-{i}"), 4000 / divide, 100, task);
    }
    for _ in 0..500 {
        add(
            "roleB".into(),
            5,
            1,
            Resources::from_millis(100, 4_000_000, 0),
        );
    }
    for i in 0..50 {
        add(
            format!("roleC-{i}"),
            20,
            5,
            Resources::from_millis(1000, 1_000_000, 0),
        );
    }
    let total: u32 = profiles.iter().map(|p| p.left).sum();
    let (mut launched, mut n_offers) = (0, 0);
    let t = Instant::now();
    let mut inbox: Inbox = offers(a.apply_all(events, NOW)).collect();
    while launched < total {
        let offer = inbox.pop_front().expect("somebody is to be asked");
        n_offers += 1;
        let at = number(&offer.framework_id);
        let p = &mut profiles[at];
        let mut used = Resources::default();
        let mut n = 0;
        while n < p.per_offer.min(p.left) {
            let more = used.checked_add(&p.task).unwrap();
            if !offer.resources.contains(&more) {
                break;
            }
            used = more;
            n += 1;
        }
        p.left -= n;
        launched += n;
        let event = if n > 0 {
            accept(&offer, used)
        } else {
            decline(&offer, Millis(0))
        };
        inbox.extend(offers(a.apply(event, NOW)));
    }
    let ms = ms(t);
    (ms, total, n_offers)
}

/// The framework's number, from the end of its id.
fn number(id: &FrameworkId) -> usize {
    let digits = id.as_str().rsplit('-').next();
    digits.and_then(|d| d.parse().ok()).unwrap()
}
