//! The vocabulary of Waggle: typed ids, resources, task states, specs and snapshots.
//!
//! Every other crate speaks in these words, so that level 1 (the allocator), level 2 (the service
//! framework), the agent and the data plane agree on what a thing is without agreeing on a wire format.
//!
//! # Invariants
//! - Plain data with `Eq` and `Ord` where that makes sense; maps are ordered, so the same input gives the same bytes.
//! - Quantities are integers: scalars in milli-units, ports as disjoint intervals.
//! - Time is an argument ([`UnixMillis`]); nothing here reads a clock, entropy or a file.
//!
//! # What it never does
//! No serialization (wire twins live in `waggle-api`), no I/O, no tokio, no prost.

mod balance;
mod container;
mod custom;
mod error;
mod executor;
pub mod expansion;
mod framework;
mod generation;
mod group;
mod health;
mod ids;
mod intervals;
mod job;
mod net;
mod net_delta;
mod network;
mod offer;
mod operator;
mod placement;
mod pod;
mod policy;
mod reservation;
mod resources;
mod rings;
mod roles;
mod scheduler;
mod service;
mod subnets;
mod task;
mod time;
mod trace;
mod wireguard;

pub use balance::{Balance, Locality, MAX_BALANCE_S, MAX_SOURCES, MAX_WEIGHT, Policy, SourceRange};
pub use container::{
    Ceiling, Ceilings, ContainerSpec, ExternalVolume, FetchUri, ImageSpec, Isolation, Mount,
    MountSource, NetworkMode, Rlimit, Seccomp,
};
pub use custom::{Custom, Volume, check_kind};
pub use error::FieldError;
pub use executor::{
    ExecutorEnd, ExecutorKey, ExecutorKind, ExecutorRecord, ExecutorSpec, ExecutorStatus,
    MAX_MESSAGE, OnExecutor,
};
pub use framework::{About, CallRejection, FrameworkInfo, MAX_ROLES, RejectReason};
pub use generation::Generation;
pub use group::{GroupId, GroupUpdate};
pub use health::{
    CheckPurpose, CheckResponse, CheckStatus, HealthCheck, HealthProbe, HealthRecord, HealthState,
    MAX_RESPONSE_BODY,
};
pub use ids::{
    AgentId, DeploymentId, ExecutorId, FrameworkId, IdError, OfferId, RunId, ServiceId, StatusUuid,
    TaskId, VolumeId,
};
pub use intervals::{Interval, Intervals, Point, PortRange, PortSet, RangeSet};
pub use job::{Concurrency, JobId, JobSpec, RestartPolicy, ScheduleSpec};
pub use net::{
    AgentNet, Cause, NetSnapshot, PortNet, Protocol, TaskNet, VipKey, VipLabel, VipLease, VipName,
    mangle_label,
};
pub use net_delta::NetDelta;
pub use network::{
    AddressPool, AgentOverlay, AgentSubnet, IpNet, IpNetError, MAX_MTU, MAX_NETWORK_NAME,
    MAX_NETWORKS, MIN_MTU, MIN_MTU6, Network, Vtep, Vxlan, check_network_name,
};
pub use offer::{AgentInfo, InverseOffer, Offer, Unavailability};
pub use operator::OperatorCall;
pub use placement::{
    KillSelection, PersistentVolume, Placement, RESIDENT_ROLE, Residency, SecretFile, Secrets,
    ServiceRoles, Spread, TaskLost,
};
pub use pod::{PodContainer, PodMount, PodOwn, PodSpec, PodVolume};
pub use policy::{
    LabelTest, MAX_ALL_POLICY_RULES, MAX_POLICIES, MAX_POLICY_KEYS, MAX_POLICY_LABEL,
    MAX_POLICY_RULES, NamePattern, NetworkMatch, NetworkPolicy, PathMatch, PolicyPeer, PolicyPorts,
    PolicyProtocol, PolicyRule, PolicySubject, TaskSelector, check_policy_name,
};
pub use reservation::{Reservation, ResourcePart, sum_parts};
pub use resources::{Milli, Resources, ScalarKind};
pub use rings::{EdgeMark, EdgeRing, MAX_MARKS, MAX_RINGS};
pub use roles::{
    AttributeConstraint, Capabilities, Domain, MAX_ROLE_DEPTH, OfferConstraints, Predicate, Quota,
    RoleSubscription, Selector, check_role,
};
pub use scheduler::{Operation, SchedulerCall, SchedulerEvent};
pub use service::{
    Backoff, ContainerType, PortDefinition, PortMapping, ServiceSpec, ServiceVersion,
    UnreachableStrategy, UpgradeStrategy,
};
pub use subnets::Subnets;
pub use task::{
    Command, DiscoveryInfo, Evicted, StatusReason, StatusSource, TaskPort, TaskSpec, TaskState,
    TaskStatus,
};
pub use time::{Millis, Rfc3339, UnixMillis};
pub use trace::{TraceContext, TraceParseError};
pub use wireguard::{WIREGUARD_KEY_LEN, WireguardKey};
