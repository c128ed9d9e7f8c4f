//! The Mesos listener.

use super::*;

#[tokio::test]
async fn versions_are_numeric_everywhere() {
    let c = Cluster::start(ClusterView::default());
    for path in ["/version", "/version.json", "/master/version", "//version/"] {
        let v = c.mesos(path).await.json();
        for key in ["version", "waggle_version"] {
            let text = v[key].as_str().unwrap();
            assert!(text.split('.').all(|p| p.parse::<u32>().is_ok()), "{text}");
        }
    }
    assert_eq!(c.mesos("/health").await.status, 200);
}

#[tokio::test]
async fn state_holds_what_clients_index() {
    let c = Cluster::start(busy());
    for path in [
        "/state",
        "/state.json",
        "/master/state",
        "/master/state.json",
    ] {
        let s = c.mesos(path).await.json();
        for key in [
            "id",
            "pid",
            "version",
            "cluster",
            "leader",
            "leader_info",
            "hostname",
            "slaves",
            "frameworks",
            "completed_frameworks",
        ] {
            assert!(s.get(key).is_some(), "{path} {key}");
        }
        assert_eq!(s["flags"]["port"], "5050");
        let capabilities = s["slaves"][0]["capabilities"].as_array().unwrap();
        assert!(capabilities.contains(&json!("MULTI_ROLE")));
        let slave = &s["slaves"][0];
        assert_eq!(slave["pid"], "slave(1)@192.0.2.1:5051");
        assert_eq!(slave["used_resources"]["cpus"], json!(0.2));
        let task = &s["frameworks"][0]["tasks"][0];
        assert_eq!(task["state"], "TASK_RUNNING");
        assert_eq!(task["statuses"][0]["timestamp"], json!(1_795_405_620.123));
        assert_eq!(
            task["statuses"][0]["container_status"]["network_infos"][0]["ip_addresses"][0]["ip_address"],
            "192.0.2.1"
        );
        assert_eq!(
            task["discovery"]["ports"]["ports"][0],
            json!({"number": 31001, "name": "http", "protocol": "tcp",
                "labels": {"labels": [{"key": "VIP_0", "value": "/web:80"}]}})
        );
    }
}

#[tokio::test]
async fn summaries_count() {
    let c = Cluster::start(busy());
    let s = c.mesos("/master/state-summary").await.json();
    assert_eq!(s["slaves"][0]["TASK_RUNNING"], 2);
    assert_eq!(s["slaves"][0]["framework_ids"], json!(["f1"]));
    assert_eq!(s["frameworks"][0]["TASK_FAILED"], 0);
    assert_eq!(s["frameworks"][0]["slave_ids"], json!(["a1"]));
    assert_eq!(c.mesos("/slaves").await.json()["slaves"][0]["id"], "a1");
    assert_eq!(
        c.mesos("/frameworks").await.json()["frameworks"][0]["name"],
        "marathon"
    );
    assert_eq!(
        c.mesos("/tasks").await.json()["tasks"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let m = c.mesos("/metrics/snapshot").await.json();
    assert_eq!(m["master/tasks_running"], 2.0);
    assert_eq!(m["master/tasks_failed"], 0.0);
    assert_eq!(
        (&m["master/cpus_used"], &m["master/slaves_active"]),
        (&json!(0.2), &json!(1.0))
    );
    assert!(
        m["master/mem_percent"].is_number() && m["system/cpus_total"].is_number(),
        "{m}"
    );
    let at_once = c.mesos("/metrics/snapshot?timeout=2secs").await;
    assert_eq!(at_once.status, 200);
    assert_eq!(c.mesos("/metrics/snapshot?timeout=soon").await.status, 400);
    let r = c.mesos("/redirect").await;
    assert_eq!(
        (r.status.as_u16(), &r.headers["location"]),
        (307, &"//192.0.2.1:5050".parse().unwrap())
    );
    // Of a master that does not lead.
    assert_eq!(c.mesos("/api/v1/scheduler").await.status, 503);
    assert_eq!(c.mesos("/master").await.status, 404);
}

#[tokio::test]
async fn lists_are_asked_for_in_parts() {
    let mut view = busy();
    let one = view.tasks.values().next().unwrap().clone();
    for n in 0..150u64 {
        let mut t = one.as_ref().clone();
        t.id = TaskId::new(format!("old.{n}")).unwrap();
        t.staged_at = UnixMillis(n);
        view.completed.push(Arc::new(t));
    }
    let c = Cluster::start(view);
    let ids = async |query: &str| -> Vec<String> {
        let all = c.mesos(&format!("/master/tasks.json{query}")).await.json();
        let all = all["tasks"].as_array().unwrap().iter();
        all.map(|t| t["id"].as_str().unwrap().to_owned()).collect()
    };
    let usual = ids("").await;
    assert_eq!(usual.len(), 100);
    assert!(!usual[0].starts_with("old"), "newest first: {}", usual[0]);
    assert_eq!(usual[2], "old.149");
    assert_eq!(ids("?limit=many").await, usual);
    assert_eq!(ids("?limit=-1").await.len(), 152);
    assert_eq!(ids("?limit=2&offset=3&order=asc").await, ["old.3", "old.4"]);
    assert_eq!(ids("?task_id=old.7").await, ["old.7"]);
    assert_eq!(ids("?framework_id=f1&limit=0").await, Vec::<String>::new());
    assert_eq!(ids("?framework_id=f2").await, Vec::<String>::new());
    let count =
        async |path: &str, of: &str| c.mesos(path).await.json()[of].as_array().unwrap().len();
    assert_eq!(count("/slaves?slave_id=a1", "slaves").await, 1);
    assert_eq!(count("/slaves?slave_id=a2", "slaves").await, 0);
    assert_eq!(count("/frameworks?framework_id=f1", "frameworks").await, 1);
    assert_eq!(count("/frameworks?framework_id=f2", "frameworks").await, 0);
}

#[tokio::test]
async fn the_cli_reads_native_json() {
    use waggle_api::native;
    let c = Cluster::start(busy());
    let read = async |path: &str| c.mesos(path).await.text;
    let nodes: Vec<native::NodeView> =
        serde_json::from_str(&read("/waggle/v1/nodes").await).unwrap();
    assert_eq!((nodes[0].tasks, nodes[0].applied_generation), (2, 7));
    let tasks: Vec<native::TaskView> =
        serde_json::from_str(&read("/waggle/v1/tasks?service=shop/web").await).unwrap();
    assert_eq!((tasks.len(), tasks[0].agent_http_port), (2, Some(5051)));
    assert_eq!(read("/waggle/v1/tasks?service=other").await, "[]");
    let vips: Vec<native::VipView> = serde_json::from_str(&read("/waggle/v1/vips").await).unwrap();
    assert_eq!(
        vips[0].name.as_deref(),
        Some("web.marathon.l4lb.thisdcos.directory")
    );
    let d: Vec<native::DeploymentView> =
        serde_json::from_str(&read("/waggle/v1/deployments").await).unwrap();
    assert_eq!(d[0].waiting_for, "2 of 3 instances healthy");
    let e: native::ExplainView =
        serde_json::from_str(&read("/waggle/v1/explain/shop/web").await).unwrap();
    assert_eq!(
        (e.instances, e.waiting, e.refused["InsufficientCpus"]),
        (2, 1, 4)
    );
    let frameworks: Vec<native::FrameworkView> =
        serde_json::from_str(&read("/waggle/v1/frameworks").await).unwrap();
    assert_eq!(
        (frameworks[0].name.as_str(), frameworks[0].tasks),
        ("marathon", 2)
    );
    let offers: Vec<native::OfferView> =
        serde_json::from_str(&read("/waggle/v1/offers").await).unwrap();
    assert_eq!(offers, []);
    let roles: Vec<native::RoleView> =
        serde_json::from_str(&read("/waggle/v1/roles").await).unwrap();
    assert_eq!(roles, []);
    c.mesos("/waggle/v1/explain/nope")
        .await
        .refused(404, "App '/nope' does not exist");
    c.mesos("/waggle/v2/nodes")
        .await
        .refused(404, "no such path: /waggle/v2/nodes");
}

#[tokio::test]
async fn pages_of_other_origins_load_json_as_a_call() {
    let c = Cluster::start(busy());
    let plain = c.mesos("/state").await;
    plain.json();
    for path in [
        "/state",
        "/master/state.json",
        "/slaves",
        "/roles",
        "/metrics/snapshot",
    ] {
        let plain = c.mesos(path).await;
        let called = c.mesos(&format!("{path}?jsonp=app.show_1")).await;
        assert_eq!(called.status, 200, "{}", called.text);
        assert_eq!(called.headers["content-type"], "text/javascript", "{path}");
        assert_eq!(called.headers["x-content-type-options"], "nosniff");
        assert_eq!(
            called.text,
            format!("app.show_1({});", plain.text),
            "{path}"
        );
    }
    // What is no JSON, or no answer, stays as it is.
    assert_eq!(c.mesos("/ping?jsonp=cb").await.text, "pong");
    c.mesos("/nope?jsonp=cb")
        .await
        .refused(404, "no such path: /nope");
    for bad in ["alert(1)//", "", "a%20b", "%3Cscript%3E"] {
        let refused = c.mesos(&format!("/state?jsonp={bad}")).await;
        let why =
            "jsonp: must be the name of a function of at most 128 letters, digits, _, $ and .";
        refused.refused(400, why);
    }
    // Waggle's own endpoints do not know it.
    c.mesos("/waggle/v1/nodes?jsonp=cb").await.json();
}
