//! Named networks: a pair of devices for each container, an address that other nodes know the way to, the outside by
//! masquerade, host ports by translation.
//!
//! The host's end stands in the node's own namespace, on no bridge: programs there hand packets to other containers and other
//! nodes ([`OverlayNet`]), and the kernel routes the rest. Who is whose outlives the agent: devices and routes are the
//! kernel's, tables are pinned, and our table in the packet filter stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use waggle_ebpf::overlay::{At, Endpoint};
use waggle_ebpf_common::overlay::{GATEWAY4, GATEWAY6};
use waggle_overlay::{
    netlink::{Batch, Netlink, NetlinkError},
    overlay::{Attachable, OverlayNet, Ranges},
};
use waggle_overlay_plan::network::{Addresses, Exhausted};
use waggle_telemetry::{Telemetry, names};
use waggle_types::{IpNet, UnixMillis};

use super::{
    Inside, Own, Provider,
    bridge::{nft, set, who_drops},
    nfnetlink::NfNetlink,
    plan::{MAP, Mapping, OverlayRules},
    remover::Remover,
};
use crate::{clock, net::chain, shim};

/// The container's device.
const INSIDE: &str = "eth0";
/// Begins the names of the host's ends.
const DEVICE: &str = "wgo";
/// How long a task waits for its network to come to this node.
const READY: Duration = Duration::from_secs(10);

/// See the module.
pub struct Overlay {
    net: Arc<OverlayNet>,
    table: String,
    // Addresses of the node's resolver, that are never mapped.
    own: Vec<IpAddr>,
    file: PathBuf,
    telemetry: Option<Telemetry>,
    state: Mutex<State>,
    remover: Remover,
}

#[derive(Default)]
struct State {
    networks: BTreeMap<String, Pool>,
    published: BTreeMap<Own, BTreeSet<Mapping>>,
    // Addresses that ports led to: connections to them may be left.
    led: BTreeSet<Own>,
    // What our table in the packet filter was made of; `None` while there is none.
    raised: Option<Ranges>,
}

/// This node's addresses of a network.
#[derive(Default)]
struct Pool {
    number: u32,
    v4: Option<Addresses>,
    v6: Option<Addresses>,
}

/// The same as a file, beside the tasks' records.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    networks: BTreeMap<String, KeptPool>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptPool {
    number: u32,
    families: Vec<KeptFamily>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptFamily {
    subnet: String,
    last: IpAddr,
    resting_ms: BTreeMap<IpAddr, u64>,
}

/// Addresses of one network on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUsage {
    /// The network.
    pub network: String,
    /// Addresses that containers have.
    pub n_held: usize,
    /// Addresses that rest after use.
    pub n_resting: usize,
    /// Addresses that are free.
    pub n_free: u128,
}

/// One of the networks.
struct Named {
    overlay: Arc<Overlay>,
    name: String,
}

impl Overlay {
    /// Makes nothing; `table` is the name of ours in the packet filter, `dir` where things are kept.
    pub fn new(
        net: Arc<OverlayNet>,
        table: String,
        own: Vec<IpAddr>,
        dir: &Path,
        telemetry: Option<Telemetry>,
    ) -> Self {
        Self {
            net,
            table,
            own,
            file: dir.join("overlay.json"),
            telemetry,
            state: Mutex::default(),
            remover: Remover::default(),
        }
    }

    /// One of the networks, whether or not there is one.
    pub fn network(self: &Arc<Self>, name: &str) -> Arc<dyn Provider> {
        Arc::new(Named {
            overlay: Arc::clone(self),
            name: name.to_owned(),
        })
    }

    /// Waits a while for a network that has just been made.
    pub async fn ready(&self, name: &str) {
        self.net.ready(name, READY).await;
    }

    /// Addresses by network.
    pub fn usage(&self) -> Vec<NetworkUsage> {
        let state = self.lock();
        let one = |(name, pool): (&String, &Pool)| {
            // A container has one of each family; the scarcer one counts.
            let families = [&pool.v4, &pool.v6].into_iter().flatten();
            let free = |a: &&Addresses| {
                let taken = (a.n_held() + a.n_resting()) as u128;
                a.capacity().saturating_sub(taken)
            };
            let scarce = families.min_by_key(free)?;
            Some(NetworkUsage {
                network: name.clone(),
                n_held: scarce.n_held(),
                n_resting: scarce.n_resting(),
                n_free: free(&scarce),
            })
        };
        state.networks.iter().filter_map(one).collect()
    }

    /// After a restart: these addresses are in use with these ports, by network, and nothing else.
    pub fn keep(
        &self,
        used: &BTreeMap<String, BTreeMap<Own, BTreeSet<Mapping>>>,
        forwarding: &BTreeSet<Own>,
    ) -> Result<(), String> {
        let mut state = self.lock();
        let kept: Kept = shim::read_json(&self.file)
            .ok()
            .flatten()
            .unwrap_or_default();
        for (name, pool) in kept.networks {
            state.networks.insert(name, pool.into());
        }
        let mut netlink = Netlink::open().map_err(|e| chain(&e))?;
        let links = netlink.links().map_err(|e| chain(&e))?;
        let mut endpoints = BTreeMap::new();
        let mut devices = BTreeSet::new();
        for (name, all) in used {
            for (own, ports) in all {
                let pool = state.networks.entry(name.clone()).or_default();
                for ip in own.ips() {
                    if !pool.family(ip).is_some_and(|a| a.hold(ip)) {
                        tracing::warn!(%ip, network = name, "a task has an address that is not this node's");
                    }
                }
                let number = pool.number;
                let device = device_name(number, *own);
                if let Some(link) = links.iter().find(|l| l.name == device) {
                    let endpoint = endpoint(*own, link.index, number, forwarding.contains(own));
                    endpoints.extend(own.ips().map(|ip| (ip, endpoint)));
                }
                devices.insert(device);
                if !ports.is_empty() {
                    state.published.insert(*own, ports.clone());
                    state.led.insert(*own);
                }
            }
        }
        self.net.keep_containers(endpoints);
        for link in &links {
            if link.name.starts_with(DEVICE) && !devices.contains(&link.name) {
                tracing::warn!(device = link.name, "device of an ended task is removed");
                self.remover.remove(&link.name, None)?;
            }
        }
        if devices.is_empty() {
            return self.lower(&mut state);
        }
        let there = NfNetlink::open().and_then(|mut nf| nf.has_table(&self.table));
        if there.is_ok_and(|there| there) {
            // It goes on as it is until it is known what it must be.
            state.raised = Some(Ranges::default());
            return Ok(());
        }
        self.raise(&mut state)
    }

    /// Now and then: puts right what others have changed, and follows networks that came or went.
    pub fn upkeep(&self) -> Result<(), String> {
        let errors = self.net.upkeep();
        let mut state = self.lock();
        if state.raised.is_some() {
            let there = NfNetlink::open().and_then(|mut nf| nf.has_table(&self.table));
            let there =
                there.map_err(|e| format!("failed to look at table inet {}: {e}", self.table))?;
            if !there {
                tracing::warn!(
                    table = self.table,
                    "the packet filter's table was taken away"
                );
            }
            if !there || state.raised != Some(self.net.ranges()) {
                self.raise(&mut state)?;
            }
        }
        match errors.first() {
            None => Ok(()),
            Some(error) => Err(chain(error)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure of the node's settings and our table.
    fn raise(&self, state: &mut State) -> Result<(), String> {
        let ranges = self.net.ranges();
        set("/proc/sys/net/ipv4/ip_forward", "1")?;
        if ranges.masqueraded.iter().any(|net| !net.is_ipv4()) {
            forward_ipv6()?;
        }
        if state.raised.is_none() {
            for table in who_drops() {
                tracing::warn!(
                    table,
                    "a table of somebody else drops what is forwarded: containers may not reach the outside"
                );
            }
        }
        self.write_rules(state, &ranges)?;
        state.raised = Some(ranges);
        Ok(())
    }

    fn write_rules(&self, state: &State, ranges: &Ranges) -> Result<(), String> {
        let ports: Vec<(Own, Vec<Mapping>)> = state
            .published
            .iter()
            .map(|(own, ports)| (*own, ports.iter().copied().collect()))
            .collect();
        let rules = OverlayRules {
            table: &self.table,
            devices: DEVICE,
            own: &self.own,
            ranges,
            ports: &ports,
        };
        nft(&rules.script())
    }

    /// Takes our table away.
    fn lower(&self, state: &mut State) -> Result<(), String> {
        state.raised = None;
        let table = NfNetlink::open().and_then(|mut nf| nf.delete_table(&self.table));
        match table {
            // A kernel without nf_tables has none of ours.
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EPROTONOSUPPORT)) => {
                Err(format!("failed to remove table inet {}: {e}", self.table))
            }
            _ => Ok(()),
        }
    }

    /// Adds or removes mapped ports, or writes the table anew where that is not enough.
    fn change(
        &self,
        state: &mut State,
        add: bool,
        own: Own,
        ports: &[Mapping],
    ) -> Result<(), String> {
        let changed = match (own.v4, own.v6, &state.raised) {
            (Some(ip), None, Some(_)) => {
                NfNetlink::open().and_then(|mut nf| nf.change((&self.table, MAP), add, ip, ports))
            }
            _ => Err(io::Error::other("the table must be written anew")),
        };
        changed.or_else(|e| {
            tracing::debug!(error = %e, "the packet filter's table is written anew");
            self.raise(state)
        })
    }

    fn save(&self, state: &State) {
        let networks = state.networks.iter().map(|(n, p)| (n.clone(), p.into()));
        let kept = Kept {
            networks: networks.collect(),
        };
        if let Err(e) = shim::write_json_for_boot(&self.file, &kept) {
            tracing::debug!(error = %e, "which addresses rest is not kept");
        }
    }

    fn take(&self, state: &mut State, name: &str, at: &Attachable) -> Result<Own, String> {
        let pool = state.networks.entry(name.to_owned()).or_default();
        pool.number = at.number;
        pool.follow(at);
        let now = clock::now();
        let mut own = Own::default();
        let taken = (|| -> Result<(), Exhausted> {
            if let Some(addresses) = &mut pool.v4
                && let IpAddr::V4(ip) = addresses.take(now)?
            {
                own.v4 = Some(ip);
            }
            if let Some(addresses) = &mut pool.v6
                && let IpAddr::V6(ip) = addresses.take(now)?
            {
                own.v6 = Some(ip);
            }
            Ok(())
        })();
        if let Err(full) = taken {
            pool.give_back(own, now);
            if let Some(telemetry) = &self.telemetry {
                let attrs = [
                    (names::NETWORK, name.to_owned().into()),
                    (names::OUTCOME, "address".into()),
                ];
                telemetry.count(&names::NETWORK_EXHAUSTED, &attrs, 1);
            }
            return Err(full.to_string());
        }
        if own == Own::default() {
            return Err("this node has no addresses of it".to_owned());
        }
        Ok(own)
    }

    /// Devices, addresses, routes; the answer is the number of the host's end.
    fn wire(own: Own, at: &Attachable, inside: &mut Inside) -> Result<u32, NetlinkError> {
        let mut outside = Netlink::open()?;
        let name = device_name(at.number, own);
        let mac = own.mac();
        let other = (INSIDE, mac, inside.file.as_raw_fd());
        let add = |outside: &mut Netlink| outside.add_pair(&name, at.mtu.into(), other);
        match add(&mut outside) {
            // Left over by an agent that was killed in between.
            Err(e) if e.is_present() => {
                let mut batch = Batch::default();
                batch.remove(&name);
                outside.run(batch)?;
                add(&mut outside)?;
            }
            other => other?,
        }
        settings(&name);
        let index = inside.netlink.link(INSIDE)?.map_or(0, |l| l.index);
        let mut batch = Batch::default();
        batch.set_up(index);
        for ip in own.ips() {
            batch.add_address(index, ip, IpNet::host(ip).prefix());
            let gateway = gateway(ip);
            batch.add_default_route(gateway, Some(index));
        }
        inside.netlink.run(batch)?;
        let host = outside.link(&name)?.map_or(0, |l| l.index);
        let mut batch = Batch::default();
        for ip in own.ips() {
            let from = if ip.is_ipv4() {
                Some(at.vtep.ip.into())
            } else {
                at.vtep.ip6.map(IpAddr::from)
            };
            batch.set_neighbour(host, ip, mac);
            batch.set_route(IpNet::host(ip), host, from);
        }
        outside.run(batch)?;
        Ok(host)
    }
}

impl Provider for Named {
    fn attach(&self, inside: &mut Inside) -> Result<Own, String> {
        let overlay = &self.overlay;
        let at = overlay.net.network(&self.name)?;
        let mut state = overlay.lock();
        let own = overlay.take(&mut state, &self.name, &at)?;
        let may_forward = inside.may_forward;
        let made = (|| {
            if state.raised != Some(overlay.net.ranges()) {
                overlay.raise(&mut state)?;
            }
            let index = Overlay::wire(own, &at, inside).map_err(|e| chain(&e))?;
            let endpoint = endpoint(own, index, at.number, may_forward);
            let ips: Vec<IpAddr> = own.ips().collect();
            overlay
                .net
                .add_container(&ips, endpoint)
                .map_err(|e| chain(&e))
        })();
        if let Err(why) = made {
            let _ = overlay.remover.remove(&device_name(at.number, own), None);
            if let Some(pool) = state.networks.get_mut(&self.name) {
                pool.give_back(own, clock::now());
            }
            if state.networks.values().all(Pool::is_empty) {
                let _ = overlay.lower(&mut state);
            }
            return Err(why);
        }
        overlay.save(&state);
        Ok(own)
    }

    fn detach(&self, own: Own) -> Result<(), String> {
        let overlay = &self.overlay;
        let (device, was_led) = {
            let mut state = overlay.lock();
            let number = state.networks.get(&self.name).map_or(0, |p| p.number);
            (device_name(number, own), state.led.remove(&own))
        };
        let ips: Vec<IpAddr> = own.ips().collect();
        let forgotten = overlay.net.remove_container(&ips).map_err(|e| chain(&e));
        // Others join meanwhile: the address is still held.
        let forget = own.v4.filter(|_| was_led);
        let removed = overlay.remover.remove(&device, forget);
        let mut state = overlay.lock();
        if let Some(pool) = state.networks.get_mut(&self.name) {
            pool.give_back(own, clock::now());
        }
        overlay.save(&state);
        let lowered = if state.networks.values().all(Pool::is_empty) {
            overlay.lower(&mut state)
        } else {
            Ok(())
        };
        forgotten.and(removed).and(lowered)
    }

    fn publish(&self, own: Own, ports: &[Mapping]) -> Result<(), String> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut state = self.overlay.lock();
        state.published.entry(own).or_default().extend(ports);
        state.led.insert(own);
        self.overlay.change(&mut state, true, own, ports)
    }

    fn withdraw(&self, own: Own, ports: &[Mapping], is_last: bool) -> Result<(), String> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut state = self.overlay.lock();
        if let Some(left) = state.published.get_mut(&own) {
            left.retain(|p| !ports.contains(p));
            if left.is_empty() {
                state.published.remove(&own);
            }
        }
        let changed = self.overlay.change(&mut state, false, own, ports);
        drop(state);
        if let (false, Some(ip)) = (is_last, own.v4)
            && let Err(e) =
                NfNetlink::open().and_then(|mut nf| nf.forget(&BTreeSet::from([ip]), Some(ports)))
        {
            tracing::debug!(%ip, error = %e, "connections are not forgotten");
        }
        changed
    }
}

impl Pool {
    /// Takes up what the node holds of the network now. Who has an address of before keeps it.
    fn follow(&mut self, at: &Attachable) {
        for (mine, subnet) in [(&mut self.v4, at.subnet.v4), (&mut self.v6, at.subnet.v6)] {
            if mine.as_ref().map(Addresses::subnet) != subnet {
                *mine = subnet.map(Addresses::new);
            }
        }
    }

    fn family(&mut self, ip: IpAddr) -> Option<&mut Addresses> {
        if ip.is_ipv4() {
            self.v4.as_mut()
        } else {
            self.v6.as_mut()
        }
    }

    fn give_back(&mut self, own: Own, now: UnixMillis) {
        for ip in own.ips() {
            if let Some(addresses) = self.family(ip) {
                addresses.give_back(ip, now);
            }
        }
    }

    fn is_empty(&self) -> bool {
        let mut families = [&self.v4, &self.v6].into_iter().flatten();
        families.all(Addresses::is_empty)
    }
}

impl From<KeptPool> for Pool {
    fn from(kept: KeptPool) -> Self {
        let mut pool = Self {
            number: kept.number,
            ..Self::default()
        };
        for family in kept.families {
            let Ok(subnet) = family.subnet.parse::<IpNet>() else {
                continue;
            };
            let mut addresses = Addresses::new(subnet);
            let resting = family.resting_ms.into_iter();
            let resting = resting.map(|(ip, ms)| (ip, UnixMillis(ms))).collect();
            addresses.resume(Some(family.last), &resting);
            if subnet.is_ipv4() {
                pool.v4 = Some(addresses);
            } else {
                pool.v6 = Some(addresses);
            }
        }
        pool
    }
}

impl From<&Pool> for KeptPool {
    fn from(pool: &Pool) -> Self {
        let families = [&pool.v4, &pool.v6].into_iter().flatten();
        let families = families.map(|a| KeptFamily {
            subnet: a.subnet().to_string(),
            last: a.last(),
            resting_ms: a.resting().into_iter().map(|(ip, at)| (ip, at.0)).collect(),
        });
        Self {
            number: pool.number,
            families: families.collect(),
        }
    }
}

/// The host's end of a pair: 15 characters, which tell the network and the address.
fn device_name(network: u32, own: Own) -> String {
    let [a, b, c, d] = network.to_be_bytes();
    let low = match (own.v4, own.v6) {
        (Some(ip), _) => ip.to_bits(),
        (None, Some(ip)) => u32::try_from(ip.to_bits() & u128::from(u32::MAX)).unwrap_or(0),
        (None, None) => 0,
    };
    format!("{DEVICE}{:02x}{:02x}{low:08x}", a ^ c, b ^ d)
}

fn endpoint(own: Own, ifindex: u32, network: u32, may_forward: bool) -> Endpoint {
    Endpoint {
        at: At::Container {
            ifindex,
            mac: own.mac(),
            may_forward,
        },
        network,
        identity: 0,
    }
}

fn gateway(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() {
        IpAddr::from(GATEWAY4)
    } else {
        IpAddr::from(GATEWAY6)
    }
}

/// Of the host's end: `127.0.0.1:<host port>` reaches the task, and nothing is announced or configured by itself.
fn settings(device: &str) {
    let settings = [
        ("ipv4", "route_localnet", "1"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "accept_dad", "0"),
    ];
    for (family, key, value) in settings {
        let path = format!("/proc/sys/net/{family}/conf/{device}/{key}");
        if Path::new(&path).exists()
            && let Err(error) = set(&path, value)
        {
            tracing::debug!(error, "a device keeps the kernel's setting");
        }
    }
}

/// Lets the node forward IPv6. That ends its own listening to router advertisements, unless they are accepted all the same.
fn forward_ipv6() -> Result<(), String> {
    let all = "/proc/sys/net/ipv6/conf/all/forwarding";
    if !Path::new(all).exists() || fs::read_to_string(all).is_ok_and(|now| now.trim() == "1") {
        return Ok(());
    }
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf")
        .into_iter()
        .flatten()
    {
        let Ok(entry) = entry else { continue };
        let path = entry.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() == "1") {
            set(&path.to_string_lossy(), "2")?;
        }
    }
    set(all, "1")
}
