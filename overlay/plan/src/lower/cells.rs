//! A set's bytes: header, backends that are chosen, backends that drain.

use std::{collections::BTreeMap, net::SocketAddr};

use waggle_ebpf_common as abi;
use waggle_types::{Policy, VipKey};

use crate::table::BackendSet;

/// The cells of a set with these weights (thousandths; 0 drains), both parts in order of address and port. The same input makes the same bytes, so that a set
/// that the kernel has already is known by comparing.
pub(super) fn set_cells(
    key: &VipKey,
    vip_id: u32,
    set: &BackendSet,
    weights: &BTreeMap<SocketAddr, u32>,
) -> Vec<abi::Cell> {
    let (chosen, draining): (Vec<_>, Vec<_>) = weights.iter().partition(|(_, w)| **w > 0);
    let raw = super::key_to_kernel(key);
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let mut flags = 0;
    if set.affinity_s > 0 {
        flags |= abi::set_flags::AFFINITY;
    }
    if set.policy == Policy::LeastConnections {
        flags |= abi::set_flags::LEAST_CONNECTIONS;
    }
    let header = abi::SetHeader {
        addr: raw.addr,
        port: raw.port,
        proto: raw.proto,
        flags,
        vip_id,
        n: count(chosen.len()),
        members: count(weights.len()),
        affinity_s: set.affinity_s,
    };
    let columns = columns(&chosen.iter().map(|(_, w)| **w).collect::<Vec<_>>());
    let chosen = chosen
        .iter()
        .zip(columns)
        .map(|((addr, _), column)| backend_cell(addr, column.threshold, column.alias));
    let draining = draining.iter().map(|(addr, _)| backend_cell(addr, 0, 0));
    std::iter::once(header.into())
        .chain(chosen)
        .chain(draining)
        .collect()
}

fn backend_cell(addr: &SocketAddr, threshold: u32, alias: u32) -> abi::Cell {
    abi::Backend {
        threshold,
        alias,
        ..backend_to_kernel(addr)
    }
    .into()
}

/// A column of the alias table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) threshold: u32,
    pub(super) alias: u32,
}

/// Vose's alias method (A Linear Algorithm for Generating Random Numbers with a Given Distribution, 1991), in integers.
/// Weights are positive.
pub(super) fn columns(weights: &[u32]) -> Vec<Column> {
    let n = weights.len() as u64;
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let mut out: Vec<Column> = (0..)
        .zip(weights)
        .map(|(alias, _)| Column {
            threshold: u32::MAX,
            alias,
        })
        .collect();
    // What each still has to give, where a column is worth `total`.
    let mut left: Vec<u64> = weights.iter().map(|w| u64::from(*w) * n).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|i| left[*i] < total);
    while let (Some(&s), Some(&l)) = (small.last(), large.last()) {
        small.pop();
        let share = (u128::from(left[s]) << 32) / u128::from(total.max(1));
        out[s] = Column {
            threshold: u32::try_from(share).unwrap_or(u32::MAX),
            alias: u32::try_from(l).unwrap_or_default(),
        };
        left[l] -= total - left[s];
        if left[l] < total {
            large.pop();
            small.push(l);
        }
    }
    out
}

/// The kernel's form of a backend that has a column of its own.
pub fn backend_to_kernel(addr: &SocketAddr) -> abi::Backend {
    abi::Backend {
        addr: abi::addr_of(addr.ip()),
        port: addr.port().to_be(),
        ..abi::Backend::default()
    }
}

/// A backend's address from the kernel's form; none for an empty cell.
pub fn backend_from_kernel(backend: &abi::Backend) -> Option<SocketAddr> {
    let port = u16::from_be(backend.port);
    let ip = abi::ip_of(backend.addr);
    (port != 0 && !ip.is_unspecified()).then(|| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn columns_give_each_weight_its_share(
            weights in prop::collection::vec(1u32..2_000_000, 1..40),
        ) {
            let columns = columns(&weights);
            let column = 1u64 << 32;
            let mut got = vec![0u64; weights.len()];
            for (i, c) in columns.iter().enumerate() {
                let own = if c.alias as usize == i { column } else { u64::from(c.threshold) };
                got[i] += own;
                got[c.alias as usize] += column - own;
            }
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let n = weights.len() as u64;
            for (weight, got) in weights.iter().zip(got) {
                let want = u128::from(*weight) * u128::from(n * column) / u128::from(total);
                // Each rounding is below 1 of 2^32, one a column.
                prop_assert!(u128::from(got).abs_diff(want) <= u128::from(n) + 1);
            }
        }
    }
}
