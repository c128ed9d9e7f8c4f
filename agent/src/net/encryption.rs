//! Packets of overlay networks, encrypted between nodes: the device at the start; the overlay brings it to each desired state.

use waggle_overlay::wireguard::{self, Wireguard, WireguardConfig, WireguardError};
use waggle_types::{FieldError, Vxlan, WireguardKey};

use super::{Net, chain};
use crate::{AgentConfig, AgentError};

/// The private key, in the work directory.
const KEY_FILE: &str = "wireguard.key";

/// Why a node with this address can't encrypt what it sends to others, if it can't: for who is about to start one.
///
/// # Errors
/// The field and what is wrong. Blocking.
pub fn can_encrypt(ip: std::net::Ipv4Addr) -> Result<(), FieldError> {
    let looked = || -> Result<(), WireguardError> {
        if !wireguard::is_supported()? {
            return Err(WireguardError::Unsupported);
        }
        wireguard::mtu_inside(wireguard::underlay_mtu(ip)?).map(|_| ())
    };
    looked().map_err(|e| FieldError::new("encrypt", chain(&e)))
}

impl Net {
    /// Makes this node encrypt. Whoever asks for encryption does not get a node without it.
    pub async fn load_encryption(&mut self, config: &AgentConfig) -> Result<(), AgentError> {
        let key_file = config.work_dir.join(KEY_FILE);
        let Some(port) = config.encrypt else {
            return self.unload_encryption(&key_file).await;
        };
        if self.overlay.is_off() {
            let why = "can't be on a node that takes no part in overlay networks";
            return Err(FieldError::new("encrypt", why).into());
        }
        let node = config.ip;
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
                tracing::info!(key = %started.key(), port, "packets of overlay networks are encrypted");
                let started = std::sync::Arc::new(started);
                self.overlay.encrypt(std::sync::Arc::clone(&started));
                self.encryption = Some(started);
                Ok(())
            }
            Ok(Err(
                e @ (WireguardError::Unsupported
                | WireguardError::Key { .. }
                | WireguardError::Port { .. }
                | WireguardError::Mtu { .. }),
            )) => Err(FieldError::new("encrypt", chain(&e)).into()),
            Ok(Err(e)) => Err(AgentError::Network(e.into())),
            // The runtime shuts down.
            Err(e) => Err(AgentError::Network(e.into())),
        }
    }

    /// Takes away what an earlier run of this agent has made; the key stays, for when it encrypts again.
    async fn unload_encryption(&self, key_file: &std::path::Path) -> Result<(), AgentError> {
        // Never had: what is there is somebody else's.
        if !key_file.exists() {
            return Ok(());
        }
        let removed = tokio::task::spawn_blocking(wireguard::remove).await;
        if let Ok(Err(e)) = removed {
            // Others drop what comes in clear: whoever does not want to encrypt must not go on doing it by halves.
            return Err(AgentError::Network(e.into()));
        }
        Ok(())
    }

    /// This node's public key, where it encrypts.
    pub fn wireguard_key(&self) -> Option<WireguardKey> {
        self.encryption.as_ref().map(|encryption| encryption.key())
    }
}
