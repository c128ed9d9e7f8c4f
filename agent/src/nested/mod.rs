//! Containers that operators and executors launch on an agent: nested in another one, or standalone.
//!
//! They are commands as `exec` starts them ([`crate::exec`]): a shim of their own joins what the parent has, and ends all that
//! they started. A nested container has its parent's cgroups, namespaces and user; it has a sandbox of its own below the
//! parent's (`containers/<id>`), but for a session, which has the parent's and lives as long as its connection. A standalone
//! one has a cgroup and a directory of its own (`<work_dir>/containers/<id>`).
//!
//! # Invariants
//! - A container ends when its parent does, and when the agent does: it belongs to the agent's process that launched it. The
//!   next agent knows nothing of it; sandboxes stay as long as their parents', those of standalone ones go when they are
//!   forgotten, at the latest when it starts. Who is told of an end finds nothing of it running.
//! - At most [`MAX_RUNNING`] below one root, and [`MAX_KNOWN`] in all; what has ended is forgotten for what begins.
//! - Nothing grows with time: output is kept in two segments each, a reader that is too slow is let go.

mod alone;
mod drive;
mod id;
mod io;
mod known;
mod launch;
mod order;
mod output;
mod sandbox;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use waggle_api::exec::{Ended, Frame};
use waggle_telemetry::{Telemetry, names};
use waggle_types::TaskId;

use crate::{
    AgentConfig, ShimCommand,
    cgroup::{CgroupHost, NodeLimits},
    checkpoint::TaskDir,
    exec::{IDLE, MAX_SESSIONS, Sessions, attach, wire},
    http::{AgentView, View},
};
pub use alone::tidy;
use drive::{Ask, Ends, Phase};
pub use id::Id;
pub use io::{HEARTBEAT, Input, Typed, end, heartbeat, input, record};
use known::{Container, Known};
use launch::{Launch, Over, Parent};
pub use order::{Class, NOT_SUPPORTED, Wanted, any, nested, with_parent};
use sandbox::Home;

/// Containers below one root that run at once.
pub const MAX_RUNNING: usize = 64;
/// Containers that are known at once: those that run, and those that have ended and were not forgotten.
pub const MAX_KNOWN: usize = 1024;
/// Frames between a container and who reads its output.
const FRAMES: usize = 16;
/// Bytes between a container's session and whoever serves it.
const HELD: usize = 64 << 10;

/// Output of a container, frame by frame; it ends with it.
pub type Shown = mpsc::Receiver<Arc<Frame>>;

/// Why a call about a container leads to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// What was asked can't be.
    Bad(String),
    /// There is no such container.
    Unknown(String),
    /// Another one does it.
    Busy(String),
    /// There are as many as there can be.
    Full(String),
    /// It did not work.
    Failed(String),
}

/// What came of a launch.
pub enum Launched {
    /// It runs; a session's output is in it.
    Runs(Option<Shown>),
    /// There is one of that name.
    Before,
}

/// Those of one agent.
#[derive(Clone)]
pub struct Containers(Arc<Inner>);

struct Inner {
    sessions: Sessions,
    view: View,
    work_dir: PathBuf,
    command: ShimCommand,
    cgroups: CgroupHost,
    limits: NodeLimits,
    telemetry: Telemetry,
    known: Mutex<Known>,
    stop: CancellationToken,
}

/// A container as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: Id,
    /// Its first process.
    pub pid: u32,
}

/// The one writer of a container's input.
pub struct Writer {
    typed: mpsc::Sender<Typed>,
    _only: Option<OwnedSemaphorePermit>,
    // Ends what was begun for it.
    _end: Option<DropGuard>,
}

impl Writer {
    /// Types, as fast as it is read; false when the container has ended.
    pub async fn send(&self, what: Typed) -> bool {
        self.typed.send(what).await.is_ok()
    }

    /// Until the container takes no more.
    pub async fn closed(&self) {
        self.typed.closed().await;
    }
}

impl Containers {
    /// None yet.
    pub fn new(
        config: &AgentConfig,
        sessions: Sessions,
        view: View,
        cgroups: CgroupHost,
        telemetry: Telemetry,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            sessions,
            view,
            work_dir: config.work_dir.clone(),
            command: config.exec_shim.clone(),
            cgroups,
            limits: NodeLimits {
                cpu_hard: config.cpu_hard_limits,
                pids: config.runtime.pids,
            },
            telemetry,
            known: Mutex::default(),
            stop,
        }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &Id) -> Option<Container> {
        self.known().all.get(id).cloned()
    }

    /// Starts a container. A session lives as long as somebody holds its output; `who` asked.
    pub async fn launch(&self, wanted: Wanted, who: String) -> Result<Launched, Refused> {
        let slot = match wanted.class {
            Class::Session => Some(self.0.sessions.slot().map_err(|_| {
                Refused::Full(format!("this agent has {MAX_SESSIONS} sessions, its limit"))
            })?),
            Class::Plain => None,
        };
        let parent = self.parent(&wanted.id)?;
        if parent.is_none() && lives(&self.0.view.borrow(), wanted.id.root()) {
            return Ok(Launched::Before);
        }
        let (asks, asked) = mpsc::channel(FRAMES);
        let (typed, typing) = mpsc::channel(1);
        let (phase, seen) = watch::channel(Phase::Starting);
        let container = Container {
            number: 0,
            class: wanted.class,
            home: None,
            phase: seen,
            asks,
            typed,
            writer: Arc::new(Semaphore::new(1)),
        };
        if !self.enter(&wanted.id, container)? {
            return Ok(Launched::Before);
        }
        let launch = Launch {
            containers: self.clone(),
            wanted,
            parent,
            who,
            slot,
            asked,
            typing,
            phase,
        };
        // Not the request's own: what was begun is ended in order, whoever still waits for it.
        let launched = tokio::spawn(launch.run());
        launched
            .await
            .unwrap_or_else(|e| Err(Refused::Failed(e.to_string())))
    }

    /// Notes a container that is to be, if there is none of its name and there is room.
    fn enter(&self, id: &Id, container: Container) -> Result<bool, Refused> {
        let view = Arc::clone(&self.0.view.borrow());
        let mut left = Vec::new();
        let mut known = self.known();
        if known.all.contains_key(id) {
            return Ok(false);
        }
        let full = {
            let below = known
                .all
                .iter()
                .filter(|(other, _)| other.root() == id.root());
            below.filter(|(_, c)| c.runs()).count() >= MAX_RUNNING
        };
        if full || !known.make_room(|root| lives(&view, root), &mut left) {
            let reason = [(names::DROP_REASON, "containers".into())];
            self.0
                .telemetry
                .count(&names::AGENT_REQUESTS_REFUSED, &reason, 1);
            let why = if full {
                format!("'{}' has {MAX_RUNNING} containers, its limit", id.root())
            } else {
                format!("this agent has {MAX_KNOWN} containers, its limit")
            };
            return Err(Refused::Full(why));
        }
        known.next += 1;
        let number = known.next;
        known.all.insert(
            id.clone(),
            Container {
                number,
                ..container
            },
        );
        drop(known);
        if !left.is_empty() {
            tokio::task::spawn_blocking(move || {
                for dir in left {
                    if let Err(e) = alone::gone(&dir) {
                        tracing::warn!(dir = %dir.display(), error = %e, "the sandbox of a container stays");
                    }
                }
            });
        }
        Ok(true)
    }

    /// Nothing stays of a standalone container that could not be started; a nested one's sandbox is its parent's.
    async fn undo(&self, id: &Id) {
        if id.is_nested() {
            return;
        }
        alone::clean(&self.0.cgroups, id).await;
        let dir = alone::dir(&self.0.work_dir, id);
        let removed = tokio::task::spawn_blocking(move || alone::gone(&dir));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(container = %id, %error, "the sandbox of a container that did not start stays");
        }
    }

    /// Removes the sandbox of a plain container that has ended, and what is its own. Blocking.
    fn take_away(&self, id: &Id, home: &Home) -> std::io::Result<()> {
        if id.is_nested() {
            home.remove(&id.sandbox())
        } else {
            alone::remove(&self.0.cgroups, id, &home.dir)
        }
    }

    /// The end of what a new container is in, and where it is. A root has neither.
    fn parent(&self, id: &Id) -> Result<Option<Parent>, Refused> {
        let Some(parent) = id.parent() else {
            return Ok(None);
        };
        let gone = || Refused::Bad(format!("Parent container {parent} does not exist"));
        let over = if let Some(container) = self.get(&parent) {
            if !container.runs() {
                return Err(gone());
            }
            Over::Of(container.phase)
        } else {
            if parent.is_nested() || !lives(&self.0.view.borrow(), parent.root()) {
                return Err(gone());
            }
            Over::Root(parent.root().to_owned(), self.0.view.clone())
        };
        let standalone = Id::root_of(id);
        let dir = match self.get(&standalone) {
            Some(container) => container.home.ok_or_else(gone)?.dir,
            None => match self.task(id.root()) {
                Some(task) => task.path().to_owned(),
                None => return Err(gone()),
            },
        };
        Ok(Some(Parent { dir, over }))
    }

    /// A task that runs, or an executor, whose container this is.
    fn task(&self, root: &str) -> Option<TaskDir> {
        let id = TaskId::new(root).ok()?;
        let dir = TaskDir::new(&self.0.work_dir, &id);
        let runs = lives(&self.0.view.borrow(), root) && dir.process().is_some();
        (runs && dir.exit().is_none()).then_some(dir)
    }

    /// How a container has ended, once it has.
    pub async fn wait(&self, id: &Id) -> Result<Ended, Refused> {
        let unknown = || Refused::Unknown(format!("Container {id} cannot be found"));
        let mut phase = self.get(id).ok_or_else(unknown)?.phase;
        let ended = phase.wait_for(|p| p.ended().is_some()).await;
        // One that could not be started is forgotten.
        let ended = ended.map_err(|_| unknown())?;
        Ok(ended.ended().cloned().unwrap_or_default())
    }

    /// Signals a container's processes.
    pub async fn kill(&self, id: &Id, signal: i32) -> Result<(), Refused> {
        let container = self.get(id).filter(Container::runs);
        let unknown = || {
            let why = format!("Container '{id}' cannot be found (or is already killed)");
            Refused::Unknown(why)
        };
        let asks = container.ok_or_else(unknown)?.asks;
        let number = u8::try_from(signal).ok();
        let number = number.filter(|n| (1..=64).contains(n));
        let number = number.ok_or_else(|| Refused::Bad(format!("signal {signal} is none")))?;
        asks.send(Ask::Signal(number)).await.map_err(|_| unknown())
    }

    /// Removes what is left of a container that has ended.
    pub async fn remove(&self, id: &Id) -> Result<(), Refused> {
        let Some(container) = self.get(id) else {
            // Its artifacts went with its parent.
            let parent = id.parent();
            let root_lives =
                self.get(&Id::root_of(id)).is_some() || lives(&self.0.view.borrow(), id.root());
            return if parent.is_some() && !root_lives {
                Ok(())
            } else {
                Err(Refused::Failed(format!("Unknown container {id}")))
            };
        };
        if container.runs() {
            let why = format!("Container {id} has not terminated yet");
            return Err(Refused::Failed(why));
        }
        let (removing, class) = (id.clone(), container.class);
        let this = self.clone();
        let removed = tokio::task::spawn_blocking(move || match container.home {
            Some(home) if class == Class::Plain => this.take_away(&removing, &home),
            _ => Ok(()),
        });
        let failed = |e: &dyn std::fmt::Display| Refused::Failed(format!("Container {id}: {e}"));
        removed
            .await
            .map_err(|e| failed(&e))?
            .map_err(|e| failed(&e))?;
        let mut known = self.known();
        // With those that were in it.
        known.all.retain(|other, _| !other.is_within(id));
        Ok(())
    }

    /// Shows what a container writes from now on.
    pub async fn show(&self, id: &Id) -> Result<Shown, Refused> {
        let unknown = || Refused::Unknown(format!("Container {id} cannot be found"));
        if let Some(container) = self.get(id) {
            let (reader, shown) = mpsc::channel(FRAMES);
            let over = || Refused::Failed(format!("Container {id} has terminated"));
            let sent = container.asks.send(Ask::Show(reader)).await;
            return sent.map(|()| shown).map_err(|_| over());
        }
        let task = self.task(id.root()).filter(|_| !id.is_nested());
        let task = task.ok_or_else(unknown)?;
        let terminal = attach::terminal(&task).await;
        Ok(self.attach(task, terminal, false).0)
    }

    /// The way in for what is typed into a container.
    pub async fn writer(&self, id: &Id) -> Result<Writer, Refused> {
        let unknown = || Refused::Unknown(format!("Container {id} cannot be found"));
        if let Some(container) = self.get(id) {
            if !container.runs() {
                return Err(Refused::Failed(format!("Container {id} has terminated")));
            }
            let only = Arc::clone(&container.writer).try_acquire_owned();
            let busy = |_| Refused::Busy("Multiple input connections are not allowed".to_owned());
            return Ok(Writer {
                typed: container.typed,
                _only: Some(only.map_err(busy)?),
                _end: None,
            });
        }
        let task = self.task(id.root()).filter(|_| !id.is_nested());
        let task = task.ok_or_else(unknown)?;
        let Some(terminal) = attach::terminal(&task).await else {
            let why = format!("Container {id} has no terminal to type into");
            return Err(Refused::Bad(why));
        };
        let (mut shown, writer) = self.attach(task, Some(terminal), true);
        // Its output is nobody's here; the session lasts as long as somebody types.
        let end = CancellationToken::new();
        let ended = end.clone();
        tokio::spawn(async move {
            let unheard = async { while shown.recv().await.is_some() {} };
            ended.run_until_cancelled(unheard).await;
        });
        Ok(Writer {
            _end: Some(end.drop_guard()),
            ..writer
        })
    }

    /// A client of a task's own output, and of its terminal where it has one.
    fn attach(&self, task: TaskDir, terminal: Option<UnixStream>, stdin: bool) -> (Shown, Writer) {
        let (near, far) = tokio::io::duplex(HELD);
        let (mut reader, frames) = wire::open(far);
        let over = async move {
            match terminal {
                Some(terminal) => {
                    attach::join(&mut reader, &frames, &task, terminal, stdin, IDLE).await
                }
                None => attach::follow(&mut reader, &frames, &task, 0, IDLE).await,
            };
        };
        let (owner, shown) = mpsc::channel(FRAMES);
        let (typed, typing) = mpsc::channel(1);
        // Nothing is asked of it.
        let (_, asks) = mpsc::channel(1);
        let ends = Ends {
            session: near,
            owner: Some(owner),
            files: None,
            asks,
            typed: typing,
            slow: Box::new(|| ()),
        };
        let stop = self.0.stop.clone();
        tokio::spawn(async move {
            let over = tokio::spawn(over);
            drive::drive(ends, stop.cancelled_owned(), over).await
        });
        let writer = Writer {
            typed,
            _only: None,
            _end: None,
        };
        (shown, writer)
    }

    /// Containers that run, of those that are asked for.
    pub fn list(&self, nested: bool, standalone: bool) -> Vec<Listed> {
        let known = self.known();
        let asked = known
            .all
            .iter()
            .filter(|(id, _)| if id.is_nested() { nested } else { standalone });
        let listed = asked.filter_map(|(id, c)| match &*c.phase.borrow() {
            Phase::Running(pid) => Some(Listed {
                id: id.clone(),
                pid: *pid,
            }),
            Phase::Starting | Phase::Ended(_) => None,
        });
        listed.collect()
    }

    /// Where a container that is being started is.
    fn settle(&self, id: &Id, home: Home) {
        if let Some(container) = self.known().all.get_mut(id) {
            container.home = Some(home);
        }
    }

    fn forget(&self, id: &Id) {
        self.known().all.remove(id);
    }
}

/// Whether a container of the agent's own may run: a task, or an executor. A task that its executor runs has none.
fn lives(view: &AgentView, root: &str) -> bool {
    let mut tasks = view.tasks.iter();
    let task = tasks.any(|t| t.id == root && !t.summary.state.is_terminal());
    task || view.executors.iter().any(|e| e.container == root)
}
