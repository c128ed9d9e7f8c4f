//! From a VIP to a backend: weighted, by connections, with affinity, around what is ejected.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use waggle_ebpf_common::{
    Addr, Affinity, AffinityKey, Backend, MAX_SET, SetHeader, VipKey, loss, set_flags,
};

use crate::address::same;
use crate::count::lost;
use crate::maps::{AFFINITIES, CELLS, VIPS};
use crate::state;

/// Weighted choices that are tried until one is not ejected.
const DRAWS: u32 = 2;
/// Backends that are looked at, one after the other, when all draws were ejected.
const LOOKED_AT: u32 = 8;
/// Halvings that find one of as many members as a set can have.
const HALVINGS: u32 = MAX_SET.ilog2() + 1;
const SECOND_NS: u64 = 1_000_000_000;

/// What is behind an address.
pub enum Found {
    /// It is no VIP.
    NoVip,
    /// This set.
    Set(Set),
    /// A VIP whose set can't be read: refused, and counted as loss.
    Broken,
}

/// A VIP's set: a map value that does not change while a program runs.
#[derive(Clone, Copy)]
pub struct Set {
    /// First backend's cell.
    first: u32,
    header: *const SetHeader,
}

/// A backend and the cell that holds it.
#[derive(Clone, Copy)]
pub struct Choice {
    /// Its cell.
    pub cell: u32,
    /// A map value.
    pub backend: *const Backend,
}

/// Looks a VIP up.
#[inline(always)]
pub fn find_set(key: &VipKey) -> Found {
    let mut tries = 0;
    while tries < 2 {
        let Some(entry) = VIPS.get_ptr(key) else {
            return Found::NoVip;
        };
        // SAFETY: one aligned word of a map value; read once, since the element may be reused meanwhile.
        let cell = unsafe { entry.read_volatile() };
        if let Some(header) = CELLS.get_ptr(cell) {
            let header = header.cast::<SetHeader>();
            // SAFETY: a map value; a header and a cell have one size and alignment.
            let own = unsafe {
                same(&raw const (*header).addr, &raw const key.addr)
                    && (*header).port == key.port
                    && (*header).proto == key.proto
            };
            if own {
                return Found::Set(Set {
                    first: cell.wrapping_add(1),
                    header,
                });
            }
        }
        tries += 1;
    }
    lost(loss::BAD_CELL);
    Found::Broken
}

impl Set {
    /// Number of the VIP.
    #[inline(always)]
    pub fn vip_id(&self) -> u32 {
        // SAFETY: a map value.
        unsafe { (*self.header).vip_id }
    }

    /// Whether it chooses by connections.
    #[inline(always)]
    pub fn counts(&self) -> bool {
        self.has(set_flags::LEAST_CONNECTIONS)
    }

    #[inline(always)]
    fn has(&self, flag: u8) -> bool {
        // SAFETY: a map value.
        unsafe { (*self.header).flags & flag != 0 }
    }

    #[inline(always)]
    fn n(&self) -> u32 {
        // SAFETY: a map value.
        u32::from(unsafe { (*self.header).n })
    }

    #[inline(always)]
    fn members(&self) -> u32 {
        // SAFETY: a map value.
        u32::from(unsafe { (*self.header).members })
    }

    #[inline(always)]
    fn at(&self, i: u32) -> Option<Choice> {
        let cell = self.first.wrapping_add(i);
        let backend = CELLS.get_ptr(cell)?.cast::<Backend>();
        Some(Choice { cell, backend })
    }

    /// A backend for a new connection; `None` when there is none. `client` tells whose affinity counts.
    #[inline(always)]
    pub fn choose(&self, proto: u8, client: impl Fn() -> u64) -> Option<Choice> {
        if self.n() == 0 {
            return None;
        }
        let sticky = self.has(set_flags::AFFINITY);
        let mut key = AffinityKey {
            client: 0,
            vip_id: self.vip_id(),
            pad: 0,
        };
        let mut now = 0;
        if sticky {
            key.client = client();
            // SAFETY: a helper without arguments.
            now = unsafe { bpf_ktime_get_ns() };
            let kept = self.kept(&key, now, proto);
            if kept.is_some() {
                return kept;
            }
        }
        let choice = self.fresh(proto)?;
        if sticky {
            // SAFETY: a map value.
            let kept = unsafe {
                let b = choice.backend;
                Affinity {
                    since_ns: now,
                    addr: [(*b).addr[0], (*b).addr[1], (*b).addr[2], (*b).addr[3]],
                    port: (*b).port,
                    pad: 0,
                    cell: choice.cell,
                }
            };
            // The least recently used one makes room; an insert fails only for want of memory, and then the next
            // connect chooses again.
            let _ = AFFINITIES.insert(&key, &kept, 0);
        }
        Some(choice)
    }

    /// The backend that a client has kept.
    #[inline(always)]
    fn kept(&self, key: &AffinityKey, now: u64, proto: u8) -> Option<Choice> {
        let known = AFFINITIES.get_ptr_mut(key)?;
        // SAFETY: map values.
        unsafe {
            let lasts = u64::from((*self.header).affinity_s) * SECOND_NS;
            if now.wrapping_sub((*known).since_ns) >= lasts {
                return None;
            }
            let addr = &raw const (*known).addr;
            let choice = self.find(addr, (*known).port, (*known).cell)?;
            if state::is_out(choice.backend, proto) {
                return None;
            }
            (&raw mut (*known).since_ns).write_volatile(now);
            Some(choice)
        }
    }

    /// A choice that nothing binds.
    #[inline(always)]
    fn fresh(&self, proto: u8) -> Option<Choice> {
        let first = self.draw()?;
        let mut choice = first;
        if self.counts() {
            // Two choices, the better one: almost as even as the best of all (Mitzenmacher 2001).
            let other = self.draw()?;
            if state::active(other.backend, proto) < state::active(choice.backend, proto) {
                choice = other;
            }
        }
        let mut draws = 1;
        while state::is_out(choice.backend, proto) {
            if draws >= DRAWS {
                return Some(self.next_in(choice, proto).unwrap_or(first));
            }
            choice = self.draw()?;
            draws += 1;
        }
        Some(choice)
    }

    /// By weight.
    #[inline(always)]
    fn draw(&self) -> Option<Choice> {
        // SAFETY: takes nothing, always succeeds.
        let random = u64::from(unsafe { bpf_get_prandom_u32() });
        let product = random * u64::from(self.n());
        let drawn = self.at((product >> 32) as u32);
        // SAFETY: a map value.
        let choice = match drawn {
            Some(c) if product as u32 >= unsafe { (*c.backend).threshold } => {
                self.at(unsafe { (*c.backend).alias })
            }
            other => other,
        };
        match choice {
            // SAFETY: a map value.
            Some(c) if unsafe { (*c.backend).port } != 0 => Some(c),
            _ => {
                lost(loss::BAD_CELL);
                None
            }
        }
    }

    /// The next backend after one that is not ejected.
    #[inline(always)]
    fn next_in(&self, after: Choice, proto: u8) -> Option<Choice> {
        let n = self.n();
        let mut i = after.cell.wrapping_sub(self.first);
        let mut looked = 0;
        while looked < LOOKED_AT && looked < n {
            i += 1;
            if i >= n {
                i = 0;
            }
            let choice = self.at(i)?;
            if !state::is_resting(choice.backend, proto) {
                return Some(choice);
            }
            looked += 1;
        }
        None
    }

    /// Whether choices fall on it: it does not drain.
    #[allow(
        dead_code,
        reason = "only packets ask; sockets have their backend for life"
    )]
    #[inline(always)]
    pub fn is_chosen(&self, choice: Choice) -> bool {
        choice.cell.wrapping_sub(self.first) < self.n()
    }

    /// The backend after another one, whether or not it is ejected; itself, where there is only one.
    #[allow(dead_code, reason = "only packets have to do without their choice")]
    #[inline(always)]
    pub fn neighbour(&self, of: Choice) -> Option<Choice> {
        let i = of.cell.wrapping_sub(self.first).wrapping_add(1);
        self.at(if i < self.n() { i } else { 0 })
    }

    /// A backend that is a member: in the cell where it was before, else wherever it is.
    ///
    /// # Safety
    /// `addr` points to memory of this program.
    #[inline(always)]
    pub unsafe fn find(&self, addr: *const Addr, port: u16, before: u32) -> Option<Choice> {
        let members = self.members();
        // One below the first cell wraps around to far above the last.
        let i = before.wrapping_sub(self.first);
        if i < members
            && let Some(choice) = self.at(i)
            // SAFETY: as the caller says; the backend is a map value.
            && unsafe { is(choice.backend, addr, port) }
        {
            return Some(choice);
        }
        // Two parts, each in order: those that are chosen, those that drain.
        // SAFETY: as the caller says.
        unsafe {
            match self.search(addr, port, 0, self.n()) {
                None => self.search(addr, port, self.n(), members),
                found => found,
            }
        }
    }

    /// Binary search among the backends `low..high`.
    ///
    /// # Safety
    /// `addr` points to memory of this program.
    #[inline(always)]
    unsafe fn search(
        &self,
        addr: *const Addr,
        port: u16,
        mut low: u32,
        mut high: u32,
    ) -> Option<Choice> {
        let mut steps = 0;
        while steps < HALVINGS && low < high {
            let middle = low + ((high - low) >> 1);
            let choice = self.at(middle)?;
            // SAFETY: as the caller says; the backend is a map value.
            let (is_it, before) = unsafe { order(choice.backend, addr, port) };
            if is_it {
                return Some(choice);
            }
            let mask = mask(before);
            low = (low & !mask) | ((middle + 1) & mask);
            high = (high & mask) | (middle & !mask);
            steps += 1;
        }
        None
    }
}

/// How a backend stands to what is searched for, by address, then port: whether it is that, and 1 when it comes before.
///
/// Without a branch: the verifier of kernel 6.1 walks both sides of each one in every step of a search, and each of these in
/// the next step, until it gives up.
///
/// # Safety
/// Both point to memory of this program.
#[inline(always)]
unsafe fn order(backend: *const Backend, addr: *const Addr, port: u16) -> (bool, u64) {
    // SAFETY: as the caller says.
    unsafe {
        let (a, b) = (halves(&raw const (*backend).addr), halves(addr));
        let a_port = u64::from(u16::from_be((*backend).port));
        let b_port = u64::from(u16::from_be(port));
        let differ = (a.0 ^ b.0) | (a.1 ^ b.1) | (a_port ^ b_port);
        let ports = borrow(a_port, b_port, 0);
        (differ == 0, borrow(a.0, b.0, borrow(a.1, b.1, ports)))
    }
}

/// What `a - b - below` borrows from the next higher word, 0 or 1 (Warren, Hacker's Delight, 2-16).
#[inline(always)]
fn borrow(a: u64, b: u64, below: u64) -> u64 {
    let difference = a.wrapping_sub(b).wrapping_sub(below);
    ((!a & b) | ((!a | b) & difference)) >> 63
}

/// All bits of 1, none of 0: by an instruction that the compiler does not know, since it would make a branch of a choice by
/// mask.
#[inline(always)]
fn mask(mut bit: u64) -> u32 {
    // SAFETY: a negation.
    unsafe { core::arch::asm!("{0} = -{0}", inout(reg) bit, options(pure, nomem, nostack)) };
    bit as u32
}

/// # Safety
/// `addr` points to memory of this program.
#[inline(always)]
unsafe fn halves(addr: *const Addr) -> (u64, u64) {
    // SAFETY: as the caller says.
    let word = |i: usize| unsafe { u64::from(u32::from_be((*addr)[i])) };
    (word(0) << 32 | word(1), word(2) << 32 | word(3))
}

/// # Safety
/// Both point to memory of this program.
#[inline(always)]
unsafe fn is(backend: *const Backend, addr: *const Addr, port: u16) -> bool {
    // SAFETY: as the caller says.
    unsafe { (*backend).port == port && same(&raw const (*backend).addr, addr) }
}
