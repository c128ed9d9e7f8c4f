//! Generated protobuf types and tonic stubs; `convert` turns them into domain types.
//!
//! The files under `gen/` are written by `cargo xtask proto` from `master/api/proto/*.proto` and are
//! committed, so that a build needs no protoc. Options: `btree_map(".")`, so equal messages have equal
//! bytes, and `build_transport(false)`, since tonic's own `SessionClient::connect` would collide with the
//! `Connect` call: make a client with `SessionClient::new(channel)`.

/// The modules as protobuf nests its packages: generated code refers to them that way.
#[allow(
    missing_docs,
    unused_qualifications,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod waggle {
    pub mod session {
        pub mod v1 {
            include!("gen/waggle.session.v1.rs");
        }
    }
    pub mod framework {
        pub mod v1 {
            include!("gen/waggle.framework.v1.rs");
        }
    }
}

#[allow(
    missing_docs,
    unused_qualifications,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod storage {
    pub mod csi {
        pub mod v1 {
            include!("gen/csi.v1.rs");
        }
    }
}

#[allow(
    missing_docs,
    unused_qualifications,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod apache {
    pub mod v1 {
        include!("gen/mesos.v1.rs");
    }
}

mod names {
    use crate::mesos::json::Named;

    include!("gen/names.rs");
}

mod shapes {
    use super::{apache as mesos, storage::csi, waggle};
    use crate::codec::{Shape, Shaped, entry_size};

    include!("gen/shapes.rs");
}

/// The Mesos v1 scheduler API (`mesos.v1`), as protobuf and as JSON.
pub use apache::v1 as mesos;
/// The Container Storage Interface (`csi.v1`), as far as agents call it.
pub use storage::csi::v1 as csi;
/// The native API for frameworks (`waggle.framework.v1`).
pub use waggle::framework::v1 as framework;
/// The session between an agent and its master (`waggle.session.v1`).
pub use waggle::session::v1 as session;
