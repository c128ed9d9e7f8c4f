//! A node's overlay with one device that all of its tasks are behind, and policies.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use waggle_ebpf::overlay::{At, Endpoint, OverlayConfig, OverlayPlane};
use waggle_ebpf_common::policy::{PolicyRecord, verdict};
use waggle_overlay::policy::PolicyPlane;
use waggle_overlay_plan::policy::{Direction, PolicyWorld};
use waggle_tests_support::netns::TempNetNs;

use crate::frame::Packet;

const MAC: [u8; 6] = [2, 4, 9, 9, 9, 9];
/// `TC_ACT_SHOT`.
const SHOT: u32 = 2;

/// What one test owns; removed when dropped.
pub struct Rig {
    pub policies: PolicyPlane,
    plane: OverlayPlane,
    ns: TempNetNs,
    ifindex: u32,
    pins: Pins,
}

struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        // A child of another test, between fork and exec, may hold a descriptor: lazily, then.
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        if !done.is_ok_and(|s| s.success()) || fs::remove_dir(&self.0).is_err() {
            eprintln!("{} is left mounted", self.0.display());
        }
    }
}

impl Rig {
    /// `None` (after saying why) where the test can't run.
    pub fn new(name: &str, tasks: &[IpAddr]) -> anyhow::Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: needs root");
            return Ok(None);
        }
        if !waggle_ebpf::is_built_with_ebpf() {
            eprintln!("SKIP: built without eBPF");
            return Ok(None);
        }
        let name = format!("wgl-t-pol-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir(&dir)?;
        let mounted = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&dir)
            .status()?;
        ensure!(mounted.success(), "mount a bpffs");
        let pins = Pins(dir);
        let ns = TempNetNs::create(&name)?;
        ns.ip("link add v0 type veth peer name v1\nlink set v0 up\n")?;
        let ifindex = ns.run(|| nix::net::if_::if_nametoindex("v0"))??;
        let plane = Self::plane(&pins)?;
        let endpoint = Endpoint {
            at: At::Container {
                ifindex,
                mac: MAC,
                may_forward: false,
            },
            network: 0,
            identity: 0,
        };
        for ip in tasks {
            plane.set_endpoint(*ip, &endpoint)?;
        }
        Ok(Some(Self {
            policies: PolicyPlane::open(&plane, Arc::default())?,
            plane,
            ns,
            ifindex,
            pins,
        }))
    }

    fn plane(pins: &Pins) -> anyhow::Result<OverlayPlane> {
        let config = OverlayConfig::new(Ipv4Addr::new(192, 0, 2, 1));
        Ok(OverlayPlane::open(&pins.0.join("overlay"), &config)?)
    }

    /// Another process takes over.
    pub fn restart(self) -> anyhow::Result<Self> {
        let Self {
            policies,
            plane,
            ns,
            ifindex,
            pins,
        } = self;
        drop(policies);
        drop(plane);
        let plane = Self::plane(&pins)?;
        Ok(Self {
            policies: PolicyPlane::open(&plane, Arc::default())?,
            plane,
            ns,
            ifindex,
            pins,
        })
    }

    pub fn apply(&mut self, world: &PolicyWorld) -> anyhow::Result<()> {
        self.policies.apply(&self.plane, world)?;
        Ok(())
    }

    /// Whether a packet from a task (egress) or to one passes.
    pub fn passes(&self, direction: Direction, packet: &Packet) -> anyhow::Result<bool> {
        let program = match direction {
            Direction::Egress => "overlay_from",
            Direction::Ingress => "overlay_to",
        };
        let frame = packet.frame(MAC);
        let context = waggle_ebpf::edge::TestContext {
            ifindex: self.ifindex,
            ..waggle_ebpf::edge::TestContext::default()
        };
        let before = self.dropped()?;
        let run = self
            .ns
            .run(|| self.plane.test_run(program, &frame, context))??;
        let dropped = self.dropped()? - before;
        ensure!(
            (run.verdict == SHOT) == (dropped == 1),
            "dropped for another reason: {packet:?} {:?}",
            self.plane
                .counts()?
                .iter()
                .filter(|(_, n)| *n > 0)
                .collect::<Vec<_>>()
        );
        Ok(run.verdict != SHOT)
    }

    pub fn sends(&self, packet: &Packet) -> bool {
        self.passes(Direction::Egress, packet).unwrap()
    }

    pub fn gets(&self, packet: &Packet) -> bool {
        self.passes(Direction::Ingress, packet).unwrap()
    }

    /// A verdict's count ([`verdict`]).
    pub fn count(&self, at: u32) -> u64 {
        self.plane.policy().count(at).unwrap()
    }

    /// What was written down since the last time, oldest first.
    pub fn told(&self) -> Vec<PolicyRecord> {
        self.plane.policy().take_records(usize::MAX)
    }

    /// Packets without a record of their own ([`untold`](waggle_ebpf_common::policy::untold)).
    pub fn untold(&self, at: u32) -> u64 {
        let all = self.plane.policy().untold().unwrap();
        all[usize::try_from(at).unwrap()].1
    }

    pub fn counts(&self) -> String {
        let all = self.plane.policy().counts().unwrap();
        let told = all.iter().filter(|(_, n)| *n > 0);
        let told: Vec<String> = told.map(|(name, n)| format!("{name} {n}")).collect();
        told.join(" ")
    }

    /// A task was told.
    pub fn learn(&mut self, task: IpAddr, name: &str, told: &[(IpAddr, u32)]) {
        self.policies.learn(&self.plane, task, name, told).unwrap();
    }

    fn dropped(&self) -> anyhow::Result<u64> {
        let counts = self.plane.counts()?;
        let of = |name: &str| counts.iter().find(|(n, _)| *n == name).map(|(_, n)| *n);
        let (egress, ingress) = (of("policy_egress"), of("policy_ingress"));
        Ok(egress.context("a reason")? + ingress.context("a reason")?)
    }
}

/// Verdicts that nothing but a full table or a broken packet gives.
pub const NEVER: [u32; 2] = [verdict::MALFORMED, verdict::NOT_REMEMBERED];
