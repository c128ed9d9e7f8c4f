//! How tasks are contained, and what they may ask for.

use std::path::{Component, Path, PathBuf};

use waggle_agent::{NodePolicy, RuntimeSettings};

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
