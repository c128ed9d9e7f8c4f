//! What runs here, and what is measured of it when somebody asks.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    task::JoinError,
    time::Instant,
};
use waggle_api::{
    mesos::event,
    proto::mesos::{self as pb, network_info::Protocol},
};
use waggle_types::{Command, TaskId, TaskSpec, TaskState};

use super::statistics::{Reading, statistics};
use crate::{
    AgentConfig,
    cgroup::{CgroupHost, NodeLimits, Stats},
    checkpoint::TaskDir,
    clock, executors,
    http::AgentView,
    net::Net,
    observe::Kernel,
    tidy::DiskUses,
};

/// A reading is given again to who asks so soon after it: Mesos answers two a second, too, and has the others wait.
const FRESH: Duration = Duration::from_millis(500);
/// Of a command in its executor's name (Mesos's `Slave::getExecutorInfo`).
const MAX_COMMAND: usize = 15;

/// A container: a task of its own, or an executor with its tasks.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub id: TaskId,
    /// Framework.
    pub framework_id: String,
    /// Mesos has an executor for each command, which is called as its task.
    pub executor_id: String,
    /// For people.
    pub executor_name: String,
    /// What it may use.
    pub spec: TaskSpec,
    /// Where it is found.
    pub ips: Vec<IpAddr>,
    /// Its first process, if that is known.
    pub pid: Option<u32>,
}

/// The containers of tasks and executors that have not ended.
pub fn containers(view: &AgentView) -> Vec<Container> {
    let node = IpAddr::from(view.agent.ip);
    let alone = view.tasks.iter().filter(|t| t.executor_id.is_empty());
    let alone =
        alone.filter(|t| matches!(t.summary.state, TaskState::Running | TaskState::Killing));
    let alone = alone.map(|t| {
        let own: Vec<IpAddr> = [t.ip.map(IpAddr::from), t.ip6.map(IpAddr::from)]
            .into_iter()
            .flatten()
            .collect();
        Container {
            id: t.summary.spec.task_id.clone(),
            framework_id: t.framework_id.clone(),
            executor_id: t.id.clone(),
            executor_name: command_executor(&t.summary.spec),
            spec: t.summary.spec.clone(),
            ips: if own.is_empty() { vec![node] } else { own },
            pid: t.pid,
        }
    });
    let executors = view.executors.iter().filter_map(|e| {
        let id = TaskId::new(e.container.as_str()).ok()?;
        Some(Container {
            framework_id: e.framework_id.clone(),
            executor_id: e.id.clone(),
            executor_name: e.name.clone(),
            spec: executors::container_spec(&e.record, &id, e.used.clone()),
            ips: vec![node],
            pid: None,
            id,
        })
    });
    alone.chain(executors).collect()
}

/// As Mesos names the executor of a command.
pub fn command_executor(spec: &TaskSpec) -> String {
    let short = |text: &str| {
        if text.chars().count() > MAX_COMMAND {
            let cut: String = text.chars().take(MAX_COMMAND - 3).collect();
            format!("{cut}...")
        } else {
            text.to_owned()
        }
    };
    let command = match &spec.command {
        Command::Shell(text) => format!("sh -c '{}'", short(text)),
        Command::Argv(args) | Command::Image(args) => {
            format!("[{}]", short(&args.join(", ")))
        }
        Command::Executor => "NO EXECUTABLE".to_owned(),
    };
    format!(
        "Command Executor (Task: {}) (Command: {command})",
        spec.task_id
    )
}

/// A container with its figures.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Which.
    pub container: Container,
    /// What it uses, and may use.
    pub statistics: pb::ResourceStatistics,
}

impl Measured {
    /// Where it is found.
    pub fn status(&self) -> pb::ContainerStatus {
        let c = &self.container;
        let address = |ip: &IpAddr| pb::NetworkIpAddress {
            protocol: Some(
                if ip.is_ipv4() {
                    Protocol::IPv4
                } else {
                    Protocol::IPv6
                }
                .into(),
            ),
            ip_address: Some(ip.to_string()),
        };
        pb::ContainerStatus {
            network_infos: vec![pb::NetworkInfo {
                ip_addresses: c.ips.iter().map(address).collect(),
                ..pb::NetworkInfo::default()
            }],
            executor_pid: c.pid,
            container_id: Some(event::container_id(c.id.to_string())),
        }
    }
}

/// Reads what containers use, one reading at a time.
pub struct Meter {
    config: Arc<AgentConfig>,
    cgroups: CgroupHost,
    net: Arc<Net>,
    disks: watch::Receiver<DiskUses>,
    last: Mutex<Option<(Instant, Arc<Vec<Measured>>)>>,
}

impl Meter {
    /// Of this node's containers. `disks` says how much each holds, as it was measured last.
    pub fn new(
        config: &Arc<AgentConfig>,
        cgroups: CgroupHost,
        net: Arc<Net>,
        disks: watch::Receiver<DiskUses>,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            cgroups,
            net,
            disks,
            last: Mutex::new(None),
        }
    }

    /// All containers of a view. Who asks while another reading is made waits for it, and gets that.
    pub async fn read(&self, view: &AgentView) -> Result<Arc<Vec<Measured>>, JoinError> {
        let mut last = self.last.lock().await;
        if let Some((at, read)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(read));
        }
        let all = containers(view);
        let (cgroups, net) = (self.cgroups.clone(), Arc::clone(&self.net));
        let disks = Arc::clone(&self.disks.borrow());
        let work_dir = self.config.work_dir.clone();
        let node = NodeLimits {
            cpu_hard: self.config.cpu_hard_limits,
            pids: self.config.runtime.pids,
        };
        let read = tokio::task::spawn_blocking(move || {
            let kernel = Kernel::read(&net);
            let one = |mut container: Container| {
                let cgroup = cgroups.task(container.id.as_str());
                let reading = Reading {
                    stats: Stats::read(&cgroup),
                    net: kernel.net_of(cgroup.id()),
                    disk: disks.get(&container.id).cloned(),
                    at_ns: clock::now_ns(),
                };
                let process = || TaskDir::new(&work_dir, &container.id).process();
                container.pid = container.pid.or_else(|| process().map(|p| p.pid));
                let statistics = statistics(&reading, &container.spec, node);
                Measured {
                    container,
                    statistics,
                }
            };
            all.into_iter().map(one).collect::<Vec<_>>()
        });
        let read = Arc::new(read.await?);
        *last = Some((Instant::now(), Arc::clone(&read)));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn executors_of_commands_are_named_as_mesos_names_them() {
        let named = |command| {
            command_executor(&TaskSpec {
                command,
                ..fixture::spec("t")
            })
        };
        assert_eq!(
            named(Command::Shell("sleep 1000".into())),
            "Command Executor (Task: t) (Command: sh -c 'sleep 1000')"
        );
        assert_eq!(
            named(Command::Shell("while true; do sleep 1; done".into())),
            "Command Executor (Task: t) (Command: sh -c 'while true; ...')"
        );
        assert_eq!(
            named(Command::Argv(vec!["sleep".into(), "1".into()])),
            "Command Executor (Task: t) (Command: [sleep, 1])"
        );
    }
}
