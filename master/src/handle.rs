//! The door into the event loop for HTTP handlers: requests with typed answers, reads by snapshot.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use waggle_services::{
    DeploymentPlan,
    jobs::{JobAnswer, JobCall},
};
use waggle_types::{
    DeploymentId, OperatorCall, ServiceId, ServiceSpec, ServiceVersion, TaskId, TraceContext,
};

use crate::{
    core::{GroupAnswer, GroupQuery, TreeRequest},
    error::{MasterError, OperateError},
    explain::{ExplainQuery, Explained},
    newsroom::Newsroom,
    view::ClusterView,
};

/// Longest wait for a view that shows what has happened.
const FRESH: Duration = Duration::from_millis(250);

/// What a put may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// The service must be new (POST).
    Create,
    /// The service must exist (PATCH).
    Update,
    /// Either (PUT).
    Upsert,
}

/// A deployment that was accepted: persisted, under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// The definition's version that it brings.
    pub version: ServiceVersion,
}

/// A request to the core, as the loop takes it.
#[derive(Debug)]
pub enum Request {
    /// Define or change a service.
    Put {
        /// The definition; its `version` is set by the master.
        spec: Box<ServiceSpec>,
        /// What is allowed.
        mode: PutMode,
        /// Override a running deployment of the service.
        force: bool,
        /// The caller's span.
        trace: Option<TraceContext>,
        /// Answered when stored.
        reply: oneshot::Sender<Result<Deployment, MasterError>>,
    },
    /// Remove a service and its tasks.
    Remove {
        /// The service.
        id: ServiceId,
        /// Override a running deployment of the service.
        force: bool,
        /// The caller's span.
        trace: Option<TraceContext>,
        /// Answered when stored.
        reply: oneshot::Sender<Result<Deployment, MasterError>>,
    },
    /// Replace all instances of a service by fresh ones.
    Restart {
        /// The service.
        id: ServiceId,
        /// Override a running deployment of the service.
        force: bool,
        /// The caller's span.
        trace: Option<TraceContext>,
        /// Answered when stored.
        reply: oneshot::Sender<Result<Deployment, MasterError>>,
    },
    /// Change many services at once.
    ChangeTree {
        /// What.
        tree: Box<TreeRequest>,
        /// Override running deployments of the services.
        force: bool,
        /// The caller's span.
        trace: Option<TraceContext>,
        /// Answered when stored.
        reply: oneshot::Sender<Result<Deployment, MasterError>>,
    },
    /// What such a change would do.
    PlanTree {
        /// What.
        tree: Box<TreeRequest>,
        /// As if running deployments were overridden.
        force: bool,
        /// Answered at once.
        reply: oneshot::Sender<Result<DeploymentPlan, MasterError>>,
    },
    /// What a group was.
    AskGroup {
        /// What.
        query: GroupQuery,
        /// Answered at once.
        reply: oneshot::Sender<Result<GroupAnswer, MasterError>>,
    },
    /// End a deployment that is in flight.
    Cancel {
        /// The deployment.
        id: DeploymentId,
        /// Go back to what was before it.
        rollback: bool,
        /// The caller's span.
        trace: Option<TraceContext>,
        /// Answered when stored; the deployment that goes back, if one was wanted.
        reply: oneshot::Sender<Result<Option<Deployment>, MasterError>>,
    },
    /// Forget the backoff delay of a service that waits.
    ResetDelay {
        /// The service.
        id: ServiceId,
        /// Answered when done.
        reply: oneshot::Sender<Result<(), MasterError>>,
    },
    /// Show what has happened by now.
    View {
        /// Answered when the newest view shows it.
        reply: oneshot::Sender<()>,
    },
    /// Kill tasks.
    Kill {
        /// Tasks.
        ids: Vec<TaskId>,
        /// Also scale their services down by as many.
        scale: bool,
        /// Also give back what they reserved, and destroy their volumes.
        wipe: bool,
        /// Override a running deployment of the service; only with `scale`, which makes one.
        force: bool,
        /// The caller's span.
        trace: Option<TraceContext>,
        /// Answered when taken; a deployment when `scale` made one.
        reply: oneshot::Sender<Result<Option<Deployment>, MasterError>>,
    },
    /// What an operator asks of level 1.
    Operate {
        /// What.
        call: Box<OperatorCall>,
        /// Answered when stored, or refused.
        reply: oneshot::Sender<Result<(), OperateError>>,
    },
    /// What people ask of jobs.
    Job {
        /// What.
        call: Box<JobCall>,
        /// Answered when stored, or refused.
        reply: oneshot::Sender<Result<JobAnswer, MasterError>>,
    },
    /// Why something is as it is.
    Explain {
        /// What.
        query: ExplainQuery,
        /// Answered at once.
        reply: oneshot::Sender<Result<Explained, MasterError>>,
    },
}

/// Cheap to clone; every HTTP handler has one.
#[derive(Debug, Clone)]
pub struct MasterHandle {
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<Arc<ClusterView>>,
    newsroom: Newsroom,
    changes: Arc<Mutex<()>>,
    abdicates: CancellationToken,
}

impl MasterHandle {
    /// A handle and the loop's two ends, for the event loop and for tests of HTTP handlers.
    /// `capacity` bounds the requests waiting; more are refused with [`MasterError::Busy`].
    pub fn channel(
        capacity: usize,
    ) -> (
        Self,
        mpsc::Receiver<Request>,
        watch::Sender<Arc<ClusterView>>,
    ) {
        let (requests, rx) = mpsc::channel(capacity.max(1));
        let (tx, view) = watch::channel(Arc::new(ClusterView::default()));
        let handle = Self {
            requests,
            view,
            newsroom: Newsroom::default(),
            changes: Arc::default(),
            abdicates: CancellationToken::new(),
        };
        (handle, rx, tx)
    }

    /// Held from reading a definition to storing the changed one, whichever listener the change came by.
    pub(crate) fn changes(&self) -> &Arc<Mutex<()>> {
        &self.changes
    }

    /// The master gives up its lead, once it has answered what it is asked now.
    pub(crate) fn abdicate(&self) {
        self.abdicates.cancel();
    }

    /// Whether it has been told to.
    pub(crate) fn abdicates(&self) -> &CancellationToken {
        &self.abdicates
    }

    /// Who listens to events of services.
    pub(crate) fn newsroom(&self) -> &Newsroom {
        &self.newsroom
    }

    /// The newest view. Never blocks.
    pub fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.borrow())
    }

    /// Waits until the newest view shows what had happened when this was called. A loop that is busy or
    /// waits for its disk is not waited for longer than a moment: then the view there is must do.
    pub async fn fresh(&self) {
        let (reply, shown) = oneshot::channel();
        if self.requests.try_send(Request::View { reply }).is_ok() {
            let _ = tokio::time::timeout(FRESH, shown).await;
        }
    }

    /// Tells of each new view (the latest only, slow readers skip).
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    /// Defines or changes a service; answers when the change is on disk.
    pub async fn put_service(
        &self,
        spec: ServiceSpec,
        mode: PutMode,
        force: bool,
        trace: Option<TraceContext>,
    ) -> Result<Deployment, MasterError> {
        let spec = Box::new(spec);
        self.ask(|reply| Request::Put {
            spec,
            mode,
            force,
            trace,
            reply,
        })
        .await
    }

    /// Removes a service and kills its tasks; answers when the change is on disk.
    pub async fn remove_service(
        &self,
        id: ServiceId,
        force: bool,
        trace: Option<TraceContext>,
    ) -> Result<Deployment, MasterError> {
        self.ask(|reply| Request::Remove {
            id,
            force,
            trace,
            reply,
        })
        .await
    }

    /// Replaces all instances of a service by fresh ones of the same definition, as an upgrade would.
    pub async fn restart_service(
        &self,
        id: ServiceId,
        force: bool,
        trace: Option<TraceContext>,
    ) -> Result<Deployment, MasterError> {
        self.ask(|reply| Request::Restart {
            id,
            force,
            trace,
            reply,
        })
        .await
    }

    /// Changes many services at once, all or none; answers when the change is on disk.
    pub async fn change_tree(
        &self,
        tree: TreeRequest,
        force: bool,
        trace: Option<TraceContext>,
    ) -> Result<Deployment, MasterError> {
        let tree = Box::new(tree);
        self.ask(|reply| Request::ChangeTree {
            tree,
            force,
            trace,
            reply,
        })
        .await
    }

    /// The steps that such a change would take; nothing is done.
    pub async fn plan_tree(
        &self,
        tree: TreeRequest,
        force: bool,
    ) -> Result<DeploymentPlan, MasterError> {
        let tree = Box::new(tree);
        self.ask(|reply| Request::PlanTree { tree, force, reply })
            .await
    }

    /// What a group was, and when.
    pub async fn ask_group(&self, query: GroupQuery) -> Result<GroupAnswer, MasterError> {
        self.ask(|reply| Request::AskGroup { query, reply }).await
    }

    /// Ends a deployment. With `rollback` a new one goes back to the definition that was in force before
    /// it; without, the newest definition stays in force and the service is free for other changes.
    pub async fn cancel_deployment(
        &self,
        id: DeploymentId,
        rollback: bool,
        trace: Option<TraceContext>,
    ) -> Result<Option<Deployment>, MasterError> {
        self.ask(|reply| Request::Cancel {
            id,
            rollback,
            trace,
            reply,
        })
        .await
    }

    /// Forgets the backoff delay of a service that waits to be launched.
    pub async fn reset_delay(&self, id: ServiceId) -> Result<(), MasterError> {
        self.ask(|reply| Request::ResetDelay { id, reply }).await
    }

    /// Kills tasks; with `scale` their service shrinks by as many, else they are replaced. `force`
    /// overrides a running deployment of the service, which scaling takes the place of.
    pub async fn kill_tasks(
        &self,
        ids: Vec<TaskId>,
        (scale, wipe): (bool, bool),
        force: bool,
        trace: Option<TraceContext>,
    ) -> Result<Option<Deployment>, MasterError> {
        self.ask(|reply| Request::Kill {
            ids,
            scale,
            wipe,
            force,
            trace,
            reply,
        })
        .await
    }

    /// Does what an operator asks of level 1; answers when the change is on disk.
    pub async fn operate(&self, call: OperatorCall) -> Result<(), OperateError> {
        let call = Box::new(call);
        self.ask(|reply| Request::Operate { call, reply }).await
    }

    /// Does what people ask of jobs; answers when the change is on disk.
    pub async fn job(&self, call: JobCall) -> Result<JobAnswer, MasterError> {
        let call = Box::new(call);
        self.ask(|reply| Request::Job { call, reply }).await
    }

    /// Says why something is as it is, as of now (the view may be a little older).
    pub async fn explain(&self, query: ExplainQuery) -> Result<Explained, MasterError> {
        self.ask(|reply| Request::Explain { query, reply }).await
    }

    async fn ask<T, E: From<MasterError>>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
    ) -> Result<T, E> {
        let (tx, rx) = oneshot::channel();
        match self.requests.try_send(request(tx)) {
            Ok(()) => rx
                .await
                .unwrap_or_else(|_| Err(MasterError::Stopping.into())),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(MasterError::Busy(self.requests.max_capacity()).into())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(MasterError::Stopping.into()),
        }
    }
}
