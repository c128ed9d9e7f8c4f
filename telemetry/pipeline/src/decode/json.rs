//! JSON lines: pino, bunyan, winston, zap, zerolog, slog, logback, tracing, MongoDB, docker.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::{Map, Value};

use super::{Found, severity, text, time};
use crate::{AttrValue, Severity};

/// Objects and lists nested deeper are kept as JSON text.
const MAX_DEPTH: usize = 6;
/// Most members of one nested object or list; more are kept as JSON text.
const MAX_MEMBERS: usize = 256;

const TIME: [&str; 16] = [
    "time",
    "timestamp",
    "@timestamp",
    "ts",
    "@t",
    "t",
    "datetime",
    "asctime",
    "date",
    "Timestamp",
    "__REALTIME_TIMESTAMP",
    "timestampSeconds",
    "instant",
    "timeMillis",
    "timeUnixNano",
    "created",
];
const LEVEL: [&str; 19] = [
    "level",
    "severity",
    "lvl",
    "log.level",
    "loglevel",
    "log_level",
    "levelname",
    "severity_text",
    "@l",
    "priority",
    "PRIORITY",
    "levelno",
    "@level",
    "LogLevel",
    "Level",
    "severityText",
    "SeverityText",
    "Severity",
    "error_severity",
];
const MESSAGE: [&str; 16] = [
    "message",
    "msg",
    "@m",
    "@mt",
    "MESSAGE",
    "log",
    "event",
    "body",
    "text",
    "@message",
    "short_message",
    "Message",
    "RenderedMessage",
    "MessageTemplate",
    "Body",
    "textPayload",
];
const EVENT: [&str; 3] = ["event.name", "event_name", "EventName"];

/// `None` unless the line is one JSON object.
pub(super) fn decode(line: &str, read_ns: u64) -> Option<Found> {
    let line = line.trim();
    if !(line.starts_with('{') && line.ends_with('}')) {
        return None;
    }
    // serde_json bounds the depth of its input (128) by itself.
    let mut map: Map<String, Value> = serde_json::from_str(line).ok()?;
    let mut found = Found::default();
    for key in TIME {
        if let Some(ns) = map.get(key).and_then(|v| time_of(v, read_ns)) {
            found.time_ns = Some(ns);
            map.remove(key);
            break;
        }
    }
    take_level(&mut map, &mut found);
    for key in EVENT {
        if let Some(Value::String(name)) = map.get(key) {
            found.event_name = Some(name.clone());
            map.remove(key);
            break;
        }
    }
    take_ids(&mut map, &mut found);
    found.body = take_message(&mut map);
    if found.body.is_none() {
        // tracing's JSON format keeps the event's own fields one level down.
        if let Some(Value::Object(fields)) = map.get_mut("fields") {
            found.body = take_message(fields);
        }
    }
    // A line in a line: docker, loguru.
    if found.severity == Severity::UNSPECIFIED
        && let Some(AttrValue::Str(text)) = &found.body
    {
        let inner = text::plain(text, read_ns);
        found.level(inner.severity, &inner.severity_text);
    }
    if let Some(Value::Object(fields)) = map.get("fields")
        && fields.is_empty()
    {
        map.remove("fields");
    }
    if found.body.is_some() {
        found.attrs = map
            .into_iter()
            .map(|(k, v)| (Cow::Owned(k), convert(v, 0)))
            .collect();
    } else {
        // No message: the body is the object itself, as far as it was not understood.
        let members = map.into_iter().map(|(k, v)| (k, convert(v, 0)));
        found.body = Some(AttrValue::Map(members.collect()));
    }
    Some(found)
}

fn time_of(v: &Value, read_ns: u64) -> Option<u64> {
    match v {
        Value::String(s) => time::whole(s, read_ns),
        Value::Number(n) => time::epoch(n.as_f64()?, n.as_u64(), read_ns),
        // Google, and log4j2 with other words: {"timestamp":{"seconds":1795407292,"nanos":123000000}}
        Value::Object(o) if o.contains_key("seconds") || o.contains_key("epochSecond") => {
            let part = |a, b| o.get(a).or_else(|| o.get(b)).and_then(Value::as_u64);
            let s = part("seconds", "epochSecond").unwrap_or(0);
            let ns = s.checked_mul(1_000_000_000)?;
            let ns = ns.checked_add(part("nanos", "nanoOfSecond").unwrap_or(0))?;
            time::epoch(ns as f64, Some(ns), read_ns)
        }
        // MongoDB: {"t":{"$date":"..."}}
        Value::Object(o) => time_of(o.get("$date").filter(|d| !d.is_object())?, read_ns),
        _ => None,
    }
}

fn take_level(map: &mut Map<String, Value>, found: &mut Found) {
    for key in LEVEL {
        let level = match map.get(key) {
            Some(Value::String(s)) => match s.parse() {
                Ok(n) => severity::from_number(key, n),
                Err(_) => severity::from_token(s.trim()),
            }
            .map(|sev| (sev, s.trim().to_owned())),
            Some(Value::Number(n)) => n
                .as_u64()
                .and_then(|n| severity::from_number(key, n))
                .map(|sev| (sev, n.to_string())),
            _ => None,
        };
        if let Some((sev, token)) = level {
            found.level(sev, &token);
            map.remove(key);
            return;
        }
    }
    // MongoDB: "s":"I", debug levels D1 to D5.
    if let (Some(Value::String(s)), true) = (map.get("s"), map.contains_key("c")) {
        let sev = s.chars().next().and_then(severity::from_letter);
        found.level(sev.unwrap_or(Severity::UNSPECIFIED), &s.clone());
        map.remove("s");
    }
}

fn take_ids(map: &mut Map<String, Value>, found: &mut Found) {
    let ids = &mut found.trace;
    map.retain(|k, v| match v {
        Value::String(s) => !ids.take(k, s),
        Value::Number(n) => !ids.take(k, &n.to_string()),
        // Elastic common schema: {"trace":{"id":".."},"span":{"id":".."}}; Datadog: {"dd":{..}}.
        Value::Object(o) if k == "trace" || k == "span" || k == "dd" => {
            o.retain(|inner, v| match v {
                Value::String(s) => !ids.take(&format!("{k}.{inner}"), s),
                _ => true,
            });
            !o.is_empty()
        }
        _ => true,
    });
}

fn take_message(map: &mut Map<String, Value>) -> Option<AttrValue> {
    let key = MESSAGE
        .into_iter()
        .find(|k| matches!(map.get(*k), Some(Value::String(_))))?;
    match map.remove(key) {
        // docker's json-file driver keeps the line's end.
        Some(Value::String(s)) => Some(s.trim_end_matches(['\n', '\r']).into()),
        _ => None,
    }
}

fn convert(v: Value, depth: usize) -> AttrValue {
    match v {
        Value::Null => AttrValue::Null,
        Value::Bool(b) => b.into(),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => i.into(),
            (None, Some(f)) => f.into(),
            (None, None) => n.to_string().into(),
        },
        Value::String(s) => s.into(),
        Value::Array(l) if depth < MAX_DEPTH && l.len() <= MAX_MEMBERS => {
            AttrValue::List(l.into_iter().map(|v| convert(v, depth + 1)).collect())
        }
        Value::Object(o) if depth < MAX_DEPTH && o.len() <= MAX_MEMBERS => {
            let members: BTreeMap<String, AttrValue> = o
                .into_iter()
                .map(|(k, v)| (k, convert(v, depth + 1)))
                .collect();
            AttrValue::Map(members)
        }
        big => big.to_string().into(),
    }
}
