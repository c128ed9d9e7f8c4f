//! Single behaviors.

use super::*;

#[test]
fn a_run_ends_and_is_remembered() {
    let mut w = World::new();
    w.call(JobCall::Create(Box::new(job("prod.backup", Vec::new()))))
        .unwrap();
    let run = w.run_now("prod.backup").unwrap().unwrap();
    assert!(run.as_str().starts_with("20260101000000"), "{run}");
    assert_eq!(run.as_str().len(), 19);
    w.offers(1);
    let (task, _) = w.tasks.first_key_value().unwrap();
    let text = task.to_string();
    assert!(text.starts_with(&format!("prod_backup_{run}.")), "{text}");
    let task = task.clone();
    w.say(&task, TaskState::Running);
    assert_eq!(w.job("prod.backup").runs[&run].status().name(), "ACTIVE");
    w.say(&task, TaskState::Finished);
    let history = &w.job("prod.backup").history;
    assert_eq!((history.n_success, history.n_failure), (1, 0));
    assert_eq!(history.find(&run).unwrap().0.tasks, [task]);
    assert!(w.suppressed && w.runs.is_empty());
}

#[test]
fn history_is_bounded_and_counts_all() {
    let mut w = World::new();
    w.call(JobCall::Create(Box::new(job("j", Vec::new()))))
        .unwrap();
    for i in 0..25 {
        w.run_now("j").unwrap();
        w.offers(1);
        let end = if i % 2 == 0 {
            TaskState::Failed
        } else {
            TaskState::Finished
        };
        w.say_all(end);
        w.now = w.now + Millis(1000);
    }
    let h = &w.job("j").history;
    assert_eq!((h.n_success, h.n_failure), (12, 13));
    assert_eq!((h.successes.len(), h.failures.len()), (10, 10));
    assert!(h.failures[0].finished_at > h.failures[9].finished_at);
    assert_eq!(h.failures[0].message, "TASK_FAILED");
}

#[test]
fn a_time_that_passed_in_between_is_made_up_for_once() {
    let mut w = World::new();
    let spec = job("j", vec![schedule("*/10 * * * *", Concurrency::Allow)]);
    w.call(JobCall::Create(Box::new(spec))).unwrap();
    // Away over 00:10, 00:20 and 00:30.
    w.now = w.now + Millis(31 * MINUTE);
    w.restart();
    let at = START + Millis(30 * MINUTE);
    let fired: Vec<_> = w.fired.keys().map(|(_, _, at)| *at).collect();
    assert_eq!(fired, [at]);
    assert_eq!(w.job("j").progress("s").unwrap().n_skipped, 2);
    // Away until the deadline of 00:40 is over.
    w.now = START + Millis(59 * MINUTE);
    w.now = w.now - Millis(0);
    w.restart();
    let mut late = schedule("45 0 * * *", Concurrency::Allow);
    late.starting_deadline = Millis::from_secs(60);
    let spec = job("late", vec![late]);
    w.now = START + Millis(24 * 60 * MINUTE);
    w.call(JobCall::Create(Box::new(spec))).unwrap();
    w.now = w.now + Millis(47 * MINUTE);
    w.restart();
    assert!(w.job("late").runs.is_empty());
    let skip = w.job("late").progress("s").unwrap().last_skip.unwrap();
    assert_eq!(skip.1, Skip::TooLate);
}

#[test]
fn a_schedule_that_forbids_leaves_times_out() {
    let mut w = World::new();
    let spec = job("j", vec![schedule("* * * * *", Concurrency::Forbid)]);
    w.call(JobCall::Create(Box::new(spec))).unwrap();
    w.pass(MINUTE);
    w.say_all(TaskState::Running);
    w.pass(3 * MINUTE);
    assert_eq!(w.job("j").runs.len(), 1);
    assert_eq!(w.skipped, [Skip::Active; 3]);
    w.say_all(TaskState::Finished);
    w.pass(MINUTE);
    assert_eq!((w.job("j").runs.len(), w.fired.len()), (1, 2));
}

#[test]
fn a_failing_run_is_tried_again_until_its_deadline() {
    let mut w = World::new();
    let spec = JobSpec {
        restart: RestartPolicy::OnFailure {
            active_deadline: Some(Millis::from_secs(30)),
        },
        ..job("j", Vec::new())
    };
    w.call(JobCall::Create(Box::new(spec))).unwrap();
    w.run_now("j").unwrap();
    w.offers(1);
    let mut n = 0;
    while !w.runs.is_empty() {
        assert!(n < 100, "it does not end");
        n += w.tasks.len();
        w.say_all(TaskState::Running);
        w.say_all(TaskState::Failed);
        w.pass(1000);
    }
    assert!(n > 3, "{n} tasks");
    assert!(w.now.since(START) <= Millis::from_secs(35), "{}", w.now);
    let (_, why) = w.ended.last().unwrap();
    let said = why.as_ref().unwrap();
    assert!(said.ends_with("failures; its deadline is over"), "{said}");
}

#[test]
fn what_depends_on_others_runs_when_all_have_succeeded() {
    let mut w = World::new();
    for j in ["a", "b"] {
        w.call(JobCall::Create(Box::new(job(j, Vec::new()))))
            .unwrap();
    }
    let both = JobSpec {
        dependencies: BTreeSet::from([id("a"), id("b")]),
        ..job("both", Vec::new())
    };
    w.call(JobCall::Create(Box::new(both.clone()))).unwrap();
    let succeed = |w: &mut World, j: &str| {
        w.now = w.now + Millis(1000);
        w.run_now(j).unwrap();
        w.offers(1);
        w.say_all(TaskState::Finished);
        w.job("both").history.n_success + w.job("both").runs.len() as u64
    };
    assert_eq!(succeed(&mut w, "a"), 0);
    assert_eq!(succeed(&mut w, "a"), 0);
    assert_eq!(succeed(&mut w, "b"), 1);
    assert_eq!(succeed(&mut w, "b"), 1);
    assert_eq!(succeed(&mut w, "a"), 2);

    let cycle = JobSpec {
        dependencies: BTreeSet::from([id("both")]),
        ..job("a", Vec::new())
    };
    let update = |spec| JobCall::Update {
        spec: Box::new(spec),
        schedules: false,
    };
    let refused = w.call(update(cycle)).unwrap_err();
    assert!(refused.to_string().contains("cycle"), "{refused}");
    let own = JobSpec {
        dependencies: BTreeSet::from([id("a"), id("a2")]),
        ..job("a", Vec::new())
    };
    assert!(matches!(w.call(update(own)), Err(JobError::Invalid(_))));
    let remove = |j| JobCall::Remove {
        id: id(j),
        stop_runs: true,
    };
    assert!(matches!(w.call(remove("a")), Err(JobError::Needed { .. })));
    w.call(remove("both")).unwrap();
    w.call(remove("a")).unwrap();
}

#[test]
fn a_run_that_is_stopped_has_failed_when_its_task_has_ended() {
    let mut w = World::new();
    w.call(JobCall::Create(Box::new(job("j", Vec::new()))))
        .unwrap();
    let run = w.run_now("j").unwrap().unwrap();
    let stop = JobCall::Stop {
        id: id("j"),
        run: run.clone(),
    };
    w.offers(1);
    w.say_all(TaskState::Running);
    w.call(stop.clone()).unwrap();
    assert_eq!(w.job("j").history.failures[0].message, "it was stopped");
    assert!(matches!(w.call(stop), Err(JobError::NoSuchRun { .. })));
    // Without a task at once.
    let run = w.run_now("j").unwrap().unwrap();
    w.call(JobCall::Stop { id: id("j"), run }).unwrap();
    assert_eq!(w.job("j").history.n_failure, 2);
}

#[test]
fn a_run_that_fits_nowhere_ends_at_its_delay_and_says_why() {
    let mut w = World::new();
    let mut spec = job("j", Vec::new());
    spec.run.resources = waggle_types::Resources::from_millis(64_000, 1000, 0);
    spec.max_launch_delay = Millis::from_secs(60);
    w.call(JobCall::Create(Box::new(spec))).unwrap();
    let run = w.run_now("j").unwrap().unwrap();
    w.offers(2);
    let r = &w.job("j").runs[&run];
    assert_eq!((r.status().name(), r.n_offers()), ("INITIAL", 2));
    let cpus = r.refusals()[&waggle_services::DeclineReason::InsufficientCpus];
    assert_eq!(cpus.declined, 2);
    w.pass(MINUTE);
    let h = &w.job("j").history;
    assert_eq!(h.failures[0].message, "it could not be launched in time");
}

#[test]
fn a_run_waits_for_its_secrets_and_says_so() {
    let mut w = World::new();
    let mut spec = job("j", Vec::new());
    let secrets = &mut spec.run.secrets;
    secrets.sources = BTreeMap::from([("pw".to_owned(), "shop/db".to_owned())]);
    secrets.env = BTreeMap::from([("PASSWORD".to_owned(), "pw".to_owned())]);
    w.call(JobCall::Create(Box::new(spec.clone()))).unwrap();
    let run = w.run_now("j").unwrap().unwrap();
    w.offers(2);
    let r = &w.job("j").runs[&run];
    assert_eq!((r.status().name(), r.n_offers()), ("INITIAL", 2));
    let why = r.why();
    assert_eq!(
        why[0].message,
        "needs the values of secrets (pw) and there is no secret store: 2 offers refused"
    );
    // One run may have the value as text.
    let plain = JobCall::Run {
        id: id("j"),
        env: BTreeMap::from([("PASSWORD".to_owned(), "x".to_owned())]),
        constraints: None,
        trace: None,
    };
    let plain = w.call(plain).unwrap().unwrap();
    w.offers(1);
    let status = |run| w.job("j").runs[run].status().name();
    assert_eq!((status(&run), status(&plain)), ("INITIAL", "STARTING"));
}

#[test]
fn an_agent_that_stays_away_costs_the_run_its_task() {
    let mut w = World::new();
    w.call(JobCall::Create(Box::new(job("j", Vec::new()))))
        .unwrap();
    w.run_now("j").unwrap();
    w.offers(1);
    w.say_all(TaskState::Running);
    let task = w.tasks.keys().next().unwrap().clone();
    let gone = status(&task, &agent(1), TaskState::Unreachable);
    w.event(SchedulerEvent::Update(gone));
    w.pass(9 * MINUTE);
    assert_eq!(w.runs.len(), 1);
    // Its kill does not arrive either: the world answers that it ended, which is too late to matter.
    w.pass(2 * MINUTE);
    assert_eq!(w.job("j").history.n_failure, 1);
}

#[test]
fn a_task_that_nobody_has_any_more_has_failed_if_it_ever_ran() {
    let mut w = World::new();
    w.call(JobCall::Create(Box::new(job("j", Vec::new()))))
        .unwrap();
    w.run_now("j").unwrap();
    w.offers(1);
    let first = w.tasks.keys().next().unwrap().clone();
    w.vanish(&first);
    // It never was: the run waits for another launch.
    w.pass(5000);
    let second = w.tasks.keys().next().unwrap().clone();
    assert_ne!(first, second);
    w.say(&second, TaskState::Running);
    w.vanish(&second);
    w.pass(5000);
    assert!(w.tasks.is_empty() && w.runs.is_empty());
    assert_eq!(w.job("j").history.failures[0].message, "TASK_LOST");
}
