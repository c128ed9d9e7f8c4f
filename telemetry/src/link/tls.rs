//! Certificates: whom an endpoint must be signed by, and who this node is.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::{Destination, TelemetryError};

/// For gRPC.
pub(super) fn of_grpc(to: &Destination) -> Result<ClientTlsConfig, TelemetryError> {
    let mut tls = ClientTlsConfig::new();
    tls = match &to.ca {
        Some(ca) => {
            // Read here as well as there: what is no certificate is said at the start.
            roots(ca)?;
            tls.ca_certificate(Certificate::from_pem(read(ca)?))
        }
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &to.identity {
        identity(certificate, key)?;
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

/// For HTTP.
pub(super) fn of_http(to: &Destination) -> Result<ClientConfig, TelemetryError> {
    let bad = |source| TelemetryError::BadTls {
        url: to.url.clone(),
        source,
    };
    let store = if let Some(ca) = &to.ca {
        roots(ca)?
    } else {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        store
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_root_certificates(store);
    match &to.identity {
        Some((certificate, key)) => {
            let (chain, key) = identity(certificate, key)?;
            builder.with_client_auth_cert(chain, key).map_err(bad)
        }
        None => Ok(builder.with_no_client_auth()),
    }
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
