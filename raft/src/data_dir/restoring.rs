//! A directory that a backup is being restored into: locked, and no node's until all of it is there.
//!
//! ```text
//! empty --begin--> marked --(checkpoint, log)--> marked --complete--> a member's, no longer marked
//! ```
//!
//! Invariants: the mark is durable before anything else is written, and `node.json` before the mark goes; so after a crash the
//! directory is empty, says that a restore was cut short, or is whole. A restore that finds the mark begins anew.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::record::{NODE_FILE, NodeRecord, Stage, read_record, write_record};
use super::{CHECKPOINT_DIR, DataDirError, LOCK_FILE, WAL_DIR, create, io_error, lock, sync_dir};

/// There while a restore has not come to its end.
const MARK_FILE: &str = "restoring";

/// A locked directory that a backup is restored into.
#[derive(Debug)]
pub(crate) struct RestoreDir {
    path: PathBuf,
    _lock: File,
}

// === impl RestoreDir ===

impl RestoreDir {
    /// Opens, locks and marks a directory; makes it where there is none, and removes what a restore left that was cut short.
    ///
    /// # Errors
    /// [`DataDirError::NotForRestoring`] where it holds anything else.
    pub(crate) fn begin(path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let lock = lock(path)?;
        let mark = path.join(MARK_FILE);
        let again = is_cut_short(path)?;
        if again {
            for dir in [WAL_DIR, CHECKPOINT_DIR] {
                remove_dir(&path.join(dir))?;
            }
        }
        nothing_else(path)?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&mark)
            .and_then(|file| file.sync_all())
            .map_err(io_error("write", &mark))?;
        sync_dir(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where the write-ahead log belongs.
    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.path.join(WAL_DIR)
    }

    /// Where the checkpoint belongs.
    pub(crate) fn checkpoint_dir(&self) -> PathBuf {
        self.path.join(CHECKPOINT_DIR)
    }

    /// From now on this is the directory of a member.
    pub(crate) fn complete(self, record: &NodeRecord) -> Result<(), DataDirError> {
        sync_dir(&self.path)?;
        write_record(&self.path, record)?;
        let mark = self.path.join(MARK_FILE);
        std::fs::remove_file(&mark).map_err(io_error("remove", &mark))?;
        sync_dir(&self.path)
    }
}

/// Refuses a directory whose restore has not come to its end.
pub(super) fn not_cut_short(path: &Path) -> Result<(), DataDirError> {
    if is_cut_short(path)? {
        return Err(DataDirError::HalfRestored {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// The mark may outlive the end: then `node.json` says that all is there.
fn is_cut_short(path: &Path) -> Result<bool, DataDirError> {
    let mark = path.join(MARK_FILE);
    if !mark.try_exists().map_err(io_error("look for", &mark))? {
        return Ok(false);
    }
    let record = read_record(path)?;
    Ok(record.is_none_or(|record| record.stage == Stage::Fresh))
}

/// There may be the lock, the mark, and the record of a node that was started once and had no cluster yet.
fn nothing_else(path: &Path) -> Result<(), DataDirError> {
    let refuse = |found: String| DataDirError::NotForRestoring {
        path: path.to_owned(),
        found,
    };
    for entry in std::fs::read_dir(path).map_err(io_error("list", path))? {
        let entry = entry.map_err(io_error("list", path))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = match &*name {
            LOCK_FILE | MARK_FILE => true,
            NODE_FILE => {
                let record = read_record(path)?;
                if let Some(record) = record.filter(|record| record.stage != Stage::Fresh) {
                    return Err(refuse(format!("node {} of a cluster", record.node_id)));
                }
                true
            }
            _ => false,
        };
        if !ours {
            return Err(refuse(format!("`{name}`")));
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> Result<(), DataDirError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data_dir::{DataDir, JoinDir};

    fn record() -> NodeRecord {
        NodeRecord {
            node_id: 4,
            stage: Stage::Member {
                cluster_id: [3; 16],
                log_started: true,
            },
            initial_cluster: BTreeMap::new(),
            joining: false,
            removed: false,
        }
    }

    #[test]
    fn a_restore_that_was_cut_short_is_said_by_everybody_and_may_be_made_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = RestoreDir::begin(root.path()).unwrap();
        std::fs::create_dir(dir.wal_dir()).unwrap();
        std::fs::write(dir.wal_dir().join("log-1.wal"), "half").unwrap();
        drop(dir);

        let said = [
            DataDir::peek(root.path()).unwrap_err(),
            DataDir::open(root.path(), 4).unwrap_err(),
            JoinDir::open(root.path()).unwrap_err(),
        ];
        for error in said {
            assert!(matches!(error, DataDirError::HalfRestored { .. }));
        }
        let dir = RestoreDir::begin(root.path()).unwrap();
        assert!(!dir.wal_dir().exists(), "what was half written is gone");
        dir.complete(&record()).unwrap();
        assert_eq!(DataDir::peek(root.path()).unwrap(), Some(record()));
        assert!(DataDir::open(root.path(), 4).is_ok());
    }

    #[test]
    fn a_mark_that_outlived_the_end_of_its_restore_means_nothing() {
        let root = tempfile::tempdir().unwrap();
        RestoreDir::begin(root.path())
            .unwrap()
            .complete(&record())
            .unwrap();
        std::fs::write(root.path().join(MARK_FILE), "").unwrap();
        assert!(DataDir::open(root.path(), 4).is_ok());
        let again = RestoreDir::begin(root.path()).unwrap_err().to_string();
        assert!(again.contains("holds node 4 of a cluster"), "{again}");
    }

    #[test]
    fn a_directory_that_holds_anything_else_is_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), 1).unwrap());
        std::fs::write(root.path().join("notes.txt"), "mine").unwrap();
        let error = RestoreDir::begin(root.path()).unwrap_err().to_string();
        assert!(error.contains("`notes.txt`"), "{error}");
        assert!(!root.path().join(MARK_FILE).exists());
        std::fs::remove_file(root.path().join("notes.txt")).unwrap();
        assert!(RestoreDir::begin(root.path()).is_ok());
    }
}
