//! TLS towards the admin listener: whom the command line trusts, and how it connects.
//!
//! Trust is a file (`--ca`, else the one that the context file names for the address), or else the web's roots. The name in
//! the address must stand in the certificate; nothing waives that.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const HTTPS_PORT: u16 = 443;

/// How to connect to one address with TLS.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    host: String,
    port: u16,
}

// === impl Tls ===

impl Tls {
    /// For an `https` address; `ca` is the file of who is trusted.
    pub(super) fn new(uri: &Uri, ca: Option<&Path>) -> anyhow::Result<Self> {
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host.clone())
            .with_context(|| format!("`{host}` is not a name that a certificate can have"))?;
        let roots = match ca {
            Some(path) => roots(path)?,
            None => RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            },
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            connector: Arc::new(config).into(),
            name,
            host,
            port: uri.port_u16().unwrap_or(HTTPS_PORT),
        })
    }

    pub(super) async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let connected = self.connector.connect(self.name, stream).await;
        connected.map(TokioIo::new).map_err(|error| {
            let text = error.to_string();
            if text.contains("invalid peer certificate") {
                return io::Error::other(format!(
                    "{text}; --ca FILE names whom to trust (a node leaves its own in DIR/admin-ca.pem)"
                ));
            }
            error
        })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// === free functions ===

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let doing = || format!("reading the CA file {}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).with_context(doing)? {
        roots
            .add(certificate.with_context(doing)?)
            .with_context(doing)?;
    }
    if roots.is_empty() {
        bail!("{}: it holds no certificate in PEM", doing());
    }
    Ok(roots)
}
