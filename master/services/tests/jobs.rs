//! Jobs: laws over random histories with crashes at any point, and single behaviors.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{agent, framework_id, node, offer, status};
use proptest::prelude::*;
use waggle_services::jobs::{
    Cause, Job, JobAction, JobCall, JobError, JobInput, JobLimits, JobScheduler, JobWrite, Kept,
    KeptRun, Skip,
};
use waggle_types::{
    Concurrency, JobId, JobSpec, Millis, Operation, RestartPolicy, RunId, ScheduleSpec,
    SchedulerCall, SchedulerEvent, TaskId, TaskState, UnixMillis,
};

const MINUTE: u64 = 60_000;
/// 2026-01-01, a full hour.
const START: UnixMillis = UnixMillis(1_767_225_600_000);

fn schedule(cron: &str, concurrency: Concurrency) -> ScheduleSpec {
    ScheduleSpec {
        id: "s".into(),
        cron: cron.into(),
        time_zone: "UTC".into(),
        starting_deadline: Millis::from_secs(900),
        concurrency,
        enabled: true,
    }
}

fn job(id: &str, schedules: Vec<ScheduleSpec>) -> JobSpec {
    let id = JobId::new(id).unwrap();
    let mut run = common::spec(1);
    run.id = id.path().unwrap();
    run.ports.clear();
    JobSpec {
        id,
        description: None,
        dependencies: BTreeSet::new(),
        run,
        max_launch_delay: Millis::from_secs(3600),
        restart: RestartPolicy::Never,
        schedules,
    }
}

fn id(text: &str) -> JobId {
    JobId::new(text).unwrap()
}

/// A scheduler, what it has written, and agents that do what they are told.
struct World {
    s: JobScheduler,
    now: UnixMillis,
    lives: u64,
    n_offers: usize,
    jobs: BTreeMap<JobId, (JobSpec, Kept)>,
    runs: BTreeMap<(JobId, RunId), KeptRun>,
    /// What agents have; an ended task stays until it is acknowledged.
    tasks: BTreeMap<TaskId, (RunId, TaskState)>,
    /// Every time that had a run.
    fired: BTreeMap<(JobId, String, UnixMillis), RunId>,
    began: BTreeMap<RunId, KeptRun>,
    ran: BTreeMap<RunId, BTreeSet<TaskId>>,
    ended: Vec<(JobId, Option<String>)>,
    skipped: Vec<Skip>,
    suppressed: bool,
    /// Actions until the master dies.
    fuse: Option<usize>,
    dead: bool,
    /// The next launches do not arrive.
    lossy: bool,
}

impl World {
    fn new() -> Self {
        let mut w = Self {
            s: JobScheduler::new(framework_id(), "metronome", 1, JobLimits::default()),
            now: START,
            lives: 1,
            n_offers: 0,
            jobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            fired: BTreeMap::new(),
            began: BTreeMap::new(),
            ran: BTreeMap::new(),
            ended: Vec::new(),
            skipped: Vec::new(),
            suppressed: false,
            fuse: None,
            dead: false,
            lossy: false,
        };
        w.event(SchedulerEvent::Subscribed {
            framework_id: framework_id(),
        });
        w
    }

    fn event(&mut self, event: SchedulerEvent) {
        let actions = self.s.handle(JobInput::Scheduler(event), self.now);
        self.execute(actions);
    }

    fn input(&mut self, input: JobInput) {
        let actions = self.s.handle(input, self.now);
        self.execute(actions);
    }

    fn call(&mut self, call: JobCall) -> Result<Option<RunId>, JobError> {
        let (answer, actions) = self.s.call(call, self.now)?;
        self.execute(actions);
        Ok(answer.run.map(|r| r.id.clone()))
    }

    fn run_now(&mut self, job: &str) -> Result<Option<RunId>, JobError> {
        self.call(JobCall::Run {
            id: id(job),
            env: BTreeMap::new(),
            constraints: None,
            trace: None,
        })
    }

    fn execute(&mut self, actions: Vec<JobAction>) {
        for action in actions {
            if self.dead {
                return;
            }
            if let Some(left) = &mut self.fuse {
                if *left == 0 {
                    self.dead = true;
                    return;
                }
                *left -= 1;
            }
            match action {
                JobAction::Write(writes) => self.write(writes),
                JobAction::Call(call) => self.called(call),
                JobAction::Ended { job, failed, .. } => self.ended.push((job, failed)),
                JobAction::Skipped { why, .. } => self.skipped.push(why),
            }
        }
    }

    fn write(&mut self, writes: Vec<JobWrite>) {
        let active: BTreeSet<(JobId, RunId)> = self.runs.keys().cloned().collect();
        for w in &writes {
            match w {
                JobWrite::Job(job) => {
                    let stored = (job.spec.as_ref().clone(), Kept::from(job.as_ref()));
                    self.jobs.insert(job.spec.id.clone(), stored);
                }
                JobWrite::DropJob(id) => {
                    self.jobs.remove(id);
                }
                JobWrite::Run(id, run) => {
                    let kept = KeptRun::from(run.as_ref());
                    self.began.entry(run.id.clone()).or_insert(kept.clone());
                    self.runs.insert((id.clone(), run.id.clone()), kept);
                }
                JobWrite::DropRun(id, run) => {
                    self.runs.remove(&(id.clone(), run.clone()));
                }
            }
        }
        // Judged as a whole: it is one transaction.
        for w in writes {
            let JobWrite::Run(job, run) = w else { continue };
            let Cause::Scheduled { schedule, at } = &run.cause else {
                continue;
            };
            let key = (job.clone(), schedule.clone(), *at);
            let of = self.fired.entry(key).or_insert(run.id.clone());
            assert_eq!(*of, run.id, "two runs for one time");
            let (spec, kept) = &self.jobs[&job];
            if let Some((decided, _)) = kept.schedules.get(schedule) {
                assert!(decided >= at, "a run without the decision");
            }
            let new = !active.contains(&(job.clone(), run.id.clone()));
            let forbids = spec
                .schedule(schedule)
                .is_some_and(|s| s.concurrency == Concurrency::Forbid);
            if new && forbids {
                let others = active.iter().filter(|(of, _)| *of == job);
                let still = others.filter(|k| self.runs.contains_key(k)).count();
                assert_eq!(still, 0, "a run beside another");
            }
        }
    }

    fn called(&mut self, call: SchedulerCall) {
        match call {
            SchedulerCall::Accept { operations, .. } => {
                for op in operations {
                    let Operation::Launch(tasks) = op else {
                        panic!("only launches");
                    };
                    for t in tasks {
                        let run = RunId::new(t.env["WAGGLE_JOB_RUN_ID"].clone()).unwrap();
                        let began = &self.began[&run];
                        assert!(
                            self.runs.values().any(|r| r.id == run
                                && r.tasks.last().is_some_and(|l| l.task_id == t.task_id)),
                            "launched before it was written"
                        );
                        let mut of_run = self.tasks.values().filter(|(r, _)| *r == run);
                        let live = of_run.any(|(_, s)| !s.is_terminal());
                        assert!(!live, "two tasks of one run");
                        if let RestartPolicy::OnFailure {
                            active_deadline: Some(d),
                        } = began.spec.restart
                        {
                            let failed = !self.ran.get(&run).is_none_or(BTreeSet::is_empty);
                            assert!(
                                !failed || self.now < began.created_at + d,
                                "past its deadline"
                            );
                        }
                        assert_eq!(t.framework_name, "metronome");
                        if self.lossy {
                            let lost = status(&t.task_id, &agent(1), TaskState::Dropped);
                            let lost = waggle_types::TaskStatus { uuid: None, ..lost };
                            self.event(SchedulerEvent::Update(lost));
                        } else {
                            self.tasks.insert(t.task_id, (run, TaskState::Staging));
                        }
                    }
                }
            }
            SchedulerCall::Kill { task_id } => {
                if self.tasks.contains_key(&task_id) {
                    self.say(&task_id, TaskState::Killed);
                } else {
                    let unknown = status(&task_id, &agent(1), TaskState::Unknown);
                    let unknown = waggle_types::TaskStatus {
                        uuid: None,
                        ..unknown
                    };
                    self.event(SchedulerEvent::Update(unknown));
                }
            }
            SchedulerCall::Acknowledge { task_id, .. } => {
                if self
                    .tasks
                    .get(&task_id)
                    .is_some_and(|(_, s)| s.is_terminal())
                {
                    self.tasks.remove(&task_id);
                }
            }
            SchedulerCall::Suppress { .. } => self.suppressed = true,
            SchedulerCall::Revive { .. } => self.suppressed = false,
            SchedulerCall::Decline { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// The agent says what became of a task; an end is said again until it is acknowledged.
    fn say(&mut self, task: &TaskId, state: TaskState) {
        let Some((run, s)) = self.tasks.get_mut(task) else {
            return;
        };
        if !s.is_terminal() {
            *s = state;
        }
        if state == TaskState::Running {
            self.ran
                .entry(run.clone())
                .or_default()
                .insert(task.clone());
        }
        let state = *s;
        self.event(SchedulerEvent::Update(status(task, &agent(1), state)));
    }

    /// Its agent has lost it with all that it knew, or never had it.
    fn vanish(&mut self, task: &TaskId) {
        self.tasks.remove(task);
        let unknown = status(task, &agent(1), TaskState::Unknown);
        let unknown = waggle_types::TaskStatus {
            uuid: None,
            ..unknown
        };
        self.event(SchedulerEvent::Update(unknown));
    }

    fn say_all(&mut self, state: TaskState) {
        let all: Vec<TaskId> = self.tasks.keys().cloned().collect();
        for t in all {
            self.say(&t, state);
        }
    }

    fn offers(&mut self, n: usize) {
        if self.suppressed {
            return;
        }
        let mut all = Vec::new();
        for on in 1..=n {
            self.n_offers += 1;
            all.push(offer(self.n_offers, on, node()));
        }
        self.event(SchedulerEvent::Offers(all));
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + Millis(ms);
        while let Some(at) = self.s.next_deadline().filter(|at| *at <= end) {
            if self.dead {
                break;
            }
            self.now = self.now.max(at).max(self.now + Millis(1));
            self.input(JobInput::Tick);
            self.offers(2);
        }
        self.now = self.now.max(end);
    }

    /// The next master, with what the last one had written.
    fn restart(&mut self) {
        self.lives += 1;
        self.dead = false;
        self.fuse = None;
        self.suppressed = false;
        self.s = JobScheduler::new(
            framework_id(),
            "metronome",
            self.lives,
            JobLimits::default(),
        );
        for (id, (spec, kept)) in self.jobs.clone() {
            let of = self.runs.iter().filter(|((of, _), _)| *of == id);
            let runs = of.map(|(_, r)| r.clone()).collect();
            self.s.restore(spec, kept, runs, self.now);
        }
        self.input(JobInput::Hold);
        self.event(SchedulerEvent::Subscribed {
            framework_id: framework_id(),
        });
        self.input(JobInput::Resume);
        let known: Vec<TaskId> = self.s.tasks().map(|(t, _)| t.clone()).collect();
        for t in known {
            if !self.tasks.contains_key(&t) {
                let unknown = status(&t, &agent(1), TaskState::Unknown);
                let unknown = waggle_types::TaskStatus {
                    uuid: None,
                    ..unknown
                };
                self.event(SchedulerEvent::Update(unknown));
            }
        }
        let all: Vec<(TaskId, TaskState)> = self
            .tasks
            .iter()
            .map(|(t, (_, s))| (t.clone(), *s))
            .collect();
        for (t, s) in all {
            self.say(&t, s);
        }
    }

    fn job(&self, job: &str) -> &Arc<Job> {
        &self.s.jobs()[&id(job)]
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Offers(usize),
    Run(usize),
    Stop(usize),
    Say(usize, usize),
    Lossy(bool),
    Die(usize),
    Restart(u64),
    Unreachable(usize),
    Vanish(usize),
    Remove(usize),
}

const STATES: [TaskState; 4] = [
    TaskState::Running,
    TaskState::Finished,
    TaskState::Failed,
    TaskState::Killed,
];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..200_000).prop_map(Step::Pass),
        4 => (1usize..3).prop_map(Step::Offers),
        1 => (0usize..4).prop_map(Step::Run),
        1 => (0usize..8).prop_map(Step::Stop),
        8 => (0usize..8, 0usize..4).prop_map(|(t, s)| Step::Say(t, s)),
        1 => any::<bool>().prop_map(Step::Lossy),
        2 => (0usize..12).prop_map(Step::Die),
        1 => (0u64..2_000_000).prop_map(Step::Restart),
        1 => (0usize..8).prop_map(Step::Unreachable),
        1 => (0usize..8).prop_map(Step::Vanish),
        1 => (0usize..4).prop_map(Step::Remove),
    ]
}

fn cast() -> Vec<JobSpec> {
    let allow = job("allow", vec![schedule("* * * * *", Concurrency::Allow)]);
    let forbid = JobSpec {
        restart: RestartPolicy::OnFailure {
            active_deadline: Some(Millis::from_secs(90)),
        },
        ..job("forbid", vec![schedule("*/2 * * * *", Concurrency::Forbid)])
    };
    let retry = JobSpec {
        restart: RestartPolicy::OnFailure {
            active_deadline: None,
        },
        ..job("retry", Vec::new())
    };
    let after = JobSpec {
        dependencies: BTreeSet::from([id("allow"), id("retry")]),
        ..job("after", Vec::new())
    };
    vec![allow, forbid, retry, after]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens and whenever the master dies: no time has two runs, none that forbids it overlaps, no run has two
    /// live tasks, policies are kept; and in the end all comes to rest.
    #[test]
    fn laws_hold_over_crashes(steps in prop::collection::vec(step(), 1..60)) {
        let mut w = World::new();
        let jobs = cast();
        for j in &jobs {
            w.call(JobCall::Create(Box::new(j.clone()))).unwrap();
        }
        for step in steps {
            let task = |w: &World, n: usize| {
                let n = n % w.tasks.len().max(1);
                w.tasks.keys().nth(n).cloned()
            };
            match step {
                Step::Pass(ms) => w.pass(ms),
                Step::Offers(n) => w.offers(n),
                Step::Run(n) => {
                    let _ = w.run_now(jobs[n].id.as_str());
                }
                Step::Stop(n) => {
                    let active: Vec<_> = w.runs.keys().cloned().collect();
                    if let Some((id, run)) = active.get(n % active.len().max(1)).cloned() {
                        let _ = w.call(JobCall::Stop { id, run });
                    }
                }
                Step::Say(n, s) => {
                    if let Some(t) = task(&w, n) {
                        w.say(&t, STATES[s]);
                    }
                }
                Step::Lossy(yes) => w.lossy = yes,
                Step::Die(n) => w.fuse = Some(n),
                Step::Restart(ms) => {
                    w.now = w.now + Millis(ms);
                    w.restart();
                }
                Step::Unreachable(n) => {
                    if let Some(t) = task(&w, n) {
                        let gone = status(&t, &agent(1), TaskState::Unreachable);
                        let gone = waggle_types::TaskStatus { uuid: None, ..gone };
                        w.event(SchedulerEvent::Update(gone));
                    }
                }
                Step::Vanish(n) => {
                    if let Some(t) = task(&w, n) {
                        w.vanish(&t);
                    }
                }
                Step::Remove(n) => {
                    let id = jobs[n].id.clone();
                    if w.call(JobCall::Remove { id, stop_runs: true }).is_ok() && !w.dead {
                        let again = w.call(JobCall::Create(Box::new(jobs[n].clone())));
                        prop_assert!(w.dead || again.is_ok());
                    }
                }
            }
            if w.dead {
                w.restart();
            }
        }
        for (run, ran) in &w.ran {
            if w.began[run].spec.restart == RestartPolicy::Never {
                prop_assert!(ran.len() <= 1, "{run} ran {} times", ran.len());
            }
        }
        // All comes to an end: schedules off, every task succeeds.
        w.fuse = None;
        w.lossy = false;
        for j in &jobs {
            let spec = JobSpec { schedules: Vec::new(), ..j.clone() };
            let _ = w.call(JobCall::Update { spec: Box::new(spec), schedules: true });
        }
        for _ in 0..40 {
            w.pass(400_000);
            w.say_all(TaskState::Running);
            w.say_all(TaskState::Finished);
        }
        prop_assert!(w.tasks.is_empty(), "{:?}", w.tasks);
        prop_assert!(w.runs.is_empty(), "{:?}", w.runs.keys());
        prop_assert!(w.suppressed);
    }

    /// With a master that is always there every time has its run.
    #[test]
    fn no_time_is_lost(pauses in prop::collection::vec(1u64..50_000, 1..80)) {
        let mut w = World::new();
        let spec = job("allow", vec![schedule("* * * * *", Concurrency::Allow)]);
        w.call(JobCall::Create(Box::new(spec))).unwrap();
        for ms in pauses {
            w.pass(ms);
            w.say_all(TaskState::Finished);
        }
        let minutes = w.now.since(START).0 / MINUTE;
        prop_assert_eq!(w.fired.len() as u64, minutes);
        prop_assert_eq!(w.job("allow").history.n_success, minutes);
    }
}

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
