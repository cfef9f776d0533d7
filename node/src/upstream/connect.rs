//! Opens connections: name, address after address, TLS.
//!
//! What all workers of a node share is here: the resolver and the TLS configuration with its session cache.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::io::Io;
use super::origin::Origin;
use super::resolve::Resolver;
use super::tls;
pub use super::tls::TlsError as NetworkError;
use crate::descriptors::{Use, may_keep};

/// Addresses of a name that are tried in turn.
const ADDRESSES_MAX: usize = 4;
const NONE_LEFT: &str =
    "the node has too few open files left for one more connection to an upstream; raise its limit";

/// How this node reaches upstreams; one for all workers.
#[derive(Clone, Debug)]
pub struct Network {
    resolver: Arc<Resolver>,
    tls: Arc<ClientConfig>,
    #[cfg(test)]
    memory: Option<memory::Connect>,
}

// === impl Network ===

impl Network {
    /// Reads the roots of trust: the file that `SSL_CERT_FILE` names, else the web's.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] where that file cannot be used.
    pub fn new() -> Result<Self, NetworkError> {
        let cert_file = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        Self::trusting(cert_file.as_deref())
    }

    fn trusting(cert_file: Option<&Path>) -> Result<Self, NetworkError> {
        Ok(Self {
            resolver: Arc::default(),
            tls: tls::client_config(cert_file)?,
            #[cfg(test)]
            memory: None,
        })
    }

    /// A new connection, TLS included. The caller bounds its time.
    pub(super) async fn connect(&self, origin: &Origin) -> io::Result<Io> {
        #[cfg(test)]
        if let Some(connect) = &self.memory {
            return connect.connect(origin).map(Io::Memory);
        }
        let stream = self.tcp(origin).await?;
        stream.set_nodelay(true)?;
        if !origin.tls {
            return Ok(Io::Tcp(stream));
        }
        let name = ServerName::try_from(origin.host.to_string())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        Ok(Io::Tls(Box::new(connector.connect(name, stream).await?)))
    }

    async fn tcp(&self, origin: &Origin) -> io::Result<TcpStream> {
        let addresses = self.resolver.addresses(&origin.host).await?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses.iter().take(ADDRESSES_MAX) {
            match TcpStream::connect(SocketAddr::new(*address, origin.port)).await {
                Ok(stream) if may_keep(&stream, Use::Other) => return Ok(stream),
                Ok(_) => return Err(io::Error::other(NONE_LEFT)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Upstreams in memory, so that tests run in paused time.
#[cfg(test)]
pub(crate) mod memory {
    use super::{Arc, Network, Origin, Resolver, io, tls};
    use tokio::io::DuplexStream;

    type Accept = dyn Fn(&Origin) -> io::Result<DuplexStream> + Send + Sync;

    /// Makes the gateway's end of a connection.
    #[derive(Clone)]
    pub(crate) struct Connect(Arc<Accept>);

    impl Connect {
        pub(super) fn connect(&self, origin: &Origin) -> io::Result<DuplexStream> {
            (self.0)(origin)
        }
    }

    impl std::fmt::Debug for Connect {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Connect")
        }
    }

    /// A network whose connections `accept` makes.
    pub(crate) fn network(
        accept: impl Fn(&Origin) -> io::Result<DuplexStream> + Send + Sync + 'static,
    ) -> Network {
        Network {
            resolver: Arc::<Resolver>::default(),
            tls: tls::client_config(None).unwrap(),
            memory: Some(Connect(Arc::new(accept))),
        }
    }
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::url::BaseUrl;
    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An https server for `localhost`, which answers one connection with what it was sent; and its certificate.
    async fn server() -> (TcpListener, TlsAcceptor, tempfile::NamedTempFile) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener, TlsAcceptor::from(Arc::new(config)), file)
    }

    fn origin(listener: &TcpListener, host: &str) -> Origin {
        let port = listener.local_addr().unwrap().port();
        Origin::of(&BaseUrl::parse(&format!("https://{host}:{port}")).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn bytes_cross_a_connection_whose_certificate_is_trusted() {
        let (listener, acceptor, file) = server().await;
        let network = Network::trusting(Some(file.path())).unwrap();
        let origin = origin(&listener, "localhost");
        let serving = async {
            let stream = listener.accept().await.unwrap().0;
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut read = [0; 4];
            stream.read_exact(&mut read).await.unwrap();
            stream.write_all(&read).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let asking = async {
            let mut io = network.connect(&origin).await.unwrap();
            assert!(!io.is_stale());
            io.write_all(b"ping").await.unwrap();
            io.flush().await.unwrap();
            let mut read = Vec::new();
            io.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"ping");
            assert!(io.is_stale());
        };
        tokio::join!(serving, asking);
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_trusted_or_for_another_name_is_refused() {
        let (listener, acceptor, file) = server().await;
        let trusting = Network::trusting(Some(file.path())).unwrap();
        let strict = Network::trusting(None).unwrap();
        for (network, host) in [(strict, "localhost"), (trusting, "127.0.0.1")] {
            let origin = origin(&listener, host);
            let serving = async {
                let stream = listener.accept().await.unwrap().0;
                assert!(acceptor.accept(stream).await.is_err());
            };
            let (refused, ()) = tokio::join!(network.connect(&origin), serving);
            assert!(refused.is_err(), "{host}");
        }
    }
}
