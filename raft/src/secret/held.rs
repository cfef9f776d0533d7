//! The secrets that a node holds: the one in force, and another while that is replaced.
//!
//! ```text
//! cluster.secret.next          the new one is held and trusted; what the node was started with is in force
//! cluster.secret, .old         the new one is in force; the old one is trusted still
//! cluster.secret               the old one is gone
//! ```
//!
//! Invariants: a step is durable before anything acts on it; a crash between two files of a step leaves the step before. Once there
//! is a `cluster.secret` in the data directory it is the one in force, whatever file the node is told.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{ClusterSecret, SecretError};
use crate::data_dir::DataDir;

/// The secrets of this node. Clones share them.
#[derive(Clone, Debug)]
pub struct HeldSecrets {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    held: Mutex<Held>,
    /// `cluster.secret` in the data directory.
    file: PathBuf,
    steps: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
struct Held {
    current: ClusterSecret,
    other: Option<ClusterSecret>,
}

// === impl HeldSecrets ===

impl HeldSecrets {
    /// Of a node whose data directory is `dir`, and which was started with `current`.
    ///
    /// # Errors
    /// A file could not be read.
    pub fn open(dir: &Path, current: ClusterSecret) -> Result<Self, SecretError> {
        let held = Self::only(dir, current);
        let (next, old) = (held.beside("next"), held.beside("old"));
        let other = [next, old].into_iter().find(|path| path.exists());
        let other = other.map(|path| ClusterSecret::load(&path)).transpose()?;
        held.held().other = other;
        Ok(held)
    }

    /// Of a node that holds no other.
    pub fn only(dir: &Path, current: ClusterSecret) -> Self {
        let held = Held {
            current,
            other: None,
        };
        Self {
            inner: Arc::new(Inner {
                held: Mutex::new(held),
                file: DataDir::secret_file(dir),
                steps: watch::Sender::new(0),
            }),
        }
    }

    /// The one in force.
    pub fn current(&self) -> ClusterSecret {
        self.held().current.clone()
    }

    /// The one that is trusted beside it.
    pub fn other(&self) -> Option<ClusterSecret> {
        self.held().other.clone()
    }

    /// Changes with every step.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.steps.subscribe()
    }

    /// The one that a check belongs to.
    pub(crate) fn by_check(
        &self,
        check: &[u8; 32],
        cluster_id: &[u8; 16],
    ) -> Option<ClusterSecret> {
        let held = self.held();
        let both = [Some(&held.current), held.other.as_ref()];
        let mut found = both.into_iter().flatten();
        found
            .find(|secret| secret.check(cluster_id) == *check)
            .cloned()
    }

    /// Holds a new one beside the one in force.
    pub(crate) fn prepare(&self, next: &ClusterSecret) -> Result<(), SecretError> {
        let path = self.beside("next");
        remove(&path)?;
        next.create(&path)?;
        self.sync()?;
        let mut held = self.held();
        held.other = Some(next.clone());
        drop(held);
        self.step();
        Ok(())
    }

    /// The new one is in force from now on.
    pub(crate) fn switch(&self) -> Result<(), SecretError> {
        let (next, old) = (self.beside("next"), self.beside("old"));
        remove(&old)?;
        self.current().create(&old)?;
        std::fs::rename(&next, &self.inner.file).map_err(failed("replace", &self.inner.file))?;
        self.sync()?;
        let mut held = self.held();
        if let Some(new) = held.other.take() {
            held.other = Some(std::mem::replace(&mut held.current, new));
        }
        drop(held);
        self.step();
        Ok(())
    }

    /// Only the one in force is left.
    pub(crate) fn settle(&self) -> Result<(), SecretError> {
        for path in [self.beside("next"), self.beside("old")] {
            remove(&path)?;
        }
        self.sync()?;
        let mut held = self.held();
        held.other = None;
        drop(held);
        self.step();
        Ok(())
    }

    fn step(&self) {
        self.inner.steps.send_modify(|step| *step += 1);
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.inner.file, suffix)
    }

    fn sync(&self) -> Result<(), SecretError> {
        let dir = self.inner.file.parent().unwrap_or_else(|| Path::new("."));
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("sync the directory of", &self.inner.file))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.inner
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<ClusterSecret> for HeldSecrets {
    /// Of what has no data directory.
    fn from(current: ClusterSecret) -> Self {
        Self::only(Path::new(""), current)
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    file.with_extension(format!("secret.{suffix}"))
}

fn remove(path: &Path) -> Result<(), SecretError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretError + use<> {
    let path = path.to_owned();
    move |source| SecretError::File {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: [u8; 16] = [3; 16];

    fn secret(byte: &str) -> ClusterSecret {
        ClusterSecret::parse(&byte.repeat(32)).unwrap()
    }

    fn is(held: &HeldSecrets, current: &str, other: Option<&str>) {
        let check = |secret: ClusterSecret| secret.check(&CLUSTER);
        assert_eq!(check(held.current()), check(secret(current)));
        let other = other.map(|byte| check(secret(byte)));
        assert_eq!(held.other().map(check), other);
    }

    #[test]
    fn every_step_is_found_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let reopened = |base: &str| HeldSecrets::open(dir.path(), secret(base)).unwrap();
        let held = reopened("01");
        is(&held, "01", None);
        held.prepare(&secret("02")).unwrap();
        is(&held, "01", Some("02"));
        is(&reopened("01"), "01", Some("02"));

        held.switch().unwrap();
        is(&held, "02", Some("01"));
        let kept = ClusterSecret::load(&DataDir::secret_file(dir.path())).unwrap();
        assert_eq!(kept.check(&CLUSTER), secret("02").check(&CLUSTER));
        is(&reopened("02"), "02", Some("01"));

        held.settle().unwrap();
        is(&reopened("02"), "02", None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_crash_in_the_middle_of_the_switch_leaves_the_step_before_which_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let held = HeldSecrets::open(dir.path(), secret("01")).unwrap();
        held.prepare(&secret("02")).unwrap();
        // The old one is written, the new one has not got its name.
        secret("01").create(&held.beside("old")).unwrap();
        let held = HeldSecrets::open(dir.path(), secret("01")).unwrap();
        is(&held, "01", Some("02"));
        held.switch().unwrap();
        is(&held, "02", Some("01"));
    }
}
