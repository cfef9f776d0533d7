//! The cluster's private CA, derived from the cluster secret.
//!
//! Invariants:
//! * The CA's key and subject are the same on all nodes. Its certificate's bytes are not (ECDSA signs with a random number), so
//!   trust is in key and subject, and a peer never sends the CA's certificate.
//! * A node's key is fresh at each start and never leaves the process.

use p256::pkcs8::EncodePrivateKey as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::RootCertStore;
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroize as _;

use super::certificate::{self, ClusterId};
use super::{Credentials, IdentityError, Minted};
use crate::join::CaKey;
use crate::secret::{ClusterSecret, LABEL_PEER_CA};

const CA_SUBJECT: &str = "Mode Envoy peer CA";
const NODE_SUBJECT: &str = "Mode Envoy node";
const SERVER_SUBJECT: &str = "Mode Envoy admin listener";
const PROVISIONAL_SUBJECT: &str = "Mode Envoy node that has not joined yet";
/// HKDF gives no valid P-256 scalar once in 2^32 secrets; more than two such in a row mean a defect, not bad luck.
const CA_KEY_TRIES: u8 = 8;

/// The CA that signs this process's certificates.
pub(super) struct PrivateCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    public_key: CaKey,
}

// === impl PrivateCa ===

impl PrivateCa {
    /// The same CA on every node that holds the secret.
    pub(super) fn derive(secret: &ClusterSecret) -> Result<Self, IdentityError> {
        let key = ca_key(secret)?;
        let mut params = params(CA_SUBJECT);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?;
        let public_key = key.public_key_raw().try_into();
        Ok(Self {
            public_key: public_key.map_err(|_| IdentityError::CaKey)?,
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Its public key, which stands for the whole CA: all nodes give it the same name.
    pub(super) fn public_key(&self) -> CaKey {
        self.public_key
    }

    /// A fresh key and a certificate that names a node, and its cluster once that is known.
    pub(super) fn issue(
        &self,
        node_id: u64,
        cluster_id: Option<ClusterId>,
    ) -> Result<Credentials, IdentityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut names = vec![SanType::DnsName(certificate::dns_name(node_id).try_into()?)];
        if let Some(cluster) = cluster_id {
            names.push(SanType::URI(
                certificate::uri(&cluster, node_id).try_into()?,
            ));
        }
        let certificate = self.sign(&key, names)?;
        let mut roots = RootCertStore::empty();
        self.add_to(&mut roots)?;
        Ok(Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            roots,
        })
    }

    /// Trusts what this CA signs, beside what is trusted already.
    pub(super) fn add_to(&self, roots: &mut RootCertStore) -> Result<(), IdentityError> {
        Ok(roots.add(self.certificate.der().clone())?)
    }

    /// A fresh key and a certificate for a server that is called by any of `names`. It names no node, so that no peer
    /// takes it.
    pub(super) fn issue_server(&self, names: &[String]) -> Result<Minted, IdentityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let params = server_params(SERVER_SUBJECT, names)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Minted {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            ca_pem: self.certificate.pem(),
        })
    }

    /// A certificate of a node's key, for both ends of a connection.
    pub(super) fn sign(
        &self,
        key: &KeyPair,
        names: Vec<SanType>,
    ) -> Result<rcgen::Certificate, IdentityError> {
        let mut params = params(NODE_SUBJECT);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = names;
        Ok(params.signed_by(key, &self.issuer)?)
    }

    #[cfg(test)]
    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }
}

impl std::fmt::Debug for PrivateCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateCa").finish_non_exhaustive()
    }
}

/// A fresh key and a certificate that it signs itself, which nobody trusts.
pub(super) fn provisional(names: &[String]) -> Result<Minted, IdentityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = server_params(PROVISIONAL_SUBJECT, names)?.self_signed(&key)?;
    Ok(Minted {
        chain: vec![certificate.der().clone()],
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        ca_pem: certificate.pem(),
    })
}

/// Trust in the CA of this public key, for whoever does not hold the secret.
pub(super) fn trust_in(public_key: &CaKey) -> Result<RootCertStore, IdentityError> {
    // A certificate of the same name with a key of our own shows how both are written; the key is replaced.
    let certificate = params(CA_SUBJECT).self_signed(&KeyPair::generate()?)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    for anchor in &mut roots.roots {
        let mut info = anchor.subject_public_key_info.as_ref().to_vec();
        let key_at = info.len().checked_sub(public_key.len());
        let key = key_at.and_then(|at| info.get_mut(at..));
        key.ok_or(IdentityError::CaKey)?.copy_from_slice(public_key);
        anchor.subject_public_key_info = info.into();
    }
    Ok(roots)
}

/// For a server that is called by any of `names`.
fn server_params(subject: &str, names: &[String]) -> Result<CertificateParams, IdentityError> {
    let mut params = params(subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    Ok(params)
}

fn params(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    // Trust ends with the secret, not with a date: no node's clock may stop the cluster.
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2200, 1, 1);
    params
}

fn ca_key(secret: &ClusterSecret) -> Result<KeyPair, IdentityError> {
    for counter in 0..CA_KEY_TRIES {
        let mut scalar = secret.derive(LABEL_PEER_CA, &[counter]);
        let key = p256::SecretKey::from_slice(&scalar);
        scalar.zeroize();
        let Ok(key) = key else { continue };
        let der = key.to_pkcs8_der().map_err(|_| IdentityError::CaKey)?;
        let der = PrivatePkcs8KeyDer::from(der.as_bytes());
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        return Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der, algorithm)?);
    }
    Err(IdentityError::CaKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_certificate_names_its_addresses_and_no_node() {
        let secret = ClusterSecret::parse(&"01".repeat(32)).unwrap();
        let names = ["admin.acme.test", "10.0.0.1", "::1"].map(str::to_owned);
        let minted = PrivateCa::derive(&secret)
            .unwrap()
            .issue_server(&names)
            .unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&minted.chain[0]).unwrap();
        let named = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(named.value.general_names.len(), 3);
        assert!(certificate::PeerIdentity::of_certificate(&minted.chain[0]).is_err());
        assert!(minted.ca_pem.starts_with("-----BEGIN CERTIFICATE-----"));
        let bad = PrivateCa::derive(&secret)
            .unwrap()
            .issue_server(&["b\u{e4}d".to_owned()]);
        assert!(bad.is_err());
    }

    #[test]
    fn every_node_derives_the_same_ca_key_from_a_secret_and_another_from_another() {
        let secret = |byte: &str| ClusterSecret::parse(&byte.repeat(32)).unwrap();
        let key = |byte: &str| ca_key(&secret(byte)).unwrap().serialize_der();
        assert_eq!(key("01"), key("01"));
        assert_ne!(key("01"), key("02"));
    }
}
