//! Snapshots of the state: a manifest and immutable chunk files named by their content.
//!
//! ```text
//! chunks/<blake3 of the content>.chunk      written once, shared by successive checkpoints
//! chunks/<blake3 of the content>.part       a chunk on its way here from another node
//! manifest-<serial>.manifest                names its chunks; the highest serial is the checkpoint
//! ```
//!
//! Invariants:
//! * a manifest is named only when it and all chunks it refers to are synced, so the newest one on
//!   disk is complete or damaged, never half written;
//! * the manifest before the newest is kept with its chunks, for the case that the newest is damaged:
//!   keep the log from that one's position on;
//! * nothing is handed out whose checksum does not match, and nothing that a power cut could take back;
//! * what a [`HeldCheckpoint`] reads or an [`Incoming`] has received stays, whatever is written meanwhile;
//! * after a failed sync of a directory the store does nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use bytes::Bytes;

use crate::disk::{Disk, read_all};
use crate::segment::Owner;

mod error;
mod held;
mod incoming;
mod manifest;

pub use error::CheckpointError;
pub use held::HeldCheckpoint;
pub use incoming::Incoming;
pub use manifest::ChunkRef;

use manifest::{Manifest, check_limits};

/// A checkpoint has at most this many chunks.
pub const MAX_CHUNKS: usize = 100_000;

/// A chunk has at most this many bytes.
pub const MAX_CHUNK_BYTES: usize = 256 * 1024 * 1024;

/// A chunk's name has at most this many bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// A checkpoint's meta has at most this many bytes.
pub const MAX_META_BYTES: usize = 1024 * 1024;

/// How many manifests are kept.
const KEPT_MANIFESTS: usize = 2;

const CHUNKS_DIR: &str = "chunks";

const TEMPORARY_SUFFIX: &str = ".tmp";

/// Of a chunk that is being received.
const PART_SUFFIX: &str = ".part";

/// The checkpoints of one node.
pub struct CheckpointStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    chunks_dir: PathBuf,
    owner: Owner,
    /// The mutex also orders writers.
    known: Mutex<Known>,
}

/// What this process has found out about the files.
#[derive(Debug, Default)]
struct Known {
    /// Chunks whose file was written or verified.
    verified: BTreeSet<Hash>,
    /// Checkpoints that are not intact, which are not worth keeping.
    damaged: BTreeSet<u64>,
    /// The sync that failed; a later one that succeeds proves nothing.
    failed: Option<Arc<io::Error>>,
    /// What must stay although no kept manifest needs it.
    holds: BTreeMap<u64, Hold>,
    next_hold: u64,
}

/// Files that somebody uses.
#[derive(Clone, Debug)]
struct Hold {
    chunks: BTreeSet<Hash>,
    /// Of a checkpoint that is read; `None` of one that is being received.
    reads: Option<Bytes>,
}

/// A checkpoint as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// What the owner said about it.
    pub meta: Bytes,
    /// Names and contents, in the order in which they were written.
    pub chunks: Vec<(String, Bytes)>,
}

/// A chunk's content, hashed with BLAKE3.
type Hash = [u8; 32];

// === impl CheckpointStore ===

impl CheckpointStore {
    /// Opens the checkpoints in a directory, which is created.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] for what the system reports.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        cluster_id: [u8; 16],
        node_id: u64,
    ) -> Result<Self, CheckpointError> {
        let dir = dir.into();
        let chunks_dir = dir.join(CHUNKS_DIR);
        let created = disk.create_dir_all(&chunks_dir);
        created.map_err(CheckpointError::io("create the directory", &chunks_dir))?;
        let owner = Owner {
            cluster_id,
            node_id,
        };
        let store = Self {
            disk,
            dir,
            chunks_dir,
            owner,
            known: Mutex::default(),
        };
        store.remove_parts()?;
        Ok(store)
    }

    /// Writes a checkpoint; when this returns it is durable and the newest. Chunks that are on disk
    /// already are not written again.
    ///
    /// # Errors
    /// [`CheckpointError::Invalid`] if a limit is exceeded or a name occurs twice, and what
    /// [`CheckpointStore::load`] returns if the files are another's; [`CheckpointError::Io`] for what
    /// the system reports, and [`CheckpointError::Failed`] if that was a sync of names. The checkpoint
    /// before or this one is then the newest.
    pub fn write(&self, meta: &[u8], chunks: Vec<(String, Bytes)>) -> Result<(), CheckpointError> {
        let refs: Vec<ChunkRef> = chunks
            .iter()
            .map(|(name, content)| ChunkRef {
                name: name.clone(),
                bytes: content.len() as u64,
                hash: *blake3::hash(content).as_bytes(),
            })
            .collect();
        check_limits(meta, &refs)?;
        let mut known = self.usable()?;
        // Nothing is written to files of another owner.
        self.kept_manifests(&known.damaged)?;
        for (chunk, (_, content)) in refs.iter().zip(chunks) {
            if !known.verified.contains(&chunk.hash) {
                self.write_chunk(&chunk.hash, &content)?;
                known.verified.insert(chunk.hash);
            }
        }
        self.publish(Bytes::copy_from_slice(meta), refs, &mut known)
    }

    /// What the owner said about the checkpoints that are kept, the oldest first.
    ///
    /// # Errors
    /// As [`CheckpointStore::load`].
    pub fn kept(&self) -> Result<Vec<Bytes>, CheckpointError> {
        let known = self.usable()?;
        let kept = self.kept_manifests(&known.damaged)?;
        Ok(kept.into_iter().map(|manifest| manifest.meta).collect())
    }

    /// Reads the newest checkpoint, or `None` if none was ever written. If the newest is damaged, the
    /// one before is returned and the damage is logged as an error.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] if no kept checkpoint is intact; the errors that say that the
    /// files are not this node's to read; [`CheckpointError::Io`] for what the system reports;
    /// [`CheckpointError::Failed`] from a failed sync on.
    pub fn load(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut known = self.usable()?;
        let mut first_damage = None;
        for (serial, path) in self.serials()?.into_iter().rev() {
            match self.load_manifest(&path, &mut known.verified) {
                Ok(checkpoint) => {
                    // Whoever named it may have been killed before its name was durable, and the
                    // log may be purged up to what is returned here.
                    self.sync_dir(&self.dir, &mut known)?;
                    return Ok(Some(checkpoint));
                }
                Err(error @ CheckpointError::Damaged { .. }) => {
                    tracing::error!(%error, "a checkpoint is damaged, falling back to the one before");
                    known.damaged.insert(serial);
                    first_damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        first_damage.map_or(Ok(None), Err)
    }

    /// Makes the chunks' names durable, then a manifest of them, which is the newest from then on.
    fn publish(
        &self,
        meta: Bytes,
        chunks: Vec<ChunkRef>,
        known: &mut Known,
    ) -> Result<(), CheckpointError> {
        let kept = self.kept_manifests(&known.damaged)?;
        let serial = self.serials()?.last().map_or(1, |(newest, _)| newest + 1);
        self.sync_dir(&self.chunks_dir, known)?;
        let manifest = Manifest {
            owner: self.owner,
            serial,
            meta,
            chunks,
        };
        self.write_manifest(&manifest, known)?;
        self.collect_garbage(&manifest, kept, known)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Result<MutexGuard<'_, Known>, CheckpointError> {
        let known = self.lock();
        match &known.failed {
            None => Ok(known),
            Some(source) => Err(self.failed(Arc::clone(source))),
        }
    }

    /// The manifests on disk, the oldest first.
    fn serials(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let names = self.disk.list(&self.dir);
        let names = names.map_err(CheckpointError::io("list", &self.dir))?;
        let mut found: Vec<_> = names
            .iter()
            .filter_map(|name| Some((manifest::serial_of(name)?, self.dir.join(name))))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The intact manifests on disk, the oldest first; refuses those of another owner.
    fn kept_manifests(&self, damaged: &BTreeSet<u64>) -> Result<Vec<Manifest>, CheckpointError> {
        let mut kept = Vec::new();
        for (serial, path) in self.serials()? {
            if damaged.contains(&serial) {
                continue;
            }
            match self.read_manifest(&path) {
                Ok(manifest) => kept.push(manifest),
                Err(error @ CheckpointError::Damaged { .. }) => {
                    tracing::error!(%error, "a checkpoint is damaged and will be replaced");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(kept)
    }

    fn read_manifest(&self, path: &Path) -> Result<Manifest, CheckpointError> {
        let bytes = self.read_file(path, manifest::MAX_BYTES)?;
        Manifest::decode(&bytes, self.owner)
            .map_err(|error| CheckpointError::header(path, &error, self.owner))
    }

    fn load_manifest(
        &self,
        path: &Path,
        verified: &mut BTreeSet<Hash>,
    ) -> Result<Checkpoint, CheckpointError> {
        let manifest = self.read_manifest(path)?;
        let mut chunks = Vec::with_capacity(manifest.chunks.len());
        for chunk in manifest.chunks {
            let path = self.chunk_path(&chunk.hash);
            let content = self.read_file(&path, chunk.bytes)?;
            if *blake3::hash(&content).as_bytes() != chunk.hash {
                verified.remove(&chunk.hash);
                let what = format!("the content of chunk {:?} has another checksum", chunk.name);
                return Err(CheckpointError::Damaged { file: path, what });
            }
            verified.insert(chunk.hash);
            chunks.push((chunk.name, Bytes::from(content)));
        }
        Ok(Checkpoint {
            meta: manifest.meta,
            chunks,
        })
    }

    /// A file that a checkpoint needs; one that is missing or too long is damage.
    fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
        let read = self
            .disk
            .open(path)
            .and_then(|file| read_all(file.as_ref(), limit));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge => CheckpointError::Damaged {
                file: path.to_path_buf(),
                what: error.to_string(),
            },
            _ => CheckpointError::io("read", path)(error),
        })
    }

    /// Writes a chunk unless an intact file of that name is there.
    fn write_chunk(&self, hash: &Hash, content: &[u8]) -> Result<(), CheckpointError> {
        let path = self.chunk_path(hash);
        let there = self.disk.open(&path).and_then(|file| {
            let same = file.size()? == content.len() as u64
                && read_all(file.as_ref(), content.len() as u64)? == content;
            // Whoever wrote it may have died before its sync.
            if same {
                file.sync_data()?;
            }
            Ok(same)
        });
        match there {
            Ok(true) => Ok(()),
            Ok(false) => self.write_file(&path, content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write_file(&path, content)
            }
            Err(error) => Err(CheckpointError::io("read", &path)(error)),
        }
    }

    fn write_manifest(
        &self,
        manifest: &Manifest,
        known: &mut Known,
    ) -> Result<(), CheckpointError> {
        let path = self.dir.join(manifest::name_of(manifest.serial));
        self.write_file(&path, &manifest.encode())?;
        // Before older ones go: at any moment there are two to load from.
        self.sync_dir(&self.dir, known)
    }

    /// Writes a file under a temporary name, syncs it and gives it its name.
    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), CheckpointError> {
        let temporary = path.with_extension("tmp");
        let wrote = self.disk.create(&temporary).and_then(|file| {
            file.write_all_at(content, 0)?;
            file.sync_data()
        });
        wrote.map_err(CheckpointError::io("write", &temporary))?;
        self.disk
            .rename(&temporary, path)
            .map_err(CheckpointError::io("name", path))
    }

    /// Removes manifests beyond the kept ones, then the chunks that no kept one refers to, and what
    /// unfinished writes left.
    fn collect_garbage(
        &self,
        newest: &Manifest,
        older: Vec<Manifest>,
        known: &mut Known,
    ) -> Result<(), CheckpointError> {
        let mut manifests: BTreeMap<u64, Vec<ChunkRef>> = older
            .into_iter()
            .map(|manifest| (manifest.serial, manifest.chunks))
            .collect();
        manifests.insert(newest.serial, newest.chunks.clone());
        while manifests.len() > KEPT_MANIFESTS {
            manifests.pop_first();
        }
        for (serial, path) in self.serials()? {
            if !manifests.contains_key(&serial) {
                self.remove(&path)?;
            }
        }
        let listed = self.disk.list(&self.dir);
        for name in listed.map_err(CheckpointError::io("list", &self.dir))? {
            if name.ends_with(TEMPORARY_SUFFIX) {
                self.remove(&self.dir.join(name))?;
            }
        }
        // Else a manifest could come back after a power cut when its chunks are gone. It would stand behind two newer
        // ones and be found damaged should both be: nothing wrong is served, so no test can see that this is left
        // out. An operator would read of damage that never was.
        self.sync_dir(&self.dir, known)?;
        let mut wanted: BTreeSet<Hash> = manifests
            .values()
            .flatten()
            .map(|chunk| chunk.hash)
            .collect();
        let mut names = BTreeSet::new();
        for hold in known.holds.values() {
            wanted.extend(&hold.chunks);
            if hold.reads.is_none() {
                names.extend(hold.chunks.iter().map(part_name));
            }
        }
        known.verified.retain(|hash| wanted.contains(hash));
        known.damaged.clear();
        names.extend(wanted.iter().map(chunk_name));
        let listed = self.disk.list(&self.chunks_dir);
        for name in listed.map_err(CheckpointError::io("list", &self.chunks_dir))? {
            if !names.contains(&name) {
                self.remove(&self.chunks_dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes what transfers left that were cut short.
    fn remove_parts(&self) -> Result<(), CheckpointError> {
        let listed = self.disk.list(&self.chunks_dir);
        for name in listed.map_err(CheckpointError::io("list", &self.chunks_dir))? {
            if name.ends_with(PART_SUFFIX) {
                self.remove(&self.chunks_dir.join(name))?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), CheckpointError> {
        self.disk
            .remove(path)
            .map_err(CheckpointError::io("remove", path))
    }

    fn sync_dir(&self, dir: &Path, known: &mut Known) -> Result<(), CheckpointError> {
        self.disk.sync_dir(dir).map_err(|error| {
            let source = Arc::new(error);
            known.failed = Some(Arc::clone(&source));
            self.failed(source)
        })
    }

    fn failed(&self, source: Arc<io::Error>) -> CheckpointError {
        CheckpointError::Failed {
            dir: self.dir.clone(),
            source,
        }
    }

    fn chunk_path(&self, hash: &Hash) -> PathBuf {
        self.chunks_dir.join(chunk_name(hash))
    }
}

impl fmt::Debug for CheckpointStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointStore")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

fn part_name(hash: &Hash) -> String {
    format!("{}{PART_SUFFIX}", blake3::Hash::from_bytes(*hash).to_hex())
}

fn chunk_name(hash: &Hash) -> String {
    format!("{}.chunk", blake3::Hash::from_bytes(*hash).to_hex())
}
