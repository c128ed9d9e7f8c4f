//! Why things are as they are, asked of level 1 and told in bounded size.

use super::MasterCore;
use crate::{
    error::MasterError,
    explain::{ExplainQuery, Explained},
};

impl MasterCore {
    /// One question.
    pub(super) fn explain(&self, query: &ExplainQuery) -> Result<Explained, MasterError> {
        match query {
            ExplainQuery::Framework(id) => Err(MasterError::NoSuchFramework(id.clone())),
            ExplainQuery::Role(role) => Err(MasterError::NoSuchRole(role.clone())),
            ExplainQuery::Agent(id) => Err(MasterError::NoSuchAgent(id.clone())),
        }
    }
}
