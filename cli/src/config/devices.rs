//! Settings that name network devices.

use std::{collections::BTreeSet, net::Ipv4Addr};

use waggle_agent::{EdgeMode, EdgeSettings};

use crate::{
    args::RunArgs,
    error::{CliError, usage},
};

/// The node's part in traffic from outside, if it has one.
pub(super) fn edge(args: &RunArgs) -> Result<Option<EdgeSettings>, CliError> {
    let mode = match args.edge_mode.as_deref() {
        None | Some("native") => EdgeMode::Native,
        Some("generic") => EdgeMode::Generic,
        Some(other) => {
            return Err(usage(format!(
                "edge-mode: must be native or generic, is {other:?}"
            )));
        }
    };
    let edges = args
        .edges
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|_| usage(format!("edges: must be IPv4 addresses, is {text:?}")))
        })
        .collect::<Result<BTreeSet<Ipv4Addr>, CliError>>()?;
    let uplink = match (&args.edge, &args.uplink) {
        (Some(edge), Some(uplink)) if edge != uplink => {
            return Err(usage(format!(
                "uplink: must be the device of edge, {edge:?}, is {uplink:?}"
            )));
        }
        (Some(device), _) | (None, Some(device)) => device.clone(),
        (None, None) if edges.is_empty() && args.edge_mode.is_none() => return Ok(None),
        (None, None) => {
            return Err(usage(
                "uplink: must be given with edges, or edge with edge-mode".to_owned(),
            ));
        }
    };
    if !is_device(&uplink) {
        return Err(usage(format!(
            "uplink: must be a device's name, is {uplink:?}"
        )));
    }
    Ok(Some(EdgeSettings {
        uplink,
        edge: args.edge.is_some().then_some(mode),
        edges,
    }))
}

/// Devices, each once.
pub(super) fn packet_vips(devices: &[String]) -> Result<BTreeSet<String>, CliError> {
    let mut found = BTreeSet::new();
    for device in devices {
        if !is_device(device) {
            return Err(usage(format!(
                "packet-vips: must be names of devices, is {device:?}"
            )));
        }
        if !found.insert(device.clone()) {
            return Err(usage(format!(
                "packet-vips: must name each device once, is {device:?} twice"
            )));
        }
    }
    Ok(found)
}

/// What the kernel takes as a device's name.
fn is_device(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= 15
        && !name.contains(['/', ':'])
        && !name.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::tests::with;
    use super::*;

    #[test]
    fn an_edge_has_an_uplink_and_a_mode() {
        assert_eq!(with(|_| ()).unwrap().edge, None);
        let edge = with(|a| {
            a.edge = Some("eth0".to_owned());
            a.edges = vec!["10.0.0.9".to_owned()];
        });
        let expected = EdgeSettings {
            uplink: "eth0".to_owned(),
            edge: Some(EdgeMode::Native),
            edges: BTreeSet::from([Ipv4Addr::new(10, 0, 0, 9)]),
        };
        assert_eq!(edge.unwrap().edge, Some(expected));
        let other = with(|a| {
            a.uplink = Some("eth1".to_owned());
            a.edges = vec!["10.0.0.9".to_owned()];
        });
        assert_eq!(other.unwrap().edge.unwrap().edge, None);
    }

    #[rstest]
    #[case::no_uplink(|a: &mut RunArgs| a.edges = vec!["10.0.0.9".to_owned()], "uplink")]
    #[case::not_an_address(|a: &mut RunArgs| { a.uplink = Some("e".to_owned()); a.edges = vec!["x".to_owned()]; }, "edges")]
    #[case::two_devices(|a: &mut RunArgs| { a.uplink = Some("a".to_owned()); a.edge = Some("b".to_owned()); }, "uplink")]
    #[case::unknown_mode(|a: &mut RunArgs| { a.edge = Some("a".to_owned()); a.edge_mode = Some("fast".to_owned()); }, "edge-mode")]
    #[case::no_device(|a: &mut RunArgs| a.edge = Some("a/b".to_owned()), "uplink")]
    fn what_no_edge_can_be_names_the_flag(#[case] change: fn(&mut RunArgs), #[case] field: &str) {
        let error = with(change).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }

    #[test]
    fn devices_with_packet_programs_are_names_each_once() {
        assert_eq!(with(|_| ()).unwrap().packet_vips, BTreeSet::new());
        let devices = |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            with(|a| a.packet_vips = names)
        };
        let expected = BTreeSet::from(["eth0".to_owned(), "veth1".to_owned()]);
        assert_eq!(devices(&["veth1", "eth0"]).unwrap().packet_vips, expected);
        for wrong in [
            &["a", "a"][..],
            &[""],
            &["a/b"],
            &["a b"],
            &["a:1"],
            &["."],
            &["sixteen-letters-"],
        ] {
            let error = devices(wrong).unwrap_err().to_string();
            assert!(error.contains("packet-vips"), "{error}");
        }
    }
}
