//! Waggle's own JSON under `/waggle/v1`: what the CLI and operators' programs speak.
//!
//! Roles are paths, so they come last and take the rest. Agents and frameworks are named by id or by name.

pub(super) mod dcos_logs;
mod explain;
mod explain_app;
mod explain_job;
mod find;
pub(super) mod gather;
pub(super) mod logs;
mod maintenance;
mod map;
pub(super) mod networks;
mod operate;
mod policies;
mod reads;
pub(super) mod relay;
mod reservations;
mod roles;
mod top;
mod traces;

use axum::{
    body::Body,
    http::Method,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    request::Call,
    respond::{Fail, ok},
};

/// Finds the handler by path, then by method.
pub(super) async fn route(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let path: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    let ["waggle", "v1", path @ ..] = path.as_slice() else {
        return Err(Fail::no_such_path(call));
    };
    let method = &call.method;
    match path {
        ["nodes"] => get(call, || ok(&reads::nodes(&api.view()))),
        ["nodes", id] => match *method {
            Method::GET => reads::node(&api.view(), id).map(|n| ok(&n)),
            _ => Err(Fail::method(call, "GET")),
        },
        [
            "nodes",
            id,
            verb @ ("drain" | "deactivate" | "activate" | "gone"),
        ] => match *method {
            Method::POST => operate::node(api, call, body, id, verb).await,
            _ => Err(Fail::method(call, "POST")),
        },
        ["networks"] => match *method {
            Method::GET => Ok(ok(&networks::list(&api.view()))),
            Method::POST => networks::add(api, call, body).await,
            _ => Err(Fail::method(call, "GET, POST")),
        },
        ["networks", name] => match *method {
            Method::DELETE => networks::remove(api, name).await,
            _ => Err(Fail::method(call, "DELETE")),
        },
        ["logs"] => match *method {
            Method::GET => logs::follow(api, call).await,
            _ => Err(Fail::method(call, "GET")),
        },
        ["map"] => match *method {
            Method::GET => map::map(api, call).await.map(|m| ok(&m)),
            _ => Err(Fail::method(call, "GET")),
        },
        ["drops"] => match *method {
            Method::GET => map::drops(api, call).await.map(|d| ok(&d)),
            _ => Err(Fail::method(call, "GET")),
        },
        ["traces", id] => match *method {
            Method::GET => traces::trace(api, id).await.map(|t| ok(&t)),
            _ => Err(Fail::method(call, "GET")),
        },
        ["top"] => match *method {
            Method::GET => top::top(api).await.map(|t| ok(&t)),
            _ => Err(Fail::method(call, "GET")),
        },
        ["vips"] => get(call, || ok(&reads::vips(&api.view()))),
        ["tasks"] => {
            let all = call.query.flag("all", false)?;
            let service = call.query.first("service");
            get(call, || ok(&reads::tasks(&api.view(), service, all)))
        }
        ["deployments"] => get(call, || ok(&reads::deployments(&api.view(), None))),
        ["deployments", id] => match *method {
            Method::GET => reads::deployment_state(&api.view(), id).map(|d| ok(&d)),
            _ => Err(Fail::method(call, "GET")),
        },
        ["frameworks"] => get(call, || ok(&reads::frameworks(&api.view()))),
        ["frameworks", id] => match *method {
            Method::GET => reads::framework(&api.view(), id).map(|f| ok(&f)),
            Method::DELETE => operate::teardown(api, id).await,
            _ => Err(Fail::method(call, "GET, DELETE")),
        },
        ["offers"] => get(call, || ok(&reads::offers(&api.view()))),
        ["roles"] => get(call, || ok(&roles::roles(&api.view()))),
        ["weights"] => get(call, || ok(&roles::weights(&api.view()))),
        ["weights", role @ ..] => match *method {
            Method::PUT => operate::set_weight(api, call, body, &role.join("/")).await,
            Method::DELETE => operate::remove_weight(api, &role.join("/")).await,
            _ => Err(Fail::method(call, "PUT, DELETE")),
        },
        ["quotas"] => get(call, || ok(&roles::quotas(&api.view()))),
        ["quotas", role @ ..] => match *method {
            Method::PUT => operate::set_quota(api, call, body, &role.join("/")).await,
            Method::DELETE => operate::remove_quota(api, call, &role.join("/")).await,
            _ => Err(Fail::method(call, "PUT, DELETE")),
        },
        ["reservations"] => match *method {
            Method::GET => Ok(ok(&reservations::list(&api.view(), None))),
            Method::POST => operate::reserve(api, call, body, true).await,
            Method::DELETE => operate::reserve(api, call, body, false).await,
            _ => Err(Fail::method(call, "GET, POST, DELETE")),
        },
        ["volumes"] => match *method {
            Method::POST => operate::create_volume(api, call, body).await,
            Method::PUT => operate::resize_volume(api, call, body).await,
            Method::DELETE => operate::destroy_volume(api, call, body).await,
            _ => Err(Fail::method(call, "POST, PUT, DELETE")),
        },
        ["maintenance"] => match *method {
            Method::GET => Ok(ok(&maintenance::list(&api.view(), None))),
            Method::PUT => operate::schedule(api, call, body).await,
            Method::DELETE => operate::cancel(api, call, body).await,
            _ => Err(Fail::method(call, "GET, PUT, DELETE")),
        },
        ["policies"] => get(call, || ok(&policies::list(&api.view()))),
        ["policies", name] => match *method {
            Method::GET => policies::one(&api.view(), name).map(|p| ok(&p)),
            Method::PUT => policies::set(api, call, body, name).await,
            Method::DELETE => policies::remove(api, name).await,
            _ => Err(Fail::method(call, "GET, PUT, DELETE")),
        },
        ["policy-test"] => match *method {
            Method::GET => policies::test(&api.view(), call).map(|t| ok(&t)),
            _ => Err(Fail::method(call, "GET")),
        },
        ["explain", rest @ ..] if !rest.is_empty() => match *method {
            Method::GET => explain::route(api, rest).await,
            _ => Err(Fail::method(call, "GET")),
        },
        _ => Err(Fail::no_such_path(call)),
    }
}

fn get<T: IntoResponse>(call: &Call, answer: impl FnOnce() -> T) -> Result<Response, Fail> {
    if call.method == Method::GET {
        Ok(answer().into_response())
    } else {
        Err(Fail::method(call, "GET"))
    }
}
