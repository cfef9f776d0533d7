//! `contact.json`: when the last contact was, for the next run of this node.
//!
//! Within one run of the machine the time since then is that of a clock which nobody can set. Over a boot only the wall
//! clock is left; where that stands before the contact it has been set back, and the time since is unknown.
//!
//! The file is replaced by renaming and never synced: what a power cut leaves is the file before, or none, and with
//! either the contact counts as longer ago than it was. So it does with one that was changed since, which its checksum
//! tells: another digit would make it fresher.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mode_envoy_raft::BootMs;
use serde::{Deserialize, Serialize};

const FILE: &str = "contact.json";
const FILE_NEW: &str = "contact.json.new";
/// A file longer than this is none of ours.
const FILE_MAX: u64 = 1_024;
/// Hexadecimal digits of the checksum.
const CHECK_DIGITS: usize = 16;
/// Names one run of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// When the last contact was.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Unix time.
    wall_ms: u64,
    /// Which run of the machine `boot_ms` is of; empty if that is not known.
    boot_id: String,
    boot_ms: u64,
}

/// A record as it is in the file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    contact: Record,
    /// Of the contact.
    check: String,
}

/// A moment by every clock there is.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) wall_ms: u64,
    boot_id: String,
    boot: BootMs,
}

// === impl Record ===

impl Record {
    /// What the last run left, if it can be read.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the time of the last contact cannot be read");
                return None;
            }
        };
        let mut text = String::new();
        let read = file.take(FILE_MAX).read_to_string(&mut text);
        let record = read
            .map_err(|error| error.to_string())
            .and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string()))
            .and_then(Kept::verified);
        match record {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(error, path = %path.display(), "the time of the last contact cannot be read");
                None
            }
        }
    }

    /// A node that applied an entry of that wall time had contact then, or later.
    pub(super) fn of_log(wall_ms: u64) -> Option<Self> {
        (wall_ms > 0).then(|| Self {
            wall_ms,
            boot_id: String::new(),
            boot_ms: 0,
        })
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let (beside, path) = (dir.join(FILE_NEW), dir.join(FILE));
        fs::write(&beside, serde_json::to_vec(&Kept::of(self)?)?)?;
        fs::rename(beside, path)
    }

    /// Whether it was written since the machine was started; not where nobody can tell.
    pub(super) fn is_of_boot(&self, now: &Moment) -> bool {
        !self.boot_id.is_empty() && self.boot_id == now.boot_id
    }

    /// How long ago that is; `None` where the clocks cannot tell.
    pub(super) fn age(&self, now: &Moment) -> Option<Duration> {
        if self.is_of_boot(now) && self.boot_ms <= now.boot.0 {
            return Some(now.boot.since(BootMs(self.boot_ms)));
        }
        now.wall_ms
            .checked_sub(self.wall_ms)
            .map(Duration::from_millis)
    }
}

// === impl Kept ===

impl Kept {
    fn of(record: &Record) -> serde_json::Result<Self> {
        Ok(Self {
            contact: record.clone(),
            check: checksum(record)?,
        })
    }

    fn verified(self) -> Result<Record, String> {
        let expected = checksum(&self.contact).map_err(|error| error.to_string())?;
        if self.check == expected {
            return Ok(self.contact);
        }
        Err("its checksum does not fit, so it was changed since it was written".to_owned())
    }
}

// === impl Moment ===

impl Moment {
    pub(super) fn now() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            boot_id: boot_id.trim().to_owned(),
            boot: BootMs::now(),
        }
    }

    /// The record of a contact at `boot`, which is not after this moment.
    pub(super) fn record_of(self, boot: BootMs) -> Record {
        let ago = self.boot.since(boot).as_millis();
        let ago = u64::try_from(ago).unwrap_or(u64::MAX);
        Record {
            wall_ms: self.wall_ms.saturating_sub(ago),
            boot_id: self.boot_id,
            boot_ms: boot.0,
        }
    }
}

fn checksum(record: &Record) -> serde_json::Result<String> {
    let hash = blake3::hash(&serde_json::to_vec(record)?);
    Ok(hash.to_hex()[..CHECK_DIGITS].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(wall_ms: u64, boot_id: &str, boot_ms: u64) -> Moment {
        Moment {
            wall_ms,
            boot_id: boot_id.to_owned(),
            boot: BootMs(boot_ms),
        }
    }

    #[test]
    fn within_one_boot_nobody_can_set_the_clock_back() {
        let record = moment(1_000_000, "a", 5_000).record_of(BootMs(4_000));
        assert_eq!(record.wall_ms, 999_000);
        let set_back = moment(0, "a", 64_000);
        assert_eq!(record.age(&set_back), Some(Duration::from_mins(1)));
    }

    #[test]
    fn over_a_boot_a_clock_that_went_back_makes_nothing_fresher() {
        let record = moment(1_000_000, "a", 5_000).record_of(BootMs(5_000));
        let later = moment(1_060_000, "b", 10);
        assert_eq!(record.age(&later), Some(Duration::from_mins(1)));
        assert_eq!(record.age(&moment(999_999, "b", 10)), None);
        let unnamed = moment(1_060_000, "", 6_000);
        let of_log = Record::of_log(1_000_000).unwrap();
        assert_eq!(of_log.age(&unnamed), Some(Duration::from_mins(1)));
    }

    #[test]
    fn a_record_reads_back_and_one_that_is_damaged_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()), None);
        let record = Moment::now().record_of(BootMs(7));
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()), Some(record));
        for damaged in ["", "{", "{\"wall_ms\":-1}", "\u{0}\u{0}"] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(Record::read(dir.path()), None, "{damaged:?}");
        }
    }
    #[test]
    fn a_record_with_one_flipped_byte_says_what_was_written_or_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let record = moment(1_700_000_000_000, "2c1a", 86_400_000).record_of(BootMs(86_300_000));
        record.write(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for mask in (0..8).map(|bit| 1 << bit).chain([0x0f, 0xff]) {
                let mut damaged = whole.clone();
                damaged[at] ^= mask;
                fs::write(&path, damaged).unwrap();
                let found = Record::read(dir.path());
                assert!(
                    found.is_none() || found.as_ref() == Some(&record),
                    "byte {at} ^ {mask:#x}: {found:?}"
                );
            }
        }
    }
}
