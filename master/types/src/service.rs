//! Services as requested: the spec that a Marathon app definition becomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    Balance, Command, ContainerSpec, HealthCheck, KillSelection, Millis, PersistentVolume,
    Placement, PodSpec, Protocol, Residency, Resources, Secrets, ServiceId, ServiceRoles,
    SourceRange, UnixMillis, VipLabel,
};

/// A definition's version: Marathon uses the time of the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceVersion(pub UnixMillis);

impl fmt::Display for ServiceVersion {
    /// `2026-11-23T03:47:00.123Z`, which Marathon's clients parse (proleptic Gregorian, UTC).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.rfc3339().fmt(f)
    }
}

/// A port that each instance gets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortDefinition {
    /// Service port; 0 asks for one of the agent's ports.
    pub port: u16,
    /// The port inside and on the agent, where instances have a network of their own.
    pub mapping: Option<PortMapping>,
    /// Optional name.
    pub name: Option<String>,
    /// `tcp`, `udp` or both.
    pub protocols: Vec<Protocol>,
    /// Labels as given; VIP labels are among them.
    pub labels: BTreeMap<String, String>,
    /// The VIP labels, parsed.
    pub vips: Vec<VipLabel>,
    /// The `LB_` labels, parsed.
    pub balance: Balance,
    /// `LB_SOURCES`, parsed: who may use its VIPs from outside; none: everybody.
    pub sources: Vec<SourceRange>,
}

/// How a port of a network of its own is reached (Marathon's `portMappings`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMapping {
    /// The port inside; 0: the same as on the agent.
    pub container_port: u16,
    /// The port on the agent; 0: any of the agent's ports; `None`: none.
    pub host_port: Option<u16>,
}

/// How much of a service may be missing or doubled while it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpgradeStrategy {
    /// Thousandths of `instances` that stay healthy (rounded up); Marathon's default is all.
    pub minimum_health_capacity_milli: u32,
    /// Thousandths of `instances` that may run on top (rounded down); Marathon's default is all.
    pub maximum_over_capacity_milli: u32,
}

impl Default for UpgradeStrategy {
    fn default() -> Self {
        Self {
            minimum_health_capacity_milli: 1000,
            maximum_over_capacity_milli: 1000,
        }
    }
}

/// Delay between launches of an instance that keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backoff {
    /// First delay.
    pub initial: Millis,
    /// Thousandths by which each failure multiplies it (1150 is x1.15).
    pub factor_milli: u32,
    /// Longest delay.
    pub max: Millis,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Millis(1000),
            factor_milli: 1150,
            max: Millis::from_secs(300),
        }
    }
}

/// What to do with instances on unreachable agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnreachableStrategy {
    /// Never replaced.
    Disabled,
    /// Replaced after `inactive_after`; forgotten after `expunge_after`.
    After {
        /// Until a replacement is launched.
        inactive_after: Millis,
        /// Until the old one is expunged.
        expunge_after: Millis,
    },
}

impl Default for UnreachableStrategy {
    /// Marathon's: replaced and forgotten at once.
    fn default() -> Self {
        Self::After {
            inactive_after: Millis(0),
            expunge_after: Millis(0),
        }
    }
}

/// Which of Marathon's container types a definition names: how it is printed. Both are run the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ContainerType {
    /// `MESOS`.
    #[default]
    Mesos,
    /// `DOCKER`; it always has an image.
    Docker,
}

/// A service as requested and validated. Immutable; a change is a new version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceSpec {
    /// Path id.
    pub id: ServiceId,
    /// Version of the definition.
    pub version: ServiceVersion,
    /// What each instance runs.
    pub command: Command,
    /// How many instances.
    pub instances: u32,
    /// What each instance gets, without ports.
    pub resources: Resources,
    /// Ports of each instance.
    pub ports: Vec<PortDefinition>,
    /// Whether `port` values are host ports as they are.
    pub require_ports: bool,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Checks of each instance.
    pub health_checks: Vec<HealthCheck>,
    /// How each instance is contained.
    pub container: ContainerSpec,
    /// In whose words that was said.
    pub container_type: ContainerType,
    /// Rolling rules.
    pub upgrade: UpgradeStrategy,
    /// Failure delays.
    pub backoff: Backoff,
    /// Unreachable agents.
    pub unreachable: UnreachableStrategy,
    /// SIGTERM to SIGKILL.
    pub kill_grace: Millis,
    /// Unix user.
    pub user: Option<String>,
    /// Marathon constraints as given: field, operator, value.
    pub constraints: Vec<Vec<String>>,
    /// Services, or groups of them, that are up before it is started or changed; not itself, nor a group that it
    /// is in.
    pub dependencies: BTreeSet<ServiceId>,
    /// Which instances end first.
    pub kill_selection: KillSelection,
    /// For which role it runs, and of whose resources.
    pub roles: ServiceRoles,
    /// Whether instances keep their place.
    pub residency: Option<Residency>,
    /// Volumes of each instance; there are some only with a residency.
    pub volumes: Vec<PersistentVolume>,
    /// Secrets by reference.
    pub secrets: Secrets,
    /// The `WAGGLE_PLACE` labels, parsed.
    pub placement: Placement,
    /// What its instances are where they are not one task each.
    pub pod: Option<Box<PodSpec>>,
}

impl ServiceSpec {
    /// A service of one instance with Marathon's defaults, without resources, ports or a version.
    pub fn new(id: ServiceId, command: Command) -> Self {
        Self {
            id,
            version: ServiceVersion::default(),
            command,
            instances: 1,
            resources: Resources::default(),
            ports: Vec::new(),
            require_ports: false,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            health_checks: Vec::new(),
            container: ContainerSpec::default(),
            container_type: ContainerType::default(),
            upgrade: UpgradeStrategy::default(),
            backoff: Backoff::default(),
            unreachable: UnreachableStrategy::default(),
            kill_grace: Millis::from_secs(3),
            user: None,
            constraints: Vec::new(),
            dependencies: BTreeSet::new(),
            kill_selection: KillSelection::default(),
            roles: ServiceRoles::default(),
            residency: None,
            volumes: Vec::new(),
            secrets: Secrets::default(),
            placement: Placement::default(),
            pod: None,
        }
    }

    /// The role that it is offered resources for.
    pub fn role(&self) -> &str {
        self.roles.effective(self.residency.is_some())
    }

    /// What each instance takes, its volumes included as the disk that they are made of; without ports.
    pub fn with_volumes(&self) -> Resources {
        let mut out = self.resources.clone();
        for v in &self.volumes {
            if let Some(disk) = &v.disk {
                let kind = format!("disk.{disk}");
                let sum = out.custom.scalar(&kind).0.saturating_add(v.size.0);
                out.custom.set_scalar(kind, crate::Milli(sum));
            } else {
                let disk = &mut out.scalars[crate::ScalarKind::Disk as usize].0;
                *disk = disk.saturating_add(v.size.0);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_print_as_marathon_timestamps() {
        for (ms, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_405_620_123, "2026-11-23T03:47:00.123Z"),
        ] {
            assert_eq!(ServiceVersion(UnixMillis(ms)).to_string(), want);
        }
    }
}
