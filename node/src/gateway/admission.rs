//! What a request to a service goes through before anything is sent, without the sending: for the benchmark.
//!
//! It calls the pipeline's own phases in the pipeline's order, so that it cannot get faster than they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::request::Parts;
use mode_envoy_model::catalog::Catalog;
use mode_envoy_raft::Contact;
use mode_envoy_storage::spool::{self, SpoolOptions};

use super::call::{Call, End};
use super::route::{Destination, find};
use super::settings::GatewayLimits;
use super::table::Table;
use super::worker::Worker;
use super::{Shared, head, proxy};
use crate::freshness::Freshness;
use crate::limits;
use crate::usage::recorder::{Notice, Recorder};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One worker that sends nothing.
#[derive(Debug)]
pub struct Admission {
    worker: Rc<Worker>,
}

// === impl Admission ===

impl Admission {
    /// A worker with `catalog` in force and a spool in `dir`.
    ///
    /// # Errors
    ///
    /// The catalog does not compile, or the spool cannot be opened.
    pub fn new(catalog: &Catalog, dir: &Path) -> io::Result<Self> {
        let options = SpoolOptions::new(dir, 0, [1; 16], 1, [2; 16]);
        let (writer, _, _) = spool::open(options).map_err(io::Error::other)?;
        let recorder = Recorder::new(writer, Arc::<Notice>::default());
        let table = Table::compile(catalog, None, &Table::empty()).map_err(io::Error::other)?;
        let shared = Shared::new(
            Freshness::connected(),
            limits::channel(Contact::default(), true).0,
        )
        .map_err(io::Error::other)?;
        let table = Arc::new(ArcSwap::from_pointee(table));
        let worker = Worker::new(GatewayLimits::default(), table, shared, recorder)
            .ok_or_else(|| io::Error::other("the system gives no random bytes"))?;
        Ok(Self {
            worker: Rc::new(worker),
        })
    }

    /// Checks a request, finds its route and its key, and records it as opened and as ended. Gives whether it would
    /// have been sent.
    pub fn admit(&self, parts: &Parts) -> bool {
        let mut call = Call::begin(&self.worker, CLIENT, parts);
        let view = Rc::clone(call.view());
        let admitted = head::check(parts, self.worker.limits.head_bytes).and_then(|subject| {
            match find(view.table(), &subject, &parts.method)? {
                Destination::Route(route) => {
                    proxy::authenticate(&mut call, route, parts, &subject)?;
                    call.open(0, None)
                }
                Destination::Chat
                | Destination::Embeddings
                | Destination::Models
                | Destination::Model(_) => Ok(()),
            }
        });
        call.answer_begins(200);
        call.end(End::Whole);
        admitted.is_ok()
    }
}
