//! The smallest cluster that meets a service level.

use super::level::{Fluid, Level1, Offers};
use super::sim::{self, Outcome, Setup};
use super::workload::{Job, LOAD_STEP_S, Workload};

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    Fluid,
    Offers,
}

impl Decider {
    fn start(self) -> Box<dyn Level1> {
        match self {
            Self::Fluid => Box::new(Fluid::default()),
            Self::Offers => Box::new(Offers::default()),
        }
    }
}

/// A cluster that is just big enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    pub machines: usize,
    pub outcome: Outcome,
}

/// More machines than any workload here can use.
const MOST: usize = 1 << 14;

/// Runs one policy on `machines`.
pub fn try_one(
    w: &Workload,
    setup: Setup,
    decider: Decider,
    machines: usize,
) -> anyhow::Result<Option<Outcome>> {
    let setup = Setup { machines, ..setup };
    sim::run(w, setup, decider.start().as_mut())
}

/// Steps from `guess` in doubling strides to a bracket of one size that fails and one that does, and
/// halves it. Meeting the level is taken as monotonic in machines; at the border it need not be.
pub fn smallest(w: &Workload, setup: Setup, decider: Decider, guess: usize) -> anyhow::Result<Fit> {
    let attempt = |machines: usize| -> anyhow::Result<Option<Outcome>> {
        let out = try_one(w, setup, decider, machines)?;
        Ok(out.filter(|out| setup.level.met(out)))
    };
    let (mut fails, mut fits) = (0, None);
    let mut at = guess.max(1);
    let mut stride = 1;
    loop {
        if let Some(out) = attempt(at)? {
            fits = Some((at, out));
            if at - fails <= 1 {
                break;
            }
            at = at.saturating_sub(stride).max(fails + 1);
        } else {
            fails = at;
            match &fits {
                Some(_) => break,
                None => at += stride,
            }
        }
        stride *= 2;
        anyhow::ensure!(at <= MOST, "no cluster of {MOST} machines meets the level");
    }
    let Some((mut machines, mut outcome)) = fits else {
        anyhow::bail!("no cluster meets the level");
    };
    while machines - fails > 1 {
        let middle = fails + (machines - fails) / 2;
        if let Some(out) = attempt(middle)? {
            (machines, outcome) = (middle, out);
        } else {
            fails = middle;
        }
    }
    Ok(Fit { machines, outcome })
}

/// One partition per tenant and per service, each just big enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Static {
    /// Machines of each batch tenant.
    pub batch: Vec<usize>,
    /// Machines of each service.
    pub services: Vec<usize>,
    /// All partitions together.
    pub outcome: Outcome,
}

impl Static {
    pub fn machines(&self) -> usize {
        self.batch.iter().chain(&self.services).sum()
    }

    /// When batch partitions, too, are twice what their level needs.
    pub fn machines_with_headroom(&self) -> usize {
        self.machines() + self.batch.iter().sum::<usize>()
    }
}

/// The part of a workload that is one tenant's, alone.
pub fn alone(w: &Workload, tenant: usize) -> Workload {
    let own = |job: &&Job| job.tenant == tenant;
    Workload {
        source: w.source.clone(),
        tenants: vec![w.tenants[tenant].clone()],
        jobs: w
            .jobs
            .iter()
            .filter(own)
            .map(|job| Job {
                tenant: 0,
                ..job.clone()
            })
            .collect(),
        services: Vec::new(),
        horizon_s: w.horizon_s,
    }
}

/// The same search, the same simulation, the same level, for each tenant by itself.
pub fn partitions(w: &Workload, setup: Setup) -> anyhow::Result<Static> {
    let mut all = Outcome::default();
    let mut batch = Vec::new();
    let setup = Setup {
        lend: false,
        ..setup
    };
    for tenant in 0..w.tenants.len() {
        let part = alone(w, tenant);
        let work: u64 = part.jobs.iter().map(Job::work).sum();
        let mean = work / (w.horizon_s * setup.cpus).max(1);
        let guess = usize::try_from(mean)? + 1;
        let fit = smallest(&part, setup, Decider::Fluid, guess)?;
        batch.push(fit.machines);
        let out = fit.outcome;
        all.served.extend(out.served);
        all.useful += out.useful;
        all.launched += out.launched;
        all.ended += out.ended;
        all.finished_s = all.finished_s.max(out.finished_s);
    }
    let mut services = Vec::new();
    for service in &w.services {
        services.push(usize::try_from(service.reserved.div_ceil(setup.cpus))?);
        let reserved = service.reserved * 1000;
        let over = service
            .load_milli
            .iter()
            .map(|l| l.saturating_sub(reserved));
        all.shortfall_milli += over.sum::<u64>();
        all.service_used_milli += service.load_milli.iter().sum::<u64>() * LOAD_STEP_S;
    }
    Ok(Static {
        batch,
        services,
        outcome: all,
    })
}
