//! The files of a data directory by kind, and copies of it in which one byte is another.
//!
//! What a kind of file must survive is judged by who uses this. Invariant: a file of no kind is an error, so that whoever
//! adds one says what becomes of a damaged byte in it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::load::Rng;

/// A header, a preamble and the fields behind them are in these first bytes of a file.
const HEAD: usize = 24;
/// The last record of a file ends with these.
const TAIL: usize = 16;

/// What a file is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `node.json`: whose directory this is.
    Identity,
    /// `contact.json`: when the quorum was last heard.
    Contact,
    /// `cluster.secret`.
    Secret,
    /// `cluster.secret.next` and `.old`, while the secret is replaced.
    SecretAside,
    /// `join.nonce`: what a joining node is known by.
    JoinNonce,
    /// `admin.token` and `admin-ca.pem`, written anew at each start.
    Access,
    /// Empty files that are there to be locked, or to be there.
    Mark,
    /// A segment of the log.
    Log,
    /// A segment that is being prepared.
    Prepared,
    /// Which chunks a checkpoint has.
    Manifest,
    /// A chunk of checkpoints.
    Chunk,
    /// Usage on its way into the log.
    Spool,
    /// Records of single calls.
    Calls,
    /// What can be computed again.
    Projection,
}

/// One file of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// Its path in the directory.
    pub path: PathBuf,
    /// What it is for.
    pub kind: Kind,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// A stopped node's directory, whole, in memory.
#[derive(Clone, Debug)]
pub struct Image {
    parts: Vec<Part>,
}

/// One byte that is another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flip {
    /// The file.
    pub path: PathBuf,
    /// What it is for.
    pub kind: Kind,
    /// Which byte.
    pub at: usize,
    /// What it is combined with.
    pub mask: u8,
}

// === impl Kind ===

impl Kind {
    /// The kind of a file by its path in the directory.
    fn of(path: &Path) -> Option<Self> {
        let text = path.to_str()?;
        let parts: Vec<_> = text.split('/').collect();
        let ends = |suffix: &str| text.ends_with(suffix);
        Some(match parts[..] {
            ["node.json"] => Self::Identity,
            ["contact.json"] => Self::Contact,
            ["cluster.secret"] => Self::Secret,
            ["cluster.secret.next" | "cluster.secret.old"] => Self::SecretAside,
            ["join.nonce"] => Self::JoinNonce,
            ["admin.token" | "admin-ca.pem"] => Self::Access,
            ["lock" | "restoring"] => Self::Mark,
            ["wal", name] if name.starts_with("log-") && ends(".wal") => Self::Log,
            ["wal", "prepared.tmp" | "oversized.tmp"] => Self::Prepared,
            ["checkpoint", _] if ends(".manifest") => Self::Manifest,
            ["checkpoint", "chunks", _] if ends(".chunk") => Self::Chunk,
            ["usage", worker, _] if worker.starts_with("worker-") && ends(".spool") => Self::Spool,
            ["usage", worker, _] if worker.starts_with("worker-") && ends(".tmp") => Self::Prepared,
            ["calls", name] if name.starts_with("calls-") && ends(".calls") => Self::Calls,
            ["projection", ..] => Self::Projection,
            _ => return None,
        })
    }
}

// === impl Image ===

impl Image {
    /// Reads a directory.
    ///
    /// # Errors
    ///
    /// It cannot be read, or holds a file of a kind that is not known here.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut parts = Vec::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("listing {}", folder.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes =
                    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                let path = path.strip_prefix(dir)?.to_owned();
                let Some(kind) = Kind::of(&path) else {
                    bail!(
                        "a data directory holds {}, of which cluster-tests/src/one_byte.rs does not know what a damaged byte in it \
                         leads to: add its kind",
                        path.display()
                    );
                };
                parts.push(Part { path, kind, bytes });
            }
        }
        parts.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Self { parts })
    }

    /// Its files.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The kinds that it has.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.parts.iter().map(|part| part.kind).collect()
    }

    /// Without the files of a kind.
    #[must_use]
    pub fn without(&self, kind: Kind) -> Self {
        let parts = self.parts.iter().filter(|part| part.kind != kind);
        Self {
            parts: parts.cloned().collect(),
        }
    }

    /// Flips of all files, at most so many of each and of each kind.
    pub fn flips(&self, of_each_file: usize, of_each_kind: usize, rng: &mut Rng) -> Vec<Flip> {
        let mut flips = Vec::new();
        for kind in self.kinds() {
            let parts = self.parts.iter().filter(|part| part.kind == kind);
            let mut of_kind: Vec<_> = parts
                .flat_map(|part| part.flips(of_each_file, rng))
                .collect();
            rng.shuffle(&mut of_kind);
            of_kind.truncate(of_each_kind);
            flips.append(&mut of_kind);
        }
        flips
    }

    /// Writes it to a new directory, with one byte flipped or none.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, dir: &Path, flip: Option<&Flip>) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        for part in &self.parts {
            let path = dir.join(&part.path);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let flip = flip.filter(|flip| flip.path == part.path);
            let damaged = flip.map(|flip| {
                let mut bytes = part.bytes.clone();
                bytes[flip.at] ^= flip.mask;
                bytes
            });
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .and_then(|mut file| {
                    std::io::Write::write_all(&mut file, damaged.as_ref().unwrap_or(&part.bytes))
                })
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

// === impl Part ===

impl Part {
    /// At most `most` flips of this file, as `rng` says: in turn of its first bytes, of what is in it, of the last that is used, and
    /// of what lies behind. With a `most` beyond its length, of all bytes.
    pub fn flips(&self, most: usize, rng: &mut Rng) -> Vec<Flip> {
        let len = self.bytes.len();
        let last = self.bytes.iter().rposition(|byte| *byte != 0);
        let used = last.map_or(0, |last| last + 1);
        let mut places: BTreeSet<usize> = if most >= len {
            (0..len).collect()
        } else {
            self.places(used, most, rng)
        };
        places.retain(|at| *at < len);
        let flip = |at| {
            let mask = match rng.below(2) {
                0 => 1 << rng.below(8),
                _ => u8::try_from(1 + rng.below(255)).unwrap_or(1),
            };
            let (path, kind) = (self.path.clone(), self.kind);
            Flip {
                path,
                kind,
                at,
                mask,
            }
        };
        places.into_iter().map(flip).collect()
    }

    fn places(&self, used: usize, most: usize, rng: &mut Rng) -> BTreeSet<usize> {
        let len = self.bytes.len();
        let mut regions: Vec<usize> = (0..used).step_by((used / most.max(1)).max(1)).collect();
        rng.shuffle(&mut regions);
        let within = |from: usize, to: usize| (from, to.max(from + 1));
        let mut places = BTreeSet::new();
        for turn in 0..most {
            let (from, to) = match turn % 4 {
                0 => within(0, HEAD),
                2 => within(used.saturating_sub(TAIL), used),
                3 if turn % 8 == 7 => within(used, len),
                _ => {
                    let from = regions.pop().unwrap_or_default();
                    within(from, used)
                }
            };
            places.insert(from + rng.below(to - from));
        }
        places
    }
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, at, mask, .. } = self;
        write!(f, "byte {at} of {} ^ {mask:#04x}", path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_differs_in_the_byte_that_was_flipped_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("wal")).unwrap();
        std::fs::write(from.join("node.json"), "{}").unwrap();
        std::fs::write(from.join("wal/log-1-0.wal"), [7; 100]).unwrap();
        let image = Image::read(&from).unwrap();
        let flips = image.parts()[1].flips(1000, &mut Rng::new(1));
        assert_eq!(flips.len(), 100);
        image.write(&to, Some(&flips[3])).unwrap();
        let copy = Image::read(&to).unwrap();
        assert_eq!(copy.parts()[0], image.parts()[0]);
        let (old, new) = (&image.parts()[1].bytes, &copy.parts()[1].bytes);
        let differs: Vec<_> = (0..100).filter(|at| old[*at] != new[*at]).collect();
        assert_eq!(differs, [3]);
    }

    #[test]
    fn a_file_of_no_kind_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("something.new"), "x").unwrap();
        let error = Image::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("something.new"), "{error}");
    }

    #[test]
    fn flips_are_few_and_the_same_for_a_seed() {
        let part = Part {
            path: "wal/log-1-0.wal".into(),
            kind: Kind::Log,
            bytes: vec![1; 50_000],
        };
        let flips = part.flips(40, &mut Rng::new(5));
        assert!((30..=40).contains(&flips.len()), "{}", flips.len());
        assert_eq!(flips, part.flips(40, &mut Rng::new(5)));
    }
}
