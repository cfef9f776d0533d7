//! Channels to peers: one shared, lazy HTTP/2 connection for each node, and one more for snapshots, over mutual TLS that this crate
//! makes itself.
//!
//! Invariants:
//! * Taking a channel never dials and never waits; openraft asks for clients inside its own loop. A call dials, and a call that
//!   fails to dial fails at once, with a [`DialError`] in its source chain that says what is wrong with whom.
//! * A connection is only ever to the node it is named for: TLS asks for `node-ID.peer.mode-envoy` whatever the address, and
//!   the certificate must name this node's cluster once there is one.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::identity::{self, ClusterId, Identity, PeerIdentity, cluster_hex};

/// Limit of one message between nodes, in either direction. A log entry is at most 1 MiB, a read of entries too.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection is asked after this, and given up after the next.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Several entries of 1 MiB may be on the way without waiting for the other end's window.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What a TLS peer says that does not trust a certificate.
const CERTIFICATE_ALERTS: [AlertDescription; 5] = [
    AlertDescription::UnknownCA,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateUnknown,
    AlertDescription::DecryptError,
    AlertDescription::AccessDenied,
];

/// Shared channels by node id. A cheap clone.
#[derive(Clone, Debug)]
pub struct PeerChannels {
    inner: Arc<Inner>,
}

/// Why a peer could not be reached; found in a failed call by [`DialError::of`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DialError {
    /// Nothing listens there.
    #[error("{address} refuses connections: node {node_id} does not run, or listens elsewhere")]
    Refused {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
    },
    /// No answer in time.
    #[error("no answer from {address} (node {node_id}) within 2 s")]
    TimedOut {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
    },
    /// The address cannot be resolved or reached, or the connection broke.
    #[error("cannot connect to {address} (node {node_id}): {reason}")]
    Unreachable {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The peer's certificate is of another CA.
    #[error(
        "{address} (node {node_id}) holds another cluster secret; give all nodes the same --cluster-secret-file"
    )]
    OtherSecret {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
    },
    /// The peer refused this node's certificate.
    #[error(
        "the peer refuses this node's certificate ({reason}); it may hold another cluster secret"
    )]
    CertificateRefused {
        /// TLS' word for it.
        reason: String,
    },
    /// Another node answers at the address.
    #[error("{address} is not node {node_id}; correct the address or the id in --initial-cluster")]
    OtherNode {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
    },
    /// The peer belongs to another cluster.
    #[error(
        "{address} (node {node_id}) belongs to cluster {}, this node to {}",
        cluster_hex(.theirs), cluster_hex(.ours)
    )]
    OtherCluster {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
        /// Its cluster.
        theirs: ClusterId,
        /// This node's.
        ours: ClusterId,
    },
    /// The peer has not joined the cluster yet.
    #[error("{address} (node {node_id}) has not joined the cluster yet")]
    NotInCluster {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
    },
    /// TLS failed otherwise.
    #[error("{address} (node {node_id}) does not complete mutual TLS: {reason}")]
    Tls {
        /// The node that was dialled.
        node_id: u64,
        /// Where.
        address: String,
        /// What rustls said.
        reason: String,
    },
}

#[derive(Debug)]
struct Inner {
    identity: Arc<Identity>,
    /// The cluster that a peer's certificate must name; `None` during formation.
    expected: Option<ClusterId>,
    cached: Mutex<BTreeMap<(u64, Lane), (String, Channel)>>,
}

/// Which of its connections to a node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Lane {
    /// Short calls.
    Calls,
    /// What may fill a connection for minutes.
    Bulk,
}

#[cfg(not(feature = "sim"))]
type Connection = TlsStream<TcpStream>;
#[cfg(feature = "sim")]
type Connection = crate::sim::Stream;

/// One peer, as it is dialled.
#[derive(Clone)]
struct Target {
    identity: Arc<Identity>,
    expected: Option<ClusterId>,
    node_id: u64,
    address: String,
}

// === impl PeerChannels ===

impl PeerChannels {
    /// Channels between members: they accept peers of this node's cluster only.
    pub fn new(identity: Arc<Identity>) -> Self {
        let expected = identity.cluster_id();
        Self::with_expected(identity, expected)
    }

    /// Channels on which only `Form` is called: a peer may have no cluster yet, or another.
    pub(crate) fn for_formation(identity: Arc<Identity>) -> Self {
        Self::with_expected(identity, None)
    }

    /// The channel to a node. The same as before while the address is the same, else a new one. Never dials; to be called
    /// inside a tokio runtime, which drives the connection.
    pub fn channel(&self, node_id: u64, address: &str) -> Channel {
        self.lane(node_id, address, Lane::Calls)
    }

    /// A channel of its own for what may fill a connection for minutes, as [`Self::channel`].
    pub(crate) fn bulk(&self, node_id: u64, address: &str) -> Channel {
        self.lane(node_id, address, Lane::Bulk)
    }

    fn lane(&self, node_id: u64, address: &str, lane: Lane) -> Channel {
        let mut cached = self.cached();
        if let Some((known, channel)) = cached.get(&(node_id, lane))
            && known == address
        {
            return channel.clone();
        }
        let target = Target {
            identity: Arc::clone(&self.inner.identity),
            expected: self.inner.expected,
            node_id,
            address: address.to_owned(),
        };
        let channel = connect_lazy(target);
        cached.insert((node_id, lane), (address.to_owned(), channel.clone()));
        channel
    }

    /// Forgets a node; its connections end with the last clones of their channels.
    pub fn forget(&self, node_id: u64) {
        self.cached().retain(|(node, _), _| *node != node_id);
    }

    fn with_expected(identity: Arc<Identity>, expected: Option<ClusterId>) -> Self {
        Self {
            inner: Arc::new(Inner {
                identity,
                expected,
                cached: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, BTreeMap<(u64, Lane), (String, Channel)>> {
        // Only whole entries are inserted or removed, so a poisoned lock still holds a consistent map.
        self.inner
            .cached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl DialError ===

impl DialError {
    /// Why a call failed before the peer's service saw it, if that is why it failed.
    pub fn of(status: &tonic::Status) -> Option<Self> {
        let mut cause = status.source();
        while let Some(error) = cause {
            if let Some(dial) = error.downcast_ref::<Self>() {
                return Some(dial.clone());
            }
            if let Some(io) = error.downcast_ref::<io::Error>()
                && let Some(reason) = alert_about_certificate(io)
            {
                return Some(Self::CertificateRefused { reason });
            }
            cause = error.source();
        }
        None
    }
}

// === impl Target ===

impl Target {
    async fn dial(self) -> Result<TokioIo<Connection>, DialError> {
        #[cfg(not(feature = "sim"))]
        let connecting = self.connect();
        #[cfg(feature = "sim")]
        let connecting = self.connect_in_simulation();
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map(TokioIo::new),
            Err(_) => Err(DialError::TimedOut {
                node_id: self.node_id,
                address: self.address,
            }),
        }
    }

    #[cfg(feature = "sim")]
    async fn connect_in_simulation(&self) -> Result<Connection, DialError> {
        crate::sim::dial(self.identity.node_id(), self.node_id)
            .await
            .map_err(|error| self.tcp_failed(&error))
    }

    #[cfg_attr(
        feature = "sim",
        expect(dead_code, reason = "a simulation has no TLS: it says who speaks")
    )]
    async fn connect(&self) -> Result<TlsStream<TcpStream>, DialError> {
        let tcp = TcpStream::connect(&self.address)
            .await
            .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
            .map_err(|error| self.tcp_failed(&error))?;
        let name = identity::server_name(self.node_id).ok_or_else(|| self.other_node())?;
        let tls = TlsConnector::from(self.identity.client_config())
            .connect(name, tcp)
            .await
            .map_err(|error| self.tls_failed(&error))?;
        let peer = identity::peer_of(tls.get_ref().1).map_err(|error| DialError::Tls {
            node_id: self.node_id,
            address: self.address.clone(),
            reason: error.to_string(),
        })?;
        self.check(peer)?;
        Ok(tls)
    }

    fn check(&self, peer: PeerIdentity) -> Result<(), DialError> {
        if peer.node_id != self.node_id {
            return Err(self.other_node());
        }
        match (self.expected, peer.cluster_id) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(DialError::OtherCluster {
                node_id: self.node_id,
                address: self.address.clone(),
                theirs,
                ours,
            }),
            (Some(_), None) if self.identity.uri_required() => Err(DialError::NotInCluster {
                node_id: self.node_id,
                address: self.address.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn tcp_failed(&self, error: &io::Error) -> DialError {
        let (node_id, address) = (self.node_id, self.address.clone());
        match error.kind() {
            io::ErrorKind::ConnectionRefused => DialError::Refused { node_id, address },
            io::ErrorKind::TimedOut => DialError::TimedOut { node_id, address },
            _ => DialError::Unreachable {
                node_id,
                address,
                reason: error.to_string(),
            },
        }
    }

    fn tls_failed(&self, error: &io::Error) -> DialError {
        use CertificateError as C;
        let (node_id, address) = (self.node_id, self.address.clone());
        match tls_error(error) {
            // The CA's subject is the same for all secrets, so that another secret's certificate is known by its signature.
            Some(rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature)) => {
                DialError::OtherSecret { node_id, address }
            }
            Some(rustls::Error::InvalidCertificate(
                C::NotValidForName | C::NotValidForNameContext { .. },
            )) => DialError::OtherNode { node_id, address },
            Some(rustls::Error::AlertReceived(alert)) if CERTIFICATE_ALERTS.contains(alert) => {
                DialError::OtherSecret { node_id, address }
            }
            Some(other) => DialError::Tls {
                node_id,
                address,
                reason: other.to_string(),
            },
            None => self.tcp_failed(error),
        }
    }

    fn other_node(&self) -> DialError {
        DialError::OtherNode {
            node_id: self.node_id,
            address: self.address.clone(),
        }
    }
}

fn connect_lazy(target: Target) -> Channel {
    // The URI only fills the `:authority` of requests; where to dial is the connector's.
    Endpoint::from_static("http://peer.mode-envoy")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_| target.clone().dial()))
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// In TLS 1.3 a server judges the client's certificate after the client has begun to send, so that its alert comes through
/// HTTP/2, which keeps only the text of rustls' error.
fn alert_about_certificate(error: &io::Error) -> Option<String> {
    let text = error.to_string();
    let alert = text.strip_prefix("received fatal alert: ")?;
    CERTIFICATE_ALERTS
        .iter()
        .any(|known| format!("{known:?}") == alert)
        .then(|| alert.to_owned())
}
