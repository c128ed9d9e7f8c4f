//! VIPs per packet on a node's devices: for traffic of other network namespaces and from the uplink, which the socket hooks
//! can't see. The tables are the data plane's own, so there is nothing to sync.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use waggle_ebpf::{
    DataPlane, LoadError,
    packet::{PacketConfig, PacketPlane},
};

use crate::edge::{
    LinkError,
    link::{Link, find},
};

/// How often devices are looked at: one that was made anew has another number, and no programs.
const TICK: Duration = Duration::from_secs(5);

/// Why packets can't be translated on a node.
#[derive(Debug, thiserror::Error)]
pub enum PacketNetError {
    /// A device is not there, or not as it must be.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused.
    #[error("packet programs: {0}")]
    Load(#[from] LoadError),
}

/// The programs of a node's devices. Dropped, it stops watching; programs and flows stay.
pub struct PacketNet {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    packets: PacketPlane,
    /// Its lock is on the pins of both.
    _plane: Arc<DataPlane>,
}

impl Drop for PacketNet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl PacketNet {
    /// Loads the programs on the data plane's tables, attaches them to the devices, and takes them off all others.
    ///
    /// # Errors
    /// [`PacketNetError`]; what was attached before stays.
    pub async fn start(
        plane: Arc<DataPlane>,
        devices: BTreeSet<String>,
    ) -> Result<Self, PacketNetError> {
        let mut links = BTreeMap::new();
        for name in &devices {
            links.insert(name.clone(), find(name).await?);
        }
        let found = links.clone();
        let opened = tokio::task::spawn_blocking(move || -> Result<Shared, PacketNetError> {
            let shared = Shared {
                packets: PacketPlane::open(&plane, &PacketConfig::default())?,
                _plane: plane,
            };
            shared.attach(&found)?;
            Ok(shared)
        });
        // Only a runtime that shuts down ends it otherwise.
        let shared = Arc::new(opened.await.map_err(|_| LinkError::Runtime)??);
        let stop = CancellationToken::new();
        tokio::spawn(watch(Arc::clone(&shared), links, stop.clone()));
        Ok(Self { shared, stop })
    }

    /// Takes the programs of an earlier run off all devices, on a node that is not to have them any more. Blocking.
    ///
    /// # Errors
    /// [`LoadError`] for what could not be removed.
    pub fn remove(plane: &DataPlane) -> Result<(), LoadError> {
        waggle_ebpf::packet::detach_all(plane)
    }

    /// Packets by what became of them. Blocking.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn read(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        self.shared.packets.counts()
    }
}

impl Shared {
    /// Attaches to these devices, and to no other.
    fn attach(&self, links: &BTreeMap<String, Link>) -> Result<(), LoadError> {
        for link in links.values() {
            self.packets.attach(link.index)?;
        }
        for index in self.packets.attached()? {
            if links.values().all(|link| link.index != index) {
                self.packets.detach(index)?;
            }
        }
        Ok(())
    }
}

/// Follows devices that go and come back. One that is away keeps its place.
async fn watch(shared: Arc<Shared>, mut links: BTreeMap<String, Link>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let mut now = links.clone();
        for (name, link) in &mut now {
            match find(name).await {
                Ok(found) => *link = found,
                Err(error) => tracing::debug!(%error, "a device with packet programs is away"),
            }
        }
        let numbers = |links: &BTreeMap<String, Link>| -> Vec<u32> {
            links.values().map(|link| link.index).collect()
        };
        if numbers(&now) == numbers(&links) {
            continue;
        }
        let (attaching, wanted) = (Arc::clone(&shared), now.clone());
        let done = tokio::task::spawn_blocking(move || attaching.attach(&wanted)).await;
        match done {
            Ok(Ok(())) => links = now,
            Ok(Err(error)) => {
                tracing::warn!(%error, "packet programs are not on all of their devices");
            }
            Err(_) => return,
        }
    }
}
