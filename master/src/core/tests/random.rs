//! Random histories: whatever happens, the books balance and nothing panics.

use proptest::prelude::*;
use waggle_types::{
    Capabilities, FrameworkInfo, Milli, Operation, Quota, Reservation, RoleSubscription,
    SchedulerCall, TaskSpec, Unavailability, Volume, VolumeId,
};

use super::{
    client::{Client, task},
    executors::on,
    operators::{quota, set_quota, set_weight, stack},
    *,
};

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
    /// The n-th framework subscribes (again).
    Subscribe(u8),
    Leave(u8),
    /// It accepts the n-th of its offers: reserves so many CPUs, gives so many back, launches tasks.
    Accept(u8, u8, i64, i64, u8),
    Decline(u8, u16),
    Suppress(u8, bool),
    /// It answers the inverse offers that are out to it.
    Answer(u8, bool),
    Operate(Box<OperatorCall>),
    /// The n-th executor of an agent ends.
    EndExecutor(u8, u8),
    /// An operator gives back so many CPUs of the n-th reservation of an agent.
    Unreserve(u8, u8, i64),
}

const ROLES: [&str; 4] = ["a", "a/b", "c", "a/b/d"];

/// A stack that ends in a role.
fn stack_of(role: usize) -> Vec<Reservation> {
    match ROLES[role] {
        "a/b" => stack(&["a", "a/b"]),
        other => stack(&[other]),
    }
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

fn operate() -> impl Strategy<Value = OperatorCall> {
    let agent = || (1u8..5).prop_map(agent_id);
    let role = || 0usize..4;
    let reserve = (agent(), role(), 1i64..3000);
    let unreserve = (agent(), role(), 1i64..2000);
    let some = |milli| Resources::from_millis(milli, 0, milli * 10);
    let create = (agent(), role(), 0u8..3, 1i64..10_000, any::<bool>());
    let volume_id = |n: u8| VolumeId::new(format!("v{n}")).unwrap();
    prop_oneof![
        1 => (role(), 1u32..5000).prop_map(|(r, w)| set_weight(ROLES[r], w)),
        1 => (role(), 0i64..2000, 0i64..9000)
            .prop_map(|(r, g, l)| set_quota(ROLES[r], quota(g, Some(g + l)))),
        1 => role().prop_map(|r| set_quota(ROLES[r], Quota::default())),
        4 => reserve.prop_map(move |(agent_id, r, c)| OperatorCall::Reserve {
            agent_id,
            stack: stack_of(r),
            resources: some(c),
        }),
        3 => create.prop_map(move |(agent_id, r, id, size, shared)| OperatorCall::CreateVolume {
            agent_id,
            stack: stack_of(r),
            volume_id: volume_id(id),
            volume: Volume { size: Milli(size), shared },
            mount_path: None,
        }),
        1 => (agent(), role(), 0u8..3, 0i64..3000).prop_map(move |(agent_id, r, id, size)| {
            OperatorCall::ResizeVolume {
                agent_id,
                stack: stack_of(r),
                volume_id: volume_id(id),
                size: Milli(size),
            }
        }),
        1 => (agent(), role(), 0u8..3).prop_map(move |(agent_id, r, id)| {
            OperatorCall::DestroyVolume {
                agent_id,
                stack: stack_of(r),
                volume_id: volume_id(id),
            }
        }),
        2 => unreserve.prop_map(move |(agent_id, r, c)| OperatorCall::Unreserve {
            agent_id,
            stack: stack_of(r),
            resources: some(c),
        }),
        2 => (prop::collection::vec(agent(), 1..3), prop::option::of(0u64..1_300_000)).prop_map(
            |(agent_ids, start)| OperatorCall::SetMaintenance {
                agent_ids,
                window: start.map(|start| Unavailability {
                    start: UnixMillis(1_000_000 + start),
                    duration: None,
                }),
            }
        ),
        1 => (agent(), prop::option::of(0u64..5000), any::<bool>()).prop_map(
            |(agent_id, grace, mark_gone)| OperatorCall::Drain {
                agent_id,
                max_grace: grace.map(Millis),
                mark_gone,
            }
        ),
        1 => agent().prop_map(|agent_id| OperatorCall::Deactivate { agent_id }),
        3 => agent().prop_map(|agent_id| OperatorCall::Activate { agent_id }),
        1 => agent().prop_map(|agent_id| OperatorCall::MarkGone { agent_id }),
    ]
}

/// What operators and other frameworks do, too.
fn any_step() -> impl Strategy<Value = Step> {
    let f = 0u8..3;
    prop_oneof![
        20 => step(),
        4 => f.clone().prop_map(Step::Subscribe),
        1 => f.clone().prop_map(Step::Leave),
        10 => (f.clone(), 0u8..3, 0i64..1500, 0i64..500, 0u8..3)
            .prop_map(|(f, o, r, u, n)| Step::Accept(f, o, r, u, n)),
        2 => (f.clone(), 0u16..10_000).prop_map(|(f, ms)| Step::Decline(f, ms)),
        2 => (f.clone(), any::<bool>()).prop_map(|(f, s)| Step::Suppress(f, s)),
        1 => (f, any::<bool>()).prop_map(|(f, a)| Step::Answer(f, a)),
        2 => (1u8..5, 0u8..3).prop_map(|(a, e)| Step::EndExecutor(a, e)),
        10 => operate().prop_map(|call| Step::Operate(Box::new(call))),
        3 => (1u8..5, 0u8..3, 1i64..2000).prop_map(|(a, n, c)| Step::Unreserve(a, n, c)),
    ]
}

/// The subscription that the n-th framework opened last, and what it says.
fn info(n: u8) -> FrameworkInfo {
    let role = |r: &str| RoleSubscription::new(r);
    FrameworkInfo {
        roles: match n {
            0 => vec![role("a")],
            1 => vec![role("a/b"), role("c")],
            _ => vec![role("*")],
        },
        capabilities: Capabilities {
            revocable: n > 0,
            ..Capabilities::default()
        },
        failover_timeout: Millis(30_000),
        ..FrameworkInfo::new(format!("f{n}"), "*")
    }
}

fn framework(w: &mut World, n: u8) -> Option<Client> {
    let view = w.view();
    let f = view
        .frameworks
        .values()
        .find(|f| f.name == format!("f{n}"))?;
    let last = w.heard.iter().rev().find_map(|(s, e)| match e {
        SchedulerEvent::Subscribed { framework_id } if *framework_id == f.id => Some(*s),
        _ => None,
    });
    Some(Client {
        id: f.id.clone(),
        subscription: last?,
    })
}

fn accept(w: &mut World, c: &Client, at: u8, reserve: i64, unreserve: i64, n_tasks: u8) {
    let offers = w.view().offers;
    let mut mine = offers.iter().filter(|o| o.framework_id == c.id);
    let Some(offer) = mine.nth(usize::from(at)) else {
        return;
    };
    let mut operations = Vec::new();
    if offer.role != "*" && reserve > 0 {
        operations.push(Operation::Reserve {
            stack: stack(&[offer.role.as_str()]),
            resources: Resources::from_millis(reserve, 0, 0),
        });
    }
    let own = offer
        .parts
        .iter()
        .find(|p| !p.revocable && !p.reservation.is_empty());
    if let Some(own) = own.filter(|_| unreserve > 0) {
        operations.push(Operation::Unreserve {
            stack: own.reservation.clone(),
            resources: Resources::from_millis(unreserve, 0, 0),
        });
    }
    w.n_ids += 1;
    let n = w.n_ids;
    let tasks = (0..n_tasks).map(|i| TaskSpec {
        resources: Resources::from_millis(400, 1000, 0),
        ..task(&format!("x{n}-{i}"))
    });
    let mut tasks: Vec<TaskSpec> = tasks.collect();
    // Some run on executors, of which the framework has two.
    for t in tasks.iter_mut().filter(|_| !n.is_multiple_of(3)) {
        t.executor = Some(on(&format!("e{}", n % 2), 150));
    }
    // The first one uses a volume, if there is one, or makes it.
    let volumes = offer
        .parts
        .iter()
        .flat_map(|p| p.resources.custom.volumes());
    if let (Some((id, volume)), Some(t)) = (volumes.last(), tasks.first_mut()) {
        t.resources.custom.set_volume(id.clone(), volume);
    } else if let (Some(own), Some(t)) = (own, tasks.first_mut())
        && unreserve % 2 == 1
    {
        let id = VolumeId::new(format!("w{n}")).unwrap();
        let size = Milli(reserve % 50 + 1);
        let shared = unreserve % 3 == 1;
        let volume = Volume { size, shared };
        t.resources.custom.set_volume(id.clone(), volume);
        operations.push(Operation::CreateVolume {
            stack: own.reservation.clone(),
            volume_id: id,
            volume,
        });
    }
    operations.push(Operation::Launch(tasks));
    let call = SchedulerCall::Accept {
        offer_ids: vec![offer.offer_id.clone()],
        operations,
        refuse: Millis(1000),
    };
    let _ = w.call(c, call);
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
                a.executors.clear();
            }
        }
        Step::Say(n, t, state) => {
            let tasks = w.agents.get(&agent_id(*n)).map(|a| &a.tasks);
            let task = tasks.and_then(|t_| t_.keys().nth(usize::from(*t)).cloned());
            if let Some(task) = task {
                w.say(&agent_id(*n), &task, *state);
            }
        }
        Step::EndExecutor(n, at) => {
            let executors = w.agents.get(&agent_id(*n)).map(|a| &a.executors);
            let key = executors.and_then(|e| e.keys().nth(usize::from(*at)).cloned());
            if let Some(key) = key {
                w.end_executor(&agent_id(*n), &key, 256);
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
        Step::Subscribe(n) => {
            let id = framework(w, *n).map(|c| c.id);
            let _ = w.subscribe(FrameworkInfo { id, ..info(*n) });
        }
        Step::Operate(call) => {
            let _ = w.operate((**call).clone());
        }
        Step::Unreserve(n, at, milli) => {
            let view = w.view();
            let reserved = view.agents.get(&agent_id(*n)).map(|a| &a.reserved);
            let part = reserved.and_then(|r| r.get(usize::from(*at)));
            if let Some(stack) = part.map(|p| p.reservation.clone()) {
                let _ = w.operate(OperatorCall::Unreserve {
                    agent_id: agent_id(*n),
                    stack,
                    resources: Resources::from_millis(*milli, 0, 0),
                });
            }
        }
        Step::Leave(n)
        | Step::Accept(n, ..)
        | Step::Decline(n, _)
        | Step::Suppress(n, _)
        | Step::Answer(n, _) => {
            if let Some(c) = framework(w, *n) {
                apply_of(w, &c, step);
            }
        }
    }
}

fn apply_of(w: &mut World, c: &Client, step: &Step) {
    let _ = match step {
        Step::Leave(_) => {
            w.leave(c);
            Ok(())
        }
        Step::Accept(_, at, reserve, unreserve, n) => {
            accept(w, c, *at, *reserve, *unreserve, *n);
            Ok(())
        }
        Step::Decline(_, ms) => {
            let offer_ids = w.offers_of(c);
            let refuse = Millis(u64::from(*ms));
            w.call(c, SchedulerCall::Decline { offer_ids, refuse })
        }
        Step::Suppress(_, true) => w.call(c, SchedulerCall::Suppress { roles: Vec::new() }),
        Step::Suppress(..) => w.call(c, SchedulerCall::Revive { roles: Vec::new() }),
        Step::Answer(_, accepted) => {
            let out = w.view().inverse_offers;
            let mine = out.into_iter().filter(|o| o.framework_id == c.id);
            let offer_ids = mine.map(|o| o.offer_id).collect();
            let refuse = Millis(5000);
            w.call(
                c,
                if *accepted {
                    SchedulerCall::AcceptInverse { offer_ids }
                } else {
                    SchedulerCall::DeclineInverse { offer_ids, refuse }
                },
            )
        }
        _ => Ok(()),
    };
}

/// Shared volumes are not used up.
fn without_shared(mut r: Resources) -> Resources {
    for (id, v) in r.custom.clone().volumes() {
        if v.shared {
            r.custom.remove_volume(id);
        }
    }
    r
}

/// After every step: level 1's books balance, and hold exactly what the registry's tasks take.
fn check(w: &mut World) {
    w.core.allocator().check().unwrap();
    assert_eq!(w.core.sums(), sums::recount(w));
    let view = w.view();
    for (id, a) in &view.agents {
        for f in view.frameworks.keys() {
            let of_it =
                |t: &&crate::view::TaskView| t.agent_id() == id && t.spec.framework_id == *f;
            let used = w.core.allocator().used_by(id, f).unwrap_or_default();
            let held = view.tasks.values().filter(|t| of_it(&t.as_ref()));
            let held = held.fold(Resources::default(), |sum, t| {
                sum.checked_add(&t.resources()).unwrap()
            });
            let executors = view.executors.iter();
            let executors = executors.filter(|(a, e)| a == id && e.framework_id == *f);
            let held = executors.fold(held, |sum, (_, e)| {
                sum.checked_add(&e.spec.resources).unwrap()
            });
            assert_eq!(used, held, "{f} on {id}");
        }
        let held = view.tasks.values().filter(|t| t.agent_id() == id);
        let held = held
            .map(|t| without_shared(t.resources()))
            .chain(
                view.executors
                    .iter()
                    .filter(|(a, _)| a == id)
                    .map(|(_, e)| e.spec.resources.clone()),
            )
            .try_fold(Resources::default(), |sum, r| sum.checked_add(&r));
        assert_eq!(held.as_ref(), Some(&a.used), "{id}");
    }
    assert!(!view.rejections.contains_key("too_many_steps"));
    assert!(!view.rejections.contains_key("level_1_refused"));
    assert!(!view.rejections.contains_key("stored_setting_refused"));
    assert!(!view.rejections.contains_key("reservation_without_room"));
}

/// What must be the same for the next master.
fn lasting(w: &mut World) -> impl PartialEq + std::fmt::Debug + use<> {
    let view = w.view();
    let agents = view.agents.iter();
    let agents: Vec<_> = agents
        .map(|(id, a)| {
            let mut reserved = a.reserved.clone();
            reserved.sort();
            (id.clone(), reserved, a.mode, a.maintenance)
        })
        .collect();
    let roles = view.roles.iter();
    let roles: Vec<_> = roles
        .filter(|(_, r)| r.weight_milli != 1000 || !r.quota.is_empty())
        .map(|(name, r)| (name.clone(), r.weight_milli, r.quota.clone()))
        .collect();
    let frameworks = view.frameworks.values();
    let frameworks: Vec<_> = frameworks
        .map(|f| (f.id.clone(), f.name.clone(), f.roles.len(), f.capabilities))
        .collect();
    (agents, roles, frameworks, view.maintenance.clone())
}

/// A world with agents and frameworks.
fn populated() -> World {
    let mut w = World::new();
    for n in 1..5 {
        w.join(n);
    }
    for n in 0..3 {
        apply(&mut w, &Step::Subscribe(n));
    }
    w
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn books_balance_over_any_history(history in prop::collection::vec(any_step(), 0..60)) {
        let mut w = populated();
        for s in &history {
            apply(&mut w, s);
            check(&mut w);
        }
    }

    #[test]
    fn the_next_master_knows_what_this_one_knew(history in prop::collection::vec(any_step(), 0..60)) {
        let mut w = populated();
        for s in &history {
            apply(&mut w, s);
        }
        // Twice: what an agent is told at the first is done at the second.
        for n in (1..5).chain(1..5) {
            w.join(n);
        }
        let before = lasting(&mut w);
        w.restart();
        for n in 1..5 {
            w.join(n);
        }
        check(&mut w);
        prop_assert_eq!(lasting(&mut w), before);
    }

    #[test]
    fn the_same_history_gives_the_same_messages(history in prop::collection::vec(any_step(), 0..30)) {
        let run = || {
            let mut w = populated();
            for s in &history {
                apply(&mut w, s);
            }
            (w.sent.clone(), w.heard.clone(), w.nets.clone(), w.stored.clone())
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

#[test]
fn an_end_that_an_agent_calls_off_holds_nothing_up() {
    let mut w = World::new();
    w.join(3);
    apply(&mut w, &Step::Put(0, 1, false));
    for state in [TaskState::Running, TaskState::Killing, TaskState::Running] {
        apply(&mut w, &Step::Say(3, 0, state));
    }
    let view = w.view();
    assert!(view.deployments.is_empty(), "{:?}", view.deployments);
    assert_eq!(view.services.values().next().unwrap().running, 1);
}
