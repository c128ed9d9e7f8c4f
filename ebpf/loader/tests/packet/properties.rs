//! Random packets of a few clients and backends: the programs do what the model does, byte for byte.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use waggle_ebpf::common::packet::reason;

use crate::fixture::{ACK, FIN, Packet, RST, SYN, TCP, UDP};
use crate::model::{Expect, Model, OK, REDIRECT, SHOT, to};
use crate::rig::{At, Rig};

const VIPS: [At; 3] = [
    (Ipv4Addr::new(11, 0, 0, 1), 80),
    (Ipv4Addr::new(11, 0, 0, 1), 81),
    (Ipv4Addr::new(192, 0, 2, 7), 80),
];
/// Of it there is none.
const EMPTY: At = (Ipv4Addr::new(11, 0, 0, 2), 80);
const BACKENDS: [At; 3] = [
    (Ipv4Addr::new(10, 0, 1, 1), 8080),
    (Ipv4Addr::new(10, 0, 1, 1), 8081),
    (Ipv4Addr::new(10, 0, 1, 2), 80),
];
const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(203, 0, 113, 9)];
const FLAGS: [u8; 7] = [SYN, SYN, ACK, ACK | 8, FIN | ACK, RST, SYN | ACK];

/// A packet, and who sends it: a client to a VIP, a client to a backend, a backend (seen at ingress, at egress).
#[derive(Clone, Debug)]
struct Step {
    packet: Packet,
    is_outbound: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let vip = prop_oneof![6 => 0..3_usize, 1 => Just(3_usize)];
    (
        (0..8_u8, vip, 0..3_usize, 0..2_usize, 0..3_u16),
        (any::<bool>(), 0..FLAGS.len()),
        proptest::collection::vec(any::<u8>(), 0..40),
        (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>()),
    )
        .prop_map(
            |((who, vip, backend, client, port), (is_tcp, flags), payload, (seq, ack, tos, id))| {
                let client = (CLIENTS[client], 40_000 + port);
                let backend = BACKENDS[backend];
                let vip = VIPS.get(vip).copied().unwrap_or(EMPTY);
                let (src, dst) = match who {
                    0..=3 => (client, vip),
                    4 => (client, backend),
                    _ => (backend, client),
                };
                let packet = Packet {
                    proto: if is_tcp { TCP } else { UDP },
                    payload,
                    seq,
                    ack,
                    tos,
                    id,
                    ..Packet::tcp(src, dst, FLAGS[flags])
                };
                Step {
                    packet,
                    is_outbound: who == 7,
                }
            },
        )
}

#[test]
fn programs_do_what_the_model_does() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("model")? else {
        return Ok(());
    };
    let mut model = Model::default();
    for proto in [TCP, UDP] {
        for (n, vip) in (0..).zip(VIPS) {
            let base = u32::from(proto) * 100 + n * 10;
            rig.serve(vip, proto, base, &BACKENDS)?;
            model.vips.insert((vip, proto), BACKENDS.to_vec());
        }
        rig.serve(EMPTY, proto, u32::from(proto) * 100 + 50, &[])?;
        model.vips.insert((EMPTY, proto), Vec::new());
    }
    let model = std::cell::RefCell::new(model);
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        // What was seen stays: a shrunk case would begin elsewhere.
        max_shrink_iters: 0,
        ..Config::default()
    });
    let steps = proptest::collection::vec(step(), 1..50);
    let done = runner.run(&steps, |steps| {
        for step in steps {
            one(&rig, &mut model.borrow_mut(), &step)?;
        }
        Ok(())
    });
    done.map_err(|error| anyhow::anyhow!("{error}"))?;
    for (what, least) in [
        (reason::FORWARDED, 1_000),
        (reason::ANSWERED, 200),
        (reason::FLOW_MADE, 100),
        (reason::NO_BACKEND, 100),
        (reason::NO_FLOW, 50),
        (reason::COLLISION, 20),
        (reason::DIRECT, 20),
        (reason::RESET_SENT, 100),
        (reason::ICMP_SENT, 100),
    ] {
        let n = rig.count(what)?;
        assert!(n >= least, "{}: {n}", reason::NAMES[what as usize]);
    }
    for never in [
        reason::FAILED,
        reason::BAD_TABLE,
        reason::MALFORMED,
        reason::NOT_REMEMBERED,
    ] {
        assert_eq!(rig.count(never)?, 0, "{}", reason::NAMES[never as usize]);
    }
    Ok(())
}

fn one(rig: &Rig, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    let packet = &step.packet;
    let (expected, run) = if step.is_outbound {
        (
            model.own(packet),
            rig.packets.test_outbound(&packet.frame()),
        )
    } else {
        (
            model.inbound(packet),
            rig.packets.test_inbound(&packet.frame()),
        )
    };
    let run = run.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
    match expected {
        Expect::Exactly(verdict, frame) => {
            prop_assert!(
                run.verdict == verdict && run.packet == frame,
                "{step:?}: {} {:02x?}, expected {verdict} {frame:02x?}",
                run.verdict,
                run.packet
            );
        }
        Expect::Dropped => prop_assert_eq!(run.verdict, SHOT, "{:?}", step),
        Expect::One(_, true) if run.verdict == SHOT => {}
        Expect::One(backends, _) => {
            let sent = if step.is_outbound { REDIRECT } else { OK };
            prop_assert_eq!(run.verdict, sent, "{:?}", step);
            let chosen = backends
                .into_iter()
                .find(|backend| run.packet == to(packet, *backend).frame());
            let Some(backend) = chosen else {
                return Err(TestCaseError::fail(format!(
                    "{step:?}: {:02x?}",
                    run.packet
                )));
            };
            model.chose(packet, backend);
        }
    }
    Ok(())
}
