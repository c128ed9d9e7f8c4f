//! How long own APIs take to answer, by the names of OpenTelemetry's conventions. What a client can choose freely is no value of
//! an attribute: methods that nobody knows are `_OTHER`, and routes are templates.

use crate::{AttrValue, Telemetry, names};

/// What the conventions call a method that they do not know.
const OTHER: &str = "_OTHER";
/// Codes of gRPC by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// gRPC's code of a call that nobody serves.
const UNIMPLEMENTED: u32 = 12;
/// Those that are the server's fault.
const FAULTS: [u32; 6] = [2, 4, UNIMPLEMENTED, 13, 14, 15];

/// An HTTP request was answered; `route` is a template, none where there is no such path.
pub fn http(t: &Telemetry, method: &str, route: Option<&str>, status: u16, seconds: f64) {
    let method = match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            method
        }
        _ => OTHER,
    };
    let mut attrs: Vec<(&'static str, AttrValue)> = vec![
        ("http.request.method", method.to_owned().into()),
        ("http.response.status_code", AttrValue::I64(status.into())),
        ("url.scheme", "http".into()),
    ];
    if let Some(route) = route {
        attrs.push(("http.route", route.to_owned().into()));
    }
    if status >= 500 {
        attrs.push((names::ERROR_TYPE, status.to_string().into()));
    }
    t.record(&names::HTTP_SERVER_DURATION, &attrs, seconds);
}

/// A gRPC call was answered; `path` is its request's.
pub fn grpc(t: &Telemetry, path: &str, code: u32, seconds: f64) {
    let name = usize::try_from(code).ok().and_then(|i| CODES.get(i));
    let name = name.copied().unwrap_or("UNKNOWN");
    let method = if code == UNIMPLEMENTED {
        OTHER
    } else {
        path.trim_start_matches('/')
    };
    let mut attrs: Vec<(&'static str, AttrValue)> = vec![
        ("rpc.system.name", "grpc".into()),
        ("rpc.method", method.to_owned().into()),
        ("rpc.response.status_code", name.into()),
    ];
    if FAULTS.contains(&code) {
        attrs.push((names::ERROR_TYPE, name.into()));
    }
    t.record(&names::RPC_SERVER_DURATION, &attrs, seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(t: &Telemetry, of: &str) -> Vec<String> {
        let text = t.prometheus_text();
        let count = |l: &&str| l.starts_with(of) && l.contains("_count");
        text.lines().filter(count).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn clients_choose_no_values() {
        let t = Telemetry::disabled().component("waggle-master");
        http(&t, "GET", Some("/v2/apps/{id}"), 200, 0.01);
        http(&t, "BREW", None, 404, 0.01);
        http(&t, "MAKE", None, 404, 0.01);
        http(&t, "GET", Some("/state"), 503, 0.01);
        let all = lines(&t, "http_server_request_duration_seconds");
        assert_eq!(all.len(), 3, "{all:?}");
        let has = |parts: &[&str]| {
            let line = all.iter().find(|l| parts.iter().all(|p| l.contains(p)));
            line.unwrap_or_else(|| panic!("{parts:?} of {all:?}"))
                .clone()
        };
        has(&[
            "http_request_method=\"GET\"",
            "http_route=\"/v2/apps/{id}\"",
            "\"200\"",
        ]);
        assert!(has(&["_OTHER", "\"404\""]).ends_with(" 2"), "both in one");
        has(&["error_type=\"503\""]);

        grpc(&t, "/waggle.session.v1.Session/Connect", 0, 60.0);
        grpc(&t, "/waggle.session.v1.Session/Connect", 14, 60.0);
        grpc(&t, "/some/thing", 12, 0.001);
        grpc(&t, "/some/thing.else", 12, 0.001);
        let all = lines(&t, "rpc_server_call_duration_seconds");
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(
            all.iter()
                .any(|l| l.contains("waggle.session.v1.Session/Connect") && l.contains("\"OK\""))
        );
        assert!(all.iter().any(|l| l.contains("error_type=\"UNAVAILABLE\"")));
    }
}
