//! A batch framework: many short jobs, each run until it has ended well once, and a few that run until they
//! are killed.
//!
//! It keeps the rules: what it launches is written down before it asks, every update is acknowledged, a job is
//! run again when its task ended badly, what is unsure after a lost connection is reconciled until it is
//! answered, tasks that turn up although nobody wants them any more are killed.

use std::collections::{BTreeMap, VecDeque};

use waggle_master::core::FrameworkCall;
use waggle_types::{
    AgentId, CallRejection, Command, DiscoveryInfo, FrameworkId, FrameworkInfo, InverseOffer,
    Millis, Offer, Operation, Resources, SchedulerCall, SchedulerEvent, StatusReason, TaskId,
    TaskSpec, TaskState, TaskStatus,
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
    agent_id: AgentId,
    /// It asked for its end.
    killed: bool,
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
    /// Killed because what it used was lent and is wanted back; because its agent is to be empty.
    pub n_preempted: usize,
    pub n_drained: usize,
}

impl Batch {
    /// With tasks of this size.
    pub fn new(info: FrameworkInfo, task: Resources) -> Self {
        Self {
            info,
            task,
            n_tasks: 0,
            waiting: VecDeque::new(),
            live: BTreeMap::new(),
            suppressed: false,
            n_done: 0,
            n_returned: 0,
            n_preempted: 0,
            n_drained: 0,
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

    /// One of its tasks, that it is going to kill.
    pub fn pick(&mut self, rng: &mut Rng) -> Option<TaskId> {
        let at = rng.index(self.live.len());
        let (id, live) = self.live.iter_mut().nth(at)?;
        live.killed = true;
        Some(id.clone())
    }

    /// Whether it asked for this task's end, or does not know the task.
    pub fn asked_for_end(&self, task_id: &TaskId) -> bool {
        self.live.get(task_id).is_none_or(|l| l.killed)
    }

    /// Leaves an agent that will be down, or does not.
    fn leave(&mut self, inverse: &InverseOffer, rng: &mut Rng) -> Vec<FrameworkCall> {
        let offer_ids = vec![inverse.offer_id.clone()];
        if rng.chance(500) {
            let refuse = Millis(rng.between(500, 10_000));
            return vec![call(SchedulerCall::DeclineInverse { offer_ids, refuse })];
        }
        let mut says = vec![call(SchedulerCall::AcceptInverse { offer_ids })];
        for (task_id, l) in &mut self.live {
            if l.agent_id == inverse.agent_id {
                l.killed = true;
                let task_id = task_id.clone();
                says.push(call(SchedulerCall::Kill { task_id }));
            }
        }
        says
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
            SchedulerEvent::InverseOffer(inverse) => self.leave(inverse, rng),
            SchedulerEvent::Subscribed { .. }
            | SchedulerEvent::Rescind(_)
            | SchedulerEvent::RescindInverse(_)
            | SchedulerEvent::AgentLost(_)
            | SchedulerEvent::AgentUnreachable(_)
            | SchedulerEvent::ExecutorLost { .. }
            | SchedulerEvent::Message { .. } => Vec::new(),
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
                let live = Live {
                    job,
                    agent_id: offer.agent_id.clone(),
                    killed: false,
                    unsure: true,
                };
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
                match status.reason {
                    Some(StatusReason::ContainerPreempted) => self.n_preempted += 1,
                    Some(StatusReason::SlaveDraining) => self.n_drained += 1,
                    _ => {}
                }
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
        Some(TaskSpec {
            command: Command::Shell(job.command()),
            resources: self.task.clone(),
            ..blank(&self.info.name, self.n_tasks)?
        })
    }
}

/// A framework's task with this number, without command and resources.
pub(crate) fn blank(name: &str, n: u64) -> Option<TaskSpec> {
    Some(TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: TaskId::new(format!("{name}.{n}")).ok()?,
        // The master knows better.
        framework_id: FrameworkId::new("unset").ok()?,
        framework_name: String::new(),
        role: String::new(),
        name: name.to_owned(),
        command: Command::Shell(String::new()),
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::default(),
        ports: Vec::new(),
        parts: Vec::new(),
        discovery: DiscoveryInfo {
            name: name.to_owned(),
        },
        health_checks: Vec::new(),
        kill_grace: Millis(2000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    })
}
