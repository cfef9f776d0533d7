//! The directories of a projection: the one that is in use, and at most one that failed.
//!
//! ```text
//! <dir>/current     the number of the one in use, replaced atomically
//! <dir>/<number>/   sled's files, and the mark
//! <dir>/failed/     the last one that failed, for whoever wants to know why
//! ```
//!
//! sled's files are never renamed while they are in use, since sled remembers where they were.
//!
//! Invariant: what `current` does not name is not used, and goes at the next opening.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::error::Fault;
use super::ledger::Ledger;

const CURRENT: &str = "current";
const FAILED: &str = "failed";

/// sled's own name of the file that holds everything.
const DATA_FILE: &str = "db";

/// The newest ledger, see there.
const MARK: &str = "mark";

/// A longer mark is none.
const MARK_MAX: u64 = 256;

/// sled refuses to open if a snapshot is no longer than its checksums.
const SNAPSHOT_MIN: u64 = 12;

/// Where the projections are.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    dir: PathBuf,
}

/// A directory of sled's.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    number: u64,
}

// === impl Directory ===

impl Directory {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The one in use, without what an interrupted start or rewrite left; whatever else is there goes.
    pub(super) fn current(&self) -> io::Result<Place> {
        fs::create_dir_all(&self.dir)?;
        let Some(number) = self.read_current() else {
            return self.begin(1);
        };
        let place = self.place(number);
        for other in self.places()? {
            if other.number != number {
                fs::remove_dir_all(&other.path)?;
            }
        }
        guard(&place.path)?;
        Ok(place)
    }

    /// Moves the one in use aside, in place of the one that failed before, and begins an empty one.
    pub(super) fn set_aside(&self) -> io::Result<Place> {
        fs::create_dir_all(&self.dir)?;
        let places = self.places()?;
        let next = places.iter().map(|place| place.number).max().unwrap_or(0) + 1;
        if let Some(newest) = places.last() {
            let failed = self.dir.join(FAILED);
            remove_all(&failed)?;
            fs::rename(&newest.path, &failed)?;
        }
        self.begin(next)
    }

    /// Where the next one may be written.
    pub(super) fn beside(&self, place: &Place) -> io::Result<Place> {
        let next = self.place(place.number + 1);
        remove_all(&next.path)?;
        Ok(next)
    }

    /// From now on this one is in use.
    pub(super) fn switch_to(&self, place: &Place) -> io::Result<()> {
        let beside = self.dir.join("current.tmp");
        fs::write(&beside, place.number.to_string())?;
        fs::rename(&beside, self.dir.join(CURRENT))
    }

    /// Begins an empty one.
    fn begin(&self, number: u64) -> io::Result<Place> {
        for other in self.places()? {
            fs::remove_dir_all(&other.path)?;
        }
        let place = self.place(number);
        self.switch_to(&place)?;
        Ok(place)
    }

    fn place(&self, number: u64) -> Place {
        Place {
            path: self.dir.join(number.to_string()),
            number,
        }
    }

    fn read_current(&self) -> Option<u64> {
        let path = self.dir.join(CURRENT);
        // A number has at most 20 digits.
        let sound = fs::metadata(&path).is_ok_and(|file| file.len() <= 20);
        let text = sound.then(|| fs::read_to_string(&path).ok()).flatten()?;
        text.parse().ok().filter(|number| *number < u64::MAX)
    }

    fn places(&self) -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            places.extend(number.map(|number| self.place(number)));
        }
        places.sort_unstable_by_key(|place| place.number);
        Ok(places)
    }
}

// === impl Place ===

impl Place {
    /// What tells sled's file from another that takes its place.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        let data = fs::metadata(self.path.join(DATA_FILE)).ok()?;
        Some((data.dev(), data.ino()))
    }

    /// How many values sled has put into files of their own.
    pub(super) fn blobs(&self) -> io::Result<u64> {
        match fs::read_dir(self.path.join("blobs")) {
            Ok(entries) => Ok(entries.count() as u64),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The mark, or `None` if there never was one.
    pub(super) fn read_mark(&self) -> Result<Option<Ledger>, Fault> {
        let path = self.path.join(MARK);
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(file) if file.len() <= MARK_MAX => {}
            _ => return Err(Fault::Damaged("its mark")),
        }
        let mark = Ledger::decode(&fs::read(&path)?);
        mark.map(Some).ok_or(Fault::Damaged("its mark"))
    }

    pub(super) fn write_mark(&self, mark: &[u8]) -> io::Result<()> {
        let beside = self.path.join("mark.tmp");
        fs::write(&beside, mark)?;
        fs::rename(&beside, self.path.join(MARK))
    }

    /// Gives the space back.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_all(&self.path)
    }
}

/// Removes what a process left that was killed while sled opened: sled would refuse it for ever, although it can
/// build its page table from the data file.
fn guard(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let unfinished = name.ends_with(".generating") || entry.metadata()?.len() <= SNAPSHOT_MIN;
        if name.starts_with("snap.") && unfinished {
            tracing::info!(file = %entry.path().display(), "removing a snapshot that was left unfinished");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
