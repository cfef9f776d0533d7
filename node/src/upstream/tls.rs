//! The trust that https upstreams are checked against: the web's roots, or those of `SSL_CERT_FILE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use thiserror::Error;

/// Why the roots could not be loaded.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file that `SSL_CERT_FILE` names cannot be used.
    #[error(
        "reading root certificates from {path} (SSL_CERT_FILE): {problem}; name a PEM file of certificates or unset it"
    )]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The TLS library refused its own defaults.
    #[error("setting up TLS for upstreams")]
    Setup(#[source] rustls::Error),
}

/// The configuration of every https connection: HTTP/1.1 only, certificates always checked.
pub(super) fn client_config(cert_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match cert_file {
        Some(path) => roots_of(path)?,
        None => web_roots(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn web_roots() -> RootCertStore {
    RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    }
}

/// As OpenSSL does, the file replaces the built-in roots.
fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let fault = |problem: String| TlsError::Roots {
        path: path.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| fault(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fault("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webs_roots_are_the_default_and_http_1_1_is_asked_for() {
        let config = client_config(None).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = client_config(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("SSL_CERT_FILE"), "{error}");
        assert!(error.contains("no certificate"), "{error}");
        assert!(client_config(Some(Path::new("/nonexistent/roots.pem"))).is_err());
    }
}
