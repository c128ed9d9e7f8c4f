//! Which of the offers that fit is taken: constraints first, then spread or packing.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{AgentId, ResourcePart, Resources, ScalarKind, ServiceId, ServiceSpec, Spread};

use crate::{
    Because, Choice, Constraint, OpenOffer, Place, Rule,
    constraints::{Taken, validate_constraints},
    matching::{Unmet, fit, on_agent, spend},
};

/// Where other services run that this one has to be with, or apart from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Around {
    /// By service: agents that it runs on. Only there.
    pub with: BTreeMap<ServiceId, BTreeSet<AgentId>>,
    /// By service: agents that it runs on. Not there.
    pub apart: BTreeMap<ServiceId, BTreeSet<AgentId>>,
}

impl Around {
    fn refuses(&self, agent: &AgentId) -> Option<Rule> {
        let apart = self.apart.iter().find(|(_, on)| on.contains(agent));
        let with = self.with.iter().find(|(_, on)| !on.contains(agent));
        match (apart, with) {
            (Some((id, _)), _) => Some(Rule::Apart(id.clone())),
            (None, Some((id, _))) => Some(Rule::With(id.clone())),
            (None, None) => None,
        }
    }
}

/// Chooses among offers for one service, and remembers what it has placed.
pub(crate) struct Chooser<'a> {
    spec: &'a ServiceSpec,
    /// Constraints that do not parse were refused at the door; if they are here, no place meets them.
    taken: Option<Taken<'a>>,
    around: &'a Around,
    max_per_offer: u32,
    places: Vec<Place>,
    load: Load,
}

impl<'a> Chooser<'a> {
    /// `here` is where the service has instances.
    pub fn new(
        spec: &'a ServiceSpec,
        constraints: Option<&'a [Constraint]>,
        here: &[&Place],
        offers: &[OpenOffer],
        around: &'a Around,
        max_per_offer: u32,
    ) -> Self {
        let mut taken = constraints.map(Taken::new);
        if let Some(t) = &mut taken {
            for p in here {
                t.add(p);
            }
        }
        let places: Vec<Place> = offers.iter().map(|o| Place::from(&o.offer)).collect();
        let mut load = Load::new(&places);
        for p in here {
            load.add(p);
        }
        Self {
            spec,
            taken,
            around,
            max_per_offer,
            places,
            load,
        }
    }

    /// The best offer for one more instance, with its host ports.
    pub fn best(&self, offers: &[OpenOffer], seed: u64) -> Option<(usize, Vec<u16>, Choice)> {
        let mut n_fit = 0;
        let each = offers.iter().enumerate();
        let fitting = each
            .filter(|(_, o)| o.n_launched < self.max_per_offer)
            .filter_map(|(i, o)| Some((self.rank(i, o), i, self.check(i, o, seed).ok()?)))
            .inspect(|_| n_fit += 1);
        let ((groups, _), at, ports) =
            fitting.min_by(|(a, i, _), (b, j, _)| (a, i).cmp(&(b, j)))?;
        let because = match self.spec.placement.spread {
            _ if n_fit == 1 => Because::Only,
            _ if !groups.is_empty() => Because::Group,
            Spread::Pack => Because::Fullest,
            Spread::Even => Because::Fewest(self.load.of(at)),
        };
        Some((at, ports, Choice { n_fit, because }))
    }

    /// Takes what an instance needs of an offer; answers of which parts.
    pub fn take(
        &mut self,
        offers: &mut [OpenOffer],
        at: usize,
        host_ports: &[u16],
    ) -> Option<Vec<ResourcePart>> {
        let need = self.spec.with_volumes().with_ports(on_agent(host_ports));
        let open = offers.get_mut(at)?;
        let parts = spend(self.spec, &mut open.offer, &need)?;
        open.n_launched += 1;
        self.placed(at);
        Some(parts)
    }

    /// An instance was placed on an offer.
    pub fn placed(&mut self, at: usize) {
        if let Some(t) = &mut self.taken {
            t.add(&self.places[at]);
        }
        self.load.add(&self.places[at]);
    }

    /// Host ports on an offer, or the first demand that is not met.
    pub fn check(&self, at: usize, open: &OpenOffer, seed: u64) -> Result<Vec<u16>, Unmet> {
        if open.offer.role != self.spec.role() {
            return Err(Rule::Role.into());
        }
        let place = &self.places[at];
        match &self.taken {
            None => return Err(Rule::Constraint(0).into()),
            Some(taken) => {
                if let Some(broken) = taken.refuses(place) {
                    return Err(Rule::Constraint(broken).into());
                }
            }
        }
        if let Some(rule) = self.around.refuses(&place.agent_id) {
            return Err(rule.into());
        }
        fit(self.spec, &open.offer, seed)
    }

    /// The smaller the better: the emptier groups of `GROUP_BY`, then the emptier region, zone and node, or the node
    /// that has the least left.
    fn rank(&self, at: usize, open: &OpenOffer) -> (Vec<u32>, [u128; 3]) {
        let place = &self.places[at];
        let groups = self
            .taken
            .as_ref()
            .map_or_else(Vec::new, |t| t.groups(place));
        let rank = match self.spec.placement.spread {
            Spread::Even => self.load.of(at).map(u128::from),
            Spread::Pack => [left(&open.offer.resources, self.spec), 0, 0],
        };
        (groups, rank)
    }
}

/// What refuses one more instance on each of these offers, beside those that are `here`.
pub(crate) fn refusals(
    spec: &ServiceSpec,
    here: &[Place],
    offers: &[OpenOffer],
) -> Vec<(usize, Unmet)> {
    let constraints = validate_constraints(&spec.constraints).ok();
    let here: Vec<&Place> = here.iter().collect();
    let around = Around::default();
    let chooser = Chooser::new(
        spec,
        constraints.as_deref(),
        &here,
        offers,
        &around,
        u32::MAX,
    );
    let each = offers.iter().enumerate();
    each.filter_map(|(i, o)| Some((i, chooser.check(i, o, 0).err()?)))
        .collect()
}

/// How many more instances an offer could hold, in thousandths, summed over the kinds that they need.
fn left(offered: &Resources, spec: &ServiceSpec) -> u128 {
    let each = ScalarKind::ALL.into_iter().map(|kind| {
        let need = u128::try_from(spec.resources.get(kind).0).unwrap_or(0);
        let has = u128::try_from(offered.get(kind).0).unwrap_or(0);
        (has * 1000).checked_div(need).unwrap_or(0)
    });
    each.sum()
}

/// Instances by region, zone and agent, for the places of offers.
struct Load {
    /// For each offer: positions in `counts`.
    of: Vec<[usize; 3]>,
    /// Positions by key.
    index: BTreeMap<Key, usize>,
    counts: Vec<u64>,
}

/// What is counted: a region, a zone in it, an agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Region(Option<String>),
    Zone(Option<(String, String)>),
    Agent(AgentId),
}

fn keys(place: &Place) -> [Key; 3] {
    let domain = place.domain.as_ref();
    [
        Key::Region(domain.map(|d| d.region.clone())),
        Key::Zone(domain.map(|d| (d.region.clone(), d.zone.clone()))),
        Key::Agent(place.agent_id.clone()),
    ]
}

impl Load {
    fn new(places: &[Place]) -> Self {
        let (mut index, mut n) = (BTreeMap::new(), 0);
        let of = places.iter().map(|p| {
            keys(p).map(|key| {
                *index.entry(key).or_insert_with(|| {
                    n += 1;
                    n - 1
                })
            })
        });
        let of = of.collect();
        Self {
            of,
            index,
            counts: vec![0; n],
        }
    }

    fn add(&mut self, place: &Place) {
        for key in keys(place) {
            if let Some(at) = self.index.get(&key) {
                self.counts[*at] += 1;
            }
        }
    }

    fn of(&self, offer: usize) -> [u64; 3] {
        self.of[offer].map(|at| self.counts[at])
    }
}
