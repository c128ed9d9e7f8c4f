//! One error shape for bad input: the field that is wrong and the rule that it breaks.

/// Bad input, named by field and rule; becomes a 4xx or exit code 2 at the edges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct FieldError {
    /// Path of the offending field, as the client wrote it: `portDefinitions[0].port`.
    pub field: String,
    /// The rule in words: `must be between 0 and 65535, is 70000`.
    pub rule: String,
}

impl FieldError {
    /// Names a field and the rule that it breaks.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
        }
    }
}
