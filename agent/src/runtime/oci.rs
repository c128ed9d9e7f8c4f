//! Containers made of an image, by an OCI runtime.

use std::io;

use super::{Contained, Runtime};
use crate::{AgentConfig, checkpoint::TaskDir, shim::ShimPlan};

/// Runs tasks with an image.
pub struct Oci {}

impl Oci {
    /// Looks for the node's runtime and asks what it is. The error is for people.
    pub fn open(config: &AgentConfig) -> Result<Self, String> {
        Err(format!(
            "this node does not run images by {} yet",
            config.runtime.program.display()
        ))
    }
}

impl Runtime for Oci {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn plan(&self, _: &Contained<'_>) -> Result<ShimPlan, String> {
        Err("container.image: not supported".to_owned())
    }

    fn release(&self, _: &TaskDir) -> io::Result<()> {
        Ok(())
    }
}
