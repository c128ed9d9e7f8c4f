//! Whose output is meant by a name.

use std::{collections::BTreeMap, net::SocketAddr};

use waggle_api::{
    error::{ApiError, ErrorCode},
    logs::LogCursor,
    native::{PrefixError, by_prefix},
};
use waggle_types::{JobId, ServiceId};

use crate::{
    http::respond::Fail,
    view::{ClusterView, TaskView},
};

/// Most tasks that are followed at once.
const MAX_TASKS: usize = 256;
/// Tasks that have ended and are shown where none runs.
const MAX_ENDED: usize = 16;

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picked {
    /// All instances of a service or pod.
    Service(ServiceId),
    /// All tasks of a job's runs.
    Job(JobId),
    /// One task.
    Task(String),
}

/// Where a task's output is: its agent.
pub type Sources = BTreeMap<String, SocketAddr>;

impl Picked {
    /// By the name of a service, a pod or a job, or by a task's id or its beginning.
    pub fn find(view: &ClusterView, name: &str) -> Result<Self, Fail> {
        if name.is_empty() {
            let why = "of: must name a service, a pod, a job or a task";
            return Err(ApiError::new(ErrorCode::BadRequest, why).into());
        }
        if let Ok(id) = ServiceId::new(name)
            && (view.services.contains_key(&id) || view.tasks_of(&id).next().is_some())
        {
            return Ok(Self::Service(id));
        }
        if let Ok(id) = JobId::new(name)
            && view.jobs.contains_key(&id)
        {
            return Ok(Self::Job(id));
        }
        let live = by_prefix(view.tasks.values().map(|t| t.id.as_str()), name);
        let found = match live {
            Err(PrefixError::Nothing(_)) => {
                by_prefix(view.completed.iter().map(|t| t.id.as_str()), name)
            }
            found => found,
        };
        match found {
            Ok(id) => Ok(Self::Task(id.to_owned())),
            Err(e @ PrefixError::Several { .. }) => {
                Err(ApiError::new(ErrorCode::Conflict, e.to_string()).into())
            }
            Err(PrefixError::Nothing(_)) => {
                let why = format!("of: {name:.200?} is no service, pod, job or task here");
                Err(Fail::not_found(why))
            }
        }
    }

    /// Whether it is still there, so that more may come.
    pub fn is_there(&self, view: &ClusterView) -> bool {
        match self {
            Self::Service(id) => view.services.contains_key(id),
            Self::Job(id) => view.jobs.contains_key(id),
            Self::Task(id) => view.tasks.values().any(|t| t.id.as_str() == id),
        }
    }

    /// Its tasks that run, and those that have ended and that a cursor has not told to their end.
    pub fn running(&self, view: &ClusterView, cursor: Option<&LogCursor>) -> Result<Sources, Fail> {
        let mut out = Sources::new();
        let of = self.filter(view);
        for task in view.tasks.values().filter(|t| of(t)) {
            add(view, task, &mut out)?;
        }
        if let Some(cursor) = cursor {
            let known = |t: &&std::sync::Arc<TaskView>| {
                let place = |stream| cursor.place(t.id.as_str(), stream);
                place("stdout").or(place("stderr")).is_some()
            };
            for task in view.completed.iter().filter(known).filter(|t| of(t)) {
                add(view, task, &mut out)?;
            }
        }
        Ok(out)
    }

    /// Its tasks that run, as many as are followed at once, those that `known` has first; and how many are left out.
    pub fn as_many(&self, view: &ClusterView, known: impl Fn(&str) -> bool) -> (Sources, usize) {
        let (mut out, mut left_out) = (Sources::new(), 0);
        let of = self.filter(view);
        for again in [true, false] {
            let all = view.tasks.values().filter(|t| of(t));
            for task in all.filter(|t| known(t.id.as_str()) == again) {
                left_out += usize::from(add(view, task, &mut out).is_err());
            }
        }
        (out, left_out)
    }

    /// Its newest tasks that have ended: what there is to show where none runs.
    pub fn ended(&self, view: &ClusterView) -> Sources {
        let of = self.filter(view);
        let mut out = Sources::new();
        for task in view.completed.iter().rev().filter(|t| of(t)) {
            if out.len() < MAX_ENDED {
                // Its agent may be gone by now; then so is its output.
                let _ = add(view, task, &mut out);
            }
        }
        out
    }

    fn filter<'a>(&'a self, view: &'a ClusterView) -> impl Fn(&TaskView) -> bool + 'a {
        let job = match self {
            Self::Job(id) => view.jobs.get(id),
            _ => None,
        };
        move |t: &TaskView| match self {
            Self::Service(id) => t.spec.service == id.as_str(),
            Self::Task(id) => t.id.as_str() == id,
            Self::Job(_) => job.is_some_and(|job| {
                let active = job.runs.values().flat_map(|r| &r.tasks);
                let ended = job.history.tasks();
                active
                    .map(|r| &r.task_id)
                    .chain(ended)
                    .any(|id| *id == t.id)
            }),
        }
    }
}

fn add(view: &ClusterView, task: &TaskView, out: &mut Sources) -> Result<(), Fail> {
    if out.len() == MAX_TASKS {
        let why = format!("of: has more than {MAX_TASKS} tasks; name one of them");
        return Err(ApiError::new(ErrorCode::BadRequest, why).into());
    }
    if let Some(agent) = view.agents.get(task.agent_id()) {
        let at = SocketAddr::from((agent.info.ip, agent.info.http_port));
        out.insert(task.id.to_string(), at);
    }
    Ok(())
}
