//! Images from files and registries, with overlayfs where there is root.

mod http;
mod registries;
mod stored;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use waggle_telemetry::Telemetry;
use waggle_tests_support::{
    images::{Image, Layer},
    wait_until,
};
use waggle_types::{ImageSpec, TaskId};

use super::{ImageSettings, Images};

/// Whether overlayfs may be mounted here; says loudly when not.
fn can_mount() -> bool {
    let can = waggle_tests_support::is_root();
    if !can {
        eprintln!("SKIPPED: overlayfs needs root");
    }
    can
}

/// An agent's images in a directory of the test's own; unmounted when it ends, however it ends.
struct Node {
    dir: tempfile::TempDir,
    images: Arc<Images>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.images.keep(&BTreeSet::new());
    }
}

impl Node {
    fn new(settings: ImageSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path(), settings, Telemetry::disabled()).unwrap();
        images.keep(&BTreeSet::new()).unwrap();
        Self { dir, images }
    }

    /// As after a restart of the agent.
    fn reopen(&mut self, live: &[&str]) {
        let settings = ImageSettings::clone(&self.images.settings);
        self.images = Images::open(self.dir.path(), settings, Telemetry::disabled()).unwrap();
        self.images
            .keep(&live.iter().map(|t| task(t)).collect())
            .unwrap();
    }

    fn layout(&self, image: &Image, name: &str) -> PathBuf {
        let path = self
            .dir
            .path()
            .join(format!("layout-{}", rand::random::<u64>()));
        image.write_layout(&path, name).unwrap();
        path
    }

    async fn root(&self, id: &str, reference: &str) -> Result<PathBuf, String> {
        let root = self
            .images
            .prepare(&task(id), &image(reference), None)
            .await?;
        Ok(root.path)
    }

    fn names(&self) -> Vec<String> {
        let list = self.images.list();
        list.into_iter().flat_map(|i| i.names).collect()
    }

    /// Nothing is left of tasks, and nothing half-made.
    fn assert_clean(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let own = self.dir.path().display().to_string();
        assert!(!mounts.contains(&own), "a mount is left:\n{mounts}");
        let tmp = self.dir.path().join("images/tmp");
        // Threads that unpack end by themselves, once they see that nobody sends.
        let limit = std::time::Duration::from_secs(10);
        wait_until(limit, "nothing half-made", || {
            (n_entries(&tmp) == 0).then_some(())
        })
        .unwrap();
    }
}

fn n_entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn task(id: &str) -> TaskId {
    TaskId::new(id).unwrap()
}

fn image(reference: &str) -> ImageSpec {
    ImageSpec {
        reference: reference.to_owned(),
        ..ImageSpec::default()
    }
}

/// Small, with something to tell it by.
fn small(text: &str) -> Image {
    Image::new()
        .layer(
            Layer::new()
                .dir("etc", 0o755)
                .file("etc/base", 0o644, b"base"),
        )
        .layer(Layer::new().file("etc/text", 0o640, text.as_bytes()))
        .cmd(&["/bin/true"])
}
