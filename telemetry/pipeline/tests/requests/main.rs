//! Request traces from outside: pieces in, spans out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod corpus;
mod hostile;
mod injected;
mod parents;
mod split;
mod support;
