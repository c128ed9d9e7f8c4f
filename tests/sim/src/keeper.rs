//! A framework with state: it reserves resources, makes persistent volumes of them and runs tasks on these, all in
//! one accept; it takes what it kept up again when its tasks end, and gives it back when it is not wanted any more.

use std::collections::BTreeMap;

use waggle_master::core::FrameworkCall;
use waggle_types::{
    AgentId, CallRejection, Command, FrameworkInfo, Milli, Millis, Offer, Operation, Reservation,
    ResourcePart, Resources, SchedulerCall, SchedulerEvent, TaskId, TaskSpec, TaskState,
    TaskStatus, Volume, VolumeId,
};

use crate::{Rng, batch::blank, mind::call};

/// Who reserves.
const KEEPER: &str = "keeper";
/// What is reserved for one cell, and of this: what each task takes, and the volume.
const CELL: [i64; 3] = [500, 128_000, 200_000];
const TASK: [i64; 2] = [200, 48_000];
const VOLUME: Volume = Volume {
    size: Milli(150_000),
    shared: false,
};
/// Looks after which an idle cell that is not seen is taken for lost. When it turns up it is given back.
const MAX_UNSEEN: u32 = 6;
/// Most cells that are wanted.
const MAX_WANTED: u64 = 5;

/// A reservation with a volume, and the tasks on it.
#[derive(Debug, Clone)]
struct Cell {
    agent_id: AgentId,
    stack: Vec<Reservation>,
    shared: bool,
    /// Believed to be alive.
    tasks: BTreeMap<TaskId, Live>,
    /// Whether it is there is not known: its making, or its end, is not answered.
    unsure: bool,
    /// It is to be given back.
    ending: bool,
    /// Looks in which nothing of it was seen: no offer, no task.
    unseen: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Live {
    unsure: bool,
    killed: bool,
}

/// The framework; all of it is on its disk.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    info: FrameworkInfo,
    n_wanted: usize,
    /// Counts tasks and volumes over its whole life.
    n_made: u64,
    cells: BTreeMap<VolumeId, Cell>,
    suppressed: bool,
    /// Cells taken up again after their tasks had ended.
    pub n_retaken: usize,
    /// Cells given back.
    pub n_freed: usize,
}

impl Keeper {
    pub fn new(info: FrameworkInfo) -> Self {
        Self {
            info,
            n_wanted: 3,
            n_made: 0,
            cells: BTreeMap::new(),
            suppressed: false,
            n_retaken: 0,
            n_freed: 0,
        }
    }

    pub fn info(&self) -> FrameworkInfo {
        self.info.clone()
    }

    pub fn live(&self) -> impl Iterator<Item = &TaskId> {
        self.cells.values().flat_map(|c| c.tasks.keys())
    }

    /// Whether it asked for this task's end, or does not know the task.
    pub fn asked_for_end(&self, task_id: &TaskId) -> bool {
        let mut cells = self.cells.values();
        let live = cells.find_map(|c| c.tasks.get(task_id));
        live.is_none_or(|l| l.killed)
    }

    /// Keeps another number of cells from here on.
    pub fn change_mind(&mut self, rng: &mut Rng) -> Vec<FrameworkCall> {
        self.n_wanted = usize::try_from(rng.between(0, MAX_WANTED + 1)).unwrap_or(0);
        let mut kept = self.cells.values_mut().filter(|c| !c.ending);
        let mut says = Vec::new();
        for cell in kept.by_ref().skip(self.n_wanted) {
            cell.ending = true;
            for (task_id, l) in &mut cell.tasks {
                l.killed = true;
                let task_id = task_id.clone();
                says.push(call(SchedulerCall::Kill { task_id }));
            }
        }
        says.extend(self.ask());
        says
    }

    pub fn unfinished(&self) -> Option<String> {
        let sure = self.cells.values().filter(|c| !c.unsure);
        let (ending, kept): (Vec<&Cell>, Vec<&Cell>) = sure.partition(|c| c.ending);
        let idle = kept.iter().filter(|c| c.tasks.is_empty()).count();
        let unsure = self.cells.values().flat_map(|c| c.tasks.values());
        let unsure = unsure.filter(|l| l.unsure).count();
        let done = ending.is_empty() && idle == 0 && unsure == 0 && kept.len() >= self.n_wanted;
        (!done).then(|| {
            format!(
                "{} of {} cells, {} ending, {idle} idle, {unsure} tasks unsure",
                kept.len(),
                self.n_wanted,
                ending.len()
            )
        })
    }

    /// Nothing is wanted any more; what it kept is left behind.
    pub fn clear(&mut self) {
        self.cells.clear();
        self.n_wanted = 0;
    }

    pub fn subscribed(&mut self) -> Vec<FrameworkCall> {
        self.suppressed = false;
        let mut says = self.reconcile();
        let task_ids = Vec::new();
        says.push(call(SchedulerCall::Reconcile { task_ids }));
        says
    }

    pub fn cut(&mut self) {
        for l in self.cells.values_mut().flat_map(|c| c.tasks.values_mut()) {
            l.unsure = true;
        }
    }

    /// The tasks are killed; reservations outlive the framework.
    pub fn removed(&mut self) {
        for cell in self.cells.values_mut() {
            cell.tasks.clear();
        }
    }

    /// Asks for what is unsure, and for offers while something waits for them.
    pub fn tick(&mut self) -> Vec<FrameworkCall> {
        for cell in self.cells.values_mut().filter(|c| c.tasks.is_empty()) {
            cell.unseen += 1;
        }
        self.cells.retain(|_, c| c.unseen <= MAX_UNSEEN);
        let mut says = self.reconcile();
        // Said again until it is so: the first word may be lost.
        let ending = self.cells.values().filter(|c| c.ending);
        for task_id in ending.flat_map(|c| c.tasks.keys()).cloned() {
            says.push(call(SchedulerCall::Kill { task_id }));
        }
        says.extend(self.ask());
        says
    }

    fn reconcile(&self) -> Vec<FrameworkCall> {
        let live = self.cells.values().flat_map(|c| &c.tasks);
        let unsure = live.filter(|(_, l)| l.unsure);
        let task_ids: Vec<TaskId> = unsure.map(|(id, _)| id.clone()).collect();
        if task_ids.is_empty() {
            return Vec::new();
        }
        vec![call(SchedulerCall::Reconcile { task_ids })]
    }

    /// Whether any offer could be of use.
    fn waits(&self) -> bool {
        let kept = self.cells.values().filter(|c| !c.ending).count();
        kept < self.n_wanted || self.cells.values().any(|c| c.tasks.is_empty() || c.unsure)
    }

    fn ask(&mut self) -> Vec<FrameworkCall> {
        if !self.waits() {
            return Vec::new();
        }
        self.suppressed = false;
        vec![call(SchedulerCall::Revive { roles: Vec::new() })]
    }

    pub fn hear(&mut self, event: &SchedulerEvent, rng: &mut Rng) -> Vec<FrameworkCall> {
        match event {
            SchedulerEvent::Offers(offers) => {
                let mut says: Vec<_> = offers.iter().map(|o| self.offered(o, rng)).collect();
                if !self.waits() && !self.suppressed {
                    self.suppressed = true;
                    says.push(call(SchedulerCall::Suppress { roles: Vec::new() }));
                }
                says
            }
            SchedulerEvent::Update(status) => self.update(status),
            SchedulerEvent::AgentLost(agent_id) => {
                self.cells.retain(|_, c| c.agent_id != *agent_id);
                self.ask()
            }
            // Its data can't leave; it is killed with the machine and comes back with it.
            SchedulerEvent::InverseOffer(_)
            | SchedulerEvent::AgentUnreachable(_)
            | SchedulerEvent::RescindInverse(_)
            | SchedulerEvent::Subscribed { .. }
            | SchedulerEvent::Rescind(_)
            | SchedulerEvent::ExecutorLost { .. }
            | SchedulerEvent::Message { .. } => Vec::new(),
        }
    }

    /// What the volumes of an offer say of cells, then one thing to do with it.
    fn offered(&mut self, offer: &Offer, rng: &mut Rng) -> FrameworkCall {
        for part in offer.parts.iter().filter(|p| !p.revocable) {
            let stack = &part.reservation;
            if stack.last().is_none_or(|r| r.principal != KEEPER) {
                continue;
            }
            for (id, volume) in part.resources.custom.volumes() {
                // One that was taken for lost is not wanted any more.
                let cell = self.cells.entry(id.clone()).or_insert_with(|| Cell {
                    agent_id: offer.agent_id.clone(),
                    stack: stack.clone(),
                    shared: volume.shared,
                    tasks: BTreeMap::new(),
                    unsure: false,
                    ending: true,
                    unseen: 0,
                });
                cell.unsure = false;
                cell.unseen = 0;
            }
        }
        let offer_ids = vec![offer.offer_id.clone()];
        let refuse = Millis([500, 2_000][rng.index(2)]);
        let operations = self
            .give_back(offer)
            .or_else(|| self.take_up(offer))
            .or_else(|| self.make(offer, rng));
        call(match operations {
            Some(operations) => SchedulerCall::Accept {
                offer_ids,
                operations,
                refuse,
            },
            None => SchedulerCall::Decline { offer_ids, refuse },
        })
    }

    fn offered_cell(&self, offer: &Offer, wanted: impl Fn(&Cell) -> bool) -> Option<VolumeId> {
        let has = |c: &Cell, of: &Resources| {
            let part = offer
                .parts
                .iter()
                .find(|p| p.reservation == c.stack && !p.revocable);
            part.is_some_and(|p| p.resources.contains(of))
        };
        self.cells.iter().find_map(|(id, c)| {
            let idle = c.agent_id == offer.agent_id && c.tasks.is_empty() && wanted(c);
            (idle && has(c, &c.resources(id))).then(|| id.clone())
        })
    }

    /// Destroys a volume and ends its reservation.
    fn give_back(&mut self, offer: &Offer) -> Option<Vec<Operation>> {
        let id = self.offered_cell(offer, |c| c.ending)?;
        let cell = self.cells.get_mut(&id)?;
        cell.unsure = true;
        let stack = cell.stack.clone();
        Some(vec![
            Operation::DestroyVolume {
                stack: stack.clone(),
                volume_id: id,
            },
            Operation::Unreserve {
                stack,
                resources: cell_resources(),
            },
        ])
    }

    /// Launches again on what was kept.
    fn take_up(&mut self, offer: &Offer) -> Option<Vec<Operation>> {
        let id = self.offered_cell(offer, |c| !c.ending)?;
        self.n_retaken += 1;
        let tasks = self.launch(&id)?;
        Some(vec![Operation::Launch(tasks)])
    }

    /// Reserves, makes a volume and launches on it, in one go; of what is unreserved, or of what an operator
    /// reserved for the role above.
    fn make(&mut self, offer: &Offer, rng: &mut Rng) -> Option<Vec<Operation>> {
        let kept = self.cells.values().filter(|c| !c.ending).count();
        if kept >= self.n_wanted {
            return None;
        }
        let mut parts = offer.parts.clone();
        if parts.is_empty() {
            parts.push(ResourcePart::plain(offer.resources.clone()));
        }
        let above = |stack: &[Reservation]| stack.iter().all(|r| r.role == "prod");
        let of = parts.iter().find(|p| {
            !p.revocable && above(&p.reservation) && p.resources.contains(&cell_resources())
        })?;
        let mut stack = of.reservation.clone();
        stack.push(Reservation::dynamic("prod/db", KEEPER));
        self.n_made += 1;
        let id = VolumeId::new(format!("v{}", self.n_made)).ok()?;
        let shared = rng.chance(300);
        let cell = Cell {
            agent_id: offer.agent_id.clone(),
            stack: stack.clone(),
            shared,
            tasks: BTreeMap::new(),
            unsure: true,
            ending: false,
            unseen: 0,
        };
        self.cells.insert(id.clone(), cell);
        let tasks = self.launch(&id)?;
        Some(vec![
            Operation::Reserve {
                stack: stack.clone(),
                resources: cell_resources(),
            },
            Operation::CreateVolume {
                stack,
                volume_id: id,
                volume: Volume { shared, ..VOLUME },
            },
            Operation::Launch(tasks),
        ])
    }

    /// One task on a volume, or two that share it.
    fn launch(&mut self, id: &VolumeId) -> Option<Vec<TaskSpec>> {
        let cell = self.cells.get_mut(id)?;
        let n = if cell.shared { 2 } else { 1 };
        let mut tasks = Vec::new();
        for _ in 0..n {
            self.n_made += 1;
            let mut resources = Resources::from_millis(TASK[0], TASK[1], 0);
            resources.custom.set_volume(id.clone(), cell.volume());
            let spec = TaskSpec {
                command: Command::Shell("serve".into()),
                parts: vec![ResourcePart {
                    reservation: cell.stack.clone(),
                    revocable: false,
                    resources: resources.clone(),
                }],
                resources,
                ..blank(&self.info.name, self.n_made)?
            };
            let live = Live {
                unsure: true,
                killed: false,
            };
            cell.tasks.insert(spec.task_id.clone(), live);
            tasks.push(spec);
        }
        Some(tasks)
    }

    pub fn answered(
        &mut self,
        asked: &FrameworkCall,
        answer: &Result<(), Vec<CallRejection>>,
    ) -> Vec<FrameworkCall> {
        let FrameworkCall::Scheduler(SchedulerCall::Accept { operations, .. }) = asked else {
            return Vec::new();
        };
        let taken = answer.is_ok();
        for t in operations.iter().flat_map(Operation::tasks) {
            for cell in self.cells.values_mut() {
                if let Some(l) = cell.tasks.get_mut(&t.task_id) {
                    l.unsure = false;
                    if !taken {
                        cell.tasks.remove(&t.task_id);
                    }
                }
            }
        }
        for op in operations {
            match op {
                Operation::CreateVolume { volume_id, .. } if taken => {
                    if let Some(c) = self.cells.get_mut(volume_id) {
                        c.unsure = false;
                    }
                }
                Operation::CreateVolume { volume_id, .. } => {
                    self.cells.remove(volume_id);
                }
                Operation::DestroyVolume { volume_id, .. } if taken => {
                    self.n_freed += 1;
                    self.cells.remove(volume_id);
                }
                Operation::DestroyVolume { volume_id, .. } => {
                    if let Some(c) = self.cells.get_mut(volume_id) {
                        c.unsure = false;
                    }
                }
                _ => {}
            }
        }
        self.ask()
    }

    fn update(&mut self, status: &TaskStatus) -> Vec<FrameworkCall> {
        let mut says = Vec::new();
        let over = status.state.is_terminal() || status.state == TaskState::Unknown;
        let task_id = &status.task_id;
        let mut cells = self.cells.values_mut();
        match cells.find(|c| c.tasks.contains_key(task_id)) {
            Some(cell) if !over => {
                // A task on it runs: so it is there.
                cell.unsure = false;
                cell.unseen = 0;
                if let Some(l) = cell.tasks.get_mut(task_id) {
                    l.unsure = false;
                }
            }
            Some(cell) => {
                cell.tasks.remove(task_id);
                says.extend(self.ask());
            }
            None if !over => {
                let task_id = task_id.clone();
                says.push(call(SchedulerCall::Kill { task_id }));
            }
            None => {}
        }
        if let Some(uuid) = status.uuid {
            says.push(call(SchedulerCall::Acknowledge {
                task_id: status.task_id.clone(),
                agent_id: status.agent_id.clone(),
                uuid,
            }));
        }
        says
    }
}

impl Cell {
    fn volume(&self) -> Volume {
        Volume {
            shared: self.shared,
            ..VOLUME
        }
    }

    /// All of it, as offers show it: the volume beside the disk that is left.
    fn resources(&self, id: &VolumeId) -> Resources {
        let mut all = cell_resources();
        all.scalars[2].0 -= VOLUME.size.0;
        all.custom.set_volume(id.clone(), self.volume());
        all
    }
}

fn cell_resources() -> Resources {
    Resources::from_millis(CELL[0], CELL[1], CELL[2])
}
