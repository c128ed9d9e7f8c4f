//! One task's lines from its agent, over as many connections as that takes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};
use waggle_api::{
    error::{ApiError, ErrorCode},
    logs::{LogCursor, LogEvent, LogQuery, MAX_PIECE},
};

use super::super::relay;
use crate::http::respond::Fail;

/// Between two attempts to reach an agent.
const RETRY: Duration = Duration::from_millis(500);
/// Longest silence: agents that follow say several times a second how far they are.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest line of an agent's answer: a piece of a line whose every byte is escaped.
const MAX_JSON: usize = 8 * MAX_PIECE + 4096;
/// Most bytes of a refusal.
const MAX_REFUSAL: usize = 64 << 10;

/// One task's output.
pub struct Pull {
    /// Whose.
    pub task: String,
    /// Where.
    pub agent: SocketAddr,
    /// Which part.
    pub query: LogQuery,
    /// How far it was told.
    pub cursor: LogCursor,
}

/// An answer that is being read.
pub struct Open {
    body: Incoming,
    held: Vec<u8>,
}

/// How an answer ended.
enum End {
    /// All was told.
    Over,
    /// It broke off.
    Broken,
    /// Nobody listens.
    Unheard,
}

impl Pull {
    /// Asks the agent.
    pub async fn open(&self) -> Result<Open, Fail> {
        let task = relay::encode(&self.task);
        let query = self.query.write();
        // A first question may say all of it by its query.
        let cursor = if self.query.cursor.is_some() || !self.cursor.is_empty() {
            format!("&cursor={}", self.cursor)
        } else {
            String::new()
        };
        let request = Request::get(format!("/waggle/v1/tasks/{task}/logs?{query}{cursor}"))
            .header(header::HOST, self.agent.to_string())
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::new()))
            .map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()))?;
        let answer = relay::ask(self.agent, request).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Open {
                body: answer.into_body(),
                held: Vec::new(),
            });
        }
        let body = Limited::new(answer.into_body(), MAX_REFUSAL)
            .collect()
            .await;
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let why = json["message"].as_str().unwrap_or("no message").to_owned();
        let code = match status {
            StatusCode::NOT_FOUND => ErrorCode::NotFound,
            StatusCode::GONE => ErrorCode::Gone,
            StatusCode::BAD_REQUEST => ErrorCode::BadRequest,
            _ => ErrorCode::Unavailable,
        };
        Err(ApiError::new(code, why).into())
    }

    /// Hands on what comes, until the task has ended or nobody listens. The first question may have been answered already.
    pub async fn run(mut self, first: Option<Open>, to: mpsc::Sender<LogEvent>, wake: Arc<Notify>) {
        let mut open = first;
        loop {
            if let Some(open) = open.take() {
                match self.read(open, &to, &wake).await {
                    End::Over | End::Unheard => break,
                    End::Broken if !self.query.follow => break,
                    End::Broken => {}
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = to.closed() => break,
            }
            // From now on by what was told: a gap is better than silence.
            self.query.tail = self.query.tail.filter(|_| self.cursor.is_empty());
            self.query.may_skip = true;
            match self.open().await {
                Ok(again) => open = Some(again),
                // The agent knows it no more.
                Err(e) if e.code() == ErrorCode::NotFound => break,
                Err(_) => {}
            }
        }
        drop(to);
        wake.notify_one();
    }

    async fn read(&mut self, mut open: Open, to: &mpsc::Sender<LogEvent>, wake: &Notify) -> End {
        loop {
            let event = match tokio::time::timeout(SILENCE, open.next()).await {
                Ok(Some(event)) => event,
                Ok(None) if !self.query.follow => return End::Over,
                Ok(None) | Err(_) => return End::Broken,
            };
            if let LogEvent::Line(line) = &event {
                self.cursor.set(&line.task, &line.stream, line.next);
                self.cursor.floor_us = self.cursor.floor_us.max(line.time_us);
            }
            let over = matches!(event, LogEvent::Ended { .. });
            if to.send(event).await.is_err() {
                return End::Unheard;
            }
            wake.notify_one();
            if over {
                return End::Over;
            }
        }
    }
}

impl Open {
    /// The next event; none when the answer has ended, or is none that is known here.
    async fn next(&mut self) -> Option<LogEvent> {
        loop {
            if let Some(end) = self.held.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return serde_json::from_slice(&line).ok();
            }
            if self.held.len() > MAX_JSON {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.held.extend_from_slice(bytes);
            }
        }
    }
}
