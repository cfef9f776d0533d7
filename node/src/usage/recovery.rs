//! Opens the spools of a node and settles what the last run left open.
//!
//! A call that was open when its node died is closed `presumed` before anything of the new run is counted. The
//! Close is written to the same spool by the same means as any other, so a crash within recovery is recovered from
//! by recovering again: what was presumed already has its Close. These Closes alone may exceed a spool's bound, since
//! a node could not start at all where they found no room. Where the disk is full, the node starts all the same: its
//! recorders owe the Closes and write them when there is room, and until then the calls are open and not counted.
//!
//! Spools of workers that exist no more (the worker count was lowered) are opened too: the flusher drains them and
//! then removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mode_envoy_storage::disk::Disk;
use mode_envoy_storage::spool::{self, SpoolError, SpoolOptions, SpoolReader, SpoolWriter};

use super::chance::new_uuid;
use super::flusher::Level;
use super::opens::Opens;
use super::record::{CLOSE, CallId, CloseHead, OPEN, RECORD_MAX, Record, RecordFault};
use super::recorder::{Late, Notice, Recorder};

/// Records read at once.
pub(crate) const PAGE_RECORDS: usize = 4_096;
/// Bytes read at once.
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// Where the spools are, and how large they may grow.
#[derive(Clone, Debug)]
pub(crate) struct SpoolSettings {
    /// The disk of the machine, but for tests.
    pub(crate) disk: Arc<dyn Disk>,
    /// A folder of its own.
    pub(crate) dir: PathBuf,
    /// Data-plane workers: one spool each.
    pub(crate) workers: u32,
    /// Bytes of one segment.
    pub(crate) segment_bytes: usize,
    /// Bytes of one spool.
    pub(crate) max_bytes: u64,
    /// Cluster.
    pub(crate) cluster_id: [u8; 16],
    /// Node.
    pub(crate) node_id: u64,
}

/// One spool, from the flusher's side.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) worker: u32,
    pub(crate) reader: SpoolReader,
    /// How to talk to the worker's recorder; none where the worker exists no more.
    pub(crate) notice: Option<Arc<Notice>>,
}

/// Every spool of this node, settled.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) recorders: Vec<Recorder>,
    /// Of workers that exist no more, and have Closes to write.
    pub(crate) owing: Vec<Recorder>,
    pub(crate) spools: Vec<Spool>,
    /// Calls that were closed `presumed`.
    pub(crate) presumed: u64,
}

/// Why the spools could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    /// The files.
    #[error("opening the usage spool of worker {worker} in {}", dir.display())]
    Spool {
        /// Worker.
        worker: u32,
        /// Folder.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        source: SpoolError,
    },
    /// The folder.
    #[error("listing the usage spools in {}", dir.display())]
    List {
        /// Folder.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        source: SpoolError,
    },
    /// A record.
    #[error("reading record {seq} of the usage spool of worker {worker}")]
    Record {
        /// Worker.
        worker: u32,
        /// Record.
        seq: u64,
        /// What is wrong.
        #[source]
        source: RecordFault,
    },
    /// No random bytes.
    #[error("the system gave no random bytes for a usage spool's identity")]
    Random,
}

/// Opens every spool and presumes what was left open.
pub(crate) fn open(settings: &SpoolSettings) -> Result<Recovered, RecoveryError> {
    let list = spool::list_spools(&*settings.disk, &settings.dir).map_err(|source| {
        RecoveryError::List {
            dir: settings.dir.clone(),
            source,
        }
    })?;
    let workers: BTreeSet<u32> = (0..settings.workers).chain(list).collect();
    let mut recovered = Recovered {
        recorders: Vec::new(),
        owing: Vec::new(),
        spools: Vec::new(),
        presumed: 0,
    };
    for worker in workers {
        let at = |source| spool_error(worker, &settings.dir, source);
        let options = options(settings, worker)?;
        let opened = spool::open_on(Arc::clone(&settings.disk), &options);
        let (mut writer, mut reader, kept) = opened.map_err(at)?;
        if kept.truncated_bytes > 0 {
            tracing::warn!(
                worker,
                bytes = kept.truncated_bytes,
                "the usage spool had a torn tail"
            );
        }
        let left = scan(
            worker,
            &settings.dir,
            &mut reader,
            kept.first_seq,
            kept.next_seq,
        )?;
        // A spool may have been full to its end when its process died. There is a Close for each Open at most.
        writer.exceed_bound(true);
        let presumed = presume(&left, &mut writer).map_err(at)?;
        writer.exceed_bound(false);
        reader.sync().map_err(at)?;
        recovered.presumed += presumed.calls;
        let exists = worker < settings.workers;
        let mut notice = None;
        if exists || presumed.no_room.is_some() {
            let shared = Arc::new(Notice::default());
            // Before the flusher looks: else each start of a full spool would open calls in its last segment, and
            // the next one would have to close them beyond its bound.
            let level = Level::default().after(reader.bytes(), reader.max_bytes());
            shared.set_nearly_full(level == Level::Full);
            if let Some(error) = &presumed.no_room {
                tell_of_no_room(worker, presumed.owed.len(), error);
                shared.found_no_room(error);
            }
            let recorder = Recorder::new(writer, Arc::clone(&shared)).owing(presumed.owed);
            let recorders = if exists {
                &mut recovered.recorders
            } else {
                &mut recovered.owing
            };
            recorders.push(recorder);
            notice = Some(shared);
        }
        recovered.spools.push(Spool {
            worker,
            reader,
            notice,
        });
    }
    Ok(recovered)
}

/// What a scan of a spool found.
struct Left {
    opens: Opens,
    /// The last sign of life of the run that wrote it.
    last_wall_ms: u64,
}

fn scan(
    worker: u32,
    dir: &Path,
    reader: &mut SpoolReader,
    first_seq: u64,
    next_seq: u64,
) -> Result<Left, RecoveryError> {
    let mut left = Left {
        opens: Opens::default(),
        last_wall_ms: 0,
    };
    let mut from = first_seq;
    while from < next_seq {
        let page = reader
            .read(from, PAGE_RECORDS, PAGE_BYTES)
            .map_err(|source| spool_error(worker, dir, source))?;
        let Some(last) = page.last() else { break };
        from = last.seq + 1;
        for record in &page {
            let fault = |source| RecoveryError::Record {
                worker,
                seq: record.seq,
                source,
            };
            track(&mut left.opens, record).map_err(fault)?;
            left.last_wall_ms = left.last_wall_ms.max(record.wall_ms);
        }
    }
    Ok(left)
}

/// Follows one record: which attempts are open after it.
pub(crate) fn track<'a>(
    opens: &mut Opens,
    record: &'a spool::SpoolRecord,
) -> Result<Record<'a>, RecordFault> {
    let parsed = Record::parse(record.kind, record.version, &record.payload)?;
    match &parsed {
        Record::Open(head, _) => {
            let attempt = (head.call, head.attempt);
            opens.opened(
                (record.seq, record.wall_ms),
                attempt,
                (record.version, &record.payload),
            );
        }
        Record::Close(head, _) => opens.closed((head.call, head.attempt)),
        Record::Total(..) => {}
    }
    Ok(parsed)
}

/// What became of the calls that the last run left open.
#[derive(Debug, Default)]
struct Settled {
    calls: u64,
    /// Closes that are not written.
    owed: Vec<Late>,
    /// Why not.
    no_room: Option<SpoolError>,
}

fn tell_of_no_room(worker: u32, closes: usize, error: &SpoolError) {
    tracing::error!(
        worker,
        closes,
        %error,
        "the ends of calls that the last run left open cannot be recorded: make room on the disk of the node's data folder; \
         the node serves meanwhile, and records them when there is room"
    );
}

/// Closes what was left open. The last attempt of a call carries the call.
fn presume(left: &Left, writer: &mut SpoolWriter) -> Result<Settled, SpoolError> {
    let mut last: BTreeMap<CallId, u8> = BTreeMap::new();
    for ((call, attempt), ..) in left.opens.iter() {
        let highest = last.entry(call).or_insert(attempt);
        *highest = attempt.max(*highest);
    }
    let mut settled = Settled::default();
    for ((call, attempt), version, payload) in left.opens.iter() {
        let (Ok(Record::Open(head, dims)), Ok(trail)) = (
            Record::parse(OPEN, version, payload),
            Record::trail_of(OPEN, version, payload),
        ) else {
            continue;
        };
        let answered = last.get(&call) == Some(&attempt);
        let close = CloseHead::presumed(&head, answered);
        let mut out = vec![0; RECORD_MAX];
        let Ok((version, len)) = close.encode_with(trail, dims, &mut out) else {
            continue;
        };
        out.truncate(len);
        settled.calls += u64::from(answered);
        if settled.no_room.is_none() {
            let copy = |place: &mut [u8]| {
                place.get_mut(..len)?.copy_from_slice(&out);
                Some(len)
            };
            match writer.append_with(CLOSE, version, left.last_wall_ms, RECORD_MAX, copy) {
                Ok(_) => continue,
                Err(error) if error.is_full() => settled.no_room = Some(error),
                Err(error) => return Err(error),
            }
        }
        settled.owed.push(Late {
            attempt: (call, attempt),
            version,
            wall_ms: left.last_wall_ms,
            payload: out,
            presumed: true,
        });
    }
    Ok(settled)
}

fn options(settings: &SpoolSettings, worker: u32) -> Result<SpoolOptions, RecoveryError> {
    Ok(SpoolOptions {
        dir: settings.dir.clone(),
        worker,
        segment_bytes: settings.segment_bytes,
        max_bytes: settings.max_bytes,
        cluster_id: settings.cluster_id,
        node_id: settings.node_id,
        new_uuid: new_uuid().ok_or(RecoveryError::Random)?,
    })
}

fn spool_error(worker: u32, dir: &Path, source: SpoolError) -> RecoveryError {
    RecoveryError::Spool {
        worker,
        dir: dir.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::{Asked, Closed, Dims, Opened};
    use crate::usage::testing::settings;

    fn id(number: u64) -> CallId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        CallId(id)
    }

    /// Opens calls until the spool takes no more records of any kind; how many are in it.
    fn open_until_full(recorder: &Recorder, reader: &SpoolReader, from: u64) -> u64 {
        let dims = Dims::empty();
        let before = reader.next_seq();
        for number in from..from + 200 {
            let opened = Opened {
                call: id(number),
                attempt: 0,
                dims: &dims,
                asked: Asked::default(),
                reserved_input: 1,
                bytes_in: 4,
            };
            recorder.open(&opened).unwrap();
        }
        reader.next_seq() - before
    }

    #[test]
    fn a_node_that_died_with_its_spool_full_to_the_end_starts_again_as_often_as_it_dies() {
        let dir = tempfile::tempdir().unwrap();
        let mut small = settings(dir.path(), 1);
        small.max_bytes = 2 * small.segment_bytes as u64;
        let recovered = open(&small).unwrap();
        let opened = open_until_full(&recovered.recorders[0], &recovered.spools[0].reader, 0);
        assert!(opened > 20);
        drop(recovered);
        let recovered = open(&small).unwrap();
        assert_eq!(recovered.presumed, opened);
        let (recorder, reader) = (&recovered.recorders[0], &recovered.spools[0].reader);
        let bytes = reader.bytes();
        assert!(bytes > small.max_bytes);
        assert_eq!(open_until_full(recorder, reader, 1_000), 0);
        let dims = Dims::empty();
        (0..200).for_each(|number| {
            recorder
                .close(&Closed::of(id(1_000 + number), 0, &dims))
                .unwrap();
        });
        drop(recovered);
        for _ in 0..3 {
            let recovered = open(&small).unwrap();
            assert_eq!(recovered.presumed, 0);
            let reader = &recovered.spools[0].reader;
            assert_eq!(open_until_full(&recovered.recorders[0], reader, 2_000), 0);
            assert_eq!(reader.bytes(), bytes, "it does not grow with each start");
        }
    }

    #[test]
    fn ends_that_find_no_room_at_a_start_are_owed_and_written_when_there_is_some_even_beyond_the_bound()
     {
        let dir = tempfile::tempdir().unwrap();
        let mut small = settings(dir.path(), 1);
        small.max_bytes = 2 * small.segment_bytes as u64;
        let recovered = open(&small).unwrap();
        let opened = open_until_full(&recovered.recorders[0], &recovered.spools[0].reader, 0);
        drop(recovered);

        // As a start does, on a disk that is full.
        let (mut writer, mut reader, kept) = spool::open(options(&small, 0).unwrap()).unwrap();
        let left = scan(0, dir.path(), &mut reader, kept.first_seq, kept.next_seq).unwrap();
        let settled = presume(&left, &mut writer).unwrap();
        assert_eq!(settled.calls, opened);
        assert!(settled.no_room.is_some() && settled.owed.len() > 10);
        let written = reader.next_seq() - kept.next_seq;
        assert_eq!(written + settled.owed.len() as u64, opened);
        let notice = Arc::<Notice>::default();
        let (path, bytes) = (dir.path().to_owned(), 1);
        notice.found_no_room(&SpoolError::DiskFull { path, bytes });
        let recorder = Recorder::new(writer, Arc::clone(&notice)).owing(settled.owed);
        recorder.settle();
        assert!(recorder.has_waiting());
        assert_eq!(reader.next_seq() - kept.next_seq, written);

        assert!(notice.take_disk_full(), "the alarm is raised");
        recorder.settle();
        assert!(!recorder.has_waiting());
        assert_eq!(reader.next_seq() - kept.next_seq, opened);
        drop((recorder, reader));
        assert_eq!(open(&small).unwrap().presumed, 0);
    }

    #[test]
    fn what_the_spool_of_a_worker_that_is_no_more_owes_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let recovered = open(&settings(dir.path(), 2)).unwrap();
        let opened = open_until_full(&recovered.recorders[1], &recovered.spools[1].reader, 0);
        drop(recovered);
        let recovered = open(&settings(dir.path(), 1)).unwrap();
        assert_eq!((recovered.presumed, recovered.owing.len()), (opened, 0));
        assert_eq!(recovered.recorders.len(), 1);
        assert!(recovered.spools[1].notice.is_none());
    }
}
