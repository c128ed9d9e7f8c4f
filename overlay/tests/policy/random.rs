//! Random worlds and flows: the programs say what the reference says.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use waggle_ebpf_common::policy::verdict;
use waggle_overlay_plan::policy::Direction;

use crate::{
    frame::Packet,
    reference,
    rig::{NEVER, Rig},
    worlds::{NETWORKS, TestFlow, flow, task_ips, world},
};

fn tasks() -> Vec<IpAddr> {
    let of = |network: &str| {
        (1..10)
            .flat_map(|n| task_ips(network, n))
            .collect::<Vec<_>>()
    };
    NETWORKS.iter().flat_map(|(name, ..)| of(name)).collect()
}

/// The packet that begins a flow; the port of who dials is another one each time.
fn first(flow: &TestFlow, port: u16) -> Option<(Packet, (u8, u16))> {
    if flow.task.is_ipv4() != flow.peer.is_ipv4() || flow.task == flow.peer {
        return None;
    }
    let protocol = match flow.protocol {
        1 | 58 if flow.task.is_ipv4() => 1,
        1 | 58 => 58,
        other => other,
    };
    let (src, dst) = match flow.direction {
        Direction::Egress => (flow.task, flow.peer),
        Direction::Ingress => (flow.peer, flow.task),
    };
    Some((
        Packet::new(src, dst, protocol, port, flow.port),
        (protocol, flow.port),
    ))
}

#[test]
fn programs_say_what_the_reference_says() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("random", &tasks())? else {
        return Ok(());
    };
    let (rig, n) = (RefCell::new(rig), RefCell::new(0_u32));
    let mut runner = TestRunner::new(Config {
        cases: 250,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let none = BTreeSet::new();
    let cases = (world(), prop::collection::vec(flow(), 40));
    let done = runner.run(&cases, |(world, flows)| {
        let mut rig = rig.borrow_mut();
        let fail = |e: anyhow::Error| TestCaseError::fail(format!("{e:?}"));
        rig.apply(&world).map_err(fail)?;
        for flow in flows {
            let mut n = n.borrow_mut();
            *n += 1;
            let port = u16::try_from(10_000 + *n % 50_000).unwrap();
            let Some((packet, what)) = first(&flow, port) else {
                continue;
            };
            let wanted =
                reference::verdict(&world, flow.direction, flow.task, flow.peer, what, &none);
            let passed = rig.passes(flow.direction, &packet).map_err(fail)?;
            prop_assert_eq!(passed, wanted.passes(), "{:?} {:?}", packet, wanted);
            // Again: as the flow is remembered now.
            let passed = rig.passes(flow.direction, &packet).map_err(fail)?;
            prop_assert_eq!(passed, wanted.passes(), "again: {:?} {:?}", packet, wanted);
        }
        Ok(())
    });
    done.map_err(|error| anyhow::anyhow!("{error}"))?;
    let rig = rig.into_inner();
    for (what, least) in [
        (verdict::NOT_SELECTED, 100),
        (verdict::FLOW_ALLOWED, 40),
        (verdict::ESTABLISHED, 40),
        (verdict::DENIED_EGRESS, 40),
        (verdict::DENIED_INGRESS, 40),
        (verdict::NO_STATE, 100),
        (verdict::AUDITED_EGRESS, 5),
        (verdict::AUDITED_INGRESS, 5),
    ] {
        assert!(rig.count(what) >= least, "{}", rig.counts());
    }
    for never in NEVER {
        assert_eq!(rig.count(never), 0, "{}", rig.counts());
    }
    Ok(())
}
