//! Mesos's operator API, in JSON and in protobuf.

use futures::StreamExt as _;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use waggle_api::{mesos::recordio, proto::mesos as pb};

use super::*;
use crate::framework::{Outcome, SchedulerDoor};

const PROTOBUF: &str = "application/x-protobuf";

async fn post(c: &Cluster, media: &str, accept: &str, body: Vec<u8>) -> axum::response::Response {
    let request = HttpRequest::builder()
        .method("POST")
        .uri("/api/v1")
        .header("content-type", media)
        .header("accept", accept)
        .body(Body::from(body))
        .unwrap();
    c.mesos.clone().oneshot(request).await.unwrap()
}

async fn call(c: &Cluster, call: &pb::OperatorCall) -> (u16, Vec<u8>) {
    let response = post(c, PROTOBUF, PROTOBUF, call.encode_to_vec()).await;
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, body.to_vec())
}

fn of_kind(kind: pb::operator_call::Type) -> pb::OperatorCall {
    pb::OperatorCall {
        r#type: Some(kind.into()),
        ..pb::OperatorCall::default()
    }
}

#[tokio::test]
async fn every_read_says_in_protobuf_what_it_says_in_json() {
    use pb::operator_call::Type;
    let c = Cluster::start(busy());
    for kind in [
        Type::GetHealth,
        Type::GetFlags,
        Type::GetVersion,
        Type::GetMetrics,
        Type::GetLoggingLevel,
        Type::GetState,
        Type::GetAgents,
        Type::GetFrameworks,
        Type::GetExecutors,
        Type::GetOperations,
        Type::GetTasks,
        Type::GetRoles,
        Type::GetWeights,
        Type::GetMaster,
        Type::GetMaintenanceStatus,
        Type::GetMaintenanceSchedule,
        Type::GetQuota,
    ] {
        let name = kind.as_str_name();
        let (status, body) = call(&c, &of_kind(kind)).await;
        assert_eq!(status, 200, "{name}: {}", String::from_utf8_lossy(&body));
        let answer = pb::OperatorResponse::decode(body.as_slice()).unwrap();
        assert_eq!(answer.r#type().as_str_name(), name);
        let json = json!({ "type": name }).to_string().into_bytes();
        let response = post(&c, "application/json", "application/json", json).await;
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let json: pb::OperatorResponse = serde_json::from_slice(&body).unwrap();
        if kind != Type::GetMetrics {
            assert_eq!(answer, json, "{name}");
        }
    }
    let (_, body) = call(&c, &of_kind(Type::GetState)).await;
    let answer = pb::OperatorResponse::decode(body.as_slice()).unwrap();
    let state = answer.get_state.unwrap();
    let tasks = state.get_tasks.unwrap().tasks;
    assert_eq!(
        (tasks.len(), tasks[0].state()),
        (2, pb::TaskState::TaskRunning)
    );
    let agents = state.get_agents.unwrap().agents;
    let info = agents[0].agent_info.as_ref().unwrap();
    assert_eq!((info.hostname(), info.port()), ("n1", 5051));
    assert!(!agents[0].total_resources.is_empty());
}

#[tokio::test]
async fn operations_of_frameworks_and_agents_that_are_there_are_listed() {
    use pb::operator_call::Type;
    let view = busy();
    let framework = view.frameworks.keys().next().unwrap().clone();
    let mut c = Cluster::start(view);
    let (inbox, _events) = tokio::sync::mpsc::channel(1);
    let (telemetry, stop) = (Telemetry::disabled(), CancellationToken::new());
    let door = SchedulerDoor::new(inbox, Arc::default(), 1, telemetry, stop);
    let outcomes = Arc::clone(&door.outcomes);
    c.mesos = mesos_router(c.handle.clone(), Some(door), Telemetry::disabled());
    let keep = |of: &FrameworkId, id: &str, agent: &str, uuid: Option<u8>| {
        let status = pb::OperationStatus {
            operation_id: Some(pb::OperationId { value: id.into() }),
            state: Some(pb::OperationState::OperationFinished.into()),
            agent_id: Some(pb::AgentId {
                value: agent.into(),
            }),
            uuid: uuid.map(|b| pb::Uuid { value: vec![b; 16] }),
            ..pb::OperationStatus::default()
        };
        let asked = pb::OfferOperation {
            r#type: Some(pb::offer_operation::Type::Reserve.into()),
            id: status.operation_id.clone(),
            reserve: Some(pb::Reserve::default()),
            ..pb::OfferOperation::default()
        };
        outcomes.keep(of, Outcome::new(status, &asked));
    };
    keep(&framework, "known", "a1", Some(1));
    keep(&framework, "refused", "a1", None);
    keep(&framework, "elsewhere", "gone", Some(2));
    let removed = FrameworkId::new("removed").unwrap();
    keep(&removed, "nobody's", "a1", Some(3));
    let (status, body) = call(&c, &of_kind(Type::GetOperations)).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let answer = pb::OperatorResponse::decode(body.as_slice()).unwrap();
    let all = answer.get_operations.unwrap().operations;
    assert_eq!(all.len(), 1, "{all:?}");
    let one = &all[0];
    assert_eq!(
        one.framework_id.as_ref().unwrap().value,
        framework.to_string()
    );
    assert_eq!(one.agent_id.as_ref().unwrap().value, "a1");
    let info = one.info.as_ref().unwrap();
    assert_eq!(info.r#type(), pb::offer_operation::Type::Reserve);
    assert_eq!(info.id.as_ref().unwrap().value, "known");
    assert_eq!(one.statuses.as_slice(), one.latest_status.as_slice());
    assert_eq!(one.statuses.len(), 1);
    assert_eq!(one.uuid.as_ref().unwrap().value.len(), 16);
    outcomes.acknowledge(&framework, "known", &[1; 16]);
    let (_, body) = call(&c, &of_kind(Type::GetOperations)).await;
    let answer = pb::OperatorResponse::decode(body.as_slice()).unwrap();
    assert!(answer.get_operations.unwrap().operations.is_empty());
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_both() {
    let c = Cluster::start(busy());
    let json = "application/json";
    for (media, accept, body, status) in [
        ("text/plain", json, vec![], 415),
        (json, "text/plain", b"{}".to_vec(), 406),
        (json, json, b"{}".to_vec(), 400),
        (json, json, "[".repeat(1000).into_bytes(), 400),
        (PROTOBUF, json, vec![], 400),
        (PROTOBUF, PROTOBUF, vec![0xff; 9], 400),
        (PROTOBUF, PROTOBUF, vec![8, 99], 400),
        // UPDATE_WEIGHTS without weights; SET_LOGGING_LEVEL beyond what there is.
        (PROTOBUF, PROTOBUF, vec![8, 16], 400),
        (PROTOBUF, PROTOBUF, vec![8, 6, 0x1a, 2, 8, 9], 400),
    ] {
        let response = post(&c, media, accept, body.clone()).await;
        assert_eq!(response.status().as_u16(), status, "{media} {body:?}");
    }
    // A small body that would be large.
    let many = [
        vec![8, 19, 0x3a, 0x80, 0x80, 0x20],
        [0x12, 0].repeat(1 << 18),
    ]
    .concat();
    let response = post(&c, PROTOBUF, PROTOBUF, many).await;
    assert!(response.status().is_client_error());
}

#[tokio::test]
async fn a_logging_level_is_set_for_a_while() {
    use pb::operator_call::Type;
    let c = Cluster::start(busy());
    let set = pb::OperatorCall {
        set_logging_level: Some(pb::SetLoggingLevel {
            level: Some(2),
            duration: Some(pb::DurationInfo {
                nanoseconds: 300_000_000,
            }),
        }),
        ..of_kind(Type::SetLoggingLevel)
    };
    assert_eq!(call(&c, &set).await.0, 200);
    let level = async || {
        let (_, body) = call(&c, &of_kind(Type::GetLoggingLevel)).await;
        let answer = pb::OperatorResponse::decode(body.as_slice()).unwrap();
        answer.get_logging_level.unwrap().level()
    };
    assert_eq!(level().await, 2);
    assert_eq!(c.mesos("/logging/toggle").await.text, "2\n");
    let over = async {
        while level().await > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, over).await.unwrap();
    let toggled = c
        .mesos("/master/logging/toggle?level=1&duration=5mins")
        .await;
    assert_eq!(toggled.status, 200, "{}", toggled.text);
    assert_eq!(level().await, 1);
    assert_eq!(c.mesos("/logging/toggle?level=1").await.status, 400);
    assert_eq!(
        c.mesos("/logging/toggle?level=1&duration=5").await.status,
        400
    );
}

#[tokio::test]
async fn events_come_in_protobuf_too() {
    let c = Cluster::start(busy());
    let subscribe = of_kind(pb::operator_call::Type::Subscribe).encode_to_vec();
    let response = post(&c, PROTOBUF, PROTOBUF, subscribe).await;
    assert_eq!(response.headers()["content-type"], PROTOBUF);
    let mut body = response.into_body().into_data_stream();
    let mut reader = recordio::Reader::default();
    let record = loop {
        reader.push(&body.next().await.unwrap().unwrap());
        if let Some(record) = reader.next_record().unwrap() {
            break record;
        }
    };
    let event = pb::OperatorEvent::decode(record.as_slice()).unwrap();
    assert_eq!(event.r#type(), pb::operator_event::Type::Subscribed);
    let said = event.subscribed.unwrap();
    assert!((said.heartbeat_interval_seconds() - 15.0).abs() < f64::EPSILON);
    let frameworks = said.get_state.unwrap().get_frameworks.unwrap().frameworks;
    assert_eq!(
        frameworks[0].framework_info.as_ref().unwrap().name(),
        "marathon"
    );
}
