//! Where the demo keeps its nodes' data. A directory that the demo made is removed at the end, unless something
//! failed: then the logs in it are what the user needs.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A directory, removed on drop if it is the demo's own.
pub(crate) struct Directory {
    path: PathBuf,
    remove: Cell<bool>,
}

// === impl Directory ===

impl Directory {
    /// Makes `chosen`, or a fresh directory under the system's temporary one.
    pub(crate) fn open(chosen: Option<&Path>) -> Result<Self> {
        let path = match chosen {
            Some(dir) => dir.to_path_buf(),
            None => std::env::temp_dir().join(format!("mode-envoy-demo-{}", std::process::id())),
        };
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("resolving {}", path.display()))?;
        Ok(Self {
            path,
            remove: Cell::new(chosen.is_none()),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration directory that nodes and command line share, apart from the user's own.
    pub(crate) fn config_home(&self) -> PathBuf {
        self.path.join("config")
    }

    /// Leaves it in place.
    pub(crate) fn keep(&self) {
        self.remove.set(false);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.remove.get() {
            // A leftover in the temporary directory harms nobody.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
