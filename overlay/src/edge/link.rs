//! What must be known of a device that programs are attached to.

use futures::TryStreamExt as _;
use netlink_packet_route::link::LinkAttribute;

/// A network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Bytes of the longest IP packet.
    pub mtu: u16,
}

/// Why a device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink.
    #[error("open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// It is not there, or can't be read.
    #[error("device {name}")]
    Missing {
        /// The device.
        name: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// Not an Ethernet device.
    #[error("device {name} has no link-layer address of 6 bytes")]
    NoMac {
        /// The device.
        name: String,
    },
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Runtime,
}

/// Reads a device.
pub(crate) async fn find(name: &str) -> Result<Link, LinkError> {
    let (connection, handle, _messages) = rtnetlink::new_connection().map_err(LinkError::Socket)?;
    let driver = tokio::spawn(connection);
    let found = handle
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await;
    driver.abort();
    let missing = |source| LinkError::Missing {
        name: name.to_owned(),
        source,
    };
    let no_mac = || LinkError::NoMac {
        name: name.to_owned(),
    };
    let message = found.map_err(missing)?.ok_or_else(no_mac)?;
    let (mut mac, mut mtu) = (None, 1500);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = u16::try_from(*bytes).unwrap_or(u16::MAX),
            _ => {}
        }
    }
    Ok(Link {
        index: message.header.index,
        mac: mac.ok_or_else(no_mac)?,
        mtu,
    })
}
