//! Who gets how much, and who waits how long.

use std::collections::VecDeque;

use waggle_allocator::{Allocator, AllocatorConfig, Event};
use waggle_types::{Millis, Offer, Resources, UnixMillis};

use crate::cluster::{Dice, NOW, accept, decline, framework, info, node, offers, subscribed};

/// Ten roles of different weights that always want more; tasks end at random. After convergence: the
/// largest distance of a role's weighted share from their mean, in percent of the mean and in tasks.
pub fn deviation(small: bool) -> (f64, f64) {
    const ROLES: usize = 10;
    let n_agents = if small { 10 } else { 200 };
    let task = Resources::from_millis(1000, 1_024_000, 0);
    let mut a = Allocator::new(AllocatorConfig::default());
    let weight = |i: usize| 1000 * (1 + u32::try_from(i % 5).unwrap());
    for i in 0..ROLES {
        a.apply(
            Event::WeightSet {
                role: format!("r{i}"),
                weight_milli: weight(i),
            },
            NOW,
        );
        a.apply(subscribed(i, format!("r{i}"), false), NOW);
    }
    let mut inbox = VecDeque::new();
    for i in 0..n_agents {
        let event = Event::AgentAdded {
            info: info(i, Resources::from_millis(32_000, 131_072_000, 0)),
            used: Vec::new(),
        };
        inbox.extend(offers(a.apply(event, NOW)));
    }
    let mut tasks: Vec<(usize, Offer)> = Vec::new();
    let mut dice = Dice(3);
    let n_ends = n_agents * 32 * 10;
    let mut worst: f64 = 0.0;
    let mut worst_tasks: f64 = 0.0;
    for end in 0..n_ends {
        while let Some(offer) = inbox.pop_front() {
            let role: usize = offer.role[1..].parse().unwrap();
            let effects = a.apply(accept(&offer, task.clone()), NOW);
            tasks.push((role, offer));
            inbox.extend(offers(effects));
        }
        if end > n_ends / 2 {
            let total = (n_agents * 32) as f64;
            let share = |i: usize| a.dominant_share(&format!("r{i}")).as_f64();
            let mean = (0..ROLES).map(share).sum::<f64>() / ROLES as f64;
            for i in 0..ROLES {
                let off = (share(i) - mean).abs();
                worst = worst.max(off / mean * 100.0);
                worst_tasks = worst_tasks.max(off * total * f64::from(weight(i)) / 1000.0);
            }
        }
        let (_, ended) = tasks.swap_remove(dice.below(tasks.len()));
        let event = Event::Released {
            framework_id: ended.framework_id,
            agent_id: ended.agent_id,
            resources: task.clone(),
        };
        inbox.extend(offers(a.apply(event, NOW)));
    }
    (worst, worst_tasks)
}

/// One framework with a large share wants a task now and then, among 500 that decline everything, a
/// millisecond after they were asked, with Mesos's filter of 5 s. The longest time (simulated) from its
/// revive to its offer, in milliseconds.
pub fn worst_wait(small: bool) -> f64 {
    let n_idle = if small { 20 } else { 500 };
    let minutes = if small { 1 } else { 10 };
    let n_agents = 100;
    let mut a = Allocator::new(AllocatorConfig::default());
    let mut now = NOW;
    // The hungry one already uses half of everything, so fairness alone would put it last always.
    for i in 0..n_agents {
        let half = Resources::from_millis(16_000, 65_536_000, 0);
        let event = Event::AgentAdded {
            info: info(i, node()),
            used: vec![(framework(0), half)],
        };
        a.apply(event, now);
    }
    let mut inbox: VecDeque<(UnixMillis, Offer)> = VecDeque::new();
    a.apply(subscribed(0, "hungry".into(), true), now);
    for i in 1..=n_idle {
        let role = format!("idle{i}");
        let more = offers(a.apply(subscribed(i, role, false), now));
        inbox.extend(more.map(|o| (now + Millis(1), o)));
    }
    let task = Resources::from_millis(1000, 1_024_000, 0);
    let mut dice = Dice(11);
    let mut wanted_since = None;
    let mut next_wish = now + Millis(1000);
    let mut worst = 0;
    let end = now + Millis::from_secs(60 * minutes);
    while now < end {
        // The next thing that happens: an answer, a wish, a timer.
        let answer = inbox.front().map(|(at, _)| *at);
        let times = [answer, Some(next_wish), a.next_deadline()];
        now = now.max(times.into_iter().flatten().min().unwrap());
        let mut out = Vec::new();
        out.extend(offers(a.apply(Event::Tick, now)));
        if now >= next_wish {
            next_wish = now + Millis(1 + dice.below(7000) as u64);
            if wanted_since.is_none() {
                wanted_since = Some(now);
                let framework_id = framework(0);
                out.extend(offers(a.apply(Event::Revive { framework_id }, now)));
            }
        }
        while inbox.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, offer)) = inbox.pop_front() else {
                break;
            };
            if a.offer(&offer.offer_id).is_none() {
                continue;
            }
            let refuse = Millis::from_secs(5);
            out.extend(offers(a.apply(decline(&offer, refuse), now)));
        }
        let mut at = 0;
        while at < out.len() {
            let offer = out[at].clone();
            at += 1;
            if offer.role != "hungry" {
                inbox.push_back((now + Millis(1), offer));
                continue;
            }
            if let Some(since) = wanted_since.take() {
                worst = worst.max(now.since(since).0);
                let effects = a.apply(accept(&offer, task.clone()), now);
                out.extend(offers(effects));
                let framework_id = framework(0);
                a.apply(Event::Suppress { framework_id }, now);
                let ended = Event::Released {
                    framework_id: offer.framework_id,
                    agent_id: offer.agent_id,
                    resources: task.clone(),
                };
                out.extend(offers(a.apply(ended, now)));
            } else {
                out.extend(offers(a.apply(decline(&offer, Millis(0)), now)));
            }
        }
    }
    worst as f64
}
