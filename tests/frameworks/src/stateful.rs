//! A stateful framework: one task that keeps its data in a persistent volume.
//!
//! The first offer that fits is reserved for the framework's role, its disk made a volume and the task
//! launched on it, in one accept. When the task ends it is launched again where its volume is: the volume's
//! name and its own id are all that the framework has to remember. When it is asked to leave an agent
//! it promises to, ends the task and begins anew elsewhere. What it leaves behind it gives back.

use tokio::sync::watch;
use tonic::transport::Channel;
use waggle_api::client::{CallError, Calls, connect};
use waggle_types::{
    AgentId, ContainerSpec, FrameworkId, FrameworkInfo, InverseOffer, Milli, Millis, Offer,
    Operation, Reservation, ResourcePart, Resources, RoleSubscription, ScalarKind, SchedulerEvent,
    TaskId, TaskState, TaskStatus, Volume, VolumeId,
};

use crate::again::{PAUSE, is_final, lost, task};

/// For offers that are of no use now.
const REFUSE: Millis = Millis::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct Service {
    /// DNS name of the framework, and principal of its reservations.
    pub name: String,
    /// The role to reserve for; not `*`.
    pub role: String,
    /// Prefix of task and volume ids: unique over the cluster and time.
    pub prefix: String,
    /// What the task runs.
    pub command: String,
    /// How the task is contained. Its volume is `volumes/<its id>` in its sandbox.
    pub container: ContainerSpec,
    /// What the task takes; its disk becomes the volume.
    pub resources: Resources,
    /// The id of the first subscription, to come back with.
    pub id: Option<FrameworkId>,
    /// The volume to come back to. `None` begins anew, and gives back what is found of older ones.
    pub volume: Option<VolumeId>,
}

/// What happened so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its id: what to remember, with the volume.
    pub framework_id: Option<FrameworkId>,
    /// The volume in use and its agent.
    pub home: Option<(VolumeId, AgentId)>,
    /// Tasks launched in reservations made for them.
    pub n_settled: usize,
    /// Tasks launched where the volume was already.
    pub n_returned: usize,
    /// Agents that it left because it was asked to.
    pub n_moved: usize,
    /// Reservations given back with their volumes.
    pub n_given_back: usize,
}

/// Runs until it is dropped, or refused for good. Every change is told to `seen`.
pub async fn run(
    channel: Channel,
    service: Service,
    seen: watch::Sender<Seen>,
) -> Result<(), CallError> {
    let role = RoleSubscription {
        smallest: Some(service.without_disk()),
        ..RoleSubscription::new(&*service.role)
    };
    let mut info = FrameworkInfo {
        id: service.id.clone(),
        roles: vec![role],
        failover_timeout: Millis::from_secs(3600),
        ..FrameworkInfo::new(&*service.name, &*service.role)
    };
    let mut stateful = Stateful {
        service,
        seen,
        running: None,
        n_tasks: 0,
    };
    loop {
        match stateful.subscribed(channel.clone(), &mut info).await {
            Ok(()) => return Ok(()),
            Err(e) if is_final(&e) => return Err(e),
            Err(e) => {
                tracing::info!(error = %e, "subscribing again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Service {
    /// Also the smallest offer that is of use: at home the disk is a volume.
    fn without_disk(&self) -> Resources {
        let mut r = self.resources.clone();
        r.scalars[ScalarKind::Disk as usize] = Milli(0);
        r
    }

    fn stack(&self) -> Vec<Reservation> {
        vec![Reservation::dynamic(&*self.role, &*self.name)]
    }

    fn volume_size(&self) -> Volume {
        Volume {
            size: self.resources.get(ScalarKind::Disk),
            shared: false,
        }
    }

    /// What an offer holds of the framework's own reservation.
    fn own<'a>(&self, offer: &'a Offer) -> Option<&'a Resources> {
        let stack = self.stack();
        let own = |p: &&ResourcePart| p.reservation == stack && !p.revocable;
        offer.parts.iter().find(own).map(|p| &p.resources)
    }

    /// Reserves what the task takes and makes its disk a volume.
    fn settle(&self, volume_id: VolumeId) -> Vec<Operation> {
        let reserve = Operation::Reserve {
            stack: self.stack(),
            resources: self.resources.clone(),
        };
        let create = Operation::CreateVolume {
            stack: self.stack(),
            volume_id,
            volume: self.volume_size(),
        };
        vec![reserve, create]
    }

    /// Runs the task on its volume.
    fn launch(&self, framework: &FrameworkId, id: TaskId, volume_id: VolumeId) -> Operation {
        let mut resources = self.without_disk();
        resources.custom.set_volume(volume_id, self.volume_size());
        let part = ResourcePart {
            reservation: self.stack(),
            revocable: false,
            resources: resources.clone(),
        };
        let mut spec = task(framework, id, &self.command, resources);
        spec.parts = vec![part];
        spec.container.clone_from(&self.container);
        Operation::Launch(vec![spec])
    }

    /// Destroys what volumes there are and ends the reservation.
    fn give_back(&self, own: &Resources) -> Vec<Operation> {
        let mut resources = own.clone();
        let mut operations = Vec::new();
        for (volume_id, volume) in own.custom.volumes() {
            resources.custom.remove_volume(volume_id);
            resources.scalars[ScalarKind::Disk as usize].0 += volume.size.0;
            operations.push(Operation::DestroyVolume {
                stack: self.stack(),
                volume_id: volume_id.clone(),
            });
        }
        operations.push(Operation::Unreserve {
            stack: self.stack(),
            resources,
        });
        operations
    }
}

struct Stateful {
    service: Service,
    seen: watch::Sender<Seen>,
    running: Option<TaskId>,
    n_tasks: usize,
}

/// What an offer is used for.
enum Use {
    Settle(VolumeId, TaskId),
    Return(VolumeId, TaskId),
    GiveBack(Resources),
    Nothing,
}

impl Stateful {
    async fn subscribed(
        &mut self,
        channel: Channel,
        info: &mut FrameworkInfo,
    ) -> Result<(), CallError> {
        let (mut calls, mut events) = connect(channel, info).await?;
        info.id = Some(calls.framework_id().clone());
        self.seen
            .send_modify(|s| s.framework_id.clone_from(&info.id));
        if let Some(id) = &self.running {
            calls.reconcile(std::slice::from_ref(id)).await?;
        }
        loop {
            match events.next().await?.ok_or_else(lost)? {
                SchedulerEvent::Offers(offers) => {
                    for offer in offers {
                        self.offered(&mut calls, offer).await?;
                    }
                }
                SchedulerEvent::Update(status) => self.update(&mut calls, status).await?,
                SchedulerEvent::InverseOffer(offer) => self.leave(&mut calls, offer).await?,
                SchedulerEvent::AgentLost(agent) => _ = self.forget_home(&agent),
                _ => {}
            }
        }
    }

    fn choose(&mut self, offer: &Offer) -> Use {
        let own = self.service.own(offer);
        let next = || TaskId::new(format!("{}-{}", self.service.prefix, self.n_tasks + 1)).ok();
        match (own, &self.service.volume) {
            (Some(own), Some(id)) if own.custom.volume(id).is_some() => match self.running {
                None => next().map_or(Use::Nothing, |task| Use::Return(id.clone(), task)),
                Some(_) => Use::Nothing,
            },
            (Some(own), _) => Use::GiveBack(own.clone()),
            (None, None) if self.running.is_none() && offer.unavailability.is_none() => {
                let fits =
                    offer.parts.is_empty() && offer.resources.contains(&self.service.resources);
                let volume = |task: &TaskId| VolumeId::new(task.as_str()).ok();
                let ids = next().and_then(|task| Some((volume(&task)?, task)));
                ids.filter(|_| fits)
                    .map_or(Use::Nothing, |(volume, task)| Use::Settle(volume, task))
            }
            (None, _) => Use::Nothing,
        }
    }

    async fn offered(&mut self, calls: &mut Calls, offer: Offer) -> Result<(), CallError> {
        let chosen = self.choose(&offer);
        let framework = calls.framework_id();
        let operations = match &chosen {
            Use::Settle(volume, task) => {
                let mut all = self.service.settle(volume.clone());
                all.push(self.service.launch(framework, task.clone(), volume.clone()));
                all
            }
            Use::Return(volume, task) => {
                vec![self.service.launch(framework, task.clone(), volume.clone())]
            }
            Use::GiveBack(own) => self.service.give_back(own),
            // An accept without operations declines.
            Use::Nothing => Vec::new(),
        };
        if let Use::Settle(volume, task) | Use::Return(volume, task) = &chosen {
            // With an answer that is lost it is not known whether it runs: the reconciliation tells.
            self.running = Some(task.clone());
            self.service.volume = Some(volume.clone());
            self.n_tasks += 1;
        }
        let offers = [offer.offer_id];
        match calls.operate(&offers, &operations, REFUSE, None).await {
            Ok(()) => {}
            Err(CallError::Rejected(why)) => {
                // The offer was taken back while we thought: nothing was done, another one comes.
                tracing::debug!(?why, "an accept was refused");
                match chosen {
                    Use::Settle(..) => (self.running, self.service.volume) = (None, None),
                    Use::Return(..) => self.running = None,
                    Use::GiveBack(_) | Use::Nothing => {}
                }
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        self.seen.send_modify(|s| match chosen {
            Use::Settle(volume, _) => {
                s.home = Some((volume, offer.agent_id));
                s.n_settled += 1;
            }
            Use::Return(volume, _) => {
                s.home = Some((volume, offer.agent_id));
                s.n_returned += 1;
            }
            Use::GiveBack(_) => s.n_given_back += 1,
            Use::Nothing => {}
        });
        Ok(())
    }

    async fn update(&mut self, calls: &mut Calls, status: TaskStatus) -> Result<(), CallError> {
        let over = status.state.is_terminal() || status.state == TaskState::Unknown;
        if over && self.running.as_ref() == Some(&status.task_id) {
            self.running = None;
            // What was declined meanwhile may be of use now.
            calls.revive_roles(&[&self.service.role]).await?;
        }
        if let Some(uuid) = status.uuid {
            calls
                .acknowledge(&status.task_id, &status.agent_id, uuid)
                .await?;
        }
        Ok(())
    }

    /// Promises to leave, and ends what runs there; what it leaves behind is offered then.
    async fn leave(&mut self, calls: &mut Calls, offer: InverseOffer) -> Result<(), CallError> {
        match calls.accept_inverse(&[offer.offer_id]).await {
            // The question was taken back.
            Err(CallError::Rejected(_)) => return Ok(()),
            other => other?,
        }
        if self.forget_home(&offer.agent_id) {
            self.seen.send_modify(|s| s.n_moved += 1);
            if let Some(id) = &self.running {
                calls.kill(id).await?;
            }
        }
        Ok(())
    }

    /// Answers whether it lived there.
    fn forget_home(&mut self, agent: &AgentId) -> bool {
        let lived = self
            .seen
            .send_if_modified(|s| s.home.take_if(|(_, at)| at == agent).is_some());
        if lived {
            self.service.volume = None;
        }
        lived
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{OfferId, Unavailability, UnixMillis};

    use super::*;

    fn stateful() -> Stateful {
        let (seen, _) = watch::channel(Seen::default());
        Stateful {
            service: Service {
                name: "db".into(),
                role: "eng/db".into(),
                prefix: "db".into(),
                command: "serve".into(),
                container: ContainerSpec::default(),
                resources: Resources::from_millis(1000, 64_000, 100_000),
                id: None,
                volume: None,
            },
            seen,
            running: None,
            n_tasks: 0,
        }
    }

    fn offer(parts: Vec<ResourcePart>, resources: Resources) -> Offer {
        Offer {
            offer_id: OfferId::new("o").unwrap(),
            framework_id: FrameworkId::new("f").unwrap(),
            role: "eng/db".into(),
            agent_id: AgentId::new("a").unwrap(),
            hostname: "n".into(),
            ip: std::net::Ipv4Addr::LOCALHOST,
            resources,
            parts,
            attributes: [].into(),
            domain: None,
            unavailability: None,
            at: UnixMillis(0),
        }
    }

    fn with_volume(s: &Stateful, id: &str) -> Offer {
        let mut resources = s.service.without_disk();
        let id = VolumeId::new(id).unwrap();
        resources.custom.set_volume(id, s.service.volume_size());
        let part = ResourcePart {
            reservation: s.service.stack(),
            revocable: false,
            resources: resources.clone(),
        };
        offer(vec![part], resources)
    }

    #[test]
    fn it_settles_once_and_comes_back_to_its_volume() {
        let mut s = stateful();
        let large = offer(Vec::new(), Resources::from_millis(4000, 128_000, 200_000));
        assert!(matches!(s.choose(&large), Use::Settle(..)));
        let small = offer(Vec::new(), Resources::from_millis(4000, 128_000, 0));
        assert!(matches!(s.choose(&small), Use::Nothing));
        let mut closing = large.clone();
        closing.unavailability = Some(Unavailability {
            start: UnixMillis(9),
            duration: None,
        });
        assert!(matches!(s.choose(&closing), Use::Nothing));
        s.service.volume = Some(VolumeId::new("db-1").unwrap());
        assert!(matches!(s.choose(&large), Use::Nothing), "it has a home");
        let home = with_volume(&s, "db-1");
        assert!(matches!(s.choose(&home), Use::Return(..)));
        s.running = Some(TaskId::new("db-1").unwrap());
        assert!(matches!(s.choose(&home), Use::Nothing), "it runs");
        let old = with_volume(&s, "db-0");
        assert!(matches!(s.choose(&old), Use::GiveBack(_)));
    }

    #[test]
    fn what_it_launches_on_is_what_it_made() {
        let s = stateful();
        let volume = VolumeId::new("v").unwrap();
        let framework = FrameworkId::new("f").unwrap();
        let task = TaskId::new("t").unwrap();
        let Operation::Launch(tasks) = s.service.launch(&framework, task, volume.clone()) else {
            panic!("a launch")
        };
        let spec = &tasks[0];
        assert_eq!(
            waggle_types::sum_parts(&spec.parts).as_ref(),
            Some(&spec.resources)
        );
        assert_eq!(spec.resources.get(ScalarKind::Disk), Milli(0));
        let [
            Operation::DestroyVolume { .. },
            Operation::Unreserve { resources, .. },
        ] = &s.service.give_back(&spec.resources)[..]
        else {
            panic!("the volume, then the reservation")
        };
        assert_eq!(*resources, s.service.resources, "all that was reserved");
    }
}
