//! The memory map under a spool's segment: the only unsafe code of the workspace.
//!
//! The map is split at `published`. Below it bytes never change again and anyone may read them; above
//! it they belong to the one [`Tail`], which alone moves the split, and only up. The last 16 bytes are
//! apart: two atomics, the mark.
//!
//! Invariants:
//! * `published <= len - MARK_BYTES`, a multiple of [`ALIGN`];
//! * there is one `Tail` per [`Region`], because [`Region::map`] makes both and neither can be cloned;
//! * no other process writes to or shortens the file: its directory is locked while it is mapped.
#![expect(
    unsafe_code,
    reason = "a shared memory map has no safe interface; this file is that interface"
)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::frame::ALIGN;

/// Bytes at the end of a segment that hold the mark: a number, and its complement.
pub(super) const MARK_BYTES: usize = 16;

/// A mapped segment, for reading.
#[derive(Debug)]
pub(super) struct Region {
    map: MmapRaw,
    published: AtomicUsize,
}

/// The part of a mapped segment that is not published, for its one writer.
#[derive(Debug)]
pub(super) struct Tail {
    region: Arc<Region>,
}

// === impl Region ===

impl Region {
    /// Maps a file of exactly `len` bytes (reserved by the caller), of which `published` are final.
    pub(super) fn map(file: &File, len: usize, published: usize) -> io::Result<(Arc<Self>, Tail)> {
        let fits = published.is_multiple_of(ALIGN) && published + MARK_BYTES <= len;
        if file.metadata()?.len() != len as u64 || !len.is_multiple_of(ALIGN) || !fits {
            return Err(io::Error::other(
                "the file does not have the size of a segment",
            ));
        }
        let map = MmapOptions::new().len(len).map_raw(file)?;
        let region = Arc::new(Self {
            map,
            published: AtomicUsize::new(published),
        });
        let tail = Tail {
            region: Arc::clone(&region),
        };
        Ok((region, tail))
    }

    /// The published bytes.
    pub(super) fn published(&self) -> &[u8] {
        let len = self.published.load(Ordering::Acquire);
        // SAFETY: the map is valid for `len` bytes as long as `self` lives. They are initialised (a
        // file's bytes always are) and final: `Tail` writes only from `published` on, and the Acquire
        // load pairs with the Release store by which it gave these up.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), len) }
    }

    /// How many bytes records may take in all.
    pub(super) fn capacity(&self) -> usize {
        self.map.len() - MARK_BYTES
    }

    /// Stores the mark.
    pub(super) fn set_mark(&self, mark: u64) {
        let [value, complement] = self.mark_words();
        value.store(mark.to_le(), Ordering::Relaxed);
        complement.store(!mark.to_le(), Ordering::Relaxed);
    }

    /// Lets the system provide all pages now, so that the writer does not wait for them later.
    pub(super) fn populate(&self) {
        // Older kernels do not know this advice; the pages then come when they are touched.
        let _ = self.map.advise(Advice::PopulateWrite);
    }

    fn mark_words(&self) -> [&AtomicU64; 2] {
        let capacity = self.capacity();
        // SAFETY: both words lie within the map, behind what `published` and `spare` can reach, so
        // they are only ever accessed as atomics. The map is page-aligned and its length a multiple of
        // 8, so they are aligned. The references live no longer than `self`.
        unsafe {
            let start = self.map.as_mut_ptr().add(capacity);
            [
                AtomicU64::from_ptr(start.cast()),
                AtomicU64::from_ptr(start.add(8).cast()),
            ]
        }
    }
}

// === impl Tail ===

impl Tail {
    /// The bytes that are not published.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        let start = self.region.published.load(Ordering::Relaxed);
        let len = self.region.capacity() - start;
        // SAFETY: the range lies within the map and is initialised. Nobody else can reach it: readers
        // stop at `published`, the mark lies behind it, and the one `Tail` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.region.map.as_mut_ptr().add(start), len) }
    }

    /// Publishes the next `len` bytes, of which the caller has written all but the first four. Those
    /// are stored here, last, so that a process killed before leaves them zero.
    pub(super) fn publish(&mut self, first_word: [u8; 4], len: usize) {
        let start = self.region.published.load(Ordering::Relaxed);
        let end = start + len;
        assert!(len >= ALIGN && len.is_multiple_of(ALIGN) && end <= self.region.capacity());
        // SAFETY: the word lies within the map and, as `start` is a multiple of 8, is aligned. It is
        // in the range that only this `Tail` accesses, and `spare`'s borrow has ended.
        let word: &AtomicU32 =
            unsafe { AtomicU32::from_ptr(self.region.map.as_mut_ptr().add(start).cast()) };
        word.store(u32::from_ne_bytes(first_word), Ordering::Release);
        self.region.published.store(end, Ordering::Release);
    }
}

/// Reads the mark from the last bytes of a segment; `None` if there is no valid one.
pub(super) fn mark_of(segment: &[u8]) -> Option<u64> {
    let (rest, complement) = segment.split_last_chunk::<8>()?;
    let (_, value) = rest.split_last_chunk::<8>()?;
    let value = u64::from_le_bytes(*value);
    (value == !u64::from_le_bytes(*complement)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(len: usize) -> (tempfile::TempDir, File, Arc<Region>, Tail) {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("segment")).unwrap();
        file.set_len(len as u64).unwrap();
        let options = File::options()
            .read(true)
            .write(true)
            .open(dir.path().join("segment"));
        let (region, tail) = Region::map(&options.unwrap(), len, 0).unwrap();
        (dir, file, region, tail)
    }

    #[test]
    fn bytes_are_readable_once_published_and_not_before() {
        let (dir, _file, region, mut tail) = mapped(4096);
        tail.spare()[4..8].copy_from_slice(b"efgh");
        assert_eq!(region.published(), b"");
        tail.publish(*b"abcd", 8);
        assert_eq!(region.published(), b"abcdefgh");
        assert_eq!(tail.spare().len(), 4096 - MARK_BYTES - 8);
        let on_disk = std::fs::read(dir.path().join("segment")).unwrap();
        assert_eq!(&on_disk[..8], b"abcdefgh");
    }

    #[test]
    fn a_mark_is_read_from_the_file_and_half_a_mark_is_none() {
        let (dir, _file, region, _tail) = mapped(4096);
        let read = || std::fs::read(dir.path().join("segment")).unwrap();
        assert_eq!(mark_of(&read()), None);
        region.set_mark(77);
        assert_eq!(mark_of(&read()), Some(77));
        let mut torn = read();
        torn[4095] ^= 1;
        assert_eq!(mark_of(&torn), None);
    }

    #[test]
    #[should_panic(expected = "capacity")]
    fn publishing_beyond_the_end_is_a_defect() {
        let (_dir, _file, _region, mut tail) = mapped(4096);
        tail.publish(*b"abcd", 4096);
    }
}
