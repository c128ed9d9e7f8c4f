//! Getting an image from its registry: what it consists of, then the layers that are missing, some at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture, stream::FuturesUnordered, stream::TryStreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::{
    auth::{self, Credentials},
    digest::Digest,
    error::{ImageError, Trouble},
    flights::Flights,
    ingest::{Expected, ingest},
    manifest::{self, Document, Manifest, Platform},
    name::{self, ImageName, ImageSettings, Source, Version},
    registry::{self, Pieces, Registry},
    store::{Record, Store},
};

/// Layers of this node that are downloaded and unpacked at once; unpacking takes a core each.
const MAX_LAYERS_AT_ONCE: usize = 4;
/// Pieces of a layer that wait to be unpacked.
const MAX_PIECES: usize = 64;
/// Longest time for one image.
const PULL_TIMEOUT: Duration = Duration::from_hours(1);

/// How a pull ended; several may wait for one.
pub type Pulled = Result<Digest, Arc<ImageError>>;

/// Pulls.
pub struct Puller {
    store: Arc<Store>,
    settings: Arc<ImageSettings>,
    node: Platform,
    images: Flights<(ImageName, Option<String>), Pulled>,
    layers: Arc<Flights<Digest, Result<(), Arc<ImageError>>>>,
    slots: Arc<Semaphore>,
    n_bytes: Arc<AtomicU64>,
}

impl Puller {
    /// Into this store.
    pub fn new(store: Arc<Store>, settings: Arc<ImageSettings>) -> Self {
        Self {
            store,
            settings,
            node: Platform::of_node(),
            images: Flights::default(),
            layers: Arc::default(),
            slots: Arc::new(Semaphore::new(MAX_LAYERS_AT_ONCE)),
            n_bytes: Arc::default(),
        }
    }

    /// Bytes of layers that came from registries so far.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }

    /// Asks the registry what the name means and gets what is missing. Who asks for the same at the same time waits for
    /// the same work.
    pub async fn pull(&self, name: &ImageName, credentials: Option<&str>) -> Pulled {
        let key = (name.clone(), credentials.map(ToOwned::to_owned));
        let flight = self.images.join(key.clone(), || {
            let one = One {
                store: Arc::clone(&self.store),
                settings: Arc::clone(&self.settings),
                node: self.node.clone(),
                layers: Arc::clone(&self.layers),
                slots: Arc::clone(&self.slots),
                n_bytes: Arc::clone(&self.n_bytes),
                name: key.0,
                credentials: key.1,
            };
            async move {
                let name = one.name.to_string();
                let seconds = PULL_TIMEOUT.as_secs();
                tokio::time::timeout(PULL_TIMEOUT, one.run())
                    .await
                    .unwrap_or_else(|_| Err(Arc::new(ImageError::Timeout { name, seconds })))
            }
            .boxed()
        });
        flight.await
    }
}

/// One pull.
struct One {
    store: Arc<Store>,
    settings: Arc<ImageSettings>,
    node: Platform,
    layers: Arc<Flights<Digest, Result<(), Arc<ImageError>>>>,
    slots: Arc<Semaphore>,
    n_bytes: Arc<AtomicU64>,
    name: ImageName,
    credentials: Option<String>,
}

/// What a registry says that the image consists of.
struct Description {
    registry: Arc<Registry>,
    source: Source,
    digest: Digest,
    manifest: Manifest,
    bytes: Vec<u8>,
    config: Vec<u8>,
}

impl One {
    async fn run(self) -> Pulled {
        let sources = name::sources(&self.name, &self.settings).map_err(|e| Arc::new(e.into()))?;
        let mut last = None;
        for (i, source) in sources.iter().enumerate() {
            let tried = async {
                let described = self.describe(source).await.map_err(Arc::new)?;
                self.get(described).await
            };
            match tried.await {
                Err(e) if i + 1 < sources.len() && self.may_be_elsewhere(&e) => {
                    tracing::info!(image = %self.name, mirror = source.registry, error = %e, "not from the mirror");
                    last = Some(e);
                }
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| self.trouble_of("", Trouble::NoSuchImage)))
    }

    /// Whether the next registry may do better: not when the disk is full.
    #[allow(
        clippy::unused_self,
        reason = "beside its siblings, which have the image's name"
    )]
    fn may_be_elsewhere(&self, e: &ImageError) -> bool {
        matches!(
            e,
            ImageError::Registry { .. } | ImageError::Mismatch { .. } | ImageError::Manifest { .. }
        )
    }

    fn trouble(&self, source: &Source) -> impl Fn(Trouble) -> ImageError + use<> {
        let (name, registry) = (self.name.to_string(), source.registry.clone());
        move |trouble| ImageError::Registry {
            name: name.clone(),
            registry: registry.clone(),
            trouble,
        }
    }

    fn trouble_of(&self, registry: &str, trouble: Trouble) -> Arc<ImageError> {
        Arc::new(ImageError::Registry {
            name: self.name.to_string(),
            registry: registry.to_owned(),
            trouble,
        })
    }

    fn bad(&self) -> impl Fn(manifest::ManifestError) -> ImageError + use<> {
        let name = self.name.to_string();
        move |source| ImageError::Manifest {
            name: name.clone(),
            source,
        }
    }

    fn verify(&self, what: &'static str, bytes: &[u8], want: Digest) -> Result<(), ImageError> {
        registry::is(bytes, want).map_err(|is| ImageError::Mismatch {
            name: self.name.to_string(),
            what,
            want,
            is,
        })
    }

    /// Asks a registry for manifest and configuration.
    async fn describe(&self, source: &Source) -> Result<Description, ImageError> {
        let trouble = self.trouble(source);
        let credentials = self.credentials(source).await?;
        let roots = match self.settings.tls_roots.clone() {
            Some(path) => tokio::task::spawn_blocking(move || registry::roots(&path))
                .await
                .map_err(std::io::Error::other)
                .flatten()
                .map_err(ImageError::store("read the registries' TLS roots"))?,
            None => Vec::new(),
        };
        let registry = Registry::new(source, credentials, &roots).map_err(&trouble)?;
        let mut bytes = registry
            .manifest(&self.name.version)
            .await
            .map_err(&trouble)?;
        if let Version::Digest(want) = self.name.version {
            self.verify("the manifest", &bytes, want)?;
        }
        let mut document = manifest::parse(&bytes).map_err(self.bad())?;
        if let Document::Index(entries) = document {
            let entry = manifest::choose(&entries, &self.node).map_err(self.bad())?;
            bytes = registry
                .manifest(&Version::Digest(entry.digest))
                .await
                .map_err(&trouble)?;
            self.verify("the manifest", &bytes, entry.digest)?;
            document = manifest::parse(&bytes).map_err(self.bad())?;
        }
        let Document::Manifest(manifest) = document else {
            let why = "an index of indexes".to_owned();
            return Err(trouble(Trouble::Protocol(why)));
        };
        let config = registry
            .document(&manifest.config)
            .await
            .map_err(&trouble)?;
        self.verify("the configuration", &config, manifest.config.digest)?;
        Ok(Description {
            registry: Arc::new(registry),
            source: source.clone(),
            digest: Digest::of(&bytes),
            manifest,
            bytes: bytes.to_vec(),
            config,
        })
    }

    /// What the operator's file has for a registry: that of the credentials which the image names, or the one without a
    /// name. Read each time: passwords change.
    async fn credentials(&self, source: &Source) -> Result<Option<Credentials>, ImageError> {
        let name = self.credentials.clone().unwrap_or_default();
        let bad = |why: String| ImageError::Credentials {
            name: name.clone(),
            why,
        };
        let Some(path) = self.settings.auth.get(&name).cloned() else {
            return match self.credentials {
                Some(_) => Err(bad(
                    "the node has none of this name (--registry-auth NAME=FILE)".to_owned(),
                )),
                None => Ok(None),
            };
        };
        let file = tokio::fs::read(&path)
            .await
            .map_err(|e| bad(format!("failed to read {}: {e}", path.display())))?;
        let found = auth::find(&file, &source.registry)
            .map_err(|source| ImageError::AuthFile { path, source })?;
        if found.is_some() && source.plain_http && !name::is_loopback(&source.registry) {
            let registry = &source.registry;
            let why = format!("are not sent to {registry} without TLS");
            return Err(bad(why));
        }
        Ok(found)
    }

    /// Gets the layers that are missing, then takes the image into the store.
    async fn get(&self, what: Description) -> Pulled {
        let n_layers = what.manifest.layers.len();
        let (config, diff_ids) = manifest::parse_config(
            &what.config,
            what.manifest.config.digest,
            n_layers,
            &self.node,
        )
        .map_err(self.bad())
        .map_err(Arc::new)?;
        let compressed_bytes = self.check_size(&what.manifest).map_err(Arc::new)?;
        let _pins = self.store.pin(diff_ids.iter().copied());
        // A layer may come twice.
        let missing: BTreeMap<Digest, &manifest::Descriptor> = diff_ids
            .iter()
            .copied()
            .zip(&what.manifest.layers)
            .filter(|(diff_id, _)| !self.store.has_layer(*diff_id))
            .collect();
        missing
            .into_iter()
            .map(|(diff_id, layer)| {
                self.layers
                    .join(diff_id, || self.layer(&what, layer, diff_id))
            })
            .collect::<FuturesUnordered<_>>()
            .try_collect::<()>()
            .await?;
        let record = Record {
            digest: what.digest,
            layers: diff_ids,
            config,
            compressed_bytes,
        };
        let store = Arc::clone(&self.store);
        let name = self.name.to_string();
        let added = move || {
            let documents = [
                (what.digest, what.bytes.as_slice()),
                (what.manifest.config.digest, what.config.as_slice()),
            ];
            store.add_image(record, &documents, &[name])?;
            Ok(what.digest)
        };
        tokio::task::spawn_blocking(added)
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(ImageError::store("keep the image"))
            .map_err(Arc::new)
    }

    fn check_size(&self, manifest: &Manifest) -> Result<u64, ImageError> {
        let bytes = manifest
            .layers
            .iter()
            .fold(0u64, |n, l| n.saturating_add(l.size));
        let most = self.settings.max_image_bytes;
        if bytes > most {
            let name = self.name.to_string();
            return Err(ImageError::TooLarge { name, most });
        }
        Ok(bytes)
    }

    /// Downloads and unpacks one layer at the same time.
    fn layer(
        &self,
        what: &Description,
        layer: &manifest::Descriptor,
        diff_id: Digest,
    ) -> BoxFuture<'static, Result<(), Arc<ImageError>>> {
        let expected = Expected {
            name: self.name.to_string(),
            blob: layer.digest,
            size: layer.size,
            diff_id,
            max_bytes: self.settings.max_image_bytes,
        };
        let trouble = self.trouble(&what.source);
        let (store, slots) = (Arc::clone(&self.store), Arc::clone(&self.slots));
        let (registry, layer) = (Arc::clone(&what.registry), layer.clone());
        let n_bytes = Arc::clone(&self.n_bytes);
        async move {
            // The semaphore is never closed.
            let _slot = slots.acquire_owned().await.ok();
            if store.has_layer(diff_id) {
                return Ok(());
            }
            let (pieces, arriving) = mpsc::channel(MAX_PIECES);
            let unpacking = tokio::task::spawn_blocking(move || {
                ingest(&store, &expected, Pieces::new(arriving))
            });
            let sent = registry.blob(&layer, pieces).await;
            let unpacked = unpacking
                .await
                .map_err(std::io::Error::other)
                .map_err(ImageError::store("unpack a layer"))
                .flatten();
            n_bytes.fetch_add(layer.size, Ordering::Relaxed);
            match (sent, unpacked) {
                (_, Ok(())) => Ok(()),
                // Then unpacking has failed for the want of bytes.
                (Err(e), Err(_)) => Err(Arc::new(trouble(e))),
                (Ok(()), Err(e)) => Err(Arc::new(e)),
            }
        }
        .boxed()
    }
}
