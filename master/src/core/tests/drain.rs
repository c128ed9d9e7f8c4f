//! A backend leaves every node's VIPs before it is told to end.

use super::*;

fn kills(w: &World) -> usize {
    let kill = |m: &&(AgentId, MasterMsg)| matches!(m.1, MasterMsg::Kill { .. });
    w.sent.iter().filter(kill).count()
}

/// Two agents, `/web` with two instances that run.
fn running() -> World {
    let mut w = World::new();
    w.join(1);
    w.join(2);
    w.put(service("/web", 2, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.run_all();
    assert_eq!(w.task_ids().len(), 2);
    w
}

fn net_state(w: &World, id: &TaskId) -> TaskState {
    w.nets.last().unwrap().tasks[id].state
}

#[test]
fn a_kill_waits_until_every_node_has_applied_that_the_task_is_out() {
    let mut w = running();
    w.slow_nodes = true;
    let id = w.task_ids()[0].clone();
    w.kill(vec![id.clone()], false, false).unwrap();
    assert_eq!(net_state(&w, &id), TaskState::Killing);
    assert_eq!(kills(&w), 0);
    let newest = w.nets.last().unwrap().generation;
    let sessions: Vec<SessionId> = w.agents.values().filter_map(|a| a.session).collect();
    let mut applied = |session, generation| {
        w.now = w.now + Millis(20);
        w.event(Event::Applied {
            session,
            generation,
            duration_us: 1,
            failures: Vec::new(),
        });
        kills(&w)
    };
    assert_eq!(applied(sessions[0], newest), 0);
    assert_eq!(
        applied(sessions[1], Generation(newest.0 - 1)),
        0,
        "an old one"
    );
    assert_eq!(applied(sessions[1], newest), 1);
}

#[test]
fn a_node_that_does_not_answer_holds_a_kill_up_for_a_moment_only() {
    let mut w = running();
    w.slow_nodes = true;
    let id = w.task_ids()[0].clone();
    w.kill(vec![id.clone()], false, false).unwrap();
    // A second kill does not begin anew.
    w.now = w.now + Millis(600);
    let _ = w.kill(vec![id], false, false);
    assert_eq!(kills(&w), 0);
    let due = w.core.next_deadline().unwrap();
    assert!(due <= w.now + Millis(400), "the core asks to be woken");
    w.now = w.now + Millis(400);
    w.event(Event::Tick);
    assert_eq!(kills(&w), 1);
}

/// A service's ports have names in DNS, with or without a VIP.
#[test]
fn who_is_found_by_name_leaves_dns_before_it_is_killed() {
    let mut w = World::new();
    w.join(1);
    let mut named = service("/web", 1, "/web:80");
    named.ports[0].vips.clear();
    named.ports[0].labels.clear();
    let mut alone = service("/worker", 1, "/w:80");
    alone.ports.clear();
    w.put(named, PutMode::Create, false).unwrap();
    w.put(alone, PutMode::Create, false).unwrap();
    w.run_all();
    w.slow_nodes = true;
    let of = |w: &mut World, name: &str| {
        let ids = w.task_ids();
        ids.into_iter()
            .find(|id| id.as_str().starts_with(name))
            .unwrap()
    };
    let (web, worker) = (of(&mut w, "web"), of(&mut w, "worker"));
    // Nobody looks for it.
    w.kill(vec![worker], false, false).unwrap();
    assert_eq!(kills(&w), 1);
    w.kill(vec![web.clone()], false, false).unwrap();
    assert_eq!(net_state(&w, &web), TaskState::Killing);
    assert_eq!(kills(&w), 1);
    let session = w.agents.values().find_map(|a| a.session).unwrap();
    let generation = w.nets.last().unwrap().generation;
    w.now = w.now + Millis(20);
    w.event(Event::Applied {
        session,
        generation,
        duration_us: 1,
        failures: Vec::new(),
    });
    assert_eq!(kills(&w), 2);
}

#[test]
fn what_is_not_well_is_killed_at_once() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", 2, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.slow_nodes = true;
    // Not running yet.
    let id = w.task_ids()[0].clone();
    w.kill(vec![id], false, false).unwrap();
    assert_eq!(kills(&w), 1);
}

#[test]
fn an_agent_that_registers_again_is_told_at_once() {
    let mut w = running();
    w.slow_nodes = true;
    let id = w.task_ids()[0].clone();
    let on = w.core.tasks.get(&id).unwrap().agent_id().clone();
    w.kill(vec![id], false, false).unwrap();
    let n = if on == agent_id(1) { 1 } else { 2 };
    w.cut(n);
    w.join(n);
    assert!(kills(&w) >= 1);
    w.now = w.now + Millis(1000);
    w.event(Event::Tick);
    w.obey_kills();
    assert!(w.task_ids().len() <= 2);
}
