//! Marathon's REST API (CONTRACTS.md section 2).

mod apps;
mod deployments;
mod events;
mod groups;
mod info;
mod labels;
mod offers;
mod pods;
mod tasks;

pub(super) use info::{MARATHON_VERSION, dropwizard};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, StatusCode},
    response::{IntoResponse, Response},
};
use waggle_api::{error::ApiError, marathon::DeploymentResult};
use waggle_types::ServiceId;

use super::{
    Api,
    request::Call,
    respond::{Fail, json, ok},
};
use crate::handle::Deployment;

/// Marathon's header that names the deployment of a change.
const DEPLOYMENT_ID: HeaderName = HeaderName::from_static("marathon-deployment-id");

/// Finds the handler by path, then by method.
pub(super) async fn route(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let path: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["ping"] => get(call, |_| "pong".into_response()),
        ["metrics"] => get(call, |_| ok(&info::metrics(&api.view()))),
        ["v2", "apps"] => match call.method {
            Method::GET => apps::list(api, call),
            Method::POST => apps::create(api, call, body).await,
            Method::PUT | Method::PATCH => apps::put_many(api, call, body).await,
            _ => Err(Fail::method(call, "GET, POST, PUT, PATCH")),
        },
        ["v2", "apps", rest @ ..] => app(api, call, body, rest).await,
        ["v2", "tasks"] => match call.method {
            Method::GET => tasks::list(api, call),
            _ => Err(Fail::method(call, "GET")),
        },
        ["v2", "tasks", "delete"] => match call.method {
            Method::POST => tasks::delete_given(api, call, body).await,
            _ => Err(Fail::method(call, "POST")),
        },
        ["v2", "deployments"] => get(call, |_| deployments::all(api)),
        ["v2", "deployments", id] => match call.method {
            Method::DELETE => deployments::cancel(api, call, id).await,
            _ => Err(Fail::method(call, "DELETE")),
        },
        ["v2", "queue"] => get(call, |c| ok(&info::queue(&api.view(), &c.query))),
        ["v2", "queue", id @ .., "delay"] if !id.is_empty() => match call.method {
            Method::DELETE => info::reset_delay(api, &service_id(id)?).await,
            _ => Err(Fail::method(call, "DELETE")),
        },
        ["v2", "info"] => get(call, |_| ok(&info::info(&api.view()))),
        ["v2", "leader"] => match call.method {
            Method::GET => info::leader(&api.view()),
            Method::DELETE => info::abdicate(api, call),
            _ => Err(Fail::method(call, "GET, DELETE")),
        },
        ["v2", "events"] => match call.method {
            Method::GET => events::subscribe(api, call),
            _ => Err(Fail::method(call, "GET")),
        },
        ["v2", "groups", rest @ ..] => groups::route(api, call, body, rest).await,
        ["v2", "pods", rest @ ..] => pods::route(api, call, body, rest).await,
        // What follows an id, without one.
        ["v2", all] if all.starts_with("pods::") => {
            pods::route(api, call, body, &[&all["pods".len()..]]).await
        }
        ["v2", "plugins"] => get(call, |_| ok(&serde_json::json!({ "plugins": [] }))),
        ["v2", "eventSubscriptions"] => Err(Fail::not_found(
            "callbacks are not supported, as in Marathon since 1.5; listen to /v2/events",
        )),
        _ => Err(Fail::no_such_path(call)),
    }
}

fn get(call: &Call, answer: impl FnOnce(&Call) -> Response) -> Result<Response, Fail> {
    match call.method {
        Method::GET => Ok(answer(call)),
        _ => Err(Fail::method(call, "GET")),
    }
}

/// Below `/v2/apps/`: ids are paths, so the words at the end decide, as in Marathon.
async fn app(api: &Api, call: &Call, body: Body, rest: &[&str]) -> Result<Response, Fail> {
    match rest {
        [id @ .., "tasks"] if !id.is_empty() => {
            let id = service_id(id)?;
            match call.method {
                Method::GET => tasks::of_app(api, &id),
                Method::DELETE => tasks::kill_of_app(api, call, &id).await,
                _ => Err(Fail::method(call, "GET, DELETE")),
            }
        }
        [id @ .., "tasks", task] if !id.is_empty() => match call.method {
            Method::DELETE => tasks::kill_one(api, call, &service_id(id)?, task).await,
            _ => Err(Fail::method(call, "DELETE")),
        },
        [id @ .., "restart"] if !id.is_empty() => match call.method {
            Method::POST => apps::restart(api, call, &service_id(id)?).await,
            _ => Err(Fail::method(call, "POST")),
        },
        [id @ .., "versions"] if !id.is_empty() => match call.method {
            Method::GET => apps::versions(api, &service_id(id)?),
            _ => Err(Fail::method(call, "GET")),
        },
        [id @ .., "versions", version] if !id.is_empty() => match call.method {
            Method::GET => apps::version(api, &service_id(id)?, version),
            _ => Err(Fail::method(call, "GET")),
        },
        id => {
            let id = service_id(id)?;
            match call.method {
                Method::GET => apps::show(api, call, &id),
                Method::PUT | Method::PATCH => apps::put_one(api, call, body, &id).await,
                Method::DELETE => apps::remove(api, call, &id).await,
                _ => Err(Fail::method(call, "GET, PUT, PATCH, DELETE")),
            }
        }
    }
}

fn service_id(segments: &[&str]) -> Result<ServiceId, Fail> {
    let id = ServiceId::new(&segments.join("/"));
    id.map_err(|e| ApiError::invalid("id", e.to_string()).into())
}

fn no_such_app(id: &ServiceId) -> Fail {
    Fail::not_found(format!("App '{id}' does not exist"))
}

/// `{"version", "deploymentId"}`, with the header that Marathon sets.
fn deployed(status: StatusCode, d: &Deployment) -> Response {
    let body = DeploymentResult {
        version: d.version.to_string(),
        deployment_id: d.id.to_string(),
    };
    with_deployment(json(status, &body), d)
}

fn with_deployment(mut response: Response, d: &Deployment) -> Response {
    if let Ok(id) = HeaderValue::from_str(d.id.as_str()) {
        response.headers_mut().insert(DEPLOYMENT_ID, id);
    }
    response
}
