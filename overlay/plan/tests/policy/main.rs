//! Policies: tables against a naive evaluator, over random worlds, flows and changes.

mod cases;
mod changes;
mod kernel;
mod reference;
mod room;
mod worlds;
