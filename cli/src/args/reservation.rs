//! `waggle reservation`, `waggle volume`.

use clap::{Args, Subcommand};

use super::Output;

/// `waggle reservation ...`.
#[derive(Debug, Args)]
pub struct ReservationCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: ReservationSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// Which reservation of which node.
#[derive(Debug, Args, Clone)]
pub struct Reserved {
    /// Node by name or agent id
    #[arg(long, value_name = "NODE")]
    pub agent: String,
    /// Role that it is for; given again, a role below it that refines the reservation before
    #[arg(long = "role", value_name = "ROLE", required = true)]
    pub roles: Vec<String>,
    /// Who makes, or made, it
    #[arg(long, value_name = "NAME")]
    pub principal: Option<String>,
    /// Free text; reservations with different labels are different
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
}

/// What to do with reservations.
#[derive(Debug, Subcommand)]
pub enum ReservationSub {
    /// List reservations with what is used, offered, lent and free of them
    List {
        /// Only of this node, by name or agent id
        #[arg(long, value_name = "NODE")]
        agent: Option<String>,
        /// Only of this role and those below it
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
    },
    /// Reserve free resources of a node for a role
    Add {
        /// Which.
        #[command(flatten)]
        reserved: Reserved,
        /// How much: `cpus:2;mem:1024;ports:[31000-31005];licenses:1`, memory and disk in MiB
        #[arg(long)]
        resources: String,
    },
    /// End a reservation for what is free of it
    Remove {
        /// Which.
        #[command(flatten)]
        reserved: Reserved,
        /// How much: `cpus:2;mem:1024` [default: all that is free of it]
        #[arg(long)]
        resources: Option<String>,
    },
}

/// `waggle volume ...`.
#[derive(Debug, Args)]
pub struct VolumeCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: VolumeSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeSub {
    /// List persistent volumes with the tasks that use them
    List {
        /// Only of this node, by name or agent id
        #[arg(long, value_name = "NODE")]
        agent: Option<String>,
    },
    /// Make a persistent volume of a reservation's disk
    Create {
        /// Name of the volume, unique on its node
        id: String,
        /// Of which reservation.
        #[command(flatten)]
        reserved: Reserved,
        /// How large: MiB, or with a unit, such as 512MiB or 20GiB
        #[arg(long)]
        size: String,
        /// Let several tasks use it at once
        #[arg(long)]
        shared: bool,
    },
    /// Give a volume that nobody uses another size, of its reservation's disk; its data stays
    Resize {
        /// Name of the volume
        id: String,
        /// How large: MiB, or with a unit, such as 512MiB or 20GiB
        #[arg(long)]
        size: String,
        /// Node by name or agent id; needed when several nodes have a volume of this name
        #[arg(long, value_name = "NODE")]
        agent: Option<String>,
    },
    /// Destroy a volume that nobody uses: its data is gone, its disk is the reservation's again
    Destroy {
        /// Name of the volume
        id: String,
        /// Node by name or agent id; needed when several nodes have a volume of this name
        #[arg(long, value_name = "NODE")]
        agent: Option<String>,
        /// Do not ask for the volume's name first
        #[arg(long)]
        yes: bool,
    },
    /// List snapshots, those of volumes that are gone too
    Snapshots {
        /// Only of this volume
        id: Option<String>,
        /// Only of this node, by name or agent id
        #[arg(long, value_name = "NODE")]
        agent: Option<String>,
    },
    /// Copy a volume on its node's disk; a copy of one in use is crash-consistent
    Snapshot {
        /// Which.
        #[command(flatten)]
        of: SnapshotOf,
    },
    /// Put a snapshot in the place of a volume that no task uses: what the volume holds now is gone
    Restore {
        /// Which.
        #[command(flatten)]
        of: SnapshotOf,
        /// Do not ask for the volume's name first
        #[arg(long)]
        yes: bool,
    },
    /// Remove a snapshot
    Forget {
        /// Which.
        #[command(flatten)]
        of: SnapshotOf,
        /// Do not ask for the snapshot's name first
        #[arg(long)]
        yes: bool,
    },
}

/// One snapshot of one volume.
#[derive(Debug, Args, Clone)]
pub struct SnapshotOf {
    /// Name of the volume
    pub id: String,
    /// Name of the snapshot: letters, digits, `.`, `_` and `-`
    pub name: String,
    /// Node by name or agent id; needed when several nodes have a volume of this name, or none has it any more
    #[arg(long, value_name = "NODE")]
    pub agent: Option<String>,
}
