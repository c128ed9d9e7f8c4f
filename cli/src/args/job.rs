//! `waggle job`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// `waggle job ...`.
#[derive(Debug, Args)]
pub struct JobCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: JobSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobSub {
    /// Add a job from a Metronome definition; its schedules come with it
    Add {
        /// JSON file, or - for standard input
        file: PathBuf,
    },
    /// Put another definition in force, schedules included; active runs go on as they began
    Update {
        /// JSON file, or - for standard input
        file: PathBuf,
    },
    /// List jobs
    List,
    /// Show one job: what it runs, its schedules and active runs
    Show {
        /// Id, such as prod.backup
        id: String,
    },
    /// Run a job now, whatever its schedules say
    Run {
        /// Id, such as prod.backup
        id: String,
        /// A variable for this run alone, on top of the job's
        #[arg(long, value_name = "KEY=VALUE")]
        env: Vec<String>,
        /// Return when the run has ended; it must have succeeded
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this long
        #[arg(long, default_value = "1h", value_name = "DURATION")]
        timeout: String,
    },
    /// End an active run; it has failed then
    Stop {
        /// Id, such as prod.backup
        id: String,
        /// The run, as `waggle job show` lists it
        run: String,
    },
    /// List the last runs that have ended
    History {
        /// Id, such as prod.backup
        id: String,
    },
    /// List runs that wait to be launched
    Queue,
    /// Remove a job with its schedules and history
    Remove {
        /// Id, such as prod.backup
        id: String,
        /// End its active runs, instead of refusing
        #[arg(long)]
        stop_runs: bool,
    },
    /// Schedules of a job
    Schedule {
        /// What to do.
        #[command(subcommand)]
        command: ScheduleSub,
    },
}

/// What to do with a job's schedules.
#[derive(Debug, Subcommand)]
pub enum ScheduleSub {
    /// Add a schedule, or put another definition of it in force
    Set {
        /// The job's id
        id: String,
        /// The schedule's id
        schedule: String,
        /// When: minute hour day-of-month month day-of-week, such as "0 3 * * *", or a word such as @daily
        #[arg(long)]
        cron: String,
        /// In which time zone that is meant, by its IANA name
        #[arg(long, default_value = "UTC")]
        timezone: String,
        /// How late a run may begin
        #[arg(long, default_value = "15m", value_name = "DURATION")]
        starting_deadline: String,
        /// Leave a time out while another run of the job is active
        #[arg(long)]
        forbid: bool,
        /// Keep it, but start nothing
        #[arg(long)]
        disabled: bool,
    },
    /// List the schedules of a job
    List {
        /// The job's id
        id: String,
    },
    /// Remove a schedule
    Remove {
        /// The job's id
        id: String,
        /// The schedule's id
        schedule: String,
    },
}
