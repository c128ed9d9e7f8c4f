//! Edges' rings on the wire: four columns instead of messages, since a ring may have thousands of marks.

use std::{collections::BTreeMap, net::SocketAddrV4};

use waggle_types::{EdgeMark, EdgeRing, MAX_MARKS, MAX_RINGS, Millis, VipKey};

use super::{ConvertError, at_most, each, required};
use crate::proto::session as pb;

/// Rings as an edge, or the master, tells them.
pub fn edge_rings(rings: Vec<pb::EdgeRing>) -> Result<Vec<EdgeRing>, ConvertError> {
    at_most("rings", rings.len(), MAX_RINGS)?;
    let marks: usize = rings.iter().map(|r| r.slots.len()).sum();
    at_most("rings.slots", marks, MAX_MARKS)?;
    each("rings", rings, ring)
}

/// The opposite of [`edge_rings`].
pub fn edge_rings_to_wire(rings: &[EdgeRing]) -> Vec<pb::EdgeRing> {
    rings.iter().map(ring_to_wire).collect()
}

fn ring(r: pb::EdgeRing) -> Result<EdgeRing, ConvertError> {
    let n = r.slots.len();
    if r.previous.len() != n || r.ages_ms.len() != n {
        let rule = format!("must be as long as slots ({n})");
        return Err(ConvertError::new("previous", rule));
    }
    at_most("backends", r.backends.len(), n)?;
    let backends = each("backends", r.backends, |text| {
        text.parse::<SocketAddrV4>()
            .map_err(|_| ConvertError::new("", format!("must be IPv4:port, is {text:.40?}")))
    })?;
    let columns = r.slots.into_iter().zip(r.previous).zip(r.ages_ms);
    let marks = columns.map(|((slot, previous), age)| {
        if slot >= r.size {
            let rule = format!("must be below the ring's size {}, is {slot}", r.size);
            return Err(ConvertError::new("slots", rule));
        }
        let at = usize::try_from(previous)
            .ok()
            .and_then(|at| backends.get(at));
        let previous = *at.ok_or_else(|| {
            ConvertError::new(
                "previous",
                format!("must be one of the backends, is {previous}"),
            )
        })?;
        Ok(EdgeMark {
            slot,
            previous,
            age: Millis(age.into()),
        })
    });
    let marks = marks.collect::<Result<_, ConvertError>>()?;
    Ok(EdgeRing {
        vip: VipKey::try_from(required("vip", r.vip)?).map_err(|e| e.within("vip"))?,
        size: r.size,
        marks,
    })
}

fn ring_to_wire(r: &EdgeRing) -> pb::EdgeRing {
    let mut numbers: BTreeMap<SocketAddrV4, u32> = BTreeMap::new();
    let mut out = pb::EdgeRing {
        vip: Some((&r.vip).into()),
        size: r.size,
        ..pb::EdgeRing::default()
    };
    for mark in &r.marks {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        let number = *numbers.entry(mark.previous).or_insert_with(|| {
            out.backends.push(mark.previous.to_string());
            next
        });
        out.slots.push(mark.slot);
        out.previous.push(number);
        out.ages_ms
            .push(u32::try_from(mark.age.0).unwrap_or(u32::MAX));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use waggle_types::Protocol;

    use super::*;

    fn any_ring() -> impl Strategy<Value = EdgeRing> {
        let mark = (0u32..251, any::<u8>(), any::<u32>()).prop_map(|(slot, b, age)| EdgeMark {
            slot,
            previous: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, b), 31_000),
            age: Millis(age.into()),
        });
        (any::<u32>(), 1u16.., prop::collection::vec(mark, 0..20)).prop_map(|(ip, port, marks)| {
            EdgeRing {
                vip: VipKey {
                    protocol: Protocol::Tcp,
                    ip: Ipv4Addr::from(ip).into(),
                    port,
                },
                size: 251,
                marks,
            }
        })
    }

    proptest! {
        #[test]
        fn rings_come_back_as_they_went(rings in prop::collection::vec(any_ring(), 0..4)) {
            prop_assert_eq!(edge_rings(edge_rings_to_wire(&rings)), Ok(rings));
        }
    }

    #[test]
    fn rings_that_mean_nothing_are_refused() {
        let good = pb::EdgeRing {
            vip: Some(pb::VipPort {
                protocol: pb::Protocol::Tcp.into(),
                ip: "11.0.0.1".into(),
                port: 80,
            }),
            size: 251,
            backends: vec!["10.0.0.1:31000".into()],
            slots: vec![7],
            previous: vec![0],
            ages_ms: vec![5],
        };
        let wrong = |change: &dyn Fn(&mut pb::EdgeRing)| {
            let mut ring = good.clone();
            change(&mut ring);
            edge_rings(vec![ring]).unwrap_err().field
        };
        assert!(edge_rings(vec![good.clone()]).is_ok());
        assert_eq!(wrong(&|r| r.slots[0] = 251), "rings[0].slots");
        assert_eq!(wrong(&|r| r.previous[0] = 1), "rings[0].previous");
        assert_eq!(wrong(&|r| r.ages_ms.clear()), "rings[0].previous");
        assert_eq!(wrong(&|r| r.vip = None), "rings[0].vip");
        assert!(edge_rings(vec![good; MAX_RINGS + 1]).is_err());
    }
}
