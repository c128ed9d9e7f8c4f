//! The node's bridge: an address for each task behind it, the outside by masquerade, host ports by translation.
//!
//! It is there as long as a task is behind it, and so is our table in the packet filter, which has its name. While it is
//! there the node forwards packets (`net.ipv4.ip_forward`, which stays on afterwards, since others may have come to
//! need it) and the bridge may carry packets from loopback addresses (`route_localnet` of the bridge alone: that is how
//! `127.0.0.1:<host port>` reaches a task). No `rp_filter` is touched. IPv6 is off on the bridge.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, RawFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use netlink_packet_route::link::InfoKind;
use serde::{Deserialize, Serialize};

use waggle_overlay::netlink::{Batch, Link, Netlink, NetlinkError};

use super::{
    Inside, Own, Provider,
    leases::Leases,
    nfnetlink::NfNetlink,
    plan::{MAP, Mapping, Rules, device_name, hardware_address},
    remover::Remover,
    subnet::Subnet,
};
use crate::{
    clock,
    net::chain,
    shim::{self, read_json},
};

/// Ethernet's, where the uplink does not say.
const MTU: u32 = 1500;
/// The task's device.
const INSIDE: &str = "eth0";
/// Where distributions put it: a daemon's `PATH` may be short.
const NFT: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/local/sbin/nft",
    "/usr/bin/nft",
];

/// The bridge.
pub struct Bridge {
    name: String,
    // As configured; tasks of an earlier configuration keep theirs.
    subnet: Subnet,
    own: Vec<IpAddr>,
    file: PathBuf,
    state: Mutex<State>,
    remover: Remover,
}

struct State {
    subnet: Subnet,
    leases: Leases,
    published: BTreeMap<Ipv4Addr, BTreeSet<Mapping>>,
    // Addresses that ports led to: connections to them may be left.
    led: BTreeSet<Ipv4Addr>,
    up: Option<Up>,
}

#[derive(Debug, Clone, Copy)]
struct Up {
    index: u32,
    mtu: u32,
}

/// What a later agent must know beside the tasks' records.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    subnet: String,
    last: Ipv4Addr,
}

impl Bridge {
    /// Reads what an earlier agent kept in `dir`; makes nothing. `own` are addresses of the node that are never mapped.
    pub fn new(name: &str, subnet: Subnet, own: Vec<IpAddr>, dir: &Path) -> Self {
        let file = dir.join("bridge.json");
        let kept: Option<Kept> = read_json(&file).ok().flatten();
        let last = kept
            .filter(|k| k.subnet.parse() == Ok(subnet))
            .map(|k| k.last);
        let state = Mutex::new(State {
            subnet,
            leases: Leases::new(subnet, last),
            published: BTreeMap::new(),
            led: BTreeSet::new(),
            up: None,
        });
        Self {
            name: name.to_owned(),
            subnet,
            own,
            file,
            state,
            remover: Remover::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure of the bridge, its address, the node's settings and our table.
    fn raise(&self, state: &mut State) -> Result<Up, String> {
        let mut netlink = Netlink::open().map_err(|e| chain(&e))?;
        let up = self.device(&mut netlink, state.subnet)?;
        let gateway = Leases::gateway_of(state.subnet);
        let mut batch = Batch::default();
        batch.add_address(up.index, gateway.into(), state.subnet.prefix());
        match netlink.run(batch) {
            Err(e) if !e.is_present() => return Err(chain(&e)),
            _ => {}
        }
        let own = |key: &str| format!("/proc/sys/net/ipv4/conf/{}/{key}", self.name);
        set("/proc/sys/net/ipv4/ip_forward", "1")?;
        set(&own("route_localnet"), "1")?;
        let six = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
        if Path::new(&six).exists() {
            set(&six, "1")?;
        }
        self.write_rules(state)?;
        for table in who_drops() {
            tracing::warn!(
                table,
                "a table of somebody else drops what is forwarded: tasks behind the bridge may be cut off"
            );
        }
        state.up = Some(up);
        Ok(up)
    }

    fn device(&self, netlink: &mut Netlink, subnet: Subnet) -> Result<Up, String> {
        let name = &self.name;
        let text = |e: NetlinkError| chain(&e);
        if netlink.link(name).map_err(text)?.is_none() {
            let links = netlink.links().map_err(text)?;
            let routes = netlink.routes(true).map_err(text)?;
            let name_of = |index| {
                let link = links.iter().find(|l: &&Link| l.index == index);
                link.map_or("?", |l| l.name.as_str())
            };
            if let Some(other) = routes.iter().find(|r| subnet.covers_net(r.to)) {
                return Err(format!(
                    "the bridge's subnet {subnet} is in use: {} is behind {}; choose another one with --bridge-subnet",
                    other.to,
                    name_of(other.device)
                ));
            }
            let uplink = routes
                .iter()
                .filter(|r| r.to.prefix() == 0)
                .min_by_key(|r| r.metric)
                .and_then(|r| links.iter().find(|l| l.index == r.device));
            let mtu = uplink.and_then(|l| l.mtu).unwrap_or(MTU);
            let mut batch = Batch::default();
            batch.add_bridge(name, hardware_address(Leases::gateway_of(subnet)), mtu);
            match netlink.run(batch) {
                Err(e) if !e.is_present() => return Err(chain(&e)),
                _ => {}
            }
        }
        let link = netlink.link(name).map_err(text)?;
        let link = link.ok_or_else(|| format!("bridge {name} is gone as soon as it is made"))?;
        if link.kind != Some(InfoKind::Bridge) {
            return Err(format!(
                "device {name} is there and is no bridge; choose another name with --bridge"
            ));
        }
        Ok(Up {
            index: link.index,
            mtu: link.mtu.unwrap_or(MTU),
        })
    }

    fn write_rules(&self, state: &State) -> Result<(), String> {
        let ports: Vec<(Ipv4Addr, Vec<Mapping>)> = state
            .published
            .iter()
            .map(|(ip, ports)| (*ip, ports.iter().copied().collect()))
            .collect();
        let rules = Rules {
            bridge: &self.name,
            subnet: state.subnet,
            own: &self.own,
            ports: &ports,
        };
        nft(&rules.script())
    }

    /// Adds or removes elements of our map, or writes the table anew where that does not fit what is there.
    fn change(
        &self,
        state: &State,
        add: bool,
        ip: Ipv4Addr,
        ports: &[Mapping],
    ) -> Result<(), String> {
        let changed =
            NfNetlink::open().and_then(|mut nf| nf.change((&self.name, MAP), add, ip, ports));
        changed.or_else(|e| {
            tracing::debug!(error = %e, "the packet filter's table is written anew");
            self.write_rules(state)
        })
    }

    /// Takes bridge and table away.
    fn lower(&self, state: &mut State) -> Result<(), String> {
        state.up = None;
        state.subnet = self.subnet;
        state.leases = Leases::new(self.subnet, Some(state.leases.last()));
        state.published.clear();
        state.led.clear();
        let table = NfNetlink::open().and_then(|mut nf| nf.delete_table(&self.name));
        let device = remove_device(&self.name);
        match table {
            // A kernel without nf_tables has none of ours.
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EPROTONOSUPPORT)) => {
                Err(format!("failed to remove table inet {}: {e}", self.name))
            }
            _ => device,
        }
    }

    fn keep_last(&self, state: &State) {
        let kept = Kept {
            subnet: state.subnet.to_string(),
            last: state.leases.last(),
        };
        if let Err(e) = shim::write_json_for_boot(&self.file, &kept) {
            tracing::debug!(error = %e, "the last address is not kept");
        }
    }

    fn wire(up: Up, ip: Ipv4Addr, subnet: Subnet, inside: &mut Inside) -> Result<(), NetlinkError> {
        let mut outside = Netlink::open()?;
        let name = device_name(ip);
        let fd: RawFd = inside.file.as_raw_fd();
        let add = |outside: &mut Netlink| {
            let mut batch = Batch::default();
            let peer = (INSIDE, hardware_address(ip), fd);
            batch.add_veth(&name, Some(up.index), up.mtu, peer);
            outside.run(batch)
        };
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
        let index = inside.netlink.link(INSIDE)?.map_or(0, |l| l.index);
        let mut batch = Batch::default();
        batch.set_up(index);
        batch.add_address(index, ip.into(), subnet.prefix());
        batch.add_default_route(Leases::gateway_of(subnet).into(), None);
        inside.netlink.run(batch)
    }
}

impl Bridge {
    /// After a restart: these addresses are in use with these ports, and nothing else.
    pub fn keep(&self, used: &BTreeMap<Ipv4Addr, BTreeSet<Mapping>>) -> Result<(), String> {
        let mut state = self.lock();
        let kept: Option<Kept> = read_json(&self.file).ok().flatten();
        let earlier = kept.and_then(|k| k.subnet.parse::<Subnet>().ok());
        if let Some(earlier) = earlier.filter(|e| *e != self.subnet)
            && used.keys().any(|ip| earlier.contains(*ip))
        {
            tracing::warn!(
                subnet = %earlier,
                configured = %self.subnet,
                "tasks are behind the bridge: its subnet changes when they are gone"
            );
            state.subnet = earlier;
            state.leases = Leases::new(earlier, None);
        }
        for ip in used.keys() {
            if !state.leases.hold(*ip) {
                tracing::warn!(%ip, subnet = %state.subnet, "a task has an address that is not the bridge's");
            }
        }
        state.published = used
            .iter()
            .filter(|(_, ports)| !ports.is_empty())
            .map(|(ip, ports)| (*ip, ports.clone()))
            .collect();
        state.led = state.published.keys().copied().collect();
        let mut netlink = Netlink::open().map_err(|e| chain(&e))?;
        let links = netlink.links().map_err(|e| chain(&e))?;
        let is_used = |l: &Link| used.keys().any(|ip| device_name(*ip) == l.name);
        let strays = links
            .iter()
            .filter(|l| l.kind == Some(InfoKind::Veth) && !is_used(l));
        for ip in strays.filter_map(|l| address_of(&l.name, state.subnet)) {
            tracing::warn!(
                device = device_name(ip),
                "device of an ended task is removed"
            );
            self.remover.remove(&device_name(ip), Some(ip))?;
        }
        if used.is_empty() {
            // An unused bridge of ours, or none.
            let ours = links
                .iter()
                .any(|l| l.name == self.name && l.kind == Some(InfoKind::Bridge));
            return if ours { self.lower(&mut state) } else { Ok(()) };
        }
        let up = self.raise(&mut state)?;
        let mut batch = Batch::default();
        for link in links.iter().filter(|l| is_used(l)) {
            if link.controller != Some(up.index) {
                batch.set_controller(link.index, up.index);
            }
        }
        netlink.run(batch).map_err(|e| chain(&e))
    }

    /// Now and then: puts right what others have changed.
    pub fn upkeep(&self) -> Result<(), String> {
        let mut state = self.lock();
        if state.up.is_none() {
            return Ok(());
        }
        let there = NfNetlink::open().and_then(|mut nf| nf.has_table(&self.name));
        if there.map_err(|e| format!("failed to look at table inet {}: {e}", self.name))? {
            return Ok(());
        }
        tracing::warn!(
            table = self.name,
            "the packet filter's table was taken away"
        );
        self.raise(&mut state).map(|_| ())
    }
}

impl Provider for Bridge {
    fn attach(&self, inside: &mut Inside) -> Result<Own, String> {
        let mut state = self.lock();
        let ip = state.leases.take(clock::now()).map_err(|e| e.to_string())?;
        let subnet = state.subnet;
        let wired = match state.up {
            Some(up) => Self::wire(up, ip, subnet, inside).map_err(|e| chain(&e)),
            None => Err(String::new()),
        };
        // The first one, or somebody took the bridge away.
        let wired = wired.or_else(|_| {
            let up = self.raise(&mut state)?;
            Self::wire(up, ip, subnet, inside).map_err(|e| chain(&e))
        });
        if let Err(why) = wired {
            let _ = remove_device(&device_name(ip));
            state.leases.give_back(ip, clock::now());
            if state.leases.is_empty() {
                let _ = self.lower(&mut state);
            }
            return Err(why);
        }
        self.keep_last(&state);
        Ok(ip.into())
    }

    fn detach(&self, own: Own) -> Result<(), String> {
        let Some(ip) = own.v4 else { return Ok(()) };
        let was_led = self.lock().led.remove(&ip);
        // Others join meanwhile: the address is still held.
        let forget = was_led.then_some(ip);
        let removed = self.remover.remove(&device_name(ip), forget);
        let mut state = self.lock();
        state.leases.give_back(ip, clock::now());
        if state.leases.is_empty() {
            removed.and(self.lower(&mut state))
        } else {
            removed
        }
    }

    fn publish(&self, own: Own, ports: &[Mapping]) -> Result<(), String> {
        let Some(ip) = own.v4.filter(|_| !ports.is_empty()) else {
            return Ok(());
        };
        let mut state = self.lock();
        state.published.entry(ip).or_default().extend(ports);
        state.led.insert(ip);
        self.change(&state, true, ip, ports)
    }

    fn withdraw(&self, own: Own, ports: &[Mapping], is_last: bool) -> Result<(), String> {
        let Some(ip) = own.v4.filter(|_| !ports.is_empty()) else {
            return Ok(());
        };
        let mut state = self.lock();
        if let Some(left) = state.published.get_mut(&ip) {
            left.retain(|p| !ports.contains(p));
            if left.is_empty() {
                state.published.remove(&ip);
            }
        }
        let changed = self.change(&state, false, ip, ports);
        drop(state);
        if !is_last
            && let Err(e) =
                NfNetlink::open().and_then(|mut nf| nf.forget(&BTreeSet::from([ip]), Some(ports)))
        {
            tracing::debug!(%ip, error = %e, "connections are not forgotten");
        }
        changed
    }
}

/// Whose device that is, of a name like ours.
fn address_of(device: &str, subnet: Subnet) -> Option<Ipv4Addr> {
    let hex = device.strip_prefix("wgl").filter(|hex| hex.len() == 8)?;
    let ip = Ipv4Addr::from_bits(u32::from_str_radix(hex, 16).ok()?);
    subnet.contains(ip).then_some(ip)
}

fn remove_device(name: &str) -> Result<(), String> {
    let mut netlink = Netlink::open().map_err(|e| chain(&e))?;
    let mut batch = Batch::default();
    batch.remove(name);
    match netlink.run(batch) {
        Err(e) if !e.is_absent() => Err(chain(&e)),
        _ => Ok(()),
    }
}

/// Writes a setting of the kernel where it is different: a read-only `/proc/sys` that has it already is fine.
pub(super) fn set(path: &str, value: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(path, value).map_err(|e| format!("failed to write {value} to {path}: {e}"))
}

/// The node's `nft`.
pub fn nft_program() -> Option<PathBuf> {
    NFT.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Tables of the packet filter, as far as `nft` sees them, that drop what is forwarded unless a rule of theirs accepts it:
/// docker's and some firewalls'. Ours can't overrule them, and leaves them alone. Blocking.
pub fn who_drops() -> Vec<String> {
    let program = nft_program().unwrap_or_else(|| PathBuf::from("nft"));
    let out = Command::new(program).args(["list", "chains"]).output();
    out.map_or_else(
        |_| Vec::new(),
        |out| dropping(&String::from_utf8_lossy(&out.stdout)),
    )
}

/// Of what `nft list chains` prints.
fn dropping(chains: &str) -> Vec<String> {
    let mut table = "";
    let mut out = Vec::new();
    for line in chains.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        }
        if line.contains("hook forward") && line.contains("policy drop") {
            out.push(table.to_owned());
        }
    }
    out
}

pub(super) fn nft(script: &str) -> Result<(), String> {
    let program = nft_program().unwrap_or_else(|| PathBuf::from("nft"));
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                "bridge and container networks need nft on this node (package nftables)".to_owned()
            }
            _ => format!("failed to start nft: {e}"),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // What nft does not read it tells of itself.
        let _ = stdin.write_all(script.as_bytes());
    }
    let out = child
        .wait_with_output()
        .map_err(|e| format!("failed to wait for nft: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!(
        "failed to write the packet filter's rules: {}",
        said.lines().next().unwrap_or("nft says nothing")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_drop_what_is_forwarded_are_named() {
        let chains = "table inet waggle0 {\n\tchain local {\n\t\ttype nat hook output priority -100; policy accept;\n\t}\n}\n\
            table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
            \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n\tchain DOCKER {\n\t}\n}\n";
        assert_eq!(dropping(chains), ["ip filter"]);
        assert_eq!(dropping(""), Vec::<String>::new());
    }
}
