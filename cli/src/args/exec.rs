//! `waggle exec` and `waggle attach`.

use clap::Args;

/// Where a task's inside is reached.
#[derive(Debug, Args, Clone)]
pub struct Reach {
    /// The master's API, which passes it on
    #[arg(
        long,
        value_name = "URL",
        env = "WAGGLE_MASTER",
        default_value = "http://127.0.0.1:5050"
    )]
    pub master: String,
    /// The API of the task's agent, past the master
    #[arg(long, value_name = "URL")]
    pub agent: Option<String>,
}

/// `waggle exec`.
#[derive(Debug, Args)]
pub struct ExecCommand {
    /// Task id, or a beginning that only one task has
    pub task: String,
    /// Pass on standard input
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// A variable for the command, beside the task's
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Its working directory; a relative one is below the task's
    #[arg(long, short = 'w', value_name = "DIR")]
    pub work_dir: Option<String>,
    /// Where the task is.
    #[command(flatten)]
    pub reach: Reach,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub argv: Vec<String>,
}

/// `waggle attach`.
#[derive(Debug, Args)]
pub struct AttachCommand {
    /// Task id, or a beginning that only one task has
    pub task: String,
    /// Show only, pass on no input
    #[arg(long)]
    pub no_stdin: bool,
    /// Begin with so many lines of earlier output
    #[arg(long, short = 'n', value_name = "N", default_value_t = 0)]
    pub lines: u32,
    /// Where the task is.
    #[command(flatten)]
    pub reach: Reach,
}
