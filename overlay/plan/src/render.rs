//! Text for people and for golden tests: tables, steps, writes and zones, one line each.

use std::fmt::Write as _;

use waggle_ebpf_common as abi;
use waggle_types::{NetSnapshot, Policy, VipName};

use crate::{
    eligibility::{LocalFacts, Verdict},
    lower::{MapWrite, backend_from_kernel, key_from_kernel},
    table::{BackendSet, MapOp, Share, VipTable, explain},
    zone::{RData, Rr, Zone},
};

fn name_of(name: Option<&VipName>) -> String {
    name.map_or_else(|| "(literal)".to_owned(), ToString::to_string)
}

fn backends(set: &BackendSet) -> String {
    if set.backends.is_empty() {
        return "refuses".to_owned();
    }
    let one = |(addr, share): (&std::net::SocketAddr, &Share)| match share.weight_milli {
        0 => format!("{addr} (drains)"),
        1000 => addr.to_string(),
        w => format!("{addr} (weight {})", f64::from(w) / 1000.0),
    };
    let mut out: Vec<String> = set.backends.iter().map(one).collect();
    if set.policy != Policy::default() {
        out.push(format!("by {}", set.policy));
    }
    if set.affinity_s > 0 {
        out.push(format!("affinity {} s", set.affinity_s));
    }
    out.join(" ")
}

/// A table: `11.0.0.1:80/tcp web.marathon... -> 10.0.0.1:31000 10.0.0.2:31000`.
pub fn table(table: &VipTable) -> String {
    table.iter().fold(String::new(), |mut out, (key, set)| {
        let name = name_of(set.name.as_ref());
        let _ = writeln!(out, "{key} {name} -> {}", backends(set));
        out
    })
}

/// Steps between tables: `+` and the new set, `-` for a removal.
pub fn ops(ops: &[MapOp]) -> String {
    ops.iter().fold(String::new(), |mut out, op| {
        let _ = match op {
            MapOp::Remove { key } => writeln!(out, "- {key}"),
            MapOp::Set { key, set } => writeln!(out, "+ {key} -> {}", backends(set)),
        };
        out
    })
}

/// Writes in their order.
pub fn writes(writes: &[MapWrite]) -> String {
    let key_text =
        |k| key_from_kernel(k).map_or_else(|| format!("stray {k:?}"), |key| key.to_string());
    writes.iter().fold(String::new(), |mut out, w| {
        let _ = match w {
            MapWrite::WriteCells { base, cells } => {
                let header: abi::SetHeader = cells.first().copied().unwrap_or_default().into();
                let list: Vec<String> = cells
                    .iter()
                    .skip(1)
                    .map(|c| {
                        backend_from_kernel(&(*c).into())
                            .map_or_else(|| "empty".to_owned(), |a| a.to_string())
                    })
                    .collect();
                let (n, members, id) = (header.n, header.members, header.vip_id);
                let list = list.join(" ");
                writeln!(out, "cells {base}.. = id {id}, {n} of {members}: {list}")
            }
            MapWrite::Patch { cell, word, value } => {
                writeln!(out, "cell {cell} word {word} = {value}")
            }
            MapWrite::SetVip { key, cell } => {
                writeln!(out, "vip {} = cell {cell}", key_text(key))
            }
            MapWrite::RemoveVip { key, vip_id } => {
                writeln!(out, "vip {} removed, id {vip_id}", key_text(key))
            }
        };
        out
    })
}

/// Every VIP with every candidate and why it is in or out.
pub fn explained(snapshot: &NetSnapshot, local: &LocalFacts) -> String {
    let mut out = String::new();
    for (key, (name, candidates)) in explain(snapshot, local) {
        let _ = writeln!(out, "{key} {}", name_of(name.as_ref()));
        for c in candidates {
            let addr = c.addr.map_or_else(|| "-".to_owned(), |a| a.to_string());
            let verdict = match c.verdict {
                Verdict::Eligible => "in".to_owned(),
                Verdict::LastResort => "in: nobody else is left".to_owned(),
                Verdict::Excluded(reason) => format!("out: {reason}"),
            };
            let _ = writeln!(out, "  {} {addr} {verdict}", c.task_id);
        }
    }
    out
}

/// One record in zone file form.
pub fn record(rr: &Rr) -> String {
    let Rr { owner, ttl, data } = rr;
    match data {
        RData::A(ip) => format!("{owner} {ttl} IN A {ip}"),
        RData::Aaaa(ip) => format!("{owner} {ttl} IN AAAA {ip}"),
        RData::Ptr(name) => format!("{owner} {ttl} IN PTR {name}"),
        RData::Txt(strings) => {
            let quoted: Vec<String> = strings.iter().map(|s| format!("{s:?}")).collect();
            format!("{owner} {ttl} IN TXT {}", quoted.join(" "))
        }
        RData::Ns(name) => format!("{owner} {ttl} IN NS {name}"),
        RData::Soa {
            mname,
            rname,
            serial,
            minimum,
        } => format!("{owner} {ttl} IN SOA {mname} {rname} {serial} {minimum}"),
        RData::Srv { port, target } => format!("{owner} {ttl} IN SRV 0 0 {port} {target}"),
    }
}

/// A zone in zone file form, names in order from the root.
pub fn zone(zone: &Zone) -> String {
    zone.records().fold(String::new(), |mut out, rr| {
        let _ = writeln!(out, "{}", record(&rr));
        out
    })
}
