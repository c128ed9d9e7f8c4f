//! Jobs: laws over random histories with crashes at any point, and single behaviors.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[path = "jobs/behaviors.rs"]
mod behaviors;
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
