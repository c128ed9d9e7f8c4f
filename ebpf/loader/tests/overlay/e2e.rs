//! Between namespaces.

use std::net::IpAddr;

use anyhow::Context as _;
use waggle_ebpf::common::overlay::reason;

use crate::rig::{World, ip4, ip6};
use crate::traffic::{tcp, udp, udp_segments};

/// Both families' addresses of two containers.
fn pairs(from: (u8, u8), to: (u8, u8)) -> [(IpAddr, IpAddr); 2] {
    [
        (ip4(from.0, from.1).into(), ip4(to.0, to.1).into()),
        (ip6(from.0, from.1).into(), ip6(to.0, to.1).into()),
    ]
}

#[test]
fn containers_reach_each_other() -> anyhow::Result<()> {
    let Some(mut world) = World::new("reach", 1500)? else {
        return Ok(());
    };
    for (node, n) in [(1, 2), (1, 3), (2, 2)] {
        world.container(node, n)?;
    }
    let told = |world: &World| format!("{}\n{}", world.host(1).counts(), world.host(2).counts());
    for (from, to) in [((1, 2), (1, 3)), ((1, 2), (2, 2)), ((2, 2), (1, 3))] {
        let (client, server) = (&world.of(from.0, from.1).ns, &world.of(to.0, to.1).ns);
        for (src, dst) in pairs(from, to) {
            for n in [1, 100_000, 3_000_000] {
                tcp(client, server, src, dst, n)
                    .with_context(|| format!("{src} -> {dst}: {n} bytes; {}", told(&world)))?;
            }
            udp(client, server, dst, &[0, 1, 1400, 1422, 5000, 60_000])
                .with_context(|| format!("{src} -> {dst}; {}", told(&world)))?;
            udp_segments(client, server, dst, 1300, 20)
                .with_context(|| format!("{src} -> {dst}; {}", told(&world)))?;
        }
    }
    eprintln!("{}", told(&world));
    let (one, two) = (world.host(1), world.host(2));
    for path in [
        reason::LOCAL,
        reason::SENT,
        reason::RECEIVED,
        reason::UP_GSO,
    ] {
        assert!(
            one.count(path)? + two.count(path)? > 0,
            "{}",
            reason::NAMES[path as usize]
        );
    }
    for host in [one, two] {
        for never in [
            reason::FAILED,
            reason::MALFORMED,
            reason::BAD_TABLE,
            reason::NO_DEVICE,
        ] {
            assert_eq!(host.count(never)?, 0, "{}", reason::NAMES[never as usize]);
        }
    }
    Ok(())
}
