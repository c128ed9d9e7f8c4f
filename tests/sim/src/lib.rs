//! A whole cluster of pure cores on virtual time: one master, several agents, processes, disks, and a network
//! that delays, reorders across agents, breaks and partitions. One seed, one history.
//!
//! Real code: `waggle_master::core::MasterCore` (allocator, services, registries) and
//! `waggle_lifecycle::AgentCore`. Modelled: the effect executors, the store, processes, health probes, sessions,
//! and frameworks beside the built-in one: batches of jobs, and hoarders that never answer.
//!
//! # Invariants checked
//! All the time:
//! - no task's process is started twice, on any node;
//! - what runs on a node fits into it, and no port has two holders;
//! - the allocator's books add up;
//! - within a session, and over the life of a node, generations never go back; a node never has to refuse one;
//! - a time of a job's schedule has one run, and no more runs are active than the schedule allows;
//! - a pod's instance is launched whole and on one agent, a volume is used where it is, and no launch takes a service
//!   above what its upgrade strategy allows;
//! - a framework that keeps the rules is refused nothing but what raced with a change;
//! - no framework starves: one that wants an offer and for which an agent has room all the while gets one within
//!   two offer time-outs of every other framework (`wait.rs` has the formula), whoever sits on offers.
//!
//! After healing, within bounded virtual time ([`Sim::settle`]):
//! - every service has exactly the instances that were asked for last, ready;
//! - exactly those processes run: nothing that was launched is lost, nothing runs that nobody knows;
//! - level 1 holds exactly what runs as used;
//! - frameworks believe to be alive exactly those of their tasks that run: each launch that was taken has ended with
//!   a word of it; every job is done; of what was torn down nothing runs and nothing is held;
//! - every run of a job that ever was has ended, once;
//! - every instance of a pod has all of its containers, and is where its volume is;
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
mod jobs;
mod keeper;
mod ledger;
mod link;
mod master;
mod mind;
mod network;
mod operators;
mod pods;
mod rng;
mod roster;
mod session;
mod sim;
mod twin;
mod upkeep;
mod wait;

pub use check::Violation;
pub use faults::Plan;
pub use rng::Rng;
pub use sim::{Sim, node_spec};
