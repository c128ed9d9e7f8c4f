//! Waggle's own JSON under `/waggle/v1`: what the CLI speaks.
//!
//! Snake case, milliseconds and counts as integers, times as Unix milliseconds, absent values as `null`.
//! Quantities are numbers by kind: `cpus`, `mem` and `disk` in MiB, `gpus`, custom scalars by their names.
//!
//! `*View` is what a master shows; the readers in [`request`] take what it is asked, strictly: an unknown
//! field, a wrong type or a value out of bounds is an error that names field and rule.

mod denials;
mod doctor;
mod explain;
mod figures;
mod files;
mod flows;
mod frameworks;
mod map;
mod networks;
mod nodes;
pub(crate) mod policies;
mod prefix;
mod refusal;
pub mod request;
mod reservations;
mod resources;
mod roles;
mod spans;
mod spread;
mod tasks;
mod vips;
mod volumes;

pub use denials::{AUDITED, DENIED, DenialName, DenialView, Denials};
pub use doctor::{OverlayCheckView, PeerCheckView};
pub use explain::{
    AgentBecauseView, AgentExplainView, BecauseView, FrameworkExplainView,
    FrameworkRoleExplainView, JobExplainView, LastChoiceView, PassedOverView, RoleExplainView,
    RunExplainView,
};
pub use figures::{
    DropsView, NodeFiguresView, RefusedView, ServiceFiguresView, SilentView, TaskFiguresView,
    TopView,
};
pub use files::{FileKind, FileView, FilesView};
pub use flows::{EndedFlow, FlowLine};
pub use frameworks::{FrameworkRef, FrameworkRoleView, FrameworkView, OfferView, capabilities};
pub use map::{
    EdgeName, EdgeSums, EdgeView, MapServiceView, MapView, NodeMapView, ServiceMap, ends,
};
pub use networks::{
    AddressesView, NetworkNodeView, NetworkView, OverlayAgentJson, OverlayBackendJson,
    OverlayInfoJson, OverlayNetworkJson, OverlayPartJson, OverlayStateJson, OverlayStatusJson,
    OverlayVxlanJson, SubnetsView,
};
pub use nodes::{AskedView, DomainView, MaintenanceView, NodeView, WindowView};
pub use policies::{FlowView, PolicyView, SideView, policy_from_text, policy_json, policy_text};
pub use prefix::{PrefixError, by_prefix};
pub use refusal::{Refusal, RefusalDetail};
pub use reservations::{PartView, ReservationView, StackEntry, VolumeUse, stack};
pub use resources::{ResourcesView, VolumeView};
pub use roles::{QuotaView, RoleView, WeightView};
pub use spans::{LinkView, SpanView, SpansView, TraceView, in_order, of_task};
pub use spread::Spread;
pub use tasks::{
    DeploymentStateView, DeploymentView, ExplainView, HomeView, NeverView, PlacementView, TaskView,
    WhyView,
};
pub use vips::{BackendView, VipView};
pub use volumes::{NodeVolumeView, SnapshotView};
