//! Overlay networks with who uses how much of them, in Waggle's words and in DC/OS's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use axum::{body::Body, response::Response};
use waggle_api::native::{
    AddressesView, NetworkNodeView, NetworkView, OverlayAgentJson, OverlayNetworkJson,
    OverlayPartJson, OverlayStateJson, OverlayStatusJson, SubnetsView, request,
};
use waggle_types::{AgentId, AgentSubnet, IpNet, OperatorCall};

use super::operate;
use crate::{
    http::{
        Api,
        request::Call,
        respond::{Fail, ok},
    },
    view::{AgentView, ClusterView},
};

pub(super) async fn add(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let (name, network) = operate::read(call, body, request::network).await?;
    let add = OperatorCall::AddNetwork {
        name: name.clone(),
        network,
    };
    operate::run(api, add).await?;
    let all = list(&api.view());
    Ok(ok(&all.into_iter().find(|n| n.name == name)))
}

pub(super) async fn remove(api: &Api, name: &str) -> Result<Response, Fail> {
    let name = name.to_owned();
    operate::run(api, OperatorCall::RemoveNetwork { name }).await?;
    Ok(ok(&list(&api.view())))
}

/// All networks.
pub(super) fn list(view: &ClusterView) -> Vec<NetworkView> {
    let used = used(view);
    view.networks
        .iter()
        .map(|(name, n)| {
            let nodes: Vec<NetworkNodeView> = view
                .net
                .agents
                .iter()
                .filter_map(|(id, a)| {
                    let held = a.overlay.subnets.get(name)?;
                    let used = used.get(&(name.as_str(), id)).map_or(0, BTreeSet::len) as u64;
                    let addresses = AddressesView {
                        used,
                        free: capacity(held).saturating_sub(used),
                    };
                    Some(NetworkNodeView {
                        agent_id: id.to_string(),
                        hostname: a.hostname.clone(),
                        subnet: held.v4.map(|n| n.to_string()),
                        subnet6: held.v6.map(|n| n.to_string()),
                        addresses,
                    })
                })
                .collect();
            let sum = |of: fn(&AddressesView) -> u64| {
                let each = nodes.iter().map(|n| of(&n.addresses));
                each.fold(0, u64::saturating_add)
            };
            let (held, resting) = (n.usage.n_held as u64, n.usage.n_resting as u64);
            let all = u64::try_from(n.usage.n_subnets).unwrap_or(u64::MAX);
            let (pool, pool6) = (n.network.pool, n.network.pool6);
            NetworkView {
                name: name.clone(),
                subnet: pool.map(|p| p.net.to_string()),
                prefix: pool.map(|p| p.prefix),
                subnet6: pool6.map(|p| p.net.to_string()),
                prefix6: pool6.map(|p| p.prefix),
                mtu: n.network.mtu,
                masquerade: n.network.masquerade,
                subnets: SubnetsView {
                    held,
                    resting,
                    free: all.saturating_sub(held + resting),
                },
                addresses: AddressesView {
                    used: sum(|a| a.used),
                    free: sum(|a| a.free),
                },
                without_subnet: n.short.iter().map(|id| node_name(view, id)).collect(),
                nodes,
            }
        })
        .collect()
}

fn node_name(view: &ClusterView, id: &AgentId) -> String {
    let agent = view.agents.get(id);
    agent.map_or_else(|| id.to_string(), |a| a.info.hostname.clone())
}

/// Containers that a node's subnet has addresses for.
fn capacity(held: &AgentSubnet) -> u64 {
    let of = |net: IpNet| waggle_overlay_plan::network::Addresses::new(net).capacity();
    let least = held.nets().map(of).min().unwrap_or(0);
    u64::try_from(least).unwrap_or(u64::MAX)
}

/// Addresses in use, by network and agent: tasks of a pod share one.
fn used(view: &ClusterView) -> BTreeMap<(&str, &AgentId), BTreeSet<IpAddr>> {
    let mut out: BTreeMap<(&str, &AgentId), BTreeSet<IpAddr>> = BTreeMap::new();
    for t in view.tasks.values() {
        let own = t.own_ip().map(IpAddr::from);
        let own = own.or(t.own_ip6().map(IpAddr::from));
        if let (Some(name), Some(ip)) = (t.network(), own) {
            out.entry((name, t.agent_id())).or_default().insert(ip);
        }
    }
    out
}

/// DC/OS's `GET /overlay-master/state`.
pub(in crate::http) fn state(view: &ClusterView) -> OverlayStateJson {
    let networks = || view.net.networks.iter();
    let agents = view.net.agents.iter().map(|(id, a)| {
        let agent = view.agents.get(id);
        let state = status(view, agent.map(AsRef::as_ref));
        OverlayAgentJson {
            ip: a.ip.to_string(),
            overlays: OverlayPartJson::of(&view.net.vxlan, networks(), &a.overlay, &state),
        }
    });
    OverlayStateJson {
        network: OverlayNetworkJson::new(&view.net.vxlan, networks()),
        agents: agents.collect(),
    }
}

/// By what the node has applied, and could not.
fn status(view: &ClusterView, agent: Option<&AgentView>) -> OverlayStatusJson {
    let failure = agent.and_then(|a| a.apply_failures.iter().find(|f| f.starts_with("overlay")));
    let is_there = agent.is_some_and(|a| a.applied >= view.net.generation);
    OverlayStatusJson {
        status: match (failure, is_there) {
            (Some(_), _) => "STATUS_FAILED",
            (None, true) => "STATUS_OK",
            (None, false) => "STATUS_CONFIGURING",
        }
        .to_owned(),
        error: failure.cloned(),
    }
}
