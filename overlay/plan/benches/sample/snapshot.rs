//! A large cluster's network, for benches.

use std::net::Ipv4Addr;

use waggle_types::{
    AgentId, AgentNet, Balance, HealthState, NetSnapshot, PortNet, Protocol, TaskId, TaskNet,
    TaskState, VipLabel, VipLease, VipName,
};

const N_AGENTS: u32 = 200;
const N_TASKS: u32 = 3;

/// Services of three tasks with one VIP each, on 200 agents.
pub fn snapshot(n_services: u32) -> NetSnapshot {
    let mut s = NetSnapshot::default();
    let agent_ids: Vec<AgentId> = (0..N_AGENTS)
        .map(|i| AgentId::new(format!("agents-S{i}")).unwrap())
        .collect();
    for (i, id) in (0..).zip(&agent_ids) {
        let net = AgentNet {
            overlay: waggle_types::AgentOverlay::default(),
            ip6: None,
            hostname: format!("n{i}"),
            ip: Ipv4Addr::from(0x0a00_0001 + i),
            reachable: true,
            domain: None,
        };
        s.agents.insert(id.clone(), net);
    }
    for n in 0..n_services {
        let label = format!("service{n}");
        let name = VipName {
            label: label.clone(),
            framework: "marathon".into(),
        };
        let lease = VipLease {
            ip6: None,
            ip: Ipv4Addr::from(0x0b00_0001 + n),
            ports: vec![(Protocol::Tcp, 80)],
        };
        s.vips.insert(name, lease);
        for i in 0..N_TASKS {
            let task = TaskNet {
                ip: None,
                ip6: None,
                network: None,
                subject: None,
                ready: None,
                agent_id: agent_ids[((n * N_TASKS + i) % N_AGENTS) as usize].clone(),
                name: label.clone(),
                framework: "marathon".into(),
                state: TaskState::Running,
                has_check: true,
                health: HealthState::Healthy,
                ports: vec![PortNet {
                    container_port: None,
                    name: Some("http".into()),
                    host_port: u16::try_from(10_000 + n % 20_000).unwrap(),
                    protocols: vec![Protocol::Tcp],
                    vips: vec![VipLabel::Named {
                        name: label.clone(),
                        port: 80,
                    }],
                    balance: Balance::default(),
                }],
            };
            s.tasks
                .insert(TaskId::new(format!("{label}.{i}")).unwrap(), task.into());
        }
    }
    s
}
