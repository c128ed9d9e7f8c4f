//! A framework that takes one task of each offer, and says what it saw.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tonic::transport::Channel;
use waggle_api::client::{CallError, Calls, connect};
use waggle_types::{
    FrameworkId, FrameworkInfo, Millis, Offer, Resources, SchedulerEvent, StatusReason, TaskId,
    TaskSpec, TaskState, TaskStatus,
};

/// What it does.
#[derive(Debug, Clone)]
pub struct Plan {
    pub info: FrameworkInfo,
    /// Most tasks at a time.
    pub most: usize,
    pub command: &'static str,
    pub task: Resources,
}

/// What it saw so far.
#[derive(Debug, Clone, Default)]
pub struct Grabbed {
    pub offers: usize,
    /// Offers in which something was lent.
    pub lent: usize,
    pub launched: usize,
    pub running: usize,
    /// Tasks that ended well.
    pub finished: usize,
    /// Why tasks were killed.
    pub killed: Vec<Option<StatusReason>>,
    /// Longest time without an offer while it wanted one.
    pub worst_wait: Duration,
}

/// Runs until the stream ends.
pub async fn run(
    channel: Channel,
    plan: Plan,
    seen: watch::Sender<Grabbed>,
) -> Result<(), CallError> {
    let (mut calls, mut events) = connect(channel, &plan.info).await?;
    // Staging, or (true) running. Updates come at least once.
    let mut live: BTreeMap<TaskId, bool> = BTreeMap::new();
    let mut waits_since = Some(Instant::now());
    while let Some(event) = events.next().await? {
        match event {
            SchedulerEvent::Offers(offers) => {
                for offer in offers {
                    let takes = live.len() < plan.most && offer.resources.contains(&plan.task);
                    seen.send_modify(|s| {
                        s.offers += 1;
                        s.lent += usize::from(offer.parts.iter().any(|p| p.revocable));
                        if let Some(since) = waits_since.filter(|_| takes) {
                            s.worst_wait = s.worst_wait.max(since.elapsed());
                        }
                    });
                    if !takes {
                        decline(&mut calls, &offer).await?;
                    } else if let Some(task) = take(&mut calls, &plan, &offer, &seen).await? {
                        live.insert(task, false);
                    }
                    waits_since = (live.len() < plan.most).then(Instant::now);
                }
            }
            SchedulerEvent::Update(status) => {
                let ended = note(&status, &mut live, &seen);
                if let Some(uuid) = status.uuid {
                    let (task, agent) = (&status.task_id, &status.agent_id);
                    calls.acknowledge(task, agent, uuid).await?;
                }
                if ended {
                    // What was declined before may be of use again.
                    calls.revive().await?;
                    waits_since.get_or_insert_with(Instant::now);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Answers whether a task has ended.
fn note(
    status: &TaskStatus,
    live: &mut BTreeMap<TaskId, bool>,
    seen: &watch::Sender<Grabbed>,
) -> bool {
    let Some(runs) = live.get_mut(&status.task_id) else {
        return false;
    };
    if status.state == TaskState::Running {
        *runs = true;
    }
    let ended = status.state.is_terminal();
    if ended {
        live.remove(&status.task_id);
    }
    seen.send_modify(|s| {
        s.running = live.values().filter(|runs| **runs).count();
        match status.state {
            TaskState::Finished => s.finished += 1,
            TaskState::Killed => s.killed.push(status.reason),
            _ => {}
        }
    });
    ended
}

/// The task; none when the offer was taken back meanwhile.
async fn take(
    calls: &mut Calls,
    plan: &Plan,
    offer: &Offer,
    seen: &watch::Sender<Grabbed>,
) -> Result<Option<TaskId>, CallError> {
    let n = seen.borrow().launched;
    let name = &plan.info.name;
    let Ok(task_id) = TaskId::new(format!("{name}.{n}")) else {
        return Ok(None);
    };
    let spec = TaskSpec {
        framework_id: calls.framework_id().clone(),
        command: waggle_types::Command::Shell(plan.command.into()),
        resources: plan.task.clone(),
        ..blank(task_id.clone(), calls.framework_id())
    };
    let offers = [offer.offer_id.clone()];
    match calls.accept(&offers, &[spec], Millis(0), None).await {
        Ok(()) => {
            seen.send_modify(|s| s.launched += 1);
            Ok(Some(task_id))
        }
        Err(CallError::Rejected(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

async fn decline(calls: &mut Calls, offer: &Offer) -> Result<(), CallError> {
    let offers = [offer.offer_id.clone()];
    match calls.decline(&offers, Millis::from_secs(3600)).await {
        // It was taken back meanwhile.
        Ok(()) | Err(CallError::Rejected(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

/// A task without command and resources.
pub fn blank(task_id: TaskId, framework_id: &FrameworkId) -> TaskSpec {
    TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        framework_id: framework_id.clone(),
        framework_name: String::new(),
        role: String::new(),
        name: task_id.to_string(),
        command: waggle_types::Command::Shell(String::new()),
        env: [].into(),
        labels: [].into(),
        resources: Resources::default(),
        ports: Vec::new(),
        parts: Vec::new(),
        discovery: waggle_types::DiscoveryInfo {
            name: task_id.to_string(),
        },
        health_checks: Vec::new(),
        kill_grace: Millis(1000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        task_id,
        executor: None,
    }
}
