//! Whom a certificate names: the node by a DNS name, its cluster by a URI; and how both are written.
//!
//! Invariant: what is read is exactly what is written. Each name has one spelling, and a certificate that names two nodes, or
//! one node in two ways that disagree, names nobody.

use std::fmt::Write as _;

use rustls_pki_types::ServerName;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::IdentityError;

/// A cluster's random name, made at its first formation.
pub type ClusterId = [u8; 16];

const DNS_PREFIX: &str = "node-";
const DNS_SUFFIX: &str = ".peer.mode-envoy";
const URI_PREFIX: &str = "mode-envoy://";
const URI_NODE: &str = "/node/";

/// Whom a peer's certificate names. It is in the extensions of every request of the peer listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The node.
    pub node_id: u64,
    /// Its cluster, if it had one when the certificate was made.
    pub cluster_id: Option<ClusterId>,
}

// === impl PeerIdentity ===

impl PeerIdentity {
    /// Reads whom a certificate names. The caller has verified the certificate.
    ///
    /// # Errors
    /// [`IdentityError::NamesNobody`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let bad = IdentityError::NamesNobody;
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| bad("it is not an X.509 certificate"))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| bad("its alternative names are not valid"))?
            .ok_or_else(|| bad("it has no alternative names"))?;
        let mut node = None;
        let mut uri = None;
        for name in &names.value.general_names {
            let (slot, found): (&mut Option<_>, _) = match name {
                GeneralName::DNSName(dns) if dns.ends_with(DNS_SUFFIX) => (
                    &mut node,
                    (
                        None,
                        parse_dns(dns).ok_or_else(|| bad("its DNS name is no node's"))?,
                    ),
                ),
                GeneralName::URI(text) if text.starts_with(URI_PREFIX) => {
                    let (cluster, id) =
                        parse_uri(text).ok_or_else(|| bad("its URI is no node's"))?;
                    (&mut uri, (Some(cluster), id))
                }
                _ => continue,
            };
            if slot.replace(found).is_some() {
                return Err(bad("it names more than one node"));
            }
        }
        let (_, node_id) = node.ok_or_else(|| bad("it has no DNS name node-ID.peer.mode-envoy"))?;
        match uri {
            Some((_, id)) if id != node_id => Err(bad("its DNS name and its URI disagree")),
            Some((cluster_id, _)) => Ok(Self {
                node_id,
                cluster_id,
            }),
            None => Ok(Self {
                node_id,
                cluster_id: None,
            }),
        }
    }
}

/// A cluster id as people and certificates see it: 32 hex digits.
pub fn cluster_hex(cluster_id: &ClusterId) -> String {
    cluster_id
        .iter()
        .fold(String::with_capacity(32), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Reads what [`cluster_hex`] writes, and nothing else.
pub fn parse_cluster_hex(text: &str) -> Option<ClusterId> {
    if text.len() != 32 || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// The TLS name of a node, whatever its address.
pub(crate) fn server_name(node_id: u64) -> Option<ServerName<'static>> {
    ServerName::try_from(dns_name(node_id)).ok()
}

/// The certificate of a TLS connection's other end, if it names a node.
pub(crate) fn peer_of(connection: &rustls::CommonState) -> Result<PeerIdentity, IdentityError> {
    let chain = connection.peer_certificates().unwrap_or_default();
    let leaf = chain
        .first()
        .ok_or(IdentityError::NamesNobody("it has shown none"))?;
    PeerIdentity::of_certificate(leaf)
}

/// The URI that names a node of a cluster.
pub(super) fn uri(cluster_id: &ClusterId, node_id: u64) -> String {
    format!("{URI_PREFIX}{}{URI_NODE}{node_id}", cluster_hex(cluster_id))
}

/// The DNS name of a node.
pub(super) fn dns_name(node_id: u64) -> String {
    format!("{DNS_PREFIX}{node_id}{DNS_SUFFIX}")
}

fn parse_dns(name: &str) -> Option<u64> {
    parse_id(name.strip_suffix(DNS_SUFFIX)?.strip_prefix(DNS_PREFIX)?)
}

fn parse_uri(uri: &str) -> Option<(ClusterId, u64)> {
    let (cluster, node) = uri.strip_prefix(URI_PREFIX)?.split_once(URI_NODE)?;
    Some((parse_cluster_hex(cluster)?, parse_id(node)?))
}

/// An id in the one way we write it: no sign, no leading zero.
fn parse_id(text: &str) -> Option<u64> {
    let id = text.parse().ok()?;
    (u64::to_string(&id) == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use rcgen::SanType;

    use super::*;
    use crate::identity::authority::PrivateCa;
    use crate::secret::ClusterSecret;

    const CLUSTER: ClusterId = [0xab; 16];

    fn ca() -> PrivateCa {
        PrivateCa::derive(&ClusterSecret::parse(&"01".repeat(32)).unwrap()).unwrap()
    }

    fn issued(node_id: u64, cluster_id: Option<ClusterId>) -> Vec<u8> {
        ca().issue(node_id, cluster_id).unwrap().chain[0].to_vec()
    }

    fn signed_with(names: &[SanType]) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        ca().sign(&key, names.to_vec()).unwrap().der().to_vec()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn a_certificate_names_its_node_and_cluster() {
        let named = |der: Vec<u8>| PeerIdentity::of_certificate(&der).unwrap();
        assert_eq!(
            named(issued(7, None)),
            PeerIdentity {
                node_id: 7,
                cluster_id: None
            }
        );
        assert_eq!(
            named(issued(u64::MAX, Some(CLUSTER))),
            PeerIdentity {
                node_id: u64::MAX,
                cluster_id: Some(CLUSTER)
            }
        );
    }

    #[test]
    fn a_certificate_of_two_nodes_or_of_none_names_nobody() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let of = |id: u64| format!("mode-envoy://{}/node/{id}", cluster_hex(&CLUSTER));
        let one = || dns("node-1.peer.mode-envoy");
        for names in [
            vec![],
            vec![dns("localhost")],
            vec![uri(&of(1))],
            vec![one(), dns("node-2.peer.mode-envoy")],
            vec![one(), uri(&of(2))],
            vec![one(), uri(&of(1)), uri(&of(1))],
            vec![dns("node-01.peer.mode-envoy")],
            vec![dns("node-+1.peer.mode-envoy")],
            vec![one(), uri("mode-envoy://abc/node/1")],
        ] {
            let error = PeerIdentity::of_certificate(&signed_with(&names)).unwrap_err();
            assert!(matches!(error, IdentityError::NamesNobody(_)), "{names:?}");
        }
        assert!(PeerIdentity::of_certificate(b"nonsense").is_err());
    }

    #[test]
    fn a_cluster_id_has_one_spelling() {
        assert_eq!(parse_cluster_hex(&cluster_hex(&CLUSTER)), Some(CLUSTER));
        for bad in [
            "",
            "ab",
            &"AB".repeat(16),
            &"+a".repeat(16),
            &"ab".repeat(17),
        ] {
            assert_eq!(parse_cluster_hex(bad), None);
        }
    }
}
