//! A batch framework: many short jobs, each run until it has ended well once, and a few that run until they
//! are killed.
//!
//! It keeps the rules: what it launches is written down before it asks, every update is acknowledged, a job is
//! run again when its task ended badly, what is unsure after a lost connection is reconciled until it is
//! answered, tasks that turn up although nobody wants them any more are killed.

use std::collections::{BTreeMap, VecDeque};

use waggle_master::core::FrameworkCall;
use waggle_types::{
    CallRejection, Command, DiscoveryInfo, FrameworkId, FrameworkInfo, Millis, Offer, Operation,
    Resources, RoleSubscription, SchedulerCall, SchedulerEvent, TaskId, TaskSpec, TaskState,
    TaskStatus,
};

use crate::{Rng, mind::call};

/// Most tasks of one accept.
const MAX_PER_ACCEPT: u64 = 5;

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Ends well after so many milliseconds.
    Run(u64),
    /// Ends badly after so many; then it is a `Run`.
    Fail(u64),
    /// Runs until it is killed.
    Serve,
}

impl Job {
    fn command(self) -> String {
        match self {
            Self::Run(ms) => format!("run {ms}"),
            Self::Fail(ms) => format!("fail {ms}"),
            Self::Serve => "serve".to_owned(),
        }
    }

    /// How and when a process with this command ends by itself: exit code and milliseconds.
    pub fn end_of(command: &Command) -> Option<(i32, u64)> {
        let Command::Shell(text) = command else {
            return None;
        };
        let (verb, ms) = text.split_once(' ')?;
        let code = match verb {
            "run" => 0,
            "fail" => 1,
            _ => return None,
        };
        Some((code, ms.parse().ok()?))
    }
}

#[derive(Debug, Clone)]
struct Live {
    job: Job,
    /// Whether it runs is not known: its launch is not answered, or the stream broke.
    unsure: bool,
}

/// The framework; all of it is on its disk.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    info: FrameworkInfo,
    task: Resources,
    /// Counts tasks over its whole life.
    n_tasks: u64,
    waiting: VecDeque<Job>,
    live: BTreeMap<TaskId, Live>,
    suppressed: bool,
    /// Ended well.
    pub n_done: usize,
    /// Given up by the master's word, and seen again.
    pub n_returned: usize,
}

impl Batch {
    pub fn new(name: &str, role: &str, failover_timeout: Millis, task: Resources) -> Self {
        Self {
            info: FrameworkInfo {
                failover_timeout,
                roles: vec![RoleSubscription::new(role)],
                ..FrameworkInfo::new(name, role)
            },
            task,
            n_tasks: 0,
            waiting: VecDeque::new(),
            live: BTreeMap::new(),
            suppressed: false,
            n_done: 0,
            n_returned: 0,
        }
    }

    pub fn info(&self) -> FrameworkInfo {
        self.info.clone()
    }

    pub fn wants(&self) -> Option<&Resources> {
        (!self.waiting.is_empty()).then_some(&self.task)
    }

    pub fn live(&self) -> impl Iterator<Item = &TaskId> {
        self.live.keys()
    }

    /// One of its tasks, for faults.
    pub fn pick(&self, rng: &mut Rng) -> Option<TaskId> {
        let at = rng.index(self.live.len());
        self.live.keys().nth(at).cloned()
    }

    pub fn unfinished(&self) -> Option<String> {
        let short = self.live.values().filter(|l| l.job != Job::Serve).count();
        let (n, unsure) = (
            self.waiting.len(),
            self.live.values().filter(|l| l.unsure).count(),
        );
        (n + short + unsure > 0)
            .then(|| format!("{n} jobs wait, {short} are not done, {unsure} tasks are unsure"))
    }

    /// More to do. Answers what it says.
    pub fn add(&mut self, jobs: impl IntoIterator<Item = Job>) -> Vec<FrameworkCall> {
        self.waiting.extend(jobs);
        self.ask()
    }

    /// Nothing is to be done any more.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.live.clear();
    }

    pub fn subscribed(&mut self) -> Vec<FrameworkCall> {
        // The new stream starts out revived.
        self.suppressed = false;
        let mut says = self.reconcile();
        // And for all, since some may be back that were given up.
        let task_ids = Vec::new();
        says.push(call(SchedulerCall::Reconcile { task_ids }));
        says
    }

    pub fn cut(&mut self) {
        for l in self.live.values_mut() {
            l.unsure = true;
        }
    }

    pub fn removed(&mut self) {
        let lost = std::mem::take(&mut self.live);
        self.waiting.extend(lost.into_values().map(|l| l.job));
    }

    /// Asks for what is unsure, until it is answered.
    pub fn reconcile(&mut self) -> Vec<FrameworkCall> {
        let unsure = self.live.iter().filter(|(_, l)| l.unsure);
        let task_ids: Vec<TaskId> = unsure.map(|(id, _)| id.clone()).collect();
        if task_ids.is_empty() {
            return Vec::new();
        }
        vec![call(SchedulerCall::Reconcile { task_ids })]
    }

    pub fn hear(&mut self, event: &SchedulerEvent, rng: &mut Rng) -> Vec<FrameworkCall> {
        match event {
            SchedulerEvent::Offers(offers) => {
                let mut says: Vec<_> = offers.iter().map(|o| self.offered(o, rng)).collect();
                says.extend(self.rest());
                says
            }
            SchedulerEvent::Update(status) => self.update(status),
            SchedulerEvent::Subscribed { .. }
            | SchedulerEvent::Rescind(_)
            | SchedulerEvent::InverseOffer(_)
            | SchedulerEvent::RescindInverse(_)
            | SchedulerEvent::AgentLost(_) => Vec::new(),
        }
    }

    pub fn answered(
        &mut self,
        asked: &FrameworkCall,
        answer: &Result<(), Vec<CallRejection>>,
    ) -> Vec<FrameworkCall> {
        let FrameworkCall::Scheduler(SchedulerCall::Accept { operations, .. }) = asked else {
            return Vec::new();
        };
        for t in operations.iter().flat_map(Operation::tasks) {
            if answer.is_ok() {
                if let Some(l) = self.live.get_mut(&t.task_id) {
                    l.unsure = false;
                }
            } else if let Some(l) = self.live.remove(&t.task_id) {
                self.waiting.push_front(l.job);
            }
        }
        self.ask()
    }

    /// Says that it wants offers, with all filters off.
    fn ask(&mut self) -> Vec<FrameworkCall> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.suppressed = false;
        vec![call(SchedulerCall::Revive { roles: Vec::new() })]
    }

    /// Says that it wants none.
    fn rest(&mut self) -> Vec<FrameworkCall> {
        if !self.waiting.is_empty() || self.suppressed {
            return Vec::new();
        }
        self.suppressed = true;
        vec![call(SchedulerCall::Suppress { roles: Vec::new() })]
    }

    fn offered(&mut self, offer: &Offer, rng: &mut Rng) -> FrameworkCall {
        let mut left = offer.resources.clone();
        let mut tasks = Vec::new();
        let most = rng.between(1, MAX_PER_ACCEPT + 1);
        while tasks.len() < usize::try_from(most).unwrap_or(1) {
            let (Some(rest), Some(job)) = (left.checked_sub(&self.task), self.waiting.front())
            else {
                break;
            };
            let Some(spec) = self.spec(*job) else {
                break;
            };
            left = rest;
            if let Some(job) = self.waiting.pop_front() {
                let live = Live { job, unsure: true };
                self.live.insert(spec.task_id.clone(), live);
            }
            tasks.push(spec);
        }
        let offer_ids = vec![offer.offer_id.clone()];
        let refuse = Millis([0, 500, 5_000][rng.index(3)]);
        call(if tasks.is_empty() {
            let refuse = refuse.max(Millis(500));
            SchedulerCall::Decline { offer_ids, refuse }
        } else {
            SchedulerCall::launch(offer_ids, tasks, refuse)
        })
    }

    fn update(&mut self, status: &TaskStatus) -> Vec<FrameworkCall> {
        let mut says = Vec::new();
        let over = status.state.is_terminal() || status.state == TaskState::Unknown;
        let task_id = &status.task_id;
        match self.live.get_mut(task_id) {
            Some(l) if !over => l.unsure = false,
            Some(_) => {
                let job = self.live.remove(task_id).map(|l| l.job);
                match job {
                    Some(Job::Run(_)) if status.state == TaskState::Finished => self.n_done += 1,
                    Some(Job::Fail(ms)) if status.state == TaskState::Failed => {
                        self.waiting.push_back(Job::Run(ms));
                    }
                    Some(other) => self.waiting.push_back(other),
                    None => {}
                }
                says.extend(self.ask());
            }
            // Somebody took it for dead.
            None if !over => {
                self.n_returned += 1;
                let task_id = task_id.clone();
                says.push(call(SchedulerCall::Kill { task_id }));
            }
            None => {}
        }
        if let Some(uuid) = status.uuid {
            says.push(call(SchedulerCall::Acknowledge {
                task_id: status.task_id.clone(),
                agent_id: status.agent_id.clone(),
                uuid,
            }));
        }
        says
    }

    fn spec(&mut self, job: Job) -> Option<TaskSpec> {
        self.n_tasks += 1;
        let name = self.info.name.clone();
        let task_id = TaskId::new(format!("{name}.{}", self.n_tasks)).ok()?;
        Some(TaskSpec {
            task_id,
            // The master knows better.
            framework_id: FrameworkId::new("unset").ok()?,
            framework_name: String::new(),
            role: String::new(),
            discovery: DiscoveryInfo { name: name.clone() },
            name,
            command: Command::Shell(job.command()),
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            resources: self.task.clone(),
            ports: Vec::new(),
            parts: Vec::new(),
            health_checks: Vec::new(),
            kill_grace: Millis(2000),
            user: None,
            service: String::new(),
            service_version: String::new(),
            trace: None,
        })
    }
}
