//! Asking one registry, through oci-client.

use std::{
    io::{self, Read},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use oci_client::{
    Client, Reference,
    client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use tokio::sync::mpsc;

use super::{
    auth::Credentials,
    digest::Digest,
    error::Trouble,
    manifest::{ACCEPTED, Descriptor, MAX_DOCUMENT_BYTES},
    name::{Source, Version},
};

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence in an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a manifest or configuration.
const DOCUMENT_TIMEOUT: Duration = Duration::from_mins(1);
/// Tries without a byte in between.
const MAX_TRIES: u32 = 4;
/// Pause after the first failure; it doubles, and a random half of it is left out, so that a fleet does not come back
/// at once.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A registry, and who asks it.
pub struct Registry {
    client: Client,
    source: Source,
    auth: RegistryAuth,
}

impl Registry {
    /// Nothing is connected yet.
    pub fn new(
        source: &Source,
        credentials: Option<Credentials>,
        roots: &[Vec<u8>],
    ) -> Result<Self, Trouble> {
        let config = ClientConfig {
            protocol: if source.plain_http {
                ClientProtocol::HttpsExcept(vec![source.registry.clone()])
            } else {
                ClientProtocol::Https
            },
            extra_root_certificates: roots
                .iter()
                .map(|pem| Certificate {
                    encoding: CertificateEncoding::Pem,
                    data: pem.clone(),
                })
                .collect(),
            platform_resolver: None,
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!("waggle/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| Trouble::Protocol(words(&e)))?;
        Ok(Self {
            client,
            source: source.clone(),
            auth: credentials.map_or(RegistryAuth::Anonymous, |c| {
                RegistryAuth::Basic(c.user, c.password)
            }),
        })
    }

    fn reference(&self, version: &Version) -> Reference {
        let (registry, repository) = (self.source.registry.clone(), self.source.repository.clone());
        match version {
            Version::Tag(tag) => Reference::with_tag(registry, repository, tag.clone()),
            Version::Digest(d) => Reference::with_digest(registry, repository, d.to_string()),
        }
    }

    fn trouble(&self, e: &OciDistributionError) -> Trouble {
        trouble(e, self.auth != RegistryAuth::Anonymous)
    }

    /// A manifest or an index, as it comes.
    pub async fn manifest(&self, version: &Version) -> Result<Bytes, Trouble> {
        let reference = self.reference(version);
        let mut n_failed = 0;
        loop {
            let trouble = match self.manifest_once(&reference).await {
                Err(trouble @ Trouble::Unreachable(_)) => trouble,
                done => return done,
            };
            n_failed += 1;
            if n_failed >= MAX_TRIES {
                return Err(trouble);
            }
            tracing::debug!(%trouble, %reference, "a manifest does not come");
            pause(n_failed).await;
        }
    }

    async fn manifest_once(&self, reference: &Reference) -> Result<Bytes, Trouble> {
        let asked = self
            .client
            .pull_manifest_raw(reference, &self.auth, &ACCEPTED);
        let (bytes, _) = tokio::time::timeout(DOCUMENT_TIMEOUT, asked)
            .await
            .map_err(|_| silent())?
            .map_err(|e| self.trouble(&e))?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            let why = format!("a manifest of more than {MAX_DOCUMENT_BYTES} bytes");
            return Err(Trouble::Protocol(why));
        }
        Ok(bytes)
    }

    /// A small blob, whole.
    pub async fn document(&self, of: &Descriptor) -> Result<Vec<u8>, Trouble> {
        let (pieces, mut arriving) = mpsc::channel(4);
        let collect = async move {
            let mut out = Vec::new();
            while let Some(Piece::Data(bytes)) = arriving.recv().await {
                out.extend_from_slice(&bytes);
            }
            out
        };
        let both = async { tokio::join!(self.blob(of, pieces), collect) };
        let (sent, out) = tokio::time::timeout(DOCUMENT_TIMEOUT, both)
            .await
            .map_err(|_| silent())?;
        sent.map(|()| out)
    }

    /// A blob, piece by piece; after a break it goes on where it was. It ends early without an error when nobody takes
    /// the pieces any more. Who takes them verifies the digest.
    pub async fn blob(&self, of: &Descriptor, pieces: mpsc::Sender<Piece>) -> Result<(), Trouble> {
        let reference = self.reference(&Version::Digest(of.digest));
        // The library asks for the token of registries that it knows credentials of.
        self.client
            .store_auth_if_needed(reference.resolve_registry(), &self.auth)
            .await;
        let digest = of.digest.to_string();
        let mut offset = 0;
        let mut n_failed = 0;
        loop {
            let before = offset;
            let trouble = match self
                .part(&reference, &digest, of.size, &mut offset, &pieces)
                .await
            {
                Ok(Part::All) => {
                    let _ = pieces.send(Piece::End).await;
                    return Ok(());
                }
                Ok(Part::Unwanted) => return Ok(()),
                Err(trouble) => trouble,
            };
            if offset > before {
                n_failed = 0;
            }
            n_failed += 1;
            if n_failed >= MAX_TRIES || !matches!(trouble, Trouble::Unreachable(_)) {
                return Err(trouble);
            }
            tracing::debug!(%trouble, digest, offset, "a blob breaks off");
            pause(n_failed).await;
        }
    }

    async fn part(
        &self,
        reference: &Reference,
        digest: &str,
        size: u64,
        offset: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Part, Trouble> {
        let asked = self
            .client
            .pull_blob_stream_partial(reference, digest, *offset, None);
        let answer = tokio::time::timeout(DOCUMENT_TIMEOUT, asked)
            .await
            .map_err(|_| silent())?
            .map_err(|e| self.trouble(&e))?;
        let (mut stream, mut known) = match answer {
            BlobResponse::Partial(stream) => (stream, 0),
            // It does not do parts: what is there already comes again.
            BlobResponse::Full(stream) => (stream, *offset),
        };
        while let Some(bytes) = stream.next().await {
            let mut bytes = bytes.map_err(|e| Trouble::Unreachable(words(&e)))?;
            let skip = usize::try_from(known)
                .unwrap_or(bytes.len())
                .min(bytes.len());
            known -= skip as u64;
            let bytes = bytes.split_off(skip);
            *offset += bytes.len() as u64;
            if *offset > size {
                let why = format!("blob {digest} is longer than the {size} bytes of its manifest");
                return Err(Trouble::Protocol(why));
            }
            if !bytes.is_empty() && pieces.send(Piece::Data(bytes)).await.is_err() {
                return Ok(Part::Unwanted);
            }
        }
        if *offset < size {
            let why = format!("blob {digest} ends after {offset} of {size} bytes");
            return Err(Trouble::Unreachable(why));
        }
        Ok(Part::All)
    }
}

enum Part {
    All,
    Unwanted,
}

/// A part of a blob.
pub enum Piece {
    /// The next bytes.
    Data(Bytes),
    /// There are no more.
    End,
}

/// Reads pieces, for code that blocks.
pub struct Pieces {
    arriving: mpsc::Receiver<Piece>,
    now: Bytes,
    ended: bool,
}

impl Pieces {
    /// Those of a channel.
    pub fn new(arriving: mpsc::Receiver<Piece>) -> Self {
        Self {
            arriving,
            now: Bytes::new(),
            ended: false,
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() && !self.ended {
            match self.arriving.blocking_recv() {
                Some(Piece::Data(bytes)) => self.now = bytes,
                Some(Piece::End) => self.ended = true,
                // Given up: not the same as an end.
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = self.now.len().min(buf.len());
        buf[..n].copy_from_slice(&self.now.split_to(n));
        Ok(n)
    }
}

async fn pause(n_failed: u32) {
    let longest = FIRST_PAUSE * 2u32.saturating_pow(n_failed - 1);
    tokio::time::sleep(longest.mul_f64(rand::random_range(0.5..1.0))).await;
}

fn silent() -> Trouble {
    Trouble::Unreachable(format!("no answer within {} s", DOCUMENT_TIMEOUT.as_secs()))
}

fn trouble(e: &OciDistributionError, with_password: bool) -> Trouble {
    use OciDistributionError as E;
    let unauthorized = if with_password {
        "the password is wrong, or gives no right to this image"
    } else {
        "the node has no credentials for it; --registry-auth gives them"
    };
    match e {
        E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => {
            Trouble::Unauthorized(unauthorized)
        }
        E::RegistryError { envelope, .. } => {
            let Some(first) = envelope.errors.first() else {
                return Trouble::Refused("it does not say why".to_owned());
            };
            match &first.code {
                OciErrorCode::BlobUnknown
                | OciErrorCode::ManifestUnknown
                | OciErrorCode::ManifestBlobUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::NotFound => Trouble::NoSuchImage,
                OciErrorCode::Unauthorized | OciErrorCode::Denied => {
                    Trouble::Unauthorized(unauthorized)
                }
                OciErrorCode::Toomanyrequests => Trouble::Unreachable(cut(&first.to_string())),
                _ => Trouble::Refused(cut(&first.to_string())),
            }
        }
        E::ImageManifestNotFoundError(_) | E::ServerError { code: 404, .. } => Trouble::NoSuchImage,
        E::ServerError {
            code: code @ (429 | 500..=599),
            ..
        } => Trouble::Unreachable(format!("HTTP {code}")),
        E::ServerError { code, message, .. } => {
            Trouble::Refused(cut(&format!("HTTP {code} {message}")))
        }
        E::RequestError(e) => {
            let words = words(e);
            // rustls's words, below those of two libraries.
            if words.contains("certificate") {
                Trouble::Untrusted(words)
            } else if e.is_builder() || e.is_redirect() {
                Trouble::Protocol(words)
            } else {
                Trouble::Unreachable(words)
            }
        }
        E::IoError(e) => Trouble::Unreachable(words(e)),
        other => Trouble::Protocol(words(other)),
    }
}

/// The innermost cause says it best; those around it repeat the URL.
fn words(e: &(dyn std::error::Error + 'static)) -> String {
    let mut at = e;
    while let Some(source) = at.source() {
        at = source;
    }
    cut(&at.to_string())
}

/// A registry's words are not ours.
fn cut(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

/// The certificates of a PEM file, one by one.
pub fn roots(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let text = std::fs::read_to_string(path)?;
    let found = certificates(&text);
    if found.is_empty() {
        let why = format!("{} holds no certificate", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(found)
}

fn certificates(text: &str) -> Vec<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let Some(end) = rest[begin..].find(END) else {
            break;
        };
        let end = begin + end + END.len();
        out.push(format!("{}\n", &rest[begin..end]).into_bytes());
        rest = &rest[end..];
    }
    out
}

/// Whether bytes are what they are called.
pub fn is(bytes: &[u8], digest: Digest) -> Result<(), Digest> {
    match Digest::of(bytes) {
        is if is == digest => Ok(()),
        is => Err(is),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_come_one_by_one() {
        let one = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let text = format!("# who\n{one}\nnote\n{one}-----BEGIN CERTIFICATE-----\ncut");
        assert_eq!(certificates(&text), [one.as_bytes(), one.as_bytes()]);
    }

    #[test]
    fn an_answer_that_is_given_up_is_no_end() {
        let (pieces, arriving) = mpsc::channel(4);
        pieces
            .try_send(Piece::Data(Bytes::from_static(b"abc")))
            .ok()
            .unwrap();
        drop(pieces);
        let mut out = Vec::new();
        let read = Pieces::new(arriving).read_to_end(&mut out);
        assert_eq!(out, b"abc");
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_registry_s_words_are_tamed() {
        assert_eq!(cut("a\n\u{1b}[31mb"), "a  [31mb");
        assert_eq!(cut(&"x".repeat(1000)).len(), 300);
    }
}
