//! The addresses that DNS answers on: /32s and /128s on a dummy device of our own, or on `lo` where the kernel has no
//! dummy devices.
//!
//! Set-up is idempotent: an address that is already in this network namespace is adopted, whoever put
//! it there. Removal takes only what carries our mark: the device by its name, addresses on `lo` by
//! their label. IPv6 addresses can't have one: of them those in `fd01:d::/64`, which is DC/OS's for nothing else.
//! Where a node has no IPv6 its IPv6 addresses are left out, with a warning.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::LinkAttribute,
};
use rtnetlink::{Handle, LinkDummy, LinkUnspec};

/// Our device.
pub const DEVICE: &str = "waggle-dns";
/// Label of our addresses on `lo` (must start with the device's name).
pub const LO_LABEL: &str = "lo:waggle";

/// Why the addresses are not there (or not gone).
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No netlink socket.
    #[error("failed to open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// A netlink request was refused.
    #[error("failed to {operation}")]
    Netlink {
        /// With its object.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// Every network namespace has one; this process sees none.
    #[error("no loopback device in this network namespace")]
    NoLoopback,
}

/// Addresses that are set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAddresses {
    /// Device by address: `waggle-dns`, `lo`, or any other where it was adopted.
    pub devices: BTreeMap<IpAddr, String>,
}

impl DnsAddresses {
    /// Takes away what is ours, see [`remove`].
    pub async fn remove(&self) -> Result<(), AddressError> {
        let ips: Vec<IpAddr> = self.devices.keys().copied().collect();
        remove(&ips).await
    }
}

/// A netlink connection that ends with it.
struct Netlink {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn failed(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> AddressError {
    let operation = operation.into();
    move |source| AddressError::Netlink { operation, source }
}

/// Positive errno of a refusal; none for other errors.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|c| -c.get()),
        _ => None,
    }
}

impl Netlink {
    fn open() -> Result<Self, AddressError> {
        let (connection, handle, _messages) =
            rtnetlink::new_connection().map_err(AddressError::Socket)?;
        let driver = tokio::spawn(connection);
        Ok(Self { handle, driver })
    }

    /// Names of devices by index.
    async fn links(&self) -> Result<BTreeMap<u32, String>, AddressError> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("list devices"))?;
        Ok(links
            .into_iter()
            .filter_map(|link| {
                let name = link.attributes.iter().find_map(|a| match a {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                });
                Some((link.header.index, name?))
            })
            .collect())
    }

    /// Addresses in this namespace that are in `ips`.
    async fn addresses(
        &self,
        ips: &[IpAddr],
    ) -> Result<Vec<(IpAddr, AddressMessage)>, AddressError> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Unspec;
        let all: Vec<AddressMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(failed("list addresses"))?;
        Ok(all
            .into_iter()
            .filter_map(|message| {
                // IPv6 addresses that are not one end of a tunnel have no local one.
                let of = |a: &AddressAttribute| match a {
                    AddressAttribute::Local(ip) | AddressAttribute::Address(ip @ IpAddr::V6(_)) => {
                        ips.contains(ip).then_some(*ip)
                    }
                    _ => None,
                };
                let ip = message.attributes.iter().find_map(of);
                Some((ip?, message))
            })
            .collect())
    }

    /// Our device, up; none when this kernel can't make one.
    async fn device(&self) -> Result<Option<u32>, AddressError> {
        if let Some(index) = self.find(DEVICE).await? {
            let up = LinkUnspec::new_with_index(index).up().build();
            let operation = failed(format!("set device {DEVICE} up"));
            self.handle
                .link()
                .set(up)
                .execute()
                .await
                .map_err(operation)?;
            return Ok(Some(index));
        }
        let add = self.handle.link().add(LinkDummy::new(DEVICE).up().build());
        match add.execute().await {
            Ok(()) => self.find(DEVICE).await,
            // EOPNOTSUPP: no such kind of device; ENOENT: its module is missing; EEXIST: another was faster.
            Err(e) if matches!(errno(&e), Some(95 | 2)) => Ok(None),
            Err(e) if errno(&e) == Some(17) => self.find(DEVICE).await,
            Err(e) => Err(failed(format!("add dummy device {DEVICE}"))(e)),
        }
    }

    async fn find(&self, name: &str) -> Result<Option<u32>, AddressError> {
        let links = self.links().await?;
        Ok(links.into_iter().find(|(_, n)| n == name).map(|(i, _)| i))
    }
}

/// Makes sure that each of `ips` is an address of this network namespace; the answer has those that are.
pub async fn ensure(ips: &[IpAddr]) -> Result<DnsAddresses, AddressError> {
    let netlink = Netlink::open()?;
    let links = netlink.links().await?;
    let mut devices: BTreeMap<IpAddr, String> = netlink
        .addresses(ips)
        .await?
        .into_iter()
        .map(|(ip, m)| {
            let name = links.get(&m.header.index).cloned().unwrap_or_default();
            (ip, name)
        })
        .collect();
    let missing: Vec<IpAddr> = ips
        .iter()
        .filter(|ip| !devices.contains_key(ip))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(DnsAddresses { devices });
    }
    let (index, name) = if let Some(index) = netlink.device().await? {
        (index, DEVICE)
    } else {
        tracing::info!("this kernel has no dummy devices; dns addresses go to lo");
        let lo = netlink.find("lo").await?.ok_or(AddressError::NoLoopback)?;
        (lo, "lo")
    };
    for ip in missing {
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        let mut add = netlink.handle.address().add(index, ip, whole);
        let message = add.message_mut();
        if ip.is_ipv4() {
            // Not to be chosen as a source for traffic that leaves the node.
            message.header.scope = AddressScope::Host;
        } else {
            // Nobody else can have it, and until that was checked it could not be bound.
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            message.attributes.push(flags);
        }
        if name == "lo" && ip.is_ipv4() {
            let label = AddressAttribute::Label(LO_LABEL.to_owned());
            message.attributes.push(label);
        }
        match add.execute().await {
            Ok(()) => {}
            Err(e) if errno(&e) == Some(17) => {}
            Err(error) if ip.is_ipv6() => {
                tracing::warn!(%ip, %error, "this node has no ipv6; dns does not answer on it");
                continue;
            }
            Err(e) => return Err(failed(format!("add address {ip}/{whole} to {name}"))(e)),
        }
        devices.insert(ip, name.to_owned());
    }
    Ok(DnsAddresses { devices })
}

/// Takes away our device, and those of `ips` on `lo` that carry our label. What is not there is no error.
pub async fn remove(ips: &[IpAddr]) -> Result<(), AddressError> {
    let netlink = Netlink::open()?;
    if let Some(index) = netlink.find(DEVICE).await? {
        let operation = failed(format!("remove device {DEVICE}"));
        netlink
            .handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(operation)?;
    }
    for (ip, message) in netlink.addresses(ips).await? {
        let is_ours = match ip {
            IpAddr::V4(_) => message
                .attributes
                .iter()
                .any(|a| matches!(a, AddressAttribute::Label(l) if l == LO_LABEL)),
            IpAddr::V6(ip) => is_dcos(ip),
        };
        if is_ours {
            let operation = failed(format!("remove address {ip}"));
            netlink
                .handle
                .address()
                .del(message)
                .execute()
                .await
                .map_err(operation)?;
        }
    }
    Ok(())
}

/// In `fd01:d::/64`.
fn is_dcos(ip: Ipv6Addr) -> bool {
    ip.segments()[..4] == [0xfd01, 0xd, 0, 0]
}
