//! A whole cluster of pure cores on virtual time: one master, several agents, processes, disks, and a network
//! that delays, reorders across agents, breaks and partitions. One seed, one history.
//!
//! Real code: `waggle_master::core::MasterCore` (allocator, services, registries) and
//! `waggle_lifecycle::AgentCore`. Modelled: the effect executors, the store, processes, health probes, sessions.
//!
//! # Invariants checked
//! All the time:
//! - no task's process is started twice, on any node;
//! - what runs on a node fits into it, and no port has two holders;
//! - the allocator's books add up;
//! - within a session, and over the life of a node, generations never go back; a node never has to refuse one.
//!
//! After healing, within bounded virtual time ([`Sim::settle`]):
//! - every service has exactly the instances that were asked for last, ready;
//! - exactly those processes run: nothing that was launched is lost, nothing runs that nobody knows;
//! - level 1 holds exactly what runs as used;
//! - every node has applied the master's newest generation; what was answered to a client is in force.
//!
//! # What it never does
//! No threads, no real time, no real I/O: a failing seed fails again.

#![forbid(unsafe_code)]

mod agent;
mod batch;
mod check;
mod faults;
mod framework;
mod link;
mod master;
mod mind;
mod network;
mod rng;
mod session;
mod sim;
mod wait;

pub use check::Violation;
pub use faults::Plan;
pub use rng::Rng;
pub use sim::{Sim, node_spec};
