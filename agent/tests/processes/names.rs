//! Names over restarts of the agent and of the master.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
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

/// CONTRACTS section 3: dcos-net's API, in its JSON; and what `waggle dns` asks.
pub fn tells_programs() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let master = Master::start().await;
        let agent = Agent::start_with(dir.path(), vec![master.addr], None, |config| {
            config.network = true;
            config.dns.ips = vec![Ipv4Addr::LOCALHOST.into()];
            config.dns.port = port;
        })
        .await;
        let get = async |path: &str| -> (u16, Value) {
            let (status, body) = agent.get_names(path).await;
            (status, serde_json::from_str(&body).unwrap_or(Value::Null))
        };
        assert_eq!(get("/v1/records").await.0, 503, "before a first zone");
        assert_eq!(get("/v1/vips").await, (200, json!([])));
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let task = |id: &str, agent_id: &str, health: pb::HealthState| pb::TaskNet {
            ip: String::new(),
            ip6: String::new(),
            network: String::new(),
            subject: None,
            ready: None,
            task_id: id.to_owned(),
            agent_id: agent_id.to_owned(),
            name: "web".to_owned(),
            framework: "marathon".to_owned(),
            state: pb::TaskState::TaskRunning.into(),
            has_check: true,
            health: health.into(),
            ports: vec![pb::TaskPort {
                host_port: 31000,
                protocols: vec![1],
                vips: vec![pb::VipLabel {
                    name: "web".to_owned(),
                    port: 80,
                    ..Default::default()
                }],
                ..Default::default()
            }],
        };
        let node = |i: u8| pb::AgentNet {
            ip6: String::new(),
            agent_id: format!("a-S{i}"),
            hostname: format!("n{i}"),
            ip: format!("10.0.0.{i}"),
            reachable: true,
            domain: None,
            overlay: None,
        };
        let snapshot = pb::NetSnapshot {
            generation: 7,
            leader: "10.0.0.1".to_owned(),
            agents: vec![node(1), node(2)],
            tasks: vec![
                task("web.1", "a-S1", pb::HealthState::HealthHealthy),
                task("web.2", "a-S2", pb::HealthState::HealthUnhealthy),
            ],
            vips: vec![pb::VipLease {
                ip6: String::new(),
                label: "web".to_owned(),
                framework: "marathon".to_owned(),
                ip: "11.1.2.3".to_owned(),
                ports: vec![pb::VipPort {
                    protocol: 1,
                    port: 80,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        master.send(ToAgent::Desired(snapshot)).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while get("/v1/records").await.0 != 200 {
            assert!(tokio::time::Instant::now() < deadline, "a zone");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        let (_, version) = get("/v1/version").await;
        assert_eq!(version["Service"], "waggle-dns");
        let leader = json!([{"host": "leader.mesos", "ip": "10.0.0.1"}]);
        assert_eq!(get("/v1/hosts/leader.mesos").await.1, leader);
        assert_eq!(get("/v1/hosts/nobody.mesos").await, (200, json!([])));
        let service = json!([{
            "service": "_web._tcp.marathon.mesos", "host": "web-e844k-s1.marathon.mesos", "port": 31000,
            "ip": "10.0.0.1",
        }]);
        assert_eq!(
            get("/v1/services/_web._tcp.marathon.mesos").await.1,
            service
        );
        let (_, records) = get("/v1/records").await;
        for wanted in [
            json!({"name": "web.marathon.l4lb.thisdcos.directory", "host": "11.1.2.3", "rtype": "A"}),
            json!({"name": "_web._tcp.marathon.mesos", "rtype": "SRV",
                "host": "web-e844k-s1.marathon.mesos:31000"}),
        ] {
            assert!(records.as_array().unwrap().contains(&wanted), "{wanted}");
        }
        // One that drains is a backend too.
        let vips = json!([{
            "vip": "web.marathon.l4lb.thisdcos.directory:80", "protocol": "tcp",
            "backend": [{"ip": "10.0.0.1", "port": 31000}, {"ip": "10.0.0.2", "port": 31000}],
        }]);
        assert_eq!(get("/v1/vips").await.1, vips);
        let (_, nodes) = get("/v1/nodes").await;
        assert_eq!(nodes[1]["private_ip"], "10.0.0.2");
        assert_eq!(nodes[1]["hostname"], "n2");
        assert_eq!(nodes[1]["public_ips"], json!([]));

        let (_, zone) = get("/waggle/v1/dns/zone?name=l4lb.thisdcos.directory").await;
        let names: Vec<&str> = zone["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["type"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["SOA", "NS", "A"]);
        assert_eq!(zone["generation"], 7);
        let (_, trace) = get("/waggle/v1/dns/trace?name=web.marathon.mesos").await;
        assert_eq!(trace["rule"], json!({"kind": "zone", "zone": "mesos."}));
        let why = json!([
            {"task_id": "web.1", "listed": true, "why": ""},
            {"task_id": "web.2", "listed": false, "why": "health check fails"},
        ]);
        assert_eq!(trace["tasks"], why);
        let (_, away) = get("/waggle/v1/dns/trace?name=example.com&type=AAAA").await;
        assert_eq!(
            (&away["outcome"], &away["forward"]),
            (&json!("not_ours"), &Value::Null)
        );

        // What is wrong is named.
        for (path, field) in [
            ("/v1/hosts/a..b", "host: "),
            ("/waggle/v1/dns/trace", "name: "),
            ("/waggle/v1/dns/trace?name=a&type=X", "type: "),
            ("/waggle/v1/dns/zone?nmae=a", "Failed to deserialize"),
        ] {
            let (status, problem) = get(path).await;
            assert_eq!(status, 400, "{path}");
            let message = problem["message"].as_str().unwrap();
            assert!(message.starts_with(field), "{path}: {message}");
        }
        assert_eq!(get("/v1/nothing").await.0, 404);
        agent.vanish().await;
    });
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
