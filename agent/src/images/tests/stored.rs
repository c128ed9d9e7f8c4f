//! Without a registry: loading, mounting, releasing, restarting, collecting.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use waggle_tests_support::images::{Compression, Image, Layer};

use super::*;

#[tokio::test]
async fn a_loaded_image_becomes_a_root_that_goes_without_a_trace() {
    if !can_mount() {
        return;
    }
    let node = Node::new(ImageSettings::default());
    let upper = Layer::new()
        .file("etc/text", 0o4755, b"new")
        .whiteout("etc/gone")
        .dir("dir", 0o755)
        .file("dir/.wh..wh..opq", 0, b"")
        .file("dir/new", 0o644, b"")
        .entry("own", tar::EntryType::Regular, 0o600, (7, 8), b"x");
    let lower = Layer::new()
        .dir("etc", 0o755)
        .file("etc/text", 0o644, b"old")
        .file("etc/gone", 0o644, b"")
        .dir("dir", 0o755)
        .file("dir/old", 0o644, b"");
    let image = Image::new()
        .layer(lower)
        .layer(upper)
        .cmd(&["/x", "y"])
        .env("A", "b=c")
        .set("User", "7:8")
        .set("WorkingDir", "/dir");
    let path = node.layout(&image, "registry.test/app:1");
    let loaded = node.images.load(&path, None).unwrap();
    assert_eq!(loaded[0].names, ["registry.test/app:1"]);
    let root = node
        .images
        .prepare(&task("t1"), &super::image("registry.test/app:1"), None)
        .await
        .unwrap();
    assert_eq!(root.config.cmd, ["/x", "y"]);
    assert_eq!(root.config.env[1], ("A".to_owned(), "b=c".to_owned()));
    assert_eq!(root.config.user.as_deref(), Some("7:8"));
    assert_eq!(root.config.work_dir.as_deref(), Some("/dir"));
    let at = |p: &str| root.path.join(p);
    assert_eq!(fs::read(at("etc/text")).unwrap(), b"new");
    assert_eq!(
        fs::metadata(at("etc/text")).unwrap().mode() & 0o7777,
        0o4755
    );
    assert!(!at("etc/gone").exists());
    assert!(!at("dir/old").exists() && at("dir/new").exists());
    let own = fs::metadata(at("own")).unwrap();
    assert_eq!((own.uid(), own.gid()), (7, 8));
    // What one task writes another does not see.
    fs::write(at("etc/text"), "mine").unwrap();
    let other = node.root("t2", "registry.test/app:1").await.unwrap();
    assert_eq!(fs::read(other.join("etc/text")).unwrap(), b"new");
    assert_eq!(node.images.list()[0].tasks, ["t1", "t2"]);
    for id in ["t1", "t2", "t2", "never"] {
        node.images.release(&task(id)).unwrap();
    }
    assert!(!root.path.exists());
    node.assert_clean();
}

#[tokio::test]
async fn every_way_to_bring_an_image_gives_the_same() {
    let image = |c| small("same").compression(c);
    let node = Node::new(ImageSettings::default());
    let [plain, gzip, zstd] = [Compression::Plain, Compression::Gzip, Compression::Zstd]
        .map(|c| node.layout(&image(c), "app:plain"));
    let archive = node.dir.path().join("saved.tar");
    image(Compression::Plain)
        .write_docker_archive(&archive, "app:saved")
        .unwrap();
    let tar = node.dir.path().join("layout.tar.gz");
    let made = std::process::Command::new("tar")
        .arg("-czf")
        .arg(&tar)
        .arg("-C")
        .arg(&gzip)
        .arg(".")
        .status()
        .unwrap();
    assert!(made.success());
    for (path, name) in [
        (&plain, None),
        (&gzip, Some("app:gzip")),
        (&zstd, Some("app:zstd")),
        (&archive, None),
        (&tar, Some("app:tar")),
    ] {
        node.images.load(path, name).unwrap();
    }
    assert_eq!(node.names().len(), 5);
    // Each layer once, whatever it came as.
    assert_eq!(n_entries(&node.dir.path().join("images/layers")), 2);
    node.assert_clean();
}

#[tokio::test]
async fn a_restart_keeps_roots_of_living_tasks_alone() {
    if !can_mount() {
        return;
    }
    let mut node = Node::new(ImageSettings::default());
    let path = node.layout(&small("a"), "app:1");
    node.images.load(&path, None).unwrap();
    let stays = node.root("stays", "app:1").await.unwrap();
    let goes = node.root("goes", "app:1").await.unwrap();
    fs::write(stays.join("mine"), "x").unwrap();
    // A crash in the middle of something.
    let tmp = node.dir.path().join("images/tmp/half");
    fs::create_dir_all(tmp.join("fs/deep")).unwrap();
    fs::create_dir(node.dir.path().join("images/layers").join("0".repeat(64))).unwrap();
    // And a lost record: the layers are mounted all the same.
    let manifests = node.dir.path().join("images/manifests");
    let record = fs::read_dir(&manifests).unwrap().next().unwrap().unwrap();
    let kept = fs::read(record.path()).unwrap();
    fs::remove_file(record.path()).unwrap();
    node.reopen(&["stays"]);
    node.images.collect(0).await.unwrap();
    assert_eq!(n_entries(&node.dir.path().join("images/layers")), 2);
    fs::write(record.path(), kept).unwrap();
    node.reopen(&["stays"]);
    assert!(!tmp.exists() && !goes.exists());
    assert_eq!(n_entries(&node.dir.path().join("images/layers")), 2);
    assert_eq!(fs::read(stays.join("mine")).unwrap(), b"x");
    assert_eq!(node.images.list()[0].tasks, ["stays"]);
    // What a task has is not collected; then it is.
    assert_eq!(node.images.collect(0).await.unwrap().images.len(), 0);
    assert_eq!(fs::read(stays.join("etc/text")).unwrap(), b"a");
    node.images.release(&task("stays")).unwrap();
    let pruned = node.images.collect(0).await.unwrap();
    assert_eq!(pruned.images.len(), 1);
    assert!(pruned.bytes > 0);
    assert_eq!(n_entries(&node.dir.path().join("images/layers")), 0);
    node.reopen(&[]);
    assert_eq!(node.names(), [""; 0]);
    node.assert_clean();
}

#[tokio::test]
async fn nothing_is_collected_before_it_is_known_what_tasks_have() {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path(), ImageSettings::default(), Telemetry::disabled()).unwrap();
    assert!(images.collect(0).await.is_err());
}

#[tokio::test]
async fn the_most_layers_an_image_may_have_are_mounted() {
    if !can_mount() {
        return;
    }
    let mut image = Image::new();
    for i in 0..127 {
        image = image.layer(Layer::new().file(&format!("f{i}"), 0o644, b"x"));
    }
    let node = Node::new(ImageSettings::default());
    let path = node.layout(&image, "many:1");
    node.images.load(&path, None).unwrap();
    let root = node.root("t", "many:1").await.unwrap();
    assert_eq!(n_entries(&root), 127);
    // The same twice, and none at all.
    let twice = Layer::new().file("a", 0o644, b"a").finish();
    let image = Image::new()
        .raw_layer(twice.clone())
        .layer(Layer::new().whiteout("a"))
        .raw_layer(twice);
    let path = node.layout(&image, "twice:1");
    node.images.load(&path, None).unwrap();
    let root = node.root("t2", "twice:1").await.unwrap();
    assert!(root.join("a").exists());
    let path = node.layout(&Image::new(), "none:1");
    node.images.load(&path, None).unwrap();
    let root = node.root("t3", "none:1").await.unwrap();
    assert_eq!(n_entries(&root), 0);
}

#[tokio::test]
async fn damaged_layouts_are_refused_and_leave_nothing() {
    let node = Node::new(ImageSettings::default());
    let refused = |path: &Path| node.images.load(path, None).unwrap_err().describe();
    let path = node.layout(&small("a"), "app:1");
    let layer = fs::read_dir(path.join("blobs/sha256"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| fs::read(p).unwrap().starts_with(&[0x1f, 0x8b]))
        .unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    bytes.truncate(bytes.len() - 9);
    fs::write(&layer, &bytes).unwrap();
    let why = refused(&path);
    assert!(why.contains("failed to read the archive"), "{why}");
    fs::write(&layer, small_gzip()).unwrap();
    let why = refused(&path);
    assert!(
        why.contains("digest mismatch: the layer should be"),
        "{why}"
    );
    let empty = node.dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let why = refused(&empty);
    assert!(why.contains("has neither index.json"), "{why}");
    // A link out of the layout leads nowhere.
    let path = node.layout(&small("b"), "app:1");
    fs::remove_file(path.join("index.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path.join("index.json")).unwrap();
    assert!(refused(&path).contains("has neither index.json"));
    node.assert_clean();
    assert_eq!(n_entries(&node.dir.path().join("images/layers")), 0);
}

fn small_gzip() -> Vec<u8> {
    let built = small("other").build().unwrap();
    built.blobs[1].1.clone()
}

#[tokio::test]
async fn device_nodes_of_an_image_are_left_out() {
    if !can_mount() {
        return;
    }
    let layer = Layer::new()
        .entry("null", tar::EntryType::Char, 0o666, (0, 0), b"")
        .entry("pipe", tar::EntryType::Fifo, 0o644, (0, 0), b"")
        .file("file", 0o644, b"");
    let node = Node::new(ImageSettings::default());
    let path = node.layout(&Image::new().layer(layer), "dev:1");
    node.images.load(&path, None).unwrap();
    let root = node.root("t", "dev:1").await.unwrap();
    assert!(!root.join("null").exists());
    assert!(
        fs::metadata(root.join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}
