//! Frameworks other than the built-in one: who they are, and why something of theirs is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::{Capabilities, FieldError, FrameworkId, Millis, RoleSubscription, check_role};

/// Roles of one framework.
pub const MAX_ROLES: usize = 64;
/// Longest name: it becomes one DNS label.
const MAX_NAME: usize = 63;
/// Longest failover time-out: 30 days.
const MAX_FAILOVER: Millis = Millis::from_secs(30 * 86_400);

/// What a framework says when it subscribes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkInfo {
    /// Its id from an earlier subscription; `None` the first time.
    pub id: Option<FrameworkId>,
    /// DNS name: one lower-case label.
    pub name: String,
    /// Roles that it gets offers for: at least one, each once.
    pub roles: Vec<RoleSubscription>,
    /// What it can handle.
    pub capabilities: Capabilities,
    /// How long after a disconnection it may come back; then it is removed and its tasks are killed.
    pub failover_timeout: Millis,
    /// What else it says of itself.
    pub about: Arc<About>,
}

/// What a framework says of itself for people, and for the door through which it speaks. The master decides
/// nothing by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Its name as it writes it; empty: as its DNS name.
    pub title: String,
    /// As whom its tasks run when they do not say; empty: as the agent does.
    pub user: String,
    /// Who it is to others; empty for nobody.
    pub principal: String,
    /// The machine that it runs on.
    pub hostname: String,
    /// Where people find it.
    pub webui_url: String,
    /// Whether it wants its tasks to outlive their agent; they do in any case.
    pub checkpoint: bool,
    /// Labels, carried and shown.
    pub labels: BTreeMap<String, String>,
    /// Mesos's names of what it can handle: `PARTITION_AWARE`.
    pub capabilities: BTreeSet<String>,
}

impl About {
    /// Its name for people.
    pub fn title_or<'a>(&'a self, name: &'a str) -> &'a str {
        if self.title.is_empty() {
            name
        } else {
            &self.title
        }
    }
}

impl FrameworkInfo {
    /// A framework with one role, nothing else, that is removed as soon as it disconnects.
    pub fn new(name: impl Into<String>, role: impl Into<String>) -> Self {
        Self {
            id: None,
            name: name.into(),
            roles: vec![RoleSubscription::new(role)],
            capabilities: Capabilities::default(),
            failover_timeout: Millis(0),
            about: Arc::default(),
        }
    }

    /// Checks every field but the id.
    pub fn check(&self) -> Result<(), FieldError> {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let name = &self.name;
        let named = name.len() <= MAX_NAME
            && name.chars().all(label)
            && name.starts_with(edge)
            && name.ends_with(edge);
        if !named {
            let rule = format!(
                "must be a label of at most {MAX_NAME} characters, [a-z0-9] with inner -, is {name:.80?}"
            );
            return Err(FieldError::new("name", rule));
        }
        let n = self.roles.len();
        if n == 0 || n > MAX_ROLES {
            let rule = format!("must be 1 to {MAX_ROLES} roles, is {n}");
            return Err(FieldError::new("roles", rule));
        }
        for (i, r) in self.roles.iter().enumerate() {
            check_role(&r.role)
                .map_err(|e| FieldError::new(format!("roles[{i}].{}", e.field), e.rule))?;
            if self.roles[..i].iter().any(|other| other.role == r.role) {
                let rule = format!("must be named once, is {:?}", r.role);
                return Err(FieldError::new(format!("roles[{i}].role"), rule));
            }
            if r.smallest
                .as_ref()
                .is_some_and(crate::Resources::is_negative)
            {
                let rule = "must not hold a negative quantity";
                return Err(FieldError::new(format!("roles[{i}].smallest"), rule));
            }
        }
        if self.failover_timeout > MAX_FAILOVER {
            let rule = format!(
                "must be at most {} ms, is {}",
                MAX_FAILOVER.0, self.failover_timeout.0
            );
            return Err(FieldError::new("failover_timeout_ms", rule));
        }
        Ok(())
    }
}

/// Why something that a framework asked for is refused. Nothing of the call was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// A field breaks a rule; the object is the field's path.
    Invalid,
    /// No such framework.
    UnknownFramework,
    /// The framework was torn down, or stayed away for longer than its failover time-out.
    FrameworkRemoved,
    /// The id belongs to the master's own framework.
    ReservedFramework,
    /// The call names a subscription that is not the open one: another process took over, or it broke.
    NotSubscribed,
    /// A newer subscription with the same id took this one's place.
    Replaced,
    /// A limit is reached; the message names it.
    TooMany,
    /// The offer was used, declined, rescinded, or never made.
    StaleOffer,
    /// The offer was made to another framework.
    ForeignOffer,
    /// The same offer twice in one call.
    DuplicateOffer,
    /// An accept names no offer.
    NoOffers,
    /// Offers of two agents in one accept.
    MixedAgents,
    /// The tasks need more than the offers hold.
    Overuse,
    /// The agent is not connected now.
    AgentDisconnected,
    /// A task with this id exists, or its end is not acknowledged yet.
    DuplicateTask,
    /// Nobody knows the task.
    UnknownTask,
    /// The task is another framework's.
    ForeignTask,
    /// The framework did not take its events in time.
    TooSlow,
    /// Level 1 refused for another reason; the message names it.
    Refused,
    /// The framework is not subscribed with this role.
    NotInRole,
    /// Offers to two roles in one accept.
    MixedRoles,
    /// A stack of reservations that is empty, too deep, or in which one does not refine the one before.
    BadReservation,
    /// A role's limit has no room for it.
    OverLimit,
    /// What is to be launched on, reserved, made or destroyed is not among what the offers hold.
    NotOffered,
    /// Nobody asked this framework to leave this agent, or the question is over.
    NoInverseOffer,
    /// A volume with this id exists on the agent.
    DuplicateVolume,
    /// No such agent, or it is gone for good.
    UnknownAgent,
    /// A quota that contradicts itself, the tree of roles or the cluster.
    BadQuota,
    /// What is to be reserved, unreserved or made a volume is not free there.
    NotFree,
    /// Tasks use the volume.
    VolumeInUse,
    /// No such overlay network.
    UnknownNetwork,
    /// An overlay network with this name exists.
    DuplicateNetwork,
    /// Services or tasks are on the network.
    NetworkInUse,
    /// No such executor on the agent.
    UnknownExecutor,
    /// No such network policy.
    UnknownPolicy,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [Self; 35] = [
        Self::Invalid,
        Self::UnknownFramework,
        Self::FrameworkRemoved,
        Self::ReservedFramework,
        Self::NotSubscribed,
        Self::Replaced,
        Self::TooMany,
        Self::StaleOffer,
        Self::ForeignOffer,
        Self::DuplicateOffer,
        Self::NoOffers,
        Self::MixedAgents,
        Self::Overuse,
        Self::AgentDisconnected,
        Self::DuplicateTask,
        Self::UnknownTask,
        Self::ForeignTask,
        Self::TooSlow,
        Self::Refused,
        Self::NotInRole,
        Self::MixedRoles,
        Self::BadReservation,
        Self::OverLimit,
        Self::NotOffered,
        Self::NoInverseOffer,
        Self::DuplicateVolume,
        Self::UnknownAgent,
        Self::BadQuota,
        Self::NotFree,
        Self::VolumeInUse,
        Self::UnknownNetwork,
        Self::DuplicateNetwork,
        Self::NetworkInUse,
        Self::UnknownExecutor,
        Self::UnknownPolicy,
    ];

    /// Stable name, for counters and logs: `stale_offer`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::UnknownFramework => "unknown_framework",
            Self::FrameworkRemoved => "framework_removed",
            Self::ReservedFramework => "reserved_framework",
            Self::NotSubscribed => "not_subscribed",
            Self::Replaced => "replaced",
            Self::TooMany => "too_many",
            Self::StaleOffer => "stale_offer",
            Self::ForeignOffer => "foreign_offer",
            Self::DuplicateOffer => "duplicate_offer",
            Self::NoOffers => "no_offers",
            Self::MixedAgents => "mixed_agents",
            Self::Overuse => "overuse",
            Self::AgentDisconnected => "agent_disconnected",
            Self::DuplicateTask => "duplicate_task",
            Self::UnknownTask => "unknown_task",
            Self::ForeignTask => "foreign_task",
            Self::TooSlow => "too_slow",
            Self::Refused => "refused",
            Self::NotInRole => "not_in_role",
            Self::MixedRoles => "mixed_roles",
            Self::BadReservation => "bad_reservation",
            Self::OverLimit => "over_limit",
            Self::NotOffered => "not_offered",
            Self::NoInverseOffer => "no_inverse_offer",
            Self::DuplicateVolume => "duplicate_volume",
            Self::UnknownAgent => "unknown_agent",
            Self::BadQuota => "bad_quota",
            Self::NotFree => "not_free",
            Self::VolumeInUse => "volume_in_use",
            Self::UnknownNetwork => "unknown_network",
            Self::DuplicateNetwork => "duplicate_network",
            Self::NetworkInUse => "network_in_use",
            Self::UnknownExecutor => "unknown_executor",
            Self::UnknownPolicy => "unknown_policy",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One refusal: why, of what, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {message} ({reason})")]
pub struct CallRejection {
    /// Why.
    pub reason: RejectReason,
    /// The offer, task, framework or field that it is about.
    pub object: String,
    /// For people.
    pub message: String,
}

impl CallRejection {
    /// Names what is refused and why.
    pub fn new(
        reason: RejectReason,
        object: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            reason,
            object: object.into(),
            message: message.into(),
        }
    }
}

impl From<FieldError> for CallRejection {
    fn from(e: FieldError) -> Self {
        Self::new(RejectReason::Invalid, e.field, e.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_roles_have_rules() {
        let info = |name: &str, roles: &[&str]| FrameworkInfo {
            roles: roles.iter().map(|r| RoleSubscription::new(*r)).collect(),
            ..FrameworkInfo::new(name, "*")
        };
        let roles: [(&str, &[&str]); 3] = [
            ("batch", &["*"]),
            ("b-1", &["eng/batch", "eng"]),
            ("x", &["a.b_c"]),
        ];
        for (name, roles) in roles {
            assert_eq!(info(name, roles).check(), Ok(()), "{name} {roles:?}");
        }
        let long = "x".repeat(64);
        for name in ["", "Batch", "a b", "-a", "a-", "a.b", long.as_str()] {
            assert_eq!(
                info(name, &["*"]).check().unwrap_err().field,
                "name",
                "{name}"
            );
        }
        let wrong = |roles: &[&str]| info("a", roles).check().unwrap_err().field;
        assert_eq!(wrong(&[]), "roles");
        assert_eq!(wrong(&["a", "b/"]), "roles[1].role");
        assert_eq!(wrong(&["a", "a"]), "roles[1].role");
        let many: Vec<String> = (0..65).map(|i| format!("r{i}")).collect();
        assert_eq!(
            wrong(&many.iter().map(String::as_str).collect::<Vec<_>>()),
            "roles"
        );
        let mut for_ever = info("a", &["*"]);
        for_ever.failover_timeout = Millis(u64::MAX);
        assert!(for_ever.check().is_err());
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let names: BTreeSet<_> = RejectReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), RejectReason::ALL.len());
    }
}
