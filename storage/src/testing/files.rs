//! Names and blocks of the disk in memory, each with what is synced and what is not.
//!
//! Invariants: only [`Dir::sync`] and [`Node::sync`] move anything to the synced side ([`Node::replace`]
//! and new directories apart, which are durable at once); images share nodes until they are written to. A node that is
//! mapped has its bytes in a file of the system without a name; they are taken over before the node is looked at, and
//! an image never has such a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::rng::SplitMix64;

/// What survives or not as one.
const BLOCK: usize = 512;

/// Directories and files.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    dirs: BTreeMap<PathBuf, Dir>,
    nodes: BTreeMap<u64, Arc<Node>>,
    next_node: u64,
}

#[derive(Clone, Debug, Default)]
struct Dir {
    synced: BTreeMap<String, u64>,
    live: BTreeMap<String, u64>,
    /// From synced to live, in order.
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    change: Change,
    /// A sync that was to cover it failed; none of this process will.
    lost: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, u64),
    Remove(String),
    Rename(String, String, u64),
}

/// The bytes of one file.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    synced: Vec<u8>,
    live: Vec<u8>,
    unsynced: BTreeMap<usize, Block>,
    /// What processes have mapped, if they have: it runs ahead of `live`.
    mapped: Option<Arc<File>>,
}

/// What was written to a block since it was synced, the newest last.
#[derive(Clone, Debug, Default)]
struct Block {
    versions: Vec<Vec<u8>>,
    /// A sync that was to cover them failed; only writing again changes that.
    lost: bool,
}

/// What one crash lets survive of the unsynced things.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Nothing,
    Everything,
    Some,
}

// === impl Files ===

impl Files {
    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let (dir, name) = self.place(path)?;
        let node = self.next_node;
        self.dir_mut(&dir)?.apply(Change::Create(name, node));
        self.next_node += 1;
        self.nodes.insert(node, Arc::default());
        Ok(node)
    }

    pub(super) fn lookup(&self, path: &Path) -> io::Result<u64> {
        let (dir, name) = self.place(path)?;
        let dir = self.dirs.get(&dir).ok_or(io::ErrorKind::NotFound)?;
        Ok(*dir.live.get(&name).ok_or(io::ErrorKind::NotFound)?)
    }

    /// Both names are in the same directory, which is all this crate needs.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.lookup(from)?;
        let ((dir, from), (to_dir, to)) = (self.place(from)?, self.place(to)?);
        if dir != to_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        self.dir_mut(&dir)?.apply(Change::Rename(from, to, node));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.lookup(path)?;
        let (dir, name) = self.place(path)?;
        self.dir_mut(&dir)?.apply(Change::Remove(name));
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.dirs.get(dir).ok_or(io::ErrorKind::NotFound)?;
        let children = self.dirs.keys().filter(|path| path.parent() == Some(dir));
        let children = children.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let mut names: Vec<_> = files.live.keys().cloned().chain(children).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn create_dir_all(&mut self, dir: &Path) {
        for dir in dir.ancestors() {
            self.dirs.entry(dir.to_path_buf()).or_default();
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path, works: bool) -> io::Result<()> {
        self.dir_mut(dir)?.sync(works);
        Ok(())
    }

    /// Directories below it apart, which this crate has none of. Durable at once.
    pub(super) fn remove_dir_all(&mut self, dir: &Path) -> io::Result<()> {
        let removed = self.dirs.remove(dir);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What all files hold now, apart from what processes do to them later.
    pub(super) fn snapshot(&self) -> Self {
        let mut after = self.clone();
        for node in after.nodes.values_mut().filter(|n| n.mapped.is_some()) {
            // One that cannot be read is as it was read last.
            let _ = Arc::make_mut(node).take_over();
            Arc::make_mut(node).mapped = None;
        }
        after
    }

    /// A file with all that was stored in its maps.
    pub(super) fn current(&mut self, id: u64) -> io::Result<&Node> {
        if self.node(id).mapped.is_some() {
            self.node_mut(id).take_over()?;
        }
        Ok(self.node(id))
    }

    pub(super) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub(super) fn node_mut(&mut self, id: u64) -> &mut Node {
        Arc::make_mut(self.nodes.entry(id).or_default())
    }

    pub(super) fn used(&self) -> u64 {
        let names = self.dirs.values().flat_map(|dir| dir.live.values());
        names.map(|id| self.node(*id).live.len() as u64).sum()
    }

    /// What a power cut leaves. The fate of a thing follows from the seed and its name alone.
    pub(super) fn crash(&self, seed: u64) -> Self {
        let (names_fate, blocks_fate) = Fate::pair(seed);
        let mut after = Self {
            next_node: self.next_node,
            ..Self::default()
        };
        for (path, dir) in &self.dirs {
            // Not of the directories above: they may be temporary ones, with another name in every run.
            let place = path.file_name().unwrap_or_default().as_encoded_bytes();
            let names = dir.crash(seed, place, names_fate);
            for (name, id) in &names {
                let rng = SplitMix64::named(seed, &[place, name.as_bytes()]);
                let node = self.node(*id).crash(rng, blocks_fate);
                after.nodes.insert(*id, Arc::new(node));
            }
            let dir = Dir {
                synced: names.clone(),
                live: names,
                pending: Vec::new(),
            };
            after.dirs.insert(path.clone(), dir);
        }
        after
    }

    /// What a killed process leaves. File systems journal names: a later process's sync covers them.
    pub(super) fn kill(&self) -> Self {
        let mut after = self.clone();
        for dir in after.dirs.values_mut() {
            for pending in &mut dir.pending {
                pending.lost = false;
            }
        }
        after
    }

    fn place(&self, path: &Path) -> io::Result<(PathBuf, String)> {
        let name = path.file_name().and_then(|name| name.to_str());
        match (path.parent(), name) {
            (Some(dir), Some(name)) if self.dirs.contains_key(dir) => {
                Ok((dir.to_path_buf(), name.to_owned()))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir_mut(&mut self, dir: &Path) -> io::Result<&mut Dir> {
        Ok(self.dirs.get_mut(dir).ok_or(io::ErrorKind::NotFound)?)
    }
}

// === impl Dir ===

impl Dir {
    fn apply(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(Pending {
            change,
            lost: false,
        });
    }

    fn sync(&mut self, works: bool) {
        let (lost, rest): (Vec<_>, Vec<_>) = self.pending.drain(..).partition(|p| p.lost);
        self.pending = lost;
        for mut pending in rest {
            if works {
                pending.change.apply(&mut self.synced);
            } else {
                pending.lost = true;
                self.pending.push(pending);
            }
        }
    }

    fn crash(&self, seed: u64, place: &[u8], fate: Fate) -> BTreeMap<String, u64> {
        let mut names = self.synced.clone();
        for pending in &self.pending {
            let (verb, name) = pending.change.name();
            let mut rng = SplitMix64::named(seed, &[place, verb.as_bytes(), name.as_bytes()]);
            if fate.keeps(&mut rng) {
                pending.change.apply(&mut names);
            }
        }
        names
    }
}

// === impl Change ===

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn name(&self) -> (&str, &str) {
        match self {
            Self::Create(name, _) => ("create", name),
            Self::Remove(name) => ("remove", name),
            Self::Rename(_, to, _) => ("rename", to),
        }
    }
}

// === impl Node ===

impl Node {
    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    /// Sets bytes that are durable at once.
    pub(super) fn replace(&mut self, bytes: Vec<u8>) {
        self.unsynced.clear();
        self.synced.clone_from(&bytes);
        if let Some(mapped) = &self.mapped {
            // Who has it mapped and cannot be told sees the old bytes.
            let _ = mapped.write_all_at(&bytes, 0);
        }
        self.live = bytes;
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let end = at + bytes.len();
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(mapped) = &self.mapped {
            mapped.write_all_at(bytes, at as u64)?;
        }
        self.live.resize(self.live.len().max(end), 0);
        self.live[at..end].copy_from_slice(bytes);
        for number in at / BLOCK..=(end - 1) / BLOCK {
            let version = block_of(&self.live, number).to_vec();
            let block = self.unsynced.entry(number).or_default();
            block.versions.push(version);
            block.lost = false;
        }
        Ok(())
    }

    /// The system's file that stands for this one from now on.
    pub(super) fn share(&mut self) -> io::Result<File> {
        if self.mapped.is_none() {
            let file = File::from(memfd_create("fault-disk", MemfdFlags::CLOEXEC)?);
            file.write_all_at(&self.live, 0)?;
            self.mapped = Some(Arc::new(file));
        }
        let mapped = self.mapped.as_deref().ok_or(io::ErrorKind::NotFound)?;
        mapped.try_clone()
    }

    /// Notes what was stored in maps of this file, as writes of whole blocks: in which order is not known.
    fn take_over(&mut self) -> io::Result<()> {
        let Some(mapped) = self.mapped.take() else {
            return Ok(());
        };
        let mut now = vec![0; self.live.len()];
        mapped.read_exact_at(&mut now, 0)?;
        for (number, block) in now.chunks(BLOCK).enumerate() {
            if block != block_of(&self.live, number) {
                self.write(number * BLOCK, block)?;
            }
        }
        self.mapped = Some(mapped);
        Ok(())
    }

    pub(super) fn sync(&mut self, works: bool) {
        if !works {
            for block in self.unsynced.values_mut() {
                block.lost = true;
            }
            return;
        }
        self.synced.resize(self.live.len(), 0);
        let synced = &mut self.synced;
        self.unsynced.retain(|number, block| {
            if let Some(newest) = block.versions.last().filter(|_| !block.lost) {
                put_block(synced, *number, newest);
            }
            block.lost
        });
    }

    fn crash(&self, mut rng: SplitMix64, fate: Fate) -> Self {
        let mut after = self.synced.clone();
        if fate.keeps(&mut rng) {
            after.resize(self.live.len(), 0);
        }
        let torn = rng.below(self.unsynced.len());
        for (at, (number, block)) in self.unsynced.iter().enumerate() {
            let kept = match fate {
                Fate::Nothing => 0,
                Fate::Everything => block.versions.len(),
                Fate::Some => rng.below(block.versions.len() + 1),
            };
            let Some(version) = kept.checked_sub(1).and_then(|at| block.versions.get(at)) else {
                continue;
            };
            let whole = at != torn || matches!(fate, Fate::Everything);
            let len = if whole { BLOCK } else { rng.below(BLOCK) };
            put_block(&mut after, *number, &version[..len.min(version.len())]);
        }
        let mut node = Self::default();
        node.replace(after);
        node
    }
}

// === impl Fate ===

impl Fate {
    /// The fates of names and of blocks, so that few seeds show all pairs.
    fn pair(seed: u64) -> (Self, Self) {
        let of = |number| match number % 4 {
            0 => Self::Nothing,
            1 => Self::Everything,
            _ => Self::Some,
        };
        (of(seed >> 2), of(seed))
    }

    fn keeps(self, rng: &mut SplitMix64) -> bool {
        let chance = rng.below(2) == 0;
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some => chance,
        }
    }
}

fn block_of(bytes: &[u8], number: usize) -> &[u8] {
    let start = number * BLOCK;
    &bytes[start..bytes.len().min(start + BLOCK)]
}

/// Writes what of a block lies within the file.
fn put_block(bytes: &mut [u8], number: usize, block: &[u8]) {
    let start = number * BLOCK;
    if let Some(target) = bytes.get_mut(start..) {
        let len = block.len().min(target.len());
        target[..len].copy_from_slice(&block[..len]);
    }
}
