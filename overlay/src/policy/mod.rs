//! Network policies on this node: the kernel's tables follow what the cluster says.
//!
//! `waggle-overlay-plan` decides what is written and in which order; here it is written. A process that starts takes over the
//! tables as it finds them, so policies hold while no process of ours runs, and change in one step at a time when one does again.
//!
//! # Invariants
//! - Before anybody has said what the policies are, no container gets traffic ([`PolicyPlane::open`]).
//! - A write that fails ends the change; what the kernel has then is read anew before the next one.

mod askers;
mod bytes;

use std::{net::IpAddr, sync::Arc};

use nix::time::{ClockId, clock_gettime};
use waggle_ebpf::{LoadError, overlay::OverlayPlane};
use waggle_ebpf_common::policy::{Config, config_flags};
use waggle_overlay_plan::policy::{Limits, Lowering, PolicyWorld, PolicyWrite, Report};

pub use askers::Askers;
use bytes::{observe, write};

/// For so long TCP connections that were there before there were policies are taken in, seconds.
const ADOPT_S: u32 = 60;

/// Keeps the kernel's tables of policies.
#[derive(Debug)]
pub struct PolicyPlane {
    lowering: Lowering,
    /// Whether the kernel's tables may be others than `lowering` says.
    is_unsure: bool,
    /// What was lowered last: the same again is nothing to do.
    last: Option<(PolicyWorld, Report)>,
    /// For who answers them.
    askers: Arc<Askers>,
}

impl PolicyPlane {
    /// Takes over the tables. Where nobody has said yet what the policies are, nothing passes until somebody does.
    ///
    /// # Errors
    /// [`LoadError`] from the kernel.
    pub fn open(plane: &OverlayPlane, askers: Arc<Askers>) -> Result<Self, LoadError> {
        let mut lowering = Lowering::new(Limits::default());
        {
            let mut maps = plane.policy();
            let config = maps.config()?;
            if config.generation == 0 {
                maps.set_config(Config {
                    flags: config_flags::CLOSED,
                    ..config
                })?;
            }
            lowering.adopt(observe(&maps)?);
        }
        Ok(Self {
            lowering,
            is_unsure: false,
            last: None,
            askers,
        })
    }

    /// Makes the tables say what policies say. What doesn't fit is closed and told.
    ///
    /// # Errors
    /// [`LoadError`] from the kernel. Some of the writes may be done; every flow has its old or its new verdict.
    pub fn apply(
        &mut self,
        plane: &OverlayPlane,
        world: &PolicyWorld,
    ) -> Result<Report, LoadError> {
        if let Some((last, report)) = &self.last
            && last == world
            && !self.is_unsure
        {
            return Ok(*report);
        }
        if self.is_unsure {
            self.lowering.adopt(observe(&plane.policy())?);
            self.is_unsure = false;
        }
        let config = plane.policy().config()?;
        let (mut writes, report) = self.lowering.change(world, now_s());
        // From here on answers wait for the end of this.
        self.askers.only(self.lowering.askers());
        if writes.is_empty() && (config.generation == 0 || config.flags & config_flags::CLOSED != 0)
        {
            // There are none: that has to be said, too.
            writes.push(PolicyWrite::Finish {
                is_on: self.lowering.tables().is_on,
            });
        }
        self.write(plane, &writes)?;
        self.last = Some((world.clone(), report));
        Ok(report)
    }

    /// Whether a write has failed, so that the tables may be others than the policies say.
    pub fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// A task was told addresses for a name, each for so many seconds. To be called before it has the answer, and not while the plane
    /// [is unsure](PolicyPlane::is_unsure).
    ///
    /// # Errors
    /// [`LoadError`] from the kernel.
    pub fn learn(
        &mut self,
        plane: &OverlayPlane,
        task: IpAddr,
        name: &str,
        told: &[(IpAddr, u32)],
    ) -> Result<(), LoadError> {
        let writes = self.lowering.learn(task, name, told, now_s());
        self.write(plane, &writes)
    }

    fn write(&mut self, plane: &OverlayPlane, writes: &[PolicyWrite]) -> Result<(), LoadError> {
        let mut maps = plane.policy();
        for one in writes {
            if let Err(error) = write(&mut maps, one, || now_s().saturating_add(ADOPT_S)) {
                drop(maps);
                self.is_unsure = true;
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The kernel's seconds since some start. A clock that can't be read is at its start: names expire late, nothing else.
fn now_s() -> u32 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.tv_sec());
    u32::try_from(now).unwrap_or(u32::MAX)
}
