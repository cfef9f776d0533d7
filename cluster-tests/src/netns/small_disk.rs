//! A file system of its own for one directory, small enough to be filled.
//!
//! It exists only inside of a sandbox, and its memory is free again when it is dropped.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::sandbox::tool;

const BALLAST: &str = "ballast";
const PIECE: usize = 1 << 16;

/// A small file system; mounted while this value lives.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

// === impl SmallDisk ===

impl SmallDisk {
    /// Mounts an empty one of so many bytes at a path, which is made.
    ///
    /// # Errors
    ///
    /// It cannot be mounted.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        let (size, at) = (format!("size={bytes}"), path.to_string_lossy());
        tool("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &at])?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Takes everything that is free.
    ///
    /// # Errors
    ///
    /// The ballast cannot be written for another reason.
    pub fn fill(&self) -> Result<()> {
        let path = self.path.join(BALLAST);
        let mut file =
            std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
        for piece in [PIECE, 1] {
            loop {
                match file.write(&vec![0; piece]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(error) => {
                        return Err(error).with_context(|| format!("filling {}", path.display()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// The ballast cannot be removed.
    pub fn free(&self) -> Result<()> {
        let path = self.path.join(BALLAST);
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a node that did not end may still use it; where even that fails, the sandbox ends soon.
        let _ = tool("umount", &["-l", &self.path.to_string_lossy()]);
    }
}
