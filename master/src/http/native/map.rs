//! `GET /waggle/v1/map` and `/waggle/v1/drops`: who speaks with whom, and what of it does not get through, over all nodes.

use std::collections::{BTreeMap, BTreeSet};

use waggle_api::{
    error::{ApiError, ErrorCode},
    native::{
        Denials, DropsView, EdgeSums, EdgeView, MapView, NodeFiguresView, NodeMapView, RefusedView,
        ServiceMap, SilentView, ends,
    },
};
use waggle_types::ServiceId;

use super::{find, gather::gather};
use crate::{
    http::{Api, now, request::Call, respond::Fail},
    task::TaskView,
    view::ClusterView,
};

/// Edges in an answer, and most of them.
const EDGES: usize = 200;
const MAX_EDGES: usize = 4096;
/// How far back, without a wish.
const SINCE_US: u64 = 5 * 60 * 1_000_000;
/// Longest list of ways in which a service's connections failed.
const MAX_REFUSED: usize = 100;
/// Verdicts of policies with which a packet goes no further.
const DENIALS: [&str; 6] = [
    "denied_egress",
    "denied_ingress",
    "no_state",
    "no_flow",
    "no_fragment",
    "malformed",
];

/// What was asked for.
struct Wanted {
    since_us: u64,
    until_us: u64,
    /// Empty for all.
    names: Vec<String>,
}

impl Wanted {
    fn read(view: &ClusterView, call: &Call) -> Result<Self, Fail> {
        let until_us = now().0.saturating_mul(1000);
        let since_us = number(call, "since_us", 0..=until_us)?;
        let service = call.query.first("service");
        Ok(Self {
            since_us: since_us.unwrap_or_else(|| until_us.saturating_sub(SINCE_US)),
            until_us,
            names: service.map_or(Ok(Vec::new()), |s| names_of(view, s))?,
        })
    }

    fn path(&self) -> String {
        let mut path = format!("/waggle/v1/map?since_us={}", self.since_us);
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(|n| super::relay::encode(n)).collect();
            path.push_str(&format!("&services={}", names.join(",")));
        }
        path
    }
}

/// The map.
pub(super) async fn map(api: &Api, call: &Call) -> Result<MapView, Fail> {
    let view = api.view();
    let limit = number(call, "limit", 1..=MAX_EDGES as u64)?;
    let wanted = Wanted::read(&view, call)?;
    let limit = limit.map_or(EDGES, |n| usize::try_from(n).unwrap_or(MAX_EDGES));
    let Summed {
        map,
        shortened,
        silent,
        ..
    } = sum(api, &view, &wanted).await?;
    let (edges, other, folded) = map.shown(limit);
    let paths = paths(&view);
    Ok(MapView {
        since_us: wanted.since_us,
        until_us: wanted.until_us,
        services: ends(&edges, |name| paths.get(name).cloned()),
        edges,
        other,
        folded,
        shortened,
        silent,
    })
}

/// What of a service's traffic does not get through.
pub(super) async fn drops(api: &Api, call: &Call) -> Result<DropsView, Fail> {
    let view = api.view();
    let wanted = Wanted::read(&view, call)?;
    if wanted.names.is_empty() {
        let why = "service: must name an app, a pod or a task such as /shop or shop.marathon";
        return Err(ApiError::new(ErrorCode::BadRequest, why).into());
    }
    let Summed {
        map,
        denials,
        mut silent,
        ..
    } = sum(api, &view, &wanted).await?;
    let (edges, other, _) = map.shown(MAX_EDGES);
    let (denials, denied_other) = denials.shown(MAX_REFUSED);
    let mut out = DropsView {
        denials,
        denied_other,
        since_us: wanted.since_us,
        until_us: wanted.until_us,
        connections: refused(&edges, other.as_ref()),
        names: wanted.names,
        ..DropsView::default()
    };
    let names: BTreeSet<String> = out.names.iter().cloned().collect();
    let take = |node: NodeFiguresView| add(&mut out, &names, node);
    let more = gather(api, &view, "/waggle/v1/figures", take).await?;
    silent.extend(more);
    silent.sort_by(|a, b| a.node.cmp(&b.node));
    silent.dedup_by(|a, b| a.node == b.node);
    out.silent = silent;
    Ok(out)
}

struct Summed {
    map: ServiceMap,
    denials: Denials,
    shortened: BTreeMap<String, u64>,
    silent: Vec<SilentView>,
}

async fn sum(api: &Api, view: &ClusterView, wanted: &Wanted) -> Result<Summed, Fail> {
    let (mut map, mut denials) = (ServiceMap::default(), Denials::default());
    let mut shortened = BTreeMap::new();
    let take = |node: NodeMapView| {
        map.add(&node.edges, node.other.as_ref(), node.folded);
        denials.merge(node.denials, node.denied_other);
        if node.since_us > wanted.since_us {
            shortened.insert(node.node, node.since_us);
        }
    };
    let silent = gather(api, view, &wanted.path(), take).await?;
    Ok(Summed {
        map,
        denials,
        shortened,
        silent,
    })
}

/// The worst first.
fn refused(edges: &[EdgeView], other: Option<&EdgeSums>) -> Vec<RefusedView> {
    let mut out = Vec::new();
    let mut add = |source: &str, vip: Option<&String>, destination: &str, sums: &EdgeSums| {
        for (verdict, count) in &sums.errors {
            out.push(RefusedView {
                source: source.to_owned(),
                vip: vip.cloned(),
                destination: destination.to_owned(),
                verdict: verdict.clone(),
                count: *count,
            });
        }
    };
    for EdgeView { name, sums } in edges {
        add(&name.source, name.vip.as_ref(), &name.destination, sums);
    }
    if let Some(other) = other {
        add("other", None, "other", other);
    }
    out.sort_by(|a, b| {
        let order = b.count.cmp(&a.count);
        order.then_with(|| (&a.source, &a.vip, &a.verdict).cmp(&(&b.source, &b.vip, &b.verdict)))
    });
    out.truncate(MAX_REFUSED);
    out
}

/// A node's figures of the tasks that have one of these names.
fn add(out: &mut DropsView, names: &BTreeSet<String>, node: NodeFiguresView) {
    let ours: Vec<_> = node
        .tasks
        .iter()
        .filter(|t| names.contains(&t.name))
        .collect();
    if ours.is_empty() {
        return;
    }
    for task in ours {
        out.tasks += 1;
        out.retransmits += task.retransmits;
        out.log_lines_dropped += task.log_lines_dropped;
        out.oom_kills += task.oom_kills;
        for (reason, n) in &task.drops {
            *out.kernel.entry(reason.clone()).or_default() += n;
        }
    }
    for (verdict, n) in node.policy {
        if n > 0 && DENIALS.contains(&verdict.as_str()) {
            *out.denied.entry(verdict).or_default() += n;
        }
    }
}

/// Names that edges have for a service's tasks: of an app's or a pod's path, or of a name that some task has.
pub(super) fn names_of(view: &ClusterView, text: &str) -> Result<Vec<String>, Fail> {
    let all = || {
        let ended = view.completed.iter().map(AsRef::as_ref);
        view.tasks.values().map(AsRef::as_ref).chain(ended)
    };
    if let Ok(id) = ServiceId::new(text) {
        let of = |t: &&TaskView| t.spec.service == id.as_str();
        let names: BTreeSet<String> = all().filter(of).map(name_of).collect();
        if !names.is_empty() || view.services.contains_key(&id) {
            return Ok(names.into_iter().collect());
        }
    }
    if all().any(|t| name_of(t) == text) {
        return Ok(vec![text.to_owned()]);
    }
    Err(find::no_app(view, text.trim_start_matches('/')))
}

/// Apps' and pods' paths by the names that edges have for them.
fn paths(view: &ClusterView) -> BTreeMap<String, String> {
    let named =
        |t: &TaskView| (!t.spec.service.is_empty()).then(|| (name_of(t), t.spec.service.clone()));
    let ended = view.completed.iter().map(AsRef::as_ref);
    let all = ended.chain(view.tasks.values().map(AsRef::as_ref));
    all.filter_map(named).collect()
}

/// As agents name a task's service.
pub(super) fn name_of(task: &TaskView) -> String {
    format!("{}.{}", task.name(), task.spec.framework_name)
}

/// A whole number of the query.
fn number(
    call: &Call,
    name: &str,
    within: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Fail> {
    let Some(text) = call.query.first(name) else {
        return Ok(None);
    };
    let found = text.parse().ok().filter(|n| within.contains(n));
    found.map(Some).ok_or_else(|| {
        let (from, to) = within.into_inner();
        let why = format!("{name}: must be a whole number from {from} to {to}, is {text:.100?}");
        ApiError::new(ErrorCode::BadRequest, why).into()
    })
}
