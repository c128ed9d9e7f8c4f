//! What operators ask for, at random, and what they were answered.

use waggle_master::core::{Event, RequestId};
use waggle_types::{
    AgentId, CallRejection, Milli, Millis, OperatorCall, Quota, Reservation, Resources,
    Unavailability, Volume, VolumeId,
};

use crate::{
    Sim, Violation,
    ledger::{Asked, Mode},
};

/// Roles that operators care for.
const ROLES: [&str; 5] = ["prod", "jobs", "jobs/night", "spot", "hoard"];
/// Volumes of operators.
const N_VOLUMES: u64 = 4;

/// A call that is not answered.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    call: OperatorCall,
    asked: Option<Asked>,
}

fn stack(role: &str) -> Vec<Reservation> {
    vec![Reservation::dynamic(role, "ops")]
}

/// What operators reserve at a time.
fn reserved() -> Resources {
    Resources::from_millis(1_000, 256_000, 400_000)
}

fn quantities(cpus: u64, mem: u64) -> std::collections::BTreeMap<String, Milli> {
    let of = |n: u64| Milli(i64::try_from(n).unwrap_or(0));
    [("cpus".to_owned(), of(cpus)), ("mem".to_owned(), of(mem))].into()
}

impl Sim {
    /// One call, at random.
    pub(crate) fn operator_call(&mut self) -> Result<(), Violation> {
        let at = self.rng.index(self.nodes.len());
        let agent_id = self.nodes[at].info.agent_id.clone();
        // Where that can be done; now and then where it can't.
        let mut reserved_on = self.ledger.agents_with(&stack("prod"));
        reserved_on.push(agent_id.clone());
        let has_reserved = reserved_on.swap_remove(self.rng.index(reserved_on.len()));
        let role = ROLES[self.rng.index(ROLES.len())].to_owned();
        let call = match self.rng.between(0, 100) {
            0..10 => {
                let weight_milli = [500, 1000, 2000, 4000][self.rng.index(4)];
                OperatorCall::SetWeight { role, weight_milli }
            }
            10..22 => OperatorCall::SetQuota {
                quota: self.any_quota(),
                role,
                force: self.rng.chance(300),
            },
            22..37 => OperatorCall::Reserve {
                agent_id,
                stack: stack("prod"),
                resources: reserved(),
            },
            37..44 => OperatorCall::Unreserve {
                agent_id: has_reserved,
                stack: stack("prod"),
                resources: reserved(),
            },
            44..54 => OperatorCall::CreateVolume {
                agent_id: has_reserved,
                stack: stack("prod"),
                volume_id: self.any_volume()?,
                volume: Volume {
                    size: Milli(300_000),
                    shared: self.rng.chance(500),
                },
                mount_path: None,
            },
            54..60 => OperatorCall::DestroyVolume {
                agent_id: has_reserved,
                stack: stack("prod"),
                volume_id: self.any_volume()?,
            },
            60..68 => OperatorCall::SetMaintenance {
                agent_ids: vec![agent_id],
                window: Some(self.any_window()),
            },
            68..74 => OperatorCall::SetMaintenance {
                agent_ids: self.agent_ids(),
                window: None,
            },
            74..81 => OperatorCall::Drain {
                agent_id,
                max_grace: Some(Millis(1_000)).filter(|_| self.rng.chance(500)),
                mark_gone: self.rng.chance(250),
            },
            81..85 => OperatorCall::Deactivate { agent_id },
            85..96 => OperatorCall::Activate { agent_id },
            96..98 => {
                // Either it is dead, or the operator is wrong.
                if self.rng.chance(700) {
                    self.agent_down(at, true);
                }
                OperatorCall::MarkGone { agent_id }
            }
            _ => {
                let ids = self.frameworks.iter().filter_map(|f| f.id.clone());
                let ids: Vec<_> = ids.collect();
                match ids.get(self.rng.index(ids.len())) {
                    Some(id) => OperatorCall::Teardown {
                        framework_id: id.clone(),
                    },
                    None => return Ok(()),
                }
            }
        };
        self.operate(call)
    }

    fn agent_ids(&self) -> Vec<AgentId> {
        let ids = self.nodes.iter().map(|n| n.info.agent_id.clone());
        ids.collect()
    }

    fn any_volume(&mut self) -> Result<VolumeId, Violation> {
        let n = self.rng.between(0, N_VOLUMES);
        VolumeId::new(format!("ops{n}")).map_err(|e| Violation::Store(e.to_string()))
    }

    fn any_window(&mut self) -> Unavailability {
        Unavailability {
            start: self.now + Millis(self.rng.between(0, 60_000)),
            duration: Some(Millis::from_secs(30)),
        }
    }

    /// Limits leave room for what runs for ever in the role, and for one job.
    fn any_quota(&mut self) -> Quota {
        let mut quota = Quota::default();
        if self.rng.chance(400) {
            quota.guarantee = quantities(self.rng.between(500, 4_000), 256_000);
        }
        if self.rng.chance(600) {
            quota.limit = quantities(self.rng.between(4_000, 12_000), 4_000_000);
        }
        quota
    }

    /// Asks for something.
    pub fn operate(&mut self, call: OperatorCall) -> Result<(), Violation> {
        if self.master.is_none() {
            return Ok(());
        }
        self.log(format_args!("operator: {call:?}"));
        self.n_requests += 1;
        let request = RequestId(self.n_requests);
        let asked = self.ledger.begin_call(&call);
        let operation = Operation {
            call: call.clone(),
            asked,
        };
        self.operations.insert(self.n_requests, operation);
        let call = Box::new(call);
        self.tell_master(Event::Operate { request, call })
    }

    /// The answer to an operator; false when the request is not one's.
    pub(crate) fn operated(
        &mut self,
        request: u64,
        answer: &Result<(), Vec<CallRejection>>,
    ) -> bool {
        let Some(op) = self.operations.remove(&request) else {
            return false;
        };
        let taken = answer.is_ok();
        if let Err(all) = answer {
            let why: Vec<_> = all.iter().map(ToString::to_string).collect();
            self.log(format_args!("refused: {}", why.join("; ")));
        }
        let n = self.n_operated.entry(op.call.name()).or_default();
        if taken {
            n.0 += 1;
        } else {
            n.1 += 1;
        }
        let asked = op.asked.as_ref();
        self.ledger.settle_call(&op.call, asked, taken, self.now);
        true
    }

    /// Operators put right what would keep people waiting for ever: only one agent stays closed.
    pub(crate) fn heal_operators(&mut self) -> Result<(), Violation> {
        let closed = self.rng.index(self.nodes.len() * 2);
        let window = None;
        for (at, agent_id) in self.agent_ids().into_iter().enumerate() {
            if at != closed {
                let agent_ids = vec![agent_id.clone()];
                self.operate(OperatorCall::SetMaintenance { agent_ids, window })?;
                self.operate(OperatorCall::Activate { agent_id })?;
            }
        }
        for role in ROLES {
            // Else what others may have can be too little for them.
            let mut quota = self.any_quota();
            quota.guarantee.clear();
            let role = role.to_owned();
            self.operate(OperatorCall::SetQuota {
                role,
                quota,
                force: true,
            })?;
        }
        Ok(())
    }

    /// Whether an agent is, or is about to be, gone for good.
    pub(crate) fn may_be_gone(&self, agent_id: &AgentId) -> bool {
        let mode = self.ledger.modes.get(agent_id);
        mode.is_some_and(|m| m.may_be(&Mode::Gone))
    }
}
