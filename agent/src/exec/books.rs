//! Every session is counted and logged, with who asked, when it begins and when it is over.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use waggle_telemetry::{Telemetry, names};

use super::talk::Outcome;

/// How many are open.
#[derive(Debug)]
pub struct Books {
    telemetry: Telemetry,
    open: AtomicU64,
}

/// One session, for its log lines.
#[derive(Debug, Clone)]
pub struct Session {
    /// What it is for.
    pub kind: &'static str,
    /// Who asked.
    pub who: String,
    /// The task, or container.
    pub task: String,
    /// What it runs, if anything.
    pub program: String,
}

/// A session that is open.
#[derive(Debug)]
pub struct Open {
    books: Arc<Books>,
    session: Session,
    told: bool,
}

impl Books {
    /// None is open.
    pub fn new(telemetry: Telemetry) -> Self {
        Self {
            telemetry,
            open: AtomicU64::new(0),
        }
    }

    /// Where it is counted.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// A session begins.
    pub fn begin(self: Arc<Self>, session: Session) -> Open {
        let Session {
            kind,
            who,
            task,
            program,
        } = &session;
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.telemetry.set(&names::AGENT_SESSIONS, &[], open as f64);
        tracing::info!(
            kind,
            client = who,
            task_id = task,
            program,
            "session begins"
        );
        let attrs = vec![
            ("waggle.session.kind", (*kind).into()),
            ("client.address", who.as_str().into()),
            ("waggle.task.id", task.as_str().into()),
            ("process.executable.name", program.as_str().into()),
        ];
        self.telemetry.event("waggle.session.opened", None, attrs);
        Open {
            books: self,
            session,
            told: false,
        }
    }
}

impl Open {
    /// It is over.
    pub fn ended(mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Ended(ended) => {
                self.tell("ended", &format!("exit code {}", ended.exit_code()));
            }
            Outcome::Gone(why) => self.tell("client_gone", why),
            Outcome::Idle => self.tell("idle", ""),
        }
    }

    /// It is over, since what it was about is.
    pub fn done(mut self) {
        self.tell("ended", "");
    }

    fn tell(&mut self, word: &'static str, why: &str) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let Books { telemetry, open } = &*self.books;
        let open = open.fetch_sub(1, Ordering::Relaxed) - 1;
        telemetry.set(&names::AGENT_SESSIONS, &[], open as f64);
        let Session {
            kind, who, task, ..
        } = &self.session;
        tracing::info!(
            kind,
            client = who,
            task_id = task,
            outcome = word,
            why,
            "session ended"
        );
        let attrs = [
            (names::SESSION_KIND, (*kind).into()),
            (names::OUTCOME, word.into()),
        ];
        telemetry.count(&names::AGENT_SESSIONS_ENDED, &attrs, 1);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tell("client_gone", "its connection was let go of");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_is_told_once_to_be_over() {
        let books = Arc::new(Books::new(Telemetry::disabled()));
        let begin = |kind| {
            Arc::clone(&books).begin(Session {
                kind,
                who: "10.0.0.1:1".to_owned(),
                task: "t.1".to_owned(),
                program: String::new(),
            })
        };
        let (told, let_go) = (begin("input"), begin("output"));
        assert_eq!(books.open.load(Ordering::Relaxed), 2);
        told.ended(&Outcome::Idle);
        assert_eq!(books.open.load(Ordering::Relaxed), 1);
        drop(let_go);
        begin("exec").done();
        assert_eq!(books.open.load(Ordering::Relaxed), 0);
        let shown = books.telemetry().prometheus_text();
        let ended = |kind: &str, outcome: &str| {
            let mut lines = shown.lines();
            lines.any(|l| l.contains("sessions_ended") && l.contains(kind) && l.contains(outcome))
        };
        assert!(ended("input", "idle"), "{shown}");
        assert!(ended("output", "client_gone"), "{shown}");
        assert!(ended("exec", "ended"), "{shown}");
    }
}
