//! One sled database, and all that is done to it: by one thread, in batches that are atomic.
//!
//! Invariants:
//! * every batch carries the ledger that it leads to, so a crash leaves both or neither;
//! * all pieces of a value change in one batch;
//! * after any fault the store is dropped by its owner and never asked again.

use std::collections::BTreeMap;

use sled::{Batch, Db};

use super::error::Fault;
use super::ledger::{self, Ledger};
use super::piece::{self, Whole};
use super::{Directory, Key, Place, ProjectionOptions};

/// Keys of one batch: bulk changes in larger ones make sled's memory grow far beyond its cache.
const BATCH_KEYS: usize = 1_024;

/// How much more than what lives sled's file may take before it is written anew.
const GROWN: u64 = 4;

/// sled writes to its file so often anyway.
const FLUSH_EVERY_MS: u64 = 1_000;

/// An opened database.
#[derive(Debug)]
pub(super) struct Store {
    db: Db,
    pub(super) place: Place,
    identity: (u64, u64),
    pub(super) ledger: Ledger,
    cache_bytes: u64,
    /// A smaller file is left as it is.
    rewrite_above: u64,
    /// How many times what lives the file may have.
    grown: u64,
}

/// A batch in the making.
struct Changes {
    batch: Batch,
    keys: usize,
    ledger: Ledger,
}

// === impl Store ===

impl Store {
    /// Opens a database, or begins one, and checks all of it.
    pub(super) fn open(place: Place, options: &ProjectionOptions) -> Result<Self, Fault> {
        let db = open_db(&place, options.cache_bytes)?;
        let identity = place.identity().ok_or(Fault::Gone)?;
        let mut store = Self {
            db,
            place,
            identity,
            ledger: Ledger::new(options.cluster_id, options.node_id),
            cache_bytes: options.cache_bytes,
            rewrite_above: options.rewrite_above,
            grown: GROWN,
        };
        store.ledger = store.checked()?;
        store.check_place()?;
        Ok(store)
    }

    /// Reads everything; the ledger of what is there, if it is the one that is there.
    fn checked(&self) -> Result<Ledger, Fault> {
        let mut found = self.ledger;
        let mut told = None;
        for item in self.db.iter() {
            let (key, piece) = item?;
            if *key == ledger::KEY {
                told = Some(Ledger::decode(&piece).ok_or(Fault::Damaged("its ledger"))?);
            } else if piece::is_sound(&key, &piece) {
                found.add(&key, &piece);
                found.values += u64::from(piece::value_key(&key).is_some());
            } else {
                return Err(Fault::Damaged("a piece of a value"));
            }
        }
        let told = told.unwrap_or(self.ledger);
        if (told.cluster_id, told.node_id) != (found.cluster_id, found.node_id) {
            return Err(Fault::Foreign);
        }
        if !told.agrees_with(&found) {
            return Err(Fault::Damaged("the sum of all values"));
        }
        match self.place.read_mark()? {
            None if told.changes == 0 => Ok(told),
            Some(mark) if told.is_not_before(&mark) => Ok(told),
            _ => Err(Fault::Damaged("it is older than its mark, or has none")),
        }
    }

    /// A value, whole and as it was put there.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let first = piece::key_of(key, 0);
        let Some(bytes) = self.db.get(&first)? else {
            return Ok(None);
        };
        let mut whole = Whole::begin(&first, &bytes).ok_or(Fault::Damaged("the first piece"))?;
        for number in 1..whole.pieces() {
            let next = piece::key_of(key, number);
            let bytes = self
                .db
                .get(&next)?
                .ok_or(Fault::Damaged("a missing piece"))?;
            let added = whole.add(&next, &bytes);
            added.ok_or(Fault::Damaged("a piece of a value"))?;
        }
        whole.finish().ok_or(Fault::Damaged("a value")).map(Some)
    }

    /// Puts values in place of those there were, and says how far the owner has come.
    pub(super) fn put(
        &mut self,
        entries: &BTreeMap<Key, Vec<u8>>,
        applied: u64,
    ) -> Result<(), Fault> {
        self.check_place()?;
        let mut changes = Changes::new(self.ledger);
        for (key, value) in entries {
            let old = self.pieces(key)?;
            let new = piece::cut(key, value)?;
            if !changes.has_room(old.len().max(new.len())) {
                self.commit(&mut changes)?;
            }
            changes.replace(&old, new);
        }
        changes.ledger.applied = applied;
        self.commit(&mut changes)?;
        self.settle()
    }

    /// Removes what begins with `prefix` and is below `oldest`.
    pub(super) fn retain(&mut self, prefix: &[u8], oldest: &[u8]) -> Result<(), Fault> {
        self.check_place()?;
        let start = [&[piece::PIECES], prefix].concat();
        let mut expired: Vec<Key> = Vec::new();
        for key in self.db.scan_prefix(start).keys() {
            let key = piece::value_key(&key?);
            expired.extend(key.filter(|key| &**key < oldest));
        }
        let mut changes = Changes::new(self.ledger);
        for key in expired {
            let old = self.pieces(&key)?;
            if !changes.has_room(old.len()) {
                self.commit(&mut changes)?;
                // What sled keeps of a batch until it is written is given back, before the next.
                self.db.flush()?;
            }
            changes.replace(&old, Vec::new());
        }
        self.commit(&mut changes)?;
        self.settle()
    }

    /// Whether the file has grown so far beyond what lives in it that it is to be written anew.
    pub(super) fn is_overgrown(&self) -> Result<bool, Fault> {
        let bytes = self.size_on_disk()?;
        Ok(bytes > self.rewrite_above && bytes > self.ledger.bytes.saturating_mul(self.grown))
    }

    pub(super) fn size_on_disk(&self) -> Result<u64, Fault> {
        Ok(self.db.size_on_disk()?)
    }

    /// Writes all that lives into a fresh database, and goes on there: sled gives no space back.
    pub(super) fn rewritten(&self, directory: &Directory) -> Result<Self, Fault> {
        self.check_place()?;
        let place = directory.beside(&self.place)?;
        let db = open_db(&place, self.cache_bytes)?;
        let identity = place.identity().ok_or(Fault::Gone)?;
        let mut fresh = Self {
            db,
            place,
            identity,
            ledger: self.ledger.emptied(),
            ..*self
        };
        let mut changes = Changes::new(fresh.ledger);
        for key in self.db.scan_prefix([piece::PIECES]).keys() {
            let Some(key) = piece::value_key(&key?) else {
                continue;
            };
            let pieces = self.pieces(&key)?;
            if !changes.has_room(pieces.len()) {
                fresh.commit(&mut changes)?;
            }
            changes.replace(&[], pieces);
        }
        changes.ledger.applied = self.ledger.applied;
        fresh.commit(&mut changes)?;
        fresh.settle()?;
        if !fresh.ledger.agrees_with(&self.ledger) {
            return Err(Fault::Damaged(
                "the sum of all values, when they were copied",
            ));
        }
        // Should sled need that much even so, the next time is when it has doubled.
        let needs = fresh.size_on_disk()? / fresh.ledger.bytes.max(1);
        fresh.grown = GROWN.max(needs.saturating_mul(2));
        directory.switch_to(&fresh.place)?;
        Ok(fresh)
    }

    /// The pieces of a value as they are, none if there is no such value.
    fn pieces(&self, key: &[u8]) -> Result<Vec<piece::Piece>, Fault> {
        let first = piece::key_of(key, 0);
        let Some(bytes) = self.db.get(&first)? else {
            return Ok(Vec::new());
        };
        let whole = Whole::begin(&first, &bytes).ok_or(Fault::Damaged("the first piece"))?;
        let mut pieces = vec![(first, bytes.to_vec())];
        for number in 1..whole.pieces() {
            let next = piece::key_of(key, number);
            let bytes = self
                .db
                .get(&next)?
                .ok_or(Fault::Damaged("a missing piece"))?;
            pieces.push((next, bytes.to_vec()));
        }
        Ok(pieces)
    }

    /// Applies what has gathered; what gathers next begins where it ended.
    fn commit(&mut self, changes: &mut Changes) -> Result<(), Fault> {
        let mut after = changes.ledger;
        if after == self.ledger {
            return Ok(());
        }
        after.changes += 1;
        let Changes { mut batch, .. } = std::mem::replace(changes, Changes::new(after));
        batch.insert(&ledger::KEY, after.encode()?);
        self.db.apply_batch(batch)?;
        self.ledger = after;
        Ok(())
    }

    /// Hands everything to the system, so that a killed process loses nothing, and looks at the files.
    fn settle(&self) -> Result<(), Fault> {
        self.db.flush()?;
        self.place.write_mark(&self.ledger.encode()?)?;
        match self.place.blobs()? {
            0 => Ok(()),
            blobs => Err(Fault::Blobs(blobs)),
        }
    }

    /// Fails if somebody has removed the files: what is written would be seen by nobody.
    fn check_place(&self) -> Result<(), Fault> {
        if self.place.identity() == Some(self.identity) {
            Ok(())
        } else {
            Err(Fault::Gone)
        }
    }
}

// === impl Changes ===

impl Changes {
    fn new(ledger: Ledger) -> Self {
        Self {
            batch: Batch::default(),
            keys: 0,
            ledger,
        }
    }

    /// Whether so many keys more are within the bound, the ledger's included.
    fn has_room(&self, keys: usize) -> bool {
        self.keys + keys < BATCH_KEYS
    }

    fn replace(&mut self, old: &[piece::Piece], new: Vec<piece::Piece>) {
        self.keys += old.len().max(new.len());
        self.ledger.values += u64::from(!new.is_empty());
        self.ledger.values -= u64::from(!old.is_empty());
        for (key, bytes) in old {
            self.ledger.remove(key, bytes);
        }
        for (key, _) in old.iter().skip(new.len()) {
            self.batch.remove(&**key);
        }
        for (key, bytes) in new {
            self.ledger.add(&key, &bytes);
            self.batch.insert(key, bytes);
        }
    }
}

fn open_db(place: &Place, cache_bytes: u64) -> Result<Db, Fault> {
    let config = sled::Config::new()
        .path(&place.path)
        .cache_capacity(cache_bytes)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    Ok(config.open()?)
}
