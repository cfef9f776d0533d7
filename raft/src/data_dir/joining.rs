//! A directory on its way to being a joining node's: locked, and no node's yet.
//!
//! Invariants:
//! * The number that the node draws is durable before the node shows a token: a crash between the token's use and the last
//!   step here is followed by the same request, which gets the same id.
//! * The secret is durable before `node.json` says whose directory this is; from then on the directory is a member's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::record::{NodeRecord, Stage, read_record, write_record};
use super::restoring::not_cut_short;
use super::{DataDirError, SECRET_FILE, WAL_DIR, create, io_error, lock, sync_dir};
use crate::secret::ClusterSecret;

const NONCE_FILE: &str = "join.nonce";
const NONCE_FILE_TEMPORARY: &str = "join.nonce.tmp";

/// What a joining node is known by when it asks again.
pub(crate) type Nonce = [u8; 32];

/// A locked directory without a node.
#[derive(Debug)]
pub(crate) struct JoinDir {
    path: PathBuf,
    _lock: File,
}

// === impl JoinDir ===

impl JoinDir {
    /// Opens and locks a directory; makes it where there is none.
    ///
    /// # Errors
    /// [`DataDirError::NotEmpty`] where it has begun to be a node's.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let lock = lock(path)?;
        not_cut_short(path)?;
        let begun = match read_record(path)? {
            // A node that was started once without --join, and was told to wait for others.
            Some(record) => record.stage != Stage::Fresh,
            None => false,
        };
        let log = path.join(WAL_DIR).try_exists();
        if begun || log.map_err(io_error("look into", path))? {
            return Err(DataDirError::NotEmpty {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The number that this directory's node draws, the same at each call.
    pub(crate) fn nonce(&self) -> Result<Nonce, DataDirError> {
        let path = self.path.join(NONCE_FILE);
        let mut bytes = Vec::new();
        let limit = u64::try_from(size_of::<Nonce>() + 1).unwrap_or(u64::MAX);
        match File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Ok(_) => Nonce::try_from(bytes).map_err(|_| DataDirError::Malformed {
                path,
                reason: "it is not the number that a joining node draws".to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.draw_nonce(&path),
            Err(source) => Err(io_error("read", &path)(source)),
        }
    }

    /// From now on this is the directory of a member that has to catch up.
    pub(crate) fn complete(
        &self,
        secret: &ClusterSecret,
        record: &NodeRecord,
    ) -> Result<(), DataDirError> {
        let path = self.path.join(SECRET_FILE);
        // What an earlier try left; the cluster has the last word on its secret.
        remove(&path)?;
        secret.create(&path)?;
        sync_dir(&self.path)?;
        write_record(&self.path, record)?;
        remove(&self.path.join(NONCE_FILE))
    }

    fn draw_nonce(&self, path: &Path) -> Result<Nonce, DataDirError> {
        let mut nonce = Nonce::default();
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| DataDirError::Random {
                path: self.path.clone(),
            })?;
        let temporary = self.path.join(NONCE_FILE_TEMPORARY);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&nonce)?;
            file.sync_all()
        };
        write().map_err(io_error("write", &temporary))?;
        std::fs::rename(&temporary, path).map_err(io_error("replace", path))?;
        sync_dir(&self.path)?;
        Ok(nonce)
    }
}

fn remove(path: &Path) -> Result<(), DataDirError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::data_dir::DataDir;

    fn record() -> NodeRecord {
        NodeRecord {
            node_id: 4,
            stage: Stage::Member {
                cluster_id: [3; 16],
                log_started: false,
            },
            initial_cluster: BTreeMap::from([(1, "a:1".to_owned())]),
            joining: true,
            removed: false,
        }
    }

    #[test]
    fn a_node_that_crashes_while_it_joins_asks_with_the_same_number_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let first = JoinDir::open(&path).unwrap().nonce().unwrap();
        let dir = JoinDir::open(&path).unwrap();
        assert_eq!(dir.nonce().unwrap(), first);
        assert!(matches!(
            JoinDir::open(&path),
            Err(DataDirError::InUse { .. })
        ));
        // It crashed after the secret and before the record.
        let secret = ClusterSecret::generate().unwrap();
        secret.create(&path.join(SECRET_FILE)).unwrap();
        let secret = ClusterSecret::generate().unwrap();
        dir.complete(&secret, &record()).unwrap();
        drop(dir);

        let kept = path.join(SECRET_FILE);
        assert_eq!(
            ClusterSecret::load(&kept).unwrap().to_hex(),
            secret.to_hex()
        );
        let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!path.join(NONCE_FILE).exists());
        assert_eq!(DataDir::peek(&path).unwrap(), Some(record()));
        let dir = DataDir::open(&path, 4).unwrap();
        dir.caught_up().unwrap();
        drop(dir);
        assert!(matches!(
            JoinDir::open(&path),
            Err(DataDirError::NotEmpty { .. })
        ));
        assert!(!DataDir::peek(&path).unwrap().unwrap().joining);
    }

    #[test]
    fn a_removed_node_is_told_so_whenever_it_starts() {
        let root = tempfile::tempdir().unwrap();
        let dir = JoinDir::open(root.path()).unwrap();
        let secret = ClusterSecret::generate().unwrap();
        dir.complete(&secret, &record()).unwrap();
        drop(dir);
        let dir = DataDir::open(root.path(), 4).unwrap();
        dir.mark_removed().unwrap();
        drop(dir);
        let error = DataDir::open(root.path(), 4).unwrap_err().to_string();
        assert!(
            error.contains("node 4") && error.contains("removed") && error.contains("add-node"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_that_was_only_begun_with_may_be_joined_with() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), 1).unwrap());
        drop(JoinDir::open(root.path()).unwrap());
        std::fs::create_dir(root.path().join(WAL_DIR)).unwrap();
        assert!(matches!(
            JoinDir::open(root.path()),
            Err(DataDirError::NotEmpty { .. })
        ));
    }
}
