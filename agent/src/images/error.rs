//! Why there is no image.

use std::io;

use super::{
    auth::AuthError, digest::Digest, layout::LayoutError, manifest::ManifestError, name::NameError,
    unpack::UnpackError, unpack::is_no_space,
};

/// Why an image can't be had. Its words, with those of its causes, are the task's reason.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The credentials that it names.
    #[error("credentials {name:?}: {why}")]
    Credentials {
        /// Their name; empty for the node's own.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The file of the credentials.
    #[error("registry credentials {}", path.display())]
    AuthFile {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: AuthError,
    },
    /// The registry's answer.
    #[error("image {name}: registry {registry} {trouble}")]
    Registry {
        /// The image.
        name: String,
        /// The registry that was asked.
        registry: String,
        /// What happened.
        trouble: Trouble,
    },
    /// Its manifest or configuration.
    #[error("image {name}")]
    Manifest {
        /// The image.
        name: String,
        /// The cause.
        #[source]
        source: ManifestError,
    },
    /// A layer.
    #[error("layer {layer} of image {name}")]
    Layer {
        /// The image.
        name: String,
        /// The layer, as it comes.
        layer: Digest,
        /// The cause.
        #[source]
        source: UnpackError,
    },
    /// Content is not what its name says.
    #[error("image {name}: digest mismatch: {what} should be {want}, is {is}")]
    Mismatch {
        /// The image.
        name: String,
        /// Of what.
        what: &'static str,
        /// Its name.
        want: Digest,
        /// What came.
        is: Digest,
    },
    /// More than the node takes.
    #[error("image {name}: is larger than {most} bytes")]
    TooLarge {
        /// The image.
        name: String,
        /// The bound.
        most: u64,
    },
    /// The image's files.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store.
    #[error("failed to {what}")]
    Store {
        /// The verb: `write the image`.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("image {name}: not there after {seconds} s")]
    Timeout {
        /// The image.
        name: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// What a registry did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No answer, or one that broke off.
    #[error("can't be reached: {0}")]
    Unreachable(String),
    /// It does not prove who it is.
    #[error("is not trusted: {0} (--registry-tls-roots names who may sign for it)")]
    Untrusted(String),
    /// It has no such image.
    #[error("has no such image")]
    NoSuchImage,
    /// Wrong password, or none.
    #[error("refuses: unauthorized ({0})")]
    Unauthorized(&'static str),
    /// Anything else that it said.
    #[error("refuses: {0}")]
    Refused(String),
    /// It does not speak the protocol.
    #[error("does not answer as a registry: {0}")]
    Protocol(String),
}

impl ImageError {
    /// For `map_err`: what was being done.
    pub fn store(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Store { what, source }
    }

    /// Whether another try may help.
    pub fn is_passing(&self) -> bool {
        let trouble = |t: &Trouble| matches!(t, Trouble::Unreachable(_));
        matches!(self, Self::Registry { trouble: t, .. } if trouble(t))
    }

    /// Whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Layer { source, .. } | Self::Layout(LayoutError::Unpack { source, .. }) => {
                source.is_no_space()
            }
            Self::Store { source, .. } => is_no_space(source),
            _ => false,
        }
    }

    /// One word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            _ if self.is_no_space() => "no_space",
            Self::Name(NameError::NotAllowed { .. }) => "not_allowed",
            Self::Name(NameError::Bad { .. }) => "bad_name",
            Self::Credentials { .. } | Self::AuthFile { .. } => "bad_credentials",
            Self::Registry { trouble, .. } => match trouble {
                Trouble::Unreachable(_) => "unreachable",
                Trouble::Untrusted(_) => "untrusted",
                Trouble::NoSuchImage => "no_such_image",
                Trouble::Unauthorized(_) => "unauthorized",
                Trouble::Refused(_) | Trouble::Protocol(_) => "refused",
            },
            Self::Manifest { .. } | Self::Layer { .. } | Self::Layout(_) => "bad_image",
            Self::Mismatch { .. } => "digest_mismatch",
            Self::TooLarge { .. } => "too_large",
            Self::Store { .. } => "store",
            Self::Timeout { .. } => "timeout",
        }
    }

    /// Its words and those of its causes, and what helps where that is known.
    pub fn describe(&self) -> String {
        let text = crate::net::chain(self);
        if self.is_no_space() {
            return format!("no space left for images on this node: {text}");
        }
        text
    }
}
