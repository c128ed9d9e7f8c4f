//! `GET /waggle/v1/top`: services with what they use and how their connections do, now.

use std::collections::BTreeMap;

use waggle_api::native::{NodeFiguresView, ServiceFiguresView, TaskFiguresView, TopView};
use waggle_types::{HealthState, ScalarKind, TaskState};

use super::{gather::gather, map::name_of};
use crate::{
    http::{Api, respond::Fail},
    task::TaskView,
    view::{ClusterView, ServiceView},
};

/// Services in an answer.
const MAX_SERVICES: usize = 2000;
const MIB: u64 = 1 << 20;

pub(super) async fn top(api: &Api) -> Result<TopView, Fail> {
    let view = api.view();
    let mut tasks: BTreeMap<String, TaskFiguresView> = BTreeMap::new();
    let take = |node: NodeFiguresView| {
        let all = node.tasks.into_iter();
        tasks.extend(all.map(|t| (t.task_id.clone(), t)));
    };
    let silent = gather(api, &view, "/waggle/v1/figures", take).await?;
    let mut services = by_service(&view, &tasks);
    let left_out = services.len().saturating_sub(MAX_SERVICES) as u64;
    services.truncate(MAX_SERVICES);
    Ok(TopView {
        services,
        left_out,
        silent,
    })
}

/// By name. Tasks that the master does not know (any more) are left out.
fn by_service(
    view: &ClusterView,
    figures: &BTreeMap<String, TaskFiguresView>,
) -> Vec<ServiceFiguresView> {
    let mut out: BTreeMap<String, ServiceFiguresView> = BTreeMap::new();
    for service in view.services.values() {
        let (id, wanted) = (service.spec.id.to_string(), service.spec.instances);
        let row = ServiceFiguresView {
            service: id.clone(),
            wanted: Some(wanted),
            state: state(service).to_owned(),
            ..ServiceFiguresView::default()
        };
        out.insert(id, row);
    }
    for task in view.tasks.values() {
        let key = if task.spec.service.is_empty() {
            name_of(task)
        } else {
            task.spec.service.clone()
        };
        let row = out.entry(key).or_insert_with_key(|key| ServiceFiguresView {
            service: key.clone(),
            state: "running".to_owned(),
            ..ServiceFiguresView::default()
        });
        count(row, task);
        if let Some(read) = figures.get(task.id.as_str()) {
            row.add(read);
        }
    }
    out.into_values().collect()
}

fn count(row: &mut ServiceFiguresView, task: &TaskView) {
    let held = task.resources();
    row.cpus_held += held.get(ScalarKind::Cpus).to_f64();
    let thousandths = u64::try_from(held.get(ScalarKind::Mem).0).unwrap_or(0);
    row.memory_held_bytes += thousandths.saturating_mul(MIB) / 1000;
    if task.state() != TaskState::Running {
        return;
    }
    row.running += 1;
    match task.health {
        HealthState::Healthy => row.healthy += 1,
        HealthState::Unhealthy => row.unhealthy += 1,
        HealthState::Unknown => {}
    }
}

fn state(service: &ServiceView) -> &'static str {
    let wanted = service.spec.instances;
    if !service.deployments.is_empty() {
        "deploying"
    } else if wanted == 0 {
        "suspended"
    } else if service.unhealthy > 0 {
        "unhealthy"
    } else if service.running < wanted {
        "waiting"
    } else {
        "running"
    }
}
