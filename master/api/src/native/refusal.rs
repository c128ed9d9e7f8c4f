//! Refusals of what operators ask, typed.

use serde::{Deserialize, Serialize};
use waggle_types::{CallRejection, FieldError, RejectReason};

use crate::error::ErrorCode;

/// The body of a refusal; nothing of the request was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One sentence that stands alone.
    pub message: String,
    /// Every reason.
    pub details: Vec<RefusalDetail>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalDetail {
    /// Its stable name: `over_limit`; `invalid` for a field that breaks a rule.
    pub code: String,
    /// What it is about: a field's path, a role, an agent, a volume.
    pub object: String,
    /// For people.
    pub message: String,
}

impl From<&CallRejection> for RefusalDetail {
    fn from(r: &CallRejection) -> Self {
        Self {
            code: r.reason.name().to_owned(),
            object: r.object.clone(),
            message: r.message.clone(),
        }
    }
}

impl Refusal {
    /// Of one or more reasons, with the kind of the first.
    pub fn of(reasons: &[CallRejection]) -> (ErrorCode, Self) {
        let Some(first) = reasons.first() else {
            let message = "refused without a reason".to_owned();
            let details = Vec::new();
            return (ErrorCode::Internal, Self { message, details });
        };
        let sentence = if first.object.is_empty() || first.message.contains(&first.object) {
            first.message.clone()
        } else {
            format!("{}: {}", first.object, first.message)
        };
        let message = match reasons.len() {
            1 => sentence,
            n => format!("{sentence} (and {} more, see details)", n - 1),
        };
        let details = reasons.iter().map(Into::into).collect();
        (code(first.reason), Self { message, details })
    }

    /// Of fields that break rules.
    pub fn invalid(errors: &[FieldError]) -> (ErrorCode, Self) {
        let reasons: Vec<CallRejection> = errors.iter().map(|e| e.clone().into()).collect();
        Self::of(&reasons)
    }
}

/// What kind of refusal a reason is: 422 for what can never be, 404 for what is not there, 409 for what is
/// not possible now.
pub fn code(reason: RejectReason) -> ErrorCode {
    match reason {
        RejectReason::Invalid | RejectReason::BadReservation | RejectReason::BadQuota => {
            ErrorCode::Invalid
        }
        RejectReason::UnknownFramework
        | RejectReason::FrameworkRemoved
        | RejectReason::UnknownTask
        | RejectReason::UnknownNetwork
        | RejectReason::UnknownPolicy
        | RejectReason::UnknownAgent => ErrorCode::NotFound,
        RejectReason::TooMany => ErrorCode::TooMany,
        _ => ErrorCode::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_decides_and_all_are_told() {
        let two = [
            CallRejection::new(RejectReason::NotFree, "n1", "cpus:4 is not free there"),
            CallRejection::new(RejectReason::UnknownAgent, "n2", "no such agent"),
        ];
        let (code, refusal) = Refusal::of(&two);
        assert_eq!(code, ErrorCode::Conflict);
        assert_eq!(
            refusal.message,
            "n1: cpus:4 is not free there (and 1 more, see details)"
        );
        assert_eq!(refusal.details[1].code, "unknown_agent");
        let (code, refusal) = Refusal::invalid(&[FieldError::new("weight", "must be over 0")]);
        assert_eq!(code.http(), 422);
        assert_eq!(refusal.message, "weight: must be over 0");
        assert_eq!(refusal.details[0].code, "invalid");
        assert_eq!(Refusal::of(&[]).0, ErrorCode::Internal);
    }
}
