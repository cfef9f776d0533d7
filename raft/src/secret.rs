//! The cluster secret: 32 random bytes, the same on all nodes, from which the cluster's trust is derived.
//!
//! Invariants:
//! * The secret itself never leaves this module except as hex, for its own file and for a node that joins; everything else uses [`ClusterSecret::derive`],
//!   whose labels are stated once, below, and never change.
//! * It is zeroized on drop and never printed.
//! * Of several processes that create the same file at once, all end up with the bytes of one of them.

use std::fmt::{self, Write as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

mod held;

pub use self::held::HeldSecrets;

/// Label of the private CA's key of the peer listener (no context).
pub const LABEL_PEER_CA: &str = "mode-envoy peer ca v1";
/// Label of the key that wraps the cluster's encryption key (context: cluster id).
pub const LABEL_CLUSTER_KEY_WRAP: &str = "mode-envoy cluster key wrap v1";
/// Label of the first root token (context: cluster id).
pub const LABEL_ROOT_TOKEN: &str = "mode-envoy root token v1";

/// Label of what a secret is known by when it is passed on (context: cluster id).
const LABEL_CHECK: &str = "mode-envoy secret check v1";

/// A secret's length in bytes.
const SECRET_BYTES: usize = 32;
/// A secret file is 64 hex digits and a line end; much more than that is another file.
const SECRET_FILE_BYTES_MAX: u64 = 256;
/// HKDF's salt: it separates this product's derivations from others' of the same bytes.
const SALT: &[u8] = b"mode-envoy cluster secret";
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The secret that all nodes of a cluster hold.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ClusterSecret {
    bytes: [u8; SECRET_BYTES],
}

/// Why there is no usable cluster secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The text is not 64 hex digits.
    #[error(
        "a cluster secret is 64 hexadecimal digits; `mode-envoy certs secret` makes one (nothing of what was given is shown)"
    )]
    Malformed,
    /// The file's content is not a secret.
    #[error(
        "the file {path} does not hold a cluster secret (64 hexadecimal digits); put the cluster's own there, which its other \
         nodes have, or, for a new cluster, one that `mode-envoy certs secret` makes"
    )]
    MalformedFile {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot {doing} the cluster secret file {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("the system's random number generator failed; no secret was made")]
    Random,
}

// === impl ClusterSecret ===

impl ClusterSecret {
    /// Makes a fresh secret from the system's random numbers.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| SecretError::Random)?;
        Ok(Self { bytes })
    }

    /// Reads 64 hex digits, with white space around them.
    ///
    /// # Errors
    /// [`SecretError::Malformed`], which shows nothing of the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * SECRET_BYTES {
            return Err(SecretError::Malformed);
        }
        let mut secret = Self {
            bytes: [0; SECRET_BYTES],
        };
        for (byte, pair) in secret.bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(SecretError::Malformed);
            let value = (digit(pair[0])? << 4) | digit(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| SecretError::Malformed)?;
        }
        Ok(secret)
    }

    /// Reads a secret file, and warns where others than its owner may read it.
    ///
    /// # Errors
    /// [`SecretError::File`] or [`SecretError::MalformedFile`].
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::File {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(
                path = %path.display(), mode = format!("{:o}", mode & 0o777),
                "the cluster secret file can be read by others than its owner; `chmod 600` it"
            );
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(SECRET_FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        // What is no text at all is no secret either.
        let secret = std::str::from_utf8(&bytes).map_or(Err(SecretError::Malformed), Self::parse);
        secret.map_err(|_| SecretError::MalformedFile {
            path: path.to_owned(),
        })
    }

    /// Writes this secret to a new file, mode 0600. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`SecretError::File`]; its source is `AlreadyExists` where the file exists: it is never overwritten.
    pub fn create(&self, path: &Path) -> Result<(), SecretError> {
        let failed = |doing| {
            move |source| SecretError::File {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(failed("create the directory of"))?;
        }
        let temporary = temporary_beside(path)?;
        let written = self.write_new(&temporary).map_err(failed("write"));
        // A hard link, unlike a rename, fails where the name is taken: the first of several creators wins.
        let linked =
            written.and_then(|()| std::fs::hard_link(&temporary, path).map_err(failed("create")));
        if let Err(error) = std::fs::remove_file(&temporary)
            && linked.is_ok()
        {
            tracing::warn!(path = %temporary.display(), %error, "a temporary file with the cluster secret stays");
        }
        linked
    }

    /// Reads the file, or makes a secret where there is none. Of several processes that do this at once, one file wins and
    /// all read it.
    ///
    /// # Errors
    /// As [`ClusterSecret::load`] and [`ClusterSecret::create`].
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        if path.try_exists().unwrap_or(true) {
            return Self::load(path);
        }
        match Self::generate()?.create(path) {
            Ok(()) => tracing::info!(path = %path.display(), "made a cluster secret"),
            Err(SecretError::File { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Self::load(path)
    }

    /// The secret as its file holds it.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * SECRET_BYTES));
        for byte in self.bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// HKDF-SHA256 (RFC 5869) of the secret, for one purpose and context.
    pub fn derive(&self, label: &str, context: &[u8]) -> [u8; 32] {
        // 32 bytes are one block of HKDF's expansion, which is one HMAC and cannot fail; ring's own `hkdf` can only say
        // that in a Result. A test holds both against each other.
        let extract = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SALT), &self.bytes);
        let mut expand =
            hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, extract.as_ref()));
        for part in info(label, context) {
            expand.update(part);
        }
        expand.update(&[1]);
        let mut out = [0; 32];
        out.copy_from_slice(expand.sign().as_ref());
        out
    }

    /// The first root token of a cluster: `met-` and 43 characters, the same on all nodes.
    pub fn root_token(&self, cluster_id: &[u8; 16]) -> String {
        let mut bytes = self.derive(LABEL_ROOT_TOKEN, cluster_id);
        let token = format!("met-{}", base64url(&bytes));
        bytes.zeroize();
        token
    }

    /// By which a member knows this secret, and which gives nothing of it away.
    pub fn check(&self, cluster_id: &[u8; 16]) -> [u8; 32] {
        self.derive(LABEL_CHECK, cluster_id)
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(self.to_hex().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// Where a user's cluster secret is while all listeners are on loopback: `mode-envoy/cluster.secret` in `$XDG_CONFIG_HOME`
/// or `~/.config`. `None` where neither variable is set.
pub fn default_secret_path() -> Option<PathBuf> {
    secret_path_in(
        std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from),
        std::env::var_os("HOME").map(PathBuf::from),
    )
}

fn secret_path_in(config_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path is to be ignored.
    let config = config_home
        .filter(|path| path.is_absolute())
        .or_else(|| Some(home.filter(|path| path.is_absolute())?.join(".config")))?;
    Some(config.join("mode-envoy").join("cluster.secret"))
}

fn temporary_beside(path: &Path) -> Result<PathBuf, SecretError> {
    let mut random = [0; 8];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| SecretError::Random)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.tmp", u64::from_be_bytes(random)));
    Ok(PathBuf::from(name))
}

/// Label and context; the zero byte between them keeps two pairs from meaning the same.
fn info<'a>(label: &'a str, context: &'a [u8]) -> [&'a [u8]; 3] {
    [label.as_bytes(), &[0], context]
}

/// Reads what [`base64url`] writes, and nothing else.
pub(crate) fn read_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for (i, byte) in group.iter().enumerate() {
            let six = BASE64URL.iter().position(|known| known == byte)?;
            bits |= u32::try_from(six).ok()? << (18 - 6 * i);
        }
        let whole = group.len() * 6 / 8;
        let [_, parts @ ..] = bits.to_be_bytes();
        // A single digit is no byte, and bits beyond the last byte would be a second spelling.
        if whole == 0 || parts[whole..].iter().any(|part| *part != 0) {
            return None;
        }
        bytes.extend_from_slice(&parts[..whole]);
    }
    Some(bytes)
}

/// Base64 of RFC 4648 section 5 without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0_u32, |bits, (i, byte)| {
            bits | (u32::from(*byte) << (16 - 8 * i))
        });
        for i in 0..=group.len() {
            let six = (bits >> (18 - 6 * i)) & 63;
            text.push(char::from(BASE64URL[six as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use ring::hkdf;

    use super::*;

    fn known() -> ClusterSecret {
        ClusterSecret { bytes: [7; 32] }
    }

    #[test]
    fn hex_is_read_back_and_anything_else_is_refused_without_being_shown() {
        let secret = ClusterSecret::generate().unwrap();
        let text = format!(" {}\n", *secret.to_hex());
        assert_eq!(ClusterSecret::parse(&text).unwrap().bytes, secret.bytes);
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            let error = ClusterSecret::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("ggg") && error.contains("64 hexadecimal"));
        }
        assert_eq!(format!("{secret:?}"), "ClusterSecret(..)");
    }

    #[test]
    fn a_file_that_holds_no_secret_is_named_with_what_belongs_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        known().create(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for (at, mask) in [(0, 0x80), (63, 0x40), (64, 0x40)] {
            let mut damaged = whole.clone();
            damaged[at] ^= mask;
            std::fs::write(&path, damaged).unwrap();
            let error = ClusterSecret::load(&path).unwrap_err();
            assert!(
                matches!(error, SecretError::MalformedFile { .. }),
                "{error}"
            );
            assert!(error.to_string().contains("put the cluster's own there"));
        }
    }

    #[test]
    fn derivation_is_hkdf_sha256_and_separates_labels_and_contexts() {
        struct Len;
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                32
            }
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT);
        let key = salt.extract(&known().bytes);
        let mut expected = [0; 32];
        key.expand(&info("a", b"b"), Len)
            .unwrap()
            .fill(&mut expected)
            .unwrap();
        assert_eq!(known().derive("a", b"b"), expected);
        assert_ne!(known().derive("a", b"b"), known().derive("ab", b""));
        assert_ne!(known().derive("a", b"b"), known().derive("a", b""));
    }

    #[test]
    fn a_root_token_is_43_url_safe_characters_and_belongs_to_one_cluster() {
        let token = known().root_token(&[1; 16]);
        assert_eq!(token.len(), 4 + 43);
        assert!(token[4..].bytes().all(|c| BASE64URL.contains(&c)));
        assert_ne!(token, known().root_token(&[2; 16]));
        assert_eq!(base64url(b"\xfb\xff\xfe"), "-__-");
        assert_eq!(base64url(b"foob"), "Zm9vYg");
    }

    #[test]
    fn of_many_creators_of_one_file_all_read_the_winners_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join("cluster.secret");
        let secrets: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let create = || ClusterSecret::load_or_create(&path).unwrap().bytes;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|s| *s == secrets[0]));
        assert_eq!(ClusterSecret::load(&path).unwrap().bytes, secrets[0]);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn an_existing_file_is_never_overwritten_and_a_wrong_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "not a secret").unwrap();
        assert!(known().create(&path).is_err());
        let error = ClusterSecret::load_or_create(&path)
            .unwrap_err()
            .to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a secret");
    }

    #[test]
    fn the_default_path_prefers_the_config_home_and_ignores_relative_ones() {
        let path = |c: Option<&str>, h: Option<&str>| {
            secret_path_in(c.map(PathBuf::from), h.map(PathBuf::from))
        };
        let file = "mode-envoy/cluster.secret";
        assert_eq!(
            path(Some("/c"), Some("/h")),
            Some(Path::new("/c").join(file))
        );
        assert_eq!(
            path(Some("c"), Some("/h")),
            Some(Path::new("/h/.config").join(file))
        );
        assert_eq!(path(None, None), None);
    }
}
