//! Which connections somebody asks for.

use serde::Deserialize;
use waggle_api::native::{AUDITED, DENIED, EndedFlow};
use waggle_ebpf_common::flow::outcome;

/// Most connections in one answer, and how many without a wish.
pub const MAX_LIMIT: usize = 100_000;
const LIMIT: usize = 1_000;

/// All that a flow's verdict can be: how connections end, and what policies say.
fn known_verdicts() -> impl Iterator<Item = &'static str> {
    outcome::NAMES.into_iter().chain([DENIED, AUDITED])
}

/// The query of `GET /waggle/v1/flows`, as it comes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    service: Option<String>,
    vip: Option<String>,
    verdict: Option<String>,
    task: Option<String>,
    since_us: Option<u64>,
    until_us: Option<u64>,
    limit: Option<usize>,
    follow: bool,
}

/// What is wrong with a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    /// A verdict that there is not.
    #[error("verdict: must be one of {}, is {found:?}", known_verdicts().collect::<Vec<_>>().join(", "))]
    Verdict {
        /// It.
        found: String,
    },
    /// Too many, or none.
    #[error("limit: must be 1 to {MAX_LIMIT}, is {0}")]
    Limit(usize),
    /// It ends before it begins.
    #[error("until_us: must not be before since_us")]
    Backwards,
}

/// A query that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    pub(super) service: Option<String>,
    pub(super) vip: Option<String>,
    pub(super) verdicts: Vec<String>,
    pub(super) task: Option<String>,
    /// First moment of an end, Unix microseconds.
    pub since_us: u64,
    /// Last moment of an end.
    pub until_us: u64,
    /// The newest so many.
    pub limit: usize,
    /// Whether what comes later is asked for, too.
    pub follow: bool,
}

impl TryFrom<Query> for Filter {
    type Error = BadQuery;

    fn try_from(query: Query) -> Result<Self, BadQuery> {
        let verdicts: Vec<String> = query
            .verdict
            .iter()
            .flat_map(|v| v.split(','))
            .map(|v| v.trim().to_owned())
            .collect();
        if let Some(bad) = verdicts
            .iter()
            .find(|v| !known_verdicts().any(|known| known == v.as_str()))
        {
            return Err(BadQuery::Verdict { found: bad.clone() });
        }
        let limit = query.limit.unwrap_or(LIMIT);
        if limit == 0 || limit > MAX_LIMIT {
            return Err(BadQuery::Limit(limit));
        }
        let (since_us, until_us) = (
            query.since_us.unwrap_or(0),
            query.until_us.unwrap_or(u64::MAX),
        );
        if until_us < since_us {
            return Err(BadQuery::Backwards);
        }
        Ok(Self {
            service: query.service,
            vip: query.vip,
            verdicts,
            task: query.task,
            since_us,
            until_us,
            limit,
            follow: query.follow,
        })
    }
}

impl Filter {
    /// Whether a connection is asked for.
    pub fn matches(&self, flow: &EndedFlow) -> bool {
        let at = flow.ended_us;
        at >= self.since_us
            && at <= self.until_us
            && self.service.as_ref().is_none_or(|s| is_of(flow, s))
            && self.vip.as_ref().is_none_or(|v| {
                let vip = flow.vip.as_deref();
                vip.is_some_and(|vip| is_vip(vip, v))
            })
            && (self.verdicts.is_empty() || self.verdicts.contains(&flow.verdict))
            && self.task.as_ref().is_none_or(|t| *t == flow.task_id)
    }
}

/// By the name that both ends have, or by the path of the app or pod at this end.
fn is_of(flow: &EndedFlow, service: &str) -> bool {
    if service.starts_with('/') {
        return flow.service == service;
    }
    [&flow.source, &flow.destination]
        .into_iter()
        .any(|name| name == service)
}

/// Whole, without its port, or by its first labels: `web` and `web.marathon` are `web.marathon.l4lb.thisdcos.directory:80`.
fn is_vip(vip: &str, wanted: &str) -> bool {
    vip.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_log::tests::flow;

    fn filter(query: &str) -> Result<Filter, BadQuery> {
        serde_urlencoded(query).try_into()
    }

    /// As axum reads it.
    fn serde_urlencoded(query: &str) -> Query {
        let uri: axum::http::Uri = format!("/x?{query}").parse().unwrap();
        axum::extract::Query::try_from_uri(&uri).unwrap().0
    }

    #[test]
    fn what_can_be_asked_for() {
        let mut one = flow(10);
        one.vip = Some("web.marathon.l4lb.thisdcos.directory:80".to_owned());
        for (query, matches) in [
            ("", true),
            ("service=shop.marathon", true),
            ("service=web.marathon", true),
            ("service=web", false),
            ("service=/shop", true),
            ("service=/web", false),
            ("vip=web", true),
            ("vip=we", false),
            ("vip=web.marathon.l4lb.thisdcos.directory:80", true),
            ("vip=web.marathon.l4lb.thisdcos.directory:81", false),
            ("verdict=closed", true),
            ("verdict=reset,closed", true),
            ("verdict=no_backend", false),
            ("verdict=denied,audited", false),
            ("task=shop.1", true),
            ("task=shop.2", false),
            ("since_us=10", true),
            ("since_us=11", false),
            ("until_us=10", true),
            ("until_us=9", false),
        ] {
            assert_eq!(filter(query).unwrap().matches(&one), matches, "{query}");
        }
    }

    #[test]
    fn what_can_not() {
        for (query, why) in [
            (
                "verdict=dropped",
                "verdict: must be one of closed, reset, refused, failed, no_backend, denied, audited, is \"dropped\"",
            ),
            ("limit=0", "limit: must be 1 to 100000, is 0"),
            ("limit=100001", "limit: must be 1 to 100000, is 100001"),
            (
                "since_us=2&until_us=1",
                "until_us: must not be before since_us",
            ),
        ] {
            assert_eq!(filter(query).unwrap_err().to_string(), why);
        }
    }
}
