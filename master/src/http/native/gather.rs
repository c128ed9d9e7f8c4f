//! One question to all agents, whose answers become one.
//!
//! Agents that are out of reach, too slow or do not understand are told of by name; the others' answers stand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::http::{Request, header};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use waggle_api::{
    error::{ApiError, ErrorCode},
    native::SilentView,
};

use super::relay;
use crate::{
    http::{Api, respond::Fail},
    view::{AgentMode, ClusterView},
};

/// Questions to all agents at the same moment; one more is answered 503.
const MAX_QUESTIONS: usize = 4;
/// Agents that are asked at once.
const AT_ONCE: usize = 32;
/// How long an agent may take for all of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer of an agent.
const MAX_ANSWER: usize = 16 << 20;
/// Longest reason that is passed on, in characters.
const MAX_WHY: usize = 200;

/// Room for questions.
#[derive(Debug, Clone)]
pub(in crate::http) struct Questions(Arc<Semaphore>);

impl Default for Questions {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_QUESTIONS)))
    }
}

impl Questions {
    fn one_more(&self) -> Result<OwnedSemaphorePermit, Fail> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let why =
                format!("{MAX_QUESTIONS} questions to all agents are asked already, try again");
            ApiError::new(ErrorCode::Unavailable, why).into()
        })
    }
}

/// Asks every agent that is not gone; `take` gets each answer as it comes. Returns those that did not answer, by name.
pub(super) async fn gather<T: DeserializeOwned + Send>(
    api: &Api,
    view: &ClusterView,
    path: &str,
    mut take: impl FnMut(T),
) -> Result<Vec<SilentView>, Fail> {
    let _slot = api.questions.one_more()?;
    let agents = view.agents.values().filter(|a| a.mode != AgentMode::Gone);
    let (there, away): (Vec<_>, Vec<_>) = agents.partition(|a| a.reachable);
    let mut silent: Vec<SilentView> = away
        .iter()
        .map(|a| SilentView {
            node: a.info.hostname.clone(),
            why: "it is out of the master's reach".to_owned(),
        })
        .collect();
    let path: Arc<str> = path.into();
    let mut questions = Vec::new();
    for agent in there {
        let at = SocketAddr::from((agent.info.ip, agent.info.http_port));
        let (node, path) = (agent.info.hostname.clone(), Arc::clone(&path));
        questions.push(async move { (node, ask::<T>(at, &path).await) });
    }
    let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
    while let Some((node, answer)) = answers.next().await {
        match answer {
            Ok(answer) => take(answer),
            Err(why) => {
                let why = why.chars().take(MAX_WHY).collect();
                silent.push(SilentView { node, why });
            }
        }
    }
    silent.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(silent)
}

async fn ask<T: DeserializeOwned>(agent: SocketAddr, path: &str) -> Result<T, String> {
    let asked = async {
        let request = Request::get(path)
            .header(header::HOST, agent.to_string())
            .body(Full::new(Bytes::new()))
            .map_err(|e| e.to_string())?;
        let answer = relay::ask(agent, request)
            .await
            .map_err(|e| e.message().to_owned())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        if !status.is_success() {
            return Err(format!(
                "it answers {status}: {}",
                String::from_utf8_lossy(&body)
            ));
        }
        serde_json::from_slice(&body).map_err(|e| format!("its answer can't be read: {e}"))
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
