//! `waggle explain`.

use clap::{Args, Subcommand};

use super::Output;

/// `waggle explain ...`.
#[derive(Debug, Args)]
pub struct ExplainCommand {
    /// What to explain.
    #[command(subcommand)]
    pub command: ExplainSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to explain.
#[derive(Debug, Subcommand)]
pub enum ExplainSub {
    /// A service: what it waits for, which offers it refused and why, how it failed last
    App {
        /// Id, such as /shop/cart
        id: String,
    },
    /// A pod: the same
    Pod {
        /// Id, such as /shop/cart
        id: String,
    },
    /// A job: what its runs wait for, when its schedules run next, what they left out and why
    Job {
        /// Id, such as prod.backup
        id: String,
    },
    /// A deployment: which of its services hold it up, and what each of these waits for
    Deployment {
        /// Its id
        id: String,
    },
    /// A framework: why it gets the offers that it gets, and no others
    Framework {
        /// Name or id
        framework: String,
    },
    /// A role: what its weight, quota and the others leave for it
    Role {
        /// Path, such as eng/batch
        role: String,
    },
    /// A node: who is offered what is free there, and who is passed over
    #[command(visible_alias = "node")]
    Agent {
        /// Name or agent id
        agent: String,
    },
}
