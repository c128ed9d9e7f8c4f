//! Random histories: whatever happens, the books balance and nothing panics.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    Cut(u8),
    /// The agent loses all its tasks.
    Forget(u8),
    /// An agent reports its n-th task.
    Say(u8, u8, TaskState),
    Obey,
    RunAll,
    Put(u8, u8, bool),
    Remove(u8),
    Kill(u8, bool),
    Pass(u16),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 1u8..5;
    prop_oneof![
        3 => agent.clone().prop_map(Step::Join),
        2 => agent.clone().prop_map(Step::Cut),
        1 => agent.clone().prop_map(Step::Forget),
        4 => (agent, 0u8..4, prop::sample::select(TaskState::ALL.to_vec()))
            .prop_map(|(a, t, s)| Step::Say(a, t, s)),
        2 => Just(Step::Obey),
        3 => Just(Step::RunAll),
        3 => (0u8..3, 0u8..6, any::<bool>()).prop_map(|(s, n, f)| Step::Put(s, n, f)),
        1 => (0u8..3).prop_map(Step::Remove),
        1 => (0u8..4, any::<bool>()).prop_map(|(t, s)| Step::Kill(t, s)),
        3 => (0u16..60_000).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

fn apply(w: &mut World, step: &Step) {
    match step {
        Step::Join(n) => {
            w.join(*n);
        }
        Step::Cut(n) => w.cut(*n),
        Step::Forget(n) => {
            if let Some(a) = w.agents.get_mut(&agent_id(*n)) {
                a.tasks.clear();
            }
        }
        Step::Say(n, t, state) => {
            let tasks = w.agents.get(&agent_id(*n)).map(|a| &a.tasks);
            let task = tasks.and_then(|t_| t_.keys().nth(usize::from(*t)).cloned());
            if let Some(task) = task {
                w.say(&agent_id(*n), &task, *state);
            }
        }
        Step::Obey => w.obey_kills(),
        Step::RunAll => w.run_all(),
        Step::Put(s, n, force) => {
            let id = format!("/s{s}");
            let vip = format!("/s{s}:80");
            let _ = w.put(service(&id, u32::from(*n), &vip), PutMode::Upsert, *force);
        }
        Step::Remove(s) => {
            let _ = w.remove(&format!("/s{s}"));
        }
        Step::Kill(t, scale) => {
            if let Some(id) = w.task_ids().get(usize::from(*t)).cloned() {
                let _ = w.kill(vec![id], *scale, *scale);
            }
        }
        Step::Pass(ms) => w.pass(u64::from(*ms)),
        Step::Restart => w.restart(),
    }
}

/// After every step: level 1's books balance, and hold exactly what the registry's tasks take.
fn check(w: &mut World) {
    w.core.allocator().check().unwrap();
    let view = w.view();
    for (id, a) in &view.agents {
        let held = view.tasks.values().filter(|t| t.agent_id() == id);
        let held = held
            .map(|t| t.resources())
            .try_fold(Resources::default(), |sum, r| sum.checked_add(&r));
        assert_eq!(held.as_ref(), Some(&a.used), "{id}");
    }
    assert!(!view.rejections.contains_key("too_many_steps"));
    assert!(!view.rejections.contains_key("level_1_refused"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn books_balance_over_any_history(history in prop::collection::vec(step(), 0..40)) {
        let mut w = World::new();
        for s in &history {
            apply(&mut w, s);
            check(&mut w);
        }
    }

    #[test]
    fn the_same_history_gives_the_same_messages(history in prop::collection::vec(step(), 0..20)) {
        let run = || {
            let mut w = World::new();
            for s in &history {
                apply(&mut w, s);
            }
            (w.sent.clone(), w.nets.clone(), w.stored.clone())
        };
        prop_assert_eq!(run(), run());
    }

    /// When everything works again, every service gets what it asks for and nothing more.
    #[test]
    fn quiet_times_converge(history in prop::collection::vec(step(), 0..30)) {
        let mut w = World::new();
        for s in &history {
            apply(&mut w, s);
        }
        for n in 1..5 {
            w.join(n);
        }
        for _ in 0..30 {
            w.pass(20_000);
            w.run_all();
            w.obey_kills();
        }
        let view = w.view();
        let wanted: u32 = view.services.values().map(|s| s.spec.instances).sum();
        prop_assert_eq!(view.tasks.len(), usize::try_from(wanted).unwrap());
        prop_assert!(view.deployments.is_empty());
        for s in view.services.values() {
            prop_assert_eq!(s.running, s.spec.instances);
        }
    }
}
