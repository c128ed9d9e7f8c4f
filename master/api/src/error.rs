//! One error shape for every API: a code, a sentence, details; mapped to HTTP and gRPC here alone.

use serde::{Deserialize, Serialize};
use waggle_types::FieldError;

use crate::convert::ConvertError;

/// What kind of refusal it is. Closed: each code has one HTTP status and one gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// Not readable at all: malformed JSON, a bad query parameter.
    BadRequest,
    /// It may not be done now, whoever asks.
    Forbidden,
    /// Nothing is there under this name.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// It exists already, or something else changes it right now.
    Conflict,
    /// The body is larger than the listener takes.
    TooLarge,
    /// The body has a type that the endpoint does not take.
    UnsupportedMediaType,
    /// Readable, but a field breaks a rule.
    Invalid,
    /// It was here, and is no more.
    Gone,
    /// A limit is reached; later may do.
    TooMany,
    /// A defect or a failed store.
    Internal,
    /// Known to Marathon or Mesos, not to this release.
    NotImplemented,
    /// Busy, stopping, or without a leader.
    Unavailable,
    /// A pool is used up.
    Exhausted,
}

impl ErrorCode {
    /// Every code, for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::Gone,
        Self::TooMany,
        Self::Internal,
        Self::NotImplemented,
        Self::Unavailable,
        Self::Exhausted,
    ];

    /// The HTTP status.
    pub const fn http(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::Gone => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooMany => 429,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
            Self::Exhausted => 507,
        }
    }

    /// The gRPC code.
    pub const fn grpc(self) -> tonic::Code {
        match self {
            Self::BadRequest | Self::UnsupportedMediaType | Self::Invalid => {
                tonic::Code::InvalidArgument
            }
            Self::Forbidden => tonic::Code::FailedPrecondition,
            Self::NotFound => tonic::Code::NotFound,
            Self::Gone => tonic::Code::OutOfRange,
            Self::Conflict => tonic::Code::Aborted,
            Self::TooLarge | Self::TooMany | Self::Exhausted => tonic::Code::ResourceExhausted,
            Self::Internal => tonic::Code::Internal,
            Self::MethodNotAllowed | Self::NotImplemented => tonic::Code::Unimplemented,
            Self::Unavailable => tonic::Code::Unavailable,
        }
    }
}

/// A refusal, as clients read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind it is.
    pub code: ErrorCode,
    /// One sentence that stands alone, since clients print it alone.
    pub message: String,
    /// Field by field, where there are fields.
    pub details: Vec<ErrorDetail>,
    /// Deployments that hold a lock on the service (Marathon's 409).
    pub deployments: Vec<String>,
}

/// Most fields that a refusal of several things names.
const MAX_DETAILS: usize = 100;

/// The errors of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Marathon's path: `/portDefinitions(0)/port`.
    pub path: String,
    /// Rules that it breaks.
    pub errors: Vec<String>,
}

/// The body of every refusal: `{"message": .., "details": [..]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence that stands alone.
    pub message: String,
    /// Field by field, where there are fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ErrorDetail>,
    /// Deployments that hold a lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<DeploymentRef>,
}

/// `{"id": ..}`: how Marathon names a deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeploymentRef {
    /// The deployment's id.
    pub id: String,
}

impl ApiError {
    /// A refusal without fields.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            deployments: Vec::new(),
        }
    }

    /// One field that breaks a rule: `cpus: must not be negative, is -1`.
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        FieldError::new(field, rule).into()
    }

    /// All fields that break rules; `errors` is not empty, else it reads as a defect.
    pub fn all_invalid(errors: &[FieldError]) -> Self {
        let Some(first) = errors.first() else {
            return Self::new(ErrorCode::Internal, "refused without a reason");
        };
        let message = match errors.len() {
            1 => first.to_string(),
            n => format!("{first} (and {} more, see details)", n - 1),
        };
        let details = errors.iter().map(|e| ErrorDetail {
            path: marathon_path(&e.field),
            errors: vec![e.rule.clone()],
        });
        Self {
            code: ErrorCode::Invalid,
            message,
            details: details.collect(),
            deployments: Vec::new(),
        }
    }

    /// What is wrong in several things, field by field; `details` is not empty. Many are cut.
    pub fn all_of(mut details: Vec<ErrorDetail>) -> Self {
        let n = details.len();
        details.truncate(MAX_DETAILS);
        let Some(first) = details.first() else {
            return Self::new(ErrorCode::Internal, "refused without a reason");
        };
        let field = field_of(&first.path);
        let mut out = Self::from(FieldError::new(field, first.errors.join("; ")));
        if n > 1 {
            out.message = format!("{} (and {} more, see details)", out.message, n - 1);
        }
        out.details = details;
        out
    }

    /// The same refusal of one thing of several, which is at `place`, such as `apps[1].`: fields are named from there on.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        if !self.details.is_empty() {
            self.message = format!("{place}{}", self.message);
            for d in &mut self.details {
                let path = d.path.trim_start_matches('/');
                d.path = format!("{}{path}", marathon_path(place));
            }
        }
        self
    }

    /// What is wrong, field by field, with fields named as in [`FieldError`].
    pub fn fields(&self) -> Vec<FieldError> {
        let each = self.details.iter().flat_map(|d| {
            let field = field_of(&d.path);
            let rules = d.errors.iter();
            rules.map(move |rule| FieldError::new(field.clone(), rule.clone()))
        });
        each.collect()
    }

    /// The JSON body.
    pub fn body(&self) -> ErrorBody {
        let deployments = self.deployments.iter();
        ErrorBody {
            message: self.message.clone(),
            details: self.details.clone(),
            deployments: deployments
                .map(|id| DeploymentRef { id: id.clone() })
                .collect(),
        }
    }
}

/// `portDefinitions[0].port` becomes `/portDefinitions(0)/port`, as Marathon writes paths.
fn field_of(path: &str) -> String {
    let inner = path.trim_start_matches('/').replace('/', ".");
    inner.replace('(', "[").replace(')', "]")
}

fn marathon_path(field: &str) -> String {
    let inner = field.replace('.', "/").replace('[', "(").replace(']', ")");
    format!("/{inner}")
}

impl From<FieldError> for ApiError {
    fn from(e: FieldError) -> Self {
        Self::all_invalid(&[e])
    }
}

impl From<ConvertError> for ApiError {
    fn from(e: ConvertError) -> Self {
        FieldError::new(e.field, e.rule).into()
    }
}

impl From<ApiError> for tonic::Status {
    fn from(e: ApiError) -> Self {
        Self::new(e.code.grpc(), e.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_holds_message_and_details() {
        let err = ApiError::invalid(
            "portDefinitions[0].port",
            "must be between 0 and 65535, is 70000",
        );
        assert_eq!(err.code.http(), 422);
        assert_eq!(
            serde_json::to_string(&err.body()).unwrap(),
            r#"{"message":"portDefinitions[0].port: must be between 0 and 65535, is 70000","details":[{"path":"/portDefinitions(0)/port","errors":["must be between 0 and 65535, is 70000"]}]}"#
        );
        let plain = ApiError::new(ErrorCode::NotFound, "gone");
        assert_eq!(
            serde_json::to_string(&plain.body()).unwrap(),
            r#"{"message":"gone"}"#
        );
    }

    #[test]
    fn every_code_has_its_own_status() {
        let mut seen: Vec<u16> = ErrorCode::ALL.iter().map(|c| c.http()).collect();
        assert!(seen.iter().all(|s| (400..600).contains(s)));
        seen.dedup();
        assert_eq!(seen.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|c| c.grpc() != tonic::Code::Ok));
    }
}
