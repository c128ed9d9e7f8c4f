//! Pods among services, with and without a volume, and what must hold of them beside what holds of every service.
//!
//! All the time: an instance is launched whole, on one agent, and no launch of the scheduler takes a service above what
//! its upgrade strategy allows. After healing: every instance has all of its containers, one with a volume is where
//! its volume is, and what is reserved for instances is what the scheduler knows of: no home is leaked or missed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use waggle_api::marathon::pod_from_value;
use waggle_master::core::{Effect, MasterCore, MasterMsg};
use waggle_services::{Capacity, Home, Instance, Member, home_of};
use waggle_types::{
    AgentId, ExecutorKey, FrameworkId, Resources, ServiceId, ServiceSpec, TaskId, UnixMillis,
    VolumeId,
};

use crate::{Sim, Violation, agent::Node};

/// What is remembered of pods, whatever masters do.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodBooks {
    /// Where the containers of each launch of an instance were started.
    started: BTreeMap<String, usize>,
    /// Where each volume was used.
    volumes: BTreeMap<VolumeId, usize>,
    /// Launches of instances that were seen.
    launched: BTreeSet<String>,
}

impl PodBooks {
    /// How many instances were launched, each time counted.
    pub fn n_launched(&self) -> usize {
        self.launched.len()
    }
}

/// A pod that fits the simulated nodes, read as any is: what is stored of it is what it says.
pub(crate) fn pod_spec(n: usize, instances: u32, resident: bool) -> Result<ServiceSpec, Violation> {
    let container = |name: &str, first: bool| {
        let mut out = json!({
            "name": name,
            "exec": {"command": {"shell": "serve"}},
            "resources": {"cpus": 0.12, "mem": 48},
            "lifecycle": {"killGracePeriodSeconds": 2},
        });
        if first {
            out["endpoints"] = json!([{"name": "main", "hostPort": 0}]);
            out["healthCheck"] = json!({
                "tcp": {"endpoint": "main"}, "gracePeriodSeconds": 20, "intervalSeconds": 4,
                "timeoutSeconds": 2, "maxConsecutiveFailures": 3,
            });
        }
        if resident {
            let mount = json!({"name": "data", "mountPath": "data", "readOnly": !first});
            out["volumeMounts"] = json!([mount]);
        }
        out
    };
    let mut pod = json!({
        "id": format!("/p{n}"),
        "scaling": {"instances": instances},
        "scheduling": {"backoff": {"maxLaunchDelay": 20}},
        "executorResources": {"cpus": 0.02, "mem": 8},
        "containers": [container("main", true), container("side", false)],
    });
    if resident {
        pod["volumes"] = json!([{"name": "data", "persistent": {"size": 100}}]);
    } else if let Some(all) = pod["containers"].as_array_mut() {
        all.push(container("log", false));
    }
    pod_from_value(&pod, None, UnixMillis(0)).map_err(|e| Violation::Pod(e.to_string()))
}

/// One launch of an instance: a pod's tasks differ in their containers alone.
fn launch_of(task: &TaskId) -> Option<String> {
    task.container()?;
    let (_, n) = task.as_str().rsplit_once('.')?;
    Some(format!("{} {n}", task.instance()))
}

/// Executors of a node with what they hold: each once, for as long as one of its tasks has a process.
pub(crate) fn executors(node: &Node) -> BTreeMap<ExecutorKey, Resources> {
    let running = node.processes.values();
    let specs = running.filter_map(|t| node.disk.get(t)?.spec.as_ref());
    let each = specs.filter_map(|spec| {
        let on = spec.executor.as_ref()?;
        let key = ExecutorKey {
            framework_id: spec.framework_id.clone(),
            executor_id: on.spec.executor_id.clone(),
        };
        Some((key, on.spec.resources.clone()))
    });
    each.collect()
}

/// The same summed up for each framework.
pub(crate) fn held_by_executors(node: &Node) -> BTreeMap<FrameworkId, Resources> {
    let mut out: BTreeMap<FrameworkId, Resources> = BTreeMap::new();
    for (key, held) in executors(node) {
        out.entry(key.framework_id).or_default().try_add(&held);
    }
    out
}

impl Sim {
    /// A pod by its number: every second one keeps its data. Where agents are gone for good, none does.
    pub(crate) fn pod(&self, n: usize) -> Result<ServiceSpec, Violation> {
        pod_spec(n, 0, n % 2 == 1 && self.plan.operators == 0)
    }

    /// What the master is about to do, all of it: a pod's instance is launched whole, and within what is allowed.
    pub(crate) fn check_launches(&mut self, effects: &[Effect]) -> Result<(), Violation> {
        let mut groups: BTreeMap<String, (usize, u32, ServiceId)> = BTreeMap::new();
        for effect in effects {
            let Effect::SendAgent {
                msg: MasterMsg::Launch(spec),
                ..
            } = effect
            else {
                continue;
            };
            let (Some(launch), Some(on)) = (launch_of(&spec.task_id), &spec.executor) else {
                continue;
            };
            let Ok(service) = ServiceId::new(&spec.service) else {
                continue;
            };
            let of = groups.entry(launch).or_insert((0, on.n_group, service));
            of.0 += 1;
        }
        for (launch, (n, n_group, service)) in groups {
            // A launch that was not heard of is sent again as it was.
            if !self.pods.launched.insert(launch.clone()) {
                continue;
            }
            if u32::try_from(n) != Ok(n_group) {
                let text = format!("{launch}: {n} of {n_group} containers are launched");
                return Err(Violation::Pod(text));
            }
            let known = self.master.as_ref().map(MasterCore::scheduler);
            let Some(s) = known.and_then(|s| s.service(&service)) else {
                continue;
            };
            let here = |i: &&Instance| i.unreachable_since.is_none();
            let n = s.instances().iter().filter(here).count();
            let most = Capacity::of(s.spec(), true).max_total;
            if n > most {
                let text = format!("{launch}: {n} instances of {service}, {most} are allowed");
                return Err(Violation::Pod(text));
            }
        }
        Ok(())
    }

    /// A container's process starts: where those of its instance are, and where its volume was.
    pub(crate) fn check_container(&mut self, at: usize, task: &TaskId) -> Result<(), Violation> {
        let Some(launch) = launch_of(task) else {
            return Ok(());
        };
        let first = *self.pods.started.entry(launch).or_insert(at);
        if first != at {
            let text = format!("{task} starts on {at}, others of it on {first}");
            return Err(Violation::Pod(text));
        }
        let spec = self.nodes[at].disk.get(task).and_then(|d| d.spec.as_ref());
        let volumes: Vec<VolumeId> = spec
            .map(|s| s.held_volumes().map(|(id, _)| id.clone()).collect())
            .unwrap_or_default();
        for id in volumes {
            let first = *self.pods.volumes.entry(id.clone()).or_insert(at);
            if first != at {
                let text = format!("{task} has volume {id} on {at}, it is on {first}");
                return Err(Violation::Pod(text));
            }
        }
        Ok(())
    }

    /// What of pods is not whole, or not at home.
    pub(crate) fn pod_differences(&self) -> Vec<String> {
        let mut out = Vec::new();
        let Some(master) = &self.master else {
            return out;
        };
        let mut homes: BTreeMap<AgentId, BTreeSet<String>> = BTreeMap::new();
        for node in &self.nodes {
            let id = &node.info.agent_id;
            for (stack, _) in master.allocator().reserved(id) {
                let Some((instance, service)) = home_of(&stack) else {
                    continue;
                };
                let here = homes.entry(id.clone()).or_default();
                here.insert(instance.to_owned());
                let of = ServiceId::new(service).ok();
                let of = of.and_then(|id| master.scheduler().service(&id));
                let is = |h: &Home| h.id == instance && h.place.agent_id == *id;
                if !of.is_some_and(|s| s.homes().iter().any(is)) {
                    out.push(format!("the home of {instance} on {id} is nobody's"));
                }
            }
        }
        for s in master.scheduler().services() {
            for h in s.homes() {
                let on = &h.place.agent_id;
                if !homes.get(on).is_some_and(|there| there.contains(&h.id)) {
                    out.push(format!("the home of {} is not on {on}", h.id));
                }
            }
            let Some(pod) = &s.spec().pod else { continue };
            let names: BTreeSet<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
            for i in s.instances() {
                let has: BTreeSet<&str> = i.members.iter().map(Member::name).collect();
                if has != names {
                    out.push(format!("{}: has {has:?}", i.task_id()));
                }
                let home = homes.get(&i.place.agent_id);
                let at_home = home.is_some_and(|h| h.contains(i.task_id().as_str()));
                if s.spec().residency.is_some() && !at_home {
                    out.push(format!("{}: is not at home", i.task_id()));
                }
            }
        }
        out
    }
}
