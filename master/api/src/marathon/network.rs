//! The network of a definition: `networks`, or what older ones said in `container.docker.network` and `ipAddress`.

use waggle_types::NetworkMode;

use crate::read::{Errors, Obj};

/// Reads the network; two places that say different things are refused.
pub(super) fn network(obj: &Obj<'_>, docker: Option<&Obj<'_>>, errs: &mut Errors) -> NetworkMode {
    let new = networks(obj, errs);
    let old = old_style(obj, docker, errs);
    match (new, old) {
        (Some(new), Some(old)) => {
            if new != old {
                let rule =
                    "must not say something else than container.docker.network and ipAddress";
                errs.add("networks", rule);
            }
            new
        }
        (one, other) => one.or(other).unwrap_or_default(),
    }
}

fn networks(obj: &Obj<'_>, errs: &mut Errors) -> Option<NetworkMode> {
    let items = obj.list("networks", errs).unwrap_or_default();
    if items.len() > 1 {
        let rule = format!("only one network is supported yet, is {}", items.len());
        errs.add("networks", rule);
    }
    let n = Obj::of("networks[0]".into(), items.first()?, errs)?;
    n.not_yet("labels", errs);
    let before = errs.count();
    let name = n.string("name", errs);
    match (n.string("mode", errs).as_deref(), &name) {
        (Some("host"), None) => Some(NetworkMode::Host),
        (Some("container/bridge"), None) => Some(NetworkMode::Bridge),
        (Some("none"), None) => Some(NetworkMode::None),
        (Some("container") | None, Some(name)) => named(&n.path("name"), name, errs),
        // Unless it is there and no text.
        (None | Some("container"), None) if errs.count() == before => Some(default_network()),
        (None | Some("container"), None) => None,
        (Some(m @ ("host" | "container/bridge" | "none")), Some(_)) => {
            errs.add(n.path("name"), format!("must not be set for mode {m}"));
            None
        }
        (Some(m), _) => {
            let rule = format!("must be host, container, container/bridge or none, is {m:?}");
            errs.add(n.path("mode"), rule);
            None
        }
    }
}

/// Marathon's `default_network_name` in DC/OS.
fn default_network() -> NetworkMode {
    NetworkMode::Container("dcos".to_owned())
}

fn named(field: &str, name: &str, errs: &mut Errors) -> Option<NetworkMode> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(fine) {
        let rule = format!("must be 1 to 63 letters, digits, ., - or _, is {name:?}");
        errs.add(field, rule);
        return None;
    }
    Some(NetworkMode::Container(name.to_owned()))
}

/// Before Marathon 1.5.
fn old_style(obj: &Obj<'_>, docker: Option<&Obj<'_>>, errs: &mut Errors) -> Option<NetworkMode> {
    let address = obj.object("ipAddress", errs);
    let by_name = address.as_ref().and_then(|a| {
        for key in ["groups", "labels"] {
            a.not_yet(key, errs);
        }
        let before = errs.count();
        let name = a.string("networkName", errs);
        if name.is_none() && errs.count() == before {
            return Some(default_network());
        }
        named(&a.path("networkName"), &name?, errs)
    });
    let Some(d) = docker else {
        return by_name;
    };
    let mode = d.string("network", errs);
    match mode.as_deref() {
        None => by_name,
        Some("USER") if by_name.is_some() => by_name,
        Some("USER") => {
            errs.add(d.path("network"), "USER needs ipAddress.networkName");
            None
        }
        Some(m) if by_name.is_some() => {
            let rule = format!("must be USER together with ipAddress, is {m:?}");
            errs.add(d.path("network"), rule);
            None
        }
        Some("HOST") => Some(NetworkMode::Host),
        Some("BRIDGE") => Some(NetworkMode::Bridge),
        Some("NONE") => Some(NetworkMode::None),
        Some(m) => {
            let rule = format!("must be HOST, BRIDGE, NONE or USER, is {m:?}");
            errs.add(d.path("network"), rule);
            None
        }
    }
}
