//! Explanations.

use super::*;

#[tokio::test]
async fn explanations_are_told_whole() {
    let door = Door::open(managed(), Ok(()));
    let get = async |path: &str| door.ask("GET", path, None).await.json();
    let f = get("/waggle/v1/explain/framework/marathon").await;
    assert_eq!(f["capabilities"], json!(["revocable"]));
    assert_eq!(f["general"][0]["code"], "recovering");
    assert_eq!(
        f["roles"][0],
        json!({"role": "eng", "suppressed": false, "share": 0.25, "smallest": null,
            "headroom": {"cpus": 3}, "offers": 2,
            "agents": [{"agent_id": "a1", "hostname": "n1", "code": "filtered", "message": "declined"}],
            "rest": {"filtered": 7}})
    );
    let r = get("/waggle/v1/explain/role/eng").await;
    assert_eq!(r["quota"]["headroom"], json!({"cpus": 3}));
    assert_eq!(r["may_get"], json!({"cpus": 2}));
    assert_eq!(r["frameworks"][0]["name"], "marathon");
    let a = get("/waggle/v1/explain/agent/n1").await;
    assert_eq!(
        (&a["mode"], &a["free"]["cpus"]),
        (&json!("drained"), &json!(1))
    );
    assert_eq!(
        a["passed_over"],
        json!([{"framework": {"id": "f1", "name": "marathon"}, "role": "eng",
            "because": [{"code": "agent_inactive", "message": "it is drained"}]}])
    );
    // A service under its own path, and under the one that it had before.
    let app = get("/waggle/v1/explain/app/shop/web").await;
    assert_eq!(app["instances"], 2);
    assert_eq!(app, get("/waggle/v1/explain/shop/web").await);
}
