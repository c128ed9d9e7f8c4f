//! Lists of level 1.

use super::*;

#[tokio::test]
async fn lists_show_level_1() {
    let door = Door::open(managed(), Ok(()));
    let get = async |path: &str| door.ask("GET", path, None).await.json();
    assert_eq!(
        get("/waggle/v1/weights").await,
        json!([{"role": "eng", "weight": 2.5}])
    );
    let quota = json!({"role": "eng", "guarantee": {"cpus": 6}, "limit": {"cpus": 8},
        "charged": {"cpus": 5}, "owed": {"cpus": 1}, "headroom": {"cpus": 3}});
    assert_eq!(get("/waggle/v1/quotas").await, json!([quota]));
    let roles = get("/waggle/v1/roles").await;
    assert_eq!(roles[0]["quota"], quota);
    assert_eq!(
        roles[0]["frameworks"],
        json!([{"id": "f1", "name": "marathon"}])
    );
    assert_eq!(
        (&roles[1]["name"], &roles[1]["quota"]),
        (&json!("eng/batch"), &Value::Null)
    );

    let reservation = &get("/waggle/v1/reservations").await[0];
    assert_eq!(
        (&reservation["hostname"], &reservation["stack"][0]["role"]),
        (&json!("n1"), &json!("eng"))
    );
    for (what, cpus) in [
        ("resources", 2.0),
        ("used", 1.0),
        ("lent", 0.5),
        ("offered", 0.0),
        ("free", 0.5),
    ] {
        assert_eq!(reservation[what]["cpus"].as_f64(), Some(cpus), "{what}");
    }
    assert_eq!(
        reservation["volumes"],
        json!([{"id": "db", "size": 512, "shared": true, "tasks": ["owner"]}])
    );
    assert!(
        reservation["free"]["volumes"]["db"].is_object(),
        "a shared volume stays free"
    );

    let maintenance = get("/waggle/v1/maintenance").await;
    assert_eq!(
        maintenance,
        json!([{"agent_id": "a1", "hostname": "n1", "mode": "deactivated",
            "window": {"start_ms": AT.0 + 60_000, "duration_ms": 30_000},
            "asked": [{"framework_id": "f1", "framework": "marathon", "answer": "declined",
                "again_ms": AT.0 + 5000, "tasks": 4}]}])
    );
    let by_name = get("/waggle/v1/nodes/n1").await;
    assert_eq!(by_name, get("/waggle/v1/nodes").await[0]);
    assert_eq!(
        (&by_name["mode"], &by_name["tasks"]),
        (&json!("deactivated"), &json!(4))
    );
    let framework = get("/waggle/v1/frameworks/marathon").await;
    assert_eq!(framework, get("/waggle/v1/frameworks").await[0]);
    assert_eq!(framework["roles"][0]["role"], "*");
}
