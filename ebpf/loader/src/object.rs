//! The embedded object file.

use aya::include_bytes_aligned;

use crate::LoadError;

/// What build.rs found; empty in a build without kernel programs.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-ebpf.o"));

/// The object's bytes, or the typed answer that there are none.
pub(crate) fn object() -> Result<&'static [u8], LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(OBJECT)
}

/// The edge's programs, in an object of their own.
static EDGE: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-edge.o"));

/// The edge's object, or the typed answer that there is none.
pub(crate) fn edge() -> Result<&'static [u8], LoadError> {
    if EDGE.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(EDGE)
}

/// What the nodes of an edge's backends load.
static DSR: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-dsr.o"));

/// The object of the edge's other end, or the typed answer that there is none.
pub(crate) fn dsr() -> Result<&'static [u8], LoadError> {
    if DSR.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(DSR)
}

/// VIPs per packet.
static PACKET: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-packet.o"));

/// The object of VIPs per packet, or the typed answer that there is none.
pub(crate) fn packet() -> Result<&'static [u8], LoadError> {
    if PACKET.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(PACKET)
}

/// The overlay.
static OVERLAY: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-overlay.o"));

/// The overlay's object, or the typed answer that there is none.
pub(crate) fn overlay() -> Result<&'static [u8], LoadError> {
    if OVERLAY.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(OVERLAY)
}

/// What only watches.
static OBSERVE: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-observe.o"));

/// The object of what only watches, or the typed answer that there is none.
pub(crate) fn observe() -> Result<&'static [u8], LoadError> {
    if OBSERVE.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(OBSERVE)
}

/// What traces requests.
static REQUESTS: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-requests.o"));

/// The object of what traces requests, or the typed answer that there is none.
pub(crate) fn requests() -> Result<&'static [u8], LoadError> {
    if REQUESTS.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(REQUESTS)
}

/// What puts a `traceparent` into requests.
static INJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-inject.o"));

/// The object of what puts it there, or the typed answer that there is none.
pub(crate) fn inject() -> Result<&'static [u8], LoadError> {
    if INJECT.is_empty() {
        return Err(LoadError::BuiltWithoutEbpf);
    }
    Ok(INJECT)
}

/// Whether this binary carries the kernel programs.
pub fn is_built_with_ebpf() -> bool {
    !OBJECT.is_empty()
}
