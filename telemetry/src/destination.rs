//! Where telemetry goes: an endpoint, how it is spoken to, and how that goes.

use std::{fmt, path::PathBuf, sync::Mutex};

use tonic::{Code, Status};

use crate::pipe::lock;

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1: `/v1/logs`, `/v1/traces` and `/v1/metrics` below the URL.
    Http,
    /// JSON over HTTP/1.1, at the same paths.
    HttpJson,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destination {
    /// `http://host:port` or `https://host:port`; over HTTP a path may follow.
    pub url: String,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// PEM file of who may sign for it, instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of this node's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Destination {
    /// gRPC to a URL, with nothing else.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }
}

/// How an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing was sent yet.
    Idle,
    /// The last request was answered for.
    Ok,
    /// There is no connection, or no answer.
    Unreachable,
    /// Its certificate is not one that is trusted: expired, of another name, signed by nobody known.
    Certificate,
    /// It wants another, or any, identification.
    Unauthenticated,
    /// What answers there is no OTLP endpoint.
    WrongEndpoint,
    /// It takes nothing now: too much to do, no room.
    Refused,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::Ok,
        Self::Unreachable,
        Self::Certificate,
        Self::Unauthenticated,
        Self::WrongEndpoint,
        Self::Refused,
    ];

    /// Value of `waggle.state`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Certificate => "certificate",
            Self::Unauthenticated => "unauthenticated",
            Self::WrongEndpoint => "wrong_endpoint",
            Self::Refused => "refused",
        }
    }

    /// What an answer says of the endpoint.
    pub(crate) fn of(status: &Status) -> Self {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Unauthenticated,
            Code::Unimplemented | Code::NotFound => Self::WrongEndpoint,
            Code::Unavailable | Code::Unknown if speaks_of_certificates(status) => {
                Self::Certificate
            }
            Code::Unknown | Code::Internal if speaks_no_grpc(status) => Self::WrongEndpoint,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unreachable,
            _ => Self::Refused,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn speaks_of_certificates(status: &Status) -> bool {
    let said = chain(status);
    [
        "certificate",
        "UnknownIssuer",
        "invalid peer",
        "NotValidForName",
    ]
    .iter()
    .any(|w| said.contains(w))
}

/// What hyper and tonic say of a server that is something else.
fn speaks_no_grpc(status: &Status) -> bool {
    let said = chain(status);
    [
        "content-type",
        "h2 protocol error",
        "http2 error",
        "frame with invalid size",
        "missing status",
    ]
    .iter()
    .any(|w| said.contains(w))
}

/// A status and what caused it.
pub(crate) fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

/// An endpoint, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Where it is.
    pub url: String,
    /// How it does.
    pub state: State,
    /// In words, where it does not do well.
    pub why: String,
    /// Items that wait for it, of all signals.
    pub held: u64,
}

/// What an endpoint's last answers said.
#[derive(Debug)]
pub(crate) struct Watch(Mutex<(State, String)>);

impl Default for Watch {
    fn default() -> Self {
        Self(Mutex::new((State::Idle, String::new())))
    }
}

impl Watch {
    /// Takes an answer; tells whether the state is another one now.
    pub(crate) fn saw(&self, answer: Result<(), &Status>) -> bool {
        let new = match answer {
            Ok(()) => (State::Ok, String::new()),
            Err(status) => (State::of(status), chain(status)),
        };
        let mut held = lock(&self.0);
        let changed = held.0 != new.0;
        *held = new;
        changed
    }

    pub(crate) fn state(&self) -> (State, String) {
        lock(&self.0).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_how_an_endpoint_does() {
        let of = |code, message: &str| State::of(&Status::new(code, message));
        assert_eq!(
            of(Code::Unavailable, "connection refused"),
            State::Unreachable
        );
        let expired = "tls: invalid peer certificate: Expired";
        assert_eq!(of(Code::Unavailable, expired), State::Certificate);
        assert_eq!(of(Code::Unauthenticated, ""), State::Unauthenticated);
        assert_eq!(of(Code::Unimplemented, ""), State::WrongEndpoint);
        assert_eq!(of(Code::ResourceExhausted, ""), State::Refused);
        let watch = Watch::default();
        assert!(watch.saw(Ok(())) && !watch.saw(Ok(())));
        assert!(watch.saw(Err(&Status::unavailable("x"))));
        assert_eq!(watch.state(), (State::Unreachable, "x".to_owned()));
    }
}
