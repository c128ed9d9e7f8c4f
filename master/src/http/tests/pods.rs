//! Pods at the Marathon listener.

use super::*;

fn cart() -> Value {
    json!({
        "id": "/shop/cart",
        "containers": [
            {
                "name": "web",
                "exec": {"command": {"shell": "serve"}},
                "resources": {"cpus": 0.1, "mem": 32},
                "endpoints": [{"name": "http", "hostPort": 0, "labels": {"VIP_0": "/cart:80"}}],
                "healthCheck": {"http": {"endpoint": "http", "path": "/"}}
            },
            {
                "name": "side",
                "exec": {"command": {"argv": ["sleep", "1000"]}},
                "resources": {"cpus": 0.1, "mem": 32}
            }
        ],
        "scaling": {"kind": "fixed", "instances": 2}
    })
}

async fn ask(c: &Cluster, method: &str, path: &str) -> Answer {
    Cluster::ask(&c.marathon, method, path, None).await
}

#[tokio::test]
async fn a_pod_is_created_read_changed_and_removed() {
    let c = Cluster::start(ClusterView::default());
    let head = ask(&c, "HEAD", "/v2/pods").await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    let made = c.marathon("POST", "/v2/pods", &cart()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["location"], "/v2/pods/shop/cart");
    assert_eq!(made.headers["marathon-deployment-id"], "d-1");
    assert_eq!(made.json()["scaling"]["instances"], 2);
    assert!(made.json()["version"].is_string());
    assert_eq!(c.marathon("POST", "/v2/pods", &cart()).await.status, 409);

    let shown = c.get("/v2/pods//shop/cart").await.json();
    assert_eq!(
        shown["containers"][1]["exec"]["command"]["argv"][0],
        "sleep"
    );
    assert_eq!(c.get("/v2/pods").await.json(), json!([shown]));
    // It is no app.
    let not_there = "App '/shop/cart' does not exist";
    c.get("/v2/apps/shop/cart").await.refused(404, not_there);
    assert_eq!(c.get("/v2/apps").await.json(), json!({"apps": []}));
    ask(&c, "DELETE", "/v2/apps/shop/cart")
        .await
        .refused(404, not_there);
    ask(&c, "POST", "/v2/apps/shop/cart/restart")
        .await
        .refused(404, not_there);
    let group = c.get("/v2/groups/shop").await.json();
    assert_eq!(group["pods"], json!([shown]));
    assert_eq!(group["apps"], json!([]));

    let mut more = shown.clone();
    more["scaling"]["instances"] = json!(3);
    let put = c
        .marathon("PUT", "/v2/pods/shop/cart?force=true", &more)
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    assert!(put.headers.contains_key("marathon-deployment-id"));
    assert_eq!(put.json()["scaling"]["instances"], 3);
    let versions = c.get("/v2/pods/shop/cart::versions").await.json();
    let versions = versions.as_array().unwrap().clone();
    assert_eq!((versions.len(), &versions[0]), (2, &put.json()["version"]));
    let first = versions[1].as_str().unwrap();
    let path = format!("/v2/pods/shop/cart::versions/{first}");
    assert_eq!(c.get(&path).await.json()["scaling"]["instances"], 2);
    let other = c.marathon("PUT", "/v2/pods/shop/other", &more).await;
    assert_eq!(other.status, 422, "{}", other.text);

    for path in ["/v2/pods::status", "/v2/pods/::status"] {
        assert_eq!(
            c.get(path).await.json().as_array().unwrap().len(),
            1,
            "{path}"
        );
    }
    let status = c.get("/v2/pods/shop/cart::status").await.json();
    assert_eq!(
        (&status["id"], &status["status"]),
        (&json!("/shop/cart"), &json!("DEGRADED"))
    );
    assert_eq!(status["instances"], json!([]));
    assert_eq!(status["spec"]["scaling"]["instances"], 3);

    let gone = ask(&c, "DELETE", "/v2/pods/shop/cart::instances/x").await;
    gone.refused(404, "Pod '/shop/cart' has no instance 'x'");
    let none = c
        .marathon("DELETE", "/v2/pods/shop/cart::instances", &json!(["x"]))
        .await;
    assert_eq!((none.status.as_u16(), none.text.as_str()), (200, "[]"));
    // Of several, all or none.
    let strict = "/v2/pods/shop/cart::instances?strict=true";
    let none = c.marathon("DELETE", strict, &json!(["x", "y"])).await;
    none.refused(404, "Pod '/shop/cart' has no instance 'x'");
    let bad = c
        .marathon("DELETE", "/v2/pods/shop/cart::instances", &json!({}))
        .await;
    bad.refused(422, "instances: must be a list of strings");

    let removed = ask(&c, "DELETE", "/v2/pods/shop/cart").await;
    assert_eq!((removed.status.as_u16(), removed.text.as_str()), (202, ""));
    assert!(removed.headers.contains_key("marathon-deployment-id"));
    let absent = "Pod '/shop/cart' does not exist";
    for path in [
        "/v2/pods/shop/cart",
        "/v2/pods/shop/cart::status",
        "/v2/pods/shop/cart::versions",
    ] {
        c.get(path).await.refused(404, absent);
    }
    c.marathon("PUT", "/v2/pods/shop/cart", &more)
        .await
        .refused(404, absent);
    assert_eq!(ask(&c, "GET", "/v2/pods/shop/cart::what").await.status, 404);
    assert_eq!(ask(&c, "PATCH", "/v2/pods").await.status, 405);
}

#[tokio::test]
async fn pods_are_in_the_queue_for_who_asks_for_them() {
    let mut view = busy();
    let mut waiting = view.queue.values().next().unwrap().as_ref().clone();
    waiting.service = ServiceId::new("/shop/cart").unwrap();
    view.queue.insert(Arc::new(waiting));
    let c = Cluster::start(view);
    assert_eq!(c.marathon("POST", "/v2/pods", &cart()).await.status, 201);
    let of = |answer: Value| {
        let all = answer["queue"].as_array().unwrap().clone();
        let each = all.into_iter();
        let ids = each.map(|q| (q["app"]["id"].clone(), q["pod"]["id"].clone()));
        ids.collect::<Vec<_>>()
    };
    let (app, pod) = (json!("/shop/web"), json!("/shop/cart"));
    let plain = c.get("/v2/queue").await.json();
    assert_eq!(of(plain.clone()), [(app.clone(), Value::Null)]);
    assert!(plain["queue"][0].get("pod").is_none());
    let all = c
        .get("/v2/queue?embed=lastUnusedOffers&embed=pods")
        .await
        .json();
    assert_eq!(of(all.clone()), [(Value::Null, pod), (app, Value::Null)]);
    assert!(all["queue"][0].get("app").is_none());
    assert!(all["queue"][0]["processedOffersSummary"].is_object());
}

#[tokio::test]
async fn a_wrong_pod_is_refused_field_by_field() {
    let c = Cluster::start(ClusterView::default());
    let mut bad = cart();
    bad["containers"][0]["resources"]["cpus"] = json!(-1);
    bad["containers"][1]["name"] = json!("web");
    let refused = c.marathon("POST", "/v2/pods", &bad).await;
    assert_eq!(refused.status, 422);
    let details = refused.json()["details"].clone();
    let paths: Vec<&str> = details
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|d| d["path"].as_str())
        .collect();
    assert_eq!(
        paths,
        ["/containers(0)/resources/cpus", "/containers(1)/name"]
    );
    assert_eq!(c.get("/v2/pods").await.json(), json!([]));
}
