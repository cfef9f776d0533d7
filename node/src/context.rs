//! `context.json`: which token file belongs to which admin address, so that commands on the same machine need no flags.
//!
//! `serve` records its address when it is ready; the command line looks it up for addresses on loopback. The file
//! names files, it holds no token. It is written under a lock and replaced as a whole, readable by its owner only;
//! entries whose token file is gone are dropped on the way.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// What belongs to one admin address.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// The file that holds a token.
    pub token_file: PathBuf,
    /// The file of the CA that signs the listener's certificate, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// Why the file could not be read or written.
#[derive(Debug, Error)]
pub enum ContextError {
    /// There is no home to keep it in.
    #[error("finding the context file: neither XDG_CONFIG_HOME nor HOME is set; set one of them")]
    NoHome,
    /// The file system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what this program writes.
    #[error(
        "reading {path}: it is not a context file ({problem}); delete it, `serve` writes it anew"
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

// === free functions ===

/// Where the file is.
pub fn default_path() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(config.join("mode-envoy").join("context.json"))
}

/// Records what belongs to an admin address such as `http://127.0.0.1:7070`.
///
/// # Errors
///
/// The file cannot be read or replaced.
pub fn record(admin_url: &str, entry: &Entry) -> Result<(), ContextError> {
    record_in(
        &default_path().ok_or(ContextError::NoHome)?,
        admin_url,
        entry,
    )
}

/// What belongs to an admin address, if anything was recorded.
///
/// # Errors
///
/// The file is there and cannot be read.
pub fn lookup(admin_url: &str) -> Result<Option<Entry>, ContextError> {
    match default_path() {
        Some(path) => lookup_in(&path, admin_url),
        None => Ok(None),
    }
}

/// As [`record`], in a file of the caller's choice.
///
/// # Errors
///
/// As [`record`].
pub fn record_in(path: &Path, admin_url: &str, entry: &Entry) -> Result<(), ContextError> {
    let failed = |doing| {
        move |source| ContextError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed("creating the folder of"))?;
    }
    // Released when the file is closed, whatever happens.
    let _lock = lock(path).map_err(failed("locking"))?;
    // A file that cannot be understood is replaced: nothing in it can be used anyway.
    let mut entries = read(path).unwrap_or_default();
    entries.retain(|_, entry| entry.token_file.exists());
    entries.insert(normal(admin_url), entry.clone());
    replace(path, &entries).map_err(failed("writing"))
}

/// As [`lookup`], in a file of the caller's choice.
///
/// # Errors
///
/// As [`lookup`].
pub fn lookup_in(path: &Path, admin_url: &str) -> Result<Option<Entry>, ContextError> {
    Ok(read(path)?.remove(&normal(admin_url)))
}

fn read(path: &Path) -> Result<BTreeMap<String, Entry>, ContextError> {
    let malformed = |problem: String| ContextError::Malformed {
        path: path.to_owned(),
        problem,
    };
    let failed = |source| ContextError::Io {
        doing: "reading",
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(malformed(format!("it has more than {MAX_BYTES} bytes")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))
}

fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.with_extension("lock"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

fn replace(path: &Path, entries: &BTreeMap<String, Entry>) -> io::Result<()> {
    // Under the lock, nobody else uses this name.
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    serde_json::to_writer_pretty(&mut file, entries)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn normal(admin_url: &str) -> String {
    admin_url.trim_end_matches('/').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry(folder: &Path, name: &str) -> Entry {
        let token_file = folder.join(name);
        fs::write(&token_file, "met-x").unwrap();
        Entry {
            token_file,
            ca: None,
        }
    }

    #[test]
    fn what_was_recorded_is_found_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/context.json");
        let (one, two) = (entry(folder.path(), "one"), entry(folder.path(), "two"));
        assert_eq!(lookup_in(&path, "http://127.0.0.1:7070").unwrap(), None);
        record_in(&path, "http://127.0.0.1:7070", &one).unwrap();
        record_in(&path, "http://127.0.0.2:7070/", &two).unwrap();
        assert_eq!(
            lookup_in(&path, "http://127.0.0.1:7070/").unwrap(),
            Some(one)
        );
        assert_eq!(
            lookup_in(&path, "http://127.0.0.2:7070").unwrap(),
            Some(two)
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn entries_whose_token_file_is_gone_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.json");
        let gone = entry(folder.path(), "gone");
        record_in(&path, "http://127.0.0.1:1", &gone).unwrap();
        fs::remove_file(&gone.token_file).unwrap();
        record_in(&path, "http://127.0.0.1:2", &entry(folder.path(), "here")).unwrap();
        assert_eq!(lookup_in(&path, "http://127.0.0.1:1").unwrap(), None);
        assert!(lookup_in(&path, "http://127.0.0.1:2").unwrap().is_some());
    }

    #[test]
    fn a_file_that_is_something_else_is_named_when_read_and_replaced_when_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.json");
        fs::write(&path, "{").unwrap();
        let refused = lookup_in(&path, "http://127.0.0.1:1")
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("context.json") && refused.contains("delete it"),
            "{refused}"
        );
        record_in(&path, "http://127.0.0.1:1", &entry(folder.path(), "t")).unwrap();
        assert!(lookup_in(&path, "http://127.0.0.1:1").unwrap().is_some());
    }

    #[test]
    fn many_writers_lose_no_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.json");
        let entry = entry(folder.path(), "t");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (path, entry) = (&path, &entry);
                scope.spawn(move || {
                    record_in(path, &format!("http://127.0.0.1:{writer}"), entry).unwrap();
                });
            }
        });
        for writer in 0..8 {
            assert!(
                lookup_in(&path, &format!("http://127.0.0.1:{writer}"))
                    .unwrap()
                    .is_some()
            );
        }
    }
}
