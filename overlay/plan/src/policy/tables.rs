//! The kernel's tables as plain maps, and how a verdict is read from them.

use std::{collections::BTreeMap, net::IpAddr};

use waggle_ebpf_common::policy::{number, set};
use waggle_types::IpNet;

use super::{Direction, NameEntry, PortSet};

/// Port sets by number: of policies in force, and of all with those in audit mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sets {
    /// What passes.
    pub in_force: u32,
    /// What would pass if policies in audit mode were in force, too.
    pub with_audit: u32,
}

impl Sets {
    /// No policy speaks of it.
    pub const OPEN: Self = Self {
        in_force: set::ALL,
        with_audit: set::ALL,
    };
}

/// What a number's own policies say of whoever has no entry of his own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Local {
    /// Of what it dials.
    pub egress: Sets,
    /// Of who dials it.
    pub ingress: Sets,
    /// Some rule names names.
    pub has_names: bool,
}

impl Local {
    /// One direction's.
    pub const fn sets(&self, direction: Direction) -> Sets {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }
}

/// What is known of an address that somebody has: its number, and on this node whether policies select it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Number.
    pub number: u32,
    /// `Some` on its own node: whether a policy selects it. Without, it gets no traffic on this node.
    pub selected: Option<bool>,
}

impl Entry {
    /// The kernel's word.
    pub const fn word(self) -> u32 {
        match self.selected {
            None => self.number,
            Some(true) => self.number | number::SELECTED,
            Some(false) => self.number | number::OPEN,
        }
    }

    /// From the kernel's word.
    pub const fn of_word(word: u32) -> Self {
        let selected = if word & number::SELECTED != 0 {
            Some(true)
        } else if word & number::OPEN != 0 {
            Some(false)
        } else {
            None
        };
        Self {
            number: word & number::MASK,
            selected,
        }
    }
}

/// What is known of addresses in a net that have no entry of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetEntry {
    /// Their number.
    pub number: u32,
    /// A task of this node with such an address gets no traffic: some policy could select it.
    pub is_closed: bool,
}

impl NetEntry {
    /// Of what is in no net.
    pub const OUTSIDE: Self = Self {
        number: number::OUTSIDE,
        is_closed: false,
    };
}

/// Local number, peer's number, direction.
pub type PairKey = (u32, u32, Direction);

/// All tables of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// Whether there is any policy.
    pub is_on: bool,
    /// Tasks', nodes' and the resolver's addresses.
    pub addresses: BTreeMap<IpAddr, Entry>,
    /// Nets, by longest prefix.
    pub nets: BTreeMap<IpNet, NetEntry>,
    /// Numbers that policies of this node select.
    pub locals: BTreeMap<u32, Local>,
    /// Where a peer may more than everybody may.
    pub pairs: BTreeMap<PairKey, Sets>,
    /// Port sets by number; 0 (nothing) and 1 (everything) are not here. A number's set never changes.
    pub sets: BTreeMap<u32, PortSet>,
    /// What tasks may do with what they were told: (task, address).
    pub names: BTreeMap<(IpAddr, IpAddr), NameEntry>,
}

/// What becomes of a flow's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Nobody speaks of it.
    Open,
    /// Allowed.
    Allowed,
    /// Passes; a policy in audit mode would drop it.
    Audited,
    /// Dropped.
    Denied,
    /// Dropped: nothing is known of the task.
    NoState,
}

impl Verdict {
    /// Whether it passes.
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Denied | Self::NoState)
    }
}

impl Tables {
    /// What is known of an address by its nets.
    pub fn net_of(&self, ip: IpAddr) -> NetEntry {
        let longest: u8 = if ip.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .filter_map(|prefix| self.nets.get(&IpNet::around(ip, prefix)))
            .copied()
            .next()
            .unwrap_or(NetEntry::OUTSIDE)
    }

    /// What an address without an entry of its own is as if it had one: the same to everybody.
    pub fn effective(&self, ip: IpAddr) -> Entry {
        self.addresses.get(&ip).copied().unwrap_or_else(|| {
            let net = self.net_of(ip);
            Entry {
                number: net.number,
                selected: (!net.is_closed).then_some(false),
            }
        })
    }

    /// The verdict on a flow that begins: what the kernel program does, lookup by lookup.
    pub fn verdict(
        &self,
        direction: Direction,
        task: IpAddr,
        peer: IpAddr,
        (protocol, port): (u8, u16),
        now_s: u32,
    ) -> Verdict {
        if !self.is_on {
            return Verdict::Open;
        }
        let entry = self.effective(task);
        match entry.selected {
            None => return Verdict::NoState,
            Some(false) => return Verdict::Open,
            Some(true) => {}
        }
        let Some(local) = self.locals.get(&entry.number) else {
            return Verdict::NoState;
        };
        let default = local.sets(direction);
        if default == Sets::OPEN {
            return Verdict::Open;
        }
        let key = (entry.number, self.effective(peer).number, direction);
        let sets = self.pairs.get(&key).copied().unwrap_or(default);
        let has = |number: u32| match number {
            set::NONE => false,
            set::ALL => true,
            n => self
                .sets
                .get(&n)
                .is_some_and(|set| set.contains(protocol, port)),
        };
        let (mut passes, mut would) = (has(sets.in_force), has(sets.with_audit));
        if local.has_names
            && direction == Direction::Egress
            && let Some(name) = self.names.get(&(task, peer))
            && name.expires_s > now_s
        {
            passes |= has(name.sets.in_force);
            would |= has(name.sets.with_audit);
        }
        match (passes, would) {
            (false, _) => Verdict::Denied,
            (true, false) => Verdict::Audited,
            (true, true) => Verdict::Allowed,
        }
    }
}
