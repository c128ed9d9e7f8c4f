//! A fetcher against a server on loopback.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use waggle_types::{ContainerSpec, FetchUri, ImageSpec, Milli};

use super::*;

/// Answers by path; the raw bytes of each answer are the test's.
#[derive(Default)]
struct Pages {
    answers: Mutex<BTreeMap<String, Vec<Vec<u8>>>>,
    n_asked: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

struct Server {
    addr: SocketAddr,
    pages: Arc<Pages>,
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let pages = Arc::new(Pages::default());
        let served = Arc::clone(&pages);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let pages = Arc::clone(&served);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    pages.n_asked.fetch_add(1, Ordering::SeqCst);
                    pages.heads.lock().unwrap().push(head);
                    let answer = {
                        let mut all = pages.answers.lock().unwrap();
                        match all.get_mut(&path) {
                            // The last answer is given again and again.
                            Some(answers) if answers.len() > 1 => Some(answers.remove(0)),
                            Some(answers) => answers.first().cloned(),
                            None => Some(
                                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
                            ),
                        }
                    };
                    match answer {
                        Some(bytes) => stream.write_all(&bytes).await?,
                        // Never: until the other side gives up.
                        None => drop(stream.read_u8().await),
                    }
                    Ok::<_, io::Error>(())
                });
            }
        });
        Self { addr, pages }
    }

    fn page(&self, path: &str, answers: Vec<Vec<u8>>) {
        let mut all = self.pages.answers.lock().unwrap();
        all.insert(path.to_owned(), answers);
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn n_asked(&self) -> usize {
        self.pages.n_asked.load(Ordering::SeqCst)
    }
}

struct Node {
    dir: tempfile::TempDir,
    fetcher: Fetcher,
}

impl Node {
    fn new(change: impl FnOnce(&mut FetchSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = FetchSettings {
            stall: Duration::from_millis(300),
            ..FetchSettings::default()
        };
        change(&mut settings);
        let host_paths = [dir.path().join("host")];
        let work = dir.path().join("work");
        let none = Telemetry::disabled();
        let fetcher = Fetcher::open(&work, &settings, &host_paths, true, none).unwrap();
        Self { dir, fetcher }
    }

    fn sandbox(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    async fn fetch(&self, sandbox: &str, uri: FetchUri) -> Result<(), String> {
        self.fetch_spec(sandbox, &spec(uri)).await
    }

    async fn fetch_spec(&self, sandbox: &str, spec: &TaskSpec) -> Result<(), String> {
        self.fetcher.fetch(spec, &self.sandbox(sandbox), None).await
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.dir.path().join(path)).ok()
    }
}

fn spec(uri: FetchUri) -> TaskSpec {
    TaskSpec {
        container: ContainerSpec {
            fetch: vec![uri],
            ..ContainerSpec::default()
        },
        ..crate::fixture::spec("t")
    }
}

fn uri(text: String) -> FetchUri {
    FetchUri {
        uri: text,
        ..FetchUri::default()
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[tokio::test]
async fn files_come_with_mode_name_and_checksum() {
    let server = Server::start().await;
    let node = Node::new(|_| {});
    server.page("/a/gr%C3%B6%C3%9Fe.sh?x=1", vec![ok(b"#!/bin/sh\n")]);
    let wanted = FetchUri {
        executable: true,
        sha256: Some(sha256(b"#!/bin/sh\n")),
        ..uri(server.url("/a/größe.sh?x=1"))
    };
    node.fetch("s", wanted.clone()).await.unwrap();
    assert_eq!(node.text("s/größe.sh").as_deref(), Some("#!/bin/sh\n"));
    let meta = fs::metadata(node.dir.path().join("s/größe.sh")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o755);
    let other = FetchUri {
        sha256: Some(sha256(b"other")),
        output_file: Some("sub/x".to_owned()),
        ..wanted
    };
    let error = node.fetch("s", other).await.unwrap_err();
    assert!(error.contains("its sha256 is"), "{error}");
    assert_eq!(node.text("s/sub/x"), None, "what is not right is not left");
    let missing = node.fetch("s", uri(server.url("/none"))).await.unwrap_err();
    assert_eq!(
        missing,
        format!(
            "failed to fetch {}: the server answered 404 Not Found",
            server.url("/none")
        )
    );
    assert_eq!(node.text("s/none"), None);
}

#[tokio::test]
async fn redirects_are_followed_and_bounded() {
    let server = Server::start().await;
    let node = Node::new(|_| {});
    let to = |l: &str| {
        format!("HTTP/1.1 302 Found\r\nlocation: {l}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    };
    server.page("/a", vec![to("b")]);
    server.page("/b", vec![to(&server.url("/c"))]);
    server.page("/c", vec![ok(b"there")]);
    server.page("/loop", vec![to("/loop")]);
    server.page("/file", vec![to("file:///etc/passwd")]);
    let with_name = |path: &str| FetchUri {
        uri: server.url(path).replace("http://", "http://me:s%20ecret@"),
        output_file: Some("x".to_owned()),
        ..FetchUri::default()
    };
    node.fetch("s", with_name("/a")).await.unwrap();
    assert_eq!(node.text("s/x").as_deref(), Some("there"));
    {
        let heads = server.pages.heads.lock().unwrap();
        assert!(
            heads[0].contains("authorization: Basic bWU6cyBlY3JldA==\r\n"),
            "{}",
            heads[0]
        );
        assert!(
            !heads[2].contains("authorization"),
            "not for others: {}",
            heads[2]
        );
    }
    let error = node.fetch("s", with_name("/loop")).await.unwrap_err();
    assert!(error.ends_with("more than 10 redirects"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let error = node.fetch("s", with_name("/file")).await.unwrap_err();
    assert!(
        error.ends_with("a redirect to file:///etc/passwd"),
        "{error}"
    );
}

#[tokio::test]
async fn trouble_that_may_pass_is_tried_again() {
    let server = Server::start().await;
    let node = Node::new(|_| {});
    let busy = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec();
    let short = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec();
    server.page("/x", vec![busy, short, ok(b"whole")]);
    let wanted = FetchUri {
        sha256: Some(sha256(b"whole")),
        ..uri(server.url("/x"))
    };
    node.fetch("s", wanted).await.unwrap();
    assert_eq!(node.text("s/x").as_deref(), Some("whole"));
    assert_eq!(server.n_asked(), 3);
    server.page("/silent", vec![]);
    let error = node
        .fetch("s", uri(server.url("/silent")))
        .await
        .unwrap_err();
    assert!(error.contains("nothing came for"), "{error}");
    assert_eq!(server.n_asked(), 7, "it ends after four attempts");
}

#[tokio::test]
async fn one_download_is_enough_for_many_tasks() {
    let server = Server::start().await;
    let node = Node::new(|s| s.cache_bytes = 20_000);
    server.page("/x", vec![ok(&[b'x'; 9000])]);
    let cached = |path: &str| FetchUri {
        cache: true,
        ..uri(server.url(path))
    };
    let (a, b, c) = tokio::join!(
        node.fetch("a", cached("/x")),
        node.fetch("b", cached("/x")),
        node.fetch("c", cached("/x")),
    );
    assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
    assert_eq!(server.n_asked(), 1);
    for s in ["a", "b", "c"] {
        assert_eq!(node.text(&format!("{s}/x")).unwrap().len(), 9000);
    }
    // What a task does to its file is not seen by others.
    fs::write(node.dir.path().join("a/x"), "changed").unwrap();
    node.fetch("d", cached("/x")).await.unwrap();
    assert_eq!(node.text("d/x").unwrap().len(), 9000);
    // Others push it out; what never fits goes straight to the sandbox.
    server.page("/y", vec![ok(&[b'y'; 12_000])]);
    server.page("/big", vec![ok(&[b'z'; 30_000])]);
    node.fetch("d", cached("/y")).await.unwrap();
    node.fetch("d", cached("/big")).await.unwrap();
    assert_eq!(node.text("d/big").unwrap().len(), 30_000);
    let before = server.n_asked();
    node.fetch("e", cached("/y")).await.unwrap();
    assert_eq!(server.n_asked(), before, "still there");
    node.fetch("e", cached("/x")).await.unwrap();
    assert_eq!(server.n_asked(), before + 1);
    // An old copy does not fail a newer checksum.
    server.page("/x", vec![ok(b"new")]);
    let newer = FetchUri {
        sha256: Some(sha256(b"new")),
        ..cached("/x")
    };
    node.fetch("f", newer).await.unwrap();
    assert_eq!(node.text("f/x").as_deref(), Some("new"));
    let failed = node.fetch("f", cached("/none")).await.unwrap_err();
    assert!(failed.ends_with("404 Not Found"), "{failed}");
}

#[tokio::test]
async fn archives_are_unpacked_and_bounded_by_the_tasks_disk() {
    let server = Server::start().await;
    let node = Node::new(|_| {});
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2 << 20);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/run", io::repeat(b'x').take(2 << 20))
        .unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar.into_inner().unwrap()).unwrap();
    let gz = gz.finish().unwrap();
    server.page("/x.tgz", vec![ok(&gz)]);
    let unpack = FetchUri {
        extract: true,
        ..uri(server.url("/x.tgz"))
    };
    for cache in [false, true] {
        let sandbox = format!("s-{cache}");
        let wanted = FetchUri {
            cache,
            ..unpack.clone()
        };
        node.fetch(&sandbox, wanted).await.unwrap();
        let run = fs::metadata(node.dir.path().join(&sandbox).join("bin/run")).unwrap();
        assert_eq!(
            (run.size(), run.permissions().mode() & 0o777),
            (2 << 20, 0o755)
        );
        let archive = node.dir.path().join(&sandbox).join("x.tgz");
        assert_eq!(archive.exists(), !cache, "as in Mesos");
    }
    let mut small = spec(unpack);
    small.resources.scalars[ScalarKind::Disk as usize] = Milli::units(1);
    let error = node.fetch_spec("small", &small).await.unwrap_err();
    assert!(
        error.ends_with("it unpacks to more than 1048576 bytes"),
        "{error}"
    );
    server.page("/big", vec![ok(&vec![0; 2 << 20])]);
    let mut small = spec(uri(server.url("/big")));
    small.resources.scalars[ScalarKind::Disk as usize] = Milli::units(1);
    let error = node.fetch_spec("small", &small).await.unwrap_err();
    assert!(
        error.ends_with("it is larger than 1048576 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn files_of_the_host_follow_the_policy() {
    let node = Node::new(|_| {});
    fs::create_dir(node.dir.path().join("host")).unwrap();
    fs::write(node.dir.path().join("host/in ü"), "in").unwrap();
    fs::write(node.dir.path().join("out"), "out").unwrap();
    let path = |p: &str| node.dir.path().join(p).display().to_string();
    node.fetch("s", uri(path("out"))).await.unwrap();
    node.fetch("s", uri(format!("file://{}", path("host/in%20ü"))))
        .await
        .unwrap();
    assert_eq!(node.text("s/in ü").as_deref(), Some("in"));
    let error = node.fetch("s", uri(path("host"))).await.unwrap_err();
    assert!(error.ends_with("it is no regular file"), "{error}");
    let with_image = |p: &str| {
        let mut spec = spec(uri(path(p)));
        spec.container.image = Some(ImageSpec::default());
        spec
    };
    node.fetch_spec("i", &with_image("host/in ü"))
        .await
        .unwrap();
    let error = node.fetch_spec("i", &with_image("out")).await.unwrap_err();
    assert!(error.contains("--allow-host-paths"), "{error}");
    let link = node.dir.path().join("host/link");
    std::os::unix::fs::symlink(node.dir.path().join("out"), link).unwrap();
    let error = node
        .fetch_spec("i", &with_image("host/link"))
        .await
        .unwrap_err();
    assert!(error.contains("--allow-host-paths"), "{error}");
}
