//! Every name and address of a cluster, derived from one prefix, so that clean-up needs no state.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The prefix of the cluster that people use.
pub const DEFAULT_PREFIX: &str = "wgl";
/// The most nodes that fit the addressing (`192.168.77.1` to `.250`).
pub const MAX_NODES: u8 = 250;
/// Port of the OTLP sink on the hub's address.
pub const OTLP_PORT: u16 = 4317;

/// Names of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIX)
    }
}

impl Names {
    /// Names with another prefix (at most 8 characters: interface names are short).
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.chars().take(8).collect(),
        }
    }

    /// The prefix in `WAGGLE_CLUSTER`, for two clusters side by side; else the default.
    #[must_use]
    pub fn from_env() -> Self {
        match std::env::var("WAGGLE_CLUSTER") {
            Ok(prefix) if !prefix.is_empty() => Self::new(&prefix),
            _ => Self::default(),
        }
    }

    fn is_default(&self) -> bool {
        self.prefix == DEFAULT_PREFIX
    }

    /// The prefix itself.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The namespace that holds the bridge.
    #[must_use]
    pub fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// The bridge in the hub.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("{}-br", self.prefix)
    }

    /// Node `index`'s network namespace, index from 1.
    #[must_use]
    pub fn netns(&self, index: u8) -> String {
        format!("{}-n{index}", self.prefix)
    }

    /// The hub's end of node `index`'s veth pair.
    #[must_use]
    pub fn veth(&self, index: u8) -> String {
        format!("{}-v{index}", self.prefix)
    }

    /// Whether a namespace of this name belongs to this cluster.
    #[must_use]
    pub fn owns_netns(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| {
                rest == "hub"
                    || rest
                        .strip_prefix('n')
                        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            })
    }

    /// The cluster's directory name in every cgroup hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        if self.is_default() {
            "waggle-cluster".to_owned()
        } else {
            format!("waggle-cluster-{}", self.prefix)
        }
    }

    /// The cluster's directory in bpffs; nodes are below it. No cluster's directory is inside
    /// another's: taking one down removes all of its own.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        let base = Path::new("/sys/fs/bpf");
        if self.is_default() {
            base.join("waggle")
        } else {
            base.join(format!("waggle-{}", self.prefix))
        }
    }

    /// State file, node directories and logs.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        Path::new("/run").join(self.cgroup())
    }

    /// The hub's address: where the sink listens.
    #[must_use]
    pub fn hub_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, 254)
    }

    /// Node `index`'s address.
    #[must_use]
    pub fn node_ip(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognized_and_not_confused() {
        let names = Names::default();
        assert!(names.owns_netns(&names.hub()));
        assert!(names.owns_netns(&names.netns(12)));
        for other in [
            "wgl",
            "wgl-",
            "wgl-n",
            "wgl-nx",
            "wglx-n1",
            "other-n1",
            "wgl-n1-lab",
        ] {
            assert!(!names.owns_netns(other), "{other}");
        }
        let lab = Names::new("lab");
        assert_ne!(lab.state_dir(), names.state_dir());
        assert_ne!(lab.cgroup(), names.cgroup());
        assert!(!lab.bpf_dir().starts_with(names.bpf_dir()));
        assert!(!names.owns_netns(&lab.netns(1)));
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        let names = Names::new("abcdefghijkl");
        assert!(names.veth(MAX_NODES).len() <= 15);
        assert!(names.bridge().len() <= 15);
    }
}
