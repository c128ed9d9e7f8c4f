//! The agent's API about images.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{super::api, *};

async fn ask(node: &Node, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(format!("/waggle/v1/images{path}"))
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let router = api::routes(Arc::clone(&node.images));
    let answer = router.oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20)
        .await
        .unwrap();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

#[tokio::test]
async fn images_are_loaded_listed_and_pruned() {
    let node = Node::new(ImageSettings::default());
    let path = node.layout(&small("a"), "app:1");
    let (status, answer) = ask(&node, "POST", "/load", json!({ "path": path })).await;
    assert_eq!(status, 200);
    let digest = answer["images"][0]["digest"].clone();
    let (_, list) = ask(&node, "GET", "", Value::Null).await;
    assert_eq!(
        list["images"][0]["names"],
        json!(["docker.io/library/app:1"])
    );
    assert_eq!(list["images"][0]["digest"], digest);
    assert_eq!(list["images"][0]["n_layers"], 2);
    assert!(list["disk_bytes"].as_u64().unwrap() > 0);
    // What is there needs no registry.
    let body = json!({ "reference": "app:1", "cached": true });
    let (status, answer) = ask(&node, "POST", "/pull", body).await;
    assert_eq!((status, &answer["digest"]), (200, &digest));
    let (status, answer) = ask(&node, "POST", "/prune", json!({ "max_bytes": 0 })).await;
    assert_eq!((status, &answer["images"][0]), (200, &digest));
    let (_, list) = ask(&node, "GET", "", Value::Null).await;
    assert_eq!(list["images"], json!([]));
}

#[tokio::test]
async fn refusals_have_a_status_and_words() {
    let node = Node::new(ImageSettings {
        registries: vec!["docker.io".to_owned()],
        ..ImageSettings::default()
    });
    let empty = node.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for (path, body, status, words) in [
        (
            "/pull",
            json!({ "reference": "UPPER" }),
            400,
            "image \"UPPER\": ",
        ),
        (
            "/pull",
            json!({ "reference": "quay.io/a" }),
            403,
            "is not among those",
        ),
        ("/pull", json!({ "name": "a" }), 400, "unknown field `name`"),
        (
            "/load",
            json!({ "path": "relative" }),
            400,
            "path: must be absolute",
        ),
        (
            "/load",
            json!({ "path": empty }),
            422,
            "has neither index.json",
        ),
        (
            "/load",
            json!({ "path": "/no/such/file" }),
            422,
            "No such file",
        ),
    ] {
        let (is, answer) = ask(&node, "POST", path, body.clone()).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(is, status, "{body}: {message}");
        assert!(message.contains(words), "{body}: {message}");
    }
}
