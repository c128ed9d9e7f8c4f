//! Taking a layer into the store while it comes.

use std::io::{self, Read};

use super::{
    digest::{Digest, Hashing},
    error::ImageError,
    layout::decompress,
    store::Store,
    unpack::{Limits, Style, UnpackError, unpack},
};

/// A layer that is expected.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The image, for messages.
    pub name: String,
    /// Digest of its bytes as they come.
    pub blob: Digest,
    /// How many they are.
    pub size: u64,
    /// Digest of the archive in them.
    pub diff_id: Digest,
    /// Most bytes of the archive.
    pub max_bytes: u64,
}

/// Unpacks `stream` into the store, verifying both digests on the way. Blocking. Nothing of it stays after an error.
pub fn ingest(store: &Store, what: &Expected, stream: impl Read + Send) -> Result<(), ImageError> {
    let read = |e| ImageError::Layer {
        name: what.name.clone(),
        layer: what.blob,
        source: UnpackError::Read(e),
    };
    let staging = store
        .stage()
        .map_err(ImageError::store("make a directory for a layer"))?;
    let root = staging
        .make_fs()
        .map_err(ImageError::store("make a directory for a layer"))?;
    // One more than it says shows that it is longer.
    let mut raw = Hashing::new(stream.take(what.size.saturating_add(1)));
    let limits = Limits::for_size(what.size, what.max_bytes);
    let mut archive = Hashing::new(decompress(&mut raw).map_err(read)?);
    let unpacked = unpack(&mut archive, &root, Style::Layer, &limits);
    let (diff_id, _) = archive.finish();
    let unpacked = unpacked.map_err(|source| ImageError::Layer {
        name: what.name.clone(),
        layer: what.blob,
        source,
    })?;
    // What follows the compressed stream belongs to the blob.
    io::copy(&mut raw, &mut io::sink()).map_err(read)?;
    let (blob, _) = raw.finish();
    for (part, want, is) in [
        ("the layer", what.blob, blob),
        ("the unpacked layer", what.diff_id, diff_id),
    ] {
        if want != is {
            return Err(ImageError::Mismatch {
                name: what.name.clone(),
                what: part,
                want,
                is,
            });
        }
    }
    if unpacked.n_devices > 0 {
        let n = unpacked.n_devices;
        tracing::info!(
            image = what.name,
            n,
            "device nodes of an image are left out"
        );
    }
    store
        .add_layer(what.diff_id, &staging, unpacked)
        .map_err(ImageError::store("keep a layer"))
}
