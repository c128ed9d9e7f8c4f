//! A node whose tunnels are encrypted below: nothing is taken or sent in clear.

use waggle_ebpf::common::overlay::{SEALED_MARK, reason};
use waggle_ebpf::edge::TestContext;

use crate::bench::Bench;
use crate::frame::{Frame, Outer, UDP};
use crate::model::{OK, SHOT};
use crate::rig::{ip4, node_ip};

/// With so many words of options before its UDP header.
fn with_options(mut wire: Vec<u8>, words: u8) -> Vec<u8> {
    wire[14] += words;
    let options = vec![1; usize::from(words) * 4];
    wire.splice(34..34, options);
    wire
}

#[test]
fn tunnels_in_clear_are_dropped_and_counted_both_ways() -> anyhow::Result<()> {
    let Some(bench) = Bench::sealed("sealed")? else {
        return Ok(());
    };
    let packet = Frame::new(ip4(2, 2).into(), ip4(1, 2).into(), UDP).bytes();
    let outer = Outer::new(node_ip(2), node_ip(1));
    let of_nobody = Outer::new([203, 0, 113, 9].into(), node_ip(1));
    let other_port = Outer {
        port: 64_001,
        ..outer.clone()
    };
    let first = Outer {
        fragment: 0x2000,
        ..outer.clone()
    };
    let later = Outer {
        fragment: 0x0010,
        ..outer.clone()
    };
    let elsewhere = Outer::new(node_ip(2), [203, 0, 113, 9].into());
    let in_clear = (SHOT, vec![reason::IN_CLEAR]);
    let passes = (OK, vec![]);
    for (what, wire, expected) in [
        ("a peer's", outer.wrap(&packet), &in_clear),
        ("nobody's", of_nobody.wrap(&packet), &in_clear),
        (
            "with options",
            with_options(outer.wrap(&packet), 1),
            &in_clear,
        ),
        (
            "with all options",
            with_options(outer.wrap(&packet), 10),
            &in_clear,
        ),
        ("a first fragment", first.wrap(&packet), &in_clear),
        ("cut", outer.wrap(&[])[..42].to_vec(), &in_clear),
        // Without its first fragment it is nothing.
        ("a later fragment", later.wrap(&packet), &passes),
        ("another port", other_port.wrap(&packet), &passes),
        ("not for this node", elsewhere.wrap(&packet), &passes),
        ("no tunnel", packet.clone(), &passes),
    ] {
        let (run, reasons) = bench.under(&wire, 0)?;
        assert_eq!(&(run.verdict, reasons), expected, "{what}");
    }

    let context = TestContext {
        ifindex: bench.ifindex,
        ..TestContext::default()
    };
    let leak = Outer::new(node_ip(1), node_ip(2));
    let no_peer = Outer::new(node_ip(1), [203, 0, 113, 9].into());
    let out_in_clear = (SHOT, vec![reason::OUT_IN_CLEAR]);
    for (what, wire, expected) in [
        ("to a peer", leak.wrap(&packet), &out_in_clear),
        ("to nobody of ours", no_peer.wrap(&packet), &passes),
        ("no tunnel", packet.clone(), &passes),
    ] {
        let (run, reasons) = bench.run("overlay_seal", &wire, context)?;
        assert_eq!(&(run.verdict, reasons), expected, "{what}");
    }

    // What reaches the kernel's device must have come by the one that decrypts.
    let (run, reasons) = bench.run("overlay_up", &packet, context)?;
    assert_eq!((run.verdict, reasons), in_clear);
    let decrypted = TestContext {
        mark: SEALED_MARK,
        ..context
    };
    let (run, reasons) = bench.run("overlay_up", &packet, decrypted)?;
    // A test's packet has no tunnel: so far it came.
    assert_eq!((run.verdict, reasons), (SHOT, vec![reason::NOT_A_PEER]));
    Ok(())
}
