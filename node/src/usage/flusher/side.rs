//! One spool as the flusher follows it: what is durable, what is open, what may be trimmed.

use std::path::PathBuf;

use mode_envoy_storage::spool::{SpoolError, SpoolRecord};

use super::fill::{Fill, Level};
use crate::usage::aggregate::Aggregate;
use crate::usage::calls::{CallSink, SpooledClose};
use crate::usage::opens::Opens;
use crate::usage::record::{Record, RecordFault};
use crate::usage::recovery::{PAGE_BYTES, PAGE_RECORDS, Spool, track};

/// One spool as the flusher follows it.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) spool: Spool,
    opens: Opens,
    level: Level,
    /// The record that found the disk full, until there is room for one.
    disk_full: Option<u64>,
    /// The first record that the call log has not been fed with.
    fed_to: u64,
}

/// Why the flusher cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushFailure {
    /// The files.
    #[error("the usage spool of worker {worker} failed")]
    Spool {
        /// Worker.
        worker: u32,
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
    /// The spool lost records that were durable.
    #[error(
        "the usage spool of worker {worker} in {} ends at record {next_seq}, but the cluster has counted up to \
         {acked_to}: its disk lost synced data. Nothing that was counted is lost; move the folder away and start \
         the node again", dir.display()
    )]
    Lost {
        /// Worker.
        worker: u32,
        /// Folder.
        dir: PathBuf,
        /// The next record it would write.
        next_seq: u64,
        /// What the log has counted.
        acked_to: u64,
    },
}

// === impl Side ===

impl Side {
    pub(super) fn new(spool: Spool) -> Self {
        Self {
            spool,
            opens: Opens::default(),
            level: Level::Fine,
            disk_full: None,
            fed_to: 0,
        }
    }

    pub(super) const fn worker(&self) -> u32 {
        self.spool.worker
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.spool.reader.next_seq()
    }

    pub(super) fn durable_to(&self) -> u64 {
        self.spool.reader.synced_seq()
    }

    pub(super) fn sync(&mut self, now_ms: u64) -> Result<(), FlushFailure> {
        self.spool
            .reader
            .sync()
            .map_err(|source| self.failed(source))?;
        let (bytes, max_bytes) = (self.spool.reader.bytes(), self.spool.reader.max_bytes());
        self.level = self.level.after(bytes, max_bytes);
        let next_seq = self.next_seq();
        if let Some(notice) = &self.spool.notice {
            if notice.take_disk_full() {
                self.disk_full = Some(next_seq);
            }
            self.disk_full = self.disk_full.filter(|at| next_seq <= *at);
            notice.set_nearly_full(self.level == Level::Full);
            notice.ask_to_carry(|| self.opens.overdue(now_ms));
        }
        Ok(())
    }

    pub(super) fn fill(&self) -> Fill {
        Fill {
            level: self.disk_full.map_or(self.level, |_| Level::Full),
            disk_full: self.disk_full.is_some(),
            worker: self.spool.worker,
            bytes: self.spool.reader.bytes(),
            max_bytes: self.spool.reader.max_bytes(),
        }
    }

    /// Adds up durable records from `from`; returns the first that was not.
    pub(super) fn read(
        &mut self,
        from: u64,
        aggregate: &mut Aggregate,
        room: &mut usize,
    ) -> Result<u64, FlushFailure> {
        let (mut next, durable_to) = (from, self.durable_to());
        while next < durable_to && *room > 0 {
            let page = self.page(next, *room)?;
            let before = next;
            for record in page {
                if !aggregate.has_room() {
                    return Ok(next);
                }
                let worker = self.spool.worker;
                let fault = |source| FlushFailure::Record {
                    worker,
                    seq: record.seq,
                    source,
                };
                match track(&mut self.opens, &record).map_err(fault)? {
                    Record::Open(..) => {}
                    Record::Close(head, dims) => {
                        aggregate.add(record.wall_ms, &head, dims).map_err(fault)?;
                        let (kind, version) = (record.kind, record.version);
                        let takes = Record::takes_of(kind, version, &record.payload);
                        aggregate.spend(&takes.map_err(fault)?);
                    }
                    Record::Total(head, dims) => {
                        aggregate.add_total(&head, dims).map_err(fault)?;
                    }
                }
                next = record.seq + 1;
                *room -= 1;
            }
            if next == before {
                break;
            }
        }
        Ok(next)
    }

    /// The feed of the call log begins where its position says.
    pub(super) fn start_feed(&mut self, calls: &mut CallSink) {
        let reader = &self.spool.reader;
        let kept = reader.first_seq()..reader.next_seq();
        self.fed_to = calls.start(self.spool.worker, reader.uuid(), kept);
    }

    /// Feeds the call log with durable records, at most `room`.
    pub(super) fn feed(
        &mut self,
        calls: &mut CallSink,
        room: &mut usize,
    ) -> Result<(), FlushFailure> {
        let (worker, durable_to) = (self.spool.worker, self.durable_to());
        while self.fed_to < durable_to && *room > 0 {
            let page = self.page(self.fed_to, *room)?;
            let before = self.fed_to;
            for record in &page {
                feed_one(calls, worker, record).map_err(|source| FlushFailure::Record {
                    worker,
                    seq: record.seq,
                    source,
                })?;
                self.fed_to = record.seq + 1;
                *room -= 1;
            }
            if self.fed_to == before {
                break;
            }
        }
        Ok(())
    }

    /// Durable records from `from` on, at most `room`. It ends where the next one begins, since another place is found
    /// by going through its segment.
    fn page(&mut self, from: u64, room: usize) -> Result<Vec<SpoolRecord>, FlushFailure> {
        let durable = usize::try_from(self.durable_to().saturating_sub(from)).unwrap_or(usize::MAX);
        let records = PAGE_RECORDS.min(room).min(durable);
        let page = self.spool.reader.read(from, records, PAGE_BYTES);
        page.map_err(|source| self.failed(source))
    }

    pub(super) const fn fed_to(&self) -> u64 {
        self.fed_to
    }

    pub(super) fn trim(&mut self, acked_to: u64) -> Result<(), FlushFailure> {
        let below = self
            .opens
            .oldest()
            .map_or(acked_to, |oldest| oldest.min(acked_to));
        self.spool
            .reader
            .trim(below)
            .map_err(|source| self.failed(source))
    }

    const fn failed(&self, source: SpoolError) -> FlushFailure {
        FlushFailure::Spool {
            worker: self.spool.worker,
            source,
        }
    }
}

fn feed_one(calls: &mut CallSink, worker: u32, record: &SpoolRecord) -> Result<(), RecordFault> {
    let (kind, version, payload) = (record.kind, record.version, &record.payload);
    match Record::parse(kind, version, payload)? {
        Record::Close(head, dims) => {
            let close = SpooledClose {
                wall_ms: record.wall_ms,
                head: &head,
                dims,
                trail: Record::trail_of(kind, version, payload)?,
            };
            calls.take(worker, record.seq, Some(close))
        }
        // Calls that were only added up have no records of their own.
        Record::Open(..) | Record::Total(..) => calls.take(worker, record.seq, None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mode_envoy_storage::call_log::CallLogOptions;
    use mode_envoy_storage::testing::FaultDisk;

    use super::*;
    use crate::usage::calls::CallStore;
    use crate::usage::record::{CallId, Closed, Dims};
    use crate::usage::recovery;
    use crate::usage::testing::settings;

    #[test]
    fn a_full_disk_counts_as_a_full_spool_until_a_record_finds_room() {
        let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
        let mut recovered = recovery::open(&settings(dir.path(), 1)).unwrap();
        let (recorder, spool) = (recovered.recorders.remove(0), recovered.spools.remove(0));
        let mut side = Side::new(spool);
        let (path, bytes) = (dir.path().to_owned(), 1);
        let notice = side.spool.notice.as_ref().unwrap();
        notice.found_no_room(&SpoolError::DiskFull { path, bytes });
        for _ in 0..3 {
            side.sync(0).unwrap();
            assert_eq!(
                (side.fill().level, side.fill().disk_full),
                (Level::Full, true)
            );
        }
        let refused = Closed::of(CallId([1; 16]), 0, &dims);
        recorder.refuse(&refused).unwrap();
        side.sync(0).unwrap();
        assert_eq!(
            (side.fill().level, side.fill().disk_full),
            (Level::Fine, false)
        );
    }

    #[test]
    fn whoever_counts_and_whoever_feeds_each_go_on_where_they_ended_though_more_is_written_than_is_durable()
     {
        let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
        let mut recovered = recovery::open(&settings(dir.path(), 1)).unwrap();
        let (recorder, spool) = (recovered.recorders.remove(0), recovered.spools.remove(0));
        let mut side = Side::new(spool);
        let (disk, options) = (FaultDisk::new(), CallLogOptions::new("/calls", [1; 16], 1));
        let (store, _) = CallStore::new(1);
        let mut calls = CallSink::open(Arc::new(disk), options, store, 0);
        side.start_feed(&mut calls);
        let (mut next, mut aggregate) = (1, Aggregate::default());
        for round in 0..20_u8 {
            let call = |number: u8| Closed::of(CallId([number; 16]), 0, &dims);
            (0..7).for_each(|number| recorder.refuse(&call(number)).unwrap());
            side.sync(0).unwrap();
            (0..5).for_each(|number| recorder.refuse(&call(number)).unwrap());
            next = side.read(next, &mut aggregate, &mut 1_000).unwrap();
            side.feed(&mut calls, &mut 1_000).unwrap();
            assert_eq!(next, u64::from(round) * 12 + 8);
            assert_eq!(side.fed_to(), next);
        }
        assert_eq!(side.spool.reader.skipped(), 0);
    }
}
