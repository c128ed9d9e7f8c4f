//! Pulls, beside skopeo from the same registry.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use waggle_tests_support::cluster::Cluster;
use waggle_tests_support::images::{Image, Layer};
use waggle_tests_support::netns::NetNs;
use waggle_tests_support::registry::{Registry, Setup};

use super::median;

const LAYERS: usize = 4;

/// Starts a registry in the node's network.
pub fn serve(cluster: &Cluster) -> anyhow::Result<RegistryOf> {
    let info = cluster.state.nodes.first().context("no node")?;
    let netns = NetNs::open(&info.netns)?;
    let dir = info.work_dir.join("registry");
    let registry = netns.run(|| Registry::start(&dir, Setup::default()))??;
    Ok(RegistryOf { registry, netns })
}

/// A registry, and the network that it is in.
pub struct RegistryOf {
    registry: Registry,
    netns: NetNs,
}

impl RegistryOf {
    /// Its address.
    pub fn host(&self) -> String {
        self.registry.host()
    }

    /// Puts an image into it.
    pub fn push(&self, image: &Image, name: &str) -> anyhow::Result<String> {
        self.netns.run(|| self.registry.push(image, name))?
    }
}

/// Four layers, half of each text and half noise: about as well compressible as programs.
fn image(megabytes: usize) -> Image {
    let mut image = Image::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for i in 0..LAYERS {
        let mut layer = Layer::new();
        let files = (megabytes << 20) / LAYERS / (256 << 10);
        for f in 0..files {
            let mut bytes = Vec::with_capacity(256 << 10);
            while bytes.len() < 256 << 10 {
                // xorshift64
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.extend_from_slice(&state.to_le_bytes());
                bytes.extend_from_slice(b"waggle! ");
            }
            layer = layer.file(&format!("d{i}/{}/f{f}", f % 16), 0o644, &bytes);
        }
        image = image.layer(layer);
    }
    image
}

/// Pulls it in turn with both.
pub fn measure(
    cluster: &Cluster,
    waggle: &Path,
    registry: &RegistryOf,
    rounds: u32,
    megabytes: usize,
) -> anyhow::Result<()> {
    let image = image(megabytes);
    let built = image.build()?;
    let bytes: usize = built.blobs.iter().take(LAYERS).map(|(_, b)| b.len()).sum();
    let mb = bytes as f64 / 1e6;
    registry.push(&image, "bench/pull:1")?;
    let reference = format!("{}/bench/pull:1", registry.host());
    let info = cluster.state.nodes.first().context("no node")?;
    let scratch = info.work_dir.join("skopeo");
    let mut took: [Vec<f64>; 3] = Default::default();
    for round in 0..=rounds {
        let ours = waggle_pull(cluster, waggle, &reference)?;
        run(cluster, waggle, &["image", "prune", "--all"])?;
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(scratch.join("root"))?;
        let oci = format!("oci:{}:1", scratch.join("oci").display());
        let from = format!("docker://{reference}");
        let began = Instant::now();
        let args = ["copy", "--quiet", "--src-tls-verify=false", &from, &oci];
        run(cluster, Path::new("skopeo"), &args)?;
        let theirs = began.elapsed();
        for (digest, _) in built.blobs.iter().take(LAYERS) {
            let hex = digest.trim_start_matches("sha256:");
            let file = scratch.join("oci/blobs/sha256").join(hex);
            let (file, root) = (file.display().to_string(), scratch.join("root"));
            let args = ["-xzf", &file, "-C", &root.display().to_string()];
            run(cluster, Path::new("tar"), &args)?;
        }
        let unpacked = began.elapsed();
        if round > 0 {
            for (list, took) in took.iter_mut().zip([ours, theirs, unpacked]) {
                list.push(mb / took.as_secs_f64());
            }
        }
    }
    let [ours, theirs, unpacked] = took.map(median);
    println!(
        "pull of {mb:.0} MB in {LAYERS} layers (gzip; {megabytes} MB unpacked), medians of {rounds} interleaved: `waggle image pull`, verified and unpacked, {ours:.0} MB/s; `skopeo copy` to an OCI layout, not unpacked, {theirs:.0} MB/s: {:.2} of skopeo; skopeo and then `tar -xzf` {unpacked:.0} MB/s: {:.2} of both",
        ours / theirs,
        ours / unpacked
    );
    let _ = std::fs::remove_dir_all(&scratch);
    Ok(())
}

/// One pull by the node.
pub fn waggle_pull(cluster: &Cluster, waggle: &Path, reference: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    run(cluster, waggle, &["image", "pull", reference])?;
    Ok(began.elapsed())
}

fn run(cluster: &Cluster, program: &Path, args: &[&str]) -> anyhow::Result<()> {
    let out = cluster
        .command("n1", program)?
        .args(args)
        .output()
        .with_context(|| program.display().to_string())?;
    if !out.status.success() {
        bail!(
            "{} {}: {}",
            program.display(),
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(())
}
