//! Why things are as they are: level 1 in the core's words, services from the view.

use std::collections::BTreeMap;

use axum::response::Response;
use waggle_api::{
    marathon::Number,
    native::{
        AgentBecauseView, AgentExplainView, BecauseView, FrameworkExplainView,
        FrameworkRoleExplainView, LastChoiceView, PassedOverView, QuotaView, Refusal,
        RoleExplainView, capabilities,
    },
};
use waggle_types::{Milli, ServiceId, check_role};

use super::{explain_app::service, explain_job, find, roles::framework};
use crate::{
    error::MasterError,
    explain::{
        AgentBecause, AgentExplained, Because, ExplainQuery, Explained, FrameworkExplained,
        FrameworkRoleExplained, LastChoice, PassedOver, RoleExplained,
    },
    http::{
        Api,
        respond::{Fail, ok},
    },
    view::ClusterView,
};

/// `framework/{id or name}`, `role/{path}`, `agent/{id or name}`, `job/{id}`, `app/{id}`; anything else is an app's id.
pub(super) async fn route(api: &Api, path: &[&str]) -> Result<Response, Fail> {
    let view = api.view();
    match path {
        ["framework", id] => {
            let query = ExplainQuery::Framework(find::framework(&view, id)?);
            match api.handle.explain(query).await {
                Ok(Explained::Framework(e)) => Ok(ok(&framework_explained(&e))),
                Err(MasterError::NoSuchFramework(_)) => Err(find::no_framework(&view, id)),
                other => Err(unexpected(other)),
            }
        }
        ["agent", id] => {
            let query = ExplainQuery::Agent(find::agent(&view, id)?);
            match api.handle.explain(query).await {
                Ok(Explained::Agent(e)) => Ok(ok(&agent_explained(&view, &e))),
                Err(MasterError::NoSuchAgent(_)) => Err(find::no_agent(&view, id)),
                other => Err(unexpected(other)),
            }
        }
        ["role", role @ ..] if !role.is_empty() => {
            let role = role.join("/");
            check_role(&role).map_err(|e| Fail::refused(Refusal::invalid(&[e])))?;
            match api.handle.explain(ExplainQuery::Role(role.clone())).await {
                Ok(Explained::Role(e)) => Ok(ok(&role_explained(&view, &e))),
                Err(MasterError::NoSuchRole(_)) => {
                    let said = "has no framework, weight, quota or reservation";
                    Err(find::no_role(&view, &role, said, |_| true))
                }
                other => Err(unexpected(other)),
            }
        }
        ["job", id] => explain_job::job(api, id),
        ["app", id @ ..] if !id.is_empty() => app(&view, id),
        id => app(&view, id),
    }
}

fn unexpected(answer: Result<Explained, MasterError>) -> Fail {
    match answer {
        Err(e) => e.into(),
        Ok(_) => MasterError::Server("the answer is to another question".to_owned()).into(),
    }
}

fn framework_explained(e: &FrameworkExplained) -> FrameworkExplainView {
    FrameworkExplainView {
        id: e.id.to_string(),
        name: e.name.clone(),
        connected: e.connected,
        capabilities: capabilities(e.capabilities),
        general: e.general.iter().map(because).collect(),
        roles: e.roles.iter().map(role_of_framework).collect(),
    }
}

fn role_of_framework(r: &FrameworkRoleExplained) -> FrameworkRoleExplainView {
    let on_agent = |a: &AgentBecause| AgentBecauseView {
        agent_id: a.agent_id.to_string(),
        hostname: a.hostname.clone(),
        code: a.because.code.to_owned(),
        message: a.because.message.clone(),
    };
    FrameworkRoleExplainView {
        role: r.subscription.role.clone(),
        suppressed: r.subscription.suppressed,
        share: r.share,
        smallest: r.subscription.smallest.as_ref().map(Into::into),
        headroom: r.headroom.as_ref().map(by_kind),
        offers: r.n_offers as u64,
        agents: r.agents.iter().map(on_agent).collect(),
        rest: counts(&r.rest),
    }
}

fn role_explained(view: &ClusterView, e: &RoleExplained) -> RoleExplainView {
    RoleExplainView {
        role: e.role.clone(),
        weight: Number(f64::from(e.weight_milli) / 1000.0),
        share: e.share,
        allocated: by_kind(&e.allocated),
        quota: (!e.quota.is_empty())
            .then(|| QuotaView::new(&e.role, &e.quota, &e.charged, &e.owed)),
        may_get: e.headroom.as_ref().map(by_kind),
        frameworks: e.frameworks.iter().map(|id| framework(view, id)).collect(),
        n_frameworks: e.n_frameworks as u64,
        subroles: e.subroles.clone(),
        n_subroles: e.n_subroles as u64,
    }
}

fn agent_explained(view: &ClusterView, e: &AgentExplained) -> AgentExplainView {
    let passed = |p: &PassedOver| PassedOverView {
        framework: framework(view, &p.framework_id),
        role: p.role.clone(),
        because: p.because.iter().map(because).collect(),
    };
    let choice = |c: &LastChoice| LastChoiceView {
        framework: framework(view, &c.framework_id),
        role: c.role.clone(),
        share: c.share,
        candidates: c.n_candidates as u64,
        at_ms: c.at.0,
    };
    AgentExplainView {
        id: e.id.to_string(),
        hostname: e.hostname.clone(),
        reachable: e.reachable,
        mode: e.mode.name().to_owned(),
        maintenance: e.maintenance.map(Into::into),
        used: (&e.used).into(),
        offered: (&e.offered).into(),
        free: (&e.free).into(),
        reserved: e.reserved.iter().map(Into::into).collect(),
        given_way: e.given_way.clone(),
        last_choice: e.last_choice.as_ref().map(choice),
        passed_over: e.passed_over.iter().map(passed).collect(),
        rest: counts(&e.rest),
    }
}

fn because(b: &Because) -> BecauseView {
    BecauseView {
        code: b.code.to_owned(),
        message: b.message.clone(),
    }
}

fn by_kind(q: &BTreeMap<String, Milli>) -> BTreeMap<String, Number> {
    let one = |(k, q): (&String, &Milli)| (k.clone(), Number(q.to_f64()));
    q.iter().map(one).collect()
}

fn counts(rest: &BTreeMap<&'static str, usize>) -> BTreeMap<String, u64> {
    let one = |(k, n): (&&'static str, &usize)| ((*k).to_owned(), *n as u64);
    rest.iter().map(one).collect()
}

fn app(view: &ClusterView, path: &[&str]) -> Result<Response, Fail> {
    let id = path.join("/");
    let found = ServiceId::new(&id).ok().and_then(|id| service(view, &id));
    let found = found.ok_or_else(|| find::no_app(view, &id))?;
    Ok(ok(&found))
}
