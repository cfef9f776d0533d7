//! The one thread that calls sled, and what it does when sled cannot be trusted.
//!
//! ```text
//! opening --checked--> ready --request--> ready
//!    ^                   |  any fault: an error, a panic, damage, files gone
//!    +---- set aside ----+  -> empty, and its owner puts everything again
//! ```
//!
//! Invariant: nothing is answered from a store that has shown a fault.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::error::{Fault, ProjectionError};
use super::store::Store;
use super::{Directory, Key, ProjectionOptions, Stats};

type Reply<T> = SyncSender<Result<T, ProjectionError>>;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Request {
    Get(Key, Reply<Option<Vec<u8>>>),
    Put(BTreeMap<Key, Vec<u8>>, u64, Reply<()>),
    Retain(Vec<u8>, Key, Reply<()>),
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Worker {
    options: ProjectionOptions,
    directory: Directory,
    /// None where not even an empty one could be opened; the next change tries again.
    store: Option<Store>,
    stats: Arc<Mutex<Stats>>,
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(options: ProjectionOptions, stats: Arc<Mutex<Stats>>) -> Self {
        let directory = Directory::new(options.dir.clone());
        Self {
            options,
            directory,
            store: None,
            stats,
        }
    }

    /// Opens, then works until nobody can ask any more.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        self.open_existing();
        for request in requests {
            match request {
                Request::Get(key, reply) => {
                    let value = self.with(|store| store.get(&key));
                    answer(&reply, value);
                }
                Request::Put(entries, applied, reply) => {
                    let done = self.change(|store| store.put(&entries, applied));
                    answer(&reply, done);
                }
                Request::Retain(prefix, oldest, reply) => {
                    let done = self.change(|store| store.retain(&prefix, &oldest));
                    answer(&reply, done);
                }
            }
        }
        self.set_ready(false);
        let closing = || {
            drop(self.store.take());
            Ok(())
        };
        if let Err(fault) = guarded(closing) {
            tracing::warn!(why = %fault, "closing the projection");
        }
    }

    fn open_existing(&mut self) {
        let opened = guarded(|| Store::open(self.directory.current()?, &self.options));
        match opened {
            Ok(store) => self.take(store),
            Err(fault) => drop(self.rebuild(&fault)),
        }
    }

    fn take(&mut self, store: Store) {
        self.store = Some(store);
        self.observe();
        self.set_ready(true);
    }

    /// Asks the store; any fault ends it.
    fn with<T>(
        &mut self,
        ask: impl FnOnce(&mut Store) -> Result<T, Fault>,
    ) -> Result<T, ProjectionError> {
        let Some(store) = &mut self.store else {
            return Err(ProjectionError::NotReady);
        };
        guarded(|| ask(store)).map_err(|fault| self.rebuild(&fault))
    }

    /// Changes the store; afterwards its size is looked at.
    fn change(
        &mut self,
        change: impl FnOnce(&mut Store) -> Result<(), Fault>,
    ) -> Result<(), ProjectionError> {
        if self.store.is_none() {
            self.open_existing();
        }
        self.with(change)?;
        if self.with(|store| store.is_overgrown())? {
            self.rewrite()?;
        }
        self.observe();
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), ProjectionError> {
        self.set_ready(false);
        let before = self.with(|store| store.size_on_disk())?;
        let directory = self.directory.clone();
        let fresh = self.with(|store| store.rewritten(&directory))?;
        if let Some(old) = self.store.replace(fresh) {
            let place = old.place.clone();
            discard(old);
            if let Err(error) = place.remove() {
                tracing::warn!(%error, dir = %place.path.display(), "cannot remove what the projection was before");
            }
        }
        let after = self.with(|store| store.size_on_disk())?;
        tracing::info!(
            before,
            after,
            "the projection was written anew, since it had outgrown what lives in it"
        );
        self.update(|stats| stats.rewrites += 1);
        self.set_ready(true);
        Ok(())
    }

    /// Sets what is there aside and begins anew.
    fn rebuild(&mut self, fault: &Fault) -> ProjectionError {
        self.set_ready(false);
        if let Some(store) = self.store.take() {
            discard(store);
        }
        let why = fault.to_string();
        tracing::warn!(
            why, dir = %self.options.dir.display(),
            "the projection cannot be used and begins anew; nothing is lost, it is computed again"
        );
        self.update(|stats| stats.rebuilds += 1);
        let opened = guarded(|| Store::open(self.directory.set_aside()?, &self.options));
        match opened {
            Ok(store) => self.take(store),
            Err(fault) => {
                tracing::warn!(why = %fault, dir = %self.options.dir.display(), "no projection can be opened");
                self.update(|stats| {
                    *stats = Stats {
                        rebuilds: stats.rebuilds,
                        rewrites: stats.rewrites,
                        ..Stats::default()
                    }
                });
            }
        }
        ProjectionError::Dropped { why }
    }

    fn observe(&mut self) {
        let Some(store) = &self.store else { return };
        let (ledger, place) = (store.ledger, store.place.clone());
        let bytes = store.size_on_disk().unwrap_or(0);
        self.update(|stats| {
            stats.applied = (ledger.applied > 0).then_some(ledger.applied);
            stats.values = ledger.values;
            stats.live_bytes = ledger.bytes;
            stats.size_on_disk = bytes;
            stats.blobs = place.blobs().unwrap_or(0);
        });
    }

    fn set_ready(&self, ready: bool) {
        self.update(|stats| stats.ready = ready);
    }

    fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// sled panics where it finds what it does not expect.
fn guarded<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(Fault::Panicked(message(&*panic))))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// Closes a store that may be broken: sled's own threads are waited for in vain then, so nobody waits here.
fn discard(store: Store) {
    let closing = move || {
        // What it says is of no use any more.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(store)));
    };
    let closer = thread::Builder::new()
        .name("projection-end".to_owned())
        .spawn(closing);
    if let Err(error) = closer {
        tracing::warn!(%error, "no thread to close the projection's files");
    }
}

/// Whoever no longer waits is no failure.
fn answer<T>(reply: &Reply<T>, result: Result<T, ProjectionError>) {
    let _ = reply.send(result);
}
