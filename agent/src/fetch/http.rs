//! Downloads over HTTP/1.1, with TLS by rustls.

use std::{io, os::unix::ffi::OsStringExt, path::Path, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use url::Url;

use super::uri::without_credentials;
use crate::unpack::root::percent_decode;

/// Most redirects of one download.
const MAX_REDIRECTS: usize = 10;
/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Where distributions keep the certificates that they trust.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server is not there, or ended early: another attempt may do.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing came for too long.
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The server answered that it has no such thing, or is in trouble.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// Redirects that lead nowhere.
    #[error("{0}")]
    Redirect(String),
    /// It is larger than is allowed.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// TLS is not set up.
    #[error("{0}")]
    Tls(String),
    /// What came could not be written.
    #[error("failed to write: {0}")]
    Write(io::Error),
    /// There is no room for it in the cache.
    #[error("the cache is full")]
    NoRoom,
}

impl HttpError {
    /// Whether another attempt may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Stalled(_) => true,
            Self::Status(s) => {
                s.is_server_error()
                    || *s == StatusCode::TOO_MANY_REQUESTS
                    || *s == StatusCode::REQUEST_TIMEOUT
            }
            _ => false,
        }
    }
}

/// Where bytes go.
pub trait Sink: Send {
    /// Before the first byte: how many the server says that will come.
    fn expect(&mut self, bytes: u64) -> Result<(), HttpError>;
    /// Some bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), HttpError>;
}

/// Makes downloads.
#[derive(Clone)]
pub struct Client {
    // Or why there is no TLS.
    tls: Result<Arc<ClientConfig>, String>,
    stall: Duration,
}

impl Client {
    /// Trusts the system's certificates and those in the given file. Blocking.
    pub fn new(roots: Option<&Path>, stall: Duration) -> Self {
        Self {
            tls: tls(roots).map(Arc::new),
            stall,
        }
    }

    /// Downloads once.
    pub async fn get(&self, url: &Url, to: &mut dyn Sink) -> Result<(), HttpError> {
        let mut response = self.follow(url).await?;
        let said: Option<u64> = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        to.expect(said.unwrap_or(0))?;
        let mut came: u64 = 0;
        loop {
            let frame = timeout(self.stall, response.body_mut().frame())
                .await
                .map_err(|_| HttpError::Stalled(self.stall))?;
            match frame {
                None => break,
                Some(Err(e)) => {
                    return Err(HttpError::Unreachable(format!(
                        "it ended after {came} bytes: {e}"
                    )));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        came += data.len() as u64;
                        to.write(&data)?;
                    }
                }
            }
        }
        match said {
            Some(said) if said != came => Err(HttpError::Unreachable(format!(
                "it ended after {came} of {said} bytes"
            ))),
            _ => Ok(()),
        }
    }

    async fn follow(&self, url: &Url) -> Result<Response<Incoming>, HttpError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&url).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(HttpError::Status(status));
            }
            let to = response.headers().get(LOCATION);
            let to = to
                .and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
                .ok_or_else(|| HttpError::Redirect("a redirect without a location".to_owned()))?;
            let next = url
                .join(to)
                .map_err(|e| HttpError::Redirect(format!("a redirect to {to:?}: {e}")))?;
            let shown = without_credentials(&next);
            if !matches!(next.scheme(), "http" | "https") {
                return Err(HttpError::Redirect(format!("a redirect to {shown}")));
            }
            if url.scheme() == "https" && next.scheme() == "http" {
                let why = format!("a redirect from https to {shown} is not followed");
                return Err(HttpError::Redirect(why));
            }
            url = next;
        }
        Err(HttpError::Redirect(format!(
            "more than {MAX_REDIRECTS} redirects"
        )))
    }

    async fn ask(&self, url: &Url) -> Result<Response<Incoming>, HttpError> {
        let far = |e: &dyn std::fmt::Display| {
            HttpError::Unreachable(format!("{}: {e}", without_credentials(url)))
        };
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        // The brackets of an IPv6 address belong to the URL.
        let name = host.trim_matches(['[', ']']);
        let stream = timeout(CONNECT, TcpStream::connect((name, port)))
            .await
            .map_err(|_| far(&"no connection within 10 s"))?
            .map_err(|e| far(&e))?;
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(&url[url::Position::BeforePath..url::Position::AfterQuery])
            .header(
                HOST,
                &url[url::Position::BeforeHost..url::Position::AfterPort],
            )
            .header(USER_AGENT, concat!("waggle/", env!("CARGO_PKG_VERSION")));
        if !url.username().is_empty() {
            request = request.header(AUTHORIZATION, basic(url));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| far(&e))?;
        let sent = async {
            if url.scheme() == "https" {
                let config = self.tls.clone().map_err(HttpError::Tls)?;
                let server = ServerName::try_from(name.to_owned()).map_err(|e| far(&e))?;
                let stream = TlsConnector::from(config)
                    .connect(server, stream)
                    .await
                    .map_err(|e| match e.get_ref() {
                        // A certificate does not get better by asking again.
                        Some(why) => HttpError::Tls(format!("{name}: {why}")),
                        None => far(&e),
                    })?;
                send(TokioIo::new(stream), request)
                    .await
                    .map_err(|e| far(&e))
            } else {
                send(TokioIo::new(stream), request)
                    .await
                    .map_err(|e| far(&e))
            }
        };
        timeout(self.stall, sent)
            .await
            .map_err(|_| HttpError::Stalled(self.stall))?
    }
}

async fn send<T>(io: T, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    // Ends with the response's body, or when that is dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.send_request(request).await
}

/// RFC 7617.
fn basic(url: &Url) -> String {
    let mut text = percent_decode(url.username()).into_vec();
    text.push(b':');
    text.extend(percent_decode(url.password().unwrap_or_default()).into_vec());
    format!("Basic {}", BASE64.encode(&text))
}

fn tls(more: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let mut add = |path: &Path| -> Result<(), String> {
        let certs = CertificateDer::pem_file_iter(path)
            .map_err(|e| format!("failed to read certificates from {}: {e}", path.display()))?;
        // One that can't be used does not spoil the others.
        roots.add_parsable_certificates(certs.flatten());
        Ok(())
    };
    let system = add(Path::new(SYSTEM_ROOTS));
    match more {
        Some(path) => add(path)?,
        None => system?,
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("failed to set up tls: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
