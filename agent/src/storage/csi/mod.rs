//! Storage outside of the node, by drivers that speak the Container Storage Interface, version 1.
//!
//! The agent is the caller of a driver's controller and node parts, on one socket. What it has done for each volume is
//! written down before and after each call ([`plan`]), so that an agent that begins later knows what is attached, staged
//! and published, and can undo it. A volume that does not exist is made, by its name; none is ever deleted.
//!
//! Secrets are not given to drivers yet: each request has an empty map where they would be.

mod driver;
mod options;
pub mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use waggle_api::proto::csi as pb;
use waggle_types::{ExternalVolume, TaskId};

use super::records::file_name;
use crate::shim::{read_json, write_json};
use driver::Driver;
use options::Use;
use plan::{Step, VolumeRecord};

/// One call of a driver's part; a request is its own copy each time that it is tried.
macro_rules! ask {
    ($driver:expr, $name:literal, $client:ident.$call:ident($ask:ident)) => {
        $driver
            .call($name, || {
                let (mut client, ask) = ($client.clone(), $ask.clone());
                async move { client.$call(ask).await }
            })
            .await?
    };
}

/// A volume of a driver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct External {
    /// The driver, as the operator named it.
    pub provider: String,
    /// The volume, as tasks name it.
    pub name: String,
}

/// All drivers of a node.
pub struct Csi {
    drivers: BTreeMap<String, Driver>,
    /// Records, one file for each volume.
    records: PathBuf,
    /// Where volumes are staged and published.
    mounts: PathBuf,
    locks: Mutex<BTreeMap<External, Arc<tokio::sync::Mutex<()>>>>,
}

impl std::fmt::Debug for Csi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Csi")
            .field("drivers", &self.drivers.keys())
            .finish_non_exhaustive()
    }
}

impl Csi {
    /// Below a directory. Drivers are connected to when they are needed first. Needs a runtime where there are
    /// drivers. Blocking.
    pub fn open(dir: &Path, drivers: &BTreeMap<String, PathBuf>) -> io::Result<Self> {
        let records = dir.join("volumes");
        fs::create_dir_all(&records)?;
        Ok(Self {
            drivers: drivers
                .iter()
                .map(|(name, socket)| (name.clone(), Driver::new(name, socket)))
                .collect(),
            records,
            mounts: dir.join("mounts"),
            locks: Mutex::default(),
        })
    }

    /// Brings a volume to a task; answers where it is on the host. The error is for people.
    pub async fn publish(
        &self,
        task_id: &TaskId,
        volume: &ExternalVolume,
        read_only: bool,
    ) -> Result<PathBuf, String> {
        let driver = self.driver(&volume.provider)?;
        let asked = options::read(volume)?;
        let of = External {
            provider: volume.provider.clone(),
            name: volume.name.clone(),
        };
        let lock = self.lock(&of);
        let _alone = lock.lock().await;
        let can = driver.facts().await?.can;
        let mut record = self.read(&of)?.unwrap_or_else(|| VolumeRecord {
            provider: of.provider.clone(),
            name: of.name.clone(),
            ..VolumeRecord::default()
        });
        for step in record.towards(task_id.as_str(), can) {
            self.step(driver, &mut record, &step, Some((&asked, read_only)))
                .await?;
        }
        Ok(self.target(&of, task_id.as_str()))
    }

    /// Takes a volume away from a task, and from the node when that was the last one. The error is for people; what
    /// is left is written down, and done by the next call.
    pub async fn unpublish(&self, task: &str, of: &External) -> Result<(), String> {
        let lock = self.lock(of);
        let _alone = lock.lock().await;
        let Some(mut record) = self.read(of)? else {
            return Ok(());
        };
        let steps = record.away(task);
        if !steps.is_empty() {
            let driver = self.driver(&of.provider)?;
            for step in steps {
                self.step(driver, &mut record, &step, None).await?;
            }
        }
        record.tasks.remove(task);
        if record.is_idle() {
            self.forget(of)
        } else {
            self.write(&record)
        }
    }

    /// Tasks that have a volume by what is written down, with the volume. Blocking.
    pub fn held(&self) -> io::Result<BTreeSet<(String, External)>> {
        let mut out = BTreeSet::new();
        for entry in fs::read_dir(&self.records)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let Some(record) = read_json::<VolumeRecord>(&path)? else {
                continue;
            };
            let of = External {
                provider: record.provider,
                name: record.name,
            };
            out.extend(record.tasks.into_keys().map(|t| (t, of.clone())));
        }
        Ok(out)
    }

    fn driver(&self, provider: &str) -> Result<&Driver, String> {
        self.drivers.get(provider).ok_or_else(|| {
            format!("this node has no storage driver {provider:?} (--csi {provider}=unix:///...)")
        })
    }

    /// One call, written down before and after.
    async fn step(
        &self,
        driver: &Driver,
        record: &mut VolumeRecord,
        step: &Step,
        asked: Option<(&Use, bool)>,
    ) -> Result<(), String> {
        record.begin(step);
        self.write(record)?;
        self.make(driver, record, step, asked).await?;
        record.end(step);
        self.write(record)
    }

    async fn make(
        &self,
        driver: &Driver,
        record: &mut VolumeRecord,
        step: &Step,
        asked: Option<(&Use, bool)>,
    ) -> Result<(), String> {
        let of = External {
            provider: record.provider.clone(),
            name: record.name.clone(),
        };
        let facts = driver.facts().await?;
        let volume_id = record.volume_id.clone().unwrap_or_default();
        let capability = asked.map(|(u, _)| u.capability.clone());
        let staging = self.staging(&of);
        let path = |p: &Path| p.display().to_string();
        let staging_path = if facts.can.stage {
            path(&staging)
        } else {
            String::new()
        };
        match step {
            Step::Create if !facts.can.create => record.volume_id = Some(record.name.clone()),
            Step::Create => {
                let ask = pb::CreateVolumeRequest {
                    name: record.name.clone(),
                    capacity_range: asked.and_then(|(u, _)| u.capacity),
                    volume_capabilities: capability.into_iter().collect(),
                    parameters: asked.map(|(u, _)| u.parameters.clone()).unwrap_or_default(),
                    secrets: BTreeMap::new(),
                };
                let client = driver.controller()?;
                let made = ask!(driver, "CreateVolume", client.create_volume(ask));
                let made = made.volume.unwrap_or_default();
                if made.volume_id.is_empty() {
                    let driver = &of.provider;
                    return Err(format!(
                        "storage driver {driver}: CreateVolume answered no volume"
                    ));
                }
                record.volume_id = Some(made.volume_id);
                record.context = made.volume_context;
            }
            Step::Attach => {
                record.node_id.clone_from(&facts.node_id);
                let ask = pb::ControllerPublishVolumeRequest {
                    volume_id,
                    node_id: facts.node_id.clone(),
                    volume_capability: capability,
                    readonly: false,
                    secrets: BTreeMap::new(),
                    volume_context: record.context.clone(),
                };
                let client = driver.controller()?;
                let answer = ask!(
                    driver,
                    "ControllerPublishVolume",
                    client.controller_publish_volume(ask)
                );
                record.publish_context = answer.publish_context;
            }
            Step::Stage => {
                // The directory is the caller's to make (csi.proto, `staging_target_path`).
                make_dir(&staging)?;
                let ask = pb::NodeStageVolumeRequest {
                    volume_id,
                    publish_context: record.publish_context.clone(),
                    staging_target_path: staging_path,
                    volume_capability: capability,
                    secrets: BTreeMap::new(),
                    volume_context: record.context.clone(),
                };
                let client = driver.node()?;
                ask!(driver, "NodeStageVolume", client.node_stage_volume(ask));
            }
            Step::Publish(task) => {
                let target = self.target(&of, task);
                // Its parent is the caller's to make, itself the driver's.
                if let Some(parent) = target.parent() {
                    make_dir(parent)?;
                }
                let ask = pb::NodePublishVolumeRequest {
                    volume_id,
                    publish_context: record.publish_context.clone(),
                    staging_target_path: staging_path,
                    target_path: path(&target),
                    volume_capability: capability,
                    readonly: asked.is_some_and(|(_, read_only)| read_only),
                    secrets: BTreeMap::new(),
                    volume_context: record.context.clone(),
                };
                let client = driver.node()?;
                ask!(driver, "NodePublishVolume", client.node_publish_volume(ask));
            }
            Step::Unpublish(task) => {
                let target = self.target(&of, task);
                let ask = pb::NodeUnpublishVolumeRequest {
                    volume_id,
                    target_path: path(&target),
                };
                let client = driver.node()?;
                ask!(
                    driver,
                    "NodeUnpublishVolume",
                    client.node_unpublish_volume(ask)
                );
                // The driver removes it; an empty one that it left is no loss.
                let _ = fs::remove_dir(&target);
            }
            Step::Unstage => {
                let ask = pb::NodeUnstageVolumeRequest {
                    volume_id,
                    staging_target_path: path(&staging),
                };
                let client = driver.node()?;
                ask!(driver, "NodeUnstageVolume", client.node_unstage_volume(ask));
                let _ = fs::remove_dir(&staging);
            }
            Step::Detach => {
                let ask = pb::ControllerUnpublishVolumeRequest {
                    volume_id,
                    node_id: record.node_id.clone(),
                    secrets: BTreeMap::new(),
                };
                let client = driver.controller()?;
                ask!(
                    driver,
                    "ControllerUnpublishVolume",
                    client.controller_unpublish_volume(ask)
                );
            }
        }
        Ok(())
    }

    fn dir(&self, of: &External) -> PathBuf {
        self.mounts.join(key(of))
    }

    fn staging(&self, of: &External) -> PathBuf {
        self.dir(of).join("staging")
    }

    fn target(&self, of: &External, task: &str) -> PathBuf {
        self.dir(of).join("tasks").join(task)
    }

    fn record(&self, of: &External) -> PathBuf {
        self.records.join(format!("{}.json", key(of)))
    }

    fn read(&self, of: &External) -> Result<Option<VolumeRecord>, String> {
        let path = self.record(of);
        read_json(&path).map_err(|e| format!("failed to read {}: {e}", path.display()))
    }

    fn write(&self, record: &VolumeRecord) -> Result<(), String> {
        let of = External {
            provider: record.provider.clone(),
            name: record.name.clone(),
        };
        let path = self.record(&of);
        write_json(&path, record).map_err(|e| format!("failed to write {}: {e}", path.display()))
    }

    /// Nothing of it is left: directories that are still there are empty.
    fn forget(&self, of: &External) -> Result<(), String> {
        let dir = self.dir(of);
        for empty in [dir.join("staging"), dir.join("tasks"), dir] {
            let _ = fs::remove_dir(empty);
        }
        let path = self.record(of);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(format!("failed to remove {}: {e}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Calls about one volume are made one after the other, as the specification asks.
    fn lock(&self, of: &External) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds are made anew when they are wanted.
        locks.retain(|_, l| Arc::strong_count(l) > 1);
        Arc::clone(locks.entry(of.clone()).or_default())
    }
}

fn key(of: &External) -> String {
    format!("{}.{}", file_name(&of.provider), file_name(&of.name))
}

fn make_dir(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|e| format!("failed to make {}: {e}", path.display()))
}

#[cfg(test)]
mod tests;
