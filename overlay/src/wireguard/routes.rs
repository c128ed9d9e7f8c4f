//! The rule that takes what is to be encrypted off the other routes, and the routes of our own table.

use std::{collections::BTreeSet, net::Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, IpProtocol, RouteNetlinkMessage as Message,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Netlink, NetlinkError};

/// Of the rule: after the kernel's own addresses (0), before all other routes (32766).
const PRIORITY: u32 = 5182;
/// Ours; not `wg-quick`'s, which is 51820.
const TABLE: u32 = 5182;

/// From now on what is sent to this UDP port of another node has only the ways of our table, at first none.
pub(super) fn close(port: u16) -> Result<(), NetlinkError> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let mut nowhere = route();
    nowhere.header.kind = RouteType::Unreachable;
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.ask(
        "add the route of what is not encrypted",
        flags,
        Message::NewRoute(nowhere),
    )?;
    let ours = rules(&netlink)?;
    let rule = rule(port);
    let wanted = |rule: &RuleMessage| rule.attributes.iter().any(|a| is_port(a, port));
    if !ours.iter().any(wanted) {
        netlink.ask(
            "add the rule of encryption",
            NLM_F_CREATE,
            Message::NewRule(rule),
        )?;
    }
    // Of another configuration; after ours is in place.
    for old in ours.into_iter().filter(|rule| !wanted(rule)) {
        netlink.ask("remove an old rule of encryption", 0, Message::DelRule(old))?;
    }
    Ok(())
}

/// Makes the device the way to these nodes, and to no others.
pub(super) fn keep(
    device: u32,
    own: Ipv4Addr,
    nodes: &BTreeSet<Ipv4Addr>,
) -> Result<(), NetlinkError> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let known = routes(&netlink)?;
    let leads = |route: &RouteMessage, node: Ipv4Addr| {
        let to = RouteAttribute::Destination(RouteAddress::Inet(node));
        route.attributes.contains(&to) && route.attributes.contains(&RouteAttribute::Oif(device))
    };
    for node in nodes {
        if known.iter().any(|route| leads(route, *node)) {
            continue;
        }
        let mut way = route();
        way.header.kind = RouteType::Unicast;
        way.header.scope = RouteScope::Link;
        way.header.destination_prefix_length = 32;
        way.attributes.extend([
            RouteAttribute::Destination(RouteAddress::Inet(*node)),
            RouteAttribute::Oif(device),
            RouteAttribute::PrefSource(RouteAddress::Inet(own)),
        ]);
        let what = format!("add the encrypted route to {node}");
        netlink.ask(&what, NLM_F_CREATE | NLM_F_REPLACE, Message::NewRoute(way))?;
    }
    for old in known {
        let to = old.attributes.iter().find_map(|a| match a {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
            _ => None,
        });
        if let Some(to) = to
            && !nodes.contains(&to)
        {
            let what = format!("remove the encrypted route to {to}");
            match netlink.ask(&what, 0, Message::DelRoute(old)) {
                Err(error) if !error.is_absent() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The opposite of [`close`] and [`keep`].
pub(super) fn open() -> Result<(), NetlinkError> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    for rule in rules(&netlink)? {
        netlink.ask("remove the rule of encryption", 0, Message::DelRule(rule))?;
    }
    for route in routes(&netlink)? {
        match netlink.ask("remove an encrypted route", 0, Message::DelRoute(route)) {
            // It went with its device.
            Err(error) if !error.is_absent() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The mark of our routes: what others put in the table is theirs.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(crate::netlink::PROTOCOL);

fn route() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = PROTOCOL;
    message.attributes.push(RouteAttribute::Table(TABLE));
    message
}

fn rule(port: u16) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Table(TABLE),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
        RuleAttribute::DestinationPortRange(RulePortRange {
            start: port,
            end: port,
        }),
    ];
    message
}

fn is_port(attribute: &RuleAttribute, port: u16) -> bool {
    matches!(attribute, RuleAttribute::DestinationPortRange(range) if range.start == port && range.end == port)
}

/// Our rules.
fn rules(netlink: &Netlink) -> Result<Vec<RuleMessage>, NetlinkError> {
    let mut all = RuleMessage::default();
    all.header.family = AddressFamily::Inet;
    let found = netlink.ask("list rules", NLM_F_DUMP, Message::GetRule(all))?;
    let has = |rule: &RuleMessage, wanted: &RuleAttribute| rule.attributes.contains(wanted);
    Ok(found
        .into_iter()
        .filter_map(|message| match message {
            Message::NewRule(rule) => Some(rule),
            _ => None,
        })
        .filter(|rule| {
            has(rule, &RuleAttribute::Priority(PRIORITY)) && has(rule, &RuleAttribute::Table(TABLE))
        })
        .collect())
}

/// Our routes.
fn routes(netlink: &Netlink) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut all = RouteMessage::default();
    all.header.address_family = AddressFamily::Inet;
    let found = netlink.ask("list routes", NLM_F_DUMP, Message::GetRoute(all))?;
    Ok(found
        .into_iter()
        .filter_map(|message| match message {
            Message::NewRoute(route) => Some(route),
            _ => None,
        })
        .filter(|route| {
            route.attributes.contains(&RouteAttribute::Table(TABLE))
                && route.header.protocol == PROTOCOL
        })
        .collect())
}
