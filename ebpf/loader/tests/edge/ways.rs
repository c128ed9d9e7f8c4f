//! Programs at tc, held by links and by filters: replaced, found again, removed wholly, and beside those of others.

use std::process::Command;

use anyhow::{Context as _, ensure};
use waggle_ebpf::TcWay::{self, Filters, Links};
use waggle_ebpf::edge::NodePlane;
use waggle_tests_support::netns::{NetNs, TempNetNs};

use crate::rig::Rig;

/// A backend's node, whose programs are small.
struct Node {
    plane: NodePlane,
    rig: Rig,
}

impl Node {
    /// `None` (after saying why) where the test can't run.
    fn held_by(name: &str, way: TcWay) -> anyhow::Result<Option<Self>> {
        if way == Links && TcWay::of_kernel() == Filters {
            eprintln!("SKIP: this kernel has no links at tc");
            return Ok(None);
        }
        let Some(rig) = Rig::new(&format!("ways-{name}"))? else {
            return Ok(None);
        };
        let plane = NodePlane::open_with(&rig.bpffs.join("dsr"), way)?;
        Ok(Some(Self { plane, rig }))
    }

    /// The same after a restart, held in a given way.
    fn again(self, way: TcWay) -> anyhow::Result<Self> {
        let Self { plane, rig } = self;
        drop(plane);
        let plane = NodePlane::open_with(&rig.bpffs.join("dsr"), way)?;
        Ok(Self { plane, rig })
    }

    /// Removes all, as a node that is taken down.
    fn remove(self) -> anyhow::Result<()> {
        let Self { plane, rig } = self;
        drop(plane);
        Ok(NodePlane::remove(&rig.bpffs.join("dsr"))?)
    }
}

fn ifindex(ns: &NetNs, device: &'static str) -> anyhow::Result<u32> {
    Ok(ns.run(move || nix::net::if_::if_nametoindex(device))??)
}

/// A namespace with a device, and the device's number.
fn device(name: &str) -> anyhow::Result<(TempNetNs, u32)> {
    let ns = TempNetNs::create(&format!("wgl-t-ways-{name}-{}", std::process::id()))?;
    ns.ip("link add up0 type veth peer name up1\nlink set up0 up\nlink set up1 up\n")?;
    let index = ifindex(&ns, "up0")?;
    Ok((ns, index))
}

fn tc(ns: &TempNetNs, words: &str) -> anyhow::Result<String> {
    let output = ns.run(|| Command::new("tc").args(words.split(' ')).output())??;
    ensure!(
        output.status.success(),
        "tc {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ids of the programs that our filters at the device run, ingress first.
fn filters(ns: &TempNetNs) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for side in ["ingress", "egress"] {
        let text = tc(ns, &format!("filter show dev up0 {side}"))?;
        for line in text.lines().filter(|line| line.contains("waggle:")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            ensure!(words.contains(&"direct-action"), "{line}");
            let at = words.iter().position(|word| *word == "id");
            let id = at.and_then(|at| words.get(at + 1)).context("an id")?;
            ids.push(id.parse()?);
        }
    }
    Ok(ids)
}

fn has_discipline(ns: &TempNetNs) -> anyhow::Result<bool> {
    Ok(tc(ns, "qdisc show dev up0")?.contains("clsact"))
}

fn node(name: &str, way: TcWay) -> anyhow::Result<Option<(Node, TempNetNs, u32)>> {
    let Some(held) = Node::held_by(name, way)? else {
        return Ok(None);
    };
    let (ns, index) = device(name)?;
    Ok(Some((held, ns, index)))
}

#[test]
fn filters_are_replaced_found_again_and_removed_with_their_discipline() -> anyhow::Result<()> {
    let Some((held, ns, index)) = node("again", Filters)? else {
        return Ok(());
    };
    ensure!(!ns.run(|| held.plane.attach(index))??, "nothing was there");
    let first = filters(&ns)?;
    assert_eq!(first.len(), 2);
    let held = held.again(Filters)?;
    assert_eq!(held.plane.attached()?, [index]);
    // Until they are replaced, the old programs run.
    assert_eq!(filters(&ns)?, first);
    ensure!(ns.run(|| held.plane.attach(index))??, "both were there");
    let second = filters(&ns)?;
    assert_eq!(second.len(), 2);
    assert!(
        first.iter().all(|id| !second.contains(id)),
        "{first:?} {second:?}"
    );
    ns.run(|| held.plane.detach())??;
    assert_eq!(filters(&ns)?, Vec::<u32>::new());
    assert_eq!(held.plane.attached()?, Vec::<u32>::new());
    assert!(!has_discipline(&ns)?);
    // Nothing to take off is success.
    ns.run(|| held.plane.detach())??;
    Ok(())
}

#[test]
fn filters_go_with_the_pin_directory() -> anyhow::Result<()> {
    let Some((held, ns, index)) = node("down", Filters)? else {
        return Ok(());
    };
    ns.run(|| held.plane.attach(index))??;
    assert_eq!(filters(&ns)?.len(), 2);
    ns.run(|| held.remove())??;
    assert_eq!(filters(&ns)?, Vec::<u32>::new());
    assert!(!has_discipline(&ns)?);
    Ok(())
}

#[test]
fn what_others_have_stays() -> anyhow::Result<()> {
    let Some((held, ns, index)) = node("others", Filters)? else {
        return Ok(());
    };
    tc(&ns, "qdisc add dev up0 clsact")?;
    // Theirs on both sides of ours.
    for (side, priority) in [("ingress", 1), ("ingress", 65_000), ("egress", 1)] {
        let place = format!("dev up0 {side} prio {priority} protocol all");
        tc(&ns, &format!("filter add {place} matchall"))
            .or_else(|_| tc(&ns, &format!("filter add {place} u32 match u32 0 0")))?;
    }
    let theirs = |ns: &TempNetNs| -> anyhow::Result<usize> {
        let mut n = 0;
        for side in ["ingress", "egress"] {
            let text = tc(ns, &format!("filter show dev up0 {side}"))?;
            n += text.lines().filter(|line| !line.contains("bpf")).count();
        }
        Ok(n)
    };
    let before = theirs(&ns)?;
    assert!(before >= 3);
    ns.run(|| held.plane.attach(index))??;
    assert_eq!(filters(&ns)?.len(), 2);
    assert_eq!(theirs(&ns)?, before);
    ns.run(|| held.plane.detach())??;
    assert_eq!(filters(&ns)?, Vec::<u32>::new());
    assert_eq!(theirs(&ns)?, before);
    // It was theirs.
    assert!(has_discipline(&ns)?);
    Ok(())
}

#[test]
fn a_discipline_that_others_came_to_use_stays_with_them() -> anyhow::Result<()> {
    let Some((held, ns, index)) = node("guests", Filters)? else {
        return Ok(());
    };
    ns.run(|| held.plane.attach(index))??;
    let place = "dev up0 ingress prio 3 protocol all";
    tc(&ns, &format!("filter add {place} matchall"))
        .or_else(|_| tc(&ns, &format!("filter add {place} u32 match u32 0 0")))?;
    ns.run(|| held.plane.detach())??;
    assert!(has_discipline(&ns)?);
    assert!(!tc(&ns, "filter show dev up0 ingress")?.is_empty());
    Ok(())
}

#[test]
fn a_place_that_somebody_else_has_is_refused() -> anyhow::Result<()> {
    let Some((held, ns, index)) = node("taken", Filters)? else {
        return Ok(());
    };
    tc(&ns, "qdisc add dev up0 clsact")?;
    let place = "dev up0 egress prio 51360 protocol all";
    tc(&ns, &format!("filter add {place} matchall"))
        .or_else(|_| tc(&ns, &format!("filter add {place} u32 match u32 0 0")))?;
    let refused = ns.run(|| held.plane.attach(index))?;
    let error = refused.err().context("taken from somebody")?;
    assert_eq!(
        error.to_string(),
        format!("device {index} has another filter at priority 51360, where dsr_out goes")
    );
    assert_eq!(filters(&ns)?, Vec::<u32>::new());
    Ok(())
}

#[test]
fn a_node_changes_from_filters_to_links_and_back() -> anyhow::Result<()> {
    let Some((held, ns, index)) = node("change", Links)? else {
        return Ok(());
    };
    ns.run(|| held.plane.attach(index))??;
    assert_eq!(filters(&ns)?, Vec::<u32>::new());
    let held = held.again(Filters)?;
    assert_eq!(held.plane.attached()?, [index]);
    ns.run(|| held.plane.attach(index))??;
    assert_eq!(filters(&ns)?.len(), 2);
    let held = held.again(Links)?;
    assert_eq!(held.plane.attached()?, [index]);
    ns.run(|| held.plane.attach(index))??;
    assert_eq!(filters(&ns)?, Vec::<u32>::new());
    assert!(!has_discipline(&ns)?);
    assert_eq!(held.plane.attached()?, [index]);
    ns.run(|| held.plane.detach())??;
    assert_eq!(held.plane.attached()?, Vec::<u32>::new());
    Ok(())
}

#[test]
fn a_device_that_is_gone_is_forgotten() -> anyhow::Result<()> {
    for way in [Filters, Links] {
        let Some((held, ns, index)) = node("gone", way)? else {
            return Ok(());
        };
        ns.run(|| held.plane.attach(index))??;
        ns.ip("link del up0\n")?;
        assert_eq!(held.plane.attached()?, [index]);
        ns.run(|| held.plane.detach())??;
        assert_eq!(held.plane.attached()?, Vec::<u32>::new());
    }
    Ok(())
}
