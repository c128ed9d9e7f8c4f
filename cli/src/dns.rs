//! Settings of the node's resolver, checked: an error names the flag and the rule.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use waggle_agent::{
    DnsSettings,
    dns::{CacheConfig, DnsName, ForwardConfig, HealthPolicy, Scope, Upstream},
};

use crate::{
    args::RunArgs,
    config,
    error::{CliError, usage},
    times,
};

/// Port of DNS.
const PORT: u16 = 53;
/// Port of DNS over TLS.
const TLS_PORT: u16 = 853;
/// DC/OS's resolver addresses.
const ADDRESSES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 3)),
    IpAddr::V6(Ipv6Addr::new(0xfd01, 0xd, 0, 0, 0, 0, 0xc633, 0x6401)),
];
/// Bounds of lists.
const MAX_ADDRESSES: usize = 8;
const MAX_UPSTREAMS: usize = 8;
const MAX_SUFFIXES: usize = 64;
/// Most answers kept.
const MAX_CACHE: usize = 1_000_000;
/// Bytes that a kept answer may take on average.
const BYTES_PER_ANSWER: usize = 1700;
/// RFC 8767 suggests one to three days.
const MAX_STALE: Duration = Duration::from_hours(7 * 24);

/// Reads and checks all that is about DNS.
pub fn settings(args: &RunArgs) -> Result<DnsSettings, CliError> {
    let ips = addresses(&args.dns)?;
    let crypto_id = args.dns_crypto_id.as_deref();
    if let Some(id) = crypto_id.filter(|id| id.contains('.')) {
        return Err(usage(format!(
            "dns-crypto-id: must be one label, is {id:?}"
        )));
    }
    let scope = Scope::new(crypto_id).map_err(|e| usage(format!("dns-crypto-id: {e}")))?;
    let upstreams = match args.dns_upstreams.as_slice() {
        [] => system_resolvers(&ips),
        list => upstreams("dns-upstreams", list.iter().map(String::as_str), &ips)?,
    };
    let roots = args.dns_tls_roots.clone();
    if let Some(path) = roots.as_ref().filter(|p| !p.is_file()) {
        let shown = path.display();
        return Err(usage(format!("dns-tls-roots: must be a file, is {shown}")));
    }
    Ok(DnsSettings {
        forward: ForwardConfig {
            zones: suffixes(&args.dns_forward, &ips, &scope)?,
            cache: cache(args)?,
            tls_roots: roots,
            ..ForwardConfig::new(upstreams)
        },
        ips,
        port: PORT,
        health: health(args.dns_health.as_deref())?,
        scope,
        log_one_in: args.dns_log.unwrap_or(0),
    })
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, CliError> {
    let mut out: Vec<IpAddr> = Vec::new();
    match texts {
        [] => return Ok(ADDRESSES.into()),
        [none] if none == "none" => return Ok(out),
        _ => {}
    }
    if texts.len() > MAX_ADDRESSES {
        return Err(usage(format!(
            "dns: must be at most {MAX_ADDRESSES} addresses"
        )));
    }
    for text in texts {
        let ip = text
            .parse()
            .map_err(|_| usage(format!("dns: must be an IP address or none, is {text:?}")))?;
        if out.contains(&ip) {
            return Err(usage(format!(
                "dns: must name an address once, has {ip} twice"
            )));
        }
        out.push(ip);
    }
    Ok(out)
}

/// A list of upstreams, or `none`.
fn upstreams<'a>(
    field: &str,
    texts: impl Iterator<Item = &'a str>,
    own: &[IpAddr],
) -> Result<Vec<Upstream>, CliError> {
    let texts: Vec<&str> = texts.collect();
    if texts == ["none"] {
        return Ok(Vec::new());
    }
    if texts.len() > MAX_UPSTREAMS {
        return Err(usage(format!(
            "{field}: must be at most {MAX_UPSTREAMS} resolvers"
        )));
    }
    texts.into_iter().map(|t| upstream(field, t, own)).collect()
}

/// `IP[:PORT]` or `tls://IP[:PORT]#NAME`.
fn upstream(field: &str, text: &str, own: &[IpAddr]) -> Result<Upstream, CliError> {
    let Some(rest) = text.strip_prefix("tls://") else {
        let addr = config::address(field, text, PORT)?;
        // A question to oneself would never end.
        if addr.port() == PORT && own.contains(&addr.ip()) {
            return Err(usage(format!(
                "{field}: must not be this node's own resolver, is {addr}"
            )));
        }
        return Ok(Upstream::plain(addr));
    };
    let Some((addr, name)) = rest.split_once('#').filter(|(_, name)| !name.is_empty()) else {
        return Err(usage(format!(
            "{field}: must be tls://IP[:PORT]#NAME, the name that its certificate is for, is {text:?}"
        )));
    };
    Ok(Upstream {
        addr: config::address(field, addr, TLS_PORT)?,
        tls: Some(name.to_owned()),
    })
}

fn suffixes(
    texts: &[String],
    own: &[IpAddr],
    scope: &Scope,
) -> Result<Vec<(DnsName, Vec<Upstream>)>, CliError> {
    const FIELD: &str = "dns-forward";
    if texts.len() > MAX_SUFFIXES {
        return Err(usage(format!(
            "{FIELD}: must be at most {MAX_SUFFIXES} suffixes"
        )));
    }
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for text in texts {
        let Some((suffix, list)) = text.split_once('=').filter(|(s, _)| !s.is_empty()) else {
            return Err(usage(format!(
                "{FIELD}: must be SUFFIX=UPSTREAM[+UPSTREAM], is {text:?}"
            )));
        };
        let suffix = DnsName::parse(suffix).map_err(|e| usage(format!("{FIELD}: {e}")))?;
        if suffix == DnsName::default() {
            return Err(usage(format!(
                "{FIELD}: must have a suffix; dns-upstreams is for all other names"
            )));
        }
        if scope.is_ours(&suffix) {
            return Err(usage(format!(
                "{FIELD}: must not be in a zone of the cluster, is {suffix}"
            )));
        }
        if !seen.insert(suffix.clone()) {
            return Err(usage(format!(
                "{FIELD}: must name a suffix once, has {suffix} twice"
            )));
        }
        out.push((suffix, upstreams(FIELD, list.split('+'), own)?));
    }
    Ok(out)
}

fn cache(args: &RunArgs) -> Result<CacheConfig, CliError> {
    let default = CacheConfig::default();
    let max_entries = args.dns_cache.unwrap_or(default.max_entries);
    if max_entries > MAX_CACHE {
        return Err(usage(format!(
            "dns-cache: must be at most {MAX_CACHE} answers, is {max_entries}"
        )));
    }
    let stale = args
        .dns_stale
        .as_deref()
        .map(|text| times::duration("dns-stale", text, MAX_STALE))
        .transpose()?;
    Ok(CacheConfig {
        max_entries,
        max_bytes: max_entries * BYTES_PER_ANSWER,
        stale,
        ..default
    })
}

fn health(text: Option<&str>) -> Result<HealthPolicy, CliError> {
    match text {
        None | Some("aware") => Ok(HealthPolicy::Aware),
        Some("ignore") => Ok(HealthPolicy::Ignore),
        Some(other) => Err(usage(format!(
            "dns-health: must be aware or ignore, is {other:?}"
        ))),
    }
}

/// The host's own resolvers; Waggle's own addresses are left out, or it would ask itself.
fn system_resolvers(own: &[IpAddr]) -> Vec<Upstream> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|l| l.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .filter(|ip| !own.contains(ip) && !ADDRESSES.contains(ip))
        .map(|ip| Upstream::plain(SocketAddr::new(ip, PORT)))
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut RunArgs)) -> Result<DnsSettings, CliError> {
        let mut args = RunArgs::default();
        change(&mut args);
        settings(&args)
    }

    #[test]
    fn upstreams_are_read_with_their_transport() {
        let s = with(|a| {
            a.dns_upstreams = vec!["10.0.0.1".into(), "tls://10.0.0.2#dns.corp".into()];
            a.dns_forward = vec![
                "corp.example=10.0.0.3:5353+tls://[fd00::1]:8853#x".into(),
                "bad.example=none".into(),
            ];
        })
        .unwrap();
        let shown =
            |list: &[Upstream]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
        assert_eq!(
            shown(&s.forward.upstreams),
            ["10.0.0.1:53", "tls://10.0.0.2:853#dns.corp"]
        );
        let (suffix, list) = &s.forward.zones[0];
        assert_eq!(suffix.to_string(), "corp.example.");
        assert_eq!(shown(list), ["10.0.0.3:5353", "tls://[fd00::1]:8853#x"]);
        assert!(s.forward.zones[1].1.is_empty());
        assert_eq!(s.ips.len(), 4);
    }

    #[test]
    fn none_runs_nothing_and_asks_nobody() {
        let s = with(|a| {
            a.dns = vec!["none".into()];
            a.dns_upstreams = vec!["none".into()];
            a.dns_cache = Some(0);
            a.dns_health = Some("ignore".into());
        })
        .unwrap();
        assert!(s.ips.is_empty() && s.forward.upstreams.is_empty());
        assert_eq!(s.forward.cache.max_entries, 0);
        assert_eq!(s.health, HealthPolicy::Ignore);
    }

    #[test]
    fn each_rule_is_named() {
        let rule = |change: fn(&mut RunArgs)| with(change).unwrap_err().to_string();
        for (error, want) in [
            (
                rule(|a| a.dns = vec!["10.0.0.1".into(); 2]),
                "dns: must name an address once",
            ),
            (
                rule(|a| a.dns = vec!["10.0.0.1".into(); 9]),
                "dns: must be at most 8",
            ),
            (
                rule(|a| a.dns_upstreams = vec!["tls://10.0.0.1".into()]),
                "dns-upstreams: must be tls://IP[:PORT]#NAME",
            ),
            (
                rule(|a| a.dns_forward = vec!["a.b=198.51.100.1".into()]),
                "dns-forward: must not be this node's own resolver",
            ),
            (
                rule(|a| a.dns_forward = vec!["a.b=10.0.0.1".into(); 2]),
                "dns-forward: must name a suffix once",
            ),
            (
                rule(|a| a.dns_forward = vec![".=10.0.0.1".into()]),
                "dns-forward: must have a suffix",
            ),
            (
                rule(|a| a.dns_forward = vec!["a..b=10.0.0.1".into()]),
                "dns-forward: name",
            ),
        ] {
            assert!(error.starts_with(want), "{error}");
        }
    }
}
