//! The overlay's maps, and the order in which they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use waggle_ebpf_common::overlay::{
    self as bytes, Device, Devices, MAX_PEERS, NOWHERE, NetKey, THIS_NODE,
};
use waggle_ebpf_common::{Addr, addr_of, ip_of};

use super::spec::{At, Endpoint, Net, OverlayConfig, Peer, Place, Subnet};
use crate::LoadError;
use crate::maps::gone;

pub(super) const ENDPOINTS: &str = "OV_ENDPOINTS";
pub(super) const DEVICES: &str = "OV_DEVICES";
pub(super) const SUBNETS: &str = "OV_SUBNETS";
pub(super) const PEERS: &str = "OV_PEERS";
pub(super) const NODES: &str = "OV_NODES";
pub(super) const SPECIAL: &str = "OV_SPECIAL";

pub(super) struct Tables {
    pub(super) endpoints: HashMap<MapData, Addr, bytes::Endpoint>,
    pub(super) devices: HashMap<MapData, u32, Device>,
    pub(super) subnets: LpmTrie<MapData, NetKey, bytes::Subnet>,
    pub(super) peers: Array<MapData, bytes::Peer>,
    /// By address, the position in `peers`.
    pub(super) nodes: HashMap<MapData, u32, u32>,
    pub(super) special: Array<MapData, Devices>,
    /// What `nodes` holds.
    pub(super) places: BTreeMap<Ipv4Addr, u32>,
    /// How many endpoints are behind a device.
    pub(super) users: BTreeMap<u32, usize>,
}

impl Tables {
    /// Reads what an earlier process left.
    pub(super) fn adopt(&mut self) -> Result<(), LoadError> {
        self.places = self
            .nodes
            .iter()
            .map(|entry| {
                let (addr, at) = entry.map_err(|e| LoadError::map("list", NODES, e))?;
                Ok((Ipv4Addr::from(u32::from_be(addr)), at))
            })
            .collect::<Result<_, LoadError>>()?;
        self.users.clear();
        for endpoint in self.endpoints()?.into_values() {
            if let At::Container { ifindex, .. } = endpoint.at {
                *self.users.entry(ifindex).or_default() += 1;
            }
        }
        Ok(())
    }

    pub(super) fn set_vxlan(&mut self, ifindex: u32) -> Result<(), LoadError> {
        let devices = Devices {
            vxlan: ifindex,
            pad: 0,
        };
        self.special
            .set(0, devices, 0)
            .map_err(|e| LoadError::map("write", SPECIAL, e))
    }

    pub(super) fn vxlan(&self) -> Result<u32, LoadError> {
        let devices = self.special.get(&0, 0);
        Ok(devices
            .map_err(|e| LoadError::map("read", SPECIAL, e))?
            .vxlan)
    }

    pub(super) fn set_peer(
        &mut self,
        peer: &Peer,
        config: &OverlayConfig,
    ) -> Result<(), LoadError> {
        let at = match self.places.get(&peer.node) {
            Some(at) => *at,
            None => free(&self.places).ok_or(LoadError::Full { map: PEERS })?,
        };
        self.peers
            .set(at, peer.lower(config), 0)
            .map_err(|e| LoadError::map("write", PEERS, e))?;
        self.nodes
            .insert(u32::from(peer.node).to_be(), at, 0)
            .map_err(|e| LoadError::map("write", NODES, e))?;
        self.places.insert(peer.node, at);
        Ok(())
    }

    pub(super) fn remove_peer(&mut self, node: Ipv4Addr) -> Result<(), LoadError> {
        let Some(at) = self.places.get(&node).copied() else {
            return Ok(());
        };
        // What leads to its place goes first: the place may be another's afterwards.
        for (net, subnet) in self.raw_subnets()? {
            if subnet.peer == at {
                self.remove_subnet(net)?;
            }
        }
        gone(self.nodes.remove(&u32::from(node).to_be()), NODES)?;
        self.peers
            .set(at, bytes::Peer::NONE, 0)
            .map_err(|e| LoadError::map("write", PEERS, e))?;
        self.places.remove(&node);
        Ok(())
    }

    pub(super) fn peers(&self) -> Result<BTreeMap<Ipv4Addr, Peer>, LoadError> {
        self.places
            .iter()
            .map(|(node, at)| {
                let peer = self.peers.get(at, 0);
                let peer = peer.map_err(|e| LoadError::map("read", PEERS, e))?;
                Ok((*node, Peer::decode(&peer)))
            })
            .collect()
    }

    pub(super) fn set_subnet(&mut self, net: Net, subnet: Subnet) -> Result<(), LoadError> {
        let peer = match subnet.place {
            Place::Here => THIS_NODE,
            Place::Nowhere => NOWHERE,
            Place::Peer(node) => *self
                .places
                .get(&node)
                .ok_or(LoadError::NoPeer { net, node })?,
        };
        let (prefix, key) = net.lower();
        let value = bytes::Subnet {
            peer,
            network: subnet.network,
        };
        self.subnets
            .insert(&Key::new(prefix, key), value, 0)
            .map_err(|e| LoadError::map("write", SUBNETS, e))
    }

    pub(super) fn remove_subnet(&mut self, net: Net) -> Result<(), LoadError> {
        let (prefix, key) = net.lower();
        gone(self.subnets.remove(&Key::new(prefix, key)), SUBNETS)
    }

    pub(super) fn subnets(&self) -> Result<BTreeMap<Net, Subnet>, LoadError> {
        let nodes: BTreeMap<u32, Ipv4Addr> =
            self.places.iter().map(|(node, at)| (*at, *node)).collect();
        Ok(self
            .raw_subnets()?
            .into_iter()
            .map(|(net, subnet)| {
                let place = match subnet.peer {
                    THIS_NODE => Place::Here,
                    at => nodes.get(&at).map_or(Place::Nowhere, |n| Place::Peer(*n)),
                };
                let network = subnet.network;
                (net, Subnet { place, network })
            })
            .collect())
    }

    pub(super) fn set_endpoint(
        &mut self,
        ip: IpAddr,
        endpoint: &Endpoint,
    ) -> Result<(), LoadError> {
        let before = self.endpoint(ip)?;
        let device = device_of(endpoint);
        if let Some((ifindex, mac)) = device {
            let device = Device { mac, pad: 0 };
            self.devices
                .insert(ifindex, device, 0)
                .map_err(|e| LoadError::map("write", DEVICES, e))?;
        }
        self.endpoints
            .insert(addr_of(ip), endpoint.lower(ip), 0)
            .map_err(|e| LoadError::map("write", ENDPOINTS, e))?;
        if let Some((ifindex, _)) = device {
            *self.users.entry(ifindex).or_default() += 1;
        }
        self.release(before)
    }

    pub(super) fn remove_endpoint(&mut self, ip: IpAddr) -> Result<(), LoadError> {
        let before = self.endpoint(ip)?;
        gone(self.endpoints.remove(&addr_of(ip)), ENDPOINTS)?;
        self.release(before)
    }

    fn endpoint(&self, ip: IpAddr) -> Result<Option<Endpoint>, LoadError> {
        match self.endpoints.get(&addr_of(ip), 0) {
            Ok(endpoint) => Ok(Some(Endpoint::decode(&endpoint))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(LoadError::map("read", ENDPOINTS, e)),
        }
    }

    /// Forgets a device that nobody is behind any more.
    fn release(&mut self, before: Option<Endpoint>) -> Result<(), LoadError> {
        let Some((ifindex, _)) = before.as_ref().and_then(device_of) else {
            return Ok(());
        };
        let users = self.users.entry(ifindex).or_default();
        *users = users.saturating_sub(1);
        if *users > 0 {
            return Ok(());
        }
        self.users.remove(&ifindex);
        gone(self.devices.remove(&ifindex), DEVICES)
    }

    pub(super) fn endpoints(&self) -> Result<BTreeMap<IpAddr, Endpoint>, LoadError> {
        self.endpoints
            .iter()
            .map(|entry| {
                let (key, value) = entry.map_err(|e| LoadError::map("list", ENDPOINTS, e))?;
                Ok((ip_of(key), Endpoint::decode(&value)))
            })
            .collect()
    }

    fn raw_subnets(&self) -> Result<Vec<(Net, bytes::Subnet)>, LoadError> {
        self.subnets
            .iter()
            .map(|entry| {
                let (key, value) = entry.map_err(|e| LoadError::map("list", SUBNETS, e))?;
                Ok((Net::decode(key.prefix_len(), key.data()), value))
            })
            .collect()
    }
}

fn device_of(endpoint: &Endpoint) -> Option<(u32, [u8; 6])> {
    match endpoint.at {
        At::Container { ifindex, mac, .. } => Some((ifindex, mac)),
        At::Node => None,
    }
}

/// The first position that nobody has.
fn free(places: &BTreeMap<Ipv4Addr, u32>) -> Option<u32> {
    let taken: BTreeSet<u32> = places.values().copied().collect();
    (THIS_NODE + 1..MAX_PEERS).find(|at| !taken.contains(at))
}
