//! Maintenance, draining, deactivation, and agents that are gone for good.

use waggle_types::{
    FrameworkInfo, InverseOffer, OfferId, RejectReason, SchedulerCall, StatusReason, TaskSpec,
    Unavailability,
};

use super::{
    client::{Client, batch, reasons, task},
    operators::{cpus, reserve},
    *,
};
use crate::view::{AgentMode, LeaveAnswer};

fn maintain(agents: &[u8], start: Option<UnixMillis>) -> OperatorCall {
    OperatorCall::SetMaintenance {
        agent_ids: agents.iter().map(|n| agent_id(*n)).collect(),
        window: start.map(|start| Unavailability {
            start,
            duration: None,
        }),
    }
}

fn drain(n: u8, max_grace: Option<u64>, mark_gone: bool) -> OperatorCall {
    OperatorCall::Drain {
        agent_id: agent_id(n),
        max_grace: max_grace.map(Millis),
        mark_gone,
    }
}

fn mode(w: &mut World, n: u8) -> AgentMode {
    w.view().agents[&agent_id(n)].mode
}

fn offered(w: &mut World, n: u8) -> bool {
    w.view().offers.iter().any(|o| o.agent_id == agent_id(n))
}

/// Inverse offers that a framework heard, and which of them are over.
fn asked(w: &World, c: &Client) -> (Vec<InverseOffer>, Vec<OfferId>) {
    let mine = || w.heard.iter().filter(|(s, _)| *s == c.subscription);
    let out = mine().filter_map(|(_, e)| match e {
        SchedulerEvent::InverseOffer(o) => Some(o.clone()),
        _ => None,
    });
    let over = mine().filter_map(|(_, e)| match e {
        SchedulerEvent::RescindInverse(id) => Some(id.clone()),
        _ => None,
    });
    (out.collect(), over.collect())
}

/// A framework with a running task on agent 1; agent 2 is idle and declined for long.
fn busy() -> (World, Client, TaskId) {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    let offers = w.offers_of(&c);
    let slow = TaskSpec {
        kill_grace: Millis(60_000),
        ..task("t1")
    };
    w.accept(&c, offers, vec![slow]).unwrap();
    w.run_all();
    (w, c, TaskId::new("t1").unwrap())
}

fn grace_of(w: &World, task: &TaskId) -> Vec<Option<Millis>> {
    let kill = |m: &(AgentId, MasterMsg)| match &m.1 {
        MasterMsg::Kill { task_id, grace, .. } if task_id == task => Some(*grace),
        _ => None,
    };
    w.sent.iter().filter_map(kill).collect()
}

#[test]
fn frameworks_are_asked_to_leave_and_killed_when_the_window_begins() {
    let (mut w, c, t1) = busy();
    let start = w.now + Millis(60_000);
    w.operate(maintain(&[1], Some(start))).unwrap();
    let (out, _) = asked(&w, &c);
    assert_eq!((out.len(), out[0].unavailability.start), (1, start));
    assert!(out[0].offer_id.as_str().contains("-I"));
    assert_eq!(w.view().inverse_offers, out);
    let stranger = w.subscribe(FrameworkInfo::new("other", "*")).unwrap();
    let answer = |refuse: Option<u64>, id: &OfferId| match refuse {
        Some(ms) => SchedulerCall::DeclineInverse {
            offer_ids: vec![id.clone()],
            refuse: Millis(ms),
        },
        None => SchedulerCall::AcceptInverse {
            offer_ids: vec![id.clone()],
        },
    };
    let id = out[0].offer_id.clone();
    assert_eq!(
        reasons(w.call(&stranger, answer(None, &id))),
        [RejectReason::ForeignOffer]
    );
    w.call(&c, answer(Some(10_000), &id)).unwrap();
    assert_eq!(
        reasons(w.call(&c, answer(None, &id))),
        [RejectReason::NoInverseOffer],
        "an answer is final"
    );
    w.pass(11_000);
    let (out, _) = asked(&w, &c);
    assert_eq!(out.len(), 2, "asked again");
    w.call(&c, answer(None, &out[1].offer_id)).unwrap();
    let view = w.view();
    let said = &view.agents[&agent_id(1)].asked;
    assert_eq!((said.len(), said[0].answer), (1, LeaveAnswer::Accepted));
    assert!(view.inverse_offers.is_empty());
    // A new session of the agent does not ask once more.
    w.join(1);
    w.agents.get_mut(&agent_id(1)).unwrap().info.attributes = [("a".into(), "b".into())].into();
    w.join(1);
    assert_eq!(asked(&w, &c).0.len(), 2);
    assert_eq!(w.kills(&t1), 0);
    w.pass(60_000);
    assert_eq!(w.kills(&t1), 1);
    assert!(!offered(&mut w, 1));
    w.obey_kills();
    let end = w.updates(&c).pop().unwrap();
    assert_eq!(end.reason, Some(StatusReason::SlaveDraining));
    assert_eq!(end.message, "the agent is down for maintenance");
    // The agent reboots: it is still down, over a restart of the master, too.
    w.cut(1);
    w.join(1);
    assert!(!offered(&mut w, 1));
    w.restart();
    w.join(1);
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    assert!(w.offers_of(&c).is_empty());
    w.operate(maintain(&[1], None)).unwrap();
    assert_eq!(w.offers_of(&c).len(), 1, "back at work");
    assert!(!w.stored.contains_key("maintenance/agent-1"));
}

#[test]
fn maintenance_that_is_cancelled_asks_for_nothing_any_more() {
    let (mut w, c, t1) = busy();
    let start = w.now + Millis(60_000);
    w.operate(maintain(&[1], Some(start))).unwrap();
    w.operate(maintain(&[1], None)).unwrap();
    let (out, over) = asked(&w, &c);
    assert_eq!(over, [out[0].offer_id.clone()]);
    w.pass(70_000);
    assert_eq!(w.kills(&t1), 0);
    // Whose last task has ended is not asked any more.
    w.operate(maintain(&[1], Some(w.now + Millis(60_000))))
        .unwrap();
    w.say(&agent_id(1), &t1, TaskState::Finished);
    let (out, over) = asked(&w, &c);
    assert_eq!((out.len(), over.len()), (2, 2));
    assert!(w.view().inverse_offers.is_empty());
}

#[test]
fn all_agents_of_a_schedule_or_none() {
    let (mut w, _, _) = busy();
    let start = Some(w.now + Millis(60_000));
    let before = w.stored.clone();
    for (agents, reason) in [
        (&[1, 9][..], RejectReason::UnknownAgent),
        (&[1, 1][..], RejectReason::Invalid),
        (&[][..], RejectReason::Invalid),
    ] {
        let got = reasons(w.operate(maintain(agents, start)));
        assert_eq!(got, [reason], "{agents:?}");
    }
    assert_eq!(w.stored, before);
    assert!(w.view().maintenance.is_empty());
}

#[test]
fn an_inverse_offer_waits_for_its_framework() {
    let (mut w, c, _) = busy();
    w.leave(&c);
    w.operate(maintain(&[1], Some(w.now + Millis(60_000))))
        .unwrap();
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    assert_eq!(asked(&w, &c).0.len(), 1);
    w.restart();
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    w.join(1);
    assert_eq!(asked(&w, &c).0.len(), 1, "asked by the next master");
    w.do_call(&c, FrameworkCall::Teardown).unwrap();
    assert!(w.view().inverse_offers.is_empty());
}

#[test]
fn a_kill_says_why_so_that_the_agent_can() {
    let why_of = |w: &World, task: &TaskId| -> Vec<Option<StatusReason>> {
        let kill = |m: &(AgentId, MasterMsg)| match &m.1 {
            MasterMsg::Kill { task_id, why, .. } if task_id == task => {
                Some(why.as_ref().map(|w| w.reason))
            }
            _ => None,
        };
        w.sent.iter().filter_map(kill).collect()
    };
    let (mut w, _, t1) = busy();
    w.operate(drain(1, None, false)).unwrap();
    assert_eq!(why_of(&w, &t1), [Some(StatusReason::SlaveDraining)]);
    let (mut w, c, t1) = busy();
    let task_id = t1.clone();
    w.call(&c, SchedulerCall::Kill { task_id }).unwrap();
    assert_eq!(why_of(&w, &t1), [None], "its framework knows");
}

#[test]
fn a_drained_agent_is_emptied_and_stays_so() {
    let (mut w, c, t1) = busy();
    w.operate(drain(1, Some(5_000), false)).unwrap();
    assert_eq!(grace_of(&w, &t1), [Some(Millis(5_000))]);
    assert!(!offered(&mut w, 1));
    assert_eq!(mode(&mut w, 1).name(), "draining");
    // Less time is said again, more is not.
    w.operate(drain(1, None, false)).unwrap();
    w.operate(drain(1, Some(1_000), false)).unwrap();
    assert_eq!(
        grace_of(&w, &t1),
        [Some(Millis(5_000)), Some(Millis(1_000))]
    );
    w.restart();
    assert_eq!(grace_of(&w, &t1), []);
    w.join(1);
    assert_eq!(
        grace_of(&w, &t1),
        [Some(Millis(1_000))],
        "the next master goes on"
    );
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    w.obey_kills();
    let end = w.updates(&c).pop().unwrap();
    assert_eq!(
        (end.reason, end.message.as_str()),
        (Some(StatusReason::SlaveDraining), "the agent is drained")
    );
    assert_eq!(mode(&mut w, 1), AgentMode::Drained);
    w.cut(1);
    w.join(1);
    assert!(!offered(&mut w, 1));
    w.operate(OperatorCall::Activate {
        agent_id: agent_id(1),
    })
    .unwrap();
    assert!(offered(&mut w, 1));
    assert!(!w.view().rejections.contains_key("level_1_refused"));
}

#[test]
fn a_deactivated_agent_keeps_its_tasks() {
    let (mut w, _, t1) = busy();
    let deactivate = || OperatorCall::Deactivate {
        agent_id: agent_id(1),
    };
    w.operate(drain(1, None, true)).unwrap();
    w.operate(deactivate()).unwrap();
    w.operate(OperatorCall::Activate {
        agent_id: agent_id(1),
    })
    .unwrap();
    w.operate(deactivate()).unwrap();
    assert!(!offered(&mut w, 1));
    w.obey_kills();
    assert!(w.task_ids().is_empty(), "what was told to end ends");
    assert_eq!(
        mode(&mut w, 1),
        AgentMode::Deactivated,
        "but is not gone with it"
    );
    w.restart();
    w.join(1);
    assert_eq!(mode(&mut w, 1), AgentMode::Deactivated);
    assert!(!offered(&mut w, 1));
    assert_eq!(w.kills(&t1), 0);
}

#[test]
fn an_agent_that_is_gone_does_not_come_back() {
    let (mut w, c, t1) = busy();
    w.operate(reserve(1, &["eng"], cpus(1000))).unwrap();
    w.operate(maintain(&[1], Some(w.now + Millis(60_000))))
        .unwrap();
    w.operate(OperatorCall::MarkGone {
        agent_id: agent_id(1),
    })
    .unwrap();
    let end = w.updates(&c).pop().unwrap();
    let by_operator = Some(StatusReason::SlaveRemovedByOperator);
    let gone = TaskState::GoneByOperator;
    assert_eq!(
        (end.task_id, end.state, end.reason),
        (t1, gone, by_operator)
    );
    let lost = SchedulerEvent::AgentLost(agent_id(1));
    assert!(w.heard.iter().any(|(_, e)| *e == lost));
    assert!(
        w.agents[&agent_id(1)].session.is_none(),
        "its session is closed"
    );
    assert!(w.view().agents.is_empty());
    let keys: Vec<&str> = w.stored.keys().map(String::as_str).collect();
    assert!(keys.contains(&"gone_agents/agent-1"));
    for kind in ["agents", "reservations", "maintenance"] {
        assert!(!keys.contains(&format!("{kind}/agent-1").as_str()));
    }
    let again = |w: &mut World| {
        w.join(1);
        let refused = w.sent.iter().rev().find_map(|m| match &m.1 {
            MasterMsg::Refused { permanent, .. } => Some(*permanent),
            _ => None,
        });
        assert_eq!(refused, Some(true));
        assert!(w.view().agents.is_empty());
    };
    again(&mut w);
    w.restart();
    again(&mut w);
    let gone = OperatorCall::MarkGone {
        agent_id: agent_id(1),
    };
    assert_eq!(reasons(w.operate(gone)), [RejectReason::UnknownAgent]);
    match w.explain(ExplainQuery::Agent(agent_id(1))).unwrap() {
        Explained::Agent(a) => assert_eq!(a.mode, AgentMode::Gone),
        other => panic!("wrong answer {other:?}"),
    }
}

#[test]
fn a_drained_agent_goes_for_good_when_that_was_wanted() {
    let (mut w, _, t1) = busy();
    w.operate(drain(1, None, true)).unwrap();
    assert_eq!(grace_of(&w, &t1), [None], "its own time");
    w.obey_kills();
    assert!(w.view().agents.is_empty());
    assert!(w.stored.contains_key("gone_agents/agent-1"));
    // One that runs nothing goes at once, also while it is away.
    w.join(2);
    w.cut(2);
    w.operate(drain(2, None, true)).unwrap();
    assert!(w.view().agents.is_empty());
}

#[test]
fn services_leave_a_drained_agent_by_their_normal_ways() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", 3, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.run_all();
    w.join(2);
    w.operate(drain(1, None, false)).unwrap();
    w.obey_kills();
    w.run_all();
    let view = w.view();
    assert_eq!(view.tasks.len(), 3);
    assert!(view.tasks.values().all(|t| *t.agent_id() == agent_id(2)));
    assert_eq!(mode(&mut w, 1), AgentMode::Drained);
    assert!(view.queue.is_empty(), "replaced without a penalty");
}

#[test]
fn modes_of_agents_that_are_not_back_yet_can_be_set() {
    let (mut w, _, t1) = busy();
    w.restart();
    w.operate(drain(1, None, false)).unwrap();
    w.join(1);
    assert_eq!(w.kills(&t1), 1);
    w.obey_kills();
    assert_eq!(mode(&mut w, 1), AgentMode::Drained);
    for call in [
        drain(9, None, false),
        OperatorCall::Activate {
            agent_id: agent_id(9),
        },
        OperatorCall::MarkGone {
            agent_id: agent_id(9),
        },
    ] {
        assert_eq!(reasons(w.operate(call)), [RejectReason::UnknownAgent]);
    }
}
