//! How a task is found, as Mesos writes it.

use waggle_types::{TaskPort, VipLabel};

use crate::proto::mesos::{self as pb, discovery_info::Visibility};

/// A port for each protocol of each of a task's ports, with its VIPs as labels.
pub fn discovery(name: &str, ports: &[TaskPort]) -> pb::DiscoveryInfo {
    let ports = ports.iter().flat_map(|p| {
        p.protocols.iter().map(|protocol| pb::Port {
            number: Some(match p.host_port {
                0 => p.container_port.unwrap_or(0).into(),
                port => port.into(),
            }),
            name: p.name.clone(),
            protocol: Some(protocol.name().to_owned()),
            visibility: None,
            labels: (!p.vips.is_empty()).then(|| pb::Labels {
                labels: p.vips.iter().enumerate().map(vip).collect(),
            }),
        })
    });
    pb::DiscoveryInfo {
        visibility: Some(Visibility::Framework.into()),
        name: Some(name.to_owned()),
        ports: Some(pb::Ports {
            ports: ports.collect(),
        }),
        ..pb::DiscoveryInfo::default()
    }
}

fn vip((i, vip): (usize, &VipLabel)) -> pb::Label {
    pb::Label {
        key: format!("VIP_{i}"),
        value: Some(vip_value(vip)),
    }
}

/// A VIP as DC/OS's labels have it: `/name:port`, or the address.
pub fn vip_value(vip: &VipLabel) -> String {
    match vip {
        VipLabel::Named { name, port } => format!("/{name}:{port}"),
        literal @ VipLabel::Literal { .. } => literal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{Balance, Protocol};

    use super::*;
    use crate::mesos::json;

    #[test]
    fn a_port_is_told_with_its_vips() {
        let port = TaskPort {
            metrics: None,
            name: Some("http".to_owned()),
            host_port: 0,
            container_port: Some(80),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            vips: vec![VipLabel::Named {
                name: "web".to_owned(),
                port: 80,
            }],
            balance: Balance::default(),
        };
        let told = json::write(&discovery("web.shop", &[port]));
        let one = |protocol: &str| {
            format!(
                r#"{{"number":80,"name":"http","protocol":"{protocol}","labels":{{"labels":[{{"key":"VIP_0","value":"/web:80"}}]}}}}"#
            )
        };
        let want = format!(
            r#"{{"visibility":"FRAMEWORK","name":"web.shop","ports":{{"ports":[{},{}]}}}}"#,
            one("tcp"),
            one("udp")
        );
        assert_eq!(String::from_utf8(told).unwrap(), want);
    }
}
