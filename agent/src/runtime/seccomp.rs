//! Seccomp profiles: docker's format read, and lowered to what an OCI runtime takes; [`super::filter`] compiles that.
//! Pure.
//!
//! Format: docs.docker.com/engine/security/seccomp; what a runtime takes: OCI runtime spec, `linux.seccomp`. The
//! profile that every container has is `seccomp.json` beside this file.

use serde::{Deserialize, Serialize};

use super::capabilities;

/// Largest profile file: moby's own has 15 kB.
pub const MAX_BYTES: u64 = 1 << 20;

/// A profile as docker's tools write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// A condition on an argument of a system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: String,
}

/// `linux.seccomp` of an OCI spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    pub(super) default_action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default_errno_ret: Option<u32>,
    pub(super) architectures: Vec<String>,
    pub(super) syscalls: Vec<Syscalls>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Syscalls {
    pub(super) names: Vec<String>,
    pub(super) action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) args: Vec<Arg>,
}

/// What a profile depends on.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Capabilities that the container is given.
    pub capabilities: u64,
    /// The kernel's version: major, minor.
    pub kernel: (u32, u32),
    /// The machine.
    pub arch: Arch,
}

/// An architecture that containers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// That of this build.
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::X86_64
        }
    }

    /// As docker's profiles have it.
    const fn golang(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    const fn scmp(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }
}

/// The profile of containers whose spec names none.
pub fn default_profile() -> Result<Profile, String> {
    parse(include_bytes!("seccomp.json"))
}

/// Reads a profile. The error is for people.
pub fn parse(bytes: &[u8]) -> Result<Profile, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("is no seccomp profile: {e}"))
}

/// What of a profile holds for one container.
pub fn lower(profile: &Profile, facts: &Facts) -> Seccomp {
    let native = facts.arch.scmp();
    let mapped = profile.arch_map.iter().find(|m| m.architecture == native);
    let mut architectures = vec![native.to_owned()];
    match mapped {
        Some(map) => architectures.extend(map.sub_architectures.iter().cloned()),
        None => architectures.extend(
            profile
                .architectures
                .iter()
                .filter(|a| *a != native)
                .cloned(),
        ),
    }
    let cap = |name: &String| capabilities::mask(name).is_some_and(|m| facts.capabilities & m == m);
    let arch = |name: &String| name == facts.arch.golang();
    let newer = |version: &str| {
        let mut parts = version.split('.').map_while(|p| p.parse::<u32>().ok());
        facts.kernel >= (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let chosen = profile.syscalls.iter().filter(|rule| {
        let (i, x) = (&rule.includes, &rule.excludes);
        let included = i.caps.iter().all(cap)
            && (i.arches.is_empty() || i.arches.iter().any(arch))
            && i.min_kernel.as_deref().is_none_or(newer);
        let excluded = x.caps.iter().any(cap)
            || x.arches.iter().any(arch)
            || x.min_kernel.as_deref().is_some_and(newer);
        included && !excluded
    });
    let syscalls = chosen
        .map(|rule| Syscalls {
            names: rule.names.iter().chain(&rule.name).cloned().collect(),
            action: rule.action.clone(),
            errno_ret: rule.errno_ret,
            args: rule.args.clone().unwrap_or_default(),
        })
        .collect();
    Seccomp {
        default_action: profile.default_action.clone(),
        default_errno_ret: profile.default_errno_ret,
        architectures,
        syscalls,
    }
}
