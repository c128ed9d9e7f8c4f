//! Which route a request takes, as a template: what a metric may be told by. Paths here are not axum's to match, since ids are
//! paths themselves.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use waggle_telemetry::{Telemetry, served};

/// All of them, the more special ones first. `{*id}` is one segment or more.
const TEMPLATES: &[&str] = &[
    "/ping",
    "/metrics",
    "/metrics/snapshot",
    "/version",
    "/health",
    "/redirect",
    "/state",
    "/state-summary",
    "/slaves",
    "/frameworks",
    "/tasks",
    "/roles",
    "/flags",
    "/weights",
    "/quota",
    "/quota/{*role}",
    "/reserve",
    "/unreserve",
    "/create-volumes",
    "/destroy-volumes",
    "/teardown",
    "/maintenance/schedule",
    "/maintenance/status",
    "/machine/down",
    "/machine/up",
    "/logging/toggle",
    "/files/browse",
    "/files/read",
    "/files/download",
    "/files/debug",
    "/overlay-master/state",
    "/slave/{id}/{*path}",
    "/agent/{id}/{*path}",
    "/mesos_dns/v1/hosts/{name}",
    "/system/v1/agent/{id}/logs/{*path}",
    "/system/v1/logs/{*path}",
    "/api/v1",
    "/api/v1/operator",
    "/api/v1/scheduler",
    "/v2/apps",
    "/v2/apps/{*id}/tasks",
    "/v2/apps/{*id}/tasks/{task}",
    "/v2/apps/{*id}/restart",
    "/v2/apps/{*id}/versions",
    "/v2/apps/{*id}/versions/{version}",
    "/v2/apps/{*id}",
    "/v2/tasks",
    "/v2/tasks/delete",
    "/v2/deployments",
    "/v2/deployments/{id}",
    "/v2/queue",
    "/v2/queue/{*id}/delay",
    "/v2/info",
    "/v2/leader",
    "/v2/events",
    "/v2/groups",
    "/v2/groups/{*id}/versions",
    "/v2/groups/{*id}/apps",
    "/v2/groups/{*id}",
    "/v2/pods",
    "/v2/pods/{*id}",
    "/v2/plugins",
    "/v2/eventSubscriptions",
    "/v1/jobs",
    "/v1/jobs/{id}",
    "/v1/jobs/{id}/runs",
    "/v1/jobs/{id}/runs/{run}",
    "/v1/jobs/{id}/runs/{run}/actions/stop",
    "/v1/jobs/{id}/schedules",
    "/v1/jobs/{id}/schedules/{schedule}",
    "/v1/queue",
    "/v1/metrics",
    "/info",
    "/v0/scheduled-jobs",
    "/v0/scheduled-jobs/{id}",
    "/waggle/v1/nodes",
    "/waggle/v1/nodes/{id}",
    "/waggle/v1/nodes/{id}/{verb}",
    "/waggle/v1/networks",
    "/waggle/v1/networks/{name}",
    "/waggle/v1/vips",
    "/waggle/v1/map",
    "/waggle/v1/drops",
    "/waggle/v1/top",
    "/waggle/v1/traces/{id}",
    "/waggle/v1/tasks",
    "/waggle/v1/tasks/{id}/exec",
    "/waggle/v1/tasks/{id}/attach",
    "/waggle/v1/tasks/{id}/files",
    "/waggle/v1/tasks/{id}/file",
    "/waggle/v1/tasks/{id}/log/{stream}",
    "/waggle/v1/deployments",
    "/waggle/v1/deployments/{id}",
    "/waggle/v1/explain/{*what}",
    "/waggle/v1/logs",
    "/waggle/v1/frameworks",
    "/waggle/v1/frameworks/{id}",
    "/waggle/v1/offers",
    "/waggle/v1/roles",
    "/waggle/v1/weights",
    "/waggle/v1/weights/{*role}",
    "/waggle/v1/quotas",
    "/waggle/v1/quotas/{*role}",
    "/waggle/v1/reservations",
    "/waggle/v1/volumes",
    "/waggle/v1/maintenance",
    "/waggle/v1/policies",
    "/waggle/v1/policies/{name}",
    "/waggle/v1/policy-test",
];

/// The template of a path; none where there is none.
fn template(path: &str) -> Option<&'static str> {
    let mut segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    for prefix in [
        &["service", "marathon"][..],
        &["service", "metronome"],
        &["mesos"],
        &["master"],
    ] {
        if segments.len() > prefix.len() && segments.starts_with(prefix) {
            segments.drain(..prefix.len());
        }
    }
    if let Some(last) = segments.last_mut() {
        *last = last.strip_suffix(".json").unwrap_or(last);
    }
    TEMPLATES.iter().copied().find(|t| {
        let parts: Vec<&str> = t.split('/').filter(|s| !s.is_empty()).collect();
        fits(&parts, &segments)
    })
}

fn fits(parts: &[&str], segments: &[&str]) -> bool {
    match (parts, segments) {
        ([], []) => true,
        ([many, rest @ ..], [_, ..]) if many.starts_with("{*") => {
            let most = segments.len().saturating_sub(rest.len());
            // What follows is as long as it is, so the id is all before it.
            most > 0 && fits(rest, &segments[most..])
        }
        ([one, rest @ ..], [segment, left @ ..]) => {
            (one.starts_with('{') || one == segment) && fits(rest, left)
        }
        _ => false,
    }
}

/// Records how long a request took, to the head of its answer.
pub(super) async fn observe(
    State(telemetry): State<Telemetry>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = template(request.uri().path());
    let answer = next.run(request).await;
    let (status, took) = (answer.status().as_u16(), began.elapsed().as_secs_f64());
    served::http(&telemetry, method.as_str(), route, status, took);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_by_their_template() {
        for (path, want) in [
            ("/state", Some("/state")),
            ("/master/state.json", Some("/state")),
            ("/mesos/master/state-summary", Some("/state-summary")),
            ("/v2/apps//a/b/c", Some("/v2/apps/{*id}")),
            ("/service/marathon/v2/apps/a", Some("/v2/apps/{*id}")),
            (
                "/v2/apps/a/b/versions/2020",
                Some("/v2/apps/{*id}/versions/{version}"),
            ),
            ("/v2/apps/a/b/tasks", Some("/v2/apps/{*id}/tasks")),
            ("/v2/queue/a/b/delay", Some("/v2/queue/{*id}/delay")),
            (
                "/v1/jobs/a/runs/b/actions/stop",
                Some("/v1/jobs/{id}/runs/{run}/actions/stop"),
            ),
            (
                "/waggle/v1/quotas/eng/batch",
                Some("/waggle/v1/quotas/{*role}"),
            ),
            (
                "/waggle/v1/tasks/web.1/exec",
                Some("/waggle/v1/tasks/{id}/exec"),
            ),
            ("/api/v1/scheduler", Some("/api/v1/scheduler")),
            ("/", None),
            ("/no/such/path", None),
            ("/v2", None),
        ] {
            assert_eq!(template(path), want, "{path}");
        }
    }

    #[test]
    fn each_template_is_its_own() {
        for t in TEMPLATES.iter().copied() {
            let path = t.replace(['{', '}', '*'], "");
            assert_eq!(template(&path), Some(t), "{t}");
        }
    }
}
