//! Deployments in flight, and their end before the time.

use std::collections::BTreeSet;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use waggle_api::marathon::{Deployment, DeploymentAction, DeploymentStep};
use waggle_types::{DeploymentId, ServiceId};

use super::{
    super::{
        Api,
        request::Call,
        respond::{Fail, ok},
    },
    apps::readiness,
    deployed,
};
use crate::view::{ClusterView, DeploymentPlan, DeploymentView, StepAction};

pub(super) fn list(view: &ClusterView) -> Vec<Deployment> {
    view.deployments.values().map(|d| show(view, d)).collect()
}

fn show(view: &ClusterView, d: &DeploymentView) -> Deployment {
    let action = |a: &StepAction| DeploymentAction {
        readiness_check_results: view
            .services
            .get(&a.service)
            .map(|s| readiness(s, Some(d.version)))
            .unwrap_or_default(),
        ..plain(a)
    };
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let actions = d.plan.steps.iter().flat_map(|s| &s.actions);
    let pods: BTreeSet<&ServiceId> = actions.filter(|a| a.pod).map(|a| &a.service).collect();
    let affected = |of_pods: bool| {
        let all = d.services.keys();
        all.filter(|id| pods.contains(id) == of_pods)
            .map(ToString::to_string)
            .collect()
    };
    let all = d.plan.steps.iter();
    Deployment {
        id: d.id.to_string(),
        version: d.version.to_string(),
        affected_apps: affected(false),
        affected_pods: affected(true),
        steps: all
            .map(|s| DeploymentStep {
                actions: s.actions.iter().map(action).collect(),
            })
            .collect(),
        current_actions: d.current().iter().map(action).collect(),
        current_step: number(d.step_idx + 1),
        total_steps: number(d.plan.steps.len()),
    }
}

/// The steps of a plan that nothing is done of.
pub(super) fn steps(plan: &DeploymentPlan) -> Vec<DeploymentStep> {
    let step = |s: &waggle_services::DeploymentStep| DeploymentStep {
        actions: s.actions.iter().map(plain).collect(),
    };
    plan.steps.iter().map(step).collect()
}

fn plain(a: &StepAction) -> DeploymentAction {
    DeploymentAction {
        action: a.marathon_action().to_owned(),
        app: (!a.pod).then(|| a.service.to_string()),
        pod: a.pod.then(|| a.service.to_string()),
        readiness_check_results: Vec::new(),
    }
}

/// Rolls a deployment back (200 with the new one), or with `force` only ends it (202, no body).
pub(super) async fn cancel(api: &Api, call: &Call, id: &str) -> Result<Response, Fail> {
    let force = call.query.flag("force", false)?;
    let gone = || Fail::not_found(format!("Deployment {id} does not exist"));
    let id = DeploymentId::new(id).map_err(|_| gone())?;
    let new = api
        .handle
        .cancel_deployment(id.clone(), !force, call.trace())
        .await?;
    api.settled(|v| !v.deployments.contains_key(&id)).await;
    Ok(match new {
        Some(d) => deployed(StatusCode::OK, &d),
        None => StatusCode::ACCEPTED.into_response(),
    })
}

/// The answer to `GET /v2/deployments`.
pub(super) fn all(api: &Api) -> Response {
    ok(&list(&api.view()))
}
