//! Names of images: what `nginx` means, which registries may be asked for it, and in which order. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use oci_client::Reference;

use super::digest::Digest;

/// Longest reference that is read.
const MAX_REFERENCE: usize = 1024;

/// What the node's operator says about images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSettings {
    /// Registries that images may come from: a host (`docker.io`, `registry.example:5000`), or a part of one
    /// (`registry.example/team`). Empty: any.
    pub registries: Vec<String>,
    /// Registries that are asked instead of the one that is the key, in order, before it: `HOST[:PORT][/PREFIX]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that are asked without TLS, `HOST[:PORT]`.
    pub plain_http: BTreeSet<String>,
    /// Docker's `config.json` with credentials, by the name that [`waggle_types::ImageSpec::credentials`] has; that
    /// without a name is for images which name none.
    pub auth: BTreeMap<String, PathBuf>,
    /// PEM file of who may sign for registries, beside the system's.
    pub tls_roots: Option<PathBuf>,
    /// Size of the store above which images without tasks go, the longest unused first, in bytes.
    pub store_bytes: u64,
    /// Age, since its last use, at which an image without tasks goes.
    pub max_age: Duration,
    /// Largest image, unpacked, in bytes.
    pub max_image_bytes: u64,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            registries: Vec::new(),
            mirrors: BTreeMap::new(),
            plain_http: BTreeSet::new(),
            auth: BTreeMap::new(),
            tls_roots: None,
            store_bytes: 20 << 30,
            max_age: Duration::from_hours(14 * 24),
            max_image_bytes: 64 << 30,
        }
    }
}

/// A reference that names no image that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It can't be read.
    #[error("image {text:?}: {rule}")]
    Bad {
        /// As it was given, cut to a readable length.
        text: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// The operator does not want it.
    #[error(
        "image {name}: registry {registry} is not among those that this node may use ({allowed})"
    )]
    NotAllowed {
        /// The image.
        name: String,
        /// Its registry.
        registry: String,
        /// What the node may use.
        allowed: String,
    },
}

/// A whole name: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    /// Host of the registry, with a port where there is one.
    pub registry: String,
    /// Path in the registry.
    pub repository: String,
    /// What of it.
    pub version: Version,
}

/// Which of a repository's images.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The one that has this name now.
    Tag(String),
    /// This one.
    Digest(Digest),
}

impl FromStr for ImageName {
    type Err = NameError;

    /// As Docker reads it: `nginx` is `docker.io/library/nginx:latest`; with a tag and a digest the digest counts.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = |rule: String| NameError::Bad {
            text: text.chars().take(200).collect(),
            rule,
        };
        if text.len() > MAX_REFERENCE {
            return Err(bad(format!("must be at most {MAX_REFERENCE} bytes")));
        }
        // Marathon's Mesos images and Docker's own tools write it so.
        let text = text.strip_prefix("docker://").unwrap_or(text);
        let read = Reference::from_str(text).map_err(|e| bad(e.to_string()))?;
        let version = match (read.digest(), read.tag()) {
            (Some(digest), _) => {
                Version::Digest(digest.parse().map_err(|e| bad(format!("digest: {e}")))?)
            }
            (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self {
            registry: read.registry().to_owned(),
            repository: read.repository().to_owned(),
            version,
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

/// Where to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Host of the registry, with a port where there is one.
    pub registry: String,
    /// Path there.
    pub repository: String,
    /// Whether it is asked without TLS.
    pub plain_http: bool,
}

/// Where to ask for an image, in order; the last is its own registry. Refused where the node may not use that.
pub fn sources(name: &ImageName, settings: &ImageSettings) -> Result<Vec<Source>, NameError> {
    let path = format!("{}/{}", name.registry, name.repository);
    let allowed = settings.registries.is_empty()
        || settings.registries.iter().any(|entry| {
            path.strip_prefix(entry.trim_end_matches('/'))
                .is_some_and(|rest| rest.starts_with('/'))
        });
    if !allowed {
        return Err(NameError::NotAllowed {
            name: name.to_string(),
            registry: name.registry.clone(),
            allowed: settings.registries.join(", "),
        });
    }
    let source = |registry: &str, repository: String| Source {
        registry: registry.to_owned(),
        repository,
        plain_http: settings.plain_http.contains(registry),
    };
    let mirrors = settings.mirrors.get(&name.registry).into_iter().flatten();
    let mut out: Vec<Source> = mirrors
        .map(|mirror| {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let prefix = prefix.trim_matches('/');
            let dot = if prefix.is_empty() { "" } else { "/" };
            source(host, format!("{prefix}{dot}{}", name.repository))
        })
        .collect();
    out.push(source(&name.registry, name.repository.clone()));
    Ok(out)
}

/// Whether a password may be sent to this registry without TLS: only where nobody is on the way.
pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> String {
        match text.parse::<ImageName>() {
            Ok(name) => name.to_string(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn names_are_docker_s() {
        let d = Digest::of(b"x");
        for (text, want) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.2", "docker.io/library/nginx:1.2"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("registry:5000/a/b:c", "registry:5000/a/b:c"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            ("docker://app:1", "docker.io/library/app:1"),
        ] {
            assert_eq!(whole(text), want);
        }
        assert_eq!(
            whole(&format!("app:1@{d}")),
            format!("docker.io/library/app@{d}")
        );
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [
            "",
            ":",
            "UPPER",
            "a b",
            "a:b:c",
            "app@sha256:12",
            "app@sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            "../etc/passwd",
            "http://host/app",
            "a\0b",
        ] {
            let e = bad.parse::<ImageName>().unwrap_err();
            assert!(matches!(e, NameError::Bad { .. }), "{bad}: {e}");
        }
        assert!("a".repeat(2000).parse::<ImageName>().is_err());
    }

    fn settings() -> ImageSettings {
        ImageSettings {
            registries: vec!["docker.io".into(), "corp:5000/team".into()],
            mirrors: BTreeMap::from([(
                "docker.io".to_owned(),
                vec!["127.0.0.1:5000/hub".to_owned(), "mirror".to_owned()],
            )]),
            plain_http: BTreeSet::from(["127.0.0.1:5000".to_owned()]),
            ..ImageSettings::default()
        }
    }

    #[test]
    fn mirrors_are_asked_first() {
        let of = |text: &str| -> Vec<String> {
            sources(&text.parse().unwrap(), &settings())
                .unwrap()
                .iter()
                .map(|s| {
                    let scheme = if s.plain_http { "http" } else { "https" };
                    format!("{scheme} {} {}", s.registry, s.repository)
                })
                .collect()
        };
        assert_eq!(
            of("nginx"),
            [
                "http 127.0.0.1:5000 hub/library/nginx",
                "https mirror library/nginx",
                "https docker.io library/nginx",
            ]
        );
        assert_eq!(of("corp:5000/team/app"), ["https corp:5000 team/app"]);
    }

    #[test]
    fn what_is_not_listed_is_refused_with_the_list() {
        for text in ["quay.io/a", "corp:5000/teams/app", "corp:5001/team/app"] {
            let refused = sources(&text.parse().unwrap(), &settings()).unwrap_err();
            assert!(
                refused.to_string().ends_with(
                    "is not among those that this node may use (docker.io, corp:5000/team)"
                ),
                "{refused}"
            );
        }
        let any = ImageSettings::default();
        assert!(sources(&"quay.io/a".parse().unwrap(), &any).is_ok());
    }

    #[test]
    fn loopback_is_known() {
        for (host, is) in [
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("localhost", true),
            ("10.0.0.1:5000", false),
            ("localhost.example:5000", false),
        ] {
            assert_eq!(is_loopback(host), is, "{host}");
        }
    }

    proptest! {
        #[test]
        fn a_whole_name_reads_as_itself(text in "[a-z0-9.:/@_-]{0,60}") {
            if let Ok(name) = text.parse::<ImageName>() {
                prop_assert_eq!(name.to_string().parse::<ImageName>(), Ok(name.clone()));
                // It becomes part of URLs.
                prop_assert!(!name.repository.split('/').any(|p| p.is_empty() || p == ".."));
            }
        }

        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            let _ = text.parse::<ImageName>();
        }
    }
}
