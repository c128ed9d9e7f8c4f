//! What is attached to network devices: the node's part in traffic from outside, VIPs per packet.

use waggle_overlay::edge::{EdgeNet, EdgeNetConfig, EdgeNetError, LinkError};
use waggle_overlay::packet::{PacketNet, PacketNetError};
use waggle_types::FieldError;

use super::{Net, chain};
use crate::{AgentConfig, AgentError, DataPlanePolicy};

impl Net {
    /// Loads the node's part in traffic from outside, if it has one; else removes what an earlier run had.
    pub async fn load_edge(&mut self, config: &AgentConfig) -> Result<(), AgentError> {
        let Some(edge) = &config.edge else {
            let pin_dir = config.pin_dir.clone();
            let removed = tokio::task::spawn_blocking(move || EdgeNet::remove(&pin_dir)).await;
            if let Ok(Err(e)) = removed {
                tracing::warn!(
                    error = chain(&e),
                    "programs of an earlier edge are still there"
                );
            }
            return Ok(());
        };
        let started = EdgeNet::start(EdgeNetConfig {
            node_ip: config.ip,
            pin_dir: config.pin_dir.clone(),
            uplink: edge.uplink.clone(),
            edge: edge.edge,
            edges: edge.edges.clone(),
        })
        .await;
        match started {
            Ok(edge) => self.edge = Some(edge),
            // A device that is not there is a slip of the pen: nothing would ever come by it.
            Err(EdgeNetError::Link(e @ (LinkError::Missing { .. } | LinkError::NoMac { .. }))) => {
                let field = if edge.edge.is_some() {
                    "edge"
                } else {
                    "uplink"
                };
                return Err(FieldError::new(field, chain(&e)).into());
            }
            Err(e) if config.dataplane == DataPlanePolicy::Require => {
                return Err(AgentError::DataPlane(e.into()));
            }
            Err(e) => {
                let why = format!("edge: {}", chain(&e));
                tracing::warn!(error = why, "no part in traffic from outside");
                self.troubles.push(why);
            }
        }
        Ok(())
    }

    /// Puts the packet programs on the devices that are to have them; takes them off others.
    pub async fn load_packets(&mut self, config: &AgentConfig) -> Result<(), AgentError> {
        let Some(plane) = self.plane.clone() else {
            if !config.packet_devices.is_empty() {
                let why = "packet VIPs: there is no data plane".to_owned();
                tracing::warn!(error = why, "packets to VIPs are not translated");
                self.troubles.push(why);
            }
            return Ok(());
        };
        if config.packet_devices.is_empty() {
            let removed = tokio::task::spawn_blocking(move || PacketNet::remove(&plane)).await;
            if let Ok(Err(e)) = removed {
                tracing::warn!(
                    error = chain(&e),
                    "packet programs of an earlier run are still there"
                );
            }
            return Ok(());
        }
        match PacketNet::start(plane, config.packet_devices.clone()).await {
            Ok(packets) => self.packets = Some(packets),
            Err(PacketNetError::Link(
                e @ (LinkError::Missing { .. } | LinkError::NoMac { .. }),
            )) => {
                return Err(FieldError::new("packet_vips", chain(&e)).into());
            }
            Err(e) if config.dataplane == DataPlanePolicy::Require => {
                return Err(AgentError::DataPlane(e.into()));
            }
            Err(e) => {
                let why = format!("packet VIPs: {}", chain(&e));
                tracing::warn!(error = why, "packets to VIPs are not translated");
                self.troubles.push(why);
            }
        }
        Ok(())
    }
}
