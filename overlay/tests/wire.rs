//! Messages as bytes: whatever comes in, nothing panics, and what goes out is what another library reads.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Asked, ResponseCode},
    rr::{Name, RData as WireData, Record, RecordType, rdata},
};
use proptest::prelude::*;
use waggle_overlay_plan::{
    Answer, DnsName, Outcome, RData, RType, Rr,
    wire::{Fault, Limits, Query, Rendered, scan, write_error},
};

const WIDE: Limits = Limits {
    max: 65_535,
    recursion_available: true,
};

fn name(text: &str) -> DnsName {
    DnsName::parse(text).unwrap()
}

fn any_name() -> impl Strategy<Value = DnsName> {
    let label = prop_oneof!["[a-z]{1,3}", "[a-z0-9_-]{1,63}"];
    prop::collection::vec(label, 0..6)
        .prop_filter_map("long", |labels| DnsName::parse(&labels.join(".")).ok())
}

fn any_data() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<u32>().prop_map(|ip| RData::A(Ipv4Addr::from(ip))),
        any::<u128>().prop_map(|ip| RData::Aaaa(Ipv6Addr::from(ip))),
        any_name().prop_map(RData::Ns),
        any_name().prop_map(RData::Ptr),
        (any::<u16>(), any_name()).prop_map(|(port, target)| RData::Srv { port, target }),
        prop::collection::vec("[a-z= ]{0,40}", 1..3).prop_map(RData::Txt),
        (any_name(), any_name(), any::<u32>()).prop_map(|(mname, rname, serial)| RData::Soa {
            mname,
            rname,
            serial,
            minimum: 1
        }),
    ]
}

prop_compose! {
    fn any_rr()(owner in any_name(), ttl in 0u32..100, data in any_data()) -> Rr {
        Rr { owner, ttl, data }
    }
}

prop_compose! {
    fn any_answer()(
        asked in any_name(),
        answers in prop::collection::vec(any_rr(), 0..40),
        authority in prop::collection::vec(any_rr(), 0..3),
        additional in prop::collection::vec(any_rr(), 0..5),
        own in any::<bool>(),
    ) -> (DnsName, Answer) {
        let mut answers = answers;
        if own {
            for rr in &mut answers { rr.owner = asked.clone(); }
        }
        let outcome = if answers.is_empty() { Outcome::NoData } else { Outcome::Found };
        (asked, Answer { outcome, answers, authority, additional })
    }
}

fn wire_name(name: &DnsName) -> Name {
    let labels: Vec<&[u8]> = name.labels_from_root().collect();
    let mut name = Name::from_labels(labels.into_iter().rev()).unwrap();
    name.set_fqdn(true);
    name
}

/// A question as a client makes it.
fn ask(id: u16, name: &DnsName, rtype: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut m = Message::new(id, MessageType::Query, OpCode::Query);
    m.metadata.recursion_desired = true;
    m.add_query(Asked::query(wire_name(name), rtype));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(true);
        m.set_edns(edns);
    }
    m.to_vec().unwrap()
}

/// Owner, TTL and data as the other library sees them, against what was meant.
fn same(record: &Record, rr: &Rr) -> bool {
    let data = match (&record.data, &rr.data) {
        (WireData::A(a), RData::A(ip)) => a.0 == *ip,
        (WireData::AAAA(a), RData::Aaaa(ip)) => a.0 == *ip,
        (WireData::NS(n), RData::Ns(name)) => n.0 == wire_name(name),
        (WireData::PTR(n), RData::Ptr(name)) => n.0 == wire_name(name),
        (WireData::SRV(s), RData::Srv { port, target }) => {
            (s.priority, s.weight, s.port) == (0, 0, *port) && s.target == wire_name(target)
        }
        (
            WireData::SOA(s),
            RData::Soa {
                mname,
                rname,
                serial,
                minimum,
            },
        ) => {
            s.mname == wire_name(mname)
                && s.rname == wire_name(rname)
                && (s.serial, s.minimum) == (*serial, *minimum)
        }
        (WireData::TXT(t), RData::Txt(strings)) => {
            let given: Vec<&[u8]> = strings.iter().map(String::as_bytes).collect();
            t.txt_data.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>() == given
        }
        _ => false,
    };
    data && record.ttl == rr.ttl && record.name == wire_name(&rr.owner)
}

proptest! {
    #[test]
    fn answers_are_what_another_library_reads(
        (asked, answer) in any_answer(),
        id in any::<u16>(),
        payload in prop::option::of(any::<u16>()),
        tcp in any::<bool>(),
    ) {
        let bytes = ask(id, &asked, RecordType::A, payload);
        let query = Query::parse(&bytes).unwrap();
        prop_assert_eq!(query.name(), asked.clone());
        let limits = if tcp { WIDE } else { Limits { max: query.udp_limit(), ..WIDE } };
        let mut out = b"before".to_vec();
        let written = Rendered::new(&asked, &answer).write(&query, limits, &mut out);
        let out = &out[6..];
        prop_assert!(out.len() <= limits.max);
        let m = Message::from_vec(out).unwrap();
        prop_assert_eq!(m.metadata.id, id);
        prop_assert!(m.metadata.authoritative && m.metadata.recursion_desired);
        prop_assert_eq!(m.metadata.truncation, written.truncated);
        prop_assert_eq!(m.edns.is_some(), payload.is_some());
        let n = answer.answers.len();
        if written.truncated {
            prop_assert!(m.answers.len() < n || m.authorities.is_empty());
        } else {
            prop_assert_eq!(m.answers.len(), n);
        }
        // In their order, from some place on.
        for (i, record) in m.answers.iter().enumerate() {
            let rr = &answer.answers[(usize::from(id) % n + i) % n];
            prop_assert!(same(record, rr), "{:?} {:?}", record, rr);
        }
        for (record, rr) in m.authorities.iter().zip(&answer.authority) {
            prop_assert!(same(record, rr), "{:?} {:?}", record, rr);
        }
        for (record, rr) in m.additionals.iter().zip(&answer.additional) {
            prop_assert!(same(record, rr), "{:?} {:?}", record, rr);
        }
        if tcp {
            prop_assert_eq!(m.additionals.len(), answer.additional.len());
        }
    }

    /// What both take for a question they read alike; nothing makes ours panic, and every answer is a message.
    #[test]
    fn random_and_mutated_questions(
        seed in any_name(),
        payload in prop::option::of(any::<u16>()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        noise in prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
    ) {
        let mut bytes = noise.unwrap_or_else(|| ask(7, &seed, RecordType::SRV, payload));
        for (at, byte) in edits {
            if !bytes.is_empty() {
                let i = at.index(bytes.len());
                bytes[i] = byte;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        match Query::parse(&bytes) {
            Ok(query) => {
                // A name in it may be longer than ours takes, never shorter than it says.
                prop_assert_eq!(query.name().to_wire().len(), query.name_wire().len());
                if let Ok(m) = Message::from_vec(&bytes) {
                    prop_assert_eq!(m.metadata.id, query.id);
                    prop_assert_eq!(m.queries.len(), 1);
                    prop_assert_eq!(RType(m.queries[0].query_type().into()), query.rtype);
                    let theirs = DnsName::from_labels(m.queries[0].name().iter()).unwrap();
                    prop_assert_eq!(theirs, query.name());
                }
                let mut out = Vec::new();
                write_error(&query.error(5), true, &mut out);
                let answer = Message::from_vec(&out).unwrap();
                prop_assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
                // What goes on to an upstream is the same question.
                let again = query.write(9, true);
                prop_assert_eq!(Query::parse(&again).unwrap().question, query.question);
            }
            Err(refused) => {
                if let Some(reply) = refused.reply {
                    let mut out = Vec::new();
                    write_error(&reply, false, &mut out);
                    prop_assert!(out.len() >= 12 && out.len() <= bytes.len().max(12) + 11);
                    prop_assert!(out[2] & 0x80 != 0, "an answer");
                } else {
                    prop_assert!(matches!(refused.fault, Fault::Short | Fault::Response));
                }
            }
        }
    }

    /// Answers of upstreams: nothing panics, and what is passed on is a message with the same records.
    #[test]
    fn random_and_mutated_answers(
        (asked, answer) in any_answer(),
        with_opt in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let payload = with_opt.then_some(1232);
        let question = ask(7, &asked, RecordType::A, payload);
        let query = Query::parse(&question).unwrap();
        let mut bytes = Vec::new();
        Rendered::new(&asked, &answer).write(&query, WIDE, &mut bytes);
        let clean = edits.is_empty() && cut.is_none();
        for (at, byte) in edits {
            let i = at.index(bytes.len());
            bytes[i] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let scanned = scan(&bytes, 7, query.question);
        prop_assert!(!clean || scanned.is_ok(), "{:?}", scanned);
        let Ok(scanned) = scanned else { return Ok(()) };
        let mut out = Vec::new();
        let written = scanned.write(&query, WIDE, |ttl| ttl / 2, &mut out);
        prop_assert!(out.len() <= 65_535);
        if let (Ok(theirs), Ok(ours)) = (Message::from_vec(&bytes), Message::from_vec(&out)) {
            prop_assert_eq!(ours.answers.len(), theirs.answers.len());
            for (a, b) in ours.answers.iter().zip(&theirs.answers) {
                prop_assert_eq!(&a.data, &b.data);
                prop_assert_eq!(a.ttl, b.ttl / 2);
            }
        } else {
            prop_assert!(!clean);
        }
        if clean {
            prop_assert!(!written.truncated);
            let least = answer.answers.iter().chain(&answer.authority).chain(&answer.additional)
                .map(|rr| rr.ttl).min();
            if !answer.answers.is_empty() {
                prop_assert_eq!(scanned.ttl, least);
            }
        }
        // Who takes less gets none of it, and is told.
        let mut out = Vec::new();
        let narrow = Limits { max: question.len() + 11, ..WIDE };
        let written = scanned.write(&query, narrow, |ttl| ttl, &mut out);
        prop_assert!(out.len() <= narrow.max);
        prop_assert!(written.truncated || scanned.is_empty());
    }

    #[test]
    fn noise_is_no_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let question = ask(7, &name("a.b"), RecordType::A, None);
        let query = Query::parse(&question).unwrap();
        // Only what repeats the question can be one.
        let repeats = bytes.len() >= 12 + query.question.len()
            && bytes[12..].starts_with(query.question);
        prop_assert!(repeats || scan(&bytes, 7, query.question).is_err());
    }
}

/// An answer to `a.b` A with these bytes behind the question.
fn answer_with(counts: [u16; 3], tail: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let question = ask(7, &name("a.b"), RecordType::A, None);
    let mut bytes = question.clone();
    bytes[2..4].copy_from_slice(&0x8180u16.to_be_bytes());
    for (i, n) in counts.into_iter().enumerate() {
        bytes[6 + 2 * i..8 + 2 * i].copy_from_slice(&n.to_be_bytes());
    }
    bytes.extend_from_slice(tail);
    (question, bytes)
}

#[test]
fn pointers_that_loop_or_lead_forward_are_refused() {
    // The records begin at 21: a name that points to itself, to what comes later, into the header.
    for pointer in [21u16, 23, 30, 4] {
        let mut tail = (0xc000 + pointer).to_be_bytes().to_vec();
        tail.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4]);
        let (question, bytes) = answer_with([1, 0, 0], &tail);
        let query = Query::parse(&question).unwrap();
        assert!(scan(&bytes, 7, query.question).is_err(), "{pointer}");
    }
    // A CNAME whose data points to its own begin.
    let mut tail = vec![0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 2];
    tail.extend_from_slice(&(0xc000u16 + 33).to_be_bytes());
    let (question, bytes) = answer_with([1, 0, 0], &tail);
    let query = Query::parse(&question).unwrap();
    assert!(scan(&bytes, 7, query.question).is_err());
}

#[test]
fn a_count_of_records_that_are_not_there_is_refused_at_once() {
    let (question, bytes) = answer_with([65_535, 65_535, 65_535], &[]);
    let query = Query::parse(&question).unwrap();
    assert!(scan(&bytes, 7, query.question).is_err());
}

#[test]
fn what_follows_edns_is_left_out() {
    let a = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4];
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let tail = [&a[..], &a, &opt, &a].concat();
    let (question, bytes) = answer_with([1, 0, 3], &tail);
    let query = Query::parse(&question).unwrap();
    let scanned = scan(&bytes, 7, query.question).unwrap();
    let mut out = Vec::new();
    scanned.write(&query, WIDE, |ttl| ttl, &mut out);
    let m = Message::from_vec(&out).unwrap();
    assert_eq!((m.answers.len(), m.additionals.len()), (1, 1));
    assert!(m.edns.is_none(), "the asker did not speak it");
}

#[test]
fn negative_answers_are_kept_as_rfc_2308_says() {
    let soa = |ttl, minimum| {
        let data = rdata::SOA::new(
            wire_name(&name("ns")),
            wire_name(&name("m")),
            1,
            2,
            3,
            4,
            minimum,
        );
        Record::from_rdata(wire_name(&name("b")), ttl, WireData::SOA(data))
    };
    let question = ask(7, &name("a.b"), RecordType::A, None);
    let query = Query::parse(&question).unwrap();
    for (code, authority, want) in [
        (ResponseCode::NXDomain, Some(soa(100, 7)), Some(7)),
        (ResponseCode::NXDomain, Some(soa(5, 7)), Some(5)),
        (ResponseCode::NoError, Some(soa(100, 7)), Some(7)),
        (ResponseCode::NXDomain, None, None),
        (ResponseCode::NoError, None, None),
        (ResponseCode::ServFail, Some(soa(100, 7)), None),
    ] {
        let mut m = Message::from_vec(&question).unwrap();
        m.metadata.message_type = MessageType::Response;
        m.metadata.response_code = code;
        m.authorities = authority.into_iter().collect();
        let scanned = scan(&m.to_vec().unwrap(), 7, query.question).unwrap();
        assert_eq!(scanned.ttl, want, "{code:?}");
        assert_eq!(scanned.is_negative(), code != ResponseCode::ServFail);
    }
}

#[test]
fn what_is_no_question_has_a_fault_and_a_code() {
    let good = ask(7, &name("a.b"), RecordType::A, Some(1232));
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let n = good.len();
    let cases: [(Vec<u8>, Fault, Option<u16>); 11] = [
        (vec![], Fault::Short, None),
        (good[..11].to_vec(), Fault::Short, None),
        (change(2, 0x81), Fault::Response, None),
        (change(2, 0x29), Fault::Operation, Some(4)),
        (change(5, 0), Fault::Questions, Some(1)),
        (change(5, 2), Fault::Questions, Some(1)),
        (change(7, 1), Fault::Answers, Some(1)),
        // A pointer in the question, and a label of 64.
        (change(12, 0xc0), Fault::Malformed, Some(1)),
        (change(12, 64), Fault::Malformed, Some(1)),
        (good[..n - 1].to_vec(), Fault::Malformed, Some(1)),
        // EDNS's version.
        (change(n - 5, 1), Fault::EdnsVersion, Some(16)),
    ];
    for (bytes, fault, code) in cases {
        let refused = Query::parse(&bytes).unwrap_err();
        assert_eq!(refused.fault, fault, "{bytes:?}");
        assert_eq!(refused.reply.map(|r| r.code), code, "{fault:?}");
    }
    let opt = &good[n - 11..];
    let mut twice = [good.as_slice(), opt].concat();
    twice[11] = 2;
    assert_eq!(Query::parse(&twice).unwrap_err().fault, Fault::Edns);
}
