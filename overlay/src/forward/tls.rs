//! DNS over TLS (RFC 7858): a few connections to each upstream, kept for the next questions.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};
use waggle_overlay_plan::wire::{Query, Scan};

use super::exchange::Server;

/// Where distributions keep the certificates that they trust.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Connections kept for each upstream.
const MAX_IDLE: usize = 4;
/// How long one is kept: servers end them after some ten seconds.
const IDLE: Duration = Duration::from_secs(8);

/// Why DNS over TLS can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of certificates.
    #[error("failed to read certificates from {path}")]
    Roots {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// There is none in it that can be used.
    #[error("no usable certificate in {0}")]
    NoRoots(PathBuf),
    /// No server can have a certificate for it.
    #[error("{0:?} is no name of a server")]
    Name(String),
    /// The library can't do what it was built for.
    #[error("failed to set up tls")]
    Library(#[from] rustls::Error),
}

/// Who is trusted to say who a server is.
pub(super) struct TlsRoots(Arc<ClientConfig>);

impl TlsRoots {
    /// From a file of certificates, the system's if none is given.
    pub(super) fn read(path: Option<&Path>) -> Result<Self, TlsError> {
        let path = path.unwrap_or(Path::new(SYSTEM_ROOTS));
        let failed = |source| TlsError::Roots {
            path: path.to_owned(),
            source,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
            // Old ones that the library does not take are no loss.
            let _ = roots.add(certificate.map_err(failed)?);
        }
        if roots.is_empty() {
            return Err(TlsError::NoRoots(path.to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn client(&self, addr: SocketAddr, name: &str) -> Result<Tls, TlsError> {
        let server = ServerName::try_from(name.to_owned());
        Ok(Tls {
            addr,
            name: server.map_err(|_| TlsError::Name(name.to_owned()))?,
            connector: TlsConnector::from(Arc::clone(&self.0)),
            idle: Mutex::default(),
        })
    }
}

/// Connections to one upstream.
pub(super) struct Tls {
    addr: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    idle: Mutex<Vec<(Instant, TlsStream<TcpStream>)>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({}, {:?})", self.addr, self.name)
    }
}

impl Tls {
    /// Asks over a kept connection, and over a new one if there is none or it is dead.
    pub(super) async fn ask(&self, server: &Server, query: &Query<'_>) -> io::Result<Scan> {
        if let Some(mut stream) = self.take()
            && let Ok(answer) = server.over_stream(&mut stream, query).await
        {
            self.keep(stream);
            return Ok(answer);
        }
        let tcp = TcpStream::connect(self.addr).await?;
        tcp.set_nodelay(true)?;
        let mut stream = self.connector.connect(self.name.clone(), tcp).await?;
        let answer = server.over_stream(&mut stream, query).await?;
        self.keep(stream);
        Ok(answer)
    }

    fn take(&self) -> Option<TlsStream<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < IDLE);
        idle.pop().map(|(_, stream)| stream)
    }

    fn keep(&self, stream: TlsStream<TcpStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((Instant::now(), stream));
        }
    }
}
