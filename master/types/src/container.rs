//! How a task is contained: image, namespaces, mounts, limits, and what is fetched before it starts.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Milli, Millis, VolumeId};

/// How a task is contained. The default is a plain process: the host's files and network, limits by cgroup, no
/// isolation beyond them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ContainerSpec {
    /// The image that is its root file system; `None`: the host's files.
    pub image: Option<ImageSpec>,
    /// Which network it sees.
    pub network: NetworkMode,
    /// Tasks of one agent with the same name here share network, IPC and host name; all of them name the same
    /// [`ContainerSpec::network`].
    pub pod: Option<String>,
    /// What is mounted, in order.
    pub mounts: Vec<Mount>,
    /// What is put into the sandbox before it starts.
    pub fetch: Vec<FetchUri>,
    /// What separates it from the host.
    pub isolation: Isolation,
    /// Ceilings beside its resources.
    pub limits: Ceilings,
    /// Working directory inside; `None`: the image's, or the sandbox.
    pub work_dir: Option<String>,
    /// Host name inside; `None`: made of the task's id.
    pub hostname: Option<String>,
    /// Whether its standard streams are a terminal.
    pub tty: bool,
}

impl ContainerSpec {
    /// Whether it needs more than a cgroup and a shim.
    pub fn is_plain(&self) -> bool {
        self.image.is_none() && self.network == NetworkMode::Host && self.pod.is_none()
    }
}

/// An image by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ImageSpec {
    /// As docker writes it: `nginx`, `registry:5000/team/app:1.2`, `app@sha256:...`.
    pub reference: String,
    /// Asks the registry for a tag's newest image although the node has one.
    pub force_pull: bool,
    /// Credentials by reference: the name of an entry that the node's operator configured.
    pub credentials: Option<String>,
}

/// Which network a task sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum NetworkMode {
    /// The node's.
    #[default]
    Host,
    /// Its own, behind the node's bridge: the outside by masquerade, ports by [`crate::TaskPort::container_port`].
    Bridge,
    /// An address of its own on the named overlay network.
    Container(String),
    /// Loopback alone.
    None,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mount {
    /// Where: absolute inside an image, or relative to the sandbox.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Whether it can't be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountSource {
    /// A persistent volume among the task's resources.
    Volume(VolumeId),
    /// An absolute path of the host, where the node's policy allows it.
    Host(String),
    /// A path relative to the sandbox; shared by the tasks of a pod.
    Sandbox(String),
    /// Memory, at most so many MiB.
    Memory(u32),
    /// Storage outside of the node, by a CSI driver.
    External(ExternalVolume),
}

/// Storage outside of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ExternalVolume {
    /// Which driver, as the node's operator named it.
    pub provider: String,
    /// The volume's name; one that does not exist is made.
    pub name: String,
    /// Size to make it with, in MiB; 0: the driver's default.
    pub size_mib: u32,
    /// For the driver.
    pub options: BTreeMap<String, String>,
}

/// Something to fetch into the sandbox (Mesos's `CommandInfo.URI`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FetchUri {
    /// `http://`, `https://`, `file://` or an absolute path of the host.
    pub uri: String,
    /// Unpacks an archive.
    pub extract: bool,
    /// Makes it executable; then it is not unpacked.
    pub executable: bool,
    /// Keeps it for other tasks of this node.
    pub cache: bool,
    /// Name in the sandbox; `None`: the last part of the path.
    pub output_file: Option<String>,
    /// SHA-256 that it must have, 64 hexadecimal digits.
    pub sha256: Option<String>,
}

/// What separates a task with an image from the host. The default is the safest that ordinary images run with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Isolation {
    /// All of the host, by policy only.
    pub privileged: bool,
    /// The image's files can't be written.
    pub read_only_root: bool,
    /// Root inside is nobody outside.
    pub user_namespace: bool,
    /// Set-uid programs may give privileges.
    pub new_privileges: bool,
    /// Shares the host's IPC namespace, by policy only.
    pub host_ipc: bool,
    /// Capabilities on top of the default ones: `NET_ADMIN`, or `ALL`.
    pub cap_add: BTreeSet<String>,
    /// Capabilities less than the default ones.
    pub cap_drop: BTreeSet<String>,
    /// Which system calls are refused.
    pub seccomp: Seccomp,
    /// Device nodes of the host: path, and `r`, `w`, `m` as in the cgroup's list.
    pub devices: BTreeMap<String, String>,
}

/// Which system calls are refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Seccomp {
    /// Those of the built-in profile.
    #[default]
    Default,
    /// None, by policy only.
    Unconfined,
    /// Those of a profile in the node's profile directory.
    Profile(String),
}

/// A ceiling beside the resource that is accounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Ceiling {
    /// The node's way: CPUs are a weight without a ceiling, memory is its own ceiling.
    #[default]
    Usual,
    /// At most so much: CPUs in thousandths, memory in thousandths of a MiB.
    At(Milli),
    /// Whatever the node has (Mesos: `Infinity`).
    Unlimited,
}

/// Ceilings of a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ceilings {
    /// CPU time.
    pub cpus: Ceiling,
    /// Memory.
    pub mem: Ceiling,
    /// Processes and threads; `None`: the node's default.
    pub pids: Option<u32>,
    /// Share of block I/O, 10 to 1000.
    pub io_weight: Option<u16>,
    /// Longest time from the start of its process to its end; then it is ended, and has failed. Not of a task that a
    /// framework's own executor runs.
    pub run_time: Option<Millis>,
    /// Size of `/dev/shm` in MiB.
    pub shm_mib: Option<u32>,
    /// POSIX limits by lower-case name (`nofile`): soft and hard; `None` is unlimited.
    pub rlimits: BTreeMap<String, Rlimit>,
}

/// A POSIX limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rlimit {
    /// What the task starts with; `None` is unlimited.
    pub soft: Option<u64>,
    /// How far it may raise that.
    pub hard: Option<u64>,
}
