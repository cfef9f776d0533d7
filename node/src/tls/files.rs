//! A certificate and its key from PEM files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::config::TlsFiles;

/// PEM files of certificates and keys are a few KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Why a listener has no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} cannot be used: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The two do not belong together, or the key is of a kind that is not supported.
    #[error("the certificate {cert} and the key {key} do not work together; give a certificate and its own key", cert = .files.cert.display(), key = .files.key.display())]
    Pair {
        /// The files.
        files: TlsFiles,
        /// What the TLS library said.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library refused its own defaults.
    #[error("setting up TLS")]
    Setup(#[source] rustls::Error),
}

/// What two files hold.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) key: CertifiedKey,
    /// When the certificate ends, Unix seconds.
    pub(super) not_after: u64,
}

/// What two files held, to see whether they have changed.
pub(super) type Seen = [u8; 32];

/// The files' bytes.
struct Bytes {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

// === free functions ===

pub(super) fn load(files: &TlsFiles) -> Result<Loaded, TlsError> {
    parse(files, &read(files)?)
}

/// What the files hold now, and that as a certificate where it is not what was `seen`.
pub(super) fn look(
    files: &TlsFiles,
    seen: Option<Seen>,
) -> (Seen, Option<Result<Loaded, TlsError>>) {
    match read(files) {
        Ok(bytes) => {
            let mut hasher = blake3::Hasher::new();
            hasher.update(blake3::hash(&bytes.cert).as_bytes());
            hasher.update(blake3::hash(&bytes.key).as_bytes());
            let now = *hasher.finalize().as_bytes();
            let loaded = (seen != Some(now)).then(|| parse(files, &bytes));
            (now, loaded)
        }
        // Absent files are a state like another, told once.
        Err(error) => {
            let now = [0; 32];
            (now, (seen != Some(now)).then_some(Err(error)))
        }
    }
}

fn read(files: &TlsFiles) -> Result<Bytes, TlsError> {
    let mut bytes = Bytes {
        cert: Vec::new(),
        key: Zeroizing::new(Vec::new()),
    };
    read_file(&files.cert, &mut bytes.cert)?;
    read_file(&files.key, &mut bytes.key)?;
    Ok(bytes)
}

fn read_file(path: &Path, into: &mut Vec<u8>) -> Result<(), TlsError> {
    File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX).read_to_end(into))
        .map(drop)
        .map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })
}

fn parse(files: &TlsFiles, bytes: &Bytes) -> Result<Loaded, TlsError> {
    let content = |path: &Path, problem: String| TlsError::Content {
        path: path.to_owned(),
        problem,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes.cert)
        .collect::<Result<_, _>>()
        .map_err(|error| content(&files.cert, error.to_string()))?;
    let Some(leaf) = chain.first() else {
        return Err(content(
            &files.cert,
            "it holds no certificate in PEM".to_owned(),
        ));
    };
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|_| content(&files.cert, "it is not an X.509 certificate".to_owned()))?;
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    let key = PrivateKeyDer::from_pem_slice(&bytes.key).map_err(|error| {
        content(
            &files.key,
            format!("it holds no private key in PEM ({error})"),
        )
    })?;
    let key = CertifiedKey::from_der(chain, key, &super::provider()).map_err(|source| {
        TlsError::Pair {
            files: files.clone(),
            source,
        }
    })?;
    Ok(Loaded { key, not_after })
}
