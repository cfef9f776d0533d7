//! Who a node is to its peers: keys, certificates and TLS settings of the peer listener and of dialling.
//!
//! ```text
//! cluster secret --HKDF--> P-256 CA key --signs--> this process's node certificate (a fresh key at each start)
//!                                                    DNS node-ID.peer.mode-envoy        what a dialler asks for
//!                                                    URI mode-envoy://CLUSTER/node/ID   once the cluster id is known
//! ```
//!
//! Invariants:
//! * All nodes derive the same CA key and subject, so each trusts what any of them signed; certificates are never exchanged.
//! * The peer listener is always TLS 1.3, mutual but for a node that joins, which has no certificate yet and is served nothing
//!   but `Joining`; a certificate that is shown must be of the CA. TLS is made with ring named explicitly (the process default is never asked), and sessions
//!   are never resumed: a resumed one would carry a certificate from before the cluster id was known.
//! * A certificate names exactly one node, and at most one cluster; a URI and a DNS name that disagree name nobody.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::watch;

use self::authority::PrivateCa;
use crate::join::Pin;
use crate::secret::{ClusterSecret, HeldSecrets};

mod authority;
mod certificate;
mod joining;
mod pki;

pub use self::certificate::{ClusterId, PeerIdentity, cluster_hex, parse_cluster_hex};
pub(crate) use self::certificate::{peer_of, server_name};
pub(crate) use self::joining::join_client_config;
#[cfg(test)]
pub(crate) use self::pki::write_pki;

/// PEM files of an operator who manages peer certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPki {
    /// This node's certificate chain, with the DNS name `node-ID.peer.mode-envoy`.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA certificates which peers' certificates must come from.
    pub ca: PathBuf,
}

/// This node's identity, shared by the peer listener and by all dialling.
#[derive(Debug)]
pub struct Identity {
    node_id: u64,
    trust: Trust,
    current: RwLock<Current>,
    renewals: watch::Sender<u64>,
}

/// Why this node has no identity, or a peer's certificate names nobody.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// No CA key could be derived.
    #[error("the cluster secret gives no private key for the peer CA; use another secret")]
    CaKey,
    /// A certificate could not be made.
    #[error("cannot make this node's peer certificate")]
    Certificate(#[from] rcgen::Error),
    /// rustls refused keys or certificates.
    #[error("cannot use this node's peer certificate, key and CA for TLS")]
    Tls(#[from] rustls::Error),
    /// The CA gives no verifier of client certificates.
    #[error("the peer CA cannot verify the certificates of peers")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A PEM file could not be read.
    #[error("cannot read {what} from {path}: {reason}")]
    Pem {
        /// What was sought.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// An operator's certificate is not of this node.
    #[error(
        "the peer certificate {path} is not one of node {node_id}: {reason}; it needs the DNS name node-{node_id}.peer.mode-envoy"
    )]
    ForeignCertificate {
        /// The file.
        path: PathBuf,
        /// This node.
        node_id: u64,
        /// What it names instead.
        reason: String,
    },
    /// A certificate does not name a node.
    #[error("the peer's certificate names no node: {0}")]
    NamesNobody(&'static str),
}

/// Where this node's certificates come from.
#[derive(Debug)]
enum Trust {
    Secret(Box<RwLock<Cas>>),
    Operator,
}

/// The CA that signs, and another one that is trusted as well while the secret is replaced.
#[derive(Debug)]
struct Cas {
    shown: PrivateCa,
    also: Option<PrivateCa>,
}

#[derive(Clone, Debug)]
struct Current {
    cluster_id: Option<ClusterId>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// A certificate chain, its key and who is trusted.
struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
}

/// A certificate of the cluster's private CA for a listener that others than nodes connect to.
pub struct Minted {
    /// The certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key, made for it.
    pub key: PrivateKeyDer<'static>,
    /// The CA's certificate as PEM, for whoever shall trust it.
    pub ca_pem: String,
}

// === impl Minted ===

impl Minted {
    /// For the names and addresses by which the listener is reached.
    ///
    /// # Errors
    /// [`IdentityError`], where the secret gives no CA, or a name cannot stand in a certificate.
    pub fn server(secret: &ClusterSecret, names: &[String]) -> Result<Self, IdentityError> {
        PrivateCa::derive(secret)?.issue_server(names)
    }

    /// For a node that does not know the cluster's secret yet: signed by itself, so that nobody trusts it, and replaced when
    /// the node has joined.
    ///
    /// # Errors
    /// [`IdentityError`], where a name cannot stand in a certificate.
    pub fn provisional(names: &[String]) -> Result<Self, IdentityError> {
        authority::provisional(names)
    }
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").finish_non_exhaustive()
    }
}

// === impl Identity ===

impl Identity {
    /// Derives or reads this node's identity.
    ///
    /// # Errors
    /// [`IdentityError`], where the secret or the PEM files cannot serve as this node's identity.
    pub fn new(
        secret: &ClusterSecret,
        node_id: u64,
        cluster_id: Option<ClusterId>,
        pki: Option<&PeerPki>,
    ) -> Result<Arc<Self>, IdentityError> {
        let (trust, credentials) = if let Some(pki) = pki {
            (Trust::Operator, pki::read(pki, node_id)?)
        } else {
            let cas = Cas {
                shown: PrivateCa::derive(secret)?,
                also: None,
            };
            let credentials = cas.issue(node_id, cluster_id)?;
            (Trust::Secret(Box::new(RwLock::new(cas))), credentials)
        };
        Ok(Arc::new(Self {
            node_id,
            trust,
            current: RwLock::new(Current::new(cluster_id, credentials)?),
            renewals: watch::Sender::new(0),
        }))
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// The cluster which this node's certificate names, or would name if the operator's PKI could.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.read().cluster_id
    }

    /// Whether every peer's certificate must name the cluster. An operator's PKI cannot know a cluster id before there is one;
    /// there it may be absent, but never another.
    pub fn uri_required(&self) -> bool {
        matches!(self.trust, Trust::Secret(_))
    }

    /// What a join token pins: the key of the private CA, or that the operator has another.
    pub(crate) fn pin(&self) -> Pin {
        match &self.trust {
            Trust::Secret(cas) => Pin::CaKey(Box::new(read(cas).shown.public_key())),
            Trust::Operator => Pin::Operator,
        }
    }

    /// Makes a certificate that names the cluster, for every connection from now on. Connections which exist keep the old one.
    ///
    /// # Errors
    /// [`IdentityError`], where the certificate cannot be made.
    pub fn bind_cluster(&self, cluster_id: ClusterId) -> Result<(), IdentityError> {
        let current = match &self.trust {
            Trust::Secret(cas) => {
                let credentials = read(cas).issue(self.node_id, Some(cluster_id))?;
                Current::new(Some(cluster_id), credentials)?
            }
            Trust::Operator => Current {
                cluster_id: Some(cluster_id),
                ..self.read()
            },
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// Shows a certificate of the secret in force, and trusts what is held. Where that is not only one more, connections are made anew.
    /// Nothing changes where the operator has a PKI.
    ///
    /// # Errors
    /// [`IdentityError`], where a certificate cannot be made.
    pub(crate) fn set_secrets(&self, secrets: &HeldSecrets) -> Result<(), IdentityError> {
        let Trust::Secret(cas) = &self.trust else {
            return Ok(());
        };
        let other = secrets.other();
        let new = Cas {
            shown: PrivateCa::derive(&secrets.current())?,
            also: other.as_ref().map(PrivateCa::derive).transpose()?,
        };
        let cluster_id = self.cluster_id();
        let current = Current::new(cluster_id, new.issue(self.node_id, cluster_id)?)?;
        let mut cas = cas.write().unwrap_or_else(PoisonError::into_inner);
        let widened = new.also.is_some()
            && cas.also.is_none()
            && new.shown.public_key() == cas.shown.public_key();
        *cas = new;
        drop(cas);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        if !widened {
            self.renewals.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Changes when connections that exist are to be made anew.
    pub(crate) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// TLS settings for accepting a connection now.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        self.read().server
    }

    /// TLS settings for dialling now.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        self.read().client
    }

    fn read(&self) -> Current {
        // A writer only swaps a whole value, so a poisoned lock still holds a whole one.
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

// === impl Cas ===

impl Cas {
    fn issue(
        &self,
        node_id: u64,
        cluster_id: Option<ClusterId>,
    ) -> Result<Credentials, IdentityError> {
        let mut credentials = self.shown.issue(node_id, cluster_id)?;
        if let Some(also) = &self.also {
            also.add_to(&mut credentials.roots)?;
        }
        Ok(credentials)
    }
}

fn read(cas: &RwLock<Cas>) -> RwLockReadGuard<'_, Cas> {
    // A writer only swaps a whole value.
    cas.read().unwrap_or_else(PoisonError::into_inner)
}

// === impl Current ===

impl Current {
    fn new(cluster_id: Option<ClusterId>, credentials: Credentials) -> Result<Self, IdentityError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(credentials.roots);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                // Who shows none is served `Joining` only; the peer server sees to that.
                .allow_unauthenticated()
                .build()?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(credentials.chain, credentials.key)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            cluster_id,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = [0xab; 16];

    fn secret(byte: &str) -> ClusterSecret {
        ClusterSecret::parse(&byte.repeat(32)).unwrap()
    }

    #[test]
    fn binding_a_cluster_changes_what_new_connections_show() {
        let identity = Identity::new(&secret("01"), 1, None, None).unwrap();
        let before = identity.server_config();
        identity.bind_cluster(CLUSTER).unwrap();
        assert_eq!(identity.cluster_id(), Some(CLUSTER));
        assert!(!Arc::ptr_eq(&before, &identity.server_config()));
    }

    #[test]
    fn an_operators_certificate_must_name_this_node() {
        let dir = tempfile::tempdir().unwrap();
        let pki = write_pki(dir.path(), 5, "03", "03");
        let identity = Identity::new(&secret("01"), 5, None, Some(&pki)).unwrap();
        identity.bind_cluster(CLUSTER).unwrap();
        assert_eq!(
            (identity.cluster_id(), identity.uri_required()),
            (Some(CLUSTER), false)
        );
        let error = Identity::new(&secret("01"), 6, None, Some(&pki))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("names node 5") && error.contains("node-6.peer"),
            "{error}"
        );
        let missing = PeerPki {
            key: dir.path().join("none"),
            ..pki
        };
        let error = Identity::new(&secret("01"), 5, None, Some(&missing))
            .unwrap_err()
            .to_string();
        assert!(error.contains("the peer key"), "{error}");
    }
}
