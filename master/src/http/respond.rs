//! Answers: JSON, and every refusal mapped in one place.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use waggle_api::{
    error::{ApiError, ErrorCode, ErrorDetail},
    native::Refusal,
};

use waggle_services::jobs::JobError;

use super::request::Call;
use crate::error::MasterError;

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct Fail {
    error: ApiError,
    /// Methods that the path has, for a 405.
    allow: Option<&'static str>,
    /// Typed reasons, where there are some; they are the body then.
    refusal: Option<Box<Refusal>>,
}

impl Fail {
    /// Nothing is there.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        ApiError::new(ErrorCode::NotFound, message).into()
    }

    /// The path as a whole is not known.
    pub(super) fn no_such_path(call: &Call) -> Self {
        Self::not_found(format!("no such path: {}", call.path))
    }

    /// The path is known, the method is not.
    pub(super) fn method(call: &Call, allow: &'static str) -> Self {
        let message = format!(
            "method {} is not allowed on {}, use {allow}",
            call.method, call.path
        );
        Self {
            allow: Some(allow),
            ..ApiError::new(ErrorCode::MethodNotAllowed, message).into()
        }
    }

    /// For people.
    pub(super) fn message(&self) -> &str {
        &self.error.message
    }

    /// What kind it is.
    pub(super) const fn code(&self) -> ErrorCode {
        self.error.code
    }

    /// The same refusal of one thing of several: fields are named from the outermost one on.
    pub(super) fn within(mut self, place: &str) -> Self {
        self.error = self.error.within(place);
        self
    }

    /// What is wrong, field by field, where that is why.
    pub(super) fn into_details(self) -> Result<Vec<ErrorDetail>, Self> {
        if self.error.code == ErrorCode::Invalid && !self.error.details.is_empty() {
            Ok(self.error.details)
        } else {
            Err(self)
        }
    }

    /// Typed reasons of level 1 or of fields.
    pub(super) fn refused((code, refusal): (ErrorCode, Refusal)) -> Self {
        Self {
            error: ApiError::new(code, refusal.message.clone()),
            allow: None,
            refusal: Some(Box::new(refusal)),
        }
    }
}

impl From<ApiError> for Fail {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            allow: None,
            refusal: None,
        }
    }
}

impl From<MasterError> for Fail {
    fn from(e: MasterError) -> Self {
        let code = match &e {
            MasterError::Invalid(field) => return ApiError::from(field.clone()).into(),
            MasterError::AllInvalid(all) => return ApiError::all_invalid(all).into(),
            MasterError::Job(e) => return job_refused(e).into(),
            MasterError::NoSuchService(id) => {
                return Self::not_found(format!("App '{id}' does not exist"));
            }
            MasterError::NoSuchDeployment(id) => {
                return Self::not_found(format!("Deployment {id} does not exist"));
            }
            MasterError::NotQueued(id) => {
                return Self::not_found(format!("Application {id} not found in tasks queue."));
            }
            MasterError::NoSuchTask(id) => {
                return Self::not_found(format!("Task '{id}' does not exist"));
            }
            MasterError::NoSuchFramework(_)
            | MasterError::NoSuchRole(_)
            | MasterError::NoSuchAgent(_) => return Self::not_found(e.to_string()),
            MasterError::TooManyDeployments(n) => {
                let message = format!(
                    "Max number ({n}) of running deployments is achieved. Wait for existing \
                     deployments to complete or cancel one using force=true parameter."
                );
                return ApiError::new(ErrorCode::Forbidden, message).into();
            }
            MasterError::NoSuchGroup(id) => {
                return Self::not_found(format!("Group '{id}' does not exist"));
            }
            MasterError::GroupExists(id) => {
                let message =
                    format!("Group {id} is already created. Use PUT to change this group.");
                return ApiError::new(ErrorCode::Conflict, message).into();
            }
            MasterError::NoSuchGroupVersion { group, version } => {
                return Self::not_found(format!("Group '{group}' does not have version {version}"));
            }
            MasterError::AlreadyExists(id) => {
                let message = format!("An app with id [{id}] already exists.");
                return ApiError::new(ErrorCode::Conflict, message).into();
            }
            MasterError::Locked { deployment, .. } => {
                let message = "App is locked by one or more deployments. Override with the option \
                    '?force=true'. View details at '/v2/deployments/<DEPLOYMENT_ID>'.";
                let mut error = ApiError::new(ErrorCode::Conflict, message);
                error.deployments = vec![deployment.to_string()];
                return error.into();
            }
            MasterError::VipPoolExhausted => ErrorCode::Exhausted,
            MasterError::Limit(_) => ErrorCode::TooMany,
            MasterError::Busy(_) | MasterError::Stopping => ErrorCode::Unavailable,
            MasterError::Store(_) | MasterError::Server(_) => ErrorCode::Internal,
        };
        ApiError::new(code, e.to_string()).into()
    }
}

/// Metronome's statuses.
fn job_refused(e: &JobError) -> ApiError {
    let code = match e {
        JobError::Invalid(field) => return field.clone().into(),
        JobError::Exists(_)
        | JobError::ScheduleExists { .. }
        | JobError::Active { .. }
        | JobError::Needed { .. } => ErrorCode::Conflict,
        JobError::NoSuchJob(_) | JobError::NoSuchRun { .. } | JobError::NoSuchSchedule { .. } => {
            ErrorCode::NotFound
        }
        JobError::TooMany { .. } => ErrorCode::TooMany,
    };
    ApiError::new(code, e.to_string())
}

impl IntoResponse for Fail {
    fn into_response(self) -> Response {
        let code = self.error.code.http();
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(status = code, error = %self.error, "request failed");
        }
        let mut response = match &self.refusal {
            Some(refusal) => json(status, refusal.as_ref()),
            None => json(status, &self.error.body()),
        };
        if let Some(allow) = self.allow {
            let headers = response.headers_mut();
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let (status, bytes) = match serde_json::to_vec(body) {
        Ok(bytes) => (status, bytes),
        // Wire types have string keys only, so this is a defect; it must not be a 200.
        Err(e) => {
            tracing::error!(error = %e, "answer could not be serialized");
            (StatusCode::INTERNAL_SERVER_ERROR, b"{}".to_vec())
        }
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A JSON answer with status 200.
pub(super) fn ok(body: &impl Serialize) -> Response {
    json(StatusCode::OK, body)
}
