//! Groups: show, create, change, scale, go back, remove.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    http::{Method, StatusCode},
    response::Response,
};
use waggle_api::{
    error::ApiError,
    marathon::{
        AppVersions, Counts, Group, GroupBody, GroupMode, PlanOnly, app_json, group_from_value,
        parse_version, pod_json,
    },
};
use waggle_services::{GroupDependencies, Tree};
use waggle_types::{GroupId, ServiceId, ServiceSpec, ServiceVersion};

use super::{
    super::{
        Api, now,
        request::Call,
        respond::{Fail, ok},
    },
    apps::{Embed, app},
    deployed, deployments,
};
use crate::{
    core::{GroupAnswer, GroupQuery, TreeRequest},
    error::MasterError,
    view::{ClusterView, ServiceView},
};

/// Below `/v2/groups`: ids are paths, so the words at the end decide.
pub(super) async fn route(
    api: &Api,
    call: &Call,
    body: Body,
    rest: &[&str],
) -> Result<Response, Fail> {
    match rest {
        [id @ .., "versions"] => match call.method {
            Method::GET => versions(api, group_id(id)?).await,
            _ => Err(Fail::method(call, "GET")),
        },
        [id @ .., "versions", version] => {
            let (id, version) = (group_id(id)?, group_version(version)?);
            match call.method {
                Method::GET => at(api, id, version).await,
                Method::PUT => {
                    let request = TreeRequest::Version { id, version };
                    change(api, call, request, StatusCode::OK).await
                }
                _ => Err(Fail::method(call, "GET, PUT")),
            }
        }
        id => {
            let id = group_id(id)?;
            match call.method {
                Method::GET => show(api, call, &id),
                Method::POST => create(api, call, body, &id).await,
                Method::PUT | Method::PATCH => put(api, call, body, &id).await,
                Method::DELETE => change(api, call, TreeRequest::Remove(id), StatusCode::OK).await,
                _ => Err(Fail::method(call, "GET, POST, PUT, PATCH, DELETE")),
            }
        }
    }
}

fn group_id(segments: &[&str]) -> Result<GroupId, Fail> {
    let id = GroupId::new(&segments.join("/"));
    id.map_err(|e| ApiError::invalid("id", e.to_string()).into())
}

fn group_version(text: &str) -> Result<ServiceVersion, Fail> {
    parse_version(text).ok_or_else(|| {
        let rule = format!("must be a timestamp such as 2026-11-23T03:47:00.123Z, is {text:?}");
        ApiError::invalid("version", rule).into()
    })
}

/// Services and groups of a view, as a tree.
fn specs(view: &ClusterView) -> BTreeMap<ServiceId, Arc<ServiceSpec>> {
    let all = view.services.iter();
    all.map(|(id, s)| (id.clone(), Arc::clone(&s.spec)))
        .collect()
}

fn show(api: &Api, call: &Call, id: &GroupId) -> Result<Response, Fail> {
    let view = api.view();
    let services = specs(&view);
    let tree = Tree {
        services: &services,
        groups: &view.groups,
    };
    if !tree.has_group(id) {
        return Err(MasterError::NoSuchGroup(id.clone()).into());
    }
    let asks = |what: &[&str]| call.query.all("embed").any(|e| what.contains(&e));
    let chooses = call.query.first("embed").is_some();
    let embed = Embed {
        tasks: asks(&["group.apps.tasks"]),
        last_failure: asks(&["group.apps.lastTaskFailure"]),
        readiness: asks(&["group.apps.readiness"]),
        stats: asks(&["group.apps.taskStats"]).then(now),
    };
    let apps = |spec: &ServiceSpec| {
        let service: Option<&Arc<ServiceView>> = view.services.get(&spec.id);
        service.map_or_else(
            || app_json(spec, Counts::default(), Vec::new()),
            |s| app(s, embed),
        )
    };
    let shown = Shown {
        tree,
        app: &apps,
        with_apps: !chooses || call.query.all("embed").any(|e| e.starts_with("group.apps")),
        with_pods: !chooses || asks(&["group.pods"]),
        with_groups: !chooses || asks(&["group.groups"]),
        version: view.tree_version,
    };
    Ok(ok(&shown.group(id)))
}

/// How a subtree is shown.
struct Shown<'a> {
    tree: Tree<'a>,
    app: &'a dyn Fn(&ServiceSpec) -> waggle_api::marathon::App,
    with_apps: bool,
    with_pods: bool,
    with_groups: bool,
    /// Of the whole tree.
    version: ServiceVersion,
}

impl Shown<'_> {
    fn group(&self, id: &GroupId) -> Group {
        let direct = self.tree.services_in(id);
        let direct = direct.filter(|s| GroupId::of(&s.id) == *id);
        let (pods, apps): (Vec<_>, Vec<_>) = direct.partition(|s| s.pod.is_some());
        let dependencies = self.tree.groups.get(id).into_iter().flatten();
        let newest = self.tree.services_in(id).map(|s| s.version).max();
        let version = match newest {
            _ if id.is_root() => self.version.max(newest.unwrap_or_default()),
            Some(version) => version,
            None => self.version,
        };
        Group {
            id: id.to_string(),
            apps: if self.with_apps {
                apps.into_iter().map(|s| (self.app)(s)).collect()
            } else {
                Vec::new()
            },
            groups: if self.with_groups {
                let children = self.tree.children(id);
                children.iter().map(|g| self.group(g)).collect()
            } else {
                Vec::new()
            },
            pods: pods
                .into_iter()
                .filter(|_| self.with_pods)
                .filter_map(|s| pod_json(s))
                .collect(),
            dependencies: dependencies.map(ToString::to_string).collect(),
            version: version.to_string(),
        }
    }
}

async fn versions(api: &Api, id: GroupId) -> Result<Response, Fail> {
    let answer = api.handle.ask_group(GroupQuery::Versions(id)).await?;
    let all = match answer {
        GroupAnswer::Versions(all) => all,
        GroupAnswer::At { .. } => Vec::new(),
    };
    Ok(ok(&AppVersions {
        versions: all.iter().map(ToString::to_string).collect(),
    }))
}

async fn at(api: &Api, id: GroupId, version: ServiceVersion) -> Result<Response, Fail> {
    let query = GroupQuery::At(id.clone(), version);
    let (services, groups) = match api.handle.ask_group(query).await? {
        GroupAnswer::At { services, groups } => (services, groups),
        GroupAnswer::Versions(_) => (Vec::new(), GroupDependencies::new()),
    };
    let services = services.into_iter().map(|s| (s.id.clone(), s)).collect();
    let tree = Tree {
        services: &services,
        groups: &groups,
    };
    let apps = |spec: &ServiceSpec| app_json(spec, Counts::default(), Vec::new());
    let shown = Shown {
        tree,
        app: &apps,
        with_apps: true,
        with_pods: true,
        with_groups: true,
        version,
    };
    Ok(ok(&shown.group(&id)))
}

async fn create(api: &Api, call: &Call, body: Body, below: &GroupId) -> Result<Response, Fail> {
    let value = call.json(body).await?;
    let update = match group_from_value(&value, GroupMode::Below(below), now())? {
        GroupBody::Update(update) => update,
        GroupBody::ScaleBy { .. } => {
            return Err(ApiError::invalid("scaleBy", "is only for groups that are there").into());
        }
        GroupBody::Version { .. } => {
            return Err(ApiError::invalid("version", "is only for groups that are there").into());
        }
    };
    change(api, call, TreeRequest::Create(update), StatusCode::CREATED).await
}

async fn put(api: &Api, call: &Call, body: Body, id: &GroupId) -> Result<Response, Fail> {
    let value = call.json(body).await?;
    let (request, status) = match group_from_value(&value, GroupMode::Of(id), now())? {
        GroupBody::ScaleBy { id, millionths } => {
            (TreeRequest::Scale { id, millionths }, StatusCode::OK)
        }
        GroupBody::Version { id, version } => {
            (TreeRequest::Version { id, version }, StatusCode::OK)
        }
        GroupBody::Update(update) => {
            let view = api.view();
            let services = specs(&view);
            let tree = Tree {
                services: &services,
                groups: &view.groups,
            };
            let status = if tree.has_group(&update.id) {
                StatusCode::OK
            } else {
                StatusCode::CREATED
            };
            (TreeRequest::Update(update), status)
        }
    };
    change(api, call, request, status).await
}

/// Does it, or with `dryRun` says what would be done.
async fn change(
    api: &Api,
    call: &Call,
    request: TreeRequest,
    status: StatusCode,
) -> Result<Response, Fail> {
    let force = call.query.flag("force", false)?;
    if call.query.flag("dryRun", false)? {
        let plan = api.handle.plan_tree(request, force).await?;
        return Ok(ok(&PlanOnly {
            steps: deployments::steps(&plan),
        }));
    }
    let _one_at_a_time = api.exclusive().await;
    let done = api.handle.change_tree(request, force, call.trace()).await?;
    api.settled(|v| v.at >= done.version.0).await;
    Ok(deployed(status, &done))
}
