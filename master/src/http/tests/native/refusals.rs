//! What does not reach the core, and how refusals read.

use rstest::rstest;

use super::*;

#[rstest]
#[case("PUT", "/waggle/v1/weights/eng", json!({"weight": -1}), "weight")]
#[case("PUT", "/waggle/v1/weights/eng", json!({"weigth": 1}), "weigth")]
#[case("PUT", "/waggle/v1/weights/eng", json!([]), "body")]
#[case("PUT", "/waggle/v1/weights/a/-b", json!({"weight": 1}), "role")]
#[case("PUT", "/waggle/v1/weights/a%20b", json!({"weight": 1}), "role")]
#[case("PUT", "/waggle/v1/quotas/eng", json!({"guarantee": {"cpus": "4"}}), "guarantee.cpus")]
#[case("PUT", "/waggle/v1/quotas/eng", json!({}), "guarantee")]
#[case("POST", "/waggle/v1/reservations", json!({"agent": "n1", "stack": [{"role": "eng"}], "resources": {"gold": 1}}), "resources.gold")]
#[case("POST", "/waggle/v1/reservations", json!({"agent": "n1", "stack": [{"role": "eng"}], "resources": {"cpus": -1}}), "resources.cpus")]
#[case("DELETE", "/waggle/v1/reservations", json!({"agent": "n1"}), "stack")]
#[case("POST", "/waggle/v1/volumes", json!({"agent": "n1", "stack": [{"role": "eng"}], "volume_id": "v"}), "size")]
#[case("DELETE", "/waggle/v1/volumes", json!({"agent": "n1", "stack": [{"role": "eng"}], "volume_id": "../v"}), "volume_id")]
#[case("PUT", "/waggle/v1/maintenance", json!({"agents": ["n1"], "start_ms": 1, "duration_ms": -5}), "duration_ms")]
#[case("PUT", "/waggle/v1/maintenance", json!({"agents": "n1", "start_ms": 1}), "agents")]
#[case("DELETE", "/waggle/v1/maintenance", json!({}), "agents")]
#[case("DELETE", "/waggle/v1/maintenance", json!({"agents": ["n1", "a1"]}), "agents[1]")]
#[case("POST", "/waggle/v1/nodes/n1/drain", json!({"max_grace_ms": "5s"}), "max_grace_ms")]
#[case("POST", "/waggle/v1/nodes/n1/gone", json!({"sure": true}), "sure")]
#[tokio::test]
async fn bad_input_names_the_field_and_goes_no_further(
    #[case] method: &str,
    #[case] path: &str,
    #[case] body: Value,
    #[case] field: &str,
) {
    let mut door = Door::open(managed(), Ok(()));
    let answer = door.ask(method, path, Some(&body)).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let detail = &answer.json()["details"][0];
    assert_eq!(
        (&detail["code"], &detail["object"]),
        (&json!("invalid"), &json!(field))
    );
    assert!(detail["message"].as_str().is_some_and(|m| !m.is_empty()));
    assert_eq!(door.calls(), []);
}

#[tokio::test]
async fn malformed_json_flags_methods_and_paths_are_told() {
    let mut door = Door::open(managed(), Ok(()));
    let raw = |method: &'static str, path: &'static str, body: &'static str| {
        let router = door.router.clone();
        async move { Cluster::ask(&router, method, path, Some(body)).await }
    };
    assert_eq!(raw("PUT", "/waggle/v1/weights/eng", "{").await.status, 400);
    assert_eq!(
        raw("PUT", "/waggle/v1/quotas/eng?force=maybe", "{}")
            .await
            .status,
        400
    );
    for (method, path, allow) in [
        ("POST", "/waggle/v1/weights/eng", "PUT, DELETE"),
        ("PUT", "/waggle/v1/reservations", "GET, POST, DELETE"),
        ("POST", "/waggle/v1/roles", "GET"),
        ("GET", "/waggle/v1/nodes/n1/drain", "POST"),
        ("PUT", "/waggle/v1/frameworks/f1", "GET, DELETE"),
        ("POST", "/waggle/v1/explain/role/eng", "GET"),
    ] {
        let answer = door.ask(method, path, None).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
    }
    for path in [
        "/waggle/v1",
        "/waggle/v1/explain",
        "/waggle/v1/nodes/n1/reboot",
    ] {
        assert_eq!(door.ask("GET", path, None).await.status, 404, "{path}");
    }
    let large = json!({"x": "y".repeat(crate::http::MAX_BODY)});
    let answer = door
        .ask("PUT", "/waggle/v1/weights/eng", Some(&large))
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(door.calls(), []);
}

#[rstest]
#[case(RejectReason::BadQuota, 422)]
#[case(RejectReason::BadReservation, 422)]
#[case(RejectReason::Invalid, 422)]
#[case(RejectReason::UnknownAgent, 404)]
#[case(RejectReason::FrameworkRemoved, 404)]
#[case(RejectReason::NotFree, 409)]
#[case(RejectReason::VolumeInUse, 409)]
#[case(RejectReason::OverLimit, 409)]
#[case(RejectReason::AgentDisconnected, 409)]
#[case(RejectReason::TooMany, 429)]
#[tokio::test]
async fn refusals_of_the_core_are_typed(#[case] reason: RejectReason, #[case] status: u16) {
    let why = CallRejection::new(reason, "eng", "that is not possible");
    let refused = OperateError::Refused(vec![why.clone(), why]);
    let door = Door::open(managed(), Err(refused));
    let answer = door
        .ask("PUT", "/waggle/v1/weights/eng", Some(&json!({"weight": 2})))
        .await;
    answer.refused(
        status,
        "eng: that is not possible (and 1 more, see details)",
    );
    let detail = json!({"code": reason.name(), "object": "eng", "message": "that is not possible"});
    assert_eq!(answer.json()["details"], json!([detail, detail]));
}

#[tokio::test]
async fn a_busy_master_says_so() {
    let busy = OperateError::Master(MasterError::Busy(16));
    let door = Door::open(managed(), Err(busy));
    let answer = door.ask("POST", "/waggle/v1/nodes/n1/drain", None).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn slips_of_the_pen_are_recognised() {
    let unknown = CallRejection::new(RejectReason::UnknownAgent, "n-1", "no such agent");
    let mut door = Door::open(managed(), Err(OperateError::Refused(vec![unknown])));
    let answer = door.ask("POST", "/waggle/v1/nodes/n-1/drain", None).await;
    answer.refused(404, "n-1: no such agent; did you mean \"n1\"?");
    door.calls();
    for (method, path, message) in [
        (
            "GET",
            "/waggle/v1/frameworks/maraton",
            "maraton: no framework has this id or name; did you mean \"marathon\"?",
        ),
        (
            "GET",
            "/waggle/v1/explain/framework/maraton",
            "maraton: no framework has this id or name; did you mean \"marathon\"?",
        ),
        (
            "GET",
            "/waggle/v1/explain/app/shop/wbe",
            "App '/shop/wbe' does not exist; did you mean \"/shop/web\"?",
        ),
        (
            "GET",
            "/waggle/v1/nodes/zzz",
            "zzz: no agent has this id or name",
        ),
        (
            "GET",
            "/waggle/v1/explain/role/eng/batsh",
            "role \"eng/batsh\" has no framework, weight, quota or reservation; did you mean \"eng/batch\"?",
        ),
        (
            "DELETE",
            "/waggle/v1/quotas/engg",
            "role \"engg\" has no quota; did you mean \"eng\"?",
        ),
        (
            "DELETE",
            "/waggle/v1/weights/eng/batch",
            "role \"eng/batch\" has no weight of its own",
        ),
    ] {
        door.ask(method, path, None).await.refused(404, message);
    }
    assert_eq!(door.calls(), []);
}

#[tokio::test]
async fn a_name_that_several_have_is_not_guessed() {
    let mut view = managed();
    let twin = AgentView::clone(&view.agents[&id("a1")]);
    let info = AgentInfo {
        ip6: None,
        agent_id: id("a2"),
        ..AgentInfo::clone(&twin.info)
    };
    let twin = AgentView {
        info: Arc::new(info),
        ..twin
    };
    view.agents.insert(id("a2"), Arc::new(twin));
    let mut door = Door::open(view, Ok(()));
    let answer = door.ask("POST", "/waggle/v1/nodes/n1/drain", None).await;
    answer.refused(409, "2 agents have the name \"n1\", use an id: a1, a2");
    assert_eq!(door.calls(), []);
    let answer = door.ask("POST", "/waggle/v1/nodes/a2/drain", None).await;
    assert_eq!(answer.status, 200);
}
