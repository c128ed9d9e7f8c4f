//! How tasks are contained, and what they may ask for.

use std::path::{Component, Path, PathBuf};

use waggle_agent::{NetworkSettings, NodePolicy, RuntimeSettings};

use crate::{
    args::RunArgs,
    error::{CliError, usage},
};

/// `--runtime` and `--seccomp-profiles`.
pub fn runtime(args: &RunArgs) -> Result<RuntimeSettings, CliError> {
    let mut out = RuntimeSettings::default();
    if let Some(program) = &args.runtime {
        let is_name = program.components().count() == 1;
        if !program.is_absolute() && !is_name {
            return Err(usage(format!(
                "runtime: must be an absolute path or a name in PATH, is {}",
                program.display()
            )));
        }
        out.program.clone_from(program);
    }
    if let Some(dir) = &args.seccomp_profiles {
        absolute("seccomp-profiles", dir)?;
        out.seccomp_dir = Some(dir.clone());
    }
    Ok(out)
}

/// `--allow`, `--deny` and `--allow-host-paths`.
pub fn policy(args: &RunArgs) -> Result<NodePolicy, CliError> {
    let mut out = NodePolicy::default();
    for what in &args.allow {
        match what.as_str() {
            "host-network" => out.host_network = true,
            "privileged" => out.privileged = true,
            "host-ipc" => out.host_ipc = true,
            "unconfined" => out.unconfined = true,
            "capabilities" => out.capabilities = true,
            "devices" => out.devices = true,
            _ => {
                return Err(usage(format!(
                    "allow: must be of host-network, privileged, host-ipc, unconfined, capabilities, devices, is {what:?}"
                )));
            }
        }
    }
    for what in &args.deny {
        if what != "host-network" {
            return Err(usage(format!(
                "deny: must be host-network (the rest is denied unless it is allowed), is {what:?}"
            )));
        }
        out.host_network = false;
    }
    for dir in &args.allow_host_paths {
        absolute("allow-host-paths", dir)?;
    }
    out.host_paths.clone_from(&args.allow_host_paths);
    Ok(out)
}

/// `--bridge` and `--bridge-subnet`.
pub fn networks(args: &RunArgs) -> Result<NetworkSettings, CliError> {
    let mut out = NetworkSettings::default();
    if let Some(name) = &args.bridge {
        // What both a device and a table in the packet filter can be called.
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if name.len() > 15 || !starts || !name.chars().all(good) {
            return Err(usage(format!(
                "bridge: must be 1 to 15 letters, digits, - and _, with a letter first, is {name:?}"
            )));
        }
        out.bridge.clone_from(name);
    }
    if let Some(subnet) = &args.bridge_subnet {
        out.subnet = subnet
            .parse()
            .map_err(|e| usage(format!("bridge-subnet: {e}")))?;
        let prefix = out.subnet.prefix();
        if !(8..=29).contains(&prefix) {
            return Err(usage(format!(
                "bridge-subnet: must have a prefix between 8 and 29, is {subnet:?}"
            )));
        }
    }
    Ok(out)
}

/// `--gpu-devices`; none is what is found.
pub fn gpu_devices(args: &RunArgs) -> Result<Option<Vec<PathBuf>>, CliError> {
    for path in &args.gpu_devices {
        absolute("gpu-devices", path)?;
        if !path.starts_with("/dev") {
            // Elsewhere in a container no device can be opened.
            return Err(usage(format!(
                "gpu-devices: must be below /dev, is {}",
                path.display()
            )));
        }
    }
    Ok((!args.gpu_devices.is_empty()).then(|| args.gpu_devices.clone()))
}

fn absolute(field: &str, dir: &Path) -> Result<(), CliError> {
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    if dir.is_absolute() && dir.components().all(plain) {
        Ok(())
    } else {
        Err(usage(format!(
            "{field}: must be an absolute path without .., is {}",
            PathBuf::from(dir).display()
        )))
    }
}
