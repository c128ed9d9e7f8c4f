//! Which files of a kernel's modules a machine needs, in an order in which they can be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// What the tests use; what a kernel has built in, or does not have, is left out.
const WANTED: &[&str] = &[
    "veth",
    "vxlan",
    "bridge",
    "br_netfilter",
    "dummy",
    "tun",
    "wireguard",
    "sch_ingress",
    "cls_bpf",
    "cls_matchall",
    "cls_u32",
    "act_gact",
    "sch_netem",
    "nf_tables",
    "nf_conntrack",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_chain_nat",
    "nft_fib_inet",
    "nft_reject_inet",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "tls",
    // What it encrypts with, which it would ask user space for.
    "ctr",
    "ghash_generic",
    "gcm",
    "overlay",
];

/// Files below the modules' directory, each after those that it needs.
pub fn needed(modules: &Path) -> anyhow::Result<Vec<String>> {
    let path = modules.join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(in_order(&text, WANTED))
}

/// `modules.dep` has a line for each file: itself, and all that it needs, what must be there first last.
fn in_order(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let mut files: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
    for line in dependencies.lines() {
        let Some((file, needs)) = line.split_once(':') else {
            continue;
        };
        let needs = needs.split_whitespace().collect();
        files.insert(name(file), (file, needs));
    }
    let mut taken = BTreeSet::new();
    let mut order = Vec::new();
    for one in wanted {
        let Some((file, needs)) = files.get(*one) else {
            continue;
        };
        for file in needs.iter().rev().chain([file]) {
            if taken.insert(*file) {
                order.push((*file).to_owned());
            }
        }
    }
    order
}

/// A module's name: a dash in it is an underscore to the kernel.
fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let text = "kernel/drivers/net/veth.ko.xz:\n\
                    kernel/drivers/net/vxlan.ko.xz: kernel/net/udp-tunnel.ko.xz kernel/net/base.ko.xz\n\
                    kernel/net/udp-tunnel.ko.xz: kernel/net/base.ko.xz\n\
                    kernel/net/base.ko.xz:\n";
        assert_eq!(
            in_order(text, &["vxlan", "absent", "udp_tunnel", "veth"]),
            [
                "kernel/net/base.ko.xz",
                "kernel/net/udp-tunnel.ko.xz",
                "kernel/drivers/net/vxlan.ko.xz",
                "kernel/drivers/net/veth.ko.xz",
            ]
        );
    }
}
