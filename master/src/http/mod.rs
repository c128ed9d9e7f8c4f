//! The HTTP APIs: Mesos and native JSON on one listener, Marathon on another.

use crate::handle::MasterHandle;

/// Routes of the Mesos listener (`/version`, `/state`, `/waggle/v1/..`).
pub fn mesos_router(handle: MasterHandle) -> axum::Router {
    let _ = handle;
    axum::Router::new()
}

/// Routes of the Marathon listener (`/v2/..`, `/ping`).
pub fn marathon_router(handle: MasterHandle) -> axum::Router {
    let _ = handle;
    axum::Router::new()
}
