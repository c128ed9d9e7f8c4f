//! What the host tells the machine, and the machine the host, of `cargo xtask test vm`.
//!
//! The host puts a plan into the machine's first file system; the machine answers on its serial line. Both sides of each
//! format are here. Never: what is tested, or what a result means.

#![forbid(unsafe_code)]

mod line;
mod plan;

pub use line::{Line, OUTPUT};
pub use plan::{Job, PLAN, Plan};
