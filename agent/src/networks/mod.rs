//! Which network a task sees: the node's, one behind the node's bridge, or none; and the namespaces of pods.
//!
//! A task's namespaces belong to no process: they are pinned below `<work_dir>/networks`, each with a record of whose it
//! is, so that they, the addresses and the ports in the packet filter outlive the agent. What a record says holds for
//! one boot of the machine; it is written without waiting for the disk.
//!
//! Named networks (`container/NAME`) come from [`Provider`]s.

mod bridge;
mod leases;
mod namespace;
mod nfnetlink;
mod overlay;
mod plan;
mod remover;
mod subnet;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use waggle_overlay::overlay::OverlayNet;
use waggle_telemetry::Telemetry;
use waggle_types::{NetworkMode, Protocol, TaskId, TaskSpec};

pub use bridge::{nft_program, who_drops};
pub use overlay::NetworkUsage;
pub use plan::Mapping;
pub use subnet::{Subnet, SubnetError};

use crate::{AgentError, checkpoint::TaskDir, shim};
use bridge::Bridge;
use namespace::Kind;
use overlay::Overlay;
use plan::{Holder, Want, conflict, may_forward, network_name};
use waggle_overlay::netlink::Netlink;

/// How the node's own networks are set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Name of the bridge, and of our table in the packet filter.
    pub bridge: String,
    /// Addresses behind it; DC/OS's `ucr-br0` by default.
    pub subnet: Subnet,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            bridge: "waggle0".to_owned(),
            subnet: Subnet::around(Ipv4Addr::new(172, 31, 254, 0), 24),
        }
    }
}

/// What a task is to enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its network namespace; `None`: the node's.
    pub netns: Option<PathBuf>,
    /// Its addresses; none: the node's, or loopback alone.
    pub own: Own,
    /// What it shares with its pod beside the network.
    pub pod: Option<PodNamespaces>,
}

/// Namespaces of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNamespaces {
    /// System V IPC and POSIX message queues.
    pub ipc: PathBuf,
    /// Host name.
    pub uts: PathBuf,
}

/// Addresses of a task's own; at most one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Own {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Own {
    /// Both, IPv4 first.
    pub fn ips(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::from);
        v4.into_iter().chain(self.v6.map(IpAddr::from))
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The hardware address of the device that has them in a named network.
    fn mac(self) -> [u8; 6] {
        let first = self.ips().next();
        first.map_or([0; 6], OverlayNet::mac_of)
    }
}

impl From<Ipv4Addr> for Own {
    fn from(ip: Ipv4Addr) -> Self {
        Self {
            v4: Some(ip),
            v6: None,
        }
    }
}

/// A namespace from the inside, for who wires it.
#[derive(Debug)]
pub struct Inside {
    /// A routing socket in it.
    pub netlink: Netlink,
    /// The namespace itself.
    pub file: File,
    /// Whether what is in it may send on what it is sent.
    pub may_forward: bool,
}

/// A network that tasks can be put on. Calls block; they come one at a time, but for `detach`.
pub trait Provider: Send + Sync {
    /// Puts a device with addresses into a namespace.
    fn attach(&self, inside: &mut Inside) -> Result<Own, String>;
    /// Takes back addresses and their device, once their ports are withdrawn.
    fn detach(&self, own: Own) -> Result<(), String>;
    /// Lets ports of the node lead to the task with these addresses.
    fn publish(&self, own: Own, ports: &[Mapping]) -> Result<(), String>;
    /// Ends that for some of them, or for all before its addresses are taken back.
    fn withdraw(&self, own: Own, ports: &[Mapping], is_last: bool) -> Result<(), String>;
}

/// The networks of a node.
pub struct Networks {
    work_dir: PathBuf,
    dir: PathBuf,
    boot: String,
    bridge: Arc<Bridge>,
    overlay: Arc<Overlay>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Holder, Record>,
    // Whether `keep` has told the providers what is in use; until then nothing of theirs is touched.
    is_settled: bool,
}

impl State {
    /// Where a task is a member: asked for every task, at every change.
    fn of(&self, task_id: &TaskId) -> Option<(&Holder, &Record)> {
        let own = Holder::Task(task_id.as_str().to_owned());
        let pods = self.records.range(Holder::Pod(String::new())..);
        self.records
            .get_key_value(&own)
            .into_iter()
            .chain(pods)
            .find(|(_, r)| r.members.contains_key(task_id))
    }
}

/// Whose namespaces there are, and what they have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    network: NetworkMode,
    own: Own,
    members: BTreeMap<TaskId, BTreeSet<Mapping>>,
}

/// The same as a file.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    boot: String,
    holder: Holder,
    network: String,
    ip: Option<Ipv4Addr>,
    #[serde(default)]
    ip6: Option<Ipv6Addr>,
    members: BTreeMap<String, Vec<(String, u16, u16)>>,
}

impl Networks {
    /// Reads what an earlier agent has left; changes nothing. Blocking. `own` are the addresses of the node's resolver.
    pub fn open(
        work_dir: &Path,
        settings: &NetworkSettings,
        own: Vec<IpAddr>,
        overlay: Arc<OverlayNet>,
        telemetry: Option<Telemetry>,
    ) -> Result<Arc<Self>, AgentError> {
        let dir = work_dir.join("networks");
        fs::create_dir_all(&dir).map_err(AgentError::file("create", &dir))?;
        let table = format!("{}-overlay", settings.bridge);
        let overlay = Overlay::new(overlay, table, own.clone(), &dir, telemetry);
        let bridge = Bridge::new(&settings.bridge, settings.subnet, own, &dir);
        let networks = Self {
            work_dir: work_dir.to_owned(),
            dir,
            boot: crate::sys::boot_id(),
            bridge: Arc::new(bridge),
            overlay: Arc::new(overlay),
            state: Mutex::new(State::default()),
        };
        let records = networks
            .read()
            .map_err(AgentError::file("read", &networks.dir))?;
        *networks.lock() = State {
            is_settled: records.is_empty(),
            records,
        };
        Ok(Arc::new(networks))
    }

    /// Makes namespaces and devices as the task's definition wants them; `None` where it sees what the node sees. The
    /// error is for people; then nothing is left.
    pub async fn join(self: &Arc<Self>, spec: &TaskSpec) -> Result<Option<Joined>, String> {
        let Some(want) = Want::of(spec) else {
            return Ok(None);
        };
        if let NetworkMode::Container(name) = &want.network {
            self.overlay.ready(name).await;
        }
        let (networks, task_id) = (Arc::clone(self), spec.task_id.clone());
        tokio::task::spawn_blocking(move || networks.join_blocking(&task_id, &want))
            .await
            .map_err(|e| format!("failed to join the network: {e}"))?
            .map(Some)
    }

    /// What a task has joined.
    #[cfg(test)]
    fn joined(&self, task_id: &TaskId) -> Option<Joined> {
        let state = self.lock();
        let (holder, record) = state.of(task_id)?;
        Some(self.as_joined(holder, record))
    }

    /// A task's own addresses.
    pub fn own(&self, task_id: &TaskId) -> Own {
        let state = self.lock();
        state.of(task_id).map_or(Own::default(), |(_, r)| r.own)
    }

    /// Addresses of named networks on this node.
    pub fn usage(&self) -> Vec<NetworkUsage> {
        self.overlay.usage()
    }

    /// Undoes [`Networks::join`]. A pod's namespaces stay until its last task leaves. Blocking.
    pub fn leave(&self, task_id: &TaskId) -> io::Result<()> {
        let mut state = self.lock();
        let holder = state.of(task_id).map(|(holder, _)| holder.clone());
        let Some(holder) = holder else { return Ok(()) };
        let parted = self.part(&mut state, &holder, task_id);
        drop(state);
        parted.detach().map_err(io::Error::other)
    }

    /// Once, after a restart: `live` are the tasks that are left. What belongs to none of them goes, and the packet filter
    /// is what it should be. Blocking.
    pub fn keep(&self, live: &BTreeMap<TaskId, TaskSpec>) -> io::Result<()> {
        let mut state = self.lock();
        let State {
            records,
            is_settled,
        } = &mut *state;
        let mut troubles = Vec::new();
        for record in records.values_mut() {
            record.members.retain(|id, _| live.contains_key(id));
        }
        records.retain(|_, record| !record.members.is_empty());
        for (holder, record) in &*records {
            self.pin_again(holder, record);
        }
        troubles.extend(self.sweep(records).err().map(|e| e.to_string()));
        let mut used: BTreeMap<Ipv4Addr, BTreeSet<Mapping>> = BTreeMap::new();
        let mut named: BTreeMap<String, BTreeMap<Own, BTreeSet<Mapping>>> = BTreeMap::new();
        let mut forwarding = BTreeSet::new();
        for record in records.values().filter(|r| !r.own.is_empty()) {
            let ports = record.members.values().flatten();
            match (&record.network, record.own.v4) {
                (NetworkMode::Bridge, Some(ip)) => used.entry(ip).or_default().extend(ports),
                (NetworkMode::Container(name), _) => {
                    let of = named.entry(name.clone()).or_default();
                    of.entry(record.own).or_default().extend(ports);
                    let mut specs = record.members.keys().filter_map(|id| live.get(id));
                    if specs.any(may_forward) {
                        forwarding.insert(record.own);
                    }
                }
                _ => {}
            }
        }
        troubles.extend(self.bridge.keep(&used).err());
        troubles.extend(self.overlay.keep(&named, &forwarding).err());
        *is_settled = true;
        for (holder, record) in &*records {
            troubles.extend(self.save(holder, record).err().map(|e| e.to_string()));
        }
        if troubles.is_empty() {
            Ok(())
        } else {
            Err(io::Error::other(troubles.join("; ")))
        }
    }

    /// Now and then: puts right what others have changed. Blocking.
    pub fn upkeep(&self) {
        for done in [self.bridge.upkeep(), self.overlay.upkeep()] {
            if let Err(error) = done {
                tracing::warn!(error, "a network is not as it should be");
            }
        }
    }

    fn join_blocking(&self, task_id: &TaskId, want: &Want) -> Result<Joined, String> {
        let failed = |e: String| {
            format!(
                "failed to join network {}: {e}",
                network_name(&want.network)
            )
        };
        let mut state = self.lock();
        let members = state.records.values().flat_map(|r| &r.members);
        let others = members.filter(|(id, _)| *id != task_id);
        let held = others.flat_map(|(id, ports)| ports.iter().map(move |p| (id, *p)));
        if let Some(why) = conflict(&want.ports, held) {
            return Err(failed(why));
        }
        let is_new = !state.records.contains_key(&want.holder);
        let record = state
            .records
            .entry(want.holder.clone())
            .or_insert_with(|| Record {
                network: want.network.clone(),
                own: Own::default(),
                members: BTreeMap::new(),
            });
        if record.network != want.network {
            return Err(format!(
                "container.network: must be the same for all of {}: {} here, {} there",
                want.holder,
                network_name(&want.network),
                network_name(&record.network)
            ));
        }
        record.members.insert(task_id.clone(), want.ports.clone());
        let made = self.make(&mut state, want, is_new);
        made.map_err(|why| {
            let parted = self.part(&mut state, &want.holder, task_id);
            drop(state);
            if let Err(error) = parted.detach() {
                tracing::warn!(%task_id, error, "what was made of a network stays");
            }
            failed(why)
        })
    }

    /// Makes what a record that was just put down says.
    fn make(&self, state: &mut State, want: &Want, is_new: bool) -> Result<Joined, String> {
        let holder = &want.holder;
        let record = state.records.get_mut(holder).ok_or("its record is gone")?;
        // First the file: what is made and not written down would be nobody's.
        let text = |e: io::Error| e.to_string();
        self.save(holder, record).map_err(text)?;
        if is_new {
            let pins = self.pins(holder, &record.network);
            let netlink = namespace::make(&pins, &want.hostname)
                .map_err(|e| format!("failed to make namespaces: {e}"))?;
            let path = self.pin_path(holder, Kind::Net);
            if let (Some(netlink), Some(provider)) = (netlink, self.provider(&record.network)) {
                let file = File::open(&path).map_err(text)?;
                let mut inside = Inside {
                    netlink,
                    file,
                    may_forward: want.may_forward,
                };
                record.own = provider.attach(&mut inside)?;
                self.save(holder, record).map_err(text)?;
            }
        }
        if let (false, Some(provider)) = (record.own.is_empty(), self.provider(&record.network)) {
            let ports: Vec<Mapping> = want.ports.iter().copied().collect();
            provider.publish(record.own, &ports)?;
        }
        Ok(self.as_joined(holder, record))
    }

    /// A task leaves its holder; the last one takes everything with it, and its address can be taken back.
    fn part(&self, state: &mut State, holder: &Holder, task_id: &TaskId) -> Parted {
        let is_settled = state.is_settled;
        let mut parted = Parted::default();
        let Some(record) = state.records.get_mut(holder) else {
            return parted;
        };
        let troubles = &mut parted.troubles;
        let ports = record.members.remove(task_id).unwrap_or_default();
        let ports: Vec<Mapping> = ports.into_iter().collect();
        let provider = self.provider(&record.network).filter(|_| is_settled);
        if let (false, Some(provider)) = (record.own.is_empty(), provider) {
            let is_last = record.members.is_empty();
            troubles.extend(provider.withdraw(record.own, &ports, is_last).err());
            if is_last {
                parted.address = Some((provider, record.own));
            }
        }
        if record.members.is_empty() {
            state.records.remove(holder);
            troubles.extend(
                self.remove(&holder.file_name())
                    .err()
                    .map(|e| e.to_string()),
            );
        } else {
            troubles.extend(self.save(holder, record).err().map(|e| e.to_string()));
        }
        parted
    }

    /// Who gives addresses on a network; `None` for those without.
    fn provider(&self, network: &NetworkMode) -> Option<Arc<dyn Provider>> {
        match network {
            NetworkMode::Host | NetworkMode::None => None,
            NetworkMode::Bridge => Some(Arc::clone(&self.bridge) as Arc<dyn Provider>),
            NetworkMode::Container(name) => Some(self.overlay.network(name)),
        }
    }

    fn as_joined(&self, holder: &Holder, record: &Record) -> Joined {
        let path = |kind| self.pin_path(holder, kind);
        Joined {
            netns: (record.network != NetworkMode::Host).then(|| path(Kind::Net)),
            own: record.own,
            pod: matches!(holder, Holder::Pod(_)).then(|| PodNamespaces {
                ipc: path(Kind::Ipc),
                uts: path(Kind::Uts),
            }),
        }
    }

    fn pins(&self, holder: &Holder, network: &NetworkMode) -> Vec<(Kind, PathBuf)> {
        let is_pod = matches!(holder, Holder::Pod(_));
        Kind::ALL
            .into_iter()
            .filter(|kind| match kind {
                Kind::Net => *network != NetworkMode::Host,
                Kind::Ipc | Kind::Uts => is_pod,
            })
            .map(|kind| (kind, self.pin_path(holder, kind)))
            .collect()
    }

    fn pin_path(&self, holder: &Holder, kind: Kind) -> PathBuf {
        let name = holder.file_name();
        self.dir.join(format!("{name}.{}", kind.name()))
    }

    /// Pins lie in a mount namespace; an agent that was started in a new one takes them from a process that is in them.
    fn pin_again(&self, holder: &Holder, record: &Record) {
        for (kind, path) in self.pins(holder, &record.network) {
            if namespace::is_pinned(&path) {
                continue;
            }
            let foreign = |pid: u32| {
                let theirs = PathBuf::from(format!("/proc/{pid}/ns/{}", kind.name()));
                let ours = fs::read_link(format!("/proc/self/ns/{}", kind.name())).ok();
                (fs::read_link(&theirs).ok()? != ours?).then_some(theirs)
            };
            let found = record.members.keys().find_map(|id| {
                let process = TaskDir::new(&self.work_dir, id).process()?;
                // Held, so that the number stays this process's.
                let _held = process.open().ok()?;
                namespace::pin(&foreign(process.pid)?, &path).ok()
            });
            if found.is_none() {
                tracing::debug!(%holder, kind = kind.name(), "a namespace is out of reach: nobody else can join it");
            }
        }
    }

    /// Removes files, and with them namespaces, of no record.
    fn sweep(&self, records: &BTreeMap<Holder, Record>) -> io::Result<()> {
        let known: BTreeSet<String> = records.keys().map(Holder::file_name).collect();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let Some((stem, _)) = name.rsplit_once('.') else {
                continue;
            };
            let is_ours = stem.starts_with("task-") || stem.starts_with("pod-");
            if is_ours && !known.contains(stem) {
                tracing::warn!(file = name, "namespace of an ended task is removed");
                self.remove(stem)?;
            }
        }
        Ok(())
    }

    fn remove(&self, stem: &str) -> io::Result<()> {
        for kind in Kind::ALL {
            namespace::unpin(&self.dir.join(format!("{stem}.{}", kind.name())))?;
        }
        for end in ["json", "json.tmp"] {
            match fs::remove_file(self.dir.join(format!("{stem}.{end}"))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn save(&self, holder: &Holder, record: &Record) -> io::Result<()> {
        let path = self.dir.join(format!("{}.json", holder.file_name()));
        let ports = |ports: &BTreeSet<Mapping>| {
            let stored =
                |p: &Mapping| (p.protocol.name().to_owned(), p.host_port, p.container_port);
            ports.iter().map(stored).collect()
        };
        let stored = Stored {
            boot: self.boot.clone(),
            holder: holder.clone(),
            network: network_name(&record.network),
            ip: record.own.v4,
            ip6: record.own.v6,
            members: record
                .members
                .iter()
                .map(|(id, p)| (id.as_str().to_owned(), ports(p)))
                .collect(),
        };
        shim::write_json_for_boot(&path, &stored)
    }

    /// Records of this boot; others are as good as none.
    fn read(&self) -> io::Result<BTreeMap<Holder, Record>> {
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let stored = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
            if let Some(stored) = stored.filter(|s| s.boot == self.boot)
                && let Some((holder, record)) = stored.into_record()
            {
                records.insert(holder, record);
            }
        }
        Ok(records)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left to do for who has left, without keeping others from joining.
#[derive(Default)]
struct Parted {
    address: Option<(Arc<dyn Provider>, Own)>,
    troubles: Vec<String>,
}

impl Parted {
    fn detach(mut self) -> Result<(), String> {
        if let Some((provider, own)) = self.address {
            self.troubles.extend(provider.detach(own).err());
        }
        if self.troubles.is_empty() {
            Ok(())
        } else {
            Err(self.troubles.join("; "))
        }
    }
}

impl Stored {
    fn into_record(self) -> Option<(Holder, Record)> {
        let network = match self.network.as_str() {
            "host" => NetworkMode::Host,
            "bridge" => NetworkMode::Bridge,
            "none" => NetworkMode::None,
            other => NetworkMode::Container(other.strip_prefix("container/")?.to_owned()),
        };
        let mut members = BTreeMap::new();
        for (id, ports) in self.members {
            let ports = ports
                .into_iter()
                .map(|(protocol, host_port, container_port)| {
                    let protocol = match protocol.as_str() {
                        "tcp" => Protocol::Tcp,
                        "udp" => Protocol::Udp,
                        _ => return None,
                    };
                    Some(Mapping {
                        protocol,
                        host_port,
                        container_port,
                    })
                });
            members.insert(TaskId::new(id).ok()?, ports.collect::<Option<_>>()?);
        }
        let record = Record {
            network,
            own: Own {
                v4: self.ip,
                v6: self.ip6,
            },
            members,
        };
        Some((self.holder, record))
    }
}
