//! What goes wrong, how often, and what clients ask for meanwhile.

use waggle_master::{PutMode, core::Event};
use waggle_types::{Command, DeploymentId, ServiceId};

use crate::{Sim, Violation, network::Delivery, node_spec};

/// A kind of history. Chances are per thousand.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Agents.
    pub n_agents: usize,
    /// Host ports per agent; with few, a port that is given out twice is found out soon.
    pub n_ports: u16,
    /// Services that clients play with.
    pub n_services: usize,
    /// Pods beside them.
    pub n_pods: usize,
    /// Batch frameworks.
    pub n_batches: usize,
    /// What operators do among all that happens; without, there are neither roles nor reservations.
    pub operators: u64,
    /// What people ask of jobs among all that happens; without, there are none.
    pub jobs: u64,
    /// Frameworks that take offers and never answer.
    pub n_hoarders: usize,
    /// How long an offer stands.
    pub offer_timeout_ms: u64,
    /// Until when faults and requests go on, in virtual milliseconds from the start.
    pub chaos_ms: u64,
    /// Mean time between faults or requests.
    pub every_ms: u64,
    /// Faults among them (the others are requests).
    pub faults: u64,
    /// Launches that fail.
    pub launch_failures: u64,
    /// Health checks that fail.
    pub check_failures: u64,
    /// Batches of effects of the master that its death cuts short.
    pub master_cuts: u64,
}

impl Plan {
    /// Requests only.
    pub fn calm() -> Self {
        Self {
            n_agents: 4,
            n_ports: 6,
            n_services: 3,
            n_pods: 0,
            n_batches: 1,
            operators: 0,
            jobs: 0,
            n_hoarders: 1,
            offer_timeout_ms: 10_000,
            chaos_ms: 60_000,
            every_ms: 4_000,
            faults: 0,
            launch_failures: 0,
            check_failures: 0,
            master_cuts: 0,
        }
    }

    /// Everything.
    pub fn chaos() -> Self {
        Self {
            n_batches: 2,
            chaos_ms: 240_000,
            every_ms: 1_800,
            faults: 600,
            launch_failures: 50,
            check_failures: 30,
            master_cuts: 2,
            ..Self::calm()
        }
    }

    /// Jobs by schedules and by hand among services, and everything that goes wrong.
    pub fn jobs() -> Self {
        Self {
            n_services: 1,
            n_batches: 1,
            jobs: 500,
            chaos_ms: 400_000,
            master_cuts: 4,
            ..Self::chaos()
        }
    }

    /// Pods, of which one keeps its data, and everything that goes wrong. There are ports enough for those that come back
    /// to where others are.
    pub fn pods() -> Self {
        Self {
            n_ports: 40,
            n_services: 1,
            n_pods: 2,
            n_batches: 1,
            master_cuts: 4,
            ..Self::chaos()
        }
    }

    /// As calm, with all of level 1: several roles, weights, quota, reservations, volumes, lending, maintenance,
    /// drains.
    pub fn roles() -> Self {
        Self {
            n_batches: 2,
            chaos_ms: 180_000,
            every_ms: 1_800,
            operators: 500,
            ..Self::calm()
        }
    }

    /// All of level 1, and everything that goes wrong.
    pub fn all_of_it() -> Self {
        Self {
            every_ms: 1_300,
            operators: 400,
            ..Self::chaos()
        }
    }
}

impl Sim {
    pub(crate) fn next_fault(&mut self) -> Result<(), Violation> {
        if self.now.since(self.started).0 >= self.plan.chaos_ms {
            return Ok(());
        }
        let every = self.plan.every_ms;
        self.after(every / 4, every * 2, Delivery::Fault);
        if self.rng.chance(self.plan.operators) {
            return self.operator_call();
        }
        if self.plan.jobs > 0 && self.rng.chance(self.plan.jobs) {
            return self.job_call();
        }
        let foreign = self.rng.chance(400) && !self.frameworks.is_empty();
        match (self.rng.chance(self.plan.faults), foreign) {
            (true, false) => self.fault(),
            (true, true) => {
                self.framework_fault();
                Ok(())
            }
            (false, false) => self.request(),
            (false, true) => {
                self.more_to_do();
                Ok(())
            }
        }
    }

    fn fault(&mut self) -> Result<(), Violation> {
        let at = self.rng.index(self.nodes.len());
        match self.rng.between(0, 100) {
            0..25 => {
                // A process ends by itself.
                let n = self.nodes[at].processes.len();
                let pick = self.rng.index(n);
                let pid = self.nodes[at].processes.keys().nth(pick).copied();
                let code = [0, 1, 137][self.rng.index(3)];
                if let Some(pid) = pid {
                    self.exit(at, pid, code)?;
                }
            }
            25..45 => {
                self.agent_down(at, false);
                self.after(100, 8_000, Delivery::AgentUp(at));
            }
            45..55 => {
                self.agent_down(at, true);
                self.after(1_000, 60_000, Delivery::AgentUp(at));
            }
            55..75 => {
                // The connection breaks, with what is on its way.
                if let Some(session) = self.nodes[at].session {
                    self.log(format_args!("session of agent {at} breaks"));
                    self.doom(session, 1, 2_000);
                }
            }
            75..90 => {
                self.log(format_args!("agent {at} is cut off"));
                self.nodes[at].partitioned = true;
                if let Some(session) = self.nodes[at].session {
                    self.doom(session, 5_000, 15_000);
                }
                self.after(2_000, 60_000, Delivery::Heal(at));
            }
            _ => self.master_down(),
        }
        Ok(())
    }

    /// A client defines, changes, scales, removes.
    fn request(&mut self) -> Result<(), Violation> {
        let n = self.rng.index(self.plan.n_services + self.plan.n_pods);
        let pod = n.checked_sub(self.plan.n_services);
        let mut spec = match pod {
            Some(n) => self.pod(n)?,
            None => match ServiceId::new(&format!("/s{n}")) {
                Ok(id) => node_spec(&id, 0),
                Err(_) => return Ok(()),
            },
        };
        if self.rng.chance(100) {
            return self.remove(&spec.id);
        }
        spec.instances = u32::try_from(self.rng.between(0, 6)).unwrap_or(0);
        let command = Command::Shell(format!("serve {}", self.rng.between(0, 3)));
        match spec.pod.take() {
            None => spec.command = command,
            Some(mut pod) => {
                // One of its containers changes, and so does all of it.
                if let Some(c) = pod.containers.last_mut() {
                    c.run.command = command;
                }
                spec = spec.of_pod(*pod);
            }
        }
        let over = [0, 500, 1000];
        let (healthy, over) = (over[self.rng.index(3)], over[self.rng.index(3)]);
        if spec.residency.is_none() {
            spec.upgrade.minimum_health_capacity_milli = healthy;
            spec.upgrade.maximum_over_capacity_milli = over;
        }
        self.put(spec)
    }

    /// Asks for a service, overriding what is in flight.
    pub fn put(&mut self, spec: waggle_types::ServiceSpec) -> Result<(), Violation> {
        let id = spec.id.clone();
        let Some((request, deployment_id)) = self.begin_request(&id) else {
            return Ok(());
        };
        self.log(format_args!("put {id} x{}", spec.instances));
        self.tell_master(Event::Put {
            request,
            spec: Box::new(spec),
            mode: PutMode::Upsert,
            force: true,
            deployment_id,
            trace: None,
        })
    }

    /// Removes a service.
    pub fn remove(&mut self, id: &ServiceId) -> Result<(), Violation> {
        let Some((request, deployment_id)) = self.begin_request(id) else {
            return Ok(());
        };
        self.log(format_args!("remove {id}"));
        self.tell_master(Event::Remove {
            request,
            id: id.clone(),
            force: true,
            deployment_id,
            trace: None,
        })
    }

    fn begin_request(
        &mut self,
        id: &ServiceId,
    ) -> Option<(waggle_master::core::RequestId, DeploymentId)> {
        self.master.as_ref()?;
        self.n_requests += 1;
        // Until the answer comes, either may be so.
        self.unanswered.insert(id.clone());
        self.requests.insert(self.n_requests, id.clone());
        let deployment_id = DeploymentId::new(format!("d{}", self.n_requests)).ok()?;
        Some((
            waggle_master::core::RequestId(self.n_requests),
            deployment_id,
        ))
    }
}
