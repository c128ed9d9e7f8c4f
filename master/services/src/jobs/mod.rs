//! Jobs: what runs to its end, now or by schedules (Metronome's job), as a framework of its own.
//!
//! [`JobScheduler`] is pure as its neighbour is: calls of people and scheduler events in, actions out. It sees offers only.
//!
//! # Invariants
//! - A schedule's time has one run at most, also over restarts: that it is decided and the run that came of it are written in
//!   one transaction, before anything else is done.
//! - A time that passed while no master was there has its run if it is not later than the starting deadline; of several such
//!   times of one schedule the newest has it, the others are counted.
//! - A schedule that forbids two runs never begins one while another is active. After a restart it waits for a word on those
//!   before it decides.
//! - A run has one live task at most: the next is launched when the end of the one before is known, or when its agent was out
//!   of reach for so long that it is given up (then it is killed should it come back).
//! - A run is as its policy says: with `NEVER` one task that ran, with `ON_FAILURE` none is launched after the active deadline. A launch that
//!   did not arrive is no failure.
//! - A run's end and its place in the history are written before the end of its task is acknowledged.

mod calls;
mod clockwork;
mod cron;
mod input;
mod job;
mod scheduler;
mod steps;
mod updates;
mod validate;

pub use input::{JobAction, JobAnswer, JobCall, JobInput, JobWrite};
pub use job::{
    Cause, Ended, History, Job, JobLimits, KEEP_ENDED, KEEP_TASKS, Kept, KeptRun, Progress, Run,
    RunStatus, RunTask, Skip,
};
pub use scheduler::JobScheduler;
pub use validate::{JobError, validate_schedule};
