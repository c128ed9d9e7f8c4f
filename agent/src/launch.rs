//! Starting a task's shim and watching it: the steps that touch processes.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;
use waggle_lifecycle::Exit;
use waggle_telemetry::{SpanKind, Telemetry};
use waggle_telemetry_pipeline::LogDefaults;
use waggle_types::{TaskSpec, TraceContext};

use crate::{
    ShimCommand,
    cgroup::{self, Limits, NodeLimits, TaskCgroup},
    checkpoint::TaskDir,
    clock, crash, logs,
    net::chain,
    parts::{Parts, Prepared},
    runtime::{Contained, NodeFacts, Runtime},
    shim,
    sys::{self, ProcessId},
};

/// How long a launch may take until the shim has reported; a disk that syncs slowly is no failure.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long leftovers may take to die.
pub const CLEAN_TIMEOUT: Duration = Duration::from_secs(10);

/// A task's living shim.
#[derive(Debug, Clone)]
pub struct Shim {
    /// A descriptor of exactly that process.
    pub fd: Arc<OwnedFd>,
    /// The task's process; `None` while the shim is starting it.
    pub process: Option<ProcessId>,
}

/// All that starting takes.
pub struct Launch {
    /// What to run; it is durable.
    pub spec: Arc<TaskSpec>,
    /// The task's directory.
    pub dir: TaskDir,
    /// Its cgroups.
    pub cgroup: TaskCgroup,
    /// What the node decides about what it may use.
    pub limits: NodeLimits,
    /// What is kept of tasks' output here.
    pub logs: LogDefaults,
    /// What it is put together from.
    pub parts: Arc<Parts>,
    /// What it learns about the node.
    pub node: NodeFacts,
    /// The span that its own spans hang under.
    pub trace: Option<TraceContext>,
    /// How to start the shim.
    pub command: ShimCommand,
    /// Ends it while the task's parts are being prepared.
    pub cancelled: CancellationToken,
    /// Takes its spans.
    pub telemetry: Telemetry,
}

/// A launch that led to nothing.
pub struct Failed {
    /// For the task's status; a message for people.
    pub exit: Exit,
    /// What is still to be done about it, where nobody has to wait for that.
    pub rest: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Launch {
    /// Prepares the task's parts, makes its cgroup, starts the shim and waits until the task's process runs. When that
    /// fails nothing is left but the directory, once the rest is done.
    pub async fn run(self) -> Result<Shim, Failed> {
        let (dir, cgroup, parts) = (
            self.dir.clone(),
            self.cgroup.clone(),
            Arc::clone(&self.parts),
        );
        let limits = cgroup::limits(&self.spec, self.limits).map_err(|why| Failed {
            exit: Exit::LaunchFailed(why),
            rest: None,
        })?;
        let cancelled = self.cancelled.clone();
        let mut prepared = {
            let (parts, spec, dir) = (Arc::clone(&parts), Arc::clone(&self.spec), dir.clone());
            let trace = self.trace;
            Box::pin(async move { parts.prepare(&spec, &dir, trace).await })
        };
        let started = tokio::select! {
            prepared = &mut prepared => match prepared {
                Ok(prepared) => self.start(prepared, limits).await,
                Err(why) => Err(Exit::LaunchFailed(why)),
            },
            () = cancelled.cancelled() => {
                return Err(Failed {
                    exit: Exit::Cancelled,
                    // It is not dropped in the middle of a step: what it makes until its end is removed then.
                    rest: Some(Box::pin(async move {
                        drop(prepared.await);
                        clean(dir, cgroup, parts).await;
                    })),
                });
            }
        };
        match started {
            Ok(shim) => Ok(shim),
            Err(exit) => {
                clean(dir, cgroup, parts).await;
                Err(Failed { exit, rest: None })
            }
        }
    }

    async fn start(self, prepared: Prepared, limits: Limits) -> Result<Shim, Exit> {
        let dir = self.dir.clone();
        let (telemetry, trace, begun_ns) = (self.telemetry.clone(), self.trace, clock::now_ns());
        let runtime = self.parts.runtimes.of(&self.spec);
        let attrs = vec![
            ("waggle.task.id", self.spec.task_id.as_str().into()),
            (
                "waggle.runtime",
                runtime.map_or("", Runtime::name).to_owned().into(),
            ),
        ];
        let shim = tokio::task::spawn_blocking(move || self.spawn(&prepared, &limits))
            .await
            .map_err(|e| Exit::LaunchFailed(format!("failed to start the shim: {}", chain(&e))))??
            .wait(&dir)
            .await?;
        let (name, kind) = ("container.start", SpanKind::Internal);
        telemetry.record_span(name, kind, trace, begun_ns, clock::now_ns(), attrs);
        Ok(shim)
    }

    /// The blocking half.
    fn spawn(self, prepared: &Prepared, limits: &Limits) -> Result<Starting, Exit> {
        let text = |what: &str, e: &(dyn std::error::Error + 'static)| {
            Exit::LaunchFailed(format!("failed to {what}: {}", chain(e)))
        };
        // It is on its way while the rest is made: a start of a program is a good part of what a launch costs.
        let log = fs::File::create(self.dir.path().join("shim.log"))
            .map_err(|e| text("create the shim's log", &e))?;
        let mut child = tokio::process::Command::new(&self.command.exe)
            .args(&self.command.args)
            .arg(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(false)
            .spawn()
            .map_err(|e| text(&format!("start shim {}", self.command.exe.display()), &e))?;
        // Dropped before it has heard a word, it makes the shim end.
        let go = child.stdin.take();
        crash::point(Path::new("shim"), "spawned");
        let began_ns = clock::now_ns();
        self.cgroup
            .create(limits)
            .map_err(|e| text("prepare the cgroup", &e))?;
        self.telemetry.record_span(
            "cgroup.create",
            SpanKind::Internal,
            self.trace,
            began_ns,
            clock::now_ns(),
            vec![("waggle.task.id", self.spec.task_id.as_str().into())],
        );
        let task = Contained {
            spec: &self.spec,
            dir: &self.dir,
            cgroup: &self.cgroup,
            node: &self.node,
            prepared,
            logs: logs::limits(&logs::rules(self.logs, &self.spec)),
            trace: self.trace,
        };
        let runtime = self
            .parts
            .runtimes
            .of(&self.spec)
            .map_err(Exit::LaunchFailed)?;
        let plan = runtime.plan(&task).map_err(Exit::LaunchFailed)?;
        shim::write_json_for_boot(&self.dir.path().join(shim::PLAN), &plan)
            .map_err(|e| text("write the shim's plan", &e))?;
        crash::point(Path::new("shim"), "planned");
        if let Some(go) = go {
            let word = go.into_owned_fd().and_then(|fd| {
                let mut pipe = fs::File::from(fd);
                std::io::Write::write_all(&mut pipe, shim::GO)
            });
            // One that has died says why in its log.
            if let Err(e) = word {
                tracing::debug!(error = %e, "a shim did not wait for its plan");
            }
        }
        Ok(Starting { child })
    }
}

/// Undoes a launch.
async fn clean(dir: TaskDir, cgroup: TaskCgroup, parts: Arc<Parts>) {
    let cleaned = tokio::task::spawn_blocking(move || {
        let given_up = give_up(&dir, &cgroup, CLEAN_TIMEOUT);
        let mut left = parts.release(dir.task_id());
        left.extend(given_up.err());
        left
    });
    for error in cleaned.await.unwrap_or_default() {
        tracing::warn!(error, "something of a failed launch stays");
    }
}

struct Starting {
    child: tokio::process::Child,
}

impl Starting {
    async fn wait(mut self, dir: &TaskDir) -> Result<Shim, Exit> {
        let pid = self.child.id().unwrap_or_default();
        // Before the shim can end and be reaped: only we reap it.
        let fd = ProcessId::of(pid).and_then(ProcessId::open);
        let mut out = Vec::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            // Its end says that the shim has reported, or died.
            let read = stdout.read_to_end(&mut out);
            if tokio::time::timeout(START_TIMEOUT, read).await.is_err() {
                let _ = self.child.start_kill();
                let why = format!(
                    "the shim did not start within {} s",
                    START_TIMEOUT.as_secs()
                );
                return Err(Exit::LaunchFailed(why));
            }
        }
        let process = dir.process();
        if let (Ok(fd), Some(process)) = (fd, process) {
            // The runtime reaps it when it ends, whether anybody still waits or not.
            drop(self.child);
            return Ok(Shim {
                fd: Arc::new(fd),
                process: Some(process),
            });
        }
        let _ = self.child.wait().await;
        Err(match dir.exit() {
            Some(record) => record.exit(),
            None => Exit::LaunchFailed(format!(
                "the shim died: {}",
                fs::read_to_string(dir.path().join("shim.log"))
                    .unwrap_or_default()
                    .trim()
            )),
        })
    }
}

/// Waits until the process behind `fd` has ended.
pub async fn ended(fd: Arc<OwnedFd>) {
    let Ok(fd) = fd.try_clone() else { return };
    match sys::watch(fd) {
        Ok(fd) => {
            let _ = fd.readable().await;
        }
        Err(e) => tracing::warn!(error = %e, "failed to watch a process"),
    }
}

/// Waits until a task's shim has ended and says how the task did.
pub async fn outcome(dir: TaskDir, cgroup: TaskCgroup, shim: Arc<OwnedFd>) -> Exit {
    ended(shim).await;
    if let Some(record) = dir.exit() {
        return record.exit();
    }
    // The shim died before its task: without it the task's output blocks and its end is not seen.
    let remains = tokio::task::spawn_blocking(move || cgroup.kill_and_wait(CLEAN_TIMEOUT)).await;
    if let Ok(Err(e)) = remains {
        tracing::warn!(
            error = chain(&e),
            "processes of a task without shim are left"
        );
    }
    if let Some(process) = dir.process()
        && let Ok(fd) = process.open()
    {
        let _ = sys::pidfd_signal(&fd, libc::SIGKILL);
    }
    Exit::Unknown
}

/// Makes sure that no shim starts this task any more and removes its cgroup. Blocking.
pub fn give_up(dir: &TaskDir, cgroup: &TaskCgroup, patience: Duration) -> Result<(), String> {
    let mark = dir.path().join(shim::ABANDONED);
    crash::point(&mark, "begin");
    fs::write(&mark, b"").map_err(|e| format!("failed to write {}: {e}", mark.display()))?;
    crash::point(&mark, "written");
    cgroup.remove(patience).map_err(|e| chain(&e))
}

/// The task's process where its record is there and can't be read: the shim's oldest child. Without it nobody could
/// end the task any more. The record is mended.
fn recorded_badly(dir: &TaskDir, shim: ProcessId) -> Option<ProcessId> {
    let record = dir.path().join(shim::TASK);
    if !record.exists() {
        return None;
    }
    let children = format!("/proc/{0}/task/{0}/children", shim.pid);
    let children = fs::read_to_string(children).ok()?;
    let process = children
        .split_whitespace()
        .filter_map(|pid| ProcessId::of(pid.parse().ok()?).ok())
        .min_by_key(|id| id.start_ticks)?;
    tracing::warn!(task_id = %dir.task_id(), pid = process.pid, "its process was badly recorded");
    let _ = shim::write_json(&record, &process);
    Some(process)
}

/// Looks for the shim of a task after a restart; `None` when there is none, and then there will be none.
/// Blocking.
pub fn find_shim(dir: &TaskDir) -> Option<Shim> {
    let until = Instant::now() + CLEAN_TIMEOUT;
    loop {
        // Holding the lock ourselves proves that no shim lives; the mark keeps one away that is only starting.
        if let Ok(Some(_lock)) = shim::try_lock(dir.path()) {
            let _ = fs::write(dir.path().join(shim::ABANDONED), b"");
            return None;
        }
        if let Some(id) = dir.shim()
            && let Ok(fd) = id.open()
        {
            return Some(Shim {
                fd: Arc::new(fd),
                process: dir.process().or_else(|| recorded_badly(dir, id)),
            });
        }
        // It holds the lock and has not written who it is, or it is just ending.
        if Instant::now() > until {
            return None;
        }
        cgroup::pause();
    }
}
