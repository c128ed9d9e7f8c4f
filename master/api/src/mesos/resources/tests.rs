//! Lists of resources, both ways.

use proptest::prelude::*;

use super::*;
use crate::mesos::json;

fn stacks() -> impl Strategy<Value = Vec<Reservation>> {
    let one = (
        "[ab]",
        any::<bool>(),
        "[xy]?",
        prop::collection::btree_map("[kl]", "[v]", 0..2),
    );
    let reservation = one.prop_map(|(role, dynamic, principal, labels)| Reservation {
        role,
        dynamic,
        principal,
        labels,
    });
    prop::collection::vec(reservation, 0..3)
}

fn bundles() -> impl Strategy<Value = Resources> {
    let custom = (
        prop::collection::btree_map("(disk\\.[ab]|lic)", 1i64..5000, 0..3),
        prop::collection::btree_map("vlan", prop::collection::vec(0u64..50, 1..4), 0..2),
        prop::collection::btree_map("set", prop::collection::btree_set("[x-z]", 1..3), 0..2),
        prop::collection::btree_map("v[0-9](@ssd)?", (1i64..5000, any::<bool>()), 0..3),
    );
    let scalars = prop::array::uniform4(0i64..100_000);
    let ports = prop::collection::vec(31000u16..31020, 0..6);
    (scalars, ports, custom).prop_map(|(scalars, ports, (own, ranges, sets, volumes))| {
        let mut out = Resources {
            scalars: scalars.map(Milli),
            ports: PortSet::from_ports(ports),
            ..Resources::default()
        };
        for (name, q) in own {
            out.custom.set_scalar(name, Milli(q));
        }
        for (name, r) in ranges {
            out.custom.set_ranges(name, RangeSet::from_ports(r));
        }
        for (name, s) in sets {
            out.custom.set_items(name, s);
        }
        for (id, (size, shared)) in volumes {
            let size = Milli(size);
            out.custom
                .set_volume(VolumeId::new(id).unwrap(), Volume { size, shared });
        }
        out
    })
}

fn parts() -> impl Strategy<Value = Vec<ResourcePart>> {
    let part = (stacks(), any::<bool>(), bundles());
    let part = part.prop_map(|(reservation, revocable, resources)| ResourcePart {
        reservation,
        revocable,
        resources,
    });
    prop::collection::vec(part, 1..4).prop_map(|mut all| {
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|p| {
            !p.resources.is_empty() && seen.insert((p.reservation.clone(), p.revocable))
        });
        all
    })
}

fn through_json(list: Vec<pb::Resource>) -> Vec<pb::Resource> {
    let offer = pb::Offer {
        resources: list,
        ..pb::Offer::default()
    };
    json::read::<pb::Offer>(&json::write(&offer))
        .unwrap()
        .resources
}

fn through_protobuf(list: Vec<pb::Resource>) -> Vec<pb::Resource> {
    let offer = pb::Offer {
        resources: list,
        ..pb::Offer::default()
    };
    let bytes = prost::Message::encode_to_vec(&offer);
    <pb::Offer as prost::Message>::decode(bytes.as_slice())
        .unwrap()
        .resources
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(all in parts()) {
        let writer = Writer { format: Format::Stack, role: Some("a"), paths: None };
        let list = writer.write(&Resources::default(), &all);
        let list = if all.is_empty() { Vec::new() } else { list };
        let read_back = read("r", &through_json(list.clone())).unwrap();
        prop_assert_eq!(&read_back.parts, &all);
        prop_assert_eq!(read("r", &through_protobuf(list)).unwrap(), read_back);
    }

    #[test]
    fn one_deep_reservations_need_no_stack(
        bundle in bundles(), role in "[ab]", dynamic in any::<bool>(), principal in "[xy]?",
    ) {
        prop_assume!(!bundle.is_empty());
        // Of a static one the old format says the role alone.
        let principal = if dynamic { principal } else { String::new() };
        let reservation = vec![Reservation { role, dynamic, principal, labels: BTreeMap::new() }];
        let all = vec![ResourcePart { reservation, revocable: false, resources: bundle }];
        let writer = Writer { format: Format::Role, role: None, paths: None };
        let list = through_json(writer.write(&Resources::default(), &all));
        prop_assert_eq!(read("r", &list).unwrap().parts, all);
    }
}

fn one(text: &str) -> Result<Read, ConvertError> {
    read("r", &[json::read(text.as_bytes()).unwrap()])
}

#[test]
fn the_default_role_is_there() {
    let writer = Writer {
        format: Format::Role,
        role: Some("eng"),
        paths: None,
    };
    let r = Resources::from_millis(1500, 0, 0);
    let text = String::from_utf8(json::write(&writer.write(&r, &[])[0])).unwrap();
    assert_eq!(
        text,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1.5},"role":"*","allocation_info":{"role":"eng"}}"#
    );
}

#[test]
fn empty_resources_are_dropped() {
    let none = one(r#"{"name":"ports","type":"RANGES","ranges":{"range":[]}}"#).unwrap();
    assert_eq!(none, Read::default());
    let gpus = one(r#"{"name":"gpus","type":"SCALAR","scalar":{"value":0}}"#).unwrap();
    assert_eq!(gpus, Read::default());
}

#[test]
fn a_volume_brings_its_place() {
    let r = one(
        r#"{"name":"disk","type":"SCALAR","scalar":{"value":32},"role":"db","reservation":{"principal":"p"},
        "disk":{"persistence":{"id":"v1","principal":"p"},"volume":{"container_path":"data","mode":"RO"}}}"#,
    )
    .unwrap();
    let id = VolumeId::new("v1").unwrap();
    assert_eq!(r.mounts, [(id.clone(), "data".to_owned(), true)]);
    assert_eq!(
        r.parts[0].resources.custom.volume(&id).unwrap().size,
        Milli::units(32)
    );
    assert_eq!(r.parts[0].reservation, [Reservation::dynamic("db", "p")]);
}

#[test]
fn errors_name_the_field() {
    for (text, field) in [
        (r#"{"name":"cpus","type":"SCALAR"}"#, "r[0].scalar"),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":-1}}"#,
            "r[0].scalar.value",
        ),
        (r#"{"name":"cpus","type":"TEXT"}"#, "r[0].type"),
        (r#"{"name":"cpus"}"#, "r[0].type"),
        (
            r#"{"name":"a b","type":"SCALAR","scalar":{"value":1}}"#,
            "r[0].name",
        ),
        (
            r#"{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":2,"end":1}]}}"#,
            "r[0].ranges",
        ),
        (
            r#"{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":1,"end":99999}]}}"#,
            "r[0].ranges",
        ),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservation":{}}"#,
            "r[0].role",
        ),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"a/"}"#,
            "r[0].role",
        ),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"role":"a"}]}"#,
            "r[0].reservations[0].type",
        ),
        (
            r#"{"name":"disk","type":"SCALAR","scalar":{"value":1},"disk":{"source":{"type":"RAW"}}}"#,
            "r[0].disk.source.type",
        ),
    ] {
        assert_eq!(one(text).unwrap_err().field, field, "{text}");
    }
    let ports: pb::Resource =
        json::read(br#"{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":1,"end":2}]}}"#)
            .unwrap();
    assert_eq!(
        read("r", &[ports.clone(), ports]).unwrap_err().field,
        "r[1].ranges"
    );
}
