//! Agents that come, go, come back, and lie.

use super::*;

fn running_service(w: &mut World, n: u32) -> Vec<TaskId> {
    w.put(service("/web", n, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.run_all();
    w.task_ids()
}

fn refusal(w: &World) -> Option<bool> {
    w.sent.iter().rev().find_map(|m| match &m.1 {
        MasterMsg::Refused { permanent, .. } => Some(*permanent),
        _ => None,
    })
}

#[test]
fn a_restarted_master_adopts_what_runs_and_starts_nothing_twice() {
    let mut w = World::new();
    w.join(1);
    w.join(2);
    let tasks = running_service(&mut w, 3);
    let framework = w.core.framework_id().clone();
    let last = w.net().generation;
    let n_nets = w.nets.len();
    w.restart();
    assert_eq!(*w.core.framework_id(), framework);
    assert!(w.view().recovering);
    w.join(1);
    assert_eq!(w.launches(), 0, "the other agent is still awaited");
    assert_eq!(w.nets.len(), n_nets, "nodes keep what they have meanwhile");
    w.join(2);
    assert!(!w.view().recovering);
    assert_eq!(w.launches(), 0);
    assert_eq!(w.task_ids(), tasks);
    assert!(w.net().generation > last);
    assert_eq!(w.net().tasks.len(), 3);
    let view = w.view();
    let web = &view.services[&ServiceId::new("/web").unwrap()];
    assert_eq!(web.running, 3);
}

#[test]
fn an_agent_that_stays_away_is_replaced_after_the_grace() {
    let mut w = World::new();
    w.join(1);
    w.join(2);
    running_service(&mut w, 3);
    let lost = w.agents[&agent_id(2)].tasks.len();
    w.restart();
    w.join(1);
    w.pass(9_000);
    assert_eq!(w.launches(), 0);
    w.pass(2_000);
    w.run_all();
    assert!(!w.view().recovering);
    assert_eq!(w.launches(), lost);
    // Back at last: its tasks are surplus now.
    w.join(2);
    w.obey_kills();
    w.run_all();
    w.obey_kills();
    assert_eq!(w.task_ids().len(), 3);
}

#[test]
fn an_unfinished_deployment_goes_on_after_a_restart() {
    let mut w = World::new();
    w.put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.restart();
    assert_eq!(w.view().deployments.len(), 1);
    w.join(1);
    w.run_all();
    assert!(w.view().deployments.is_empty());
    assert_eq!(w.task_ids().len(), 1);
}

#[test]
fn tasks_of_a_removed_service_are_killed_when_they_turn_up() {
    let mut w = World::new();
    w.join(1);
    running_service(&mut w, 1);
    w.cut(1);
    w.remove("/web").unwrap();
    w.restart();
    w.join(1);
    assert_eq!(w.task_ids().len(), 1, "what it uses is held until it ends");
    w.obey_kills();
    assert!(w.agents[&agent_id(1)].tasks.is_empty());
    assert!(w.task_ids().is_empty());
    assert!(w.view().deployments.is_empty());
}

#[test]
fn a_newer_session_of_the_same_agent_replaces_the_old_one() {
    let mut w = World::new();
    let old = w.join(1);
    running_service(&mut w, 1);
    w.join(1);
    w.event(Event::Disconnected { session: old });
    w.event(Event::Heartbeat { session: old });
    let view = w.view();
    assert!(view.agents[&agent_id(1)].connected);
    assert_eq!(view.tasks.len(), 1);
    assert_eq!(view.rejections["stale_session"], 1);
}

#[test]
fn a_second_node_with_a_living_agents_id_is_refused_for_good() {
    let mut w = World::new();
    w.join(1);
    let session = SessionId(77);
    let mut info = w.agents[&agent_id(1)].info.clone();
    info.ip = Ipv4Addr::new(192, 168, 77, 9);
    let stranger = FakeAgent {
        info: info.clone(),
        tasks: BTreeMap::new(),
        executors: BTreeMap::new(),
        session: Some(session),
    };
    w.agents.insert(agent_id(9), stranger);
    let registration = Box::new(Registration {
        info,
        tasks: Vec::new(),
        executors: Vec::new(),
        applied: Generation(0),
        version: String::new(),
        wireguard: None,
    });
    w.event(Event::Register {
        session,
        registration,
    });
    assert_eq!(refusal(&w), Some(true));
    assert!(w.view().agents[&agent_id(1)].connected);
}

#[test]
fn a_node_made_anew_takes_the_place_of_its_old_agent_once_that_is_silent() {
    let mut w = World::new();
    w.join(1);
    running_service(&mut w, 1);
    let mut anew = w.agents[&agent_id(1)].clone();
    anew.info.agent_id = agent_id(7);
    anew.tasks.clear();
    w.agents.insert(agent_id(7), anew);
    w.join(7);
    assert_eq!(refusal(&w), Some(false), "the old one still lives");
    w.cut(1);
    w.agents.remove(&agent_id(1));
    w.join(7);
    w.pass(2000);
    w.run_all();
    let view = w.view();
    assert_eq!(view.agents.len(), 1);
    assert_eq!(view.tasks.len(), 1);
    assert!(view.tasks.values().all(|t| *t.agent_id() == agent_id(7)));
    assert!(!w.stored.contains_key("agents/agent-1"));
}

#[test]
fn silence_makes_an_agent_unreachable_and_its_tasks_are_replaced() {
    let mut w = World::new();
    w.join(1);
    w.join(2);
    w.join(3);
    running_service(&mut w, 3);
    let victim = w
        .agents
        .iter()
        .find(|(_, a)| !a.tasks.is_empty())
        .map(|(id, a)| (id.clone(), a.tasks.len()))
        .unwrap();
    let n: u8 = victim.0.as_str()["agent-".len()..].parse().unwrap();
    w.cut(n);
    w.sent.clear();
    w.pass(29_000);
    assert!(w.view().agents[&victim.0].reachable);
    assert_eq!(w.launches(), 0);
    w.pass(2_000);
    assert!(!w.net().agents[&victim.0].reachable);
    w.pass(5_000);
    assert_eq!(w.launches(), victim.1);
    w.run_all();
    w.join(n);
    w.obey_kills();
    w.pass(5_000);
    let view = w.view();
    assert!(view.agents[&victim.0].reachable);
    let running = view
        .tasks
        .values()
        .filter(|t| t.state() == TaskState::Running);
    assert_eq!(running.count(), 3);
}

#[test]
fn when_many_vanish_at_once_nothing_is_replaced() {
    let mut w = World::new();
    for n in 1..=4 {
        w.join(n);
    }
    running_service(&mut w, 4);
    w.sent.clear();
    for n in 1..=3 {
        w.cut(n);
    }
    w.pass(120_000);
    assert_eq!(w.view().agents.values().filter(|a| a.reachable).count(), 1);
    assert_eq!(w.launches(), 0);
    for n in 1..=3 {
        w.join(n);
    }
    w.pass(5_000);
    assert_eq!(w.launches(), 0);
    assert_eq!(w.task_ids().len(), 4);
}

#[test]
fn a_held_up_master_blames_nobody() {
    let mut w = World::new();
    w.join(1);
    w.now = w.now + Millis::from_secs(3600);
    w.event(Event::Stalled);
    w.event(Event::Tick);
    assert!(w.view().agents[&agent_id(1)].reachable);
}

#[test]
fn tasks_that_an_agent_lost_are_replaced() {
    let mut w = World::new();
    w.join(1);
    running_service(&mut w, 2);
    w.cut(1);
    w.agents.get_mut(&agent_id(1)).unwrap().tasks.clear();
    w.join(1);
    w.pass(5_000);
    w.run_all();
    let view = w.view();
    assert_eq!(view.tasks.len(), 2);
    let ended: Vec<_> = view.completed.iter().map(|t| t.state()).collect();
    assert_eq!(ended, [TaskState::Lost, TaskState::Lost]);
}

#[test]
fn statuses_are_acknowledged_whatever_they_say() {
    let mut w = World::new();
    let session = w.join(1);
    let tasks = running_service(&mut w, 1);
    let acks = |w: &World| {
        let ack = |m: &&(AgentId, MasterMsg)| matches!(m.1, MasterMsg::Ack { .. });
        w.sent.iter().filter(ack).count()
    };
    assert_eq!(acks(&w), 1, "by the framework");
    let nobody = TaskId::new("nobody").unwrap();
    w.say(&agent_id(1), &nobody, TaskState::Failed);
    assert_eq!(acks(&w), 2, "an end that is known already");
    w.say(&agent_id(1), &nobody, TaskState::Running);
    assert_eq!(acks(&w), 3);
    let killed = |m: &(AgentId, MasterMsg)| matches!(&m.1, MasterMsg::Kill { task_id, .. } if *task_id == nobody);
    assert!(w.sent.iter().any(killed), "nobody wants it");
    let foreign = status(&agent_id(9), &tasks[0], TaskState::Failed);
    w.event(Event::Status {
        session,
        status: foreign,
    });
    assert_eq!(w.view().rejections["status_of_another_agent"], 1);
    assert_eq!(w.task_ids(), tasks);
}

#[test]
fn nodes_ahead_of_a_lost_store_are_not_left_behind() {
    let mut w = World::new();
    let info = {
        w.join(1);
        w.agents[&agent_id(1)].info.clone()
    };
    let session = SessionId(99);
    w.event(Event::Register {
        session,
        registration: Box::new(Registration {
            info,
            tasks: Vec::new(),
            executors: Vec::new(),
            applied: Generation(5000),
            version: String::new(),
            wireguard: None,
        }),
    });
    w.put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    assert!(w.net().generation > Generation(5000));
}
