//! Files of one container beside its root: `config.json`, `hosts`, `hostname`, `resolv.conf`.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use serde_json::Value;

/// Longest label of a host name (RFC 1123).
const MAX_LABEL: usize = 63;
/// Resolvers that a C library looks at (resolv.conf(5), MAXNS).
const MAX_RESOLVERS: usize = 3;

/// Writes a bundle. Not durable: after a power loss the container is gone as well. Blocking.
pub fn write(dir: &Path, config: &Value, files: &[(&str, String)]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (name, text) in files {
        fs::write(dir.join(name), text)?;
    }
    fs::write(dir.join("config.json"), serde_json::to_vec(config)?)
}

/// A host name made of a task's id: its letters and digits, from the end, where ids differ.
pub fn hostname(task_id: &str) -> String {
    let plain: String = task_id
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let tail = &plain[plain.len().saturating_sub(MAX_LABEL)..];
    let name = tail.trim_matches('-');
    if name.is_empty() { "task" } else { name }.to_owned()
}

/// `/etc/hosts` of a container.
pub fn hosts(hostname: &str, ip: Option<IpAddr>) -> String {
    let ip = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ip}\t{hostname}\n")
}

/// `/etc/resolv.conf` of a container: the node's resolver with the node's search list and DC/OS's patience; where the
/// node runs none, the node's own file, without resolvers on a loopback that the container does not share.
pub fn resolv_conf(resolver: &[IpAddr], node: &str, shares_network: bool) -> String {
    let words =
        |line: &str| -> Vec<String> { line.split_whitespace().map(ToOwned::to_owned).collect() };
    let lines: Vec<Vec<String>> = node.lines().map(words).collect();
    let is = |line: &[String], key: &str| line.first().is_some_and(|w| w == key);
    let mut out = String::new();
    let search = lines.iter().rfind(|l| is(l, "search") || is(l, "domain"));
    if let Some(search) = search {
        out += &format!("{}\n", search.join(" "));
    }
    if resolver.is_empty() {
        for line in lines.iter().filter(|l| is(l, "options")) {
            out += &format!("{}\n", line.join(" "));
        }
        for line in lines.iter().filter(|l| is(l, "nameserver")) {
            let address = line.get(1).and_then(|a| a.parse::<IpAddr>().ok());
            if shares_network || address.is_some_and(|a| !a.is_loopback()) {
                out += &format!("{}\n", line.join(" "));
            }
        }
        return out;
    }
    out += "options timeout:1 attempts:3\n";
    let mut all: Vec<&IpAddr> = resolver.iter().collect();
    // A container without IPv6 loses no time on it.
    all.sort_by_key(|ip| ip.is_ipv6());
    for ip in all.into_iter().take(MAX_RESOLVERS) {
        out += &format!("nameserver {ip}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_valid() {
        assert_eq!(
            hostname("shop_web.instance-0a1b._app.1"),
            "shop-web-instance-0a1b--app-1"
        );
        assert_eq!(hostname("..é"), "task");
        let long = hostname(&format!("{}.7", "x".repeat(199)));
        assert!(long.len() <= 63 && long.ends_with("-7"), "{long}");
    }

    #[test]
    fn names_are_asked_of_the_nodes_resolver() {
        let node = "# made\ndomain old\nsearch corp.example lab.example\nnameserver 127.0.0.53\noptions edns0\n";
        let ips: Vec<IpAddr> = [
            "fd01:d::c633:6401",
            "198.51.100.1",
            "198.51.100.2",
            "198.51.100.3",
        ]
        .iter()
        .map(|i| i.parse().unwrap())
        .collect();
        assert_eq!(
            resolv_conf(&ips, node, false),
            "search corp.example lab.example\noptions timeout:1 attempts:3\n\
             nameserver 198.51.100.1\nnameserver 198.51.100.2\nnameserver 198.51.100.3\n"
        );
        let without = "search corp.example lab.example\noptions edns0\n";
        assert_eq!(resolv_conf(&[], node, false), without);
        assert_eq!(
            resolv_conf(&[], node, true),
            format!("{without}nameserver 127.0.0.53\n")
        );
        assert_eq!(resolv_conf(&[], "", true), "");
    }

    #[test]
    fn a_container_knows_its_own_name() {
        let text = hosts("web-1", Some(Ipv4Addr::new(9, 0, 0, 5).into()));
        assert!(text.contains("127.0.0.1\tlocalhost\n") && text.ends_with("9.0.0.5\tweb-1\n"));
    }
}
