//! Metronome's API as its clients use it.

use super::*;

fn backup() -> Value {
    json!({
        "id": "prod.backup",
        "description": "saves the database",
        "labels": {"team": "bees"},
        "run": {"cmd": "backup", "cpus": 0.5, "mem": 64, "disk": 0},
    })
}

fn nightly() -> Value {
    json!({"id": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Berlin", "concurrencyPolicy": "FORBID"})
}

fn body(a: &Answer) -> Value {
    serde_json::from_str(&a.text).unwrap_or_else(|e| panic!("{}: {e}", a.text))
}

#[tokio::test]
async fn a_job_is_made_scheduled_run_stopped_and_removed() {
    let c = Cluster::start(ClusterView::default());
    let made = c.marathon("POST", "/v1/jobs", &backup()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["location"], "/v1/jobs/prod.backup");
    assert_eq!(body(&made)["run"]["cpus"], 0.5);
    assert_eq!(body(&made).get("schedules"), None);
    let again = c.marathon("POST", "/v1/jobs", &backup()).await;
    assert_eq!(again.status, 409, "{}", again.text);

    // The same below the path of the DC/OS CLI.
    let schedules = "/service/metronome/v1/jobs/prod.backup/schedules";
    let made = c.marathon("POST", schedules, &nightly()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made = body(&made);
    assert_eq!(made["startingDeadlineSeconds"], 900);
    let next = made["nextRunAt"].as_str().unwrap();
    assert!(next.ends_with(":00.000+0000"), "{next}");
    let off = json!({"cron": "0 3 * * *", "enabled": false});
    let put = c
        .marathon("PUT", &format!("{schedules}/nightly"), &off)
        .await;
    assert_eq!(
        (put.status.as_u16(), body(&put).get("nextRunAt")),
        (200, None)
    );
    let none = c
        .marathon("PUT", &format!("{schedules}/weekly"), &off)
        .await;
    assert_eq!(none.status, 404);

    let run = Cluster::ask(&c.marathon, "POST", "/v1/jobs/prod.backup/runs", None).await;
    assert_eq!(run.status, 201, "{}", run.text);
    let run = body(&run);
    assert_eq!(
        (&run["status"], &run["jobId"]),
        (&json!("INITIAL"), &json!("prod.backup"))
    );
    let id = run["id"].as_str().unwrap();
    let queued = body(&c.get("/v1/queue").await);
    assert_eq!(
        queued,
        json!([{"jobId": "prod.backup", "runs": [{"runId": id}]}])
    );
    let gauges = body(&c.get("/service/metronome/v1/metrics").await)["gauges"].clone();
    assert_eq!(gauges["metronome.job-runs.waiting.gauge"]["value"], 1);
    let info = body(&c.get("/service/metronome/info").await);
    assert_eq!(
        (&info["version"], &info["libVersion"]),
        (&json!("0.6.44"), &json!("1.11.24"))
    );
    let all = "?embed=activeRuns&embed=schedules&embed=history&embed=historySummary";
    let listed = body(&c.get(&format!("/v1/jobs{all}")).await);
    assert_eq!(listed[0]["activeRuns"][0]["id"], id);
    assert_eq!(listed[0]["schedules"][0]["enabled"], false);
    assert_eq!(listed[0]["historySummary"]["successCount"], 0);

    let busy = Cluster::ask(&c.marathon, "DELETE", "/v1/jobs/prod.backup", None).await;
    assert_eq!(busy.status, 409, "{}", busy.text);
    assert!(busy.text.contains("stopCurrentJobRuns"), "{}", busy.text);
    let stop = format!("/v1/jobs/prod.backup/runs/{id}/actions/stop");
    let stopped = Cluster::ask(&c.marathon, "POST", &stop, None).await;
    assert_eq!(stopped.status, 200, "{}", stopped.text);
    let gone = body(&c.get(&format!("/v1/jobs/prod.backup/runs/{id}")).await);
    assert_eq!(gone["status"], "FAILED");
    let history = body(&c.get("/v1/jobs/prod.backup?embed=history").await);
    assert_eq!(history["history"]["failedFinishedRuns"][0]["id"], id);

    let removed = Cluster::ask(&c.marathon, "DELETE", "/v1/jobs/prod.backup", None).await;
    assert_eq!(removed.status, 200, "{}", removed.text);
    assert_eq!(c.get("/v1/jobs/prod.backup").await.status, 404);
}

#[tokio::test]
async fn v0_takes_schedules_with_the_job() {
    let c = Cluster::start(ClusterView::default());
    let mut job = backup();
    job["schedules"] = json!([nightly()]);
    // In /v1 they have paths of their own, and a client makes them after the job.
    let v1 = c.marathon("POST", "/v1/jobs", &job).await;
    assert_eq!(v1.status, 201);
    assert_eq!(
        body(&c.get("/v1/jobs/prod.backup/schedules").await),
        json!([])
    );
    let put = c
        .marathon("PUT", "/v0/scheduled-jobs/prod.backup", &job)
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    assert_eq!(body(&put)["schedules"][0]["id"], "nightly");
    // What was shown may be sent back.
    let shown = body(
        &c.get("/v1/jobs/prod.backup?embed=historySummary&embed=schedules")
            .await,
    );
    let back = c.marathon("PUT", "/v1/jobs/prod.backup", &shown).await;
    assert_eq!(back.status, 200, "{}", back.text);
    assert_eq!(
        body(&c.get("/v0/scheduled-jobs").await)[0]["schedules"][0]["id"],
        "nightly"
    );
}

#[tokio::test]
async fn bad_input_is_refused_by_field() {
    let c = Cluster::start(ClusterView::default());
    c.marathon("POST", "/v1/jobs", &backup()).await;
    let schedules = "/v1/jobs/prod.backup/schedules";
    for (method, path, given, status, says) in [
        ("POST", "/v1/jobs", json!({"id": "UP"}), 422, "/id"),
        (
            "POST",
            "/v1/jobs",
            json!({"id": "j", "run": {"cmd": "x", "mem": 1}}),
            422,
            "/run/mem",
        ),
        (
            "POST",
            schedules,
            json!({"id": "s", "cron": "* * *"}),
            422,
            "/cron",
        ),
        (
            "POST",
            schedules,
            json!({"id": "s", "cron": "* * * * *", "timezone": "Moon"}),
            422,
            "/timezone",
        ),
        (
            "POST",
            schedules,
            json!({"id": "-s", "cron": "* * * * *"}),
            422,
            "/id",
        ),
        ("POST", "/v1/jobs/none/schedules", nightly(), 404, "none"),
        ("POST", "/v1/jobs/none/runs", json!({}), 404, "none"),
        (
            "POST",
            "/v1/jobs/prod.backup/runs",
            json!({"cmd": "x"}),
            422,
            "/cmd",
        ),
        (
            "POST",
            "/v1/jobs/prod.backup/runs/x/actions/stop",
            json!({}),
            404,
            "no active run x",
        ),
        (
            "DELETE",
            "/v1/jobs/prod.backup/schedules/x",
            json!({}),
            404,
            "no schedule",
        ),
        (
            "PATCH",
            "/v1/jobs/prod.backup",
            json!({}),
            405,
            "GET, PUT, DELETE",
        ),
        ("GET", "/v1/jobs?embed=all", json!({}), 400, "embed"),
        (
            "GET",
            "/v1/jobs/prod.backup/nothing",
            json!({}),
            404,
            "no such path",
        ),
    ] {
        let a = c.marathon(method, path, &given).await;
        assert_eq!(a.status.as_u16(), status, "{method} {path}: {}", a.text);
        let said = body(&a);
        let in_details = said["details"].to_string().contains(says);
        let in_message = said["message"].as_str().unwrap().contains(says);
        assert!(in_details || in_message, "{method} {path}: {}", a.text);
    }
}
