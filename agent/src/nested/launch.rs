//! Starting a container, and what it is started in.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use waggle_telemetry::names;

use super::{
    Class, Containers, FRAMES, HELD, Launched, Refused, Typed, Wanted, alone,
    drive::{self, Ask, Ends, Phase},
    lives,
    sandbox::{Files, Home},
};
use crate::{
    exec::{IDLE, Session, start, talk, wire},
    http::View,
};

/// What a container is in.
pub struct Parent {
    /// Its root's directory, with the plan.
    pub dir: PathBuf,
    /// Its own end.
    pub over: Over,
}

/// When a container's parent ends.
pub enum Over {
    /// With a task, or an executor.
    Root(String, View),
    /// With another container.
    Of(watch::Receiver<Phase>),
}

impl Over {
    /// Returns then.
    async fn wait(self) {
        // A sender that is gone is the agent's end.
        match self {
            Self::Root(root, mut view) => drop(view.wait_for(|v| !lives(v, &root)).await),
            Self::Of(mut phase) => drop(phase.wait_for(|p| p.ended().is_some()).await),
        }
    }
}

/// A launch under way.
pub struct Launch {
    /// Whose it will be.
    pub containers: Containers,
    /// What is wanted.
    pub wanted: Wanted,
    /// What it is in.
    pub parent: Option<Parent>,
    /// Who asked.
    pub who: String,
    /// The place that a session has.
    pub slot: Option<OwnedSemaphorePermit>,
    /// What is asked of it.
    pub asked: mpsc::Receiver<Ask>,
    /// What is typed.
    pub typing: mpsc::Receiver<Typed>,
    /// How far it is.
    pub phase: watch::Sender<Phase>,
}

impl Launch {
    /// Starts it; what could not be started is forgotten.
    pub async fn run(self) -> Result<Launched, Refused> {
        let (containers, id) = (self.containers.clone(), self.wanted.id.clone());
        let launched = self.start().await;
        if launched.is_err() {
            containers.forget(&id);
        }
        launched
    }

    async fn start(self) -> Result<Launched, Refused> {
        let inner = Arc::clone(&self.containers.0);
        let Wanted {
            id,
            class,
            mut request,
            user,
            uses,
        } = self.wanted;
        let (dir, over) = match self.parent {
            Some(parent) => (Some(parent.dir), Some(parent.over)),
            None => (None, None),
        };
        let (making, by) = (id.clone(), Arc::clone(&inner));
        // Directories and cgroups.
        let made = tokio::task::spawn_blocking(move || -> Result<(Home, Option<Files>), String> {
            let text = |e: std::io::Error| format!("failed to make its sandbox: {e}");
            let home = match dir {
                Some(dir) => {
                    let home = Home::read(&dir, dir.join("sandbox")).map_err(text)?;
                    alone::same_user(user.as_deref(), &home)?;
                    home
                }
                None => alone::make(
                    &by.cgroups,
                    by.limits,
                    &by.work_dir,
                    &making,
                    user.as_deref(),
                    uses,
                )?,
            };
            let files = match class {
                Class::Plain => Some(home.make(&making.sandbox()).map_err(text)?),
                Class::Session => None,
            };
            Ok((home, files))
        });
        let made = made.await.map_err(|e| Refused::Failed(e.to_string()))?;
        let (home, files) = match made {
            Ok(made) => made,
            Err(why) => {
                self.containers.undo(&id).await;
                return Err(Refused::Bad(why));
            }
        };
        if class == Class::Plain {
            let inside = home.inside.join(id.sandbox()).display().to_string();
            let env = &mut request.env;
            env.entry("MESOS_SANDBOX".to_owned())
                .or_insert_with(|| inside.clone());
            request.work_dir = Some(inside);
        }
        self.containers.settle(&id, home.clone());
        let running = match start::start(&inner.command, &home.dir, &request).await {
            Ok(running) => running,
            Err(why) => {
                self.containers.undo(&id).await;
                return Err(Refused::Bad(why.message));
            }
        };
        self.phase.send_replace(Phase::Running(running.pid));
        let (near, far) = tokio::io::duplex(HELD);
        let (reader, writer) = wire::open(far);
        let (owner, shown) = match class {
            Class::Session => {
                let (owner, shown) = mpsc::channel(FRAMES);
                (Some(owner), Some(shown))
            }
            Class::Plain => (None, None),
        };
        let slow = inner.telemetry.clone();
        let ends = Ends {
            session: near,
            owner,
            files,
            asks: self.asked,
            typed: self.typing,
            slow: Box::new(move || {
                let attrs = [
                    (names::SESSION_KIND, "output".into()),
                    (names::OUTCOME, "slow".into()),
                ];
                slow.count(&names::AGENT_SESSIONS_ENDED, &attrs, 1);
            }),
        };
        let session = Session {
            kind: match class {
                Class::Session => "nested",
                Class::Plain => "container",
            },
            who: self.who,
            task: id.to_string(),
            program: request.argv.first().cloned().unwrap_or_default(),
        };
        let (slot, phase) = (self.slot, self.phase);
        tokio::spawn(async move {
            let _slot = slot;
            let idle = match class {
                Class::Session => IDLE,
                Class::Plain => Duration::MAX,
            };
            let given_up = async {
                let parents = async {
                    match over {
                        Some(over) => over.wait().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = parents => {}
                    () = inner.stop.cancelled() => {}
                }
            };
            let open = inner.sessions.begin(session);
            let over = talk::talk(reader, writer, running, idle);
            let (ended, outcome) = drive::drive(ends, given_up, tokio::spawn(over)).await;
            alone::clean(&inner.cgroups, &id).await;
            // Told last: who hears it finds nothing of it running.
            phase.send_replace(Phase::Ended(ended));
            match outcome {
                Ok(outcome) => open.ended(&outcome),
                Err(e) => tracing::error!(error = %e, "a container's session broke off"),
            }
        });
        Ok(Launched::Runs(shown))
    }
}
