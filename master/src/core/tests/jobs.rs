//! Jobs end to end in the core: their framework among the others, their records, and a master that dies at any write.

use serde_json::{Value, json};
use waggle_api::metronome::{JobParse, job_from_value};
use waggle_services::jobs::{Job, JobAnswer, JobCall, JobError};
use waggle_types::{FrameworkInfo, JobId, JobSpec, RejectReason, RunId};

use super::*;

fn spec(value: &Value) -> JobSpec {
    let parse = JobParse {
        id: None,
        schedules: true,
    };
    job_from_value(value, parse, UnixMillis(1)).unwrap()
}

fn every_minute(policy: &str) -> JobSpec {
    spec(&json!({
        "id": "nightly", "run": {"cmd": "true", "cpus": 0.1, "mem": 32},
        "schedules": [{"id": "s", "cron": "* * * * *", "concurrencyPolicy": policy}],
    }))
}

fn by_hand(restart: &str) -> JobSpec {
    spec(&json!({
        "id": "by-hand",
        "run": {"cmd": "true", "cpus": 0.1, "mem": 32, "restart": {"policy": restart}},
    }))
}

impl World {
    fn job_call(&mut self, call: JobCall) -> Result<JobAnswer, MasterError> {
        self.n_ids += 1;
        self.event(Event::Job {
            request: RequestId(self.n_ids),
            call: Box::new(call),
        });
        match self.answers.pop() {
            Some(Answer::Job(answer)) => answer,
            None if self.dead => Err(MasterError::Stopping),
            other => panic!("wrong answer {other:?}"),
        }
    }

    fn create(&mut self, spec: JobSpec) -> Result<JobAnswer, MasterError> {
        self.job_call(JobCall::Create(Box::new(spec)))
    }

    fn run_job(&mut self, id: &str) -> Result<RunId, MasterError> {
        let answer = self.job_call(JobCall::Run {
            id: JobId::new(id).unwrap(),
            env: BTreeMap::new(),
            constraints: None,
            trace: None,
        })?;
        Ok(answer.run.unwrap().id.clone())
    }

    fn job(&mut self, id: &str) -> Option<Arc<Job>> {
        let view = self.core.view(self.now);
        view.jobs.get(&JobId::new(id).unwrap()).cloned()
    }

    /// Tasks of jobs that an agent has, ended ones that are not acknowledged included.
    fn job_tasks(&self) -> Vec<(AgentId, TaskSpec, TaskState)> {
        let all = self.agents.iter();
        all.flat_map(|(id, a)| {
            let of = a.tasks.values();
            let mine = of.filter(|(t, _)| t.framework_name == JOB_FRAMEWORK);
            mine.map(|(t, s)| (id.clone(), t.clone(), s.state))
        })
        .collect()
    }

    /// A task ends, and is remembered by its agent until that is acknowledged.
    fn end(&mut self, agent: &AgentId, task: &TaskSpec, state: TaskState) {
        let id = &task.task_id;
        self.sent.retain(|(_, m)| !acks(m, id));
        self.say(agent, id, state);
        if !self.sent.iter().any(|(_, m)| acks(m, id)) {
            let ended = status(agent, id, state);
            let a = self.agents.get_mut(agent).unwrap();
            a.tasks.insert(id.clone(), (task.clone(), ended));
        }
    }

    /// Everything that runs ends so; what has ended says so again.
    fn end_all(&mut self, state: TaskState) {
        for (agent, task, was) in self.job_tasks() {
            if was.is_terminal() {
                self.end(&agent, &task, was);
            } else {
                self.say(&agent, &task.task_id, TaskState::Running);
                self.end(&agent, &task, state);
            }
        }
    }

    /// If the master is dead the next one takes over, and the agent comes back.
    fn revive(&mut self) -> bool {
        let died = self.dead;
        if died {
            self.fuse = None;
            self.restart();
            self.join(1);
            self.end_all(TaskState::Finished);
        }
        died
    }
}

fn acks(m: &MasterMsg, id: &TaskId) -> bool {
    matches!(m, MasterMsg::Ack { task_id, .. } if task_id == id)
}

#[test]
fn the_first_job_registers_its_framework_and_a_run_is_acknowledged_when_stored() {
    let mut w = World::new();
    w.join(1);
    assert_eq!(w.core.view(w.now).frameworks.len(), 1);
    w.create(by_hand("NEVER")).unwrap();
    let view = w.core.view(w.now);
    let f = view.frameworks.values().find(|f| f.name == JOB_FRAMEWORK);
    let f = f.unwrap();
    assert!(f.connected && f.suppressed, "{f:?}");
    assert!(w.stored.contains_key(&format!("frameworks/{}", f.id)));

    let run = w.run_job("by-hand").unwrap();
    let (agent, task, _) = w.job_tasks().pop().unwrap();
    assert_eq!(task.name, "by-hand");
    assert_eq!(task.env["WAGGLE_JOB_RUN_ID"], run.as_str());
    assert!(w.stored.contains_key(&format!("job_runs/by-hand/{run}")));
    assert!(w.stored.contains_key(&format!("launches/{}", task.task_id)));
    w.say(&agent, &task.task_id, TaskState::Running);
    let net = w.nets.last().unwrap();
    assert_eq!(net.tasks[&task.task_id].framework, JOB_FRAMEWORK);
    w.end(&agent, &task, TaskState::Finished);
    assert!(w.job_tasks().is_empty(), "acknowledged");
    assert_eq!(w.job("by-hand").unwrap().history.n_success, 1);
    assert!(!w.stored.contains_key(&format!("job_runs/by-hand/{run}")));
}

#[test]
fn the_framework_is_nobody_elses() {
    let mut w = World::new();
    w.join(1);
    w.create(by_hand("NEVER")).unwrap();
    let id = FrameworkId::new(format!("{}-jobs", w.core.framework_id())).unwrap();
    let taken = FrameworkInfo {
        id: Some(id.clone()),
        ..FrameworkInfo::new("mine", "*")
    };
    let refused = w.subscribe(taken).err().unwrap();
    assert_eq!(refused[0].reason, RejectReason::ReservedFramework);
    let named = w.subscribe(FrameworkInfo::new(JOB_FRAMEWORK, "*"));
    assert_eq!(named.err().unwrap()[0].reason, RejectReason::Invalid);
    let torn = w.operate(OperatorCall::Teardown {
        framework_id: id.clone(),
    });
    assert_eq!(torn.unwrap_err()[0].reason, RejectReason::ReservedFramework);
    // Nor may anybody speak for it.
    w.n_ids += 1;
    w.event(Event::Call {
        request: RequestId(w.n_ids),
        framework_id: id,
        subscription: SubscriptionId(u64::MAX),
        call: Box::new(FrameworkCall::Teardown),
    });
    let Some(Answer::Called(Err(refused))) = w.answers.pop() else {
        panic!("taken");
    };
    assert_eq!(refused[0].reason, RejectReason::ReservedFramework);
}

#[test]
fn what_is_wrong_is_refused_and_nothing_of_it_is_kept() {
    let mut w = World::new();
    w.join(1);
    let before = w.stored.clone();
    let bad = [
        json!({"id": "j", "run": {"cmd": "x"}, "schedules": [{"id": "s", "cron": "61 * * * *"}]}),
        json!({"id": "j", "run": {"cmd": "x"}, "schedules": [{"id": "s", "cron": "0 0 30 2 *"}]}),
        json!({"id": "j", "run": {"cmd": "x"}, "schedules": [{"id": "s", "cron": "@daily", "timezone": "Moon"}]}),
        json!({"id": "j", "run": {"cmd": "x", "networks": [{"mode": "container", "name": "none"}]}}),
        json!({"id": "j", "run": {"cmd": "x"}, "dependencies": [{"id": "k"}]}),
    ];
    for value in &bad {
        let refused = w.create(spec(value)).unwrap_err();
        let invalid = matches!(
            refused,
            MasterError::Invalid(_) | MasterError::Job(JobError::Invalid(_))
        );
        assert!(invalid, "{value}: {refused:?}");
    }
    assert!(matches!(
        w.run_job("j"),
        Err(MasterError::Job(JobError::NoSuchJob(_)))
    ));
    assert_eq!(w.core.view(w.now).frameworks.len(), 1, "not registered");
    assert_eq!(w.stored, before);
}

#[test]
fn runs_go_on_over_a_restart_of_the_master() {
    let mut w = World::new();
    w.join(1);
    w.create(by_hand("NEVER")).unwrap();
    let run = w.run_job("by-hand").unwrap();
    let (agent, task, _) = w.job_tasks().pop().unwrap();
    w.say(&agent, &task.task_id, TaskState::Running);
    w.restart();
    w.pass(1000);
    assert!(w.job("by-hand").unwrap().runs.contains_key(&run));
    w.join(1);
    assert_eq!(w.job_tasks().len(), 1, "no second task");
    let job = w.job("by-hand").unwrap();
    assert_eq!(job.runs[&run].status().name(), "ACTIVE");
    w.end(&agent, &task, TaskState::Finished);
    let job = w.job("by-hand").unwrap();
    assert_eq!((job.history.n_success, job.runs.len()), (1, 0));
}

#[test]
fn an_end_that_happened_while_no_master_was_there_is_no_loss() {
    let mut w = World::new();
    w.join(1);
    w.create(by_hand("ON_FAILURE")).unwrap();
    w.run_job("by-hand").unwrap();
    let (agent, task, _) = w.job_tasks().pop().unwrap();
    w.say(&agent, &task.task_id, TaskState::Running);
    w.agents.get_mut(&agent).unwrap().session = None;
    w.end(&agent, &task, TaskState::Finished);
    w.restart();
    // The agent says first that it has an ended task, then how it ended.
    w.join(1);
    assert_eq!(w.job("by-hand").unwrap().runs.len(), 1, "not lost");
    w.end_all(TaskState::Finished);
    let job = w.job("by-hand").unwrap();
    assert_eq!((job.history.n_success, job.history.n_failure), (1, 0));
    assert!(w.job_tasks().is_empty(), "one task and no other");
}

#[test]
fn a_node_that_is_away_when_the_master_starts_keeps_its_run() {
    let mut w = World::new();
    w.join(1);
    w.create(by_hand("ON_FAILURE")).unwrap();
    let run = w.run_job("by-hand").unwrap();
    let (agent, task, _) = w.job_tasks().pop().unwrap();
    w.say(&agent, &task.task_id, TaskState::Running);
    w.restart();
    w.join(2);
    // The grace is over; nobody knows what became of the task.
    w.pass(60_000);
    assert_eq!(w.job_tasks().len(), 1, "no second one");
    let job = w.job("by-hand").unwrap();
    let task_of = job.runs[&run].live_task().unwrap();
    assert!(task_of.unreachable_since.is_some(), "{task_of:?}");
    w.join(1);
    let job = w.job("by-hand").unwrap();
    assert!(
        job.runs[&run]
            .live_task()
            .unwrap()
            .unreachable_since
            .is_none()
    );
    w.end(&agent, &task, TaskState::Finished);
    assert_eq!(w.job("by-hand").unwrap().history.n_success, 1);
    // One that comes back without it has lost it: the run is tried again.
    let run = w.run_job("by-hand").unwrap();
    let (agent, task, _) = w.job_tasks().pop().unwrap();
    w.say(&agent, &task.task_id, TaskState::Running);
    w.restart();
    for a in w.agents.values_mut() {
        a.tasks.clear();
    }
    w.join(1);
    w.join(2);
    w.pass(5000);
    let job = w.job("by-hand").unwrap();
    assert_eq!(job.runs[&run].n_failures, 1, "{:?}", job.runs[&run]);
    assert_eq!(w.job_tasks().len(), 1);
}

#[test]
fn tasks_of_a_job_that_is_gone_end() {
    let mut w = World::new();
    w.join(1);
    w.create(by_hand("NEVER")).unwrap();
    w.run_job("by-hand").unwrap();
    let id = JobId::new("by-hand").unwrap();
    let remove = |stop_runs| JobCall::Remove {
        id: id.clone(),
        stop_runs,
    };
    assert!(matches!(
        w.job_call(remove(false)),
        Err(MasterError::Job(JobError::Active { .. }))
    ));
    w.job_call(remove(true)).unwrap();
    assert!(w.job("by-hand").is_none());
    assert!(!w.stored.keys().any(|k| k.starts_with("job")));
    // Also when the kill is lost with the master.
    w.restart();
    w.join(1);
    w.obey_kills();
    w.run_all();
    assert!(w.job_tasks().is_empty());
}

/// The same day with a master that dies before its first write, before its second.. : no time has two runs that were
/// launched, and all runs come to their end.
#[test]
fn a_master_may_die_at_every_write() {
    for n in 0.. {
        assert!(n < 200, "it never comes through");
        let mut w = World::new();
        w.join(1);
        w.fuse = Some(n);
        let mut died = false;
        let mut launched: BTreeMap<TaskId, TaskSpec> = BTreeMap::new();
        let mut note = |w: &World| {
            for (_, t, _) in w.job_tasks() {
                launched.insert(t.task_id.clone(), t);
            }
        };
        for job in [every_minute("FORBID"), by_hand("ON_FAILURE")] {
            if w.create(job.clone()).is_err() {
                died |= w.revive();
                if w.job(job.id.as_str()).is_none() {
                    w.create(job).unwrap();
                }
            }
        }
        let _ = w.run_job("by-hand");
        died |= w.revive();
        for round in 0..6 {
            w.pass(30_000);
            note(&w);
            died |= w.revive();
            note(&w);
            w.end_all(if round < 2 {
                TaskState::Failed
            } else {
                TaskState::Finished
            });
            died |= w.revive();
        }
        for _ in 0..3 {
            w.pass(2000);
            w.end_all(TaskState::Finished);
            died |= w.revive();
        }
        w.fuse = None;
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for t in launched.values() {
            if let Some(at) = t.env.get("WAGGLE_JOB_SCHEDULED_AT") {
                *times.entry(at.as_str()).or_default() += 1;
            }
        }
        assert!(times.values().all(|n| *n == 1), "fuse {n}: {times:?}");
        assert!(times.len() >= 2, "fuse {n}: {times:?}");
        for id in ["nightly", "by-hand"] {
            let job = w.job(id).unwrap();
            assert!(job.runs.len() <= 1, "fuse {n}: {id} {:?}", job.runs);
            let h = &job.history;
            assert!(h.n_success + h.n_failure > 0 || died, "fuse {n}: {id}");
        }
        if !died {
            return;
        }
    }
}
