//! Mesos's executor API in its own words: calls to the agent's, and what executors are told.

use prost::Message;
use waggle_api::{
    mesos::{
        Media, event, recordio,
        resources::{Format, Writer, to_labels},
    },
    proto::mesos::{self as pb, executor_call, executor_event::Type, task_status},
};
use waggle_lifecycle::ExecutorWord;
use waggle_types::{
    AgentInfo, ExecutorId, ExecutorKey, ExecutorRecord, ExecutorStatus, FrameworkId, HealthState,
    MAX_MESSAGE, Millis, StatusSource, StatusUuid, TaskId, TaskSpec, TaskState, TaskStatus,
    UnixMillis,
};

use super::Call;

/// Longest status that an executor may write, in bytes.
const MAX_STATUS: usize = 256 << 10;
/// Most tasks, and updates, of one subscription.
const MAX_UNACKED: usize = 100_000;

/// A call, and who makes it. The error is Mesos's sentence. `now` stands in where a status has no time.
pub fn call(
    c: pb::ExecutorCall,
    media: Media,
    now: UnixMillis,
) -> Result<(ExecutorKey, Call), String> {
    let executor = c.executor_id.as_ref().map(|id| id.value.clone());
    let executor = executor.ok_or("Expecting 'executor_id' to be present")?;
    let framework = c.framework_id.as_ref().map(|id| id.value.clone());
    let framework = framework.ok_or("Expecting 'framework_id' to be present")?;
    let key = ExecutorKey {
        framework_id: FrameworkId::new(framework).map_err(|e| format!("framework_id: {e}"))?,
        executor_id: ExecutorId::new(executor).map_err(|e| format!("executor_id: {e}"))?,
    };
    let call = match c.r#type() {
        executor_call::Type::Unknown => return Err("Expecting 'type' to be present".to_owned()),
        executor_call::Type::Subscribe => {
            let s = c.subscribe.ok_or("Expecting 'subscribe' to be present")?;
            if s.unacknowledged_tasks
                .len()
                .max(s.unacknowledged_updates.len())
                > MAX_UNACKED
            {
                return Err(format!(
                    "subscribe: at most {MAX_UNACKED} tasks and updates"
                ));
            }
            let tasks = s.unacknowledged_tasks.iter().map(task_id);
            let updates = s.unacknowledged_updates.into_iter();
            Call::Subscribe {
                tasks: tasks.collect::<Result<_, _>>()?,
                updates: updates
                    .map(|u| status(u, &key, now))
                    .collect::<Result<_, _>>()?,
                media,
            }
        }
        executor_call::Type::Update => {
            let update = c.update.ok_or("Expecting 'update' to be present")?;
            Call::Update(Box::new(status(update, &key, now)?))
        }
        executor_call::Type::Message => {
            let message = c.message.ok_or("Expecting 'message' to be present")?;
            let data = message
                .data
                .ok_or("Expecting 'message.data' to be present")?;
            if data.len() > MAX_MESSAGE {
                return Err(format!("message.data: at most {MAX_MESSAGE} bytes"));
            }
            Call::Message(data)
        }
        executor_call::Type::Heartbeat => Call::Heartbeat,
    };
    Ok((key, call))
}

fn task_id(t: &pb::TaskInfo) -> Result<TaskId, String> {
    let id = t.task_id.as_ref().map(|id| id.value.clone());
    TaskId::new(id.unwrap_or_default()).map_err(|e| format!("task_id: {e}"))
}

/// A status as an executor may write it (Mesos's `common/validation.cpp`).
fn status(
    update: pb::ExecutorUpdate,
    key: &ExecutorKey,
    now: UnixMillis,
) -> Result<TaskStatus, String> {
    let s = update.status.ok_or("Expecting 'status' to be present")?;
    let id = s.task_id.as_ref().map(|id| id.value.clone());
    let id = id.ok_or("Expecting 'task_id' to be present")?;
    let task_id = TaskId::new(id).map_err(|e| format!("task_id: {e}"))?;
    let uuid = s.uuid.as_deref().ok_or("Expecting 'uuid' to be present")?;
    let uuid = <[u8; 16]>::try_from(uuid);
    let uuid = uuid.map_err(|_| "Expecting 'uuid' to be 16 bytes")?;
    if let Some(other) = s.executor_id.as_ref().map(|id| id.value.as_str())
        && other != key.executor_id.as_str()
    {
        return Err(format!(
            "ExecutorID in Call: {} does not match ExecutorID in TaskStatus: {other:.200}",
            key.executor_id
        ));
    }
    if s.source != Some(task_status::Source::Executor.into()) {
        return Err(format!(
            "Received Call from executor {key} with invalid source, expecting 'SOURCE_EXECUTOR'"
        ));
    }
    let state = s.state.map(|_| s.state()).and_then(state);
    let state = state.ok_or("Expecting 'state' to be one that an executor can report")?;
    if state == TaskState::Staging {
        return Err(format!(
            "Received TASK_STAGING from executor {key} which is not allowed"
        ));
    }
    let info = s.encode_to_vec();
    if info.len() > MAX_STATUS {
        return Err(format!(
            "status: at most {MAX_STATUS} bytes, is {}",
            info.len()
        ));
    }
    let at = s
        .timestamp
        .filter(|t| t.is_finite() && (0.0..9e12).contains(t));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and far below what fits"
    )]
    let at = at.map_or(now, |secs| UnixMillis((secs * 1000.0) as u64));
    Ok(TaskStatus {
        task_id,
        // Set by the agent.
        agent_id: waggle_types::AgentId::new("agent").map_err(|e| e.to_string())?,
        state,
        health: match s.healthy {
            None => HealthState::Unknown,
            Some(true) => HealthState::Healthy,
            Some(false) => HealthState::Unhealthy,
        },
        ready: None,
        check: None,
        responses: Vec::new(),
        ip: None,
        ip6: None,
        reason: None,
        message: s.message.clone().unwrap_or_default(),
        source: StatusSource::Executor,
        at,
        uuid: Some(StatusUuid(uuid)),
        executor: Some(Box::new(ExecutorStatus {
            executor_id: key.executor_id.clone(),
            info,
        })),
    })
}

/// States that an executor may report, and `Staging`, which it may not; `None` for conclusions about agents.
fn state(s: pb::TaskState) -> Option<TaskState> {
    use pb::TaskState as P;
    Some(match s {
        P::TaskStaging => TaskState::Staging,
        P::TaskStarting => TaskState::Starting,
        P::TaskRunning => TaskState::Running,
        P::TaskKilling => TaskState::Killing,
        P::TaskFinished => TaskState::Finished,
        P::TaskFailed => TaskState::Failed,
        P::TaskKilled => TaskState::Killed,
        P::TaskError => TaskState::Error,
        P::TaskLost => TaskState::Lost,
        P::TaskDropped => TaskState::Dropped,
        P::TaskUnreachable | P::TaskGone | P::TaskGoneByOperator | P::TaskUnknown => return None,
    })
}

fn blank(t: Type) -> pb::ExecutorEvent {
    pb::ExecutorEvent {
        r#type: Some(t.into()),
        ..pb::ExecutorEvent::default()
    }
}

/// That the agent lives, as a record.
pub fn heartbeat(media: Media) -> Vec<u8> {
    recordio::frame(&media.write(&blank(Type::Heartbeat)))
}

/// What an executor is told, as a record.
pub fn event(word: &ExecutorWord, agent: &AgentInfo, media: Media) -> Vec<u8> {
    recordio::frame(&media.write(&message(word, agent)))
}

fn message(word: &ExecutorWord, agent: &AgentInfo) -> pb::ExecutorEvent {
    let id = |id: &TaskId| {
        Some(pb::TaskId {
            value: id.to_string(),
        })
    };
    match word {
        ExecutorWord::Subscribed { record, container } => pb::ExecutorEvent {
            subscribed: Some(pb::ExecutorSubscribed {
                executor_info: Some(executor_info(record)),
                framework_info: Some(framework_info(record)),
                agent_info: Some(agent_info(agent)),
                container_id: Some(event::container_id(container.to_string())),
            }),
            ..blank(Type::Subscribed)
        },
        ExecutorWord::Launch(spec) => pb::ExecutorEvent {
            launch: Some(pb::ExecutorLaunch {
                task: Some(task_info(spec, agent)),
            }),
            ..blank(Type::Launch)
        },
        ExecutorWord::LaunchGroup(specs) => pb::ExecutorEvent {
            launch_group: Some(pb::ExecutorLaunchGroup {
                task_group: Some(pb::TaskGroupInfo {
                    tasks: specs.iter().map(|spec| task_info(spec, agent)).collect(),
                }),
            }),
            ..blank(Type::LaunchGroup)
        },
        ExecutorWord::Kill { task_id, grace } => pb::ExecutorEvent {
            kill: Some(pb::ExecutorKill {
                task_id: id(task_id),
                kill_policy: Some(pb::KillPolicy {
                    grace_period: Some(pb::DurationInfo {
                        nanoseconds: nanoseconds(*grace),
                    }),
                }),
            }),
            ..blank(Type::Kill)
        },
        ExecutorWord::Acknowledged { task_id, uuid } => pb::ExecutorEvent {
            acknowledged: Some(pb::ExecutorAcknowledged {
                task_id: id(task_id),
                uuid: Some(uuid.0.to_vec()),
            }),
            ..blank(Type::Acknowledged)
        },
        ExecutorWord::Message(data) => pb::ExecutorEvent {
            message: Some(pb::ExecutorHears {
                data: Some(data.clone()),
            }),
            ..blank(Type::Message)
        },
        ExecutorWord::Shutdown => blank(Type::Shutdown),
    }
}

fn nanoseconds(d: Millis) -> i64 {
    event::nanos(d.0)
}

fn writer(role: &str) -> Writer<'_> {
    Writer {
        format: Format::Stack,
        role: Some(role),
        paths: None,
    }
}

/// An executor as the framework wrote it, with the ids that make it whole.
pub(crate) fn executor_info(record: &ExecutorRecord) -> pb::ExecutorInfo {
    let spec = &record.spec;
    let written = pb::ExecutorInfo::decode(spec.info.as_slice());
    let mut info = match written {
        Ok(info) if !spec.info.is_empty() => info,
        _ => pb::ExecutorInfo {
            name: Some(spec.name.clone()),
            r#type: Some(pb::executor_info::Type::Custom.into()),
            resources: writer(&record.role).write(&spec.resources, &spec.parts),
            labels: to_labels(&spec.labels),
            ..pb::ExecutorInfo::default()
        },
    };
    info.executor_id = Some(pb::ExecutorId {
        value: spec.executor_id.to_string(),
    });
    info.framework_id = Some(pb::FrameworkId {
        value: record.framework_id.to_string(),
    });
    info
}

/// An executor's framework, as far as this agent knows it.
pub(crate) fn framework_info(record: &ExecutorRecord) -> pb::FrameworkInfo {
    let given = &record.spec.framework_info;
    let written = pb::FrameworkInfo::decode(given.as_slice());
    let mut info = match written {
        Ok(info) if !given.is_empty() => info,
        _ => pb::FrameworkInfo {
            name: Some(record.framework_name.clone()),
            checkpoint: Some(record.spec.checkpoint),
            ..pb::FrameworkInfo::default()
        },
    };
    info.id = Some(pb::FrameworkId {
        value: record.framework_id.to_string(),
    });
    info
}

/// This agent.
pub(crate) fn agent_info(agent: &AgentInfo) -> pb::AgentInfo {
    let text = |(name, text): (&String, &String)| pb::Attribute {
        name: name.clone(),
        r#type: Some(pb::value::Type::Text.into()),
        text: Some(pb::ValueText {
            value: text.clone(),
        }),
        ..pb::Attribute::default()
    };
    let whole = Writer {
        role: None,
        ..writer("")
    };
    pb::AgentInfo {
        hostname: Some(agent.hostname.clone()),
        resources: whole.write(&agent.total, &[]),
        attributes: agent.attributes.iter().map(text).collect(),
        id: Some(pb::AgentId {
            value: agent.agent_id.to_string(),
        }),
        port: Some(agent.http_port.into()),
        domain: agent.domain.as_ref().map(event::domain),
    }
}

/// As the framework wrote it, or made of the spec.
fn task_info(spec: &TaskSpec, agent: &AgentInfo) -> pb::TaskInfo {
    let given = spec.executor.as_ref().map_or(&[][..], |on| &on.info);
    let written = pb::TaskInfo::decode(given);
    let mut info = match written {
        Ok(info) if !given.is_empty() => info,
        _ => pb::TaskInfo {
            name: Some(spec.name.clone()),
            resources: writer(&spec.role).write(&spec.resources, &spec.parts),
            labels: to_labels(&spec.labels),
            ..pb::TaskInfo::default()
        },
    };
    info.task_id = Some(pb::TaskId {
        value: spec.task_id.to_string(),
    });
    info.agent_id = Some(pb::AgentId {
        value: agent.agent_id.to_string(),
    });
    info
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(5);

    fn read(body: &serde_json::Value) -> Result<(ExecutorKey, Call), String> {
        let c = Media::Json.read(body.to_string().as_bytes());
        let c = c.map_err(|e| e.to_string())?;
        call(c, Media::Json, NOW)
    }

    fn update(change: impl FnOnce(&mut serde_json::Value)) -> serde_json::Value {
        let mut body = serde_json::json!({
            "type": "UPDATE",
            "executor_id": {"value": "e"},
            "framework_id": {"value": "f"},
            "update": {"status": {
                "task_id": {"value": "t"},
                "state": "TASK_RUNNING",
                "source": "SOURCE_EXECUTOR",
                "uuid": "AAECAwQFBgcICQoLDA0ODw==",
                "timestamp": 3,
                "data": "/wA=",
            }},
        });
        change(&mut body["update"]["status"]);
        body
    }

    #[test]
    fn an_update_is_what_mesos_lets_through() {
        let (key, call) = read(&update(|_| {})).unwrap();
        assert_eq!(key.executor_id.as_str(), "e");
        let Call::Update(s) = call else { panic!() };
        assert_eq!((s.state, s.at), (TaskState::Running, UnixMillis(3000)));
        let written = pb::TaskStatus::decode(s.executor.unwrap().info.as_slice()).unwrap();
        assert_eq!(written.data, Some(vec![255, 0]), "unchanged");
        for (change, why) in [
            (r#"{"uuid": null}"#, "Expecting 'uuid' to be present"),
            (r#"{"uuid": "AAEC"}"#, "16 bytes"),
            (r#"{"source": "SOURCE_AGENT"}"#, "SOURCE_EXECUTOR"),
            (r#"{"source": null}"#, "SOURCE_EXECUTOR"),
            (r#"{"state": "TASK_STAGING"}"#, "TASK_STAGING"),
            (r#"{"state": "TASK_GONE"}"#, "Expecting 'state'"),
            (r#"{"state": null}"#, "Expecting 'state'"),
            (r#"{"executor_id": {"value": "x"}}"#, "does not match"),
            (r#"{"task_id": null}"#, "Expecting 'task_id'"),
            (r#"{"task_id": {"value": "a/b"}}"#, "task_id"),
        ] {
            let change: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(change).unwrap();
            let body = update(|s| s.as_object_mut().unwrap().extend(change));
            let said = read(&body).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn calls_without_what_they_are_about_are_refused() {
        for (body, why) in [
            (r#"{"type":"SUBSCRIBE"}"#, "executor_id"),
            (
                r#"{"executor_id":{"value":"e"},"framework_id":{"value":"f"}}"#,
                "'type'",
            ),
            (
                r#"{"type":"MESSAGE","executor_id":{"value":"e"},"framework_id":{"value":"f"}}"#,
                "'message'",
            ),
            (
                r#"{"type":"SUBSCRIBE","executor_id":{"value":"e"},"framework_id":{"value":"f"}}"#,
                "'subscribe'",
            ),
        ] {
            let said = read(&serde_json::from_str(body).unwrap()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    proptest! {
        /// Whatever an executor sends is refused or regular.
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for media in [Media::Json, Media::Protobuf] {
                if let Ok(c) = media.read::<pb::ExecutorCall>(&bytes) {
                    let _ = call(c, media, NOW);
                }
            }
        }

        #[test]
        fn damaged_calls_are_survived(at in any::<prop::sample::Index>(), to in any::<u8>(), state in -2i32..20) {
            let mut c: pb::ExecutorCall =
                Media::Json.read(update(|_| {}).to_string().as_bytes()).unwrap();
            if let Some(s) = c.update.as_mut().and_then(|u| u.status.as_mut()) {
                s.state = Some(state);
            }
            let mut bytes = c.encode_to_vec();
            let i = at.index(bytes.len());
            bytes[i] = to;
            if let Ok(c) = Media::Protobuf.read::<pb::ExecutorCall>(&bytes)
                && let Ok((_, Call::Update(s))) = call(c, Media::Protobuf, NOW)
            {
                prop_assert!(s.uuid.is_some());
                prop_assert!(s.state != TaskState::Staging);
            }
        }
    }
}
