//! Whom a node trusts that joins: any member of the token's cluster, whatever its id, under the CA that the token pins.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::authority::trust_in;
use super::{ClusterId, IdentityError, PeerIdentity, pki, server_name};
use crate::join::Pin;

/// Verifies a member by the name that its own certificate gives it, and by the cluster.
#[derive(Debug)]
struct AnyMember {
    chain: Arc<WebPkiServerVerifier>,
    cluster_id: ClusterId,
    /// An operator's certificate need not name the cluster, but never names another.
    uri_required: bool,
}

// === impl AnyMember ===

impl ServerCertVerifier for AnyMember {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = || CertificateError::ApplicationVerificationFailure;
        let peer = PeerIdentity::of_certificate(leaf).map_err(|_| refused())?;
        let name = server_name(peer.node_id).ok_or_else(refused)?;
        let verified = self
            .chain
            .verify_server_cert(leaf, intermediates, &name, ocsp, now)?;
        let ours = match peer.cluster_id {
            Some(cluster) => cluster == self.cluster_id,
            None => !self.uri_required,
        };
        if ours {
            Ok(verified)
        } else {
            Err(refused().into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// TLS settings of a node that joins. `peer_ca` is the operator's CA where the token pins none.
///
/// # Errors
/// [`IdentityError`], where there is nothing to trust.
pub(crate) fn join_client_config(
    pin: &Pin,
    cluster_id: ClusterId,
    peer_ca: &Path,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let roots = match pin {
        Pin::CaKey(key) => trust_in(key)?,
        Pin::Operator => pki::read_roots(peer_ca)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()?;
    let verifier = AnyMember {
        chain,
        cluster_id,
        uri_required: matches!(pin, Pin::CaKey(_)),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
