//! Who must know what is told about names that are not the cluster's.

use std::{fmt, net::IpAddr, pin::Pin, sync::Arc};

/// Whether an answer may be sent.
pub type MaySend<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Takes what some are told about names that are not the cluster's, before they are.
pub trait Names: Send + Sync {
    /// Whether what this one is told must be known. Asked for every such question by a thread that answers: it must not block.
    fn wants(&self, asker: IpAddr) -> bool;

    /// An answer is about to be sent: to whom, about which name (lower case, without a dot behind), and addresses with their
    /// time to live in seconds. Must end in bounded time; `false`: the asker is told SERVFAIL instead.
    fn told<'a>(&'a self, asker: IpAddr, name: &'a str, told: &'a [(IpAddr, u32)]) -> MaySend<'a>;
}

/// One of these, shared.
#[derive(Clone)]
pub struct Told(pub Arc<dyn Names>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}
