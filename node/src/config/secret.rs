//! Where the cluster's secret is.
//!
//! While every listener is on loopback a secret in the user's own configuration directory will do, made on first
//! use; as soon as one is not, the file must be named, so that nobody runs an open cluster on an accident. A node that joined,
//! or whose cluster has replaced its secret, has it in its data directory, and that one wins.

use std::path::{Path, PathBuf};

use mode_envoy_raft::ClusterSecret;
use mode_envoy_raft::data_dir::DataDir;
use mode_envoy_raft::secret::{SecretError, default_secret_path};

use super::error::ConfigError;

/// Where the cluster's secret is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SecretFile {
    /// A file that must be there.
    Named(PathBuf),
    /// The one that the node has from its cluster, in its data directory.
    Kept(PathBuf),
    /// The user's own, made where it is missing.
    OwnDefault(PathBuf),
}

// === impl SecretFile ===

impl SecretFile {
    /// `joins`: whether this node is to join, so that its secret will be in the data directory.
    pub(super) fn choose(
        named: Option<PathBuf>,
        (data_dir, joins): (&Path, bool),
        all_loopback: bool,
    ) -> Result<Self, ConfigError> {
        let kept = DataDir::secret_file(data_dir);
        if kept.exists() {
            // The cluster's own word: what is named may have been replaced since.
            return Ok(Self::Kept(kept));
        }
        match named {
            Some(path) => Ok(Self::Named(path)),
            None if joins => Ok(Self::Kept(kept)),
            None if !all_loopback => Err(ConfigError::SecretNotNamed),
            None => default_secret_path()
                .map(Self::OwnDefault)
                .ok_or(ConfigError::NoConfigDirectory),
        }
    }

    /// Which file it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Named(path) | Self::Kept(path) | Self::OwnDefault(path) => path,
        }
    }

    /// Reads the secret, or makes it where that is allowed.
    ///
    /// # Errors
    ///
    /// The file is missing, unreadable or holds no secret.
    pub fn load(&self) -> Result<ClusterSecret, SecretError> {
        match self {
            Self::Named(path) | Self::Kept(path) => ClusterSecret::load(path),
            Self::OwnDefault(path) => ClusterSecret::load_or_create(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_loopback_the_secret_must_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let choose = |named, joins| SecretFile::choose(named, (dir.path(), joins), false);
        assert!(matches!(
            choose(None, false),
            Err(ConfigError::SecretNotNamed)
        ));
        let named = choose(Some(PathBuf::from("/s")), false).unwrap();
        assert_eq!(named, SecretFile::Named(PathBuf::from("/s")));
        let kept = SecretFile::Kept(dir.path().join("cluster.secret"));
        assert_eq!(choose(None, true).unwrap(), kept);
        std::fs::write(kept.path(), "").unwrap();
        assert_eq!(choose(None, false).unwrap(), kept);
        let named = choose(Some(PathBuf::from("/s")), false);
        assert_eq!(named.unwrap(), kept);
    }
}
