//! Packets of overlay networks, encrypted between nodes: the device at the start, its peers with each desired state.

use std::net::Ipv4Addr;

use waggle_overlay::wireguard::{self, Wireguard, WireguardConfig, WireguardError};
use waggle_types::{FieldError, NetSnapshot, Vxlan, WireguardKey};

use super::{Net, chain};
use crate::{AgentConfig, AgentError};

/// The private key, in the work directory.
const KEY_FILE: &str = "wireguard.key";

impl Net {
    /// Makes this node encrypt. Whoever asks for encryption does not get a node without it.
    pub async fn load_encryption(&mut self, config: &AgentConfig) -> Result<(), AgentError> {
        let Some(port) = config.encrypt else {
            return Ok(());
        };
        let (node, key_file) = (config.ip, config.work_dir.join(KEY_FILE));
        let vxlan_port = self
            .restored
            .as_ref()
            .map_or_else(|| Vxlan::default().port, |kept| kept.vxlan.port);
        let start = move || {
            Wireguard::start(WireguardConfig {
                node,
                key_file,
                port,
                vxlan_port,
                underlay_mtu: wireguard::underlay_mtu(node)?,
            })
        };
        match tokio::task::spawn_blocking(start).await {
            Ok(Ok(started)) => {
                tracing::info!(key = %started.key(), "packets of overlay networks are encrypted");
                self.encryption = Some(std::sync::Arc::new(started));
                Ok(())
            }
            Ok(Err(
                e @ (WireguardError::Unsupported
                | WireguardError::Key { .. }
                | WireguardError::Mtu { .. }),
            )) => Err(FieldError::new("encrypt", chain(&e)).into()),
            Ok(Err(e)) => Err(AgentError::Network(e.into())),
            // The runtime shuts down.
            Err(e) => Err(AgentError::Network(e.into())),
        }
    }

    /// This node's public key, where it encrypts.
    pub fn wireguard_key(&self) -> Option<WireguardKey> {
        self.encryption.as_ref().map(|encryption| encryption.key())
    }

    /// Brings the device's peers to a desired state.
    pub(super) async fn sync_encryption(&self, desired: &NetSnapshot) {
        let Some(encryption) = self.encryption.clone() else {
            return;
        };
        let nodes: Vec<(Ipv4Addr, Option<WireguardKey>)> = desired
            .agents
            .values()
            .map(|agent| (agent.ip, agent.overlay.wireguard))
            .collect();
        let port = desired.vxlan.port;
        let done = tokio::task::spawn_blocking(move || encryption.sync(port, &nodes)).await;
        match done {
            Ok(Ok(plan)) => {
                for (node, why) in plan.excluded {
                    tracing::warn!(%node, ?why, "no encrypted way to a node, so none at all");
                }
            }
            Ok(Err(e)) => {
                tracing::warn!(
                    error = chain(&e),
                    "encrypted ways to other nodes are not up to date"
                );
            }
            Err(_) => {}
        }
    }
}
