//! What DC/OS's gateway had at one address.

use axum::{body::Bytes, extract::RawQuery, routing::any};

use super::*;

/// An agent that tells what it is asked, and takes a body to its end.
async fn fake() -> u16 {
    let told = async |RawQuery(query): RawQuery, headers: HeaderMap, body: Bytes| {
        let kind = headers.get("content-type");
        let kind = kind.map_or("", |v| v.to_str().unwrap()).to_owned();
        format!("{} {kind} {}", query.unwrap_or_default(), body.len())
    };
    let router = Router::new()
        .route("/files/read.json", any(told))
        .route("/slave(1)/api/v1", any(told));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

async fn cluster() -> Cluster {
    let mut view: ClusterView = busy();
    let port = fake().await;
    for a in view.agents.values_mut() {
        let a = Arc::make_mut(a);
        let info = Arc::make_mut(&mut a.info);
        (info.ip, info.http_port) = (Ipv4Addr::LOCALHOST, port);
    }
    view.masters = vec!["192.0.2.1".parse().unwrap()];
    Cluster::start(view)
}

#[tokio::test]
async fn an_agents_paths_are_passed_on_as_they_are() {
    let c = cluster().await;
    let said = c
        .mesos("/slave/a1/files/read.json?path=%2Fx%20y&offset=-1")
        .await;
    assert_eq!(said.status, 200);
    assert_eq!(said.text, "path=%2Fx%20y&offset=-1  0");
    let body = "x".repeat(300_000);
    for path in [
        "/agent/a1/slave(1)/api/v1",
        "/mesos/slave/a1/slave(1)/api/v1",
    ] {
        let said = Cluster::ask(&c.mesos, "POST", path, Some(&body)).await;
        assert_eq!(said.text, " application/json 300000", "{path}");
    }
    let nobody = c.mesos("/slave/a9/files/read.json").await;
    nobody.refused(404, "no agent a9");
    assert_eq!(c.mesos("/slave/a1").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn masters_have_names() {
    let c = cluster().await;
    for (name, host) in [
        ("leader.mesos", "leader.mesos."),
        ("marathon.mesos", "marathon.mesos."),
        ("master.mesos.", "master.mesos."),
    ] {
        let said = c.mesos(&format!("/mesos_dns/v1/hosts/{name}")).await.json();
        assert_eq!(said, json!([{ "host": host, "ip": "192.0.2.1" }]));
    }
    let other = c.mesos("/mesos_dns/v1/hosts/web.marathon.mesos").await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
}
