//! Level 1 of the simulation: who gets which CPUs of which machine.
//!
//! [`Offers`] drives the product's allocator: tenants are frameworks that suppress themselves when nothing
//! waits, take all that they are offered while something does, and revive when work arrives. [`Fluid`] is
//! the control: the tenant that holds least takes one CPU at a time, which no offer-based scheme can beat
//! in fairness.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use waggle_allocator::{Allocator, AllocatorConfig, Effect, Event};
use waggle_types::{
    AgentId, AgentInfo, FrameworkId, Millis, Offer, Resources, ScalarKind, UnixMillis,
};

/// CPUs of one machine for one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub tenant: usize,
    pub machine: usize,
    pub n: u64,
}

/// What decides. The simulation keeps its own books and checks every grant against them.
pub trait Level1 {
    /// Machines with all their CPUs and what services keep of them.
    fn start(&mut self, cpus: u64, reserved: &[u64], n_tenants: usize) -> anyhow::Result<()>;
    /// Tasks ended.
    fn released(&mut self, tenant: usize, machine: usize, n: u64, now_s: u64)
    -> anyhow::Result<()>;
    /// Who gets what, given how many tasks of each tenant wait.
    fn grants(&mut self, waiting: &[u64], now_s: u64) -> anyhow::Result<Vec<Grant>>;
}

/// Max-min fairness, one CPU at a time.
#[derive(Debug, Default)]
pub struct Fluid {
    free: Vec<u64>,
    with_free: BTreeSet<usize>,
    held: Vec<u64>,
}

impl Level1 for Fluid {
    fn start(&mut self, cpus: u64, reserved: &[u64], n_tenants: usize) -> anyhow::Result<()> {
        self.free = reserved.iter().map(|r| cpus.saturating_sub(*r)).collect();
        self.with_free = (0..self.free.len()).filter(|m| self.free[*m] > 0).collect();
        self.held = vec![0; n_tenants];
        Ok(())
    }

    fn released(&mut self, tenant: usize, machine: usize, n: u64, _: u64) -> anyhow::Result<()> {
        self.free[machine] += n;
        self.with_free.insert(machine);
        self.held[tenant] -= n;
        Ok(())
    }

    fn grants(&mut self, waiting: &[u64], _: u64) -> anyhow::Result<Vec<Grant>> {
        let mut waiting = waiting.to_vec();
        let mut grants = Vec::new();
        while let Some(machine) = self.with_free.first().copied() {
            let next = (0..waiting.len())
                .filter(|t| waiting[*t] > 0)
                .min_by_key(|t| self.held[*t]);
            let Some(tenant) = next else { break };
            waiting[tenant] -= 1;
            self.held[tenant] += 1;
            self.free[machine] -= 1;
            if self.free[machine] == 0 {
                self.with_free.remove(&machine);
            }
            grants.push(Grant {
                tenant,
                machine,
                n: 1,
            });
        }
        Ok(grants)
    }
}

/// The product's allocator and, for each tenant, the least that a well-behaved framework does.
#[derive(Debug)]
pub struct Offers {
    allocator: Allocator,
    frameworks: Vec<FrameworkId>,
    agents: Vec<AgentId>,
    framework_of: BTreeMap<FrameworkId, usize>,
    agent_of: BTreeMap<AgentId, usize>,
    suppressed: Vec<bool>,
    inbox: VecDeque<Effect>,
}

/// For how long the rest of an accepted offer is refused: a framework that wants more revives.
const REFUSE: Millis = Millis::from_secs(1);

impl Default for Offers {
    fn default() -> Self {
        Self {
            allocator: Allocator::new(AllocatorConfig::default()),
            frameworks: Vec::new(),
            agents: Vec::new(),
            framework_of: BTreeMap::new(),
            agent_of: BTreeMap::new(),
            suppressed: Vec::new(),
            inbox: VecDeque::new(),
        }
    }
}

fn cpus(n: u64) -> anyhow::Result<Resources> {
    Ok(Resources::from_millis(i64::try_from(n * 1000)?, 0, 0))
}

const fn at(now_s: u64) -> UnixMillis {
    UnixMillis(now_s * 1000)
}

impl Offers {
    fn apply(&mut self, event: Event, now_s: u64) {
        let effects = self.allocator.apply(event, at(now_s));
        self.inbox.extend(effects);
    }

    fn answer(
        &mut self,
        offer: &Offer,
        waiting: &mut [u64],
        now_s: u64,
    ) -> anyhow::Result<Option<Grant>> {
        let tenant = *self
            .framework_of
            .get(&offer.framework_id)
            .context("an offer to nobody")?;
        let machine = *self
            .agent_of
            .get(&offer.agent_id)
            .context("an offer of no machine")?;
        let offered = u64::try_from(offer.resources.get(ScalarKind::Cpus).0 / 1000)?;
        let n = offered.min(waiting[tenant]);
        waiting[tenant] -= n;
        let framework_id = offer.framework_id.clone();
        if waiting[tenant] == 0 && !self.suppressed[tenant] {
            self.suppressed[tenant] = true;
            let framework_id = framework_id.clone();
            self.apply(Event::Suppress { framework_id }, now_s);
        }
        let offer_ids = vec![offer.offer_id.clone()];
        if n == 0 {
            let event = Event::Declined {
                framework_id,
                offer_ids,
                refuse: REFUSE,
            };
            self.apply(event, now_s);
            return Ok(None);
        }
        let event = Event::Accepted {
            framework_id,
            offer_ids,
            used: cpus(n)?,
            refuse: REFUSE,
        };
        self.apply(event, now_s);
        Ok(Some(Grant { tenant, machine, n }))
    }
}

impl Level1 for Offers {
    fn start(&mut self, cpus_each: u64, reserved: &[u64], n_tenants: usize) -> anyhow::Result<()> {
        let services = FrameworkId::new("services").context("framework id")?;
        for tenant in 0..n_tenants {
            let id = FrameworkId::new(format!("batch-{tenant}")).context("framework id")?;
            self.framework_of.insert(id.clone(), tenant);
            self.frameworks.push(id.clone());
            self.suppressed.push(true);
            let event = Event::FrameworkAdded {
                framework_id: id.clone(),
                role: format!("tenant-{tenant}"),
                weight_milli: 1000,
            };
            self.apply(event, 0);
            self.apply(Event::Suppress { framework_id: id }, 0);
        }
        for (machine, kept) in reserved.iter().enumerate() {
            let agent_id = AgentId::new(format!("machine-{machine}")).context("agent id")?;
            self.agent_of.insert(agent_id.clone(), machine);
            self.agents.push(agent_id.clone());
            let info = AgentInfo {
                ip6: None,
                reserved: Vec::new(),
                domain: None,
                hostname: agent_id.to_string(),
                agent_id,
                ip: Ipv4Addr::LOCALHOST,
                http_port: 0,
                total: cpus(cpus_each)?,
                attributes: BTreeMap::new(),
            };
            let used = vec![(services.clone(), cpus(*kept)?)];
            self.apply(Event::AgentAdded { info, used }, 0);
        }
        Ok(())
    }

    fn released(
        &mut self,
        tenant: usize,
        machine: usize,
        n: u64,
        now_s: u64,
    ) -> anyhow::Result<()> {
        let event = Event::Released {
            framework_id: self.frameworks[tenant].clone(),
            agent_id: self.agents[machine].clone(),
            resources: cpus(n)?,
        };
        self.apply(event, now_s);
        Ok(())
    }

    fn grants(&mut self, waiting: &[u64], now_s: u64) -> anyhow::Result<Vec<Grant>> {
        let mut waiting = waiting.to_vec();
        for (tenant, n) in waiting.iter().enumerate() {
            let framework_id = self.frameworks[tenant].clone();
            if *n > 0 && self.suppressed[tenant] {
                self.suppressed[tenant] = false;
                self.apply(Event::Revive { framework_id }, now_s);
            } else if *n == 0 && !self.suppressed[tenant] {
                self.suppressed[tenant] = true;
                self.apply(Event::Suppress { framework_id }, now_s);
            }
        }
        if let Some(deadline) = self.allocator.next_deadline()
            && deadline <= at(now_s)
        {
            self.apply(Event::Tick, now_s);
        }
        let mut grants = Vec::new();
        while let Some(effect) = self.inbox.pop_front() {
            match effect {
                Effect::Offer(offer) => {
                    grants.extend(self.answer(&offer, &mut waiting, now_s)?);
                }
                Effect::Rejected { what, reason } => bail!("{what} was rejected: {reason}"),
                // Nothing is accepted with operations here.
                Effect::Launched { .. } => {}
                // Offers are answered in the second in which they are made.
                Effect::Rescind { .. } => bail!("an offer was rescinded"),
            }
        }
        Ok(grants)
    }
}
