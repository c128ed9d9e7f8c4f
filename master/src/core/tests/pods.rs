//! Pods: launched whole, replaced whole, and taken on whole by the next master.

use std::collections::{BTreeMap, BTreeSet};

use waggle_services::is_current_instance;
use waggle_types::{
    Milli, PersistentVolume, PodContainer, PodMount, PodOwn, PodSpec, PodVolume, PortMapping,
    Residency, UnreachableStrategy, UpgradeStrategy, VolumeId,
};

use super::*;

fn id() -> ServiceId {
    ServiceId::new("/shop/cart").unwrap()
}

/// A pod of two containers, of which the first backs a VIP.
fn pod(instances: u32) -> ServiceSpec {
    let mut web = service("/shop/cart", 1, "/cart:80");
    for p in &mut web.ports {
        p.name = Some("http".to_owned());
        p.mapping = Some(PortMapping {
            container_port: 0,
            host_port: Some(0),
        });
    }
    let side = ServiceSpec {
        ports: Vec::new(),
        ..web.clone()
    };
    let container = |name: &str, run: ServiceSpec| PodContainer {
        name: name.to_owned(),
        run,
        own: PodOwn::default(),
        mounts: Vec::new(),
    };
    let outer = ServiceSpec {
        instances,
        ..ServiceSpec::new(id(), Command::Executor)
    };
    outer.of_pod(PodSpec {
        containers: vec![container("web", web), container("side", side)],
        executor: Resources::from_millis(50, 10_000, 0),
        ..PodSpec::default()
    })
}

fn running(n: u32) -> World {
    let mut w = World::new();
    w.join(1);
    w.put(pod(n), PutMode::Create, false).unwrap();
    w.settle();
    w
}

/// Every instance has both of its containers, runs and is as defined.
fn check(w: &mut World, n: usize) {
    let view = w.view();
    let service = view.pod(&id()).unwrap();
    assert_eq!(service.instances.len(), n);
    assert_eq!(view.tasks.len(), 2 * n);
    for i in &service.instances {
        assert_eq!(i.state, TaskState::Running);
        let names: BTreeSet<&str> = i.containers.iter().filter_map(TaskId::container).collect();
        assert_eq!(names, BTreeSet::from(["side", "web"]));
        assert_eq!(i.ports.len(), 1);
    }
    let scheduler = w.core.scheduler();
    let spec = Arc::clone(scheduler.service(&id()).unwrap().spec());
    assert!(
        scheduler
            .instances()
            .all(|i| i.is_ready() && is_current_instance(&spec, i))
    );
    let all = w.agents.values();
    let executors: usize = all.map(|a| a.executors.len()).sum();
    assert_eq!(executors, n, "one executor for each instance");
}

#[test]
fn a_pod_is_launched_whole_and_holds_what_its_containers_take() {
    let mut w = running(2);
    check(&mut w, 2);
    let used = w.core.allocator().used(&agent_id(1)).unwrap();
    assert_eq!(
        used.scalars,
        Resources::from_millis(500, 148_000, 0).scalars
    );
    let launched: Vec<&TaskSpec> = w.agents[&agent_id(1)]
        .tasks
        .values()
        .map(|t| &t.0)
        .collect();
    let starts = launched
        .iter()
        .filter(|t| t.executor.as_ref().unwrap().starts);
    assert_eq!(starts.count(), 2);
    for t in launched {
        let on = t.executor.as_ref().unwrap();
        let first = format!("{}.web.1", t.task_id.instance());
        assert_eq!(on.group.as_ref().unwrap().as_str(), first);
        assert!(t.container.pod.is_some() && t.env.contains_key("EP_HOST_HTTP"));
        assert_eq!(t.env["MARATHON_CONTAINER_ID"], t.name);
    }
    // The VIP is backed by the containers that have its port alone.
    let backends = w
        .net()
        .tasks
        .values()
        .filter(|t| t.ports.iter().any(|p| !p.vips.is_empty()));
    assert_eq!(backends.count(), 2);
}

#[test]
fn when_a_container_ends_its_instance_is_replaced_whole() {
    let mut w = running(1);
    let before = w.task_ids();
    w.sent.clear();
    assert!(w.say(&agent_id(1), &before[0], TaskState::Failed));
    let kills: Vec<&TaskId> = w
        .sent
        .iter()
        .filter_map(|(_, m)| match m {
            MasterMsg::Kill { task_id, .. } => Some(task_id),
            _ => None,
        })
        .collect();
    assert_eq!(kills, [&before[1]], "what is left of it ends");
    let failure = w.view().services[&id()].last_failure.clone().unwrap();
    assert_eq!(failure.task_id, before[0]);
    w.end_executor_of(&before[0]);
    w.settle();
    check(&mut w, 1);
    let after = w.task_ids();
    assert!(after.iter().all(|t| !before.contains(t)), "{after:?}");
    let restarts = w.measured.iter().filter(|m| **m == Measure::Restarted);
    assert_eq!(restarts.count(), 1, "an instance, of two tasks");
}

#[test]
fn pods_are_scaled_changed_and_removed() {
    let mut w = running(2);
    w.put(pod(3), PutMode::Update, false).unwrap();
    w.settle_pods();
    check(&mut w, 3);
    let before: BTreeSet<TaskId> = w.task_ids().into_iter().collect();
    let mut changed = pod(3);
    let mut containers = *changed.pod.take().unwrap();
    containers.containers[1]
        .run
        .env
        .insert("A".into(), "b".into());
    let d = w
        .put(changed.of_pod(containers), PutMode::Update, false)
        .unwrap();
    assert!(w.view().deployments[&d.id].plan.steps[0].actions[0].pod);
    w.settle_pods();
    check(&mut w, 3);
    let after: BTreeSet<TaskId> = w.task_ids().into_iter().collect();
    assert!(before.is_disjoint(&after), "all of each instance is new");
    // Another kind of service under the same id is refused.
    let app = service("/shop/cart", 1, "/x:80");
    let err = w.put(app, PutMode::Upsert, false).unwrap_err();
    assert!(matches!(err, MasterError::AlreadyExists(_)), "{err}");
    // Instances are killed by their own id, or by a container's.
    let instance = w.view().services[&id()].instances[0].clone();
    w.kill(vec![instance.task_id.clone()], false, false)
        .unwrap();
    w.settle_pods();
    check(&mut w, 3);
    let left = w.task_ids();
    assert!(instance.containers.iter().all(|c| !left.contains(c)));
    w.remove("/shop/cart").unwrap();
    w.settle_pods();
    assert!(w.task_ids().is_empty() && w.view().services.is_empty());
}

#[test]
fn the_next_master_takes_pods_on_as_they_are() {
    let mut w = running(2);
    let before = w.task_ids();
    w.restart();
    w.join(1);
    w.settle_pods();
    check(&mut w, 2);
    assert_eq!(w.task_ids(), before, "nothing was launched twice");
    // One of which a part never arrived ends, and another takes its place.
    let lost = before[0].clone();
    w.restart();
    w.agents.get_mut(&agent_id(1)).unwrap().tasks.remove(&lost);
    w.join(1);
    w.settle_pods();
    check(&mut w, 2);
    let after = w.task_ids();
    let gone = |t: &&TaskId| t.instance() == lost.instance();
    assert_eq!(after.iter().filter(gone).count(), 0);
    assert_eq!(after.iter().filter(|t| before.contains(t)).count(), 2);
}

#[test]
fn whatever_was_written_last_pods_end_up_as_asked_for() {
    let mut w = World::new();
    w.join(1);
    w.saves = Some(Vec::new());
    w.put(pod(2), PutMode::Create, false).unwrap();
    w.settle_pods();
    w.put(pod(1), PutMode::Update, false).unwrap();
    w.settle_pods();
    let saves = w.saves.take().unwrap();
    assert!(saves.len() > 2);
    for (stored, agents) in saves {
        let mut w = World::new();
        (w.stored, w.agents) = (stored, agents);
        w.restart();
        w.join(1);
        w.settle_pods();
        let wanted = w.view().services.get(&id()).map_or(0, |s| s.spec.instances);
        if wanted > 0 {
            check(&mut w, wanted as usize);
        }
        assert!(w.view().deployments.is_empty());
    }
}

#[test]
fn a_pod_waits_for_its_secrets_and_says_so() {
    let mut w = World::new();
    w.join(1);
    let mut of = pod(1);
    of.secrets.sources = BTreeMap::from([("pw".into(), "shop/db".into())]);
    let containers = &mut of.pod.as_mut().unwrap().containers;
    for c in containers.iter_mut() {
        c.run.secrets = of.secrets.clone();
    }
    let one = &mut containers[1];
    one.run.secrets.env = BTreeMap::from([("PASSWORD".into(), "pw".into())]);
    one.own.secrets.clone_from(&one.run.secrets.env);
    w.put(of.clone(), PutMode::Create, false).unwrap();
    w.run_all();
    for _ in 0..2 {
        let view = w.view();
        let kept = &view.services[&id()];
        assert_eq!((&kept.spec.secrets, &kept.spec.pod), (&of.secrets, &of.pod));
        assert_eq!(kept.instances, []);
        assert_eq!(
            view.queue[&id()].why()[0].message,
            "needs the values of secrets (pw) and there is no secret store: 1 offer refused"
        );
        assert!(view.tasks.is_empty());
        // It is stored as it is, and the next master knows no more.
        w.restart();
        w.join(1);
        w.pass(60_000);
    }
    w.put(pod(1), PutMode::Upsert, true).unwrap();
    w.settle();
    check(&mut w, 1);
}

/// The same pod with a volume that both containers mount.
fn keeping(instances: u32) -> ServiceSpec {
    let mut outer = pod(instances);
    let mut of = *outer.pod.take().unwrap();
    let residency = Some(Residency::default());
    for c in &mut of.containers {
        c.run.residency = residency;
        c.mounts = vec![PodMount {
            volume: "data".into(),
            path: "at".into(),
            read_only: false,
        }];
    }
    of.volumes = vec![PodVolume {
        name: "data".into(),
        host: None,
        persistent: true,
        secret: None,
    }];
    outer.residency = residency;
    outer.unreachable = UnreachableStrategy::Disabled;
    outer.upgrade = UpgradeStrategy {
        minimum_health_capacity_milli: 500,
        maximum_over_capacity_milli: 0,
    };
    outer.volumes = vec![PersistentVolume {
        target: "data".into(),
        size: Milli::units(100),
        disk: None,
        read_only: false,
    }];
    outer.of_pod(of)
}

/// The volumes that containers mount, each of which its executor holds, and how many are reserved for.
fn volumes(w: &World) -> (BTreeSet<VolumeId>, usize) {
    let tasks = w.agents[&agent_id(1)].tasks.values();
    let held = tasks.map(|t| {
        let mut held = t.0.held_volumes();
        let (id, v) = held.next().unwrap();
        assert!(v.shared && held.next().is_none());
        id.clone()
    });
    let stored = w.core.reservations.stored.values();
    (held.collect(), stored.map(Vec::len).sum())
}

#[test]
fn a_pod_comes_back_to_its_volume_until_that_is_wiped() {
    let mut w = World::new();
    w.join(1);
    w.put(keeping(1), PutMode::Create, false).unwrap();
    w.settle_pods();
    check(&mut w, 1);
    let first = volumes(&w);
    assert_eq!((first.0.len(), first.1), (1, 1));
    let instance = |w: &mut World| w.view().services[&id()].instances[0].task_id.clone();
    let (was, tasks) = (instance(&mut w), w.task_ids());
    // A container fails; the definition changes; the master starts anew.
    assert!(w.say(&agent_id(1), &tasks[0], TaskState::Failed));
    w.settle_pods();
    check(&mut w, 1);
    let mut changed = keeping(1);
    let mut of = *changed.pod.take().unwrap();
    of.containers[1].run.env.insert("A".into(), "b".into());
    w.put(changed.of_pod(of), PutMode::Update, false).unwrap();
    w.settle_pods();
    check(&mut w, 1);
    w.restart();
    w.join(1);
    w.settle_pods();
    check(&mut w, 1);
    assert_eq!(
        (volumes(&w), instance(&mut w)),
        (first.clone(), was.clone())
    );
    assert!(w.task_ids().iter().all(|t| !tasks.contains(t)));
    assert_eq!(w.core.scheduler().service(&id()).unwrap().homes().len(), 1);
    // Whoever asked for a wipe has the answer, whatever becomes of this master.
    w.event(Event::Kill {
        request: RequestId(1),
        ids: vec![was.clone()],
        scale: false,
        wipe: true,
        force: false,
        deployment_id: DeploymentId::new("k").unwrap(),
        trace: None,
    });
    let wiped = |w: &World| w.stored.keys().filter(|k| k.starts_with("wiped/")).count();
    assert_eq!(wiped(&w), 1, "it is stored before it is answered");
    w.restart();
    w.join(1);
    w.settle_pods();
    check(&mut w, 1);
    let anew = volumes(&w);
    assert_eq!((anew.0.len(), anew.1, wiped(&w)), (1, 1, 0));
    assert!(anew.0 != first.0 && instance(&mut w) != was);
    // What instances can't follow is refused, in the words of pods.
    let mut larger = keeping(1);
    larger.volumes[0].size = Milli::units(200);
    let refused = w.put(larger, PutMode::Update, true).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("volumes: can't be changed while the pod"),
        "{refused}"
    );
    w.remove("/shop/cart").unwrap();
    w.settle_pods();
    assert_eq!(volumes(&w), (BTreeSet::new(), 0));
}

impl World {
    /// The agent's own executor of an instance ends with the last of its containers.
    fn end_executor_of(&mut self, task: &TaskId) {
        self.obey_kills();
        let agent = agent_id(1);
        let gone: Vec<ExecutorKey> = self.agents[&agent]
            .executors
            .keys()
            .filter(|k| k.executor_id.as_str().ends_with(uuid(task)))
            .cloned()
            .collect();
        for key in gone {
            self.end_executor(&agent, &key, 0);
        }
    }

    /// As [`World::settle`], with executors that end with their last containers.
    fn settle_pods(&mut self) {
        for _ in 0..20 {
            self.run_all();
            self.obey_kills();
            let agent = agent_id(1);
            let a = &self.agents[&agent];
            let live = |k: &&ExecutorKey| {
                let mut on = a.tasks.values().filter_map(|t| t.0.executor.as_ref());
                on.any(|on| on.spec.executor_id == k.executor_id)
            };
            let over: Vec<ExecutorKey> = a.executors.keys().filter(|k| !live(k)).cloned().collect();
            for key in over {
                self.end_executor(&agent, &key, 0);
            }
            self.pass(2000);
        }
    }
}

fn uuid(task: &TaskId) -> &str {
    let of = task.instance().rsplit_once(".instance-");
    of.map_or("", |(_, uuid)| uuid)
}
