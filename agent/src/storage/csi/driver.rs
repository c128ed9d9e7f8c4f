//! Calls to one driver, over gRPC on its socket.

use std::{path::Path, time::Duration};

use tokio::sync::OnceCell;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use waggle_api::proto::csi::{
    self as pb, controller_client::ControllerClient, identity_client::IdentityClient,
    node_client::NodeClient,
};

use super::plan::Abilities;

/// Longest time for one call; one that takes longer is made again.
const CALL: Duration = Duration::from_mins(1);
/// Attempts at one call.
const ATTEMPTS: u32 = 5;
/// Wait after the first attempt; doubled after each.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// `PluginCapability.Service.Type.CONTROLLER_SERVICE`.
const CONTROLLER: i32 = 1;
/// `ControllerServiceCapability.RPC.Type`: `CREATE_DELETE_VOLUME`, `PUBLISH_UNPUBLISH_VOLUME`.
const CREATE: i32 = 1;
const ATTACH: i32 = 2;
/// `NodeServiceCapability.RPC.Type.STAGE_UNSTAGE_VOLUME`.
const STAGE: i32 = 1;

/// What a driver said about itself.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The node, as it names it.
    pub node_id: String,
    /// What it can do.
    pub can: Abilities,
}

/// One driver.
pub struct Driver {
    name: String,
    channel: Result<Channel, String>,
    facts: OnceCell<Facts>,
}

impl Driver {
    /// Connects when it is called first. Needs a runtime.
    pub fn new(name: &str, socket: &Path) -> Self {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()));
        Self {
            name: name.to_owned(),
            channel: endpoint
                .map(|e| e.connect_timeout(Duration::from_secs(5)).connect_lazy())
                .map_err(|e| format!("{}: {e}", socket.display())),
            facts: OnceCell::new(),
        }
    }

    /// What it is and can do, asked once; an error when it is not there or not ready.
    pub async fn facts(&self) -> Result<&Facts, String> {
        self.facts.get_or_try_init(|| self.ask()).await
    }

    async fn ask(&self) -> Result<Facts, String> {
        let channel = self.channel()?;
        let identity = IdentityClient::new(channel.clone());
        let node = NodeClient::new(channel.clone());
        let info = self
            .call("GetPluginInfo", || {
                let mut c = identity.clone();
                async move { c.get_plugin_info(pb::GetPluginInfoRequest {}).await }
            })
            .await?;
        self.call("Probe", || {
            let mut c = identity.clone();
            async move {
                let answer = c.probe(pb::ProbeRequest {}).await?;
                match answer.get_ref().ready {
                    // Still starting: that passes.
                    Some(pb::BoolValue { value: false }) => {
                        Err(Status::unavailable("the driver is not ready"))
                    }
                    _ => Ok(answer),
                }
            }
        })
        .await?;
        let plugin = self
            .call("GetPluginCapabilities", || {
                let mut c = identity.clone();
                async move {
                    c.get_plugin_capabilities(pb::GetPluginCapabilitiesRequest {})
                        .await
                }
            })
            .await?;
        let has_controller = plugin
            .capabilities
            .iter()
            .any(|c| c.service.as_ref().is_some_and(|s| s.r#type == CONTROLLER));
        let mut can = Abilities::default();
        if has_controller {
            let answer = self
                .call("ControllerGetCapabilities", || {
                    let mut c = ControllerClient::new(channel.clone());
                    async move {
                        let ask = pb::ControllerGetCapabilitiesRequest {};
                        c.controller_get_capabilities(ask).await
                    }
                })
                .await?;
            let has = |n: i32| {
                let mut all = answer.capabilities.iter();
                all.any(|c| c.rpc.as_ref().is_some_and(|r| r.r#type == n))
            };
            (can.create, can.attach) = (has(CREATE), has(ATTACH));
        }
        let answer = self
            .call("NodeGetCapabilities", || {
                let mut c = node.clone();
                async move {
                    c.node_get_capabilities(pb::NodeGetCapabilitiesRequest {})
                        .await
                }
            })
            .await?;
        let mut all = answer.capabilities.iter();
        can.stage = all.any(|c| c.rpc.as_ref().is_some_and(|r| r.r#type == STAGE));
        let node_id = if can.attach {
            let info = self
                .call("NodeGetInfo", || {
                    let mut c = node.clone();
                    async move { c.node_get_info(pb::NodeGetInfoRequest {}).await }
                })
                .await?;
            info.node_id
        } else {
            String::new()
        };
        tracing::info!(
            driver = self.name,
            plugin = info.name,
            version = info.vendor_version,
            ?can,
            "storage driver"
        );
        Ok(Facts { node_id, can })
    }

    /// A client of its controller.
    pub fn controller(&self) -> Result<ControllerClient<Channel>, String> {
        Ok(ControllerClient::new(self.channel()?))
    }

    /// A client of its node part.
    pub fn node(&self) -> Result<NodeClient<Channel>, String> {
        Ok(NodeClient::new(self.channel()?))
    }

    fn channel(&self) -> Result<Channel, String> {
        self.channel
            .clone()
            .map_err(|e| format!("storage driver {}: {e}", self.name))
    }

    /// Makes a call until it is answered for good: what may pass is tried again, with longer and longer waits.
    pub async fn call<T, F>(&self, what: &str, mut make: impl FnMut() -> F) -> Result<T, String>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            let answer = tokio::time::timeout(CALL, make()).await;
            let status = match answer {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => {
                    Status::deadline_exceeded(format!("no answer within {} s", CALL.as_secs()))
                }
            };
            if attempt >= ATTEMPTS || !may_pass(status.code()) {
                let driver = &self.name;
                let (code, said) = (status.code(), status.message());
                return Err(format!(
                    "storage driver {driver}: {what} failed ({code:?}): {said}"
                ));
            }
            tracing::debug!(
                driver = self.name,
                what,
                attempt,
                error = %status,
                "a call is made again"
            );
            tokio::time::sleep(wait).await;
            wait *= 2;
            attempt += 1;
        }
    }
}

/// Codes after which the specification has the caller try again: the driver is away or starting, another call is
/// about the same volume, or the time was up.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Aborted | Code::DeadlineExceeded
    )
}
