//! Certificates: whom an endpoint must be signed by, and who this node is.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tonic::transport::{ClientTlsConfig, Identity};

use crate::{Destination, TelemetryError};

/// What can't be used of the system's certificates, in words.
pub(super) type Doubt = Option<String>;

/// For gRPC.
pub(super) fn of_grpc(to: &Destination) -> Result<(ClientTlsConfig, Doubt), TelemetryError> {
    let (store, doubt) = trusted(to)?;
    let mut tls = ClientTlsConfig::new().trust_anchors(store.roots);
    if let Some((certificate, key)) = &to.identity {
        identity(certificate, key)?;
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok((tls, doubt))
}

/// For HTTP.
pub(super) fn of_http(to: &Destination) -> Result<(ClientConfig, Doubt), TelemetryError> {
    let bad = |source| TelemetryError::BadTls {
        url: to.url.clone(),
        source,
    };
    let (store, doubt) = trusted(to)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_root_certificates(store);
    let tls = match &to.identity {
        Some((certificate, key)) => {
            let (chain, key) = identity(certificate, key)?;
            builder.with_client_auth_cert(chain, key).map_err(bad)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok((tls, doubt))
}

/// Who may sign for an endpoint. What is wrong with the system's certificates is no reason not to start: it is told, and the
/// endpoint's state says the rest.
fn trusted(to: &Destination) -> Result<(RootCertStore, Doubt), TelemetryError> {
    if let Some(ca) = &to.ca {
        return Ok((roots(ca)?, None));
    }
    if !to.url.starts_with("https://") {
        return Ok((RootCertStore::empty(), None));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (_, unread) = store.add_parsable_certificates(found.certs);
    let mut words: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    if unread > 0 {
        words.push(format!("{unread} can't be read"));
    }
    if store.is_empty() {
        words.push("there are none: give an authority with ca=FILE".to_owned());
    }
    let doubt = (!words.is_empty()).then(|| words.join("; "));
    Ok((store, doubt))
}

fn roots(ca: &Path) -> Result<RootCertStore, TelemetryError> {
    let mut store = RootCertStore::empty();
    let (good, _) = store.add_parsable_certificates(certificates(ca)?);
    if good == 0 {
        return Err(TelemetryError::NoCertificate {
            path: ca.to_owned(),
        });
    }
    Ok(store)
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Own, TelemetryError> {
    let chain = certificates(certificate)?;
    if chain.is_empty() {
        return Err(TelemetryError::NoCertificate {
            path: certificate.to_owned(),
        });
    }
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| TelemetryError::NoKey {
        path: key.to_owned(),
    })?;
    Ok((chain, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TelemetryError> {
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    all.map_err(|_| TelemetryError::NoCertificate {
        path: path.to_owned(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TelemetryError> {
    fs::read(path).map_err(|source| TelemetryError::BadFile {
        path: path.to_owned(),
        source,
    })
}
