//! The door into the event loop for HTTP handlers: requests with typed answers, reads by snapshot.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use waggle_types::{DeploymentId, ServiceId, ServiceSpec, ServiceVersion, TaskId, TraceContext};

use crate::{error::MasterError, view::ClusterView};

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
    /// Kill tasks.
    Kill {
        /// Tasks.
        ids: Vec<TaskId>,
        /// Also scale their services down by as many.
        scale: bool,
        /// The caller's span.
        trace: Option<TraceContext>,
        /// Answered when taken; a deployment when `scale` made one.
        reply: oneshot::Sender<Result<Option<Deployment>, MasterError>>,
    },
}

/// Cheap to clone; every HTTP handler has one.
#[derive(Debug, Clone)]
pub struct MasterHandle {
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<Arc<ClusterView>>,
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
        (Self { requests, view }, rx, tx)
    }

    /// The newest view. Never blocks.
    pub fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.borrow())
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

    /// Kills tasks; with `scale` their services shrink by as many, else they are replaced.
    pub async fn kill_tasks(
        &self,
        ids: Vec<TaskId>,
        scale: bool,
        trace: Option<TraceContext>,
    ) -> Result<Option<Deployment>, MasterError> {
        self.ask(|reply| Request::Kill {
            ids,
            scale,
            trace,
            reply,
        })
        .await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, MasterError>>) -> Request,
    ) -> Result<T, MasterError> {
        let (tx, rx) = oneshot::channel();
        match self.requests.try_send(request(tx)) {
            Ok(()) => rx.await.unwrap_or(Err(MasterError::Stopping)),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(MasterError::Busy(self.requests.max_capacity()))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(MasterError::Stopping),
        }
    }
}
