//! A framework and an operator that speak Mesos's JSON.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    Master,
    wire::{Answer, Records, send},
};

pub const PATH: &str = "/api/v1/scheduler";
pub const JSON: (&str, &str) = ("Content-Type", "application/json");
pub const TAKES_JSON: (&str, &str) = ("Accept", "application/json");
pub const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");
pub const TAKES_PROTOBUF: (&str, &str) = ("Accept", "application/x-protobuf");

pub fn subscribe(name: &str, id: Option<&str>) -> Value {
    let mut info = json!({ "user": "root", "name": name, "failover_timeout": 60 });
    let mut call = json!({ "type": "SUBSCRIBE" });
    if let Some(id) = id {
        info["id"] = json!({ "value": id });
        call["framework_id"] = json!({ "value": id });
    }
    call["subscribe"] = json!({ "framework_info": info });
    call
}

/// The call of a framework of one role that can handle reservations and several roles.
pub fn subscribe_as(name: &str, role: &str) -> Value {
    let mut call = subscribe(name, None);
    let info = &mut call["subscribe"]["framework_info"];
    info["roles"] = json!([role]);
    info["capabilities"] = json!([{ "type": "MULTI_ROLE" }, { "type": "RESERVATION_REFINEMENT" }]);
    call
}

/// A framework with its stream.
pub struct Framework {
    pub at: SocketAddr,
    pub id: String,
    pub stream_id: String,
    pub events: Records,
}

impl Framework {
    pub async fn new(at: SocketAddr, name: &str, id: Option<&str>) -> Self {
        Self::subscribed(at, &subscribe(name, id)).await
    }

    /// Subscribes by a call.
    pub async fn subscribed(at: SocketAddr, call: &Value) -> Self {
        let call = call.to_string();
        let mut events = Records::open(at, PATH, &[JSON, TAKES_JSON], call.as_bytes()).await;
        assert!(events.head.starts_with("HTTP/1.1 200"), "{}", events.head);
        assert_eq!(events.header("transfer-encoding"), Some("chunked"));
        assert_eq!(events.header("content-length"), None);
        assert_eq!(events.header("content-type"), Some("application/json"));
        let stream_id = events.header("mesos-stream-id").unwrap().to_owned();
        let subscribed = events.event("SUBSCRIBED").await;
        assert_eq!(subscribed["heartbeat_interval_seconds"], 15.0);
        let id = subscribed["framework_id"]["value"]
            .as_str()
            .unwrap()
            .to_owned();
        Self {
            at,
            id,
            stream_id,
            events,
        }
    }

    pub async fn call(&self, mut call: Value) -> Answer {
        call["framework_id"] = json!({ "value": self.id });
        let headers = [JSON, ("Mesos-Stream-Id", self.stream_id.as_str())];
        send(self.at, "POST", PATH, &headers, call.to_string().as_bytes()).await
    }

    pub async fn takes(&self, call: Value) {
        let a = self.call(call.clone()).await;
        assert_eq!((a.status, a.body.len()), (202, 0), "{call}: {}", a.text());
        assert!(
            a.head.to_lowercase().contains("content-length: 0"),
            "{}",
            a.head
        );
    }

    pub async fn offer(&mut self) -> Value {
        let offers = self.events.event("OFFERS").await;
        offers["offers"][0].clone()
    }

    pub async fn update(&mut self, task: &str, state: &str) -> Value {
        loop {
            let update = self.events.event("UPDATE").await;
            let status = &update["status"];
            if status["task_id"]["value"] == task && status["state"] == state {
                return status.clone();
            }
        }
    }
}

pub fn task(offer: &Value, id: &str, command: &str, cpus: f64) -> Value {
    json!({
        "name": id,
        "task_id": { "value": id },
        "agent_id": offer["agent_id"],
        "command": { "value": command },
        "resources": [{ "name": "cpus", "type": "SCALAR", "scalar": { "value": cpus } }],
    })
}

pub fn launch(offer: &Value, tasks: &[Value]) -> Value {
    json!({
        "type": "ACCEPT",
        "accept": {
            "offer_ids": [offer["id"]],
            "operations": [{ "type": "LAUNCH", "launch": { "task_infos": tasks } }],
            "filters": { "refuse_seconds": 0 },
        },
    })
}

/// An operator calls.
pub async fn operate(m: &Master, call: &Value) -> Answer {
    send(
        m.mesos,
        "POST",
        "/api/v1/operator",
        &[JSON, TAKES_JSON],
        call.to_string().as_bytes(),
    )
    .await
}
