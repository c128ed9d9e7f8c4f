//! Offers that were not used, as `/v2/queue?embed=lastUnusedOffers` shows them.

use serde_json::{Value, json};
use waggle_services::UnusedOffer;
use waggle_types::{Reservation, Resources, ScalarKind, ServiceVersion};

/// Marathon's `UnusedOffer`: the offer, when it came, and why it was of no use.
pub(super) fn unused(u: &UnusedOffer) -> Value {
    let o = &u.offer;
    let attributes = o.attributes.iter();
    let attributes: Vec<Value> = attributes
        .map(|(name, text)| json!({"name": name, "text": text, "type": "TEXT"}))
        .collect();
    let mut resources = Vec::new();
    if o.parts.is_empty() {
        put(&o.resources, "*", None, &mut resources);
    }
    for p in &o.parts {
        let last = p.reservation.last();
        let role = last.map_or("*", |r| r.role.as_str());
        put(&p.resources, role, last, &mut resources);
    }
    json!({
        "offer": {
            "id": o.offer_id.to_string(),
            "agentId": o.agent_id.to_string(),
            "hostname": o.hostname,
            "attributes": attributes,
            "resources": resources,
        },
        "reason": [u.reason.name()],
        "timestamp": ServiceVersion(u.at).to_string(),
    })
}

fn put(r: &Resources, role: &str, reservation: Option<&Reservation>, out: &mut Vec<Value>) {
    let mut one = |mut v: Value| {
        v["role"] = json!(role);
        if let Some(r) = reservation.filter(|r| r.dynamic) {
            v["reservation"] = json!({"principal": r.principal, "labels": r.labels});
        }
        out.push(v);
    };
    for kind in ScalarKind::ALL {
        let n = r.get(kind);
        if n.0 != 0 {
            one(json!({"name": kind.name(), "scalar": n.to_f64()}));
        }
    }
    for (name, n) in r.custom.scalars() {
        one(json!({"name": name, "scalar": n.to_f64()}));
    }
    for (id, v) in r.custom.volumes() {
        let disk = json!({"persistence": {"id": id.to_string()}});
        one(json!({"name": "disk", "scalar": v.size.to_f64(), "disk": disk}));
    }
    if !r.ports.is_empty() {
        let ranges = r.ports.ranges().iter();
        let ranges: Vec<Value> = ranges
            .map(|p| json!({"begin": p.begin, "end": p.end}))
            .collect();
        one(json!({"name": "ports", "ranges": ranges}));
    }
}
