//! Images made on the spot: layers from a list of files, as OCI image layouts on disk or pushed to a
//! [`crate::registry::Registry`].

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// As most registries have them.
    #[default]
    Gzip,
    /// As newer tools make them.
    Zstd,
}

/// An image under construction.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Vec<u8>>,
    compression: Compression,
    run: Value,
}

/// A blob: what it is called, and its bytes.
pub type Blob = (String, Vec<u8>);

/// A finished image: blobs of layers and configuration, and the manifest.
#[derive(Debug, Clone)]
pub struct Built {
    /// Layers, then the configuration.
    pub blobs: Vec<Blob>,
    /// The manifest.
    pub manifest: Blob,
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

impl Image {
    /// Without layers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            compression: Compression::default(),
            run: json!({ "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/sbin"] }),
        }
    }

    /// Busybox (package busybox-static) as `/bin/busybox`, a link for each of its programs, `/etc/passwd` with root and
    /// `app` (uid 1000), `/tmp`, `/www/index.html`; it runs `sh`.
    pub fn busybox() -> anyhow::Result<Self> {
        let busybox = find_busybox()?;
        let bytes = std::fs::read(&busybox)?;
        let list = std::process::Command::new(&busybox)
            .arg("--list")
            .output()
            .context("busybox --list")?;
        let mut layer = Layer::new();
        for dir in [
            "bin", "etc", "proc", "sys", "dev", "root", "www", "home", "home/app",
        ] {
            layer = layer.dir(dir, 0o755);
        }
        layer = layer
            .dir("tmp", 0o1777)
            .file("bin/busybox", 0o755, &bytes)
            .file(
                "etc/passwd",
                0o644,
                b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
            )
            .file("etc/group", 0o644, b"root:x:0:\nextra:x:2000:app\napp:x:1000:\n")
            .file("www/index.html", 0o644, b"hello from the image\n");
        for name in String::from_utf8_lossy(&list.stdout).lines() {
            // A link to itself would loop.
            if name != "busybox" {
                layer = layer.symlink(&format!("bin/{name}"), "busybox");
            }
        }
        Ok(Self::new().layer(layer).cmd(&["/bin/sh"]))
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(self, layer: Layer) -> Self {
        self.raw_layer(layer.finish())
    }

    /// Adds a layer on top, as a tar.
    #[must_use]
    pub fn raw_layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// How its layers are compressed.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets a key of its configuration, as Docker writes it: `User`, `WorkingDir`, `StopSignal`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.run[key] = value.into();
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        if let Some(env) = self.run["Env"].as_array_mut() {
            env.push(format!("{key}={value}").into());
        }
        self
    }

    /// What it runs, unless an entry point says more.
    #[must_use]
    pub fn cmd(self, argv: &[&str]) -> Self {
        self.set("Cmd", argv)
    }

    /// What it runs first.
    #[must_use]
    pub fn entrypoint(self, argv: &[&str]) -> Self {
        self.set("Entrypoint", argv)
    }

    /// Its blobs and manifest, for the processor of this machine.
    pub fn build(&self) -> anyhow::Result<Built> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let suffix = match self.compression {
            Compression::Plain => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        };
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for tar in &self.layers {
            let bytes = match self.compression {
                Compression::Plain => tar.clone(),
                Compression::Gzip => {
                    let fast = flate2::Compression::fast();
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), fast);
                    encoder.write_all(tar)?;
                    encoder.finish()?
                }
                Compression::Zstd => zstd::stream::encode_all(tar.as_slice(), 1)?,
            };
            let digest = digest(&bytes);
            layers.push(json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                "digest": digest, "size": bytes.len(),
            }));
            diff_ids.push(self::digest(tar));
            blobs.push((digest, bytes));
        }
        let config = serde_json::to_vec(&json!({
            "architecture": architecture, "os": "linux", "config": self.run,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
            "layers": layers,
        }))?;
        blobs.push((digest(&config), config));
        Ok(Built {
            blobs,
            manifest: (digest(&manifest), manifest),
        })
    }

    /// Writes it as an OCI image layout into a new directory; `name` is its whole name.
    pub fn write_layout(&self, dir: &Path, name: &str) -> anyhow::Result<()> {
        let built = self.build()?;
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs)?;
        for (digest, bytes) in built.blobs.iter().chain([&built.manifest]) {
            std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
        }
        std::fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": built.manifest.0, "size": built.manifest.1.len(),
                "annotations": { "org.opencontainers.image.ref.name": name },
            }],
        });
        std::fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
        Ok(())
    }

    /// Writes it as `docker save` did before it wrote layouts: a tar with `manifest.json`.
    pub fn write_docker_archive(&self, path: &Path, tag: &str) -> anyhow::Result<()> {
        let built = self.build()?;
        let Some((config, _)) = built.blobs.last().cloned() else {
            anyhow::bail!("an image has a configuration");
        };
        let config = format!("{}.json", config.trim_start_matches("sha256:"));
        let mut archive = Layer::new();
        let mut names = Vec::new();
        for (i, tar) in self.layers.iter().enumerate() {
            let name = format!("{i}/layer.tar");
            archive = archive.dir(&i.to_string(), 0o755).file(&name, 0o644, tar);
            names.push(name);
        }
        let manifest = json!([{ "Config": config, "RepoTags": [tag], "Layers": names }]);
        let bytes = built.blobs.last().map(|(_, b)| b.as_slice());
        archive = archive
            .file(&config, 0o644, bytes.unwrap_or_default())
            .file("manifest.json", 0o644, &serde_json::to_vec(&manifest)?);
        std::fs::write(path, archive.finish())?;
        Ok(())
    }
}

/// `sha256:...` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = "sha256:".to_owned();
    for b in Sha256::digest(bytes) {
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// Where busybox is; the error says which package has it.
pub fn find_busybox() -> anyhow::Result<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .context("no /bin/busybox; package busybox-static has it")
}

/// A layer under construction: a tar of what is added, in that order.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
        }
    }

    /// A directory of root's.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, mode, (0, 0), &[])
    }

    /// A file of root's.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, bytes: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, (0, 0), bytes)
    }

    /// Something else, or of somebody else: uid and gid.
    #[must_use]
    pub fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        (uid, gid): (u64, u64),
        bytes: &[u8],
    ) -> Self {
        let mut header = header(kind, mode, uid, gid);
        header.set_size(bytes.len() as u64);
        // Into memory: it can't fail but for a path that no test has.
        let _ = self.tar.append_data(&mut header, path, bytes);
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, to: &str) -> Self {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
        let _ = self.tar.append_link(&mut header, path, to);
        self
    }

    /// Another name of a file.
    #[must_use]
    pub fn hard_link(mut self, path: &str, to: &str) -> Self {
        let mut header = header(tar::EntryType::Link, 0o644, 0, 0);
        let _ = self.tar.append_link(&mut header, path, to);
        self
    }

    /// Says that lower layers' file of this path is not there.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(&format!("{dir}{slash}.wh.{name}"), 0, b"")
    }

    /// The tar.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().unwrap_or_default()
    }
}

fn header(kind: tar::EntryType, mode: u32, uid: u64, gid: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(1_600_000_000);
    header.set_size(0);
    header
}
