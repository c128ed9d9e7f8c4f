//! Pods as Marathon's `/v2/pods` has them (its RAML is the contract): definitions to
//! [`ServiceSpec`](waggle_types::ServiceSpec) and back, and their status.
//!
//! What a container runs is read by the reader of apps, from a translation ([`words`] lists it); so a container of a
//! pod can say what an app can, and is refused for the same reasons.

mod parse;
mod print;
mod schema;
mod status;
mod words;

pub use parse::{MAX_CONTAINERS, pod_from_value};
pub use print::pod_json;
pub use schema::pod_schema;
pub use status::{
    Condition, ContainerEnd, ContainerEndpoint, ContainerStatus, EndedContainer, EndedInstance,
    NetworkStatus, PodInstanceState, PodInstanceStatus, PodState, PodStatus, ResourcesJson,
};

pub(super) use parse::stored_pod;
