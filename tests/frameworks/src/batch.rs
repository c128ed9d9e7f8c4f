//! A batch framework: a list of short commands, each run to its end once.
//!
//! The whole of a framework is here: subscribe and say what is of use, take what fits of each offer, confirm
//! every update, try again what failed, ask for nothing when nothing waits, and come back with the same id
//! after a lost connection.

use std::collections::{BTreeMap, VecDeque};

use tonic::transport::Channel;
use waggle_api::client::{CallError, Calls, connect};
use waggle_types::{
    FrameworkInfo, IdError, Millis, Offer, PortSet, Resources, SchedulerEvent, TaskId, TaskState,
    TaskStatus,
};

use crate::again::{PAUSE, is_final, lost, task};

/// What is left of an offer is too small for a task, and nothing so small is offered: a filter is hardly needed.
const REFUSE: Millis = Millis::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// Who the framework is; `id` is filled in by the first subscription.
    pub info: FrameworkInfo,
    /// Prefix of task ids: unique over the cluster and time.
    pub prefix: String,
    /// Shell commands, one task each.
    pub commands: Vec<String>,
    /// What each task takes.
    pub resources: Resources,
    /// Times that one command may fail.
    pub max_failures: u32,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Commands that ended well.
    pub finished: usize,
    /// Commands that failed too often.
    pub failed: usize,
    /// Tasks launched, those of second tries included.
    pub launched: usize,
    /// Offers seen.
    pub offers: usize,
    /// Subscriptions that were needed.
    pub subscriptions: usize,
}

/// Why a job can't go on.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The master refuses the framework for good.
    #[error("the master refuses the framework")]
    Refused(#[source] CallError),
    /// The prefix makes no task ids.
    #[error("the prefix makes no task ids")]
    Prefix(#[source] IdError),
}

/// The state of a job over its subscriptions.
#[derive(Debug)]
struct Batch {
    job: Job,
    /// Commands to launch, by number.
    waiting: VecDeque<usize>,
    running: BTreeMap<TaskId, usize>,
    failures: Vec<u32>,
    suppressed: bool,
    report: Report,
}

/// Runs a job to its end, then tears the framework down. A lost connection is taken up again.
pub async fn run(channel: Channel, job: Job) -> Result<Report, JobError> {
    TaskId::new(format!("{}-0-0", job.prefix)).map_err(JobError::Prefix)?;
    let mut batch = Batch {
        waiting: (0..job.commands.len()).collect(),
        failures: vec![0; job.commands.len()],
        running: BTreeMap::new(),
        suppressed: false,
        report: Report::default(),
        job,
    };
    loop {
        match batch.subscribed(channel.clone()).await {
            Ok(()) => return Ok(batch.report),
            Err(e) if is_final(&e) => return Err(JobError::Refused(e)),
            Err(e) => {
                tracing::info!(error = %e, "subscribing again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Batch {
    /// One subscription, until the job is done or the stream ends.
    async fn subscribed(&mut self, channel: Channel) -> Result<(), CallError> {
        self.suppressed = self.waiting.is_empty();
        for role in &mut self.job.info.roles {
            role.smallest = Some(self.job.resources.clone());
            role.suppressed = self.suppressed;
        }
        let (mut calls, mut events) = connect(channel, &self.job.info).await?;
        self.report.subscriptions += 1;
        self.job.info.id = Some(calls.framework_id().clone());
        if self.report.subscriptions > 1 {
            // What ended meanwhile is said again by the agents; what never arrived is found out so.
            let ids: Vec<TaskId> = self.running.keys().cloned().collect();
            if !ids.is_empty() {
                calls.reconcile(&ids).await?;
            }
        }
        while !self.is_done() {
            match events.next().await?.ok_or_else(lost)? {
                SchedulerEvent::Offers(offers) => {
                    for offer in offers {
                        self.offered(&mut calls, offer).await?;
                    }
                }
                SchedulerEvent::Update(status) => self.update(&mut calls, status).await?,
                SchedulerEvent::Subscribed { .. }
                | SchedulerEvent::Rescind(_)
                // Its tasks are short: they end before any window, or are run again elsewhere.
                | SchedulerEvent::InverseOffer(_)
                | SchedulerEvent::RescindInverse(_)
                | SchedulerEvent::AgentLost(_)
                | SchedulerEvent::AgentUnreachable(_)
                // It has no executors.
                | SchedulerEvent::ExecutorLost { .. }
                | SchedulerEvent::Message { .. } => {}
            }
        }
        calls.teardown().await
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes as many tasks as fit; without any the offer is declined.
    async fn offered(&mut self, calls: &mut Calls, offer: Offer) -> Result<(), CallError> {
        self.report.offers += 1;
        let mut left = offer.resources.with_ports(PortSet::new());
        let (mut tasks, mut taken) = (Vec::new(), Vec::new());
        while let Some(&n) = self.waiting.front() {
            let Some(rest) = left.checked_sub(&self.job.resources) else {
                break;
            };
            left = rest;
            let id = format!("{}-{n}-{}", self.job.prefix, self.failures[n]);
            let Ok(id) = TaskId::new(id) else { break };
            self.waiting.pop_front();
            let (command, resources) = (&self.job.commands[n], self.job.resources.clone());
            tasks.push(task(calls.framework_id(), id.clone(), command, resources));
            taken.push((id, n));
        }
        // With an answer that is lost it is not known whether they run: the reconciliation tells.
        self.running.extend(taken.iter().cloned());
        match calls.accept(&[offer.offer_id], &tasks, REFUSE, None).await {
            Err(CallError::Rejected(all)) => {
                // The offer was taken back while we thought: nothing was launched.
                tracing::debug!(?all, "an accept was refused");
                for (id, n) in taken {
                    self.running.remove(&id);
                    self.waiting.push_front(n);
                }
            }
            other => {
                other?;
                self.report.launched += tasks.len();
            }
        }
        self.tell_demand(calls).await
    }

    /// No offers while nothing waits; offers again when something does.
    async fn tell_demand(&mut self, calls: &mut Calls) -> Result<(), CallError> {
        let suppressed = self.waiting.is_empty();
        if suppressed != self.suppressed {
            let roles: Vec<&str> = self.job.info.roles.iter().map(|r| &*r.role).collect();
            if suppressed {
                calls.suppress_roles(&roles).await?;
            } else {
                calls.revive_roles(&roles).await?;
            }
            self.suppressed = suppressed;
        }
        Ok(())
    }

    async fn update(&mut self, calls: &mut Calls, status: TaskStatus) -> Result<(), CallError> {
        let ended = status.state.is_terminal() || status.state == TaskState::Unknown;
        if ended && let Some(n) = self.running.remove(&status.task_id) {
            if status.state == TaskState::Finished {
                self.report.finished += 1;
            } else {
                self.failures[n] += 1;
                if self.failures[n] > self.job.max_failures {
                    self.report.failed += 1;
                } else {
                    self.waiting.push_back(n);
                }
            }
            self.tell_demand(calls).await?;
        }
        if let Some(uuid) = status.uuid {
            calls
                .acknowledge(&status.task_id, &status.agent_id, uuid)
                .await?;
        }
        Ok(())
    }
}
