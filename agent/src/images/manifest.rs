//! What images consist of: manifests, indexes and configurations, as the OCI image specification 1.1 and Docker's
//! schema 2 write them. Pure: bytes in, checked data out.

use serde::{Deserialize, Serialize};

use super::{ImageConfig, digest::Digest};

/// Largest manifest, index or configuration that is read.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Most layers of an image. Docker has the same bound; overlayfs takes 500.
pub const MAX_LAYERS: usize = 127;
/// Most entries of an index.
const MAX_ENTRIES: usize = 1000;

/// Media types of manifests and indexes that are asked for.
pub const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Why a document is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not with the right fields.
    #[error("{what} can't be read: {why}")]
    Unreadable {
        /// Which document.
        what: &'static str,
        /// The parser's words.
        why: String,
    },
    /// A rule that it breaks.
    #[error("{field}: {rule}")]
    Rule {
        /// The field.
        field: String,
        /// The rule.
        rule: String,
    },
    /// An index has nothing for this node.
    #[error("no image for {wanted}; there is {there}")]
    NoPlatform {
        /// This node's.
        wanted: String,
        /// Those that it has.
        there: String,
    },
}

fn rule(field: impl Into<String>, rule: impl Into<String>) -> ManifestError {
    ManifestError::Rule {
        field: field.into(),
        rule: rule.into(),
    }
}

/// Points at content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its kind.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on, in indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names, in the index of a layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// An operating system and a processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As Go names it: `linux`.
    #[serde(default)]
    pub os: String,
    /// As Go names it: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// `v8`, `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This node's.
    pub fn of_node() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(ToOwned::to_owned),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index. What it is, is told by its fields: a media type in a header is not part of what the
/// digest covers.
pub fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|e| ManifestError::Unreadable {
        what: "manifest",
        why: e.to_string(),
    })?;
    if wire.schema_version != 2 {
        let is = wire.schema_version;
        return Err(rule("schemaVersion", format!("must be 2, is {is}")));
    }
    match (wire.config, wire.layers, wire.manifests) {
        (Some(config), Some(layers), None) => {
            check_layers(&layers)?;
            if config.size > MAX_DOCUMENT_BYTES {
                let most = MAX_DOCUMENT_BYTES;
                return Err(rule("config.size", format!("must be at most {most} bytes")));
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        (None, None, Some(manifests)) if manifests.len() <= MAX_ENTRIES => {
            Ok(Document::Index(manifests))
        }
        (None, None, Some(_)) => Err(rule(
            "manifests",
            format!("must be at most {MAX_ENTRIES} entries"),
        )),
        // The same bytes read as two different things (CVE-2021-41190).
        (_, _, Some(_)) => Err(rule("manifests", "must not be beside config or layers")),
        (_, _, None) => Err(rule("manifest", "must have config and layers")),
    }
}

fn check_layers(layers: &[Descriptor]) -> Result<(), ManifestError> {
    if layers.len() > MAX_LAYERS {
        let is = layers.len();
        return Err(rule(
            "layers",
            format!("must be at most {MAX_LAYERS}, are {is}"),
        ));
    }
    for (i, layer) in layers.iter().enumerate() {
        let kind = layer.media_type.as_str();
        let is_tar = kind.is_empty() || kind.contains(".tar") || kind.ends_with("tar");
        if !is_tar || kind.contains("encrypted") || kind.contains("foreign") {
            let is: String = kind.chars().take(100).collect();
            return Err(rule(
                format!("layers[{i}].mediaType"),
                format!("must be a tar, is {is:?}"),
            ));
        }
    }
    Ok(())
}

/// The entry of an index that suits a platform best: the same variant, else none, else any.
pub fn choose<'a>(
    entries: &'a [Descriptor],
    node: &Platform,
) -> Result<&'a Descriptor, ManifestError> {
    let rank = |d: &&Descriptor| -> Option<u8> {
        let Some(p) = &d.platform else { return Some(3) };
        if p.os != node.os || p.architecture != node.architecture {
            return None;
        }
        Some(match (&p.variant, &node.variant) {
            (a, b) if a == b => 0,
            (None, _) => 1,
            _ => 2,
        })
    };
    entries
        .iter()
        .filter_map(|d| Some((rank(&d)?, d)))
        // The first of equals, as the specification says.
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, d)| d)
        .ok_or_else(|| {
            let mut there: Vec<String> = entries
                .iter()
                .filter_map(|d| d.platform.as_ref().map(ToString::to_string))
                .take(20)
                .collect();
            there.dedup();
            ManifestError::NoPlatform {
                wanted: node.to_string(),
                there: if there.is_empty() {
                    "nothing".to_owned()
                } else {
                    there.join(", ")
                },
            }
        })
}

#[derive(Deserialize)]
struct ConfigWire {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    config: Option<RunWire>,
    rootfs: RootWire,
}

#[derive(Deserialize)]
struct RootWire {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RunWire {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

/// Reads the configuration of the image `digest`, which runs on `node`: what to run, and the layers' names when
/// unpacked, the lowest first.
pub fn parse_config(
    bytes: &[u8],
    digest: Digest,
    n_layers: usize,
    node: &Platform,
) -> Result<(ImageConfig, Vec<Digest>), ManifestError> {
    let wire: ConfigWire =
        serde_json::from_slice(bytes).map_err(|e| ManifestError::Unreadable {
            what: "configuration",
            why: e.to_string(),
        })?;
    let is_for = |have: &str, want: &str| have.is_empty() || have == want;
    if !is_for(&wire.os, &node.os) || !is_for(&wire.architecture, &node.architecture) {
        return Err(ManifestError::NoPlatform {
            wanted: node.to_string(),
            there: format!("{}/{}", wire.os, wire.architecture),
        });
    }
    let layers = wire.rootfs.diff_ids.unwrap_or_default();
    if layers.len() != n_layers {
        let is = layers.len();
        return Err(rule(
            "rootfs.diff_ids",
            format!("must be as many as layers, {n_layers}, are {is}"),
        ));
    }
    let run = wire.config.unwrap_or_default();
    let texts = |field: &str, list: Option<Vec<String>>| {
        let list = list.unwrap_or_default();
        if list.iter().any(|t| t.contains('\0')) {
            return Err(rule(format!("config.{field}"), "must be without NUL"));
        }
        Ok(list)
    };
    let text = |t: Option<String>| t.filter(|t| !t.is_empty());
    let config = ImageConfig {
        digest: digest.to_string(),
        env: texts("Env", run.env)?
            .into_iter()
            .filter_map(|e| e.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .filter(|(k, _)| !k.is_empty())
            .collect(),
        entrypoint: texts("Entrypoint", run.entrypoint)?,
        cmd: texts("Cmd", run.cmd)?,
        work_dir: text(run.working_dir),
        user: text(run.user),
        stop_signal: text(run.stop_signal),
    };
    for (field, value) in [
        ("WorkingDir", &config.work_dir),
        ("User", &config.user),
        ("StopSignal", &config.stop_signal),
    ] {
        if value.as_ref().is_some_and(|v| v.contains('\0')) {
            return Err(rule(format!("config.{field}"), "must be without NUL"));
        }
    }
    Ok((config, layers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn entry(n: u8, os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: ACCEPTED[0].to_owned(),
            digest: digest(n),
            size: 7,
            platform: Some(Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.map(ToOwned::to_owned),
            }),
            annotations: None,
        }
    }

    fn amd64() -> Platform {
        Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        }
    }

    #[test]
    fn a_manifest_is_read() {
        let d = digest(1);
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"x","config":{{"mediaType":"c","digest":"{d}","size":3}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{d}","size":9}}]}}"#
        );
        let Document::Manifest(m) = parse(text.as_bytes()).unwrap() else {
            panic!("an index");
        };
        assert_eq!((m.config.size, m.layers[0].size), (3, 9));
    }

    #[test]
    fn refusals_name_field_and_rule() {
        let d = digest(1);
        let refused = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            refused(r#"{"schemaVersion":1,"fsLayers":[]}"#),
            "schemaVersion: must be 2, is 1"
        );
        let both = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":3}},"layers":[],"manifests":[]}}"#
        );
        assert_eq!(
            refused(&both),
            "manifests: must not be beside config or layers"
        );
        let helm = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":3}},
            "layers":[{{"mediaType":"application/vnd.cncf.helm.chart","digest":"{d}","size":9}}]}}"#
        );
        assert_eq!(
            refused(&helm),
            "layers[0].mediaType: must be a tar, is \"application/vnd.cncf.helm.chart\""
        );
        let layer = format!(r#"{{"digest":"{d}","size":9}}"#);
        let many = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":3}},"layers":[{}]}}"#,
            vec![layer; 128].join(",")
        );
        assert_eq!(refused(&many), "layers: must be at most 127, are 128");
        assert!(refused("nonsense").starts_with("manifest can't be read: "));
    }

    #[test]
    fn the_platform_decides() {
        let entries = [
            entry(1, "linux", "arm64", Some("v8")),
            entry(2, "windows", "amd64", None),
            entry(3, "linux", "amd64", Some("v3")),
            entry(4, "linux", "amd64", None),
            entry(5, "linux", "amd64", None),
        ];
        assert_eq!(choose(&entries, &amd64()).unwrap().digest, digest(4));
        assert_eq!(choose(&entries[..3], &amd64()).unwrap().digest, digest(3));
        assert_eq!(
            choose(&entries[..2], &amd64()).unwrap_err().to_string(),
            "no image for linux/amd64; there is linux/arm64/v8, windows/amd64"
        );
        assert_eq!(
            choose(&[], &amd64()).unwrap_err().to_string(),
            "no image for linux/amd64; there is nothing"
        );
    }

    #[test]
    fn a_configuration_is_read() {
        let d = digest(1);
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Env":["A=b=c","bad","=x"],"Entrypoint":["/e"],
            "Cmd":null,"WorkingDir":"","User":"7:8","StopSignal":"SIGQUIT"}},"rootfs":{{"type":"layers","diff_ids":["{d}"]}}}}"#
        );
        let (config, layers) = parse_config(text.as_bytes(), d, 1, &amd64()).unwrap();
        assert_eq!(layers, [d]);
        assert_eq!(config.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(config.entrypoint, ["/e"]);
        assert_eq!(config.cmd, [""; 0]);
        assert_eq!(config.work_dir, None);
        assert_eq!(config.user.as_deref(), Some("7:8"));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(
            parse_config(text.as_bytes(), d, 2, &amd64())
                .unwrap_err()
                .to_string(),
            "rootfs.diff_ids: must be as many as layers, 2, are 1"
        );
        let arm = text.replace("amd64", "arm64");
        assert_eq!(
            parse_config(arm.as_bytes(), d, 1, &amd64())
                .unwrap_err()
                .to_string(),
            "no image for linux/amd64; there is linux/arm64"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse_config(&bytes, digest(0), 1, &amd64());
        }

        #[test]
        fn any_json_is_survived(
            text in r#"\{("(schemaVersion|config|layers|manifests|rootfs|os|architecture)":(2|null|\[\]|\{\}|"x"|\[null\]|\{"digest":"x"\}),?){0,5}\}"#
        ) {
            let _ = parse(text.as_bytes());
            let _ = parse_config(text.as_bytes(), digest(0), 0, &amd64());
        }
    }
}
