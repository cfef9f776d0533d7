//! Opens connections: name, address after address, TLS.
//!
//! What all workers of a node share is here: the resolver and the TLS configuration with its session cache.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
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

/// Addresses of a name that are tried in turn.
const ADDRESSES_MAX: usize = 4;

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
        Ok(Self {
            resolver: Arc::default(),
            tls: tls::client_config(cert_file.as_deref())?,
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
                Ok(stream) => return Ok(stream),
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
