//! With a real registry on loopback (package docker-registry).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
};

use waggle_tests_support::registry::{Access, PASSWORD, Registry, Setup, missing};

use super::*;

fn registry(setup: Setup) -> Option<(tempfile::TempDir, Registry)> {
    if let Some(why) = missing() {
        eprintln!("SKIPPED: {why}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(&dir.path().join("registry"), setup).unwrap();
    Some((dir, registry))
}

fn plain(registry: &Registry) -> ImageSettings {
    ImageSettings {
        plain_http: BTreeSet::from([registry.host()]),
        ..ImageSettings::default()
    }
}

fn forced(reference: &str) -> ImageSpec {
    ImageSpec {
        force_pull: true,
        ..image(reference)
    }
}

async fn refused(node: &Node, spec: &ImageSpec) -> (&'static str, String) {
    let e = node.images.get(spec, None).await.unwrap_err();
    node.assert_clean();
    (e.kind(), e.describe())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_and_digests_are_pulled_once_and_start_without_the_registry() {
    let Some((_dir, mut registry)) = registry(Setup::default()) else {
        return;
    };
    let digest = registry.push(&small("one"), "team/app:1").unwrap();
    let node = Node::new(plain(&registry));
    let tag = format!("{}/team/app:1", registry.host());
    let by_digest = format!("{}/team/app@{digest}", registry.host());
    for reference in [&tag, &by_digest] {
        let got = node.images.get(&image(reference), None).await.unwrap();
        assert_eq!(got.to_string(), digest);
    }
    let bytes = node.images.puller.n_bytes();
    assert!(bytes > 0);
    // A tag that means something else now: what is there starts tasks, unless the newest is asked for.
    let newer = registry.push(&small("two"), "team/app:1").unwrap();
    let spec = image(&tag);
    assert_eq!(
        node.images.get(&spec, None).await.unwrap().to_string(),
        digest
    );
    let got = node.images.get(&forced(&tag), None).await.unwrap();
    assert_eq!(got.to_string(), newer);
    assert_eq!(
        node.images.get(&spec, None).await.unwrap().to_string(),
        newer
    );
    // The base layer was there.
    assert!(node.images.puller.n_bytes() - bytes < bytes);
    // The registry goes: what is there starts, the newest can't be known.
    registry.stop();
    assert_eq!(
        node.images.get(&spec, None).await.unwrap().to_string(),
        newer
    );
    let (kind, why) = refused(&node, &forced(&tag)).await;
    assert_eq!(kind, "unreachable");
    assert!(
        why.contains("can't be reached: Connection refused"),
        "{why}"
    );
    let never = format!("{}/team/other:1", registry.host());
    let (kind, _) = refused(&node, &image(&never)).await;
    assert_eq!(kind, "unreachable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_pull_once() {
    if !can_mount() {
        return;
    }
    let Some((_dir, registry)) = registry(Setup::default()) else {
        return;
    };
    let busybox = Image::busybox().unwrap();
    registry.push(&busybox, "busybox:1").unwrap();
    let node = Node::new(plain(&registry));
    let reference = format!("{}/busybox:1", registry.host());
    let roots = (0..100).map(|i| {
        let (images, spec) = (Arc::clone(&node.images), image(&reference));
        tokio::spawn(async move { images.prepare(&task(&format!("t{i}")), &spec, None).await })
    });
    for root in futures::future::join_all(roots.collect::<Vec<_>>()).await {
        let root = root.unwrap().unwrap();
        assert!(root.path.join("bin/sh").exists());
    }
    let size = busybox.build().unwrap().blobs[0].1.len() as u64;
    assert_eq!(node.images.puller.n_bytes(), size);
    for i in 0..100 {
        node.images.release(&task(&format!("t{i}"))).unwrap();
    }
    node.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_and_tokens_open_a_registry_with_tls() {
    for access in [Access::Password, Access::Token] {
        let Some((_dir, registry)) = registry(Setup { access, tls: true }) else {
            return;
        };
        registry.push(&small("secret"), "team/app:1").unwrap();
        let right = registry.auth_file(PASSWORD).unwrap();
        let wrong = registry.auth_file("vinegar").unwrap();
        let auth = BTreeMap::from([("team".to_owned(), right), ("bad".to_owned(), wrong)]);
        let node = Node::new(ImageSettings {
            tls_roots: Some(registry.ca()),
            auth,
            ..ImageSettings::default()
        });
        let reference = format!("{}/team/app:1", registry.host());
        let with = |name: &str| ImageSpec {
            credentials: Some(name.to_owned()),
            ..image(&reference)
        };
        let (kind, why) = refused(&node, &with("bad")).await;
        assert_eq!(kind, "unauthorized");
        assert!(why.contains("the password is wrong"), "{why}");
        let (kind, why) = refused(&node, &image(&reference)).await;
        assert_eq!(kind, "unauthorized");
        assert!(why.contains("the node has no credentials for it"), "{why}");
        let (kind, why) = refused(&node, &with("none")).await;
        assert_eq!(kind, "bad_credentials");
        assert!(why.contains("the node has none of this name"), "{why}");
        let layers = node.images.get(&with("team"), None).await.unwrap();
        assert!(node.images.store.image(layers).is_some(), "{access:?}");
        // Nothing that was said or kept holds the password.
        for file in walk(&node.dir.path().join("images")) {
            let bytes = fs::read(file).unwrap_or_default();
            assert!(
                !bytes
                    .windows(PASSWORD.len())
                    .any(|w| w == PASSWORD.as_bytes())
            );
        }
        // Who signed for it is not known without the file.
        let node = Node::new(ImageSettings::default());
        let (kind, why) = refused(&node, &image(&reference)).await;
        assert_eq!(kind, "untrusted", "{why}");
        assert!(why.contains("--registry-tls-roots"), "{why}");
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            out.extend(walk(&path));
        } else {
            out.push(path);
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_come_first_and_the_list_of_registries_holds() {
    let Some((_dir, registry)) = registry(Setup::default()) else {
        return;
    };
    registry
        .push(&small("mirrored"), "hub/library/nginx:1")
        .unwrap();
    let dead = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = ImageSettings {
        registries: vec!["docker.io/library".to_owned()],
        mirrors: BTreeMap::from([(
            "docker.io".to_owned(),
            vec![dead.to_string(), format!("{}/hub", registry.host())],
        )]),
        plain_http: BTreeSet::from([registry.host(), dead.to_string()]),
        ..ImageSettings::default()
    };
    let node = Node::new(settings);
    node.images.get(&image("nginx:1"), None).await.unwrap();
    assert_eq!(node.names(), ["docker.io/library/nginx:1"]);
    let (kind, why) = refused(&node, &image(&format!("{}/x", registry.host()))).await;
    assert_eq!(kind, "not_allowed");
    assert!(why.ends_with("(docker.io/library)"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_image_is_said() {
    let Some((_dir, registry)) = registry(Setup::default()) else {
        return;
    };
    let node = Node::new(plain(&registry));
    let named = |name: &str| image(&format!("{}/{name}", registry.host()));
    let (kind, why) = refused(&node, &named("no/such:1")).await;
    assert_eq!(kind, "no_such_image");
    assert!(why.ends_with("has no such image"), "{why}");
    // Gone: the manifest leads to a layer that is not there any more.
    let built = small("gone").build().unwrap();
    registry.push(&small("gone"), "gone:1").unwrap();
    let layer = registry.blob(&built.blobs[1].0);
    let bytes = fs::read(&layer).unwrap();
    fs::remove_file(&layer).unwrap();
    assert_eq!(refused(&node, &named("gone:1")).await.0, "no_such_image");
    // Damaged on the registry's disk: as long as it was, but not the same.
    let mut damaged = bytes.clone();
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    fs::write(&layer, damaged).unwrap();
    let (kind, why) = refused(&node, &named("gone:1")).await;
    assert!(kind == "bad_image" || kind == "digest_mismatch", "{why}");
    let other = small("other").build().unwrap().blobs[1].1.clone();
    fs::write(&layer, &other[..other.len().min(bytes.len())]).unwrap();
    assert_ne!(refused(&node, &named("gone:1")).await.0, "pulled");
    // Mended, it comes.
    fs::write(&layer, bytes).unwrap();
    node.images.get(&named("gone:1"), None).await.unwrap();
    let (kind, _) = refused(&node, &image("UPPER")).await;
    assert_eq!(kind, "bad_name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_unused_images_make_room() {
    if !can_mount() {
        return;
    }
    let Some((_dir, registry)) = registry(Setup::default()) else {
        return;
    };
    let noise = |seed: u64| -> Image {
        use rand::{RngCore, SeedableRng};
        let mut bytes = vec![0; 3 << 20];
        rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        Image::new().layer(Layer::new().file("noise", 0o644, &bytes))
    };
    for seed in 0..3 {
        registry
            .push(&noise(seed), &format!("noise:{seed}"))
            .unwrap();
    }
    let disk = tempfile::tempdir().unwrap();
    let _mounted = Tmpfs::new(disk.path(), "size=8m");
    let settings = plain(&registry);
    let images = Images::open(disk.path(), settings, Telemetry::disabled()).unwrap();
    images.keep(&BTreeSet::new()).unwrap();
    let spec = |seed: u64| image(&format!("{}/noise:{seed}", registry.host()));
    images.prepare(&task("t0"), &spec(0), None).await.unwrap();
    images.get(&spec(1), None).await.unwrap();
    // Both do not fit beside it: the one without a task goes.
    images.get(&spec(2), None).await.unwrap();
    let names: Vec<_> = images.list().into_iter().flat_map(|i| i.names).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // With both in use there is no room, and the reason says so.
    images.prepare(&task("t2"), &spec(2), None).await.unwrap();
    let why = images
        .prepare(&task("t1"), &spec(1), None)
        .await
        .unwrap_err();
    assert!(
        why.starts_with("no space left for images on this node: "),
        "{why}"
    );
    assert_eq!(n_entries(&disk.path().join("images/tmp")), 0);
    images.keep(&BTreeSet::new()).unwrap();
}

struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(at: &Path, options: &str) -> Self {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options)).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Passes connections on, all at once, and cuts the first few after some bytes of their answers.
fn breaking_proxy(to: String, n_cuts: usize, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let n_left = Arc::new(AtomicUsize::new(n_cuts));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else {
                return;
            };
            let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            let n_left = Arc::clone(&n_left);
            // A client may open a second one while the first is kept for later.
            std::thread::spawn(move || answer(server, client, &n_left, after as u64));
        }
    });
    addr
}

fn answer(mut from: TcpStream, mut into: TcpStream, n_left: &AtomicUsize, after: u64) {
    let cut = n_left.load(Ordering::Relaxed) > 0;
    let n = if cut { after } else { u64::MAX };
    let passed = std::io::copy(&mut Read::by_ref(&mut from).take(n), &mut into).unwrap_or(0);
    if cut && passed == n {
        let less = |left: usize| left.checked_sub(1);
        let _ = n_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
    let _ = into.flush();
    let _ = into.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let Some((_dir, registry)) = registry(Setup::default()) else {
        return;
    };
    let busybox = Image::busybox().unwrap();
    registry.push(&busybox, "busybox:1").unwrap();
    let size = busybox.build().unwrap().blobs[0].1.len();
    let proxy = breaking_proxy(registry.host(), 3, size / 3);
    let node = Node::new(ImageSettings {
        plain_http: BTreeSet::from([proxy.clone()]),
        ..ImageSettings::default()
    });
    let spec = image(&format!("{proxy}/busybox:1"));
    node.images.get(&spec, None).await.unwrap();
    node.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_nobody_waits_for_ends_and_leaves_nothing() {
    let Some((_dir, registry)) = registry(Setup::default()) else {
        return;
    };
    registry
        .push(&Image::busybox().unwrap(), "busybox:1")
        .unwrap();
    let node = Node::new(plain(&registry));
    let spec = image(&format!("{}/busybox:1", registry.host()));
    // Dropped at every stage: before, while and after the layer comes.
    for ms in [0, 1, 3, 10, 30] {
        let pull = node.images.get(&spec, None);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(ms), pull).await;
    }
    node.images.get(&spec, None).await.unwrap();
    node.assert_clean();
}
