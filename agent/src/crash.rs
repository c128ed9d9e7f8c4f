//! Points at which a test ends the process, as SIGKILL or a power cut would.
//!
//! Whatever is made durable passes points before, in and after it, since the functions that write have them. A test
//! lists the points that a run passes ([`TRACE`]) and repeats the run once for each, ended there ([`AT`]): a new
//! durable step is among them by itself. Release builds have neither variable nor points.

use std::path::Path;

/// Environment variable: end the process at this point, `<file>:<step>#<n>`, the n-th time that it is passed.
#[cfg(debug_assertions)]
pub const AT: &str = "WAGGLE_CRASH_AT";
/// Environment variable: append the name of every point that is passed to this file.
#[cfg(debug_assertions)]
pub const TRACE: &str = "WAGGLE_CRASH_TRACE";

/// How much of a file is written before the point in the middle.
pub fn half(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(if cfg!(debug_assertions) {
        bytes.len() / 2
    } else {
        0
    })
}

/// A step on a file.
#[cfg(not(debug_assertions))]
#[inline]
pub fn point(_: &Path, _: &str) {}

/// A step on a file.
#[cfg(debug_assertions)]
pub fn point(file: &Path, step: &str) {
    use std::{
        collections::BTreeMap,
        ffi::OsString,
        io::Write,
        sync::{Mutex, OnceLock, PoisonError},
    };
    static ASKED: OnceLock<(Option<OsString>, Option<OsString>)> = OnceLock::new();
    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

    let (at, trace) = ASKED.get_or_init(|| (std::env::var_os(AT), std::env::var_os(TRACE)));
    if at.is_none() && trace.is_none() {
        return;
    }
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{file}:{step}");
    let n = {
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let n = passed.entry(name.clone()).or_default();
        *n += 1;
        *n
    };
    let name = format!("{name}#{n}");
    if let Some(trace) = trace {
        let open = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(trace);
        if let Ok(mut to) = open {
            // One write: several processes share the file.
            let _ = to.write_all(format!("{name}\n").as_bytes());
        }
    }
    if at.as_deref() == Some(name.as_ref()) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
