//! The Marathon listener.

use super::*;

#[tokio::test]
async fn an_app_is_created_read_changed_and_removed() {
    let c = Cluster::start(ClusterView::default());
    let made = c.marathon("POST", "/v2/apps", &web()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["location"], "/v2/apps/shop/web");
    assert_eq!(made.headers["marathon-deployment-id"], "d-1");
    assert_eq!(made.json()["deployments"], json!([{"id": "d-1"}]));
    assert_eq!(made.json()["tasksRunning"], 0);

    c.marathon("POST", "/v2/apps", &web())
        .await
        .refused(409, "An app with id [/shop/web] already exists.");

    // Double and escaped slashes are what clients write.
    for path in [
        "/v2/apps/shop/web",
        "/v2/apps//shop/web",
        "//v2/apps//shop//web/",
        "/v2/apps/%2Fshop%2Fweb",
    ] {
        let app = c.get(path).await.json();
        assert_eq!(app["app"]["instances"], 2, "{path}");
    }

    let put = c
        .marathon(
            "PUT",
            "/v2/apps//shop/web?force=True",
            &json!({"instances": 5}),
        )
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    assert_eq!(put.json()["deploymentId"], "d-3");
    let app = c.get("/v2/apps/shop/web").await.json()["app"].clone();
    assert_eq!(
        (&app["instances"], &app["cmd"]),
        (&json!(5), &json!("nginx"))
    );
    assert_eq!(app["version"], put.json()["version"]);
    let versions = c.get("/v2/apps/shop/web/versions").await.json();
    let versions = versions["versions"].as_array().unwrap().clone();
    assert_eq!((versions.len(), &versions[0]), (2, &app["version"]));
    // Scaling is no change of what is run.
    let since = json!({"lastScalingAt": versions[0], "lastConfigChangeAt": versions[1]});
    assert_eq!(app["versionInfo"], since);
    let first = format!(
        "/v2/apps/shop/web/versions/{}",
        versions[1].as_str().unwrap()
    );
    assert_eq!(c.get(&first).await.json()["instances"], 2);
    let path = format!(
        "/v2/apps//shop/web/versions/{}",
        app["version"].as_str().unwrap()
    );
    assert_eq!(c.get(&path).await.json()["id"], "/shop/web");
    let back = c
        .marathon("PUT", "/v2/apps/shop/web", &json!({"version": versions[1]}))
        .await;
    assert_eq!(back.status, 200, "{}", back.text);
    let app = c.get("/v2/apps/shop/web").await.json()["app"].clone();
    assert_eq!(app["instances"], 2, "rolled back");
    let gone = json!({"version": "2020-01-01T00:00:00.000Z"});
    let gone = c.marathon("PUT", "/v2/apps/shop/web", &gone).await;
    assert_eq!(gone.status, 404, "{}", gone.text);

    let restarted = Cluster::ask(&c.marathon, "POST", "/v2/apps/shop/web/restart", None).await;
    assert_eq!(restarted.status, 200, "{}", restarted.text);
    assert!(restarted.json()["deploymentId"].is_string());
    let gone = Cluster::ask(&c.marathon, "POST", "/v2/apps/none/restart", None).await;
    gone.refused(404, "App '/none' does not exist");
    let removed = Cluster::ask(&c.marathon, "DELETE", "/v2/apps/shop/web", None).await;
    assert_eq!(removed.status, 200, "{}", removed.text);
    c.get("/v2/apps/shop/web")
        .await
        .refused(404, "App '/shop/web' does not exist");
    Cluster::ask(&c.marathon, "DELETE", "/v2/apps/shop/web", None)
        .await
        .refused(404, "App '/shop/web' does not exist");
}

#[tokio::test]
async fn put_creates_and_patch_does_not() {
    let c = Cluster::start(ClusterView::default());
    let app = json!({"cmd": "sleep 1"});
    c.marathon("PATCH", "/v2/apps/a", &app)
        .await
        .refused(404, "App '/a' does not exist");
    assert_eq!(c.marathon("PUT", "/v2/apps/a", &app).await.status, 201);
    assert_eq!(c.marathon("PUT", "/v2/apps/a", &app).await.status, 200);
    assert_eq!(c.marathon("PATCH", "/v2/apps/a", &app).await.status, 200);
    let many = json!([{"id": "/a", "instances": 3}]);
    assert_eq!(
        c.marathon("PUT", "/v2/apps?force=False", &many)
            .await
            .status,
        200
    );
    assert_eq!(c.get("/v2/apps/a").await.json()["app"]["instances"], 3);
    let many = json!([{"id": "/a", "instances": 4}, {"id": "/b", "cmd": "x"}]);
    let put = c.marathon("PUT", "/v2/apps", &many).await;
    assert_eq!(put.status, 200, "{}", put.text);
    assert!(put.json()["deploymentId"].is_string());
    assert_eq!(c.get("/v2/apps/a").await.json()["app"]["instances"], 4);
    assert_eq!(c.get("/v2/apps/b").await.json()["app"]["cmd"], "x");
    let bad = json!([{"id": "/a", "instances": 5}, {"id": "/b", "cpus": -1}]);
    c.marathon("PUT", "/v2/apps", &bad)
        .await
        .refused(422, "apps[1].cpus: must not be negative, is -1");
    c.marathon("PUT", "/v2/apps", &json!([{"id": "a"}, {"id": "/a"}]))
        .await
        .refused(422, "apps[1].id: /a is there twice");
    // All that is wrong is said at once, and nothing is stored.
    let all = json!([{"id": "/x", "cmd": "x", "cpus": -1}, {"id": "/y", "cmd": "y"}, {"cmd": "z"},
        {"id": "/v", "cmd": "v", "mem": "much", "instances": -1}]);
    let refused = c.marathon("PUT", "/v2/apps", &all).await;
    assert_eq!(refused.status, 422);
    let said = refused.json();
    let message = "apps[0].cpus: must not be negative, is -1 (and 3 more, see details)";
    assert_eq!(said["message"], message);
    let paths: Vec<&str> = said["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    for path in [
        "/apps(0)/cpus",
        "/apps(2)/id",
        "/apps(3)/mem",
        "/apps(3)/instances",
    ] {
        assert!(paths.contains(&path), "{path}: {paths:?}");
    }
    assert_eq!(c.get("/v2/apps/a").await.json()["app"]["instances"], 4);
    // Without partial update what is not given has its default.
    let path = "/v2/apps/a?partialUpdate=false";
    assert_eq!(c.marathon("PUT", path, &app).await.status, 200);
    assert_eq!(c.get("/v2/apps/a").await.json()["app"]["instances"], 1);
}

#[tokio::test]
async fn bad_input_is_refused_by_name_and_stores_nothing() {
    let c = Cluster::start(ClusterView::default());
    let bad = json!({"id": "/x", "cmd": "x", "cpus": -1});
    c.marathon("POST", "/v2/apps", &bad)
        .await
        .refused(422, "cpus: must not be negative, is -1");
    c.marathon("POST", "/v2/apps", &json!({"cmd": "x"}))
        .await
        .refused(422, "id: must be set");
    Cluster::ask(&c.marathon, "POST", "/v2/apps", Some("{\"id\""))
        .await
        .refused(
            400,
            "Invalid JSON: EOF while parsing an object at line 1 column 5",
        );
    let big = json!({"id": "/x", "cmd": "x".repeat(1 << 20)});
    c.marathon("POST", "/v2/apps", &big)
        .await
        .refused(413, "body must be at most 1048576 bytes");
    c.marathon("POST", "/v2/apps?force=maybe", &web())
        .await
        .refused(400, "force: must be true or false, is \"maybe\"");
    let locked = json!({"id": "/locked", "cmd": "x"});
    let locked = c.marathon("POST", "/v2/apps", &locked).await;
    assert_eq!(locked.status, 409);
    assert_eq!(locked.json()["deployments"], json!([{"id": "d-0"}]));
    c.get("/v2/apps/Not_An_Id").await.refused(
        422,
        "id: must be a path of lower-case labels ([a-z0-9] with inner - or .) joined by /, is \"Not_An_Id\"",
    );
    for (mime, status) in [
        ("multipart/form-data; boundary=x", 415),
        ("application/xml", 415),
        ("text/plain", 422),
        ("application/x-www-form-urlencoded", 422),
    ] {
        let request = HttpRequest::post("/v2/apps")
            .header("content-type", mime)
            .body(Body::from("{}"))
            .unwrap();
        let response = c.marathon.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{mime}");
    }
    assert_eq!(c.get("/v2/apps").await.json(), json!({"apps": []}));
}

#[tokio::test]
async fn wrong_methods_and_paths_are_json() {
    let c = Cluster::start(busy());
    let wrong = c.marathon("DELETE", "/v2/apps", &json!({})).await;
    wrong.refused(
        405,
        "method DELETE is not allowed on /v2/apps, use GET, POST, PUT, PATCH",
    );
    assert_eq!(wrong.headers["allow"], "GET, POST, PUT, PATCH");
    c.get("/nope").await.refused(404, "no such path: /nope");
    c.get("/").await.refused(404, "no such path: /");
    c.get("/v2/apps/%ff")
        .await
        .refused(400, "path is not UTF-8");
    Cluster::ask(&c.mesos, "POST", "/state", None)
        .await
        .refused(405, "method POST is not allowed on /state, use GET");
}

#[tokio::test]
async fn apps_are_selected() {
    let c = Cluster::start(busy());
    for (query, n) in [
        ("", 1),
        ("?id=shop", 1),
        ("?id=other", 0),
        ("?cmd=ngi", 1),
        ("?cmd=sleep", 0),
        ("?label=team%3D%3Dweb", 1),
        ("?label=team!=web", 0),
        ("?label=team+in+(a,web)&id=web", 1),
    ] {
        let apps = c.get(&format!("/v2/apps{query}")).await.json();
        assert_eq!(apps["apps"].as_array().unwrap().len(), n, "{query}");
    }
    let apps = c
        .get("/v2/apps?embed=apps.tasks&embed=apps.counts")
        .await
        .json();
    assert_eq!(apps["apps"][0]["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(c.get("/v2/apps").await.json()["apps"][0].get("tasks"), None);
    assert_eq!(c.get("/v2/apps?label=a==").await.status, 400);
}

#[tokio::test]
async fn tasks_are_listed_and_killed() {
    let c = Cluster::start(busy());
    let tasks = c.get("/v2/tasks?status=running").await.json();
    assert_eq!(
        tasks["tasks"][0],
        json!({
            "id": "shop_web.instance-1._app.1", "appId": "/shop/web", "slaveId": "a1",
            "host": "n1", "state": "TASK_RUNNING", "stagedAt": "2026-11-23T03:47:00.123Z",
            "startedAt": "2026-11-23T03:47:00.123Z", "version": "2026-11-23T03:47:00.123Z",
            "ports": [31001], "servicePorts": [0],
            "ipAddresses": [{"ipAddress": "192.0.2.1", "protocol": "IPv4"}],
            "healthCheckResults": [{"alive": true, "taskId": "shop_web.instance-1._app.1",
                "instanceId": "shop_web.instance-1", "consecutiveFailures": 0}]
        })
    );
    assert_eq!(
        c.get("/v2/tasks?status=staging").await.json(),
        json!({"tasks": []})
    );
    assert_eq!(c.get("/v2/tasks?status=x").await.status, 422);
    let delete = |path: String| {
        let router = c.marathon.clone();
        async move { Cluster::ask(&router, "DELETE", &path, None).await }
    };
    let base = "/v2/apps//shop/web/tasks";
    delete(format!("{base}/nope"))
        .await
        .refused(404, "Task 'nope' does not exist");
    let both = delete(format!("{base}?scale=true&wipe=true")).await;
    both.refused(422, "wipe: must not be set together with scale");
    let other = delete(format!("{base}?host=n9")).await;
    assert_eq!(other.json(), json!({"tasks": []}));
    let one = delete(format!("{base}/shop_web.instance-1._app.1")).await;
    assert_eq!(one.json()["task"]["id"], "shop_web.instance-1._app.1");
    let ids = json!({"ids": ["gone", "shop_web.instance-2._app.1"]});
    let scaled = c
        .marathon("POST", "/v2/tasks/delete?scale=True", &ids)
        .await;
    assert_eq!(scaled.json()["deploymentId"], "d-2", "{}", scaled.text);
    c.marathon("POST", "/v2/tasks/delete", &json!({"ids": [7]}))
        .await
        .refused(422, "ids[0]: must be a string");
}

#[tokio::test]
async fn deployments_queue_and_info_are_shown() {
    let c = Cluster::start(busy());
    let d = c.get("/v2/deployments").await.json();
    assert_eq!(d[0]["affectedApps"], json!(["/shop/web"]));
    assert_eq!(
        d[0]["currentActions"],
        json!([{"action": "ScaleApplication", "app": "/shop/web"}])
    );
    let q = c.get("/v2/queue").await.json()["queue"][0].clone();
    assert_eq!(
        q["delay"],
        json!({"timeLeftSeconds": 1.5, "overdue": false})
    );
    assert_eq!(q["app"]["id"], "/shop/web");
    assert!(q.get("role").is_none() && q.get("lastUnusedOffers").is_none());
    let cpus = &q["processedOffersSummary"]["rejectSummaryLastOffers"][4];
    assert_eq!(
        *cpus,
        json!({"reason": "InsufficientCpus", "declined": 4, "processed": 5})
    );
    let info = c.get("/v2/info").await.json();
    for key in ["marathon_config", "zookeeper_config", "http_config"] {
        assert!(info[key].is_object(), "{key}");
    }
    assert_eq!(info["frameworkId"], "f1");
    assert_eq!(
        c.get("/v2/leader").await.json(),
        json!({"leader": "192.0.2.1:8080"})
    );
    assert_eq!(c.get("/ping").await.text, "pong");
    let metrics = c.get("/metrics").await.json();
    assert_eq!(
        metrics["gauges"]["marathon.instances.running.gauge"]["value"],
        2
    );
}

#[tokio::test]
async fn deployments_are_rolled_back_or_dropped_and_delays_reset() {
    let delete =
        async |c: &Cluster, path: &str| Cluster::ask(&c.marathon, "DELETE", path, None).await;
    let c = Cluster::start(busy());
    let back = delete(&c, "/v2/deployments/d-0").await;
    assert_eq!(back.status, 200);
    assert!(back.json()["deploymentId"].is_string() && back.json()["version"].is_string());
    delete(&c, "/v2/deployments/d-0?force=True")
        .await
        .refused(404, "Deployment d-0 does not exist");
    let c = Cluster::start(busy());
    let dropped = delete(&c, "/v2/deployments/d-0?force=True").await;
    assert_eq!((dropped.status.as_u16(), dropped.text.as_str()), (202, ""));
    let reset = delete(&c, "/v2/queue//shop/web/delay").await;
    assert_eq!((reset.status.as_u16(), reset.text.as_str()), (204, ""));
    delete(&c, "/v2/queue/other/delay")
        .await
        .refused(404, "Application /other not found in tasks queue.");
}

#[tokio::test]
async fn without_a_leader_and_without_a_loop() {
    let c = Cluster::start(ClusterView::default());
    c.get("/v2/leader").await.refused(404, "There is no leader");
    assert!(c.get("/v2/info").await.json()["http_config"].is_object());
    c.mesos("/state").await.refused(503, "No leader elected");
    let (handle, requests, _views) = MasterHandle::channel(1);
    drop(requests);
    let router = marathon_router(handle, Telemetry::disabled());
    let body = web().to_string();
    Cluster::ask(&router, "POST", "/v2/apps", Some(&body))
        .await
        .refused(503, "the master is stopping");
}

#[tokio::test]
async fn labels_that_choose_are_refused_by_field() {
    let c = Cluster::start(ClusterView::default());
    let app = |labels: Value| {
        let mut app = web();
        app["portDefinitions"] = json!([{"port": 0, "name": "http", "labels": labels}]);
        app
    };
    for (label, value) in [
        ("LB_WEIGHT", "1001"),
        ("LB_WEIGHT", "much"),
        ("LB_POLICY", "best"),
        ("LB_AFFINITY", "soon"),
        ("LB_LOCALITY", "planet"),
        ("LB_SLOW_START", "-1s"),
    ] {
        let labels = json!({"VIP_0": "/web:80", label: value});
        let answer = c.marathon("POST", "/v2/apps", &app(labels)).await;
        assert_eq!(answer.status, 422, "{label}={value}: {}", answer.text);
        let field = format!("portDefinitions[0].labels.{label}: ");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(&field), "{message}");
    }
    let fine = json!({"VIP_0": "/web:80", "LB_WEIGHT": "3", "LB_POLICY": "least-connections"});
    assert_eq!(c.marathon("POST", "/v2/apps", &app(fine)).await.status, 201);
}

#[tokio::test]
async fn an_app_with_a_container_is_created_changed_and_refused() {
    let c = Cluster::start(ClusterView::default());
    let app = json!({
        "id": "/shop/cache", "cpus": 0.1, "mem": 64, "networks": [{"mode": "container/bridge"}],
        "container": {"type": "DOCKER", "docker": {"image": "redis:7"},
            "portMappings": [{"containerPort": 6379, "name": "redis"}]}
    });
    let made = c.marathon("POST", "/v2/apps", &app).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let shown = c.get("/v2/apps/shop/cache").await.json()["app"].clone();
    assert_eq!(shown["container"]["docker"]["image"], "redis:7");
    assert_eq!(shown["container"]["portMappings"][0]["containerPort"], 6379);
    assert!(shown.get("portDefinitions").is_none());
    let changed = json!({"container": {"docker": {"image": "redis:8"}}});
    let put = c.marathon("PATCH", "/v2/apps/shop/cache", &changed).await;
    assert_eq!(put.status, 200, "{}", put.text);
    let shown = c.get("/v2/apps/shop/cache").await.json()["app"].clone();
    assert_eq!(shown["container"]["docker"]["image"], "redis:8");
    let bad = json!({"container": {"docker": {"image": "redis:8",
        "parameters": [{"key": "log-driver", "value": "syslog"}]}}});
    c.marathon("PATCH", "/v2/apps/shop/cache", &bad)
        .await
        .refused(
            422,
            "container.docker.parameters[0].key: docker parameter \"log-driver\" is not supported yet",
        );
}

#[tokio::test]
async fn groups_are_made_shown_changed_and_removed() {
    let c = Cluster::start(ClusterView::default());
    let shop = json!({
        "id": "shop",
        "apps": [{"id": "cart", "cmd": "x"}],
        "groups": [{"id": "db", "dependencies": ["../cart"], "apps": [{"id": "main", "cmd": "x", "instances": 3}]}],
    });
    let made = c.marathon("POST", "/v2/groups", &shop).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["marathon-deployment-id"], "d-1");
    assert_eq!(made.json().as_object().unwrap().len(), 2, "{}", made.text);
    c.marathon("POST", "/v2/groups", &shop).await.refused(
        409,
        "Group /shop is already created. Use PUT to change this group.",
    );
    for path in ["/v2/groups/shop", "/v2/groups//shop"] {
        let group = c.get(path).await.json();
        let mut keys: Vec<&String> = group.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(
            keys,
            ["apps", "dependencies", "groups", "id", "pods", "version"]
        );
        assert_eq!(group["apps"][0]["id"], "/shop/cart");
        assert_eq!(group["groups"][0]["id"], "/shop/db");
        assert_eq!(group["groups"][0]["apps"][0]["instances"], 3);
        assert_eq!(group["groups"][0]["dependencies"], json!(["/shop/cart"]));
    }
    let root = c.get("/v2/groups").await.json();
    assert_eq!(
        (&root["id"], &root["groups"][0]["id"]),
        (&json!("/"), &json!("/shop"))
    );
    let narrow = c.get("/v2/groups?embed=group.groups").await.json();
    assert_eq!(narrow["groups"][0]["apps"], json!([]));

    let scaled = c
        .marathon(
            "PUT",
            "/v2/groups//shop?force=True",
            &json!({"scaleBy": 1.5}),
        )
        .await;
    assert_eq!(scaled.status, 200, "{}", scaled.text);
    let app = c.get("/v2/apps/shop/db/main").await.json();
    assert_eq!(app["app"]["instances"], 5);
    let put = c
        .marathon("PUT", "/v2/groups/shop", &json!({"groups": []}))
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    c.get("/v2/groups/shop/db")
        .await
        .refused(404, "Group '/shop/db' does not exist");
    assert_eq!(
        c.get("/v2/apps").await.json()["apps"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let fresh = c
        .marathon("PUT", "/v2/groups/other", &json!({"apps": []}))
        .await;
    assert_eq!(fresh.status, 201, "{}", fresh.text);
    let dry = c
        .marathon("PUT", "/v2/groups/shop?dryRun=true", &json!({"apps": []}))
        .await;
    assert_eq!(
        (dry.status, dry.json()),
        (StatusCode::OK, json!({"steps": []}))
    );
    assert_eq!(
        c.get("/v2/apps").await.json()["apps"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let versions = c.get("/v2/groups/shop/versions").await.json();
    let first = versions["versions"][0].as_str().unwrap().to_owned();
    let path = format!("/v2/groups/shop/versions/{first}");
    assert_eq!(c.get(&path).await.json()["apps"][0]["id"], "/shop/cart");
    let none = Cluster::ask(&c.marathon, "PUT", &path, None).await;
    none.refused(404, &format!("Group '/shop' does not have version {first}"));
    c.get("/v2/groups/shop/versions/7").await.refused(
        422,
        "version: must be a timestamp such as 2026-11-23T03:47:00.123Z, is \"7\"",
    );
    let gone = Cluster::ask(&c.marathon, "DELETE", "/v2/groups/shop", None).await;
    assert_eq!(gone.status, 200, "{}", gone.text);
    let gone = Cluster::ask(&c.marathon, "DELETE", "/v2/groups/shop", None).await;
    gone.refused(404, "Group '/shop' does not exist");
    c.marathon("POST", "/v2/groups", &json!({"id": "x", "scaleBy": 2}))
        .await
        .refused(422, "scaleBy: is only for groups that are there");
}

#[tokio::test]
async fn what_health_checks_said_is_shown() {
    let mut view = busy();
    let id = ServiceId::new("/shop/web").unwrap();
    let mut app = view.services[&id].as_ref().clone();
    app.instances[0].health = HealthState::Unhealthy;
    let at = |ms| Some(UnixMillis(AT.0 + ms));
    app.instances[0].health_record = Some(HealthRecord {
        first_success: at(1),
        last_success: at(2),
        last_failure: at(3),
        last_failure_cause: "health check 0 (http /): status 500".into(),
        n_failures: 2,
    });
    view.services.insert(Arc::new(app));
    let c = Cluster::start(view);
    let tasks = c.get("/v2/apps//shop/web/tasks").await.json();
    assert_eq!(
        tasks["tasks"][0]["healthCheckResults"],
        json!([{"alive": false, "taskId": "shop_web.instance-1._app.1", "instanceId": "shop_web.instance-1",
            "consecutiveFailures": 2, "firstSuccess": "2026-11-23T03:47:00.124Z", "lastSuccess": "2026-11-23T03:47:00.125Z",
            "lastFailure": "2026-11-23T03:47:00.126Z", "lastFailureCause": "health check 0 (http /): status 500"}])
    );
}

#[tokio::test]
async fn what_readiness_checks_were_answered_is_shown() {
    let mut view = busy();
    let id = ServiceId::new("/shop/web").unwrap();
    let mut app = view.services[&id].as_ref().clone();
    let mut spec = app.spec.as_ref().clone();
    let kept = spec_of(&json!({
        "id": "/shop/web", "cmd": "x", "portDefinitions": [{"port": 0, "name": "http"}],
        "readinessChecks": [
            {"name": "quiet", "portName": "http"},
            {"name": "told", "portName": "http", "preserveLastResponse": true},
        ],
    }));
    spec.health_checks = kept.health_checks;
    app.spec = Arc::new(spec);
    app.instances[0].ready = Some(false);
    app.instances[0].responses = [0, 1]
        .map(|idx| CheckResponse {
            idx,
            status: 503,
            content_type: "text/plain".into(),
            body: "warming up".into(),
        })
        .into();
    app.instances[1].ready = Some(true);
    view.services.insert(Arc::new(app));
    let c = Cluster::start(view);
    let response = json!({"status": 503, "contentType": "text/plain", "body": "warming up"});
    let of = |n: u8, name: &str, ready: bool| {
        let task = format!("shop_web.instance-{n}._app.1");
        json!({"name": name, "taskId": task, "ready": ready})
    };
    let mut told = of(1, "told", false);
    told["lastResponse"] = response;
    let all = json!([
        of(1, "quiet", false),
        told,
        of(2, "quiet", true),
        of(2, "told", true)
    ]);
    let shown = c.get("/v2/apps/shop/web").await.json();
    assert_eq!(shown["app"]["readinessCheckResults"], all);
    let deployments = c.get("/v2/deployments").await.json();
    let action = &deployments[0]["currentActions"][0];
    assert_eq!(action["readinessCheckResults"], all, "{deployments}");
}

#[tokio::test]
async fn statistics_of_tasks_are_shown_where_asked_for() {
    let mut view = busy();
    let id = ServiceId::new("/shop/web").unwrap();
    let mut app = view.services[&id].as_ref().clone();
    // One of the two runs what was before.
    app.instances[0].version = ServiceVersion(UnixMillis(AT.0 - 60_000));
    app.instances[0].staged_at = UnixMillis(AT.0 - 60_000);
    app.instances[0].health = HealthState::Unhealthy;
    view.services.insert(Arc::new(app));
    let c = Cluster::start(view);
    assert!(c.get("/v2/apps/shop/web").await.json()["app"]["taskStats"].is_null());
    for (path, at) in [
        ("/v2/apps/shop/web?embed=app.taskStats", "/app/taskStats"),
        ("/v2/apps?embed=apps.taskStats", "/apps/0/taskStats"),
        (
            "/v2/groups/shop?embed=group.apps&embed=group.apps.taskStats",
            "/apps/0/taskStats",
        ),
    ] {
        let shown = c.get(path).await.json();
        let stats = shown.pointer(at).unwrap_or_else(|| panic!("{shown}"));
        let counts = |of: &str| stats[of]["stats"]["counts"].clone();
        let one = |healthy: u32| json!({"staged": 0, "running": 1, "healthy": healthy, "unhealthy": 1 - healthy});
        assert_eq!(counts("withOutdatedConfig"), one(0), "{path}");
        assert_eq!(counts("withLatestConfig"), one(1), "{path}");
        assert_eq!(counts("startedAfterLastScaling"), one(1), "{path}");
        let all = json!({"staged": 0, "running": 2, "healthy": 1, "unhealthy": 1});
        assert_eq!(counts("totalSummary"), all);
        let age = &stats["totalSummary"]["stats"]["lifeTime"];
        assert_eq!(age["averageSeconds"], age["medianSeconds"], "of two");
        assert!(age["averageSeconds"].is_number());
    }
}
