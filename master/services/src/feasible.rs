//! What could never run, whatever ends or goes elsewhere: told at once, not after a long wait.

use std::collections::BTreeMap;

use waggle_types::{Offer, ServiceSpec, UnixMillis};

use crate::{Context, Limits, OpenOffer, Rule, RuleCount, reconcile};

/// Pairs of instances and nodes that one question looks at.
const MAX_LOOKS: usize = 1_000_000;

/// How many instances fit on empty nodes, and what stands in the way of more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Feasible {
    /// Instances that were tried: all, unless nodes and instances are very many.
    pub n_tried: u32,
    /// Of these, how many fit.
    pub n_fit: u32,
    /// What refused one more, by rule.
    pub rules: BTreeMap<Rule, RuleCount>,
}

/// Places instances on nodes as if nothing else ran there. `nodes` are offers of all that each has.
///
/// Where it says that fewer fit than are asked for, more can't run before nodes or the definition change: instances
/// are all alike, so that no other order of placing them finds more room. Services that others have to be with or apart
/// from are not looked at.
pub fn feasible(spec: &ServiceSpec, nodes: Vec<Offer>) -> Feasible {
    let most = (MAX_LOOKS / nodes.len().max(1)).max(1);
    let n_tried = spec.instances.min(u32::try_from(most).unwrap_or(u32::MAX));
    let mut one_more = spec.clone();
    // One more than is tried shows what stands in the way.
    one_more.instances = n_tried;
    one_more.placement.with.clear();
    one_more.placement.apart.clear();
    let mut offers: Vec<OpenOffer> = nodes
        .into_iter()
        .map(|mut o| {
            spec.role().clone_into(&mut o.role);
            OpenOffer::from(o)
        })
        .collect();
    let context = Context {
        limits: Limits {
            max_instances_per_offer: u32::MAX,
            ..Limits::default()
        },
        ..Context::default()
    };
    let plan = reconcile(&one_more, &[], &mut offers, &context, UnixMillis(0));
    let n_fit = u32::try_from(plan.launches.len()).unwrap_or(u32::MAX);
    let mut rules = BTreeMap::new();
    if n_fit < n_tried {
        // Nodes that took some refuse the next one too.
        let mut rest = one_more.clone();
        rest.instances = 1;
        for r in &plan.refusals {
            count(&mut rules, &r.rule, &offers, r.offer_idx, r.had);
        }
        let used: std::collections::BTreeSet<usize> =
            plan.launches.iter().map(|l| l.offer_idx).collect();
        let full: Vec<OpenOffer> = used.iter().map(|i| offers[*i].clone()).collect();
        let here: Vec<crate::Place> = plan
            .launches
            .iter()
            .map(|l| crate::Place::from(&offers[l.offer_idx].offer))
            .collect();
        for (at, unmet) in crate::choose::refusals(&rest, &here, &full) {
            count(&mut rules, &unmet.rule, &full, at, unmet.had);
        }
    }
    Feasible {
        n_tried,
        n_fit,
        rules,
    }
}

fn count(
    rules: &mut BTreeMap<Rule, RuleCount>,
    rule: &Rule,
    offers: &[OpenOffer],
    at: usize,
    had: waggle_types::Milli,
) {
    let one: &mut RuleCount = rules.entry(rule.clone()).or_default();
    one.add(&offers[at].offer.hostname, had);
}
