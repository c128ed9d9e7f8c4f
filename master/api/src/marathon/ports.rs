//! Ports and VIP labels of a definition.

use std::collections::BTreeMap;

use serde_json::Value;
use waggle_types::{
    Balance, NetworkMode, PortDefinition, PortMapping, Protocol, SourceRange, VipLabel,
};

use super::parse::MAX_PORTS;
use crate::read::{Errors, Obj, integer};

/// On the host's network `portDefinitions`, else the older `ports`, else one port of the agent's choice, as Marathon
/// does. On a network of the instance's own, the mappings of its container.
pub(super) fn ports(
    obj: &Obj<'_>,
    network: &NetworkMode,
    errs: &mut Errors,
) -> Vec<PortDefinition> {
    let (path, mappings) = mappings(obj, errs);
    if *network == NetworkMode::Host {
        if mappings.is_some_and(|m| !m.is_empty()) {
            let rule =
                "must not be set on the host's network, use portDefinitions or another of networks";
            errs.add(path, rule);
        }
        return host_ports(obj, errs);
    }
    // The older `ports` is what a server shows, here and in Marathon: not a wish.
    let defined = obj.list("portDefinitions", errs).unwrap_or_default();
    if !defined.is_empty() {
        let rule = "must not be set off the host's network, use container.portMappings";
        errs.add("portDefinitions", rule);
    }
    let bridge = *network == NetworkMode::Bridge;
    let discovered = discovered(obj, errs);
    let (path, mappings) = match (mappings, discovered) {
        (Some([]) | None, Some((path, ports))) => (path, Some(ports)),
        (Some(_), Some((other, _))) => {
            errs.add(other, format!("must not be set together with {path}"));
            (path, mappings)
        }
        (_, None) => (path, mappings),
    };
    let Some(mappings) = mappings else {
        let one = PortDefinition {
            name: Some("default".into()),
            mapping: Some(PortMapping {
                container_port: 0,
                host_port: Some(0),
            }),
            ..tcp_port(0)
        };
        return if bridge { vec![one] } else { Vec::new() };
    };
    if *network == NetworkMode::None && !mappings.is_empty() {
        errs.add(path, "must not be set without a network");
        return Vec::new();
    }
    if mappings.len() > MAX_PORTS {
        let rule = format!("must be at most {MAX_PORTS}, is {}", mappings.len());
        errs.add(path, rule);
        return Vec::new();
    }
    let each = mappings.iter().enumerate().map(|(i, v)| {
        let port = Obj::of(format!("{path}[{i}]"), v, errs);
        let port = port.map(|p| port_mapping(&p, network, errs));
        port.unwrap_or_else(|| tcp_port(0))
    });
    let out: Vec<PortDefinition> = each.collect();
    unique_ports(&path, &out, errs);
    out
}

/// `container.portMappings`, or `container.docker.portMappings` as before Marathon 1.5, and where they are.
fn mappings<'a>(obj: &Obj<'a>, errs: &mut Errors) -> (String, Option<&'a [Value]>) {
    let key = "portMappings";
    // That these are objects is checked where they are read whole.
    let elsewhere = &mut Errors::default();
    let container = obj.object("container", elsewhere);
    let docker = container
        .as_ref()
        .and_then(|c| c.object("docker", elsewhere));
    let mut read = |o: Option<Obj<'a>>| {
        let o = o?;
        Some((o.path(key), o.list(key, errs)?))
    };
    match (read(container), read(docker)) {
        (None, None) => (format!("container.{key}"), None),
        (Some((path, one)), None | Some((_, []))) | (None | Some((_, [])), Some((path, one))) => {
            (path, Some(one))
        }
        (Some((path, new)), Some((old, _))) => {
            errs.add(old, format!("must not be set together with {path}"));
            (path, Some(new))
        }
    }
}

/// `ipAddress.discovery.ports` as before Marathon 1.5, where it says any, and where it is.
fn discovered<'a>(obj: &Obj<'a>, errs: &mut Errors) -> Option<(String, &'a [Value])> {
    // That this is an object is checked where the network is read.
    let address = obj.object("ipAddress", &mut Errors::default())?;
    let discovery = address.object("discovery", errs)?;
    let ports = discovery.list("ports", errs).filter(|p| !p.is_empty())?;
    Some((discovery.path("ports"), ports))
}

fn port_mapping(p: &Obj<'_>, network: &NetworkMode, errs: &mut Errors) -> PortDefinition {
    let bridge = *network == NetworkMode::Bridge;
    let names = p.strings("networkNames", errs).unwrap_or_default();
    let mine = |n: &String| matches!(network, NetworkMode::Container(mine) if mine == n);
    if let Some(other) = names.iter().find(|n| !mine(n)) {
        let rule = format!("must be the app's own network, is {other:?}");
        errs.add(p.path("networkNames"), rule);
    }
    let port = |n: Option<u32>| n.and_then(|n| u16::try_from(n).ok());
    // `number` is the older word, of `ipAddress.discovery`.
    let inside = if p.get("containerPort").is_none() {
        p.integer("number", 1, 65_535, errs)
    } else {
        p.integer("containerPort", 0, 65_535, errs)
    };
    let container_port = port(inside).unwrap_or(0);
    let host_port = port(p.integer("hostPort", 0, 65_535, errs)).or(bridge.then_some(0));
    if container_port == 0 && host_port.is_none() {
        let rule = "must be set where there is no hostPort";
        errs.add(p.path("containerPort"), rule);
    }
    PortDefinition {
        mapping: Some(PortMapping {
            container_port,
            host_port,
        }),
        ..port_definition(p, "servicePort", errs)
    }
}

fn host_ports(obj: &Obj<'_>, errs: &mut Errors) -> Vec<PortDefinition> {
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
            Obj::of(path, v, errs).map(|p| port_definition(&p, "port", errs))
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
        sources: Vec::new(),
    }
}

fn port_definition(p: &Obj<'_>, key: &str, errs: &mut Errors) -> PortDefinition {
    let port = p.integer(key, 0, 65_535, errs).unwrap_or(0);
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
    let sources = SourceRange::from_labels(&p.path("labels"), &labels).unwrap_or_else(|e| {
        errs.push(e);
        Vec::new()
    });
    PortDefinition {
        sources,
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
    let mut on_host = BTreeMap::new();
    for (i, p) in ports.iter().enumerate() {
        let path = format!("{key}[{i}]");
        if let Some(other) = (p.port != 0).then(|| fixed.insert(p.port, i)).flatten() {
            let rule = format!("must be unique, {} is also {key}[{other}]", p.port);
            let field = match (key, p.mapping) {
                ("ports", _) => "",
                (_, None) => ".port",
                (_, Some(_)) => ".servicePort",
            };
            errs.add(path.clone() + field, rule);
        }
        let host_port = p.mapping.and_then(|m| m.host_port).filter(|n| *n != 0);
        if let Some((n, other)) = host_port.and_then(|n| on_host.insert(n, i).map(|o| (n, o))) {
            let rule = format!("must be unique, {n} is also {key}[{other}]");
            errs.add(path.clone() + ".hostPort", rule);
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
