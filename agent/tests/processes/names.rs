//! Names over restarts of the agent and of the master.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use waggle_agent::AgentConfig;
use waggle_api::proto::session::{self as pb, master_message::Kind as ToAgent};

use crate::{
    agent::{Agent, block_on, free_port, until},
    master::Master,
    support::PATIENCE,
};

/// A name's one address, as the server at `dns` has it; `None` while it does not answer.
async fn resolve(dns: SocketAddr, name: &str) -> Option<Ipv4Addr> {
    let mut question = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns).await.unwrap();
    socket.send(&question).await.ok()?;
    let mut answer = [0; 1500];
    let heard = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut answer));
    let n = heard.await.ok()?.ok()?;
    // NOERROR with one record, whose address comes last.
    if answer[3] & 15 != 0 || answer[7] != 1 {
        return None;
    }
    let address = <[u8; 4]>::try_from(&answer[n - 4..n]).ok()?;
    Some(Ipv4Addr::from(address))
}

/// DESIGN section 1: the data plane outlives the master, and the agent outlives its process.
pub fn answers_from_the_last_desired_state() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let network = |config: &mut AgentConfig| {
            config.network = true;
            config.dns.ips = vec![Ipv4Addr::LOCALHOST.into()];
            config.dns.port = port;
        };
        let dns = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let vip = Ipv4Addr::new(11, 1, 2, 3);
        let name = "web.marathon.l4lb.thisdcos.directory";
        let answers = async || {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while resolve(dns, name).await != Some(vip) {
                assert!(tokio::time::Instant::now() < deadline, "{name}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let lease = |label: &str| pb::VipLease {
            label: label.to_owned(),
            framework: "marathon".to_owned(),
            ip: vip.to_string(),
            ..Default::default()
        };

        let master = Master::start().await;
        let agent = Agent::start_with(dir.path(), vec![master.addr], None, network).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let snapshot = pb::NetSnapshot {
            generation: 7,
            vips: vec![lease("gone")],
            ..Default::default()
        };
        master.send(ToAgent::Desired(snapshot.clone())).await;
        assert!(master.last_registration().takes_changes);
        let change = |from, to| pb::NetDelta {
            from,
            to,
            vips: vec![lease("web")],
            vips_gone: vec![lease("gone")],
            ..Default::default()
        };
        master.send(ToAgent::Change(change(7, 8))).await;
        until("the change", || {
            let applied = master.applied();
            applied.iter().any(|a| a.generation == 8).then_some(())
        })
        .await;
        // One that does not fit is not applied; the snapshot is asked for.
        master.send(ToAgent::Change(change(9, 10))).await;
        until("a question", || (master.n_asked() == 1).then_some(())).await;
        answers().await;
        agent.vanish().await;
        let nobody = master.addr;
        drop(master);

        let agent = Agent::start_with(dir.path(), vec![nobody], None, network).await;
        answers().await;
        agent.vanish().await;

        // The next master hears what is applied; what is older than that is refused.
        let master = Master::start().await;
        let _agent = Agent::start_with(dir.path(), vec![master.addr], None, network).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        assert_eq!(master.last_registration().applied_generation, 8);
        let older = pb::NetSnapshot {
            generation: 6,
            ..Default::default()
        };
        master.send(ToAgent::Desired(older)).await;
        let applied = until("an answer", || master.applied().pop()).await;
        assert_eq!(applied.generation, 8);
        assert_eq!(applied.failures.len(), 1);
        assert_eq!(resolve(dns, name).await, Some(vip));
    });
}
