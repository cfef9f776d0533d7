//! What is there when a call log is opened: sealed segments by their trailers, the others by a scan that seals them.
//!
//! A scan believes frames by their checksums and passes over what is between them. Damage below a mark had been made
//! durable, so the blocks behind it count. Damage above every mark is the end: what stands behind it may have been
//! written when something before it was lost, and the owner gives all of that again.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::block::{Block, MAX_PAYLOAD};
use super::index::{
    BLOCK, BlockRef, FOOTER, MARK, TRAILER, TRAILER_BYTES, TRAILER_PAYLOAD, Trailer, VERSION,
    encode_footer,
};
use super::shared::{Index, Segment, Shared, read_block, read_frame};
use super::{CallLogError, CallLogOptions, CallLogRecovery, MAGIC, number_of};
use crate::disk::DiskFile;
use crate::frame::{self, ALIGN, Frame, Parsed};
use crate::segment::{
    BARE_END, FIXED, FORMAT_VERSION, Header, HeaderError, Owner, PREAMBLE, Window,
};

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Blocks with their positions.
    pub(super) blocks: Vec<(BlockRef, Vec<u8>)>,
    /// Where something stands that was durable and is damaged.
    pub(super) damaged: Vec<u64>,
    /// Bytes behind the end of what counts.
    pub(super) torn: u64,
}

enum Item {
    Block(BlockRef, Vec<u8>),
    Gap(u64),
}

/// Reads what is in the directory into `shared`; the number of the next segment.
pub(super) fn recover(
    shared: &Shared,
    options: &CallLogOptions,
    now_ms: u64,
) -> Result<(CallLogRecovery, u64), CallLogError> {
    let listing = CallLogError::io("list", &options.dir);
    let names = shared.disk.list(&options.dir).map_err(listing)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let newest = numbers.last().copied();
    let mut found = CallLogRecovery::default();
    for number in numbers {
        let path = options.dir.join(super::file_name(number));
        let segment = open_segment(shared, number, &path, &mut found)?;
        let segment = match segment {
            Some(segment) => segment,
            // No block of it reached the disk, so none was acknowledged.
            None if Some(number) == newest => {
                remove(shared, &path)?;
                continue;
            }
            None => unreadable(shared, number, &path, now_ms)?,
        };
        if segment.bytes == 0 {
            remove(shared, &path)?;
        } else {
            shared.state().segments.insert(number, segment);
        }
    }
    let synced = shared.disk.sync_dir(&options.dir);
    synced.map_err(CallLogError::io("sync the directory", &options.dir))?;
    found.position = last_position(shared);
    Ok((found, newest.map_or(1, |number| number.saturating_add(1))))
}

/// `None` if its header is damaged and nothing else is there; of no bytes if nothing was ever in it.
fn open_segment(
    shared: &Shared,
    number: u64,
    path: &Path,
    found: &mut CallLogRecovery,
) -> Result<Option<Segment>, CallLogError> {
    let reading = |source| CallLogError::io("read", path)(source);
    let file: Arc<dyn DiskFile> = shared
        .disk
        .open(path)
        .map_err(CallLogError::io("open", path))?
        .into();
    let (seeds, intact) = match seeds(&file, shared.owner).map_err(reading)? {
        Ok(found) => found,
        Err(error) => return CallLogError::of_header(path, &error).map_or(Ok(None), Err),
    };
    let mut segment = Segment {
        number,
        path: path.to_owned(),
        bytes: file.size().map_err(reading)?,
        seed: 0,
        min_ms: 0,
        max_ms: 0,
        index: Index::Here(Vec::new()),
    };
    for seed in seeds {
        segment.seed = seed;
        if let Some(trailer) = trailer(&segment, &file).map_err(reading)? {
            (segment.min_ms, segment.max_ms) = (trailer.min_ms, trailer.max_ms);
            segment.index = Index::Footer(trailer.footer);
        } else {
            let scan = scan(&file, seed).map_err(reading)?;
            if !intact && scan.blocks.is_empty() {
                continue;
            }
            for offset in &scan.damaged {
                shared.note_damage(&segment, *offset);
                found
                    .damaged
                    .push(format!("{} at {offset}", path.display()));
            }
            found.torn_bytes += scan.torn;
            seal(&mut segment, file.as_ref(), scan).map_err(CallLogError::io("seal", path))?;
        }
        if !intact {
            shared.note_damage(&segment, 0);
            found.damaged.push(format!("{} at 0", path.display()));
        }
        return Ok(Some(segment));
    }
    Ok(None)
}

/// What the checksums of a file's frames may start from, and whether its header is as it was written. The seed is the
/// header's own checksum, so a header with a damaged byte still tells it twice: as a word, and by its contents.
fn seeds(
    file: &Arc<dyn DiskFile>,
    owner: Owner,
) -> io::Result<Result<(Vec<u32>, bool), HeaderError>> {
    let mut head = vec![0; BARE_END];
    let read = file.read_at(&mut head, 0)?;
    head.truncate(read);
    let as_found = Header::decode(MAGIC, &head, owner);
    if let Ok(opened) = as_found {
        return Ok(Ok((vec![opened.seed], true)));
    }
    let Some(preamble) = head.first_chunk_mut::<PREAMBLE>() else {
        return Ok(Err(HeaderError::Damaged));
    };
    // The header's checksum covers its preamble, so this mends a preamble that is damaged and no other.
    preamble[..4].copy_from_slice(&MAGIC);
    preamble[4..].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    match Header::decode(MAGIC, &head, owner) {
        Ok(opened) => return Ok(Ok((vec![opened.seed], false))),
        Err(HeaderError::Damaged) => {}
        Err(error) => return Ok(Err(error)),
    }
    if let Err(error @ HeaderError::NewerFormat { .. }) = as_found {
        return Ok(Err(error));
    }
    if head.len() < BARE_END {
        return Ok(Err(HeaderError::Damaged));
    }
    let (preamble, framed) = head.split_at(PREAMBLE);
    let stored = framed.get(4..8).and_then(|word| word.try_into().ok());
    let body = framed
        .get(frame::HEAD..frame::HEAD + FIXED)
        .unwrap_or_default();
    let (kind, version) = (framed[8], framed[9]);
    let told = frame::head(crc32c::crc32c(preamble), kind, version, &[body]);
    let stored = u32::from_le_bytes(stored.unwrap_or_default());
    Ok(Ok((vec![stored, frame::crc_of(&told)], false)))
}

fn trailer(segment: &Segment, file: &Arc<dyn DiskFile>) -> io::Result<Option<Trailer>> {
    let Some(at) = segment.bytes.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let place = (at, TRAILER_BYTES);
    let payload = read_frame(file.as_ref(), segment.seed, place, TRAILER, TRAILER_PAYLOAD)?;
    Ok(payload.and_then(|payload| Trailer::decode(&payload)))
}

/// Writes footer and trailer behind everything that is in the file.
fn seal(segment: &mut Segment, file: &dyn DiskFile, scan: Scan) -> io::Result<()> {
    if scan.blocks.is_empty() && scan.damaged.is_empty() {
        segment.bytes = 0;
        return Ok(());
    }
    let at = segment.bytes.next_multiple_of(ALIGN as u64);
    for (block, _) in scan.blocks {
        segment.add(block, at);
    }
    let Index::Here(blocks) = &segment.index else {
        return Ok(());
    };
    let end = frames_at_end(segment, at, blocks);
    file.write_all_at(&end, at)?;
    file.sync_data()?;
    segment.bytes = at + end.len() as u64;
    segment.index = Index::Footer(at);
    Ok(())
}

/// Footer and trailer of a segment whose footer starts at `at`.
pub(super) fn frames_at_end(segment: &Segment, at: u64, blocks: &[Arc<BlockRef>]) -> Vec<u8> {
    let mut out = Vec::new();
    let footer = encode_footer(blocks.iter().map(AsRef::as_ref));
    frame::push(&mut out, segment.seed, FOOTER, VERSION, &footer);
    let trailer = Trailer {
        footer: at,
        min_ms: segment.min_ms,
        max_ms: segment.max_ms,
    };
    frame::push(&mut out, segment.seed, TRAILER, VERSION, &trailer.encode());
    out
}

fn unreadable(
    shared: &Shared,
    number: u64,
    path: &Path,
    now_ms: u64,
) -> Result<Segment, CallLogError> {
    let file = shared
        .disk
        .open(path)
        .map_err(CallLogError::io("open", path))?;
    let bytes = file.size().map_err(CallLogError::io("read", path))?;
    let segment = Segment {
        number,
        path: path.to_owned(),
        bytes: bytes.max(1),
        seed: 0,
        min_ms: 0,
        max_ms: now_ms,
        index: Index::Unreadable,
    };
    shared.note_damage(&segment, 0);
    Ok(segment)
}

fn remove(shared: &Shared, path: &Path) -> Result<(), CallLogError> {
    let removed = shared.disk.remove(path);
    removed.map_err(CallLogError::io("remove", path))
}

/// The position of the last block that can be read. What cannot is damaged: the feed then goes on before it, and its
/// calls come again.
fn last_position(shared: &Shared) -> Option<Vec<u8>> {
    let segments: Vec<Segment> = shared.state().segments.values().rev().cloned().collect();
    for segment in segments {
        let opened = shared.disk.open(&segment.path).map(Arc::from);
        let blocks = opened.and_then(|file: Arc<dyn DiskFile>| {
            let blocks = shared.blocks(&segment, &file)?;
            Ok((file, blocks))
        });
        let (file, blocks) = match blocks {
            Ok(found) => found,
            Err(error) => {
                cannot_read(shared, &segment, 0, &error);
                continue;
            }
        };
        for block in blocks.iter().rev() {
            match read_block(file.as_ref(), segment.seed, block) {
                Ok(payload) => match payload.as_deref().and_then(Block::decode) {
                    Some(block) => return Some(block.position.to_vec()),
                    None => shared.note_damage(&segment, block.offset),
                },
                Err(error) => cannot_read(shared, &segment, block.offset, &error),
            }
        }
    }
    None
}

fn cannot_read(shared: &Shared, segment: &Segment, offset: u64, error: &io::Error) {
    tracing::warn!(%error, path = %segment.path.display(), offset, "cannot read call records");
    shared.note_damage(segment, offset);
}

/// Reads a segment front to back.
pub(super) fn scan(file: &Arc<dyn DiskFile>, seed: u32) -> io::Result<Scan> {
    let mut window = Window::new(Arc::clone(file))?;
    let (mut offset, size, mut proof) = (BARE_END as u64, window.size(), 0);
    let mut items = Vec::new();
    let mut in_gap = false;
    while offset < size {
        match window.frame_at(offset, seed, MAX_PAYLOAD)? {
            Parsed::Frame(frame) => {
                in_gap = false;
                proof = proof.max(take(&frame, offset, &mut items));
                offset += frame.size() as u64;
            }
            Parsed::End | Parsed::Damaged => {
                if !in_gap {
                    items.push(Item::Gap(offset));
                    in_gap = true;
                }
                offset += ALIGN as u64;
            }
        }
    }
    Ok(cut(items, proof, size))
}

/// Takes a frame; how far the file was durable when it was written.
fn take(frame: &Frame<'_>, offset: u64, items: &mut Vec<Item>) -> u64 {
    match frame.kind {
        BLOCK => match Block::decode(frame.payload) {
            Some(block) => {
                let at = BlockRef {
                    offset,
                    size: u32::try_from(frame.size()).unwrap_or(u32::MAX),
                    zone: block.zone,
                };
                items.push(Item::Block(at, block.position.to_vec()));
                block.synced
            }
            None => 0,
        },
        MARK => frame
            .payload
            .first_chunk()
            .map_or(0, |word| u64::from_le_bytes(*word)),
        _ => 0,
    }
}

fn cut(items: Vec<Item>, proof: u64, size: u64) -> Scan {
    let mut scan = Scan::default();
    for item in items {
        match item {
            Item::Block(block, position) => scan.blocks.push((block, position)),
            Item::Gap(at) if at < proof => scan.damaged.push(at),
            Item::Gap(at) => {
                scan.torn = size - at;
                break;
            }
        }
    }
    scan
}
