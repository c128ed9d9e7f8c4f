//! The core's alphabet: events in, effects out.

use std::{collections::BTreeMap, sync::Arc};

use waggle_services::{
    DeploymentPlan,
    jobs::{JobAnswer, JobCall},
};
use waggle_types::{
    AgentId, AgentInfo, CallRejection, DeploymentId, Evicted, ExecutorEnd, ExecutorKey,
    ExecutorRecord, FrameworkId, FrameworkInfo, Generation, Millis, NetSnapshot, OfferId,
    Operation, OperatorCall, SchedulerCall, SchedulerEvent, ServiceId, ServiceSpec, StatusUuid,
    TaskId, TaskSpec, TaskStatus, TraceContext, UnixMillis, VolumeId, WireguardKey,
};

use super::{
    News,
    groups::{GroupAnswer, GroupQuery, TreeRequest},
};
use crate::{
    error::MasterError,
    explain::{ExplainQuery, Explained},
    handle::{Deployment, PutMode},
    store::StoreOp,
};

/// One connection of one agent; the shell numbers them and never reuses a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// One API request that waits for its answer; numbered by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One connection of one framework; the shell numbers them and never reuses a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// What a framework asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameworkCall {
    /// A call that the built-in framework has, too. Names of framework and role in tasks are
    /// overwritten.
    Scheduler(SchedulerCall),
    /// Confirm updates. Refused ones are named, the others count.
    Acknowledge(Vec<(TaskId, AgentId, StatusUuid)>),
    /// End the framework and kill its tasks.
    Teardown,
    /// Use offers as Mesos has it: what can't be done is named in the answer, the rest is done.
    AcceptEach {
        /// Offers used.
        offer_ids: Vec<OfferId>,
        /// What to do, in order.
        operations: Vec<EachOperation>,
        /// Where volumes that are made here are to be mounted.
        mounts: BTreeMap<VolumeId, String>,
        /// Filter for the rest.
        refuse: Millis,
    },
    /// End a task; of one that nobody knows the framework is told that.
    Kill {
        /// The task.
        task_id: TaskId,
        /// From SIGTERM to SIGKILL, when that is less than the task's own.
        grace: Option<Millis>,
    },
    /// Change what it subscribed with.
    Update(Box<FrameworkInfo>),
}

/// An operation that is done or refused by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EachOperation {
    /// Its position in the call.
    pub index: usize,
    /// What.
    pub operation: Operation,
    /// Of a launch: all of it or nothing.
    pub whole: bool,
    /// The agents that tasks name.
    pub agents: BTreeMap<TaskId, AgentId>,
}

/// What an agent says when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Who it is and what it has.
    pub info: AgentInfo,
    /// Every task that it has, with the latest status of each.
    pub tasks: Vec<(TaskSpec, TaskStatus)>,
    /// Every executor of a framework's own that it has.
    pub executors: Vec<ExecutorRecord>,
    /// Generation that its kernel and DNS hold.
    pub applied: Generation,
    /// Version of its binary.
    pub version: String,
    /// Its key, where it encrypts what it sends to other nodes.
    pub wireguard: Option<WireguardKey>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Define or change a service.
    Put {
        /// Whom to answer.
        request: RequestId,
        /// The definition; `version` is overwritten.
        spec: Box<ServiceSpec>,
        /// What is allowed.
        mode: PutMode,
        /// Override a running deployment.
        force: bool,
        /// New id, made by the shell.
        deployment_id: DeploymentId,
        /// The deployment's root span, begun by the shell.
        trace: Option<TraceContext>,
    },
    /// Remove a service.
    Remove {
        /// Whom to answer.
        request: RequestId,
        /// The service.
        id: ServiceId,
        /// Override a running deployment.
        force: bool,
        /// New id, made by the shell.
        deployment_id: DeploymentId,
        /// The deployment's root span, begun by the shell.
        trace: Option<TraceContext>,
    },
    /// Replace all instances of a service by fresh ones of the same definition.
    Restart {
        /// Whom to answer.
        request: RequestId,
        /// The service.
        id: ServiceId,
        /// Override a running deployment.
        force: bool,
        /// New id, made by the shell.
        deployment_id: DeploymentId,
        /// The deployment's root span, begun by the shell.
        trace: Option<TraceContext>,
    },
    /// Change many services at once.
    ChangeTree {
        /// Whom to answer.
        request: RequestId,
        /// What.
        tree: Box<TreeRequest>,
        /// Override running deployments.
        force: bool,
        /// New id, made by the shell.
        deployment_id: DeploymentId,
        /// The deployment's root span, begun by the shell.
        trace: Option<TraceContext>,
    },
    /// Say what such a change would do, and do nothing.
    PlanTree {
        /// Whom to answer.
        request: RequestId,
        /// What.
        tree: Box<TreeRequest>,
        /// As if running deployments were overridden.
        force: bool,
    },
    /// Somebody asks what a group was.
    AskGroup {
        /// Whom to answer.
        request: RequestId,
        /// What.
        query: GroupQuery,
    },
    /// End a deployment that is in flight.
    Cancel {
        /// Whom to answer.
        request: RequestId,
        /// The deployment to end.
        id: DeploymentId,
        /// Go back to what was before it, else leave things as they are.
        rollback: bool,
        /// New id of the deployment that goes back, made by the shell.
        deployment_id: DeploymentId,
        /// The new deployment's root span, begun by the shell.
        trace: Option<TraceContext>,
    },
    /// Forget the backoff delay of a service that waits.
    ResetDelay {
        /// Whom to answer.
        request: RequestId,
        /// The service.
        id: ServiceId,
    },
    /// A framework opened a subscription.
    Subscribe {
        /// Whom to answer.
        request: RequestId,
        /// The new subscription.
        subscription: SubscriptionId,
        /// Who.
        info: Box<FrameworkInfo>,
        /// New id, made by the shell, used when it names none.
        fresh_id: FrameworkId,
    },
    /// A subscription ended, for whatever reason.
    Unsubscribed {
        /// Which.
        subscription: SubscriptionId,
    },
    /// A framework asks for something.
    Call {
        /// Whom to answer.
        request: RequestId,
        /// The framework.
        framework_id: FrameworkId,
        /// The subscription that it calls for.
        subscription: SubscriptionId,
        /// What.
        call: Box<FrameworkCall>,
    },
    /// Kill tasks.
    Kill {
        /// Whom to answer.
        request: RequestId,
        /// Tasks.
        ids: Vec<TaskId>,
        /// Scale their service down by as many.
        scale: bool,
        /// Give back what they reserved, and destroy their volumes.
        wipe: bool,
        /// Override a running deployment; only with `scale`, which makes one.
        force: bool,
        /// New id, made by the shell, used when `scale`.
        deployment_id: DeploymentId,
        /// The deployment's root span, begun by the shell.
        trace: Option<TraceContext>,
    },
    /// An operator asks something of level 1.
    Operate {
        /// Whom to answer.
        request: RequestId,
        /// What.
        call: Box<OperatorCall>,
    },
    /// People ask something of jobs.
    Job {
        /// Whom to answer.
        request: RequestId,
        /// What.
        call: Box<JobCall>,
    },
    /// Somebody asks why.
    Explain {
        /// Whom to answer.
        request: RequestId,
        /// What.
        query: ExplainQuery,
    },
    /// An agent opened a session.
    Register {
        /// The new session.
        session: SessionId,
        /// Who.
        registration: Box<Registration>,
    },
    /// An agent lives.
    Heartbeat {
        /// Its session.
        session: SessionId,
    },
    /// An agent reports a task.
    Status {
        /// Its session.
        session: SessionId,
        /// The report.
        status: TaskStatus,
    },
    /// An executor has ended.
    ExecutorEnded {
        /// Its agent's session.
        session: SessionId,
        /// Which, and how.
        end: ExecutorEnd,
    },
    /// An executor says something to its framework.
    ExecutorSays {
        /// Its agent's session.
        session: SessionId,
        /// Which.
        key: ExecutorKey,
        /// What.
        data: Vec<u8>,
    },
    /// An agent's kernel and DNS hold a generation.
    Applied {
        /// Its session.
        session: SessionId,
        /// Which.
        generation: Generation,
        /// From receipt to the last map write, in microseconds.
        duration_us: u64,
        /// Parts that could not be applied.
        failures: Vec<String>,
    },
    /// A session ended, for whatever reason. Only starts the clock of the agent's time-out.
    Disconnected {
        /// The session.
        session: SessionId,
    },
    /// The shell was held up (suspended, or waiting for the disk): nobody was heard meanwhile, and
    /// nobody is to blame.
    Stalled,
    /// A deadline passed.
    Tick,
}

/// From the master to one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterMsg {
    /// The registration is taken.
    Registered {
        /// Heartbeat interval, in milliseconds.
        heartbeat_interval_ms: u64,
        /// Tasks that nobody wants: kill them.
        unknown_tasks: Vec<TaskId>,
    },
    /// Run a task. The shell puts the context of span [`SpanKey::Launch`] into it.
    Launch(Arc<TaskSpec>),
    /// End a task.
    Kill {
        /// Which.
        task_id: TaskId,
        /// Longest time that it gets to end, when that is shorter than its own.
        grace: Option<Millis>,
        /// Why, when its framework did not ask for it.
        why: Option<Evicted>,
    },
    /// The persistent volumes of the agent, after one was destroyed or the agent has registered.
    Volumes {
        /// All that there are.
        kept: Vec<VolumeId>,
        /// Destroyed just now, perhaps made again since.
        destroyed: Vec<VolumeId>,
    },
    /// A status has been taken.
    Ack {
        /// The task.
        task_id: TaskId,
        /// Which report.
        uuid: StatusUuid,
    },
    /// A framework says something to an executor.
    ExecutorMessage {
        /// Which.
        key: ExecutorKey,
        /// What.
        data: Vec<u8>,
    },
    /// End an executor.
    ShutdownExecutor {
        /// Which.
        key: ExecutorKey,
    },
    /// Go away.
    Refused {
        /// Why, for people.
        reason: String,
        /// Whether trying again is useless.
        permanent: bool,
    },
}

/// A span that the core begins in one call and ends in another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpanKey {
    /// `deployment <id>`, begun by the shell.
    Deployment(DeploymentId),
    /// `offer.allocate` of a task.
    Allocate(TaskId),
    /// `offer.accept` of a task.
    Accept(TaskId),
    /// `task.launch`.
    Launch(TaskId),
    /// `deployment.plan`.
    Plan(DeploymentId),
}

/// What a span hangs under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanParent {
    /// Nothing: a new trace.
    Root,
    /// A span of this process; the shell knows its context. Falls back to the context beside it.
    Span(SpanKey, Option<TraceContext>),
    /// A context from elsewhere.
    Context(TraceContext),
}

/// Direction of a span, as OpenTelemetry has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceKind {
    /// Within the master.
    Internal,
    /// Hands work to another process.
    Producer,
}

/// Attributes of a span.
pub type TraceAttrs = Vec<(&'static str, String)>;

/// What to do with spans; the shell has the clock's nanoseconds and the exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceOp {
    /// Begin a span now.
    Begin {
        /// Its key, for `End` and for children.
        key: SpanKey,
        /// Its name.
        name: String,
        /// Its kind.
        kind: TraceKind,
        /// Its parent.
        parent: SpanParent,
        /// Attributes.
        attrs: TraceAttrs,
    },
    /// End a span now.
    End {
        /// Which.
        key: SpanKey,
        /// `error.type` and message, when it failed.
        error: Option<(&'static str, String)>,
    },
    /// A span whose start and end are known; its key can be a parent in the same batch.
    Record {
        /// Its key.
        key: SpanKey,
        /// Its name.
        name: String,
        /// Its kind.
        kind: TraceKind,
        /// Its parent.
        parent: SpanParent,
        /// When it began.
        start: UnixMillis,
        /// When it ended.
        end: UnixMillis,
        /// Attributes.
        attrs: TraceAttrs,
    },
}

/// A change of a task that a new generation carries to every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetCause {
    /// The task.
    pub task_id: TaskId,
    /// What its `vip.publish` span hangs under.
    pub parent: SpanParent,
    /// VIP names that it backs, for the span's attributes.
    pub vips: String,
}

/// Something to count or to time; the shell knows the metric registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// Level 1 took something in, and offered what could be offered.
    Allocation {
        /// Nanoseconds by [`super::CoreConfig::stopwatch`].
        ns: u64,
        /// Offers that it made.
        offers: u64,
        /// Times that an agent was looked at for somebody to offer it to.
        looked_at: u64,
    },
    /// An offer came to an end: accepted, declined, rescinded, expired.
    Offers {
        /// How.
        outcome: &'static str,
        /// Name of the framework.
        framework: String,
        /// To which of its roles.
        role: String,
        /// How many.
        n: u64,
    },
    /// From an offer to its end, in milliseconds.
    OfferLifetime {
        /// How it ended.
        outcome: &'static str,
        /// Name of the framework.
        framework: String,
        /// Milliseconds.
        ms: u64,
    },
    /// From an offer to a launch on it, in milliseconds.
    OfferToLaunch {
        /// Name of the framework.
        framework: String,
        /// Milliseconds.
        ms: u64,
        /// The trace that it was for.
        trace: Option<TraceContext>,
    },
    /// From sending a task to its agent until it runs, in milliseconds.
    LaunchToRunning {
        /// Name of the framework.
        framework: String,
        /// Milliseconds.
        ms: u64,
        /// The task's span.
        trace: Option<TraceContext>,
    },
    /// An instance of a service was launched in place of one that ended by itself.
    Restarted,
    /// A deployment ended.
    Deployment {
        /// As in [`EndedDeployment`](crate::view::EndedDeployment).
        outcome: &'static str,
        /// From the request, in milliseconds.
        ms: u64,
        /// Its span.
        trace: Option<TraceContext>,
    },
    /// An agent reported a task.
    Status {
        /// Mesos's name of the reported state.
        state: &'static str,
    },
    /// The framework did not use an offer.
    Declined {
        /// Why.
        reason: &'static str,
    },
    /// A state changed: becomes a log record with this event name (OBSERVABILITY 4.4).
    Event {
        /// `waggle.task.state_changed`, ..
        name: &'static str,
        /// Attributes.
        attrs: TraceAttrs,
        /// The trace that it belongs to.
        trace: Option<TraceContext>,
    },
    /// A reservation, or another change of what is reserved, was refused or has no room any more.
    ReservationFailed {
        /// For which role.
        role: String,
    },
    /// There was no subnet of a network for an agent.
    NetworkExhausted {
        /// Which; empty: no address for its tunnel endpoint.
        network: String,
    },
    /// A run of a job has ended.
    JobRun {
        /// `success` or `failed`.
        outcome: &'static str,
        /// Since it began, in milliseconds.
        ms: u64,
    },
    /// A time of a job's schedule has no run.
    JobSkipped {
        /// Why.
        reason: &'static str,
    },
    /// Something was refused or dropped.
    Rejected {
        /// Why.
        reason: &'static str,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To `Put`, `Remove`, `Restart` and `ChangeTree`.
    Deployment(Result<Deployment, MasterError>),
    /// To `PlanTree`.
    Plan(Result<DeploymentPlan, MasterError>),
    /// To `AskGroup`.
    Group(Result<GroupAnswer, MasterError>),
    /// To `Kill` and `Cancel`: a deployment when there is a new one.
    Maybe(Result<Option<Deployment>, MasterError>),
    /// To `Subscribe`, `Call` and `Operate`.
    Called(Result<(), Vec<CallRejection>>),
    /// To `ResetDelay`.
    Done(Result<(), MasterError>),
    /// To `Job`.
    Job(Result<JobAnswer, MasterError>),
    /// To `Explain`.
    Explained(Result<Explained, MasterError>),
}

/// What to do. Effects of one call are run in order; nothing after a `Persist` runs before that is
/// durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write to the store.
    Persist(Vec<StoreOp>),
    /// A session is accepted: it may get messages and desired state from here on.
    Opened {
        /// The session.
        session: SessionId,
        /// Whose.
        agent_id: AgentId,
    },
    /// Send to an agent.
    SendAgent {
        /// Its session.
        session: SessionId,
        /// What.
        msg: MasterMsg,
    },
    /// End a session, after what was sent before.
    Close {
        /// The session.
        session: SessionId,
    },
    /// Say something to a framework.
    SendFramework {
        /// Its subscription.
        subscription: SubscriptionId,
        /// What.
        event: SchedulerEvent,
    },
    /// End a subscription, after what was said before.
    CloseFramework {
        /// Which.
        subscription: SubscriptionId,
        /// Why; the last that the framework hears.
        why: CallRejection,
    },
    /// Push to every open session, now and when it opens.
    PublishNet {
        /// The document; `causes` are empty.
        snapshot: Arc<NetSnapshot>,
        /// Its causes; the shell records a `vip.publish` span for each.
        causes: Vec<NetCause>,
    },
    /// Answer an API request.
    Reply {
        /// Which.
        request: RequestId,
        /// What.
        answer: Answer,
    },
    /// Tell who listens to events of services.
    Say {
        /// What.
        news: News,
        /// When it happened.
        at: UnixMillis,
    },
    /// Trace.
    Trace(TraceOp),
    /// Count.
    Measure(Measure),
}
