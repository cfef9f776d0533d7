//! API keys by the hash of their secret.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::key::{Key, SecretHash};
use mode_envoy_model::object::Name;

/// A key and whom it stands for.
#[derive(Debug)]
pub(crate) struct KeyEntry {
    pub(crate) key: Arc<Key>,
    /// The consumer's team; empty where it has none.
    pub(crate) team: Name,
}

/// Every key, by each hash that it answers to.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    by_hash: HashMap<SecretHash, Arc<KeyEntry>, BuildHasherDefault<Prefix>>,
    entries: Vec<Arc<KeyEntry>>,
}

/// Takes eight bytes of a hash as they are: BLAKE3 has spread them already, over secrets that nobody chooses.
#[derive(Debug, Default)]
struct Prefix(u64);

// === impl KeyIndex ===

impl KeyIndex {
    fn of(entries: Vec<Arc<KeyEntry>>) -> Self {
        let mut by_hash =
            HashMap::with_capacity_and_hasher(entries.len(), BuildHasherDefault::default());
        for entry in &entries {
            if let Some((hash, _)) = &entry.key.previous {
                by_hash.entry(*hash).or_insert_with(|| Arc::clone(entry));
            }
        }
        // Last, so that a key's own hash wins over another's old one.
        for entry in &entries {
            by_hash.insert(entry.key.hash, Arc::clone(entry));
        }
        Self { by_hash, entries }
    }

    pub(super) fn get(&self, hash: &SecretHash) -> Option<&Arc<KeyEntry>> {
        self.by_hash.get(hash)
    }
}

// === impl Prefix ===

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some((first, _)) = bytes.split_first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // An array hashes its length before its bytes.
    fn write_usize(&mut self, _: usize) {}
}

/// The index of the catalog's keys; `previous` itself where no key and no team changed.
pub(super) fn compile(catalog: &Catalog, previous: &Arc<KeyIndex>) -> Arc<KeyIndex> {
    let mut teams: HashMap<(&str, &str), &Name> = HashMap::new();
    for consumer in catalog.consumers() {
        if let Some(team) = &consumer.value.team {
            teams.insert((&consumer.value.tenant, &consumer.value.name), team);
        }
    }
    let none = Name::from("");
    let entries: Vec<Arc<KeyEntry>> = catalog
        .keys()
        .map(|key| {
            let key = &key.value;
            let team = teams
                .get(&(&*key.tenant, &*key.consumer))
                .copied()
                .unwrap_or(&none);
            match previous.get(&key.hash) {
                Some(old) if Arc::ptr_eq(&old.key, key) && old.team == *team => Arc::clone(old),
                _ => Arc::new(KeyEntry {
                    key: Arc::clone(key),
                    team: Name::clone(team),
                }),
            }
        })
        .collect();
    if super::same(&entries, &previous.entries) {
        return Arc::clone(previous);
    }
    Arc::new(KeyIndex::of(entries))
}

/// The index without the keys that are not in `ahead`, or not so.
pub(super) fn known_to(ahead: &Catalog, index: &Arc<KeyIndex>) -> Arc<KeyIndex> {
    let stays = |entry: &Arc<KeyEntry>| {
        let then = ahead.key_by_id(&entry.key.id);
        then.is_some_and(|then| then.value == entry.key)
    };
    if index.entries.iter().all(stays) {
        return Arc::clone(index);
    }
    let entries = index.entries.iter().filter(|entry| stays(entry));
    Arc::new(KeyIndex::of(entries.map(Arc::clone).collect()))
}
