//! A framework's end of the core, for tests.

use waggle_types::{FrameworkInfo, OfferId, RejectReason, SchedulerCall};

use super::*;

pub(super) type Called = Result<(), Vec<CallRejection>>;

pub(super) fn batch(id: Option<&FrameworkId>) -> FrameworkInfo {
    FrameworkInfo {
        id: id.cloned(),
        failover_timeout: Millis(20_000),
        ..FrameworkInfo::new("batch", "batch")
    }
}

pub(super) fn task(id: &str) -> TaskSpec {
    TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: TaskId::new(id).unwrap(),
        framework_id: FrameworkId::new("anybody").unwrap(),
        framework_name: "marathon".into(),
        role: "*".into(),
        name: id.into(),
        command: Command::Shell("true".into()),
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::from_millis(1000, 64_000, 0),
        ports: Vec::new(),
        parts: Vec::new(),
        discovery: waggle_types::DiscoveryInfo { name: id.into() },
        health_checks: Vec::new(),
        kill_grace: Millis(3000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}

/// A framework's end of a subscription.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) id: FrameworkId,
    pub(super) subscription: SubscriptionId,
}

impl World {
    pub(super) fn subscribe(&mut self, info: FrameworkInfo) -> Result<Client, Vec<CallRejection>> {
        self.n_ids += 1;
        let subscription = SubscriptionId(self.n_ids);
        let fresh = FrameworkId::new(format!("fw-{}", self.n_ids)).unwrap();
        self.event(Event::Subscribe {
            request: RequestId(self.n_ids),
            subscription,
            info: Box::new(info),
            fresh_id: fresh,
        });
        self.called()?;
        let id = self.heard.iter().find_map(|(s, e)| match e {
            SchedulerEvent::Subscribed { framework_id } if *s == subscription => {
                Some(framework_id.clone())
            }
            _ => None,
        });
        Ok(Client {
            id: id.unwrap(),
            subscription,
        })
    }

    pub(super) fn called(&mut self) -> Called {
        match self.answers.pop().unwrap() {
            Answer::Called(c) => c,
            other => panic!("wrong answer {other:?}"),
        }
    }

    pub(super) fn call(&mut self, c: &Client, call: SchedulerCall) -> Called {
        self.do_call(c, FrameworkCall::Scheduler(call))
    }

    pub(super) fn do_call(&mut self, c: &Client, call: FrameworkCall) -> Called {
        self.n_ids += 1;
        self.event(Event::Call {
            request: RequestId(self.n_ids),
            framework_id: c.id.clone(),
            subscription: c.subscription,
            call: Box::new(call),
        });
        self.called()
    }

    pub(super) fn leave(&mut self, c: &Client) {
        let subscription = c.subscription;
        self.event(Event::Unsubscribed { subscription });
    }

    /// Offers that are out to a framework, by agent.
    pub(super) fn offers_of(&mut self, c: &Client) -> Vec<OfferId> {
        let offers = self.view().offers;
        let mine = offers.into_iter().filter(|o| o.framework_id == c.id);
        mine.map(|o| o.offer_id.clone()).collect()
    }

    pub(super) fn accept(
        &mut self,
        c: &Client,
        offer_ids: Vec<OfferId>,
        tasks: Vec<TaskSpec>,
    ) -> Called {
        let refuse = Millis(0);
        self.call(c, SchedulerCall::launch(offer_ids, tasks, refuse))
    }

    /// Updates that a framework heard, oldest first.
    pub(super) fn updates(&self, c: &Client) -> Vec<TaskStatus> {
        let mine = self.heard.iter().filter(|(s, _)| *s == c.subscription);
        mine.filter_map(|(_, e)| match e {
            SchedulerEvent::Update(s) => Some(s.clone()),
            _ => None,
        })
        .collect()
    }

    pub(super) fn acks(&self, task: &TaskId) -> usize {
        let ack = |m: &&(AgentId, MasterMsg)| matches!(&m.1, MasterMsg::Ack { task_id, .. } if task_id == task);
        self.sent.iter().filter(ack).count()
    }

    pub(super) fn kills(&self, task: &TaskId) -> usize {
        let kill = |m: &&(AgentId, MasterMsg)| matches!(&m.1, MasterMsg::Kill { task_id, .. } if task_id == task);
        self.sent.iter().filter(kill).count()
    }
}

pub(super) fn reasons(called: Called) -> Vec<RejectReason> {
    called.unwrap_err().iter().map(|r| r.reason).collect()
}
