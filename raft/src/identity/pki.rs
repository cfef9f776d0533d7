//! Peer certificates of an operator's own PKI, from PEM files.
//!
//! Invariant: what is read is this node's, or the start ends with a message that names the file.

use std::io::Read as _;
use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{Credentials, IdentityError, PeerIdentity, PeerPki};

/// PEM files of certificates and keys are a few KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Reads all three files and checks that the certificate is this node's.
pub(super) fn read(pki: &PeerPki, node_id: u64) -> Result<Credentials, IdentityError> {
    let chain = read_certificates(&pki.cert, "the peer certificate")?;
    let foreign = |reason: String| IdentityError::ForeignCertificate {
        path: pki.cert.clone(),
        node_id,
        reason,
    };
    let named =
        PeerIdentity::of_certificate(&chain[0]).map_err(|error| foreign(error.to_string()))?;
    if named.node_id != node_id {
        return Err(foreign(format!("it names node {}", named.node_id)));
    }
    let what = "the peer key";
    let key = PrivateKeyDer::from_pem_slice(&read_pem(&pki.key, what)?).map_err(|error| {
        IdentityError::Pem {
            what,
            path: pki.key.clone(),
            reason: error.to_string(),
        }
    })?;
    let roots = read_roots(&pki.ca)?;
    Ok(Credentials { chain, key, roots })
}

/// The operator's CA alone, for a node that has no id yet.
pub(super) fn read_roots(ca: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(ca, "the peer CA")? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// At least one certificate.
fn read_certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bad = |reason| IdentityError::Pem {
        what,
        path: path.to_owned(),
        reason,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read_pem(path, what)?)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

fn read_pem(path: &Path, what: &'static str) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let mut bytes = Zeroizing::new(Vec::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| IdentityError::Pem {
            what,
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    Ok(bytes)
}

/// An operator's PEM files for tests: a certificate of one secret's CA, trusting the CA of another or of the same.
#[cfg(test)]
pub(crate) fn write_pki(dir: &Path, node_id: u64, signed_by: &str, trusts: &str) -> PeerPki {
    use super::authority::PrivateCa;
    use super::certificate::dns_name;
    use crate::secret::ClusterSecret;

    let secret = |byte: &str| ClusterSecret::parse(&byte.repeat(32)).unwrap();
    let ca = |byte: &str| PrivateCa::derive(&secret(byte)).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let name = rcgen::SanType::DnsName(dns_name(node_id).try_into().unwrap());
    let certificate = ca(signed_by).sign(&key, vec![name]).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    PeerPki {
        cert: file("cert.pem", &certificate.pem()),
        key: file("key.pem", &key.serialize_pem()),
        ca: file("ca.pem", &ca(trusts).pem()),
    }
}
