//! Images from files: OCI image layouts (a directory or a tar) and what `docker save` writes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    digest::Digest,
    manifest::{self, Descriptor, Document, MAX_DOCUMENT_BYTES, Manifest, ManifestError, Platform},
    name::ImageName,
    unpack::{Limits, Style, Tree, UnpackError, unpack},
};

/// Why a file holds no image.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of it can't be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The archive that it is in.
    #[error("failed to unpack {}", path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: UnpackError,
    },
    /// Neither kind.
    #[error("{}: has neither index.json (an OCI layout) nor manifest.json (docker save)", path.display())]
    Neither {
        /// The file or directory.
        path: PathBuf,
    },
    /// A document breaks a rule.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A document of its own breaks a rule.
    #[error("{field}: {rule}")]
    Rule {
        /// The file and field.
        field: String,
        /// The rule.
        rule: String,
    },
}

/// A place to read an image's files from.
pub struct Layout {
    path: PathBuf,
    tree: Tree,
}

/// One image in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Names that it says it has, whole.
    pub names: Vec<String>,
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's bytes, and their digest.
    pub bytes: Vec<u8>,
    /// Files of its layers, the lowest first, and the configuration's.
    pub layers: Vec<String>,
    /// Of its configuration.
    pub config: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Layout {
    /// A directory, or a tar (gzip, zstd or plain) that is unpacked into `scratch`, an empty directory. Blocking.
    pub fn open(path: &Path, scratch: &Path, max_bytes: u64) -> Result<Self, LayoutError> {
        let read = |source| LayoutError::Read {
            path: path.to_owned(),
            source,
        };
        let meta = fs::metadata(path).map_err(read)?;
        let mut root = path.to_owned();
        if !meta.is_dir() {
            let file = File::open(path).map_err(read)?;
            let mut stream = decompress(file).map_err(read)?;
            let limits = Limits::for_size(meta.len(), max_bytes);
            unpack(&mut stream, scratch, Style::Plain, &limits).map_err(|source| {
                LayoutError::Unpack {
                    path: path.to_owned(),
                    source,
                }
            })?;
            scratch.clone_into(&mut root);
        }
        let tree = Tree::open(&root).map_err(read)?;
        Ok(Self {
            path: path.to_owned(),
            tree,
        })
    }

    /// A file in it, never one outside.
    pub fn file(&self, name: &str) -> Result<File, LayoutError> {
        self.tree
            .read(name.as_bytes())
            .map_err(|e| LayoutError::Read {
                path: self.path.join(name),
                source: e.into(),
            })
    }

    /// A small file in it.
    pub fn document(&self, name: &str) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::new();
        self.file(name)?
            .take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut out)
            .map_err(|source| LayoutError::Read {
                path: self.path.join(name),
                source,
            })?;
        if out.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(LayoutError::Rule {
                field: name.to_owned(),
                rule: format!("must be at most {MAX_DOCUMENT_BYTES} bytes"),
            });
        }
        Ok(out)
    }

    /// The images in it that run on `node`. `docker save` of today writes both kinds; the older one has the names.
    pub fn images(&self, node: &Platform) -> Result<Vec<Found>, LayoutError> {
        let has = |name: &str| self.tree.read(name.as_bytes()).is_ok();
        if has("manifest.json") {
            return self.saved();
        }
        if !has("index.json") {
            return Err(LayoutError::Neither {
                path: self.path.clone(),
            });
        }
        let index = self.document("index.json")?;
        let Document::Index(entries) = manifest::parse(&index)? else {
            return Err(LayoutError::Rule {
                field: "index.json".to_owned(),
                rule: "must be an index".to_owned(),
            });
        };
        let mut out: Vec<Found> = Vec::new();
        let mut elsewhere = None;
        for entry in entries.iter().take(1000) {
            match self.oci(entry, node) {
                Ok(found) => match out.iter_mut().find(|f| f.bytes == found.bytes) {
                    Some(same) => same.names.extend(found.names),
                    None => out.push(found),
                },
                Err(LayoutError::Manifest(e @ ManifestError::NoPlatform { .. })) => {
                    elsewhere = Some(e);
                }
                Err(e) => return Err(e),
            }
        }
        match (out.is_empty(), elsewhere) {
            (true, Some(e)) => Err(e.into()),
            _ => Ok(out),
        }
    }

    fn oci(&self, entry: &Descriptor, node: &Platform) -> Result<Found, LayoutError> {
        let mut at = entry.clone();
        // An index in the index is one image for several platforms; deeper ones exist in no tool.
        for _ in 0..3 {
            let bytes = self.blob(&at)?;
            match manifest::parse(&bytes)? {
                Document::Index(entries) => at = manifest::choose(&entries, node)?.clone(),
                Document::Manifest(manifest) => {
                    return Ok(Found {
                        names: names(entry),
                        layers: manifest.layers.iter().map(|l| blob(l.digest)).collect(),
                        config: blob(manifest.config.digest),
                        manifest,
                        bytes,
                    });
                }
            }
        }
        Err(LayoutError::Rule {
            field: "index.json".to_owned(),
            rule: "must lead to a manifest in at most 3 steps".to_owned(),
        })
    }

    fn blob(&self, of: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let name = blob(of.digest);
        let bytes = self.document(&name)?;
        if Digest::of(&bytes) != of.digest {
            return Err(LayoutError::Rule {
                field: name,
                rule: format!(
                    "must have the digest of its name, has {}",
                    Digest::of(&bytes)
                ),
            });
        }
        Ok(bytes)
    }

    fn saved(&self) -> Result<Vec<Found>, LayoutError> {
        let rule = |field: &str, rule: String| LayoutError::Rule {
            field: format!("manifest.json: {field}"),
            rule,
        };
        let bytes = self.document("manifest.json")?;
        let saved: Vec<Saved> =
            serde_json::from_slice(&bytes).map_err(|e| rule("content", e.to_string()))?;
        let mut out = Vec::new();
        for image in saved.into_iter().take(1000) {
            if image.layers.len() > manifest::MAX_LAYERS {
                let most = manifest::MAX_LAYERS;
                return Err(rule("Layers", format!("must be at most {most}")));
            }
            let config = self.document(&image.config)?;
            let descriptor = |kind: &str, digest, size| Descriptor {
                media_type: kind.to_owned(),
                digest,
                size,
                platform: None,
                annotations: None,
            };
            // It has no manifest of the registry's kind: one is made, so that it has a digest like all others.
            let layers = image
                .layers
                .iter()
                .map(|name| {
                    let mut hashing = super::digest::Hashing::new(self.file(name)?);
                    io::copy(&mut hashing, &mut io::sink()).map_err(|source| {
                        LayoutError::Read {
                            path: self.path.join(name),
                            source,
                        }
                    })?;
                    let (digest, size) = hashing.finish();
                    Ok(descriptor(
                        "application/vnd.oci.image.layer.v1.tar",
                        digest,
                        size,
                    ))
                })
                .collect::<Result<Vec<_>, LayoutError>>()?;
            let manifest = Manifest {
                config: descriptor(
                    "application/vnd.oci.image.config.v1+json",
                    Digest::of(&config),
                    config.len() as u64,
                ),
                layers,
            };
            let bytes = serde_json::to_vec(&serde_json::json!({
                "schemaVersion": 2,
                "mediaType": manifest::ACCEPTED[0],
                "config": manifest.config,
                "layers": manifest.layers,
            }))
            .map_err(|e| rule("content", e.to_string()))?;
            out.push(Found {
                names: whole(&image.repo_tags.unwrap_or_default()),
                manifest,
                bytes,
                layers: image.layers,
                config: image.config,
            });
        }
        Ok(out)
    }
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Names in an index: containerd's whole one, or the specification's, which may be a tag alone and then says nothing.
fn names(entry: &Descriptor) -> Vec<String> {
    let of = |key: &str| {
        let all = entry.annotations.as_ref()?;
        all.get(key).cloned()
    };
    let whole_name = of("io.containerd.image.name");
    let tag = of("org.opencontainers.image.ref.name").filter(|n| n.contains([':', '/']));
    whole(whole_name.or(tag).as_slice())
}

fn whole(names: &[String]) -> Vec<String> {
    let mut out: Vec<String> = names
        .iter()
        .filter_map(|n| n.parse::<ImageName>().ok())
        .map(|n| n.to_string())
        .collect();
    out.dedup();
    out
}

/// Reads what a stream holds, whatever it is compressed with: its first bytes say so, media types may not.
pub fn decompress<'a>(mut stream: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = [0; 4];
    let mut n = 0;
    while n < magic.len() {
        match stream.read(&mut magic[n..])? {
            0 => break,
            read => n += read,
        }
    }
    let whole = io::Cursor::new(magic).take(n as u64).chain(stream);
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(
            io::BufReader::with_capacity(128 << 10, whole),
        )),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::new(whole)?;
            // What a hostile stream may make us keep: 128 MiB, the default of the zstd tool.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}
