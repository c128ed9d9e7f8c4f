//! What frameworks do with offers in the histories.

use waggle_allocator::{Event, Operation};
use waggle_types::{
    AgentId, FrameworkId, Milli, Millis, Offer, OfferId, PortSet, Reservation, ResourcePart,
    Resources, Volume, VolumeId,
};

use super::kinds::{eighths, without_volumes};
use super::oracle::sum;
use super::world::{Dice, ROLES, World, a_volume, refuse, reservation, volume_id, volume_ids};

/// Offers of one agent to one client, and what they hold.
struct Deal {
    framework_id: FrameworkId,
    offer_ids: Vec<OfferId>,
    role: String,
    agent_id: AgentId,
    sum: Resources,
    parts: Vec<ResourcePart>,
    refuse: Millis,
}

impl World {
    pub fn pick_offer(&self, d: &mut Dice) -> Option<Offer> {
        let all: Vec<&Offer> = self.oracle.offers.values().map(|(o, _)| o).collect();
        (!all.is_empty()).then(|| all[d.below(all.len())].clone())
    }

    fn deal(&self, d: &mut Dice) -> Option<Deal> {
        let first = self.pick_offer(d)?;
        let key = |o: &Offer| (o.agent_id.clone(), o.framework_id.clone(), o.role.clone());
        let same = self.oracle.offers.values();
        let same = same.filter(|(o, _)| key(o) == key(&first));
        let all: Vec<&(Offer, Vec<ResourcePart>)> = same.take(1 + d.below(2)).collect();
        Some(Deal {
            framework_id: first.framework_id,
            offer_ids: all.iter().map(|(o, _)| o.offer_id.clone()).collect(),
            role: first.role,
            agent_id: first.agent_id,
            sum: sum(all.iter().map(|(o, _)| &o.resources)),
            parts: all.iter().flat_map(|(_, p)| p).cloned().collect(),
            refuse: refuse(d),
        })
    }

    pub fn accept(&mut self, d: &mut Dice) {
        let Some(deal) = self.deal(d) else {
            return;
        };
        // More than eight eighths is too much, and is refused.
        let used = task(&deal.sum, d);
        self.apply(&Event::Accepted {
            framework_id: deal.framework_id,
            offer_ids: deal.offer_ids,
            used,
            refuse: deal.refuse,
        });
    }

    /// One to four operations, many of which make sense.
    pub fn operate(&mut self, d: &mut Dice) {
        let Some(deal) = self.deal(d) else {
            return;
        };
        let database = self.features.volumes && deal.role != "*" && d.below(2) == 0;
        let operations = if database {
            self.as_a_database_does(&deal, d)
        } else {
            let mut made = Vec::new();
            (0..=d.below(4))
                .map(|_| self.operation(&deal, &mut made, d))
                .collect()
        };
        self.apply(&Event::Operated {
            framework_id: deal.framework_id,
            offer_ids: deal.offer_ids,
            operations,
            refuse: deal.refuse,
        });
    }

    /// Reserve, make a volume, launch on it, all in one accept.
    fn as_a_database_does(&self, deal: &Deal, d: &mut Dice) -> Vec<Operation> {
        let stack = vec![reservation(&deal.role)];
        let resources = Resources::from_millis(100, 64_000, 2_048_000);
        let mut volume_id = volume_id(d);
        let volumes = &self.oracle.agents[&deal.agent_id].total.custom;
        let new = |id: &VolumeId| volumes.volume(id).is_none();
        if d.below(4) > 0
            && let Some(id) = volume_ids().find(new)
        {
            volume_id = id;
        }
        let volume = Volume {
            size: Milli([1_024_000, 2_048_000][d.below(2)]),
            shared: d.below(2) == 0,
        };
        let mut used = Resources::from_millis(100, 32_000, 0);
        used.custom.set_volume(volume_id.clone(), volume);
        let parts = match d.below(3) {
            0 => vec![ResourcePart {
                reservation: stack.clone(),
                revocable: false,
                resources: used.clone(),
            }],
            _ => Vec::new(),
        };
        let launch = Operation::Launch {
            resources: used,
            parts,
        };
        let mut all = vec![
            Operation::Reserve {
                stack: stack.clone(),
                resources,
            },
            Operation::CreateVolume {
                stack: stack.clone(),
                volume_id: volume_id.clone(),
                volume,
            },
            launch.clone(),
        ];
        match d.below(4) {
            // Two tasks on one volume: possible if it is shared.
            0 => all.push(launch),
            1 => all.push(Operation::DestroyVolume { stack, volume_id }),
            _ => {}
        }
        all
    }

    fn operation(&self, deal: &Deal, made: &mut Vec<Vec<Reservation>>, d: &mut Dice) -> Operation {
        let part = deal.parts[d.below(deal.parts.len())].clone();
        let of_made = |made: &Vec<Vec<Reservation>>, d: &mut Dice| {
            if made.is_empty() || d.below(2) == 0 {
                part.reservation.clone()
            } else {
                made[d.below(made.len())].clone()
            }
        };
        match d.below(if self.features.volumes { 9 } else { 5 }) {
            0 | 1 => {
                let mut stack = of_made(made, d);
                let role = match d.below(4) {
                    0 => ROLES[d.below(ROLES.len())],
                    _ => &deal.role,
                };
                stack.push(reservation(role));
                made.push(stack.clone());
                Operation::Reserve {
                    stack,
                    resources: self.a_little(d),
                }
            }
            2 => {
                let stack = of_made(made, d);
                let mut resources = self.a_little(d);
                if d.below(2) == 0 {
                    resources = without_volumes(&part.resources);
                }
                Operation::Unreserve { stack, resources }
            }
            3 => {
                let resources = task(&part.resources, d);
                Operation::Launch {
                    parts: vec![ResourcePart {
                        resources: resources.clone(),
                        ..part
                    }],
                    resources,
                }
            }
            4 => Operation::Launch {
                resources: task(&deal.sum, d),
                parts: Vec::new(),
            },
            5 | 6 => Operation::CreateVolume {
                stack: of_made(made, d),
                volume_id: volume_id(d),
                volume: a_volume(d),
            },
            7 => Operation::ResizeVolume {
                stack: of_made(made, d),
                volume_id: volume_id(d),
                size: a_volume(d).size,
            },
            _ => Operation::DestroyVolume {
                stack: of_made(made, d),
                volume_id: volume_id(d),
            },
        }
    }
}

/// A part of a bundle, sometimes with a volume of it, sometimes too much.
fn task(of: &Resources, d: &mut Dice) -> Resources {
    let n = d.below(10);
    let mut out = eighths(&without_volumes(of), n);
    out.ports = PortSet::from_ports(of.ports.iter().take(d.below(4)));
    if n > 0 && d.below(2) == 0 {
        for (id, v) in of.custom.volumes().take(2) {
            out.custom.set_volume(id.clone(), v);
        }
    }
    out
}
