//! Packing of unlike pods on unlike nodes: the openb trace (Alibaba cluster-trace-gpu-v2023), or nodes and
//! pods of that mix.
//!
//! Pods are drawn from the trace until they ask for 130 % of the GPUs; nothing ends. A pod with part of a
//! GPU takes it from one device, the fullest that fits; whole GPUs are empty devices. What counts is how
//! much of the GPUs is allocated, when as much as there is was asked for and at the end.
//!
//! `two levels` goes through the product's allocator: pods come in batches, spread over the frameworks;
//! each revives, packs by best fit into the offers that it holds, and gives back the rest. Several
//! frameworks see a part of the nodes each; what fits into none of a framework's offers is tried for
//! [`ROUNDS`] rounds. `gradient` is our reading of FGD (ATC'23) with the [`N_TYPES`] commonest pods.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use waggle_allocator::{Allocator, AllocatorConfig, Effect, Event};
use waggle_types::{AgentId, AgentInfo, FrameworkId, Milli, Millis, Offer, Resources, UnixMillis};

use super::workload::Rng;

const GPU: u64 = 1000;
const BATCH: usize = 64;
const ROUNDS: usize = 3;
const N_TYPES: usize = 32;

/// What a pod asks for: all in thousandths but memory, MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    pub cpu: u64,
    pub mem: u64,
    pub n_gpus: u64,
    /// Of each of its GPUs.
    pub gpu: u64,
}

impl Pod {
    fn gpu_total(&self) -> u64 {
        self.n_gpus * self.gpu
    }
}

/// What a node has free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub cpu: u64,
    pub mem: u64,
    pub gpus: Vec<u64>,
}

impl Node {
    /// The devices a pod would take.
    fn devices(&self, pod: &Pod) -> Option<Vec<usize>> {
        if self.cpu < pod.cpu || self.mem < pod.mem {
            return None;
        }
        let wanted = usize::try_from(pod.n_gpus).ok()?;
        let mut fitting: Vec<usize> = (0..self.gpus.len())
            .filter(|d| self.gpus[*d] >= pod.gpu)
            .collect();
        fitting.sort_by_key(|d| self.gpus[*d]);
        (fitting.len() >= wanted).then(|| fitting.into_iter().take(wanted).collect())
    }

    fn take(&mut self, pod: &Pod) -> bool {
        let Some(devices) = self.devices(pod) else {
            return false;
        };
        self.cpu -= pod.cpu;
        self.mem -= pod.mem;
        for device in devices {
            self.gpus[device] -= pod.gpu;
        }
        true
    }

    fn free_gpu(&self) -> u64 {
        self.gpus.iter().sum()
    }

    /// Free GPU that pods of these types, by weight, could not use here.
    fn fragment(&self, types: &[(Pod, u64)]) -> u64 {
        let of = |pod: &Pod| match self.devices(pod) {
            None => self.free_gpu(),
            Some(_) => self.gpus.iter().filter(|g| **g < pod.gpu).sum(),
        };
        types.iter().map(|(pod, weight)| of(pod) * weight).sum()
    }
}

/// The nodes and an endless list of pods.
#[derive(Debug, Clone)]
pub struct Trace {
    pub source: String,
    pub nodes: Vec<Node>,
    pub pods: Vec<Pod>,
}

fn numbers(text: &str, columns: &[usize]) -> anyhow::Result<Vec<Vec<u64>>> {
    let rows = text.lines().enumerate().skip(1);
    rows.map(|(index, line)| {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |column: &usize| {
            let field = fields.get(*column).copied().unwrap_or_default();
            let value = if field.is_empty() { "0" } else { field };
            value
                .parse()
                .with_context(|| format!("line {}: {field:?} is no number", index + 1))
        };
        columns.iter().map(number).collect()
    })
    .collect()
}

/// The openb trace, if it is there.
pub fn from_traces(dir: &Path) -> anyhow::Result<Option<Trace>> {
    let (nodes, pods) = (
        dir.join("openb_node_list_all_node.csv"),
        dir.join("openb_pod_list_default.csv"),
    );
    if !nodes.exists() || !pods.exists() {
        return Ok(None);
    }
    let nodes = numbers(&std::fs::read_to_string(nodes)?, &[1, 2, 3]).context("openb nodes")?;
    let pods = numbers(&std::fs::read_to_string(pods)?, &[1, 2, 3, 4]).context("openb pods")?;
    let node = |n: &Vec<u64>| Node {
        cpu: n[0],
        mem: n[1],
        gpus: (0..n[2]).map(|_| GPU).collect(),
    };
    let pod = |p: &Vec<u64>| Pod {
        cpu: p[0],
        mem: p[1],
        n_gpus: p[2],
        gpu: if p[2] == 0 { 0 } else { p[3] },
    };
    Ok(Some(Trace {
        source: "openb".into(),
        nodes: nodes.iter().map(node).collect(),
        pods: pods.iter().map(pod).collect(),
    }))
}

/// The openb mix in small: a third of the nodes with 2 GPUs, 40 % with 8, a fifth without; half of the
/// pods with a GPU, a third with part of one.
pub fn generated(seed: u64) -> Trace {
    let mut rng = Rng(seed ^ 0x7061_636B);
    let node = |index: u64| {
        let (cpu, mem, n) = match index % 5 {
            0 => (32_000, 262_144, 0),
            1 | 2 => (96_000, 393_216, 8),
            _ => (64_000, 262_144, 2),
        };
        Node {
            cpu,
            mem,
            gpus: (0..n).map(|_| GPU).collect(),
        }
    };
    let nodes = (0..80).map(node).collect();
    let pods = (0..1000)
        .map(|_| {
            let (n_gpus, gpu) = match rng.below(100) {
                0..13 => (0, 0),
                13..60 => (1, GPU),
                60..98 => (1, 50 * (1 + rng.below(19))),
                _ => (1 << (1 + rng.below(3)), GPU),
            };
            Pod {
                cpu: 2000 * (1 + rng.below(6)) * n_gpus.max(1),
                mem: 4096 * (1 + rng.below(6)) * n_gpus.max(1),
                n_gpus,
                gpu,
            }
        })
        .collect();
    Trace {
        source: "generated, of openb's mix".into(),
        nodes,
        pods,
    }
}

/// Thousandths of all GPUs that were allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// When pods had asked for as many GPUs as there are.
    pub at_full_milli: u64,
    /// When they had asked for 130 % of that.
    pub at_end_milli: u64,
}

/// Pods in their order of arrival.
pub fn arrivals(trace: &Trace, seed: u64) -> Vec<Pod> {
    let mut rng = Rng(seed);
    let all: u64 = trace.nodes.iter().map(Node::free_gpu).sum();
    let (mut asked, mut pods) = (0, Vec::new());
    while asked * 10 < all * 13 {
        let pod = trace.pods[usize::try_from(rng.below(trace.pods.len() as u64)).unwrap_or(0)];
        asked += pod.gpu_total();
        pods.push(pod);
    }
    pods
}

/// Places batches of pods with `place` (which returns how much GPU it placed).
fn pack(
    trace: &Trace,
    pods: &[Pod],
    mut place: impl FnMut(&[Pod]) -> anyhow::Result<u64>,
) -> anyhow::Result<Packed> {
    let all: u64 = trace.nodes.iter().map(Node::free_gpu).sum();
    let (mut asked, mut placed, mut at_full) = (0, 0, None);
    for batch in pods.chunks(BATCH) {
        if asked >= all {
            at_full.get_or_insert(placed);
        }
        placed += place(batch)?;
        asked += batch.iter().map(Pod::gpu_total).sum::<u64>();
    }
    Ok(Packed {
        at_full_milli: at_full.unwrap_or(placed) * 1000 / all,
        at_end_milli: placed * 1000 / all,
    })
}

/// How a node is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Random,
    FirstFit,
    BestFit,
    Gradient,
}

/// What would be left, each kind against the largest node, GPUs first among equals: smaller is fuller.
fn left_over(node: &Node, pod: &Pod) -> u64 {
    (node.cpu - pod.cpu) * 1000 / 128_000
        + (node.mem - pod.mem) * 1000 / 1_048_576
        + (node.free_gpu() - pod.gpu_total()) * 1000 / (8 * GPU)
}

fn best_fit(nodes: &[Node], among: impl Iterator<Item = usize>, pod: &Pod) -> Option<usize> {
    among
        .filter(|n| nodes[*n].devices(pod).is_some())
        .min_by_key(|n| (left_over(&nodes[*n], pod), *n))
}

/// One scheduler that sees every node.
pub fn central(trace: &Trace, pods: &[Pod], policy: Policy, seed: u64) -> anyhow::Result<Packed> {
    let mut nodes = trace.nodes.clone();
    let mut rng = Rng(seed ^ 0x72_616E);
    let types = commonest(&trace.pods);
    // The change of fragments by a pod's type, until its node changes.
    let mut known: Vec<BTreeMap<Pod, Option<i128>>> = vec![BTreeMap::new(); nodes.len()];
    pack(trace, pods, |batch| {
        let mut placed = 0;
        for pod in batch {
            let fits = |n: &usize| nodes[*n].devices(pod).is_some();
            let chosen = match policy {
                Policy::FirstFit => (0..nodes.len()).find(fits),
                Policy::Random => {
                    let fitting: Vec<usize> = (0..nodes.len()).filter(fits).collect();
                    let index = usize::try_from(rng.below(fitting.len() as u64))?;
                    fitting.get(index).copied()
                }
                Policy::BestFit => best_fit(&nodes, 0..nodes.len(), pod),
                Policy::Gradient => (0..nodes.len())
                    .filter_map(|n| {
                        let growth = *known[n]
                            .entry(*pod)
                            .or_insert_with(|| growth(&nodes[n], pod, &types));
                        growth.map(|growth| (growth, left_over(&nodes[n], pod), n))
                    })
                    .min()
                    .map(|(_, _, n)| n),
            };
            if let Some(n) = chosen
                && nodes[n].take(pod)
            {
                known[n].clear();
                placed += pod.gpu_total();
            }
        }
        Ok(placed)
    })
}

fn growth(node: &Node, pod: &Pod, types: &[(Pod, u64)]) -> Option<i128> {
    let mut after = node.clone();
    after
        .take(pod)
        .then(|| i128::from(after.fragment(types)) - i128::from(node.fragment(types)))
}

/// The commonest pods with GPUs and how often they come.
fn commonest(pods: &[Pod]) -> Vec<(Pod, u64)> {
    let mut counts: BTreeMap<Pod, u64> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.n_gpus > 0) {
        *counts.entry(*pod).or_default() += 1;
    }
    let mut types: Vec<(Pod, u64)> = counts.into_iter().collect();
    types.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    types.truncate(N_TYPES);
    types
}

fn resources(cpu: u64, mem: u64, gpu: u64) -> anyhow::Result<Resources> {
    let mut r = Resources::from_millis(i64::try_from(cpu)?, i64::try_from(mem * 1000)?, 0);
    r.scalars[3] = Milli(i64::try_from(gpu)?);
    Ok(r)
}

/// Through the allocator, with so many frameworks that pack by best fit at the same time.
pub fn two_levels(trace: &Trace, pods: &[Pod], n_frameworks: usize) -> anyhow::Result<Packed> {
    let mut nodes = trace.nodes.clone();
    let mut allocator = Allocator::new(AllocatorConfig::default());
    let mut now = UnixMillis(0);
    let mut ids = Vec::new();
    for index in 0..n_frameworks {
        let framework_id = FrameworkId::new(format!("f{index}"))?;
        ids.push(framework_id.clone());
        let event = Event::FrameworkAdded {
            framework_id: framework_id.clone(),
            role: format!("r{index}"),
            weight_milli: 1000,
        };
        allocator.apply(event, now);
        allocator.apply(Event::Suppress { framework_id }, now);
    }
    let mut node_of = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let agent_id = AgentId::new(format!("n{index}"))?;
        node_of.insert(agent_id.clone(), index);
        let info = AgentInfo {
            ip6: None,
            reserved: Vec::new(),
            domain: None,
            hostname: agent_id.to_string(),
            agent_id,
            ip: Ipv4Addr::LOCALHOST,
            http_port: 0,
            total: resources(node.cpu, node.mem, node.free_gpu())?,
            attributes: BTreeMap::new(),
        };
        let used = Vec::new();
        allocator.apply(Event::AgentAdded { info, used }, now);
    }
    pack(trace, pods, |batch| {
        let mut waiting: Vec<Vec<Pod>> = vec![Vec::new(); n_frameworks];
        for (index, pod) in batch.iter().enumerate() {
            waiting[index % n_frameworks].push(*pod);
        }
        let mut placed = 0;
        for _ in 0..ROUNDS {
            // Filters of the round before are over.
            now.0 += 10_000;
            let mut held: Vec<BTreeMap<usize, Offer>> = vec![BTreeMap::new(); n_frameworks];
            let mut events = vec![Event::Tick];
            for (index, framework_id) in ids.iter().enumerate() {
                if !waiting[index].is_empty() {
                    let framework_id = framework_id.clone();
                    events.push(Event::Revive { framework_id });
                }
            }
            for effect in allocator.apply_all(events, now) {
                let Effect::Offer(offer) = effect else {
                    anyhow::bail!("{effect:?} instead of an offer");
                };
                let framework = ids.iter().position(|id| *id == offer.framework_id);
                let node = node_of.get(&offer.agent_id);
                let (Some(framework), Some(node)) = (framework, node) else {
                    anyhow::bail!("an offer to or of nobody");
                };
                held[framework].insert(*node, offer);
            }
            let mut events = Vec::new();
            for (framework, offers) in held.into_iter().enumerate() {
                let framework_id = ids[framework].clone();
                events.push(Event::Suppress {
                    framework_id: framework_id.clone(),
                });
                let mut used: BTreeMap<usize, [u64; 3]> = BTreeMap::new();
                waiting[framework].retain(|pod| {
                    let best = best_fit(&nodes, offers.keys().copied(), pod);
                    let Some(node) = best.filter(|n| nodes[*n].take(pod)) else {
                        return true;
                    };
                    let sum = used.entry(node).or_default();
                    sum[0] += pod.cpu;
                    sum[1] += pod.mem;
                    sum[2] += pod.gpu_total();
                    placed += pod.gpu_total();
                    false
                });
                let mut unused = Vec::new();
                for (node, offer) in offers {
                    let Some([cpu, mem, gpu]) = used.get(&node) else {
                        unused.push(offer.offer_id);
                        continue;
                    };
                    events.push(Event::Accepted {
                        framework_id: framework_id.clone(),
                        offer_ids: vec![offer.offer_id],
                        used: resources(*cpu, *mem, *gpu)?,
                        refuse: Millis::from_secs(5),
                    });
                }
                events.push(Event::Declined {
                    framework_id,
                    offer_ids: unused,
                    refuse: Millis::from_secs(5),
                });
            }
            if let Some(effect) = allocator.apply_all(events, now).first() {
                anyhow::bail!("{effect:?} instead of nothing: all are suppressed");
            }
            if waiting.iter().all(Vec::is_empty) {
                break;
            }
        }
        Ok(placed)
    })
}

/// The table.
pub fn report(dir: &Path, quick: bool, seed: u64) -> anyhow::Result<String> {
    let found = if quick { None } else { from_traces(dir)? };
    let trace = found.unwrap_or_else(|| generated(seed));
    let pods = arrivals(&trace, seed);
    let best = central(&trace, &pods, Policy::BestFit, seed)?;
    let rows = [
        ("best fit, sees all nodes", best),
        ("random fit", central(&trace, &pods, Policy::Random, seed)?),
        ("first fit", central(&trace, &pods, Policy::FirstFit, seed)?),
        (
            "fragmentation gradient (our reading of FGD)",
            central(&trace, &pods, Policy::Gradient, seed)?,
        ),
        (
            "two levels (allocator), 1 framework, best fit",
            two_levels(&trace, &pods, 1)?,
        ),
        (
            "two levels (allocator), 3 frameworks at once",
            two_levels(&trace, &pods, 3)?,
        ),
    ];
    let mut s = format!(
        "\n# Packing against best fit\n\nMeasured here: {}, {} nodes, {} pods drawn from it until they ask for 130 % of the GPUs; seed {seed}; nothing ends.\n\n| policy | GPUs allocated at 100 % asked | at 130 % asked | points to best fit |\n|---|---|---|---|\n",
        trace.source,
        trace.nodes.len(),
        pods.len(),
    );
    for (name, packed) in rows {
        s += &format!(
            "| {name} | {:.1} % | {:.1} % | {:+.1} |\n",
            packed.at_full_milli as f64 / 10.0,
            packed.at_end_milli as f64 / 10.0,
            (packed.at_end_milli as f64 - best.at_end_milli as f64) / 10.0,
        );
    }
    s += "\nPublished, not measured here: FGD (ATC'23) on this trace leaves up to 49 % fewer GPUs unallocated than packing policies, 290 GPUs of 6,200.\n";
    Ok(s)
}
