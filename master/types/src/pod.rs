//! Pods: services whose instances are several containers on one node, which share network and volumes and live and end
//! together.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Command, Milli, Millis, Resources, ScalarKind, ServiceSpec, TaskId};

/// What makes a service a pod. The service itself says what holds for all of it: how many instances, where, and the sums
/// of what is below; see [`ServiceSpec::of_pod`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PodSpec {
    /// At least one; names are unique.
    pub containers: Vec<PodContainer>,
    /// What containers may mount, by unique names.
    pub volumes: Vec<PodVolume>,
    /// Held by each instance beside its containers. Nothing runs in it: the agent itself is the executor.
    pub executor: Resources,
    /// `scaling.maxInstances`: the most that it may be scaled to.
    pub max_instances: Option<u32>,
}

/// A container of each instance of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodContainer {
    /// Unique in the pod: `[a-z0-9-]`.
    pub name: String,
    /// What it runs, in the words of a service of one instance: what the pod says for all of its containers is in it
    /// (environment, labels, user, network, roles). Its version means nothing.
    pub run: ServiceSpec,
    /// What was said for this container alone, as far as it is merged in `run`.
    pub own: PodOwn,
    /// Volumes of the pod that it mounts, as given; what becomes of them is in `run`.
    pub mounts: Vec<PodMount>,
}

/// What a definition says for one container of what it may also say for all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PodOwn {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Which of the pod's secrets become environment variables.
    pub secrets: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Unix user.
    pub user: Option<String>,
    /// SIGTERM to SIGKILL.
    pub kill_grace: Option<Millis>,
}

/// A volume that containers of an instance share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodVolume {
    /// Unique in the pod.
    pub name: String,
    /// A path of the host, or relative to the directory that the containers share; `None`: a directory of the
    /// instance's own, which goes with it.
    pub host: Option<String>,
    /// It outlives its instance's tasks: one of [`ServiceSpec::volumes`], by its name.
    pub persistent: bool,
    /// It is a file with the value of this one of the pod's secrets.
    pub secret: Option<String>,
}

/// Where a container mounts a volume of its pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodMount {
    /// The volume's name.
    pub volume: String,
    /// Absolute inside an image, or relative to the sandbox.
    pub path: String,
    /// Whether it can't be written.
    pub read_only: bool,
}

impl PodSpec {
    /// One container.
    pub fn container(&self, name: &str) -> Option<&PodContainer> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// What one instance takes, without ports; saturates.
    pub fn resources(&self) -> Resources {
        let mut sum = self.executor.clone();
        for c in &self.containers {
            for kind in ScalarKind::ALL {
                let at = &mut sum.scalars[kind as usize];
                *at = Milli(at.0.saturating_add(c.run.resources.get(kind).0));
            }
        }
        sum
    }
}

impl ServiceSpec {
    /// Names of the secrets whose values its tasks need, those of a pod's containers among them.
    pub fn used_secrets(&self) -> BTreeSet<&str> {
        let mut used = self.secrets.used();
        let containers = self.pod.iter().flat_map(|p| &p.containers);
        used.extend(containers.flat_map(|c| c.run.secrets.used()));
        used
    }

    /// A service of pods. What it takes, its ports, checks and grace are those of its containers, one after the other.
    #[must_use]
    pub fn of_pod(self, pod: PodSpec) -> Self {
        let all = || pod.containers.iter().map(|c| &c.run);
        let grace = all().map(|r| r.kill_grace).max();
        Self {
            command: Command::Executor,
            resources: pod.resources(),
            ports: all().flat_map(|r| r.ports.clone()).collect(),
            health_checks: all().flat_map(|r| r.health_checks.clone()).collect(),
            kill_grace: grace.unwrap_or(self.kill_grace),
            pod: Some(Box::new(pod)),
            ..self
        }
    }
}

impl TaskId {
    /// The instance of a service that its task is of: `web.instance-<uuid>` of `web.instance-<uuid>._app.1`, and of
    /// `web.instance-<uuid>.nginx.1` where instances are pods.
    pub fn instance(&self) -> &str {
        self.parts().map_or(self.as_str(), |(instance, _)| instance)
    }

    /// The container of a pod that a task is: `nginx` of `web.instance-<uuid>.nginx.1`.
    pub fn container(&self) -> Option<&str> {
        let (_, name) = self.parts()?;
        (name != "_app").then_some(name)
    }

    fn parts(&self) -> Option<(&str, &str)> {
        let (rest, n) = self.as_str().rsplit_once('.')?;
        let (instance, name) = rest.rsplit_once('.')?;
        let counted = !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        (counted && instance.contains(".instance-")).then_some((instance, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServiceId, TaskId};

    #[test]
    fn a_task_names_its_instance_and_its_container() {
        for (id, instance, container) in [
            ("web.instance-1-2._app.1", "web.instance-1-2", None),
            ("a.b_c.instance-1._app.12", "a.b_c.instance-1", None),
            ("web.instance-1.nginx.1", "web.instance-1", Some("nginx")),
            (
                "web.instance-1.instance-x.1",
                "web.instance-1",
                Some("instance-x"),
            ),
            ("web.instance-1", "web.instance-1", None),
            ("web.1.2", "web.1.2", None),
            ("t", "t", None),
        ] {
            let id = TaskId::new(id).unwrap();
            assert_eq!(
                (id.instance(), id.container()),
                (instance, container),
                "{id}"
            );
        }
    }

    #[test]
    fn a_pod_takes_what_its_containers_take() {
        let run = |cpus, grace| ServiceSpec {
            resources: Resources::from_millis(cpus, 1000, 0),
            kill_grace: Millis(grace),
            ..ServiceSpec::new(ServiceId::new("/p").unwrap(), Command::Shell("true".into()))
        };
        let container = |name: &str, run| PodContainer {
            name: name.to_owned(),
            run,
            own: PodOwn::default(),
            mounts: Vec::new(),
        };
        let mut with_secret = run(200, 9);
        let secret = ("PASSWORD".to_owned(), "pw".to_owned());
        with_secret.secrets.env.extend([secret]);
        let pod = PodSpec {
            containers: vec![container("a", run(100, 5)), container("b", with_secret)],
            executor: Resources::from_millis(50, 0, 0),
            ..PodSpec::default()
        };
        let spec = run(7, 1).of_pod(pod);
        assert_eq!(spec.resources, Resources::from_millis(350, 2000, 0));
        assert_eq!(
            (spec.kill_grace, spec.command.clone()),
            (Millis(9), Command::Executor)
        );
        assert_eq!(spec.used_secrets(), BTreeSet::from(["pw"]));
        let pod = spec.pod.unwrap();
        assert_eq!(pod.container("b").unwrap().run.kill_grace, Millis(9));
        assert!(pod.container("c").is_none());
    }
}
