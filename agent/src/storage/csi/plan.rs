//! Which calls bring a volume to a task and back, from what was done before: nothing is asked of anybody here.
//!
//! The order is the specification's (csi.proto, "Volume Lifecycle"): create, publish at the controller, stage on the
//! node, publish to the task; and back in reverse, the node's part once for all tasks. Each step is written down as
//! begun before it is called and as done after it, so that whoever finds a record after a crash knows what may have
//! happened. All calls are idempotent by the specification: one that may have happened is made again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// It makes volumes; otherwise they exist and are called by their names.
    pub create: bool,
    /// Volumes are attached to nodes by its controller.
    pub attach: bool,
    /// Volumes are staged on a node before they are published.
    pub stage: bool,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Not begun, or undone.
    #[default]
    No,
    /// It may have happened.
    Begun,
    /// It has happened.
    Yes,
}

/// What is known of a volume on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The driver, as the operator named it.
    pub provider: String,
    /// The volume, as tasks name it.
    pub name: String,
    /// The driver's id of it, once it exists.
    pub volume_id: Option<String>,
    /// What the driver said about it, for later calls.
    pub context: BTreeMap<String, String>,
    /// What the controller said when it attached it.
    pub publish_context: BTreeMap<String, String>,
    /// The node, as the driver names it.
    pub node_id: String,
    /// Whether the controller has attached it here.
    pub attached: Done,
    /// Whether it is staged here.
    pub staged: Done,
    /// Tasks that it is published to.
    pub tasks: BTreeMap<String, Done>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `CreateVolume`.
    Create,
    /// `ControllerPublishVolume`.
    Attach,
    /// `NodeStageVolume`.
    Stage,
    /// `NodePublishVolume` for a task.
    Publish(String),
    /// `NodeUnpublishVolume` for a task.
    Unpublish(String),
    /// `NodeUnstageVolume`.
    Unstage,
    /// `ControllerUnpublishVolume`.
    Detach,
}

impl VolumeRecord {
    /// The calls that are left until a task has the volume.
    pub fn towards(&self, task: &str, can: Abilities) -> Vec<Step> {
        let mut out = Vec::new();
        if self.volume_id.is_none() {
            out.push(Step::Create);
        }
        if can.attach && self.attached != Done::Yes {
            out.push(Step::Attach);
        }
        if can.stage && self.staged != Done::Yes {
            out.push(Step::Stage);
        }
        if self.tasks.get(task) != Some(&Done::Yes) {
            out.push(Step::Publish(task.to_owned()));
        }
        out
    }

    /// The calls that are left until a task does not have it, and the node neither if that was the last one.
    pub fn away(&self, task: &str) -> Vec<Step> {
        let mut out = Vec::new();
        if self.volume_id.is_none() {
            return out;
        }
        if self.tasks.get(task).is_some_and(|d| *d != Done::No) {
            out.push(Step::Unpublish(task.to_owned()));
        }
        let others = self.tasks.iter().any(|(t, d)| t != task && *d != Done::No);
        if others {
            return out;
        }
        if self.staged != Done::No {
            out.push(Step::Unstage);
        }
        if self.attached != Done::No {
            out.push(Step::Detach);
        }
        out
    }

    /// Before a call: it may happen from now on.
    pub fn begin(&mut self, step: &Step) {
        match step {
            Step::Create => {}
            Step::Attach | Step::Detach => self.attached = Done::Begun,
            Step::Stage | Step::Unstage => self.staged = Done::Begun,
            Step::Publish(task) | Step::Unpublish(task) => {
                self.tasks.insert(task.clone(), Done::Begun);
            }
        }
    }

    /// After a call that was answered well. What `Create` answers is the caller's to set.
    pub fn end(&mut self, step: &Step) {
        match step {
            Step::Create => {}
            Step::Attach => self.attached = Done::Yes,
            Step::Stage => self.staged = Done::Yes,
            Step::Publish(task) => {
                self.tasks.insert(task.clone(), Done::Yes);
            }
            Step::Unpublish(task) => {
                self.tasks.remove(task);
            }
            Step::Unstage => self.staged = Done::No,
            Step::Detach => {
                self.attached = Done::No;
                self.publish_context.clear();
            }
        }
    }

    /// Whether nothing of it is left on this node.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.staged == Done::No && self.attached == Done::No
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A driver that checks what the specification demands of its caller.
    #[derive(Debug, Default)]
    struct Driver {
        exists: bool,
        attached: bool,
        staged: bool,
        published: std::collections::BTreeSet<String>,
    }

    impl Driver {
        fn call(&mut self, step: &Step, can: Abilities) {
            match step {
                Step::Create => self.exists = true,
                Step::Attach => {
                    assert!(self.exists);
                    self.attached = true;
                }
                Step::Stage => {
                    assert!(self.exists && (self.attached || !can.attach));
                    self.staged = true;
                }
                Step::Publish(task) => {
                    assert!(self.exists && (self.attached || !can.attach));
                    assert!(self.staged || !can.stage);
                    self.published.insert(task.clone());
                }
                Step::Unpublish(task) => {
                    self.published.remove(task);
                }
                Step::Unstage => {
                    assert!(self.published.is_empty(), "a task still has it");
                    self.staged = false;
                }
                Step::Detach => {
                    assert!(!self.staged && self.published.is_empty());
                    self.attached = false;
                }
            }
        }
    }

    /// How far a walk gets: all calls, or up to the nth, which is answered, not answered, or crashes the agent before or
    /// after the call.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Well,
        Refused(usize),
        Before(usize),
        After(usize),
    }

    fn walk(
        record: &mut VolumeRecord,
        driver: &mut Driver,
        steps: &[Step],
        can: Abilities,
        fate: Fate,
    ) {
        for (n, step) in steps.iter().enumerate() {
            record.begin(step);
            match fate {
                Fate::Refused(at) | Fate::Before(at) if at == n => return,
                Fate::After(at) if at == n => {
                    driver.call(step, can);
                    return;
                }
                _ => {}
            }
            driver.call(step, can);
            if *step == Step::Create {
                record.volume_id = Some("v".to_owned());
            }
            record.end(step);
        }
    }

    fn fate() -> impl Strategy<Value = Fate> {
        (0usize..4, 0u8..8).prop_map(|(at, kind)| match kind {
            0 => Fate::Refused(at),
            1 => Fate::Before(at),
            2 => Fate::After(at),
            _ => Fate::Well,
        })
    }

    proptest! {
        #[test]
        fn whatever_fails_nothing_is_left_when_nobody_wants_it(
            attach in any::<bool>(), stage in any::<bool>(),
            walks in prop::collection::vec((0u8..3, any::<bool>(), fate()), 0..20),
        ) {
            let can = Abilities { create: true, attach, stage };
            let (mut record, mut driver) = (VolumeRecord::default(), Driver::default());
            for (task, to, fate) in walks {
                let task = format!("t{task}");
                let steps = if to { record.towards(&task, can) } else { record.away(&task) };
                let well = matches!(fate, Fate::Well);
                walk(&mut record, &mut driver, &steps, can, fate);
                if well && to {
                    prop_assert!(driver.published.contains(&task));
                    prop_assert_eq!(record.towards(&task, can), vec![], "done is done");
                } else if well {
                    prop_assert!(!driver.published.contains(&task));
                }
                // What the driver has, the record knows of.
                prop_assert!(!driver.staged || record.staged != Done::No);
                prop_assert!(!driver.attached || record.attached != Done::No);
                prop_assert!(driver.published.iter().all(|t| record.tasks.contains_key(t)));
            }
            for task in ["t0", "t1", "t2"] {
                let steps = record.away(task);
                walk(&mut record, &mut driver, &steps, can, Fate::Well);
            }
            prop_assert!(record.is_idle());
            prop_assert!(!driver.attached && !driver.staged && driver.published.is_empty());
        }
    }
}
