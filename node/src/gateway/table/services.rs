//! Services: endpoints in turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::object::Name;
use mode_envoy_model::service::Service;

use super::{CompileError, Endpoint, SERVICE_TIMEOUTS, timeouts};
use crate::upstream::Timeouts;

/// A service, ready to be sent to.
#[derive(Debug)]
pub(crate) struct ServiceEntry {
    source: Arc<Service>,
    endpoints: Vec<Endpoint>,
    pub(crate) timeouts: Timeouts,
    /// Whose turn it is; one count for all workers of the node.
    turn: AtomicUsize,
}

// === impl ServiceEntry ===

impl ServiceEntry {
    /// Every endpoint once, beginning with the one whose turn it is.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = &Endpoint> {
        let start = match self.endpoints.len() {
            0 | 1 => 0,
            count => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        let (before, from) = self.endpoints.split_at(start);
        from.iter().chain(before)
    }
}

pub(super) fn compile(
    catalog: &Catalog,
    previous: &BTreeMap<Name, Arc<ServiceEntry>>,
) -> Result<BTreeMap<Name, Arc<ServiceEntry>>, CompileError> {
    let mut services = BTreeMap::new();
    for service in catalog.services() {
        let source = &service.value;
        let entry = match previous.get(&source.name) {
            Some(old) if Arc::ptr_eq(&old.source, source) => Arc::clone(old),
            _ => Arc::new(entry(source)?),
        };
        services.insert(Name::clone(&source.name), entry);
    }
    Ok(services)
}

fn entry(source: &Arc<Service>) -> Result<ServiceEntry, CompileError> {
    let endpoints = source
        .endpoints
        .iter()
        .map(|endpoint| Endpoint::of(&endpoint.url, || format!("service {}", source.name)))
        .collect::<Result<_, _>>()?;
    Ok(ServiceEntry {
        source: Arc::clone(source),
        endpoints,
        timeouts: timeouts(&source.timeouts, SERVICE_TIMEOUTS),
        turn: AtomicUsize::new(0),
    })
}
