//! Checks of tasks: one schedule for all of them, and a bounded pool that carries them out.
//!
//! [`Checks`] is told which checks of which task are to be run; [`Checks::run`] is the one loop behind it. A check is a
//! number in the schedule (`schedule`) and something made ready once (`probe`); an attempt allocates next to nothing. At
//! most so many attempts are under way at the same moment; the others wait, the one that is due longest first, and are
//! counted when they begin late. A check that passes again is no news and is not told; one whose answers are told as they are is
//! told of when it says something else.
//!
//! # What it never does
//! Decide: whether a task is healthy, ready or to be killed is `waggle-lifecycle`'s.

mod answer;
mod probe;
mod schedule;
mod sockets;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::Instant,
};
use waggle_telemetry::{Telemetry, names};
use waggle_types::{CheckPurpose, CheckResponse, CheckStatus, HealthCheck, TaskId};

use probe::{Attempt, Probe, Tools};
pub use probe::{Reach, Target};
use schedule::{CheckId, Due, Schedule, Timing};
pub use sockets::Sockets;

/// A check that begins this much after it was due is late.
const LATE_MS: u64 = 100;
/// The loop's clock begins so late that what began to count before it has a time as well.
const EPOCH_MS: u64 = 1 << 40;
/// Results that are taken in one turn of the loop.
const BATCH: usize = 64;

/// What one attempt said, where it is news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// The task.
    pub task_id: TaskId,
    /// Position among its checks.
    pub idx: usize,
    /// `Ok`, or what was wrong.
    pub result: Result<(), String>,
    /// The answer itself, of a check whose answers are told as they are.
    pub said: Option<CheckStatus>,
    /// What it was answered, of a check that keeps that.
    pub response: Option<CheckResponse>,
}

/// A check that is to be run.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Position among the task's checks.
    pub idx: usize,
    /// The check.
    pub check: HealthCheck,
    /// How long ago it began to count.
    pub age: Duration,
    /// Whether it is known to have passed.
    pub passed: bool,
}

/// Tells the loop what to run. Cheap to copy; calls never wait.
#[derive(Clone, Default)]
pub struct Checks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    // No more than one for each task: a newer word replaces an older one.
    words: Mutex<BTreeMap<TaskId, Option<Word>>>,
    news: Notify,
}

struct Word {
    target: Target,
    wanted: Vec<Wanted>,
}

impl Checks {
    /// Runs these checks of a task, and no others: what is asked for again and runs already runs on.
    pub fn set(&self, target: Target, wanted: Vec<Wanted>) {
        let task_id = target.task_id.clone();
        self.tell(task_id, Some(Word { target, wanted }));
    }

    /// Runs no check of this task.
    pub fn stop(&self, task_id: &TaskId) {
        self.tell(task_id.clone(), None);
    }

    fn tell(&self, task_id: TaskId, word: Option<Word>) {
        let mut words = self.0.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.insert(task_id, word);
        drop(words);
        self.0.news.notify_one();
    }

    fn words(&self) -> BTreeMap<TaskId, Option<Word>> {
        let mut words = self.0.words.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *words)
    }

    /// The loop: runs checks, at most `slots` at the same moment, until nobody takes their results.
    pub async fn run<T: From<CheckResult> + Send + 'static>(
        self,
        slots: usize,
        telemetry: Telemetry,
        results: mpsc::Sender<T>,
    ) {
        let mut pool = Pool::new(slots.max(1));
        let mut checks = Running::default();
        let begin = Instant::now();
        let now_ms = || EPOCH_MS + u64::try_from(begin.elapsed().as_millis()).unwrap_or(0);
        loop {
            let words = self.words();
            if !words.is_empty() {
                checks.take(words, now_ms());
            }
            let now = now_ms();
            while let Some(due) = checks.schedule.take(now) {
                checks.waiting.push_back(due);
            }
            let mut n_late = 0;
            while let Some(worker) = checks.waiting.front().and_then(|_| pool.idle()) {
                let Some(due) = checks.waiting.pop_front() else {
                    break;
                };
                // Removed while it waited.
                let Some(entry) = checks.entries.get(&due.id) else {
                    pool.give_back(worker);
                    continue;
                };
                n_late += u64::from(now.saturating_sub(due.due_ms) > LATE_MS);
                pool.start(worker, due.id, Arc::clone(&entry.probe), now);
            }
            if n_late > 0 {
                telemetry.count(&names::AGENT_CHECKS_LATE, &[], n_late);
            }
            let next = checks.schedule.next_ms();
            let sleep = async {
                match next {
                    Some(at) => {
                        let at = Duration::from_millis(at.saturating_sub(EPOCH_MS));
                        tokio::time::sleep_until(begin + at).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.0.news.notified() => {}
                done = pool.done.recv() => {
                    let mut done = done;
                    for _ in 0..BATCH {
                        let Some(d) = done.take() else { break };
                        pool.give_back(d.worker);
                        let outcome = if d.attempt.result.is_ok() { "passed" } else { "failed" };
                        let attrs = [(names::OUTCOME, outcome.into())];
                        telemetry.count(&names::AGENT_HEALTH_CHECKS, &attrs, 1);
                        telemetry.record(&names::AGENT_HEALTH_CHECK_DURATION, &attrs, d.took.as_secs_f64());
                        if let Some(result) = checks.done(d, now_ms())
                            && results.send(T::from(result)).await.is_err()
                        {
                            return;
                        }
                        done = pool.done.try_recv().ok();
                    }
                }
                () = sleep => {}
                () = results.closed() => return,
            }
        }
    }
}

struct Entry {
    task_id: TaskId,
    idx: usize,
    check: HealthCheck,
    probe: Arc<Probe>,
    // A pass was told and no failure since: another pass is no news.
    told_pass: bool,
    // The last answer that was told, of one whose answers are told as they are.
    told: Option<CheckStatus>,
}

/// What is run now.
#[derive(Default)]
struct Running {
    schedule: Schedule,
    entries: HashMap<CheckId, Entry>,
    by_task: HashMap<TaskId, BTreeMap<usize, CheckId>>,
    // Due, and no slot is free; each check once at most.
    waiting: VecDeque<Due>,
}

impl Running {
    fn take(&mut self, words: BTreeMap<TaskId, Option<Word>>, now_ms: u64) {
        for (task_id, word) in words {
            let mut old = self.by_task.remove(&task_id).unwrap_or_default();
            let mut new = BTreeMap::new();
            let Some(Word { target, wanted }) = word else {
                self.forget(old);
                continue;
            };
            for w in wanted {
                let same = |id: &CheckId| self.entries.get(id).is_some_and(|e| e.check == w.check);
                let id = match old.get(&w.idx).copied().filter(same) {
                    Some(id) => {
                        old.remove(&w.idx);
                        id
                    }
                    None => self.add(&target, &w, now_ms),
                };
                new.insert(w.idx, id);
            }
            self.forget(old);
            if !new.is_empty() {
                self.by_task.insert(task_id, new);
            }
        }
    }

    fn add(&mut self, target: &Target, w: &Wanted, now_ms: u64) -> CheckId {
        let age_ms = u64::try_from(w.age.as_millis()).unwrap_or(u64::MAX);
        let seed = seed(&target.task_id, w.idx);
        let timing = Timing::of(&w.check, now_ms.saturating_sub(age_ms), w.passed, seed);
        let id = self.schedule.add(timing, now_ms);
        let entry = Entry {
            task_id: target.task_id.clone(),
            idx: w.idx,
            probe: Arc::new(Probe::new(target, &w.check)),
            check: w.check.clone(),
            told_pass: false,
            told: None,
        };
        self.entries.insert(id, entry);
        id
    }

    fn forget(&mut self, checks: BTreeMap<usize, CheckId>) {
        for id in checks.into_values() {
            self.schedule.remove(id);
            self.entries.remove(&id);
        }
    }

    /// An attempt is over; what is to be told of it.
    fn done(&mut self, d: Done, now_ms: u64) -> Option<CheckResult> {
        let Attempt {
            result,
            said,
            answer,
        } = d.attempt;
        let passed = result.is_ok();
        self.schedule.done(d.id, passed, d.begun_ms, now_ms);
        let entry = self.entries.get_mut(&d.id)?;
        let said = (entry.check.purpose == CheckPurpose::Report).then_some(said);
        let no_news = match said {
            Some(_) => entry.told == said,
            None => passed && entry.told_pass,
        };
        if no_news {
            return None;
        }
        entry.told_pass = passed;
        entry.told = said;
        Some(CheckResult {
            task_id: entry.task_id.clone(),
            idx: entry.idx,
            result,
            said,
            response: answer.map(|a| a.told(entry.idx)),
        })
    }
}

/// The same for the same check, on any node (FNV-1a).
fn seed(task_id: &TaskId, idx: usize) -> u64 {
    let bytes = task_id.as_str().bytes().chain(idx.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

struct Job {
    id: CheckId,
    probe: Arc<Probe>,
    begun_ms: u64,
}

struct Done {
    worker: usize,
    id: CheckId,
    begun_ms: u64,
    took: Duration,
    attempt: Attempt,
}

/// Workers that wait for jobs. The one that was busy last gets the next, so that few are warm and the others sleep.
struct Pool {
    max: usize,
    workers: Vec<mpsc::Sender<Job>>,
    idle: Vec<usize>,
    done: mpsc::Receiver<Done>,
    tell: mpsc::Sender<Done>,
    tools: Arc<Tools>,
    // Dropping it ends them, and whatever they are in the middle of.
    tasks: JoinSet<()>,
}

impl Pool {
    fn new(max: usize) -> Self {
        let (tell, done) = mpsc::channel(max);
        Self {
            max,
            workers: Vec::new(),
            idle: Vec::new(),
            done,
            tell,
            tools: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// A worker without a job.
    fn idle(&mut self) -> Option<usize> {
        if let Some(worker) = self.idle.pop() {
            return Some(worker);
        }
        if self.workers.len() == self.max {
            return None;
        }
        let worker = self.workers.len();
        let (jobs, inbox) = mpsc::channel(1);
        let (tell, tools) = (self.tell.clone(), Arc::clone(&self.tools));
        self.tasks.spawn(work(worker, inbox, tell, tools));
        self.workers.push(jobs);
        Some(worker)
    }

    fn give_back(&mut self, worker: usize) {
        self.idle.push(worker);
    }

    fn start(&mut self, worker: usize, id: CheckId, probe: Arc<Probe>, begun_ms: u64) {
        let job = Job {
            id,
            probe,
            begun_ms,
        };
        // An idle worker's inbox is empty.
        if self.workers[worker].try_send(job).is_err() {
            tracing::error!("a worker of the checks is gone");
        }
    }
}

async fn work(
    worker: usize,
    mut jobs: mpsc::Receiver<Job>,
    tell: mpsc::Sender<Done>,
    tools: Arc<Tools>,
) {
    let mut buffer = Vec::new();
    while let Some(job) = jobs.recv().await {
        let begun = Instant::now();
        let attempt = job.probe.run(&tools, &mut buffer).await;
        let done = Done {
            worker,
            id: job.id,
            begun_ms: job.begun_ms,
            took: begun.elapsed(),
            attempt,
        };
        if tell.send(done).await.is_err() {
            return;
        }
    }
}

/// A descriptor of the process with this number, for [`Reach::Inside`].
pub fn process(pid: u32) -> std::io::Result<std::os::fd::OwnedFd> {
    crate::sys::ProcessId::of(pid)?.open()
}
