//! What the agent runs with, by Mesos's name of each flag. Pure.

use std::{collections::BTreeMap, time::Duration};

use waggle_types::{AgentInfo, Millis};

use crate::{AgentConfig, executors::mesos_duration};

/// The settings that Mesos has, too.
pub fn flags(config: &AgentConfig, agent: &AgentInfo) -> BTreeMap<String, String> {
    let duration = |d: Duration| {
        let ms = u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        mesos_duration(Millis(ms))
    };
    let masters: Vec<String> = config.masters.iter().map(ToString::to_string).collect();
    let attributes = config.attributes.iter();
    let attributes: Vec<String> = attributes.map(|(k, v)| format!("{k}:{v}")).collect();
    let storage = &config.storage;
    let mut out = vec![
        ("hostname", agent.hostname.clone()),
        ("ip", agent.ip.to_string()),
        ("port", agent.http_port.to_string()),
        ("master", masters.join(",")),
        ("work_dir", config.work_dir.display().to_string()),
        ("attributes", attributes.join(";")),
        ("resources", agent.total.to_string()),
        ("cgroups_enable_cfs", config.cpu_hard_limits.to_string()),
        (
            "enforce_container_disk_quota",
            storage.enforce_disk.to_string(),
        ),
        (
            "container_disk_watch_interval",
            duration(storage.disk_watch),
        ),
        (
            "reconfiguration_policy",
            config.reconfiguration.name().to_owned(),
        ),
        ("gc_delay", duration(storage.gc_delay)),
        ("gc_disk_headroom", storage.gc_headroom.to_string()),
        (
            "fetcher_cache_size",
            format!("{}B", config.fetch.cache_bytes),
        ),
        ("fetcher_stall_timeout", duration(config.fetch.stall)),
        // Mesos's words for what is always so here.
        ("authenticate_http_readonly", "false".to_owned()),
        ("authenticate_http_readwrite", "false".to_owned()),
        ("image_providers", "docker".to_owned()),
        ("recover", "reconnect".to_owned()),
    ];
    if let Some(root) = &config.cgroup_root {
        out.push(("cgroups_root", root.display().to_string()));
    }
    if let Some(d) = &config.domain {
        let domain = format!("{}/{}", d.region, d.zone);
        out.push(("domain", domain));
    }
    let named = out.into_iter().map(|(k, v)| (k.to_owned(), v));
    named.collect()
}
