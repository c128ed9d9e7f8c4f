//! Ports and VIP labels of a definition.

use std::collections::BTreeMap;

use waggle_types::{Balance, PortDefinition, Protocol, VipLabel};

use super::parse::MAX_PORTS;
use crate::read::{Errors, Obj, integer};

/// `portDefinitions`, else the older `ports`, else one port of the agent's choice, as Marathon does.
pub(super) fn ports(obj: &Obj<'_>, errs: &mut Errors) -> Vec<PortDefinition> {
    let (key, items) = match (obj.get("portDefinitions"), obj.get("ports")) {
        (Some(_), _) => ("portDefinitions", obj.list("portDefinitions", errs)),
        (None, Some(_)) => ("ports", obj.list("ports", errs)),
        (None, None) => {
            return vec![PortDefinition {
                name: Some("default".into()),
                ..tcp_port(0)
            }];
        }
    };
    let items = items.unwrap_or_default();
    if items.len() > MAX_PORTS {
        let rule = format!("must be at most {MAX_PORTS}, is {}", items.len());
        errs.add(key, rule);
        return Vec::new();
    }
    let mut out = Vec::with_capacity(items.len());
    for (i, v) in items.iter().enumerate() {
        let path = format!("{key}[{i}]");
        // A bad one is kept as a placeholder, so that positions and counts stay those of the client.
        let port = if key == "ports" {
            integer(&path, v, 0, 65_535, errs)
                .map(|n| tcp_port(u16::try_from(n).unwrap_or_default()))
        } else {
            Obj::of(path, v, errs).map(|p| port_definition(&p, errs))
        };
        out.push(port.unwrap_or_else(|| tcp_port(0)));
    }
    unique_ports(key, &out, errs);
    out
}

fn tcp_port(port: u16) -> PortDefinition {
    PortDefinition {
        mapping: None,
        port,
        name: None,
        protocols: vec![Protocol::Tcp],
        labels: BTreeMap::new(),
        vips: Vec::new(),
        balance: Balance::default(),
    }
}

fn port_definition(p: &Obj<'_>, errs: &mut Errors) -> PortDefinition {
    let port = p.integer("port", 0, 65_535, errs).unwrap_or(0);
    let name = p.string("name", errs);
    if let Some(n) = &name {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if n.is_empty() || n.len() > 63 || !n.bytes().all(fine) {
            let rule = format!("must be 1 to 63 letters, digits, - or _, is {n:?}");
            errs.add(p.path("name"), rule);
        }
    }
    let protocols = match p.string("protocol", errs).as_deref() {
        None | Some("tcp") => vec![Protocol::Tcp],
        Some("udp") => vec![Protocol::Udp],
        Some("udp,tcp" | "tcp,udp") => vec![Protocol::Tcp, Protocol::Udp],
        Some(other) => {
            let rule = format!("must be tcp, udp or udp,tcp, is {other:?}");
            errs.add(p.path("protocol"), rule);
            vec![Protocol::Tcp]
        }
    };
    let labels = p.string_map("labels", errs).unwrap_or_default();
    let mut vips = Vec::new();
    for (k, v) in labels.iter().filter(|(k, _)| VipLabel::is_key(k)) {
        match VipLabel::parse(&format!("{}.{k}", p.path("labels")), v) {
            Ok(vip) => vips.push(vip),
            Err(e) => errs.push(e),
        }
    }
    let balance = Balance::from_labels(&p.path("labels"), &labels).unwrap_or_else(|wrong| {
        for e in wrong {
            errs.push(e);
        }
        Balance::default()
    });
    PortDefinition {
        mapping: None,
        port: u16::try_from(port).unwrap_or_default(),
        name,
        protocols,
        labels,
        vips,
        balance,
    }
}

/// A fixed port, a name and a VIP (per protocol) each belong to one port definition.
fn unique_ports(key: &str, ports: &[PortDefinition], errs: &mut Errors) {
    let (mut fixed, mut names, mut vips) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (i, p) in ports.iter().enumerate() {
        let path = format!("{key}[{i}]");
        if let Some(other) = (p.port != 0).then(|| fixed.insert(p.port, i)).flatten() {
            let rule = format!("must be unique, {} is also {key}[{other}]", p.port);
            errs.add(
                path.clone() + if key == "ports" { "" } else { ".port" },
                rule,
            );
        }
        if let Some((name, other)) = p
            .name
            .as_ref()
            .and_then(|n| names.insert(n.clone(), i).map(|o| (n, o)))
        {
            let rule = format!("must be unique, {name:?} is also {key}[{other}]");
            errs.add(format!("{path}.name"), rule);
        }
        // Labels and parsed VIPs are in the same order, so positions name the label.
        let keys = p.labels.iter().filter(|(k, _)| VipLabel::is_key(k));
        for (vip, (label, text)) in p.vips.iter().zip(keys) {
            let dup = p
                .protocols
                .iter()
                .find_map(|proto| vips.insert((*proto, vip.clone()), (i, label.clone())));
            if let Some((j, other)) = dup {
                let rule = format!("VIP {text:?} is already defined by {key}[{j}].labels.{other}");
                errs.add(format!("{path}.labels.{label}"), rule);
            }
        }
    }
}
