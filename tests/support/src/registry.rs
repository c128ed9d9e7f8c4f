//! A registry with images: Debian's docker-registry on loopback, plain or with TLS, open or with a password or tokens.

mod token;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{images::Image, wait_until};

/// Who may pull from a registry with a password or tokens.
pub const USER: &str = "ann";
/// Her password.
pub const PASSWORD: &str = "honey";
/// The same for the registry's file, in bcrypt with few rounds.
const HTPASSWD: &str = "ann:$2y$04$abcdefghijklmnopqrstuuZV3Iy9Dkst7JfxDgU5Dv1pw7/rqRt1.\n";

/// Who may pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// [`USER`] with [`PASSWORD`], by basic authentication.
    Password,
    /// The same, for a token of a server beside it.
    Token,
}

/// How a registry is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Setup {
    /// Who may pull.
    pub access: Access,
    /// Whether it speaks TLS, with a certificate that [`Registry::ca`] signed.
    pub tls: bool,
}

/// A registry that runs until it is dropped.
pub struct Registry {
    dir: PathBuf,
    setup: Setup,
    addr: SocketAddr,
    server: Option<Server>,
    tokens: Option<token::TokenServer>,
}

/// A docker-registry process.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Why no registry can be started here, if so.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let there = std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join("docker-registry").exists()));
    (!there).then_some("no docker-registry; the package of that name has it")
}

impl Registry {
    /// Starts one whose files are below `dir`; images that are there already are served.
    pub fn start(dir: &Path, setup: Setup) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut registry = Self {
            dir: dir.to_owned(),
            setup,
            addr: free_address()?,
            server: None,
            tokens: None,
        };
        if setup.tls {
            registry.make_certificate()?;
        }
        if setup.access == Access::Token {
            registry.tokens = Some(token::TokenServer::start(dir)?);
        }
        registry.resume()?;
        Ok(registry)
    }

    /// Where it is: `127.0.0.1:PORT`, the first part of names of its images.
    #[must_use]
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// PEM file of who signed for it.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("tls.crt")
    }

    /// Docker's `config.json` with a password for it.
    pub fn auth_file(&self, password: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(format!("auth-{password}.json"));
        let entry = serde_json::json!({ "username": USER, "password": password });
        let file = serde_json::json!({ "auths": { self.host(): entry } });
        std::fs::write(&path, serde_json::to_vec(&file)?)?;
        Ok(path)
    }

    /// Stops it; its address and images stay.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts it again.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let mut config = config(&self.storage(), self.addr);
        if self.setup.tls {
            config["http"]["tls"] = serde_json::json!({
                "certificate": self.ca(), "key": self.dir.join("tls.key"),
            });
        }
        match (self.setup.access, &self.tokens) {
            (Access::Password, _) => {
                let path = self.dir.join("htpasswd");
                std::fs::write(&path, HTPASSWD)?;
                config["auth"] =
                    serde_json::json!({ "htpasswd": { "realm": "waggle", "path": path } });
            }
            (Access::Token, Some(tokens)) => config["auth"] = tokens.auth(),
            _ => {}
        }
        self.server = Some(serve(&self.dir.join("registry.yml"), &config, self.addr)?);
        Ok(())
    }

    /// Puts an image into it, as `REPOSITORY:TAG`, and returns the manifest's digest. It goes by a second process on the
    /// same files, which needs no password.
    pub fn push(&self, image: &Image, name: &str) -> anyhow::Result<String> {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let addr = free_address()?;
        let config = config(&self.storage(), addr);
        let _server = serve(&self.dir.join("push.yml"), &config, addr)?;
        let built = image.build()?;
        for (digest, bytes) in &built.blobs {
            let url = format!("/v2/{repository}/blobs/uploads/");
            let (status, location) = http(addr, "POST", &url, "", &[])?;
            let url = location.with_context(|| format!("POST of a blob: HTTP {status}"))?;
            let mark = if url.contains('?') { '&' } else { '?' };
            let url = format!("{url}{mark}digest={digest}");
            let (status, _) = http(addr, "PUT", &url, "application/octet-stream", bytes)?;
            if status != 201 {
                bail!("PUT of blob {digest}: HTTP {status}");
            }
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let url = format!("/v2/{repository}/manifests/{tag}");
        let (status, _) = http(addr, "PUT", &url, kind, &built.manifest.1)?;
        if status != 201 {
            bail!("PUT of the manifest of {name}: HTTP {status}");
        }
        Ok(built.manifest.0)
    }

    /// Where it keeps a blob, for tests that damage or remove it.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.storage()
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }

    fn storage(&self) -> PathBuf {
        self.dir.join("storage")
    }

    fn make_certificate(&self) -> anyhow::Result<()> {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        std::fs::write(self.ca(), made.cert.pem())?;
        std::fs::write(self.dir.join("tls.key"), made.signing_key.serialize_pem())?;
        Ok(())
    }
}

fn config(storage: &Path, addr: SocketAddr) -> serde_json::Value {
    serde_json::json!({
        "version": "0.1",
        "log": { "level": "warn", "accesslog": { "disabled": true } },
        "storage": { "filesystem": { "rootdirectory": storage } },
        "http": { "addr": addr.to_string(), "secret": "waggle" },
    })
}

/// JSON is YAML.
fn serve(path: &Path, config: &serde_json::Value, addr: SocketAddr) -> anyhow::Result<Server> {
    std::fs::write(path, serde_json::to_vec_pretty(config)?)?;
    let log = std::fs::File::create(path.with_extension("log"))?;
    let mut server = Server(
        Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start docker-registry; the package of that name has it")?,
    );
    wait_until(Duration::from_secs(20), "the registry to listen", || {
        let ended = server.0.try_wait().ok().flatten().is_some();
        (ended || TcpStream::connect(addr).is_ok()).then_some(())
    })?;
    if server.0.try_wait()?.is_some() {
        let log = std::fs::read_to_string(path.with_extension("log")).unwrap_or_default();
        bail!("docker-registry ended: {}", log.trim());
    }
    Ok(server)
}

pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// One request: its status, and the path that the answer's location has.
fn http(
    addr: SocketAddr,
    method: &str,
    url: &str,
    kind: &str,
    body: &[u8],
) -> anyhow::Result<(u16, Option<String>)> {
    let mut stream = TcpStream::connect(addr)?;
    let head = format!(
        "{method} {url} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .with_context(|| format!("{method} {url}: no HTTP"))?;
    let location = answer
        .lines()
        .find_map(|l| {
            l.split_once(": ")
                .filter(|(k, _)| k.eq_ignore_ascii_case("location"))
        })
        .map(|(_, url)| {
            let start = format!("http://{addr}");
            url.trim().trim_start_matches(start.as_str()).to_owned()
        });
    Ok((status, location))
}
