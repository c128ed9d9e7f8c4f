//! One run: a workload on so many machines, with level 1 as given. Pure: no clock, no entropy.
//!
//! The simulation keeps its own books of every machine and fails on the first grant that does not fit,
//! so a level 1 that over-commits can't look good.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use anyhow::{Context as _, bail};

use super::level::Level1;
use super::workload::{LOAD_STEP_S, Service, Workload};

/// A run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub machines: usize,
    pub cpus: u64,
    /// Lend what services keep and do not use.
    pub lend: bool,
    /// Of a service's load, in thousandths, is kept back from lending.
    pub margin_milli: u64,
    /// Work that is not done so long after the last hour is given up, seconds.
    pub drain_s: u64,
    /// What every tenant has to get.
    pub level: ServiceLevel,
    /// Stop as soon as the level can't be met any more.
    pub give_up: bool,
}

/// What every policy has to reach, for each tenant by itself: 95 of 100 jobs within a bounded slowdown,
/// all work done, no service short of CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceLevel {
    /// Thousandths.
    pub p95_slowdown_milli: u64,
    /// Shorter jobs, and answers, count as so long, seconds.
    pub short_s: u64,
}

impl ServiceLevel {
    /// Whether a run that was not given up reached it.
    pub fn met(self, out: &Outcome) -> bool {
        let within =
            |served: &Served| percentile(&served.slowdowns_milli, 95) <= self.p95_slowdown_milli;
        out.unfinished == 0 && out.shortfall_milli == 0 && out.served.iter().all(within)
    }

    /// How many of so many jobs may be slower: those beyond the nearest rank of the 95th percentile.
    fn n_late_allowed(n_jobs: u64) -> u64 {
        n_jobs - (n_jobs * 95).div_ceil(100)
    }
}

/// Of one tenant's jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Response over best possible response, thousandths, sorted.
    pub slowdowns_milli: Vec<u64>,
    /// From arrival to the first task, seconds, sorted.
    pub waits_s: Vec<u64>,
}

/// What came of it. CPU seconds throughout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub served: Vec<Served>,
    /// Jobs that were not done by the end of the drain.
    pub unfinished: u64,
    /// Batch work that was done.
    pub useful: u64,
    /// Batch work that evictions threw away.
    pub wasted: u64,
    /// Batch work that ran on lent CPUs and was done.
    pub lent_useful: u64,
    /// CPU milliseconds of service load that had no CPU.
    pub shortfall_milli: u64,
    /// What the services used within the horizon, CPU milliseconds.
    pub service_used_milli: u64,
    pub evictions: u64,
    pub launched: u64,
    pub ended: u64,
    pub finished_s: u64,
}

/// The value below which `percent` of a sorted list lies (nearest rank).
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[derive(Debug, Clone)]
struct Task {
    job: usize,
    machine: usize,
    started_s: u64,
    lent: bool,
}

#[derive(Debug, Clone, Default)]
struct JobState {
    waiting: u64,
    running: u64,
    done: u64,
    first_start_s: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Machine {
    /// CPUs each service keeps here.
    kept: Vec<u64>,
    firm_free: u64,
    /// Lent and in use, oldest first.
    lent: VecDeque<usize>,
    lendable: u64,
    /// Its entry among the machines with room.
    noted: u64,
}

struct Run<'a> {
    w: &'a Workload,
    setup: Setup,
    machines: Vec<Machine>,
    /// Machines with something to lend, by how much.
    room: BTreeSet<(u64, usize)>,
    jobs: Vec<JobState>,
    /// Jobs with waiting tasks, by running tasks: the next task is the least served job's.
    queues: Vec<BTreeSet<(u64, usize)>>,
    waiting: Vec<u64>,
    running: Vec<u64>,
    tasks: BTreeMap<usize, Task>,
    n_tasks: usize,
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    left: usize,
    /// How many more jobs of each tenant may be late.
    late_left: Vec<u64>,
    missed: bool,
    out: Outcome,
}

/// Runs the workload. An error is a broken rule of level 1 or of the books, not a missed service level.
pub fn run(w: &Workload, setup: Setup, level1: &mut dyn Level1) -> anyhow::Result<Option<Outcome>> {
    let Some(machines) = place_services(&w.services, setup) else {
        return Ok(None);
    };
    let reserved: Vec<u64> = machines.iter().map(|m| m.kept.iter().sum()).collect();
    level1.start(setup.cpus, &reserved, w.tenants.len())?;
    let n_tenants = w.tenants.len();
    let mut run = Run {
        w,
        setup,
        machines,
        room: BTreeSet::new(),
        jobs: vec![JobState::default(); w.jobs.len()],
        queues: vec![BTreeSet::new(); n_tenants],
        waiting: vec![0; n_tenants],
        running: vec![0; n_tenants],
        tasks: BTreeMap::new(),
        n_tasks: 0,
        ends: BinaryHeap::new(),
        left: w.jobs.len(),
        late_left: (0..n_tenants)
            .map(|tenant| {
                let n_jobs = w.jobs.iter().filter(|job| job.tenant == tenant).count();
                ServiceLevel::n_late_allowed(n_jobs as u64)
            })
            .collect(),
        missed: false,
        out: Outcome {
            served: vec![Served::default(); n_tenants],
            ..Outcome::default()
        },
    };
    run.all(level1)?;
    Ok(Some(run.out))
}

/// Spreads what services keep, one CPU at a time, over the machines; `None` when it does not fit.
fn place_services(services: &[Service], setup: Setup) -> Option<Vec<Machine>> {
    let machine = Machine {
        kept: vec![0; services.len()],
        firm_free: setup.cpus,
        ..Machine::default()
    };
    let mut machines = vec![machine; setup.machines];
    let mut next = 0;
    for (index, service) in services.iter().enumerate() {
        for _ in 0..service.reserved {
            let machine = machines.get_mut(next)?;
            machine.firm_free = machine.firm_free.checked_sub(1)?;
            machine.kept[index] += 1;
            next = (next + 1) % setup.machines;
        }
    }
    Some(machines)
}

impl Run<'_> {
    fn all(&mut self, level1: &mut dyn Level1) -> anyhow::Result<()> {
        let limit = self.w.horizon_s + self.setup.drain_s;
        let mut next_job = 0;
        let mut next_load = 0;
        while self.left > 0 || next_load < self.w.horizon_s {
            let mut now = next_load;
            if let Some(Reverse((end, _))) = self.ends.peek() {
                now = now.min(*end);
            }
            if let Some(job) = self.w.jobs.get(next_job) {
                now = now.min(job.arrival_s);
            }
            if now > limit || (self.missed && self.setup.give_up) {
                break;
            }
            self.ends_at(now, level1)?;
            if now == next_load {
                self.load_changes(now)?;
                next_load += LOAD_STEP_S;
            }
            while let Some(job) = self.w.jobs.get(next_job)
                && job.arrival_s <= now
            {
                self.jobs[next_job].waiting = job.n_tasks;
                self.waiting[job.tenant] += job.n_tasks;
                self.queues[job.tenant].insert((0, next_job));
                next_job += 1;
            }
            self.place(now, level1)?;
        }
        self.out.unfinished = self.left as u64;
        for served in &mut self.out.served {
            served.slowdowns_milli.sort_unstable();
            served.waits_s.sort_unstable();
        }
        Ok(())
    }

    fn ends_at(&mut self, now: u64, level1: &mut dyn Level1) -> anyhow::Result<()> {
        let mut freed: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        while let Some(Reverse((end, id))) = self.ends.peek().copied()
            && end <= now
        {
            self.ends.pop();
            // Evicted tasks are not there any more.
            let Some(task) = self.tasks.remove(&id) else {
                continue;
            };
            let job = &self.w.jobs[task.job];
            self.running[job.tenant] -= 1;
            self.out.useful += job.task_s;
            self.out.ended += 1;
            if task.lent {
                self.out.lent_useful += job.task_s;
                self.take_back(id, task.machine)?;
            } else {
                *freed.entry((job.tenant, task.machine)).or_default() += 1;
            }
            self.requeue(task.job, |state| {
                state.running -= 1;
                state.done += 1;
            });
            if self.jobs[task.job].done == job.n_tasks {
                self.left -= 1;
                self.out.finished_s = now;
                let level = self.setup.level;
                let slowdown = job.slowdown_milli(now - job.arrival_s, level.short_s);
                if slowdown > level.p95_slowdown_milli {
                    match self.late_left[job.tenant].checked_sub(1) {
                        Some(left) => self.late_left[job.tenant] = left,
                        None => self.missed = true,
                    }
                }
                let served = &mut self.out.served[job.tenant];
                served.slowdowns_milli.push(slowdown);
                let first = self.jobs[task.job].first_start_s.unwrap_or(now);
                served.waits_s.push(first - job.arrival_s);
            }
        }
        for ((tenant, machine), n) in freed {
            self.machines[machine].firm_free += n;
            level1.released(tenant, machine, n, now)?;
        }
        Ok(())
    }

    /// A lent CPU is not in use any more.
    fn take_back(&mut self, id: usize, machine: usize) -> anyhow::Result<()> {
        let m = &mut self.machines[machine];
        let index = m.lent.iter().position(|t| *t == id);
        m.lent.remove(index.context("a lent task of no machine")?);
        self.note_room(machine);
        Ok(())
    }

    fn note_room(&mut self, machine: usize) {
        let m = &self.machines[machine];
        let room = m.lendable.saturating_sub(m.lent.len() as u64);
        self.room.remove(&(m.noted, machine));
        if room > 0 {
            self.room.insert((room, machine));
        }
        self.machines[machine].noted = room;
    }

    /// Changes a job's counts and its place in its tenant's queue.
    fn requeue(&mut self, job: usize, change: impl FnOnce(&mut JobState)) {
        let tenant = self.w.jobs[job].tenant;
        let state = &mut self.jobs[job];
        self.queues[tenant].remove(&(state.running, job));
        change(state);
        if state.waiting > 0 {
            self.queues[tenant].insert((state.running, job));
        }
    }

    /// The services' new load: less to lend means evictions, youngest first, at once.
    fn load_changes(&mut self, now: u64) -> anyhow::Result<()> {
        let loads: Vec<u64> = self.w.services.iter().map(|s| s.load_at(now)).collect();
        if now < self.w.horizon_s {
            self.out.service_used_milli += loads.iter().sum::<u64>() * LOAD_STEP_S;
        }
        for machine in 0..self.machines.len() {
            let mut used_milli = 0;
            let mut kept = 0;
            for (index, service) in self.w.services.iter().enumerate() {
                let here = self.machines[machine].kept[index];
                let load = (loads[index] * here).div_ceil(service.reserved.max(1));
                used_milli += load;
                kept += here;
            }
            let held = used_milli + used_milli * self.setup.margin_milli / 1000;
            let lendable = kept.saturating_sub(held.div_ceil(1000));
            self.machines[machine].lendable = if self.setup.lend { lendable } else { 0 };
            while self.machines[machine].lent.len() as u64 > self.machines[machine].lendable {
                self.evict(machine, now)?;
            }
            let lent = self.machines[machine].lent.len() as u64;
            let free_for_services = kept.saturating_sub(lent) * 1000;
            self.out.shortfall_milli += used_milli.saturating_sub(free_for_services) * LOAD_STEP_S;
            self.note_room(machine);
        }
        Ok(())
    }

    fn evict(&mut self, machine: usize, now: u64) -> anyhow::Result<()> {
        let id = self.machines[machine].lent.pop_back();
        let id = id.context("nothing to evict")?;
        let task = self.tasks.remove(&id).context("an evicted task ended")?;
        let tenant = self.w.jobs[task.job].tenant;
        self.running[tenant] -= 1;
        self.waiting[tenant] += 1;
        self.out.evictions += 1;
        self.out.wasted += now - task.started_s;
        self.requeue(task.job, |state| {
            state.running -= 1;
            state.waiting += 1;
        });
        Ok(())
    }

    fn place(&mut self, now: u64, level1: &mut dyn Level1) -> anyhow::Result<()> {
        for grant in level1.grants(&self.waiting, now)? {
            let free = &mut self.machines[grant.machine].firm_free;
            let Some(left) = free.checked_sub(grant.n) else {
                bail!(
                    "machine {} has {free} CPUs, {} granted",
                    grant.machine,
                    grant.n
                );
            };
            *free = left;
            for _ in 0..grant.n {
                self.launch(grant.tenant, grant.machine, false, now)?;
            }
        }
        while let Some((_, machine)) = self.room.last().copied() {
            let next = (0..self.waiting.len())
                .filter(|t| self.waiting[*t] > 0)
                .min_by_key(|t| self.running[*t]);
            let Some(tenant) = next else { break };
            self.launch(tenant, machine, true, now)?;
        }
        Ok(())
    }

    fn launch(
        &mut self,
        tenant: usize,
        machine: usize,
        lent: bool,
        now: u64,
    ) -> anyhow::Result<()> {
        let next = self.queues[tenant].first().copied();
        let (_, job) = next.context("a grant to a tenant that waits for nothing")?;
        self.requeue(job, |state| {
            state.waiting -= 1;
            state.running += 1;
            state.first_start_s.get_or_insert(now);
        });
        self.waiting[tenant] -= 1;
        self.running[tenant] += 1;
        self.out.launched += 1;
        let id = self.n_tasks;
        self.n_tasks += 1;
        let started_s = now;
        let task = Task {
            job,
            machine,
            started_s,
            lent,
        };
        self.tasks.insert(id, task);
        let end = now + self.w.jobs[job].task_s;
        self.ends.push(Reverse((end, id)));
        if lent {
            self.machines[machine].lent.push_back(id);
            self.note_room(machine);
        }
        Ok(())
    }
}
