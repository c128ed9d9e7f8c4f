//! The tasks that live on this node: their processes, checks, figures and output.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use waggle_api::proto::session as pb;
use waggle_lifecycle::{Event, Exit, RunningChecks, check_name};
use waggle_overlay_plan::Fact;
use waggle_telemetry::{ActiveSpan, SpanKind, Telemetry, names};
use waggle_telemetry_pipeline::TaskLabels;
use waggle_types::{
    AgentId, CheckPurpose, HealthCheck, HealthState, NetworkMode, Resources, StatusReason, TaskId,
    TaskSpec, TaskState, TaskStatus, TraceContext,
};

use crate::{
    AgentConfig,
    cgroup::{self, CgroupHost, NodeLimits, TaskCgroup},
    checkpoint::TaskDir,
    checks::{Checks, Reach, Target, Wanted},
    clock,
    endings::Endings,
    figures::Figures,
    images,
    launch::{self, CLEAN_TIMEOUT, Launch, Shim},
    logs::NodeQuota,
    net::{Net, chain},
    networks::Networks,
    observe::Watched,
    parts::Parts,
    run::Input,
    runtime::{NodeFacts, Ports},
    scrape::{Pages, pages},
    senders::Senders,
    sys::{self, ProcessId},
    tidy::DiskWatch,
    traffic::{Awaiting, OwnDials, Traffic},
};

/// What a live task has.
pub struct Live {
    spec: Arc<TaskSpec>,
    dir: TaskDir,
    // Ends its launch, as long as its shim was not started.
    launching: Option<CancellationToken>,
    shim: Option<Arc<OwnedFd>>,
    process: Option<Arc<OwnedFd>>,
    watched: Option<Arc<Mutex<Watched>>>,
    // Of `watched`, which a tick may hold for long.
    labels: Option<Arc<TaskLabels>>,
    // What this agent opens to it.
    dials: Arc<OwnDials>,
    // The newest result of each check, for the log: only changes are told.
    results: BTreeMap<usize, bool>,
    // Where the agent's spans of this task hang: `task.receive`.
    trace: Option<TraceContext>,
    running_ns: u64,
    received_ns: u64,
    first_pass: Option<ActiveSpan>,
}

/// All of them, and what starting more takes.
pub struct Tasks {
    config: Arc<AgentConfig>,
    agent_id: AgentId,
    ports: Ports,
    senders: Arc<Senders>,
    figures: Arc<Figures>,
    endings: Arc<Endings>,
    cgroups: CgroupHost,
    net: Arc<Net>,
    parts: Arc<Parts>,
    telemetry: Telemetry,
    inputs: mpsc::Sender<Input>,
    checks: Checks,
    live: BTreeMap<TaskId, Live>,
    // Since the agent began, by Mesos's name of the state.
    ended: BTreeMap<&'static str, u64>,
    // Dropping it ends every helper, so an agent that is dropped leaves nothing but processes.
    jobs: JoinSet<()>,
}

impl Tasks {
    /// None yet.
    pub fn new(
        config: Arc<AgentConfig>,
        (agent_id, ports): (AgentId, Ports),
        cgroups: CgroupHost,
        net: Arc<Net>,
        parts: Arc<Parts>,
        telemetry: Telemetry,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let (checks, mut jobs) = (Checks::default(), JoinSet::new());
        jobs.spawn(checks.clone().run(
            config.max_concurrent_checks,
            telemetry.clone(),
            inputs.clone(),
        ));
        Self {
            config,
            agent_id,
            ports,
            senders: Arc::default(),
            figures: Arc::default(),
            endings: Arc::default(),
            cgroups,
            net,
            parts,
            telemetry,
            inputs,
            checks,
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            jobs,
        }
    }

    /// Helpers that have ended are forgotten.
    pub fn reap(&mut self) {
        while let Some(done) = self.jobs.try_join_next() {
            if let Err(e) = done
                && e.is_panic()
            {
                tracing::error!(error = %e, "a helper of the agent panicked");
            }
        }
    }

    /// Runs something for as long as the agent lives.
    pub fn spawn(&mut self, job: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.jobs.spawn(job)
    }

    /// Starts a task whose spec is durable; answers with `Running` or `Exited`.
    pub fn launch(&mut self, spec: TaskSpec, dir: TaskDir) {
        let task_id = spec.task_id.clone();
        let received_ns = clock::now_ns();
        let node = self.config.hostname.clone();
        let receive = self.telemetry.record_span(
            "task.receive",
            SpanKind::Consumer,
            spec.trace,
            received_ns,
            clock::now_ns(),
            vec![
                ("waggle.task.id", task_id.as_str().into()),
                ("waggle.node", node.into()),
            ],
        );
        let spec = Arc::new(spec);
        let launch = Launch {
            dir: dir.clone(),
            cgroup: self.cgroups.task(task_id.as_str()),
            logs: self.config.logs.defaults,
            limits: NodeLimits {
                cpu_hard: self.config.cpu_hard_limits,
                pids: self.config.runtime.pids,
            },
            parts: Arc::clone(&self.parts),
            node: NodeFacts::new(&self.config, self.agent_id.clone(), self.ports),
            trace: Some(receive),
            command: self.config.shim.clone(),
            cancelled: CancellationToken::new(),
            telemetry: self.telemetry.clone(),
            spec: Arc::clone(&spec),
        };
        let create = self.telemetry.begin_span(
            "container.create",
            SpanKind::Internal,
            Some(receive),
            vec![("waggle.task.id", task_id.as_str().into())],
        );
        let live = Live {
            trace: Some(receive),
            received_ns,
            launching: Some(launch.cancelled.clone()),
            ..Live::new(spec, dir)
        };
        self.live.insert(task_id.clone(), live);
        let inputs = self.inputs.clone();
        self.jobs.spawn(async move {
            let (input, rest) = match launch.run().await {
                Ok(shim) => {
                    create.end();
                    (Input::Running { task_id, shim }, None)
                }
                Err(failed) => {
                    let mut create = create;
                    create.error("launch_failed", &failed.exit.describe());
                    create.end();
                    let exit = failed.exit;
                    (Input::Event(Event::Exited { task_id, exit }), failed.rest)
                }
            };
            let _ = inputs.send(input).await;
            if let Some(rest) = rest {
                rest.await;
            }
        });
    }

    /// Takes a task that was found running, or whose end is known and not acknowledged yet.
    pub fn adopt(&mut self, spec: TaskSpec, dir: TaskDir, shim: Option<Shim>) {
        let task_id = spec.task_id.clone();
        let trace = spec.trace;
        let live = Live {
            trace,
            ..Live::new(Arc::new(spec), dir)
        };
        self.live.insert(task_id.clone(), live);
        if let Some(shim) = shim {
            self.watch(&task_id, shim);
        }
    }

    /// A task that ended while no agent watched: its last figures and output are still to be read.
    pub fn observe_ended(&mut self, task_id: &TaskId, process: Option<ProcessId>) {
        if let (Some(live), Some(process)) = (self.live.get_mut(task_id), process) {
            let cgroup = self.cgroups.task(task_id.as_str());
            live.observe(
                &self.config,
                &self.agent_id,
                (&self.net, &self.telemetry),
                cgroup,
                process,
            );
        }
    }

    /// Watches a task's shim and process, and begins to observe it. Returns its process id.
    pub fn watch(&mut self, task_id: &TaskId, shim: Shim) -> Option<u32> {
        let live = self.live.get_mut(task_id)?;
        let cgroup = self.cgroups.task(task_id.as_str());
        live.shim = Some(Arc::clone(&shim.fd));
        let (inputs, id) = (self.inputs.clone(), task_id.clone());
        let outcome = launch::outcome(live.dir.clone(), cgroup.clone(), Arc::clone(&shim.fd));
        self.jobs.spawn(async move {
            let exit = outcome.await;
            let event = Event::Exited { task_id: id, exit };
            let _ = inputs.send(Input::Event(event)).await;
        });
        let Some(process) = shim.process else {
            // Adopted while its shim was starting it: the shim says so by writing a file.
            let (inputs, id, dir) = (self.inputs.clone(), task_id.clone(), live.dir.clone());
            self.jobs.spawn(async move {
                let mut tick = tokio::time::interval(Duration::from_millis(50));
                while dir.process().is_none() && dir.exit().is_none() {
                    tick.tick().await;
                }
                if let process @ Some(_) = dir.process() {
                    let shim = Shim {
                        process,
                        fd: shim.fd,
                    };
                    let _ = inputs.send(Input::Running { task_id: id, shim }).await;
                }
            });
            return None;
        };
        live.running_ns = clock::now_ns();
        live.observe(
            &self.config,
            &self.agent_id,
            (&self.net, &self.telemetry),
            cgroup.clone(),
            process,
        );
        if let Some(labels) = &live.labels {
            let own = self.parts.networks.own(task_id);
            self.senders.add(labels, &cgroup, own);
        }
        if let Ok(fd) = process.open() {
            let fd = Arc::new(fd);
            live.process = Some(Arc::clone(&fd));
            let (inputs, id) = (self.inputs.clone(), task_id.clone());
            self.jobs.spawn(async move {
                launch::ended(fd).await;
                let _ = inputs.send(Input::Event(Event::ProcessGone(id))).await;
            });
        }
        Some(process.pid)
    }

    /// A launch has succeeded: spans and figures of it.
    pub fn launched(&self, task_id: &TaskId) {
        let Some(live) = self.live.get(task_id) else {
            return;
        };
        if live.received_ns == 0 {
            return;
        }
        let now_ns = clock::now_ns();
        let attrs = vec![
            ("waggle.task.id", task_id.as_str().into()),
            ("waggle.node", self.config.hostname.as_str().into()),
        ];
        let telemetry = &self.telemetry;
        let kind = SpanKind::Internal;
        telemetry.record_span(
            "task.running",
            kind,
            live.trace,
            live.received_ns,
            now_ns,
            attrs,
        );
        let took = now_ns.saturating_sub(live.received_ns) as f64 / 1e9;
        let outcome = [(names::OUTCOME, "running".into())];
        telemetry.record(&names::AGENT_LAUNCH_DURATION, &outcome, took);
    }

    /// Runs these checks of a running task, and no others.
    pub fn start_checks(&mut self, task_id: &TaskId, run: &RunningChecks) {
        let Some(live) = self.live.get_mut(task_id) else {
            return;
        };
        let spec = &live.spec;
        if HealthCheck::any(&spec.health_checks, CheckPurpose::Health)
            && run.health == HealthState::Unknown
            && live.first_pass.is_none()
        {
            live.first_pass = Some(self.telemetry.begin_span(
                "healthcheck.first_pass",
                SpanKind::Internal,
                live.trace,
                vec![("waggle.task.id", task_id.as_str().into())],
            ));
        }
        let reach = live.reach(self.config.ip);
        let target = Target {
            task_id: task_id.clone(),
            dir: live.dir.path().to_owned(),
            ports: spec.ports.clone(),
            reach,
        };
        let age = clock::now().since(run.since).as_duration();
        let wanted = run.idxs.iter().filter_map(|idx| {
            let check = spec.health_checks.get(*idx)?.clone();
            Some(Wanted {
                idx: *idx,
                age,
                passed: match check.purpose {
                    CheckPurpose::Health => run.health != HealthState::Unknown,
                    CheckPurpose::Readiness => run.ready == Some(true),
                    CheckPurpose::Startup | CheckPurpose::Report => false,
                },
                check,
            })
        });
        self.checks.set(target, wanted.collect());
    }

    /// Says so when a check begins to fail or to pass. Failures that do not count yet are for debugging only.
    pub fn checked(
        &mut self,
        task_id: &TaskId,
        idx: usize,
        result: &Result<(), String>,
        in_grace: bool,
    ) {
        let Some(live) = self.live.get_mut(task_id) else {
            return;
        };
        let Some(check) = live.spec.health_checks.get(idx) else {
            return;
        };
        let before = live.results.insert(idx, result.is_ok());
        if before == Some(result.is_ok()) {
            return;
        }
        let check = check_name(idx, check);
        match result {
            Ok(()) => tracing::info!(%task_id, check, "health check passes"),
            Err(error) if in_grace => {
                // The first failure that counts is news.
                live.results.remove(&idx);
                tracing::debug!(%task_id, check, error, "health check fails in its grace period");
            }
            Err(error) => tracing::info!(%task_id, check, error, "health check fails"),
        }
    }

    /// Tells state and health to the data plane; with a status, which is a change, also to people and telemetry.
    pub fn fact(&mut self, task_id: &TaskId, fact: Fact, status: Option<&TaskStatus>) {
        self.net.fact(task_id.clone(), fact);
        if status.is_some() && fact.state.is_terminal() {
            *self.ended.entry(fact.state.mesos_name()).or_default() += 1;
        }
        let Some(live) = self.live.get_mut(task_id) else {
            return;
        };
        let health = fact.health;
        if health == HealthState::Healthy
            && let Some(span) = live.first_pass.take()
        {
            span.end();
        }
        let Some(status) = status else { return };
        let (state, health) = (fact.state.mesos_name(), health_name(health));
        let reason = status.reason.map_or("", reason_name);
        let message = status.message.as_str();
        tracing::info!(%task_id, state, health, reason, why = message, "task changed");
        let mut attrs = vec![
            (names::STATE, state.into()),
            ("waggle.health", health.into()),
            ("waggle.task.id", task_id.as_str().into()),
        ];
        if let Some(ready) = fact.ready {
            attrs.push(("waggle.ready", ready.into()));
        }
        if !reason.is_empty() {
            attrs.push(("waggle.reason", reason.into()));
        }
        if !message.is_empty() {
            attrs.push(("waggle.message", message.into()));
        }
        let name = "waggle.task.state_changed";
        self.telemetry
            .event_in(name, live.labels.as_ref(), live.trace, attrs);
    }

    /// Asks the shim to end the task: SIGTERM, grace, SIGKILL.
    pub fn kill(&self, task_id: &TaskId) {
        let Some(shim) = self.live.get(task_id).and_then(|l| l.shim.as_ref()) else {
            return;
        };
        if let Err(e) = sys::pidfd_signal(shim, libc::SIGTERM) {
            // It has ended: its exit is on its way.
            tracing::debug!(%task_id, error = %e, "shim not signalled");
        }
    }

    /// Nobody waits for an image of a task that is not wanted any more.
    pub fn cancel(&self, task_id: &TaskId) {
        if let Some(launching) = self.live.get(task_id).and_then(|l| l.launching.as_ref()) {
            launching.cancel();
        }
    }

    /// Kills everything of the task without its shim's help.
    pub fn force_kill(&mut self, task_id: &TaskId) {
        let Some(live) = self.live.get(task_id) else {
            return;
        };
        tracing::warn!(%task_id, "task did not end in its grace period");
        if let Some(process) = &live.process {
            let _ = sys::pidfd_signal(process, libc::SIGKILL);
        }
        let cgroup = self.cgroups.task(task_id.as_str());
        self.jobs.spawn(async move {
            let _ = tokio::task::spawn_blocking(move || cgroup.kill_and_wait(CLEAN_TIMEOUT)).await;
        });
    }

    /// A task is over: last figures and output, then its cgroup goes.
    pub fn release(&mut self, task_id: &TaskId, state: TaskState, exit: &Exit) {
        let Some(live) = self.live.get_mut(task_id) else {
            return;
        };
        self.checks.stop(task_id);
        self.senders.remove(task_id);
        let error = exit.describe();
        if let Some(mut span) = live.first_pass.take() {
            span.error("task_ended", &error);
            span.end();
        }
        let watched = live.watched.take();
        (live.shim, live.process) = (None, None);
        let mut attrs = vec![(names::STATE, state.mesos_name().into())];
        let kind = error_type(exit);
        if let Some(kind) = kind {
            attrs.push((names::ERROR_TYPE, kind.into()));
        }
        self.telemetry.count(&names::TASK_EXITS, &attrs, 1);
        if kind == Some("oom") {
            let attrs = vec![("waggle.message", error.into())];
            let name = "waggle.container.oom_killed";
            self.telemetry
                .event_in(name, live.labels.as_ref(), live.trace, attrs);
        }
        let cgroup = self.cgroups.task(task_id.as_str());
        let (net, telemetry, id) = (
            Arc::clone(&self.net),
            self.telemetry.clone(),
            task_id.clone(),
        );
        let (parts, endings) = (Arc::clone(&self.parts), Arc::clone(&self.endings));
        self.jobs.spawn(async move {
            if let Some(watched) = watched {
                endings.end(watched, &net, &telemetry).await;
            }
            let done = tokio::task::spawn_blocking(move || {
                telemetry.task_gone(&id);
                let removed = cgroup.remove(CLEAN_TIMEOUT);
                let mut left = parts.release(&id);
                left.extend(removed.err().map(|e| chain(&e)));
                left
            });
            for error in done.await.unwrap_or_default() {
                tracing::warn!(error, "something of an ended task stays");
            }
        });
    }

    /// What a running container may use has changed; memory never gets less than it has.
    pub fn limit(&mut self, container: &TaskId, resources: &Resources) {
        let Some(live) = self.live.get(container).filter(|l| l.shim.is_some()) else {
            return;
        };
        let spec = TaskSpec {
            resources: resources.clone(),
            ..live.spec.as_ref().clone()
        };
        let node = NodeLimits {
            cpu_hard: self.config.cpu_hard_limits,
            pids: self.config.runtime.pids,
        };
        let cgroup = self.cgroups.task(container.as_str());
        let set = cgroup::limits(&spec, node)
            .and_then(|limits| cgroup.update(&limits).map_err(|e| chain(&e)));
        if let Err(error) = set {
            tracing::warn!(%container, error, "an executor's limits stay as they were");
        }
    }

    /// Nobody is owed anything of a task.
    pub fn forget(&mut self, task_id: &TaskId) {
        self.live.remove(task_id);
        self.net.forget(task_id.clone());
    }

    /// Who may send telemetry.
    pub fn senders(&self) -> Arc<Senders> {
        Arc::clone(&self.senders)
    }

    /// What was read of tasks last.
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }

    /// The pages with metrics that running tasks have.
    pub fn pages(&self) -> Pages {
        let mut all = Pages::default();
        let running = self.live.iter().filter(|(_, l)| l.process.is_some());
        for (task_id, live) in running {
            let ports = &live.spec.ports;
            if ports.iter().any(|p| p.metrics.is_some())
                && let Some(sender) = self.senders.of_task(task_id)
            {
                pages(&sender, ports, &live.reach(self.config.ip), &mut all);
            }
        }
        all
    }

    /// Tasks that have ended since the agent began, by Mesos's name of the state.
    pub const fn ended(&self) -> &BTreeMap<&'static str, u64> {
        &self.ended
    }

    /// The node's networks.
    pub fn networks(&self) -> Arc<Networks> {
        Arc::clone(&self.parts.networks)
    }

    /// What is measured of each running task's disk.
    pub fn disk_watches(&self) -> Vec<DiskWatch> {
        let running = self.live.iter().filter(|(_, l)| l.shim.is_some());
        running
            .map(|(task_id, live)| DiskWatch {
                task_id: task_id.clone(),
                sandbox: live.dir.sandbox(),
                // With a user namespace the image's own files are there too, copied.
                written: (live.spec.container.image.is_some()
                    && !live.spec.container.isolation.user_namespace)
                    .then(|| images::written(live.dir.path())),
                spec: Arc::clone(&live.spec),
                labels: live.labels.clone(),
            })
            .collect()
    }

    /// What their output may take together.
    pub fn log_quota(&self) -> NodeQuota {
        NodeQuota::new(self.config.logs.node_quota_bytes)
    }

    /// What is observed of each running task, for the tick.
    pub fn watched(&self) -> Vec<Arc<Mutex<Watched>>> {
        let all = self.live.values().filter_map(|l| l.watched.clone());
        all.collect()
    }

    /// A span's context for the task's own messages.
    pub fn contains(&self, task_id: &TaskId) -> bool {
        self.live.contains_key(task_id)
    }
}

impl Live {
    fn new(spec: Arc<TaskSpec>, dir: TaskDir) -> Self {
        Self {
            spec,
            dir,
            launching: None,
            shim: None,
            process: None,
            watched: None,
            labels: None,
            dials: Arc::default(),
            results: BTreeMap::new(),
            trace: None,
            running_ns: 0,
            received_ns: 0,
            first_pass: None,
        }
    }

    /// How its ports are reached.
    fn reach(&self, node: Ipv4Addr) -> Reach {
        match &self.process {
            Some(process) if self.spec.container.network != NetworkMode::Host => {
                Reach::Inside(Arc::clone(process))
            }
            _ => Reach::Node(node, Arc::clone(&self.dials)),
        }
    }

    fn observe(
        &mut self,
        config: &AgentConfig,
        agent_id: &AgentId,
        (net, telemetry): (&Net, &Telemetry),
        cgroup: TaskCgroup,
        process: ProcessId,
    ) {
        let launched = (self.received_ns > 0).then_some(self.received_ns);
        let traffic = Awaiting {
            traffic: Traffic::of(&self.dir, launched),
            dials: Arc::clone(&self.dials),
            here: [Some(config.ip.into()), config.ip6.map(Into::into)],
            trace: self.spec.trace,
        };
        let (spec, dir) = (&self.spec, &self.dir);
        let watched = Watched::new(config, agent_id, (spec, dir), cgroup, process, traffic);
        watched.watch(net, telemetry);
        self.labels = Some(watched.labels());
        self.watched = Some(Arc::new(Mutex::new(watched)));
    }
}

const fn health_name(health: HealthState) -> &'static str {
    match health {
        HealthState::Unknown => "unknown",
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
    }
}

/// As on the wire.
fn reason_name(reason: StatusReason) -> &'static str {
    pb::StatusReason::from(reason).as_str_name()
}

fn error_type(exit: &Exit) -> Option<&'static str> {
    match exit {
        Exit::Code(0) => None,
        Exit::Code(_) => Some("exit_code"),
        Exit::Signal(_) => Some("signal"),
        Exit::OutOfMemory { .. } => Some("oom"),
        Exit::LaunchFailed(_) => Some("launch_failed"),
        Exit::NeverStarted => Some("never_started"),
        Exit::Cancelled => Some("cancelled"),
        Exit::Unknown => Some("unknown"),
    }
}
