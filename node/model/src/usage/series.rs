//! What a fact is about, and the replicated dictionary that gives each combination a small number.
//!
//! Invariants: a number is never used twice (the entry with the largest one stays even when no cell needs it any
//! more); every other entry is in some cell; the same batches give the same numbers on every replica.

use std::sync::Arc;

use imbl::OrdMap;

use crate::limits;
use crate::object::Name;
use crate::usage::cells::Resolution;
use crate::usage::query::Dimension;

mod fold;

use fold::place;

/// Stands for every value that was folded. No name can be this one: names do not start with `_`.
pub const OTHER: &str = "__other__";

/// The dimensions of a fact. Empty where one does not apply.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SeriesKey {
    /// Owner.
    pub tenant: Name,
    /// Group.
    pub team: Name,
    /// Application.
    pub consumer: Name,
    /// Credential, by name.
    pub key: Name,
    /// Route.
    pub route: Name,
    /// API product; empty until there are any.
    pub api: Name,
    /// Public model name.
    pub model: Name,
    /// Provider.
    pub provider: Name,
    /// The provider's own name of the model.
    pub upstream_model: Name,
    /// 1 to 5: the first digit of the status.
    pub status_class: u8,
    /// Some dimension was folded into `__other__` at the series cap.
    pub folded: bool,
}

/// One entry of the dictionary.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: Arc<SeriesKey>,
    /// Of each dimension that is text; beside the entry, so that a search need not follow the pointer.
    hashes: [u32; 9],
    /// How many chunks have a cell of it.
    chunks: u32,
    /// How many of those are minutes.
    minutes: u32,
}

/// A dimension and the values of it that a search accepts.
pub(crate) struct Needle<'a> {
    dimension: Dimension,
    /// Index into [`SeriesKey::texts`]; the status is none.
    text: Option<usize>,
    any: Vec<(u32, &'a str)>,
}

/// Gives each combination of dimensions a small number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Dictionary {
    by_key: OrdMap<Arc<SeriesKey>, u32>,
    by_id: OrdMap<u32, Entry>,
    /// How many entries have a minute cell.
    live: u32,
}

// === impl SeriesKey ===

impl SeriesKey {
    /// The dimensions that are text, in the order of the struct.
    pub const fn texts(&self) -> [&Name; 9] {
        [
            &self.tenant,
            &self.team,
            &self.consumer,
            &self.key,
            &self.route,
            &self.api,
            &self.model,
            &self.provider,
            &self.upstream_model,
        ]
    }

    /// Whether a row may be about it.
    pub fn is_sound(&self) -> bool {
        (1..=5).contains(&self.status_class)
            && self
                .texts()
                .iter()
                .all(|text| text.len() <= limits::DIMENSION)
    }
}

// === impl Entry ===

impl Entry {
    fn new(key: Arc<SeriesKey>) -> Self {
        let hashes = key.texts().map(|text| text_hash(text));
        Self {
            key,
            hashes,
            chunks: 0,
            minutes: 0,
        }
    }

    /// Of its value of a dimension.
    pub(crate) fn hash_of(&self, dimension: Dimension) -> u32 {
        match dimension.text() {
            Some(text) => self.hashes[text],
            None => u32::from(self.key.status_class),
        }
    }
}

// === impl Needle ===

impl<'a> Needle<'a> {
    pub(crate) fn new(dimension: Dimension, any: Vec<&'a str>) -> Self {
        let any = any
            .into_iter()
            .map(|value| (text_hash(value), value))
            .collect();
        Self {
            dimension,
            text: dimension.text(),
            any,
        }
    }

    fn finds(&self, entry: &Entry) -> bool {
        let hash = self.text.map(|text| entry.hashes[text]);
        self.any.iter().any(|&(wanted, value)| {
            hash.is_none_or(|hash| hash == wanted) && self.dimension.value(&entry.key) == value
        })
    }
}

// === impl Dictionary ===

impl Dictionary {
    /// The series with this number.
    pub fn get(&self, id: u32) -> Option<&Arc<SeriesKey>> {
        self.by_id.get(&id).map(|entry| &entry.key)
    }

    /// The number of this series, for a node that would rather send that.
    pub fn id_of(&self, key: &SeriesKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Every series, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<SeriesKey>)> {
        self.by_id.iter().map(|(&id, entry)| (id, &entry.key))
    }

    /// The series that every needle finds, by number.
    pub(crate) fn find(&self, needles: &[Needle<'_>]) -> impl Iterator<Item = (u32, &Entry)> {
        self.by_id
            .iter()
            .filter(|(_, entry)| needles.iter().all(|needle| needle.finds(entry)))
            .map(|(&id, entry)| (id, entry))
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many series have a minute cell.
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// The number of this series, or of what it is folded to.
    pub(crate) fn intern(&mut self, key: &SeriesKey) -> u32 {
        if let Some(id) = self.id_of(key) {
            return id;
        }
        let count = u32::try_from(self.by_id.len()).unwrap_or(u32::MAX);
        let placed = place(key, count, limits::SERIES, |k| self.by_key.contains_key(k));
        self.id_of(&placed)
            .unwrap_or_else(|| self.insert_next(placed))
    }

    /// The number under which a series is counted at minute resolution.
    pub(crate) fn minute_series(&mut self, id: u32) -> u32 {
        let Some(entry) = self.by_id.get(&id) else {
            return id;
        };
        if entry.minutes > 0 || self.live < limits::MINUTE_SERIES {
            return id;
        }
        let key = Arc::clone(&entry.key);
        let placed = place(&key, self.live, limits::MINUTE_SERIES, |k| self.is_live(k));
        self.intern(&placed)
    }

    /// A chunk has a cell of this series now.
    pub(crate) fn retain(&mut self, id: u32, resolution: Resolution) {
        let Some(entry) = self.by_id.get_mut(&id) else {
            return;
        };
        entry.chunks = entry.chunks.saturating_add(1);
        if resolution == Resolution::Minute {
            entry.minutes = entry.minutes.saturating_add(1);
            if entry.minutes == 1 {
                self.live = self.live.saturating_add(1);
            }
        }
    }

    /// A chunk that had a cell of this series is gone.
    pub(crate) fn release(&mut self, id: u32, resolution: Resolution) {
        let Some(entry) = self.by_id.get_mut(&id) else {
            return;
        };
        entry.chunks = entry.chunks.saturating_sub(1);
        if resolution == Resolution::Minute && entry.minutes > 0 {
            entry.minutes -= 1;
            if entry.minutes == 0 {
                self.live = self.live.saturating_sub(1);
            }
        }
        self.drop_unused(id);
    }

    /// The largest number in use.
    pub(crate) fn last(&self) -> Option<u32> {
        self.by_id.get_max().map(|&(id, _)| id)
    }

    /// Drops an entry that no cell needs, unless it keeps the largest number from being given again.
    pub(crate) fn drop_unused(&mut self, id: u32) {
        if self.last() != Some(id)
            && self.by_id.get(&id).is_some_and(|entry| entry.chunks == 0)
            && let Some(entry) = self.by_id.remove(&id)
        {
            self.by_key.remove(&entry.key);
        }
    }

    /// Puts an entry of a checkpoint back; `false` if it clashes with one that is there.
    pub(crate) fn restore(&mut self, id: u32, key: Arc<SeriesKey>) -> bool {
        if self.by_id.contains_key(&id) || self.by_key.contains_key(&key) {
            return false;
        }
        self.by_key.insert(Arc::clone(&key), id);
        self.by_id.insert(id, Entry::new(key));
        true
    }

    fn is_live(&self, key: &SeriesKey) -> bool {
        self.id_of(key)
            .and_then(|id| self.by_id.get(&id))
            .is_some_and(|entry| entry.minutes > 0)
    }

    fn insert_next(&mut self, key: SeriesKey) -> u32 {
        let Some(id) = self.last().map_or(Some(0), |id| id.checked_add(1)) else {
            return u32::MAX;
        };
        let key = Arc::new(key);
        self.by_key.insert(Arc::clone(&key), id);
        self.by_id.insert(id, Entry::new(key));
        id
    }
}

/// FNV-1a. It only spares comparisons, so a clash costs one and changes nothing.
pub(crate) fn text_hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
